//! The short way of what nearly all requests are: one small command with one key, of a client in whose way nothing stands; and of
//! nearly all replies: in one piece and no error. Each decides with what it has at hand, and changes nothing unless all of it holds:
//! else the request or reply goes the way of all others (`intake`, `answer`), which would do the same with it.

use crate::{
    cluster::Slot,
    command::{self, Command},
    resp::{Limits, ShortRequest, plain_reply_len},
};

use super::{
    Engine,
    forward::whole,
    ids::NONE,
    pipe::LARGE_FRAME,
    session::{Reply, State},
};

/// A whole request that needs to be known no closer.
struct Plain {
    command: &'static Command,
    slot: Slot,
    len: usize,
}

/// The request at the start of `buf`, if it is a small one with one key.
#[inline(always)]
fn plain_request(buf: &[u8], limits: &Limits) -> Option<Plain> {
    let mut request = ShortRequest::begin(buf, limits)?;
    let command = command::lookup(request.argument()?).filter(|command| command.has_one_key)?;
    let slot = Slot::of(request.argument()?);
    let len = request.end().filter(|len| *len < LARGE_FRAME)?;
    Some(Plain { command, slot, len })
}

impl Engine {
    /// Passes requests from the front of `buf` on to the lanes of their keys until one is not plain. Answers how many bytes it took.
    #[inline(never)]
    pub(super) fn pass_on(&mut self, index: u32, buf: &[u8]) -> usize {
        let Engine { clients, lanes, table, pool, agenda, settings, counters, now, .. } = self;
        let session = &mut clients[index as usize];
        if !session.is_unhindered() {
            return 0;
        }
        let mut rest = buf;
        while let Some(request) = plain_request(rest, &settings.limits)
            && let Some(lane) = table.shared_lane(request.slot, session.via())
        {
            let lane = &mut lanes[lane as usize];
            let owed = session.owed();
            let behind_others = owed > 0 && (owed >= settings.pipeline_depth || !session.is_settled(table.version));
            if behind_others || lane.pipe.held() > settings.lane_buffer_max {
                break;
            }
            let state = State::Sent { lane: lane.id.index };
            let reply = Reply { state, slot: request.slot.get(), silent: false, arrived: *now };
            let seq = session.owe(reply, table.version, pool);
            session.last_command = Some(request.command);
            let (frame, behind) = rest.split_at(request.len);
            lane.enqueue(whole(index, seq), NONE, 0, *now, |out| out.extend_from_slice(frame));
            agenda.write_lane(lane);
            counters.requests += 1;
            rest = behind;
        }
        buf.len() - rest.len()
    }

    /// Gives whole replies from the front of `data` to their clients, and to the merges that wait for them, until one is not plain or sets
    /// off more than writing. Answers how many bytes it took; none: the first reply is not plain.
    pub(super) fn give_plain(&mut self, index: u32, data: &[u8]) -> usize {
        let Engine { clients, lanes, merges, agenda, settings, .. } = self;
        let Some(lane) = lanes.get_mut(index as usize).filter(|lane| lane.is_plain()) else { return 0 };
        let mut rest = data;
        let (mut full, mut merged) = (None, None);
        while full.is_none()
            && merged.is_none()
            && let Some(len) = plain_reply_len(rest)
            && let Some(ticket) = lane.pop_plain()
        {
            let (reply, behind) = rest.split_at(len);
            rest = behind;
            let session = &mut clients[ticket.client as usize];
            if ticket.part == NONE {
                session.fill(ticket.seq, reply);
                agenda.filled(ticket.client, session);
                full = (session.output_held() > settings.output_buffer_max).then_some(ticket.client);
                continue;
            }
            let State::Merging { merge } = session.reply(ticket.seq).state else {
                unreachable!("a part's reply belongs to a merge")
            };
            if merges[merge as usize].take_reply(ticket.part, reply) {
                merged = Some(merge);
            } else if session.waiting > 0 {
                // A finished part may let a waiting one of the same client go on.
                agenda.pump(ticket.client, session);
            }
        }
        if let Some(client) = full {
            self.check_output(client);
        }
        if let Some(merge) = merged {
            self.finish_merge(merge);
        }
        data.len() - rest.len()
    }
}
