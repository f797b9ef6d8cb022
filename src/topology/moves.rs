//! What is known of slots before any node is asked, because this proxy itself moves them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::cluster::{Pin, Slot};

/// One change, to be shown by the map at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// The slot belongs to this node now, and is pinned no more.
    Owner(Slot, Arc<str>),
    Pin(Pin),
    Unpin(Slot),
    /// These slots are held, and no others; a pin of this proxy's own goes before.
    Hold(Vec<Pin>),
}

/// Changes that the map does not show yet, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Moves {
    waiting: Mutex<Vec<Change>>,
    arrived: Notify,
}

impl Moves {
    /// From any thread.
    pub fn add(&self, changes: impl IntoIterator<Item = Change>) {
        // What is in there is whole whoever panicked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(changes);
        self.arrived.notify_one();
    }

    /// Waits until there are some, and takes them.
    pub async fn next(&self) -> Vec<Change> {
        loop {
            let taken = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }
}
