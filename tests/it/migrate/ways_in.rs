//! Clients that come in by a proxy which does not drive the plan.

use serde_json::Value;

use super::runs::{SETTINGS, log, plan, start, state, status};
use super::{answer, json};
use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::over::{Over, join};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};
use crate::migrate_execute::failovers::{fail_over, master, wait_until_in_step};
use crate::migrate_execute::oracle::assert_whole;

/// So many keys take seconds when each goes alone and the source rests behind it.
const KEYS: usize = 300;

fn names(tag: &str) -> Vec<String> {
    (0..KEYS).map(|number| format!("{tag}{number}")).collect()
}

/// Reads every key and writes it anew, in turn, until it is over: what was written last is there.
fn write(port: u16, keys: &[String], over: &Over) {
    let mut client = Client::connect(port);
    for round in 0.. {
        for key in keys {
            let found = client.call(&["GETSET", key, &format!("{key} {}", round + 1)]);
            assert_eq!(found, Reply::bulk(format!("{key} {round}")), "{key}");
            if over.yet() {
                return;
            }
        }
    }
}

/// Where slots go. While the source of an open slot has failed over, Redis 7.0's target answers nobody: here also nobody who would read
/// the index of all plans, which it has.
const TARGET: usize = 1;

/// Starts to move a slot from the first shard to another, slowly, and waits until some of its keys have moved.
fn half_way(admin: &mut Client, cluster: &Cluster, slot: u16) -> String {
    let [from, to] = [0, TARGET].map(|shard| cluster.member(master(cluster, shard)).id.clone());
    let id = plan(admin, &format!("MOVE {slot} FROM {from} TO {to} MODE classic OBSERVE 0"));
    start(admin, &id);
    json(admin, &format!("PROXY MIGRATE THROTTLE {id} KEYS 1 DUTY 1"));
    wait_until("some keys to have moved", || {
        let now = status(admin, &id);
        if now["keys_moved"].as_u64() >= Some(10) { Ok(()) } else { Err(now.to_string()) }
    });
    let now = status(admin, &id);
    assert!(now["keys_moved"].as_u64() < Some(KEYS as u64 - 20), "{now}");
    id
}

/// Waits until the plan is done. A gate may have closed because of the failover: then it goes on.
pub(super) fn finish(admin: &mut Client, id: &str) -> Value {
    wait_until("the slot to have moved", || {
        // The record may not be read just now.
        let now = answer(admin, &format!("PROXY MIGRATE STATUS {id} JSON"));
        let now: Value = serde_json::from_str(&now).map_err(|_| now)?;
        match state(&now) {
            "done" => Ok(now),
            "paused" => {
                answer(admin, &format!("PROXY MIGRATE RESUME {id}"));
                Err(now.to_string())
            }
            "needs-operator" => panic!("{now}\n{}", log(admin, id)),
            _ => {
                answer(admin, &format!("PROXY MIGRATE THROTTLE {id} KEYS 100 DUTY 100"));
                Err(now.to_string())
            }
        }
    })
}

/// The source of an open slot fails over, while its driver lives and while there is none: clients of another proxy never see a key that
/// has moved as one that is not there.
fn failovers(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::with_failover());
    // A dead driver's slot is served again when the next has taken over.
    let settings = [&SETTINGS[..], &[("retry.deadline", "60s")]].concat();
    let front = Proxy::start_with(&cluster, &settings);
    let mut admin = front.admin();
    let tags = tags_in(0..3);
    let set = |key: &String| vec!["SET".to_owned(), key.clone(), format!("{key} 0")];
    for tag in &tags {
        let replies = front.client().pipeline(&names(tag).iter().map(set).collect::<Vec<_>>());
        assert!(replies.iter().all(|reply| *reply == Reply::ok()), "{replies:?}");
    }
    for (slot, dies) in [(0, false), (1, true)] {
        let mut driver = Proxy::start_with(&cluster, &SETTINGS);
        let over = Over::default();
        let keys = names(&tags[usize::from(slot)]);
        std::thread::scope(|threads| {
            let writers = keys.chunks(KEYS / 3).map(|keys| threads.spawn(|| write(front.port, keys, &over)));
            let writers: Vec<_> = writers.collect();
            let ends = over.when_dropped();
            let id = half_way(&mut driver.admin(), &cluster, slot);
            if dies {
                driver.process().kill();
            }
            fail_over(&cluster, 0);
            finish(&mut admin, &id);
            let log = log(&mut admin, &id);
            assert_eq!(log.contains("taken over"), dies, "{log}");
            drop(ends);
            writers.into_iter().for_each(join);
        });
    }
    assert_whole(&cluster);
    mark_of_old(&cluster, &front);
    both_die(&mut cluster, &front, &tags[2]);
}

/// The driver and the source of an open slot die together.
fn both_die(cluster: &mut Cluster, front: &Proxy, tag: &str) {
    let (mut admin, mut client) = (front.admin(), front.client());
    let mut driver = Proxy::start_with(cluster, &SETTINGS);
    let id = half_way(&mut driver.admin(), cluster, 2);
    let source = master(cluster, 0);
    driver.process().kill();
    wait_until_in_step(cluster, source);
    cluster.kill(source);
    wait_until("another instance to go on", || {
        // The record may not be read just now.
        let log = answer(&mut admin, &format!("PROXY MIGRATE LOG {id} 1000 JSON"));
        if log.contains("taken over") { Ok(()) } else { Err(log) }
    });
    // Where a receiver does not stop by itself nobody has to be freed.
    assert_eq!(front.log().contains("had stopped its receiver"), cluster.server == Server::Redis70, "{}", front.log());
    let check = |key: String| assert_eq!(client.call(&["GET", &key]), Reply::bulk(format!("{key} 0")));
    names(tag).into_iter().for_each(check);
    finish(&mut admin, &id);
    cluster.restart(source);
    assert_whole(cluster);
}

/// Only the target is marked, and holds an old copy: nobody lets that win but an operator.
fn mark_of_old(cluster: &Cluster, front: &Proxy) {
    let (mut admin, mut client) = (front.admin(), front.client());
    let key = format!("{}twice", tags_in(7..8)[0]);
    let [mut source, mut target] = [0, TARGET].map(|shard| cluster.member(master(cluster, shard)).client());
    let [from, to] = [0, TARGET].map(|shard| cluster.member(master(cluster, shard)).id.clone());
    assert_eq!(target.call(&["CLUSTER", "SETSLOT", "7", "IMPORTING", &from]), Reply::ok());
    assert_eq!(target.call(&["ASKING"]), Reply::ok());
    assert_eq!(target.call(&["SET", &key, "old"]), Reply::ok());
    assert_eq!(client.call(&["SET", &key, "new"]), Reply::ok());
    let repair = json(&mut admin, "PROXY MIGRATE REPAIR");
    let id = repair["plan"].as_str().unwrap_or_else(|| panic!("{repair}")).to_owned();
    let asks = wait_until("an operator to be asked", || {
        let now = status(&mut admin, &id);
        if state(&now) == "needs-operator" { Ok(now) } else { Err(now.to_string()) }
    });
    assert!(asks["reason"].as_str().is_some_and(|reason| reason.contains("SETSLOT MIGRATING on the source")), "{asks}");
    assert_eq!(source.call(&["GET", &key]), Reply::bulk("new"));
    assert_eq!(source.call(&["CLUSTER", "SETSLOT", "7", "MIGRATING", &to]), Reply::ok());
    json(&mut admin, &format!("PROXY MIGRATE RESUME {id}"));
    finish(&mut admin, &id);
    assert_eq!(client.call(&["GET", &key]), Reply::bulk("new"));
    assert_whole(cluster);
}

#[test]
fn failovers_on_redis_7_0() {
    failovers(Server::Redis70);
}

#[test]
fn failovers_on_redis_8_2() {
    failovers(Server::Redis82);
}
