//! The instance that drives is killed with `kill -9` behind each step of a slot. Each time another goes on from there, and clients notice
//! nothing.

use std::thread;

use super::runs::{SETTINGS, log, plan, start, state, status, wait_for};
use super::{WATCHER, json, watcher};
use crate::harness::cluster::{ClusterOptions, slot_of, tags_in};
use crate::harness::{Client, Cluster, Proxy, Server, wait_until};
use crate::migrate_execute::oracle::{Oracle, assert_whole};

/// The plan moves slots from the first member to the second.
const SOURCE: usize = 0;
const TARGET: usize = 1;

/// A step of a slot, and how a driver is held behind it: a member denies it what would come next.
struct Step {
    name: &'static str,
    denied: Option<(usize, &'static str)>,
    /// Denied only once a slot is half way, else before one is opened.
    in_the_middle: bool,
    is_done: fn(&Open) -> bool,
}

/// What the ends show of the slot that is open.
#[derive(Debug)]
struct Open {
    source_marked: bool,
    target_marked: bool,
    target_owns: bool,
    at_source: i64,
    at_target: i64,
}

const STEPS: [Step; 5] = [
    Step {
        name: "target importing",
        denied: Some((SOURCE, "cluster|setslot")),
        in_the_middle: false,
        is_done: |open| open.target_marked && !open.source_marked,
    },
    Step {
        name: "source migrating",
        denied: Some((SOURCE, "cluster|getkeysinslot")),
        in_the_middle: false,
        is_done: |open| open.target_marked && open.source_marked && open.at_target == 0,
    },
    Step { name: "draining", denied: None, in_the_middle: true, is_done: |open| open.at_source > 0 && open.at_target > 0 },
    Step {
        name: "drained",
        denied: Some((TARGET, "cluster|setslot")),
        in_the_middle: true,
        is_done: |open| open.source_marked && open.target_marked && open.at_source == 0 && open.at_target > 0,
    },
    Step {
        name: "target owner",
        denied: Some((SOURCE, "cluster|setslot")),
        in_the_middle: true,
        is_done: |open| open.target_owns && open.at_source == 0,
    },
];

/// The slot that a member has a mark for.
fn marked(cluster: &Cluster, member: usize) -> Option<u16> {
    let id = &cluster.member(member).id;
    let view = cluster.view_of(member);
    let mark = view.iter().find(|node| node.id == *id)?.open_slots.first()?.clone();
    mark.trim_start_matches('[').split('-').next()?.parse().ok()
}

fn look(cluster: &Cluster, slot: u16) -> Open {
    let count = |member: usize| {
        let reply = cluster.member(member).client().call(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]);
        reply.integer().expect("a number of keys")
    };
    let owns = cluster.view_of(TARGET).iter().any(|node| node.id == cluster.member(TARGET).id && node.owns(slot));
    Open {
        source_marked: marked(cluster, SOURCE) == Some(slot),
        target_marked: marked(cluster, TARGET) == Some(slot),
        target_owns: owns,
        at_source: count(SOURCE),
        at_target: count(TARGET),
    }
}

pub(super) fn rule(cluster: &Cluster, member: usize, rule: &str) {
    assert!(!cluster.member(member).client().call(&["ACL", "SETUSER", "default", rule]).is_error(), "{rule}");
}

fn open_slot(cluster: &Cluster) -> u16 {
    wait_until("a slot to be opened", || {
        marked(cluster, TARGET).or(marked(cluster, SOURCE)).ok_or_else(|| "no mark anywhere".to_owned())
    })
}

fn pause(admin: &mut Client, id: &str) {
    // It answers so or otherwise, by how long the open slot takes.
    let _ = super::answer(admin, &format!("PROXY MIGRATE PAUSE {id}"));
    wait_until("the plan to pause", || {
        let now = status(admin, id);
        if state(&now) == "paused" { Ok(()) } else { Err(now.to_string()) }
    });
}

fn takeovers(admin: &mut Client, id: &str) -> usize {
    log(admin, id).matches("taken over").count()
}

fn killed_at_every_step(server: Server) {
    let cluster = Cluster::start(server, ClusterOptions { arguments: watcher(), ..ClusterOptions::default() });
    let front = Proxy::start_with(&cluster, &WATCHER);
    let tags = tags_in(0..30);
    let oracle = Oracle::new(front.port, &tags);
    let [a, b, _] = [0, 1, 2].map(|index| cluster.member(index).id.clone());
    let mut driver = Proxy::start_with(&cluster, &SETTINGS);
    let id = plan(&mut driver.admin(), &format!("MOVE 0-29 FROM {a} TO {b} MODE classic OBSERVE 0"));
    // One key at a time, with long rests: a slot takes seconds.
    json(&mut driver.admin(), &format!("PROXY MIGRATE THROTTLE {id} KEYS 1 DUTY 2"));
    oracle.under_load(|| {
        assert_eq!(state(&start(&mut driver.admin(), &id)), "canary");
        pause(&mut driver.admin(), &id);
        for (number, step) in (1..).zip(&STEPS) {
            let next = Proxy::start_with(&cluster, &SETTINGS);
            let mut admin = next.admin();
            assert_eq!(marked(&cluster, SOURCE), None, "it was paused between two slots");
            let deny = |sign: &str| {
                if let Some((member, command)) = step.denied {
                    rule(&cluster, member, &format!("{sign}{command}"));
                }
            };
            if !step.in_the_middle {
                deny("-");
            }
            json(&mut admin, &format!("PROXY MIGRATE RESUME {id}"));
            let slot = open_slot(&cluster);
            if step.in_the_middle {
                wait_until("keys to move", || {
                    let open = look(&cluster, slot);
                    if open.at_source > 0 && open.at_target > 0 { Ok(()) } else { Err(format!("{open:?}")) }
                });
                deny("-");
            }
            wait_until(step.name, || {
                let open = look(&cluster, slot);
                if (step.is_done)(&open) { Ok(()) } else { Err(format!("{open:?}")) }
            });
            driver.process().kill();
            deny("+");
            driver = next;
            wait_until("another instance to go on", || {
                let found = takeovers(&mut admin, &id);
                if found == number { Ok(()) } else { Err(log(&mut admin, &id)) }
            });
            pause(&mut admin, &id);
        }
        // An order that it had heard and not obeyed yet is not lost with it.
        let next = Proxy::start_with(&cluster, &SETTINGS);
        let mut admin = next.admin();
        json(&mut admin, &format!("PROXY MIGRATE RESUME {id}"));
        open_slot(&cluster);
        let heard = log(&mut admin, &id).matches("ordered PAUSE: the open slot").count();
        let paused = thread::scope(|threads| {
            let order = threads.spawn(|| pause(&mut next.admin(), &id));
            wait_until("the order to be heard", || {
                let log = log(&mut admin, &id);
                if log.matches("ordered PAUSE: the open slot").count() > heard { Ok(()) } else { Err(log) }
            });
            driver.process().kill();
            order.join()
        });
        paused.expect("the next one pauses");
        assert_eq!(takeovers(&mut admin, &id), STEPS.len() + 1, "{}", log(&mut admin, &id));
        assert_whole(&cluster);
        assert!(status(&mut admin, &id)["slots_done"].as_u64() < Some(30));
        json(&mut admin, &format!("PROXY MIGRATE THROTTLE {id} KEYS 1000 DUTY 90"));
        json(&mut admin, &format!("PROXY MIGRATE RESUME {id}"));
        wait_for(&mut admin, &id, "done");
        driver = next;
    });
    driver.assert_alive();
    assert_whole(&cluster);
    assert!(tags.iter().all(|tag| look(&cluster, slot_of(tag)).target_owns));
}

#[test]
fn killed_at_every_step_on_redis() {
    killed_at_every_step(Server::Redis70);
}

#[test]
fn killed_at_every_step_on_valkey() {
    killed_at_every_step(Server::Valkey91);
}
