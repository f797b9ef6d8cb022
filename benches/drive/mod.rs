//! An engine without sockets: clients that ask in turns, and three nodes that answer what they are asked.
//!
//! A turn is one round of a busy worker: every client's pipeline is read, every lane is written once, every node's answers are
//! read, every client is written once. Nodes read their requests only while a turn is recorded; afterwards it is replayed, so
//! that what is measured is the engine and next to nothing else. Used by `benches/engine.rs` and `tests/alloc.rs`.

use std::sync::Arc;

use keyway::{
    cluster::{Addr, Node, Persona, Role, SlotMap},
    engine::{ClientId, Engine, Event, LaneId, Scripts, Settings},
    resp::{Limits, RequestScanner, Scanned, encode},
};

/// Masters, each with one third of the slots.
const NODES: usize = 3;

/// Turns that are recorded, each with keys of its own, so that no branch predictor learns one by heart.
const TURNS: usize = 32;

/// Bytes of every value.
const VALUE_LEN: usize = 64;

/// Microseconds from one turn to the next.
const TURN_US: u64 = 1_000;

/// What every client does in a turn.
#[derive(Clone, Copy, Debug)]
pub enum Workload {
    Get { pipeline: usize },
    Set { pipeline: usize },
    Mget { keys: usize },
    Mset { keys: usize },
}

/// One recorded turn.
#[derive(Default)]
struct Turn {
    /// What each client sends.
    requests: Vec<Vec<u8>>,
    /// What each node answers.
    replies: [Vec<u8>; NODES],
    /// Bytes that all clients are told together.
    told: usize,
}

/// See the module's head.
pub struct Drive {
    engine: Engine,
    clients: Vec<ClientId>,
    lanes: [LaneId; NODES],
    turns: Vec<Turn>,
    played: usize,
    now_us: u64,
    requests_a_turn: usize,
    dirty_lanes: Vec<LaneId>,
    dirty_clients: Vec<ClientId>,
}

impl Drive {
    /// A worker's engine with its lanes open and all turns recorded (and played once).
    pub fn new(workload: Workload, clients: usize) -> Drive {
        let mut engine = Engine::new(Settings::default(), Arc::new(Scripts::new(0)), 1, 0);
        engine.map_published(Arc::new(three_masters()));
        let clients: Vec<ClientId> =
            (0..clients as u64).map(|id| engine.client_open(id + 1, "127.0.0.1:1", "127.0.0.1:2")).collect();
        let lanes = open_lanes(&mut engine, clients[0]);
        let pipeline = match workload {
            Workload::Get { pipeline } | Workload::Set { pipeline } => pipeline,
            Workload::Mget { .. } | Workload::Mset { .. } => 1,
        };
        let requests_a_turn = clients.len() * pipeline;
        let (dirty_lanes, dirty_clients) = (Vec::new(), Vec::new());
        let mut drive = Drive {
            engine,
            clients,
            lanes,
            turns: Vec::new(),
            played: 0,
            now_us: 0,
            requests_a_turn,
            dirty_lanes,
            dirty_clients,
        };
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..TURNS {
            drive.record(workload, pipeline, &mut random);
        }
        drive
    }

    /// Plays the next turn. Answers how many requests were answered in it.
    pub fn play(&mut self) -> usize {
        let index = self.played % TURNS;
        let turn = std::mem::take(&mut self.turns[index]);
        self.begin_turn();
        for (client, requests) in self.clients.iter().zip(&turn.requests) {
            self.engine.client_bytes(*client, requests);
        }
        self.write_lanes(|_, _| {});
        // Another node is the first to answer each time, so that replies overtake each other in every way.
        for step in 0..NODES {
            let node = (self.played + step) % NODES;
            self.engine.lane_bytes(self.lanes[node], &turn.replies[node]);
        }
        let told = self.write_clients(|_, _| {});
        assert_eq!(told, turn.told, "turn {}", self.played);
        self.turns[index] = turn;
        self.played += 1;
        self.requests_a_turn
    }

    /// Plays one turn with new keys and nodes that read what they are asked, and keeps it.
    fn record(&mut self, workload: Workload, pipeline: usize, random: &mut fastrand::Rng) {
        let mut turn = Turn::default();
        self.begin_turn();
        for client in &self.clients {
            let mut requests = Vec::new();
            for _ in 0..pipeline {
                write_request(&mut requests, workload, random);
            }
            self.engine.client_bytes(*client, &requests);
            turn.requests.push(requests);
        }
        let mut asked: [Vec<u8>; NODES] = Default::default();
        self.write_lanes(|node, bytes| asked[node].extend_from_slice(bytes));
        for (node, asked) in asked.iter().enumerate() {
            answer_all(asked, &mut turn.replies[node]);
            self.engine.lane_bytes(self.lanes[node], &turn.replies[node]);
        }
        let mut told = vec![Vec::new(); self.clients.len()];
        turn.told = self.write_clients(|client, bytes| told[client.0 as usize].extend_from_slice(bytes));
        for (client, requests) in self.clients.iter().zip(&turn.requests) {
            let mut expected = Vec::new();
            answer_all(requests, &mut expected);
            assert!(told[client.0 as usize] == expected, "the client is told what one server would tell it");
        }
        self.turns.push(turn);
    }

    fn begin_turn(&mut self) {
        self.now_us += TURN_US;
        self.engine.set_now(self.now_us);
        if self.engine.next_timeout() <= self.now_us {
            self.engine.tick();
        }
    }

    fn write_lanes(&mut self, mut written: impl FnMut(usize, &[u8])) {
        self.engine.take_dirty_lanes(&mut self.dirty_lanes);
        while let Some(lane) = self.dirty_lanes.pop() {
            let node = self.lanes.iter().position(|known| *known == lane).expect("only these lanes were dialled");
            let chunk = self.engine.lane_chunk(lane).expect("no frame of these workloads is large");
            written(node, chunk);
            let bytes = chunk.len();
            self.engine.lane_wrote(lane, bytes);
        }
    }

    /// Answers how many bytes were written.
    fn write_clients(&mut self, mut written: impl FnMut(ClientId, &[u8])) -> usize {
        let mut told = 0;
        loop {
            let others_wait = self.engine.take_dirty_clients(&mut self.dirty_clients);
            while let Some(client) = self.dirty_clients.pop() {
                let chunk = self.engine.client_chunk(client).expect("no reply of these workloads is large");
                written(client, chunk);
                let bytes = chunk.len();
                self.engine.client_wrote(client, bytes);
                told += bytes;
            }
            if !others_wait {
                break;
            }
        }
        while let Some(event) = self.engine.next_event() {
            assert!(matches!(event, Event::Resume { .. }), "nothing is wrong in this cluster: {event:?}");
        }
        told
    }
}

/// Each node's third of the slots.
pub fn three_masters() -> SlotMap {
    let node = |number: usize| Node {
        id: format!("node-{number}").into(),
        addr: Addr::parse(&address(number)).expect("a host and a port"),
        aliases: Vec::new(),
        role: Role::Master,
        failed: false,
        epoch: number as u64 + 1,
        cursor_has_slot: false,
    };
    SlotMap::new(1, 0, (0..NODES).map(node).collect(), &[(0, 5460, 0), (5461, 10922, 1), (10923, 16383, 2)], Persona::default())
}

fn address(node: usize) -> String {
    format!("127.0.0.1:{}", 7000 + node)
}

/// Opens a lane to every node, by asking it for a key.
fn open_lanes(engine: &mut Engine, client: ClientId) -> [LaneId; NODES] {
    // Slots 5061, 7365 and 12182: one of each third.
    for key in ["bar", "c", "foo"] {
        let mut request = Vec::new();
        encode::command(&mut request, &[b"GET", key.as_bytes()]);
        engine.client_bytes(client, &request);
    }
    let mut lanes = [None; NODES];
    while let Some(event) = engine.next_event() {
        let Event::Dial { lane, addr } = event else { panic!("only dials are wanted, not {event:?}") };
        let node = (0..NODES).find(|node| addr.as_str() == address(*node)).expect("an address of the map");
        assert!(engine.lane_connected(lane));
        lanes[node] = Some(lane);
    }
    let lanes = lanes.map(|lane| lane.expect("the keys are one of each node"));
    let (mut dirty_lanes, mut dirty_clients) = (Vec::new(), Vec::new());
    engine.take_dirty_lanes(&mut dirty_lanes);
    for lane in dirty_lanes {
        let bytes = engine.lane_chunk(lane).expect("a small request").len();
        engine.lane_wrote(lane, bytes);
        engine.lane_bytes(lane, b"$-1\r\n");
    }
    engine.take_dirty_clients(&mut dirty_clients);
    assert_eq!(dirty_clients, [client]);
    engine.client_wrote(client, 3 * b"$-1\r\n".len());
    lanes
}

fn write_request(out: &mut Vec<u8>, workload: Workload, random: &mut fastrand::Rng) {
    let value = [b'x'; VALUE_LEN];
    let mut key = || format!("key:{:012}", random.u32(..1_000_000)).into_bytes();
    let arguments: Vec<Vec<u8>> = match workload {
        Workload::Get { .. } => vec![b"GET".to_vec(), key()],
        Workload::Set { .. } => vec![b"SET".to_vec(), key(), value.to_vec()],
        Workload::Mget { keys } => std::iter::once(b"MGET".to_vec()).chain((0..keys).map(|_| key())).collect(),
        Workload::Mset { keys } => {
            std::iter::once(b"MSET".to_vec()).chain((0..keys).flat_map(|_| [key(), value.to_vec()])).collect()
        }
    };
    let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
    encode::command(out, &arguments);
}

/// Appends what a server answers to these requests.
fn answer_all(mut requests: &[u8], out: &mut Vec<u8>) {
    let (mut scanner, mut spans, limits) = (RequestScanner::default(), Vec::new(), Limits::default());
    while !requests.is_empty() {
        let Ok(Scanned::Request { len }) = scanner.scan(requests, &mut spans, &limits) else { panic!("a request is whole") };
        match spans[0].of(requests) {
            b"GET" => encode::bulk(out, [b'v'; VALUE_LEN]),
            b"SET" | b"MSET" => encode::simple(out, b"OK"),
            b"MGET" => {
                encode::array(out, spans.len() - 1);
                (1..spans.len()).for_each(|_| encode::bulk(out, [b'v'; VALUE_LEN]));
            }
            other => panic!("no workload sends {other:?}"),
        }
        requests = &requests[len..];
    }
}
