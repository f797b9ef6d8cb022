//! A request that goes to one node as it came: behind what its client has under way, and onto a lane that has room.

use bytes::Bytes;

use crate::cluster::{SLOT_COUNT, Slot};

use super::{
    Engine,
    ids::{NONE, Ticket},
    lane::Via,
    pipe::LARGE_FRAME,
    send::{BULK_FRAME, NotNow, Target},
    session::{Pause, State},
};

impl Engine {
    /// A request whose effect another node must not overtake: it waits for what this client has in flight elsewhere.
    pub(super) fn send_ordered(&mut self, index: u32, target: Target, frame: &[u8]) -> Result<(), Pause> {
        self.behind_others(index, target)?;
        self.send_to(index, target, frame)
    }

    /// Whether nothing of this client is in flight elsewhere than where the target is, and there is room.
    pub(super) fn behind_others(&mut self, index: u32, target: Target) -> Result<(), Pause> {
        let via = self.clients[index as usize].via();
        let lane = self.resolve(target).and_then(|node| self.lane_to(node, via, false).ok());
        let on_it = |state: &State| matches!(state, State::Sent { lane: on } if Some(*on) == lane);
        let elsewhere = self.clients[index as usize].active.as_ref().is_some_and(|active| {
            active.replies.iter().any(|reply| match reply.state {
                State::Merging { merge } => {
                    self.merges[merge as usize].parts.iter().any(|part| !part.is_finished() && !on_it(&part.state))
                }
                _ => !reply.is_finished() && !on_it(&reply.state),
            })
        });
        match lane {
            _ if elsewhere => Err(Pause::Barrier),
            Some(lane) if !self.has_room(lane) => self.wait_for_room(index, lane),
            _ => Ok(()),
        }
    }

    /// To some master: the answer is the same from each, or it is the server's own error text.
    pub(super) fn send_any(&mut self, index: u32, frame: &[u8]) -> Result<(), Pause> {
        self.send_to(index, Target::Any(self.any_slot(index)), frame)
    }

    /// A slot that stands for "any master" for this client: always the same, so that what it sees there is one node's.
    pub(super) fn any_slot(&self, index: u32) -> Slot {
        let spread = self.clients[index as usize].public_id.wrapping_mul(0x9E37_79B9) >> 7;
        Slot::new((spread % SLOT_COUNT as u64) as u16).expect("taken modulo the number of slots")
    }

    fn send_to(&mut self, index: u32, target: Target, frame: &[u8]) -> Result<(), Pause> {
        let via = self.clients[index as usize].via();
        match self.resolve(target).ok_or(NotNow::NoNode).and_then(|node| self.lane_to(node, via, false)) {
            Ok(lane) if !self.has_room(lane) => self.wait_for_room(index, lane),
            Ok(lane) => {
                let seq = self.owe(index, State::Sent { lane }, target.order());
                self.queue(lane, whole(index, seq), NONE, 0, |out| out.extend_from_slice(frame));
                Ok(())
            }
            Err(_) => {
                self.owe_held(index, target, via, frame);
                Ok(())
            }
        }
    }

    #[cold]
    fn owe_held(&mut self, index: u32, target: Target, via: Via, frame: &[u8]) {
        let seq = self.owe(index, State::Sent { lane: NONE }, target.order());
        let frame = self.whole.clone().unwrap_or_else(|| Bytes::copy_from_slice(frame));
        self.hold_fresh(whole(index, seq), target, via, 0, frame, 0);
    }

    /// The request path's end: one slot, one lane.
    #[inline]
    pub(super) fn send_single(&mut self, index: u32, slot: Slot, frame: &[u8], many_keys: bool) -> Result<(), Pause> {
        let session = &self.clients[index as usize];
        let settled = session.owed() == 0 || session.is_settled(self.table.version);
        if !settled || frame.len() >= LARGE_FRAME || many_keys {
            return self.send_guarded(index, slot, frame, many_keys);
        }
        let via = session.via();
        let lane = match self.table.owner(slot) {
            Some(node) => self.lane_to(node, via, false),
            None => Err(NotNow::NoNode),
        };
        let Ok(lane) = lane else {
            self.owe_held(index, Target::Slot(slot), via, frame);
            return Ok(());
        };
        if !self.has_room(lane) {
            return self.wait_for_room(index, lane);
        }
        let seq = self.owe(index, State::Sent { lane }, Some(slot));
        self.queue(lane, whole(index, seq), NONE, 0, |out| out.extend_from_slice(frame));
        Ok(())
    }

    /// As `send_single`, where order has to be looked at first: unsettled sessions, bulk lanes, several keys of a moving slot.
    #[inline(never)]
    fn send_guarded(&mut self, index: u32, slot: Slot, frame: &[u8], many_keys: bool) -> Result<(), Pause> {
        let bulk = frame.len() >= BULK_FRAME;
        let alone = bulk || (many_keys && self.table.is_moving(slot, self.now));
        if !self.settled(index) || alone {
            self.nothing_unfinished(index, slot)?;
        }
        let target = Target::Slot(slot);
        let via = self.clients[index as usize].via();
        match self.resolve(target).ok_or(NotNow::NoNode).and_then(|node| self.lane_to(node, via, bulk)) {
            Ok(lane) if !self.has_room(lane) => return self.wait_for_room(index, lane),
            Ok(lane) => {
                let seq = self.owe(index, State::Sent { lane }, Some(slot));
                if frame.len() >= LARGE_FRAME {
                    let frame = self.whole.clone().unwrap_or_else(|| Bytes::copy_from_slice(frame));
                    self.queue_large(lane, whole(index, seq), NONE, 0, frame);
                } else {
                    self.queue(lane, whole(index, seq), NONE, 0, |out| out.extend_from_slice(frame));
                }
            }
            Err(_) => self.owe_held(index, target, via, frame),
        }
        if alone {
            self.clients[index as usize].unsettle();
        }
        Ok(())
    }

    /// Whether the session may send without comparing slots; takes note of a map that changed under what is in flight.
    pub(super) fn settled(&mut self, index: u32) -> bool {
        let version = self.table.version;
        let session = &mut self.clients[index as usize];
        if session.owed() == 0 {
            return true;
        }
        if session.map_version != version {
            session.map_version = version;
            session.unsettle();
        }
        session.is_settled(version)
    }

    /// Order (architecture, section 5): a request must not meet an unfinished one of its slot while its session is unsettled.
    pub(super) fn nothing_unfinished(&self, index: u32, slot: Slot) -> Result<(), Pause> {
        let Some(active) = self.clients[index as usize].active.as_ref() else { return Ok(()) };
        let meets = active.replies.iter().any(|reply| match reply.state {
            State::Sent { .. } | State::Waiting { .. } => reply.slot == slot.get(),
            State::Merging { merge } => {
                self.merges[merge as usize].parts.iter().any(|part| !part.is_finished() && part.slot() == slot.get())
            }
            State::Parked { .. } | State::Whole { .. } => false,
        });
        if meets { Err(Pause::Order) } else { Ok(()) }
    }

    /// Before a part is sent: its lane, if there is one, has room.
    pub(super) fn lane_has_room(&mut self, index: u32, slot: Slot) -> Result<(), Pause> {
        let via = self.clients[index as usize].via();
        let Some(node) = self.table.owner(slot) else { return Ok(()) };
        let lane = self.table.node(node).lane(via, false);
        match lane {
            NONE => Ok(()),
            lane if self.has_room(lane) => Ok(()),
            lane => self.wait_for_room(index, lane),
        }
    }

    pub(super) fn wait_for_room(&mut self, index: u32, lane: u32) -> Result<(), Pause> {
        self.lanes[lane as usize].blocked.push(index);
        Err(Pause::LaneFull)
    }

    /// A request that acts on all nodes goes alone: it waits for all that came before, and what follows waits for it.
    pub(super) fn barrier(&mut self, index: u32) -> Result<(), Pause> {
        if self.clients[index as usize].owed() > 0 && self.captured.is_none() { Err(Pause::Barrier) } else { Ok(()) }
    }

    /// What follows the reply that is owed last waits for it.
    pub(super) fn raise_barrier(&mut self, index: u32) {
        let session = &mut self.clients[index as usize];
        session.barrier = Some(session.next_seq().wrapping_sub(1));
    }
}

/// The ticket of a request that is the whole of its reply.
pub(super) fn whole(client: u32, seq: u32) -> Ticket {
    Ticket { client, seq, part: NONE }
}
