//! What is asked of the proxies: redis-benchmark's own arguments, and what the project aims at.

/// Keys that are preloaded for the small workloads; redis-benchmark draws from `key:000000000000` upwards.
pub const KEYS: usize = 200_000;
/// Keys `k4:…` of 4 KiB, and `k1m:…` of 1 MiB.
pub const KEYS_4K: usize = 2_000;
pub const KEYS_1M: usize = 30;

const KEY: &str = "key:__rand_int__";

/// One row of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// As `--only` takes it.
    pub name: &'static str,
    pub title: &'static str,
    pub clients: usize,
    pub pipeline: usize,
    /// Keyway's CPU per request as a share of Envoy's: at most so much.
    pub aim: f64,
    ask: Ask,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// redis-benchmark's own test of this name, with values of 64 bytes.
    Test(&'static str),
    /// A command on this many random keys, each with a value of 64 bytes where it writes.
    Keys { command: &'static str, keys: usize, writes: bool },
    /// GET of keys with this prefix, of which there are so many.
    Get { prefix: &'static str, keys: usize },
}

const fn row(name: &'static str, title: &'static str, clients: usize, pipeline: usize, aim: f64, ask: Ask) -> Workload {
    Workload { name, title, clients, pipeline, aim, ask }
}

const MGET: &str = "MGET";

/// The acceptance table.
pub const WORKLOADS: [Workload; 9] = [
    row("get", "GET 64 B, 50 clients, P=1", 50, 1, 0.68, Ask::Test("get")),
    row("set", "SET 64 B, 50 clients, P=1", 50, 1, 0.58, Ask::Test("set")),
    row("get_c1000", "GET 64 B, 1,000 clients, P=1", 1_000, 1, 0.42, Ask::Test("get")),
    row("get_p16", "GET 64 B, 50 clients, P=16", 50, 16, 0.26, Ask::Test("get")),
    row("mget_10", "MGET of 10 random keys, 50 clients", 50, 1, 0.38, Ask::Keys { command: MGET, keys: 10, writes: false }),
    row("mget_100", "MGET of 100 random keys, 50 clients", 50, 1, 0.22, Ask::Keys { command: MGET, keys: 100, writes: false }),
    row("mset_10", "MSET of 10 random keys, 50 clients", 50, 1, 0.33, Ask::Keys { command: "MSET", keys: 10, writes: true }),
    row("get_4k", "GET 4 KiB, 50 clients", 50, 1, 0.58, Ask::Get { prefix: "k4", keys: KEYS_4K }),
    row("get_1m", "GET 1 MiB, 10 clients", 10, 1, 0.45, Ask::Get { prefix: "k1m", keys: KEYS_1M }),
];

/// One client that waits for each answer: how long a request takes, measured without holding the proxy.
pub const ONE_CLIENT: Workload = row("one_client", "GET 64 B, 1 client, P=1", 1, 1, 1.0, Ask::Test("get"));

impl Workload {
    /// The arguments for redis-benchmark that make it this workload.
    pub fn arguments(&self) -> Vec<String> {
        let mut all = vec!["-c".to_owned(), self.clients.to_string(), "-P".to_owned(), self.pipeline.to_string()];
        let mut add = |more: &[&str]| all.extend(more.iter().map(|&one| one.to_owned()));
        match self.ask {
            Ask::Test(test) => add(&["-d", "64", "-r", &KEYS.to_string(), "-t", test]),
            Ask::Keys { command, keys, writes } => {
                add(&["-r", &KEYS.to_string(), command]);
                let value = "v".repeat(64);
                (0..keys).for_each(|_| if writes { add(&[KEY, &value]) } else { add(&[KEY]) });
            }
            Ask::Get { prefix, keys } => add(&["-r", &keys.to_string(), "GET", &format!("{prefix}:__rand_int__")]),
        }
        all
    }
}
