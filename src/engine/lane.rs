//! A lane: one connection to a node that many clients share. Requests go out in order, replies come back in order.

use std::collections::VecDeque;

use zeroize::Zeroizing;

use crate::resp::{Proto, ReplyScanner, encode};

use super::{
    ids::{LaneId, Micros, NONE, NodeId, Ticket, UserId},
    pipe::Pipe,
    users::Login,
};

/// Bytes of a reply from which it is passed on piece by piece while it is still arriving. Smaller ones are delivered whole, so
/// that a connection that breaks in the middle of one leaves nothing half told.
pub const STREAM_FROM: usize = 64 * 1024;

/// What two requests must have in common to share a lane to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    pub proto: Proto,
    pub user: UserId,
}

/// Whom a lane serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every client that may ride it; bulk lanes carry large frames only.
    Shared { bulk: bool },
    /// One client at a time, as long as its lease lasts.
    Private(Lease),
    /// The worker's subscriptions of one user: messages come in, to whom they may concern.
    Push,
    /// It brings MONITOR's lines to this client.
    Monitor { client: u32 },
}

impl Role {
    /// It holds state of one client's.
    pub fn is_pinned(self) -> bool {
        matches!(self, Role::Private(Lease::Pinned { .. }))
    }
}

/// How long a private lane is one client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Nobody's: it waits to be leased, since this moment.
    Idle { since: Micros },
    /// Until the request that it was leased for is answered.
    Request,
    /// Nobody's yet: a CLIENT UNBLOCK that was meant for the last one may still be on its way.
    Settling,
    /// Until it is given back: the connection holds state of the client's.
    Pinned { client: u32 },
}

/// Where a lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// The driver is connecting.
    Dialing,
    /// Connected; this many replies to the greeting are still to come.
    Greeting(u8),
    Open,
}

/// One request that was queued on a lane and is not answered yet.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    pub ticket: Ticket,
    /// Bytes in the pipe, of a small frame; 0: it is a large one, which the pipe keeps by itself.
    pub len: u32,
    /// The retry that holds the request's history, or `NONE` for a fresh one.
    pub retry: u32,
    /// Replies that come before the request's own and are of no interest: ASKING's, or those inside of a MULTI.
    pub lead: u32,
}

impl InFlight {
    #[inline]
    pub fn is_large(&self) -> bool {
        self.len == 0
    }
}

/// What happens to the pieces of a reply that is being streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Not streaming: the reply is collected in `carry` until it is whole.
    No,
    /// To the client's own pipe: its reply is the next that the client awaits.
    Direct,
    /// Collected, because the client awaits another reply first or it is one part of many.
    Collect,
    /// Nobody wants it: the client is gone or asked for silence.
    Discard,
}

/// See the module's head.
pub struct Lane {
    pub id: LaneId,
    pub node: NodeId,
    pub via: Via,
    pub role: Role,
    pub state: LaneState,
    /// What is still to be written of it. It may hold a password.
    pub greeting: Zeroizing<Vec<u8>>,
    pub greeting_replies: u8,
    pub pipe: Pipe,
    pub queue: VecDeque<InFlight>,
    /// How many of the oldest request's `lead` replies have come.
    pub lead_seen: u32,
    /// An error among them: why a unit was refused, where EXEC only says that it was.
    pub lead_error: Option<Vec<u8>>,
    /// What the request itself said where MULTI had been refused before it: it was carried out then and there.
    pub lead_answer: Option<Vec<u8>>,
    pub scanner: ReplyScanner,
    /// The beginning of a reply that is not whole yet.
    pub carry: Vec<u8>,
    /// How much of `carry` the scanner has taken; what follows is a header that was cut.
    pub carry_scanned: usize,
    pub stream: Stream,
    /// The pieces of a reply that streams and cannot be passed on yet.
    pub collected: Vec<u8>,
    pub dirty: bool,
    /// When bytes last came, or when the oldest request in flight was queued on an idle lane.
    pub progress_us: Micros,
    /// Clients whose reading pauses until this lane has room again.
    pub blocked: Vec<u32>,
    /// The CLIENT ID of this connection at its node, of a private lane whose user may ask for it.
    pub node_client: Option<i64>,
    /// CLIENT UNBLOCKs for it that are not answered yet.
    pub unblocks: u32,
}

impl Lane {
    /// `words`: a command that it says behind its greeting.
    pub fn new(
        id: LaneId,
        node: NodeId,
        via: Via,
        role: Role,
        login: Option<&Login>,
        words: Option<Vec<Vec<u8>>>,
        now: Micros,
    ) -> Self {
        let mut greeting = Zeroizing::default();
        let mut replies = 0;
        if let Some(login) = login {
            encode::command(&mut greeting, &login.words());
            replies += 1;
        }
        if via.proto == Proto::Resp3 {
            encode::command(&mut greeting, &[b"HELLO", b"3"]);
            replies += 1;
        }
        if let Some(words) = words {
            encode::command(&mut greeting, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
            replies += 1;
        }
        if matches!(role, Role::Private(_)) {
            encode::command(&mut greeting, &[b"CLIENT", b"ID"]);
            replies += 1;
        }
        Lane {
            id,
            node,
            via,
            role,
            state: LaneState::Dialing,
            greeting,
            greeting_replies: replies,
            pipe: Pipe::default(),
            queue: VecDeque::new(),
            lead_seen: 0,
            lead_error: None,
            lead_answer: None,
            scanner: ReplyScanner::default(),
            carry: Vec::new(),
            carry_scanned: 0,
            stream: Stream::No,
            collected: Vec::new(),
            dirty: false,
            progress_us: now,
            blocked: Vec::new(),
            node_client: None,
            unblocks: 0,
        }
    }

    /// Whether its node owes an answer for longer than `timeout_us`. On a private lane it may take all the time in the world: that is
    /// what blocking commands are for, unless it is there to watch keys.
    pub fn is_overdue(&self, now: Micros, timeout_us: Micros) -> bool {
        let patient = matches!(self.role, Role::Private(_)) && !self.role.is_pinned() && self.is_open();
        let awaits = !self.queue.is_empty() || (matches!(self.role, Role::Monitor { .. }) && !self.is_open());
        !patient && awaits && self.progress_us + timeout_us < now
    }

    /// Queues one request. `write` appends its bytes; `lead` replies come before its own.
    #[inline(always)]
    pub fn enqueue(&mut self, ticket: Ticket, retry: u32, lead: u32, now: Micros, write: impl FnOnce(&mut Vec<u8>)) {
        if self.queue.is_empty() {
            self.progress_us = now;
        }
        let before = self.pipe.small().len();
        write(self.pipe.small());
        let len = (self.pipe.small().len() - before) as u32;
        self.queue.push_back(InFlight { ticket, len, retry, lead });
    }

    /// Whether it is many clients' and has no pushes inside of replies, nothing of a reply is here that is not whole yet, and nobody waits for room.
    pub fn is_plain(&self) -> bool {
        let between = self.carry.is_empty() && self.stream == Stream::No && self.scanner.at_start() && !self.scanner.has_asides();
        self.is_open() && matches!(self.role, Role::Shared { .. }) && between && self.blocked.is_empty()
    }

    /// The oldest request in flight, released, if it is as nearly all are: small, all written, sent once and alone.
    #[inline(always)]
    pub fn pop_plain(&mut self) -> Option<Ticket> {
        let front @ InFlight { ticket, len, retry, lead } = *self.queue.front()?;
        let once = retry == NONE && lead == 0 && !front.is_large();
        if !once || !self.pipe.front_written(len as usize, false) {
            return None;
        }
        self.queue.pop_front();
        self.pipe.release_small(len as usize);
        Some(ticket)
    }

    /// Whether what is queued is written at once.
    pub fn is_open(&self) -> bool {
        self.state == LaneState::Open
    }
}
