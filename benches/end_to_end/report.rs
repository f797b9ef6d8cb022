//! The figures as Markdown tables.

use std::fmt::Write;

use super::{
    memory::{Idle, Large},
    rounds::{Measured, Run},
    system_calls::Traced,
};

/// The reference of every ratio.
pub const REFERENCE: &str = "envoy";

/// Ratios to Envoy in the same round, the figure that counts, with the aims.
pub fn ratios(all: &[Measured]) -> String {
    let mut out = String::from(
        "\n### Share of Envoy's figures in the same rounds: median (min-max)\n\n\
         | workload | proxy | aim, CPU | proxy's CPU per request | servers' CPU per request | requests/s | p50 | p99 |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for measured in all {
        for proxy in names(measured).into_iter().filter(|name| name != REFERENCE) {
            let share = |figure: fn(&Run) -> f64| spread(&per_round(measured, &proxy, figure));
            let aim = if measured.workload.clients > 1 { format!("{:.2}", measured.workload.aim) } else { "-".into() };
            row(
                &mut out,
                &[
                    measured.workload.title.into(),
                    proxy.clone(),
                    aim,
                    share(|run| run.proxy_cpu.total_us),
                    share(|run| run.servers_us),
                    share(|run| run.requests_per_second),
                    share(|run| run.p50_ms),
                    share(|run| run.p99_ms),
                ],
            );
        }
    }
    out
}

/// The figures themselves: medians over the rounds.
pub fn figures(all: &[Measured]) -> String {
    let mut out = String::from(
        "\n### Figures: medians over the rounds\n\n\
         | workload | proxy | requests/s | p50 ms | p99 ms | proxy's CPU us/request (user + system) | servers' CPU us/request | proxy's load, cores |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for measured in all {
        for proxy in names(measured) {
            let middle = |figure: fn(&Run) -> f64| {
                let runs = measured.runs.iter().filter(|run| run.proxy == proxy);
                median(runs.map(figure).collect())
            };
            row(
                &mut out,
                &[
                    measured.workload.title.into(),
                    proxy.clone(),
                    format!("{:.0}", middle(|run| run.requests_per_second)),
                    format!("{:.3}", middle(|run| run.p50_ms)),
                    format!("{:.3}", middle(|run| run.p99_ms)),
                    format!(
                        "{:.2} ({:.2} + {:.2})",
                        middle(|run| run.proxy_cpu.total_us),
                        middle(|run| run.proxy_cpu.user_us),
                        middle(|run| run.proxy_cpu.system_us)
                    ),
                    format!("{:.2}", middle(|run| run.servers_us)),
                    format!("{:.2}", middle(|run| run.load)),
                ],
            );
        }
    }
    out
}

pub fn system_calls(all: &[Traced]) -> String {
    let mut out = String::from(
        "\n### System calls per request (strace)\n\n| workload | proxy | all | of these |\n| --- | --- | --- | --- |\n",
    );
    for traced in all {
        let calls = traced.calls.iter().filter(|(_, count)| *count >= 0.005).take(6);
        let calls: Vec<String> = calls.map(|(name, count)| format!("{name} {count:.2}")).collect();
        row(&mut out, &[traced.workload.into(), traced.proxy.clone(), format!("{:.2}", traced.total), calls.join(", ")]);
    }
    out
}

pub fn idle_memory(all: &[Idle]) -> String {
    let mut out = String::from(
        "\n### Memory with idle clients, after use (resident)\n\n\
         | clients | proxy | fresh | idle after use | a client | after they left |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for idle in all {
        let each_kib = idle.used_kib.saturating_sub(idle.fresh_kib) as f64 / idle.clients as f64;
        row(
            &mut out,
            &[
                idle.clients.to_string(),
                idle.proxy.clone(),
                mib(idle.fresh_kib),
                mib(idle.used_kib),
                format!("{each_kib:.2} KiB"),
                mib(idle.closed_kib),
            ],
        );
    }
    out
}

pub fn large_values(all: &[Large]) -> String {
    let mut out = String::from(
        "\n### One value of 64 MiB (peak of resident memory above the proxy's base)\n\n\
         | proxy | base | SET, above base | GET, above base | 3 s later |\n| --- | --- | --- | --- | --- |\n",
    );
    for large in all {
        row(
            &mut out,
            &[large.proxy.clone(), mib(large.before_kib), mib(large.set_kib), mib(large.get_kib), mib(large.after_kib)],
        );
    }
    out
}

pub fn row(out: &mut String, cells: &[String]) {
    writeln!(out, "| {} |", cells.join(" | ")).expect("a string takes everything");
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

/// The proxies of a workload, in the order of its first round.
fn names(measured: &Measured) -> Vec<String> {
    let mut names: Vec<String> = measured.runs.iter().map(|run| run.proxy.clone()).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// A proxy's figure divided by the reference's, round by round.
fn per_round(measured: &Measured, proxy: &str, figure: fn(&Run) -> f64) -> Vec<f64> {
    let of = |name: &str, round: usize| measured.runs.iter().find(|run| run.proxy == name && run.round == round).map(figure);
    let rounds = measured.runs.iter().filter(|run| run.proxy == proxy).map(|run| run.round);
    rounds.filter_map(|round| Some(of(proxy, round)? / of(REFERENCE, round).filter(|reference| *reference > 0.0)?)).collect()
}

pub fn spread(values: &[f64]) -> String {
    if values.is_empty() {
        return "-".into();
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2}-{most:.2})", median(values.to_vec()))
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}
