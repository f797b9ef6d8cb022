//! One seed's world: virtual time, and the driver between engines, clients and nodes.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    io::IoSlice,
    sync::Arc,
};

use fastrand::Rng;
use keyway::{
    cluster::SlotMap,
    engine::{Auth, ClientId, Engine, Event, LaneId, Scripts, Settings},
    resp::{Limits, RequestScanner, Scanned, first_reply_len},
};

use crate::{
    chaos::Chaos,
    client::{Client, Life, tag_of},
    cluster::{Cluster, Value},
    link::{Stream, piece},
    node::{Caller, Outcome, execute, keys_of},
    plan::Plan,
    truth::{Fate, Truth},
};

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    ClientActs(usize),
    ToEngine(usize),
    ToClient(usize),
    ClientWritable(usize),
    Dialed(usize, bool),
    ToNode(usize),
    FromNode(usize),
    LaneWritable(usize),
    Turn(usize),
    AskMap,
    PeriodicMap,
    Publish(usize, usize),
    Fault,
    Calm,
    Chaos(Chaos),
}

/// A request on its way to a node.
struct Frame {
    args: Vec<Vec<u8>>,
    /// The number of the stream's byte behind it.
    end: u64,
    attempt: Option<usize>,
}

/// A connection from an engine to a node.
pub struct Conn {
    pub engine: usize,
    lane: LaneId,
    pub node: usize,
    pub connected: bool,
    pub open: bool,
    to_node: Stream,
    from_node: Stream,
    caller: Caller,
    /// Requests that were queued and did not reach the node wholly.
    frames: VecDeque<Frame>,
    queued: u64,
    written: u64,
    reached: u64,
    /// Attempts whose reply has not wholly reached the engine, and where it ends.
    replies: VecDeque<(u64, usize)>,
    /// What was queued behind MULTI, until EXEC.
    unit: Vec<Option<usize>>,
    answered: u64,
    heard: u64,
    /// No reply leaves the node before this moment.
    pub silent_until: u64,
}

/// An engine and what its driver knows.
pub struct Driver {
    pub engine: Engine,
    lanes: HashMap<LaneId, usize>,
    clients: HashMap<ClientId, usize>,
    map: Option<Arc<SlotMap>>,
    turn_at: Option<u64>,
    /// Events that were taken and are not carried out yet.
    events: VecDeque<Event>,
}

/// See the module's head.
pub struct World {
    pub plan: Plan,
    pub trace: bool,
    pub now: u64,
    pub random: Rng,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    order: u64,
    pub cluster: Cluster,
    pub drivers: Vec<Driver>,
    pub clients: Vec<Client>,
    pub conns: Vec<Conn>,
    pub truth: Truth,
    maps: Vec<Arc<SlotMap>>,
    map_asked: bool,
    pub lasting_keys: Vec<String>,
    pub bodies_seen: HashSet<String>,
    pub migrations: Vec<crate::chaos::Migration>,
    pub calm_since: Option<u64>,
    pub unknown_outcomes: u64,
    pub gave_up: u64,
    pub scans_done: u64,
    public_ids: u64,
    checked: u64,
}

impl World {
    pub fn new(seed: u64, trace: bool) -> World {
        let mut random = Rng::with_seed(seed);
        let plan = Plan::of(&mut random);
        if trace {
            println!("{plan:#?}");
        }
        let mut cluster = Cluster::new(&plan, &mut random);
        let mut lasting_keys = Vec::new();
        for tag in 0..cluster.tags.len() {
            for number in 0..random.u32(0..6) {
                let key = format!("{{{}}}p{number}", cluster.tags[tag].name);
                let shard = cluster.shard_of(cluster.tags[tag].unit);
                cluster.shards[shard].data.insert(key.clone(), Value::Text(b"lasts".to_vec()));
                lasting_keys.push(key);
            }
        }
        let scripts = Arc::new(Scripts::new(1 << 20));
        let settings = Settings {
            retry_deadline_us: plan.deadline_us,
            limits: Limits::default(),
            pipeline_depth: plan.pipeline_depth,
            output_buffer_max: plan.output_max,
            lane_buffer_max: plan.lane_buffer_max,
            node_timeout_us: plan.node_timeout_us,
            auth: plan.auth.then(|| Auth { username: None, password: "secret".into() }),
            ..Settings::default()
        };
        let drivers = (0..plan.engines).map(|index| Driver {
            engine: Engine::new(settings.clone(), scripts.clone(), seed + index as u64, 0),
            lanes: HashMap::new(),
            clients: HashMap::new(),
            map: None,
            turn_at: None,
            events: VecDeque::new(),
        });
        World {
            drivers: drivers.collect(),
            plan,
            trace,
            now: 0,
            random,
            queue: BinaryHeap::new(),
            order: 0,
            cluster,
            clients: Vec::new(),
            conns: Vec::new(),
            truth: Truth::default(),
            maps: Vec::new(),
            map_asked: false,
            lasting_keys,
            bodies_seen: HashSet::new(),
            migrations: Vec::new(),
            calm_since: None,
            unknown_outcomes: 0,
            gave_up: 0,
            scans_done: 0,
            public_ids: 0,
            checked: 0,
        }
    }

    pub fn later(&mut self, wait: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse((self.now + wait, self.order, what)));
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>9} {}", self.now, text());
        }
    }

    fn delay(&mut self) -> u64 {
        let max = self.plan.delay_max_us;
        if self.random.u32(0..50) == 0 { self.random.u64(0..=max * 20) } else { self.random.u64(0..=max) }
    }

    /// Runs until everything is answered and closed, or a rule is broken.
    pub fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.plan.clients {
            self.open_client();
        }
        let (first_map, faults) = (self.plan.map_known_after_us, self.plan.faults_us);
        self.later(first_map, What::PeriodicMap);
        self.later(self.plan.fault_every_us / 2, What::Fault);
        self.later(faults, What::Calm);
        let mut events = 0u64;
        while self.truth.wrong.is_none() && !self.is_over() {
            self.next();
            events += 1;
            if events.is_multiple_of(16) {
                self.check_load();
            }
            if events > 400_000 || self.calm_since.is_some_and(|calm| self.now > calm + 40_000_000) {
                let owed: Vec<String> =
                    self.clients.iter().enumerate().map(|(index, client)| self.state_of(index, client)).collect();
                return Err(format!(
                    "it does not drain: {:?} {owed:#?}",
                    self.drivers.iter().map(|driver| driver.engine.load()).collect::<Vec<_>>()
                ));
            }
        }
        match self.truth.wrong.take() {
            Some(wrong) => Err(wrong),
            None => self.check_drained(),
        }
    }

    fn state_of(&self, index: usize, client: &Client) -> String {
        let first = client
            .owed
            .front()
            .map(|owed| (owed.seq, format!("{:?}", owed.expect), self.truth.describe((index as u32, owed.seq))));
        format!(
            "client {index}: {:?}, owed {}, first {first:?}, unsent {}",
            client.life,
            client.owed.len(),
            client.to_engine.len()
        )
    }

    fn open_client(&mut self) {
        let engine = self.random.usize(0..self.drivers.len());
        self.public_ids += 1;
        let id = self.drivers[engine].engine.client_open(self.public_ids, "10.9.9.9:1", "10.0.0.0:6379");
        let index = self.clients.len();
        self.drivers[engine].clients.insert(id, index);
        let left = self.random.u32(1..=self.plan.requests);
        self.clients.push(Client::new(engine, id, left));
        if self.random.u32(0..15) == 0 {
            self.clients[index].stalled_until = self.now + self.random.u64(0..2 * self.plan.faults_us);
        }
        let wait = self.random.u64(0..self.plan.faults_us / 4);
        self.later(wait, What::ClientActs(index));
    }

    fn next(&mut self) {
        let timeout = self.drivers.iter().enumerate().map(|(index, driver)| (driver.engine.next_timeout(), index)).min();
        let next = self.queue.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
        if let Some((at, engine)) = timeout.filter(|(at, _)| *at <= next) {
            self.now = self.now.max(at);
            self.with(engine, |engine| engine.tick());
            return;
        }
        let Some(Reverse((at, _, what))) = self.queue.pop() else { return };
        self.now = self.now.max(at);
        match what {
            What::ClientActs(client) => self.client_acts(client),
            What::ToEngine(client) => self.deliver_to_engine(client),
            What::ToClient(client) => self.deliver_to_client(client),
            What::ClientWritable(client) => {
                self.clients[client].write_waits = false;
                self.write_client(client);
            }
            What::Dialed(conn, done) => self.dialed(conn, done),
            What::ToNode(conn) => self.deliver_to_node(conn),
            What::FromNode(conn) => self.deliver_from_node(conn),
            What::LaneWritable(conn) => self.write_lane(conn),
            What::Turn(engine) => self.turn(engine),
            What::AskMap => self.ask_map(),
            What::PeriodicMap => self.ask_map_again(),
            What::Publish(engine, map) => self.publish(engine, map),
            What::Fault => self.fault(),
            What::Calm => self.calm(),
            What::Chaos(chaos) => self.go_on(chaos),
        }
    }

    /// One call into an engine; what it queued is seen before anything else happens, and a turn follows now or a little later.
    pub fn with(&mut self, index: usize, call: impl FnOnce(&mut Engine)) {
        self.truth.step += 1;
        let driver = &mut self.drivers[index];
        driver.engine.set_now(self.now);
        call(&mut driver.engine);
        while let Some(event) = driver.engine.next_event() {
            if let Event::CloseLane { lane } = event
                && let Some(conn) = driver.lanes.get(&lane).copied()
            {
                forget_in_flight(&mut self.conns[conn], &mut self.truth);
            }
            driver.events.push_back(event);
        }
        self.truth.step += 1;
        self.look_at_lanes(index);
        if self.random.bool() {
            self.turn(index);
        } else {
            let wait = self.random.u64(0..100);
            self.turn_later(index, wait);
        }
    }

    fn turn_later(&mut self, index: usize, wait: u64) {
        let at = self.now + wait;
        if self.drivers[index].turn_at.is_none_or(|turn| turn > at || turn < self.now) {
            self.drivers[index].turn_at = Some(at);
            self.later(wait, What::Turn(index));
        }
    }

    /// Follows what the engine queued on its lanes since it was last looked at.
    fn look_at_lanes(&mut self, index: usize) {
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

    fn note_queued(&mut self, index: usize, mut bytes: &[u8]) {
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
            let attempt = tag_of(&args).map(|(tag, write)| self.truth.queued(tag, index, keys_of(&args), write));
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
            self.conns[index].frames.push_back(Frame { args, end, attempt });
            bytes = &bytes[len..];
        }
    }

    /// The driver's turn: events, then every dirty lane and client once.
    fn turn(&mut self, index: usize) {
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

    fn next_event(&mut self, index: usize) -> Option<Event> {
        let driver = &mut self.drivers[index];
        driver.events.pop_front().or_else(|| driver.engine.next_event())
    }

    fn handle(&mut self, index: usize, event: Event) {
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
            Event::ListClients { token, filter } => {
                let lines = self.drivers[index].engine.list_clients(&filter);
                self.drivers[index].engine.clients_listed(token, &lines);
            }
        }
    }

    fn dial(&mut self, engine: usize, lane: LaneId, node: usize) {
        let conn = Conn {
            engine,
            lane,
            node,
            connected: false,
            open: true,
            to_node: Stream::default(),
            from_node: Stream::default(),
            caller: Caller::default(),
            frames: VecDeque::new(),
            queued: 0,
            written: 0,
            reached: 0,
            replies: VecDeque::new(),
            unit: Vec::new(),
            answered: 0,
            heard: 0,
            silent_until: 0,
        };
        let index = self.conns.len();
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

    fn dialed(&mut self, index: usize, reachable: bool) {
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

    fn write_lane(&mut self, index: usize) {
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

    fn deliver_to_node(&mut self, index: usize) {
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

    /// So many bytes arrive at the node, which carries out what is whole.
    fn node_reads(&mut self, index: usize, count: usize) {
        let World { conns, cluster, truth, random, .. } = self;
        let conn = &mut conns[index];
        conn.to_node.take(count);
        conn.reached += count as u64;
        while conn.frames.front().is_some_and(|frame| frame.end <= conn.reached) {
            let frame = conn.frames.pop_front().expect("just seen");
            let mut out = Vec::new();
            let outcome = execute(cluster, conn.node, &mut conn.caller, &frame.args, &mut out);
            if self.trace {
                println!(
                    "{:>9}     node {} (conn {index}) answers {} to {}",
                    self.now,
                    conn.node,
                    String::from_utf8_lossy(&out[..out.len().min(100)]).replace("\r\n", "|"),
                    String::from_utf8_lossy(&frame.args[0])
                );
            }
            if frame.args[0].eq_ignore_ascii_case(b"EVAL") && outcome != Outcome::Refused {
                self.bodies_seen.insert(String::from_utf8_lossy(&frame.args[1]).into_owned());
            }
            conn.answered += out.len() as u64;
            conn.from_node.push(&out);
            if outcome == Outcome::Queued {
                conn.unit.push(frame.attempt);
                continue;
            }
            let mut done: Vec<(Option<usize>, Outcome)> = vec![(frame.attempt, outcome)];
            if frame.args[0] == b"EXEC" {
                done = std::mem::take(&mut conn.unit).into_iter().zip(std::mem::take(&mut conn.caller.unit)).collect();
            }
            for (attempt, outcome) in done.into_iter().filter_map(|(attempt, outcome)| Some((attempt?, outcome))) {
                match outcome {
                    Outcome::Refused => truth.refused(attempt),
                    outcome => truth.served(attempt, outcome == Outcome::Forged),
                }
                conn.replies.push_back((conn.answered, attempt));
            }
        }
        let silence = conn.silent_until.saturating_sub(self.now);
        if conn.from_node.len() > 0 && !std::mem::replace(&mut conn.from_node.scheduled, true) {
            let wait = silence + random.u64(0..=self.plan.delay_max_us);
            self.later(wait, What::FromNode(index));
        }
    }

    fn deliver_from_node(&mut self, index: usize) {
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

    fn engine_hears(&mut self, index: usize, count: usize) {
        let conn = &mut self.conns[index];
        let bytes = conn.from_node.take(count);
        conn.heard += count as u64;
        let (engine, lane) = (conn.engine, conn.lane);
        while let Some((_, attempt)) = conn.replies.front().copied().filter(|(end, _)| *end <= conn.heard) {
            conn.replies.pop_front();
            self.truth.reply_seen(attempt);
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
    fn end_conn(&mut self, index: usize, tell: bool) {
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
        let conn = &mut self.conns[index];
        forget_in_flight(conn, &mut self.truth);
        conn.frames.clear();
        conn.from_node.clear();
        conn.to_node.clear();
        if tell {
            self.with(engine, |engine| engine.lane_lost(lane));
        }
    }

    pub fn deliver_to_engine_later(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.to_engine.len() > 0 && !std::mem::replace(&mut client.to_engine.scheduled, true) {
            let wait = self.delay();
            self.later(wait, What::ToEngine(index));
        }
    }

    fn deliver_to_engine(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.to_engine.scheduled = false;
        let (engine, id, len) = (client.engine, client.id, client.to_engine.len());
        // A paused client is read again when the engine says so.
        if client.life == Life::Closed || len == 0 || !self.drivers[engine].engine.client_reads(id) {
            return;
        }
        let count = piece(&mut self.random, len, self.plan.whole_percent).min(64 * 1024);
        let bytes = self.clients[index].to_engine.take(count);
        self.with(engine, |engine| engine.client_bytes(id, &bytes));
        self.deliver_to_engine_later(index);
    }

    fn write_client(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.life == Life::Closed {
            return;
        }
        let (engine, id) = (client.engine, client.id);
        let mut slices = [IoSlice::new(&[]); 16];
        let count = self.drivers[engine].engine.client_chunks(id, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        let room = (64usize * 1024).saturating_sub(client.to_client.len());
        let room =
            if client.stalled_until > self.now { room.min(1000usize.saturating_sub(client.to_client.len())) } else { room };
        let count = piece(&mut self.random, bytes.len(), self.plan.whole_percent.max(50)).min(room);
        if bytes.is_empty() {
            return;
        }
        if count > 0 {
            self.drivers[engine].engine.set_now(self.now);
            self.drivers[engine].engine.client_wrote(id, count);
            self.turn_later(engine, 0);
        }
        let client = &mut self.clients[index];
        client.to_client.push(&bytes[..count]);
        if count < bytes.len() && !std::mem::replace(&mut client.write_waits, true) {
            let full = if room == 0 { self.clients[index].stalled_until.saturating_sub(self.now) } else { 0 };
            let wait = self.delay().max(20).max(full);
            self.later(wait, What::ClientWritable(index));
        }
        let client = &mut self.clients[index];
        if client.to_client.len() > 0 && !std::mem::replace(&mut client.to_client.scheduled, true) {
            let wait = self.delay();
            self.later(wait, What::ToClient(index));
        }
    }

    fn deliver_to_client(&mut self, index: usize) {
        let stalled = self.clients[index].stalled_until.saturating_sub(self.now);
        self.clients[index].to_client.scheduled = false;
        let len = self.clients[index].to_client.len();
        if self.clients[index].life == Life::Closed || len == 0 {
            return;
        }
        if stalled > 0 {
            self.clients[index].to_client.scheduled = true;
            return self.later(stalled, What::ToClient(index));
        }
        let count = piece(&mut self.random, len, self.plan.whole_percent);
        self.client_hears(index, count);
        let client = &mut self.clients[index];
        if client.life != Life::Closed && client.to_client.len() > 0 && !std::mem::replace(&mut client.to_client.scheduled, true)
        {
            let wait = self.delay() / 4;
            self.later(wait, What::ToClient(index));
        }
    }

    fn client_hears(&mut self, index: usize, count: usize) {
        let client = &mut self.clients[index];
        let bytes = client.to_client.take(count);
        client.received.extend_from_slice(&bytes);
        let received = std::mem::take(&mut client.received);
        let mut at = 0;
        while let Some(len) = first_reply_len(&received[at..]) {
            self.client_reads_reply(index, &received[at..at + len]);
            at += len;
        }
        self.clients[index].received = received[at..].to_vec();
        self.close_when_done(index);
    }

    /// A client that has asked and heard everything ends: by QUIT's way, by its own end of stream, or at once.
    fn close_when_done(&mut self, index: usize) {
        let client = &self.clients[index];
        let done = client.left == 0 && client.owed.is_empty() && client.to_engine.len() == 0 && !client.is_scanning();
        if !done || client.life != Life::Open || self.calm_since.is_none() {
            return;
        }
        match self.random.u32(0..3) {
            0 if !self.clients[index].wants_close => {
                self.clients[index].wants_close = true;
                self.request(index, &[b"QUIT"], Some(crate::client::Expect::Exact(b"+OK\r\n".to_vec())), false, true);
                self.deliver_to_engine_later(index);
            }
            1 => self.half_close(index),
            _ if self.clients[index].wants_close => {}
            _ => self.close_client(index, true),
        }
    }

    /// A client ends its own stream behind what it sent.
    pub fn half_close(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.life != Life::Open || client.to_engine.len() > 0 {
            return;
        }
        client.life = Life::HalfClosed;
        let (engine, id) = (client.engine, client.id);
        self.say(|| format!("client {index} half-closes"));
        self.with(engine, |engine| engine.client_eof(id));
    }

    /// A client's connection ends, by its own wish or the engine's.
    pub fn close_client(&mut self, index: usize, own: bool) {
        let client = &mut self.clients[index];
        if client.life == Life::Closed {
            return;
        }
        self.say(|| format!("client {index} is closed, by itself: {own}"));
        if !own {
            // All that was written to it arrives before the end.
            let len = self.clients[index].to_client.len();
            self.client_hears(index, len);
            let client = &self.clients[index];
            // Cut off at its limit, or in the middle of a large reply whose lane broke.
            let overflow = self.drivers[client.engine].engine.counters.output_overflows > 0 || self.plan.large;
            if !client.owed.is_empty() && !overflow && client.life != Life::Closed {
                let text = format!("client {index} is closed while it is owed: {}", self.state_of(index, client));
                self.truth.accuse(text);
            }
        }
        let client = &mut self.clients[index];
        client.life = Life::Closed;
        client.owed.clear();
        client.left = 0;
        client.to_engine.clear();
        let (engine, id) = (client.engine, client.id);
        self.drivers[engine].clients.remove(&id);
        self.with(engine, |engine| engine.client_gone(id));
        if self.calm_since.is_none() && self.clients.len() < self.plan.clients + 3 {
            self.open_client();
        }
    }

    /// The control thread asks some node, or all of them.
    fn ask_map(&mut self) {
        self.map_asked = false;
        let asked = self.now;
        let reachable: Vec<usize> = (0..self.cluster.nodes.len())
            .filter(|index| {
                self.cluster.nodes[*index].alive && self.cluster.truth.known[*index] && !self.cluster.nodes[*index].loading
            })
            .collect();
        let stale = self.calm_since.is_none() && self.random.u32(0..100) < self.plan.stale_percent;
        let Some(first) = reachable.first() else { return self.later(50_000, What::AskMap) };
        let mut view = self.cluster.nodes[*first].view.clone();
        if stale {
            let one = *self.random.choice(reachable.iter()).expect("one is reachable");
            view = self.cluster.nodes[one].view.clone();
        } else {
            reachable.iter().for_each(|node| view.learn(&self.cluster.nodes[*node].view));
            view.failed.clone_from(&self.cluster.truth.failed);
        }
        let map = Arc::new(self.cluster.map(&view, self.maps.len() as u64 + 1, asked));
        self.say(|| format!("a map is made (stale: {stale}): {:?}", view.units));
        self.maps.push(map);
        for engine in 0..self.drivers.len() {
            let wait = self.random.u64(100..if stale { 300_000 } else { 20_000 });
            self.later(wait, What::Publish(engine, self.maps.len() - 1));
        }
    }

    /// A map is asked for now and then without anyone's wish, as the control thread does.
    fn ask_map_again(&mut self) {
        self.ask_map();
        for client in 0..self.clients.len() {
            self.close_when_done(client);
        }
        let wait = self.random.u64(200_000..2_000_000);
        self.later(wait, What::PeriodicMap);
    }

    fn publish(&mut self, engine: usize, map: usize) {
        let map = self.maps[map].clone();
        // Maps are published in the order of their questions: there is one control thread.
        if self.drivers[engine].map.as_ref().is_some_and(|known| known.asked_at_us > map.asked_at_us) {
            return;
        }
        self.say(|| format!("map {} reaches engine {engine}", map.version));
        self.drivers[engine].map = Some(map.clone());
        self.with(engine, |engine| engine.map_published(map));
    }

    fn check_load(&mut self) {
        self.checked += 1;
        for driver in &self.drivers {
            let load = driver.engine.load();
            // One reply, or one request, comes on top of a limit.
            let largest = if self.plan.large { 2_000_000 } else { 20_000 };
            let largest_reply = if self.plan.large { 2_000_000 } else { 3_000 };
            let clients = load.clients.max(1);
            if load.output_bytes > clients * self.plan.output_max + largest_reply {
                self.truth.wrong.get_or_insert(format!("{} bytes of output are held", load.output_bytes));
            }
            for (id, client) in driver.clients.iter().filter(|_| driver.events.is_empty()) {
                let mut slices = [IoSlice::new(&[]); 64];
                let count = driver.engine.client_chunks(*id, &mut slices);
                let held: usize = slices[..count].iter().map(|slice| slice.len()).sum();
                if held > self.plan.output_max {
                    self.truth.wrong.get_or_insert(format!("{held} bytes are held for client {client}"));
                }
            }
            if load.input_bytes > clients * (64 * 1024 + largest) {
                self.truth.wrong.get_or_insert(format!("{} bytes of input are held", load.input_bytes));
            }
            if load.owed > clients * self.plan.pipeline_depth {
                self.truth.wrong.get_or_insert(format!("{} replies are owed", load.owed));
            }
            if self.plan.lane_buffer_max > 1 << 20 && load.lane_bytes > load.lanes * (self.plan.lane_buffer_max + largest) {
                self.truth.wrong.get_or_insert(format!("{} bytes are held in lanes", load.lane_bytes));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.calm_since.is_some()
            && self.clients.iter().all(|client| client.life == Life::Closed)
            && self.drivers.iter().all(|driver| {
                let load = driver.engine.load();
                load.clients == 0
            })
    }

    fn check_drained(&self) -> Result<(), String> {
        for driver in &self.drivers {
            let load = driver.engine.load();
            if (load.owed, load.waiting, load.merges, load.output_bytes, load.input_bytes, load.clients) != (0, 0, 0, 0, 0, 0) {
                return Err(format!("something is left when everybody is gone: {load:?}"));
            }
        }
        for (number, attempt) in self.truth.attempts.iter().enumerate() {
            if attempt.fate == Fate::InFlight && !self.conns[attempt.conn].open {
                return Err(format!("attempt {number} was forgotten: {attempt:?}"));
            }
        }
        Ok(())
    }
}

/// The engine is about to learn, or has decided, that a connection is lost. What is inside of MULTI is written when EXEC is.
fn forget_in_flight(conn: &mut Conn, truth: &mut Truth) {
    for (_, attempt) in std::mem::take(&mut conn.replies) {
        truth.lost(attempt, true);
    }
    let mut exec_end = None;
    for frame in conn.frames.iter().rev() {
        match frame.args[0].as_slice() {
            b"EXEC" => exec_end = Some(frame.end),
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
}
