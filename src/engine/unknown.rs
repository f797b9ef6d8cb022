//! Commands that the table does not hold (modules, newer servers): the cluster's own COMMAND INFO tells where their keys are.

use crate::{
    cluster::Slot,
    resp::{Span, View, encode, view},
};

use super::{
    Engine,
    forward::whole,
    ids::Micros,
    merge::{Job, Merge},
    modes::Modes,
    send::Target,
    session::{Pause, State},
};

/// What a name was found to be.
#[derive(Clone, Copy, Debug)]
pub struct Learned {
    keys: LearnedKeys,
    /// Asked again from then on: modules come and go.
    until: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LearnedKeys {
    /// No node knows it: its own error is the answer.
    NoCommand,
    None,
    Range {
        first: usize,
        last: i64,
        step: usize,
    },
    /// COMMAND GETKEYS tells for each request.
    Moving,
}

/// Names are kept so long, and at most so many: a client that makes names up must not fill the memory.
const KNOWN_US: Micros = 60_000_000;
const UNKNOWN_US: Micros = 2_000_000;
const NAMES_MAX: usize = 1024;
const NAME_LEN_MAX: usize = 128;

impl Engine {
    /// A request whose name the table does not hold.
    pub(super) fn unknown(&mut self, index: u32, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        if self.clients[index as usize].modes.is_paused() {
            return Err(Pause::Client);
        }
        let name = spans[0].of(frame).to_ascii_uppercase();
        let queues = self.clients[index as usize].modes.has(Modes::TRANSACTION);
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return if queues { self.enqueue_unknown(index, frame) } else { self.send_any(index, frame) };
        }
        let known = self.learned.get(&name).filter(|learned| learned.until > self.now).map(|learned| learned.keys);
        match known {
            Some(LearnedKeys::NoCommand) if queues => self.enqueue_unknown(index, frame),
            Some(LearnedKeys::None) if queues => self.enqueue_learned(index, frame, &[]),
            Some(LearnedKeys::Range { first, last, step }) if queues => {
                let keys: Vec<&[u8]> = keys_of_range(frame, spans, first, last, step).collect();
                self.enqueue_learned(index, frame, &keys)
            }
            Some(LearnedKeys::NoCommand | LearnedKeys::None) => self.send_any(index, frame),
            Some(LearnedKeys::Range { first, last, step }) => match slot_of_range(frame, spans, first, last, step) {
                Keyed::Slot(slot, many) => self.send_single(index, slot, frame, many),
                Keyed::CrossSlot => self.cross_slot(index),
                Keyed::No => self.send_any(index, frame),
            },
            Some(LearnedKeys::Moving) => {
                let arguments: Vec<&[u8]> =
                    [&b"COMMAND"[..], b"GETKEYS"].into_iter().chain(spans.iter().map(|span| span.of(frame))).collect();
                self.ask_first(index, &arguments, Job::LearnKeys { frame: frame.to_vec() })
            }
            None => self.ask_first(index, &[b"COMMAND", b"INFO", &name], Job::Learn { frame: frame.to_vec() }),
        }
    }

    fn ask_first(&mut self, index: u32, arguments: &[&[u8]], job: Job) -> Result<(), Pause> {
        let mut question = Vec::new();
        encode::command(&mut question, arguments);
        self.one_part_as_service(index, &question, job)
    }

    pub(super) fn cross_slot(&mut self, index: u32) -> Result<(), Pause> {
        self.reply_now(index, b"-CROSSSLOT Keys in request don't hash to the same slot\r\n");
        Ok(())
    }

    /// The answer about a name or about a request's keys is here: what is to happen follows in the next stage.
    pub(super) fn merged_learn(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let reply = merge.reply(0);
        match &merge.job {
            Job::Learn { frame } => {
                if super::merge::answers_for_proxy(reply, out) {
                    return true;
                }
                if let Some(error) = reply.strip_prefix(b"-").filter(|error| error.starts_with(b"NOPERM")) {
                    out.extend_from_slice(b"-ERR proxy: the proxy's own account cannot ask what this command is: ");
                    out.extend_from_slice(error);
                    return true;
                }
                let keys = learned_keys(reply);
                let until = self.now + if keys == LearnedKeys::NoCommand { UNKNOWN_US } else { KNOWN_US };
                if self.learned.len() >= NAMES_MAX {
                    self.learned.clear();
                }
                if let Some(name) = super::pump::name_of(frame) {
                    self.learned.insert(name.to_ascii_uppercase(), Learned { keys, until });
                }
                let frame = frame.clone();
                merge.next_stage(Job::Again { frame });
            }
            Job::LearnKeys { frame } => {
                let keys: Vec<&[u8]> = match view(reply) {
                    Some(View::Array(keys)) => keys.filter_map(|key| bulk(key)).collect(),
                    _ => Vec::new(),
                };
                let slots: Vec<Slot> = keys.iter().map(|key| Slot::of(key)).collect();
                let frame = frame.clone();
                if self.clients[merge.client as usize].modes.has(Modes::TRANSACTION) {
                    let answer = self.place_learned(merge.client, &frame, &keys);
                    out.extend_from_slice(&answer);
                    return true;
                }
                match slots.split_first() {
                    Some((first, others)) if others.iter().any(|other| other != first) => {
                        out.extend_from_slice(b"-CROSSSLOT Keys in request don't hash to the same slot\r\n");
                        return true;
                    }
                    first => merge.next_stage(Job::SendTo { frame, slot: first.map(|(first, _)| *first) }),
                }
            }
            _ => {}
        }
        false
    }

    /// The request itself, now that its slot is known.
    pub(super) fn send_to_stage(&mut self, index: u32) {
        let merge = self.merges.remove(index as usize);
        let (client, seq) = (merge.client, merge.seq);
        let via = self.clients[client as usize].via();
        let Job::SendTo { frame, slot } = merge.job else { return };
        let target = slot.map_or(Target::Any(self.any_slot(client)), Target::Slot);
        let reply = self.clients[client as usize].reply(seq);
        reply.slot = slot.map_or(super::session::NO_SLOT, Slot::get);
        reply.state = State::Sent { lane: super::ids::NONE };
        self.send_part(whole(client, seq), target, via, 0, |out| out.extend_from_slice(&frame));
    }
}

fn bulk(element: &[u8]) -> Option<&[u8]> {
    match view(element) {
        Some(View::Bulk(text) | View::Simple(text)) => Some(text),
        _ => None,
    }
}

/// COMMAND INFO's one element: name, arity, flags, first key, last key, step, …
fn learned_keys(reply: &[u8]) -> LearnedKeys {
    let Some(View::Array(mut commands)) = view(reply) else { return LearnedKeys::NoCommand };
    let Some(View::Array(fields)) = commands.next().and_then(view) else { return LearnedKeys::NoCommand };
    let fields: Vec<&[u8]> = fields.collect();
    let number = |place: usize| match fields.get(place).and_then(|field| view(field)) {
        Some(View::Integer(number)) => number,
        _ => 0,
    };
    let moving = match fields.get(2).and_then(|flags| view(flags)) {
        Some(View::Array(flags) | View::Set(flags)) => flags.filter_map(bulk).any(|flag| flag == b"movablekeys"),
        _ => false,
    };
    match (moving, number(3), number(4), number(5)) {
        (true, ..) => LearnedKeys::Moving,
        (false, first, last, step) if first > 0 && step > 0 => {
            LearnedKeys::Range { first: first as usize, last, step: step as usize }
        }
        _ => LearnedKeys::None,
    }
}

enum Keyed {
    Slot(Slot, bool),
    CrossSlot,
    No,
}

fn keys_of_range<'a>(frame: &'a [u8], spans: &'a [Span], first: usize, last: i64, step: usize) -> impl Iterator<Item = &'a [u8]> {
    let end = if last < 0 { spans.len() as i64 + last } else { last };
    (first..).step_by(step).take_while(move |at| *at as i64 <= end && *at < spans.len()).map(|at| spans[at].of(frame))
}

fn slot_of_range(frame: &[u8], spans: &[Span], first: usize, last: i64, step: usize) -> Keyed {
    let mut slots = keys_of_range(frame, spans, first, last, step).map(Slot::of);
    let Some(slot) = slots.next() else { return Keyed::No };
    let mut many = false;
    for other in slots {
        if other != slot {
            return Keyed::CrossSlot;
        }
        many = true;
    }
    Keyed::Slot(slot, many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_info_tells_where_the_keys_are() {
        let check = |reply: &str, expected: LearnedKeys| assert_eq!(learned_keys(reply.as_bytes()), expected, "{reply}");
        check("*1\r\n*-1\r\n", LearnedKeys::NoCommand);
        check("*1\r\n$-1\r\n", LearnedKeys::NoCommand);
        check("*1\r\n_\r\n", LearnedKeys::NoCommand);
        check(
            "*1\r\n*6\r\n$3\r\nfoo\r\n:-2\r\n*1\r\n+write\r\n:1\r\n:-1\r\n:2\r\n",
            LearnedKeys::Range { first: 1, last: -1, step: 2 },
        );
        check("*1\r\n*6\r\n$3\r\nfoo\r\n:-2\r\n~1\r\n+movablekeys\r\n:0\r\n:0\r\n:0\r\n", LearnedKeys::Moving);
        check("*1\r\n*6\r\n$3\r\nfoo\r\n:1\r\n*0\r\n:0\r\n:0\r\n:0\r\n", LearnedKeys::None);
    }

    #[test]
    fn keys_of_a_range_share_a_slot_or_not() {
        let mut frame = Vec::new();
        encode::command(&mut frame, &[b"FOO", b"{a}1", b"x", b"{a}2", b"y"]);
        let spans = super::super::pump::spans_of(&frame).expect("just written");
        let slot = Slot::of(b"{a}");
        assert!(matches!(slot_of_range(&frame, &spans, 1, -1, 2), Keyed::Slot(found, true) if found == slot));
        assert!(matches!(slot_of_range(&frame, &spans, 1, 1, 1), Keyed::Slot(found, false) if found == slot));
        assert!(matches!(slot_of_range(&frame, &spans, 1, -1, 1), Keyed::CrossSlot));
        assert!(matches!(slot_of_range(&frame, &spans, 7, 7, 1), Keyed::No));
    }
}
