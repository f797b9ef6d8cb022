//! Slots move to and fro under load, and no client notices: no error, no wrong value, no lost order.
//!
//! `redis-cli --cluster reshard` moves the lowest slots of its source, so the first master's first slots are the ones
//! that travel, and all test data lies in them (and some beside them, which must stay undisturbed).

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::cluster::{ClusterOptions, slot_of, tags_in};
use crate::harness::over::{Over, join};
use crate::harness::servers::tool;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

/// To a newcomer and back, to another and back, and the newcomer again (atomically, where the server can): fewer show too little.
pub const MOVES_MIN: usize = 6;

/// How many slots one reshard moves.
pub const MOVED_SLOTS: u16 = 16;

/// Strings in each slot that never change. Enough for several MIGRATE batches a slot, between which the slot is split.
const FIXED_PER_SLOT: usize = 12;

/// How long slots move, unless `TEST_RESHARD_SECONDS` says so.
const SECONDS_DEFAULT: u64 = 60;

fn duration() -> Duration {
    let seconds = std::env::var("TEST_RESHARD_SECONDS").ok().map(|text| text.parse().expect("TEST_RESHARD_SECONDS is a number"));
    Duration::from_secs(seconds.unwrap_or(SECONDS_DEFAULT))
}

/// What the client threads share.
struct Load {
    port: u16,
    /// Of slots that move, and of a few that stay.
    tags: Vec<String>,
    fixed: Vec<String>,
    over: Over,
    requests: AtomicU64,
}

impl Load {
    fn runs(&self) -> bool {
        !self.over.yet()
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// Counts requests, and leaves the two cores to the others for a moment.
    fn done(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }

    fn any_tag(&self) -> &str {
        &self.tags[fastrand::usize(..self.tags.len())]
    }

    fn any_fixed(&self) -> &str {
        &self.fixed[fastrand::usize(..self.fixed.len())]
    }
}

fn value_of(key: &str) -> Reply {
    Reply::bulk(format!("value of {key}"))
}

fn expect(reply: Reply, expected: &Reply, what: impl FnOnce() -> String) {
    assert!(reply == *expected, "{}: {reply:?} instead of {expected:?}", what());
}

/// Single keys of all kinds; the counters show that nothing is lost or done twice.
fn single_keys(load: &Load, me: usize) {
    let mut client = load.client();
    let mut counts = vec![0; load.tags.len()];
    while load.runs() {
        let fixed = load.any_fixed();
        expect(client.call(&["GET", fixed]), &value_of(fixed), || format!("GET {fixed}"));
        let at = fastrand::usize(..counts.len());
        let key = format!("{}counter:{me}", load.tags[at]);
        counts[at] += 1;
        expect(client.call(&["INCR", &key]), &Reply::Integer(counts[at]), || format!("INCR {key}"));
        let (hash, value) = (format!("{}hash:{me}", load.tags[at]), counts[at].to_string());
        assert!(!client.call(&["HSET", &hash, "f", &value]).is_error());
        expect(client.call(&["HGETALL", &hash]), &Reply::Array(vec![Reply::bulk("f"), Reply::bulk(&value)]), || {
            format!("HGETALL {hash}")
        });
        let missing = format!("{}missing", load.tags[at]);
        expect(client.call(&["GET", &missing]), &Reply::NullBulk, || format!("GET {missing}"));
        load.done(5);
    }
}

/// The same in RESP3, with a key that comes and goes.
fn single_keys_resp3(load: &Load, me: usize) {
    let mut client = load.client();
    assert!(!client.call(&["HELLO", "3"]).is_error());
    while load.runs() {
        let tag = load.any_tag();
        let (set, renamed) = (format!("{tag}set:{me}"), format!("{tag}renamed:{me}"));
        expect(client.call(&["SADD", &set, "a"]), &Reply::Integer(1), || format!("SADD {set}"));
        expect(client.call(&["SMEMBERS", &set]), &Reply::Set(vec![Reply::bulk("a")]), || format!("SMEMBERS {set}"));
        expect(client.call(&["RENAME", &set, &renamed]), &Reply::ok(), || format!("RENAME {set}"));
        expect(client.call(&["EXISTS", &set, &renamed]), &Reply::Integer(1), || format!("EXISTS {set} {renamed}"));
        expect(client.call(&["DEL", &renamed]), &Reply::Integer(1), || format!("DEL {renamed}"));
        expect(client.call(&["HGETALL", &set]), &Reply::Map(vec![]), || format!("HGETALL {set}"));
        load.done(6);
    }
}

/// Pipelines of a hundred over all slots: reads, counters, and writes read back in the same pipeline.
fn pipelines(load: &Load, me: usize) {
    let mut client = load.client();
    let mut counts = vec![0; load.tags.len()];
    for round in 0.. {
        if !load.runs() {
            return;
        }
        let (mut requests, mut expected) = (Vec::new(), Vec::new());
        let mut add = |request: Vec<String>, reply: Reply| {
            requests.push(request);
            expected.push(reply);
        };
        for _ in 0..25 {
            let fixed = load.any_fixed();
            add(vec!["GET".into(), fixed.into()], value_of(fixed));
            let at = fastrand::usize(..counts.len());
            counts[at] += 1;
            add(vec!["INCR".into(), format!("{}pipelined:{me}", load.tags[at])], Reply::Integer(counts[at]));
            let own = format!("{}own:{me}", load.tags[at]);
            add(vec!["SET".into(), own.clone(), format!("{round}")], Reply::ok());
            add(vec!["GET".into(), own], Reply::bulk(format!("{round}")));
        }
        let replies = client.pipeline(&requests);
        for ((request, reply), expected) in requests.iter().zip(replies).zip(&expected) {
            expect(reply, expected, || format!("pipeline {round}: {request:?}"));
        }
        load.done(100);
    }
}

/// MSET, MGET, EXISTS, DEL over all slots at once.
fn many_slots(load: &Load, me: usize) {
    let mut client = load.client();
    let keys: Vec<String> = load.tags.iter().map(|tag| format!("{tag}many:{me}")).collect();
    let with = |command: &str| [vec![command.to_owned()], keys.clone()].concat();
    let count = Reply::Integer(keys.len() as i64);
    for round in 0.. {
        if !load.runs() {
            return;
        }
        let value = round.to_string();
        let mset = [vec!["MSET".to_owned()], keys.iter().flat_map(|key| [key.clone(), value.clone()]).collect()].concat();
        expect(client.call(&mset), &Reply::ok(), || format!("MSET {round}"));
        expect(client.call(&with("MGET")), &Reply::Array(vec![Reply::bulk(&value); keys.len()]), || format!("MGET {round}"));
        expect(client.call(&with("EXISTS")), &count, || format!("EXISTS {round}"));
        let fixed: Vec<String> = (0..30).map(|_| load.any_fixed().to_owned()).collect();
        let values = fixed.iter().map(|key| value_of(key)).collect();
        let mget = [vec!["MGET".to_owned()], fixed].concat();
        expect(client.call(&mget), &Reply::Array(values), || format!("{mget:?}"));
        expect(client.call(&with("DEL")), &count, || format!("DEL {round}"));
        load.done(5);
    }
}

/// Commands on several keys of one slot, which a slot on the move refuses with TRYAGAIN while the keys are apart.
fn one_tag(load: &Load, me: usize) {
    let mut client = load.client();
    for round in 0.. {
        if !load.runs() {
            return;
        }
        let tag = load.any_tag();
        let key = |name: &str| format!("{tag}{name}:{me}");
        let [a, b, c, all] = ["a", "b", "c", "all"].map(key);
        let value = format!("{round}");
        let mut check =
            |command: &[&str], expected: Reply| expect(client.call(command), &expected, || format!("round {round}: {command:?}"));
        check(&["MSET", &a, &value, &b, &value, &c, &value], Reply::ok());
        check(&["MGET", &a, &b, &c], Reply::Array(vec![Reply::bulk(&value); 3]));
        check(&["RENAME", &a, &all], Reply::ok());
        check(&["MGET", &a, &all, &b], Reply::Array(vec![Reply::NullBulk, Reply::bulk(&value), Reply::bulk(&value)]));
        check(&["MSETNX", &a, "x", &b, "x"], Reply::Integer(0));
        check(&["DEL", &a, &b, &c, &all], Reply::Integer(3));
        check(&["SADD", &a, "1", "2"], Reply::Integer(2));
        check(&["SADD", &b, "2", "3"], Reply::Integer(2));
        check(&["SUNIONSTORE", &all, &a, &b], Reply::Integer(3));
        check(&["SCARD", &all], Reply::Integer(3));
        check(&["SINTERSTORE", &all, &a, &b], Reply::Integer(1));
        check(&["SMEMBERS", &all], Reply::Array(vec![Reply::bulk("2")]));
        check(&["UNLINK", &a, &b, &c, &all], Reply::Integer(3));
        load.done(13);
    }
}

const INCREMENT: &str = "return redis.call('INCR',KEYS[1])";
const INCREMENT_BOTH: &str = "return {redis.call('INCR',KEYS[1]),redis.call('INCRBY',KEYS[2],2)}";

/// Scripts on one and on two keys, by body and by hash: each runs exactly once.
fn scripts(load: &Load, me: usize) {
    let mut client = load.client();
    let shas = [INCREMENT, INCREMENT_BOTH].map(|body| client.call(&["SCRIPT", "LOAD", body]).text());
    let mut counts = vec![(0, 0); load.tags.len()];
    while load.runs() {
        let at = fastrand::usize(..counts.len());
        let tag = &load.tags[at];
        let [alone, one, two] = ["alone", "one", "two"].map(|name| format!("{tag}script:{name}:{me}"));
        let (count, pair) = &mut counts[at];
        *count += 2;
        *pair += 2;
        let both = |count: i64| Reply::Array(vec![Reply::Integer(count), Reply::Integer(2 * count)]);
        expect(client.call(&["EVAL", INCREMENT, "1", &alone]), &Reply::Integer(*count - 1), || format!("EVAL {alone}"));
        expect(client.call(&["EVALSHA", &shas[0], "1", &alone]), &Reply::Integer(*count), || format!("EVALSHA {alone}"));
        expect(client.call(&["EVAL", INCREMENT_BOTH, "2", &one, &two]), &both(*pair - 1), || format!("EVAL {one} {two}"));
        expect(client.call(&["EVALSHA", &shas[1], "2", &one, &two]), &both(*pair), || format!("EVALSHA {one} {two}"));
        load.done(4);
    }
}

/// Full walks: what is there from first to last is in every one of them.
fn scans(load: &Load, _me: usize) {
    let mut client = load.client();
    let expected: BTreeSet<&str> = load.fixed.iter().map(String::as_str).collect();
    let mut walks = 0;
    while load.runs() || walks == 0 {
        let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
        let count = if walks % 2 == 0 { "1000" } else { "100" };
        loop {
            let reply = client.call(&["SCAN", &cursor, "MATCH", "*fixed:*", "COUNT", count]);
            let [next, page] = reply.elements() else { panic!("SCAN {cursor}: {reply:?}") };
            found.extend(page.elements().iter().map(Reply::text));
            cursor = next.text();
            load.done(1);
            if cursor == "0" {
                break;
            }
        }
        let missed: Vec<_> = expected.iter().filter(|key| !found.contains(**key)).map(|key| (slot_of(key), *key)).collect();
        assert!(missed.is_empty(), "walk {walks} missed {} of {} keys: {missed:?}", missed.len(), expected.len());
        walks += 1;
    }
    println!("{walks} full walks");
}

/// Commands of one client on one key are executed in the order sent, also while they are redirected.
fn order(load: &Load, me: usize) {
    const LENGTH: usize = 100;
    let mut client = load.client();
    let expected = Reply::Array((1..=LENGTH).map(|n| Reply::bulk(n.to_string())).collect());
    for round in 0.. {
        if !load.runs() {
            return;
        }
        let lists = [format!("{}seq:{me}:{round}", load.any_tag()), format!("{}seq:{me}:{round}:b", load.any_tag())];
        let push = |n: usize| vec!["RPUSH".to_owned(), lists[n % 2].clone(), (n / 2 + 1).to_string()];
        let replies = client.pipeline(&(0..2 * LENGTH).map(push).collect::<Vec<_>>());
        for (n, reply) in replies.into_iter().enumerate() {
            expect(reply, &Reply::Integer((n / 2 + 1) as i64), || format!("round {round}: {:?}", push(n)));
        }
        for list in &lists {
            expect(client.call(&["LRANGE", list, "0", "-1"]), &expected, || format!("round {round}: LRANGE {list}"));
            expect(client.call(&["DEL", list]), &Reply::Integer(1), || format!("DEL {list}"));
        }
        load.done(2 * LENGTH as u64 + 4);
    }
}

const WORKLOADS: [fn(&Load, usize); 8] = [single_keys, single_keys_resp3, pipelines, many_slots, one_tag, scripts, scans, order];

fn reshard(server: Server) {
    // A busy machine must not make the cluster think that a node failed: this test is about moves alone.
    let mut cluster =
        Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(30), ..ClusterOptions::default() });
    let proxy = Proxy::start(&cluster);
    let load = prepare(&proxy);
    let deadline = Instant::now() + duration();
    let moves = std::thread::scope(|threads| {
        // Whoever ends first, by success or by panic, ends the others.
        let workers = WORKLOADS.iter().enumerate().map(|(me, workload)| {
            let load = &load;
            threads.spawn(move || {
                let _over = load.over.when_dropped();
                workload(load, me);
            })
        });
        let workers: Vec<_> = workers.collect();
        let over = load.over.when_dropped();
        let moves = move_slots(&mut cluster, || load.runs(), deadline);
        drop(over);
        for worker in workers {
            join(worker);
        }
        moves
    });
    println!("{server:?}: {moves} moves of slots under {} requests", load.requests.load(Ordering::Relaxed));
    assert!(moves >= MOVES_MIN, "{moves} moves of {MOVED_SLOTS} slots are too few to show anything");
}

fn prepare(proxy: &Proxy) -> Load {
    let mut tags = tags_in(0..2 * MOVED_SLOTS);
    tags.extend(tags_in(8000..8004));
    tags.extend(tags_in(16000..16004));
    let fixed: Vec<String> = tags.iter().flat_map(|tag| (0..FIXED_PER_SLOT).map(move |n| format!("{tag}fixed:{n}"))).collect();
    let set = |key: &String| vec!["SET".to_owned(), key.clone(), value_of(key).text()];
    let replies = proxy.client().pipeline(&fixed.iter().map(set).collect::<Vec<_>>());
    assert!(replies.iter().all(|reply| *reply == Reply::ok()));
    Load { port: proxy.port, tags, fixed, over: Over::default(), requests: AtomicU64::new(0) }
}

/// To the second master and back, then to a master that has just come and back, with each way of moving there is.
/// Returns how many moves were made: on a busy machine, each way once takes longer than the deadline.
pub fn move_slots(cluster: &mut Cluster, goes_on: impl Fn() -> bool, deadline: Instant) -> usize {
    let newcomer = cluster.add_empty_master();
    let mut moves = 0;
    for round in 0.. {
        let target = if round % 2 == 0 { newcomer } else { 1 };
        let atomic = cluster.server == Server::Valkey91 && round % 4 >= 2;
        for (from, to) in [(0, target), (target, 0)] {
            if !goes_on() || (moves >= MOVES_MIN && Instant::now() > deadline) {
                return moves;
            }
            // The newcomer keeps one slot: a master that gives its last one away becomes a replica.
            let count = if from == newcomer { MOVED_SLOTS - 1 } else { MOVED_SLOTS };
            move_lowest_slots(cluster, from, to, count, atomic);
            moves += 1;
        }
    }
    moves
}

/// Moves so many of the source's lowest slots, with redis-cli or by Valkey's atomic migration.
pub fn move_lowest_slots(cluster: &Cluster, from: usize, to: usize, count: u16, atomic: bool) {
    if atomic {
        migrate_slots(cluster, from, to, count);
    } else {
        redis_cli_reshard(cluster, from, to, count);
    }
}

/// `redis-cli --cluster reshard`, tried again while the nodes still spread the news of the last one.
pub fn redis_cli_reshard(cluster: &Cluster, from: usize, to: usize, count: u16) {
    wait_until("redis-cli to move slots", || {
        let mut command = Command::new(tool("redis-cli"));
        command.args(["--cluster", "reshard", &format!("127.0.0.1:{}", cluster.member(0).port)]);
        command.args(["--cluster-from", &cluster.member(from).id, "--cluster-to", &cluster.member(to).id]);
        command.args(["--cluster-slots", &count.to_string(), "--cluster-yes", "--cluster-pipeline", "4"]);
        let output = command.output().expect("redis-cli can be started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            !text.contains("Moving slot") || output.status.success(),
            "the reshard broke off: {text}\nkeys on both sides: {:?}",
            on_both_sides(cluster, from, to)
        );
        if output.status.success() { Ok(()) } else { Err(text) }
    });
    // Operators look before they move on, too: a node that still hears an older claim may take a slot back.
    cluster.wait_for_agreement();
}

/// What a write on the wrong side leaves behind: keys of the moving slots that two nodes hold.
fn on_both_sides(cluster: &Cluster, from: usize, to: usize) -> Vec<String> {
    let keys = |index: usize| {
        let mut client = cluster.member(index).client();
        let mut all = BTreeSet::new();
        for slot in 0..2 * MOVED_SLOTS {
            let reply = client.call(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"]);
            all.extend(reply.elements().iter().map(Reply::text));
        }
        all
    };
    keys(from).intersection(&keys(to)).cloned().collect()
}

/// Valkey's atomic migration of the source's lowest slots.
pub fn migrate_slots(cluster: &Cluster, from: usize, to: usize, count: u16) {
    let source = cluster.view_of(from).into_iter().find(|node| node.id == cluster.member(from).id).expect("it knows itself");
    let (first, last) = source.slot_ranges().next().expect("the source owns slots");
    let last = last.min(first + count - 1);
    let before = owned(cluster, to);
    let (first, last) = (first.to_string(), last.to_string());
    let mut client = cluster.member(from).client();
    wait_until("CLUSTER MIGRATESLOTS to be accepted", || {
        let reply = client.call(&["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &first, &last, "NODE", &cluster.member(to).id]);
        if reply == Reply::ok() { Ok(()) } else { Err(reply.text()) }
    });
    wait_until("CLUSTER MIGRATESLOTS to end", || {
        if owned(cluster, to) > before { Ok(()) } else { Err(format!("{:?}", client.call(&["CLUSTER", "GETSLOTMIGRATIONS"]))) }
    });
    cluster.wait_for_agreement();
}

/// How many slots a member says it owns.
fn owned(cluster: &Cluster, index: usize) -> usize {
    let view = cluster.view_of(index);
    view.iter().find(|node| node.id == cluster.member(index).id).map_or(0, |node| node.slot_count())
}

crate::on_every_server!(reshard);
