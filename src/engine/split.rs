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

/// A key of a split request.
#[derive(Clone, Copy)]
pub struct Asked {
    slot: Slot,
    key: u32,
    /// How many keys of its slot stand here, if it is the first of them.
    count: u32,
    /// The lane that they take, or `NONE`.
    lane: u32,
}

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
        by_slot.extend((0..keys).map(|key| {
            let slot = Slot::of(spans[lead_args + key * step].of(frame));
            Asked { slot, key: key as u32, count: 1, lane: NONE }
        }));
        let first = by_slot[0].slot;
        // Counts of ours are corrected, also those of one slot.
        let corrected = kind == SplitKind::ShardNumsub && !self.pubsub.registry.is_empty();
        let taken = if !corrected && by_slot.iter().all(|asked| asked.slot == first) {
            self.send_single(client, first, frame, keys > 1)
        } else {
            if !self.slot_bits.all_differ(by_slot.iter().map(|asked| asked.slot)) {
                by_slot.sort_unstable_by_key(|asked| u64::from(asked.slot.get()) << 32 | u64::from(asked.key));
                by_slot.chunk_by_mut(|one, next| one.slot == next.slot).for_each(|group| group[0].count = group.len() as u32);
            }
            self.split_over(client, kind, frame, spans, &mut by_slot)
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

    /// `by_slot`: keys of one slot stand together, in their order.
    fn split_over(
        &mut self,
        client: u32,
        kind: SplitKind,
        frame: &[u8],
        spans: &[Span],
        by_slot: &mut [Asked],
    ) -> Result<(), Pause> {
        let guarded = !self.settled(client);
        let via = self.clients[client as usize].via();
        let (mut moving, mut undialled) = (false, false);
        let mut place = 0;
        while let Some(Asked { slot, count, lane, .. }) = by_slot.get_mut(place) {
            place += *count as usize;
            let many_of_moving = *count > 1 && self.table.is_moving(*slot, self.now);
            if guarded || many_of_moving {
                self.nothing_unfinished(client, *slot)?;
            }
            moving |= many_of_moving;
            match self.table.shared_lane(*slot, via) {
                Some(known) if !self.has_room(known) => return self.wait_for_room(client, known),
                Some(known) => *lane = known,
                None => undialled = true,
            }
        }
        if undialled {
            for Asked { slot, lane, .. } in by_slot.iter_mut().filter(|asked| asked.lane == NONE) {
                *lane = self.lane_of(Target::Slot(*slot), via).unwrap_or(NONE);
            }
        }
        let seq = self.owe(client, State::Sent { lane: NONE }, None);
        let merge = self.open_merge(client, seq, via, kind.job());
        let writer = PartWriter::new(std::mem::take(&mut self.scratch), kind, frame, spans);
        if self.send_parts(merge, &writer, by_slot) {
            for (group, part) in groups(by_slot).zip(0..).filter(|(group, _)| group[0].lane == NONE) {
                let ticket = Ticket { client, seq, part };
                self.hold_part(ticket, Target::Slot(group[0].slot), via, 0, |out| writer.write(out, group));
            }
        }
        self.scratch = writer.lead;
        if moving {
            self.clients[client as usize].unsettle();
        }
        Ok(())
    }

    /// Opens a part for each slot's keys, and sends those that have a lane. Answers whether some have none.
    fn send_parts(&mut self, merge: u32, writer: &PartWriter<'_>, by_slot: &[Asked]) -> bool {
        let Engine { merges, lanes, agenda, now, .. } = self;
        let merge = &mut merges[merge as usize];
        let (mut first, mut held) = (0, false);
        for group in groups(by_slot) {
            let Asked { slot, count, lane, .. } = group[0];
            let ticket = merge.open_part(Target::Slot(slot), State::Sent { lane }, (first, count));
            first += count;
            match lanes.get_mut(lane as usize) {
                Some(lane) => {
                    lane.enqueue(ticket, NONE, 0, *now, |out| writer.write(out, group));
                    agenda.write_lane(lane);
                }
                None => held = true,
            }
        }
        merge.order.extend(by_slot.iter().map(|asked| asked.key));
        held
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
                writer.write_keys(out, std::iter::once(key));
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

/// The keys of each slot.
fn groups(by_slot: &[Asked]) -> impl Iterator<Item = &[Asked]> {
    let mut rest = by_slot;
    std::iter::from_fn(move || {
        let (group, behind) = rest.split_at(rest.first()?.count as usize);
        rest = behind;
        Some(group)
    })
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
        let header_end = self.frame.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        out.extend_from_slice(&self.frame[header_end..self.spans[self.lead_args - 1].end() + 2]);
    }

    #[inline(always)]
    fn write(&self, out: &mut Vec<u8>, group: &[Asked]) {
        match group {
            [only] => {
                out.extend_from_slice(&self.lead);
                out.extend_from_slice(self.arguments_of(only.key as usize));
            }
            several => self.write_keys(out, several.iter().map(|asked| asked.key as usize)),
        }
    }

    #[inline(never)]
    pub(super) fn write_keys(&self, out: &mut Vec<u8>, keys: impl ExactSizeIterator<Item = usize>) {
        self.write_lead(out, keys.len());
        keys.for_each(|key| out.extend_from_slice(self.arguments_of(key)));
    }

    /// A key's arguments with their headers: each follows the one before.
    #[inline]
    fn arguments_of(&self, key: usize) -> &'a [u8] {
        let first = self.lead_args + key * self.step;
        &self.frame[self.spans[first - 1].end() + 2..self.spans[first + self.step - 1].end() + 2]
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
            PartWriter::new(Vec::new(), SplitKind::Mset, frame, &spans).write_keys(&mut out, keys.iter().copied());
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expected));
        };
        check(&[1], b"*3\r\n$4\r\nmset\r\n$10\r\nbbbbbbbbbb\r\n$2\r\nxx\r\n");
        check(&[0, 2], b"*5\r\n$4\r\nmset\r\n$1\r\na\r\n$0\r\n\r\n$1\r\nc\r\n$1\r\n1\r\n");
    }
}
