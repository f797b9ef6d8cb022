//! One run of redis-benchmark.

use std::{
    fs::File,
    process::Stdio,
    time::{Duration, Instant},
};

use super::{
    Outcome,
    harness::{process::bound_command, servers::tool},
    machine::Machine,
    workload::Workload,
};

/// What redis-benchmark says of a run.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    pub requests: u64,
    pub requests_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// A run is ended after this time: the proxy hangs, or the machine does.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends `requests` requests of a workload to this port, from the cores that are not the proxy's.
pub fn generate(machine: &Machine, workload: &Workload, port: u16, requests: u64) -> Outcome<Generated> {
    let (out_path, err_path) = (machine.folder.join("generator.csv"), machine.folder.join("generator.err"));
    let mut command = machine.beside_the_proxy(bound_command(&tool("redis-benchmark")));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-n", &requests.to_string(), "--csv", "--precision", "3"]);
    command.args(workload.arguments());
    command.stdin(Stdio::null()).stdout(File::create(&out_path)?).stderr(File::create(&err_path)?);
    let mut child = command.spawn()?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("redis-benchmark did not come to an end in {PATIENCE:?} ({})", workload.name).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let (out, err) = (std::fs::read_to_string(&out_path)?, std::fs::read_to_string(&err_path)?);
    if !status.success() || err.contains("Error from server") {
        return Err(
            format!("redis-benchmark, {}: {status}; {}", workload.name, err.lines().next().unwrap_or("no message")).into()
        );
    }
    parse(&out, requests).ok_or_else(|| format!("redis-benchmark printed no figures, but {out:?}").into())
}

/// The last line of `--csv`: "test","rps","avg","min","p50","p95","p99","max".
fn parse(out: &str, requests: u64) -> Option<Generated> {
    let line = out.lines().rfind(|line| line.starts_with('"') && !line.starts_with("\"test\""))?;
    let mut numbers = line.trim_end_matches('"').rsplit("\",\"").map(str::parse::<f64>);
    let [_max, p99, _p95, p50, _min, _average, rate] = std::array::from_fn(|_| numbers.next()?.ok());
    Some(Generated { requests, requests_per_second: rate?, p50_ms: p50?, p99_ms: p99? })
}
