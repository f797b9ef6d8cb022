//! WATCH: a private lane to the slot's owner, which is the client's until EXEC, DISCARD or UNWATCH. The server that holds the keys
//! notices every change of them; that a slot, a node or a connection goes away ends the watch, and EXEC answers null.

use bytes::Bytes;

use crate::{
    cluster::Slot,
    resp::{Span, encode},
};

use super::{
    super::{
        Engine,
        answer::lane_mut,
        ids::{LaneId, NONE, Ticket},
        lane::{Lease, Role},
        merge::{Job, Merge},
        pump::Retry,
        send::Target,
        session::{Pause, State},
    },
    CrossSlot, Watched, cross_slot,
};

/// Keys that one client may watch: each costs memory here and on its node.
const WATCHED_KEYS_MAX: usize = 1_000_000;

/// WATCH under way: for each of its parts what is needed when the part is answered.
#[derive(Debug)]
pub struct WatchJob(Vec<Begun>);

#[derive(Debug)]
struct Begun {
    slot: Slot,
    key: Vec<u8>,
    asking: bool,
}

impl Engine {
    pub(super) fn watch(&mut self, index: u32, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        // What this client wrote before must not look like another's change.
        self.barrier(index)?;
        let per_slot = self.settings.cross_slot_transactions == CrossSlot::PerSlot;
        let keys: Vec<&[u8]> = spans[1..].iter().map(|span| span.of(frame)).collect();
        let transaction = self.clients[index as usize].transaction.get_or_insert_default();
        let bound = transaction.watched.first().map_or((Slot::of(keys[0]), keys[0]), |watched| (watched.slot, &watched.key));
        if let Some(other) = keys.iter().find(|key| Slot::of(key) != bound.0).filter(|_| !per_slot) {
            let advice = "keys that are watched together are of one slot, unless cross_slot.transactions is \"per-slot\"";
            let error = cross_slot(bound, (Slot::of(other), other), advice);
            self.reply_now(index, &error);
            return Ok(());
        }
        if transaction.keys.len() + keys.len() > WATCHED_KEYS_MAX {
            self.reply_now(index, format!("-ERR proxy: more than {WATCHED_KEYS_MAX} watched keys\r\n").as_bytes());
            return Ok(());
        }
        let hash = |key: &&[u8]| std::hash::BuildHasher::hash_one(&rustc_hash::FxBuildHasher, *key);
        transaction.keys.extend(keys.iter().map(hash));
        let mut by_slot: Vec<(Slot, Vec<&[u8]>)> = Vec::new();
        for key in keys {
            let slot = Slot::of(key);
            match by_slot.iter_mut().find(|(known, _)| *known == slot) {
                Some((_, keys)) => keys.push(key),
                None => by_slot.push((slot, vec![key])),
            }
        }
        let begun = by_slot.iter().map(|(slot, keys)| Begun { slot: *slot, key: keys[0].to_vec(), asking: false });
        let merge = self.owe_merge(index, Job::Watch(WatchJob(begun.collect())));
        let parts: Vec<(Slot, Bytes)> = by_slot.into_iter().map(|(slot, keys)| (slot, watch_frame(&keys))).collect();
        for (slot, frame) in parts {
            self.watch_slot(merge, slot, frame);
        }
        Ok(())
    }

    /// On the lane that watches keys of this slot already, or on a new one.
    fn watch_slot(&mut self, merge: u32, slot: Slot, frame: Bytes) {
        let entry = &self.merges[merge as usize];
        let (client, seq, via) = (entry.client, entry.seq, entry.via);
        let known = self.clients[client as usize].transaction.as_ref().and_then(|transaction| {
            transaction.watched.iter().find(|watched| watched.slot == slot).map(|watched| (watched.lane, watched.asking))
        });
        let part = self.add_private_part(merge, Target::Slot(slot), known.map(|(lane, _)| lane));
        let ticket = Ticket { client, seq, part };
        match known {
            None => {
                let deadline = self.clients[client as usize].reply(seq).arrived + self.settings.retry_deadline_us;
                self.hold(Retry::new(ticket, frame, Target::Slot(slot), via, 0, deadline).pinned());
            }
            Some((lane, asking)) => match lane_mut(&mut self.lanes, lane).map(|lane| lane.id.index) {
                None => self.deliver(ticket, super::exec::LANE_LOST),
                Some(lane) => self.queue(lane, ticket, NONE, u32::from(asking), |out| {
                    if asking {
                        encode::command(out, &[b"ASKING"]);
                    }
                    out.extend_from_slice(&frame);
                }),
            },
        }
    }

    /// A WATCH goes out on a lane of its own.
    pub(in super::super) fn watch_sent(&mut self, ticket: Ticket, asking: bool) {
        if let State::Merging { merge } = self.clients[ticket.client as usize].reply(ticket.seq).state
            && let Job::Watch(WatchJob(begun)) = &mut self.merges[merge as usize].job
        {
            begun[ticket.part as usize].asking = asking;
        }
    }

    /// One part of a WATCH is answered: its lane is kept, or was of no use.
    pub(in super::super) fn watch_answered(&mut self, merge: u32, part: u32, reply: &[u8]) {
        let entry = &mut self.merges[merge as usize];
        let Job::Watch(WatchJob(begun)) = &mut entry.job else { return };
        let begun = &mut begun[part as usize];
        let (slot, key, asking) = (begun.slot, std::mem::take(&mut begun.key), begun.asking);
        let lane = match entry.parts[part as usize].state {
            State::Sent { lane } => Some(lane),
            _ => None,
        };
        let client = entry.client;
        let transaction = self.clients[client as usize].transaction.get_or_insert_default();
        let known = transaction.watched.iter_mut().find(|watched| watched.slot == slot);
        match (known, lane.and_then(|lane| self.lanes.get(lane as usize))) {
            // What was watched before is lost with it.
            (Some(known), _) => known.broken |= reply.first() == Some(&b'-'),
            (None, Some(lane)) if reply.first() == Some(&b'+') => {
                transaction.watched.push(Watched { slot, key, lane: lane.id, asking, broken: false });
            }
            (None, Some(lane)) if lane.role == Role::Private(Lease::Pinned { client }) => {
                let unused = lane.id.index;
                self.give_back(unused);
            }
            (None, _) => {}
        }
    }

    /// All parts of a WATCH are answered.
    pub(in super::super) fn merged_watch(&mut self, merge: &Merge, out: &mut Vec<u8>) {
        let watched = self.clients[merge.client as usize].transaction.as_ref();
        let is_watched = |part: &usize| {
            let slot = merge.parts[*part].target.slot();
            watched.is_some_and(|transaction| transaction.watched.iter().any(|watched| Some(watched.slot) == slot))
        };
        match (0..merge.parts.len()).find(|part| !is_watched(part)) {
            Some(failed) => out.extend_from_slice(merge.reply(failed)),
            None => encode::simple(out, "OK"),
        }
    }

    /// Ends all watches and answers `reply`. The lanes are used again by others, once they have forgotten what they watched.
    pub(super) fn unwatch(&mut self, index: u32, reply: &[u8]) -> Result<(), Pause> {
        let watched = self.take_watched(index);
        self.release_watches(index, watched, reply)
    }

    pub(super) fn release_watches(&mut self, index: u32, watched: Vec<Watched>, reply: &[u8]) -> Result<(), Pause> {
        let mut alive = |watched: &Watched| lane_mut(&mut self.lanes, watched.lane).map(|lane| lane.id.index);
        let lanes: Vec<u32> = watched.iter().filter_map(&mut alive).collect();
        if lanes.is_empty() {
            self.reply_now(index, reply);
            return Ok(());
        }
        let merge = self.owe_merge(index, Job::Unwatch { reply: reply.to_vec() });
        let (client, seq) = (index, self.merges[merge as usize].seq);
        for lane in lanes {
            let found = &mut self.lanes[lane as usize];
            found.role = Role::Private(Lease::Request);
            let id = found.id;
            let part = self.add_private_part(merge, Target::Any(self.any_slot(client)), Some(id));
            self.queue(lane, Ticket { client, seq, part }, NONE, 0, |out| encode::command(out, &[b"UNWATCH"]));
        }
        Ok(())
    }

    /// What the client watched, which it does not any more.
    pub(super) fn take_watched(&mut self, index: u32) -> Vec<Watched> {
        let Some(transaction) = self.clients[index as usize].transaction.as_mut() else { return Vec::new() };
        transaction.keys.clear();
        std::mem::take(&mut transaction.watched)
    }

    /// EXEC was answered on this lane, so it watches nothing any more.
    pub(super) fn end_watch(&mut self, lane: LaneId) {
        if let Some(lane) = lane_mut(&mut self.lanes, lane).map(|lane| lane.id.index) {
            self.give_back(lane);
        }
    }

    /// Closes a lane that still watches.
    pub(super) fn close_watch(&mut self, lane: LaneId) {
        if let Some(lane) = lane_mut(&mut self.lanes, lane).map(|lane| lane.id.index) {
            self.retire(lane);
        }
    }
}

fn watch_frame(keys: &[&[u8]]) -> Bytes {
    let mut out = Vec::new();
    encode::array(&mut out, keys.len() + 1);
    encode::bulk(&mut out, "WATCH");
    keys.iter().for_each(|key| encode::bulk(&mut out, key));
    out.into()
}
