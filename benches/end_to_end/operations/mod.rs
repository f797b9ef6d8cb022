//! Operations that one connection alone does not make up, through Keyway and on direct connections to the nodes, which is what a
//! client of the cluster would pay without a proxy.
//!
//! - `driver` — plays an operation with connections of this process and times it
//! - `exec`, `blpop`, `publish` — the operations
//! - `table` — their figures as a Markdown table

use std::time::Duration;

use super::{
    Outcome, machine, machine::Machine, options::Options, proxy::Proxy, report::REFERENCE, servers::Servers, usage::Cpu,
};

mod blpop;
mod driver;
mod exec;
mod publish;
mod table;

pub use table::table;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Exec10,
    Blpop,
    Publish,
}

pub const OPERATIONS: [Operation; 3] = [Operation::Exec10, Operation::Blpop, Operation::Publish];

impl Operation {
    /// As `--only` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Exec10 => "exec10",
            Operation::Blpop => "blpop",
            Operation::Publish => "publish",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Operation::Exec10 => "MULTI, 5 SET and 5 GET of one hash tag, EXEC, 50 clients",
            Operation::Blpop => "LPUSH that wakes a client in BLPOP, 50 pairs, 25 at once",
            Operation::Publish => "PUBLISH to 1,000 subscribers",
        }
    }
}

/// 64 bytes, as in the other workloads.
fn value() -> String {
    "v".repeat(64)
}

/// One run of one operation. CPU is per operation.
#[derive(Clone, Debug)]
pub struct Run {
    /// The proxy's name; `None` on direct connections.
    pub proxy: Option<String>,
    pub round: usize,
    pub operations_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub proxy_cpu: Cpu,
    pub servers_us: f64,
    pub driver_us: f64,
    /// Cores that the proxy used while it ran.
    pub load: f64,
}

/// All runs of one operation.
pub struct Measured {
    pub operation: Operation,
    pub runs: Vec<Run>,
}

/// Runs the operations that are wanted, round by round. Envoy takes no part: it knows neither BLPOP nor SUBSCRIBE.
pub fn run(options: &Options, machine: &Machine, servers: &Servers, proxies: &[Proxy]) -> Outcome<Vec<Measured>> {
    let wanted = OPERATIONS.into_iter().filter(|operation| options.wants(operation.name()));
    let mut all: Vec<Measured> = wanted.map(|operation| Measured { operation, runs: Vec::new() }).collect();
    if all.is_empty() {
        return Ok(all);
    }
    machine::allow_many_files();
    // This process is the client now. Proxies that it starts later are put where they belong.
    machine.pin_beside(std::process::id());
    let ways: Vec<Option<&Proxy>> = proxies.iter().filter(|proxy| proxy.name != REFERENCE).map(Some).chain([None]).collect();
    for round in 0..options.rounds {
        for measured in &mut all {
            for turn in 0..ways.len() {
                // Another one begins each round.
                let run = one_run(options, servers, measured.operation, ways[(round + turn) % ways.len()], round)?;
                eprintln!(
                    "round {} {:<10} {:<10} {:>8.0}/s, proxy {:>8.2} us/operation ({:.2} cores), servers {:>8.2}, driver {:>8.2}",
                    round + 1,
                    measured.operation.name(),
                    run.proxy.as_deref().unwrap_or(table::DIRECT),
                    run.operations_per_second,
                    run.proxy_cpu.total_us,
                    run.load,
                    run.servers_us,
                    run.driver_us
                );
                measured.runs.push(run);
            }
        }
    }
    Ok(all)
}

/// What everybody has used so far.
struct Used {
    proxy: Cpu,
    servers_us: f64,
    driver_us: f64,
}

fn one_run(options: &Options, servers: &Servers, operation: Operation, proxy: Option<&Proxy>, round: usize) -> Outcome<Run> {
    let look = || Used {
        proxy: proxy.map(|proxy| Cpu::of(proxy.pid())).unwrap_or_default(),
        servers_us: servers.cpu_us(),
        driver_us: Cpu::of(std::process::id()).total_us,
    };
    let port_of = |key: &str| proxy.map_or_else(|| servers.port_of(key), |proxy| proxy.port);
    let hold = |percent| proxy.map(|proxy| proxy.share().set(percent));
    hold(Some(options.share_percent));
    let played = driver::drive(operation, port_of, options.seconds, look);
    hold(None);
    let played = played.map_err(|error| format!("{}: {error}", operation.name()))?;
    let (before, after, count) = (played.before, played.after, played.latencies.len() as f64);
    let used = after.proxy.since(before.proxy);
    Ok(Run {
        proxy: proxy.map(|proxy| proxy.name.clone()),
        round,
        operations_per_second: count / played.seconds,
        p50_ms: percentile_ms(&played.latencies, 0.5),
        p99_ms: percentile_ms(&played.latencies, 0.99),
        proxy_cpu: Cpu { total_us: used.total_us / count, user_us: used.user_us / count, system_us: used.system_us / count },
        servers_us: (after.servers_us - before.servers_us) / count,
        driver_us: (after.driver_us - before.driver_us) / count,
        load: used.total_us / 1e6 / played.seconds,
    })
}

/// Of latencies from the shortest on, of which there is at least one: what this share of them does not exceed.
fn percentile_ms(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1].as_secs_f64() * 1e3
}
