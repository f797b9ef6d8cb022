//! From a lane's bytes to replies, and from each reply to the client that it belongs to.

use bytes::Bytes;
use slab::Slab;

use crate::resp::{ReplyError, View, view};

use super::{
    Engine, Event, LaneId,
    ids::{ClientId, NONE, Ticket},
    lane::{InFlight, Lane, LaneState, Lease, Role, STREAM_FROM, Stream},
    merge::Job,
    refused::{Speaker, could_be_refusal},
    session::{Ending, State},
    tracking::NOBODY,
};

/// The lane cannot be used on: what came is no reply, answers nothing, or refuses the greeting.
pub(super) struct Broken;

/// How EXEC begins that the node cannot carry out at this moment, as any command: LOADING, READONLY of what has no keys.
const DISCARDED_FOR: &[u8] = b"-EXECABORT Transaction discarded because of: ";

impl From<ReplyError> for Broken {
    fn from(_: ReplyError) -> Self {
        Broken
    }
}

/// A key on the move is only to be had behind ASKING.
const MAY_NOT_ASK: &[u8] =
    b"-NOPERM proxy: the key's slot is moving to another node, where the user needs +asking to reach it\r\n";

/// What a server says of a command between MULTI and EXEC.
const QUEUED: &[u8] = b"+QUEUED\r\n";

/// The lane that an id names, if it is still there.
pub(super) fn lane_mut(lanes: &mut Slab<Lane>, id: LaneId) -> Option<&mut Lane> {
    lanes.get_mut(id.index as usize).filter(|lane| lane.id == id)
}

impl Engine {
    /// The driver reached the node. False when the lane is not wanted any more.
    pub fn lane_connected(&mut self, lane: LaneId) -> bool {
        let Some(found) = lane_mut(&mut self.lanes, lane) else { return false };
        found.progress_us = self.now;
        found.state = match found.greeting_replies {
            0 => LaneState::Open,
            replies => LaneState::Greeting(replies),
        };
        let node = found.node;
        self.table.node(node).dial_succeeded();
        self.mark_lane_dirty(lane.index);
        self.settle();
        true
    }

    pub(super) fn mark_lane_dirty(&mut self, lane_index: u32) {
        self.agenda.write_lane(&mut self.lanes[lane_index as usize]);
    }

    /// Takes what a node sent. An answer that cannot be understood breaks the lane.
    pub fn lane_bytes(&mut self, lane: LaneId, data: &[u8]) {
        let Some(found) = lane_mut(&mut self.lanes, lane) else { return };
        found.progress_us = self.now;
        if let Role::Monitor { client } = found.role {
            self.monitor_bytes(lane, client, data);
            return self.settle();
        }
        if self.read_replies(lane.index, data).is_err() {
            self.counters.broken_lanes += 1;
            self.give_lane_up(lane.index);
        }
        self.settle();
    }

    fn read_replies(&mut self, index: u32, mut data: &[u8]) -> Result<(), Broken> {
        loop {
            let given = self.give_plain(index, data);
            data = &data[given..];
            if data.is_empty() {
                return Ok(());
            }
            if given > 0 {
                continue;
            }
            let Some(lane) = self.lanes.get_mut(index as usize) else { return Ok(()) };
            if lane.carry_scanned < lane.carry.len() {
                data = self.read_cut_header(index, data)?;
                continue;
            }
            let progress = lane.scanner.advance(data)?;
            let piece = &data[..progress.used];
            if progress.done {
                if lane.carry.is_empty() && lane.stream == Stream::No {
                    self.reply_complete(index, piece)?;
                } else {
                    self.reply_ends(index, piece)?;
                }
                data = &data[progress.used..];
            } else {
                self.reply_goes_on(index, piece);
                // A header that was cut waits for its other half.
                if let Some(lane) = self.lanes.get_mut(index as usize) {
                    lane.carry.extend_from_slice(&data[progress.used..]);
                }
                return Ok(());
            }
        }
    }

    /// The carry ends in a part of a header: what came now is added to it, and all of it is read together.
    fn read_cut_header<'a>(&mut self, index: u32, data: &'a [u8]) -> Result<&'a [u8], Broken> {
        let lane = &mut self.lanes[index as usize];
        let cut = lane.carry_scanned;
        let mut pending = lane.carry.split_off(cut);
        pending.extend_from_slice(data);
        lane.carry_scanned = lane.carry.len();
        let progress = lane.scanner.advance(&pending)?;
        if progress.done {
            self.reply_ends(index, &pending[..progress.used])?;
            let rest = pending.len() - progress.used;
            return Ok(&data[data.len() - rest.min(data.len())..]);
        }
        self.reply_goes_on(index, &pending[..progress.used]);
        if let Some(lane) = self.lanes.get_mut(index as usize) {
            lane.carry.extend_from_slice(&pending[progress.used..]);
        }
        Ok(&[])
    }

    /// A part of a reply that is not whole yet: kept, or passed on when the reply is large.
    fn reply_goes_on(&mut self, index: u32, piece: &[u8]) {
        let lane = &mut self.lanes[index as usize];
        if lane.stream == Stream::No {
            let known = (lane.carry.len() + piece.len()) as u64 + lane.scanner.bulk_left();
            let first = lane.carry.first().or(piece.first()).copied();
            let streams = known >= STREAM_FROM as u64 && !matches!(first, Some(b'-' | b'>' | b'|') | None);
            let next =
                |front: &InFlight| front.lead == lane.lead_seen && lane.pipe.front_written(front.len as usize, front.is_large());
            let front = lane.queue.front().copied().filter(|front| streams && next(front));
            match front.filter(|front| !self.is_wrapped(front) && !self.is_blocking(front)) {
                Some(front) => {
                    let stream = self.stream_kind(&front);
                    let lane = &mut self.lanes[index as usize];
                    lane.stream = stream;
                    let begun = std::mem::take(&mut lane.carry);
                    self.stream_piece(index, &begun);
                }
                None => {
                    let lane = &mut self.lanes[index as usize];
                    lane.carry.reserve(piece.len() + (lane.scanner.bulk_left() as usize).min(STREAM_FROM));
                    lane.carry.extend_from_slice(piece);
                    lane.carry_scanned = lane.carry.len();
                    return;
                }
            }
        }
        self.stream_piece(index, piece);
        let lane = &mut self.lanes[index as usize];
        lane.carry_scanned = lane.carry.len();
    }

    fn stream_kind(&mut self, front: &InFlight) -> Stream {
        let session = &mut self.clients[front.ticket.client as usize];
        let next = front.ticket.part == NONE && front.ticket.seq == session.head;
        let silent = session.ending == Ending::Gone || session.reply(front.ticket.seq).silent;
        match (next, silent) {
            (_, true) if front.ticket.part == NONE => Stream::Discard,
            (true, false) => {
                session.mid_reply = true;
                Stream::Direct
            }
            _ => Stream::Collect,
        }
    }

    fn stream_piece(&mut self, index: u32, piece: &[u8]) {
        let lane = &mut self.lanes[index as usize];
        match lane.stream {
            Stream::Collect | Stream::No => {
                let left = lane.scanner.bulk_left() as usize;
                lane.collected.reserve(piece.len() + left.min(STREAM_FROM.max(lane.collected.len())));
                lane.collected.extend_from_slice(piece);
            }
            Stream::Discard => {}
            Stream::Direct => {
                let front = *lane.queue.front().expect("a reply that streams answers the oldest request");
                let client = front.ticket.client;
                let session = &mut self.clients[client as usize];
                if session.ending != Ending::Gone {
                    if let Some(active) = session.active.as_mut() {
                        active.out.small().extend_from_slice(piece);
                    }
                    self.mark_client_dirty(client);
                    self.check_output(client);
                }
            }
        }
    }

    /// The last piece of a reply that came in several.
    fn reply_ends(&mut self, index: u32, piece: &[u8]) -> Result<(), Broken> {
        let lane = &mut self.lanes[index as usize];
        let stream = lane.stream;
        if stream == Stream::No {
            let mut reply = std::mem::take(&mut lane.carry);
            lane.carry_scanned = 0;
            reply.extend_from_slice(piece);
            return self.reply_complete(index, &reply);
        }
        self.stream_piece(index, piece);
        let lane = &mut self.lanes[index as usize];
        (lane.stream, lane.carry_scanned) = (Stream::No, 0);
        lane.carry.clear();
        let collected = std::mem::take(&mut lane.collected);
        let entry = self.pop_front(index)?;
        self.lanes[index as usize].lead_error = None;
        self.release(index, &entry);
        self.drop_retry(entry.retry);
        match stream {
            Stream::Collect if entry.ticket.part == NONE => {
                let client = entry.ticket.client;
                self.clients[client as usize].fill_whole(entry.ticket.seq, Bytes::from(collected));
                self.after_fill(client);
            }
            Stream::Collect => self.part_done(entry.ticket, &collected),
            // Its bytes are on their way already (or nobody wants them): what is left is its place in the queue, and what was told
            // meanwhile.
            _ => {
                if stream == Stream::Direct {
                    self.tell_held(entry.ticket.client);
                }
                self.deliver(entry.ticket, &[]);
                self.notify_now(entry.ticket.client, &collected);
            }
        }
        Ok(())
    }

    /// The request that a reply answers. A reply to one that the node cannot have read whole is no answer to it: what is left to
    /// be written of it would be read as another request.
    pub(super) fn pop_front(&mut self, index: u32) -> Result<InFlight, Broken> {
        let lane = &mut self.lanes[index as usize];
        let front = lane.queue.front().ok_or(Broken)?;
        if !lane.pipe.front_written(front.len as usize, front.is_large()) {
            return Err(Broken);
        }
        lane.lead_seen = 0;
        lane.queue.pop_front().ok_or(Broken)
    }

    /// One whole reply, in one piece.
    fn reply_complete(&mut self, index: u32, reply: &[u8]) -> Result<(), Broken> {
        let lane = &mut self.lanes[index as usize];
        if let LaneState::Greeting(left) = lane.state {
            return self.greeted(index, left, reply);
        }
        if reply.first() == Some(&b'>') {
            if lane.role == Role::Push {
                return self.pushed(index, reply);
            }
            let user = lane.via.user;
            if !self.tracking_push(user, reply) {
                self.counters.unexpected_pushes += 1;
            }
            return Ok(());
        }
        let Some(front) = lane.queue.front() else { return Err(Broken) };
        if lane.lead_seen < front.lead {
            if lane.role == Role::Push {
                return self.push_lane_reply(index, reply);
            }
            if front.ticket == NOBODY {
                let user = lane.via.user;
                let entry = self.pop_front(index)?;
                self.release(index, &entry);
                self.nobody_answered(user);
                return Ok(());
            }
            lane.lead_seen += 1;
            if let Some(block) = self.retries.get_mut(front.retry as usize).and_then(|retry| retry.block.as_mut()) {
                block.learn(reply);
            }
            if lane.lead_error.is_some() && lane.lead_seen == front.lead && reply != QUEUED {
                lane.lead_answer = Some(reply.to_vec());
            }
            // A redirect tells more than what else is wrong: where it leads, that will be told again.
            if let Some(error) = reply.strip_prefix(b"-")
                && (lane.lead_error.is_none() || could_be_refusal(error))
            {
                lane.lead_error = Some(reply.to_vec());
            }
            return Ok(());
        }
        let entry = self.pop_front(index)?;
        if entry.lead > 0 {
            self.unit_complete(index, &entry, reply);
        } else {
            self.judge(index, &entry, reply, Speaker::Unknown);
        }
        Ok(())
    }

    /// Delivers a reply, unless it is a refusal that the client is not to see.
    fn judge(&mut self, index: u32, entry: &InFlight, reply: &[u8], speaker: Speaker) {
        if self.is_blocking(entry) {
            return self.blocked_reply(index, entry, reply);
        }
        let held = reply.first() == Some(&b'-') && self.answer_error(index, entry, reply, speaker);
        self.release(index, entry);
        if !held {
            self.drop_retry(entry.retry);
            self.deliver(entry.ticket, reply);
        }
    }

    /// Whether the request may wait at its node for long.
    #[inline]
    pub(super) fn is_blocking(&self, entry: &InFlight) -> bool {
        entry.retry != NONE && self.retries[entry.retry as usize].block.is_some()
    }

    /// The last reply of a request that others led: ASKING's, or those inside of MULTI and EXEC.
    fn unit_complete(&mut self, index: u32, entry: &InFlight, reply: &[u8]) {
        let lane = &mut self.lanes[index as usize];
        let (refused, answer) = (lane.lead_error.take(), lane.lead_answer.take());
        let reason = reply.strip_prefix(DISCARDED_FOR).filter(|reason| could_be_refusal(reason));
        let reason = reason.map(|reason| [b"-", reason].concat());
        let reply = reason.as_deref().unwrap_or(reply);
        if let (Some(answer), true) = (answer, self.is_wrapped(entry)) {
            // The user may not run MULTI. It was carried out alone, so what it says is the answer, whatever it looks like.
            return self.judge(index, entry, &answer, Speaker::Script);
        }
        let marked = self.is_marked(entry);
        let why = refused.as_deref().filter(|_| marked || reply.starts_with(b"-EXECABORT"));
        if let Some(why) = why.filter(|_| !marked && self.is_transaction(entry)) {
            return self.transaction_refused(index, entry, why);
        }
        let reply = match refused.as_deref() {
            Some(error) if error.starts_with(b"-NOPERM") && reply.starts_with(b"-MOVED ") => MAY_NOT_ASK,
            _ => why.unwrap_or(reply),
        };
        if !self.is_wrapped(entry) {
            return self.judge(index, entry, reply, Speaker::Unknown);
        }
        match reply.strip_prefix(b"*1\r\n") {
            Some(inside) => self.judge(index, entry, inside, Speaker::Script),
            None => self.judge(index, entry, reply, Speaker::Node),
        }
    }

    /// Whether what came before the request must have gone well.
    fn is_marked(&self, entry: &InFlight) -> bool {
        let block = self.retries.get(entry.retry as usize).and_then(|retry| retry.block.as_ref());
        block.is_some_and(|block| !block.mark.is_empty())
    }

    /// Whether it is a client's MULTI and EXEC, not the proxy's own.
    fn is_transaction(&mut self, entry: &InFlight) -> bool {
        match self.clients[entry.ticket.client as usize].reply(entry.ticket.seq).state {
            State::Merging { merge } => matches!(self.merges[merge as usize].job, Job::Exec(_)),
            _ => !self.is_wrapped(entry),
        }
    }

    /// A node refused one of a transaction's commands while it was queued, so all of them.
    fn transaction_refused(&mut self, index: u32, entry: &InFlight, why: &[u8]) {
        let ends_watch = self.lanes[index as usize].role.is_pinned() && could_be_refusal(&why[1..]);
        let held = self.answer_error(index, entry, why, Speaker::Node);
        self.release(index, entry);
        if !held {
            self.drop_retry(entry.retry);
            let text = if ends_watch { why.to_vec() } else { self.aborted_text(why) };
            self.deliver(entry.ticket, &text);
        }
    }

    /// Whether the request went as MULTI, itself, EXEC.
    fn is_wrapped(&self, entry: &InFlight) -> bool {
        entry.retry != NONE && self.retries[entry.retry as usize].wrapped
    }

    fn greeted(&mut self, index: u32, left: u8, reply: &[u8]) -> Result<(), Broken> {
        let lane = &mut self.lanes[index as usize];
        if left == 1 && matches!(lane.role, Role::Private(_)) {
            // Who may not ask for its name can be ended by closing the connection only.
            lane.node_client = match view(reply) {
                Some(View::Integer(name)) => Some(name),
                _ => None,
            };
        } else if reply.first() == Some(&b'-') {
            self.counters.refused_greetings += 1;
            self.tracking_refused(index, reply);
            let Some(lane) = self.lanes.get(index as usize) else { return Ok(()) };
            let user = lane.via.user;
            if self.says_who_clients_are(user, reply) {
                if self.lanes[index as usize].role != Role::Push {
                    self.refuse_user(index, reply);
                    return Ok(());
                }
                self.close_clients_of(self.users.base(user));
            }
            self.last_greeting_error = String::from_utf8_lossy(reply.trim_ascii_end()).into_owned();
            return Err(Broken);
        }
        self.lanes[index as usize].state = if left > 1 { LaneState::Greeting(left - 1) } else { LaneState::Open };
        self.mark_lane_dirty(index);
        if !self.trackers.is_empty() {
            self.tracking_greeted(index, reply);
        }
        Ok(())
    }

    pub(super) fn release(&mut self, index: u32, entry: &InFlight) {
        let lane = &mut self.lanes[index as usize];
        if entry.is_large() {
            lane.pipe.release_large();
        }
        lane.pipe.release_small(entry.len as usize);
        if lane.role == Role::Private(Lease::Request) {
            return self.give_back(index);
        }
        if !lane.blocked.is_empty() {
            self.unblock(index);
        }
    }

    /// Who waits for room on a lane goes on when half of it is free.
    fn unblock(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        if lane.pipe.held() <= self.settings.lane_buffer_max / 2 {
            for client in std::mem::take(&mut lane.blocked) {
                self.resume_later(client);
            }
        }
    }

    /// Gives a finished reply to whom it belongs: a merge, or a client.
    #[inline]
    pub(super) fn deliver(&mut self, ticket: Ticket, reply: &[u8]) {
        if ticket.part == NONE { self.answer(ticket.client, ticket.seq, reply) } else { self.part_done(ticket, reply) }
    }

    /// Fills one owed reply.
    #[inline]
    pub(super) fn answer(&mut self, client: u32, seq: u32, reply: &[u8]) {
        self.clients[client as usize].fill(seq, reply);
        self.after_fill(client);
    }

    /// What a filled reply sets off.
    pub(super) fn after_fill(&mut self, client: u32) {
        self.agenda.filled(client, &mut self.clients[client as usize]);
        self.check_output(client);
    }

    pub(super) fn mark_client_dirty(&mut self, client: u32) {
        self.agenda.write_client(client, &mut self.clients[client as usize]);
    }

    pub(super) fn resume_later(&mut self, client: u32) {
        if let Some(session) = self.clients.get_mut(client as usize) {
            self.agenda.resume(client, session);
        }
    }

    /// A client that does not read what it is owed is cut off at its limit. What overtook others counts too, although none of it can be
    /// written yet.
    pub(super) fn check_output(&mut self, client: u32) {
        let session = &mut self.clients[client as usize];
        if session.output_held() > self.settings.output_buffer_max && !session.close_told {
            session.close_told = true;
            self.counters.output_overflows += 1;
            self.events.push_back(Event::CloseClient { client: ClientId(client) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, sync::Arc};

    use crate::{
        cluster::{Addr, Node, Persona, Role, SlotMap},
        engine::{Engine, Event, LaneId, Scripts, Settings},
        resp::encode,
    };

    /// An engine whose only client has sent `request`, on an open lane to the only node.
    fn asked(request: &[&[u8]]) -> (Engine, LaneId) {
        let mut engine = Engine::new(Settings::default(), Arc::new(Scripts::new(0)), 1, 0);
        let node = Node {
            id: "node".into(),
            addr: Addr::new("127.0.0.1", 7000),
            aliases: Vec::new(),
            role: Role::Master,
            failed: false,
            epoch: 1,
            cursor_has_slot: false,
        };
        engine.map_published(Arc::new(SlotMap::new(1, 0, vec![node], &[(0, 16383, 0)], Persona::default())));
        let client = engine.client_open(1, "127.0.0.1:1", "127.0.0.1:2");
        let mut frame = Vec::new();
        encode::command(&mut frame, request);
        engine.client_bytes(client, &frame);
        let Some(Event::Dial { lane, .. }) = engine.next_event() else { panic!("no lane is dialled") };
        assert!(engine.lane_connected(lane));
        (engine, lane)
    }

    /// A node answers when `unwritten` bytes of the request are still to be written.
    #[track_caller]
    fn check(request: &[&[u8]], unwritten: usize, reply: &[u8], broken: bool) {
        let (mut engine, lane) = asked(request);
        let mut slices = [IoSlice::new(&[]); 4];
        let count = engine.lane_chunks(lane, &mut slices);
        let queued: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        engine.lane_wrote(lane, queued - unwritten);
        engine.lane_bytes(lane, reply);
        assert_eq!(engine.counters.broken_lanes, u64::from(broken));
        assert_eq!(engine.load().owed, usize::from(broken), "a request that was not answered is sent again");
    }

    #[test]
    fn only_what_was_written_can_be_answered() {
        let large = [b'x'; 64 * 1024];
        let streamed = [&b"$70000\r\n"[..], &[b'x'; 70000], b"\r\n"].concat();
        for request in [&[&b"GET"[..], b"a"][..], &[b"SET", b"a", &large]] {
            for reply in [&b"+OK\r\n"[..], b"-ERR no\r\n", &streamed] {
                check(request, 0, reply, false);
                check(request, 1, reply, true);
                check(request, 20, reply, true);
            }
        }
    }
}
