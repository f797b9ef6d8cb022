//! What a request costs in the engine alone, without a socket: both ways, from a client's bytes to a client's bytes.
//!
//! `cargo bench --bench engine` measures time. With `--turns WORKLOAD N` it only plays N turns, for `benches/instructions.sh`,
//! which counts their instructions.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};

mod drive;

use drive::{Drive, Workload};

/// Name, what is asked, and by how many clients.
const CASES: [(&str, Workload, usize); 7] = [
    ("get_p1", Workload::Get { pipeline: 1 }, 50),
    ("get_p16", Workload::Get { pipeline: 16 }, 50),
    ("set_p1", Workload::Set { pipeline: 1 }, 50),
    ("set_p16", Workload::Set { pipeline: 16 }, 50),
    ("mget_10", Workload::Mget { keys: 10 }, 50),
    ("mget_100", Workload::Mget { keys: 100 }, 50),
    ("mset_10", Workload::Mset { keys: 10 }, 50),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let turns = arguments.iter().position(|argument| argument == "--turns");
    match turns.map(|at| play_turns(&arguments[at + 1..])) {
        Some(Ok(requests)) => println!("{requests}"),
        Some(Err(mistake)) => {
            eprintln!("{mistake}");
            return ExitCode::FAILURE;
        }
        None => measure(),
    }
    ExitCode::SUCCESS
}

/// Plays so many turns of one case. Answers how many requests they held.
fn play_turns(arguments: &[String]) -> Result<usize, String> {
    let usage = || format!("expected --turns WORKLOAD N, with one of {:?}", CASES.map(|(name, ..)| name));
    let [name, count, ..] = arguments else { return Err(usage()) };
    let (_, workload, clients) = CASES.into_iter().find(|(known, ..)| known == name).ok_or_else(usage)?;
    let count: usize = count.parse().map_err(|_| usage())?;
    let mut drive = Drive::new(workload, clients);
    Ok((0..count).map(|_| drive.play()).sum())
}

fn measure() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("engine");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    // Time is given for one request, whatever a turn holds.
    group.throughput(Throughput::Elements(1));
    for (name, workload, clients) in CASES {
        let mut drive = Drive::new(workload, clients);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let (begun, mut played) = (Instant::now(), 0);
                while played < iterations {
                    played += drive.play() as u64;
                }
                // Whole turns only: the time of the last one's surplus is taken off again.
                begun.elapsed().mul_f64(iterations as f64 / played as f64)
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
