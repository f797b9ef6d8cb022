//! Plans that run: to their end, paused, aborted, taken back, and taken over.

use serde_json::Value;

use super::{answer, json, refused};
use crate::harness::cluster::{slot_of, tags_in};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};
use crate::migrate_execute::oracle::{Oracle, assert_whole};

/// Soon enough for a test, and nothing is held against a machine that others use too.
pub const SETTINGS: [(&str, &str); 2] = [("migrate.lease", "2s"), ("migrate.latency_limit", "60s")];

/// Makes a plan and answers its id.
pub fn plan(admin: &mut Client, words: &str) -> String {
    let plan = json(admin, &format!("PROXY MIGRATE PLAN {words}"));
    plan["plan"].as_str().unwrap_or_else(|| panic!("{words}: {plan}")).to_owned()
}

pub fn start(admin: &mut Client, id: &str) -> Value {
    json(admin, &format!("PROXY MIGRATE START {id}"))
}

pub(super) fn status(admin: &mut Client, id: &str) -> Value {
    json(admin, &format!("PROXY MIGRATE STATUS {id}"))
}

pub(super) fn state(status: &Value) -> &str {
    status["state"].as_str().unwrap_or("?")
}

/// Waits until the plan is in this state; any that needs an operator is a failure, unless it is the one.
pub fn wait_for(admin: &mut Client, id: &str, expected: &str) -> Value {
    wait_until(&format!("plan {id} to be {expected}"), || {
        let status = status(admin, id);
        match state(&status) {
            found if found == expected => Ok(status),
            "paused" | "needs-operator" | "blocked" => panic!("{status}\n{}", log(admin, id)),
            _ => Err(status.to_string()),
        }
    })
}

pub(super) fn log(admin: &mut Client, id: &str) -> String {
    let lines = json(admin, &format!("PROXY MIGRATE LOG {id} 1000"));
    lines.as_array().expect("a list").iter().filter_map(|line| line["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// Slots that each member owns, by its own word.
pub(super) fn owned(cluster: &Cluster) -> Vec<usize> {
    let own = |index: usize| {
        let id = &cluster.member(index).id;
        cluster.view_of(index).iter().find(|node| node.id == *id).map_or(0, |node| node.slot_count())
    };
    (0..cluster.members().len()).map(own).collect()
}

/// MOVE, FILL, DRAIN and REBALANCE under load, in the mode that the servers are best at, and classic where that is another.
fn goals(server: Server) {
    let mut cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &SETTINGS);
    let mut admin = proxy.admin();
    let tags = [tags_in(0..6), tags_in(5461..5464), tags_in(10923..10925)].concat();
    let oracle = Oracle::new(proxy.port, &tags);
    let id = |cluster: &Cluster, index: usize| cluster.member(index).id.clone();
    let (a, b, c) = (id(&cluster, 0), id(&cluster, 1), id(&cluster, 2));
    let run = |admin: &mut Client, words: &str| {
        let id = plan(admin, words);
        assert_eq!(state(&start(admin, &id)), "canary");
        let status = wait_for(admin, &id, "done");
        assert_eq!(status["slots_done"], status["slots_total"], "{status}");
        assert_eq!(json(admin, &format!("PROXY MIGRATE VERIFY {id}"))["verdict"], "ok");
        (id, status)
    };
    oracle.under_load(|| {
        let (moved, status) = run(&mut admin, &format!("MOVE 0-99 FROM {a} TO {b} OBSERVE 0"));
        assert!(status["keys_moved"].as_u64() >= Some(240), "6 slots of 40 keys that nobody deletes: {status}");
        assert!(log(&mut admin, &moved).contains("state verifying"), "{}", log(&mut admin, &moved));
        if server == Server::Valkey91 {
            run(&mut admin, &format!("MOVE 0-99 FROM {b} TO {a} MODE classic OBSERVE 0"));
        } else {
            // What is done can be taken back.
            assert!(
                ["rolling-back", "rolled-back"].contains(&state(&json(&mut admin, &format!("PROXY MIGRATE ROLLBACK {moved}"))))
            );
            assert_eq!(wait_for(&mut admin, &moved, "rolled-back")["slots_done"], 0);
        }
        let new = cluster.add_empty_master();
        let (new, new_port) = (id(&cluster, new), cluster.member(new).port);
        wait_until("the proxy to hear of the new master", || {
            let nodes = answer(&mut admin, "PROXY REFRESH JSON");
            let known = answer(&mut admin, "PROXY NODES JSON").contains(&new);
            if known { Ok(()) } else { Err(nodes) }
        });
        run(&mut admin, &format!("FILL 127.0.0.1:{new_port} SHARE 15 OBSERVE 0"));
        assert!(owned(&cluster)[3] > 0, "{:?}", owned(&cluster));
        // It stays a master, although it gives its last slot away.
        run(&mut admin, &format!("DRAIN {new} OBSERVE 0"));
        assert_eq!(owned(&cluster)[3], 0);
        let mut drained = cluster.member(3).client();
        assert_eq!(drained.call(&["ROLE"]).elements()[0].text(), "master");
        let kept = drained.call(&["CONFIG", "GET", "cluster-allow-replica-migration"]);
        assert_eq!(kept.elements()[1].text(), "yes", "as it was before");
        // A few slots from where most are; the new one is to have none.
        run(&mut admin, &format!("REBALANCE WEIGHT {new}=0 {a}=1 {b}=1 {c}=0.98 TOLERANCE 0 OBSERVE 0"));
        let after = owned(&cluster);
        assert!(after[2] < after[0] && after[0].abs_diff(after[1]) <= 1 && after[3] == 0, "{after:?}");
    });
    assert_whole(&cluster);
}

/// Everything an operator may say while a plan runs, and everything that speaks against starting one.
fn orders(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &SETTINGS);
    let other = Proxy::start_with(&cluster, &SETTINGS);
    let (mut admin, mut second) = (proxy.admin(), other.admin());
    let oracle = Oracle::new(proxy.port, &tags_in(0..8));
    let [a, b, _] = [0, 1, 2].map(|index| cluster.member(index).id.clone());
    // A large plan needs its code.
    let large = json(&mut admin, &format!("PROXY MIGRATE PLAN MOVE 0-1499 FROM {a} TO {b} MODE classic OBSERVE 0"));
    let (large, code) =
        (large["plan"].as_str().expect("a plan").to_owned(), large["approve"].as_str().expect("a code").to_owned());
    refused(&mut admin, &format!("PROXY MIGRATE START {large}"), "NOAPPROVAL");
    refused(&mut admin, &format!("PROXY MIGRATE START {large} APPROVE 00000000"), "NOAPPROVAL");
    // A blocker stops it, whoever asks.
    let mut node = cluster.member(0).client();
    assert!(!node.call(&["CLUSTER", "SETSLOT", "4000", "MIGRATING", &b]).is_error());
    refused(&mut admin, &format!("PROXY MIGRATE START {large} APPROVE {code}"), "BLOCKED open-slots");
    assert_eq!(state(&status(&mut second, &large)), "blocked");
    assert!(!node.call(&["CLUSTER", "SETSLOT", "4000", "STABLE"]).is_error());
    refused(&mut admin, &format!("PROXY MIGRATE PAUSE {large}"), "WRONGSTATE");
    if server == Server::Redis70 {
        let drafted = plan(&mut admin, &format!("MOVE 5000-5001 FROM {a} TO {b}"));
        forgotten(&cluster, &mut proxy.client(), [&large, &drafted]);
    }
    let mut listener = other.admin();
    assert!(!listener.call(&["SUBSCRIBE", "keyway:migrations"]).is_error());
    oracle.under_load(|| {
        // Two instances start it at once: one of them drives.
        let start = format!("PROXY MIGRATE START {large} APPROVE {code} JSON");
        let answers = std::thread::scope(|threads| {
            let both = [&proxy, &other].map(|proxy| threads.spawn(|| answer(&mut proxy.admin(), &start)));
            both.map(|thread| thread.join().expect("an answer"))
        });
        let started: Vec<&String> = answers.iter().filter(|answer| answer.starts_with('{')).collect();
        assert_eq!(started.len(), 1, "{answers:?}");
        assert!(answers.iter().any(|answer| answer.starts_with("BUSY") || answer.starts_with("WRONGSTATE")), "{answers:?}");
        // It is paused by whichever instance is asked, between two slots.
        let paused = wait_until("a plan that can be paused in the middle", || {
            let now = status(&mut second, &large);
            if now["slots_done"].as_u64() > Some(20) {
                Ok(json(&mut second, &format!("PROXY MIGRATE PAUSE {large}")))
            } else {
                Err(now.to_string())
            }
        });
        assert_eq!(state(&paused), "paused", "{paused}");
        assert!(paused["reason"].as_str().is_some_and(|reason| reason.contains("RESUME")), "{paused}");
        assert_whole(&cluster);
        let done = status(&mut admin, &large)["slots_done"].as_u64();
        assert!(done < Some(1500), "it was paused in the middle: {done:?}");
        // Another plan has to wait.
        let small = plan(&mut admin, &format!("MOVE 5000-5001 FROM {a} TO {b} OBSERVE 0"));
        refused(&mut second, &format!("PROXY MIGRATE START {small}"), "BUSY");
        let gentle = json(&mut second, &format!("PROXY MIGRATE THROTTLE {large} DUTY 90 KEYS 50"));
        assert_eq!(state(&gentle), "paused");
        // It goes on, until somebody else moves a slot.
        assert_eq!(state(&json(&mut admin, &format!("PROXY MIGRATE RESUME {large}"))), "running");
        let mut third = cluster.member(2).client();
        assert!(!third.call(&["CLUSTER", "SETSLOT", "16000", "MIGRATING", &a]).is_error());
        let hindered = wait_until("the foreign mark to be seen", || {
            let now = status(&mut admin, &large);
            if state(&now) == "paused" { Ok(now) } else { Err(now.to_string()) }
        });
        assert!(hindered["reason"].as_str().is_some_and(|reason| reason.contains("slot 16000")), "{hindered}");
        assert_eq!(json(&mut admin, &format!("PROXY MIGRATE VERIFY {large}"))["verdict"], "blocked");
        assert!(!third.call(&["CLUSTER", "SETSLOT", "16000", "STABLE"]).is_error());
        wait_until("the gate to open", || {
            let gates = status(&mut admin, &large)["gates"].clone();
            let is_open = gates.as_array().is_some_and(|gates| gates.iter().all(|gate| gate["open"] == true));
            if is_open { Ok(()) } else { Err(gates.to_string()) }
        });
        let done = status(&mut admin, &large)["slots_done"].as_u64();
        // It goes on, is aborted between two slots, and taken back.
        assert_eq!(state(&json(&mut admin, &format!("PROXY MIGRATE RESUME {large}"))), "running");
        wait_until("it to go on", || {
            let now = status(&mut admin, &large);
            if now["slots_done"].as_u64() > done.map(|done| done + 10) { Ok(()) } else { Err(now.to_string()) }
        });
        let aborted = json(&mut second, &format!("PROXY MIGRATE ABORT {large}"));
        assert_eq!(state(&aborted), "aborted", "{aborted}");
        refused(&mut admin, &format!("PROXY MIGRATE RESUME {large}"), "WRONGSTATE");
        assert_whole(&cluster);
        assert!(owned(&cluster)[0] < 5461);
        json(&mut second, &format!("PROXY MIGRATE ROLLBACK {large}"));
        assert_eq!(wait_for(&mut admin, &large, "rolled-back")["slots_done"], 0);
        assert_eq!(owned(&cluster)[0], 5461);
        // It is observed, the gates armed, and done when the time is over.
        let observed = plan(&mut admin, &format!("MOVE 0-1 FROM {a} TO {b} OBSERVE 3s"));
        assert_eq!(state(&super::runs::start(&mut admin, &observed)), "canary");
        let now = wait_for(&mut second, &observed, "observing");
        assert!(now["gates"].as_array().is_some_and(|gates| gates.len() == 8), "{now}");
        wait_for(&mut admin, &observed, "done");
    });
    assert_whole(&cluster);
    // Whoever listens has heard of it all, at whichever instance.
    let mut heard = String::new();
    while !heard.contains("state done") {
        heard.push_str(&listener.receive().expect("a line").elements().last().map(Reply::text).unwrap_or_default());
        heard.push('\n');
    }
    for part in ["state canary", "state running", "ordered PAUSE", "state aborted", "state rolled-back", "state observing"] {
        assert!(heard.contains(part), "{part} is missing in {heard}");
    }
}

/// Plans that nobody starts, or that were refused, are forgotten in time, and looked at now and then only.
fn forgotten(cluster: &Cluster, client: &mut Client, [blocked, drafted]: [&str; 2]) {
    const INDEX: &str = "{keyway}:plans";
    let mut key = |id: &str| {
        let tag = client.call(&["HGET", INDEX, id]).text();
        format!("{{keyway:{tag}}}:plan:{id}")
    };
    let [blocked, drafted_key] = [key(blocked), key(drafted)];
    let day = 24 * 3600;
    for key in [&blocked, &drafted_key] {
        let left = client.call(&["TTL", key]);
        assert!(matches!(left, Reply::Integer(left) if left > day - 600 && left <= day), "{left:?}");
    }
    let calls = |name: &str| -> u64 {
        let of = |member: &crate::harness::cluster::Member| {
            let stats = member.client().call(&["INFO", "commandstats"]).text();
            let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")))?.to_owned();
            line.split(',').next()?.parse::<u64>().ok()
        };
        cluster.members().iter().filter_map(of).sum()
    };
    let (looks, reads) = (calls("hgetall"), calls("eval"));
    wait_until("many looks at the index", || {
        let now = calls("hgetall");
        if now >= looks + 20 { Ok(()) } else { Err(now.to_string()) }
    });
    let reads = calls("eval") - reads;
    assert!(reads < 10, "{reads} plans were read in 20 looks");
    assert_eq!(client.call(&["DEL", &drafted_key]), Reply::Integer(1));
    wait_until("the index to forget it", || {
        let known = client.call(&["HGET", INDEX, drafted]);
        if known.is_null() { Ok(()) } else { Err(format!("{known:?}")) }
    });
}

/// The instance that drives is killed at whatever moment (see `deaths` for each of them), or sleeps for too long; the other goes on.
fn takeover(server: Server) {
    let mut cluster = Cluster::of_masters(server);
    let front = Proxy::start_with(&cluster, &SETTINGS);
    let oracle = Oracle::new(front.port, &tags_in(0..20));
    let [a, b, _] = [0, 1, 2].map(|index| cluster.member(index).id.clone());
    let mut admin = front.admin();
    let id = plan(&mut admin, &format!("MOVE 0-199 FROM {a} TO {b} OBSERVE 0"));
    oracle.under_load(|| {
        let mut driver = Proxy::start_with(&cluster, &SETTINGS);
        assert_eq!(state(&start(&mut driver.admin(), &id)), "canary");
        wait_until("slots to move", || {
            let now = status(&mut admin, &id);
            if now["slots_done"].as_u64() > Some(5) { Ok(()) } else { Err(now.to_string()) }
        });
        driver.process().kill();
        wait_until("another instance to go on", || {
            let log = log(&mut admin, &id);
            if log.contains("taken over") { Ok(()) } else { Err(log) }
        });
        wait_for(&mut admin, &id, "done");
        // One that only sleeps for longer than its lease finds, when it wakes, that it drives no more.
        let back = plan(&mut admin, &format!("MOVE 0-199 FROM {b} TO {a} MODE classic OBSERVE 0"));
        let mut driver = Proxy::start_with(&cluster, &SETTINGS);
        assert_eq!(state(&start(&mut driver.admin(), &back)), "canary");
        wait_until("slots to move", || {
            let now = status(&mut admin, &back);
            if now["slots_done"].as_u64() > Some(5) { Ok(()) } else { Err(now.to_string()) }
        });
        driver.process().signal("STOP");
        wait_until("another instance to go on", || {
            let log = log(&mut admin, &back);
            if log.contains("taken over") { Ok(()) } else { Err(log) }
        });
        driver.process().signal("CONT");
        wait_until("the sleeper to let go", || {
            let log = driver.log();
            if log.contains("the lease is lost") || log.contains("is let go") { Ok(()) } else { Err(log) }
        });
        wait_for(&mut admin, &back, "done");
    });
    assert_whole(&cluster);
    assert_eq!(owned(&cluster)[0], 5461);
    // The record is lost with slots open: they are found, and finished.
    let slot = slot_of(&tags_in(4000..4001)[0]).to_string();
    let (mut source, mut target) = (cluster.member(0).client(), cluster.member(1).client());
    assert!(!target.call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &a]).is_error());
    assert!(!source.call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &b]).is_error());
    assert!(!target.call(&["CLUSTER", "SETSLOT", "4100", "IMPORTING", &a]).is_error());
    let open = json(&mut admin, "PROXY MIGRATE REPAIR DRYRUN");
    assert_eq!(open["open"][0]["ranges"].as_str(), Some(format!("{slot},4100").as_str()), "{open}");
    let adopted = json(&mut admin, "PROXY MIGRATE ADOPT");
    assert_eq!((state(&adopted), adopted["slots_total"].as_u64()), ("paused", Some(2)), "{adopted}");
    let adopted = adopted["plan"].as_str().expect("a plan").to_owned();
    json(&mut admin, &format!("PROXY MIGRATE RESUME {adopted}"));
    wait_for(&mut admin, &adopted, "done");
    assert!(!target.call(&["CLUSTER", "SETSLOT", "4200", "IMPORTING", &a]).is_error());
    let repaired = json(&mut admin, "PROXY MIGRATE REPAIR");
    wait_for(&mut admin, repaired["plan"].as_str().expect("a plan"), "done");
    assert_eq!(json(&mut admin, "PROXY MIGRATE REPAIR")["plan"], Value::Null);
    assert_whole(&cluster);
    if server == Server::Redis82 {
        // Where servers mend such marks themselves there are none.
        mark_of_the_dead(&mut cluster, &mut admin);
    }
}

/// A receiver's mark names a master that is gone: who has the slot now took its place.
fn mark_of_the_dead(cluster: &mut Cluster, admin: &mut Client) {
    let gone = cluster.add_empty_master();
    let id = cluster.member(gone).id.clone();
    let mut target = cluster.member(1).client();
    assert!(!target.call(&["CLUSTER", "SETSLOT", "4300", "IMPORTING", &id]).is_error());
    cluster.kill(gone);
    wait_until("all to know that it is gone", || {
        let failed = |member: usize| {
            let nodes = cluster.member(member).client().call(&["CLUSTER", "NODES"]).text();
            nodes.lines().any(|line| line.starts_with(&id) && line.contains("master,fail "))
        };
        if (0..3).all(failed) { Ok(()) } else { Err("some do not".to_owned()) }
    });
    let open = json(admin, "PROXY MIGRATE REPAIR DRYRUN");
    assert_eq!((open["open"][0]["ranges"].as_str(), &open["left"]), (Some("4300"), &Value::Array(vec![])), "{open}");
    let repaired = json(admin, "PROXY MIGRATE REPAIR");
    wait_for(admin, repaired["plan"].as_str().expect("a plan"), "done");
    assert!(!target.call(&["CLUSTER", "NODES"]).text().contains("-<-"));
}

crate::on_every_server!(goals);

// What the coordinator does by itself is the same everywhere; the two kinds of servers differ in how slots move.
#[test]
fn orders_on_redis() {
    orders(Server::Redis70);
}

#[test]
fn orders_on_valkey() {
    orders(Server::Valkey91);
}

#[test]
fn takeover_on_redis() {
    takeover(Server::Redis82);
}

#[test]
fn takeover_on_valkey() {
    takeover(Server::Valkey91);
}
