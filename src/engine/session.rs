//! One client: the queue of replies it is owed, what it is owed them through, and what has to wait.
//!
//! An idle client owns no buffer: everything it needs while something is in flight stands in [`Active`], which is taken from a
//! pool of the worker's and given back when the client is at rest.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use slab::Slab;

use crate::{
    access::Standing,
    command::Command,
    resp::{Proto, RequestScanner},
};

use super::{
    blocking::Popped,
    face::Face,
    ids::{Micros, UserId},
    lane::Via,
    modes::Modes,
    pipe::{LARGE_FRAME, Pipe},
    pool::Pool,
    pubsub::{SUBSCRIBER_KEEPS, Subscribed},
    transaction::Transaction,
};

/// No slot: the request has none, or it has many.
pub const NO_SLOT: u16 = u16::MAX;

/// Replies that overtook others are kept in one arena; dead bytes of it are dropped from this size on.
const PARKED_COMPACT: usize = 64 * 1024;

/// Where one owed reply stands. Plain data, so that what comes is noted without a look at what it replaces: that is out of the cache
/// by then, and nothing else needs it.
#[derive(Clone, Copy, Debug)]
pub enum State {
    /// Its request is queued or written on this lane.
    Sent { lane: u32 },
    /// Its request waits to be sent (again).
    Waiting { retry: u32 },
    /// Its request was split; the merge collects the parts.
    Merging { merge: u32 },
    /// It is here, but others come first: `parked[at..at + len]`.
    Parked { at: u32, len: u32 },
    /// As `Parked`, but large: `whole[place]`.
    Whole { place: u32 },
}

/// One owed reply.
#[derive(Debug)]
pub struct Reply {
    pub state: State,
    /// The slot of its request, or `NO_SLOT`.
    pub slot: u16,
    /// CLIENT REPLY said that it is not to be told.
    pub silent: bool,
    /// When its request arrived.
    pub arrived: Micros,
}

impl Reply {
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Parked { .. } | State::Whole { .. })
    }
}

/// What a client needs while something of it is in flight; first what every request and reply looks at.
#[derive(Default)]
#[repr(C)]
pub struct Active {
    pub replies: VecDeque<Reply>,
    pub out: Pipe,
    /// Bytes received and not taken yet: an unfinished request, or what follows one that must wait.
    pub input: Vec<u8>,
    parked_live: usize,
    /// Bytes that are to be told behind a reply which is not whole yet; they are kept where it is.
    pub told_later: usize,
    /// There while large replies wait.
    whole: Option<Box<Whole>>,

    parked: Vec<u8>,
    /// How many bytes `input` needs before scanning it again is worthwhile.
    pub input_needed: usize,
}

/// Large replies that others come before.
#[derive(Default)]
struct Whole {
    replies: Slab<Bytes>,
    bytes: usize,
}

impl Active {
    /// True when nothing in it is of use to anyone.
    pub fn is_at_rest(&self) -> bool {
        self.replies.is_empty() && self.input.is_empty() && self.out.held() == 0
    }

    /// Bytes of memory that it holds while at rest.
    pub fn capacity(&mut self) -> usize {
        self.input.capacity()
            + self.parked.capacity()
            + self.out.small().capacity()
            + self.replies.capacity() * size_of::<Reply>()
    }

    /// Bytes kept for the client because it has not read them, or because others come first.
    pub fn output_held(&self) -> usize {
        self.out.held() + self.parked_live + self.whole.as_ref().map_or(0, |whole| whole.bytes) + self.told_later
    }

    fn park(&mut self, bytes: &[u8]) -> State {
        if bytes.is_empty() {
            // It keeps no place in the arena, which may be cleared before its turn comes.
            return State::Parked { at: 0, len: 0 };
        }
        if bytes.len() >= LARGE_FRAME {
            return self.park_whole(Bytes::copy_from_slice(bytes));
        }
        if self.parked.len() > PARKED_COMPACT && self.parked_live * 2 < self.parked.len() {
            self.compact_parked();
        }
        let at = self.parked.len() as u32;
        self.parked.extend_from_slice(bytes);
        self.parked_live += bytes.len();
        State::Parked { at, len: bytes.len() as u32 }
    }

    fn park_whole(&mut self, bytes: Bytes) -> State {
        let whole = self.whole.get_or_insert_default();
        whole.bytes += bytes.len();
        State::Whole { place: whole.replies.insert(bytes) as u32 }
    }

    fn take_whole(&mut self, place: u32) -> Bytes {
        let whole = self.whole.as_mut().expect("a large reply that waits is here");
        let bytes = whole.replies.remove(place as usize);
        whole.bytes -= bytes.len();
        if whole.replies.is_empty() {
            self.whole = None;
        }
        bytes
    }

    /// Adds bytes to a reply that is here and waits for others: they are told when it is.
    pub fn append_to_reply(&mut self, place: usize, more: &[u8]) {
        let mut bytes = match &mut self.replies[place].state {
            State::Parked { at, len } => {
                let (start, end) = (*at as usize, (*at + *len) as usize);
                if *len > 0 && end == self.parked.len() && (*len as usize) + more.len() < LARGE_FRAME {
                    self.parked.extend_from_slice(more);
                    self.parked_live += more.len();
                    *len += more.len() as u32;
                    return;
                }
                self.parked_live -= end - start;
                self.parked[start..end].to_vec()
            }
            State::Whole { place } => {
                let place = *place;
                let bytes = self.take_whole(place);
                bytes.try_into_mut().map_or_else(|shared| shared.to_vec(), |owned| owned.to_vec())
            }
            _ => unreachable!("only a reply that is here has bytes"),
        };
        bytes.extend_from_slice(more);
        // Emptied first, so that compacting the arena does not take the old bytes along.
        self.replies[place].state = State::Parked { at: 0, len: 0 };
        self.replies[place].state = self.park(&bytes);
    }

    fn compact_parked(&mut self) {
        let mut kept = Vec::with_capacity(self.parked_live);
        for reply in &mut self.replies {
            if let State::Parked { at, len } = &mut reply.state {
                let start = *at as usize;
                *at = kept.len() as u32;
                kept.extend_from_slice(&self.parked[start..start + *len as usize]);
            }
        }
        self.parked = kept;
    }

    /// Moves replies that are ready and next in order to the out pipe. Answers how many replies left the queue.
    #[inline(never)]
    fn drain_ready(&mut self) -> u32 {
        let mut drained = 0;
        while let Some(reply) = self.replies.front() {
            match reply.state {
                State::Parked { at, len } => {
                    let (at, len) = (at as usize, len as usize);
                    self.out.small().extend_from_slice(&self.parked[at..at + len]);
                    self.parked_live -= len;
                }
                State::Whole { place } => {
                    let bytes = self.take_whole(place);
                    self.out.push_large(bytes);
                }
                _ => break,
            }
            self.replies.pop_front();
            drained += 1;
        }
        if self.parked_live == 0 {
            self.parked.clear();
        }
        drained
    }
}

/// Why a client's requests are not taken for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// As many replies are owed as may be.
    Depth,
    /// The next request acts on all nodes, or the last one did: it goes alone.
    Barrier,
    /// The next request's slot has something unfinished that must not be overtaken.
    Order,
    /// A lane that the next request needs is full.
    LaneFull,
    /// CLIENT PAUSE.
    Client,
    /// Its next request is larger than a stranger's may be, and nobody knows yet whether it is one.
    Stranger,
}

/// Whether a client's connection ends, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    No,
    /// When all it is owed was written: after QUIT, a protocol error, or its own end of stream.
    AfterReplies,
    /// It is gone: what it asked is still carried out, what it is owed is dropped.
    Gone,
}

/// CLIENT REPLY's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    On,
    Off,
    /// The next request's reply is dropped.
    SkipNext,
}

/// What CLIENT commands set and CLIENT LIST shows.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    pub no_evict: bool,
    pub no_touch: bool,
    /// CLIENT CAPA redirect.
    pub redirect: bool,
    /// Whom PROXY AUTH has made of it.
    pub operator: Option<Standing>,
    /// Whom its certificate, or its user of the machine, makes of it, from the start and after RESET.
    pub shown: Option<Arc<[u8]>>,
}

/// See the module's head. Laid out for a worker with thousands of clients, whose sessions are not in the cache when they are needed: what
/// is looked at for every request and reply shares the first line of 64 bytes, what is only noted the second.
#[repr(C, align(64))]
pub struct Session {
    pub active: Option<Box<Active>>,
    pub subscribed: Option<Box<Subscribed>>,
    pub last_active: Micros,
    pub scanner: RequestScanner,
    /// Sequence number of the oldest owed reply.
    pub head: u32,
    /// The map's version when this client last sent something.
    pub map_version: u32,
    /// Until the head reaches this number, a request's slot is compared with what is unfinished before it is sent.
    pub unsettled_until: u32,
    /// Replies that wait to be sent (again), parts included.
    pub waiting: u32,
    pub user: UserId,
    /// Whose lanes it rides: its user's, or those of an alias that is its own.
    pub rides: UserId,
    pub proto: Proto,
    pub modes: Modes,
    pub reply_mode: ReplyMode,
    pub ending: Ending,
    /// What it sends is not read any more: it said QUIT, or broke the protocol.
    pub deaf: bool,
    pub pause: Option<Pause>,
    /// In the list of clients to be written.
    pub dirty: bool,
    /// In the list of clients whose replies are still coming; counts the turns it has waited.
    pub lazy: u8,
    /// In the list of clients whose waiting requests are to be looked at.
    pub to_pump: bool,
    /// In the list of clients whose input may go on.
    pub to_resume: bool,
    /// The driver was told to close it.
    pub close_told: bool,
    /// A reply is on its way to it piece by piece: no message may come between.
    pub mid_reply: bool,

    /// Requests after this number wait until the head has passed it.
    pub barrier: Option<u32>,
    pub last_command: Option<&'static Command>,
    pub commands: u64,
    /// CLIENT ID: unique over all workers, rising.
    pub public_id: u64,
    pub opened: Micros,
    pub labels: Option<Box<Labels>>,
    /// What it queues, and the keys it watches.
    pub transaction: Option<Box<Transaction>>,
    /// The last reply that took something out of the keyspace for this client.
    pub popped: Option<Box<Popped>>,

    pub peer: Box<str>,
    pub local: Box<str>,
    /// Whom the proxy let in, where its own accounts decide that.
    pub account: Option<Arc<[u8]>>,
    pub face: Face,
}

// Three lines, and the first ends where it should.
const _: () = assert!(size_of::<Session>() == 192 && std::mem::offset_of!(Session, barrier) == 64);

impl Session {
    pub fn new(public_id: u64, peer: Box<str>, local: Box<str>, map_version: u32, now: Micros) -> Self {
        Session {
            public_id,
            peer,
            local,
            labels: None,
            active: None,
            scanner: RequestScanner::default(),
            proto: Proto::Resp2,
            user: UserId::default(),
            rides: UserId::default(),
            account: None,
            face: Face::default(),
            modes: Modes::default(),
            transaction: None,
            reply_mode: ReplyMode::On,
            ending: Ending::No,
            deaf: false,
            pause: None,
            head: 0,
            map_version,
            unsettled_until: 0,
            barrier: None,
            waiting: 0,
            opened: now,
            last_active: now,
            last_command: None,
            dirty: false,
            lazy: 0,
            to_pump: false,
            to_resume: false,
            close_told: false,
            mid_reply: false,
            subscribed: None,
            commands: 0,
            popped: None,
        }
    }

    /// Whether nothing but order may keep its next request from being passed on and answered as ever. Who is paused is not asked.
    #[inline]
    pub fn is_unhindered(&self) -> bool {
        let between = self.scanner.is_between() && !self.deaf && self.barrier.is_none();
        self.modes.is_plain() && self.reply_mode == ReplyMode::On && between
    }

    /// Owes it one more reply, of a request that is sent under this version of the map. Answers the reply's number.
    #[inline(always)]
    pub fn owe(&mut self, reply: Reply, map_version: u32, pool: &mut Pool) -> u32 {
        let active = self.active.get_or_insert_with(|| pool.take());
        if active.replies.is_empty() {
            self.map_version = map_version;
            self.unsettled_until = self.head;
        }
        active.replies.push_back(reply);
        self.commands += 1;
        self.head.wrapping_add(active.replies.len() as u32 - 1)
    }

    /// Whether something that it sent waits.
    #[inline]
    pub fn has_input(&self) -> bool {
        self.active.as_ref().is_some_and(|active| !active.input.is_empty())
    }

    #[inline]
    pub fn owed(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.replies.len())
    }

    /// As [`Active::output_held`].
    #[inline]
    pub fn output_held(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.output_held())
    }

    /// What it does not need while it is at rest. A subscriber keeps a little, for the next message.
    pub fn take_at_rest(&mut self) -> Option<Box<Active>> {
        let subscribed = self.subscribed.is_some();
        let stays = |active: &mut Box<Active>| subscribed && active.capacity() <= SUBSCRIBER_KEEPS;
        self.active.take_if(|active| active.is_at_rest() && !stays(active))
    }

    /// What a lane must be for this client to ride it.
    #[inline]
    pub fn via(&self) -> Via {
        Via { proto: self.proto, user: self.rides }
    }

    pub fn next_seq(&self) -> u32 {
        self.head.wrapping_add(self.owed() as u32)
    }

    /// True when requests may be sent without looking at what is in flight (architecture, section 5).
    #[inline]
    pub fn is_settled(&self, map_version: u32) -> bool {
        self.map_version == map_version && (self.unsettled_until.wrapping_sub(self.head) as i32) <= 0
    }

    /// From now on, until everything that is owed is finished, slots are compared.
    pub fn unsettle(&mut self) {
        self.unsettled_until = self.next_seq();
    }

    /// Puts a finished reply in its place. Answers whether the queue's head moved.
    #[inline]
    pub fn fill(&mut self, seq: u32, bytes: &[u8]) -> bool {
        let gone = self.ending == Ending::Gone;
        let active = self.active.as_mut().expect("a client that is owed a reply is active");
        let index = seq.wrapping_sub(self.head) as usize;
        let silent = active.replies[index].silent || gone;
        if index > 0 {
            self.keep_for_its_turn(index, if silent { &[] } else { bytes });
            return false;
        }
        if !silent {
            active.out.small().extend_from_slice(bytes);
        }
        active.replies.pop_front();
        let drained = 1 + if active.replies.is_empty() { 0 } else { active.drain_ready() };
        self.head = self.head.wrapping_add(drained);
        true
    }

    /// A finished reply that others come before; no bytes: it is not to be told.
    #[inline(never)]
    fn keep_for_its_turn(&mut self, index: usize, bytes: &[u8]) {
        let active = self.active.as_mut().expect("a client that is owed a reply is active");
        active.replies[index].state = active.park(bytes);
        if bytes.is_empty() {
            self.forget_last_silent();
        }
    }

    /// What its client is not told keeps no place at the end of the queue: for a client that is blocked for days the proxy asks nodes
    /// many things, whose answers would all wait for the end of the block. A place that others wait for is kept.
    fn forget_last_silent(&mut self) {
        let Some(active) = self.active.as_mut() else { return };
        let nothing = |reply: &Reply| reply.silent && matches!(reply.state, State::Parked { len: 0, .. });
        while active.replies.len() > 1 && active.replies.back().is_some_and(nothing) {
            let last = self.head.wrapping_add(active.replies.len() as u32 - 1);
            if self.barrier == Some(last) {
                return;
            }
            active.replies.pop_back();
        }
    }

    /// As `fill`, for a large reply that need not be copied.
    pub fn fill_whole(&mut self, seq: u32, bytes: Bytes) -> bool {
        let gone = self.ending == Ending::Gone;
        let active = self.active.as_mut().expect("a client that is owed a reply is active");
        let index = seq.wrapping_sub(self.head) as usize;
        if active.replies[index].silent || gone {
            return self.fill(seq, &[]);
        }
        active.replies[index].state = active.park_whole(bytes);
        let drained = active.drain_ready();
        self.head = self.head.wrapping_add(drained);
        drained > 0
    }

    pub fn reply(&mut self, seq: u32) -> &mut Reply {
        let index = seq.wrapping_sub(self.head) as usize;
        &mut self.active.as_mut().expect("a client that is owed a reply is active").replies[index]
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;

    fn session(owed: u32) -> Session {
        let mut session = Session::new(1, "".into(), "".into(), 0, 0);
        let mut active = Box::new(Active::default());
        for _ in 0..owed {
            active.replies.push_back(Reply { state: State::Sent { lane: 0 }, slot: 0, silent: false, arrived: 0 });
        }
        session.active = Some(active);
        session.head = u32::MAX - 1;
        session
    }

    fn written(session: &mut Session) -> Vec<u8> {
        let active = session.active.as_mut().expect("made active");
        let mut slices = [IoSlice::new(&[]); 16];
        let count = active.out.chunks(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn replies_leave_in_order_whatever_order_they_come_in_and_the_number_wraps() {
        let large = vec![b'x'; LARGE_FRAME];
        let bodies: [&[u8]; 4] = [b"+a\r\n", &large, b"+c\r\n", b"+d\r\n"];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let mut session = session(4);
            let head = session.head;
            for index in order {
                session.fill(head.wrapping_add(index as u32), bodies[index]);
            }
            assert_eq!(written(&mut session), bodies.concat(), "order {order:?}");
            assert_eq!((session.owed(), session.head), (0, head.wrapping_add(4)));
        }
    }

    #[test]
    fn silent_replies_keep_their_turn_but_tell_nothing() {
        let mut session = session(3);
        let head = session.head;
        session.reply(head.wrapping_add(1)).silent = true;
        session.fill(head.wrapping_add(1), b"+hidden\r\n");
        session.fill(head.wrapping_add(2), b"+c\r\n");
        assert!(session.fill(head, b"+a\r\n"));
        assert_eq!(written(&mut session), b"+a\r\n+c\r\n");
    }

    #[test]
    fn a_silent_reply_outlives_the_arena_that_it_has_no_bytes_in() {
        let mut session = session(4);
        let head = session.head;
        session.reply(head.wrapping_add(3)).silent = true;
        session.fill(head.wrapping_add(1), b"+b\r\n");
        session.fill(head.wrapping_add(3), b"+hidden\r\n");
        session.fill(head, b"+a\r\n");
        session.fill(head.wrapping_add(2), b"+c\r\n");
        assert_eq!(written(&mut session), b"+a\r\n+b\r\n+c\r\n");
        assert_eq!(session.owed(), 0);
    }

    #[test]
    fn parked_replies_are_bounded_by_what_is_alive() {
        let mut session = session(1000);
        let head = session.head;
        let body = vec![b'y'; 1024];
        for index in (1..1000u32).rev() {
            session.fill(head.wrapping_add(index), &body);
        }
        assert_eq!(session.active.as_ref().expect("active").output_held(), 999 * 1024);
        session.fill(head, &body);
        assert_eq!(written(&mut session).len(), 1000 * 1024);
    }
}
