//! Nodes that stop, refuse, hold what they should not, or listen to somebody else: a slot moves all the same, or it is said why not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use keyway::migrate::execute::{Done, Event, Halt, Leg, Limits, Mode};
use keyway::migrate::recovery::Trouble;
use keyway::migrate::refusal::Cause;

use super::mover::{Mover, slots};
use super::oracle::{FIXED, Oracle, assert_whole};
use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::over::join;
use crate::harness::{Client, Cluster, PATIENCE, Proxy, Reply, Server};

const USER: Option<(&str, &str)> = Some(("mover", "secret"));

/// Its halt is asserted before long.
const IMPATIENT: Limits = Limits { patience: Duration::from_secs(2), doubt: Duration::from_millis(300) };

struct World {
    cluster: Cluster,
    oracle: Oracle,
    tags: Vec<String>,
    port: u16,
}

impl World {
    fn mover(&self, limits: Limits) -> Mover {
        let mover = Mover::with_limits(&self.cluster, USER, limits);
        mover.throttle.send_modify(|throttle| throttle.keys = 10);
        mover
    }

    fn leg(&self, mover: &Mover, slot: u16) -> Leg {
        mover.leg(&self.cluster, 0, 1, slots(slot..slot + 1), Mode::Classic)
    }

    /// Moves the slot while `act` happens at the first keys that have moved.
    fn disturb(
        &mut self,
        slot: u16,
        limits: Limits,
        mut act: impl FnMut(&mut Cluster) + Send,
    ) -> (Result<Done, Halt>, Vec<Event>) {
        let mut mover = self.mover(limits);
        let leg = self.leg(&mover, slot);
        let (mut once, cluster) = (false, &mut self.cluster);
        mover.run_with(&leg, |event| {
            if matches!(event, Event::KeysMoved { .. }) && !std::mem::replace(&mut once, true) {
                act(cluster);
            }
        })
    }

    /// Moves the slot with nothing in the way.
    fn finish(&mut self, slot: u16) {
        let (done, events) = self.disturb(slot, Limits { patience: PATIENCE, ..IMPATIENT }, |_| {});
        assert_eq!(done.map(|done| done.slots), Ok(1), "{events:#?}");
        self.oracle.check_fixed();
    }

    fn at(&self, member: usize, command: &[&str]) -> Reply {
        self.cluster.member(member).client().call(command)
    }

    fn set_slot(&self, member: usize, slot: u16, what: &[&str]) {
        let slot = slot.to_string();
        assert_eq!(self.at(member, &[&["CLUSTER", "SETSLOT", &slot], what].concat()), Reply::ok());
    }

    /// Writes a key where its slot is not: `owner` has the slot, `member` gets the key.
    fn plant(&self, member: usize, owner: usize, slot: u16, command: &[&str]) {
        self.set_slot(member, slot, &["IMPORTING", &self.cluster.member(owner).id]);
        let mut client = self.cluster.member(member).client();
        assert_eq!(client.call(&["ASKING"]), Reply::ok());
        assert!(!client.call(command).is_error());
        self.set_slot(member, slot, &["STABLE"]);
    }
}

fn troubles(server: Server) {
    let user = ["--user", "mover", "on", ">secret", "~*", "&*", "+@all"];
    // Nothing that a node has acknowledged is gone when it comes back; and nobody is blocked for longer than a second.
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let arguments = [&user[..], &durable].concat().into_iter().map(str::to_owned).collect();
    let options = ClusterOptions { arguments, node_timeout: Duration::from_secs(3), ..ClusterOptions::default() };
    let cluster = Cluster::start(server, options);
    let proxy = Proxy::start(&cluster);
    let tags = tags_in(0..12);
    let mut world = World { cluster, oracle: Oracle::new(proxy.port, &tags), tags, port: proxy.port };
    frozen_target(&mut world, 0);
    restarts(&mut world, 1);
    absent_target(&mut world, 3);
    full_target(&mut world, 4);
    other_password(&mut world, 5);
    large_key(&mut world, 6);
    keys_of_old(&mut world, 7);
    somebody_else(&mut world, 8);
    orphans(&mut world, 9);
    two_drivers(&world, 10, server == Server::Redis70);
    world.finish(11);
    world.oracle.check_fixed();
    assert_whole(&world.cluster);
}

/// The target sleeps past MIGRATE's limit; meanwhile clients change and delete keys that are on their way.
fn frozen_target(world: &mut World, slot: u16) {
    let tag = world.tags[usize::from(slot)].clone();
    let keys: Vec<String> = (0..60).map(|number| format!("{tag}loose:{number}")).collect();
    let mut client = Client::connect(world.port);
    for key in &keys {
        assert_eq!(client.call(&["SET", key, "before"]), Reply::ok());
    }
    let (mut deleted, mut changed) = (BTreeSet::new(), BTreeSet::new());
    let (done, events) = std::thread::scope(|threads| {
        let (told, froze) = std::sync::mpsc::channel();
        let (mut source, pulse) = (world.cluster.member(0).client(), world.cluster.member(0).client());
        let target = world.cluster.member(1).pid();
        let (keys, deleted, changed) = (&keys, &mut deleted, &mut changed);
        threads.spawn(move || {
            froze.recv().expect("keys move");
            wait_for_a_stall(pulse);
            for (number, key) in keys.iter().enumerate() {
                // What has moved already answers ASK, and is left alone.
                if number % 3 == 0 && source.call(&["DEL", key]) == Reply::Integer(1) {
                    deleted.insert(key.clone());
                } else if number % 3 == 1 && source.call(&["SET", key, "after", "XX"]) == Reply::ok() {
                    changed.insert(key.clone());
                }
            }
            signal(target, "CONT");
        });
        world.disturb(slot, Limits { patience: PATIENCE, ..IMPATIENT }, |cluster| {
            cluster.member(1).stop();
            told.send(()).expect("the other thread waits");
        })
    });
    assert_eq!(done.map(|done| done.slots), Ok(1), "{events:#?}");
    assert!(!deleted.is_empty() && !changed.is_empty(), "nothing was on its way: {events:#?}");
    let doubtful: BTreeSet<Vec<u8>> = events
        .iter()
        .filter_map(|event| if let Event::Doubtful { keys, .. } = event { Some(keys) } else { None })
        .flatten()
        .map(|key| key.to_vec())
        .collect();
    for key in &keys {
        let found = client.call(&["GET", key]);
        match () {
            () if deleted.contains(key) => {
                assert!(found.is_null() || doubtful.contains(key.as_bytes()), "{key} came back: {found:?}")
            }
            () if changed.contains(key) => assert_eq!(found, Reply::bulk("after"), "{key}"),
            () => assert_eq!(found, Reply::bulk("before"), "{key}"),
        }
    }
    world.oracle.check_fixed();
}

/// Waits until a node has been busy for a while, and answers again.
fn wait_for_a_stall(mut pulse: Client) {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let asked = Instant::now();
        pulse.call(&["PING"]);
        if asked.elapsed() > Duration::from_millis(300) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the source was never blocked");
}

fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill is part of every system").success());
}

/// Either end is killed in the middle and comes back.
fn restarts(world: &mut World, slot: u16) {
    for (slot, victim) in [(slot, 1), (slot + 1, 0)] {
        let (done, events) = world.disturb(slot, Limits { patience: PATIENCE, ..IMPATIENT }, |cluster| {
            cluster.kill(victim);
            cluster.restart(victim);
        });
        assert_eq!(done.map(|done| done.slots), Ok(1), "{events:#?}");
        world.oracle.check_fixed();
    }
}

/// The target does not come back before patience is at its end.
fn absent_target(world: &mut World, slot: u16) {
    let (done, events) = world.disturb(slot, IMPATIENT, |cluster| cluster.kill(1));
    assert!(matches!(done, Err(Halt::NodeLost { .. })), "{done:?}: {events:#?}");
    world.cluster.restart(1);
    world.cluster.wait_for(|cluster| {
        let info = cluster.member(0).client().call(&["CLUSTER", "INFO"]).text();
        if info.contains("cluster_state:ok") { Ok(()) } else { Err(info) }
    });
    world.finish(slot);
}

fn full_target(world: &mut World, slot: u16) {
    assert_eq!(world.at(1, &["CONFIG", "SET", "maxmemory", "1"]), Reply::ok());
    let (done, events) = world.disturb(slot, IMPATIENT, |_| {});
    let expected = Halt::Refused { slot: slots(slot..slot + 1)[0], cause: Cause::OutOfMemory };
    assert_eq!(done, Err(expected), "{events:#?}");
    assert_eq!(world.at(1, &["CONFIG", "SET", "maxmemory", "0"]), Reply::ok());
    world.finish(slot);
}

/// The account's password changes at the target in the middle of a slot, while the source still has a connection from before.
fn other_password(world: &mut World, slot: u16) {
    let (done, events) = world.disturb(slot, IMPATIENT, |cluster| {
        let mut target = cluster.member(1).client();
        assert_eq!(target.call(&["ACL", "SETUSER", "mover", "resetpass", ">other"]), Reply::ok());
    });
    let expected = Halt::Refused { slot: slots(slot..slot + 1)[0], cause: Cause::Credentials };
    assert_eq!(done, Err(expected), "{events:#?}");
    assert_eq!(world.at(1, &["ACL", "SETUSER", "mover", "resetpass", ">secret"]), Reply::ok());
    world.finish(slot);
}

/// A large key moves alone, and is announced.
fn large_key(world: &mut World, slot: u16) {
    let key = format!("{}large", world.tags[usize::from(slot)]);
    let mut client = Client::connect(world.port);
    for thousand in 0..20 {
        let fields = (0..1000).flat_map(|field| [format!("{thousand}:{field}"), "v".repeat(60)]);
        let command: Vec<String> = ["HSET".to_owned(), key.clone()].into_iter().chain(fields).collect();
        assert_eq!(client.call(&command), Reply::Integer(1000));
    }
    let (done, events) = world.disturb(slot, IMPATIENT, |_| {});
    assert_eq!(done.map(|done| done.keys), Ok(FIXED as u64 + 1), "{events:#?}");
    let announced =
        events.iter().position(|event| matches!(event, Event::BigKey { key: found, .. } if **found == *key.as_bytes()));
    let next = announced.and_then(|at| events.get(at + 1));
    assert!(matches!(next, Some(Event::KeysMoved { keys: 1, bytes, .. }) if *bytes > 1 << 20), "{next:?} of {events:#?}");
    assert_eq!(client.call(&["HLEN", &key]), Reply::Integer(20_000));
}

/// An earlier attempt of somebody left a key at the target.
fn keys_of_old(world: &mut World, slot: u16) {
    let key = format!("{}fixed:0", world.tags[usize::from(slot)]);
    world.plant(1, 0, slot, &["SET", &key, "old"]);
    let (done, _) = world.disturb(slot, IMPATIENT, |_| {});
    let expected = Halt::Trouble { slot: slots(slot..slot + 1)[0], trouble: Trouble::StrayKeysAtTarget };
    assert_eq!(done, Err(expected));
    world.plant(1, 0, slot, &["DEL", &key]);
    world.finish(slot);
}

/// Another tool turns the source's mark to another node in the middle.
fn somebody_else(world: &mut World, slot: u16) {
    let (done, events) = world.disturb(slot, IMPATIENT, |cluster| {
        let third = cluster.member(2).id.clone();
        let command = ["CLUSTER", "SETSLOT", &slot.to_string(), "MIGRATING", &third];
        assert_eq!(cluster.member(0).client().call(&command), Reply::ok());
    });
    let expected = Halt::Trouble { slot: slots(slot..slot + 1)[0], trouble: Trouble::ForeignMark };
    assert_eq!(done, Err(expected), "{events:#?}");
    world.set_slot(0, slot, &["MIGRATING", &world.cluster.member(1).id.clone()]);
    world.finish(slot);
}

/// Keys that the source holds of a slot that is the target's already.
fn orphans(world: &mut World, slot: u16) {
    world.finish(slot);
    let key = format!("{}orphan", world.tags[usize::from(slot)]);
    world.plant(0, 1, slot, &["SET", &key, "lost"]);
    let (done, _) = world.disturb(slot, IMPATIENT, |_| {});
    let expected = Halt::Trouble { slot: slots(slot..slot + 1)[0], trouble: Trouble::OrphansAtSource };
    assert_eq!(done, Err(expected));
    world.plant(0, 1, slot, &["DEL", &key]);
    world.finish(slot);
}

/// A driver that sleeps past its lease finds that another has taken over, and does nothing more: although that one is through, and
/// gone; although the record has forgotten it, as long as it stands guard; and although nobody is connected, by the token on the nodes.
fn two_drivers(world: &World, slot: u16, tokens: bool) {
    let mut stale = world.mover(IMPATIENT);
    let leg = world.leg(&stale, slot);
    let (mut once, held) = (false, stale.held.clone());
    let (done, events) = stale.run_with(&leg, |event| {
        if matches!(event, Event::KeysMoved { .. }) && !std::mem::replace(&mut once, true) {
            held.send_replace(false);
            let moved = std::thread::scope(|threads| {
                join(threads.spawn(|| {
                    let mut next = world.mover(IMPATIENT);
                    let leg = world.leg(&next, slot);
                    next.run(&leg).0
                }))
            });
            assert_eq!(moved.map(|done| done.slots), Ok(1));
        }
    });
    assert_eq!(done, Err(Halt::Fenced), "{events:#?}");
    // The lease ends by itself.
    let mut late = world.mover(IMPATIENT);
    late.lease.send_replace(Instant::now());
    let leg = world.leg(&late, slot + 1);
    assert_eq!(late.run(&leg).0, Err(Halt::Fenced));
    // The record has forgotten who drives, and the new one is not connected to these nodes but for its guard.
    let mut stale = world.mover(IMPATIENT);
    let (mut once, (told, over)) = (false, std::sync::mpsc::channel::<()>());
    let (done, events) = std::thread::scope(|threads| {
        let mut over = Some(over);
        let ended = stale.run_with(&leg, |event| {
            if let Some(over) = over.take_if(|_| matches!(event, Event::KeysMoved { .. }) && !std::mem::replace(&mut once, true))
            {
                let (stands, standing) = std::sync::mpsc::channel();
                threads.spawn(move || {
                    let next = Mover::with_limits(&world.cluster, USER, IMPATIENT);
                    let _guard = next.guard();
                    let named = || {
                        let list = |member: usize| world.at(member, &["CLIENT", "LIST"]).text();
                        (0..2).all(|member| list(member).contains(&format!("name=keyway:{} ", next.token)))
                    };
                    next.idle(|| !named());
                    stands.send(()).expect("the other thread waits");
                    next.idle(|| over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty));
                });
                standing.recv().expect("the guard stands");
            }
        });
        drop(told);
        ended
    });
    assert_eq!(done, Err(Halt::Fenced), "{events:#?}");
    if tokens {
        // A later driver was there, and left nothing but its token.
        let mut stale = world.mover(IMPATIENT);
        let leg = world.leg(&stale, slot + 1);
        let mut once = false;
        let (done, events) = stale.run_with(&leg, |event| {
            if matches!(event, Event::KeysMoved { .. }) && !std::mem::replace(&mut once, true) {
                let key = world.at(1, &["KEYS", "{keyway:*}:fence"]).elements()[0].text();
                assert_eq!(world.at(1, &["SET", &key, "1000000000"]), Reply::ok());
            }
        });
        assert_eq!(done, Err(Halt::Fenced), "{events:#?}");
        for member in 0..2 {
            for key in world.at(member, &["KEYS", "{keyway:*}:fence"]).elements() {
                assert_eq!(world.at(member, &["DEL", &key.text()]), Reply::Integer(1));
            }
        }
    }
}

/// What a node does in these troubles does not differ within Redis's versions.
#[test]
fn redis() {
    troubles(Server::Redis70);
}

#[test]
fn valkey() {
    troubles(Server::Valkey91);
}
