//! The workloads, in interleaved rounds: what the machine does meanwhile touches all proxies alike, so that the ratio of one round
//! is worth more than any figure in it.

use super::{
    Outcome,
    generator::generate,
    machine::Machine,
    options::Options,
    proxy::Proxy,
    servers::Servers,
    usage::Cpu,
    workload::{ONE_CLIENT, WORKLOADS, Workload},
};

/// One run of one workload through one proxy.
#[derive(Clone, Debug)]
pub struct Run {
    pub proxy: String,
    pub round: usize,
    pub requests_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Per request.
    pub proxy_cpu: Cpu,
    pub servers_us: f64,
    /// Cores that the proxy used while it ran.
    pub load: f64,
}

/// All runs of one workload.
pub struct Measured {
    pub workload: Workload,
    pub runs: Vec<Run>,
}

/// Requests of the first, unmeasured run of a workload, which warms up and tells how many make a run of the wanted length.
const TRIAL: u64 = 5_000;

/// Runs everything that is wanted, round by round.
pub fn run(options: &Options, machine: &Machine, servers: &Servers, proxies: &[Proxy]) -> Outcome<Vec<Measured>> {
    let wanted = WORKLOADS.into_iter().chain([ONE_CLIENT]).filter(|workload| options.wants(workload.name));
    let mut all: Vec<Measured> = wanted.map(|workload| Measured { workload, runs: Vec::new() }).collect();
    for round in 0..options.rounds {
        for measured in &mut all {
            for turn in 0..proxies.len() {
                // Another one begins each round.
                let proxy = &proxies[(round + turn) % proxies.len()];
                let rate = match measured.runs.iter().rfind(|run| run.proxy == proxy.name) {
                    Some(run) => run.requests_per_second,
                    None => trial(options, machine, &measured.workload, proxy)?,
                };
                let run = one_run(options, machine, servers, &measured.workload, proxy, round, rate)?;
                eprintln!(
                    "round {} {:<10} {:<10} {:>8.0}/s, proxy {:>8.2} us/request ({:.2} cores), servers {:>8.2}",
                    round + 1,
                    measured.workload.name,
                    run.proxy,
                    run.requests_per_second,
                    run.proxy_cpu.total_us,
                    run.load,
                    run.servers_us
                );
                measured.runs.push(run);
            }
        }
    }
    Ok(all)
}

/// Whether the proxy is held to its share: the latency of a single client is measured without.
fn held(options: &Options, workload: &Workload) -> Option<u32> {
    (workload.clients > 1).then_some(options.share_percent)
}

/// The rate at which this workload comes through.
fn trial(options: &Options, machine: &Machine, workload: &Workload, proxy: &Proxy) -> Outcome<f64> {
    proxy.share().set(held(options, workload));
    let requests = if workload.name == "get_1m" { 100 } else { TRIAL.max(workload.clients as u64 * 2) };
    let generated = generate(machine, workload, proxy.port, requests);
    proxy.share().set(None);
    Ok(generated?.requests_per_second)
}

fn one_run(
    options: &Options,
    machine: &Machine,
    servers: &Servers,
    workload: &Workload,
    proxy: &Proxy,
    round: usize,
    rate: f64,
) -> Outcome<Run> {
    let requests = (rate * options.seconds) as u64 + workload.clients as u64;
    proxy.share().set(held(options, workload));
    let (cpu_before, servers_before) = (Cpu::of(proxy.pid()), servers.cpu_us());
    let generated = generate(machine, workload, proxy.port, requests);
    let (cpu_after, servers_after) = (Cpu::of(proxy.pid()), servers.cpu_us());
    proxy.share().set(None);
    let (generated, used, count) = (generated?, cpu_after.since(cpu_before), requests as f64);
    Ok(Run {
        proxy: proxy.name.clone(),
        round,
        requests_per_second: generated.requests_per_second,
        p50_ms: generated.p50_ms,
        p99_ms: generated.p99_ms,
        proxy_cpu: Cpu { total_us: used.total_us / count, user_us: used.user_us / count, system_us: used.system_us / count },
        servers_us: (servers_after - servers_before) / count,
        load: used.total_us / 1e6 / (generated.requests as f64 / generated.requests_per_second),
    })
}
