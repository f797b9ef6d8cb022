//! Drives one plan, for as long as this instance holds its lease.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, interval, sleep};

use super::Parts;
use super::sentry::Sentry;
use super::tally::Tally;
use crate::cluster::{OpenMark, Slot};
use crate::migrate::SlotSet;
use crate::migrate::execute::{self, Executor, Fence, Halt, Leg, Limits, Orders, Shard};
use crate::migrate::inventory::Open;
use crate::migrate::machine::{Fact, Order, Standing, State, Way, Work};
use crate::migrate::pace::Throttle;
use crate::migrate::plan::BatchKind;
use crate::migrate::preflight::Severity;
use crate::migrate::record::{Keeper, Lease, Loaded, Place, Plan, PlanBatch, Progress, Store, Told};
use crate::migrate::recovery::Trouble;
use crate::migrate::survey::{glance, survey};
use crate::migrate::verify::verify;

/// How often what has been counted becomes progress.
const TICK: Duration = Duration::from_millis(200);
/// How long all nodes may take to name the new owners.
const CONVERGENCE: Duration = Duration::from_secs(30);
/// Between two looks at it.
const CONVERGENCE_LOOK: Duration = Duration::from_millis(100);
/// Slots that stay uncovered for so long are not coming back by themselves.
const UNCOVERED: Duration = Duration::from_secs(60);
/// How long a verification that fails is repeated: news may be under way.
const VERIFY_PATIENCE: Duration = Duration::from_secs(10);
/// Finished plans look once more whether an order came with their last words.
const LINES_MAX: usize = 1000;

/// Which way slots go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Back,
}

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

    /// Looks whose the plan's slots are: the record may be behind, or an operator may have moved some.
    async fn reconcile(&mut self) -> Result<(), LetGo> {
        loop {
            self.check_lease()?;
            let Some(map) = self.parts.topology.current() else {
                sleep(TICK).await;
                continue;
            };
            let inventory = glance(&self.parts.dialer, &map).await;
            if inventory.masters().next().is_none() {
                sleep(TICK).await;
                continue;
            }
            let owners = inventory.owners();
            // On its way to the target until nobody holds a mark and all have heard of it.
            let mut under_way: SlotSet = inventory.disagreements().into_iter().map(|each| each.slot).collect();
            under_way.extend(
                inventory.open_slots().iter().map(from_and_to).filter(|mark| self.goes_forward(mark)).map(|(slot, ..)| slot),
            );
            let goes_back = self.progress.standing.way == Way::Back;
            let mut done = SlotSet::new();
            for batch in &self.plan.batches {
                let target = self.members(&batch.target);
                done.extend(
                    batch
                        .slots
                        .iter()
                        .filter(|slot| goes_back || !under_way.contains(*slot))
                        .filter(|slot| owners[slot.index()].as_ref().is_some_and(|owner| target.contains(&**owner))),
                );
            }
            if done != self.progress.done {
                self.say(format!("{} slots are the targets', {} were written down", done.len(), self.progress.done.len()));
                self.progress.done = done;
            }
            return Ok(());
        }
    }

    /// Whether a mark is of the plan's own way, and not of its way back.
    fn goes_forward(&self, (slot, from, _): &(Slot, Arc<str>, Arc<str>)) -> bool {
        self.plan.batch_of(*slot).is_some_and(|batch| !self.members(&batch.target).contains(&**from))
    }

    fn members(&self, id: &str) -> BTreeSet<String> {
        self.plan.shards.get(id).into_iter().flatten().cloned().chain([id.to_owned()]).collect()
    }

    fn shard(&self, id: &str) -> Shard {
        Shard { id: id.into(), members: self.members(id).iter().map(|id| id.as_str().into()).collect() }
    }

    fn leg(&self, batch: &PlanBatch, slots: Vec<Slot>, direction: Direction) -> Leg {
        let (source, target) = match direction {
            Direction::Forward => (&batch.source, &batch.target),
            Direction::Back => (&batch.target, &batch.source),
        };
        Leg { source: self.shard(source), target: self.shard(target), slots, mode: batch.mode.into() }
    }

    /// The next batch, or the next state when there is none.
    async fn move_on(&mut self) -> Result<(), LetGo> {
        if !self.may_move().await? {
            return Ok(());
        }
        let done = &self.progress.done;
        let is_left = |batch: &&PlanBatch| batch.slots.iter().any(|slot| !done.contains(slot));
        let Some(batch) = self.plan.batches.iter().find(is_left).cloned() else {
            self.found(Fact::AllMoved);
            self.write().await;
            return Ok(());
        };
        let is_canary = matches!(batch.kind, BatchKind::Probe | BatchKind::Canary);
        if self.progress.standing.state == State::Canary && !is_canary {
            return self.look_at_canary().await;
        }
        let slots: Vec<Slot> = batch.slots.iter().filter(|slot| !self.progress.done.contains(*slot)).collect();
        let leg = self.leg(&batch, slots.clone(), Direction::Forward);
        if self.carry_out(leg, Direction::Forward).await? {
            self.converge(&slots.into_iter().collect(), &batch.target).await?;
        }
        Ok(())
    }

    /// Before the rest follows the canary everything is looked at once.
    async fn look_at_canary(&mut self) -> Result<(), LetGo> {
        match self.verified().await? {
            None => self.found(Fact::CanaryFine),
            Some(why) => self.found(Fact::Hindered(format!("the canary is not well: {why}"))),
        }
        self.write().await;
        Ok(())
    }

    async fn move_back(&mut self) -> Result<(), LetGo> {
        // What is half way goes to its end first: it cannot be turned round in the middle.
        if !self.may_move().await? || !self.finish_open().await? {
            return Ok(());
        }
        let done = &self.progress.done;
        let Some(batch) =
            self.plan.batches.iter().rev().find(|batch| batch.slots.iter().any(|slot| done.contains(slot))).cloned()
        else {
            match self.verified().await? {
                None => self.found(Fact::AllBack),
                Some(why) => self.found(Fact::Hindered(format!("what was moved back is not well: {why}"))),
            }
            self.write().await;
            return Ok(());
        };
        let mut slots: Vec<Slot> = batch.slots.iter().filter(|slot| self.progress.done.contains(*slot)).collect();
        slots.reverse();
        let leg = self.leg(&batch, slots.clone(), Direction::Back);
        if self.carry_out(leg, Direction::Back).await? {
            self.converge(&slots.into_iter().collect(), &batch.source).await?;
        }
        Ok(())
    }

    /// Brings an aborted plan to its end.
    async fn finish(&mut self) -> Result<(), LetGo> {
        self.write().await;
        if self.finish_open().await? {
            self.found(Fact::Stopped);
        }
        self.write().await;
        Ok(())
    }

    /// Finishes the slots that stand open, each in its own direction. Answers whether all is closed.
    async fn finish_open(&mut self) -> Result<bool, LetGo> {
        let Some(map) = self.parts.topology.current() else { return Ok(false) };
        let inventory = glance(&self.parts.dialer, &map).await;
        let mut open = SlotSet::new();
        let mut back = SlotSet::new();
        for mark in inventory.open_slots().iter().map(from_and_to).filter(|(slot, ..)| self.plan.batch_of(*slot).is_some()) {
            open.insert(mark.0);
            if !self.goes_forward(&mark) {
                back.insert(mark.0);
            }
        }
        for slot in open.iter() {
            let Some(batch) = self.plan.batch_of(slot).cloned() else { continue };
            let direction = if back.contains(slot) { Direction::Back } else { Direction::Forward };
            let leg = Leg { mode: execute::Mode::Classic, ..self.leg(&batch, vec![slot], direction) };
            self.say(format!("slot {slot} stands open: it is finished"));
            if !self.carry_out(leg, direction).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until the gates have been looked at, and stops when one is closed.
    async fn may_move(&mut self) -> Result<bool, LetGo> {
        loop {
            self.check_lease()?;
            let seen = self.sentry.seen.borrow_and_update().clone();
            self.progress.gates = seen.gates.clone();
            if let Some(why) = seen.closed() {
                self.found(Fact::Hindered(why));
                self.write().await;
                return Ok(false);
            }
            if seen.may_begin() {
                return Ok(true);
            }
            self.note().await;
            // The task lives as long as its handle.
            let _ = self.sentry.seen.changed().await;
        }
    }

    /// Runs one leg. Answers whether all of it has moved.
    async fn carry_out(&mut self, leg: Leg, direction: Direction) -> Result<bool, LetGo> {
        let slots: SlotSet = leg.slots.iter().copied().collect();
        let begun = Instant::now();
        let resumed = self.progress.open.clone();
        self.progress.open = slots.clone();
        self.sentry.open.send_replace(slots.clone());
        // From here on keys of these slots at the target are the plan's own: that must be known before the first moves.
        self.write().await;
        self.check_lease()?;
        let stop = watch::Sender::new(false);
        let fence = Fence { token: self.keeper.token, until: self.keeper.until.clone() };
        let orders = Orders { throttle: self.throttle.subscribe(), stop: stop.subscribe(), fence, resumed };
        let tally = Arc::new(Mutex::new(Tally::new()));
        let mut executor = self.spare_executor();
        let outcome = {
            let events = tally.clone();
            // Numbers are whole whoever panicked.
            let mut listener = move |event| events.lock().unwrap_or_else(PoisonError::into_inner).take(event);
            let mut running = Box::pin(executor.run(&leg, &orders, &mut listener));
            let mut ticks = interval(TICK);
            let mut counted = Instant::now();
            loop {
                tokio::select! {
                    outcome = &mut running => break outcome,
                    told = self.keeper.orders.recv() => match told {
                        Some(Told::Order(order)) => {
                            self.say(format!("ordered {}: the open slot is being finished", order.word()));
                            self.waiting.push(order);
                            stop.send_replace(true);
                        }
                        Some(throttle) => self.obey(throttle),
                        None => return Err(LetGo),
                    },
                    _ = ticks.tick() => {
                        self.check_lease()?;
                        self.progress.moving_ms += counted.elapsed().as_millis() as u64;
                        counted = Instant::now();
                        self.count(&tally, direction);
                        self.look_at_gates();
                        if self.sentry.seen.borrow().closed().is_some() {
                            stop.send_replace(true);
                        }
                        self.note().await;
                    }
                }
            }
        };
        self.learn_shards(&executor, &leg);
        self.executor = executor;
        self.count(&tally, direction);
        if outcome.is_ok() || outcome == Err(Halt::Stopped) {
            self.progress.open = SlotSet::new();
            self.sentry.open.send_replace(SlotSet::new());
        }
        let fact = match outcome {
            Ok(done) => {
                let way = if direction == Direction::Forward { "moved" } else { "moved back" };
                self.say(format!("{way} {} slots, {} keys in {:.1?}: {slots}", done.slots, done.keys, begun.elapsed()));
                return Ok(true);
            }
            Err(Halt::Stopped) => match self.sentry.seen.borrow().closed() {
                Some(why) => Fact::Hindered(why),
                None => return Ok(false),
            },
            Err(Halt::Fenced) => return Err(LetGo),
            Err(halt) if is_unclear(&halt) => Fact::Unclear(halt.reason()),
            Err(halt) => Fact::Hindered(halt.reason()),
        };
        self.found(fact);
        self.write().await;
        Ok(false)
    }

    /// The executor, for as long as a leg runs; should that be given up in the middle, another one is there.
    fn spare_executor(&mut self) -> Executor {
        let Parts { topology, dialer, now_us, .. } = self.parts.clone();
        std::mem::replace(&mut self.executor, Executor::new(topology, dialer, now_us, Limits::default()))
    }

    /// A failover may have brought new members of a shard to light.
    fn learn_shards(&mut self, executor: &Executor, leg: &Leg) {
        let Some((source, target)) = executor.shards() else { return };
        for (was, is) in [(&leg.source, source), (&leg.target, target)] {
            let known = self.plan.shards.entry(was.id.to_string()).or_default();
            known.extend(is.members.iter().map(|id| id.to_string()));
        }
    }

    /// What has happened since the last time becomes progress.
    fn count(&mut self, tally: &Mutex<Tally>, direction: Direction) {
        let news = tally.lock().unwrap_or_else(PoisonError::into_inner).news();
        for slot in news.done {
            match direction {
                Direction::Forward => self.progress.done.insert(slot),
                Direction::Back => self.progress.done.remove(slot),
            }
            self.progress.open.remove(slot);
        }
        self.progress.keys_moved += news.keys;
        news.told.iter().for_each(|line| self.tell(line));
        news.logged.into_iter().for_each(|line| self.say(line));
    }

    /// Waits until every node names the new owner.
    async fn converge(&mut self, slots: &SlotSet, owner: &str) -> Result<(), LetGo> {
        let members = self.members(owner);
        let until = Instant::now() + CONVERGENCE;
        loop {
            self.check_lease()?;
            let Some(map) = self.parts.topology.current() else { return Ok(()) };
            let inventory = glance(&self.parts.dialer, &map).await;
            let mut behind = Vec::new();
            for (node, told) in inventory.answers() {
                let owned: SlotSet = told
                    .view
                    .nodes
                    .iter()
                    .filter(|node| members.contains(&*node.id))
                    .flat_map(|node| &node.slots)
                    .flat_map(|(first, last)| Slot::span(*first, *last))
                    .collect();
                if slots.iter().any(|slot| !owned.contains(slot)) {
                    behind.push(node.addr.to_string());
                }
            }
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                self.found(Fact::Hindered(format!(
                    "{} do not name the new owner of slots after {CONVERGENCE:?}: see PROXY CHECK, then PROXY MIGRATE RESUME",
                    behind.join(", ")
                )));
                self.write().await;
                return Ok(());
            }
            sleep(CONVERGENCE_LOOK).await;
        }
    }

    /// Looks at everything, keys and all. Answers what is not well.
    async fn verified(&mut self) -> Result<Option<String>, LetGo> {
        let until = Instant::now() + VERIFY_PATIENCE;
        loop {
            self.check_lease()?;
            let Some(map) = self.parts.topology.current() else { return Ok(Some("there is no slot map".into())) };
            let inventory = survey(&self.parts.dialer, &map).await;
            let findings = verify(&inventory, &self.plan, &self.progress.done);
            let wrong = findings.iter().find(|finding| finding.severity == Severity::Blocker);
            match wrong {
                None => return Ok(None),
                Some(finding) if Instant::now() > until => {
                    return Ok(Some(format!("{}: {}; {}", finding.check, finding.found, finding.advice)));
                }
                Some(_) => sleep(CONVERGENCE_LOOK).await,
            }
        }
    }

    async fn verify(&mut self) -> Result<(), LetGo> {
        match self.verified().await? {
            None => {
                self.say(format!("verified {} slots", self.progress.done.len()));
                self.progress.observed_from_ms = wall_ms();
                self.found(Fact::Verified { observe: self.plan.observe_s > 0 });
            }
            Some(why) => self.found(Fact::Hindered(format!("the verification failed: {why}; then PROXY MIGRATE RESUME"))),
        }
        if !self.progress.standing.state.holds_slots() {
            self.let_others_move().await;
        }
        self.write().await;
        Ok(())
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

/// The slot that a mark stands for, and the nodes that it goes from and to.
fn from_and_to(open: &Open) -> (Slot, Arc<str>, Arc<str>) {
    match &open.mark {
        OpenMark::Migrating { slot, to } => (*slot, open.holder.clone(), to.clone()),
        OpenMark::Importing { slot, from } => (*slot, from.clone(), open.holder.clone()),
    }
}

/// Whether only an operator can say what is right.
fn is_unclear(halt: &Halt) -> bool {
    match halt {
        Halt::Trouble { trouble, .. } => matches!(trouble, Trouble::OrphansAtSource | Trouble::StrayKeysAtTarget),
        Halt::Suspect { .. } => true,
        _ => false,
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
