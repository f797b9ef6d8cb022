//! WAIT and WAITAOF: the least of what the masters say.
//!
//! A node's WAIT is about the last write of the connection that it comes on, and the client's writes went over shared lanes. So each
//! master is asked on a private lane, behind a mark that makes that lane's last write "now": any command up to Redis 7.0, which
//! counts a connection as having written whatever it said; later one that is replicated and changes nothing. All that was
//! answered to the client before lies before the mark, so the answer is never more than is true. It may be less, because other clients'
//! writes lie before the mark too, and because every master is asked: which of them the client wrote to is not remembered.
//! A mark that a node refuses (a user who may not run FUNCTION RESTORE, a master without memory) is WAIT's answer: without it the
//! count would speak of nothing.

use bytes::Bytes;

use crate::{
    command::Command,
    resp::{Span, View, encode, view},
};

use super::{
    super::{
        Engine,
        ids::{NONE, Ticket},
        merge::{Job, Merge, Part, integer},
        send::Target,
        session::{Pause, State},
    },
    Block,
};

/// An answer as good as any.
const MARK_BEFORE_7_2: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// FUNCTION RESTORE of a dump without functions, as Redis 7.0 writes it: added to what is there it changes nothing, and is replicated.
const MARK: &[u8] =
    b"*4\r\n$8\r\nFUNCTION\r\n$7\r\nRESTORE\r\n$10\r\n\x0a\x00\x5d\x9b\x5c\x40\x0f\x7f\xa2\xda\r\n$6\r\nAPPEND\r\n";

impl Engine {
    pub(super) fn wait(&mut self, index: u32, command: &'static Command, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        let number = |span: &Span| super::super::local::strict_integer(span.of(frame));
        let sound = spans[1..].iter().all(|span| number(span).is_some()) && spans.last().and_then(number) >= Some(0);
        let new = |now| Block::new(command, frame, spans, &[], now);
        if !sound {
            return self.block_at(index, Target::Any(self.any_slot(index)), new(self.now), frame);
        }
        let targets = self.wait_targets();
        if !self.private_lanes_left(targets.len()) {
            self.refuse_for_lanes(index);
            return Ok(());
        }
        let old = self.persona().is_some_and(|persona| persona.version_numbers() < (7, 2, 0));
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        let via = self.clients[index as usize].via();
        let merge = self.open_merge(index, seq, via, Job::Wait);
        self.raise_barrier(index);
        self.blocked_count(1);
        let whole = Bytes::copy_from_slice(frame);
        for (part, target) in targets.iter().enumerate() {
            let entry = &mut self.merges[merge as usize];
            entry.parts.push(Part { target: *target, state: State::Sent { lane: NONE }, first: 0, count: 0 });
            entry.left += 1;
            let mut block = new(self.now);
            block.mark = if old { MARK_BEFORE_7_2 } else { MARK };
            self.hold_blocking(Ticket { client: index, seq, part: part as u32 }, *target, via, whole.clone(), block);
        }
        Ok(())
    }

    /// The masters that may hold a write of the client's: those with slots, and while slots move also those that only take some over.
    fn wait_targets(&self) -> Vec<Target> {
        let moves = self.table.map.as_ref().is_some_and(|map| !map.open_slots.is_empty());
        self.master_targets().into_iter().filter(|target| moves || !matches!(target, Target::Node(_))).collect()
    }

    pub(in super::super) fn merged_wait(&mut self, merge: &Merge, out: &mut Vec<u8>) {
        self.blocked_count(-1);
        let replies = || (0..merge.parts.len()).map(|part| merge.reply(part));
        if let Some(error) = replies().find(|reply| reply.first() == Some(&b'-')) {
            return out.extend_from_slice(error);
        }
        let pair = |reply| match view(reply) {
            Some(View::Array(elements)) => Some(elements.map(integer).collect::<Vec<i64>>()),
            _ => None,
        };
        match replies().map(pair).collect::<Option<Vec<_>>>() {
            Some(pairs) if !pairs.is_empty() => {
                encode::array(out, 2);
                for place in 0..2 {
                    encode::integer(out, pairs.iter().filter_map(|pair| pair.get(place)).min().copied().unwrap_or(0));
                }
            }
            _ => encode::integer(out, replies().map(integer).min().unwrap_or(0)),
        }
    }
}
