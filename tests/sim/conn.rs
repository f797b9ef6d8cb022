//! Connections from engines to nodes: what is under way on them, in which pieces it arrives, and how they end.

use std::{collections::VecDeque, io::IoSlice};

use keyway::engine::LaneId;

use crate::{
    channels::Message,
    client::Life,
    link::{Stream, piece},
    node::Caller,
    world::{What, World},
};

/// A request on its way to a node.
pub struct Frame {
    pub args: Vec<Vec<u8>>,
    /// The number of the stream's byte behind it.
    pub end: u64,
    pub attempt: Option<usize>,
}

/// What an engine learns when it has heard a part of what a node sent.
#[derive(Debug)]
pub enum Told {
    /// The reply to an attempt.
    Reply(usize),
    Popped(Vec<u8>),
    Message(Message),
    /// The end of a wait.
    Waited,
    /// The answer to CLIENT UNBLOCK of this connection.
    Unblocked(usize),
}

/// A connection from an engine to a node.
pub struct Conn {
    pub engine: usize,
    pub lane: LaneId,
    pub node: usize,
    pub connected: bool,
    /// When the engine wanted it.
    pub dialled: u64,
    pub open: bool,
    pub to_node: Stream,
    pub from_node: Stream,
    pub caller: Caller,
    /// Requests that were queued and did not reach the node wholly.
    pub frames: VecDeque<Frame>,
    pub queued: u64,
    pub written: u64,
    pub reached: u64,
    /// What the node sent and has not wholly reached the engine, and where it ends.
    pub replies: VecDeque<(u64, Told)>,
    /// The attempt that the node keeps waiting.
    pub waits: Option<usize>,
    /// MULTI was queued, and EXEC was not.
    pub in_multi: bool,
    /// Nothing but its greeting was queued yet.
    pub fresh: bool,
    /// When the engine heard something last.
    pub heard_at: u64,
    /// A blocking command was queued whose answer the engine has not heard.
    pub leased: bool,
    /// Where a CLIENT UNBLOCK of it was queued whose answer the engine has not heard.
    pub unblocked_by: Vec<usize>,
    /// What was queued behind MULTI, until EXEC.
    pub unit: Vec<Option<usize>>,
    pub answered: u64,
    pub heard: u64,
    /// No reply leaves the node before this moment.
    pub silent_until: u64,
}

impl World {
    pub fn dial(&mut self, engine: usize, lane: LaneId, node: usize) {
        let index = self.conns.len();
        let conn = Conn {
            engine,
            lane,
            node,
            connected: false,
            dialled: self.now,
            open: true,
            to_node: Stream::default(),
            from_node: Stream::default(),
            caller: Caller::new(index, &self.cluster),
            frames: VecDeque::new(),
            queued: 0,
            written: 0,
            reached: 0,
            replies: VecDeque::new(),
            waits: None,
            in_multi: false,
            fresh: true,
            heard_at: 0,
            leased: false,
            unblocked_by: Vec::new(),
            unit: Vec::new(),
            answered: 0,
            heard: 0,
            silent_until: 0,
        };
        self.conns.push(conn);
        if self.drivers[engine].lanes.insert(lane, index).is_some() {
            self.truth.accuse(format!("lane {lane:?} is dialled while it is open"));
        }
        let target = &self.cluster.nodes[node];
        let reachable = target.alive && !target.unreachable;
        let wait = match reachable {
            true => self.delay(),
            // Refused at once, or a timeout.
            false => *self.random.choice([50, 1000, 300_000].iter()).expect("three choices"),
        };
        self.later(wait, What::Dialed(index, reachable));
    }

    pub fn dialed(&mut self, index: usize, reachable: bool) {
        let conn = &self.conns[index];
        if !conn.open {
            return;
        }
        let (engine, lane, node) = (conn.engine, conn.lane, conn.node);
        let reachable = reachable && self.cluster.nodes[node].alive && !self.cluster.nodes[node].unreachable;
        self.say(|| format!("  conn {index} of engine {engine} to node {node} dialled: {reachable}"));
        if reachable {
            self.conns[index].connected = true;
            self.with(engine, |engine| {
                engine.lane_connected(lane);
            });
        } else {
            self.end_conn(index, true);
        }
    }

    pub fn write_lane(&mut self, index: usize) {
        let conn = &self.conns[index];
        if !conn.connected || !conn.open {
            return;
        }
        let (engine, lane) = (conn.engine, conn.lane);
        let mut slices = [IoSlice::new(&[]); 64];
        let count = self.drivers[engine].engine.lane_chunks(lane, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        if bytes.is_empty() {
            return;
        }
        self.look_at_lanes(engine);
        let count = piece(&mut self.random, bytes.len(), self.plan.whole_percent.max(50));
        self.drivers[engine].engine.lane_wrote(lane, count);
        let conn = &mut self.conns[index];
        conn.written += count as u64;
        conn.to_node.push(&bytes[..count]);
        if count < bytes.len() {
            let wait = self.delay();
            self.later(wait, What::LaneWritable(index));
        } else if conn.queued != conn.written {
            self.truth.accuse("the driver lost count of a lane".into());
        }
        let conn = &mut self.conns[index];
        if !std::mem::replace(&mut conn.to_node.scheduled, true) {
            let wait = self.delay();
            self.later(wait, What::ToNode(index));
        }
    }

    pub fn deliver_to_node(&mut self, index: usize) {
        self.conns[index].to_node.scheduled = false;
        let len = self.conns[index].to_node.len();
        if !self.conns[index].open || len == 0 {
            return;
        }
        let count = piece(&mut self.random, len, self.plan.whole_percent);
        self.node_reads(index, count);
        if self.conns[index].to_node.len() > 0 {
            self.conns[index].to_node.scheduled = true;
            let wait = self.delay() / 4;
            self.later(wait, What::ToNode(index));
        }
    }

    /// Whatever stays away comes now.
    pub fn end_silences(&mut self) {
        for index in 0..self.conns.len() {
            if self.conns[index].silent_until > self.now {
                self.conns[index].silent_until = self.now;
                self.later(0, What::FromNode(index));
            }
        }
    }

    pub fn deliver_from_node(&mut self, index: usize) {
        self.conns[index].from_node.scheduled = false;
        let len = self.conns[index].from_node.len();
        if !self.conns[index].open || len == 0 {
            return;
        }
        let count = piece(&mut self.random, len, self.plan.whole_percent);
        self.engine_hears(index, count);
        let conn = &mut self.conns[index];
        if conn.open && conn.from_node.len() > 0 && !conn.from_node.scheduled {
            conn.from_node.scheduled = true;
            let wait = self.delay() / 4;
            self.later(wait, What::FromNode(index));
        }
    }

    pub fn engine_hears(&mut self, index: usize, count: usize) {
        let conn = &mut self.conns[index];
        let bytes = conn.from_node.take(count);
        conn.heard += count as u64;
        conn.heard_at = self.now;
        let (engine, lane) = (conn.engine, conn.lane);
        let mut heard = Vec::new();
        while conn.replies.front().is_some_and(|(end, _)| *end <= conn.heard) {
            heard.extend(conn.replies.pop_front().map(|(_, told)| told));
        }
        for told in heard {
            match told {
                Told::Reply(attempt) => self.truth.reply_seen(attempt),
                Told::Popped(element) => {
                    let is_gone = |client: u32| self.clients[client as usize].life == Life::Closed;
                    self.pops.heard(&element, is_gone);
                }
                Told::Message(message) => {
                    let user = self.conns[index].caller.user;
                    self.message_heard(engine, user, message);
                }
                Told::Waited => self.conns[index].leased = false,
                Told::Unblocked(other) => {
                    let by = &mut self.conns[other].unblocked_by;
                    by.iter().position(|by| *by == index).map(|place| by.swap_remove(place));
                }
            }
        }
        self.with(engine, |engine| engine.lane_bytes(lane, &bytes));
    }

    /// A connection breaks: a part of what is under way still arrives, in both directions.
    pub fn cut(&mut self, index: usize) {
        if !self.conns[index].open || !self.conns[index].connected {
            return;
        }
        let len = self.conns[index].to_node.len();
        if self.cluster.nodes[self.conns[index].node].alive && len > 0 {
            let count = self.random.usize(0..=len);
            self.node_reads(index, count);
        }
        let len = self.conns[index].from_node.len();
        if len > 0 {
            let count = self.random.usize(0..=len);
            if count > 0 {
                self.engine_hears(index, count);
                let engine = self.conns[index].engine;
                self.turn(engine);
            }
        }
        self.end_conn(index, true);
    }

    /// Forgets a connection, and tells the engine if it was not the engine's own wish.
    pub fn end_conn(&mut self, index: usize, tell: bool) {
        let conn = &mut self.conns[index];
        if !std::mem::replace(&mut conn.open, false) {
            return;
        }
        let (engine, lane) = (conn.engine, conn.lane);
        self.say(|| format!("  conn {index} of engine {engine} ends"));
        if !tell {
            // What the driver wrote last may still be executed.
            let len = self.conns[index].to_node.len();
            if self.cluster.nodes[self.conns[index].node].alive && len > 0 {
                let count = self.random.usize(0..=len);
                self.node_reads(index, count);
            }
        }
        self.drivers[engine].lanes.remove(&lane);
        self.truth.step += 1;
        self.forget_in_flight(index);
        let conn = &mut self.conns[index];
        conn.frames.clear();
        conn.from_node.clear();
        conn.to_node.clear();
        // A node that lives learns of it a little later; until then it may still serve whoever waits there.
        let wait = self.delay();
        self.later(wait, What::Fin(index));
        if tell {
            self.with(engine, |engine| engine.lane_lost(lane));
        }
    }

    /// The engine is about to learn, or has decided, that a connection is lost. What is inside of MULTI is written when EXEC is.
    pub fn forget_in_flight(&mut self, index: usize) {
        let World { conns, truth, .. } = self;
        let conn = &mut conns[index];
        for (_, told) in std::mem::take(&mut conn.replies) {
            if let Told::Reply(attempt) = told {
                truth.lost(attempt, true);
            }
        }
        if let Some(attempt) = conn.waits {
            truth.lost(attempt, true);
        }
        let mut exec_end = None;
        for frame in conn.frames.iter().rev() {
            match frame.args[0].as_slice() {
                b"EXEC" if frame.args.len() == 1 => exec_end = Some(frame.end),
                // With an argument it only drops what came before.
                b"EXEC" => exec_end = Some(u64::MAX),
                b"MULTI" => exec_end = None,
                _ => {}
            }
            if let Some(attempt) = frame.attempt {
                truth.lost(attempt, exec_end.unwrap_or(frame.end) <= conn.written);
            }
        }
        for attempt in std::mem::take(&mut conn.unit).into_iter().flatten() {
            truth.lost(attempt, exec_end.is_some_and(|end| end <= conn.written));
        }
        self.conns.iter_mut().for_each(|conn| conn.unblocked_by.retain(|by| *by != index));
        self.lane_of_listeners_ends(index);
    }
}
