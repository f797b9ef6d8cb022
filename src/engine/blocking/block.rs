//! One blocked request: what it waits for, how long still, and the bytes that say so to a node.

use crate::{
    command::Command,
    resp::{Proto, Span, View, encode, view},
};

use super::{
    super::{ids::Micros, pump::spans_of},
    frame::{Timeout, ids_from_now, rewritten},
    give_back::Takes,
};

/// What the proxy wants of a request that is blocked at a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    #[default]
    Nothing,
    /// That it leaves the node, to be sent where its slot is now.
    Elsewhere,
    /// That it ends: CLIENT UNBLOCK, with its word ERROR or without.
    End { error: bool },
}

/// What it answers when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    Null,
    Zero,
    TwoZeros,
}

/// A stream that is read from now on: `$`. Now was when the request first came, wherever it is sent later.
#[derive(Debug)]
struct FromNow {
    key: usize,
    id: usize,
    /// The last id of the stream when the request was blocked there.
    last: Option<Vec<u8>>,
}

/// See the module's head. It is kept in the request's retry record.
#[derive(Debug)]
pub struct Block {
    pub takes: Takes,
    /// It may be sent again although a node may have carried it out: it only reads.
    pub again: bool,
    /// Sent before it, so that the node's WAIT speaks of all that was written there until now.
    pub mark: &'static [u8],
    pub wish: Wish,
    /// It went behind ASKING: to the node that is taking its slot over.
    pub asked: bool,
    /// What a node said when the stream that was waited for went away: perhaps only to another node.
    pub vanished: Option<Vec<u8>>,
    nothing: Nothing,
    timeout: Option<Timeout>,
    started: Micros,
    until: Option<Micros>,
    /// It is on a lane since.
    sent: Option<Micros>,
    from_now: Vec<FromNow>,
    /// How many of the questions for last ids were answered.
    learnt: usize,
}

impl Block {
    pub fn new(command: &Command, frame: &[u8], spans: &[Span], keys: &[u32], now: Micros) -> Block {
        let timeout = Timeout::of(command, frame, spans);
        let wait_us = timeout.and_then(|timeout| timeout.read(frame, spans)).filter(|us| *us > 0);
        let is_wait = matches!(command.name, "WAIT" | "WAITAOF");
        let from_now = if command.name == "XREAD" { ids_from_now(frame, spans) } else { Vec::new() };
        Block {
            takes: Takes::of(command, frame, spans, keys),
            again: is_wait || command.flags.is_readonly(),
            mark: b"",
            wish: Wish::Nothing,
            asked: false,
            vanished: None,
            nothing: match command.name {
                "WAIT" => Nothing::Zero,
                "WAITAOF" => Nothing::TwoZeros,
                _ => Nothing::Null,
            },
            timeout: timeout.filter(|_| wait_us.is_some()),
            started: now,
            until: wait_us.map(|us| now + us),
            sent: None,
            from_now: from_now.into_iter().map(|(key, id)| FromNow { key, id, last: None }).collect(),
            learnt: 0,
        }
    }

    /// When its client is told that nothing came; never, if it waits for ever.
    pub fn until(&self) -> Option<Micros> {
        self.until
    }

    /// Its bytes for a lane, with the time that is left, and how many replies come before its own.
    pub fn write(&mut self, frame: &[u8], now: Micros, asking: bool) -> (Vec<u8>, u32) {
        (self.sent, self.asked, self.learnt) = (Some(now), asking, 0);
        let spans = spans_of(frame).expect("a request that was accepted before");
        let (mut out, mut lead) = (self.mark.to_vec(), u32::from(!self.mark.is_empty()));
        let mut ask = |out: &mut Vec<u8>| {
            if asking {
                encode::command(out, &[b"ASKING"]);
                lead += 1;
            }
        };
        let mut changes = Vec::new();
        for stream in &self.from_now {
            match &stream.last {
                Some(last) => changes.push((stream.id, last.clone())),
                None => {
                    ask(&mut out);
                    encode::command(&mut out, &[b"XREVRANGE", spans[stream.key].of(frame), b"+", b"-", b"COUNT", b"1"]);
                }
            }
        }
        ask(&mut out);
        lead += self.from_now.iter().filter(|stream| stream.last.is_none()).count() as u32;
        if let (Some(timeout), Some(until)) = (self.timeout, self.until)
            && now > self.started
        {
            changes.push((timeout.argument, timeout.write(until.saturating_sub(now).max(1))));
        }
        if changes.is_empty() {
            out.extend_from_slice(frame);
        } else {
            rewritten(frame, &spans, &changes, &mut out);
        }
        (out, lead)
    }

    /// Takes a reply that came before its own: the answer to ASKING, to a question for a stream's last id, or to the mark.
    pub fn learn(&mut self, reply: &[u8]) {
        if reply.first() == Some(&b'+') {
            return;
        }
        let unknown = self.from_now.iter_mut().filter(|stream| stream.last.is_none());
        // Answers come in the order of the questions; each that is learnt is not unknown any more.
        if let Some(stream) = unknown.into_iter().nth(self.learnt) {
            stream.last = last_id(reply);
            self.learnt += usize::from(stream.last.is_none());
        }
    }

    /// It has left its lane. Answers how long it was there.
    pub fn left_lane(&mut self, now: Micros) -> Micros {
        self.sent.take().map_or(0, |sent| now - sent)
    }

    /// Whether it is on its lane since this moment, or for longer.
    pub fn was_sent_by(&self, moment: Micros) -> bool {
        self.sent.is_some_and(|sent| sent <= moment)
    }

    /// Whether it would see the same elsewhere: a stream that is read from an unknown "now" on would lose what comes in between.
    pub fn can_leave(&self) -> bool {
        self.from_now.iter().all(|stream| stream.last.is_some())
    }

    /// What its client is told when nothing came.
    pub fn nothing(&self, proto: Proto) -> Vec<u8> {
        let mut out = Vec::new();
        match self.nothing {
            Nothing::Null => encode::null_array(&mut out, proto),
            Nothing::Zero => encode::integer(&mut out, 0),
            Nothing::TwoZeros => out.extend_from_slice(b"*2\r\n:0\r\n:0\r\n"),
        }
        out
    }
}

/// The id in the answer to `XREVRANGE key + - COUNT 1`; the least of all if there is none.
pub fn last_id(reply: &[u8]) -> Option<Vec<u8>> {
    let Some(View::Array(mut entries)) = view(reply) else { return None };
    let Some(entry) = entries.next() else { return Some(b"0-0".to_vec()) };
    match view(entry)? {
        View::Array(mut entry) => match view(entry.next()?)? {
            View::Bulk(id) => Some(id.to_vec()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Vec<u8> {
        let mut frame = Vec::new();
        encode::command(&mut frame, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        frame
    }

    fn block(words: &[&str]) -> (Vec<u8>, Block) {
        let frame = request(words);
        let spans = spans_of(&frame).expect("just written");
        let command = crate::command::resolve(&frame, &spans).expect("a known command");
        let mut keys = Vec::new();
        crate::command::keys(command, &frame, &spans, &mut keys).expect("it has keys");
        let block = Block::new(command, &frame, &spans, &keys, 1_000_000);
        (frame, block)
    }

    #[test]
    fn it_goes_as_it_came_and_again_with_what_is_left() {
        let (frame, mut block) = block(&["BLPOP", "q", "2"]);
        assert_eq!(block.write(&frame, 1_000_000, false), (frame.clone(), 0));
        assert_eq!(block.left_lane(1_700_000), 700_000);
        assert_eq!(block.until(), Some(3_000_000));
        assert_eq!(block.write(&frame, 1_700_000, false), (request(&["BLPOP", "q", "1.3005"]), 0));
        let asking = [request(&["ASKING"]), request(&["BLPOP", "q", "1.0005"])].concat();
        assert_eq!(block.write(&frame, 2_000_000, true), (asking, 1));
    }

    #[test]
    fn for_ever_stays_for_ever() {
        let (frame, mut block) = block(&["BLPOP", "q", "0"]);
        assert_eq!(block.until(), None);
        assert_eq!(block.write(&frame, 9_000_000, false), (frame.clone(), 0));
    }

    #[test]
    fn from_now_on_is_from_when_it_was_first_asked() {
        let (frame, mut block) = block(&["XREAD", "BLOCK", "0", "STREAMS", "a", "b", "c", "$", "7", "$"]);
        let ask = |key: &str| request(&["XREVRANGE", key, "+", "-", "COUNT", "1"]);
        assert_eq!(block.write(&frame, 1_000_000, false), ([ask("a"), ask("c"), frame.clone()].concat(), 2));
        assert!(!block.can_leave());
        block.learn(b"*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
        block.learn(b"-MOVED 1 h:1\r\n");
        let again = request(&["XREAD", "BLOCK", "0", "STREAMS", "a", "b", "c", "5-1", "7", "$"]);
        let asking = request(&["ASKING"]);
        assert_eq!(block.write(&frame, 2_000_000, true), ([&asking[..], &ask("c"), &asking, &again].concat(), 3));
        block.learn(b"+OK\r\n");
        block.learn(b"*0\r\n");
        block.learn(b"+OK\r\n");
        assert!(block.can_leave());
        let last = request(&["XREAD", "BLOCK", "0", "STREAMS", "a", "b", "c", "5-1", "7", "0-0"]);
        assert_eq!(block.write(&frame, 3_000_000, false), (last, 0));
    }
}
