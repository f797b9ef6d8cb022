//! System calls per request: a short run of its own under `strace -c -f`, because being traced slows a proxy down many times over.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Outcome,
    generator::generate,
    harness::{process::bound_command, servers::in_path},
    machine::Machine,
    options::Options,
    proxy::Proxy,
    workload::WORKLOADS,
};

/// Workloads that are traced, and how many requests of each.
const TRACED: [(&str, u64); 4] = [("get", 20_000), ("get_c1000", 20_000), ("get_p16", 100_000), ("mget_10", 10_000)];

/// Calls per request of one workload through one proxy, the most frequent first.
pub struct Traced {
    pub workload: &'static str,
    pub proxy: String,
    pub total: f64,
    pub calls: Vec<(String, f64)>,
}

/// Traces every proxy; nothing where there is no strace.
pub fn trace(options: &Options, machine: &Machine, proxies: &[Proxy]) -> Outcome<Vec<Traced>> {
    let mut all = Vec::new();
    if !options.wants("system_calls") {
        return Ok(all);
    }
    let Some(strace) = in_path("strace").into_iter().next() else {
        eprintln!("no system calls are counted: strace is missing (benches/install.sh installs it)");
        return Ok(all);
    };
    for (name, requests) in TRACED {
        let workload = WORKLOADS.iter().find(|workload| workload.name == name).expect("TRACED names workloads of the table");
        for proxy in proxies {
            let summary = machine.folder.join(format!("strace-{name}-{}", proxy.name));
            let mut command = bound_command(&strace);
            command.args(["-c", "-f", "-qq", "-p", &proxy.pid().to_string(), "-o"]).arg(&summary).stderr(Stdio::null());
            let mut tracer = command.spawn()?;
            wait_until_traced(proxy.pid());
            let outcome = generate(machine, workload, proxy.port, requests);
            // It prints its summary when it is interrupted.
            Command::new("kill").args(["-INT", &tracer.id().to_string()]).status()?;
            tracer.wait()?;
            outcome?;
            let calls = parse(&std::fs::read_to_string(&summary)?, requests);
            let total = calls.iter().map(|(_, count)| count).sum();
            eprintln!("{name} {}: {total:.2} system calls a request", proxy.name);
            all.push(Traced { workload: workload.title, proxy: proxy.name.clone(), total, calls });
        }
    }
    Ok(all)
}

/// Waits until a tracer is attached to every thread.
fn wait_until_traced(pid: u32) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
        if statuses.all(|status| !status.lines().any(|line| line == "TracerPid:\t0")) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The table of `strace -c`: "% time, seconds, usecs/call, calls, errors (may be empty), syscall".
fn parse(summary: &str, requests: u64) -> Vec<(String, f64)> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_row = words.first()?.parse::<f64>().is_ok() && *words.last()? != "total";
        is_row.then_some((words.last()?.to_string(), words.get(3)?.parse::<f64>().ok()? / requests as f64))
    };
    let mut calls: Vec<(String, f64)> = summary.lines().filter_map(row).collect();
    calls.sort_by(|one, other| other.1.total_cmp(&one.1));
    calls
}
