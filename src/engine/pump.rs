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
    ids::{LaneId, Micros, NodeId, Ticket},
    lane::{Lease, Via},
    retry::backoff_us,
    send::{NotNow, Target},
    session::{NO_SLOT, State},
};

/// How long an ASK may be followed after it came. Whoever follows it later may meet a slot that came, went and is coming again, and
/// write a key on the receiving side that is still on the giving one: one of the two values is lost. Whoever is late asks anew.
pub(super) const ASK_GOOD_US: Micros = 50_000;

/// Until the lane that an ASK needs is open, it is looked at this often.
const ASK_LOOK_US: Micros = 1_000;

/// A request that needs a private lane when there are none looks again after this long.
const LANES_LOOK_US: Micros = 50_000;

/// An address that must be confirmed by a map whose questions were asked after this moment.
#[derive(Clone, Debug)]
pub struct Confirm {
    pub addr: Addr,
    pub asking: bool,
    pub since: Micros,
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
    pub not_before: Micros,
    pub tries: u32,
    pub hops: u32,
    /// Ask this node, behind ASKING, if it can be done before this moment.
    pub ask: Option<(NodeId, Micros)>,
    pub confirm: Option<Confirm>,
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
        self.agenda.pump(client, &mut self.clients[client as usize]);
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
}

fn note(ahead: &mut rustc_hash::FxHashMap<u16, Ahead>, slot: u16, found: Ahead) {
    if slot != NO_SLOT {
        ahead.entry(slot).and_modify(|known| *known = if *known == found { found } else { Ahead::Blocked }).or_insert(found);
    }
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
