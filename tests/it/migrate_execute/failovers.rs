//! Masters change in the middle of a slot.

use std::time::Duration;

use keyway::migrate::execute::{Event, Mode};
use keyway::migrate::recovery::Step;

use super::inside::Inside;
use super::mover::{Mover, slots};
use super::oracle::{FIXED, Oracle, assert_whole};
use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::{Cluster, Reply, Server, wait_until};

/// The present master of a shard: members `shard` and `shard + 3` are its nodes.
pub fn master(cluster: &Cluster, shard: usize) -> usize {
    wait_until("a shard to have a master", || {
        let is_master = |index: &usize| {
            let role = cluster.member(*index).is_up().then(|| cluster.member(*index).client().call(&["ROLE"]));
            role.is_some_and(|role| role.elements().first().is_some_and(|role| role.text() == "master"))
        };
        let masters: Vec<usize> = [shard, shard + 3].into_iter().filter(is_master).collect();
        if let [master] = masters[..] { Ok(master) } else { Err(format!("{masters:?}")) }
    })
}

fn other(member: usize) -> usize {
    (member + 3) % 6
}

/// A planned failover: the replica takes over, and nothing is lost.
pub fn fail_over(cluster: &Cluster, shard: usize) {
    let former = master(cluster, shard);
    let replica = other(former);
    wait_until("a planned failover", || {
        let mut client = cluster.member(replica).client();
        let reply = client.call(&["CLUSTER", "FAILOVER"]);
        // It answers at once and may give up later: then it is asked again.
        for _ in 0..100 {
            if client.call(&["ROLE"]).elements()[0].text() == "master" {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(reply.text())
    });
    // Redis 6.2 forgets to let the clients of the former master go on: they would wait for ten seconds until they hear of it.
    // (Which of the two it is depends on their ids when the target bumped its epoch in the moment of the election.)
    master(cluster, shard);
    let mut client = cluster.member(former).client();
    assert_eq!(client.call(&["CLIENT", "UNPAUSE"]), Reply::ok());
}

/// Waits until a master's replica knows all that it does.
pub fn wait_until_in_step(cluster: &Cluster, master: usize) {
    wait_until("a replica in step", || {
        let info = cluster.member(master).client().call(&["INFO", "replication"]).text();
        let field = |name: &str| info.split(['\r', '\n', ',']).find_map(|part| part.strip_prefix(name)?.strip_prefix([':', '=']));
        if field("offset").is_some() && field("offset") == field("master_repl_offset") { Ok(()) } else { Err(info.clone()) }
    });
}

/// Of which end, and when.
#[derive(Clone, Copy, Debug)]
enum When {
    HalfWay,
    Drained,
    Owned,
}

fn has_come(when: When, event: &Event, moved: &mut usize) -> bool {
    if let Event::KeysMoved { keys, .. } = event {
        *moved += keys;
    }
    match (when, event) {
        (When::HalfWay, Event::KeysMoved { .. }) => true,
        // Nobody writes in that slot: it has the fixed keys, and no other.
        (When::Drained, Event::KeysMoved { .. }) => *moved >= FIXED,
        (When::Owned, Event::Stepped { step: Step::Own, .. }) => true,
        _ => false,
    }
}

/// Planned failovers of both ends at the worst moments, under load: no client sees an error, or a key that is not there.
fn planned(server: Server) {
    let cluster = Cluster::start(server, ClusterOptions::with_failover());
    let proxy = Inside::start(&cluster);
    let quiet = Oracle::new(proxy.port, &tags_in(0..6));
    let busy = Oracle::new(proxy.port, &[tags_in(8..10), tags_in(6000..6001), tags_in(12000..12001)].concat());
    let cases = [
        (0, When::HalfWay, 0),
        (1, When::HalfWay, 1),
        (2, When::Drained, 0),
        (3, When::Drained, 1),
        (4, When::Owned, 1),
        (8, When::HalfWay, 0),
        (9, When::HalfWay, 1),
    ];
    busy.under_load(|| {
        for (slot, when, shard) in cases {
            let mut mover = Mover::beside(&proxy);
            mover.throttle.send_modify(|throttle| throttle.keys = 10);
            let leg = mover.leg(&cluster, master(&cluster, 0), master(&cluster, 1), slots(slot..slot + 1), Mode::Classic);
            let (mut moved, mut failed_over) = (0, false);
            let (done, events) = quiet.watched(|| {
                mover.run_with(&leg, |event| {
                    if has_come(when, event, &mut moved) && !std::mem::replace(&mut failed_over, true) {
                        fail_over(&cluster, shard);
                    }
                })
            });
            assert!(failed_over, "{when:?} never came");
            assert_eq!(done.map(|done| done.slots), Ok(1), "slot {slot} {when:?} of {shard}: {events:#?}");
        }
    });
    quiet.check_fixed();
    assert_whole(&cluster);
}

/// Masters die in the middle of a slot, and their replicas take over.
fn deaths(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::with_failover());
    let proxy = Inside::start(&cluster);
    let quiet = Oracle::new(proxy.port, &tags_in(0..2));
    for (slot, shard) in [(0, 0), (1, 1)] {
        let mut mover = Mover::beside(&proxy);
        mover.throttle.send_modify(|throttle| throttle.keys = 10);
        let victim = master(&cluster, shard);
        let leg = mover.leg(&cluster, master(&cluster, 0), master(&cluster, 1), slots(slot..slot + 1), Mode::Classic);
        let (mut died, mut returned) = (false, false);
        // What the target has not yet told its replica dies with it, and MIGRATE does not wait for that.
        let (done, events) = quiet.watched(|| {
            mover.run_with(&leg, |event| {
                if matches!(event, Event::KeysMoved { .. }) && !std::mem::replace(&mut died, true) {
                    wait_until_in_step(&cluster, victim);
                    cluster.kill(victim);
                }
                // Valkey's target must have its former master back before the hand-over.
                let lurks = |reason: &str| reason.contains("would take its slots back");
                if matches!(event, Event::Waiting { reason, .. } if lurks(reason)) && !std::mem::replace(&mut returned, true) {
                    cluster.restart(victim);
                }
            })
        });
        assert_eq!(done.map(|done| done.slots), Ok(1), "slot {slot}, death in {shard}: {events:#?}");
        assert_eq!(returned, (server, shard) == (Server::Valkey91, 1), "{events:#?}");
        if !returned {
            cluster.restart(victim);
        }
        cluster.wait_for_agreement();
    }
    quiet.check_fixed();
    assert_whole(&cluster);
}

crate::on_every_server!(planned, deaths);
