use std::collections::BTreeSet;

use super::*;
use crate::cluster::{Addr, NodesView, Slot};
use crate::migrate::SlotSet;
use crate::migrate::inventory::{Atomic, Fields, NodeReport, Server};
use crate::migrate::plan::{Goal, plan};

pub const IDS: [&str; 3] = ["aaaaaaaa", "bbbbbbbb", "cccccccc"];
const RANGES: [&str; 3] = ["0-5460", "5461-10922", "10923-16383"];

/// What node `me` of a healthy cluster of three tells, ten keys in each of its slots.
pub fn told(me: usize) -> Told {
    let line = |node: usize| {
        let myself = if node == me { "myself," } else { "" };
        format!("{} 127.0.0.1:{}@1 {myself}master - 0 0 {} connected {}\n", IDS[node], 7000 + node, node + 1, RANGES[node])
    };
    let text: String = (0..3).map(line).collect();
    let cluster = "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n";
    let slots = SlotSet::parse(RANGES[me]).expect("the test's own slots");
    Told {
        view: NodesView::parse(text.as_bytes()).expect("the test's own text"),
        server: Server { valkey: false, version: (7, 0, 15) },
        cluster: Fields::parse(cluster),
        info: Fields::parse(
            "used_memory:10000000\r\nused_memory_dataset:5461000\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n",
        ),
        config: Some(Fields::parse(
            "cluster-node-timeout:15000\r\ncluster-require-full-coverage:no\r\ncluster-allow-replica-migration:no\r\n",
        )),
        modules: BTreeSet::new(),
        functions: Some("same".into()),
        atomic: Atomic::No,
        jobs: Vec::new(),
        denied: BTreeSet::new(),
        databases: 1,
        keys: Some(Slot::all().map(|slot| if slots.contains(slot) { 10 } else { 0 }).collect()),
    }
}

/// The severity of `check` and what it found, when all of the first node's slots but 100 are to move to the second, after `change`.
fn found(check: &str, change: impl Fn(usize, &mut Told)) -> (Severity, String) {
    let node = |me: usize| {
        let mut told = told(me);
        change(me, &mut told);
        NodeReport { id: IDS[me].into(), addr: Addr::new("127.0.0.1", 7000 + me as u16), told: Ok(Box::new(told)) }
    };
    let inventory = Inventory { nodes: (0..3).map(node).collect() };
    let layout = Layout::of(&inventory);
    let slots = SlotSet::parse("0-5360").expect("the test's own slots");
    let moves = plan(&layout, &Goal::Move { slots: slots.clone(), from: 0, to: 1 }).expect("a plan");
    let intent = Intent { layout: &layout, moves: &moves, slots: &slots, classic: &slots };
    let findings = preflight(&inventory, Some(intent));
    let finding = findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check}"));
    (finding.severity, finding.found.clone())
}

#[track_caller]
fn check(name: &str, change: impl Fn(usize, &mut Told), severity: Severity, part: &str) {
    assert_eq!(
        found(name, |_, _| {}).0,
        if name == "replicas" { Severity::Warning } else { Severity::Ok },
        "{name} of a healthy cluster"
    );
    let (found, text) = found(name, change);
    assert!(found == severity && text.contains(part), "{name}: {found:?}, {text}");
}

fn set(told: &mut Told, name: &str, value: &str) {
    told.info.insert(name.into(), value.into());
}

#[test]
fn what_is_planned_must_fit() {
    let small = |bytes: &'static str| {
        move |me: usize, told: &mut Told| {
            if me == 1 {
                set(told, "maxmemory", bytes)
            }
        }
    };
    check("memory", small("15000000"), Severity::Blocker, "127.0.0.1:7001");
    assert_eq!(found("memory", small("20000000")).0, Severity::Ok, "six and a half million bytes more are room enough");
    check(
        "eviction",
        |me, told| {
            if me == 1 {
                set(told, "maxmemory", "100000000");
                set(told, "maxmemory_policy", "allkeys-lru");
            }
        },
        Severity::Warning,
        "allkeys-lru",
    );
}

#[test]
fn a_target_must_understand_its_source() {
    let older = |me: usize, told: &mut Told| {
        if me == 1 {
            told.server.version = (6, 2, 14);
        }
    };
    check("software", older, Severity::Blocker, "Redis 6.2.14");
    let another = |me: usize, told: &mut Told| {
        if me == 1 {
            told.server.valkey = true;
        }
    };
    check("software", another, Severity::Blocker, "Valkey");
    let lacks = |me: usize, told: &mut Told| {
        if me == 0 {
            told.modules.insert("bf".into());
        }
    };
    check("modules", lacks, Severity::Blocker, "127.0.0.1:7001 lacks bf");
    let differs = |me: usize, told: &mut Told| {
        if me == 1 {
            told.functions = Some("other".into());
        }
    };
    check("functions", differs, Severity::Blocker, "differ");
}

#[test]
fn keys_left_behind_matter_where_slots_move() {
    let stray = |slot: usize| {
        move |me: usize, told: &mut Told| {
            if let (1, Some(keys)) = (me, told.keys.as_mut()) {
                keys[slot] = 3;
            }
        }
    };
    check("orphan-keys", stray(7), Severity::Blocker, "3 keys of slot 7");
    check("orphan-keys", stray(16000), Severity::Warning, "3 keys of slot 16000");
}

#[test]
fn settings_that_make_it_harder() {
    let setting = |name: &'static str, value: &'static str| {
        move |me: usize, told: &mut Told| {
            if let (0, Some(config)) = (me, told.config.as_mut()) {
                config.insert(name.into(), value.into());
            }
        }
    };
    check("node-timeout", setting("cluster-node-timeout", "2000"), Severity::Warning, "2000 ms");
    check("full-coverage", setting("cluster-require-full-coverage", "yes"), Severity::Warning, "Redis 7.0.15");
    // The plan leaves it a hundred slots.
    assert_eq!(found("replica-migration", setting("cluster-allow-replica-migration", "yes")).0, Severity::Ok);
    check("replicas", |_, _| {}, Severity::Warning, "has none");
    check(
        "rights",
        |me, told| {
            if me == 1 {
                told.denied.extend(["migrate", "cluster|setslot"]);
            }
        },
        Severity::Blocker,
        "127.0.0.1:7001 denies it cluster|setslot, migrate",
    );
    check("atomic-jobs", |_, told| told.jobs.push("EXPORT of 5-6 is snapshotting".into()), Severity::Blocker, "5-6");
}
