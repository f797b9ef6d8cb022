//! PURE. One worker's clients and lanes: bytes, events and the time in; bytes, dials and closings out.
//!
//! The driver calls `set_now` once per batch, feeds what it read (`client_bytes`, `lane_bytes`) and what happened to sockets, then
//! takes [`Event`]s and writes every dirty lane and client once. Nothing in here reads a clock, opens a socket or logs.
//!
//! The life of a request: `intake` (bytes → requests) → `forward` (where they go, and what they wait for) → `send` (onto a lane) →
//! `answer` (lane bytes → replies → their clients); nearly all take a short way past these steps (`plain`). What is refused (`refused`) or
//! lost (`lost`) on the way goes through `pump`, by the table in `retry`; what has many parts through `merge`.

mod agenda;
mod answer;
mod blocking;
mod client_filter;
mod client_pause;
mod clients;
mod counters;
mod event;
mod everywhere;
mod face;
mod fan;
mod forward;
pub mod glob;
mod identity;
mod ids;
mod info;
mod intake;
mod lane;
mod load;
mod local;
mod lost;
mod merge;
mod merge_replies;
mod modes;
mod monitor;
mod notify;
mod operators;
mod orders;
mod permission;
mod persona;
mod pipe;
mod plain;
mod pool;
mod private;
mod pubsub;
mod pump;
mod refused;
mod retry;
mod scan_cursor;
mod scripts;
mod send;
mod session;
mod settings;
mod since;
mod slot_bits;
mod split;
mod table;
mod timers;
mod tracking;

mod transaction;
mod unknown;
mod users;
mod wanted;

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;
use zeroize::Zeroize;

use crate::{cluster::SlotMap, resp::Span};

use self::{
    agenda::Agenda,
    client_pause::ClientPause,
    lane::{Lane, LaneState},
    merge::Merge,
    modes::Modes,
    monitor::Monitors,
    pool::Pool,
    private::PrivateLanes,
    pubsub::Subscriptions,
    pump::{Ahead, Retry},
    retry::Budget,
    session::{Ending, Session},
    slot_bits::SlotBits,
    split::Asked,
    table::Table,
    timers::{Timer, TimerQueue},
    tracking::Trackers,
    transaction::Checked,
    unknown::Learned,
    users::Users,
};
pub use self::{
    counters::Counters,
    event::{Event, RefreshCause},
    face::Face,
    ids::{ClientId, LaneId, Micros},
    info::ProxyFacts,
    load::Load,
    operators::{ProxyAnswer, ProxyCall},
    orders::{Order, OrderToken, Outcome},
    pubsub::Registry,
    scripts::Scripts,
    settings::{Auth, Identity, Settings},
    tracking::Invalidation,
    transaction::CrossSlot,
};

/// How often idle clients, silent lanes and spare buffers are looked at.
const SWEEP_US: Micros = 1_000_000;

/// Room for so many sessions is never given back: it is less than half a MiB.
const SESSIONS_KEPT: usize = 2048;

/// Turns that a reply waits for the client's other replies before it is written alone: a busy loop brings the others within a few,
/// an idle one passes them in microseconds.
const LAZY_TURNS: u8 = 8;

/// See the module's head.
pub struct Engine {
    settings: Settings,
    now: Micros,
    random: fastrand::Rng,
    table: Table,
    clients: Slab<Session>,
    lanes: Slab<Lane>,
    lanes_made: u32,
    private: PrivateLanes,
    users: Users,
    pubsub: Subscriptions,
    client_pause: Option<ClientPause>,
    monitors: Monitors,
    trackers: Trackers,
    merges: Slab<Merge>,
    retries: Slab<Retry>,
    spare_merges: Vec<Merge>,
    pool: Pool,
    timers: TimerQueue,
    swept: Micros,
    budget: Budget,
    learned: FxHashMap<Vec<u8>, Learned>,
    checked: Checked,
    /// Answers of the proxy's own go here, not to the client, while EXEC's reply is put together.
    captured: Option<Vec<u8>>,
    scripts: Arc<Scripts>,
    facts: ProxyFacts,
    last_greeting_error: String,
    handed_in: scripts::HandedIn,
    pub counters: Counters,
    events: VecDeque<Event>,
    refresh_told: bool,
    agenda: Agenda,
    // Scratch, kept for its capacity.
    spans: Vec<Span>,
    keys: Vec<u32>,
    by_slot: Vec<Asked>,
    slot_bits: SlotBits,
    ahead: FxHashMap<u16, Ahead>,
    scratch: Vec<u8>,
    /// The frame that is being admitted, when it is large and owned.
    whole: Option<Bytes>,
    /// The frame that is being admitted was written inline.
    inline: bool,
}

impl Engine {
    /// `seed` is for jitter only.
    pub fn new(settings: Settings, scripts: Arc<Scripts>, seed: u64, now: Micros) -> Self {
        Engine {
            users: Users::new(settings.auth.as_ref(), matches!(settings.identity, Identity::Passthrough), settings.users_max),
            settings,
            now,
            random: fastrand::Rng::with_seed(seed),
            table: Table::default(),
            clients: Slab::new(),
            lanes: Slab::new(),
            lanes_made: 0,
            private: PrivateLanes::default(),
            pubsub: Subscriptions::default(),
            client_pause: None,
            monitors: Monitors::default(),
            trackers: Trackers::default(),
            merges: Slab::new(),
            retries: Slab::new(),
            spare_merges: Vec::new(),
            pool: Pool::default(),
            timers: TimerQueue::default(),
            swept: now,
            budget: Budget::default(),
            learned: FxHashMap::default(),
            checked: Checked::default(),
            captured: None,
            scripts,
            facts: ProxyFacts::default(),
            last_greeting_error: String::new(),
            handed_in: scripts::HandedIn::default(),
            counters: Counters::default(),
            events: VecDeque::new(),
            refresh_told: false,
            agenda: Agenda::default(),
            spans: Vec::new(),
            keys: Vec::new(),
            by_slot: Vec::new(),
            slot_bits: SlotBits::default(),
            ahead: FxHashMap::default(),
            scratch: Vec::new(),
            whole: None,
            inline: false,
        }
    }

    /// The time of this batch. It never goes back.
    pub fn set_now(&mut self, now: Micros) {
        debug_assert!(now >= self.now);
        self.now = now;
    }

    /// What INFO says of the proxy as a whole; the driver sets it when it changes.
    pub fn set_facts(&mut self, facts: ProxyFacts) {
        self.facts = facts;
    }

    /// A client connected. `public_id` is its CLIENT ID.
    pub fn client_open(&mut self, public_id: u64, peer: &str, local: &str) -> ClientId {
        self.client_open_as(public_id, peer, local, Face::Standalone)
    }

    /// As `client_open`, on a listener that shows this face.
    pub fn client_open_as(&mut self, public_id: u64, peer: &str, local: &str, face: Face) -> ClientId {
        let mut session = Session::new(public_id, peer.into(), local.into(), self.table.version, self.now);
        (session.modes, session.face) = (self.first_modes(), face);
        session.modes.set(self.pause_mode(), true);
        self.users.retain(session.user);
        ClientId(self.clients.insert(session) as u32)
    }

    /// The client ended its stream: it is closed when it has been told all it is owed.
    pub fn client_eof(&mut self, client: ClientId) {
        let session = &mut self.clients[client.0 as usize];
        if session.ending == Ending::No {
            session.ending = Ending::AfterReplies;
        }
        // As in a server: who is blocked is not waited for.
        if self.is_blocked(client.0) {
            self.close_told(client.0);
        }
        self.touch(client.0);
        self.settle();
    }

    fn close_told(&mut self, client: u32) {
        if !std::mem::replace(&mut self.clients[client as usize].close_told, true) {
            self.events.push_back(Event::CloseClient { client: ClientId(client) });
        }
    }

    /// The driver closed the client's connection. What it asked for is still carried out; the id must not be used again.
    pub fn client_gone(&mut self, client: ClientId) {
        self.leave_all(client.0);
        self.end_monitor(client.0);
        self.target_gone(client.0);
        let session = &mut self.clients[client.0 as usize];
        session.ending = Ending::Gone;
        session.deaf = true;
        self.let_go(client.0);
        let session = &mut self.clients[client.0 as usize];
        if let Some(active) = session.active.as_mut() {
            active.input = Vec::new();
            active.out = pipe::Pipe::default();
        }
        self.touch(client.0);
        self.settle();
    }

    /// Whether the driver should read from this client.
    pub fn client_reads(&self, client: ClientId) -> bool {
        let session = &self.clients[client.0 as usize];
        !session.deaf && (session.pause.is_none() || self.reads_while_blocked(client.0))
    }

    /// What is to be written to this client, perhaps nothing. `None`: it lies in several pieces, for `client_chunks`.
    #[inline]
    pub fn client_chunk(&self, client: ClientId) -> Option<&[u8]> {
        self.clients[client.0 as usize].active.as_ref().map_or(Some(&[]), |active| active.out.only_chunk())
    }

    /// Fills `slices` with what is to be written to this client; returns how many.
    pub fn client_chunks<'a>(&'a self, client: ClientId, slices: &mut [IoSlice<'a>]) -> usize {
        self.clients[client.0 as usize].active.as_ref().map_or(0, |active| active.out.chunks(slices))
    }

    /// So many bytes were written to this client.
    pub fn client_wrote(&mut self, client: ClientId, count: usize) {
        let Engine { clients, pool, .. } = self;
        let session = &mut clients[client.0 as usize];
        if !session.active.as_mut().is_some_and(|active| active.out.wrote(count)) {
            return;
        }
        // Also with the beginning of a request in its input: a client that has ended will not send the rest.
        if session.ending != Ending::No {
            self.rest(client.0);
        } else if let Some(active) = session.take_at_rest() {
            pool.give(active);
        }
    }

    /// As `client_chunk`.
    pub fn lane_chunk(&self, lane: LaneId) -> Option<&[u8]> {
        let Some(lane) = self.lanes.get(lane.index as usize).filter(|found| found.id == lane) else { return Some(&[]) };
        match lane.state {
            LaneState::Dialing => Some(&[]),
            LaneState::Greeting(_) => Some(&lane.greeting),
            LaneState::Open => lane.pipe.only_chunk(),
        }
    }

    pub fn lane_chunks<'a>(&'a self, lane: LaneId, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(lane) = self.lanes.get(lane.index as usize).filter(|found| found.id == lane) else { return 0 };
        match lane.state {
            LaneState::Dialing => 0,
            LaneState::Greeting(_) if lane.greeting.is_empty() => 0,
            LaneState::Greeting(_) => {
                slices[0] = IoSlice::new(&lane.greeting);
                1
            }
            LaneState::Open => lane.pipe.chunks(slices),
        }
    }

    pub fn lane_wrote(&mut self, lane: LaneId, count: usize) {
        let Some(lane) = answer::lane_mut(&mut self.lanes, lane) else { return };
        match lane.state {
            LaneState::Greeting(_) if count == lane.greeting.len() => lane.greeting.zeroize(),
            LaneState::Greeting(_) => drop(lane.greeting.drain(..count)),
            _ => lane.pipe.advance(count),
        }
    }

    /// Moves the list of lanes that have something to write into `into`.
    pub fn take_dirty_lanes(&mut self, into: &mut Vec<LaneId>) {
        into.append(&mut self.agenda.dirty_lanes);
        for lane in into.iter() {
            if let Some(lane) = answer::lane_mut(&mut self.lanes, *lane) {
                lane.dirty = false;
            }
        }
    }

    /// Moves the list of clients that have something to write into `into`. Answers whether others are only waiting for more of their
    /// replies, so that another turn should follow soon.
    pub fn take_dirty_clients(&mut self, into: &mut Vec<ClientId>) -> bool {
        let Engine { agenda: Agenda { lazy_clients, dirty_clients, .. }, clients, .. } = self;
        lazy_clients.retain(|client| {
            let Some(session) = clients.get_mut(client.0 as usize).filter(|session| session.lazy > 0) else { return false };
            session.lazy += 1;
            let due = session.lazy > LAZY_TURNS || session.dirty;
            if due {
                session.lazy = 0;
                if !std::mem::replace(&mut session.dirty, true) {
                    dirty_clients.push(*client);
                }
            }
            !due
        });
        into.append(dirty_clients);
        into.retain(|client| match clients.get_mut(client.0 as usize) {
            Some(session) => std::mem::take(&mut session.dirty) && session.ending != Ending::Gone,
            None => false,
        });
        !lazy_clients.is_empty()
    }

    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    pub fn next_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if matches!(event, Some(Event::Refresh(_))) {
            self.refresh_told = false;
        }
        event
    }

    /// When `tick` is wanted next.
    pub fn next_timeout(&self) -> Micros {
        self.timers.next().unwrap_or(Micros::MAX).min(self.swept + SWEEP_US).min(self.pubsub.next_timeout())
    }

    /// Does what is due at the time set before.
    pub fn tick(&mut self) {
        while let Some(client) = self.timers.pop_due(self.now) {
            if self.clients.get(client as usize).is_some_and(|session| session.waiting > 0) {
                self.pump_later(client);
            }
            self.tick_monitor(client);
            self.tick_tracker(client);
        }
        self.tick_subscriptions();
        self.end_due_pause();
        if self.swept + SWEEP_US <= self.now {
            self.swept = self.now;
            self.sweep();
        }
        self.settle();
    }

    /// A map was published: it may confirm addresses, name new owners, and tell of nodes that failed.
    pub fn map_published(&mut self, map: Arc<SlotMap>) {
        // A longer request would close the lane that it shares with others.
        self.settings.limits.multibulk_len_max = since::multibulk_len_max(&map.persona);
        if self.persona() != Some(&map.persona) {
            self.checked.clear();
        }
        let moved = self.table.publish(map);
        self.default_user_told();
        let failed =
            |node: ids::NodeId| self.table.nodes[usize::from(node.0)].in_map && self.table.nodes[usize::from(node.0)].failed;
        let failed: Vec<u32> = self.lanes.iter().filter(|(_, lane)| failed(lane.node)).map(|(index, _)| index as u32).collect();
        for lane in failed {
            self.give_lane_up(lane);
        }
        self.subscriptions_meet_map();
        self.monitors_meet_map();
        self.trackers_meet_map(moved);
        let waiting: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, session)| session.waiting > 0 || session.pause.is_some())
            .map(|(index, _)| index as u32)
            .collect();
        for client in waiting {
            self.pump_later(client);
            self.resume_later(client);
        }
        self.leave_moving_slots(None);
        self.settle();
    }

    /// A map that is younger than this moment is needed only when something happened since.
    fn refresh(&mut self, cause: RefreshCause) {
        if !std::mem::replace(&mut self.refresh_told, true) {
            self.events.push_back(Event::Refresh(cause));
        }
    }

    /// Carries out what the batch left to be looked at: waiting requests first, then paused input.
    #[inline(always)]
    fn settle(&mut self) {
        if !self.agenda.is_settled() || !self.pubsub.is_idle() || self.has_unwatched() {
            self.settle_all();
        }
    }

    #[inline(never)]
    fn settle_all(&mut self) {
        loop {
            if !self.pubsub.is_idle() {
                self.settle_topics();
            }
            if let Some(client) = self.agenda.to_pump.pop() {
                if let Some(session) = self.clients.get_mut(client as usize).filter(|session| session.to_pump) {
                    session.to_pump = false;
                    self.pump(client);
                }
            } else if let Some(client) = self.agenda.to_resume.pop() {
                if let Some(session) = self.clients.get_mut(client as usize).filter(|session| session.to_resume) {
                    session.to_resume = false;
                    self.resume(client);
                }
            } else if let Some(client) = self.agenda.touched.pop() {
                self.rest(client);
            } else {
                if self.has_unwatched() {
                    self.settle_unwatched();
                }
                return;
            }
        }
    }

    fn resume(&mut self, client: u32) {
        let session = &mut self.clients[client as usize];
        if session.pause.take().is_none() {
            return;
        }
        self.consume_input(client);
        let session = &self.clients[client as usize];
        if session.ending != Ending::Gone && self.client_reads(ClientId(client)) {
            self.events.push_back(Event::Resume { client: ClientId(client) });
        }
        self.touch(client);
    }

    /// Marks a client for `rest`.
    fn touch(&mut self, client: u32) {
        self.agenda.touched.push(client);
    }

    /// Gives back what a client at rest does not need; closes or forgets one that has come to its end.
    fn rest(&mut self, client: u32) {
        let Some(session) = self.clients.get_mut(client as usize) else { return };
        match session.ending {
            Ending::Gone if session.owed() == 0 => {
                let user = session.user;
                self.drop_transaction(client);
                self.end_tracking(client);
                self.clients.remove(client as usize);
                self.users.release(user, self.now);
                return;
            }
            Ending::AfterReplies
                if session.pause.is_none()
                    && session.owed() == 0
                    && !session.close_told
                    && session.active.as_ref().is_none_or(|active| active.out.held() == 0) =>
            {
                session.close_told = true;
                self.events.push_back(Event::CloseClient { client: ClientId(client) });
            }
            _ => {}
        }
        if let Some(active) = session.take_at_rest() {
            self.pool.give(active);
        }
    }

    fn sweep(&mut self) {
        self.pool.sweep();
        if self.clients.capacity() > (4 * self.clients.len()).max(SESSIONS_KEPT) {
            self.clients.shrink_to_fit();
        }
        self.sweep_private_lanes();
        self.sweep_push_lanes();
        self.leave_moving_slots(None);
        self.drop_unused_users(false);
        self.users.forget_permissions();
        if self.settings.idle_timeout_us > 0 {
            self.close_idle_clients();
        }
        let silent: Vec<u32> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.is_overdue(self.now, self.settings.node_timeout_us))
            .map(|(index, _)| index as u32)
            .collect();
        for lane in silent {
            self.give_lane_up(lane);
        }
    }

    fn close_idle_clients(&mut self) {
        for (index, session) in self.clients.iter_mut() {
            let listens =
                session.subscribed.as_ref().is_some_and(|own| own.is_subscriber()) || session.modes.has(Modes::MONITORING);
            let idle = session.owed() == 0 && !listens && session.last_active + self.settings.idle_timeout_us < self.now;
            if idle && !session.close_told && session.ending != Ending::Gone {
                session.close_told = true;
                self.counters.idle_closed += 1;
                self.events.push_back(Event::CloseClient { client: ClientId(index as u32) });
            }
        }
    }
}
