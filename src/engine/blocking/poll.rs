//! Blocking commands whose keys lie in several slots, if the configuration allows it: asked again and again without blocking.
//!
//! Pops ask one key after the other, in the order of the arguments, so that at most one element is taken. Reads ask all slots at once:
//! they take nothing. Between two rounds there is a wait that grows to the configured one.

use bytes::Bytes;

use crate::{
    cluster::Slot,
    command::Command,
    resp::{Proto, Span, View, encode, view},
};

use super::{
    super::{
        Engine,
        ids::{Micros, NONE, Ticket},
        merge::{Job, Merge},
        pump::spans_of,
        send::Target,
        session::{Ending, Pause, State},
    },
    Block, CUT, Takes,
    block::last_id,
    frame::{Timeout, ids_from_now},
    null_array,
    single::{pop, popped, with_one_key, without_block},
};

/// The wait after the first round; it doubles from round to round.
const FIRST_WAIT_US: Micros = 2_000;

/// See the module's head.
#[derive(Debug)]
pub struct Poll {
    command: &'static Command,
    frame: Bytes,
    keys: Vec<u32>,
    takes: Takes,
    /// The key that is asked now, of a pop.
    next: usize,
    round: u32,
    until: Option<Micros>,
    /// CLIENT UNBLOCK was said, with ERROR or without.
    ended: Option<bool>,
    /// XREAD: the ids, once "from now on" is known to be from where.
    ids: Vec<Vec<u8>>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pop,
    /// Asks for the last ids of streams.
    LastIds,
    Read,
}

impl Poll {
    pub fn end(&mut self, error: bool) {
        self.ended = Some(error);
    }
}

impl Engine {
    /// A command whose keys `two` are in different slots.
    pub(super) fn block_across(
        &mut self,
        index: u32,
        command: &'static Command,
        frame: &[u8],
        spans: &[Span],
        keys: &[u32],
        two: (usize, usize),
    ) -> Result<(), Pause> {
        let takes = Takes::of(command, frame, spans, keys);
        let pollable = takes != Takes::Nothing || command.name == "XREAD";
        if self.settings.blocking_poll_us == 0 || !pollable {
            let text = self.cross_slot_text(command, frame, spans, two, pollable);
            self.reply_now(index, &text);
            return Ok(());
        }
        let wait_us = Timeout::of(command, frame, spans).and_then(|timeout| timeout.read(frame, spans));
        let Some(wait_us) = wait_us else {
            // The server says what is wrong with it, if all keys are of one slot.
            let block = Block::new(command, frame, spans, &[], self.now);
            let (target, single) = (Target::Slot(Slot::of(spans[two.0].of(frame))), with_one_key(command, frame, spans, keys));
            return self.block_at(index, target, block, &single);
        };
        let from_now = command.name == "XREAD" && !ids_from_now(frame, spans).is_empty();
        let ids = if command.name == "XREAD" {
            keys.iter().map(|key| spans[*key as usize + keys.len()].of(frame).to_vec()).collect()
        } else {
            Vec::new()
        };
        let poll = Poll {
            command,
            frame: Bytes::copy_from_slice(frame),
            keys: keys.to_vec(),
            takes,
            next: 0,
            round: 0,
            until: (wait_us > 0).then_some(self.now + wait_us),
            ended: None,
            ids,
            stage: match (takes, from_now) {
                (Takes::Nothing, true) => Stage::LastIds,
                (Takes::Nothing, false) => Stage::Read,
                _ => Stage::Pop,
            },
        };
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        let via = self.clients[index as usize].via();
        let merge = self.open_merge(index, seq, via, Job::Poll(Box::new(poll)));
        self.raise_barrier(index);
        self.blocked_count(1);
        self.poll_stage(merge);
        Ok(())
    }

    fn cross_slot_text(&self, command: &Command, frame: &[u8], spans: &[Span], two: (usize, usize), pollable: bool) -> Vec<u8> {
        let named = |key: usize| {
            let key = spans[key].of(frame);
            (String::from_utf8_lossy(&key[..key.len().min(64)]).into_owned(), Slot::of(key).get())
        };
        let ((first, first_slot), (second, second_slot)) = (named(two.0), named(two.1));
        let way_out = if pollable {
            "cross_slot.blocking = \"poll\" serves it all the same".to_owned()
        } else {
            format!("'{}' cannot be served over several slots", command.lower_name())
        };
        let mut out = Vec::new();
        encode::error(
            &mut out,
            format!(
                "CROSSSLOT Keys in request don't hash to the same slot (proxy: '{first}' is in slot {first_slot}, '{second}' in slot \
                 {second_slot}; {way_out})"
            ),
        );
        out
    }

    /// Asks for the next stage's answers.
    pub(in super::super) fn poll_stage(&mut self, index: u32) {
        let now = self.now;
        let entry = &mut self.merges[index as usize];
        let (client, seq) = (entry.client, entry.seq);
        let Job::Poll(poll) = std::mem::replace(&mut entry.job, Job::Sum) else { return };
        // Each round has the whole deadline to itself.
        self.clients[client as usize].reply(seq).arrived = now;
        let spans = spans_of(&poll.frame).expect("a request that was accepted before");
        let wait_us = if poll.next == 0 { self.wait_of(&poll) } else { 0 };
        let requests = poll.requests(&spans);
        self.merges[index as usize].job = Job::Poll(poll);
        for (slot, request) in requests {
            match wait_us {
                0 => self.add_part(index, Target::Slot(slot), 0, (0, 0), |out| out.extend_from_slice(&request)),
                wait_us => self.add_part_later(index, Target::Slot(slot), wait_us, |out| out.extend_from_slice(&request)),
            }
        }
    }

    fn wait_of(&self, poll: &Poll) -> Micros {
        if poll.round == 0 || poll.stage == Stage::LastIds {
            return 0;
        }
        let wait_us = (FIRST_WAIT_US << (poll.round - 1).min(16)).min(self.settings.blocking_poll_us);
        poll.until.map_or(wait_us, |until| wait_us.min(until.saturating_sub(self.now))).max(1)
    }

    /// Takes a stage's answers. False: another stage follows.
    pub(in super::super) fn merged_poll(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let Job::Poll(mut poll) = std::mem::replace(&mut merge.job, Job::Sum) else { return true };
        let replies: Vec<&[u8]> = (0..merge.parts.len()).map(|part| merge.reply(part)).collect();
        let (client, via) = (merge.client, merge.via);
        let gone = self.clients[client as usize].ending == Ending::Gone;
        match poll.judge(&replies, via.proto, out) {
            Found::Answer => {
                self.hand_over(Ticket { client, seq: merge.seq, part: NONE }, poll.takes, via, out);
                self.blocked_count(-1);
                return true;
            }
            Found::Nothing => {
                let over = poll.until.is_some_and(|until| until <= self.now);
                match poll.ended {
                    Some(true) => out.extend_from_slice(CUT),
                    Some(false) => out.extend(null_array(via.proto)),
                    None if over => out.extend(null_array(via.proto)),
                    None => {}
                }
                if gone || !out.is_empty() {
                    self.blocked_count(-1);
                    return true;
                }
            }
            Found::More if gone => {
                self.blocked_count(-1);
                return true;
            }
            Found::More => {}
        }
        merge.next_stage(Job::Poll(poll));
        false
    }
}

/// What a stage brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The client's answer.
    Answer,
    /// Nothing in a whole round.
    Nothing,
    /// The round goes on.
    More,
}

impl Poll {
    /// What is asked now, and of which slots.
    fn requests(&self, spans: &[Span]) -> Vec<(Slot, Vec<u8>)> {
        let key = |key: u32| spans[key as usize].of(&self.frame);
        match self.stage {
            Stage::Pop => {
                let key = key(self.keys[self.next]);
                vec![(Slot::of(key), pop(self.command, &self.frame, spans, &self.keys, key))]
            }
            Stage::LastIds => {
                let ask = |place: u32| {
                    let mut out = Vec::new();
                    encode::command(&mut out, &[b"XREVRANGE", key(place), b"+", b"-", b"COUNT", b"1"]);
                    (Slot::of(key(place)), out)
                };
                ids_from_now(&self.frame, spans).into_iter().map(|(place, _)| ask(place as u32)).collect()
            }
            Stage::Read => self.groups(spans).into_iter().map(|(slot, places)| (slot, self.read(spans, &places))).collect(),
        }
    }

    /// The streams of each slot, as places among the keys, in the order of the arguments.
    fn groups(&self, spans: &[Span]) -> Vec<(Slot, Vec<usize>)> {
        let mut groups: Vec<(Slot, Vec<usize>)> = Vec::new();
        for (place, key) in self.keys.iter().enumerate() {
            let slot = Slot::of(spans[*key as usize].of(&self.frame));
            match groups.iter_mut().find(|(of, _)| *of == slot) {
                Some((_, places)) => places.push(place),
                None => groups.push((slot, vec![place])),
            }
        }
        groups
    }

    /// XREAD of some of the streams, without BLOCK.
    fn read(&self, spans: &[Span], places: &[usize]) -> Vec<u8> {
        let mut arguments = without_block(&self.frame, spans);
        arguments.extend(places.iter().map(|place| spans[self.keys[*place] as usize].of(&self.frame)));
        arguments.extend(places.iter().map(|place| self.ids[*place].as_slice()));
        let mut out = Vec::new();
        encode::command(&mut out, &arguments);
        out
    }

    fn judge(&mut self, replies: &[&[u8]], proto: Proto, out: &mut Vec<u8>) -> Found {
        if let Some(error) = replies.iter().find(|reply| reply.first() == Some(&b'-')) {
            // A server looks at the type once, when the command comes.
            let later = self.round > 0 && error.starts_with(b"-WRONGTYPE");
            if !later {
                out.extend_from_slice(error);
                return Found::Answer;
            }
        }
        let spans = spans_of(&self.frame).expect("a request that was accepted before");
        match self.stage {
            Stage::LastIds => {
                for ((_, id), reply) in ids_from_now(&self.frame, &spans).into_iter().zip(replies) {
                    let place = id - self.keys[0] as usize - self.keys.len();
                    self.ids[place] = last_id(reply).unwrap_or_else(|| b"0-0".to_vec());
                }
                self.stage = Stage::Read;
                Found::More
            }
            Stage::Read => {
                self.round += 1;
                if self.merge_streams(&spans, replies, proto, out) { Found::Answer } else { Found::Nothing }
            }
            Stage::Pop => {
                let key = spans[self.keys[self.next] as usize].of(&self.frame);
                if popped(self.command, key, replies[0], out) {
                    return Found::Answer;
                }
                self.next += 1;
                if self.next < self.keys.len() {
                    return Found::More;
                }
                (self.next, self.round) = (0, self.round + 1);
                Found::Nothing
            }
        }
    }

    /// The streams that have something, in the order of the arguments. False if none has.
    fn merge_streams(&self, spans: &[Span], replies: &[&[u8]], proto: Proto, out: &mut Vec<u8>) -> bool {
        let mut found: Vec<(usize, Vec<u8>)> = Vec::new();
        for ((_, places), reply) in self.groups(spans).iter().zip(replies) {
            let streams: Vec<Vec<u8>> = match view(reply) {
                Some(View::Array(streams)) => streams.map(<[u8]>::to_vec).collect(),
                Some(View::Map(streams)) => {
                    let elements: Vec<&[u8]> = streams.collect();
                    elements.chunks_exact(2).map(<[&[u8]]>::concat).collect()
                }
                _ => continue,
            };
            // The same stream may be named twice: each answer belongs to the next place with its name.
            let mut left = places.iter();
            for stream in streams {
                let name = stream_name(&stream, proto).unwrap_or_default();
                let place = left.find(|place| spans[self.keys[**place] as usize].of(&self.frame) == name);
                found.push((place.copied().unwrap_or(usize::MAX), stream));
            }
        }
        found.sort_by_key(|(place, _)| *place);
        match proto {
            _ if found.is_empty() => return false,
            Proto::Resp2 => encode::array(out, found.len()),
            Proto::Resp3 => encode::map(out, proto, found.len()),
        }
        out.extend(found.into_iter().flat_map(|(_, stream)| stream));
        true
    }
}

fn stream_name(stream: &[u8], proto: Proto) -> Option<Vec<u8>> {
    let name = match (proto, view(stream)) {
        (Proto::Resp2, Some(View::Array(mut parts))) => parts.next()?,
        (Proto::Resp3, _) => &stream[..crate::resp::first_reply_len(stream)?],
        _ => return None,
    };
    match view(name) {
        Some(View::Bulk(name)) => Some(name.to_vec()),
        _ => None,
    }
}
