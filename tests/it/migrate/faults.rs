//! Faults in the middle of a slot: a plan comes to its end all the same, or is paused with a reason that names the cause and the next
//! command.

use std::time::Duration;

use serde_json::Value;

use super::deaths::rule;
use super::runs::{SETTINGS, log, plan, start, state, status};
use super::troubles::{INDEX, at, gates_open, is_marked, wait_for_state};
use super::ways_in::finish;
use super::{WATCHER, answer, json, refused, watcher};
use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::relay::Relay;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};
use crate::migrate_execute::failovers::{fail_over, master};
use crate::migrate_execute::oracle::{FIXED, Oracle, assert_whole};

/// Slots go from here to there. Records are kept where neither is, and so is the index; the last has no part in anything.
const SOURCE: usize = 0;
const TARGET: usize = 2;
const RECORD: usize = 1;
const THIRD: usize = 3;

/// One key at a time, with long rests: a slot takes seconds.
const SLOW: &str = "KEYS 1 DUTY 1";
const FAST: &str = "KEYS 1000 DUTY 90";

/// A cluster, its clients, and an instance that takes over whatever others leave behind.
struct World {
    cluster: Cluster,
    front: Proxy,
    next: Proxy,
    oracle: Oracle,
    tags: Vec<String>,
}

impl World {
    fn start(server: Server, options: ClusterOptions, slots: u16) -> World {
        let cluster =
            Cluster::start(server, ClusterOptions { arguments: [watcher(), options.arguments.clone()].concat(), ..options });
        // What waits for a node that is away is answered when it is back.
        let front = Proxy::start_with(&cluster, &[&WATCHER[..], &[("retry.deadline", "60s")]].concat());
        let next = Proxy::start_with(&cluster, &SETTINGS);
        let tags = tags_in(0..slots);
        let oracle = Oracle::new(front.port, &tags);
        World { cluster, front, next, oracle, tags }
    }

    fn admin(&self) -> Client {
        self.next.admin()
    }

    fn at(&self, member: usize, command: &[&str]) -> Reply {
        self.cluster.member(member).client().call(command)
    }

    fn port(&self, member: usize) -> String {
        self.cluster.member(member).port.to_string()
    }

    /// Starts to move a slot, slowly, and waits until some of its keys have moved.
    fn half_way(&self, driver: &Proxy, slot: u16) -> String {
        let [from, to] = [SOURCE, TARGET].map(|member| self.cluster.member(member).id.clone());
        let mut admin = driver.admin();
        let id = plan(&mut admin, &format!("MOVE {slot} FROM {from} TO {to} MODE classic OBSERVE 0"));
        json(&mut admin, &format!("PROXY MIGRATE THROTTLE {id} {SLOW}"));
        start(&mut admin, &id);
        wait_until("some keys to have moved", || {
            let now = status(&mut self.admin(), &id);
            if now["keys_moved"].as_u64() >= Some(3) { Ok(()) } else { Err(now.to_string()) }
        });
        assert!(is_marked(&self.cluster, SOURCE), "{}", log(&mut self.admin(), &id));
        id
    }

    /// The slot's keys have moved, and the target is kept from making it its own.
    fn drained(&self, id: &str, slot: u16, target: usize, source: usize) {
        rule(&self.cluster, target, "-cluster|setslot");
        json(&mut self.admin(), &format!("PROXY MIGRATE THROTTLE {id} {FAST}"));
        wait_until("the source to have no key left", || {
            let left = self.at(source, &["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]);
            if left == Reply::Integer(0) { Ok(()) } else { Err(left.text()) }
        });
        assert!(is_marked(&self.cluster, source), "{}", log(&mut self.admin(), id));
    }

    fn wait_for_log(&self, id: &str, part: &str) {
        wait_until(part, || {
            let log = log(&mut self.admin(), id);
            if log.contains(part) { Ok(()) } else { Err(log) }
        });
    }

    /// The plan is paused: `parts` are the cause, and it says what comes next.
    fn paused_because(&self, id: &str, parts: &[&str]) -> Value {
        let paused = wait_for_state(&mut self.admin(), id, "paused");
        let reason = paused["reason"].as_str().unwrap_or_default();
        assert!(parts.iter().all(|part| reason.contains(part)) && reason.contains("PROXY MIGRATE RESUME"), "{paused}");
        paused
    }

    fn resume_and_finish(&self, id: &str) {
        gates_open(&mut self.admin(), id);
        finish(&mut self.admin(), id);
    }
}

/// Fault 2: the driver is killed while the source waits for the target's answer to a MIGRATE.
fn killed_within_a_migrate(world: &World, slot: u16) {
    world.oracle.under_load(|| {
        let mut driver = Proxy::start_with(&world.cluster, &SETTINGS);
        let id = world.half_way(&driver, slot);
        world.cluster.member(TARGET).stop();
        wait_until("the source to be blocked", || {
            let mut pulse = world.cluster.member(SOURCE).client();
            pulse.set_timeout(Duration::from_millis(300));
            if pulse.try_call(&["PING"]).is_none() { Ok(()) } else { Err("it answers".to_owned()) }
        });
        driver.process().kill();
        world.cluster.member(TARGET).go_on();
        world.wait_for_log(&id, "taken over");
        finish(&mut world.admin(), &id);
    });
    assert_whole(&world.cluster);
}

/// Fault 15: a master that has no part in the plan is down while the target is made the owner.
fn third_master_down(world: &mut World, slot: u16) {
    let driver = Proxy::start_with(&world.cluster, &SETTINGS);
    let id = world.half_way(&driver, slot);
    world.drained(&id, slot, TARGET, SOURCE);
    world.cluster.kill(THIRD);
    rule(&world.cluster, TARGET, "+cluster|setslot");
    world.paused_because(&id, &[&world.port(THIRD)]);
    world.oracle.check_fixed();
    world.cluster.restart(THIRD);
    world.cluster.wait_for_agreement();
    world.resume_and_finish(&id);
    assert_whole(&world.cluster);
}

/// Fault 19: keys end and are evicted on the way, and no server looks for them by itself.
fn keys_that_end(world: &World, slot: u16) {
    let mut client = world.front.client();
    let names =
        |kind: &str| (0..20).map(|number| format!("{}{kind}:{number}", world.tags[usize::from(slot)])).collect::<Vec<_>>();
    let [gone, soon, evicted] = ["gone", "soon", "evicted"].map(names);
    for member in world.cluster.members() {
        assert_eq!(member.client().call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]), Reply::ok());
    }
    let mut put = |keys: &[String], left_ms: &str| {
        keys.iter().for_each(|key| assert_eq!(client.call(&["SET", key, "here", "PX", left_ms]), Reply::ok()));
    };
    put(&evicted, "1000000");
    put(&gone, "1");
    put(&soon, "2000");
    let driver = Proxy::start_with(&world.cluster, &SETTINGS);
    let id = world.oracle.watched(|| {
        let id = world.half_way(&driver, slot);
        let set = |name: &str, value: &str| assert_eq!(world.at(SOURCE, &["CONFIG", "SET", name, value]), Reply::ok());
        set("maxmemory-policy", "volatile-random");
        set("maxmemory", "1");
        wait_until("keys to be evicted", || {
            let info = world.at(SOURCE, &["INFO", "stats"]).text();
            if info.contains("evicted_keys:0\r") { Err(info) } else { Ok(()) }
        });
        set("maxmemory", "0");
        finish(&mut world.admin(), &id);
        id
    });
    for key in gone.iter().chain(&soon) {
        wait_until("a key to end", || {
            let found = client.call(&["GET", key]);
            if found.is_null() { Ok(()) } else { Err(found.text()) }
        });
    }
    for key in &evicted {
        let found = client.call(&["GET", key]);
        assert!(found.is_null() || found == Reply::bulk("here"), "{key}: {found:?}");
    }
    assert_eq!(json(&mut world.admin(), &format!("PROXY MIGRATE VERIFY {id}"))["verdict"], "ok");
    assert_whole(&world.cluster);
}

/// Fault 5: the driver is cut off from one node alone.
fn partitions(world: &World) {
    let oracle = Oracle::new(world.front.port, &tags_in(100..103));
    let ports: Vec<u16> = world.cluster.members().iter().map(|member| member.port).collect();
    let relays: Vec<Relay> = ports.iter().map(|port| Relay::to(*port)).collect();
    let rules = ports.iter().zip(&relays).map(|(port, relay)| format!("127.0.0.1:{port}=127.0.0.1:{}", relay.port));
    let rules = rules.collect::<Vec<_>>().join(",");
    let driver = Proxy::start_with(&world.cluster, &[&SETTINGS[..], &[("cluster.address_map", &rules)]].concat());
    oracle.under_load(|| {
        for (slot, end) in [(100, SOURCE), (101, TARGET)] {
            let id = world.half_way(&driver, slot);
            relays[end].cut();
            world.paused_because(&id, &["reach"]);
            relays[end].mend();
            world.resume_and_finish(&id);
        }
        // From what keeps the record: another instance goes on.
        let id = world.half_way(&driver, 102);
        relays[RECORD].cut();
        world.wait_for_log(&id, "taken over");
        finish(&mut world.admin(), &id);
        let log = driver.log();
        assert!(log.contains("the lease is lost") || log.contains("is let go"), "{log}");
    });
    assert_whole(&world.cluster);
}

/// An aborted plan is over when its slot is closed, and not before: here a node that would know is down.
fn aborted_without_the_target(world: &mut World, slot: u16) {
    let driver = Proxy::start_with(&world.cluster, &SETTINGS);
    let id = world.half_way(&driver, slot);
    world.cluster.kill(TARGET);
    json(&mut world.admin(), &format!("PROXY MIGRATE THROTTLE {id} {FAST}"));
    std::thread::scope(|threads| {
        // It is obeyed when the slot is closed, and not waited for so long.
        threads.spawn(|| answer(&mut world.admin(), &format!("PROXY MIGRATE ABORT {id}")));
        world.wait_for_log(&id, "waiting: no master of");
    });
    assert_eq!(state(&status(&mut world.admin(), &id)), "aborting");
    world.cluster.restart(TARGET);
    let aborted = wait_for_state(&mut world.admin(), &id, "aborted");
    assert_eq!(aborted["slots_done"], 1, "{aborted}");
    world.oracle.check_fixed();
    assert_whole(&world.cluster);
}

/// A request for keys that are on both ends is answered when these have moved, long before the slot has: whoever asks whichever instance.
fn keys_that_are_waited_for(world: &World, slot: u16) {
    let mut client = world.front.client();
    let tag = &tags_in(slot..slot + 1)[0];
    for number in 0..300 {
        assert_eq!(client.call(&["SET", &format!("{tag}{number}"), "here"]), Reply::ok());
    }
    let driver = Proxy::start_with(&world.cluster, &SETTINGS);
    let id = world.half_way(&driver, slot);
    let keys_at = |member: usize| -> Vec<String> {
        let keys = world.at(member, &["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000"]);
        keys.elements().iter().map(Reply::text).collect()
    };
    for proxy in [&driver, &world.next] {
        let (moved, left) = (keys_at(TARGET), keys_at(SOURCE));
        let (one, other) = (&moved[0], left.last().expect("most of them are there"));
        assert_eq!(proxy.client().call(&["MSETNX", one, "no", other, "no"]), Reply::Integer(0));
        let still_left = keys_at(SOURCE);
        assert!(is_marked(&world.cluster, SOURCE) && still_left.len() > 20 && !still_left.contains(other), "{still_left:?}");
    }
    finish(&mut world.admin(), &id);
    for number in 0..300 {
        assert_eq!(client.call(&["GET", &format!("{tag}{number}")]), Reply::bulk("here"));
    }
    assert_whole(&world.cluster);
}

/// Two orders come while a slot is open. The second means nothing behind the first: whoever gave it is told so.
fn an_order_too_many(world: &World, slot: u16) {
    let driver = Proxy::start_with(&world.cluster, &SETTINGS);
    let id = world.half_way(&driver, slot);
    let answers = std::thread::scope(|threads| {
        let orders = ["ABORT", "PAUSE"].map(|order| {
            let (world, id) = (&world, &id);
            let ordered = threads.spawn(move || answer(&mut world.admin(), &format!("PROXY MIGRATE {order} {id} JSON")));
            world.wait_for_log(id, &format!("ordered {order}: the open slot"));
            ordered
        });
        answer(&mut world.admin(), &format!("PROXY MIGRATE THROTTLE {id} {FAST}"));
        orders.map(|ordered| ordered.join().expect("an answer"))
    });
    assert!(answers[0].contains("aborted"), "{answers:?}");
    let expected = format!("REFUSED plan {id}: PAUSE was not obeyed: expected a plan that moves slots, found one that is abort");
    assert!(answers[1].starts_with(&expected) && answers[1].contains("PROXY MIGRATE STATUS"), "{answers:?}");
    assert_whole(&world.cluster);
}

/// A record that no version understands is of the plan that holds slots: no other can begin until an operator drops it.
fn a_record_that_nobody_reads(world: &World) {
    let mut admin = world.admin();
    let id =
        plan(&mut admin, &format!("MOVE 20 FROM {} TO {} OBSERVE 0", world.cluster.member(0).id, world.cluster.member(1).id));
    let strange = "{keyway:2}:plan:ffffffff";
    at(&world.cluster, strange).call(&["HSET", strange, "plan", "?", "progress", "?", "version", "1"]);
    at(&world.cluster, INDEX).call(&["HSET", INDEX, "ffffffff", "2", "active", "ffffffff"]);
    refused(&mut admin, &format!("PROXY MIGRATE START {id}"), "PROXY MIGRATE FORGET ffffffff");
    refused(&mut admin, "PROXY MIGRATE ADOPT", "PROXY MIGRATE FORGET ffffffff");
    let lease = "{keyway:2}:lease:ffffffff";
    at(&world.cluster, lease).call(&["SET", lease, "99 somebody"]);
    refused(&mut admin, "PROXY MIGRATE FORGET ffff", "BUSY");
    at(&world.cluster, lease).call(&["DEL", lease]);
    assert_eq!(json(&mut admin, "PROXY MIGRATE FORGET ffff")["forgotten"], "ffffffff");
    assert_eq!(at(&world.cluster, strange).call(&["EXISTS", strange]), Reply::Integer(0));
    start(&mut admin, &id);
    finish(&mut admin, &id);
    // One that has ended can go, too.
    assert_eq!(json(&mut admin, &format!("PROXY MIGRATE FORGET {id}"))["forgotten"], id.as_str());
    refused(&mut admin, &format!("PROXY MIGRATE STATUS {id}"), "NOPLAN");
}

/// Marks of one slot that contradict each other are nobody's to finish.
fn marks_that_contradict(world: &World, slot: u16) {
    let slot_text = slot.to_string();
    let set = |member: usize, what: &[&str]| {
        assert_eq!(world.at(member, &[&["CLUSTER", "SETSLOT", &slot_text], what].concat()), Reply::ok());
    };
    set(THIRD, &["IMPORTING", &world.cluster.member(SOURCE).id]);
    set(SOURCE, &["MIGRATING", &world.cluster.member(TARGET).id]);
    let open = json(&mut world.admin(), "PROXY MIGRATE REPAIR DRYRUN");
    assert_eq!((&open["open"], open["left"][0]["slot"].as_u64()), (&Value::Array(vec![]), Some(u64::from(slot))), "{open}");
    assert!(open["left"][0]["why"].as_str().is_some_and(|why| why.contains("different ends")), "{open}");
    refused(&mut world.admin(), "PROXY MIGRATE REPAIR", "UNREPAIRABLE");
    refused(&mut world.admin(), "PROXY MIGRATE ADOPT", "UNREPAIRABLE");
    set(THIRD, &["STABLE"]);
    set(SOURCE, &["STABLE"]);
}

fn faults(server: Server) {
    let debug: &[&str] = if server == Server::Redis62 { &[] } else { &["--enable-debug-command", "yes"] };
    // Nothing that a node has acknowledged is gone when it comes back.
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let options = ClusterOptions {
        masters: 4,
        node_timeout: Duration::from_secs(10),
        full_coverage: false,
        arguments: [debug, &durable].concat().into_iter().map(str::to_owned).collect(),
        ..ClusterOptions::default()
    };
    let mut world = World::start(server, options, 5);
    killed_within_a_migrate(&world, 0);
    keys_that_end(&world, 1);
    third_master_down(&mut world, 2);
    keys_that_are_waited_for(&world, 200);
    if server == Server::Redis70 {
        // What the driver alone sees is the same everywhere.
        marks_that_contradict(&world, 10);
        a_record_that_nobody_reads(&world);
        partitions(&world);
        an_order_too_many(&world, 3);
        aborted_without_the_target(&mut world, 4);
    }
    world.oracle.check_fixed();
}

/// Fault 16: a replica of the target hangs when the target is made the owner, and Valkey does not do so without it. The target is
/// another master than the plan was made for.
#[test]
fn hung_replica_on_valkey() {
    let options = ClusterOptions { replicas_each: 1, ..ClusterOptions::default() };
    let world = World::start(Server::Valkey91, options, 1);
    let [from, to] = [0, 1].map(|member| world.cluster.member(member).id.clone());
    let mut admin = world.admin();
    let id = plan(&mut admin, &format!("MOVE 0 FROM {from} TO {to} MODE classic OBSERVE 0"));
    fail_over(&world.cluster, 1);
    world.cluster.wait_for_agreement();
    let (target, replica) = (master(&world.cluster, 1), 1);
    assert_ne!(target, replica);
    json(&mut admin, &format!("PROXY MIGRATE THROTTLE {id} {SLOW}"));
    world.oracle.watched(|| {
        start(&mut admin, &id);
        wait_until("some keys to have moved", || {
            let now = status(&mut admin, &id);
            if now["keys_moved"].as_u64() >= Some(3) { Ok(()) } else { Err(now.to_string()) }
        });
        world.drained(&id, 0, target, 0);
        world.cluster.member(replica).stop();
        rule(&world.cluster, target, "+cluster|setslot");
        world.wait_for_log(&id, "NOREPLICAS");
        answer(&mut admin, &format!("PROXY MIGRATE PAUSE {id}"));
        world.paused_because(&id, &["NOREPLICAS"]);
        world.cluster.member(replica).go_on();
        world.resume_and_finish(&id);
    });
    let moved = world.at(target, &["CLUSTER", "COUNTKEYSINSLOT", "0"]);
    assert_eq!(moved, Reply::Integer(FIXED as i64));
    assert_whole(&world.cluster);
}

#[test]
fn faults_on_redis_8_2() {
    faults(Server::Redis82);
}

#[test]
fn faults_on_redis() {
    faults(Server::Redis70);
}

#[test]
fn faults_on_valkey() {
    faults(Server::Valkey91);
}
