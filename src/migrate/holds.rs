//! PURE. Slots that are open, or about to be: the masters between which each is, and what is known of keys that both may hold.
//!
//! Every instance sends the requests of such a slot to these two masters only. When its source's shard fails over on Redis, the new
//! master does not know that the slot is open: nobody asks it until a driver has put the marks back, settled what both ends hold, and
//! named it here. So the ends written here also tell the next driver what it finds: a source that is not the one written here has been
//! asked by nobody.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::SlotSet;
use crate::cluster::Slot;

/// Slots, and the ids of the masters between which they are open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    slots: SlotSet,
    source: String,
    target: String,
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    #[serde(default)]
    between: Vec<Hold>,
    /// Keys of a MIGRATE that came to no good end, by slot: the source went on with those it still had, whatever the target has got.
    #[serde(default)]
    unacknowledged: BTreeMap<u16, BTreeSet<Vec<u8>>>,
}

impl Holds {
    /// From now on these slots are held between these two masters.
    pub fn hold(&mut self, slots: impl IntoIterator<Item = Slot>, source: &str, target: &str) {
        let slots: SlotSet = slots.into_iter().collect();
        if slots.is_empty() {
            return;
        }
        self.take_out(&slots);
        match self.between.iter_mut().find(|hold| hold.source == source && hold.target == target) {
            Some(hold) => hold.slots.extend(slots.iter()),
            None => self.between.push(Hold { slots, source: source.to_owned(), target: target.to_owned() }),
        }
    }

    /// The slot is closed.
    pub fn release(&mut self, slot: Slot) {
        self.take_out(&SlotSet::from_iter([slot]));
        self.unacknowledged.remove(&slot.get());
    }

    /// Releases the slots of which `keep`, given their source and target, says no.
    pub fn retain(&mut self, keep: impl Fn(Slot, &str, &str) -> bool) {
        let over: Vec<Slot> =
            self.iter().filter(|(slot, source, target)| !keep(*slot, source, target)).map(|(slot, ..)| slot).collect();
        over.into_iter().for_each(|slot| self.release(slot));
    }

    /// Source and target of a slot that is held.
    pub fn ends(&self, slot: Slot) -> Option<[&str; 2]> {
        self.between.iter().find(|hold| hold.slots.contains(slot)).map(|hold| [hold.source.as_str(), hold.target.as_str()])
    }

    /// All slots, each with its source and target.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &str, &str)> {
        self.between.iter().flat_map(|hold| hold.slots.iter().map(|slot| (slot, hold.source.as_str(), hold.target.as_str())))
    }

    /// Replaces what is written down of a slot's unacknowledged keys.
    pub fn doubt(&mut self, slot: Slot, keys: impl IntoIterator<Item = Vec<u8>>) {
        let keys: BTreeSet<Vec<u8>> = keys.into_iter().collect();
        if keys.is_empty() {
            self.unacknowledged.remove(&slot.get());
        } else {
            self.unacknowledged.insert(slot.get(), keys);
        }
    }

    pub fn unacknowledged(&self, slot: Slot) -> impl Iterator<Item = &[u8]> {
        self.unacknowledged.get(&slot.get()).into_iter().flatten().map(Vec::as_slice)
    }

    fn take_out(&mut self, slots: &SlotSet) {
        for hold in &mut self.between {
            slots.iter().for_each(|slot| hold.slots.remove(slot));
        }
        self.between.retain(|hold| !hold.slots.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(text: &str) -> SlotSet {
        SlotSet::parse(text).expect("the test's own slots")
    }

    fn slot(number: u16) -> Slot {
        Slot::new(number).expect("the test's own slot")
    }

    #[test]
    fn a_slot_is_between_two_masters_at_a_time() {
        let mut holds = Holds::default();
        holds.hold(slots("0-9").iter(), "a", "b");
        holds.hold([slot(5)], "a2", "b");
        assert_eq!((holds.ends(slot(4)), holds.ends(slot(5)), holds.ends(slot(10))), (Some(["a", "b"]), Some(["a2", "b"]), None));
        holds.hold(slots("0-4,6-9").iter(), "a2", "b");
        assert_eq!(holds.between, [Hold { slots: slots("0-9"), source: "a2".into(), target: "b".into() }]);
        holds.retain(|slot, source, target| slot.get() > 7 && (source, target) == ("a2", "b"));
        assert_eq!(holds.iter().map(|(slot, ..)| slot.get()).collect::<Vec<_>>(), [8, 9]);
        holds.release(slot(8));
        holds.release(slot(9));
        assert_eq!(holds, Holds::default());
    }

    #[test]
    fn keys_of_any_bytes_are_kept_until_the_slot_is_closed() {
        let mut holds = Holds::default();
        holds.hold([slot(1)], "a", "b");
        holds.doubt(slot(1), [b"plain".to_vec(), vec![0xff, 0, b'"']]);
        let text = serde_json::to_string(&holds).expect("holds can be written");
        let read: Holds = serde_json::from_str(&text).expect("and read");
        assert_eq!(read, holds);
        assert_eq!(read.unacknowledged(slot(1)).collect::<Vec<_>>(), [&b"plain"[..], &[0xff, 0, b'"']]);
        assert_eq!(read.unacknowledged(slot(2)).count(), 0);
        holds.doubt(slot(1), []);
        assert_eq!(holds.unacknowledged(slot(1)).count(), 0);
        holds.doubt(slot(1), [b"plain".to_vec()]);
        holds.release(slot(1));
        assert_eq!(holds, Holds::default());
    }
}
