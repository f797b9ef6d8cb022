//! A set of slots, as operators write it: `0-99,200`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::{SLOT_COUNT, Slot};

const WORDS: usize = SLOT_COUNT / 64;

/// Any number of slots: one bit each. In JSON it is its text, the empty text for none.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SlotSet {
    bits: Box<[u64; WORDS]>,
}

/// Why a text names no set of slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected slots such as 0-99,200 between 0 and {}, found '{found}'", SLOT_COUNT - 1)]
pub struct NotSlots {
    found: String,
}

impl SlotSet {
    pub fn new() -> SlotSet {
        SlotSet { bits: Box::new([0; WORDS]) }
    }

    /// Reads `0-99,200`: numbers and ranges with both ends included, in any order, overlapping or not. At least one slot.
    pub fn parse(text: &str) -> Result<SlotSet, NotSlots> {
        let wrong = |part: &str| NotSlots { found: part.escape_debug().take(64).collect() };
        let mut set = SlotSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (Slot::parse(first.as_bytes()), Slot::parse(last.as_bytes())) {
                (Some(first), Some(last)) if first <= last => set.extend(Slot::span(first, last)),
                _ => return Err(wrong(part)),
            }
        }
        Ok(set)
    }

    pub fn insert(&mut self, slot: Slot) {
        self.bits[slot.index() / 64] |= 1 << (slot.index() % 64);
    }

    pub fn remove(&mut self, slot: Slot) {
        self.bits[slot.index() / 64] &= !(1 << (slot.index() % 64));
    }

    pub fn contains(&self, slot: Slot) -> bool {
        self.bits[slot.index() / 64] >> (slot.index() % 64) & 1 == 1
    }

    pub fn len(&self) -> usize {
        self.bits.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|word| *word == 0)
    }

    /// In rising order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        Slot::all().filter(|slot| self.contains(*slot))
    }

    /// As ranges, both ends included, in rising order.
    pub fn ranges(&self) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        let mut slots = self.iter().peekable();
        std::iter::from_fn(move || {
            let first = slots.next()?;
            let mut last = first;
            while let Some(next) = slots.next_if(|next| next.get() == last.get() + 1) {
                last = next;
            }
            Some((first, last))
        })
    }
}

impl From<SlotSet> for String {
    fn from(set: SlotSet) -> String {
        set.to_string()
    }
}

impl TryFrom<String> for SlotSet {
    type Error = NotSlots;

    fn try_from(text: String) -> Result<SlotSet, NotSlots> {
        if text.is_empty() { Ok(SlotSet::new()) } else { SlotSet::parse(&text) }
    }
}

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet::new()
    }
}

impl Extend<Slot> for SlotSet {
    fn extend<I: IntoIterator<Item = Slot>>(&mut self, slots: I) {
        slots.into_iter().for_each(|slot| self.insert(slot));
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> SlotSet {
        let mut set = SlotSet::new();
        set.extend(slots);
        set
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.ranges().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_operators_write() {
        #[track_caller]
        fn check(text: &str, expected: Result<(&str, usize), &str>) {
            let found = SlotSet::parse(text).map(|set| (set.to_string(), set.len()));
            let expected = expected.map(|(shown, len)| (shown.to_owned(), len));
            assert_eq!(found, expected.map_err(|part| NotSlots { found: part.to_owned() }), "{text}");
        }
        check("0", Ok(("0", 1)));
        check("0-99,200", Ok(("0-99,200", 101)));
        check("200,5,3-4,5,4-6", Ok(("3-6,200", 5)));
        check("0-16383", Ok(("0-16383", SLOT_COUNT)));
        check("16384", Err("16384"));
        check("5-4", Err("5-4"));
        check("", Err(""));
        check("1,", Err(""));
        check("1-2-3", Err("1-2-3"));
        check("a\r\n", Err("a\\r\\n"));
    }
}
