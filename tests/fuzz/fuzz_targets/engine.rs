//! Whatever clients and nodes send, and in whatever order connections come and go, the engine does not panic, keeps its limits, and
//! has forgotten everything once its clients are gone and their deadline has passed.
#![no_main]

use std::{io::IoSlice, sync::Arc};

use keyway::{
    cluster::{Addr, Node, Persona, Role, SlotMap},
    engine::{ClientId, Engine, Event, LaneId, Scripts, Settings},
    resp::Limits,
};
use libfuzzer_sys::fuzz_target;

const CLIENTS: usize = 3;
const PIPELINE_DEPTH: usize = 8;
const INPUT_MAX: usize = 4096;
const OUTPUT_MAX: usize = 4096;
const RETRY_DEADLINE_US: u64 = 1_000_000;

// Steps, each ended by a byte 0xff. Their first byte says what is done, the others with what:
//   0 1 2  that client sends them            3 4 5  byte by byte
//   a b c  the lane of that age sends them   d e f  byte by byte
//   t      so many times 100 ms pass         p      the map is published, without the nodes named by the digits
//   l      the lane of the age that the digit says is lost      u      dialled nodes can be reached from now on, or no more
//   g      the client that the digit says is gone     z      it ends its stream      w      it stops reading, or goes on
fuzz_target!(|input: &[u8]| {
    let mut drive = Drive::new();
    for step in input.split(|byte| *byte == 0xff) {
        let [kind, rest @ ..] = step else { continue };
        drive.step(*kind, rest);
        drive.turn();
        drive.check_load(input.len());
    }
    drive.finish();
});

struct Drive {
    engine: Engine,
    now: u64,
    published: u64,
    clients: [ClientId; CLIENTS],
    opened: u64,
    reads: [bool; CLIENTS],
    lanes: Vec<LaneId>,
    reachable: bool,
}

impl Drive {
    fn new() -> Self {
        let settings = Settings {
            retry_deadline_us: RETRY_DEADLINE_US,
            limits: Limits { bulk_len_max: 1024, query_buffer_max: INPUT_MAX, ..Limits::default() },
            pipeline_depth: PIPELINE_DEPTH,
            output_buffer_max: OUTPUT_MAX,
            lane_buffer_max: 1024,
            node_timeout_us: 5_000_000,
            ..Settings::default()
        };
        let mut engine = Engine::new(settings, Arc::new(Scripts::new(4096)), 1, 0);
        engine.map_published(Arc::new(map(1, 0, &[])));
        let clients = [1, 2, 3].map(|id| engine.client_open(id, "127.0.0.1:1", "127.0.0.1:2"));
        Drive { engine, now: 0, published: 1, clients, opened: 3, reads: [true; CLIENTS], lanes: Vec::new(), reachable: true }
    }

    fn step(&mut self, kind: u8, rest: &[u8]) {
        let digit = rest.first().map_or(0, |byte| usize::from(byte % 10));
        let client = digit % CLIENTS;
        match kind {
            b'0'..=b'2' => self.client_sends(usize::from(kind - b'0'), rest),
            b'3'..=b'5' => rest.chunks(1).for_each(|byte| self.client_sends(usize::from(kind - b'3'), byte)),
            b'a'..=b'c' => self.lane_sends(usize::from(kind - b'a'), rest),
            b'd'..=b'f' => rest.chunks(1).for_each(|byte| self.lane_sends(usize::from(kind - b'd'), byte)),
            b't' => self.pass(100_000 * rest.len() as u64),
            b'p' => {
                self.published += 1;
                self.engine.map_published(Arc::new(map(self.published, self.now, rest)));
            }
            b'l' if digit < self.lanes.len() => {
                let lane = self.lanes.remove(digit);
                self.engine.lane_lost(lane);
            }
            b'u' => self.reachable = !self.reachable,
            b'g' => self.replace(client),
            b'z' => self.engine.client_eof(self.clients[client]),
            b'w' => self.reads[client] = !self.reads[client],
            _ => {}
        }
    }

    fn client_sends(&mut self, client: usize, bytes: &[u8]) {
        if self.engine.client_reads(self.clients[client]) {
            self.engine.client_bytes(self.clients[client], bytes);
        }
    }

    fn lane_sends(&mut self, age: usize, bytes: &[u8]) {
        if let Some(lane) = self.lanes.get(age).copied() {
            self.engine.lane_bytes(lane, bytes);
        }
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        self.engine.set_now(self.now);
        if self.engine.next_timeout() <= self.now {
            self.engine.tick();
        }
    }

    fn replace(&mut self, client: usize) {
        self.engine.client_gone(self.clients[client]);
        self.opened += 1;
        self.clients[client] = self.engine.client_open(self.opened, "127.0.0.1:1", "127.0.0.1:2");
        self.reads[client] = true;
    }

    /// Does what the engine asks for until it asks for nothing more.
    fn turn(&mut self) {
        for _ in 0..100 {
            while let Some(event) = self.engine.next_event() {
                self.carry_out(event);
            }
            self.write_lanes();
            let others_wait = self.write_clients();
            if !others_wait && !self.engine.has_event() {
                return;
            }
        }
        assert!(!self.reachable, "100 rounds, and there is still something to do");
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Dial { lane, .. } if !self.reachable => self.engine.lane_lost(lane),
            Event::Dial { lane, .. } => {
                if self.engine.lane_connected(lane) {
                    self.lanes.push(lane);
                }
            }
            Event::CloseLane { lane } => self.lanes.retain(|known| *known != lane),
            Event::CloseClient { client } => {
                if let Some(index) = self.clients.iter().position(|known| *known == client) {
                    self.replace(index);
                }
            }
            Event::Order { token, order } => {
                let outcome = self.engine.obey(&order);
                self.engine.obeyed(token, &order, outcome);
            }
            Event::Invalidate(told) => self.engine.invalidated(&told),
            Event::TargetGone { id } => self.engine.redirect_broken(id),
            Event::Wanted { .. } => {}
            Event::CallOperators { .. } => panic!("a PROXY command is passed on, which no setting allows"),
            Event::Resume { .. } | Event::Refresh(_) => {}
        }
    }

    fn write_lanes(&mut self) {
        let mut dirty = Vec::new();
        self.engine.take_dirty_lanes(&mut dirty);
        for lane in dirty {
            loop {
                let mut slices = [IoSlice::new(&[]); 4];
                let count = self.engine.lane_chunks(lane, &mut slices);
                let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
                if bytes == 0 {
                    break;
                }
                self.engine.lane_wrote(lane, bytes);
            }
        }
    }

    fn write_clients(&mut self) -> bool {
        let mut dirty = Vec::new();
        let others_wait = self.engine.take_dirty_clients(&mut dirty);
        for client in dirty {
            let reads = self.clients.iter().zip(self.reads).any(|(known, reads)| *known == client && reads);
            while reads {
                let mut slices = [IoSlice::new(&[]); 4];
                let count = self.engine.client_chunks(client, &mut slices);
                let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
                if bytes == 0 {
                    break;
                }
                self.engine.client_wrote(client, bytes);
            }
        }
        others_wait
    }

    /// `fed`: the bytes of all steps, which bounds what came at once.
    fn check_load(&self, fed: usize) {
        let load = self.engine.load();
        let gone = (self.opened as usize).saturating_sub(CLIENTS);
        assert!(load.clients <= CLIENTS + gone, "{load:?}");
        // A reply may be that of a request taken just below the limit.
        assert!(load.owed <= (PIPELINE_DEPTH + 1) * load.clients, "{load:?}");
        assert!(load.input_bytes <= (INPUT_MAX + fed) * load.clients, "{load:?}");
        // Whoever is above the limit has been closed: only what came last may be above it.
        assert!(load.output_bytes <= (OUTPUT_MAX + 64 * 1024 + fed) * CLIENTS, "{load:?}");
    }

    /// All clients go, no node can be reached, and time passes.
    fn finish(mut self) {
        for client in self.clients {
            self.engine.client_gone(client);
        }
        self.reachable = false;
        for lane in std::mem::take(&mut self.lanes) {
            self.engine.lane_lost(lane);
        }
        for _ in 0..8 {
            while let Some(event) = self.engine.next_event() {
                // Nobody comes any more.
                if !matches!(event, Event::CloseClient { .. }) {
                    self.carry_out(event);
                }
            }
            self.pass(RETRY_DEADLINE_US);
        }
        let load = self.engine.load();
        let forgotten = load.clients + load.owed + load.waiting + load.merges + load.input_bytes + load.output_bytes;
        assert_eq!(forgotten, 0, "{load:?}");
    }
}

/// Three masters with a third of the slots each (nobody owns the last slot), and a replica; without the nodes that the digits name.
fn map(version: u64, asked_at_us: u64, without: &[u8]) -> SlotMap {
    let there = |number: &u16| !without.contains(&(b'0' + *number as u8));
    let numbers: Vec<u16> = (0..4).filter(there).collect();
    let node = |number: &u16| Node {
        id: format!("node-{number}").into(),
        addr: Addr::new("127.0.0.1", 7000 + number),
        aliases: Vec::new(),
        role: if *number == 3 { Role::Replica { of: "node-0".into() } } else { Role::Master },
        failed: without.contains(&(b'a' + *number as u8)),
        epoch: u64::from(*number) + 1,
        cursor_has_slot: *number == 1,
    };
    let mut ranges = Vec::new();
    for (index, number) in numbers.iter().enumerate().filter(|(_, number)| **number < 3) {
        let first = number * 5461;
        ranges.push((first, first + 5460, index as u16));
    }
    SlotMap::new(version, asked_at_us, numbers.iter().map(node).collect(), &ranges, Persona::default())
}
