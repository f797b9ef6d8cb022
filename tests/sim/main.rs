//! The simulator: engines, scripted clients and a fake cluster in virtual time, from a seed.
//!
//! `truth` follows every request from lane to node and back and knows what may happen (architecture, section 2); `asks` is what
//! clients ask, `answers` what a reply must look like. A seed decides everything, so a failing one is replayed, with a trace, by `KEYWAY_SIM_SEED=<seed>`;
//! `KEYWAY_SIM_SEEDS` sets how many are run. `mutations.sh` breaks the engine on purpose and expects to be caught.

mod answers;
mod asks;
mod channels;
mod chaos;
mod client;
mod cluster;
mod conn;
mod driver;
mod identities;
mod link;
mod listeners;
mod maps;
mod node;
mod plan;
mod queues;
mod serve;
mod shard;
mod socket;
mod tags;
mod transcripts;
mod truth;
mod units;
mod users;
mod waiting;
mod work;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use world::World;

const SEEDS: u64 = 10_000;

/// Sums over all seeds, so that a simulator that tests nothing is noticed.
#[derive(Default)]
struct Sums {
    replies: AtomicU64,
    overtaken: AtomicU64,
    unknown: AtomicU64,
    gave_up: AtomicU64,
    scans: AtomicU64,
    moved: AtomicU64,
    asked: AtomicU64,
    try_again: AtomicU64,
    healed: AtomicU64,
    overflows: AtomicU64,
    confirmations: AtomicU64,
    transactions: AtomicU64,
    nulls: AtomicU64,
    compared: AtomicU64,
    waits: AtomicU64,
    popped: AtomicU64,
    given_back: AtomicU64,
    unblocked: AtomicU64,
    published: AtomicU64,
    told: AtomicU64,
    named: AtomicU64,
}

fn run(seed: u64, trace: bool, sums: &Sums) -> Result<(), String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, trace);
        let outcome = world.run();
        let add = |sum: &AtomicU64, more: u64| sum.fetch_add(more, Relaxed);
        add(&sums.replies, world.clients.iter().map(|client| client.answered).sum());
        add(&sums.overtaken, world.truth.overtaken);
        add(&sums.unknown, world.unknown_outcomes);
        add(&sums.gave_up, world.gave_up);
        add(&sums.scans, world.scans_done);
        add(&sums.transactions, world.units.carried_out);
        add(&sums.nulls, world.units.nulls);
        add(&sums.compared, world.units.compared);
        add(&sums.waits, world.cluster.waits);
        add(&sums.popped, world.pops.count());
        add(&sums.given_back, world.pops.given_back);
        add(&sums.unblocked, world.unblocked.len() as u64);
        add(&sums.published, world.upstream.published);
        add(&sums.told, world.upstream.told);
        add(&sums.named, world.named);
        for driver in &world.drivers {
            let counters = &driver.engine.counters;
            add(&sums.moved, counters.moved);
            add(&sums.asked, counters.asked);
            add(&sums.try_again, counters.try_again);
            add(&sums.healed, counters.scripts_healed);
            add(&sums.overflows, counters.output_overflows);
            add(&sums.confirmations, counters.unknown_addresses);
        }
        outcome.map_err(|wrong| format!("at {} us: {wrong}", world.now))
    }));
    outcome.unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, found {text:?}")))
}

#[test]
fn seeds() {
    let sums = Sums::default();
    if let Some(seed) = number("KEYWAY_SIM_SEED") {
        let outcome = run(seed, true, &sums);
        println!("seed {seed}: {outcome:?}");
        assert!(outcome.is_ok(), "seed {seed} fails");
        return;
    }
    let (began, seeds) = (Instant::now(), number("KEYWAY_SIM_SEEDS").unwrap_or(SEEDS));
    let first = number("KEYWAY_SIM_FIRST").unwrap_or(0);
    let (next, failed) = (AtomicU64::new(first), AtomicU64::new(0));
    let keep_going = std::env::var("KEYWAY_SIM_ALL").is_ok();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + seeds || (failed.load(Relaxed) > 0 && !keep_going) {
                        return;
                    }
                    if let Err(wrong) = run(seed, false, &sums) {
                        failed.fetch_add(1, Relaxed);
                        println!(
                            "seed {seed} fails {wrong}\n  replay it: KEYWAY_SIM_SEED={seed} cargo test --test sim -- --nocapture"
                        );
                    }
                }
            });
        }
    });
    println!("{seeds} seeds in {:?}: {sums:?}", began.elapsed());
    assert_eq!(failed.into_inner(), 0, "seeds fail; the lines above replay them");
}

impl std::fmt::Debug for Sums {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields = [
            ("replies", &self.replies),
            ("overtaken", &self.overtaken),
            ("unknown", &self.unknown),
            ("gave up", &self.gave_up),
            ("scans", &self.scans),
            ("moved", &self.moved),
            ("asked", &self.asked),
            ("try again", &self.try_again),
            ("healed", &self.healed),
            ("overflows", &self.overflows),
            ("confirmations", &self.confirmations),
            ("transactions", &self.transactions),
            ("nulls", &self.nulls),
            ("compared", &self.compared),
            ("waits", &self.waits),
            ("popped", &self.popped),
            ("given back", &self.given_back),
            ("unblocked", &self.unblocked),
            ("published", &self.published),
            ("told", &self.told),
            ("named", &self.named),
        ];
        fields.iter().try_for_each(|(name, sum)| write!(out, "{name} {}, ", sum.load(Relaxed)))
    }
}
