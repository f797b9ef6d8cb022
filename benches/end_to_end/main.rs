//! Keyway beside Envoy 1.40, before the same cluster of three masters: what a request costs each of them.
//!
//! - `options`, `workload` — what is asked for, and the table of workloads with their aims
//! - `machine`, `usage` — who runs on which core and how proxies are held to a share of one; what processes used
//! - `servers`, `proxy`, `generator` — the processes: cluster, proxies, redis-benchmark
//! - `rounds`, `system_calls`, `memory` — the measurements
//! - `operations` — transactions, wake-ups and messages, beside direct connections to the nodes, with a driver of their own
//! - `report` — their tables
//!
//! Processes and clusters come from the tests' own harness. `benches/README.md` says how to read the figures.

use std::process::ExitCode;

#[allow(dead_code, unused_imports, reason = "the tests' harness serves more than a bench needs")]
#[path = "../../tests/it/harness/mod.rs"]
mod harness;

mod generator;
mod machine;
mod memory;
mod operations;
mod options;
mod proxy;
mod report;
mod rounds;
mod servers;
mod system_calls;
mod usage;
mod workload;

use machine::Machine;
use options::Options;
use proxy::{Contestant, Kind, Proxy};
use servers::Servers;

/// Errors are told to a person and end the run.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    clean_up_on_ctrl_c();
    let outcome = Options::parse(std::env::args().skip(1)).map_err(Into::into).and_then(|options| run(&options));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    if options.list {
        let names = workload::WORKLOADS.iter().chain([&workload::ONE_CLIENT]).map(|workload| workload.name);
        let names = names.chain(operations::OPERATIONS.map(operations::Operation::name));
        println!("{}", names.chain(["system_calls", "memory", "large_value"]).collect::<Vec<_>>().join("\n"));
        return Ok(());
    }
    let machine = Machine::new();
    let contestants = contestants(options);
    let servers = Servers::start(&machine)?;
    let proxies = contestants.iter().map(|one| one.start(&machine, &servers.seeds())).collect::<Outcome<Vec<Proxy>>>()?;
    let mut tables = heading(options, &machine, &servers, &contestants, &proxies);
    let measured = rounds::run(options, &machine, &servers, &proxies)?;
    if !measured.is_empty() {
        tables += &report::ratios(&measured);
        tables += &report::figures(&measured);
    }
    let operations = operations::run(options, &machine, &servers, &proxies)?;
    if !operations.is_empty() {
        tables += &operations::table(&operations);
    }
    let traced = system_calls::trace(options, &machine, &proxies)?;
    if !traced.is_empty() {
        tables += &report::system_calls(&traced);
    }
    drop(proxies);
    let idle = memory::idle(options, &machine, &servers, &contestants)?;
    if !idle.is_empty() {
        tables += &report::idle_memory(&idle);
    }
    let large = memory::large_value(options, &machine, &servers, &contestants)?;
    if !large.is_empty() {
        tables += &report::large_values(&large);
    }
    println!("{tables}");
    if let Some(file) = &options.out {
        std::fs::write(file, &tables).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

/// Who takes part: this build, other builds that were named, and Envoy where it is installed.
fn contestants(options: &Options) -> Vec<Contestant> {
    let mut all = vec![Contestant { name: "keyway".into(), kind: Kind::Keyway(proxy::own_build().into()) }];
    all.extend(options.also.iter().map(|(name, binary)| Contestant { name: name.clone(), kind: Kind::Keyway(binary.clone()) }));
    match proxy::find_envoy() {
        Some(binary) => all.push(Contestant { name: report::REFERENCE.into(), kind: Kind::Envoy(binary) }),
        None => eprintln!("Envoy is not installed, so there is nothing to compare with: run benches/install.sh"),
    }
    all
}

/// On what, with what and how it was measured.
fn heading(options: &Options, machine: &Machine, servers: &Servers, contestants: &[Contestant], proxies: &[Proxy]) -> String {
    let versions: Vec<String> = contestants.iter().map(|one| format!("{} ({})", one.name, one.version())).collect();
    let held = proxies.first().map(|proxy| proxy.share().describe(options.share_percent)).unwrap_or_default();
    format!(
        "{}.\n\n{}; three masters of Redis {}; one worker each. The proxy {held}; servers and redis-benchmark on the other cores. \
         {} rounds of about {} s a run.\n",
        machine.describe(),
        versions.join(", "),
        servers.version(),
        options.rounds,
        options.seconds,
    )
}

/// The kernel ends our processes when we end, however that comes about; folders and control groups are removed here.
fn clean_up_on_ctrl_c() {
    std::thread::spawn(|| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime needs an epoll descriptor");
        // Without a handler the signal simply ends us.
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            machine::remove_leftovers();
            std::process::exit(130);
        }
    });
}
