//! What a driver must know of a slot beside what the nodes show: which copy of a key is the newer one, and what a source had.

use std::time::Duration;

use keyway::migrate::Holds;
use keyway::migrate::execute::{Event, Halt, Kept, Limits, Mode};
use keyway::migrate::recovery::{Step, Trouble};

use super::failovers::{master, wait_until_in_step};
use super::mover::{Mover, slots};
use super::oracle::{FIXED, Oracle, assert_whole};
use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::{Client, Cluster, Proxy, Reply, Server};

/// Its halt is asserted before long.
const IMPATIENT: Limits = Limits { patience: Duration::from_secs(30), doubt: Duration::from_millis(300) };

fn mover(cluster: &Cluster) -> Mover {
    let mover = Mover::with_limits(cluster, None, IMPATIENT);
    mover.throttle.send_modify(|throttle| throttle.keys = 10);
    mover
}

fn trouble(slot: u16, trouble: Trouble) -> Halt {
    Halt::Trouble { slot: slots(slot..slot + 1)[0], trouble }
}

fn keys_at(node: &mut Client, slot: u16) -> Vec<String> {
    node.call(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000"]).elements().iter().map(Reply::text).collect()
}

/// A slot waits behind each batch until a replica of both ends knows of it.
fn frozen_replicas(server: Server) {
    let options = ClusterOptions { replicas_each: 1, ..ClusterOptions::default() };
    let cluster = Cluster::start(server, options);
    let proxy = Proxy::start(&cluster);
    let oracle = Oracle::new(proxy.port, &tags_in(0..2));
    for (slot, frozen) in [(0, 3), (1, 4)] {
        let mut mover = mover(&cluster);
        let leg = mover.leg(&cluster, 0, 1, slots(slot..slot + 1), Mode::Classic);
        let (mut moved, mut moved_frozen) = (0, None);
        let (done, events) = mover.run_with(&leg, |event| match event {
            Event::KeysMoved { keys, .. } => {
                moved += keys;
                if moved == *keys {
                    wait_until_in_step(&cluster, frozen - 3);
                    cluster.member(frozen).stop();
                }
            }
            Event::Waiting { reason, .. } if reason.contains("knows yet what was moved last") => {
                moved_frozen.get_or_insert(moved);
                cluster.member(frozen).go_on();
            }
            _ => {}
        });
        assert_eq!(done.map(|done| done.slots), Ok(1), "{events:#?}");
        // The first batch may have been known before it froze.
        assert!(moved_frozen.is_some_and(|moved| moved < FIXED), "{frozen} was not waited for: {events:#?}");
    }
    oracle.check_fixed();
    assert_whole(&cluster);
}

/// A driver dies together with its source, whose replica did not know what had moved: the next one, and the one behind that, keep what
/// clients have written at the target.
fn two_copies(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::with_failover());
    let proxy = Proxy::start(&cluster);
    let oracle = Oracle::new(proxy.port, &tags_in(0..1));
    let [source, target] = [0, 1].map(|shard| cluster.member(master(&cluster, shard)).id.clone());
    wait_until_in_step(&cluster, 0);
    let leg = mover(&cluster).leg(&cluster, 0, 1, slots(0..1), Mode::Classic);
    // The replica is cut off before the first key moves.
    let died = mover(&cluster).run_until(&leg, |event| {
        if matches!(event, Event::Stepped { step: Step::OpenSource, .. }) {
            cluster.member(3).stop();
            cluster.member(0).client().call(&["CLIENT", "KILL", "TYPE", "replica"]);
        }
        matches!(event, Event::KeysMoved { .. })
    });
    assert!(died, "keys move");
    let left = keys_at(&mut cluster.member(0).client(), 0);
    let moved = keys_at(&mut cluster.member(1).client(), 0);
    assert_eq!(left.len() + moved.len(), FIXED);
    let mut client = proxy.client();
    assert_eq!(client.call(&["SET", &moved[0], "newer"]), Reply::ok());
    wait_until_in_step(&cluster, 1);
    cluster.kill(0);
    cluster.member(3).go_on();
    assert_eq!(master(&cluster, 0), 3);
    cluster.wait_for(|cluster| {
        let states: Vec<String> = [1, 2, 3].map(|index| cluster.member(index).client().call(&["CLUSTER", "NODES"]).text()).into();
        let dead =
            |text: &String| text.lines().any(|line| line.contains(&source) && line.contains("fail ") && !line.contains("fail?"));
        if states.iter().all(dead) { Ok(()) } else { Err(states.join("\n")) }
    });
    let mut now = cluster.member(3).client();
    assert_eq!(keys_at(&mut now, 0).len(), FIXED, "it knows nothing of what has moved");
    // Whoever knows nothing of the slot leaves it alone.
    let (done, events) = mover(&cluster).run(&leg);
    let halts = [Trouble::SourceForgot, Trouble::StrayKeysAtTarget].map(|each| Err(trouble(0, each)));
    assert!(halts.contains(&done), "{done:?} {events:#?}");
    assert_eq!(keys_at(&mut now, 0).len(), FIXED);
    // Who knows that nobody was let to the new master puts the mark back. It dies in that moment.
    let mut resumed = Holds::default();
    resumed.hold(slots(0..1), &source, &target);
    let driver = |resumed: &Holds| {
        let mut driver = mover(&cluster);
        driver.resumed = resumed.clone();
        driver
    };
    assert!(driver(&resumed).run_until(&leg, |event| matches!(event, Event::Stepped { step: Step::OpenSource, .. })));
    // So does the next one with the first key, whose copy at the source is written down as the newer one; by then the slot is settled.
    resumed.doubt(slots(0..1)[0], [moved[1].clone().into_bytes()]);
    let mut kept = Vec::new();
    let died = driver(&resumed).run_until(&leg, |event| {
        match event {
            Event::Conflict { key, kept: copy, .. } => kept.push((String::from_utf8_lossy(key).into_owned(), *copy)),
            Event::Settled { source, target, .. } => resumed.hold(slots(0..1), source, target),
            _ => {}
        }
        matches!(event, Event::KeysMoved { .. })
    });
    assert!(died, "keys move again");
    kept.sort();
    let mut expected: Vec<(String, Kept)> = moved.iter().map(|key| (key.clone(), Kept::Target)).collect();
    expected[1].1 = Kept::Source;
    expected.sort();
    assert_eq!(kept, expected);
    let (done, events) = driver(&resumed).run(&leg);
    assert_eq!(done.map(|done| done.slots), Ok(1), "{events:#?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Conflict { .. })), "{events:#?}");
    assert_eq!(client.call(&["GET", &moved[0]]), Reply::bulk("newer"));
    assert_eq!(client.call(&["SET", &moved[0], &format!("value of {}", moved[0])]), Reply::ok());
    oracle.check_fixed();
    cluster.restart(0);
    cluster.wait_for_agreement();
    assert_whole(&cluster);
}

/// A source that is started anew and has nothing is not taken for one that has given all away.
fn emptied_source(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::default());
    let proxy = Proxy::start(&cluster);
    drop(Oracle::new(proxy.port, &tags_in(0..1)));
    let mut driver = mover(&cluster);
    let leg = driver.leg(&cluster, 0, 1, slots(0..1), Mode::Classic);
    let mut killed = false;
    let (done, events) = driver.run_with(&leg, |event| {
        if matches!(event, Event::KeysMoved { .. }) && !std::mem::replace(&mut killed, true) {
            cluster.kill(0);
            cluster.restart(0);
        }
    });
    assert_eq!(done, Err(trouble(0, Trouble::SourceEmptied)), "{events:#?}");
    // An operator has read that, and says go on.
    let (done, events) = mover(&cluster).run(&leg);
    assert_eq!(done.map(|done| done.slots), Ok(1), "{events:#?}");
    assert!(!keys_at(&mut cluster.member(1).client(), 0).is_empty());
    assert_whole(&cluster);
}

#[test]
fn frozen_replicas_on_redis() {
    frozen_replicas(Server::Redis70);
}

#[test]
fn frozen_replicas_on_valkey() {
    frozen_replicas(Server::Valkey91);
}

// Valkey's replicas know the marks.
#[test]
fn two_copies_on_redis_7_0() {
    two_copies(Server::Redis70);
}

#[test]
fn two_copies_on_redis_8_2() {
    two_copies(Server::Redis82);
}

#[test]
fn emptied_source_on_redis() {
    emptied_source(Server::Redis70);
}
