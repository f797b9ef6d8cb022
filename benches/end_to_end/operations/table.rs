//! The operations' figures as a Markdown table.

use super::{Measured, Run};
use crate::report::{median, row, spread};

/// What a run without a proxy is called.
pub const DIRECT: &str = "direct";

/// Medians over the rounds; what is a share of the direct connections' figures is one of the same round.
pub fn table(all: &[Measured]) -> String {
    let mut out = String::from(
        "\n### Operations beside a direct connection: medians over the rounds\n\n\
         | operation | through | operations/s | p50 ms | p99 ms | proxy's CPU us/operation (user + system) | servers' CPU us/operation \
         | driver's CPU us/operation | proxy's load, cores | CPU of all, direct = 1: median (min-max) |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for measured in all {
        for way in ways(measured) {
            let runs: Vec<&Run> = measured.runs.iter().filter(|run| run.proxy == way).collect();
            let middle = |figure: fn(&Run) -> f64| median(runs.iter().map(|run| figure(run)).collect());
            let proxied = |text: String| if way.is_some() { text } else { "-".into() };
            let cpu = format!(
                "{:.2} ({:.2} + {:.2})",
                middle(|run| run.proxy_cpu.total_us),
                middle(|run| run.proxy_cpu.user_us),
                middle(|run| run.proxy_cpu.system_us)
            );
            row(
                &mut out,
                &[
                    measured.operation.title().into(),
                    way.clone().unwrap_or_else(|| DIRECT.into()),
                    format!("{:.0}", middle(|run| run.operations_per_second)),
                    format!("{:.3}", middle(|run| run.p50_ms)),
                    format!("{:.3}", middle(|run| run.p99_ms)),
                    proxied(cpu),
                    format!("{:.2}", middle(|run| run.servers_us)),
                    format!("{:.2}", middle(|run| run.driver_us)),
                    proxied(format!("{:.2}", middle(|run| run.load))),
                    proxied(spread(&beside_direct(measured, &runs))),
                ],
            );
        }
    }
    out
}

/// The ways of the first round, direct connections last.
fn ways(measured: &Measured) -> Vec<Option<String>> {
    let mut ways: Vec<Option<String>> =
        measured.runs.iter().filter(|run| run.round == 0 && run.proxy.is_some()).map(|run| run.proxy.clone()).collect();
    ways.push(None);
    ways
}

/// All CPU of these runs by that of the direct connections, round by round.
fn beside_direct(measured: &Measured, runs: &[&Run]) -> Vec<f64> {
    let total_us = |run: &Run| run.proxy_cpu.total_us + run.servers_us + run.driver_us;
    let direct = |round| measured.runs.iter().find(|run| run.proxy.is_none() && run.round == round).map(total_us);
    runs.iter().filter_map(|run| Some(total_us(run) / direct(run.round).filter(|reference| *reference > 0.0)?)).collect()
}
