//! Jobs of the servers that do not get on: they are cancelled, by order or by themselves, and nothing of anybody else's.

use std::process::Command;
use std::time::Duration;

use keyway::migrate::execute::{Event, Halt, Limits, Mode};

use super::mover::{Mover, slots};
use super::oracle::{FIXED, Oracle, assert_whole};
use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::{Cluster, Proxy, Reply, Server, wait_until};

const IMPATIENT: Limits = Limits { patience: Duration::from_secs(2), doubt: Duration::from_millis(300) };

/// The last line of a member's log of jobs.
fn last_job(cluster: &Cluster, member: usize) -> String {
    let log = cluster.member(member).client().call(&["CLUSTER", "GETSLOTMIGRATIONS"]);
    format!("{:?}", log.elements().first())
}

#[test]
fn jobs_that_stand_still() {
    let cluster = Cluster::start(Server::Valkey91, ClusterOptions::default());
    let proxy = Proxy::start(&cluster);
    let oracle = Oracle::new(proxy.port, &tags_in(0..4));
    let mut source = cluster.member(0).client();
    let ids = [1, 2].map(|member| cluster.member(member).id.clone());
    // A snapshot that takes for ever keeps jobs waiting.
    assert_eq!(source.call(&["CONFIG", "SET", "rdb-key-save-delay", "1000000"]), Reply::ok());
    assert!(!source.call(&["BGSAVE"]).is_error());
    let mut mover = Mover::with_limits(&cluster, None, IMPATIENT);
    let leg = mover.leg(&cluster, 0, 1, slots(0..4), Mode::Atomic);
    let stop = mover.stop.clone();
    // An order ends it, and so does patience.
    let (done, events) = mover.run_with(&leg, |event| {
        if matches!(event, Event::JobSubmitted { .. }) {
            stop.send_replace(true);
        }
    });
    assert_eq!(done, Err(Halt::Stopped), "{events:#?}");
    assert!(last_job(&cluster, 0).contains("cancelled"), "{}", last_job(&cluster, 0));
    stop.send_replace(false);
    let (done, events) = mover.run(&leg);
    let stuck = |done: &Result<_, Halt>, part: &str| matches!(done, Err(Halt::Stuck { why, .. }) if why.contains(part));
    assert!(stuck(&done, "stood still as waiting-to-snapshot"), "{done:?} {events:#?}");
    assert!(last_job(&cluster, 0).contains("cancelled"), "{}", last_job(&cluster, 0));
    // One that a driver before this one has begun is its own.
    let begin = |first: &str, last: &str, target: &str| {
        let command = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", target];
        assert_eq!(cluster.member(0).client().call(&command), Reply::ok());
    };
    begin("0", "3", &ids[0]);
    stop.send_replace(false);
    let (done, events) = mover.run(&leg);
    assert!(stuck(&done, "stood still as waiting-to-snapshot"), "{done:?} {events:#?}");
    assert!(!events.iter().any(|event| matches!(event, Event::JobSubmitted { .. })), "{events:#?}");
    // Cancelling would end the jobs of others too.
    begin("100", "100", &ids[1]);
    let (done, events) = mover.run(&leg);
    assert!(stuck(&done, "another job runs there as well"), "{done:?} {events:#?}");
    assert!(!last_job(&cluster, 0).contains("cancelled"), "{}", last_job(&cluster, 0));
    assert_eq!(source.call(&["CLUSTER", "CANCELSLOTMIGRATIONS"]), Reply::ok());
    // The snapshot is over, and it moves.
    assert_eq!(source.call(&["CONFIG", "SET", "rdb-key-save-delay", "0"]), Reply::ok());
    let children = ["-KILL", "-P", &cluster.member(0).pid().to_string()].map(str::to_owned);
    assert!(Command::new("pkill").args(children).status().is_ok_and(|status| status.success()));
    wait_until("the snapshot to end", || {
        let info = source.call(&["INFO", "persistence"]).text();
        if info.contains("rdb_bgsave_in_progress:0") { Ok(()) } else { Err(info) }
    });
    let mut mover = Mover::new(&cluster, None);
    let (done, events) = mover.run(&leg);
    assert_eq!(done.map(|done| done.slots), Ok(4), "{events:#?}");
    // And back, in jobs of two slots each, with a rest that nobody would wait for; another throttle ends it.
    let throttle = mover.throttle.clone();
    throttle.send_modify(|throttle| (throttle.job, throttle.rest) = (2 * FIXED as u64, Duration::from_secs(3600)));
    let back = mover.leg(&cluster, 1, 0, slots(0..4), Mode::Atomic);
    let (done, events) = std::thread::scope(|threads| {
        let (rests, resting) = std::sync::mpsc::channel();
        threads.spawn(move || {
            resting.recv().expect("a job ends");
            // It may lie down a moment later; when it is through nobody listens.
            while throttle.receiver_count() > 0 {
                throttle.send_modify(|throttle| throttle.rest = Duration::ZERO);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        mover.run_with(&back, |event| {
            if matches!(event, Event::JobDone { .. }) {
                rests.send(()).expect("the other thread waits");
            }
        })
    });
    assert_eq!(done.map(|done| done.slots), Ok(4), "{events:#?}");
    assert_eq!(events.iter().filter(|event| matches!(event, Event::JobDone { .. })).count(), 2, "{events:#?}");
    oracle.check_fixed();
    assert_whole(&cluster);
}
