//! A fake cluster: shards that hold keys, nodes that each have their own view of who owns what, and moves between them.
//!
//! A shard's data is shared by its master and its replicas (replication is synchronous: no acknowledged write is ever lost). Slots are
//! grouped into units that have one owner: the range that a master began with, and each slot that ever moves.

use std::collections::{BTreeSet, HashMap, HashSet};

use fastrand::Rng;
use keyway::cluster::{Addr, Node as MapNode, OpenSlot, Persona, Role, Slot, SlotMap};

use crate::{
    channels::{self, Channels, Message, Topic},
    node::Outcome,
    plan::Plan,
    shard::{Popped, Shard, Value},
    waiting::{self, Waiter},
};

/// Keys that share a hash tag, and so a slot.
pub struct HashTag {
    pub name: String,
    pub slot: u16,
    pub unit: usize,
}

/// What one node believes. Beliefs with higher epochs win, as in the cluster's own gossip.
#[derive(Clone)]
pub struct View {
    /// Owner of each unit.
    pub units: Vec<(u64, usize)>,
    /// Master of each shard.
    pub masters: Vec<(u64, usize)>,
    pub known: Vec<bool>,
    pub failed: Vec<bool>,
}

impl View {
    pub fn learn(&mut self, other: &View) {
        for (mine, theirs) in self.units.iter_mut().chain(&mut self.masters).zip(other.units.iter().chain(&other.masters)) {
            if theirs.0 > mine.0 {
                *mine = *theirs;
            }
        }
        self.known.clone_from(&other.known);
        self.failed.clone_from(&other.failed);
    }
}

pub struct Node {
    pub id: String,
    pub addr: Addr,
    pub shard: usize,
    pub view: View,
    pub alive: bool,
    pub loading: bool,
    pub cluster_down: bool,
    /// The driver cannot reach it.
    pub unreachable: bool,
    pub scripts: HashSet<String>,
    pub hash_seed: u64,
    /// Who waits for elements, in the order in which they came.
    pub waiting: Vec<Waiter>,
    pub channels: Channels,
}

/// What a node sends to a connection that did not just ask for it.
pub struct Said {
    pub conn: usize,
    pub bytes: Vec<u8>,
    pub word: Word,
}

pub enum Word {
    /// The answer to what the connection waited for.
    Unblocked {
        outcome: Outcome,
        popped: Vec<Popped>,
    },
    Message(Message),
    /// A sharded channel's slot has left the node.
    Left(Topic),
    Close,
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub shards: Vec<Shard>,
    pub tags: Vec<HashTag>,
    pub by_name: HashMap<String, usize>,
    pub by_slot: HashMap<u16, usize>,
    /// Which unit each slot belongs to, as ranges in order.
    pub segments: Vec<(u16, u16, usize)>,
    /// What is so: the newest of all beliefs.
    pub truth: View,
    epoch: u64,
    pub persona: Persona,
    pub full_coverage: bool,
    /// Valkey 9's ways where they differ from Redis'.
    pub valkey: bool,
    /// The default user needs a password.
    pub locked: bool,
    /// And the proxy knows; else its clients ride lanes of its own account, which is the default user's.
    pub tells_of_lock: bool,
    /// What the nodes say unasked, to be carried to the connections.
    pub said: Vec<Said>,
    /// What was published at one node and another has not heard of: from, to, channel, payload.
    pub bus: Vec<(usize, usize, String, Vec<u8>)>,
    /// Waits that end by themselves: when, whose, which.
    pub timeouts: Vec<(u64, usize, u64)>,
    pub waits: u64,
    /// What the last command took out of lists.
    pub popped: Vec<Popped>,
    /// What the last command SET: the key, the new value, the old one.
    pub overwritten: Vec<(String, Vec<u8>, Option<Value>)>,
    /// Who has just begun or ended to listen to what.
    pub listened: Vec<(usize, Topic)>,
}

impl Cluster {
    pub fn new(plan: &Plan, random: &mut Rng) -> Cluster {
        let shards = plan.masters + usize::from(plan.new_master);
        let mut tags: Vec<HashTag> = Vec::new();
        let mut number = 0;
        while tags.len() < plan.tags {
            number += random.usize(1..50);
            let name = format!("t{number}");
            let slot = Slot::of(name.as_bytes()).get();
            if tags.iter().all(|tag| tag.slot != slot) {
                let unit = plan.masters + tags.len();
                tags.push(HashTag { name, slot, unit });
            }
        }
        let per_master = 16384 / plan.masters;
        let home = |slot: u16| (usize::from(slot) / per_master).min(plan.masters - 1);
        let mut units: Vec<(u64, usize)> = (0..plan.masters).map(|master| (1, master)).collect();
        units.extend(tags.iter().map(|tag| (1, home(tag.slot))));
        let mut segments: Vec<(u16, u16, usize)> = Vec::new();
        let by_slot: HashMap<u16, usize> = tags.iter().enumerate().map(|(index, tag)| (tag.slot, index)).collect();
        for slot in 0..16384u16 {
            let unit = by_slot.get(&slot).map_or(home(slot), |tag| tags[*tag].unit);
            match segments.last_mut() {
                Some((_, last, of)) if *of == unit => *last = slot,
                _ => segments.push((slot, slot, unit)),
            }
        }
        let count = shards * (1 + plan.replicas);
        let mut known = vec![true; count];
        for node in (0..count).filter(|node| plan.new_master && node % shards == shards - 1) {
            known[node] = false;
        }
        let truth = View { units, masters: (0..shards).map(|shard| (1, shard)).collect(), known, failed: vec![false; count] };
        let nodes = (0..count).map(|index| {
            let addr = if plan.one_host {
                Addr::new("10.0.0.1", 7000 + index as u16)
            } else {
                Addr::new(&format!("10.0.1.{index}"), 6379)
            };
            Node {
                id: format!("{:040x}", 0xabcdef_u64.wrapping_mul(index as u64 + 1)),
                addr,
                shard: index % shards,
                view: truth.clone(),
                alive: true,
                loading: false,
                cluster_down: false,
                unreachable: false,
                scripts: HashSet::new(),
                hash_seed: random.u64(..),
                waiting: Vec::new(),
                channels: Channels::new(),
            }
        });
        let (server, version) = match (plan.valkey, plan.old_server) {
            (true, _) => ("valkey", "9.1.2"),
            (false, true) => ("redis", "7.0.15"),
            (false, false) => ("redis", "8.2.3"),
        };
        let persona = Persona { server: server.into(), version: version.into(), modules: b"*0\r\n".to_vec() };
        let by_name = tags.iter().enumerate().map(|(index, tag)| (tag.name.clone(), index)).collect();
        let nodes = nodes.collect();
        let shards = (0..shards).map(|_| Shard::default()).collect();
        Cluster {
            nodes,
            shards,
            tags,
            by_name,
            by_slot,
            segments,
            truth,
            epoch: 1,
            persona,
            full_coverage: plan.full_coverage,
            valkey: plan.valkey,
            locked: plan.auth,
            tells_of_lock: plan.families.auth,
            said: Vec::new(),
            bus: Vec::new(),
            timeouts: Vec::new(),
            waits: 0,
            popped: Vec::new(),
            overwritten: Vec::new(),
            listened: Vec::new(),
        }
    }

    /// The hash tag of a key; keys without one have no data and no owner that moves alone.
    pub fn tag_of(&self, key: &str) -> Option<&HashTag> {
        let name = key.strip_prefix('{')?.split('}').next()?;
        self.by_name.get(name).map(|index| &self.tags[*index])
    }

    pub fn slot_and_unit(&self, key: &str) -> (u16, usize) {
        if let Some(tag) = self.tag_of(key) {
            return (tag.slot, tag.unit);
        }
        let slot = Slot::of(key.as_bytes()).get();
        let at = self.segments.partition_point(|(_, last, _)| *last < slot);
        (slot, self.segments[at].2)
    }

    pub fn master_of(&self, shard: usize) -> usize {
        self.truth.masters[shard].1
    }

    /// The shard that really owns a unit.
    pub fn shard_of(&self, unit: usize) -> usize {
        self.nodes[self.truth.units[unit].1].shard
    }

    /// A node takes a unit over: it and the truth know at once, the others by gossip.
    pub fn claim(&mut self, unit: usize, node: usize) {
        self.epoch += 1;
        self.truth.units[unit] = (self.epoch, node);
        self.nodes[node].view.units[unit] = (self.epoch, node);
    }

    /// A replica becomes its shard's master and takes over what the old one owned.
    pub fn take_over(&mut self, shard: usize, node: usize) {
        let old = self.master_of(shard);
        self.epoch += 1;
        self.truth.masters[shard] = (self.epoch, node);
        let truth = self.truth.clone();
        self.nodes[node].view.learn(&truth);
        let units: Vec<usize> = (0..self.truth.units.len()).filter(|unit| self.truth.units[*unit].1 == old).collect();
        for unit in units {
            self.claim(unit, node);
        }
    }

    /// A node hears the news, and tells its clients at once what they are to know of it.
    pub fn gossip(&mut self, node: usize) {
        let truth = std::mem::replace(&mut self.truth, View { units: vec![], masters: vec![], known: vec![], failed: vec![] });
        self.nodes[node].view.learn(&truth);
        self.truth = truth;
        channels::leave(self, node);
        waiting::demoted(self, node);
    }

    /// A node has died with all that it kept for its connections.
    pub fn die(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.alive = false;
        node.waiting.clear();
        node.channels.clear();
    }

    /// A key goes from one shard to another, and wakes who waits for it there.
    pub fn hand_key(&mut self, key: &str, from: usize, to: usize) {
        let value = self.shards[from].take(key).expect("it was just listed");
        self.shards[to].put(key, value);
        waiting::serve_ready(self, self.master_of(to));
    }

    pub fn is_master(&self, node: usize) -> bool {
        self.nodes[node].view.masters[self.nodes[node].shard].1 == node
    }

    /// The map that a reader of this view would make.
    pub fn map(&self, view: &View, version: u64, asked_at_us: u64) -> SlotMap {
        let mut places = vec![u16::MAX; self.nodes.len()];
        let mut nodes = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| view.known[*index]) {
            places[index] = nodes.len() as u16;
            let master = view.masters[node.shard].1;
            let role = if master == index { Role::Master } else { Role::Replica { of: self.nodes[master].id.as_str().into() } };
            nodes.push(MapNode {
                id: node.id.as_str().into(),
                addr: node.addr.clone(),
                aliases: vec![],
                role,
                failed: view.failed[index],
                epoch: view.masters[node.shard].0,
                cursor_has_slot: self.persona.cursor_has_slot(),
            });
        }
        let ranges: Vec<(u16, u16, u16)> = self
            .segments
            .iter()
            .map(|(first, last, unit)| (*first, *last, places[view.units[*unit].1]))
            .filter(|(_, _, owner)| *owner != u16::MAX)
            .collect();
        let mut map = SlotMap::new(version, asked_at_us, nodes, &ranges, self.persona.clone());
        map.default_locked = self.locked && self.tells_of_lock;
        for (shard, (unit, to)) in
            self.shards.iter().enumerate().flat_map(|(index, shard)| shard.migrating.iter().map(move |open| (index, open)))
        {
            let tag = self.tags.iter().find(|tag| tag.unit == *unit).expect("only slots with a tag move");
            let (source, target) = (places[view.masters[shard].1], places[view.masters[*to].1]);
            if let (Some(slot), true) = (Slot::new(tag.slot), source != u16::MAX && target != u16::MAX) {
                map.open_slots.push(OpenSlot { slot, source, target });
            }
        }
        map
    }

    /// CLUSTER NODES as this node answers it.
    pub fn nodes_text(&self, asked: usize) -> String {
        let view = &self.nodes[asked].view;
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| view.known[*index] || *index == asked) {
            let (epoch, master) = view.masters[node.shard];
            let myself = if index == asked { "myself," } else { "" };
            let (role, of) = if master == index { ("master", "-") } else { ("slave", self.nodes[master].id.as_str()) };
            let fail = if view.failed[index] { ",fail" } else { "" };
            let port = node.addr.port();
            text.push_str(&format!(
                "{} {}:{port}@{} {myself}{role}{fail} {of} 0 1 {epoch} connected",
                node.id,
                node.addr.host(),
                u32::from(port) + 10000
            ));
            for (first, last, unit) in &self.segments {
                if view.units[*unit].1 == index {
                    text.push_str(&if first == last { format!(" {first}") } else { format!(" {first}-{last}") });
                }
            }
            if index == asked && master == index {
                self.open_text(node, &mut text);
            }
            text.push('\n');
        }
        text
    }

    fn open_text(&self, node: &Node, text: &mut String) {
        let shard = &self.shards[node.shard];
        let slot = |unit: &usize| self.tags.iter().find(|tag| tag.unit == *unit).map_or(0, |tag| tag.slot);
        for (unit, to) in &shard.migrating {
            text.push_str(&format!(" [{}->-{}]", slot(unit), self.nodes[node.view.masters[*to].1].id));
        }
        for (unit, from) in &shard.importing {
            text.push_str(&format!(" [{}-<-{}]", slot(unit), self.nodes[node.view.masters[*from].1].id));
        }
    }

    /// The keys of a slot that a shard holds.
    pub fn keys_in(&self, shard: usize, tag: usize) -> BTreeSet<String> {
        let prefix = format!("{{{}}}", self.tags[tag].name);
        self.shards[shard]
            .data
            .range(prefix.clone()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&prefix))
            .cloned()
            .collect()
    }
}
