//! Commands whose keys may lie in many slots: one command a slot, each node's share in one write.

use bytes::Bytes;

use crate::{
    cluster::Slot,
    command::SplitKind,
    resp::{Span, encode},
};

use super::{
    Engine,
    ids::{NONE, Ticket},
    lane::Via,
    merge::Job,
    pump::spans_of,
    send::Target,
    session::{Pause, State},
};

impl SplitKind {
    /// Arguments before the first key, and arguments a key.
    fn shape(self) -> (usize, usize) {
        match self {
            SplitKind::Mget | SplitKind::Sum => (1, 1),
            SplitKind::Mset => (1, 2),
            SplitKind::ShardNumsub => (2, 1),
        }
    }

    fn job(self) -> Job {
        match self {
            SplitKind::Mget => Job::Mget,
            SplitKind::Sum => Job::Sum,
            SplitKind::Mset => Job::AllOk,
            SplitKind::ShardNumsub => Job::ShardNumsub,
        }
    }
}

impl Engine {
    /// Takes a request whose keys may be split. One slot: it goes as it came, untouched.
    pub(super) fn split(&mut self, client: u32, kind: SplitKind, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        let (lead_args, step) = kind.shape();
        let keys = spans.len().saturating_sub(lead_args) / step;
        if keys == 0 {
            return self.send_any(client, frame);
        }
        if !(spans.len() - lead_args).is_multiple_of(step) {
            return self.send_odd(client, frame, spans);
        }
        let mut by_slot = std::mem::take(&mut self.by_slot);
        by_slot.clear();
        by_slot.extend((0..keys).map(|key| (Slot::of(spans[lead_args + key * step].of(frame)), key as u32)));
        let first = by_slot[0].0;
        let taken = if by_slot.iter().all(|(slot, _)| *slot == first) {
            self.send_single(client, first, frame, keys > 1)
        } else {
            by_slot.sort_unstable_by_key(|(slot, key)| (slot.get(), *key));
            self.split_over(client, kind, frame, spans, &by_slot)
        };
        self.by_slot = by_slot;
        taken
    }

    /// A key without its value: the server says so itself, of a request that is as odd and has one key only, since of many it would
    /// say first that they are in several slots.
    fn send_odd(&mut self, client: u32, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        let key = spans[1].of(frame);
        let mut odd = Vec::new();
        encode::command(&mut odd, &[spans[0].of(frame), key, b"", key]);
        self.send_single(client, Slot::of(key), &odd, true)
    }

    fn split_over(
        &mut self,
        client: u32,
        kind: SplitKind,
        frame: &[u8],
        spans: &[Span],
        by_slot: &[(Slot, u32)],
    ) -> Result<(), Pause> {
        let guarded = !self.settled(client);
        for group in by_slot.chunk_by(|a, b| a.0 == b.0) {
            let slot = group[0].0;
            if guarded || (group.len() > 1 && self.table.is_moving(slot, self.now)) {
                self.nothing_unfinished(client, slot)?;
            }
            self.lane_has_room(client, slot)?;
        }
        let seq = self.owe(client, State::Sent { lane: NONE }, None);
        let via = self.clients[client as usize].via();
        let merge = self.open_merge(client, seq, via, kind.job());
        self.merges[merge as usize].order.extend(by_slot.iter().map(|(_, key)| *key));
        let mut first = 0;
        let mut moving = false;
        for group in by_slot.chunk_by(|a, b| a.0 == b.0) {
            let slot = group[0].0;
            moving |= group.len() > 1 && self.table.is_moving(slot, self.now);
            self.add_part(merge, Target::Slot(slot), 0, (first, group.len() as u32), |out| {
                write_part(out, kind, frame, spans, group.iter().map(|(_, key)| *key as usize));
            });
            first += group.len() as u32;
        }
        if moving {
            self.clients[client as usize].unsettle();
        }
        Ok(())
    }

    /// Sends a waiting request, or a waiting part, again as one request a key.
    pub(super) fn split_into_keys(&mut self, ticket: Ticket, frame: &Bytes, via: Via) {
        let (Some(spans), Some(kind)) = (spans_of(frame), split_kind(frame)) else {
            return self.deliver(ticket, b"-ERR proxy: a command that was split cannot be read again\r\n");
        };
        let (lead_args, step) = kind.shape();
        let keys = (spans.len() - lead_args) / step;
        let merge = match self.clients[ticket.client as usize].reply(ticket.seq).state {
            State::Merging { merge } if ticket.part != NONE => merge,
            _ => {
                let merge = self.open_merge(ticket.client, ticket.seq, via, kind.job());
                self.merges[merge as usize].order.extend(0..keys as u32);
                merge
            }
        };
        // The part's keys go over to new parts; what is left of it counts as answered, and says nothing.
        let entry = &mut self.merges[merge as usize];
        let first = match entry.parts.get_mut(ticket.part as usize) {
            Some(part) => {
                let first = part.first;
                part.count = 0;
                first
            }
            None => 0,
        };
        for key in 0..keys {
            let slot = Slot::of(spans[lead_args + key * step].of(frame));
            self.add_part(merge, Target::Slot(slot), 0, (first + key as u32, 1), |out| {
                write_part(out, kind, frame, &spans, std::iter::once(key));
            });
        }
        if ticket.part != NONE {
            let nothing: &[u8] = match kind {
                SplitKind::Mset => b"+OK\r\n",
                SplitKind::Sum => b":0\r\n",
                SplitKind::Mget | SplitKind::ShardNumsub => b"*0\r\n",
            };
            self.part_done(ticket, nothing);
        }
    }
}

fn split_kind(frame: &[u8]) -> Option<SplitKind> {
    match crate::command::lookup(&super::pump::name_of(frame)?)?.class {
        crate::command::Class::Split(kind) => Some(kind),
        _ => None,
    }
}

/// One slot's command: its name and the arguments of its keys, as they came.
fn write_part(out: &mut Vec<u8>, kind: SplitKind, frame: &[u8], spans: &[Span], keys: impl ExactSizeIterator<Item = usize>) {
    let (lead_args, step) = kind.shape();
    encode::array(out, lead_args + keys.len() * step);
    copy_arguments(out, frame, &spans[..lead_args]);
    for key in keys {
        let at = lead_args + key * step;
        copy_arguments(out, frame, &spans[at..at + step]);
    }
}

/// Neighbouring arguments with their headers, in one piece.
fn copy_arguments(out: &mut Vec<u8>, frame: &[u8], spans: &[Span]) {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return };
    // "$<len>\r\n": a length is written without leading zeros, or it was refused.
    let header = 3 + first.len.checked_ilog10().map_or(1, |digits| digits as usize + 1);
    out.extend_from_slice(&frame[first.start as usize - header..last.end() + 2]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_command_with_only_its_keys() {
        let frame = b"*7\r\n$4\r\nmset\r\n$1\r\na\r\n$0\r\n\r\n$10\r\nbbbbbbbbbb\r\n$2\r\nxx\r\n$1\r\nc\r\n$1\r\n1\r\n";
        let spans = spans_of(frame).expect("a whole request");
        let check = |keys: &[usize], expected: &[u8]| {
            let mut out = Vec::new();
            write_part(&mut out, SplitKind::Mset, frame, &spans, keys.iter().copied());
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expected));
        };
        check(&[1], b"*3\r\n$4\r\nmset\r\n$10\r\nbbbbbbbbbb\r\n$2\r\nxx\r\n");
        check(&[0, 2], b"*5\r\n$4\r\nmset\r\n$1\r\na\r\n$0\r\n\r\n$1\r\nc\r\n$1\r\n1\r\n");
    }
}
