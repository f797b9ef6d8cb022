//! The task that keeps the map: asks, judges, publishes, waits.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cluster::{Addr, AddressMap, AskedView, Pin, Slot, SlotMap, Stamp, merge};
use crate::topology::accept::{Judgement, Reason, is_foreign, judge};
use crate::topology::ask::{NoAnswer, ask_seed_until_usable};
use crate::topology::equip::Newcomers;
use crate::topology::hints::{Hints, RefreshCause};
use crate::topology::moves::{Change, Moves};
use crate::topology::pace::{Health, Pace};
use crate::topology::polling::{Patience, Polling, Target};
use crate::topology::stats::Counters;
use crate::topology::targets::{masters_to_ask, others_to_ask};

/// Nodes that are greeted at once after a refresh: a large cluster's replicas must not cost a burst of connections.
const GREETED_MAX: usize = 16;

/// A complaint is logged at most this often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(1);

/// Everything the task owns.
pub(super) struct Refresher {
    pub seeds: Vec<String>,
    pub rules: AddressMap,
    pub interval: Duration,
    pub now_us: super::Now,
    pub polling: Polling,
    pub hints: Arc<Hints>,
    pub moves: Arc<Moves>,
    /// Stand in every map that is published.
    pub pins: Vec<Pin>,
    /// What whichever proxy has pinned.
    pub held: Vec<Pin>,
    pub counters: Arc<Counters>,
    pub published: watch::Sender<Option<Arc<SlotMap>>>,
    pub pace: Pace,
    /// Complaints of nodes that do not answer.
    pub silences: Complaints,
    /// Complaints of answers that are not believed.
    pub refusals: Complaints,
    /// Someone doubted the last answers: all masters are asked, and all are waited for.
    pub thorough: bool,
    pub newcomers: Newcomers,
    pub health: Health,
    /// Since when neither the map nor the health has changed.
    pub steady_since: Instant,
}

/// What came of a refresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Changed,
    Confirmed,
    /// The answers were not believed.
    Refused,
    Unanswered,
}

impl Refresher {
    /// Runs until nobody holds a receiver of the maps any more.
    pub async fn run(mut self) {
        let closed = self.published.clone();
        tokio::select! {
            () = closed.closed() => {}
            () = async {
                self.find_cluster().await;
                self.keep_up().await;
            } => {}
        }
    }

    /// Asks every seed until one knows the cluster, and publishes its view at once: one node's word is enough to begin
    /// with. Each seed keeps its own time, so that one that does not answer delays none that would.
    async fn find_cluster(&mut self) {
        let mut asking = JoinSet::new();
        for seed in &self.seeds {
            let Polling { dialer, answer_timeout, .. } = &self.polling;
            asking.spawn(ask_seed_until_usable(dialer.clone(), seed.clone(), *answer_timeout, self.now_us.clone()));
        }
        while let Some(joined) = asking.join_next().await {
            let Ok((asked_at_us, answer)) = joined.inspect_err(|panicked| tracing::error!(%panicked, "asking a seed")) else {
                continue;
            };
            let view = self.polling.adopt(answer);
            if self.consider(vec![view], asked_at_us).await == Outcome::Changed {
                return;
            }
        }
        tracing::error!("no seed is left to ask for the cluster");
        std::future::pending().await
    }

    /// Refreshes for ever, the first time at once.
    async fn keep_up(&mut self) {
        let mut causes = vec![RefreshCause::Scheduled];
        let mut finished = Instant::now();
        loop {
            let (after, hinted) = (finished.elapsed(), causes != [RefreshCause::Scheduled]);
            let outcome = self.refresh(&causes).await;
            finished = Instant::now();
            self.pace.note(hinted, after, outcome == Outcome::Changed);
            self.note_health(outcome, finished);
            causes = self.wait(finished).await;
        }
    }

    fn note_health(&mut self, outcome: Outcome, now: Instant) {
        let health = match (outcome, &*self.published.borrow()) {
            (Outcome::Changed | Outcome::Confirmed, Some(map)) => Health::of(map),
            _ => Health::Unserved,
        };
        if outcome == Outcome::Changed || health != self.health {
            self.health = health;
            self.steady_since = now;
        }
    }

    /// Waits until the next refresh is due, by a hint or by itself, and says why it is.
    async fn wait(&mut self, finished: Instant) -> Vec<RefreshCause> {
        let unchanged_for = finished - self.steady_since;
        let own = self.pace.own_wait(self.health, unchanged_for, self.interval, fastrand::f64());
        let hinted = self.pace.hinted_wait(self.health, fastrand::f64());
        let (hints, moves) = (self.hints.clone(), self.moves.clone());
        let hint_is_due = async {
            hints.any().await;
            sleep_until(finished + hinted).await;
        };
        tokio::pin!(hint_is_due);
        loop {
            tokio::select! {
                () = &mut hint_is_due => return self.hints.take(),
                () = sleep_until(finished + own) => {
                    let mut causes = self.hints.take();
                    causes.push(RefreshCause::Scheduled);
                    return causes;
                }
                changes = moves.next() => self.adopt_changes(changes),
                straggler = self.polling.straggler() => {
                    self.polling.settle(straggler);
                    self.hint_if_cursors_differ();
                }
            }
        }
    }

    /// One refresh: asks the masters, and when none answers everybody else.
    async fn refresh(&mut self, causes: &[RefreshCause]) -> Outcome {
        self.counters.refreshes.fetch_add(1, Relaxed);
        let Some(map) = self.published.borrow().clone() else { return Outcome::Unanswered };
        let patience = if self.thorough { Patience::Everybody } else { Patience::Stragglers };
        let masters = masters_to_ask(&map, self.thorough, fastrand::shuffle);

        self.polling.asks_default = causes.iter().any(|cause| matches!(cause, RefreshCause::Scheduled | RefreshCause::Asked));
        let mut asked_at_us = (self.now_us)();
        let mut round = self.polling.round(masters.into_iter().map(Target::Node).collect(), patience).await;
        self.complain_of(&round.failures);
        if round.views.is_empty() {
            let others = others_to_ask(&map).into_iter().map(Target::Node).chain(self.seed_targets()).collect();
            asked_at_us = (self.now_us)();
            round = self.polling.round(others, patience).await;
            self.complain_of(&round.failures);
        }
        let outcome = self.consider(round.views, asked_at_us).await;
        tracing::debug!(?causes, ?outcome, "refreshed the slot map");
        if outcome == Outcome::Changed || causes.contains(&RefreshCause::Scheduled) {
            self.greet_strangers();
        }
        outcome
    }

    /// Judges what nodes said, and publishes it if it is believed.
    async fn consider(&mut self, mut views: Vec<AskedView>, asked_at_us: u64) -> Outcome {
        let current = self.published.borrow().clone();
        if let Some(map) = &current {
            views.retain(|asked| {
                let foreign = is_foreign(map, asked);
                if foreign {
                    self.counters.refusals.fetch_add(1, Relaxed);
                    let why = Reason::Foreign;
                    self.refusals.say(|| tracing::error!(node = %asked.asked, "refused a node's view of the cluster: {why}"));
                }
                !foreign
            });
        }
        if views.is_empty() {
            self.counters.unanswered.fetch_add(1, Relaxed);
            return Outcome::Unanswered;
        }
        let candidate = self.merge(&views, current.as_deref(), asked_at_us);
        match judge(current.as_deref(), &candidate, &views) {
            Judgement::Accept => {
                self.thorough = false;
                self.newcomers.note(current.as_deref(), &candidate);
                self.newcomers.equip(&candidate, &self.polling.dialer).await;
                return self.publish(current.as_deref(), candidate);
            }
            Judgement::Refuse(reason) => self.refusals.say(|| tracing::error!("refused a map of the cluster: {reason}")),
            Judgement::NeedMajority(doubt) => {
                // The first time it is only doubt: not every master was asked, or waited for.
                if std::mem::replace(&mut self.thorough, true) {
                    self.refusals.say(|| tracing::error!("refused a map of the cluster: {doubt}"));
                }
            }
        }
        self.counters.refusals.fetch_add(1, Relaxed);
        Outcome::Refused
    }

    fn merge(&self, views: &[AskedView], current: Option<&SlotMap>, asked_at_us: u64) -> SlotMap {
        let persona = self.polling.oldest_persona(views.iter().map(|asked| &asked.view));
        let persona = persona.or_else(|| current.map(|map| map.persona.clone())).unwrap_or_default();
        let guess = persona.cursor_has_slot();
        let default_locked = self.polling.default_locked.unwrap_or(current.is_some_and(|map| map.default_locked));
        let stamp = Stamp { version: current.map_or(0, |map| map.version), asked_at_us, persona, default_locked };
        // A node that was not asked yet is most likely what the others are.
        let cursor_has_slot = |id: &str| self.polling.persona(id).map_or(guess, |persona| persona.cursor_has_slot());
        merge(views, &self.rules, stamp, cursor_has_slot)
    }

    fn publish(&mut self, current: Option<&SlotMap>, mut map: SlotMap) -> Outcome {
        self.polling.retain(&map);
        map.pins = self.all_pins();
        let changed = current.is_none_or(|current| !current.same_cluster_state(&map));
        if changed {
            map.version += 1;
            self.counters.changes.fetch_add(1, Relaxed);
            log_change(current, &map);
        }
        self.published.send_replace(Some(Arc::new(map)));
        if changed { Outcome::Changed } else { Outcome::Confirmed }
    }

    /// Publishes the map with what is known of slots that this proxy moves. Everything else in it is as old as before.
    fn adopt_changes(&mut self, changes: Vec<Change>) {
        let mut moved: Vec<(Slot, Arc<str>)> = Vec::new();
        for change in changes {
            if let Change::Owner(slot, _) | Change::Pin(Pin { slot, .. }) | Change::Unpin(slot) = &change {
                self.pins.retain(|pin| pin.slot != *slot);
            }
            match change {
                Change::Owner(slot, to) => moved.push((slot, to)),
                Change::Pin(pin) => self.pins.push(pin),
                Change::Unpin(_) => {}
                Change::Hold(held) => self.held = held,
            }
        }
        let current = self.published.borrow().clone();
        if let Some(current) = current {
            let mut map = current.with_owners(&moved);
            map.pins = self.all_pins();
            map.version += 1;
            self.counters.changes.fetch_add(1, Relaxed);
            // Hundreds a second are no news to anybody but the workers.
            self.published.send_replace(Some(Arc::new(map)));
        }
    }

    /// What is held, but for what is pinned here.
    fn all_pins(&self) -> Vec<Pin> {
        let held = self.held.iter().filter(|held| self.pins.iter().all(|pin| pin.slot != held.slot));
        self.pins.iter().chain(held).cloned().collect()
    }

    /// Asks the nodes that have not said what they are, mostly replicas: one that is promoted must be known by then.
    fn greet_strangers(&mut self) {
        let Some(map) = self.published.borrow().clone() else { return };
        let strangers = map.nodes.iter().filter(|node| !node.failed && self.polling.persona(&node.id).is_none());
        let addrs: Vec<Addr> = strangers.map(|node| node.addr.clone()).take(GREETED_MAX).collect();
        self.polling.greet(addrs);
    }

    /// A node has said what it is: if the map guessed wrong it must not wait for the next refresh.
    fn hint_if_cursors_differ(&self) {
        let published = self.published.borrow();
        let Some(map) = &*published else { return };
        let differs = map
            .nodes
            .iter()
            .any(|node| self.polling.persona(&node.id).is_some_and(|persona| persona.cursor_has_slot() != node.cursor_has_slot));
        if differs {
            self.hints.give(RefreshCause::Asked);
        }
    }

    fn seed_targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.seeds.iter().cloned().map(Target::Seed)
    }

    fn complain_of(&mut self, failures: &[NoAnswer]) {
        for why in failures {
            self.silences.say(|| tracing::warn!("{why}"));
        }
    }
}

/// Slots change hands twenty times a second during a migration: only what becomes of nodes is news.
fn log_change(current: Option<&SlotMap>, map: &SlotMap) {
    let SlotMap { version, .. } = *map;
    let (masters, failed) = (map.masters().count(), map.nodes.iter().filter(|node| node.failed).count());
    let (nodes, covered, served, open) = (map.nodes.len(), map.covered(), map.served(), map.open_slots.len());
    if current.is_none_or(|current| current.nodes != map.nodes || current.covered() != covered) {
        tracing::info!(version, nodes, masters, failed, covered, served, open, "the cluster changed");
    } else {
        tracing::debug!(version, nodes, masters, failed, covered, served, open, "slots changed hands");
    }
}

/// Keeps complaints from filling the log.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    fn say(&mut self, complaint: impl FnOnce()) {
        if self.last.is_none_or(|last| last.elapsed() >= COMPLAINT_EVERY) {
            self.last = Some(Instant::now());
            complaint();
        }
    }
}
