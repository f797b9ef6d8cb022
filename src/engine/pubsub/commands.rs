//! SUBSCRIBE and its family, as a client sees them.

use std::sync::Arc;

use crate::{
    command::{Class, Command, Local, PubSub},
    engine::{
        Engine,
        ids::NONE,
        modes::Modes,
        session::{Pause, ReplyMode, State},
        since::has_subcommands,
    },
    resp::{Proto, Span, encode},
};

use super::{JOIN_BYTES, Kind, Subscribed, TOPIC_BYTES, Waiting, upstream::is_standing};

impl Engine {
    /// Carries out (P|S)SUBSCRIBE and (P|S)UNSUBSCRIBE.
    pub(in crate::engine) fn pubsub(
        &mut self,
        index: u32,
        command: &'static Command,
        which: PubSub,
        frame: &[u8],
        spans: &[Span],
    ) -> Result<(), Pause> {
        let (kind, on) = Kind::of(which);
        if on {
            // It goes alone: a message must not come before the confirmation, nor what follows be carried out before.
            self.barrier(index)?;
        }
        let Some(persona) = self.persona() else { return self.await_map(index, frame) };
        // Shard channels came with tables of subcommands. What the server does not know, or not so, it says itself.
        if !command.accepts(spans.len()) || (kind == Kind::Shard && !has_subcommands(persona)) {
            return self.send_any(index, frame);
        }
        let names: Vec<&[u8]> = spans[1..].iter().map(|span| span.of(frame)).collect();
        if on { self.subscribe(index, kind, &names) } else { self.unsubscribe(index, kind, &names) }
    }

    fn subscribe(&mut self, index: u32, kind: Kind, names: &[&[u8]]) -> Result<(), Pause> {
        if let Err(error) = self.room_for(index, kind, names) {
            self.reply_now(index, error.as_bytes());
            return Ok(());
        }
        let user = self.clients[index as usize].user;
        let (seq, error_silent) = self.owe_push(index);
        self.raise_barrier(index);
        let topics = names.iter().map(|name| match self.own_topic(index, kind, name) {
            Some(own) => own,
            None => self.pubsub.topic(user, kind, name),
        });
        let topics: Vec<u32> = topics.collect();
        topics.iter().for_each(|topic| self.pubsub.topics[*topic as usize].named += 1);
        let unique = self.pubsub.next_unique();
        let waiting = Waiting { unique, client: index, seq, kind, topics, left: 0, error_silent };
        let waiting = self.pubsub.waiting.insert(waiting) as u32;
        self.subscribed(index).waiting = Some(waiting);
        if !self.await_topics(waiting) {
            let deadline = self.now + self.settings.retry_deadline_us;
            self.pubsub.deadlines.push_back((deadline, waiting, unique));
        }
        Ok(())
    }

    /// Whether the client and the worker may take on so many more. A command that says the same again may be refused a little early.
    fn room_for(&self, index: u32, kind: Kind, names: &[&[u8]]) -> Result<(), String> {
        let settings = &self.settings;
        let have: usize = self.clients[index as usize].subscribed.as_ref().map_or(0, |own| own.counts.iter().sum());
        let new = names.iter().filter(|name| self.own_topic(index, kind, name).is_none());
        let (count, bytes) = new.fold((0, 0), |(count, bytes), name| {
            let topic = TOPIC_BYTES + 2 * name.len();
            (count + 1, bytes + JOIN_BYTES + topic)
        });
        if have + count > settings.client_subscriptions_max {
            return Err(format!(
                "-ERR proxy: too many subscriptions: a client may have {} (limits.client_subscriptions)\r\n",
                settings.client_subscriptions_max
            ));
        }
        if count > 0 && self.pubsub.held_bytes + bytes > settings.subscriptions_bytes_max {
            return Err(format!(
                "-ERR proxy: too many subscriptions: a worker keeps {} bytes of them (limits.subscriptions)\r\n",
                settings.subscriptions_bytes_max
            ));
        }
        Ok(())
    }

    /// Owes a reply that is made of pushes: CLIENT REPLY suppresses those in old servers only. Answers its number, and whether an
    /// error in its place is to be told.
    fn owe_push(&mut self, index: u32) -> (u32, bool) {
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        let old = self.suppresses_pushes();
        let reply = self.clients[index as usize].reply(seq);
        let error_silent = reply.silent;
        reply.silent &= old;
        (seq, error_silent)
    }

    /// Before 7.0, CLIENT REPLY OFF and SKIP are for pushes too.
    pub(super) fn suppresses_pushes(&self) -> bool {
        self.persona().is_some_and(|persona| !has_subcommands(persona))
    }

    /// The topic of this name that the client is subscribed to, whichever user it was as.
    fn own_topic(&self, index: u32, kind: Kind, name: &[u8]) -> Option<u32> {
        let session = &self.clients[index as usize];
        let own = session.subscribed.as_ref().filter(|own| own.is_subscriber())?;
        if !own.many_users && own.user == session.user {
            return self.pubsub.find(session.user, kind, name).filter(|topic| own.topics.contains_key(topic));
        }
        let is_it = |topic: &u32| {
            let topic = &self.pubsub.topics[*topic as usize];
            topic.kind == kind && *topic.name == *name
        };
        own.topics.keys().copied().find(is_it)
    }

    fn subscribed(&mut self, index: u32) -> &mut Subscribed {
        self.clients[index as usize].subscribed.get_or_insert_default()
    }

    /// Answers the command if all its topics stand; else it waits for those that do not.
    pub(super) fn await_topics(&mut self, waiting: u32) -> bool {
        let mut left = 0;
        for topic in &self.pubsub.waiting[waiting as usize].topics {
            let place = &mut self.pubsub.topics[*topic as usize];
            // Named twice, it was given the number a moment ago.
            if !is_standing(&self.table, place) && place.waiting.last() != Some(&waiting) {
                place.waiting.push(waiting);
                left += 1;
            }
        }
        self.pubsub.waiting[waiting as usize].left = left;
        if left == 0 {
            self.confirm(waiting);
        }
        left == 0
    }

    /// Everything that the command names stands: the client is subscribed from now on, and told so.
    fn confirm(&mut self, waiting: u32) {
        let waiting = self.pubsub.waiting.remove(waiting as usize);
        let index = waiting.client;
        self.subscribed(index).waiting = None;
        let proto = self.clients[index as usize].proto;
        let mut reply = Vec::new();
        for topic in waiting.topics {
            self.join(index, topic);
            let topic = &mut self.pubsub.topics[topic as usize];
            topic.named -= 1;
            let name = topic.name.clone();
            let count = self.subscribed(index).shown_count(waiting.kind);
            confirmation(&mut reply, proto, waiting.kind.subscribe(), Some(&name), count);
        }
        self.note_subscribed_mode(index);
        self.answer(index, waiting.seq, &reply);
    }

    /// The command failed: none of what it names was subscribed to.
    pub(super) fn fail_waiting(&mut self, waiting: u32, error: &[u8]) {
        let waiting = self.forget_waiting(waiting);
        self.clients[waiting.client as usize].reply(waiting.seq).silent = waiting.error_silent;
        self.answer(waiting.client, waiting.seq, error);
    }

    /// A command waits no more, and nothing is subscribed to for it.
    fn forget_waiting(&mut self, index: u32) -> Waiting {
        let waiting = self.pubsub.waiting.remove(index as usize);
        for topic in &waiting.topics {
            // It is looked at, and perhaps forgotten, when the batch ends: named twice, it is still here.
            let place = &mut self.pubsub.topics[*topic as usize];
            place.waiting.retain(|other| *other != index);
            place.named -= 1;
            self.pubsub.look_at(*topic);
        }
        self.subscribed(waiting.client).waiting = None;
        waiting
    }

    /// Answers commands whose time is over.
    pub(super) fn give_up_waiting(&mut self) {
        while let Some((at, waiting, unique)) = self.pubsub.deadlines.front().copied()
            && at <= self.now
        {
            self.pubsub.deadlines.pop_front();
            if self.pubsub.waiting.get(waiting as usize).is_some_and(|found| found.unique == unique) {
                self.counters.gave_up += 1;
                let error = self.give_up_waiting_text(waiting);
                self.fail_waiting(waiting, error.as_bytes());
            }
        }
    }

    fn give_up_waiting_text(&self, waiting: u32) -> String {
        let topics = &self.pubsub.waiting[waiting as usize].topics;
        let late = topics.iter().map(|topic| &self.pubsub.topics[*topic as usize]);
        let late = late.clone().find(|topic| !is_standing(&self.table, topic)).or_else(|| late.clone().next());
        let seconds = self.settings.retry_deadline_us as f64 / 1e6;
        let (name, tries, last) = late.map_or((String::new(), 0, ""), |topic| {
            (String::from_utf8_lossy(&topic.name).into_owned(), topic.tries, topic.last_error.as_str())
        });
        let last = if last.is_empty() { "no node could be reached" } else { last };
        let text = format!("no subscription to '{name}' within {seconds} s after {tries} tries; the last one: {last}");
        format!("-ERR proxy: {}\r\n", text.replace(['\r', '\n'], " "))
    }

    fn join(&mut self, index: u32, topic_index: u32) {
        let user = self.clients[index as usize].user;
        let topic = &mut self.pubsub.topics[topic_index as usize];
        let (kind, place, name) = (topic.kind, topic.subscribers.len() as u32, topic.name.clone());
        let own = self.clients[index as usize].subscribed.get_or_insert_default();
        if own.topics.contains_key(&topic_index) {
            return;
        }
        if !own.is_subscriber() {
            (own.user, own.many_users) = (user, false);
            self.pubsub.registry.client_began();
        }
        own.many_users |= own.user != topic.user;
        own.topics.insert(topic_index, place);
        own.counts[kind as usize] += 1;
        topic.subscribers.push(index);
        self.pubsub.held_bytes += JOIN_BYTES;
        self.pubsub.registry.joined(kind, &name);
    }

    fn leave(&mut self, index: u32, topic_index: u32) {
        let Some(own) = self.clients[index as usize].subscribed.as_mut() else { return };
        let Some(place) = own.topics.remove(&topic_index) else { return };
        let topic = &mut self.pubsub.topics[topic_index as usize];
        let (kind, name) = (topic.kind, topic.name.clone());
        own.counts[kind as usize] -= 1;
        let last = !own.is_subscriber();
        topic.subscribers.swap_remove(place as usize);
        if let Some(moved) = topic.subscribers.get(place as usize).copied()
            && let Some(own) = self.clients[moved as usize].subscribed.as_mut()
        {
            own.topics.insert(topic_index, place);
        }
        self.pubsub.held_bytes -= JOIN_BYTES;
        self.pubsub.registry.left(kind, &name);
        if last {
            self.pubsub.registry.client_ended();
        }
        if self.pubsub.topics[topic_index as usize].is_unused() {
            self.pubsub.look_at(topic_index);
        }
    }

    fn unsubscribe(&mut self, index: u32, kind: Kind, names: &[&[u8]]) -> Result<(), Pause> {
        let (seq, _) = self.owe_push(index);
        let proto = self.clients[index as usize].proto;
        let word = kind.unsubscribe();
        let mut reply = Vec::new();
        if names.is_empty() {
            for (topic, name) in self.own_topics(index, kind) {
                self.leave(index, topic);
                confirmation(&mut reply, proto, word, Some(&name), self.shown_count(index, kind));
            }
            if reply.is_empty() {
                confirmation(&mut reply, proto, word, None, self.shown_count(index, kind));
            }
        }
        for name in names {
            if let Some(topic) = self.own_topic(index, kind, name) {
                self.leave(index, topic);
            }
            confirmation(&mut reply, proto, word, Some(name), self.shown_count(index, kind));
        }
        self.note_subscribed_mode(index);
        self.answer(index, seq, &reply);
        Ok(())
    }

    fn own_topics(&self, index: u32, kind: Kind) -> Vec<(u32, Arc<[u8]>)> {
        let Some(own) = self.clients[index as usize].subscribed.as_ref() else { return Vec::new() };
        let named = own.topics.keys().map(|topic| (*topic, &self.pubsub.topics[*topic as usize]));
        named.filter(|(_, topic)| topic.kind == kind).map(|(index, topic)| (index, topic.name.clone())).collect()
    }

    fn shown_count(&self, index: u32, kind: Kind) -> usize {
        self.clients[index as usize].subscribed.as_ref().map_or(0, |own| own.shown_count(kind))
    }

    /// RESET, or the client is gone: it is subscribed to nothing, and told nothing of it.
    pub(in crate::engine) fn leave_all(&mut self, index: u32) {
        let Some(own) = self.clients[index as usize].subscribed.as_mut() else { return };
        let topics: Vec<u32> = own.topics.keys().copied().collect();
        let waiting = own.waiting;
        topics.into_iter().for_each(|topic| self.leave(index, topic));
        if let Some(waiting) = waiting {
            let waiting = self.forget_waiting(waiting);
            self.answer(index, waiting.seq, &[]);
        }
        self.clients[index as usize].subscribed = None;
        self.note_subscribed_mode(index);
    }

    /// In RESP2 a subscriber may only subscribe on; in RESP3 it may do anything.
    pub(in crate::engine) fn note_subscribed_mode(&mut self, index: u32) {
        let session = &mut self.clients[index as usize];
        let subscriber = session.subscribed.as_ref().is_some_and(|own| own.is_subscriber());
        session.modes.set(Modes::SUBSCRIBED, subscriber && session.proto == Proto::Resp2);
    }

    /// What a RESP2 subscriber is told that asks for something else. Mistakes in the command come first, as on the server.
    pub(in crate::engine) fn refuse_while_subscribed(
        &mut self,
        index: u32,
        command: &'static Command,
        frame: &[u8],
        spans: &[Span],
    ) -> Option<Result<(), Pause>> {
        let allowed = matches!(command.class, Class::PubSub(_) | Class::Local(Local::Ping | Local::Quit | Local::Reset));
        if allowed {
            return None;
        }
        let name = command.lower_name();
        let is_sub = name.contains('|');
        let taken_whole = is_sub && self.suppresses_pushes();
        if !(taken_whole || command.accepts(spans.len())) {
            return Some(self.send_any(index, frame));
        }
        let text = match name.split_once('|') {
            Some((container, _)) if self.suppresses_pushes() => refusal(container, ""),
            _ if self.suppresses_pushes() => refusal(&name, ""),
            _ => refusal(&name, "|S"),
        };
        self.reply_now(index, text.as_bytes());
        Some(Ok(()))
    }

    /// Whether messages are kept from this client by CLIENT REPLY OFF.
    pub(super) fn hears_nothing(&self, index: u32) -> bool {
        self.clients[index as usize].reply_mode == ReplyMode::Off && self.suppresses_pushes()
    }
}

fn refusal(name: &str, shards: &str) -> String {
    format!(
        "-ERR Can't execute '{name}': only (P{shards})SUBSCRIBE / (P{shards})UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
         this context\r\n"
    )
}

/// The answer to PING of a RESP2 subscriber, which could not tell a plain one from a message.
pub fn subscribed_pong(text: &[u8]) -> Vec<u8> {
    let mut reply = Vec::new();
    encode::array(&mut reply, 2);
    encode::bulk(&mut reply, b"pong");
    encode::bulk(&mut reply, text);
    reply
}

/// `[word, name or null, count]`.
fn confirmation(out: &mut Vec<u8>, proto: Proto, word: &[u8], name: Option<&[u8]>, count: usize) {
    encode::push(out, proto, 3);
    encode::bulk(out, word);
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, proto),
    }
    encode::integer(out, count as i64);
}
