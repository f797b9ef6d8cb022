//! Moving slots under clients: `redis-cli --cluster reshard` with its defaults beside Keyway's plans, on the same cluster in turn.
//!
//! - `options` — what is asked for
//! - `stage` — the cluster, its keys, the proxy before it, and the ways of moving
//! - `felt` — what clients of the source and of the proxy feel meanwhile
//!
//! Processes and clusters come from the tests' own harness. `benches/README.md` says how to read the figures.

use std::process::ExitCode;

#[allow(dead_code, unused_imports, reason = "the tests' harness serves more than a bench needs")]
#[path = "../../tests/it/harness/mod.rs"]
mod harness;

mod felt;
mod options;
mod stage;

use felt::Felt;
use options::Options;
use stage::{Stage, Way};

/// Errors are told to a person and end the run.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).map_err(Into::into).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// One way once.
struct Run {
    way: Way,
    keys_per_second: f64,
    source: Felt,
    client: Felt,
}

fn run(options: &Options) -> Outcome<()> {
    let mut tables = String::new();
    for server in &options.servers {
        eprintln!("{server:?}: {} slots of {} keys each", options.slots, options.keys);
        let mut stage = Stage::set(*server, options)?;
        let ways = stage.ways();
        let mut runs = Vec::new();
        for round in 0..options.rounds {
            for turn in 0..ways.len() {
                let way = ways[(round + turn) % ways.len()];
                let run = one(&mut stage, way)?;
                eprintln!("  {round} {}: {:.0} keys/s", way.name(), run.keys_per_second);
                runs.push(run);
            }
        }
        tables += &table(&stage.version(), &ways, &runs);
    }
    println!("{tables}");
    if let Some(path) = &options.out {
        std::fs::write(path, &tables)?;
    }
    Ok(())
}

fn one(stage: &mut Stage, way: Way) -> Outcome<Run> {
    let keys = stage.keys();
    let ports = [stage.source_port(), stage.proxy_port()];
    let (took, [source, client]) = felt::during(ports, stage.moving_keys(), || stage.move_slots(way))?;
    Ok(Run { way, keys_per_second: keys as f64 / took?.as_secs_f64(), source, client })
}

/// Medians over the rounds.
fn table(version: &str, ways: &[Way], runs: &[Run]) -> String {
    let median = |way: Way, figure: &dyn Fn(&Run) -> f64| {
        let mut all: Vec<f64> = runs.iter().filter(|run| run.way == way).map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let base = median(Way::RedisCli, &|run| run.keys_per_second);
    let mut text = format!(
        "\n{version}\n\n| way | keys/s | of redis-cli's | source PING p99 / longest, ms | GET through the proxy p99 / longest, ms |\n\
         | --- | --- | --- | --- | --- |\n"
    );
    for way in ways {
        let speed = median(*way, &|run| run.keys_per_second);
        let felt = |one: &dyn Fn(&Run) -> Felt| {
            format!("{:.1} / {:.0}", median(*way, &|run| one(run).p99_ms), median(*way, &|run| one(run).longest_ms))
        };
        let (source, client) = (felt(&|run| run.source), felt(&|run| run.client));
        text += &format!("| {} | {speed:.0} | {:.2} | {source} | {client} |\n", way.name(), speed / base);
    }
    text
}
