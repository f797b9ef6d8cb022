//! Requests that wait to be sent (again): redirected ones, held ones, and those whose lane broke.
//!
//! They are looked at together, client by client and in the order of the original requests, so that none overtakes another of its
//! slot (architecture, section 5).

use bytes::Bytes;

use crate::{
    cluster::Addr,
    command::{self, Class, SplitKind},
    resp::{RequestScanner, Scanned, Span},
};

use super::{
    Engine, RefreshCause, Timer, answer,
    blocking::Block,
    ids::{LaneId, Micros, NONE, NodeId, Ticket},
    lane::{InFlight, Lease, Via},
    retry::{Asked, Held, Verdict, backoff_us, on_error},
    send::{NotNow, Target},
    session::{NO_SLOT, State},
};

/// Redirects of one request that are followed at once; after them each waits a little, so that a loop does not spin.
const HOPS_AT_ONCE: u32 = 3;

/// How long an ASK may be followed after it came. Whoever follows it later may meet a slot that came, went and is coming again, and
/// write a key on the receiving side that is still on the giving one: one of the two values is lost. Whoever is late asks anew.
const ASK_GOOD_US: Micros = 50_000;

/// Until the lane that an ASK needs is open, it is looked at this often.
const ASK_LOOK_US: Micros = 1_000;

/// A request that needs a private lane when there are none looks again after this long.
const LANES_LOOK_US: Micros = 50_000;

/// An address that must be confirmed by a map whose questions were asked after this moment.
#[derive(Clone, Debug)]
struct Confirm {
    addr: Addr,
    asking: bool,
    since: Micros,
}

/// A request's history while it is being sent again: kept until it is answered for good.
#[derive(Debug)]
pub struct Retry {
    pub ticket: Ticket,
    pub frame: Bytes,
    pub lead: u32,
    pub target: Target,
    pub via: Via,
    pub deadline: Micros,
    not_before: Micros,
    pub tries: u32,
    pub hops: u32,
    /// Ask this node, behind ASKING, if it can be done before this moment.
    ask: Option<(NodeId, Micros)>,
    confirm: Option<Confirm>,
    /// A script that is sent again goes inside of MULTI and EXEC: what EXEC's array holds is the script's own answer, and a refusal
    /// is a node's. So no script's words are believed twice.
    pub wrapped: bool,
    pub healed: bool,
    /// It rides a private lane: this one, if it has been leased already.
    pub private: Option<Option<LaneId>>,
    /// That lane stays the client's when the request is answered: it watches keys.
    pinned: bool,
    /// It may wait at its node for long.
    pub block: Option<Box<Block>>,
    pub last: String,
}

impl Retry {
    pub fn new(ticket: Ticket, frame: Bytes, target: Target, via: Via, lead: u32, deadline: Micros) -> Self {
        Retry {
            ticket,
            frame,
            lead,
            target,
            via,
            deadline,
            not_before: 0,
            tries: 0,
            hops: 0,
            ask: None,
            confirm: None,
            wrapped: false,
            healed: false,
            private: None,
            block: None,
            pinned: false,
            last: String::new(),
        }
    }

    /// It takes a private lane, and keeps it.
    pub fn pinned(self) -> Self {
        Retry { private: Some(None), pinned: true, ..self }
    }

    pub fn after(self, not_before: Micros) -> Self {
        Retry { not_before, ..self }
    }
}

/// Who wrote an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// A node; but where a script was asked for, perhaps the script.
    Unknown,
    Node,
    Script,
}

/// What may be sent for a slot behind the requests that were looked at before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// All of them are on this lane, which keeps their order.
    Lane(u32),
    Blocked,
}

/// What the pump decides about one waiting request.
enum Move {
    Send {
        lane: u32,
        asking: bool,
    },
    Wait {
        until: Micros,
    },
    /// The proxy answers it itself.
    Answer(Vec<u8>),
    GiveUp,
    SplitKeys,
}

impl Engine {
    /// Judges an error reply to a request in flight: delivers it, or holds the request and answers false.
    pub(super) fn answer_error(&mut self, lane_index: u32, entry: &InFlight, reply: &[u8], speaker: Speaker) -> bool {
        let line = reply[1..].trim_ascii_end();
        if !could_be_refusal(line) {
            if line.starts_with(b"NOAUTH") || line.starts_with(b"NOPERM") {
                self.note_refusal(lane_index, line);
                return line.starts_with(b"NOPERM") && self.load_for_user(entry);
            }
            return false;
        }
        let lane = &self.lanes[lane_index as usize];
        if entry.retry == NONE && lane.role.is_pinned() {
            // What is watched there is lost by any refusal: nothing is to be sent again.
            return false;
        }
        let (node, via) = (lane.node, lane.via);
        let frame = self.frame_of(lane_index, entry);
        let target = self.target_of(entry);
        let command = name_of(&frame).and_then(|name| command::lookup(&name));
        let script = command.is_some_and(|command| command.flags.is_script());
        let read_only = command.is_some_and(|command| command.flags.is_readonly());
        let perhaps_script = script && speaker != Speaker::Node;
        let asked = Asked { slot: target.slot(), script: perhaps_script, read_only };
        let from = self.table.node(node).addr.clone();
        let verdict = match on_error(line, asked, &from) {
            verdict if speaker == Speaker::Script && verdict != Verdict::NoScript => Verdict::Deliver,
            verdict => verdict,
        };
        if verdict == Verdict::Deliver {
            self.counters.forged_redirects += u64::from(line.starts_with(b"MOVED ") || line.starts_with(b"ASK "));
            return false;
        }
        let mut retry = self.retry_of(entry, frame, target, via);
        if perhaps_script && matches!(&verdict, Verdict::Moved(_, Some(addr)) if self.table.find(addr) == Some(node)) {
            // No node sends a request to itself.
            self.counters.forged_redirects += 1;
            return false;
        }
        retry.wrapped |= script;
        retry.last = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
        retry.tries += 1;
        let was_asked = retry.ask.take().is_some();
        retry.confirm = None;
        match verdict {
            Verdict::Moved(slot, addr) => self.on_moved(&mut retry, node, slot, addr),
            Verdict::Ask(slot, addr) => {
                if self.table.mark_moving(slot, self.now) {
                    self.leave_moving_slots(Some(slot));
                }
                self.counters.asked += 1;
                self.on_ask(&mut retry, addr, was_asked);
            }
            Verdict::TryAgain => {
                if let Some(slot) = asked.slot {
                    self.table.mark_moving(slot, self.now);
                }
                self.counters.try_again += 1;
                self.back_off(&mut retry);
            }
            Verdict::Hold(held) => {
                self.counters.held += 1;
                self.refresh(match held {
                    Held::ClusterDown => RefreshCause::ClusterDown,
                    Held::MasterDown | Held::Loading | Held::ReadOnly | Held::Demoted => RefreshCause::Moved,
                });
                self.back_off(&mut retry);
            }
            Verdict::NoScript => match self.heal_script(&retry.frame).filter(|_| !retry.healed) {
                Some(frame) => {
                    retry.frame = frame;
                    retry.healed = true;
                }
                None => return false,
            },
            Verdict::Deliver | Verdict::Resend | Verdict::Unknown => unreachable!("not an answer's verdict"),
        }
        self.put_back(entry.retry, retry);
        true
    }

    /// A request whose lane broke, and that may be sent again.
    pub(super) fn resend_lost(&mut self, entry: &InFlight, frame: Bytes, target: Target, via: Via) {
        let mut retry = self.retry_of(entry, frame, target, via);
        (retry.ask, retry.confirm) = (None, None);
        retry.tries += 1;
        retry.last = "the connection to the node was lost".into();
        self.put_back(entry.retry, retry);
    }

    fn on_moved(&mut self, retry: &mut Retry, from: NodeId, slot: crate::cluster::Slot, addr: Option<Addr>) {
        self.counters.moved += 1;
        retry.hops += 1;
        match addr.as_ref().and_then(|addr| self.table.find(addr)) {
            Some(node) if node != from => {
                self.note_owner(slot, node);
                self.refresh(RefreshCause::Moved);
                if retry.hops > HOPS_AT_ONCE {
                    self.back_off(retry);
                }
            }
            Some(_) => {
                // It sends us to itself: its view is in flux.
                self.refresh(RefreshCause::Moved);
                self.back_off(retry);
            }
            None => self.await_confirmation(retry, addr, false),
        }
    }

    /// It is followed at once, however often the request was sent back before: while it waited, it would become too old to be
    /// followed. Only who answers ASKING with ASK makes it wait.
    fn on_ask(&mut self, retry: &mut Retry, addr: Option<Addr>, was_asked: bool) {
        retry.hops += 1;
        match addr.as_ref().and_then(|addr| self.table.find(addr)) {
            Some(node) => {
                retry.ask = Some((node, self.now + ASK_GOOD_US));
                if retry.hops > HOPS_AT_ONCE && was_asked {
                    self.back_off(retry);
                }
            }
            None => self.await_confirmation(retry, addr, true),
        }
    }

    /// An address that the map does not hold is never dialled on a reply's word: a refresh must confirm it first.
    fn await_confirmation(&mut self, retry: &mut Retry, addr: Option<Addr>, asking: bool) {
        self.counters.unknown_addresses += 1;
        self.refresh(RefreshCause::UnknownAddress);
        match addr {
            Some(addr) => retry.confirm = Some(Confirm { addr, asking, since: self.now }),
            None => self.back_off(retry),
        }
    }

    fn back_off(&mut self, retry: &mut Retry) {
        retry.not_before = self.now + backoff_us(retry.tries.saturating_sub(1), self.random.u64(..));
    }

    /// The retry record of a request in flight, taken out of its place, or a new one.
    fn retry_of(&mut self, entry: &InFlight, frame: Bytes, target: Target, via: Via) -> Retry {
        if entry.retry != NONE {
            let taken = Retry::new(entry.ticket, Bytes::new(), target, via, 0, 0);
            return std::mem::replace(&mut self.retries[entry.retry as usize], taken);
        }
        let arrived = self.clients[entry.ticket.client as usize].reply(entry.ticket.seq).arrived;
        Retry::new(entry.ticket, frame, target, via, entry.lead, arrived + self.settings.retry_deadline_us)
    }

    fn put_back(&mut self, place: u32, retry: Retry) {
        if place == NONE {
            return self.hold(retry);
        }
        let ticket = retry.ticket;
        self.retries[place as usize] = retry;
        self.await_turn(ticket, place);
    }

    pub(super) fn drop_retry(&mut self, place: u32) {
        if place != NONE {
            self.retries.remove(place as usize);
        }
    }

    /// Takes a new waiting request into the client's queue of them.
    pub(super) fn hold(&mut self, retry: Retry) {
        let ticket = retry.ticket;
        let place = self.retries.insert(retry) as u32;
        self.await_turn(ticket, place);
    }

    /// A redirect taught a slot's owner.
    pub(super) fn note_owner(&mut self, slot: crate::cluster::Slot, node: NodeId) {
        if self.table.patch(slot, node, self.now) {
            self.leave_moving_slots(Some(slot));
            self.trackers_meet_map(true);
        }
    }

    pub(super) fn await_turn(&mut self, ticket: Ticket, place: u32) {
        if !self.trackers.is_empty() {
            self.sent_again(ticket.client, ticket.seq);
        }
        self.set_state(ticket, State::Waiting { retry: place });
        let session = &mut self.clients[ticket.client as usize];
        session.waiting += 1;
        session.unsettle();
        self.pump_later(ticket.client);
    }

    pub(super) fn pump_later(&mut self, client: u32) {
        let session = &mut self.clients[client as usize];
        if !std::mem::replace(&mut session.to_pump, true) {
            self.to_pump.push(client);
        }
    }

    /// Looks at every waiting request of one client, oldest first, and sends what may be sent.
    pub(super) fn pump(&mut self, client: u32) {
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.clear();
        let session = &self.clients[client as usize];
        let (head, end) = (session.head, session.next_seq());
        let mut seq = head;
        while seq != end {
            // Giving up a reply may move the head past `seq`.
            if (seq.wrapping_sub(self.clients[client as usize].head) as i32) >= 0 {
                self.pump_reply(client, seq, &mut ahead);
            }
            seq = seq.wrapping_add(1);
        }
        self.ahead = ahead;
    }

    fn pump_reply(&mut self, client: u32, seq: u32, ahead: &mut rustc_hash::FxHashMap<u16, Ahead>) {
        let reply = self.clients[client as usize].reply(seq);
        let slot = reply.slot;
        match reply.state {
            State::Sent { lane } => note(ahead, slot, Ahead::Lane(lane)),
            State::Waiting { retry } => self.pump_one(retry, slot, ahead),
            State::Merging { merge } => {
                let mut part = 0;
                // A merge that finishes on the way is gone, and its reply with it.
                while let Some(found) = self.merges.get(merge as usize).filter(|found| found.client == client && found.seq == seq)
                {
                    let Some(entry) = found.parts.get(part) else { break };
                    let slot = entry.slot();
                    match entry.state {
                        State::Sent { lane } => note(ahead, slot, Ahead::Lane(lane)),
                        State::Waiting { retry } => self.pump_one(retry, slot, ahead),
                        _ => {}
                    }
                    part += 1;
                }
            }
            State::Parked { .. } | State::Whole { .. } => {}
        }
    }

    fn pump_one(&mut self, place: u32, slot: u16, ahead: &mut rustc_hash::FxHashMap<u16, Ahead>) {
        match self.decide(place, ahead.get(&slot).copied().filter(|_| slot != NO_SLOT)) {
            Move::Send { lane, asking } => {
                self.counters.resent += 1;
                let ticket = self.retries[place as usize].ticket;
                self.clients[ticket.client as usize].waiting -= 1;
                let retry = &mut self.retries[place as usize];
                retry.ask = retry.ask.filter(|_| asking);
                let pinned = retry.pinned;
                if let Some(leased) = &mut retry.private
                    && !pinned
                {
                    *leased = None;
                }
                if pinned {
                    self.watch_sent(ticket, asking);
                }
                self.queue_retry(lane, place, asking);
                self.set_state(ticket, State::Sent { lane });
                note(ahead, slot, Ahead::Lane(lane));
            }
            Move::Wait { until } => {
                let client = self.retries[place as usize].ticket.client;
                self.timers.push(Timer { at: until, client });
                note(ahead, slot, Ahead::Blocked);
            }
            Move::Answer(reply) => self.finish_waiting(place, &reply),
            Move::GiveUp => {
                let error = self.give_up_text(place);
                self.finish_waiting(place, &error);
            }
            Move::SplitKeys => self.split_keys(place),
        }
    }

    fn decide(&mut self, place: u32, ahead: Option<Ahead>) -> Move {
        let now = self.now;
        if let Some(answer) = self.blocked_end(place) {
            return Move::Answer(answer);
        }
        let retry = &self.retries[place as usize];
        let (not_before, via, target) = (retry.not_before, retry.via, retry.target);
        if now >= retry.deadline {
            return Move::GiveUp;
        }
        let patience = retry.block.as_ref().and_then(|block| block.until());
        let deadline = patience.map_or(retry.deadline, |patience| patience.min(retry.deadline));
        if ahead == Some(Ahead::Blocked) {
            return Move::Wait { until: deadline };
        }
        if let Some(confirm) = retry.confirm.clone() {
            if self.table.map.as_ref().is_none_or(|map| map.asked_at_us <= confirm.since) {
                return Move::Wait { until: deadline };
            }
            let confirmed = self.table.find(&confirm.addr);
            let retry = &mut self.retries[place as usize];
            retry.confirm = None;
            match confirmed {
                Some(node) if confirm.asking => retry.ask = Some((node, now + ASK_GOOD_US)),
                Some(_) => {}
                None => {
                    // The map does not know it: try where the map points, a little later.
                    retry.not_before = now + backoff_us(retry.tries, u64::from(place));
                    self.refresh(RefreshCause::UnknownAddress);
                    return Move::Wait { until: self.retries[place as usize].not_before.min(deadline) };
                }
            }
        }
        if not_before > now {
            return Move::Wait { until: not_before.min(deadline) };
        }
        let retry = &self.retries[place as usize];
        if retry.last.starts_with("TRYAGAIN")
            && deadline - now < self.settings.retry_deadline_us / 4
            && self.can_split_keys(place)
        {
            return Move::SplitKeys;
        }
        let bulk = retry.frame.len() >= super::send::BULK_FRAME;
        // Its channel may be subscribed elsewhere by now, and what is published after it goes there.
        let target = if let Target::Prefer(..) = target { self.publish_target(&retry.frame).unwrap_or(target) } else { target };
        let ask =
            retry.ask.filter(|(node, until)| now < *until && self.table.nodes[usize::from(node.0)].in_map).map(|(node, _)| node);
        let node = ask.or_else(|| self.resolve(target));
        let lane = node.ok_or(NotNow::NoNode).and_then(|node| self.lane_for(place, node, via, bulk));
        match lane {
            Ok(lane) if ask.is_some() && !self.lanes[lane as usize].is_open() => {
                Move::Wait { until: (now + ASK_LOOK_US).min(deadline) }
            }
            Err(NotNow::NoNode) => {
                self.refresh(RefreshCause::ClusterDown);
                Move::Wait { until: (now + 100_000).min(deadline) }
            }
            Err(NotNow::Soon) => Move::Wait { until: (now + LANES_LOOK_US).min(deadline) },
            Err(NotNow::LanesUsedUp) => {
                self.retries[place as usize].last = "all private connections are in use (limits.private_lanes)".into();
                Move::Wait { until: (now + LANES_LOOK_US).min(deadline) }
            }
            Err(NotNow::DialAfter(after)) => {
                self.refresh(RefreshCause::LaneLost);
                Move::Wait { until: after.min(deadline) }
            }
            Ok(lane) if matches!(ahead, Some(Ahead::Lane(other)) if other != lane) => Move::Wait { until: deadline },
            Ok(lane) => {
                let fresh = self.retries[place as usize].tries == 0;
                let settings = &self.settings;
                if !fresh
                    && !self.budget.spend(
                        now,
                        self.counters.requests,
                        settings.retry_budget_percent,
                        settings.retry_floor_per_second,
                    )
                {
                    self.counters.budget_waits += 1;
                    return Move::Wait { until: (now + backoff_us(3, self.random.u64(..))).min(deadline) };
                }
                Move::Send { lane, asking: ask.is_some() }
            }
        }
    }

    /// The lane that a waiting request takes to a node. What is leased for it stays leased until it is sent or answered.
    fn lane_for(&mut self, place: u32, node: NodeId, via: Via, bulk: bool) -> Result<u32, NotNow> {
        let Some(leased) = self.retries[place as usize].private else { return self.lane_to(node, via, bulk) };
        if let Some(lane) = leased.and_then(|id| answer::lane_mut(&mut self.lanes, id)) {
            if lane.node == node {
                return Ok(lane.id.index);
            }
            let other = lane.id.index;
            // Somebody else may lease it before this request finds another.
            self.retries[place as usize].private = Some(None);
            self.give_back(other);
        }
        let retry = &self.retries[place as usize];
        let lease = if retry.pinned { Lease::Pinned { client: retry.ticket.client } } else { Lease::Request };
        let lane = self.lease(node, via, lease)?;
        self.retries[place as usize].private = Some(Some(self.lanes[lane as usize].id));
        Ok(lane)
    }

    /// Answers a waiting request itself, for good.
    fn finish_waiting(&mut self, place: u32, reply: &[u8]) {
        let retry = self.retries.remove(place as usize);
        if retry.block.is_some() {
            self.unblocked(retry.ticket);
        }
        if let Some(lane) = retry.private.flatten().and_then(|id| answer::lane_mut(&mut self.lanes, id)) {
            let unused = lane.id.index;
            self.give_back(unused);
        }
        self.clients[retry.ticket.client as usize].waiting -= 1;
        self.deliver(retry.ticket, reply);
    }

    fn give_up_text(&mut self, place: u32) -> Vec<u8> {
        self.counters.gave_up += 1;
        let retry = &self.retries[place as usize];
        if self.table.map.is_none() {
            return b"-LOADING Keyway has no slot map yet: no node of the cluster has answered\r\n".to_vec();
        }
        let seconds = self.settings.retry_deadline_us as f64 / 1e6;
        let last = if retry.last.is_empty() { "the slot's node could not be reached" } else { retry.last.as_str() };
        let slot = retry.target.slot().map_or(String::new(), |slot| format!(" for slot {}", slot.get()));
        format!(
            "-ERR proxy: no answer within {seconds} s{slot} after {} tries; the last one: {}\r\n",
            retry.tries,
            last.replace(['\r', '\n'], " ")
        )
        .into_bytes()
    }

    fn can_split_keys(&self, place: u32) -> bool {
        let retry = &self.retries[place as usize];
        let split = name_of(&retry.frame).and_then(|name| command::lookup(&name)).map(|command| command.class);
        matches!(split, Some(Class::Split(SplitKind::Mget | SplitKind::Mset | SplitKind::Sum)))
    }

    /// TRYAGAIN will not end before the deadline: every key by itself has a definite side.
    fn split_keys(&mut self, place: u32) {
        let retry = self.retries.remove(place as usize);
        self.clients[retry.ticket.client as usize].waiting -= 1;
        self.split_into_keys(retry.ticket, &retry.frame, retry.via);
    }

    /// The request that an entry in flight stands for, as it came from its client.
    fn frame_of(&self, lane_index: u32, entry: &InFlight) -> Bytes {
        if entry.retry != NONE {
            return self.retries[entry.retry as usize].frame.clone();
        }
        let pipe = &self.lanes[lane_index as usize].pipe;
        if entry.is_large() { pipe.front_large().clone() } else { Bytes::copy_from_slice(pipe.front_small(entry.len as usize)) }
    }

    pub(super) fn target_of(&mut self, entry: &InFlight) -> Target {
        if entry.retry != NONE {
            return self.retries[entry.retry as usize].target;
        }
        let reply = self.clients[entry.ticket.client as usize].reply(entry.ticket.seq);
        let slot = reply.slot;
        match reply.state {
            State::Merging { merge } if entry.ticket.part != NONE => {
                self.merges[merge as usize].parts[entry.ticket.part as usize].target
            }
            _ => crate::cluster::Slot::new(slot).map_or(Target::Any(self.any_slot(entry.ticket.client)), Target::Slot),
        }
    }
}

fn note(ahead: &mut rustc_hash::FxHashMap<u16, Ahead>, slot: u16, found: Ahead) {
    if slot != NO_SLOT {
        ahead.entry(slot).and_modify(|known| *known = if *known == found { found } else { Ahead::Blocked }).or_insert(found);
    }
}

/// Cheap test on an error's first letters, so that ordinary errors cost nothing.
pub(super) fn could_be_refusal(line: &[u8]) -> bool {
    [&b"MOVED "[..], b"ASK ", b"TRYAGAIN", b"CLUSTERDOWN", b"MASTERDOWN", b"LOADING", b"READONLY", b"NOSCRIPT", b"UNBLOCKED"]
        .iter()
        .any(|code| line.starts_with(code))
}

/// The command's name of a whole request frame.
pub(super) fn name_of(frame: &[u8]) -> Option<Vec<u8>> {
    let spans = spans_of(frame)?;
    Some(spans.first()?.of(frame).to_vec())
}

/// The arguments of a whole request frame that was accepted before.
pub(super) fn spans_of(frame: &[u8]) -> Option<Vec<Span>> {
    let mut spans = Vec::new();
    match RequestScanner::default().scan(frame, &mut spans, &crate::resp::Limits::default()) {
        Ok(Scanned::Request { .. }) => Some(spans),
        _ => None,
    }
}
