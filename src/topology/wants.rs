//! Keys that requests wait for while their slot is being moved: a request for several keys cannot be served before all of them are on one
//! node, so whoever moves the slot moves these first.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::cluster::Slot;

/// Keys that wait to be taken; more are forgotten, and named again when their requests are tried again.
const WANTS_MAX: usize = 1000;

/// From any thread. A key is here once, however many requests wait for it.
#[derive(Debug, Default)]
pub(super) struct Wants {
    known: Mutex<Known>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// Slots that this process moves.
    served: BTreeSet<Slot>,
    waiting: BTreeSet<(Slot, Bytes)>,
}

impl Wants {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // What is in there is whole whoever panicked.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn want(&self, slot: Slot, keys: impl IntoIterator<Item = Bytes>) {
        let mut known = self.lock();
        for key in keys {
            if known.waiting.len() < WANTS_MAX {
                known.waiting.insert((slot, key));
            }
        }
        if known.served.contains(&slot) {
            self.arrived.notify_one();
        }
    }

    /// This process moves the slot, or moves it no more.
    pub fn serve(&self, slot: Slot, serves: bool) {
        let mut known = self.lock();
        if serves {
            known.served.insert(slot);
        } else {
            known.served.remove(&slot);
            known.waiting.retain(|(of, _)| *of != slot);
        }
    }

    pub fn serves(&self) -> bool {
        !self.lock().served.is_empty()
    }

    /// Takes what is wanted of a slot.
    pub fn take(&self, slot: Slot) -> Vec<Bytes> {
        self.take_if(|of, _| of == slot)
    }

    /// Takes what is wanted of slots that another process moves, if any does.
    pub fn take_others(&self) -> Vec<Bytes> {
        self.take_if(|of, served| !served.contains(&of))
    }

    fn take_if(&self, is_it: impl Fn(Slot, &BTreeSet<Slot>) -> bool) -> Vec<Bytes> {
        let mut known = self.lock();
        if known.waiting.is_empty() {
            return Vec::new();
        }
        let Known { served, waiting } = &mut *known;
        let (taken, left) = std::mem::take(waiting).into_iter().partition(|(slot, _)| is_it(*slot, served));
        *waiting = left;
        let taken: BTreeSet<(Slot, Bytes)> = taken;
        taken.into_iter().map(|(_, key)| key).collect()
    }

    /// Until something may be wanted of a slot that this process moves.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_moves_a_slot_takes_what_is_wanted_of_it() {
        let slot = |number: u16| Slot::new(number).expect("the test's own slot");
        let wants = Wants::default();
        wants.serve(slot(1), true);
        let key = Bytes::from_static;
        wants.want(slot(1), [key(b"a"), key(b"b"), key(b"a")]);
        wants.want(slot(2), [key(b"c")]);
        assert_eq!(wants.take_others(), [key(b"c")]);
        assert_eq!((wants.take(slot(1)), wants.take(slot(1)).len()), (vec![key(b"a"), key(b"b")], 0));
        wants.want(slot(1), [key(b"a")]);
        wants.serve(slot(1), false);
        assert!(!wants.serves() && wants.take(slot(1)).is_empty() && wants.take_others().is_empty());
        wants.want(slot(3), (0..2000u32).map(|number| Bytes::from(number.to_string())));
        assert_eq!(wants.take_others().len(), WANTS_MAX);
    }
}
