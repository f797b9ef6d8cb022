//! What a seed decides before its world begins: sizes, habits and dangers.

use fastrand::Rng;

/// What clients ask for beyond plain commands. `KEYWAY_SIM_FAMILIES=tx,auth` chooses some of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Families {
    pub tx: bool,
    pub block: bool,
    pub pubsub: bool,
    pub auth: bool,
}

/// Those that are on by default: all.
const FAMILIES: &str = "tx,block,pubsub,auth";

impl Families {
    pub fn wanted() -> Families {
        let wanted = std::env::var("KEYWAY_SIM_FAMILIES").unwrap_or_else(|_| FAMILIES.to_owned());
        let has = |name: &str| wanted.split(',').any(|wanted| wanted == name);
        Families { tx: has("tx"), block: has("block"), pubsub: has("pubsub"), auth: has("auth") }
    }
}

/// See the module's head. Times are in microseconds.
#[derive(Clone, Debug)]
pub struct Plan {
    pub engines: usize,
    pub clients: usize,
    pub masters: usize,
    /// An empty master joins while clients are at work.
    pub new_master: bool,
    pub replicas: usize,
    pub tags: usize,
    pub requests: u32,
    pub depth_max: usize,
    /// How long faults happen.
    pub faults_us: u64,
    /// Between two faults, on average.
    pub fault_every_us: u64,
    /// Which kinds of faults happen, as bits.
    pub kinds: u32,
    pub deadline_us: u64,
    pub delay_max_us: u64,
    /// Percent of arrivals that are not cut into pieces.
    pub whole_percent: u32,
    pub one_host: bool,
    /// Cursors without slots.
    pub old_server: bool,
    pub full_coverage: bool,
    /// The servers are Valkey 9, not Redis.
    pub valkey: bool,
    /// Percent of the maps that are one node's own, perhaps outdated, view.
    pub stale_percent: u32,
    pub map_known_after_us: u64,
    pub node_timeout_us: u64,
    pub output_max: usize,
    pub pipeline_depth: usize,
    pub lane_buffer_max: usize,
    pub auth: bool,
    /// Values of 100 KB among the small ones.
    pub large: bool,
    pub scans: bool,
    pub forgeries: bool,
    pub fan_outs: bool,
    /// In every fourth world clients ask for plain commands only, so that these meet one another often enough.
    pub families: Families,
}

impl Plan {
    pub fn of(random: &mut Rng) -> Plan {
        let chance = |random: &mut Rng, percent: u32| random.u32(0..100) < percent;
        let masters = random.usize(3..=5);
        Plan {
            engines: random.usize(1..=2),
            clients: random.usize(1..=5),
            masters,
            new_master: chance(random, 50),
            replicas: random.usize(0..=1),
            tags: random.usize(3..=7),
            requests: random.u32(10..=100),
            depth_max: if chance(random, 50) { random.usize(1..=8) } else { random.usize(8..=60) },
            faults_us: random.u64(100_000..=1_500_000),
            fault_every_us: random.u64(5_000..=200_000),
            kinds: if chance(random, 30) { 1 << random.u32(0..8) } else { random.u32(..) },
            deadline_us: if chance(random, 15) { random.u64(50_000..=800_000) } else { random.u64(3_000_000..=10_000_000) },
            delay_max_us: *random.choice([50, 500, 2_000, 10_000].iter()).expect("four choices"),
            whole_percent: *random.choice([10, 60, 90].iter()).expect("three choices"),
            one_host: chance(random, 50),
            old_server: chance(random, 3),
            full_coverage: chance(random, 50),
            valkey: chance(random, 30),
            stale_percent: *random.choice([0, 0, 20, 60].iter()).expect("four choices"),
            map_known_after_us: if chance(random, 15) { random.u64(0..300_000) } else { 0 },
            node_timeout_us: random.u64(1_000_000..=3_000_000),
            output_max: if chance(random, 20) { random.usize(100..=2_000) } else { 10 << 20 },
            pipeline_depth: if chance(random, 30) { random.usize(1..=6) } else { 1024 },
            lane_buffer_max: if chance(random, 20) { random.usize(100..=2_000) } else { 64 << 20 },
            auth: chance(random, 20),
            large: chance(random, 10),
            scans: chance(random, 30),
            forgeries: chance(random, 25),
            fan_outs: chance(random, 20),
            families: if chance(random, 25) { Families::default() } else { Families::wanted() },
        }
    }
}
