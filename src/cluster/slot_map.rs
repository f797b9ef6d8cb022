//! The slot map: who owns what. One immutable snapshot, published by the control thread, read by every worker.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::cluster::{Addr, Node, Persona, Role, SLOT_COUNT, Slot, Stamp};

/// Stands in `owners` for a slot that nobody owns.
pub(super) const NO_OWNER: u16 = u16::MAX;

/// The cluster as it was when it was asked. Nodes are named by their index into `nodes`, which holds for this one
/// snapshot; across snapshots a node is its id.
#[derive(Clone, Debug)]
pub struct SlotMap {
    /// Rises with every published map that differs from the one before in more than `asked_at_us`.
    pub version: u64,
    /// In the order of their ids, when they come from the cluster.
    pub nodes: Vec<Node>,
    /// Slots under way from one node to another, as far as the nodes that were asked told: a hint, not a census.
    pub open_slots: Vec<OpenSlot>,
    /// Slots that this proxy itself is moving.
    pub pins: Vec<Pin>,
    pub persona: Persona,
    /// The nodes' default user needs a password, or is switched off: a connection that says nothing may do nothing.
    pub default_locked: bool,
    /// The clock, in microseconds, when the questions that this map answers were sent: whoever learned something
    /// later (by a MOVED) knows better than this map.
    pub asked_at_us: u64,
    owners: Box<[u16; SLOT_COUNT]>,
    by_addr: FxHashMap<Addr, u16>,
}

/// A slot that is MIGRATING at its source or IMPORTING at its target, or both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpenSlot {
    pub slot: Slot,
    /// Index of the node that gives the slot away.
    pub source: u16,
    /// Index of the node that receives it.
    pub target: u16,
}

/// A slot that is half here and half there may be asked of two nodes only. On Redis a replica that takes over from one of them does not
/// know that the slot is open, and would answer for keys that are elsewhere as if there were none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    pub slot: Slot,
    /// The ids of its source and its target.
    pub ends: [Arc<str>; 2],
}

impl SlotMap {
    /// A map in which node `ranges[i].2` owns the slots from `ranges[i].0` to `ranges[i].1`, both included; no slot
    /// is open. A later range wins over an earlier one.
    ///
    /// # Panics
    /// When a range names a slot or a node that does not exist: the caller made it up.
    pub fn new(version: u64, asked_at_us: u64, nodes: Vec<Node>, ranges: &[(u16, u16, u16)], persona: Persona) -> SlotMap {
        assert!(nodes.len() < NO_OWNER as usize, "a cluster has at most 1000 nodes, found {}", nodes.len());
        let mut owners = Box::new([NO_OWNER; SLOT_COUNT]);
        for &(first, last, node) in ranges {
            assert!((node as usize) < nodes.len(), "range {first}-{last} names node {node} of {}", nodes.len());
            assert!(first <= last && (last as usize) < SLOT_COUNT, "{first}-{last} is no range of slots");
            owners[first as usize..=last as usize].fill(node);
        }
        SlotMap::assemble(Stamp { version, asked_at_us, persona, default_locked: false }, nodes, owners, Vec::new())
    }

    /// The map made of its parts; every index in `owners` and `open_slots` is one into `nodes`, or `NO_OWNER`.
    pub(super) fn assemble(stamp: Stamp, nodes: Vec<Node>, owners: Box<[u16; SLOT_COUNT]>, open_slots: Vec<OpenSlot>) -> SlotMap {
        let Stamp { version, asked_at_us, persona, default_locked } = stamp;
        let by_addr = index_addresses(&nodes);
        SlotMap { version, nodes, open_slots, pins: Vec::new(), persona, default_locked, asked_at_us, owners, by_addr }
    }

    /// The same map, but these slots belong to the nodes with these ids, and are open no more. Ids that it does not hold are passed over.
    pub fn with_owners(&self, moved: &[(Slot, Arc<str>)]) -> SlotMap {
        let mut map = self.clone();
        for (slot, id) in moved {
            if let Some(index) = self.find_id(id) {
                map.owners[slot.index()] = index;
                map.open_slots.retain(|open| open.slot != *slot);
            }
        }
        map
    }

    /// The node that owns a slot.
    pub fn owner(&self, slot: Slot) -> Option<u16> {
        let node = self.owners[slot.index()];
        (node != NO_OWNER).then_some(node)
    }

    /// The node of each slot in order; a number beyond `nodes` where nobody owns it.
    pub fn owners(&self) -> &[u16] {
        &self.owners[..]
    }

    pub fn node(&self, index: u16) -> &Node {
        &self.nodes[index as usize]
    }

    /// The masters that a question to the whole cluster goes to, in the order of `nodes`: all of them, slotless ones
    /// included, but for the failed that own nothing (they were replaced and linger until someone forgets them).
    pub fn masters(&self) -> impl Iterator<Item = u16> + '_ {
        let owning = self.owning();
        self.indexes().filter(move |&index| {
            let node = self.node(index);
            node.is_master() && (!node.failed || owning[index as usize])
        })
    }

    /// The replicas of a master, failed ones included.
    pub fn replicas(&self, master: u16) -> impl Iterator<Item = u16> + '_ {
        let master_id = &self.node(master).id;
        self.indexes().filter(move |&index| match &self.node(index).role {
            Role::Replica { of } => of == master_id,
            Role::Master => false,
        })
    }

    /// How many slots have an owner.
    pub fn covered(&self) -> usize {
        self.owners.iter().filter(|&&owner| owner != NO_OWNER).count()
    }

    /// How many slots have an owner that has not failed.
    pub fn served(&self) -> usize {
        Slot::all().filter(|&slot| self.owner(slot).is_some_and(|owner| !self.node(owner).failed)).count()
    }

    /// The slots of a node as ranges, both ends included, in order.
    pub fn ranges(&self, node: u16) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        let mut slots = Slot::all().filter(move |&slot| self.owners[slot.index()] == node).peekable();
        std::iter::from_fn(move || {
            let first = slots.next()?;
            let mut last = first;
            while let Some(next) = slots.next_if(|next| next.get() == last.get() + 1) {
                last = next;
            }
            Some((first, last))
        })
    }

    /// The node at this address, in any spelling the cluster or the address rules use.
    pub fn find_addr(&self, addr: &str) -> Option<u16> {
        self.by_addr.get(addr).copied()
    }

    /// The node with this id.
    pub fn find_id(&self, id: &str) -> Option<u16> {
        self.indexes().find(|&index| &*self.node(index).id == id)
    }

    /// Whether both say the same of the cluster, whenever they were asked and whatever their version.
    pub fn same_cluster_state(&self, other: &SlotMap) -> bool {
        self.nodes == other.nodes
            && self.owners == other.owners
            && self.open_slots == other.open_slots
            && self.pins == other.pins
            && self.persona == other.persona
    }

    /// The index of every node.
    pub fn indexes(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.nodes.len() as u16
    }

    /// For each node whether it owns a slot.
    fn owning(&self) -> Vec<bool> {
        let mut owning = vec![false; self.nodes.len()];
        for &owner in self.owners.iter().filter(|&&owner| owner != NO_OWNER) {
            owning[owner as usize] = true;
        }
        owning
    }
}

/// Every spelling of every address. A node's dialled address comes before anyone's alias, and an alias that several nodes
/// claim (each may think itself `127.0.0.1:6379`) means nobody: a wrong node would answer with another redirect.
fn index_addresses(nodes: &[Node]) -> FxHashMap<Addr, u16> {
    let mut aliases: FxHashMap<&Addr, Option<u16>> = FxHashMap::default();
    for (node, index) in nodes.iter().zip(0u16..) {
        for alias in &node.aliases {
            let claim = aliases.entry(alias).or_insert(Some(index));
            *claim = claim.filter(|&holder| holder == index);
        }
    }
    let mut by_addr: FxHashMap<Addr, u16> =
        aliases.into_iter().filter_map(|(alias, holder)| Some((alias.clone(), holder?))).collect();
    by_addr.extend(nodes.iter().zip(0u16..).map(|(node, index)| (node.addr.clone(), index)));
    by_addr
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, addr: &str, aliases: &[&str], master: Option<&str>, failed: bool) -> Node {
        let parse = |text: &str| Addr::parse(text).expect("the table holds addresses");
        Node {
            id: id.into(),
            addr: parse(addr),
            aliases: aliases.iter().map(|alias| parse(alias)).collect(),
            role: master.map_or(Role::Master, |of| Role::Replica { of: of.into() }),
            failed,
            epoch: 1,
            cursor_has_slot: false,
        }
    }

    fn sample() -> SlotMap {
        let nodes = vec![
            node("a", "h:1", &["x:1", "same:1"], None, false),
            node("b", "h:2", &["x:2", "same:1"], None, true),
            node("c", "h:3", &["h:1"], Some("a"), false),
            node("d", "h:4", &[], None, true),
            node("e", "h:5", &[], None, false),
        ];
        SlotMap::new(1, 0, nodes, &[(0, 99, 0), (50, 59, 1), (16383, 16383, 0)], Persona::default())
    }

    fn slot(number: u16) -> Slot {
        Slot::new(number).expect("the table holds slots")
    }

    #[test]
    fn owners() {
        let map = sample();
        let check = |number, expected| assert_eq!(map.owner(slot(number)), expected, "{number}");
        check(0, Some(0));
        check(49, Some(0));
        check(50, Some(1));
        check(60, Some(0));
        check(100, None);
        check(16383, Some(0));
        assert_eq!((map.covered(), map.served()), (101, 91));
    }

    #[test]
    fn ranges_join_neighbours() {
        let map = sample();
        let check = |node, expected: &[(u16, u16)]| {
            let ranges: Vec<_> = map.ranges(node).map(|(first, last)| (first.get(), last.get())).collect();
            assert_eq!(ranges, expected, "node {node}");
        };
        check(0, &[(0, 49), (60, 99), (16383, 16383)]);
        check(1, &[(50, 59)]);
        check(2, &[]);
    }

    #[test]
    fn masters_leave_out_the_replaced() {
        assert_eq!(sample().masters().collect::<Vec<_>>(), [0, 1, 4]);
        assert_eq!(sample().replicas(0).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn addresses_in_any_spelling() {
        let map = sample();
        let check = |addr, expected| assert_eq!(map.find_addr(addr), expected, "{addr}");
        check("h:1", Some(0)); // c's alias yields to a's own address
        check("x:1", Some(0));
        check("x:2", Some(1));
        check("same:1", None);
        check("h:9", None);
        assert_eq!((map.find_id("b"), map.find_id("z")), (Some(1), None));
    }
}
