//! Pub/sub: who listens to what, what each is to hear, and what it heard.

use std::collections::{HashMap, HashSet, VecDeque};

use keyway::resp::{View, view};

use crate::{
    channels::{self, Kind, Message, Topic, matches, publish, publish_in_shard},
    client::{Expect, Life, Owed, Role},
    conn::Conn,
    tags::{channel_object, tag_text},
    units::words,
    users::User,
    world::{What, World},
};

/// What a client has said about one topic, and what it was told.
#[derive(Default)]
pub struct Listening {
    /// The last confirmation said that it listens.
    on: bool,
    /// Requests about it that are not answered.
    open: u32,
    /// In whose name it may have begun to listen.
    users: Vec<Option<User>>,
    /// What its engine has heard and it has not; `true` for what it must hear.
    due: VecDeque<(Message, bool)>,
}

impl Listening {
    fn is_certain(&self) -> bool {
        self.on && self.open == 0
    }

    fn is_possible(&self) -> bool {
        self.on || self.open > 0
    }
}

/// What one client listens to.
#[derive(Default)]
pub struct Ears {
    topics: HashMap<Topic, Listening>,
    /// What it listens to when all that it has asked for is answered.
    asked: HashSet<Topic>,
    /// A request failed: what it listens to is not known any more, and it is about to go.
    pub lost_count: bool,
}

impl Ears {
    /// Whether a RESP2 client may only ask about topics.
    pub fn are_open(&self) -> bool {
        !self.asked.is_empty() || self.topics.values().any(Listening::is_possible)
    }

    /// Whether it is still to hear something.
    pub fn are_owed(&self) -> bool {
        !self.lost_count && self.topics.values().any(|listening| listening.due.iter().any(|(_, must)| *must))
    }

    fn count(&self, kind: Kind) -> i64 {
        self.asked.iter().filter(|topic| (topic.0 == Kind::Shard) == (kind == Kind::Shard)).count() as i64
    }
}

/// Channels and payloads on their way from one node to another, in order.
type Bus = VecDeque<(String, Vec<u8>)>;

/// What engines listen to, as the nodes know it.
#[derive(Default)]
pub struct Upstream {
    /// When an engine lost a user's topic against its will.
    lost: HashMap<(usize, Option<User>, Topic), u64>,
    /// What an engine has heard already for a user.
    heard: HashSet<(usize, Option<User>, Message)>,
    bus: HashMap<(usize, usize), Bus>,
    pub published: u64,
    pub told: u64,
}

/// So long after the calm something is published on every channel, so that nobody listens in vain.
pub const CRY_AFTER_US: u64 = 3_000_000;

/// An engine listens again so long after the calm, or after a loss in the calm.
const GAP_US_MAX: u64 = 2_000_000;

impl World {
    fn topic(&mut self) -> Topic {
        match self.random.u32(0..10) {
            0..=4 => (Kind::Channel, format!("ch{}", self.random.u32(0..3))),
            5..=6 => (Kind::Pattern, (*self.random.choice(["ch*", "ch1", "c*", "x*"].iter()).expect("four")).to_owned()),
            _ => (Kind::Shard, self.shard_channel()),
        }
    }

    fn shard_channel(&mut self) -> String {
        let tag = self.random.usize(0..self.cluster.tags.len());
        format!("{{{}}}ch", self.cluster.tags[tag].name)
    }

    pub fn ask_publish(&mut self, index: usize) {
        let (name, channel): (&[u8], String) = match self.random.bool() {
            true => (b"PUBLISH", format!("ch{}", self.random.u32(0..3))),
            false => (b"SPUBLISH", self.shard_channel()),
        };
        let text = tag_text((index as u32, self.clients[index].seq));
        let expect = Expect::Published(channel_object(&channel));
        self.request(index, &[name, channel.as_bytes(), text.as_bytes()], Some(expect), true, true);
    }

    /// A client begins or ends to listen.
    pub fn ask_listen(&mut self, index: usize) {
        let begins = self.random.u32(0..3) > 0;
        let topic = self.topic();
        let kind = topic.0;
        let mut topics = vec![topic];
        if kind == Kind::Channel && self.random.u32(0..3) == 0 {
            topics.push((kind, "ch0".into()));
        }
        let word = match (kind, begins) {
            (Kind::Channel, true) => "subscribe",
            (Kind::Pattern, true) => "psubscribe",
            (Kind::Shard, true) => "ssubscribe",
            (Kind::Channel, false) => "unsubscribe",
            (Kind::Pattern, false) => "punsubscribe",
            (Kind::Shard, false) => "sunsubscribe",
        };
        let name = word.to_ascii_uppercase();
        let mut args: Vec<Vec<u8>> = vec![name.into_bytes()];
        let all = !begins && self.random.u32(0..4) == 0;
        let ears = &mut self.clients[index].ears;
        if all {
            topics = ears.asked.iter().filter(|topic| topic.0 == kind).cloned().collect();
            topics.sort();
        } else {
            args.extend(topics.iter().map(|topic| topic.1.clone().into_bytes()));
        }
        let mut expects = Vec::new();
        let users = self.users_at(index, self.clients[index].seq);
        for topic in &topics {
            let ears = &mut self.clients[index].ears;
            if begins {
                ears.asked.insert(topic.clone())
            } else {
                ears.asked.remove(topic)
            };
            let count = ears.count(kind);
            let listening = ears.topics.entry(topic.clone()).or_default();
            if begins && !listening.is_possible() {
                listening.users.clone_from(&users);
            } else if begins {
                let others: Vec<Option<User>> = users.iter().copied().filter(|user| !listening.users.contains(user)).collect();
                listening.users.extend(others);
            }
            listening.open += 1;
            let name = (!all).then(|| topic.1.clone());
            expects.push(Expect::Confirmed { word, kind, name, count, begins });
        }
        if topics.is_empty() {
            let count = self.clients[index].ears.count(kind);
            expects.push(Expect::Confirmed { word, kind, name: None, count, begins });
        }
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let seq = self.clients[index].seq;
        let mut expects = expects.into_iter();
        self.request(index, &args, expects.next(), false, false);
        let now = self.now;
        for expect in expects {
            let owed = Owed { seq, expect, sent_at: now, write: false, one_slot: false, forbidden: false };
            self.clients[index].owed.push_back(owed);
        }
    }

    /// One of the confirmations that a request is owed.
    pub fn check_confirmed(&mut self, index: usize, owed: &Owed, elements: &[Vec<u8>]) -> Result<(), String> {
        let Expect::Confirmed { word, kind, name, count, begins } = &owed.expect else { unreachable!("called for this only") };
        if self.clients[index].ears.lost_count {
            return Ok(());
        }
        let [said, topic, number] = elements else { return Err("it has not three elements".into()) };
        if view(said) != Some(View::Bulk(word.as_bytes())) {
            return Err("it confirms something else".into());
        }
        if view(number) != Some(View::Integer(*count)) {
            return Err(format!("{count} topics were expected"));
        }
        let found = match view(topic) {
            Some(View::Bulk(found)) => String::from_utf8_lossy(found).into_owned(),
            Some(View::Null) if name.is_none() => return Ok(()),
            _ => return Err("it names nothing".into()),
        };
        if name.as_ref().is_some_and(|name| *name != found) {
            return Err("it is about something else".into());
        }
        let Some(listening) = self.clients[index].ears.topics.get_mut(&(*kind, found)) else {
            return Err("it is about something that was not asked for".into());
        };
        listening.on = *begins;
        listening.open = listening.open.saturating_sub(1);
        Ok(())
    }

    /// A request about topics was answered with an error: none of its other confirmations comes.
    pub fn listening_failed(&mut self, index: usize, owed: &Owed) {
        let client = &mut self.clients[index];
        while client.owed.front().is_some_and(|next| next.seq == owed.seq) {
            client.owed.pop_front();
        }
        client.ears.lost_count = true;
        client.wants_close = true;
        client.left = 0;
        self.later(0, What::GiveUp(index));
    }

    /// What a new client is there for.
    pub fn give_role(&mut self, index: usize) {
        self.clients[index].role = match self.random.u32(0..10) {
            0..=1 => Role::Listener,
            2..=4 => Role::Both,
            _ => Role::Worker,
        };
        if self.clients[index].role == Role::Both {
            self.clients[index].asks_resp3 = true;
            self.clients[index].compares = true;
            self.plan(index, vec![(words(&["HELLO", "3"]), Expect::Hello)]);
        }
    }

    /// The world itself publishes on every channel.
    pub fn cry(&mut self) {
        self.fed += 1;
        let payload = tag_text((u32::MAX, self.fed));
        let sharded: Vec<String> = self.cluster.tags.iter().map(|tag| format!("{{{}}}ch", tag.name)).collect();
        for channel in (0..3).map(|number| format!("ch{number}")).chain(sharded) {
            let command = if channel.starts_with('{') { "SPUBLISH" } else { "PUBLISH" };
            let unit = self.cluster.slot_and_unit(&channel).1;
            let node = self.cluster.master_of(self.cluster.shard_of(unit));
            match command {
                "PUBLISH" => publish(&mut self.cluster, node, &channel, payload.as_bytes()),
                _ => publish_in_shard(&mut self.cluster, node, &channel, payload.as_bytes()),
            };
            self.check_published(node, &words(&[command, &channel, &payload]));
        }
        self.carry_words();
    }

    /// What came is a message. False if it is something else.
    pub fn hears(&mut self, index: usize, reply: &[u8]) -> bool {
        let Some(View::Push(elements) | View::Array(elements)) = view(reply) else { return false };
        let texts: Vec<String> = elements
            .map(|element| match view(element) {
                Some(View::Bulk(text)) => String::from_utf8_lossy(text).into_owned(),
                _ => String::new(),
            })
            .collect();
        let words: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (topic, channel, payload) = match words[..] {
            ["message", channel, payload] => ((Kind::Channel, channel.to_owned()), channel, payload),
            ["smessage", channel, payload] => ((Kind::Shard, channel.to_owned()), channel, payload),
            ["pmessage", pattern, channel, payload] => ((Kind::Pattern, pattern.to_owned()), channel, payload),
            _ => return false,
        };
        let message = Message { topic, channel: channel.to_owned(), payload: payload.as_bytes().to_vec() };
        self.upstream.told += 1;
        if self.clients[index].ears.lost_count {
            return true;
        }
        let resp3 = self.clients[index].resp3;
        let Some(listening) = self.clients[index].ears.topics.get_mut(&message.topic) else {
            self.truth.accuse(format!("client {index} hears {message:?} and never asked for it"));
            return true;
        };
        if resp3 != (reply[0] == b'>') {
            self.truth.accuse(format!("client {index} hears {message:?} in the other protocol's shape"));
        } else if !listening.is_possible() {
            self.truth.accuse(format!("client {index} hears {message:?} and does not listen any more"));
        }
        while let Some((due, must)) = listening.due.pop_front() {
            if due == message {
                return true;
            }
            if must {
                self.truth.accuse(format!("client {index} misses {due:?}: {message:?} comes first"));
                return true;
            }
        }
        self.truth
            .accuse(format!("client {index} hears {message:?}, which is not due: twice, out of order or before it was heard"));
        true
    }

    /// An engine has heard a message: every client of its that listens is to hear it, once.
    pub fn message_heard(&mut self, engine: usize, user: Option<User>, message: Message) {
        if !self.upstream.heard.insert((engine, user, message.clone())) {
            return;
        }
        let by_user = self.families.auth;
        for client in self.clients.iter_mut().filter(|client| client.engine == engine && client.life != Life::Closed) {
            let open = client.life == Life::Open;
            let topic = client.ears.topics.get_mut(&message.topic);
            if let Some(listening) =
                topic.filter(|listening| listening.is_possible() && (!by_user || listening.users.contains(&user)))
            {
                let must = listening.is_certain() && open && (!by_user || listening.users.len() == 1);
                listening.due.push_back((message.clone(), must));
            }
        }
    }

    /// Notes which engines began and ended to listen, where they asked for it.
    pub fn note_listeners(&mut self) {
        for (conn, topic) in std::mem::take(&mut self.cluster.listened) {
            // A later loss is another one; and who ends it itself has lost nothing.
            let conn = &self.conns[conn];
            self.upstream.lost.remove(&(conn.engine, conn.caller.user, topic));
        }
    }

    /// A connection on which an engine listens has ended, or its sharded channel has left the node.
    pub fn topic_lost(&mut self, index: usize, topic: Topic) {
        let conn = &self.conns[index];
        self.upstream.lost.insert((conn.engine, conn.caller.user, topic), self.now);
    }

    pub fn lane_of_listeners_ends(&mut self, index: usize) {
        let node = self.conns[index].node;
        let channels = &self.cluster.nodes[node].channels;
        let own = |listeners: &Vec<(usize, keyway::resp::Proto)>| listeners.iter().any(|(conn, _)| *conn == index);
        let topics: Vec<Topic> =
            channels.iter().filter(|(_, listeners)| own(listeners)).map(|(topic, _)| topic.clone()).collect();
        topics.into_iter().for_each(|topic| self.topic_lost(index, topic));
    }

    /// A message was published: every engine with a client that surely listens must listen itself, or be about to do so again.
    pub fn check_published(&mut self, at: usize, args: &[Vec<u8>]) {
        let sharded = args[0].eq_ignore_ascii_case(b"SPUBLISH");
        let channel = String::from_utf8_lossy(&args[1]).into_owned();
        self.upstream.published += 1;
        let is_about = |topic: &Topic| match topic.0 {
            Kind::Channel => !sharded && topic.1 == channel,
            Kind::Pattern => !sharded && matches(&topic.1, &channel),
            Kind::Shard => sharded && topic.1 == channel,
        };
        let mut missing = None;
        for (index, client) in self.clients.iter().enumerate().filter(|(_, client)| client.life == Life::Open) {
            let topics = client.ears.topics.iter().filter(|(topic, listening)| is_about(topic) && listening.is_certain());
            for (topic, listening) in topics {
                // In whose name is known for certain, or not looked at.
                let [user] = listening.users[..] else { continue };
                let is_own =
                    |conn: &Conn| conn.engine == client.engine && conn.open && (!self.families.auth || conn.caller.user == user);
                // While a slot changes hands a sharded message may come from where nobody can listen yet.
                let settled = self.calm_since.is_some_and(|calm| self.now > calm + GAP_US_MAX);
                let places = if sharded && settled { at..at + 1 } else { 0..self.cluster.nodes.len() };
                let listens = self.cluster.nodes[places].iter().any(|node| {
                    let listeners = node.channels.get(topic).map(Vec::as_slice).unwrap_or_default();
                    listeners.iter().any(|(conn, _)| is_own(&self.conns[*conn]))
                });
                let lost = User::ALL.into_iter().map(Some).filter(|other| !self.families.auth || *other == user);
                let lost = lost.filter_map(|user| self.upstream.lost.get(&(client.engine, user, topic.clone()))).max();
                let late = |since: u64| self.now > since + GAP_US_MAX;
                let excused = lost.is_some_and(|lost| !late(*lost) || self.calm_since.is_none_or(|calm| !late(calm)));
                if !listens && !excused {
                    missing =
                        Some(format!("{channel} is published and client {index} listens to {topic:?}, but its engine does not"));
                }
            }
        }
        missing.into_iter().for_each(|text| self.truth.accuse(text));
    }

    /// A message goes from node to node, in order and in its own time.
    pub fn publish_on_bus(&mut self, from: usize, to: usize, channel: String, payload: Vec<u8>) {
        self.upstream.bus.entry((from, to)).or_default().push_back((channel, payload));
        let wait = self.random.u64(0..2_000);
        self.later(wait, What::Bus(from, to));
    }

    pub fn hear_bus(&mut self, from: usize, to: usize) {
        let Some((channel, payload)) = self.upstream.bus.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return };
        if self.cluster.nodes[to].alive {
            channels::tell(&mut self.cluster, to, &channel, &payload);
            self.carry_words();
        }
    }
}
