//! A slot at a time: look, take the next step of the table, look again.

use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::announce::Opinion;
use super::drain::{PAGE, keys_of};
use super::halt::{End, Halt};
use super::look::Sight;
use super::nodes::text;
use super::passage::Passage;
use super::patience::{Patience, Trip};
use super::{Done, Event, Executor, Leg, Listener, Orders};
use crate::cluster::Slot;
use crate::control::Reply;
use crate::migrate::recovery::{self, Known, Mark, Observed, Owner, Step};

/// The target is made the owner only on the strength of a look at the source that is no older.
const GUARD: Duration = Duration::from_millis(50);

/// So long a master that does not answer, or names another owner, is told again.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(5);

impl Executor {
    pub(super) async fn run_classic(&mut self, leg: &Leg, orders: &Orders, tell: Listener<'_>) -> Result<Done, Halt> {
        let mut done = Done::default();
        for slot in &leg.slots {
            if *orders.stop.borrow() {
                return Err(Halt::Stopped);
            }
            let begun = Instant::now();
            let passage = self.move_slot(Passage::new(*slot, &orders.resumed, &self.topology), orders, tell).await?;
            let (keys, bytes) = (passage.keys, passage.bytes);
            tell(Event::SlotDone { slot: *slot, keys, bytes, took: begun.elapsed() });
            done = Done { slots: done.slots + 1, keys: done.keys + keys, bytes: done.bytes + bytes };
        }
        Ok(done)
    }

    async fn move_slot(&mut self, mut passage: Passage, orders: &Orders, tell: Listener<'_>) -> Result<Passage, Halt> {
        let mut patience = Patience::new();
        loop {
            orders.fence.check()?;
            match self.advance(&mut passage, orders, tell).await {
                Ok(Step::Done) => return Ok(passage),
                Ok(_) => patience.renew(),
                Err(trip) => {
                    if let Trip::Lost { end, .. } = &trip {
                        self.nodes.forget(*end);
                    }
                    patience.wait(passage.slot, trip, &self.limits, &orders.stop, tell).await?;
                }
            }
        }
    }

    /// One look, and the steps that it is good for.
    async fn advance(&mut self, passage: &mut Passage, orders: &Orders, tell: Listener<'_>) -> Result<Step, Trip> {
        let slot = passage.slot;
        self.nodes.connect(tell).await?;
        self.check_libraries(tell).await?;
        let mut sight = self.nodes.look(slot).await?;
        // A target that has failed over may have lost its mark, and then answers MOVED to whoever asks for a key: the mark comes first.
        let target_answers = (sight.seen.owner_at_target, sight.seen.target_mark) != (Owner::Source, Mark::None);
        if passage.unsettled.is_some() && target_answers {
            self.settle(passage, tell).await?;
            sight = self.nodes.look(slot).await?;
        }
        let (source, target) = (self.nodes.id(End::Source), self.nodes.id(End::Target));
        let is_closed = sight.seen.owner_at_source == Owner::Source && sight.seen.source_mark == Mark::None;
        if is_closed && sight.source_has_replicas && Instant::now() < orders.held_from {
            sleep_until(orders.held_from).await;
            sight = self.nodes.look(slot).await?;
        }
        (passage.source_has_replicas, passage.target_has_replicas) = (sight.source_has_replicas, sight.target_has_replicas);
        let is_open = (sight.seen.source_mark, sight.seen.target_mark) == (Mark::Ours, Mark::Ours);
        if passage.unconfirmed && is_open {
            self.confirm(passage).await?;
            sight = self.nodes.look(slot).await?;
        }
        if (sight.seen.owner_at_source, sight.seen.owner_at_target) == (Owner::Target, Owner::Target) {
            sight.seen.announced = self.is_announced(passage, tell).await?;
        }
        passage.target_at = sight.target_at.take();
        if sight.seen.owner_at_source == Owner::Source {
            let run = self.end(End::Source)?.run.clone();
            passage.note_source(&source, &run, sight.source_keys).map_err(Trip::Doubt)?;
        }
        if !std::mem::replace(&mut passage.looked, true) && sight.seen.source_mark == Mark::Ours {
            // Whoever opened it may have left a MIGRATE behind that the target is still to see.
            passage.unsettled = Some((0, Vec::new()));
            return Err(Trip::Refused("an earlier driver's last command is waited for".into()));
        }
        if is_open && passage.ends.as_ref() != Some(&[source.clone(), target.clone()]) {
            if passage.known(&source) == Known::Held && sight.seen.target_has_keys {
                self.settle_conflicts(passage, orders, tell).await?;
                sight = self.nodes.look(slot).await?;
            }
            passage.hold([source.clone(), target.clone()]);
            tell(Event::Settled { slot, source: source.clone(), target });
        }
        loop {
            let step = recovery::next(sight.seen, passage.known(&source));
            match step {
                Step::Stop(trouble) => return Err(Trip::Doubt(trouble)),
                Step::Done => return Ok(step),
                _ => orders.fence.check()?,
            }
            self.carry_out(step, &sight, passage, orders, tell).await?;
            tell(Event::Stepped { slot, step });
            // Whoever listens may have seen enough.
            yield_now().await;
            match accomplished(step, sight.seen, passage, &source).filter(|_| passage.unsettled.is_none()) {
                Some(seen) => sight.seen = seen,
                None => return Ok(step),
            }
        }
    }

    async fn check_libraries(&mut self, tell: Listener<'_>) -> Result<(), Trip> {
        let pair = Some((self.nodes.id(End::Source), self.nodes.id(End::Target)));
        if self.library_checked != pair {
            self.nodes.copy_libraries(tell).await?;
            self.library_checked = pair;
        }
        Ok(())
    }

    async fn carry_out(
        &mut self,
        step: Step,
        sight: &Sight,
        passage: &mut Passage,
        orders: &Orders,
        tell: Listener<'_>,
    ) -> Result<(), Trip> {
        let slot = passage.slot;
        let (source, target) = (self.nodes.id(End::Source), self.nodes.id(End::Target));
        match step {
            Step::OpenTarget => {
                self.set_slot(End::Target, slot, &["IMPORTING", &source], "").await?;
                if passage.ends.is_none() {
                    passage.hold([source, target]);
                }
            }
            Step::OpenSource => {
                if passage.ends.is_none() {
                    passage.hold([source, target.clone()]);
                }
                self.open_source(passage, &target).await?;
            }
            Step::Drain => self.drain(passage, orders, tell).await?,
            Step::Own => {
                if sight.at.elapsed() > GUARD {
                    return Err(Trip::Refused("the look at the source is too old to act on".into()));
                }
                if let Some(former) = passage.lurked.clone().filter(|_| sight.lurking.is_none())
                    && !self.follows_target(&former, sight).await?
                {
                    // What it is not told now it will not hear of again: its mark would stay.
                    return Err(Trip::Refused(format!(
                        "{former}, the target's former master, is not in step with the new one yet"
                    )));
                }
                if let Some(former) = &sight.lurking {
                    passage.lurked = Some(former.clone());
                    return Err(Trip::Refused(format!(
                        "{former}, which was the target's master when the slot was opened, is down, and would take its slots back when it \
                         returns behind the hand-over: start it now, or let every node CLUSTER FORGET it"
                    )));
                }
                self.own(slot, sight, &source, &target).await?;
                passage.pin.set = false;
                self.topology.slots_moved(&[slot], &target);
            }
            Step::Clear => {
                self.set_slot(End::Source, slot, &["NODE", &target], "").await?;
                self.topology.slots_moved(&[slot], &target);
            }
            Step::CloseTarget => self.close_target(slot, sight, &source).await?,
            Step::Announce => passage.announced = self.nodes.announce(&[slot], &target, passage.differing.as_deref()).await?,
            Step::Done | Step::Stop(_) => {}
        }
        Ok(())
    }

    /// Marks the source, and has it list the first keys behind that.
    async fn open_source(&mut self, passage: &mut Passage, target: &str) -> Result<(), Trip> {
        self.set_slot(End::Source, passage.slot, &["MIGRATING", target], "").await?;
        let source = self.end(End::Source)?;
        let list = ["CLUSTER", "GETKEYSINSLOT", &passage.slot.to_string(), &PAGE.to_string()];
        let reply = source.connection.call(list).await.map_err(Trip::lost(End::Source, &source.id))?;
        passage.listed = keys_of(reply).filter(|_| source.databases < 2);
        Ok(())
    }

    /// Whether this node gets all that the target does, as its replica.
    async fn follows_target(&mut self, id: &str, sight: &Sight) -> Result<bool, Trip> {
        let target = self.end(End::Target)?;
        let info = target.connection.call(["INFO", "replication"]).await.map_err(Trip::lost(End::Target, &target.id))?;
        let Some(node) = sight.target_view.nodes.iter().find(|node| &*node.id == id) else { return Ok(true) };
        let address = format!("ip={},port={},state=online", node.host, node.port);
        Ok(text(&info).contains(&address))
    }

    async fn set_slot(&mut self, end: End, slot: Slot, what: &[&str], mark: &str) -> Result<(), Trip> {
        let slot = slot.to_string();
        let words = [&[&slot[..]], what].concat();
        let reply = self.nodes.set_slot(end, &words, mark).await?;
        accepted(end, &format!("SETSLOT {}", words.join(" ")), &reply)
    }

    /// Takes the target's mark away. When it dates from before the source's shard failed over, the target may not have heard of the new
    /// master's claim, and refuse everything until it does: it is told at once.
    async fn close_target(&mut self, slot: Slot, sight: &Sight, source: &str) -> Result<(), Trip> {
        self.set_slot(End::Target, slot, &["STABLE"], "").await?;
        if sight.seen.owner_at_source == Owner::Source
            && let Err(trip) = self.set_slot(End::Target, slot, &["NODE", source], "").await
        {
            // It may not know yet that this is a master; then gossip tells it of both.
            tracing::debug!(?trip, %slot, "telling the target of the source's new master");
        }
        Ok(())
    }

    /// Makes the target the owner. On Redis the target itself looks for its mark in the same moment.
    async fn own(&mut self, slot: Slot, sight: &Sight, source: &str, target: &str) -> Result<(), Trip> {
        let mark = if sight.seen.target_mark == Mark::Ours { format!("[{slot}-<-{source}]") } else { String::new() };
        self.set_slot(End::Target, slot, &["NODE", target], &mark).await
    }

    /// Whether all other masters know the target as the owner. Those that do not answer are left to gossip after a while.
    async fn is_announced(&mut self, passage: &mut Passage, tell: Listener<'_>) -> Result<bool, Trip> {
        let (slot, target) = (passage.slot, self.nodes.id(End::Target));
        let since = *passage.announcing_since.get_or_insert_with(Instant::now);
        let late = since.elapsed() > ANNOUNCE_LIMIT;
        let mut differing = Vec::new();
        for (node, opinion) in self.nodes.opinions(&[slot], &target).await? {
            match opinion {
                Opinion::Knows => {}
                Opinion::Differs if late => return Err(Trip::Halt(Halt::Disagreement { slot, node })),
                Opinion::Differs => differing.push(node),
                Opinion::Silent(_) if late => {
                    if passage.unheard.insert(node.clone()) {
                        tell(Event::Unannounced { slot, node });
                    }
                }
                Opinion::Silent(why) => return Err(Trip::Refused(format!("another master does not answer: {why}"))),
            }
        }
        let announced = differing.is_empty();
        passage.differing = Some(differing);
        Ok(announced)
    }
}

/// The slot behind a step that the nodes have accepted, as far as the look before it is still good; otherwise they are looked at again,
/// always before the target is made the owner.
fn accomplished(step: Step, seen: Observed, passage: &Passage, source: &str) -> Option<Observed> {
    match step {
        Step::OpenTarget => Some(Observed { target_mark: Mark::Ours, ..seen }),
        // What both ends may hold is settled behind the next look.
        Step::OpenSource if seen.source_has_keys && passage.known(source) == Known::Open => {
            Some(Observed { source_mark: Mark::Ours, ..seen })
        }
        Step::Own => Some(Observed { owner_at_target: Owner::Target, target_mark: Mark::None, ..seen }),
        Step::Clear => Some(Observed { owner_at_source: Owner::Target, source_mark: Mark::None, ..seen }),
        Step::Announce if passage.announced => Some(Observed { announced: true, ..seen }),
        _ => None,
    }
}

fn accepted(end: End, command: &str, reply: &Reply) -> Result<(), Trip> {
    match reply {
        // The source gave its last slot away and follows the target now: there is nothing left to clear.
        Reply::Error(error) if end == End::Source && error.contains("Please use SETSLOT only with masters") => Ok(()),
        Reply::Error(error) => Err(Trip::Refused(format!("{end} answers {command} with '{error}'"))),
        _ => Ok(()),
    }
}
