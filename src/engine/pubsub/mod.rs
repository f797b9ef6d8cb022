//! Subscriptions. However many clients of a worker share a channel, the worker subscribes to it once, on a push lane: a connection
//! to one node, as one user, on which messages come in.
//!
//! - `commands`: what clients ask for, and what they are told
//! - `upstream`: where each topic is subscribed, and how it gets there again when nodes, slots and connections go
//! - `lanes`: push lanes, and what comes in on them
//! - `fan_out`: a message, to everyone who subscribed to it
//! - `publish`: PUBLISH and PUBSUB, whose counts are of clients where a node's are of workers
//! - `registry`: what all workers together know of that

mod commands;
mod fan_out;
mod lanes;
mod publish;
mod registry;
mod upstream;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use slab::Slab;

use crate::{
    cluster::Slot,
    command::PubSub,
    resp::{View, view},
};

use self::lanes::PushLanes;
pub use self::registry::Registry;
pub(super) use self::{commands::subscribed_pong, publish::Question, registry::Receivers};
use super::{
    Engine,
    glob::may_match_prefix,
    ids::{Micros, NodeId, UserId},
};

/// What a subscription names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Channel,
    Pattern,
    Shard,
}

impl Kind {
    /// What a command is about, and whether it subscribes.
    fn of(command: PubSub) -> (Kind, bool) {
        match command {
            PubSub::Subscribe => (Kind::Channel, true),
            PubSub::Psubscribe => (Kind::Pattern, true),
            PubSub::Ssubscribe => (Kind::Shard, true),
            PubSub::Unsubscribe => (Kind::Channel, false),
            PubSub::Punsubscribe => (Kind::Pattern, false),
            PubSub::Sunsubscribe => (Kind::Shard, false),
        }
    }

    /// The command that subscribes to it; in lower case the confirmation's first word.
    fn subscribe(self) -> &'static [u8] {
        [&b"subscribe"[..], b"psubscribe", b"ssubscribe"][self as usize]
    }

    fn unsubscribe(self) -> &'static [u8] {
        [&b"unsubscribe"[..], b"punsubscribe", b"sunsubscribe"][self as usize]
    }
}

/// What the channels of keyspace notifications begin with. They are told by the node that owns the key, and by no other.
const KEYSPACE: [&[u8]; 2] = [b"__keyspace@", b"__keyevent@"];

fn is_keyspace(channel: &[u8]) -> bool {
    channel.starts_with(b"__key") && KEYSPACE.iter().any(|prefix| channel.starts_with(prefix))
}

/// Where a topic has to be subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Every node is told of each message: one is enough, and it is kept while it lives, so that a slot's move costs nothing.
    OneNode,
    /// Only the slot's owner is told.
    SlotOwner,
    /// Each master tells of its own keys. What is published comes from all of them, and is taken from one.
    EveryMaster,
}

impl Reach {
    fn of(kind: Kind, name: &[u8]) -> Reach {
        match kind {
            Kind::Shard => Reach::SlotOwner,
            Kind::Channel if is_keyspace(name) => Reach::EveryMaster,
            Kind::Pattern if KEYSPACE.iter().any(|prefix| may_match_prefix(name, prefix)) => Reach::EveryMaster,
            Kind::Channel | Kind::Pattern => Reach::OneNode,
        }
    }
}

/// A channel, pattern or shard channel of one user: who wants it, and where it is subscribed.
struct Topic {
    /// No other topic ever has this number; its place may be another's by now.
    unique: u32,
    user: UserId,
    kind: Kind,
    reach: Reach,
    name: Arc<[u8]>,
    slot: Slot,
    /// Clients that are subscribed.
    subscribers: Vec<u32>,
    /// Clients' commands that wait for it to stand.
    waiting: Vec<u32>,
    /// How often commands name it that wait for it or for another topic.
    named: usize,
    places: Vec<Place>,
    /// Of `EveryMaster`: the node whose published messages are taken.
    main: Option<NodeId>,
    /// In `Subscriptions::todo`.
    queued: bool,
    /// It is not asked for anew before this moment.
    not_before: Micros,
    /// Failures since it last stood.
    tries: u32,
    last_error: String,
}

/// A subscription at a node: asked for, or standing.
#[derive(Clone, Copy, Debug)]
struct Place {
    node: NodeId,
    lane: u32,
    standing: bool,
    keys: Keys,
}

/// Whether what a node tells of its keys is to be told on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    Told,
    /// It was a master, and its successor tells: it is kept for what is published.
    Former,
    /// It is a master again. Its former replica told until it was asked anew; what it says before it has answered is old.
    Asked,
}

impl Topic {
    fn is_unused(&self) -> bool {
        self.subscribers.is_empty() && self.named == 0
    }

    fn place_on(&mut self, lane: u32) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.lane == lane)
    }
}

/// A client's SUBSCRIBE that waits until all it names stands.
struct Waiting {
    unique: u32,
    client: u32,
    seq: u32,
    kind: Kind,
    /// In the order of the command.
    topics: Vec<u32>,
    /// Topics that do not stand yet.
    left: usize,
    /// CLIENT REPLY said that an error is not to be told. Confirmations are pushes, and told all the same.
    error_silent: bool,
}

/// A client's subscriptions.
#[derive(Default)]
pub struct Subscribed {
    /// Each topic, and the client's place among its subscribers.
    topics: FxHashMap<u32, u32>,
    counts: [usize; 3],
    waiting: Option<u32>,
    /// It subscribed as more users than one, so that a name does not tell the topic.
    many_users: bool,
    user: UserId,
    /// Messages that came while a long reply is on its way to the client piece by piece.
    held: Vec<u8>,
}

impl Subscribed {
    pub fn count(&self, kind: Kind) -> usize {
        self.counts[kind as usize]
    }

    /// Whether the client counts as a subscriber.
    pub fn is_subscriber(&self) -> bool {
        !self.topics.is_empty()
    }

    /// What a confirmation shows: channels and patterns are counted together, shard channels apart.
    fn shown_count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.count(Kind::Channel) + self.count(Kind::Pattern),
            Kind::Shard => self.count(Kind::Shard),
        }
    }
}

/// A topic costs about so many bytes besides its name, which is held twice; a client's subscription about so many.
const TOPIC_BYTES: usize = 400;
const JOIN_BYTES: usize = 64;

/// A subscriber keeps buffers of so many bytes between two messages: a thousand of them are written to without an allocation.
pub(super) const SUBSCRIBER_KEEPS: usize = 4 * 1024;

/// All subscriptions of one worker.
#[derive(Default)]
pub(super) struct Subscriptions {
    topics: Slab<Topic>,
    /// By user and kind.
    names: Vec<[HashMap<Arc<[u8]>, u32>; 3]>,
    waiting: Slab<Waiting>,
    /// When each waiting command is answered with an error: all wait equally long, so these are in order.
    deadlines: VecDeque<(Micros, u32, u32)>,
    lanes: PushLanes,
    /// Topics to be looked at now, and at a moment.
    todo: Vec<u32>,
    later: BinaryHeap<Reverse<(Micros, u32, u32)>>,
    /// Numbers handed out: topics and waiting commands.
    unique: u32,
    /// Bytes that names and bookkeeping hold.
    held_bytes: usize,
    pub registry: Arc<Registry>,
}

impl Engine {
    /// Takes part in what all workers know of subscriptions; told before the first client comes.
    pub fn share_subscriptions(&mut self, registry: Arc<Registry>) {
        self.pubsub.registry = registry;
    }
}

impl Subscriptions {
    /// Whether something is to be done in this batch.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.todo.is_empty()
    }

    /// When something is to be done next.
    pub fn next_timeout(&self) -> Micros {
        let deadline = self.deadlines.front().map_or(Micros::MAX, |(at, ..)| *at);
        self.later.peek().map_or(Micros::MAX, |Reverse((at, ..))| *at).min(deadline)
    }

    fn next_unique(&mut self) -> u32 {
        self.unique = self.unique.wrapping_add(1);
        self.unique
    }

    /// Whether there is a topic of this user's.
    pub(super) fn is_used_by(&self, user: UserId) -> bool {
        self.names.get(usize::from(user.0)).is_some_and(|kinds| kinds.iter().any(|names| !names.is_empty()))
    }

    fn find(&self, user: UserId, kind: Kind, name: &[u8]) -> Option<u32> {
        self.names.get(usize::from(user.0))?[kind as usize].get(name).copied()
    }

    /// The topic of this name, made if need be.
    fn topic(&mut self, user: UserId, kind: Kind, name: &[u8]) -> u32 {
        if let Some(known) = self.find(user, kind, name) {
            return known;
        }
        let unique = self.next_unique();
        let name: Arc<[u8]> = name.into();
        self.held_bytes += TOPIC_BYTES + 2 * name.len();
        let topic = Topic {
            unique,
            user,
            kind,
            reach: Reach::of(kind, &name),
            slot: Slot::of(&name),
            name: name.clone(),
            subscribers: Vec::new(),
            waiting: Vec::new(),
            named: 0,
            places: Vec::new(),
            main: None,
            queued: false,
            not_before: 0,
            tries: 0,
            last_error: String::new(),
        };
        let index = self.topics.insert(topic) as u32;
        let user = usize::from(user.0);
        if self.names.len() <= user {
            self.names.resize_with(user + 1, Default::default);
        }
        self.names[user][kind as usize].insert(name, index);
        self.look_at(index);
        index
    }

    fn forget(&mut self, index: u32) -> Topic {
        let topic = self.topics.remove(index as usize);
        self.names[usize::from(topic.user.0)][topic.kind as usize].remove(&topic.name);
        self.held_bytes -= TOPIC_BYTES + 2 * topic.name.len();
        topic
    }

    /// Marks a topic to be looked at before the batch ends.
    fn look_at(&mut self, index: u32) {
        if !std::mem::replace(&mut self.topics[index as usize].queued, true) {
            self.todo.push(index);
        }
    }

    /// Marks a topic to be looked at from a moment on.
    fn look_at_later(&mut self, index: u32, at: Micros) {
        let topic = &mut self.topics[index as usize];
        topic.not_before = at;
        self.later.push(Reverse((at, index, topic.unique)));
    }
}

/// The text of a bulk string.
fn text_of(element: &[u8]) -> Option<&[u8]> {
    match view(element) {
        Some(View::Bulk(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
