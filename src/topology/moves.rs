//! Slots whose new owner is known before any node is asked: this proxy itself has just moved them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::cluster::Slot;

/// Moves that the map does not show yet, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Moves {
    waiting: Mutex<Vec<(Slot, Arc<str>)>>,
    arrived: Notify,
}

impl Moves {
    /// From any thread.
    pub fn add(&self, slots: &[Slot], to: &Arc<str>) {
        // What is in there is whole whoever panicked.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(slots.iter().map(|slot| (*slot, to.clone())));
        self.arrived.notify_one();
    }

    /// Waits until there are some, and takes them.
    pub async fn next(&self) -> Vec<(Slot, Arc<str>)> {
        loop {
            let taken = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }
}
