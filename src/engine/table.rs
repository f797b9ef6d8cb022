//! A worker's route table: its own copy of the slot map, patched by what redirects teach between two refreshes.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::cluster::{Addr, Role, SLOT_COUNT, Slot, SlotMap};

use super::{
    ids::{Micros, NONE, NodeId},
    lane::Via,
};

/// How long a slot counts as moving after the last sign of it, unless the map says so itself: longer than a slot's keys usually
/// take, and the only cost of being wrong is that multi-key commands of one client on it go one at a time.
const MOVING_US: Micros = 5_000_000;

/// Waits between dials of a node that cannot be reached: short first, because a failover is a matter of a second.
const DIAL_WAIT_MIN_US: Micros = 10_000;
const DIAL_WAIT_MAX_US: Micros = 500_000;

/// No owner known.
const NO_NODE: u16 = u16::MAX;

/// Neighbouring slots that are looked up together, and how many groups they make.
const GROUP: usize = 64;
const GROUPS: usize = SLOT_COUNT / GROUP;
/// The slots of a group have several owners.
const MIXED: u16 = u16::MAX - 1;

/// A node as a worker sees it: where it is, and the shared lanes to it.
pub struct NodeEntry {
    pub id: Arc<str>,
    pub addr: Addr,
    /// `lanes[user][proto][bulk]`; users beyond the end have none.
    lanes: Vec<[[u32; 2]; 2]>,
    /// Lanes to it, of every role: while there are any, its place is not another's.
    lanes_alive: u32,
    pub in_map: bool,
    pub master: bool,
    /// The master that it is a replica of, or whose place it took, until that one owns slots of its own again.
    replica_of: Option<Arc<str>>,
    /// It is shown as a master, and so is its replica, or its master, which has the slots: it owns no keys of its own.
    superseded: bool,
    pub failed: bool,
    pub cursor_has_slot: bool,
    dial_wait_us: Micros,
    /// No dial before this moment.
    pub dial_after_us: Micros,
}

impl NodeEntry {
    fn new(id: Arc<str>, addr: Addr) -> Self {
        NodeEntry {
            id,
            addr,
            lanes: Vec::new(),
            lanes_alive: 0,
            in_map: true,
            master: true,
            replica_of: None,
            superseded: false,
            failed: false,
            cursor_has_slot: false,
            dial_wait_us: 0,
            dial_after_us: 0,
        }
    }

    pub fn dial_failed(&mut self, now: Micros) {
        self.dial_wait_us = (self.dial_wait_us * 2).clamp(DIAL_WAIT_MIN_US, DIAL_WAIT_MAX_US);
        self.dial_after_us = now + self.dial_wait_us;
    }

    pub fn dial_succeeded(&mut self) {
        (self.dial_wait_us, self.dial_after_us) = (0, 0);
    }

    /// The shared lane for this purpose, or `NONE`.
    #[inline]
    pub fn lane(&self, via: Via, bulk: bool) -> u32 {
        self.lanes.get(usize::from(via.user.0)).map_or(NONE, |lanes| lanes[via.proto as usize][usize::from(bulk)])
    }

    pub fn set_lane(&mut self, via: Via, bulk: bool, lane: u32) {
        let user = usize::from(via.user.0);
        if self.lanes.len() <= user {
            self.lanes.resize(user + 1, [[NONE; 2]; 2]);
        }
        self.lanes[user][via.proto as usize][usize::from(bulk)] = lane;
    }

    pub fn lane_made(&mut self) {
        self.lanes_alive += 1;
    }

    pub fn lane_closed(&mut self) {
        self.lanes_alive -= 1;
    }
}

struct Patch {
    node: NodeId,
    at: Micros,
}

/// When a slot was seen on the move, without a long pause in between.
struct Seen {
    first: Micros,
    last: Micros,
}

/// See the module's head.
pub struct Table {
    pub map: Option<Arc<SlotMap>>,
    /// Counts every change of an owner; sessions compare it with the version that they last sent under.
    pub version: u32,
    pub nodes: Vec<NodeEntry>,
    owners: Box<[u16]>,
    /// The one owner of each group of slots, or `MIXED`. Nodes own ranges, so this answers for nearly all slots, and its half KiB stays
    /// in the cache, where the look into the 32 KiB of `owners` was the request path's only sure miss.
    group_owners: [u16; GROUPS],
    patches: FxHashMap<u16, Patch>,
    /// Slots that no other than these nodes, by their ids, may be asked for.
    pins: FxHashMap<u16, [Arc<str>; 2]>,
    /// Slots seen on the move.
    moving: FxHashMap<u16, Seen>,
}

impl Default for Table {
    fn default() -> Self {
        Table {
            map: None,
            version: 0,
            nodes: Vec::new(),
            owners: vec![NO_NODE; SLOT_COUNT].into_boxed_slice(),
            group_owners: [NO_NODE; GROUPS],
            patches: FxHashMap::default(),
            pins: FxHashMap::default(),
            moving: FxHashMap::default(),
        }
    }
}

impl Table {
    #[inline]
    pub fn owner(&self, slot: Slot) -> Option<NodeId> {
        let owner = match self.group_owners[slot.index() / GROUP] {
            MIXED => self.owners[slot.index()],
            owner => owner,
        };
        if owner == NO_NODE { None } else { Some(NodeId(owner)) }
    }

    /// The lane for a slot's small requests, if its owner is known and has been dialled.
    #[inline(always)]
    pub fn shared_lane(&self, slot: Slot, via: Via) -> Option<u32> {
        let node = self.owner(slot)?;
        let lane = self.nodes[usize::from(node.0)].lane(via, false);
        (lane != NONE).then_some(lane)
    }

    fn regroup(&mut self, group: usize) {
        let owners = &self.owners[group * GROUP..][..GROUP];
        let alike = owners.iter().all(|owner| *owner == owners[0]);
        self.group_owners[group] = if alike { owners[0] } else { MIXED };
    }

    pub fn node(&mut self, node: NodeId) -> &mut NodeEntry {
        &mut self.nodes[usize::from(node.0)]
    }

    /// Takes over a published map. Patches that are younger than the map's questions stay. Answers whether an owner changed.
    pub fn publish(&mut self, map: Arc<SlotMap>) -> bool {
        for node in &mut self.nodes {
            node.in_map = false;
        }
        let places: Vec<NodeId> = map.nodes.iter().map(|node| self.enter(node)).collect();
        self.patches.retain(|_, patch| patch.at > map.asked_at_us);
        self.pins = map.pins.iter().map(|pin| (pin.slot.get(), pin.ends.clone())).collect();
        let mut owners: Vec<u16> = Vec::with_capacity(SLOT_COUNT);
        for run in map.owners().chunk_by(|one, next| one == next) {
            owners.resize(owners.len() + run.len(), places.get(usize::from(run[0])).map_or(NO_NODE, |node| node.0));
        }
        for (slot, patch) in &self.patches {
            owners[usize::from(*slot)] = patch.node.0;
        }
        for slot in self.pins.keys() {
            let owner = &mut owners[usize::from(*slot)];
            if *owner != NO_NODE && self.is_barred(*slot, *owner) {
                *owner = NO_NODE;
            }
        }
        let changed = owners[..] != self.owners[..];
        if changed {
            self.owners = owners.into();
            (0..GROUPS).for_each(|group| self.regroup(group));
        }
        self.note_superseded();
        for open in &map.open_slots {
            self.mark_moving(open.slot, map.asked_at_us);
        }
        self.moving.retain(|_, seen| seen.last + MOVING_US > map.asked_at_us);
        self.map = Some(map);
        self.version = self.version.wrapping_add(u32::from(changed));
        changed
    }

    fn enter(&mut self, node: &crate::cluster::Node) -> NodeId {
        let place = self
            .nodes
            .iter()
            .position(|entry| entry.id == node.id && entry.addr == node.addr)
            .or_else(|| self.nodes.iter().position(|entry| !entry.in_map && entry.lanes_alive == 0 && !self.patched_to(entry)))
            .unwrap_or_else(|| {
                self.nodes.push(NodeEntry::new(node.id.clone(), node.addr.clone()));
                self.nodes.len() - 1
            });
        let entry = &mut self.nodes[place];
        if entry.id != node.id || entry.addr != node.addr {
            *entry = NodeEntry::new(node.id.clone(), node.addr.clone());
        }
        entry.in_map = true;
        entry.failed = node.failed;
        entry.master = node.is_master();
        if let Role::Replica { of } = &node.role {
            entry.replica_of = Some(of.clone());
        }
        entry.cursor_has_slot = node.cursor_has_slot;
        NodeId(place as u16)
    }

    /// During a failover, and for a while after it, a map may show two masters where there is one, and its replica: nodes hear of it
    /// one after the other.
    fn note_superseded(&mut self) {
        let mut owns = vec![false; self.nodes.len()];
        for (group, owner) in self.group_owners.iter().enumerate() {
            let mixed = if *owner == MIXED { &self.owners[group * GROUP..][..GROUP] } else { std::slice::from_ref(owner) };
            for owner in mixed.iter().filter(|owner| **owner != NO_NODE) {
                owns[usize::from(*owner)] = true;
            }
        }
        for entry in &mut self.nodes {
            entry.superseded = false;
        }
        for index in 0..self.nodes.len() {
            let entry = &self.nodes[index];
            let Some(of) = entry.replica_of.clone().filter(|_| entry.in_map && entry.master) else { continue };
            let Some(former) = self.find_id(&of).map(|node| usize::from(node.0)) else { continue };
            match (owns[former], owns[index]) {
                (true, true) => self.nodes[index].replica_of = None,
                // It has not taken over yet; or the map is older than the one before.
                (true, false) => self.nodes[index].superseded = true,
                (false, _) => self.nodes[former].superseded = true,
            }
        }
    }

    /// Whether a pin keeps the slot's requests away from a node: then nobody is its owner for now, and they wait.
    fn is_barred(&self, slot: u16, node: u16) -> bool {
        self.pins.get(&slot).is_some_and(|ends| !ends.contains(&self.nodes[usize::from(node)].id))
    }

    fn patched_to(&self, entry: &NodeEntry) -> bool {
        self.patches.values().any(|patch| self.nodes[usize::from(patch.node.0)].addr == entry.addr)
    }

    /// A MOVED taught a slot's owner. Answers whether it is news.
    pub fn patch(&mut self, slot: Slot, node: NodeId, now: Micros) -> bool {
        let barred = self.is_barred(slot.get(), node.0);
        let owner = &mut self.owners[usize::from(slot.get())];
        self.patches.insert(slot.get(), Patch { node, at: now });
        let next = if barred { NO_NODE } else { node.0 };
        let news = *owner != next;
        if news {
            *owner = next;
            self.regroup(slot.index() / GROUP);
            self.version = self.version.wrapping_add(1);
        }
        news
    }

    /// The node that the map knows under this address, in any of its spellings.
    pub fn find(&self, addr: &Addr) -> Option<NodeId> {
        let map = self.map.as_ref()?;
        let node = &map.nodes[usize::from(map.find_addr(addr.as_str())?)];
        self.nodes
            .iter()
            .position(|entry| entry.in_map && entry.id == node.id && entry.addr == node.addr)
            .map(|place| NodeId(place as u16))
    }

    /// The node with this id.
    pub fn find_id(&self, id: &str) -> Option<NodeId> {
        self.nodes.iter().position(|entry| entry.in_map && &*entry.id == id).map(|place| NodeId(place as u16))
    }

    /// A sign that a slot is on the move. Answers whether it is news.
    pub fn mark_moving(&mut self, slot: Slot, now: Micros) -> bool {
        match self.moving.get_mut(&slot.get()).filter(|seen| seen.last + MOVING_US > now) {
            Some(seen) => seen.last = seen.last.max(now),
            None => {
                self.moving.insert(slot.get(), Seen { first: now, last: now });
                return true;
            }
        }
        false
    }

    /// The first sign of a slot's being on the move, if it still is.
    pub fn moving_since(&self, slot: Slot, now: Micros) -> Option<Micros> {
        self.moving.get(&slot.get()).filter(|seen| seen.last + MOVING_US > now).map(|seen| seen.first)
    }

    #[inline]
    pub fn is_moving(&self, slot: Slot, now: Micros) -> bool {
        !self.moving.is_empty() && self.moving_since(slot, now).is_some()
    }

    /// All masters that the map holds, those without slots too: an importing one may hold keys already.
    pub fn masters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.in_map && node.master && !node.failed)
            .map(|(place, _)| NodeId(place as u16))
    }

    /// Masters without those whose place was taken: each key is told of by one of these.
    pub fn tellers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.masters().filter(|node| self.is_teller(*node))
    }

    pub fn is_teller(&self, node: NodeId) -> bool {
        let entry = &self.nodes[usize::from(node.0)];
        entry.master && !entry.superseded
    }

    /// Who tells of the keys that a former master told of.
    pub fn successor(&self, former: NodeId) -> Option<NodeId> {
        let former = &self.nodes[usize::from(former.0)];
        if !former.master {
            return self.find_id(former.replica_of.as_deref()?);
        }
        let took_over = |node: &NodeId| self.nodes[usize::from(node.0)].replica_of.as_ref() == Some(&former.id);
        self.tellers().find(took_over)
    }

    /// All nodes of the map that are not known to have failed.
    pub fn all(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().enumerate().filter(|(_, node)| node.in_map && !node.failed).map(|(place, _)| NodeId(place as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Node, Persona, Role};

    fn map(version: u64, ranges: &[(u16, u16, u16)]) -> Arc<SlotMap> {
        let node = |number: u16| Node {
            id: format!("node-{number}").into(),
            addr: Addr::new("127.0.0.1", 7000 + number),
            aliases: Vec::new(),
            role: Role::Master,
            failed: false,
            epoch: 1,
            cursor_has_slot: false,
        };
        Arc::new(SlotMap::new(version, version, (0..3).map(node).collect(), ranges, Persona::default()))
    }

    /// The runs of slots that have one owner.
    fn check(table: &Table, expected: &[(u16, u16, Option<u16>)]) {
        let owners: Vec<(u16, Option<u16>)> =
            Slot::all().map(|slot| (slot.get(), table.owner(slot).map(|node| node.0))).collect();
        let runs: Vec<(u16, u16, Option<u16>)> =
            owners.chunk_by(|a, b| a.1 == b.1).map(|run| (run[0].0, run[run.len() - 1].0, run[0].1)).collect();
        assert_eq!(runs, expected);
    }

    #[test]
    fn every_slot_has_its_owner_wherever_ranges_end() {
        let mut table = Table::default();
        check(&table, &[(0, 16383, None)]);
        table.publish(map(1, &[(0, 5460, 0), (5461, 10922, 1), (10923, 16383, 2)]));
        check(&table, &[(0, 5460, Some(0)), (5461, 10922, Some(1)), (10923, 16383, Some(2))]);
        // One slot taken out of a group of its own, then given back.
        table.patch(Slot::of(b"123456789"), NodeId(0), 2);
        check(
            &table,
            &[
                (0, 5460, Some(0)),
                (5461, 10922, Some(1)),
                (10923, 12738, Some(2)),
                (12739, 12739, Some(0)),
                (12740, 16383, Some(2)),
            ],
        );
        table.patch(Slot::of(b"123456789"), NodeId(2), 3);
        check(&table, &[(0, 5460, Some(0)), (5461, 10922, Some(1)), (10923, 16383, Some(2))]);
        // A pinned slot is asked of its two ends only; a third waits for the pin to go, or to name it.
        let pinned = |version, ends: [&str; 2]| {
            let mut map = SlotMap::clone(&map(version, &[(0, 16383, 0)]));
            map.pins = vec![crate::cluster::Pin { slot: Slot::of(b"123456789"), ends: ends.map(Into::into) }];
            Arc::new(map)
        };
        table.publish(pinned(4, ["node-0", "node-1"]));
        check(&table, &[(0, 16383, Some(0))]);
        assert!(table.patch(Slot::of(b"123456789"), NodeId(2), 5));
        check(&table, &[(0, 12738, Some(0)), (12739, 12739, None), (12740, 16383, Some(0))]);
        table.publish(pinned(5, ["node-1", "node-2"]));
        check(&table, &[(0, 12738, Some(0)), (12739, 12739, None), (12740, 16383, Some(0))]);
        table.publish(map(6, &[(64, 127, 1), (129, 129, 2), (16383, 16383, 0)]));
        check(
            &table,
            &[
                (0, 63, None),
                (64, 127, Some(1)),
                (128, 128, None),
                (129, 129, Some(2)),
                (130, 16382, None),
                (16383, 16383, Some(0)),
            ],
        );
    }
}
