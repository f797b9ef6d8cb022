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
    pub(super) fn shape(self) -> (usize, usize) {
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
        // Counts of ours are corrected, also those of one slot.
        let corrected = kind == SplitKind::ShardNumsub && !self.pubsub.registry.is_empty();
        let taken = if !corrected && by_slot.iter().all(|(slot, _)| *slot == first) {
            self.send_single(client, first, frame, keys > 1)
        } else {
            by_slot.sort_unstable_by_key(|(slot, key)| u64::from(slot.get()) << 32 | u64::from(*key));
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
        // Neighbouring slots have the same owner mostly: it is asked for its lane once.
        let mut with_room = None;
        for group in by_slot.chunk_by(|a, b| a.0 == b.0) {
            let slot = group[0].0;
            if guarded || (group.len() > 1 && self.table.is_moving(slot, self.now)) {
                self.nothing_unfinished(client, slot)?;
            }
            let owner = self.table.owner(slot);
            if owner != with_room {
                self.lane_has_room(client, slot)?;
                with_room = owner;
            }
        }
        let seq = self.owe(client, State::Sent { lane: NONE }, None);
        let via = self.clients[client as usize].via();
        let merge = self.open_merge(client, seq, via, kind.job());
        self.merges[merge as usize].order.extend(by_slot.iter().map(|(_, key)| *key));
        let writer = PartWriter::new(std::mem::take(&mut self.scratch), kind, frame, spans);
        let mut first = 0;
        let mut moving = false;
        let (mut owner, mut lane) = (None, None);
        for group in by_slot.chunk_by(|a, b| a.0 == b.0) {
            let slot = group[0].0;
            moving |= group.len() > 1 && self.table.is_moving(slot, self.now);
            if lane.is_none() || self.table.owner(slot) != owner {
                (owner, lane) = (self.table.owner(slot), self.lane_of(Target::Slot(slot), via));
            }
            self.add_part_on(merge, lane, Target::Slot(slot), 0, (first, group.len() as u32), |out| {
                writer.write(out, group.iter().map(|(_, key)| *key as usize));
            });
            first += group.len() as u32;
        }
        self.scratch = writer.lead;
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
        let writer = PartWriter::new(Vec::new(), kind, frame, &spans);
        for key in 0..keys {
            let slot = Slot::of(spans[lead_args + key * step].of(frame));
            self.add_part(merge, Target::Slot(slot), 0, (first + key as u32, 1), |out| {
                writer.write(out, std::iter::once(key));
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

/// Writes a split request's parts: one slot's command each, its name and the arguments of its keys as they came.
pub(super) struct PartWriter<'a> {
    frame: &'a [u8],
    spans: &'a [Span],
    /// As in [`SplitKind::shape`].
    lead_args: usize,
    step: usize,
    /// What stands before the key of a part that has one, as most have.
    lead: Vec<u8>,
}

impl<'a> PartWriter<'a> {
    /// `room` lends its capacity.
    pub(super) fn new(mut room: Vec<u8>, kind: SplitKind, frame: &'a [u8], spans: &'a [Span]) -> Self {
        let (lead_args, step) = kind.shape();
        let mut writer = PartWriter { frame, spans, lead_args, step, lead: Vec::new() };
        room.clear();
        writer.write_lead(&mut room, 1);
        writer.lead = room;
        writer
    }

    fn write_lead(&self, out: &mut Vec<u8>, keys: usize) {
        encode::array(out, self.lead_args + keys * self.step);
        out.extend_from_slice(self.arguments(0, self.lead_args));
    }

    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>, keys: impl ExactSizeIterator<Item = usize>) {
        match keys.len() {
            1 => out.extend_from_slice(&self.lead),
            several => self.write_lead(out, several),
        }
        for key in keys {
            out.extend_from_slice(self.arguments(self.lead_args + key * self.step, self.step));
        }
    }

    /// Neighbouring arguments with their headers: each follows the one before, and the first the frame's own header.
    #[inline]
    fn arguments(&self, first: usize, count: usize) -> &'a [u8] {
        let start = match first.checked_sub(1) {
            Some(before) => self.spans[before].end() + 2,
            None => self.frame.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1),
        };
        &self.frame[start..self.spans[first + count - 1].end() + 2]
    }
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
            PartWriter::new(Vec::new(), SplitKind::Mset, frame, &spans).write(&mut out, keys.iter().copied());
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expected));
        };
        check(&[1], b"*3\r\n$4\r\nmset\r\n$10\r\nbbbbbbbbbb\r\n$2\r\nxx\r\n");
        check(&[0, 2], b"*5\r\n$4\r\nmset\r\n$1\r\na\r\n$0\r\n\r\n$1\r\nc\r\n$1\r\n1\r\n");
    }
}
