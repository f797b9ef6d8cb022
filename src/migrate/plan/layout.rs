//! What a plan is made from: who owns what, and what it weighs.

use std::sync::Arc;

use super::NoPlan;
use crate::cluster::{Addr, SLOT_COUNT, Slot};
use crate::migrate::Inventory;

/// See the module's head. Immutable while a plan is made.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The masters, in the order of their ids.
    pub places: Vec<Place>,
    owners: Vec<Option<u16>>,
    /// By slot.
    pub keys: Vec<u64>,
    pub bytes: Vec<u64>,
    /// Microseconds of CPU that requests for the slot have taken, where the servers tell.
    pub cpu: Option<Vec<u64>>,
}

/// A master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: Arc<str>,
    pub addr: Addr,
}

/// By what a cluster is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Slots,
    Keys,
    Bytes,
    Cpu,
}

impl Layout {
    /// # Panics
    /// When a table has another length than there are slots: the caller made it up.
    pub fn new(places: Vec<Place>, owners: Vec<Option<u16>>, keys: Vec<u64>, bytes: Vec<u64>, cpu: Option<Vec<u64>>) -> Layout {
        let lengths = [owners.len(), keys.len(), bytes.len(), cpu.as_ref().map_or(SLOT_COUNT, Vec::len)];
        assert!(lengths.iter().all(|length| *length == SLOT_COUNT), "tables of {lengths:?} entries");
        Layout { places, owners, keys, bytes, cpu }
    }

    /// From what the nodes told: keys as counted, bytes as a node's keys take on average.
    pub fn of(inventory: &Inventory) -> Layout {
        let masters: Vec<_> = inventory.masters().collect();
        let places: Vec<Place> = masters.iter().map(|(node, _)| Place { id: node.id.clone(), addr: node.addr.clone() }).collect();
        let owners: Vec<Option<u16>> = inventory
            .owners()
            .iter()
            .map(|owner| places.iter().position(|place| Some(&place.id) == owner.as_ref()).map(|place| place as u16))
            .collect();
        let of_owner = |slot: usize| owners[slot].map(|owner| masters[usize::from(owner)].1);
        let keys: Vec<u64> = (0..SLOT_COUNT)
            .map(|slot| of_owner(slot).and_then(|told| told.keys.as_ref()).map_or(0, |keys| u64::from(keys[slot])))
            .collect();
        let a_key: Vec<u64> = masters.iter().map(|(_, told)| told.bytes_per_key()).collect();
        let bytes = (0..SLOT_COUNT).map(|slot| owners[slot].map_or(0, |owner| keys[slot] * a_key[usize::from(owner)])).collect();
        Layout::new(places, owners, keys, bytes, None)
    }

    pub fn owner(&self, slot: Slot) -> Option<usize> {
        self.owners[slot.index()].map(usize::from)
    }

    pub fn slots_of(&self, place: usize) -> impl Iterator<Item = Slot> + '_ {
        Slot::all().filter(move |slot| self.owner(*slot) == Some(place))
    }

    /// What a slot weighs.
    pub fn weight(&self, by: Measure, slot: Slot) -> u64 {
        match by {
            Measure::Slots => 1,
            Measure::Keys => self.keys[slot.index()],
            Measure::Bytes => self.bytes[slot.index()],
            Measure::Cpu => self.cpu.as_ref().map_or(0, |cpu| cpu[slot.index()]),
        }
    }

    pub fn total(&self, by: Measure) -> u64 {
        Slot::all().map(|slot| self.weight(by, slot)).sum()
    }

    pub(super) fn can_measure(&self, by: Measure) -> Result<(), NoPlan> {
        if by == Measure::Cpu && self.cpu.is_none() { Err(NoPlan::NoCpu) } else { Ok(()) }
    }
}
