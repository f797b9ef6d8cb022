//! Drives one plan, for as long as this instance holds its lease: what comes next, and what operators order meanwhile.

mod holds;
mod legs;
mod looks;
mod masters;
mod orders;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, watch};

use super::Parts;
use super::sentry::Sentry;
use crate::cluster::Slot;
use crate::migrate::closing::Direction;
use crate::migrate::execute::{Executor, Guard, Limits};
use crate::migrate::machine::{Fact, Standing, State, Work};
use crate::migrate::pace::Throttle;
use crate::migrate::record::{Heard, Keeper, Lease, Loaded, Mode, Place, Plan, Progress, Store};

/// How often what has been counted becomes progress.
const TICK: Duration = Duration::from_millis(200);
/// Lines for the log that wait; more are told to whoever listens, and forgotten.
const LINES_MAX: usize = 1000;

/// Why driving ends before the plan is at rest: another instance may go on.
pub(super) struct LetGo;

pub(super) struct Driver {
    parts: Parts,
    place: Place,
    plan: Plan,
    progress: Progress,
    keeper: Keeper,
    sentry: Sentry,
    executor: Executor,
    /// While the plan holds slots.
    guard: Option<Guard>,
    throttle: watch::Sender<Throttle>,
    events: broadcast::Sender<Arc<str>>,
    /// As it was handed over to be written.
    noted: Progress,
    /// For the log.
    lines: Vec<String>,
    /// What operators told while slots moved, in their order.
    waiting: Vec<Heard>,
    /// How many orders were obeyed and not yet written down as such.
    obeyed: usize,
    /// Nothing stands open that is not the leg under way: it was looked for.
    closed: bool,
    /// It may be the plan that holds slots, in the eyes of others.
    claims: bool,
    /// The way for which masters were told to stay masters.
    kept: Option<Direction>,
    /// It was to go back because slots are uncovered, and another plan holds slots.
    stays: bool,
    /// Slots of the leg that were opened, and are not closed.
    begun: BTreeSet<Slot>,
}

impl Driver {
    /// Takes up what was written down. `progress` is where it stands now.
    pub fn new(parts: Parts, store: Store, loaded: Loaded, lease: Lease, events: broadcast::Sender<Arc<str>>) -> Driver {
        let Loaded { place, plan, progress, version, .. } = loaded;
        let keeper = Keeper::start(store, place.clone(), lease, version, progress.clone());
        let sentry = Sentry::start(&parts, plan.clone());
        let limits = Limits::default();
        let executor = Executor::new(parts.topology.clone(), parts.dialer.clone(), parts.now_us.clone(), limits);
        let (throttle, noted) = (watch::Sender::new(progress.throttle), progress.clone());
        let mut driver = Driver {
            parts,
            place,
            plan,
            progress,
            keeper,
            sentry,
            executor,
            guard: None,
            throttle,
            events,
            noted,
            lines: Vec::new(),
            waiting: Vec::new(),
            obeyed: 0,
            closed: false,
            claims: true,
            kept: None,
            stays: false,
            begun: BTreeSet::new(),
        };
        if driver.progress.standing.state.holds_slots() {
            driver.stand_guard();
        }
        driver
    }

    /// Keeps this driver's name on all masters, from here on.
    fn stand_guard(&mut self) {
        let start = || Guard::start(self.parts.topology.clone(), self.parts.dialer.clone(), self.keeper.token);
        self.guard.get_or_insert_with(start);
    }

    /// Until the plan is at rest or somebody else's.
    pub async fn run(mut self, adopted: bool) {
        if adopted && self.progress.standing.work() != Work::Rest {
            self.say(format!("taken over by {}", self.parts.instance));
        }
        if self.drive().await.is_err() {
            tracing::warn!(plan = self.place.id, "the plan is let go: {}", self.keeper.lost().unwrap_or_default());
            return;
        }
        self.write().await;
    }

    async fn drive(&mut self) -> Result<(), LetGo> {
        // Behind it stands in `orders` what operators have told whoever drove the plan before.
        self.write().await;
        if self.is_in_the_middle() {
            // Neither an order nor a gate stops a plan with a slot open.
            self.finish_open().await?;
        }
        self.take_orders().await?;
        if self.progress.standing.work() != Work::Rest {
            self.reconcile().await?;
        }
        loop {
            self.take_orders().await?;
            self.check_lease()?;
            self.progress.gates = self.sentry.seen.borrow().gates.clone();
            match self.progress.standing.work() {
                Work::Rest => {
                    self.write().await;
                    // An order may have come with the last write.
                    self.take_orders().await?;
                    if self.progress.standing.work() == Work::Rest {
                        return Ok(());
                    }
                }
                Work::Wait => self.wait().await?,
                Work::Move => self.move_on().await?,
                Work::MoveBack => self.move_back().await?,
                Work::Verify => self.verify().await?,
                Work::Observe => self.observe().await?,
                Work::Finish => self.finish().await?,
            }
        }
    }

    /// Whether an earlier driver may have left slots open. A job of the servers' own goes on by itself, unless something is to be done behind it.
    fn is_in_the_middle(&self) -> bool {
        let begun = self.progress.open.iter().next().and_then(|slot| self.plan.batch_of(slot));
        let is_moving = matches!(self.progress.standing.work(), Work::Move | Work::MoveBack);
        is_moving && begun.is_some_and(|batch| batch.mode == Mode::Classic || !self.keeper.orders.is_empty())
    }

    fn check_lease(&self) -> Result<(), LetGo> {
        if self.keeper.lost().is_some() { Err(LetGo) } else { Ok(()) }
    }

    /// A line for the log and for whoever listens.
    fn say(&mut self, text: String) {
        self.tell(&text);
        if self.lines.len() < LINES_MAX {
            self.lines.push(text);
        }
    }

    /// A line for whoever listens.
    fn tell(&self, text: &str) {
        // Nobody has to listen.
        let _ = self.events.send(format!("{} {text}", self.place.id).into());
    }

    /// Writes now. Whoever reads that the plan is at rest, or only observes, finds it so: others may move slots.
    async fn write(&mut self) {
        if self.progress.standing.work() == Work::Rest {
            self.restore().await;
        }
        if self.claims && !self.progress.standing.state.holds_slots() {
            self.let_others_move().await;
        }
        let lines = std::mem::take(&mut self.lines);
        self.keeper.write(&self.progress, lines, std::mem::take(&mut self.obeyed)).await;
        self.noted = self.progress.clone();
    }

    /// Writes soon, if there is anything to write: a plan is observed for days.
    async fn note(&mut self) {
        if self.lines.is_empty() && self.obeyed == 0 && self.noted == self.progress {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        self.keeper.note(&self.progress, lines, std::mem::take(&mut self.obeyed)).await;
        self.noted = self.progress.clone();
    }

    fn stand(&mut self, standing: Standing) {
        if standing != self.progress.standing {
            if standing.state != self.progress.standing.state || !standing.reason.is_empty() {
                let reason = if standing.reason.is_empty() { String::new() } else { format!(": {}", standing.reason) };
                self.say(format!("state {}{reason}", standing.state.word()));
            }
            self.progress.standing = standing;
        }
    }

    fn found(&mut self, fact: Fact) {
        self.stand(self.progress.standing.found(fact));
    }

    /// Waits for an order, and shows the gates meanwhile.
    async fn wait(&mut self) -> Result<(), LetGo> {
        self.write().await;
        while self.progress.standing.work() == Work::Wait {
            self.listen().await?;
            self.check_lease()?;
            self.look_at_gates();
            self.answer_uncovered().await?;
            self.note().await;
        }
        Ok(())
    }

    fn look_at_gates(&mut self) {
        self.progress.gates = self.sentry.seen.borrow().gates.clone();
    }

    /// Why nothing may move now.
    fn closed_gate(&self) -> Option<String> {
        self.sentry.seen.borrow().closed(self.progress.standing.way)
    }

    /// What follows when slots stay uncovered: a closer look, and if that does not find them either, what has moved goes back.
    async fn answer_uncovered(&mut self) -> Result<(), LetGo> {
        let since = self.sentry.seen.borrow().uncovered;
        let Some(limit) = self.parts.back_when_uncovered.filter(|limit| since.is_some_and(|since| since.elapsed() >= *limit))
        else {
            return Ok(());
        };
        if self.stays {
            return Ok(());
        }
        let why = format!("slots have been uncovered for {limit:?}: what has moved goes back");
        if self.progress.standing.found(Fact::Uncovered(why.clone())) == self.progress.standing {
            return Ok(());
        }
        self.reconcile().await?;
        if self.sentry.seen.borrow().uncovered.is_none() {
            return Ok(());
        }
        let next = self.progress.standing.found(Fact::Uncovered(why));
        match self.speaks_against(&next).await? {
            None => self.stand(next),
            Some(why) => {
                self.stays = true;
                self.say(format!("slots stay uncovered, but nothing goes back: {why}"));
            }
        }
        Ok(())
    }

    /// The gates stay armed; nothing moves.
    async fn observe(&mut self) -> Result<(), LetGo> {
        if self.claims {
            self.let_others_move().await;
        }
        self.note().await;
        self.listen().await?;
        self.look_at_gates();
        self.answer_uncovered().await?;
        let why = self.closed_gate();
        let standing = Standing { reason: why.unwrap_or_default(), ..self.progress.standing.clone() };
        if self.progress.standing.state == State::Observing {
            self.stand(standing);
            let over_ms = self.progress.observed_from_ms + self.plan.observe_s * 1000;
            if wall_ms() >= over_ms {
                self.found(Fact::ObservationOver);
            }
        }
        Ok(())
    }

    /// Another plan may move slots from here on.
    async fn let_others_move(&mut self) {
        // What bears this driver's name would be in their way.
        self.guard = None;
        drop(self.spare_executor());
        match self.parts.store().unclaim(&self.place.id).await {
            Ok(()) => self.claims = false,
            Err(error) => tracing::warn!(plan = self.place.id, "{error}"),
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
