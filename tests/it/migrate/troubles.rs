//! Plans in trouble: nodes that hang or die, gates that close, orders to other plans, records that nobody understands.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::runs::{SETTINGS, log, owned, plan, start, state, status, wait_for};
use super::{WATCHER, answer, json, refused, watcher};
use crate::harness::cluster::{ClusterOptions, slot_of, tags_in};
use crate::harness::{Client, Cluster, Proxy, Server, wait_until};
use crate::migrate_execute::oracle::{Oracle, assert_whole};

pub(super) const INDEX: &str = "{keyway}:plans";
const SLOW: &str = "KEYS 1 DUTY 5";
const FAST: &str = "KEYS 1000 DUTY 90";

/// A connection to whoever serves a key.
pub(super) fn at(cluster: &Cluster, key: &str) -> Client {
    let view = cluster.view();
    Client::connect(view.iter().find(|node| node.owns(slot_of(key))).expect("all slots are served").port)
}

/// Connections of drivers on a node.
fn drivers(cluster: &Cluster, member: usize) -> BTreeSet<String> {
    let clients = cluster.member(member).client().call(&["CLIENT", "LIST"]).text();
    let named = clients.lines().filter(|line| line.contains(" name=keyway:"));
    named.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

pub(super) fn is_marked(cluster: &Cluster, member: usize) -> bool {
    let view = cluster.view_of(member);
    view.iter().any(|node| node.id == cluster.member(member).id && !node.open_slots.is_empty())
}

pub(super) fn wait_for_state(admin: &mut Client, id: &str, expected: &str) -> Value {
    wait_until(&format!("plan {id} to be {expected}"), || {
        let now = status(admin, id);
        if state(&now) == expected { Ok(now) } else { Err(format!("{now}\n{}", log(admin, id))) }
    })
}

pub(super) fn gates_open(admin: &mut Client, id: &str) {
    wait_until("the gates to open", || {
        let gates = status(admin, id)["gates"].clone();
        let is_open = gates.as_array().is_some_and(|gates| gates.iter().all(|gate| gate["open"] == true));
        if is_open { Ok(()) } else { Err(gates.to_string()) }
    });
}

/// A master that had no slot gives all it got back, and stays a master as it was.
fn taken_back_from_an_empty_master(cluster: &Cluster, admin: &mut Client, new: usize) -> String {
    let id = plan(admin, &format!("MOVE 200-209 FROM {} TO {} OBSERVE 0", cluster.member(0).id, cluster.member(new).id));
    start(admin, &id);
    wait_for(admin, &id, "done");
    json(admin, &format!("PROXY MIGRATE ROLLBACK {id}"));
    wait_for(admin, &id, "rolled-back");
    let mut client = cluster.member(new).client();
    assert_eq!(client.call(&["ROLE"]).elements()[0].text(), "master");
    assert_eq!(client.call(&["CONFIG", "GET", "cluster-allow-replica-migration"]).elements()[1].text(), "yes");
    id
}

/// While one plan holds slots, others at rest are told things: it is not disturbed, and none begins to move.
fn others_are_told(cluster: &Cluster, admin: &mut Client, holder: &str, [done, ended, drafted]: [&str; 3]) {
    let before = drivers(cluster, 0);
    assert!(!before.is_empty(), "the driver is connected");
    json(admin, &format!("PROXY MIGRATE THROTTLE {ended} KEYS 3"));
    json(admin, &format!("PROXY MIGRATE ABORT {drafted}"));
    refused(admin, &format!("PROXY MIGRATE ROLLBACK {done}"), "BUSY");
    // An order that got past that moment earlier.
    let tag = at(cluster, INDEX).call(&["HGET", INDEX, done]).text();
    let orders = format!("{{keyway:{tag}}}:orders:{done}");
    at(cluster, &orders).call(&["RPUSH", &orders, "{\"order\":\"rollback\"}"]);
    let expected = format!("refused ROLLBACK: plan {holder} is paused");
    wait_until("the order to be refused", || {
        // Whoever is told something more looks at once.
        answer(admin, &format!("PROXY MIGRATE THROTTLE {done} KEYS 3"));
        let log = log(admin, done);
        if log.contains(&expected) { Ok(()) } else { Err(log) }
    });
    assert_eq!(state(&status(admin, done)), "done");
    let after = drivers(cluster, 0);
    assert!(before.is_subset(&after), "{before:?} {after:?}");
}

#[test]
fn plans_in_trouble() {
    let options = ClusterOptions {
        masters: 4,
        node_timeout: Duration::from_secs(5),
        full_coverage: false,
        arguments: watcher(),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(Server::Redis70, options);
    let new = cluster.add_empty_master();
    let settings = [&SETTINGS[..], &[("migrate.uncovered", "rollback"), ("migrate.uncovered_after", "5s")]].concat();
    let first = Proxy::start_with(&cluster, &settings);
    let mut admin = first.admin();
    let tags = tags_in(0..140);
    let front = Proxy::start_with(&cluster, &WATCHER);
    let oracle = Oracle::new(front.port, &tags);
    let [a, b] = [0, 1].map(|index| cluster.member(index).id.clone());
    let mine = owned(&cluster)[0];
    let taken_back = taken_back_from_an_empty_master(&cluster, &mut admin, new);
    let done = plan(&mut admin, &format!("MOVE 300-301 FROM {a} TO {b} OBSERVE 0"));
    start(&mut admin, &done);
    wait_for(&mut admin, &done, "done");
    let drafted = plan(&mut admin, &format!("MOVE 310 FROM {a} TO {b}"));
    let id = plan(&mut admin, &format!("MOVE 0-39 FROM {a} TO {b} MODE classic OBSERVE 0"));
    // The third and the fourth have no part in the plan; the third has no record either.
    let mut driver = Proxy::start_with(&cluster, &settings);
    json(&mut driver.admin(), &format!("PROXY MIGRATE THROTTLE {id} {SLOW}"));
    start(&mut driver.admin(), &id);
    wait_until("slots to move", || {
        let now = status(&mut admin, &id);
        if now["slots_done"].as_u64() > Some(2) { Ok(()) } else { Err(now.to_string()) }
    });
    answer(&mut admin, &format!("PROXY MIGRATE PAUSE {id}"));
    wait_for_state(&mut admin, &id, "paused");
    others_are_told(&cluster, &mut admin, &id, [&done, &taken_back, &drafted]);
    // A record that no version understands hides no other, and stops nobody; nor does a node that hangs when the driver dies.
    at(&cluster, INDEX).call(&["HSET", INDEX, "00000000", "2"]);
    let strange = "{keyway:2}:plan:00000000";
    at(&cluster, strange).call(&["HSET", strange, "plan", "?", "progress", "?", "version", "1"]);
    assert!(json(&mut admin, "PROXY MIGRATE LIST").to_string().contains(&id));
    cluster.member(2).stop();
    driver.process().kill();
    wait_until("another instance to go on", || {
        let log = log(&mut admin, &id);
        if log.contains("taken over") { Ok(()) } else { Err(log) }
    });
    cluster.member(2).go_on();
    gates_open(&mut admin, &id);
    // A driver dies in the middle of a slot while somebody else moves slots: the slot is brought to its end, and nothing follows.
    let mut driver = first;
    let next = Proxy::start_with(&cluster, &settings);
    let mut admin = next.admin();
    json(&mut admin, &format!("PROXY MIGRATE RESUME {id}"));
    wait_until("a slot to be open", || if is_marked(&cluster, 0) { Ok(()) } else { Err("none".to_owned()) });
    let mut other = cluster.member(3).client();
    assert!(!other.call(&["CLUSTER", "SETSLOT", "16000", "MIGRATING", &a]).is_error());
    driver.process().kill();
    let paused = wait_for_state(&mut admin, &id, "paused");
    assert!(paused["reason"].as_str().is_some_and(|reason| reason.contains("gate foreign closed")), "{paused}");
    assert!(!is_marked(&cluster, 0) && !is_marked(&cluster, 1), "{}", log(&mut admin, &id));
    let aborted = json(&mut admin, &format!("PROXY MIGRATE ABORT {id}"));
    assert_eq!(state(&aborted), "aborted", "{aborted}");
    assert!(!other.call(&["CLUSTER", "SETSLOT", "16000", "STABLE"]).is_error());
    assert_whole(&cluster);
    json(&mut admin, &format!("PROXY MIGRATE THROTTLE {id} {FAST}"));
    json(&mut admin, &format!("PROXY MIGRATE ROLLBACK {id}"));
    wait_for(&mut admin, &id, "rolled-back");
    json(&mut admin, &format!("PROXY MIGRATE ROLLBACK {done}"));
    wait_for(&mut admin, &done, "rolled-back");
    assert_eq!(owned(&cluster)[0], mine);
    // Slots stay without an owner: what has moved goes back although they do.
    let id = plan(&mut admin, &format!("MOVE 100-139 FROM {a} TO {b} MODE classic OBSERVE 0"));
    json(&mut admin, &format!("PROXY MIGRATE THROTTLE {id} {SLOW}"));
    start(&mut admin, &id);
    wait_until("slots to move", || {
        let now = status(&mut admin, &id);
        if now["slots_done"].as_u64() > Some(2) { Ok(()) } else { Err(now.to_string()) }
    });
    cluster.kill(2);
    wait_until("all that has moved to be back", || {
        let now = status(&mut admin, &id);
        let is_going_back = log(&mut admin, &id).contains("what has moved goes back");
        if is_going_back && state(&now) == "rolling-back" {
            answer(&mut admin, &format!("PROXY MIGRATE THROTTLE {id} {FAST}"));
        }
        if is_going_back && state(&now) == "paused" && now["slots_done"].as_u64() > Some(0) {
            // Not all nodes may have given the dead one up when it began.
            answer(&mut admin, &format!("PROXY MIGRATE RESUME {id}"));
        }
        let is_back = is_going_back && state(&now) == "paused" && now["slots_done"] == 0;
        if is_back { Ok(()) } else { Err(format!("{now}\n{}", log(&mut admin, &id))) }
    });
    let view = cluster.view_of(0);
    assert!(view.iter().any(|node| node.id == a && node.slot_count() == mine), "{}", log(&mut admin, &id));
    let now = status(&mut admin, &id);
    assert!(now["reason"].as_str().is_some_and(|reason| reason.contains("what was moved back is not well")), "{now}");
    cluster.restart(2);
    cluster.wait_for_agreement();
    gates_open(&mut admin, &id);
    json(&mut admin, &format!("PROXY MIGRATE RESUME {id}"));
    wait_for_state(&mut admin, &id, "rolled-back");
    assert_whole(&cluster);
    oracle.check_fixed();
}
