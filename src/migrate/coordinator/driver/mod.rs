//! Drives one plan, for as long as this instance holds its lease: what comes next, and what operators order meanwhile.

mod legs;
mod looks;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, watch};
use tokio::time::sleep;

use super::Parts;
use super::sentry::Sentry;
use crate::migrate::execute::{Executor, Limits};
use crate::migrate::machine::{Fact, Order, Standing, State, Work};
use crate::migrate::pace::Throttle;
use crate::migrate::record::{Keeper, Lease, Loaded, Place, Plan, Progress, Store, Told};

/// How often what has been counted becomes progress.
const TICK: Duration = Duration::from_millis(200);
/// Slots that stay uncovered for so long are not coming back by themselves.
const UNCOVERED: Duration = Duration::from_secs(60);
/// Finished plans look once more whether an order came with their last words.
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
    throttle: watch::Sender<Throttle>,
    events: broadcast::Sender<Arc<str>>,
    /// As it was handed over to be written.
    noted: Progress,
    /// For the log.
    lines: Vec<String>,
    /// Orders that came while slots moved.
    waiting: Vec<Order>,
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
        Driver {
            parts,
            place,
            plan,
            progress,
            keeper,
            sentry,
            executor,
            throttle,
            events,
            noted,
            lines: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Until the plan is at rest or somebody else's.
    pub async fn run(mut self, adopted: bool) {
        if adopted {
            self.say(format!("taken over by {}", self.parts.instance));
        }
        if self.drive().await.is_err() {
            tracing::warn!(plan = self.place.id, "the plan is let go: {}", self.keeper.lost().unwrap_or_default());
            return;
        }
        self.restore().await;
        self.write().await;
    }

    async fn drive(&mut self) -> Result<(), LetGo> {
        if self.progress.standing.work() != Work::Rest {
            self.reconcile().await?;
        }
        loop {
            self.take_orders();
            self.check_lease()?;
            self.progress.gates = self.sentry.seen.borrow().gates.clone();
            match self.progress.standing.work() {
                Work::Rest => {
                    self.write().await;
                    // An order may have come with the last write.
                    self.take_orders();
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

    async fn write(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        self.keeper.write(&self.progress, lines).await;
        self.noted = self.progress.clone();
    }

    /// Writes soon, if there is anything to write: a plan is observed for days.
    async fn note(&mut self) {
        if self.lines.is_empty() && self.noted == self.progress {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        self.keeper.note(&self.progress, lines).await;
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

    fn obey(&mut self, told: Told) {
        match told {
            Told::Throttle(throttle) => {
                self.progress.throttle = throttle;
                self.throttle.send_replace(throttle);
                self.say(format!("throttle {throttle}"));
            }
            Told::Order(order) => match self.progress.standing.ordered(order) {
                Ok(standing) => {
                    self.say(format!("ordered {}", order.word()));
                    self.stand(standing);
                }
                Err(refusal) => self.say(format!("refused {}: {refusal}", order.word())),
            },
        }
    }

    fn take_orders(&mut self) {
        for order in std::mem::take(&mut self.waiting) {
            self.obey(Told::Order(order));
        }
        while let Ok(told) = self.keeper.orders.try_recv() {
            self.obey(told);
        }
    }

    /// Waits for an order, and shows the gates meanwhile.
    async fn wait(&mut self) -> Result<(), LetGo> {
        self.write().await;
        loop {
            tokio::select! {
                told = self.keeper.orders.recv() => {
                    let was = self.progress.standing.state;
                    told.into_iter().for_each(|told| self.obey(told));
                    if self.progress.standing.state != was {
                        // What happened to the slots meanwhile nobody has written down.
                        return self.reconcile().await;
                    }
                }
                () = sleep(TICK) => {}
            }
            self.check_lease()?;
            self.look_at_gates();
            if self.progress.standing.work() != Work::Wait {
                return Ok(());
            }
            self.note().await;
        }
    }

    /// Takes the gates into the progress, and what follows when slots stay uncovered.
    fn look_at_gates(&mut self) {
        let seen = self.sentry.seen.borrow().clone();
        self.progress.gates = seen.gates.clone();
        if self.parts.rollback_uncovered && seen.uncovered.is_some_and(|since| since.elapsed() >= UNCOVERED) {
            self.found(Fact::Uncovered(format!("slots have been uncovered for {UNCOVERED:?}: what has moved goes back")));
        }
    }

    /// The gates stay armed; nothing moves.
    async fn observe(&mut self) -> Result<(), LetGo> {
        self.note().await;
        tokio::select! {
            told = self.keeper.orders.recv() => told.into_iter().for_each(|told| self.obey(told)),
            () = sleep(TICK) => {}
        }
        self.look_at_gates();
        let why = self.sentry.seen.borrow().closed();
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
        if let Err(error) = self.parts.store().unclaim(&self.place.id).await {
            tracing::warn!(plan = self.place.id, "{error}");
        }
    }

    /// Puts back what the plan had changed about nodes, and lets others move.
    async fn restore(&mut self) {
        self.let_others_move().await;
        for id in std::mem::take(&mut self.progress.kept_masters) {
            if let Err(error) = super::settings::set_replica_migration(&self.parts, &id, "yes").await {
                self.say(format!("cluster-allow-replica-migration could not be set back to yes: {error}"));
            }
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
