//! Whether the slots of a request's keys differ, for less than it takes to sort them.

use crate::cluster::{SLOT_COUNT, Slot};

const WORDS: usize = SLOT_COUNT / 64;

/// A bit for each slot, all of them clear between two calls.
pub struct SlotBits(Box<[u64; WORDS]>);

impl Default for SlotBits {
    fn default() -> Self {
        SlotBits(Box::new([0; WORDS]))
    }
}

impl SlotBits {
    pub fn all_differ(&mut self, slots: impl Iterator<Item = Slot> + Clone) -> bool {
        let mut met = 0;
        for slot in slots.clone() {
            let (word, bit) = (&mut self.0[slot.index() / 64 % WORDS], 1 << (slot.index() % 64));
            met |= *word & bit;
            *word |= bit;
        }
        slots.for_each(|slot| self.0[slot.index() / 64 % WORDS] = 0);
        met == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_differ_and_slots_that_do_not() {
        let mut bits = SlotBits::default();
        let mut check = |numbers: &[u16], expected: bool| {
            let slots = numbers.iter().map(|number| Slot::new(*number).expect("the table holds slots"));
            assert_eq!(bits.all_differ(slots), expected, "{numbers:?}");
        };
        check(&[], true);
        check(&[0, 1, 63, 64, 16383], true);
        check(&[0, 64, 0], false);
        check(&[0, 64, 128], true);
        check(&[16383, 5, 16383], false);
        check(&[16383], true);
    }
}
