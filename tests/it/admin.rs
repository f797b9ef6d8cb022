//! What operators see of the cluster on the admin port, and what PROXY CHECK finds when something is wrong with it.

use serde_json::Value;

use crate::harness::client::request;
use crate::harness::cluster::{ClusterOptions, slot_of, tags_in};
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

/// The severities of one check's findings in a report, and what they found.
fn finding(report: &Value, check: &str) -> (String, String) {
    let findings: Vec<&Value> =
        report["findings"].as_array().expect("a list").iter().filter(|finding| finding["check"] == check).collect();
    assert!(!findings.is_empty(), "no {check} in {report}");
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    for finding in &findings {
        assert!(text(finding, "severity") == "ok" || !text(finding, "advice").is_empty(), "{finding}");
    }
    let all = |field: &str| findings.iter().map(|finding| text(finding, field)).collect::<Vec<_>>();
    let mut severities = all("severity");
    severities.dedup();
    (severities.join("+"), all("found").join("; "))
}

fn found(admin: &mut Client, command: &str, check: &str) -> (String, String) {
    finding(&json(admin, command), check)
}

#[track_caller]
fn holds(report: &Value, check: &str, severity: &str, part: &str) {
    let (found_severity, text) = finding(report, check);
    assert!(found_severity == severity && text.contains(part), "{check}: {found_severity}, {text}");
}

#[track_caller]
fn expect(admin: &mut Client, check: &str, severity: &str, part: &str) {
    holds(&json(admin, "PROXY CHECK"), check, severity, part);
}

/// Waits until a check finds this.
#[track_caller]
fn expect_soon(admin: &mut Client, check: &str, severity: &str, part: &str) {
    wait_until(check, || match found(admin, "PROXY CHECK", check) {
        (found_severity, text) if found_severity == severity && text.contains(part) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[track_caller]
fn tell(node: &mut Client, words: &[&str]) {
    let reply = node.call(words);
    assert!(!reply.is_error(), "{words:?}: {reply:?}");
}

/// Every check of PROXY CHECK fails once, on a cluster that is made so.
fn findings(server: Server) {
    let arguments: &[&str] = match server {
        Server::Redis70 => &["--enable-module-command", "yes"],
        Server::Redis82 => &["--cluster-slot-stats-enabled", "yes"],
        Server::Valkey91 => &["--enable-debug-command", "yes", "--cluster-slot-stats-enabled", "yes"],
        Server::Redis62 => &[],
    };
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let mut cluster = Cluster::start(server, ClusterOptions { arguments, ..ClusterOptions::default() });
    let proxy = Proxy::start(&cluster);
    let mut admin = proxy.admin();
    healthy(&mut admin, server);
    if server == Server::Redis70 {
        // A newer node joins, and has a module that the others lack.
        cluster.server = Server::Redis82;
        cluster.add_empty_master();
        json(&mut admin, "PROXY REFRESH");
        expect(&mut admin, "software", "note", "Redis 7.0.15; Redis 8.2");
        let module = Server::Redis82.binary().with_file_name("falkordb.so");
        tell(&mut cluster.member(3).client(), &["MODULE", "LOAD", &module.display().to_string()]);
        expect(&mut admin, "modules", "blocker", "lacks graph");
    }
    what_is_under_way(&cluster, &mut admin, server);
    settings_and_rights(&cluster, &mut admin);
    if server == Server::Redis70 {
        epochs_that_collide(&cluster, &mut admin);
    }
    closer_look(&cluster, &mut admin, server);
    nodes_that_fail(&mut cluster, &mut admin);
}

fn healthy(admin: &mut Client, server: Server) {
    let sound = [
        "reachable",
        "coverage",
        "agreement",
        "open-slots",
        "atomic-jobs",
        "orphan-keys",
        "epochs",
        "links",
        "software",
        "modules",
        "functions",
        "rights",
        "memory",
        "eviction",
        "node-timeout",
        "replica-migration",
        "samples",
        "big-keys",
        "slot-weights",
        "libraries",
        "snapshots",
        "waiting-clients",
    ];
    let report = json(admin, "PROXY CHECK DEEP");
    for check in sound {
        holds(&report, check, "ok", "");
    }
    let old = [Server::Redis62, Server::Redis70].contains(&server);
    holds(&report, "full-coverage", if old { "warning" } else { "ok" }, "");
    holds(&report, "atomic-mode", if server == Server::Valkey91 { "ok" } else { "note" }, "");
    holds(&report, "replicas", "warning", "has none");
    assert_eq!(report["verdict"], "warning");
}

fn what_is_under_way(cluster: &Cluster, admin: &mut Client, server: Server) {
    let mut nodes: Vec<Client> = cluster.members().iter().map(|member| member.client()).collect();
    let ids: Vec<&str> = cluster.members().iter().map(|member| member.id.as_str()).collect();
    // Somebody has begun to move a slot.
    tell(&mut nodes[0], &["CLUSTER", "SETSLOT", "5", "MIGRATING", ids[1]]);
    let report = json(admin, "PROXY CHECK");
    holds(&report, "open-slots", "blocker", "gives slot 5");
    assert_eq!(report["verdict"], "blocked");
    tell(&mut nodes[0], &["CLUSTER", "SETSLOT", "5", "STABLE"]);
    // An earlier attempt has left a key behind, where nobody can see it.
    let stray = tags_in(0..100).remove(0);
    let slot = slot_of(&stray).to_string();
    tell(&mut nodes[1], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", ids[0]]);
    tell(&mut nodes[1], &["ASKING"]);
    tell(&mut nodes[1], &["SET", &stray, "left"]);
    tell(&mut nodes[1], &["CLUSTER", "SETSLOT", &slot, "STABLE"]);
    expect(admin, "orphan-keys", "warning", &format!("1 keys of slot {slot}"));
    if server == Server::Valkey91 {
        // A migration that does not come to its end.
        tell(&mut nodes[0], &["DEBUG", "SLOTMIGRATION", "PREVENT-PAUSE", "1"]);
        tell(&mut nodes[0], &["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "200", "201", "NODE", ids[2]]);
        expect(admin, "atomic-jobs", "blocker", "200-201");
        tell(&mut nodes[0], &["CLUSTER", "CANCELSLOTMIGRATIONS"]);
        tell(&mut nodes[0], &["DEBUG", "SLOTMIGRATION", "PREVENT-PAUSE", "0"]);
        expect_soon(admin, "atomic-jobs", "ok", "");
    }
}

fn settings_and_rights(cluster: &Cluster, admin: &mut Client) {
    let [mut first, mut third] = [0, 2].map(|index| cluster.member(index).client());
    // A node that is full and throws keys away, and one that is impatient and distrustful.
    for (name, value) in [("maxmemory", "1mb"), ("maxmemory-policy", "allkeys-lru")] {
        tell(&mut third, &["CONFIG", "SET", name, value]);
    }
    tell(&mut first, &["CONFIG", "SET", "cluster-node-timeout", "4000"]);
    tell(&mut first, &["ACL", "SETUSER", "default", "-migrate", "-restore-asking"]);
    let report = json(admin, "PROXY CHECK");
    holds(&report, "memory", "warning", "maxmemory 1048576");
    holds(&report, "eviction", "warning", "allkeys-lru");
    holds(&report, "node-timeout", "warning", "4000 ms");
    holds(&report, "rights", "blocker", "denies it migrate, restore-asking");
    tell(&mut third, &["CONFIG", "SET", "maxmemory", "0"]);
    tell(&mut first, &["CONFIG", "SET", "cluster-node-timeout", "20000"]);
    tell(&mut first, &["ACL", "SETUSER", "default", "+@all", "-config"]);
    expect(admin, "rights", "blocker", "denies it config|get");
    tell(&mut first, &["ACL", "SETUSER", "default", "+@all"]);
    expect(admin, "rights", "ok", "");
}

/// Two masters take the next epoch at once; the cluster settles it within a second or so.
fn epochs_that_collide(cluster: &Cluster, admin: &mut Client) {
    let epoch = |index: usize| {
        let info = cluster.member(index).client().call(&["CLUSTER", "INFO"]).text();
        info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:")?.trim().parse::<u64>().ok())
    };
    wait_until("two masters with one epoch", || {
        tell(&mut cluster.member(2).client(), &["CLUSTER", "BUMPEPOCH"]);
        // Both must know it to take the one that follows.
        wait_until("an epoch to be known", || match (epoch(0), epoch(1), epoch(2)) {
            (first, second, third) if first == third && second == third => Ok(()),
            other => Err(format!("{other:?}")),
        });
        for index in [0, 1] {
            tell(&mut cluster.member(index).client(), &["CLUSTER", "BUMPEPOCH"]);
        }
        match found(admin, "PROXY CHECK", "epochs") {
            (severity, text) if severity == "warning" && text.contains("share epoch") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn closer_look(cluster: &Cluster, admin: &mut Client, server: Server) {
    let [mut first, mut second] = [0, 1].map(|index| cluster.member(index).client());
    let tag = &tags_in(0..100)[7];
    let grow = |node: &mut Client, name: &str, bytes: &str| {
        let script = "return redis.call('HSET', KEYS[1], 'f', string.rep('x', ARGV[1]))";
        tell(node, &["EVAL", script, "1", &format!("{tag}{name}"), bytes]);
    };
    let many = "for i = 1, 600 do redis.call('SET', KEYS[1] .. i, 'v') end return 1";
    tell(&mut first, &["EVAL", many, "1", tag]);
    grow(&mut first, "large", "5000000");
    if server != Server::Redis62 {
        tell(&mut first, &["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 1 end)"]);
    }
    // Writing it takes seconds, also when its master does not live to see the end.
    tell(&mut second, &["CONFIG", "SET", "rdb-key-save-delay", "3000000"]);
    tell(&mut second, &["BGSAVE"]);
    let mut waiting = cluster.member(0).client();
    waiting.send(&request(&["BLPOP", &format!("{tag}none"), "0"])).expect("the node reads");
    wait_until("a blocked client", || match first.call(&["INFO", "clients"]).text() {
        text if text.contains("blocked_clients:1") => Ok(()),
        text => Err(text),
    });
    let report = json(admin, "PROXY CHECK DEEP");
    let atomic = server == Server::Valkey91;
    holds(&report, "big-keys", if atomic { "note" } else { "warning" }, "large of slot 7: a hash of");
    holds(&report, "slot-weights", "note", "holds 601 of 60");
    holds(&report, "snapshots", "warning", "is writing one");
    holds(&report, "waiting-clients", "note", "1 blocked clients");
    if server != Server::Redis62 {
        holds(&report, "functions", "warning", "differ");
        holds(&report, "libraries", "warning", "lacks lib (which 127.0.0.1:");
    }
    let hot = json(admin, "PROXY SLOTS HOT 2");
    let by = if [Server::Redis82, Server::Valkey91].contains(&server) { "cpu" } else { "keys" };
    // The slot of the coordinator's own records has work to do too.
    let slots = hot["slots"].as_array().expect("a list");
    let heavy = slots.iter().find(|slot| slot["slot"] == 7).unwrap_or_else(|| panic!("no slot 7 in {hot}"));
    assert_eq!(
        (&hot["by"], &heavy["keys"], heavy["cpu_us"].is_u64()),
        (&Value::from(by), &Value::from(601), by == "cpu"),
        "{hot}"
    );
    // Half of the node timeout is what a block may take at most.
    tell(&mut first, &["CONFIG", "SET", "cluster-node-timeout", "4000"]);
    grow(&mut first, "larger", "60000000");
    let (severity, text) = found(admin, "PROXY CHECK DEEP", "big-keys");
    assert!(severity == if atomic { "note" } else { "blocker" } && text.contains("larger of slot 7"), "{severity}, {text}");
    tell(&mut first, &["CONFIG", "SET", "cluster-node-timeout", "20000"]);
    tell(&mut first, &["ACL", "SETUSER", "default", "-memory"]);
    let (severity, text) = found(admin, "PROXY CHECK DEEP", "samples");
    assert!(severity == "warning" && text.contains("NOPERM"), "{severity}, {text}");
    tell(&mut first, &["ACL", "SETUSER", "default", "+@all"]);
}

fn nodes_that_fail(cluster: &mut Cluster, admin: &mut Client) {
    let replica = if cluster.members().len() == 4 { 3 } else { cluster.add_empty_master() };
    tell(&mut cluster.member(replica).client(), &["CLUSTER", "REPLICATE", &cluster.member(0).id]);
    wait_until("a replica in step", || match cluster.member(0).client().call(&["INFO", "replication"]).text() {
        text if text.contains("state=online")
            && (0..3).all(|index| cluster.view_of(index).iter().any(|node| node.has("slave"))) =>
        {
            Ok(())
        }
        text => Err(text),
    });
    json(admin, "PROXY REFRESH");
    cluster.kill(replica);
    // Its master notices at once; the others have none, and are warned of that.
    let is_grave = cluster.server == Server::Valkey91;
    wait_until("a replica that is down", || match found(admin, "PROXY CHECK", "replicas") {
        (severity, text) if text.contains("1 of 1") && severity.contains("blocker") == is_grave => Ok(()),
        other => Err(format!("{other:?}")),
    });
    expect(admin, "reachable", "warning", "connection");
    // One node does not know who owns a slot; what the others tell it heals it soon, so it is made to forget again.
    for (check, part) in [("agreement", "slot 7"), ("coverage", "16383")] {
        let mut forgetful = cluster.member(2).client();
        wait_until("a hole to be seen", || {
            forgetful.call(&["CLUSTER", "DELSLOTS", "7"]);
            match found(admin, "PROXY CHECK", check) {
                (severity, text) if severity == "blocker" && text.contains(part) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    cluster.kill(1);
    wait_until("a dead master to be told", || match found(admin, "PROXY CHECK", "reachable") {
        (severity, _) if severity.contains("blocker") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_until("a dead master to be told by its neighbours", || match found(admin, "PROXY CHECK", "links") {
        (severity, _) if severity != "ok" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

crate::on_every_server!(looks, findings);
