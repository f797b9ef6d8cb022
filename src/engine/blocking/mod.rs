//! Blocking commands: taken when nothing else of their client is in flight, each on a private lane of its own.
//!
//! A blocked request has a retry record like any that waits to be sent; what makes it different stands in its [`Block`]. A refusal
//! (its slot moved, its node is no master any more) sends it on with the time that is left. Its end is `blocked_reply`, whatever
//! ends it.

mod block;
mod frame;
mod give_back;
mod poll;
mod single;
#[cfg(test)]
mod tests;
mod unblock;
mod wait;

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::{
    cluster::Slot,
    command::{self, Command},
    resp::{Span, encode},
};

use super::{
    Engine, RefreshCause,
    forward::whole,
    ids::{ClientId, Micros, NONE, Ticket},
    lane::{InFlight, Lease, Role, Via},
    merge::Job,
    pump::Retry,
    refused::Speaker,
    send::Target,
    session::{Ending, Pause, State},
};

pub use self::{
    block::{Block, Wish},
    give_back::Takes,
    poll::Poll,
    unblock::Unblock,
};

/// How a node answers one that CLIENT UNBLOCK has ended with its word ERROR.
const CUT: &[u8] = b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";

/// How Redis 7.0 ends an XREADGROUP whose stream was deleted, or moved to another node. Asked again, the owner knows which.
const VANISHED: &[u8] = b"-UNBLOCKED the stream key no longer exists";

/// Bytes that a blocked client may send ahead. They are read so that its end is noticed; with more, it is noticed later.
const READ_AHEAD_MAX: usize = 1024 * 1024;

/// A node that kept a request for so long has accepted it: what refused it before is history.
const SERVED_US: Micros = 100_000;

/// How a client is blocked.
pub(super) enum Blocked {
    No,
    /// By these requests: their retry records, and the lanes that they are on.
    At(Vec<(u32, Option<u32>)>),
    /// By asking again and again: this merge.
    Polling(u32),
}

/// What was popped for a client and perhaps not written to it yet.
pub struct Popped {
    takes: Takes,
    via: Via,
    len: usize,
    /// The client's count of commands: a later one shows that this is over.
    commands: u64,
}

impl Engine {
    /// Takes a command that may occupy its connection.
    pub(super) fn blocking(&mut self, index: u32, command: &'static Command, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        if !command.accepts(spans.len()) || self.is_unknown_here(command) {
            return self.send_any(index, frame);
        }
        self.barrier(index)?;
        if self.clients[index as usize].ending != Ending::No {
            // It has ended its stream meanwhile: a server would not have come so far.
            self.close_told(index);
            return Ok(());
        }
        if self.table.map.is_none() {
            return self.await_map(index, frame);
        }
        if matches!(command.name, "WAIT" | "WAITAOF") {
            return self.wait(index, command, frame, spans);
        }
        let mut keys = std::mem::take(&mut self.keys);
        keys.clear();
        let found = command::keys(command, frame, spans, &mut keys);
        let slot_of = |key: &u32| Slot::of(spans[*key as usize].of(frame));
        let taken = match found.ok().and_then(|()| keys.split_first()) {
            None => {
                self.block_at(index, Target::Any(self.any_slot(index)), Block::new(command, frame, spans, &[], self.now), frame)
            }
            Some((first, others)) => match others.iter().find(|key| slot_of(key) != slot_of(first)) {
                Some(stray) => {
                    let two = (*first as usize, *stray as usize);
                    self.block_across(index, command, frame, spans, &keys, two)
                }
                None => {
                    let block = Block::new(command, frame, spans, &keys, self.now);
                    self.block_at(index, Target::Slot(slot_of(first)), block, frame)
                }
            },
        };
        self.keys = keys;
        taken
    }

    /// Blocks a client with one request.
    fn block_at(&mut self, index: u32, target: Target, block: Block, frame: &[u8]) -> Result<(), Pause> {
        if !self.private_lanes_left(1) {
            self.refuse_for_lanes(index);
            return Ok(());
        }
        let via = self.clients[index as usize].via();
        let seq = self.owe(index, State::Sent { lane: NONE }, target.slot());
        self.raise_barrier(index);
        self.blocked_count(1);
        self.hold_blocking(whole(index, seq), target, via, Bytes::copy_from_slice(frame), block);
        Ok(())
    }

    fn hold_blocking(&mut self, ticket: Ticket, target: Target, via: Via, frame: Bytes, block: Block) {
        let mut retry = Retry::new(ticket, frame, target, via, 0, self.now + self.settings.retry_deadline_us);
        retry.private = Some(None);
        retry.block = Some(Box::new(block));
        self.hold(retry);
    }

    fn refuse_for_lanes(&mut self, index: u32) {
        let name = self.clients[index as usize].last_command.map_or_else(String::new, |command| command.lower_name());
        let text = format!(
            "-ERR proxy: '{name}' is refused: all {} private connections of this worker are in use (limits.private_lanes)\r\n",
            self.settings.private_lanes_max
        );
        self.reply_now(index, text.as_bytes());
    }

    /// Counts clients that are blocked, over all workers.
    fn blocked_count(&mut self, change: i64) {
        self.facts.blocked_clients.fetch_add(change as u64, Relaxed);
    }

    /// Writes a blocked request to its lane.
    pub(super) fn queue_blocking(&mut self, lane: u32, place: u32, asking: bool) {
        let now = self.now;
        let retry = &mut self.retries[place as usize];
        let (ticket, frame) = (retry.ticket, retry.frame.clone());
        let block = retry.block.as_mut().expect("only blocked requests are sent so");
        let (bytes, lead) = block.write(&frame, now, asking);
        self.queue(lane, ticket, place, lead, |out| out.extend_from_slice(&bytes));
    }

    /// What a blocked request that waits in the proxy is answered by now, if it is to end.
    pub(super) fn blocked_end(&self, place: u32) -> Option<Vec<u8>> {
        let retry = &self.retries[place as usize];
        let block = retry.block.as_ref()?;
        let over = block.until().is_some_and(|until| until <= self.now);
        match block.wish {
            _ if self.clients[retry.ticket.client as usize].ending == Ending::Gone => Some(Vec::new()),
            Wish::End { error: true } => Some(CUT.to_vec()),
            Wish::End { error: false } => Some(block.nothing(retry.via.proto)),
            Wish::Nothing | Wish::Elsewhere => over.then(|| block.nothing(retry.via.proto)),
        }
    }

    /// A node answered a blocked request.
    pub(super) fn blocked_reply(&mut self, lane: u32, entry: &InFlight, reply: &[u8]) {
        let place = entry.retry;
        let wish = self.left_lane(place);
        let gone = self.clients[entry.ticket.client as usize].ending == Ending::Gone;
        let held = match reply.first() {
            Some(b'-') if gone => false,
            Some(b'-') if reply == CUT => wish == Wish::Elsewhere && self.block_elsewhere(place),
            Some(b'-') if is_of_replica(reply) => {
                self.refresh(RefreshCause::Moved);
                self.block_elsewhere(place)
            }
            Some(b'-') if reply.starts_with(VANISHED) => {
                self.refresh(RefreshCause::Moved);
                if let Some(block) = self.retries[place as usize].block.as_mut() {
                    block.vanished = Some(reply.to_vec());
                }
                self.block_elsewhere(place)
            }
            Some(b'-') => self.answer_error(lane, entry, reply, Speaker::Node),
            _ => false,
        };
        self.release(lane, entry);
        if !held {
            let retry = &mut self.retries[place as usize];
            let Some(block) = retry.block.as_mut() else { return };
            let proxys_own = match block.vanished.take() {
                Some(vanished) if reply.first() == Some(&b'-') => Some(vanished),
                _ if reply == CUT && wish == (Wish::End { error: false }) => Some(block.nothing(retry.via.proto)),
                _ => None,
            };
            self.end_blocked(place, proxys_own.as_deref().unwrap_or(reply));
        }
    }

    /// A blocked request's time on a lane is over, and does not count towards its deadline. Answers what was wished of it.
    fn left_lane(&mut self, place: u32) -> Wish {
        let now = self.now;
        let retry = &mut self.retries[place as usize];
        let Some(block) = retry.block.as_mut() else { return Wish::Nothing };
        let stayed = block.left_lane(now);
        retry.deadline += stayed;
        if stayed > SERVED_US {
            (retry.tries, retry.hops) = (0, 0);
        }
        let wish = block.wish;
        if wish == Wish::Elsewhere {
            block.wish = Wish::Nothing;
        }
        wish
    }

    /// A blocked request leaves its node, which did not carry it out, and is sent where its slot is now. Where the proxy itself wished
    /// it, nothing is to be learned from it: a map that was asked for would have it leave again.
    fn block_elsewhere(&mut self, place: u32) -> bool {
        let retry = &mut self.retries[place as usize];
        retry.tries += 1;
        let ticket = retry.ticket;
        self.await_turn(ticket, place);
        true
    }

    /// The lane of a blocked request broke.
    ///
    /// What only reads is sent again. A pop may have been carried out in the moment before, and its element may have gone down with
    /// the node or with the connection: sent again it could take a second one. Nobody can know, so its client is told.
    pub(super) fn blocked_lane_lost(&mut self, entry: &InFlight, written: bool) {
        let place = entry.retry;
        let wish = self.left_lane(place);
        let retry = &mut self.retries[place as usize];
        let Some(block) = retry.block.as_ref() else { return };
        if !written || block.again || wish == (Wish::End { error: true }) {
            retry.last = "the connection to the node was lost".into();
            retry.tries += 1;
            let ticket = retry.ticket;
            return self.await_turn(ticket, place);
        }
        self.counters.unknown_outcomes += 1;
        let name = super::pump::name_of(&retry.frame).unwrap_or_default();
        let text = format!(
            "-ERR proxy: outcome unknown: the connection to the node broke while '{}' waited there: it may have been served just before\r\n",
            String::from_utf8_lossy(&name).to_ascii_lowercase()
        );
        self.end_blocked(place, text.as_bytes());
    }

    /// Answers a blocked request for good.
    fn end_blocked(&mut self, place: u32, reply: &[u8]) {
        let retry = self.retries.remove(place as usize);
        let Some(block) = retry.block else { return };
        self.hand_over(retry.ticket, block.takes, retry.via, reply);
        self.unblocked(retry.ticket);
        self.deliver(retry.ticket, reply);
    }

    /// Called when a blocked request's record goes: parts of a WAIT are counted as one.
    pub(super) fn unblocked(&mut self, ticket: Ticket) {
        if ticket.part == NONE {
            self.blocked_count(-1);
        }
    }

    /// What was popped is about to be delivered; for a client that is gone it goes back where it was.
    fn hand_over(&mut self, ticket: Ticket, takes: Takes, via: Via, reply: &[u8]) {
        if takes == Takes::Nothing || reply.first() != Some(&b'*') {
            return;
        }
        let session = &mut self.clients[ticket.client as usize];
        if session.ending == Ending::Gone {
            return self.give_back_popped(ticket.client, takes, via, reply);
        }
        if session.reply(ticket.seq).silent {
            return;
        }
        session.popped = Some(Box::new(Popped { takes, via, len: reply.len(), commands: session.commands }));
    }

    fn give_back_popped(&mut self, client: u32, takes: Takes, via: Via, reply: &[u8]) {
        let Some((key, frame)) = takes.give_back(reply) else { return };
        self.counters.given_back += 1;
        let seq = self.owe_unseen(client);
        let merge = self.open_merge(client, seq, via, Job::GiveBack);
        self.add_part(merge, Target::Slot(Slot::of(&key)), 0, (0, 0), |out| out.extend_from_slice(&frame));
    }

    /// How a client is blocked: by what stands at the head of its queue.
    pub(super) fn blocked(&self, client: u32) -> Blocked {
        let session = &self.clients[client as usize];
        let Some(head) = session.active.as_ref().and_then(|active| active.replies.front()) else { return Blocked::No };
        match head.state {
            State::Merging { merge } => match self.merges[merge as usize].job {
                Job::Poll(_) => Blocked::Polling(merge),
                Job::Wait => {
                    let parts = &self.merges[merge as usize].parts;
                    Blocked::At(parts.iter().filter_map(|part| self.blocked_in(&part.state)).collect())
                }
                _ => Blocked::No,
            },
            ref state => self.blocked_in(state).map_or(Blocked::No, |found| Blocked::At(vec![found])),
        }
    }

    fn blocked_in(&self, state: &State) -> Option<(u32, Option<u32>)> {
        let (place, lane) = match *state {
            State::Waiting { retry } => (retry, None),
            State::Sent { lane } => {
                let found = self.lanes.get(lane as usize).filter(|lane| lane.role == Role::Private(Lease::Request))?;
                (found.queue.front()?.retry, Some(lane))
            }
            _ => return None,
        };
        self.retries.get(place as usize)?.block.as_ref().map(|_| (place, lane))
    }

    pub(super) fn is_blocked(&self, client: u32) -> bool {
        !matches!(self.blocked(client), Blocked::No)
    }

    /// A blocked client is read on, although nothing of it is carried out, so that its end is seen.
    pub(super) fn reads_while_blocked(&self, client: u32) -> bool {
        let held = self.clients[client as usize].active.as_ref().map_or(0, |active| active.input.len());
        held < READ_AHEAD_MAX && self.is_blocked(client)
    }

    /// How many clients are blocked here, for the drain at the end: nothing is to be waited for.
    pub fn blocked_clients(&self) -> Vec<ClientId> {
        self.clients.iter().map(|(index, _)| index as u32).filter(|client| self.is_blocked(*client)).map(ClientId).collect()
    }

    /// Owes a reply that its client will not see: the proxy's own doing.
    fn owe_unseen(&mut self, client: u32) -> u32 {
        let now: Micros = self.now;
        let session = &mut self.clients[client as usize];
        let before = session.commands;
        let mode = std::mem::replace(&mut session.reply_mode, super::session::ReplyMode::Off);
        let seq = self.owe(client, State::Sent { lane: NONE }, None);
        let session = &mut self.clients[client as usize];
        (session.commands, session.reply_mode) = (before, mode);
        debug_assert_eq!(session.reply(seq).arrived, now);
        seq
    }
}

/// What WAIT says on a node that is no master any more.
fn is_of_replica(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR WAIT") && reply.windows(16).any(|text| text == b"replica instance")
}

/// `*-1` or `_`.
fn null_array(proto: crate::resp::Proto) -> Vec<u8> {
    let mut out = Vec::new();
    encode::null_array(&mut out, proto);
    out
}
