//! Why a leg stopped before its end.

use std::sync::Arc;

use crate::cluster::Slot;
use crate::migrate::SlotSet;
use crate::migrate::inventory::short;
use crate::migrate::recovery::Trouble;
use crate::migrate::refusal::Cause;

/// Each reads as a sentence that names the cause and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// By order, with no slot open.
    #[error("stopped by order; PROXY MIGRATE RESUME goes on")]
    Stopped,
    /// The lease has ended, or somebody with a higher token drives.
    #[error("another instance drives this plan now, or the lease has ended; nothing more is done here")]
    Fenced,
    #[error("slot {slot}: {}; see PROXY SLOT {slot}, PROXY MIGRATE REPAIR, then PROXY MIGRATE RESUME", trouble.reason())]
    Trouble { slot: Slot, trouble: Trouble },
    #[error("slot {slot}: {}; then PROXY MIGRATE RESUME", cause.reason())]
    Refused { slot: Slot, cause: Cause },
    #[error("{end} {} cannot be reached: {why}; start it or fail its shard over, then PROXY MIGRATE RESUME", short(node))]
    NodeLost { end: End, node: Arc<str>, why: String },
    #[error("slot {slot}: no progress: {why}; PROXY MIGRATE RESUME tries again")]
    Stuck { slot: Slot, why: String },
    #[error(
        "slot {slot}: {} still names another owner although it was told; see PROXY CHECK, then PROXY MIGRATE RESUME",
        short(node)
    )]
    Disagreement { slot: Slot, node: Arc<str> },
    #[error("the servers cannot move slots {slots} themselves: {why}; plan them with MODE classic")]
    AtomicFailed { slots: SlotSet, why: String },
    #[error(
        "slots {slots}: the servers lost sight of each other in the moment of the hand-over, so writes of that moment may be lost: {why}; \
         see PROXY MIGRATE VERIFY, then PROXY MIGRATE RESUME"
    )]
    Suspect { slots: SlotSet, why: String },
    #[error("the cluster was not found: no node has answered yet; see PROXY TOPOLOGY")]
    NoCluster,
}

impl Halt {
    /// In words, for a status and a log.
    pub fn reason(&self) -> String {
        self.to_string()
    }
}

/// Which end of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Source,
    Target,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            End::Source => "the source",
            End::Target => "the target",
        })
    }
}
