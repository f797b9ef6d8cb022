//! One seed's world: virtual time, and what happens in it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    io::IoSlice,
    sync::Arc,
};

use fastrand::Rng;
use keyway::{
    cluster::SlotMap,
    engine::{Auth, Engine, Identity, Scripts, Settings},
    resp::Limits,
};

use crate::{
    chaos::{Chaos, Migration},
    client::{Client, Life},
    cluster::Cluster,
    conn::Conn,
    driver::Driver,
    listeners::Upstream,
    plan::{Families, Plan},
    queues::Pops,
    shard::Value,
    truth::{Fate, Truth},
    units::Units,
};

/// With such a deadline a request outlives every fault.
const DEADLINE_ENOUGH_US: u64 = 3_000_000;

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
    /// A connection that waited is served on.
    NodeWorks(usize),
    /// Which wait of a connection is over.
    TimeOut(usize, u64),
    HangUp(usize),
    /// A connection breaks.
    Cut(usize),
    /// A node learns that a connection is gone.
    Fin(usize),
    /// Nodes look after who waits.
    Cron,
    Bus(usize, usize),
    Feed,
    Cry,
    /// A client that does not know where it stands goes.
    GiveUp(usize),
    Turn(usize),
    AskMap,
    PeriodicMap,
    Publish(usize, usize),
    Fault,
    Calm,
    Chaos(Chaos),
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
    pub families: Families,
    pub pops: Pops,
    pub units: Units,
    pub upstream: Upstream,
    /// The CLIENT IDs that CLIENT UNBLOCK was said of.
    pub unblocked: HashSet<u64>,
    /// How often a client was told who it is.
    pub named: u64,
    /// Elements that the world itself gave to whoever waited.
    pub fed: u32,
    pub maps: Vec<Arc<SlotMap>>,
    pub map_asked: bool,
    pub lasting_keys: Vec<String>,
    pub bodies_seen: HashSet<String>,
    pub migrations: Vec<Migration>,
    pub calm_since: Option<u64>,
    pub unknown_outcomes: u64,
    pub gave_up: u64,
    pub scans_done: u64,
    pub public_ids: u64,
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
            // With a password the nodes are behind the proxy's account; without, clients are their default user.
            // Where users are not tried, all clients ride the proxy's own account.
            identity: if plan.auth && !plan.families.auth { Identity::Proxy(Arc::default()) } else { Identity::Passthrough },
            ..Settings::default()
        };
        let drivers = (0..plan.engines).map(|index| Driver {
            engine: Engine::new(settings.clone(), scripts.clone(), seed + index as u64, 0),
            lanes: HashMap::new(),
            clients: HashMap::new(),
            map: None,
            knows_since: None,
            turn_at: None,
            events: VecDeque::new(),
        });
        World {
            drivers: drivers.collect(),
            families: plan.families,
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
            pops: Pops::default(),
            units: Units::default(),
            upstream: Upstream::default(),
            unblocked: HashSet::new(),
            named: 0,
            fed: 0,
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

    pub fn delay(&mut self) -> u64 {
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
        if self.families.block {
            self.later(100_000, What::Cron);
        }
        let mut events = 0u64;
        while self.truth.wrong.is_none() && self.pops.wrong.is_none() && !self.is_over() {
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
        match self.truth.wrong.take().or(self.pops.wrong.take()) {
            Some(wrong) => Err(wrong),
            None => self.check_drained(),
        }
    }

    pub fn state_of(&self, index: usize, client: &Client) -> String {
        let first = client
            .owed
            .front()
            .map(|owed| (owed.seq, format!("{:?}", owed.expect), self.truth.describe((index as u32, owed.seq))));
        format!(
            "client {index}: {:?}, owed {}, first {first:?}, unsent {}, left {}, planned {}, waits {}, scans {}, hears {}",
            client.life,
            client.owed.len(),
            client.to_engine.len(),
            client.left,
            client.planned.len(),
            client.compares,
            client.is_scanning(),
            client.ears.are_owed()
        )
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
            What::NodeWorks(conn) => self.node_works_on(conn),
            What::TimeOut(conn, number) => {
                crate::waiting::timed_out(&mut self.cluster, self.conns[conn].node, conn, number);
                self.carry_words();
            }
            What::HangUp(conn) => self.hang_up(conn),
            What::Cut(conn) => self.cut(conn),
            What::Fin(conn) => self.node_forgets(conn),
            What::Cron => self.look_after_waiters(),
            What::Bus(from, to) => self.hear_bus(from, to),
            What::Feed => self.feed(),
            What::Cry => self.cry(),
            What::GiveUp(client) => self.close_client(client, true),
            What::Turn(engine) => self.turn(engine),
            What::AskMap => self.ask_map(),
            What::PeriodicMap => self.ask_map_again(),
            What::Publish(engine, map) => self.publish(engine, map),
            What::Fault => self.fault(),
            What::Calm => self.calm(),
            What::Chaos(chaos) => self.go_on(chaos),
        }
        self.carry_words();
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
            // What the proxy itself asks for a client that is blocked comes on top.
            if load.owed > clients * (self.plan.pipeline_depth + if self.families.block { 100 } else { 0 }) {
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

    fn check_drained(&mut self) -> Result<(), String> {
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
        self.pops.check_all_told(self.plan.deadline_us >= DEADLINE_ENOUGH_US)
    }
}
