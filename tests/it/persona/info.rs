//! What the server tells of itself, and who else is asked: INFO, the command table, the logs.

use std::collections::{BTreeMap, BTreeSet};

use super::Scene;
use crate::commands::{command_names, sorted};
use crate::harness::cluster::tags_in;
use crate::harness::text::words;
use crate::harness::{Client, Reply, Server};

/// Sections and fields in the order they are printed.
fn info_fields(text: &str) -> Vec<(String, String)> {
    let field = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        (name.to_owned(), value.to_owned())
    };
    text.lines().filter(|line| !line.is_empty()).map(field).collect()
}

/// Fields a merged INFO may leave out, or that come and go with what was done so far.
const OPTIONAL: &str = "cluster_connections listener slave errorstat_ cmdstat_ latency_percentiles_ db0 io_thread eventloop";

/// Fields whose values are the standalone's own.
const EQUAL: &str = "redis_version valkey_version server_name redis_mode server_mode arch_bits os role connected_slaves loading \
    async_loading cluster_enabled master_failover_state maxmemory_policy db0";

const INFO_CALLS: &str = "INFO
INFO server
INFO clients
INFO memory
INFO persistence
INFO stats
INFO replication
INFO cpu
INFO cluster
INFO keyspace
INFO commandstats
INFO errorstats
INFO modules
INFO default
INFO all
INFO everything
INFO nosuch
INFO SERVER
INFO server clients";

/// The names that every INFO of this kind must hold, in order.
fn required(text: &str) -> Vec<String> {
    let optional = |name: &String| OPTIONAL.split_whitespace().any(|optional| name.starts_with(optional));
    info_fields(text).into_iter().map(|(name, _)| name).filter(|name| !optional(name)).collect()
}

fn same_type(one: &Reply, other: &Reply) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

pub fn info(scene: &Scene) {
    let (mut standalone, mut proxy) = (scene.standalone.client(), scene.proxy.client());
    let mut differences = Vec::new();
    for line in INFO_CALLS.lines() {
        let (expected, found) = (standalone.call(&words(line)), proxy.call(&words(line)));
        if !same_type(&expected, &found) || expected.is_error() && expected != found {
            differences.push(format!("{line}: {expected:?} or {found:?}"));
        }
        let (expected, found) = (required(&expected.text()), required(&found.text()));
        if expected != found {
            let missing: Vec<_> = expected.iter().filter(|name| !found.contains(name)).collect();
            let added: Vec<_> = found.iter().filter(|name| !expected.contains(name)).collect();
            differences.push(format!("{line}: missing {missing:?}, added {added:?}, else the order"));
        }
    }
    let all = |client: &mut Client| info_fields(&client.call(&["INFO"]).text()).into_iter().collect::<BTreeMap<_, _>>();
    let (expected, found) = (all(&mut standalone), all(&mut proxy));
    for name in EQUAL.split_whitespace().filter(|name| expected.get(*name) != found.get(*name)) {
        differences.push(format!("{name}: {:?} or {:?}", expected.get(name), found.get(name)));
    }
    if found.get("tcp_port") != Some(&scene.proxy.port.to_string()) {
        differences.push(format!("tcp_port is {:?}, not the proxy's", found.get("tcp_port")));
    }
    let (expected, found) =
        ([standalone, proxy]).map(|mut client| (client.call(&["HELLO", "3"]), client.call(&["INFO", "server"]))).into();
    if !same_type(&expected.1, &found.1) {
        differences.push(format!("in RESP3 {:?} or {:?}", expected.1, found.1));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

pub fn info_keyspace(scene: &Scene) {
    let mut client = scene.proxy.client();
    for n in 0..300 {
        let value = n.to_string();
        let key = format!("key:{n}");
        let command: &[&str] = if n % 3 == 0 { &["SET", &key, &value, "EX", "1000"] } else { &["SET", &key, &value] };
        assert_eq!(client.call(command), Reply::ok());
    }
    let text = client.call(&["INFO", "keyspace"]).text();
    let line = text.lines().find(|line| line.starts_with("db0:")).unwrap_or_else(|| panic!("no keyspace in {text:?}"));
    assert!(line.starts_with("db0:keys=300,expires=100,avg_ttl="), "{line}");
    assert!(text.lines().filter(|line| line.starts_with("db")).count() == 1, "{text}");
}

pub fn command_table(scene: &Scene) {
    let (mut standalone, mut proxy) = (scene.standalone.client(), scene.proxy.client());
    let table = |client: &mut Client| {
        let reply = client.call(&["COMMAND"]);
        reply.elements().iter().map(|row| (row.elements()[0].text(), sorted(row))).collect::<BTreeMap<_, _>>()
    };
    let (expected, found) = (table(&mut standalone), table(&mut proxy));
    for (name, row) in &found {
        assert_eq!(Some(row), expected.get(name), "COMMAND: {name}");
    }
    // Every row that is missing is a command that would be refused.
    for name in expected.keys().filter(|name| !found.contains_key(*name)) {
        let reply = proxy.call(&[name.as_str(), "a", "1", "b", "1", "c"]);
        assert!(
            reply.text().starts_with("ERR proxy: ") || reply.text().contains("wrong number"),
            "COMMAND hides {name}, which answers {reply:?}"
        );
    }
    assert!(found.len() > 150, "{} commands", found.len());
    assert_eq!(proxy.call(&["COMMAND", "COUNT"]).integer(), i64::try_from(found.len()).ok(), "COMMAND COUNT");
    if scene.server != Server::Redis62 {
        let lower = |reply: &Reply| reply.text().to_lowercase();
        let top: BTreeSet<String> = command_names(&mut proxy).into_iter().filter(|name| !name.contains('|')).collect();
        let list: BTreeSet<String> = proxy.call(&["COMMAND", "LIST"]).elements().iter().map(lower).collect();
        let list: BTreeSet<String> = list.into_iter().filter(|name| !name.contains('|')).collect();
        let hidden: Vec<&String> = list.symmetric_difference(&top).collect();
        assert!(hidden.is_empty(), "only one of COMMAND LIST and COMMAND shows {hidden:?}");
        let docs: BTreeSet<String> = proxy.call(&["COMMAND", "DOCS"]).elements().iter().step_by(2).map(lower).collect();
        assert!(docs.is_superset(&top), "COMMAND DOCS lacks {:?}", top.difference(&docs).collect::<Vec<_>>());
    }
}

pub fn slow_log(scene: &Scene) {
    let set = |threshold: &str| {
        for member in scene.cluster.members() {
            assert_eq!(member.client().call(&["CONFIG", "SET", "slowlog-log-slower-than", threshold]), Reply::ok());
        }
    };
    let mut client = scene.proxy.client();
    client.call(&["SLOWLOG", "RESET"]);
    set("0");
    let tags = tags_in(0..1).into_iter().chain(tags_in(8000..8001)).chain(tags_in(16000..16001));
    for tag in tags {
        client.call(&["SET", &tag, "slow"]);
    }
    set("-1");
    let log = client.call(&["SLOWLOG", "GET", "-1"]);
    let sets = log.elements().iter().filter(|entry| entry.elements()[3].elements()[0].text() == "SET").count();
    assert_eq!(sets, 3, "one of each node: {log:?}");
    let times: Vec<i64> = log.elements().iter().filter_map(|entry| entry.elements()[1].integer()).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "newest first: {times:?}");
    assert_eq!(client.call(&["SLOWLOG", "GET", "2"]).elements().len(), 2);
    assert_eq!(client.call(&["SLOWLOG", "LEN"]).integer(), i64::try_from(log.elements().len()).ok());
    assert_eq!(client.call(&["SLOWLOG", "RESET"]), Reply::ok());
    assert_eq!(client.call(&["SLOWLOG", "LEN"]), Reply::Integer(0));
}

pub fn admin(scene: &Scene) {
    let mut admin = scene.proxy.admin();
    assert_eq!(admin.call(&["PING"]), Reply::Simple(b"PONG".to_vec()));
    assert!(!admin.call(&["INFO"]).text().is_empty());
    assert!(!admin.call(&["PROXY", "HELP"]).elements().is_empty());
    assert!(admin.call(&["GET", "k"]).is_error(), "it serves no data");
    assert_eq!(admin.call(&["PING"]), Reply::Simple(b"PONG".to_vec()), "and goes on");
}
