//! The script that gates a reshard in CI: each step fails when it should, and all of them together move slots.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::cluster::{ClusterOptions, slot_of};
use crate::harness::process::bound_command;
use crate::harness::programs::{Outcome, run};
use crate::harness::servers::tool;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

/// A busy machine answers PING late; that is not what is tested here.
const SETTINGS: [(&str, &str); 2] = [("migrate.latency_limit", "30s"), ("admin.users", "ci:operator:>secret,eve:viewer:>secret")];

fn script(proxy: &Proxy, user: &str, arguments: &str) -> Outcome {
    let jq = tool("jq");
    assert!(jq.is_file());
    let mut command: Command = bound_command(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ci/reshard.sh"));
    command.env("KEYWAY_ADMIN", format!("127.0.0.1:{}", proxy.admin_port));
    command.envs([("KEYWAY_ADMIN_USER", user), ("KEYWAY_ADMIN_PASSWORD", "secret")]);
    run(command.args(arguments.split(' ')), "")
}

#[track_caller]
fn refused(outcome: Outcome, part: &str) {
    assert!(!outcome.success && outcome.complaint.contains(part), "{}\n{}", outcome.printed, outcome.complaint);
}

#[test]
fn a_reshard_behind_gates() {
    let cluster = Cluster::start(Server::Redis70, ClusterOptions { masters: 2, ..ClusterOptions::default() });
    let proxy = Proxy::start_with(&cluster, &SETTINGS);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..500).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        assert_eq!(client.call(&["SET", key, key]), Reply::ok());
    }
    let mut admin = proxy.admin();
    assert_eq!(admin.call(&["AUTH", "ci", "secret"]), Reply::ok());
    let [from, to] = [0, 1].map(|index| cluster.member(index).port);
    let goal = |slots: &str| format!("MOVE {slots} FROM 127.0.0.1:{from} TO 127.0.0.1:{to} OBSERVE 1s");

    // What must not start does not.
    refused(script(&proxy, "ci", "plan MOVE 0-9 FROM nobody TO somebody"), "found 'nobody'");
    refused(script(&proxy, "eve", &format!("all {}", goal("0-9"))), "NOPERM");
    refused(script(&proxy, "ci", "start 00000000"), "is refused");
    refused(script(&proxy, "ci", "dance"), "reshard.sh plan GOAL");
    let mut node = cluster.member(0).client();
    assert_eq!(node.call(&["CLUSTER", "SETSLOT", "5", "MIGRATING", &cluster.member(1).id]), Reply::ok());
    refused(script(&proxy, "ci", &format!("all {}", goal("0-9"))), "a blocker stands in the way");
    assert_eq!(node.call(&["CLUSTER", "SETSLOT", "5", "STABLE"]), Reply::ok());
    refused(script(&proxy, "ci", &format!("all {}", goal("0-1199"))), "let somebody look at it");

    // A large plan starts with its code only.
    let planned = script(&proxy, "ci", &format!("plan {}", goal("0-1199")));
    let printed = |outcome: &Outcome, name: &str| {
        let line = outcome.printed.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {name} in {}", outcome.printed))
    };
    let (plan, approve) = (printed(&planned, "plan="), printed(&planned, "approve="));
    assert!(planned.success && !approve.is_empty(), "{}", planned.complaint);
    refused(script(&proxy, "ci", &format!("start {plan}")), "is refused");

    // All gates in turn, while somebody listens.
    let mut listener = proxy.admin();
    assert_eq!(listener.call(&["AUTH", "eve", "secret"]), Reply::ok());
    listener.call(&["SUBSCRIBE", "keyway:migrations"]);
    let done = script(&proxy, "ci", &format!("all {} CANARY 3", goal("0-39")));
    assert!(done.success, "{}", done.complaint);
    let plan = printed(&done, "plan=");
    let told = line_with(&mut listener, &plan, "observing");
    assert!(told.contains(&plan), "{told}");
    wait_until("the end of the observation window", || match state(&mut admin, &plan).as_str() {
        "done" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert!(cluster.view_of(0).iter().any(|node| node.port == to && node.owns(0) && node.owns(39) && !node.owns(40)));
    assert!(keys.iter().filter(|key| slot_of(key) < 40).count() > 0, "some keys have moved");
    for key in &keys {
        assert_eq!(client.call(&["GET", key]), Reply::bulk(key));
    }

    // Draining a master tells what becomes of it: the check that needs a plan.
    let drain = admin.call(&["PROXY", "MIGRATE", "PLAN", "DRAIN", &format!("127.0.0.1:{from}"), "JSON"]).text();
    let drain: Value = serde_json::from_str(&drain).unwrap_or_else(|error| panic!("{error} in {drain}"));
    let risks = drain["risks"].as_array().expect("a list");
    assert!(risks.iter().any(|risk| risk["check"] == "replica-migration" && risk["severity"] == "warning"), "{drain}");
}

fn state(admin: &mut Client, plan: &str) -> String {
    let status = admin.call(&["PROXY", "MIGRATE", "STATUS", plan, "JSON"]).text();
    let status: Value = serde_json::from_str(&status).unwrap_or_else(|error| panic!("{error} in {status}"));
    status["state"].as_str().unwrap_or_default().to_owned()
}

/// The next line of keyway:migrations that tells of this.
fn line_with(listener: &mut Client, plan: &str, what: &str) -> String {
    loop {
        let message = listener.receive().expect("events come");
        let [_, channel, line] = message.elements() else { panic!("{message:?}") };
        assert_eq!(channel.text(), "keyway:migrations");
        if line.text().contains(plan) && line.text().contains(what) {
            return line.text();
        }
    }
}
