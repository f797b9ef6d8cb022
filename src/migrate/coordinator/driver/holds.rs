//! Which slots every instance holds: those of the leg that moves, before the first of them is opened; then those that stand open.

use super::Driver;
use crate::cluster::Slot;
use crate::migrate::Inventory;
use crate::migrate::closing::from_and_to;
use crate::migrate::execute::{Halt, Leg, Mode, Orders, master_of};
use crate::migrate::recovery::Trouble;

impl Driver {
    /// Holds the slots of a leg that is about to move. What stands open already is held as it was.
    pub(super) fn hold(&mut self, leg: &Leg) {
        self.begun.clear();
        if leg.mode == Mode::Classic {
            let fresh: Vec<Slot> = leg.slots.iter().copied().filter(|slot| self.progress.holds.ends(*slot).is_none()).collect();
            let [source, target] = self.masters(leg);
            self.progress.holds.hold(fresh, &source, &target);
        }
    }

    /// Slots of the leg that nobody has opened follow their shards' masters at once.
    pub(super) fn hold_on(&mut self, leg: &Leg, orders: &Orders) {
        let [source, target] = self.masters(leg);
        let stale = |slot: &Slot| {
            let is_open = orders.resumed.ends(*slot).is_some() || self.begun.contains(slot);
            !is_open && self.progress.holds.ends(*slot).is_some_and(|ends| ends != [source.as_str(), target.as_str()])
        };
        let stale: Vec<Slot> = leg.slots.iter().copied().filter(stale).collect();
        self.progress.holds.hold(stale, &source, &target);
    }

    /// The leg is over: what it has not begun is nobody's business, what stands open stays held until somebody has finished it.
    pub(super) fn release(&mut self, leg: &Leg, orders: &Orders, outcome: Option<&Halt>) {
        for slot in &leg.slots {
            let is_open = orders.resumed.ends(*slot).is_some() || self.begun.contains(slot);
            let is_elsewhere = matches!(outcome, Some(Halt::Trouble { slot: of, trouble: Trouble::ForeignOwner }) if of == slot);
            if !is_open || is_elsewhere {
                self.progress.holds.release(*slot);
            }
        }
    }

    /// Releases what does not stand open: an end that is the same master as ever knows that.
    pub(super) fn hold_what_is_open(&mut self, inventory: &Inventory) {
        let open: Vec<Slot> = inventory.open_slots().iter().map(|open| from_and_to(open).0).collect();
        let is_master = |id: &str| inventory.masters().any(|(node, _)| &*node.id == id);
        self.progress.holds.retain(|slot, source, target| open.contains(&slot) || !is_master(source) && !is_master(target));
    }

    /// The ids of both shards' masters now; of those that have none, of the last that is known.
    fn masters(&self, leg: &Leg) -> [String; 2] {
        let map = self.parts.topology.current();
        let master = |shard, other| {
            let found = map.as_ref().and_then(|map| Some(map.node(master_of(map, shard, other)?).id.to_string()));
            found.unwrap_or_else(|| shard.id.to_string())
        };
        [master(&leg.source, &leg.target), master(&leg.target, &leg.source)]
    }
}
