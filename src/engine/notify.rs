//! Telling a client what answers no request of its: a line of MONITOR, an invalidation.
//!
//! It never comes inside of a reply, and never before one that arrived earlier: whoever is told that a key has changed has been told
//! before what it was.

use super::{
    Engine,
    ids::NONE,
    lane::Stream,
    merge::Merge,
    session::{Ending, Session, State},
};

/// What a telling has to come behind.
enum Behind {
    Nothing,
    /// The reply at this place of the queue, which is here and waits for others.
    Reply(usize),
    /// Parts of this merge are here.
    Merge(u32),
    /// A reply is on its way to the client piece by piece, from this lane.
    Stream(u32),
}

impl Engine {
    /// Tells the client these bytes as soon as they may be told.
    pub(super) fn notify(&mut self, client: u32, bytes: &[u8]) {
        let Some(session) = self.clients.get(client as usize) else { return };
        if session.ending == Ending::Gone || session.close_told || bytes.is_empty() {
            return;
        }
        match self.told_behind(session) {
            Behind::Nothing => {
                self.activate(client).out.small().extend_from_slice(bytes);
                self.mark_client_dirty(client);
            }
            Behind::Reply(place) => self.activate(client).append_to_reply(place, bytes),
            Behind::Merge(merge) => {
                self.merges[merge as usize].told.extend_from_slice(bytes);
                self.activate(client).told_later += bytes.len();
            }
            Behind::Stream(lane) => {
                self.lanes[lane as usize].collected.extend_from_slice(bytes);
                self.activate(client).told_later += bytes.len();
            }
        }
        self.check_output(client);
    }

    /// What these bytes had to come behind is whole.
    pub(super) fn notify_now(&mut self, client: u32, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(active) = self.clients.get_mut(client as usize).and_then(|session| session.active.as_mut()) {
            active.told_later -= bytes.len();
        }
        self.notify(client, bytes);
    }

    fn told_behind(&self, session: &Session) -> Behind {
        let Some(active) = session.active.as_deref() else { return Behind::Nothing };
        for (place, reply) in active.replies.iter().enumerate().rev() {
            match reply.state {
                State::Parked { .. } | State::Whole { .. } => return Behind::Reply(place),
                State::Merging { merge } if self.merges.get(merge as usize).is_some_and(Merge::has_begun) => {
                    return Behind::Merge(merge);
                }
                State::Sent { lane } if place == 0 && lane != NONE && self.streams(lane, session) => return Behind::Stream(lane),
                _ => {}
            }
        }
        Behind::Nothing
    }

    /// Whether this lane is sending the client's next reply on as it comes.
    fn streams(&self, lane: u32, session: &Session) -> bool {
        let Some(lane) = self.lanes.get(lane as usize).filter(|lane| lane.stream == Stream::Direct) else { return false };
        lane.queue.front().is_some_and(|front| {
            front.ticket.seq == session.head
                && self.clients.get(front.ticket.client as usize).is_some_and(|other| other.public_id == session.public_id)
        })
    }
}
