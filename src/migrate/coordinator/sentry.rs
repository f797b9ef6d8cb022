//! Looks at all nodes while a plan runs, and says which gates are closed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Parts;
use crate::cluster::Addr;
use crate::control::{Connection, Dialer};
use crate::migrate::SlotSet;
use crate::migrate::gates::{Baseline, GateLimits, Glance, Moving, Streaks, judge};
use crate::migrate::inventory::{Inventory, Told};
use crate::migrate::machine::Way;
use crate::migrate::record::{Gate, Plan};
use crate::migrate::survey::glance;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// PINGs of each end in one look, and those that the percentile is made of.
const PINGS: usize = 10;
const WINDOW: usize = 100;
/// Looks before anything may move: what was before is what later is compared with.
const LOOKS_BEFORE: u64 = 3;
/// What a node answers when it is itself in trouble.
const TROUBLE: [&str; 5] =
    ["errorstat_OOM", "errorstat_CLUSTERDOWN", "errorstat_LOADING", "errorstat_MISCONF", "errorstat_NOREPLICAS"];

/// The gates that slots without an owner close: they do not stop a plan that goes back because of them.
const FOR_COVERAGE: [&str; 2] = ["coverage", "agreement"];

/// What was seen last.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub gates: Vec<Gate>,
    pub looks: u64,
    /// Since when slots have been uncovered.
    pub uncovered: Option<Instant>,
}

impl Seen {
    /// Why a plan on this way may not go on.
    pub fn closed(&self, way: Way) -> Option<String> {
        let goes_back_for_it = |gate: &&Gate| way == Way::BackUncovered && FOR_COVERAGE.contains(&gate.gate.as_str());
        let gate = self.gates.iter().filter(|gate| !goes_back_for_it(gate)).find(|gate| !gate.open)?;
        Some(format!("gate {} closed: {}; PROXY MIGRATE RESUME when it is well again", gate.gate, gate.found))
    }

    pub fn may_begin(&self) -> bool {
        self.looks >= LOOKS_BEFORE
    }
}

/// The way to the task, which ends with it.
pub(super) struct Sentry {
    pub seen: watch::Receiver<Seen>,
    /// The slots under way.
    pub open: watch::Sender<SlotSet>,
    task: JoinHandle<()>,
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sentry {
    pub fn start(parts: &Parts, plan: Plan) -> Sentry {
        let (open, opened) = watch::channel(SlotSet::new());
        let (says, seen) = watch::channel(Seen::default());
        let looking = Looking {
            parts: parts.clone(),
            plan,
            opened,
            says,
            pings: BTreeMap::new(),
            counted: BTreeMap::new(),
            streaks: Streaks::default(),
            before: None,
        };
        Sentry { seen, open, task: tokio::spawn(looking.run()) }
    }
}

/// One end's round trips.
#[derive(Default)]
struct Pings {
    link: Option<Connection>,
    took: VecDeque<Duration>,
}

impl Pings {
    async fn measure(&mut self, dialer: &Dialer, addr: &Addr) {
        let dialled = match self.link.take().filter(|link| link.addr() == addr && link.is_settled()) {
            Some(link) => Ok(link),
            None => dialer.dial(addr).await,
        };
        // Who does not answer at all is the matter of another gate.
        let Ok(mut link) = dialled else { return };
        for _ in 0..PINGS {
            let begun = Instant::now();
            if link.call(["PING"]).await.is_err() {
                return;
            }
            self.took.push_back(begun.elapsed());
            if self.took.len() > WINDOW {
                self.took.pop_front();
            }
        }
        self.link = Some(link);
    }

    fn percentile(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.took.iter().copied().collect();
        sorted.sort();
        sorted.get((sorted.len() * 99 / 100).min(sorted.len().saturating_sub(1))).copied()
    }
}

struct Looking {
    parts: Parts,
    plan: Plan,
    opened: watch::Receiver<SlotSet>,
    says: watch::Sender<Seen>,
    pings: BTreeMap<String, Pings>,
    /// Errors and commands at the last look, by node.
    counted: BTreeMap<String, (u64, u64)>,
    streaks: Streaks,
    before: Option<Baseline>,
}

impl Looking {
    async fn run(mut self) {
        let limits = GateLimits { latency: self.parts.latency_limit, ..GateLimits::default() };
        let mut looks = 0;
        let mut uncovered = None;
        while !self.says.is_closed() {
            let Some(map) = self.parts.topology.current() else {
                sleep(LOOK).await;
                continue;
            };
            let open_before = self.opened.borrow().clone();
            let inventory = glance(&self.parts.dialer, &map).await;
            for id in self.plan.nodes() {
                // Measured where the plan's shard is served now.
                let Some((name, addr)) = master_of(&self.plan, &inventory, id) else { continue };
                self.pings.entry(name).or_default().measure(&self.parts.dialer, &addr).await;
            }
            let seen = Glance { errors: self.errors(&inventory), latency: self.latency(), inventory };
            looks += 1;
            if looks <= LOOKS_BEFORE || self.before.is_none() {
                self.before = Some(Baseline::of(&seen));
            }
            let before = self.before.clone().unwrap_or_default();
            // A slot that was under way when the nodes were asked may be closed by now, and the other way round.
            let mut open = open_before;
            open.extend(self.opened.borrow().iter());
            let gates = self.streaks.believe(judge(&seen, &before, Moving { plan: &self.plan, open: &open }, &limits));
            let covered = gates.iter().all(|gate| gate.open || gate.gate != "coverage");
            uncovered = if covered { None } else { uncovered.or(Some(Instant::now())) };
            self.says.send_replace(Seen { gates, looks, uncovered });
            sleep(LOOK).await;
        }
    }

    fn latency(&self) -> BTreeMap<String, Duration> {
        self.pings.iter().filter_map(|(id, pings)| Some((id.clone(), pings.percentile()?))).collect()
    }

    fn errors(&mut self, inventory: &Inventory) -> BTreeMap<String, (u64, u64)> {
        let mut since = BTreeMap::new();
        for (node, told) in inventory.masters() {
            let now = (trouble(told), told.info.number("total_commands_processed").unwrap_or(0));
            if let Some(was) = self.counted.insert(node.id.to_string(), now) {
                since.insert(node.id.to_string(), (now.0.saturating_sub(was.0), now.1.saturating_sub(was.1)));
            }
        }
        since
    }
}

fn trouble(told: &Told) -> u64 {
    let count = |name: &str| told.info.get(name).and_then(|text| text.strip_prefix("count=")?.parse::<u64>().ok());
    TROUBLE.iter().filter_map(|name| count(name)).sum()
}

/// The node that is the master of a shard now.
fn master_of(plan: &Plan, inventory: &Inventory, id: &str) -> Option<(String, Addr)> {
    let members = plan.shards.get(id);
    let is_member = |node: &str| node == id || members.is_some_and(|members| members.contains(node));
    let (node, _) = inventory.masters().find(|(node, _)| is_member(&node.id))?;
    Some((node.id.to_string(), node.addr.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_back_for_want_of_owners_ignores_that_they_are_wanting() {
        let check = |gate: &str, way: Way, stops: bool| {
            let gate = Gate { gate: gate.into(), open: false, found: "why".into() };
            let seen = Seen { gates: vec![gate], ..Seen::default() };
            assert_eq!(seen.closed(way).is_some(), stops, "{seen:?} {way:?}");
        };
        check("coverage", Way::Forward, true);
        check("coverage", Way::Back, true);
        check("coverage", Way::BackUncovered, false);
        check("agreement", Way::BackUncovered, false);
        check("memory", Way::BackUncovered, true);
    }
}
