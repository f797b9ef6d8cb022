//! What a batch leaves to be done behind it: lanes and clients to be written, and clients to be looked at.

use super::{
    ids::{ClientId, LaneId},
    lane::Lane,
    session::{Ending, Session},
};

/// Bytes of replies from which a client is written although more of its replies are about to come.
const WRITE_FROM: usize = 16 * 1024;

/// Lists without doubles: whoever stands in one has a mark, but for the last. See the module's head.
#[derive(Default)]
pub struct Agenda {
    pub dirty_lanes: Vec<LaneId>,
    pub dirty_clients: Vec<ClientId>,
    /// They have something to be written, and more is about to come.
    pub lazy_clients: Vec<ClientId>,
    pub to_pump: Vec<u32>,
    pub to_resume: Vec<u32>,
    /// Clients that may have come to rest, or to their end.
    pub touched: Vec<u32>,
}

impl Agenda {
    /// Whether no client is to be looked at.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.to_pump.is_empty() && self.to_resume.is_empty() && self.touched.is_empty()
    }

    #[inline]
    pub fn write_lane(&mut self, lane: &mut Lane) {
        if !lane.dirty {
            lane.dirty = true;
            self.dirty_lanes.push(lane.id);
        }
    }

    #[inline]
    pub fn write_client(&mut self, client: u32, session: &mut Session) {
        if !session.dirty {
            session.dirty = true;
            self.dirty_clients.push(ClientId(client));
        }
    }

    #[cold]
    pub fn pump(&mut self, client: u32, session: &mut Session) {
        if !std::mem::replace(&mut session.to_pump, true) {
            self.to_pump.push(client);
        }
    }

    #[cold]
    pub fn resume(&mut self, client: u32, session: &mut Session) {
        if !std::mem::replace(&mut session.to_resume, true) {
            self.to_resume.push(client);
        }
    }

    /// What a filled reply sets off: writing, and whatever waited for it.
    #[inline(always)]
    pub fn filled(&mut self, client: u32, session: &mut Session) {
        let Some(active) = session.active.as_ref() else { return };
        let (held, owed) = (active.out.held(), active.replies.len());
        if owed == 0 || held >= WRITE_FROM {
            self.write_client(client, session);
            if session.ending != Ending::No {
                self.touched.push(client);
            }
        } else if held > 0 && session.lazy == 0 && !session.dirty {
            session.lazy = 1;
            self.lazy_clients.push(ClientId(client));
        }
        if session.waiting > 0 {
            self.pump(client, session);
        }
        if session.pause.is_some() {
            self.resume(client, session);
        }
    }
}
