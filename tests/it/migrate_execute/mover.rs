//! An executor in the test's own process.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyway::admin;
use keyway::cluster::Slot;
use keyway::control::{Credentials, Dialer};
use keyway::migrate::Holds;
use keyway::migrate::execute::{Done, Event, Executor, Fence, Guard, Halt, Leg, Limits, Mode, Orders, Shard};
use keyway::migrate::pace::Throttle;
use keyway::topology::{self, TopologyConfig, TopologyHandle};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

use super::inside::Inside;
use crate::harness::{Cluster, PATIENCE};

/// A clock in microseconds.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Each is the next driver.
static TOKENS: AtomicU64 = AtomicU64::new(1);

pub struct Mover {
    runtime: Runtime,
    topology: TopologyHandle,
    executor: Executor,
    dialer: Dialer,
    pub throttle: watch::Sender<Throttle>,
    pub stop: watch::Sender<bool>,
    pub lease: watch::Sender<Instant>,
    /// What the record says when it is asked.
    pub held: watch::Sender<bool>,
    record: mpsc::Sender<oneshot::Sender<()>>,
    pub token: u64,
    /// What the record would say was open before.
    pub resumed: Holds,
}

pub fn slots(range: Range<u16>) -> Vec<Slot> {
    range.filter_map(Slot::new).collect()
}

/// What a driver has in hand: a runtime, the cluster's map as it changes, connections, and the map's clock.
pub fn connect(cluster: &Cluster, user: Option<(&str, &str)>) -> (Runtime, TopologyHandle, Dialer, Now) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let began = Instant::now();
    let now_us: Now = Arc::new(move || began.elapsed().as_micros() as u64);
    let credentials = Credentials { username: user.map(|user| user.0.into()), password: user.map(|user| user.1.into()) };
    let Credentials { username, password } = credentials.clone();
    let seeds = cluster.seeds().split(',').map(str::to_owned).collect();
    let config = TopologyConfig { seeds, username, password, ..TopologyConfig::default() };
    let clock = now_us.clone();
    let topology = runtime.block_on(async move {
        let topology = topology::start(config, move || clock());
        topology.confirmed_since(0).await.expect("the cluster is found");
        topology
    });
    let limit = Duration::from_secs(5);
    let dialer = Dialer { credentials, dial_timeout: Duration::from_secs(1), reply_timeout: limit, tls: None };
    (runtime, topology, dialer, now_us)
}

impl Mover {
    pub fn new(cluster: &Cluster, user: Option<(&str, &str)>) -> Mover {
        Mover::with_limits(cluster, user, Limits { patience: PATIENCE, ..Limits::default() })
    }

    pub fn with_limits(cluster: &Cluster, user: Option<(&str, &str)>, limits: Limits) -> Mover {
        let (runtime, topology, dialer, now_us) = connect(cluster, user);
        Mover::of(runtime, topology, dialer, now_us, limits)
    }

    /// Beside the workers of a proxy, which are told of all it does.
    pub fn beside(proxy: &Inside) -> Mover {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let admin::Cluster { topology, dialer, now_us } = proxy.cluster.clone();
        Mover::of(runtime, topology, dialer, now_us, Limits { patience: PATIENCE, ..Limits::default() })
    }

    fn of(runtime: Runtime, topology: TopologyHandle, dialer: Dialer, now_us: Now, limits: Limits) -> Mover {
        let kept = dialer.clone();
        let executor = Executor::new(topology.clone(), dialer, now_us, limits);
        let (throttle, stop) = (watch::channel(Throttle { duty: 1.0, ..Throttle::default() }).0, watch::channel(false).0);
        let lease = watch::channel(Instant::now() + 10 * PATIENCE).0;
        let (held, holds) = watch::channel(true);
        let (record, mut asked) = mpsc::channel::<oneshot::Sender<()>>(16);
        runtime.spawn(async move {
            while let Some(asked) = asked.recv().await {
                if *holds.borrow() {
                    let _ = asked.send(());
                }
            }
        });
        let token = TOKENS.fetch_add(1, Ordering::Relaxed);
        Mover { runtime, topology, executor, dialer: kept, throttle, stop, lease, held, record, token, resumed: Holds::default() }
    }

    /// Stands guard, as whoever drives a plan does. It lasts as long as the mover, and works while that does something.
    pub fn guard(&self) -> Guard {
        let _entered = self.runtime.enter();
        Guard::start(self.topology.clone(), self.dialer.clone(), self.token)
    }

    /// Does nothing for as long as `busy` says, and not for ever.
    pub fn idle(&self, mut busy: impl FnMut() -> bool) {
        let began = Instant::now();
        self.runtime.block_on(async {
            while busy() {
                assert!(began.elapsed() < PATIENCE, "it waits for ever");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// From one member's shard to another's, with all who belong to them now.
    pub fn leg(&self, cluster: &Cluster, from: usize, to: usize, slots: Vec<Slot>, mode: Mode) -> Leg {
        let map = self.topology.current().expect("it was waited for");
        let shard = |member: usize| {
            let id: Arc<str> = cluster.member(member).id.as_str().into();
            let index = map.find_id(&id).expect("the member is known");
            let members = map.replicas(index).map(|replica| map.node(replica).id.clone()).chain([id.clone()]);
            Shard { members: members.collect::<BTreeSet<_>>(), id }
        };
        Leg { source: shard(from), target: shard(to), slots, mode }
    }

    /// Who owns a slot in the mover's own map.
    pub fn owner(&self, slot: Slot) -> String {
        let map = self.topology.current().expect("it was waited for");
        map.owner(slot).map_or(String::new(), |index| map.node(index).id.to_string())
    }

    pub fn run(&mut self, leg: &Leg) -> (Result<Done, Halt>, Vec<Event>) {
        self.run_with(leg, |_| {})
    }

    /// Runs a leg to its end, with somebody who hears of everything as it happens.
    pub fn run_with(&mut self, leg: &Leg, mut hear: impl FnMut(&Event) + Send) -> (Result<Done, Halt>, Vec<Event>) {
        let orders = self.orders();
        let mut events = Vec::new();
        let began = Instant::now();
        let mut listener = |event: Event| {
            // Shown by a test that fails.
            println!("{:?} {event:?}", began.elapsed());
            hear(&event);
            events.push(event);
        };
        let done = self.runtime.block_on(self.executor.run(leg, &orders, &mut listener));
        (done, events)
    }

    /// As a driver that dies in the moment of an event: whether it came to that.
    pub fn run_until(&mut self, leg: &Leg, mut last: impl FnMut(&Event) -> bool + Send) -> bool {
        let orders = self.orders();
        let (died, mut death) = watch::channel(false);
        let mut listener = |event: Event| {
            if last(&event) {
                died.send_replace(true);
            }
        };
        let (executor, runtime) = (&mut self.executor, &self.runtime);
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = death.wait_for(|dead| *dead) => true,
                _ = executor.run(leg, &orders, &mut listener) => false,
            }
        })
    }

    fn orders(&self) -> Orders {
        Orders {
            throttle: self.throttle.subscribe(),
            stop: self.stop.subscribe(),
            fence: Fence { token: self.token, until: self.lease.subscribe(), record: self.record.clone() },
            resumed: self.resumed.clone(),
            held_from: tokio::time::Instant::now(),
        }
    }
}
