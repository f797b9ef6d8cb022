//! What operators see of the cluster on the admin port, and what PROXY CHECK finds when something is wrong with it.

use serde_json::Value;

use crate::harness::cluster::slot_of;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

/// A command's JSON document.
fn json(admin: &mut Client, command: &str) -> Value {
    let words: Vec<&str> = command.split(' ').chain(["JSON"]).collect();
    let text = admin.call(&words).text();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error} in {text}"))
}

fn looks(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut admin = proxy.admin();
    let nodes = json(&mut admin, "PROXY NODES");
    let nodes = nodes.as_array().expect("a list");
    assert_eq!(nodes.len(), cluster.members().len());
    assert_eq!(nodes.iter().map(|node| node["slots"].as_u64().unwrap_or(0)).sum::<u64>(), 16384);
    let topology = json(&mut admin, "PROXY TOPOLOGY");
    assert_eq!((&topology["slots_assigned"], &topology["slots_served"]), (&Value::from(16384), &Value::from(16384)));
    let slot = slot_of("user:1");
    let owner = cluster.view().into_iter().find(|node| node.is_master() && node.owns(slot)).expect("every slot is owned");
    let told = json(&mut admin, "PROXY SLOT KEY user:1");
    assert_eq!((told["slot"].as_u64(), told["owner"]["id"].as_str()), (Some(slot.into()), Some(owner.id.as_str())));
    assert_eq!(told, json(&mut admin, &format!("PROXY SLOT {slot}")));
    assert_eq!(json(&mut admin, "PROXY SLOTS")["ranges"].as_array().map(Vec::len), Some(cluster.members().len()));
    // What moves is seen as soon as it is asked for.
    let other = cluster.view().into_iter().find(|node| node.is_master() && !node.owns(slot)).expect("three masters");
    let giving = cluster.members().iter().position(|member| member.client().call(&["CLUSTER", "MYID"]).text() == owner.id);
    let mut giver = cluster.member(giving.expect("a member")).client();
    assert_eq!(giver.call(&["CLUSTER", "SETSLOT", &slot.to_string(), "MIGRATING", &other.id]), Reply::ok());
    assert_eq!(json(&mut admin, "PROXY REFRESH")["slots_moving"], 1);
    let lines = format!("{:?}", admin.call(&["PROXY", "SLOT", &slot.to_string()]));
    assert!(lines.contains("moving"), "{lines}");
}

/// The severity of one check, and what it found.
fn found(admin: &mut Client, check: &str) -> (String, String) {
    let report = json(admin, "PROXY CHECK");
    let findings = report["findings"].as_array().expect("a list");
    let finding = findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check} in {report}"));
    let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    assert!(text("severity") == "ok" || !text("advice").is_empty(), "{finding}");
    (text("severity"), text("found"))
}

fn findings(server: Server) {
    let mut cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut admin = proxy.admin();
    let ids: Vec<String> = cluster.members().iter().map(|member| member.client().call(&["CLUSTER", "MYID"]).text()).collect();
    let mut nodes: Vec<Client> = cluster.members().iter().map(|member| member.client()).collect();
    let mut tell = |node: usize, words: &[&str]| {
        let reply = nodes[node].call(words);
        assert!(!reply.is_error(), "{words:?}: {reply:?}");
    };
    #[track_caller]
    fn expect(admin: &mut Client, check: &str, severity: &str, part: &str) {
        let (found_severity, text) = found(admin, check);
        assert!(found_severity == severity && text.contains(part), "{check}: {found_severity}, {text}");
    }
    for check in ["reachable", "coverage", "agreement", "open-slots", "atomic-jobs", "orphan-keys", "links", "memory", "eviction"]
    {
        expect(&mut admin, check, "ok", "");
    }
    assert_ne!(json(&mut admin, "PROXY CHECK")["verdict"], "blocked");
    // Somebody has begun to move a slot.
    tell(0, &["CLUSTER", "SETSLOT", "5", "MIGRATING", &ids[1]]);
    expect(&mut admin, "open-slots", "blocker", "gives slot 5");
    assert_eq!(json(&mut admin, "PROXY CHECK")["verdict"], "blocked");
    tell(0, &["CLUSTER", "SETSLOT", "5", "STABLE"]);
    // An earlier attempt has left a key behind, where nobody can see it.
    let stray = crate::harness::cluster::tags_in(0..100).remove(0);
    let slot = slot_of(&stray).to_string();
    tell(1, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
    tell(1, &["ASKING"]);
    tell(1, &["SET", &stray, "left"]);
    tell(1, &["CLUSTER", "SETSLOT", &slot, "STABLE"]);
    expect(&mut admin, "orphan-keys", "warning", &format!("1 keys of slot {slot}"));
    // A node that is full, and one that throws keys away.
    tell(2, &["CONFIG", "SET", "maxmemory", "1mb"]);
    expect(&mut admin, "memory", "warning", "maxmemory 1048576");
    tell(2, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    expect(&mut admin, "eviction", "warning", "allkeys-lru");
    tell(2, &["CONFIG", "SET", "maxmemory", "0"]);
    if server != Server::Redis62 {
        tell(0, &["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 1 end)"]);
        expect(&mut admin, "functions", "warning", "differ");
    }
    // One node does not know who owns a slot; what the others tell it heals it soon, so it is made to forget again.
    for (check, part) in [("agreement", "slot 7"), ("coverage", "16383")] {
        let mut forgetful = cluster.member(2).client();
        wait_until("a hole to be seen", || {
            forgetful.call(&["CLUSTER", "DELSLOTS", "7"]);
            match found(&mut admin, check) {
                (severity, text) if severity == "blocker" && text.contains(part) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    cluster.kill(1);
    expect(&mut admin, "reachable", "blocker", "connection");
    wait_until("a dead master to be told", || match found(&mut admin, "links") {
        (severity, _) if severity != "ok" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

crate::on_every_server!(looks, findings);
