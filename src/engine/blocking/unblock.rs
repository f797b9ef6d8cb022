//! Ending a block before its time: the client is gone, CLIENT UNBLOCK was said, or the slot goes elsewhere.
//!
//! Closing the lane would leave a moment in which the node still pops for it. So the node is told to unblock it, on a shared lane,
//! and what the blocked lane then answers is final. A lane that is being unblocked is leased to nobody else before the answer.

use crate::{cluster::Slot, resp::encode};

use super::{
    super::{
        Engine, Event, answer,
        ids::{LaneId, Micros, NONE},
        lane::{Lease, Role},
        merge::{Job, Merge},
        orders::Order,
        retry::backoff_us,
        send::Target,
        session::{Ending, Pause},
    },
    Blocked, Wish,
};

/// A CLIENT UNBLOCK that is under way to a node.
#[derive(Debug)]
pub struct Unblock {
    lane: LaneId,
    /// The retry record of the request that is to end.
    place: u32,
    error: bool,
    tries: u32,
}

/// A node that keeps a request although its slot is on the move is asked again after this long.
const MOVING_LOOK_US: Micros = 1_000_000;

const NO_SUCH_REASON: &[u8] = b"-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n";
const NOT_AN_INTEGER: &[u8] = b"-ERR value is not an integer or out of range\r\n";

impl Engine {
    /// CLIENT UNBLOCK id [TIMEOUT|ERROR]: all workers are asked.
    pub(in super::super) fn client_unblock(&mut self, index: u32, arguments: &[&[u8]]) -> Result<(), Pause> {
        let error = match arguments.get(1) {
            None => false,
            Some(word) if word.eq_ignore_ascii_case(b"TIMEOUT") => false,
            Some(word) if word.eq_ignore_ascii_case(b"ERROR") => true,
            Some(_) => {
                self.reply_now(index, NO_SUCH_REASON);
                return Ok(());
            }
        };
        let Some(id) = super::super::local::strict_integer(arguments[0]) else {
            self.reply_now(index, NOT_AN_INTEGER);
            return Ok(());
        };
        self.order(index, Order::Unblock { id: id as u64, error })
    }

    /// Ends the block of this worker's client with this CLIENT ID. False: there is no such client, or it is not blocked.
    pub(in super::super) fn unblock_client(&mut self, public_id: u64, error: bool) -> bool {
        let alive = |session: &super::super::Session| session.public_id == public_id && session.ending != Ending::Gone;
        let Some(client) = self.clients.iter().find(|(_, session)| alive(session)).map(|(index, _)| index as u32) else {
            return false;
        };
        let found = match self.blocked(client) {
            Blocked::No => false,
            Blocked::Polling(merge) => {
                if let Job::Poll(poll) = &mut self.merges[merge as usize].job {
                    poll.end(error);
                }
                true
            }
            Blocked::At(parts) => {
                for (place, lane) in parts {
                    if let Some(block) = self.retries[place as usize].block.as_mut() {
                        block.wish = Wish::End { error };
                    }
                    self.cut_short(client, place, lane, error);
                }
                true
            }
        };
        self.settle();
        found
    }

    /// The client is gone: what it waits for must not be taken for it, and what was taken and is not written goes back.
    pub(in super::super) fn let_go(&mut self, client: u32) {
        self.give_back_unread(client);
        if let Blocked::At(parts) = self.blocked(client) {
            for (place, lane) in parts {
                self.cut_short(client, place, lane, true);
            }
        }
    }

    /// A pop's reply of which nothing was written yet.
    fn give_back_unread(&mut self, client: u32) {
        let session = &mut self.clients[client as usize];
        let Some(popped) = session.popped.take().filter(|popped| popped.commands == session.commands) else { return };
        let whole = |reply: &&[u8]| crate::resp::first_reply_len(reply) == Some(reply.len());
        let unread =
            session.active.as_ref().and_then(|active| active.out.unwritten_tail(popped.len)).filter(whole).map(<[u8]>::to_vec);
        if let Some(reply) = unread {
            self.give_back_popped(client, popped.takes, popped.via, &reply);
        }
    }

    /// Ends one blocked request as soon as can be.
    fn cut_short(&mut self, client: u32, place: u32, lane: Option<u32>, error: bool) {
        let Some(index) = lane else { return self.pump_later(client) };
        let lane = &self.lanes[index as usize];
        let begun = lane.is_open()
            && lane.queue.front().is_some_and(|front| lane.pipe.front_written(front.len as usize, front.is_large()));
        if begun { self.unblock_at_node(client, place, index, error) } else { self.withdraw(index) }
    }

    /// A request that its node has not read whole, or that cannot be ended there, ends with its lane.
    fn withdraw(&mut self, index: u32) {
        let mut lane = self.lanes.remove(index as usize);
        if let Role::Private(lease) = lane.role {
            self.private.forget(index, lease);
        }
        self.events.push_back(Event::CloseLane { lane: lane.id });
        for entry in std::mem::take(&mut lane.queue) {
            self.left_lane(entry.retry);
            let ticket = entry.ticket;
            self.await_turn(ticket, entry.retry);
        }
    }

    /// Has the node unblock what waits on this private lane.
    fn unblock_at_node(&mut self, client: u32, place: u32, index: u32, error: bool) {
        let lane = &mut self.lanes[index as usize];
        let (id, node, via, name) = (lane.id, lane.node, lane.via, lane.node_client);
        let Some(name) = name else { return self.withdraw(index) };
        lane.unblocks += 1;
        let seq = self.owe_unseen(client);
        let merge = self.open_merge(client, seq, via, Job::Unblock(Unblock { lane: id, place, error, tries: 0 }));
        self.add_part(merge, Target::Node(node), 0, (0, 0), |out| unblock(out, name, error));
    }

    /// The node's answer to an unblock. False: the request had not come to the node yet, so it is said again.
    pub(in super::super) fn merged_unblock(&mut self, merge: &mut Merge) -> bool {
        let (no, refused) = (merge.reply(0) == b":0\r\n", merge.reply(0).first() == Some(&b'-'));
        let gone = self.clients[merge.client as usize].ending == Ending::Gone;
        let Job::Unblock(mut job) = std::mem::replace(&mut merge.job, Job::Sum) else { return true };
        let Some(lane) = answer::lane_mut(&mut self.lanes, job.lane) else { return true };
        let waits = lane.queue.front().is_some_and(|front| front.retry == job.place);
        let block = self.retries.get_mut(job.place as usize).and_then(|retry| retry.block.as_mut()).filter(|_| waits);
        let must_end = waits && (gone || block.as_ref().is_some_and(|block| matches!(block.wish, Wish::End { .. })));
        if must_end && no {
            job.tries += 1;
            merge.next_stage(Job::Unblock(job));
            return false;
        }
        lane.unblocks -= 1;
        let (settled, index) = (lane.role == Role::Private(Lease::Settling) && lane.unblocks == 0, lane.id.index);
        if let Some(block) = block.filter(|block| block.wish == Wish::Elsewhere && (no || refused)) {
            block.wish = Wish::Nothing;
        }
        match refused {
            // Perhaps it is carried out later: nobody else may wait there.
            true if settled => self.retire(index),
            true if must_end => self.withdraw(index),
            false if settled => self.give_back(index),
            _ => {}
        }
        true
    }

    pub(in super::super) fn unblock_stage(&mut self, merge: u32) {
        let entry = &self.merges[merge as usize];
        let (client, seq) = (entry.client, entry.seq);
        let Job::Unblock(job) = &entry.job else { return };
        let (error, tries, id) = (job.error, job.tries, job.lane);
        let Some(lane) = answer::lane_mut(&mut self.lanes, id) else { return };
        let (node, name) = (lane.node, lane.node_client.unwrap_or_default());
        let now = self.now;
        self.clients[client as usize].reply(seq).arrived = now;
        let wait_us = backoff_us(tries, self.random.u64(..));
        self.add_part_later(merge, Target::Node(node), wait_us, |out| unblock(out, name, error));
    }

    /// Sends on what waits at a node where it would not be woken: pushes to a slot that is being moved go to the node that takes it
    /// over, as soon as they meet a key that is not there (any more). Up to Redis 7.0 a node may take a second to let go of what waits
    /// for a slot that it has lost; should the slot come back in this time, it would even serve it, and a BLMOVE would make its
    /// destination a second time. `only` this slot, or all of them.
    ///
    /// A node that was asked when the slot was on the move already has kept the request because what it waits for is still there; it
    /// is asked again from time to time.
    pub(in super::super) fn leave_moving_slots(&mut self, only: Option<Slot>) {
        let leaving = |lane: &super::super::lane::Lane| {
            let front = lane.queue.front().filter(|front| front.retry != NONE && lane.unblocks == 0 && lane.is_open())?;
            let retry = self.retries.get(front.retry as usize).filter(|_| lane.role == Role::Private(Lease::Request))?;
            if only.is_some() && retry.target.slot() != only {
                return None;
            }
            let block = retry.block.as_ref().filter(|block| block.wish == Wish::Nothing && block.can_leave())?;
            let named = lane.node_client.is_some() && lane.pipe.front_written(front.len as usize, front.is_large());
            let moving = retry.target.slot().and_then(|slot| self.table.moving_since(slot, self.now));
            let elsewhere = self.resolve(retry.target).is_some_and(|owner| owner != lane.node);
            let leaves = match moving {
                Some(_) if block.asked => false,
                Some(since) => elsewhere || block.was_sent_by(since.max(self.now.saturating_sub(MOVING_LOOK_US))),
                None => elsewhere,
            };
            (named && leaves).then_some((retry.ticket.client, front.retry, lane.id.index))
        };
        let leaving: Vec<(u32, u32, u32)> = self.lanes.iter().filter_map(|(_, lane)| leaving(lane)).collect();
        for (client, place, lane) in leaving {
            if let Some(block) = self.retries[place as usize].block.as_mut() {
                block.wish = Wish::Elsewhere;
            }
            self.unblock_at_node(client, place, lane, true);
        }
    }
}

/// With its word ERROR the answer cannot be mistaken for a timeout's.
fn unblock(out: &mut Vec<u8>, name: i64, error: bool) {
    let name = name.to_string();
    encode::command(out, &[b"CLIENT", b"UNBLOCK", name.as_bytes(), if error { b"ERROR" } else { b"TIMEOUT" }]);
}
