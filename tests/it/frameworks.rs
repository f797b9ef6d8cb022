//! Frameworks that know nothing of clusters, unmodified from their registries: Celery, RQ, BullMQ, Django's cache.
//!
//! Each has a script under tests/clients that prints one line a finding. What the run against a standalone server prints is
//! what the run through the proxy has to print. `README.md` says what each of them needs.

use std::process::Command;
use std::time::Duration;

use crate::harness::cluster::{slot_of, tags_in};
use crate::harness::moves::move_slot;
use crate::harness::over::{Over, join};
use crate::harness::programs::{Outcome, node, python, run};
use crate::harness::{Cluster, Proxy, Reply, Server, Standalone};

/// How many seconds, or milliseconds, a script waits for anything.
const PATIENCE_S: &str = "60";
const PATIENCE_MS: &str = "60000";

/// A framework's own scripts read keys they do not name, and a slot that is open all the time would let none of them finish.
const BETWEEN_MOVES: Duration = Duration::from_millis(500);

/// What lets applications without hash tags do what a cluster cannot do at once.
const SPREAD: [(&str, &str); 2] = [("cross_slot.transactions", "per-slot"), ("cross_slot.blocking", "poll")];

fn celery(port: &str, prefix: &str) -> Command {
    python(Some("frameworks"), "celery_app.py", &["127.0.0.1", port, prefix, PATIENCE_S])
}

fn rq(port: &str, prefix: &str) -> Command {
    python(Some("frameworks"), "rq_app.py", &["127.0.0.1", port, prefix, PATIENCE_S])
}

fn bullmq(port: &str, prefix: &str) -> Command {
    node("bullmq.cjs", &["127.0.0.1", port, "ioredis", prefix, PATIENCE_MS])
}

fn bullmq_over_node_redis(port: &str, prefix: &str) -> Command {
    node("bullmq.cjs", &["127.0.0.1", port, "redis", prefix, PATIENCE_MS])
}

fn django_cache(port: &str, prefix: &str) -> Command {
    python(Some("frameworks"), "django_cache.py", &["127.0.0.1", port, "3", prefix])
}

type Framework = fn(port: &str, prefix: &str) -> Command;

fn findings(command: &mut Command) -> (Vec<String>, Outcome) {
    let outcome = run(command, "");
    (outcome.printed.lines().map(str::to_owned).collect(), outcome)
}

/// The findings that are not those before a standalone server, by their names.
fn differences(framework: Framework, standalone: &Standalone, proxy: &Proxy, prefix: &str) -> (Vec<String>, String) {
    let (expected, outcome) = findings(&mut framework(&standalone.port().to_string(), prefix));
    assert!(outcome.success, "before a standalone server:\n{}\n{}", outcome.printed, outcome.complaint);
    let (found, outcome) = findings(&mut framework(&proxy.port.to_string(), prefix));
    let name = |finding: &String| finding.split(": ").next().unwrap_or_default().to_owned();
    let differ = expected.iter().zip(&found).filter(|(expected, found)| expected != found).map(|(expected, _)| name(expected));
    let differ: Vec<String> = differ.chain(expected.iter().skip(found.len()).map(name)).collect();
    (differ, format!("{}\n{}", outcome.printed, outcome.complaint))
}

/// What a server says to a script that names not all of its keys when one of these is at the slot's other end: README's table names it, and
/// a slot that a busy machine leaves open for long meets it now and then.
const NOT_NAMED: &str = "non local key";

/// Runs of a framework until one was not met by that.
const RUNS_MAX: usize = 4;

fn alike(framework: Framework, standalone: &Standalone, proxy: &Proxy, prefix: &str) {
    for run in 1..=RUNS_MAX {
        let (differ, told) = differences(framework, standalone, proxy, prefix);
        if run < RUNS_MAX && told.contains(NOT_NAMED) {
            for mut client in [standalone.client(), proxy.client()] {
                assert_eq!(client.call(&["FLUSHALL"]), Reply::ok());
            }
            continue;
        }
        assert!(differ.is_empty(), "{differ:?}\n{told}");
        return;
    }
}

/// Its keys all in one slot, by its own setting for a prefix, and that slot on the move.
fn with_a_hash_tag(framework: Framework, server: Server) {
    let cluster = Cluster::of_masters(server);
    let (standalone, mut proxy) = (Standalone::start(server), Proxy::start(&cluster));
    let tag = &tags_in(100..101)[0];
    let over = Over::default();
    let moves = std::thread::scope(|threads| {
        let mover = threads.spawn(|| {
            let mut moves = 0;
            while !over.yet() {
                move_slot(&cluster, slot_of(tag), moves % 2, (moves + 1) % 2);
                moves += 1;
                std::thread::sleep(BETWEEN_MOVES);
            }
            moves
        });
        {
            let _over = over.when_dropped();
            alike(framework, &standalone, &proxy, tag);
        }
        join(mover)
    });
    assert!(moves >= 2, "the slot moved {moves} times");
    proxy.assert_alive();
}

/// Its keys wherever they fall, and the proxy told to make up for it.
fn over_all_slots(framework: Framework, server: Server) {
    let cluster = Cluster::of_masters(server);
    let (standalone, mut proxy) = (Standalone::start(server), Proxy::start_with(&cluster, &SPREAD));
    alike(framework, &standalone, &proxy, "-");
    proxy.assert_alive();
}

/// RQ without a prefix of its own: what it does by scripts over several keys stays out of reach, all else works.
#[test]
fn rq_over_all_slots() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let (standalone, proxy) = (Standalone::start(Server::Redis70), Proxy::start_with(&cluster, &SPREAD));
    let (differ, told) = differences(rq, &standalone, &proxy, "-");
    assert_eq!(differ, ["unique", "emptied"], "{told}");
}

/// Django's cache with nothing set: only `set_many` needs what a cluster cannot do at once.
#[test]
fn django_cache_as_it_is() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let (standalone, proxy) = (Standalone::start(Server::Redis70), Proxy::start(&cluster));
    let (differ, told) = differences(django_cache, &standalone, &proxy, "-");
    assert_eq!(differ, ["set_many", "set_many without an end"], "{told}");
}

macro_rules! on_the_oldest_and_the_newest {
    ($($scenario:ident($framework:ident) as $name:ident),+ $(,)?) => {
        mod redis_7_0 { $(#[test] fn $name() { super::$scenario(super::$framework, super::Server::Redis70); })+ }
        mod valkey_9_1 { $(#[test] fn $name() { super::$scenario(super::$framework, super::Server::Valkey91); })+ }
    };
}

on_the_oldest_and_the_newest!(
    with_a_hash_tag(celery) as celery_with_a_hash_tag,
    with_a_hash_tag(rq) as rq_with_a_hash_tag,
    with_a_hash_tag(bullmq) as bullmq_with_a_hash_tag,
    with_a_hash_tag(bullmq_over_node_redis) as bullmq_over_node_redis_with_a_hash_tag,
    with_a_hash_tag(django_cache) as django_cache_with_a_hash_tag,
    over_all_slots(django_cache) as django_cache_over_all_slots,
);
