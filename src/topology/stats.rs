//! What the task counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counted by the task, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub refreshes: AtomicU64,
    pub changes: AtomicU64,
    pub refusals: AtomicU64,
    pub unanswered: AtomicU64,
}

/// The refreshes since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TopologyStats {
    pub refreshes: u64,
    /// Those that published another map.
    pub changes: u64,
    /// Maps and views that were not believed.
    pub refusals: u64,
    /// Those that nobody answered.
    pub unanswered: u64,
}

impl Counters {
    pub fn read(&self) -> TopologyStats {
        TopologyStats {
            refreshes: self.refreshes.load(Relaxed),
            changes: self.changes.load(Relaxed),
            refusals: self.refusals.load(Relaxed),
            unanswered: self.unanswered.load(Relaxed),
        }
    }
}
