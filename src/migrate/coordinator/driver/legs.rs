//! Moving: which leg comes next, and one leg from its begin to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep};

use super::{Driver, LetGo, Parts, TICK};
use crate::cluster::Slot;
use crate::migrate::closing::{Direction, open_slots};
use crate::migrate::coordinator::held::IN_FORCE;
use crate::migrate::coordinator::tally::Tally;
use crate::migrate::execute::{self, Executor, Halt, Leg, Limits, Orders};
use crate::migrate::machine::{Fact, State};
use crate::migrate::plan::BatchKind;
use crate::migrate::record::{PlanBatch, Told};
use crate::migrate::recovery::Trouble;
use crate::migrate::survey::survey;
use crate::migrate::{Holds, SlotSet};

/// How long it may be unknown whether slots stand open, while nothing changes about why.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at it.
const CLOSE_LOOK: Duration = Duration::from_secs(1);

/// What a leg is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Move(Direction),
    /// A slot that stands open is brought to its end, whatever the gates and operators say: there is nothing else to be done with it.
    Finish(Direction),
}

impl Purpose {
    fn direction(self) -> Direction {
        match self {
            Purpose::Move(direction) | Purpose::Finish(direction) => direction,
        }
    }
}

impl Driver {
    fn leg(&self, batch: &PlanBatch, slots: Vec<Slot>, direction: Direction) -> Leg {
        let (source, target) = match direction {
            Direction::Forward => (&batch.source, &batch.target),
            Direction::Back => (&batch.target, &batch.source),
        };
        Leg { source: self.shard(source), target: self.shard(target), slots, mode: batch.mode.into() }
    }

    /// The next batch, or the next state when there is none.
    pub(super) async fn move_on(&mut self) -> Result<(), LetGo> {
        if !self.may_move().await? || !self.keep_masters(Direction::Forward).await? {
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
        if self.carry_out(leg, Purpose::Move(Direction::Forward)).await? {
            self.converge(&slots.into_iter().collect(), &batch.target).await?;
        }
        Ok(())
    }

    pub(super) async fn move_back(&mut self) -> Result<(), LetGo> {
        // What is half way goes to its end first, whatever the gates say: it cannot be turned round in the middle.
        if !self.finish_open().await? || !self.may_move().await? || !self.keep_masters(Direction::Back).await? {
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
        if self.carry_out(leg, Purpose::Move(Direction::Back)).await? {
            self.converge(&slots.into_iter().collect(), &batch.source).await?;
        }
        Ok(())
    }

    /// Brings an aborted plan to its end.
    pub(super) async fn finish(&mut self) -> Result<(), LetGo> {
        self.write().await;
        if self.finish_open().await? {
            self.found(Fact::Stopped);
        }
        self.write().await;
        Ok(())
    }

    /// Finishes the slots that stand open, each in its own direction. Answers whether all is closed.
    pub(super) async fn finish_open(&mut self) -> Result<bool, LetGo> {
        if self.closed {
            return Ok(true);
        }
        let Some(open) = self.look_for_open().await? else { return Ok(false) };
        for (slot, direction) in open {
            let Some(batch) = self.plan.batch_of(slot).cloned() else { continue };
            let leg = Leg { mode: execute::Mode::Classic, ..self.leg(&batch, vec![slot], direction) };
            self.say(format!("slot {slot} stands open: it is finished"));
            if !self.carry_out(leg, Purpose::Finish(direction)).await? {
                return Ok(false);
            }
        }
        (self.progress.open, self.progress.holds) = (SlotSet::new(), Holds::default());
        // An atomic job may have come to its end meanwhile.
        self.reconcile().await?;
        self.closed = true;
        Ok(true)
    }

    /// The slots that stand open. None: it cannot be known.
    async fn look_for_open(&mut self) -> Result<Option<BTreeMap<Slot, Direction>>, LetGo> {
        let mut last = String::new();
        let mut until = Instant::now() + CLOSE_PATIENCE;
        loop {
            self.check_lease()?;
            let found = match self.parts.topology.current() {
                Some(map) => open_slots(&survey(&self.parts.dialer, &map).await, &self.plan, &self.progress.open),
                None => Err("there is no slot map".to_owned()),
            };
            let why = match found {
                Ok(open) => return Ok(Some(open)),
                Err(why) => why,
            };
            if why != last {
                self.say(format!("waiting: {why}"));
                (last, until) = (why, Instant::now() + CLOSE_PATIENCE);
            } else if Instant::now() > until {
                self.found(Fact::Hindered(format!("it is not known whether slots stand open: {why}; then PROXY MIGRATE RESUME")));
                self.write().await;
                return Ok(None);
            }
            self.note().await;
            sleep(CLOSE_LOOK).await;
        }
    }

    /// Waits until the gates have been looked at, and stops when one is closed.
    async fn may_move(&mut self) -> Result<bool, LetGo> {
        loop {
            self.check_lease()?;
            let seen = self.sentry.seen.borrow_and_update().clone();
            self.progress.gates = seen.gates.clone();
            if let Some(why) = seen.closed(self.progress.standing.way) {
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
    async fn carry_out(&mut self, leg: Leg, purpose: Purpose) -> Result<bool, LetGo> {
        let slots: SlotSet = leg.slots.iter().copied().collect();
        let (direction, begun) = (purpose.direction(), Instant::now());
        let is_finish = matches!(purpose, Purpose::Finish(_));
        let resumed = self.progress.holds.clone();
        self.hold(&leg);
        self.progress.open.extend(slots.iter());
        self.sentry.open.send_replace(self.progress.open.clone());
        // From here on keys of these slots at the target are the plan's own: that must be known before the first moves.
        self.write().await;
        self.check_lease()?;
        let held_from = Instant::now() + IN_FORCE;
        let stop = watch::Sender::new(false);
        self.stand_guard();
        let fence = self.keeper.fence();
        let orders = Orders { throttle: self.throttle.subscribe(), stop: stop.subscribe(), fence, resumed, held_from };
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
                        Some(told) => {
                            let is_order = matches!(told.told, Told::Order(_));
                            self.put_off(told).await?;
                            if is_order && !is_finish {
                                stop.send_replace(true);
                            }
                        }
                        None => return Err(LetGo),
                    },
                    _ = ticks.tick() => {
                        self.check_lease()?;
                        self.progress.moving_ms += counted.elapsed().as_millis() as u64;
                        counted = Instant::now();
                        self.count(&tally, direction);
                        self.hold_on(&leg, &orders);
                        self.look_at_gates();
                        if !is_finish && self.closed_gate().is_some() {
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
        self.release(&leg, &orders, outcome.as_ref().err());
        let is_over = matches!(outcome, Ok(_) | Err(Halt::Stopped));
        self.closed &= is_over;
        for slot in slots.iter() {
            let is_closed = if leg.mode == execute::Mode::Classic { self.progress.holds.ends(slot).is_none() } else { is_over };
            if is_closed {
                self.progress.open.remove(slot);
            }
        }
        self.sentry.open.send_replace(self.progress.open.clone());
        let fact = match outcome {
            Ok(done) => {
                let way = if direction == Direction::Forward { "moved" } else { "moved back" };
                self.say(format!("{way} {} slots, {} keys in {:.1?}: {slots}", done.slots, done.keys, begun.elapsed()));
                return Ok(true);
            }
            Err(Halt::Stopped) => match self.closed_gate() {
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
    pub(super) fn spare_executor(&mut self) -> Executor {
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
        for (slot, source, target) in news.settled {
            if self.progress.holds.ends(slot).is_some() {
                self.progress.holds.hold([slot], &source, &target);
            }
        }
        for (slot, keys) in news.unacknowledged {
            self.progress.holds.doubt(slot, keys.iter().map(|key| key.to_vec()));
        }
        self.begun.extend(news.begun);
        for slot in news.done {
            self.begun.remove(&slot);
            self.progress.holds.release(slot);
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
}

/// Whether only an operator can say what is right.
fn is_unclear(halt: &Halt) -> bool {
    match halt {
        Halt::Trouble { trouble, .. } => {
            use Trouble::{OrphansAtSource, SourceEmptied, SourceForgot, StrayKeysAtTarget};
            matches!(trouble, OrphansAtSource | StrayKeysAtTarget | SourceForgot | SourceEmptied)
        }
        Halt::Suspect { .. } => true,
        _ => false,
    }
}
