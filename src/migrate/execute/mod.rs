//! Moves slots on real servers. What to do next is decided by `recovery`, `refusal` and `pace`; here it is done: look at both ends, take
//! the one next step, look again. Whoever begins anew behind a crash does the same, so there is nothing to remember.
//!
//! - `nodes` — the two ends and the others: connections, and which node is a shard's master now
//! - `fence` — that only one driver acts; `guard` — its name on every master; `token` — its token on Redis's
//! - `look` — what both ends show of a slot
//! - `classic` — a slot at a time, by SETSLOT and MIGRATE; `passage` — what is known of it; `drain` — its keys, `settle` — those that both ends
//!   may have
//! - `atomic` — many slots at a time, by the servers themselves; `cut` — how many; `jobs`, `attend` — what they do
//! - `announce` — the other masters; `libraries` — functions

mod announce;
mod atomic;
mod attend;
mod classic;
mod cut;
mod drain;
mod fence;
mod guard;
mod halt;
mod jobs;
mod libraries;
mod look;
mod nodes;
mod passage;
mod patience;
mod settle;
mod token;
mod wanted;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::pace::{Pace, Throttle};
use super::recovery::Step;
use super::{Holds, SlotSet};
use crate::cluster::Slot;
use crate::control::Dialer;
use crate::topology::{RefreshCause, TopologyHandle};
use nodes::Nodes;

pub use fence::{Fence, take_over};
pub use guard::Guard;
pub use halt::{End, Halt};
pub use jobs::suspicions;
pub(in crate::migrate) use nodes::master_of;
pub(in crate::migrate) use token::take_mark;

/// Slots that go from one shard to another, one way or the other.
#[derive(Clone, Debug)]
pub struct Leg {
    pub source: Shard,
    pub target: Shard,
    /// In the order in which they move.
    pub slots: Vec<Slot>,
    pub mode: Mode,
}

/// One end of a leg. A failover makes another of its members the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its master when the plan was made.
    pub id: Arc<str>,
    /// All its members' ids, as far as they were known: when the master is gone, the cluster itself no longer tells who replicated it.
    pub members: BTreeSet<Arc<str>>,
}

impl Shard {
    pub fn of(id: impl Into<Arc<str>>) -> Shard {
        let id = id.into();
        Shard { members: BTreeSet::from([id.clone()]), id }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// SETSLOT and MIGRATE: every version.
    Classic,
    /// Valkey's `CLUSTER MIGRATESLOTS`.
    Atomic,
}

/// What whoever drives may change while a leg is under way.
#[derive(Clone, Debug)]
pub struct Orders {
    pub throttle: watch::Receiver<Throttle>,
    /// True: finish the open slot (or the job), then return with `Halt::Stopped`.
    pub stop: watch::Receiver<bool>,
    pub fence: Fence,
    /// Slots of which the record says that they were open, before this leg.
    pub resumed: Holds,
    /// From then on every instance holds the leg's slots: none is opened earlier at a source that may fail over.
    pub held_from: Instant,
}

/// What happened, as it happens. Nothing waits for whoever listens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step of the classic protocol was carried out.
    Stepped {
        slot: Slot,
        step: Step,
    },
    /// One MIGRATE's keys are at the target.
    KeysMoved {
        slot: Slot,
        keys: usize,
        bytes: u64,
        took: Duration,
    },
    /// This key is about to move alone, and blocks its source for as long as it takes.
    BigKey {
        slot: Slot,
        key: Bytes,
        bytes: u64,
    },
    /// The slot is the target's, its marks are gone, and all masters know.
    SlotDone {
        slot: Slot,
        keys: u64,
        bytes: u64,
        took: Duration,
    },
    JobSubmitted {
        slots: SlotSet,
        keys: u64,
    },
    JobDone {
        slots: SlotSet,
        keys: u64,
        took: Duration,
    },
    /// It is tried again until a `Halt` says otherwise; the source still has everything.
    JobFailed {
        slots: SlotSet,
        failures: u32,
        reason: String,
    },
    /// Nothing can be done right now; it is tried again.
    Waiting {
        slot: Option<Slot>,
        reason: String,
    },
    /// The slot's marks stand at both ends, and what both held is settled: it may be held between these.
    Settled {
        slot: Slot,
        source: Arc<str>,
        target: Arc<str>,
    },
    /// All keys of the slot that the target may have though the source goes on with them. It replaces what was said before.
    Unacknowledged {
        slot: Slot,
        keys: Vec<Bytes>,
    },
    /// A shard has another master now.
    FailedOver {
        from: Arc<str>,
        to: Arc<str>,
    },
    /// A MIGRATE broke off, and these of its keys are at the target only: they have moved, or clients removed them before it was known
    /// what had arrived, and they are back.
    Doubtful {
        slot: Slot,
        keys: Vec<Bytes>,
    },
    /// Both ends held the key after a failover: one of the two copies was dropped.
    Conflict {
        slot: Slot,
        key: Bytes,
        kept: Kept,
    },
    /// The target lacked a library of functions and has it now.
    LibraryLoaded {
        name: String,
    },
    /// This master could not be told of the slot's new owner; it hears of it from the others.
    Unannounced {
        slot: Slot,
        node: Arc<str>,
    },
}

/// Which copy of a key was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    Source,
    Target,
}

/// A leg's whole: everything has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub slots: usize,
    pub keys: u64,
    pub bytes: u64,
}

/// Where events go.
pub type Listener<'a> = &'a mut (dyn FnMut(Event) + Send);

/// How long what is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without any progress, until a halt.
    pub patience: Duration,
    /// Until a reason to stop for an operator is believed: while news spreads, nodes may differ for a moment.
    pub doubt: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { patience: Duration::from_secs(60), doubt: Duration::from_secs(2) }
    }
}

/// Carries out legs, one after the other; several executors may work on different pairs of nodes at once. It can be dropped at any
/// moment: another one goes on from what the nodes show.
pub struct Executor {
    topology: TopologyHandle,
    nodes: Nodes,
    limits: Limits,
    pace: Pace,
    /// When the source will have had its rest.
    rested_at: Instant,
    library_checked: Option<(Arc<str>, Arc<str>)>,
}

impl Executor {
    /// `now_us` is the clock of `SlotMap::asked_at_us`.
    pub fn new(topology: TopologyHandle, dialer: Dialer, now_us: Arc<dyn Fn() -> u64 + Send + Sync>, limits: Limits) -> Executor {
        let nodes = Nodes::new(topology.clone(), dialer, now_us);
        Executor { topology, nodes, limits, pace: Pace::default(), rested_at: Instant::now(), library_checked: None }
    }

    /// Moves the leg's slots, or says why it stopped. What was moved stays moved.
    pub async fn run(&mut self, leg: &Leg, orders: &Orders, listener: Listener<'_>) -> Result<Done, Halt> {
        self.nodes.begin(leg, &orders.fence);
        let outcome = match leg.mode {
            Mode::Classic => self.run_classic(leg, orders, listener).await,
            Mode::Atomic => self.run_atomic(leg, orders, listener).await,
        };
        self.topology.hint(RefreshCause::Asked);
        outcome
    }

    /// The ends' members as known by now, for the record: a failover may have brought new ones to light.
    pub fn shards(&self) -> Option<(&Shard, &Shard)> {
        self.nodes.shards()
    }
}
