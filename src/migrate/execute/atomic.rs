//! Many slots at a time, moved by the servers themselves (Valkey 9, `CLUSTER MIGRATESLOTS`): the source streams its slots to the target
//! and hands them over in one moment. Whether a job succeeded is seen from who owns the slots and where their keys are, never from its
//! log, which a restart empties.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::announce::Opinion;
use super::attend::{Unwanted, Watch};
use super::cut::{Job, next_job, try_again};
use super::halt::{End, Halt};
use super::jobs::{Entry, entries};
use super::look::owner_in;
use super::nodes::{Node, text};
use super::patience::{Patience, Trip};
use super::{Done, Event, Executor, Leg, Listener, Orders};
use crate::cluster::{NodesView, Slot};
use crate::control::{Pipeline, Reply};
use crate::migrate::SlotSet;
use crate::migrate::recovery::Trouble;

/// Between looks at a job.
const POLL: Duration = Duration::from_millis(10);

/// The wait behind the first failure; it doubles.
const FAILURE_WAIT: Duration = Duration::from_millis(200);

/// So long the other masters may take to hear of a hand-over by themselves; then they are told, and after as long again it is a
/// disagreement.
const GOSSIP_WAIT: Duration = Duration::from_secs(2);

/// How a look at a job found it.
enum State {
    /// The source owns these slots still, and no job has them; why the last one that had them ended.
    Idle {
        left: Vec<Slot>,
        last: Option<Entry>,
    },
    /// Jobs have them.
    Running(Vec<Entry>),
    /// The target owns all, but the source still holds keys.
    Trimming,
    Moved {
        last: Option<Entry>,
    },
}

impl Executor {
    pub(super) async fn run_atomic(&mut self, leg: &Leg, orders: &Orders, tell: Listener<'_>) -> Result<Done, Halt> {
        let mut done = Done::default();
        let Some(first) = leg.slots.first() else { return Ok(done) };
        let mut patience = Patience::new();
        let mut left = loop {
            match self.prepare(&leg.slots, tell).await {
                Ok(counts) => break leg.slots.iter().copied().zip(counts).collect::<VecDeque<_>>(),
                Err(trip) => self.bear(*first, trip, &mut patience, orders, tell).await?,
            }
        };
        let mut again = VecDeque::new();
        while let Some(job) = again.pop_front().or_else(|| next_job(&mut left, orders.throttle.borrow().job)) {
            if *orders.stop.borrow() {
                return Err(Halt::Stopped);
            }
            let (slots, began) = (job.slots.iter().copied().collect::<SlotSet>(), Instant::now());
            match self.run_job(&job, orders, tell).await? {
                Ok(()) => {
                    done = Done { slots: done.slots + job.slots.len(), keys: done.keys + job.keys, bytes: 0 };
                    tell(Event::JobDone { slots, keys: job.keys, took: began.elapsed() });
                    if !left.is_empty() || !again.is_empty() {
                        rest(orders).await;
                    }
                }
                Err(reason) => {
                    let failures = job.failures + 1;
                    tell(Event::JobFailed { slots: slots.clone(), failures, reason: reason.clone() });
                    let smaller = try_again(job).ok_or(Halt::AtomicFailed { slots, why: reason })?;
                    smaller.into_iter().rev().for_each(|job| again.push_front(job));
                    sleep(FAILURE_WAIT * 2u32.pow(failures)).await;
                }
            }
        }
        Ok(done)
    }

    async fn bear(
        &mut self,
        slot: Slot,
        trip: Trip,
        patience: &mut Patience,
        orders: &Orders,
        tell: Listener<'_>,
    ) -> Result<(), Halt> {
        if let Trip::Lost { end, .. } = &trip {
            self.nodes.forget(*end);
        }
        patience.wait(slot, trip, &self.limits, &orders.stop, tell).await
    }

    /// Sees to it that the target has what it needs. Answers how many keys each slot has.
    async fn prepare(&mut self, slots: &[Slot], tell: Listener<'_>) -> Result<Vec<u64>, Trip> {
        self.nodes.connect(tell).await?;
        self.nodes.copy_libraries(tell).await?;
        count_keys(self.end(End::Source)?, slots, End::Source).await
    }

    /// Carries a job out. The inner error: it failed, and the source has everything.
    async fn run_job(&mut self, job: &Job, orders: &Orders, tell: Listener<'_>) -> Result<Result<(), String>, Halt> {
        let mut patience = Patience::new();
        // Jobs that had ended before this one began: what they say is not about it.
        let mut before: Option<BTreeSet<String>> = None;
        let (mut submitted, mut watch, mut unwanted) = (false, Watch::new(), None);
        loop {
            orders.fence.check()?;
            let state = self.look_at(job, tell).await;
            if let Ok(State::Idle { last, .. } | State::Moved { last }) = &state
                && before.is_none()
            {
                before = Some(last.iter().map(|entry| entry.name.clone()).collect());
            }
            let is_new = |entry: &&Entry| !before.as_ref().is_some_and(|before| before.contains(&entry.name));
            match state {
                Ok(State::Moved { last }) => {
                    suspicion(job, last.as_ref().filter(is_new))?;
                    break;
                }
                Ok(State::Running(entries)) => {
                    before.get_or_insert_default();
                    submitted = true;
                    patience.renew();
                    match self.attend(&job.slots, &entries, &mut watch, orders, tell).await {
                        Ok(why) => unwanted = unwanted.or(why),
                        Err(trip) => self.bear(job.slots[0], trip, &mut patience, orders, tell).await?,
                    }
                    sleep(POLL).await;
                }
                Ok(State::Trimming) => {
                    let trip = Trip::Refused("the source still holds keys of slots that it gave away".into());
                    self.bear(job.slots[0], trip, &mut patience, orders, tell).await?;
                }
                Ok(State::Idle { left, last }) => {
                    let last = last.as_ref().filter(is_new);
                    suspicion(job, last)?;
                    match unwanted {
                        Some(Unwanted::Ordered) => return Err(Halt::Stopped),
                        Some(Unwanted::StoodStill) => {
                            let why = format!("the job stood still as {}, and was cancelled", watch.states());
                            return Err(Halt::Stuck { slot: job.slots[0], why });
                        }
                        None => {}
                    }
                    // It was taken up although the reply was lost, or was under way already.
                    if submitted || last.is_some() {
                        return Ok(Err(last.map_or_else(|| "the job has vanished".into(), Entry::reason)));
                    }
                    match self.submit(&left, orders).await {
                        Ok(None) => {
                            submitted = true;
                            tell(Event::JobSubmitted { slots: left.into_iter().collect(), keys: job.keys });
                        }
                        Ok(Some(refusal)) => return Ok(Err(refusal)),
                        Err(trip) => self.bear(job.slots[0], trip, &mut patience, orders, tell).await?,
                    }
                }
                Err(trip) => self.bear(job.slots[0], trip, &mut patience, orders, tell).await?,
            }
        }
        let target = self.nodes.id(End::Target);
        self.topology.slots_moved(&job.slots, &target);
        self.spread(job, &target, tell).await?;
        Ok(Ok(()))
    }

    async fn look_at(&mut self, job: &Job, tell: Listener<'_>) -> Result<State, Trip> {
        self.nodes.connect(tell).await?;
        let Some((source, at_source, target, at_target)) = self.nodes.pair() else {
            return Err(Trip::Refused("a connection to both ends is missing".into()));
        };
        let (source, target) = (source.clone(), target.clone());
        let (giving, taking) = tokio::join!(views(at_source, End::Source), views(at_target, End::Target));
        let ((giving, log), (taking, _)) = (giving?, taking?);
        // A source that has given its last slot away may follow the target.
        let follows = giving.myself().master.as_ref().is_some_and(|of| target.members.contains(of));
        if !giving.myself().flags.master && !follows {
            return Err(Trip::Lost { end: End::Source, node: source.id, why: "it has become a replica".into() });
        }
        if !taking.myself().flags.master {
            return Err(Trip::Lost { end: End::Target, node: target.id, why: "it has become a replica".into() });
        }
        if !giving.myself().open.is_empty() || !taking.myself().open.is_empty() {
            return Err(Trip::Doubt(Trouble::ForeignMark));
        }
        let mut left = Vec::new();
        for slot in &job.slots {
            match (owner_in(&giving, *slot), owner_in(&taking, *slot)) {
                (Some(one), Some(other)) if *one == target.id && *other == target.id => {}
                (Some(one), Some(other)) if *one == source.id && *other == source.id => left.push(*slot),
                (Some(one), Some(other))
                    if ours(&source.members, &target.members, one) && ours(&source.members, &target.members, other) =>
                {
                    return Err(Trip::Refused("the two ends do not agree yet about the owner".into()));
                }
                _ => return Err(Trip::Doubt(Trouble::ForeignOwner)),
            }
        }
        let mut concerned: Vec<Entry> =
            log.into_iter().filter(|entry| job.slots.iter().any(|slot| entry.slots.contains(*slot))).collect();
        concerned.sort_by_key(|entry| entry.created);
        if concerned.iter().any(Entry::is_running) {
            concerned.retain(Entry::is_running);
            return Ok(State::Running(concerned));
        }
        let last = concerned.pop();
        if !left.is_empty() {
            return Ok(State::Idle { left, last });
        }
        let kept = if follows { 0 } else { count_keys(self.end(End::Source)?, &job.slots, End::Source).await?.into_iter().sum() };
        Ok(if kept > 0 { State::Trimming } else { State::Moved { last } })
    }

    /// Asks the source to move the slots. `Some`: it refuses.
    async fn submit(&mut self, slots: &[Slot], orders: &Orders) -> Result<Option<String>, Trip> {
        orders.fence.check()?;
        if databases_in_use(self.end(End::Source)?).await? > 1 {
            let why =
                "the source has keys in several databases, and Valkey then applies writes of that time in the wrong one".into();
            return Err(Trip::Halt(Halt::AtomicFailed { slots: slots.iter().copied().collect(), why }));
        }
        let target = self.nodes.id(End::Target);
        let ranges: Vec<(String, String)> = slots
            .iter()
            .copied()
            .collect::<SlotSet>()
            .ranges()
            .map(|(first, last)| (first.to_string(), last.to_string()))
            .collect();
        let mut words = vec!["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"];
        words.extend(ranges.iter().flat_map(|(first, last)| [&first[..], last]));
        words.extend(["NODE", &target]);
        let source = self.end(End::Source)?;
        match source.connection.call(&words).await.map_err(Trip::lost(End::Source, &source.id))? {
            Reply::Error(error) => Ok(Some(error.to_string())),
            _ => Ok(None),
        }
    }

    /// Waits until the other masters know.
    async fn spread(&mut self, job: &Job, target: &Arc<str>, tell: Listener<'_>) -> Result<(), Halt> {
        let began = Instant::now();
        let mut told = false;
        loop {
            let late = began.elapsed() > GOSSIP_WAIT;
            let (mut differing, mut silent) = (Vec::new(), Vec::new());
            for (node, opinion) in self.nodes.opinions(&job.slots, target).await? {
                match opinion {
                    Opinion::Knows => {}
                    Opinion::Differs => differing.push(node),
                    Opinion::Silent(_) => silent.push(node),
                }
            }
            if differing.is_empty() && (silent.is_empty() || late) {
                silent.into_iter().for_each(|node| tell(Event::Unannounced { slot: job.slots[0], node }));
                return Ok(());
            }
            if late && !std::mem::replace(&mut told, true) {
                self.nodes.announce(&job.slots, target, Some(&differing)).await?;
            }
            if let Some(node) = differing.pop().filter(|_| began.elapsed() > GOSSIP_WAIT * 2) {
                return Err(Halt::Disagreement { slot: job.slots[0], node });
            }
            sleep(POLL).await;
        }
    }
}

fn ours(source: &std::collections::BTreeSet<Arc<str>>, target: &std::collections::BTreeSet<Arc<str>>, id: &Arc<str>) -> bool {
    source.contains(id) || target.contains(id)
}

/// Between two jobs. A new throttle ends it, and an order to stop.
async fn rest(orders: &Orders) {
    let (mut throttle, mut stop) = (orders.throttle.clone(), orders.stop.clone());
    let time = throttle.borrow_and_update().rest;
    tokio::select! {
        () = sleep(time) => {}
        _ = throttle.changed() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

fn suspicion(job: &Job, last: Option<&Entry>) -> Result<(), Halt> {
    match last.filter(|entry| entry.is_suspicious()) {
        Some(entry) => Err(Halt::Suspect { slots: job.slots.iter().copied().collect(), why: entry.message.clone() }),
        None => Ok(()),
    }
}

/// In how many databases a node has keys. Valkey 9.1.2 streams a slot's snapshot database by database and goes on in the last of them:
/// what is written from then on to another is acknowledged, and lost at the hand-over.
async fn databases_in_use(source: &mut Node) -> Result<usize, Trip> {
    if source.databases < 2 {
        return Ok(1);
    }
    let keyspace = source.connection.call(["INFO", "keyspace"]).await.map_err(Trip::lost(End::Source, &source.id))?;
    Ok(text(&keyspace).lines().filter(|line| line.starts_with("db")).count())
}

/// A node's view and its log of jobs.
async fn views(node: &mut Node, end: End) -> Result<(NodesView, Vec<Entry>), Trip> {
    let mut questions = Pipeline::new();
    questions.push(["CLUSTER", "NODES"]).push(["CLUSTER", "GETSLOTMIGRATIONS"]);
    let replies = node.connection.call_many(&questions).await.map_err(Trip::lost(end, &node.id))?;
    match &replies[..] {
        [Reply::BulkString(nodes), Reply::Array(log)] => {
            let view = NodesView::parse(nodes).map_err(|error| Trip::Refused(error.to_string()))?;
            Ok((view, entries(log)))
        }
        _ => {
            let why = replies.iter().find(|reply| matches!(reply, Reply::Error(_))).map(text).unwrap_or_default();
            Err(Trip::Refused(format!("{end} cannot move slots by itself: {why}")))
        }
    }
}

/// The keys of each slot on a node, all databases together.
pub(super) async fn count_keys(node: &mut Node, slots: &[Slot], end: End) -> Result<Vec<u64>, Trip> {
    let mut questions = Pipeline::new();
    for slot in slots {
        questions.push(["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]);
    }
    let mut counts = vec![0; slots.len()];
    for database in 0..node.databases {
        let lost = Trip::lost(end, &node.id);
        node.select(database).await.map_err(&lost)?;
        for (count, reply) in counts.iter_mut().zip(node.connection.call_many(&questions).await.map_err(&lost)?) {
            match reply {
                Reply::Integer(found) => *count += u64::try_from(found).unwrap_or(0),
                other => return Err(Trip::Refused(format!("{end} answers COUNTKEYSINSLOT with '{}'", text(&other)))),
            }
        }
    }
    Ok(counts)
}
