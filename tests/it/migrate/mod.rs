//! PROXY MIGRATE on real clusters: plans, and what becomes of them.

mod deaths;
mod faults;
mod record;
pub mod runs;
mod troubles;
mod ways_in;

use serde_json::Value;

use crate::harness::cluster::tags_in;
use crate::harness::{Client, Cluster, Proxy, Server};

/// An account that may look at the nodes and nothing else: an instance that has it drives no plan, and so is not the one to be killed.
const WATCHER: [(&str, &str); 2] = [("cluster.username", "watcher"), ("cluster.password", "secret")];

/// The servers' command line for it.
fn watcher() -> Vec<String> {
    let words = "--user watcher on >secret ~* &* +@connection +cluster +command +scan +multi +exec";
    words.split(' ').map(str::to_owned).collect()
}

/// A command's JSON document.
fn json(admin: &mut Client, command: &str) -> Value {
    let text = answer(admin, &format!("{command} JSON"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error} in {text}"))
}

/// A command's reply as text.
fn answer(admin: &mut Client, command: &str) -> String {
    admin.call(&command.split(' ').collect::<Vec<_>>()).text()
}

#[track_caller]
fn refused(admin: &mut Client, command: &str, expected: &str) {
    let found = answer(admin, command);
    assert!(found.contains(expected), "{command}: {found}");
}

/// Slots, keys and the mode of each move.
fn moved(plan: &Value) -> Vec<(u64, u64, String)> {
    let moves = plan["moves"].as_array().unwrap_or_else(|| panic!("no moves in {plan}"));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {plan}"));
    moves
        .iter()
        .map(|each| (number(&each["slots"]), number(&each["keys"]), each["mode"].as_str().unwrap_or("?").to_owned()))
        .collect()
}

fn plans(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let (mut admin, mut client) = (proxy.admin(), proxy.client());
    let [a, b, c] = [0, 1, 2].map(|index| cluster.member(index).id.clone());
    let address = |index: usize| format!("127.0.0.1:{}", cluster.member(index).port);
    for tag in tags_in(0..100) {
        for number in 0..3 {
            client.call(&["SET", &format!("{tag}{number}"), &"x".repeat(1000)]);
        }
    }
    let best = if server == Server::Valkey91 { "atomic" } else { "classic" };
    let view = cluster.view();
    // All forms; nodes by id, beginning of an id, and address.
    let plan = json(&mut admin, &format!("PROXY MIGRATE PLAN MOVE 0-99,200 FROM {a} TO {}", &b[..8]));
    assert_eq!(moved(&plan), [(101, 300, best.to_owned())]);
    assert_eq!((plan["moves"][0]["source"].as_str(), plan["moves"][0]["target"].as_str()), (Some(a.as_str()), Some(b.as_str())));
    let bytes = plan["moves"][0]["bytes"].as_u64().unwrap_or(0);
    assert!((300_000..500_000).contains(&bytes), "sampled: {bytes}");
    assert_eq!((plan["needs_approval"].as_bool(), plan["approve"].as_str()), (Some(false), None));
    let first = plan["plan"].as_str().expect("a plan has an id").to_owned();
    let drain = json(&mut admin, &format!("PROXY MIGRATE PLAN DRAIN {} MODE classic CANARY 5 OBSERVE 0", address(2)));
    assert_eq!(moved(&drain).iter().map(|each| each.0).sum::<u64>(), 5462);
    assert!(moved(&drain).iter().all(|each| each.2 == "classic"), "{drain}");
    assert_eq!((drain["needs_approval"].as_bool(), drain["approve"].as_str().map(str::len)), (Some(true), Some(8)));
    assert_eq!((drain["canary_slots"].as_u64(), drain["observe_seconds"].as_u64()), (Some(5), Some(0)));
    let fill = json(&mut admin, &format!("PROXY MIGRATE PLAN FILL {c} SHARE 50"));
    assert!(moved(&fill).iter().all(|each| each.1 > 0), "keys are what it is filled by: {fill}");
    // By slots they are even already; by keys all lie on the first.
    let even = json(&mut admin, "PROXY MIGRATE PLAN REBALANCE");
    assert_eq!((even["plan"].is_null(), moved(&even).len()), (true, 0));
    for by in ["keys", "bytes"] {
        let plan = json(&mut admin, &format!("PROXY MIGRATE PLAN REBALANCE BY {by} TOLERANCE 5"));
        let keys: u64 = moved(&plan).iter().map(|each| each.1).sum();
        assert!((180..=220).contains(&keys), "two thirds of 300 leave: {plan}");
    }
    let empty = json(&mut admin, &format!("PROXY MIGRATE PLAN REBALANCE WEIGHT {}=0 {b}=2", address(0)));
    let leaving: u64 = moved(&empty).iter().filter(|each| each.0 > 1).map(|each| each.0).sum();
    assert_eq!(leaving, 5461, "all of the first's: {empty}");
    // What cannot be.
    let plan = "PROXY MIGRATE PLAN";
    refused(&mut admin, &format!("{plan} MOVE 0-1 FROM nobody TO {b}"), "ERR expected a node's id");
    refused(&mut admin, &format!("{plan} MOVE 5000-6000 FROM {a} TO {b}"), "ERR expected slots that");
    refused(&mut admin, &format!("{plan} MOVE 0-1 FROM {a}"), "Syntax: PROXY MIGRATE PLAN MOVE slots FROM node TO node");
    if server == Server::Valkey91 || server == Server::Redis82 {
        refused(&mut admin, &format!("{plan} REBALANCE BY cpu"), "cluster-slot-stats-enabled");
        for member in cluster.members() {
            member.client().call(&["CONFIG", "SET", "cluster-slot-stats-enabled", "yes"]);
        }
        for tag in tags_in(0..100) {
            client.call(&["GET", &format!("{tag}0")]);
        }
        let plan = json(&mut admin, "PROXY MIGRATE PLAN REBALANCE BY cpu");
        assert!(!moved(&plan).is_empty(), "all the work was done by the first: {plan}");
    } else {
        refused(&mut admin, &format!("{plan} DRAIN {a} MODE atomic"), "CLUSTER MIGRATESLOTS");
    }
    // Plans are kept, known by the beginnings of their ids, and change nothing.
    let known = json(&mut admin, "PROXY MIGRATE LIST");
    let known: Vec<&str> = known.as_array().expect("a list").iter().filter_map(|plan| plan["plan"].as_str()).collect();
    assert!(known.contains(&first.as_str()) && known.len() >= 5, "{known:?}");
    let status = json(&mut admin, &format!("PROXY MIGRATE STATUS {}", &first[..7]));
    assert_eq!((status["plan"].as_str(), status["state"].as_str()), (Some(first.as_str()), Some("drafted")));
    assert_eq!((status["slots_done"].as_u64(), status["slots_total"].as_u64()), (Some(0), Some(101)));
    refused(&mut admin, "PROXY MIGRATE STATUS nothing", "NOPLAN");
    let mut others = Proxy::start(&cluster);
    assert_eq!(json(&mut others.admin(), &format!("PROXY MIGRATE STATUS {first}"))["slots_total"], 101, "any instance knows");
    others.assert_alive();
    assert_eq!(cluster.view(), view);
}

// The oldest, and one that moves slots itself and tells what they cost.
#[test]
fn plans_on_redis_6_2() {
    plans(Server::Redis62);
}

#[test]
fn plans_on_valkey_9_1() {
    plans(Server::Valkey91);
}
