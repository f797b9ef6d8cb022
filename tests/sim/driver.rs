//! The driver of an engine: calls into it, its events, its lanes and clients once a turn.

use std::{
    collections::{HashMap, VecDeque},
    io::IoSlice,
    sync::Arc,
};

use keyway::{
    cluster::SlotMap,
    engine::{ClientId, Engine, Event, LaneId},
    resp::{Limits, RequestScanner, Scanned},
};

use crate::{
    conn::Frame,
    tags::{objects_of, tag_of},
    world::{What, World},
};

/// An engine and what its driver knows.
pub struct Driver {
    pub engine: Engine,
    pub lanes: HashMap<LaneId, usize>,
    pub clients: HashMap<ClientId, usize>,
    pub map: Option<Arc<SlotMap>>,
    /// When it had its first map.
    pub knows_since: Option<u64>,
    pub turn_at: Option<u64>,
    /// Events that were taken and are not carried out yet.
    pub events: VecDeque<Event>,
}

impl World {
    /// One call into an engine; what it queued is seen before anything else happens, and a turn follows now or a little later.
    pub fn with(&mut self, index: usize, call: impl FnOnce(&mut Engine)) {
        self.truth.step += 1;
        let driver = &mut self.drivers[index];
        driver.engine.set_now(self.now);
        call(&mut driver.engine);
        let mut closing = Vec::new();
        while let Some(event) = driver.engine.next_event() {
            if let Event::CloseLane { lane } = event
                && let Some(conn) = driver.lanes.get(&lane).copied()
            {
                closing.push(conn);
            }
            driver.events.push_back(event);
        }
        closing.into_iter().for_each(|conn| self.forget_in_flight(conn));
        self.truth.step += 1;
        self.look_at_lanes(index);
        if self.random.bool() {
            self.turn(index);
        } else {
            let wait = self.random.u64(0..100);
            self.turn_later(index, wait);
        }
    }

    pub fn turn_later(&mut self, index: usize, wait: u64) {
        let at = self.now + wait;
        if self.drivers[index].turn_at.is_none_or(|turn| turn > at || turn < self.now) {
            self.drivers[index].turn_at = Some(at);
            self.later(wait, What::Turn(index));
        }
    }

    /// Follows what the engine queued on its lanes since it was last looked at.
    pub fn look_at_lanes(&mut self, index: usize) {
        let mut lanes: Vec<usize> =
            self.drivers[index].lanes.values().copied().filter(|conn| self.conns[*conn].connected).collect();
        lanes.sort_unstable();
        for conn in lanes {
            let lane = self.conns[conn].lane;
            let mut slices = [IoSlice::new(&[]); 64];
            let count = self.drivers[index].engine.lane_chunks(lane, &mut slices);
            let total: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            let skip = (self.conns[conn].queued - self.conns[conn].written) as usize;
            if total > skip {
                let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                self.note_queued(conn, &bytes[skip..]);
            }
        }
    }

    pub fn note_queued(&mut self, index: usize, mut bytes: &[u8]) {
        let mut spans = Vec::new();
        while !bytes.is_empty() {
            let Ok(Scanned::Request { len }) = RequestScanner::default().scan(bytes, &mut spans, &Limits::default()) else {
                return self
                    .truth
                    .accuse(format!("a lane carries something that is no request: {:?}", String::from_utf8_lossy(bytes)));
            };
            let args: Vec<Vec<u8>> = spans.iter().map(|span| span.of(bytes).to_vec()).collect();
            let conn = &mut self.conns[index];
            conn.queued += len as u64;
            let end = conn.queued;
            let returns = self.pops.is_return(&args);
            let attempt =
                tag_of(&args).filter(|_| !returns).map(|(tag, write)| self.truth.queued(tag, index, objects_of(&args), write));
            // Inside of MULTI a node is only asked whether it would queue it.
            if let Some((tag, _)) = tag_of(&args).filter(|_| !self.conns[index].in_multi) {
                self.check_message_queued(tag, &args);
            }
            self.check_wait_queued(index, &args);
            if self.trace {
                let shown: Vec<String> =
                    args.iter().map(|arg| String::from_utf8_lossy(&arg[..arg.len().min(30)]).into_owned()).collect();
                println!(
                    "{:>9}   engine {} queues for node {} (conn {index}): {}",
                    self.now,
                    self.conns[index].engine,
                    self.conns[index].node,
                    shown.join(" ")
                );
            }
            match (args[0].as_slice(), args.len()) {
                (b"EXEC", 1) => self.cut_at_exec(index),
                (b"EXEC", _) => self.void_unit(index),
                _ => {}
            }
            let frame = Frame { args, end, attempt };
            self.check_behind_wait(&frame);
            self.conns[index].frames.push_back(frame);
            bytes = &bytes[len..];
        }
    }

    /// What stands behind MULTI was queued only to ask whether a node would queue it: it is nobody's attempt to have it done.
    fn void_unit(&mut self, index: usize) {
        let frames = self.conns[index].frames.iter_mut().rev();
        for attempt in frames.take_while(|frame| frame.args[0] != b"MULTI").filter_map(|frame| frame.attempt.take()) {
            self.truth.void(attempt);
        }
    }

    /// The driver's turn: events, then every dirty lane and client once.
    pub fn turn(&mut self, index: usize) {
        self.drivers[index].turn_at = None;
        loop {
            self.drivers[index].engine.set_now(self.now);
            let mut idle = true;
            while let Some(event) = self.next_event(index) {
                idle = false;
                self.handle(index, event);
            }
            let mut lanes = Vec::new();
            self.drivers[index].engine.take_dirty_lanes(&mut lanes);
            for lane in lanes {
                idle = false;
                if let Some(conn) = self.drivers[index].lanes.get(&lane) {
                    self.write_lane(*conn);
                }
            }
            let mut clients = Vec::new();
            let more = self.drivers[index].engine.take_dirty_clients(&mut clients);
            for client in clients {
                idle = false;
                if let Some(client) = self.drivers[index].clients.get(&client) {
                    self.write_client(*client);
                }
            }
            if idle {
                if more {
                    self.turn_later(index, 10);
                }
                return;
            }
        }
    }

    pub fn next_event(&mut self, index: usize) -> Option<Event> {
        let driver = &mut self.drivers[index];
        driver.events.pop_front().or_else(|| driver.engine.next_event())
    }

    pub fn handle(&mut self, index: usize, event: Event) {
        self.say(|| format!("  engine {index}: {event:?}"));
        match event {
            Event::Dial { lane, addr } => {
                let known = self.drivers[index]
                    .map
                    .as_ref()
                    .is_some_and(|map| map.nodes.iter().any(|node| node.spellings().any(|other| *other == addr)));
                let node = self.cluster.nodes.iter().position(|node| node.addr == addr);
                let Some(node) = node.filter(|_| known) else {
                    return self.truth.accuse(format!("{addr} is dialled, which the map does not hold"));
                };
                self.dial(index, lane, node);
            }
            Event::CloseLane { lane } => {
                if let Some(conn) = self.drivers[index].lanes.get(&lane).copied() {
                    self.end_conn(conn, false);
                }
            }
            Event::CloseClient { client } => {
                if let Some(client) = self.drivers[index].clients.get(&client).copied() {
                    self.close_client(client, false);
                }
            }
            Event::Resume { client } => {
                if let Some(client) = self.drivers[index].clients.get(&client).copied() {
                    self.deliver_to_engine_later(client);
                }
            }
            Event::Refresh(_) => {
                if !self.map_asked {
                    self.map_asked = true;
                    let wait = self.random.u64(100..30_000);
                    self.later(wait, What::AskMap);
                }
            }
            Event::Invalidate(told) => self.drivers.iter_mut().for_each(|driver| driver.engine.invalidated(&told)),
            Event::TargetGone { id } => self.drivers.iter_mut().for_each(|driver| driver.engine.redirect_broken(id)),
            Event::Wanted { .. } => {}
            Event::CallOperators { .. } => self.truth.accuse("a PROXY command is passed on, which no setting allows".into()),
            Event::Order { token, order } => {
                let mut outcome = keyway::engine::Outcome::default();
                for other in 0..self.drivers.len() {
                    self.with(other, |engine| outcome += engine.obey(&order));
                }
                self.with(index, |engine| engine.obeyed(token, &order, outcome));
            }
        }
    }
}
