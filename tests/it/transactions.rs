//! Transactions against real servers: whole or not at all and once, whatever the slots and the masters do meanwhile.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::cluster::{ClusterOptions, slot_of, tags_in};
use crate::harness::over::{Over, join};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};
use crate::reshard::{MOVED_SLOTS, MOVES_MIN, move_slots};

/// How long slots move.
const MOVING: Duration = Duration::from_secs(10);

const OUTCOME_UNKNOWN: &[u8] = b"ERR proxy: outcome unknown";

fn outcome_unknown(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with(OUTCOME_UNKNOWN))
}

fn integers(numbers: &[i64]) -> Reply {
    Reply::Array(numbers.iter().map(|number| Reply::Integer(*number)).collect())
}

fn line(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// MULTI, the commands, EXEC, one by one or in one write. Answers what EXEC said; anything but QUEUED before is an error.
fn transaction(client: &mut Client, commands: &[String], at_once: bool) -> Reply {
    let mut requests = vec![line("MULTI")];
    requests.extend(commands.iter().map(|command| line(command)));
    requests.push(line("EXEC"));
    let mut replies =
        if at_once { client.pipeline(&requests) } else { requests.iter().map(|request| client.call(request)).collect() };
    let result = replies.pop().expect("a reply for each request");
    assert_eq!(replies.remove(0), Reply::ok(), "MULTI");
    for (command, reply) in commands.iter().zip(&replies) {
        assert_eq!(*reply, Reply::Simple(b"QUEUED".to_vec()), "{command}");
    }
    result
}

/// How often something was done for certain, and how often nobody knows.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    done: i64,
    unknown: i64,
}

impl Count {
    fn note(&mut self, reply: &Reply) -> bool {
        let unknown = outcome_unknown(reply);
        if unknown {
            self.unknown += 1;
        } else {
            self.done += 1;
        }
        !unknown
    }
}

/// What the threads share.
struct Load {
    port: u16,
    per_slot_port: u16,
    tags: Vec<String>,
    over: Over,
    /// By counter: what all threads did to it.
    counts: Mutex<BTreeMap<String, Count>>,
}

impl Load {
    fn runs(&self) -> bool {
        !self.over.yet()
    }

    fn any_tag(&self) -> &str {
        std::thread::sleep(Duration::from_millis(2));
        &self.tags[fastrand::usize(..self.tags.len())]
    }

    fn add(&self, counts: BTreeMap<String, Count>) {
        let mut all = self.counts.lock().expect("no thread panics with the lock");
        for (key, count) in counts {
            let entry = all.entry(key).or_default();
            entry.done += count.done;
            entry.unknown += count.unknown;
        }
    }
}

/// Pairs of counters that only ever change together: every EXEC shows them equal, whoever else counts.
fn counters(load: &Load, me: usize) {
    let mut client = Client::connect(load.port);
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    while load.runs() {
        let tag = load.any_tag();
        let [one, two] = ["pair:one", "pair:two"].map(|name| format!("{tag}{name}"));
        let commands = [format!("INCR {one}"), format!("INCR {two}"), "PING".to_owned()];
        let reply = transaction(&mut client, &commands, me.is_multiple_of(2));
        let (one, two) = (counts.entry(one).or_default().note(&reply), counts.entry(two).or_default().note(&reply));
        if one && two {
            let [Reply::Integer(one), Reply::Integer(two), pong] = reply.elements() else { panic!("EXEC: {reply:?}") };
            assert_eq!((one, pong), (two, &Reply::Simple(b"PONG".to_vec())), "{tag}");
        }
    }
    load.add(counts);
}

/// Keys that come and go within a transaction: a slot on the move has them on neither side.
fn fresh_keys(load: &Load, me: usize) {
    let mut client = Client::connect(load.port);
    client.call(&["HELLO", "3"]);
    let mut round = 0;
    while load.runs() {
        round += 1;
        let tag = load.any_tag();
        let key = format!("{tag}fresh:{me}:{round}");
        let commands = [format!("SADD {key} a"), format!("SMEMBERS {key}"), format!("DEL {key}"), format!("EXISTS {key}")];
        let reply = transaction(&mut client, &commands, round % 2 == 0);
        if !outcome_unknown(&reply) {
            let expected =
                Reply::Array(vec![Reply::Integer(1), Reply::Set(vec![Reply::bulk("a")]), Reply::Integer(1), Reply::Integer(0)]);
            assert_eq!(reply, expected, "{key}");
        }
    }
}

const INCREMENT: &str = "return redis.call('INCR',KEYS[1])";

/// Scripts by their hash: where they were never loaded EXEC could not load them.
fn scripts(load: &Load, me: usize) {
    let mut client = Client::connect(load.port);
    let sha = client.call(&["SCRIPT", "LOAD", INCREMENT]).text();
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    while load.runs() {
        let tag = load.any_tag();
        let key = format!("{tag}scripted:{me}");
        let commands = [format!("EVALSHA {sha} 1 {key}"), format!("EVALSHA {sha} 1 {key}"), format!("GET {key}")];
        let reply = transaction(&mut client, &commands, true);
        if counts.entry(key).or_default().note(&reply) {
            let [Reply::Integer(one), Reply::Integer(two), value] = reply.elements() else { panic!("EXEC: {reply:?}") };
            assert_eq!((*two, value), (one + 1, &Reply::bulk(two.to_string())), "{tag}");
        }
    }
    load.add(counts.into_iter().map(|(key, count)| (key, Count { done: 2 * count.done, unknown: 2 * count.unknown })).collect());
}

/// Compare and set: read under WATCH, write what was read plus one. Every success counts once.
fn compare_and_set(load: &Load, me: usize) {
    let mut client = Client::connect(load.port);
    let proto = if me.is_multiple_of(2) { "2" } else { "3" };
    client.call(&["HELLO", proto]);
    let null = if proto == "2" { Reply::NullArray } else { Reply::Null };
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    let mut lost = 0;
    while load.runs() {
        let key = format!("{}watched", load.any_tag());
        let count = counts.entry(key.clone()).or_default();
        for _ in 0..100 {
            let watched = client.call(&["WATCH", &key]);
            assert_eq!(watched, Reply::ok(), "WATCH {key}");
            let found = client.call(&["GET", &key]);
            assert!(!found.is_error(), "GET {key}: {found:?}");
            if fastrand::u8(..) < 16 {
                assert_eq!(client.call(&["UNWATCH"]), Reply::ok());
                break;
            }
            let value: i64 = if found.is_null() { 0 } else { found.text().parse().expect("a number") };
            let reply = transaction(&mut client, &[format!("SET {key} {}", value + 1)], false);
            if reply == null {
                lost += 1;
                continue;
            }
            if count.note(&reply) {
                assert_eq!(reply, Reply::Array(vec![Reply::ok()]), "{key}");
            }
            break;
        }
    }
    println!("compare and set {me}: {} done, {lost} lost", counts.values().map(|count| count.done).sum::<i64>());
    load.add(counts);
}

/// One transaction over several slots, as `cross_slot.transactions = "per-slot"` allows it.
fn per_slot(load: &Load, me: usize) {
    let mut client = Client::connect(load.per_slot_port);
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    while load.runs() {
        let keys: Vec<String> = (0..3).map(|_| format!("{}spread:{me}", load.any_tag())).collect();
        let mut commands = vec!["PING".to_owned()];
        commands.extend(keys.iter().map(|key| format!("INCR {key}")));
        commands.push(format!("MGET {}", keys.join(" ")));
        let reply = transaction(&mut client, &commands, true);
        let [pong, increments @ .., values] = reply.elements() else { panic!("EXEC: {reply:?}") };
        assert!(*pong == Reply::Simple(b"PONG".to_vec()) || outcome_unknown(pong), "{reply:?}");
        let mut known = true;
        for (key, reply) in keys.iter().zip(increments) {
            known &= counts.entry(key.clone()).or_default().note(reply);
            assert!(matches!(reply, Reply::Integer(_)) || outcome_unknown(reply), "{key}: {reply:?}");
        }
        if known {
            let [last, value] = [&increments[2], &values.elements()[2]];
            assert_eq!(*value, Reply::bulk(last.integer().expect("a number").to_string()), "{keys:?}: {reply:?}");
        }
    }
    load.add(counts);
}

type Workload = fn(&Load, usize);

const WORKLOADS: [Workload; 9] =
    [counters, counters, fresh_keys, scripts, compare_and_set, compare_and_set, compare_and_set, compare_and_set, per_slot];

/// Runs all workloads while `trouble` happens, then compares every counter with what was done to it.
fn under_load(load: &Load, is_lossy: impl Fn(&str) -> bool, trouble: impl FnOnce(&Load)) -> i64 {
    std::thread::scope(|threads| {
        let spawn = |(me, workload): (usize, &Workload)| {
            let workload = *workload;
            threads.spawn(move || {
                let _over = load.over.when_dropped();
                workload(load, me);
            })
        };
        let workers: Vec<_> = WORKLOADS.iter().enumerate().map(spawn).collect();
        let over = load.over.when_dropped();
        trouble(load);
        drop(over);
        workers.into_iter().for_each(join);
    });
    let counts = load.counts.lock().expect("all threads have ended");
    let mut client = Client::connect(load.port);
    let mut unknown = 0;
    for (key, count) in counts.iter() {
        let value = client.call(&["GET", key]);
        let value: i64 = if value.is_null() { 0 } else { value.text().parse().expect("a counter") };
        assert!(value <= count.done + count.unknown, "{key} is {value} after {count:?}: something ran twice");
        assert!(value >= count.done || is_lossy(key), "{key} is {value} after {count:?}: something was lost");
        unknown += count.unknown;
    }
    let done: i64 = counts.values().map(|count| count.done).sum();
    println!("{} counters, {done} steps, {unknown} of unknown outcome", counts.len());
    assert!(done > 500, "{done} steps are too few to show anything");
    unknown
}

fn load(proxy: &Proxy, per_slot: &Proxy, tags: Vec<String>) -> Load {
    Load { port: proxy.port, per_slot_port: per_slot.port, tags, over: Over::default(), counts: Mutex::default() }
}

const PER_SLOT: (&str, &str) = ("cross_slot.transactions", "per-slot");

fn slots_move(server: Server) {
    let mut cluster =
        Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(30), ..ClusterOptions::default() });
    let (proxy, per_slot) = (Proxy::start(&cluster), Proxy::start_with(&cluster, &[PER_SLOT]));
    // Few slots, that every thread meets the others and a slot in the middle of its move.
    let mut tags = tags_in(0..MOVED_SLOTS / 2);
    tags.extend(tags_in(16000..16002));
    fill(&proxy, &tags);
    let load = load(&proxy, &per_slot, tags);
    let mut moves = 0;
    let unknown = under_load(
        &load,
        |_| false,
        |load| {
            moves = move_slots(&mut cluster, || load.runs(), Instant::now() + MOVING);
        },
    );
    println!("{server:?}: {moves} moves");
    assert_eq!(unknown, 0, "no connection broke");
    assert!(moves >= MOVES_MIN, "{moves} moves are too few to show anything");
}

/// Other keys beside those of interest, so that moving a slot takes its time.
fn fill(proxy: &Proxy, tags: &[String]) {
    let keys = tags.iter().flat_map(|tag| (0..40).map(move |number| format!("{tag}filler:{number}")));
    let requests: Vec<Vec<String>> = keys.map(|key| vec!["SET".to_owned(), key, "x".repeat(100)]).collect();
    assert!(proxy.client().pipeline(&requests).iter().all(|reply| *reply == Reply::ok()));
}

fn master_dies(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::with_failover());
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    let per_slot = Proxy::start_with(&cluster, &[("retry.deadline", "45s"), PER_SLOT]);
    let dying = tags_in(0..4);
    let tags = [dying.clone(), tags_in(8000..8004), tags_in(16000..16004)].concat();
    let load = load(&proxy, &per_slot, tags);
    let on_the_dying = |key: &str| dying.iter().any(|tag| key.starts_with(tag.as_str()));
    under_load(&load, on_the_dying, |_| {
        std::thread::sleep(Duration::from_secs(2));
        cluster.kill(0);
        wait_until("the replica to be master", || {
            let view = cluster.view_of(3);
            let heir = view.iter().find(|node| node.id == cluster.member(3).id).expect("it knows itself");
            if heir.is_master() && heir.owns(0) { Ok(()) } else { Err(format!("{view:?}")) }
        });
        std::thread::sleep(Duration::from_secs(2));
    });
    let counts = load.counts.lock().expect("all threads have ended");
    for (key, count) in counts.iter() {
        assert!(count.unknown == 0 || on_the_dying(key), "{key} is on a node that lived: {count:?}");
    }
}

/// A slot between two nodes, its keys on both, made by hand.
struct Halfway {
    slot: String,
    source: usize,
    target: usize,
}

impl Halfway {
    fn open(cluster: &Cluster, slot: u16, source: usize, target: usize) -> Halfway {
        let open = Halfway { slot: slot.to_string(), source, target };
        let [source, target] = [open.source, open.target].map(|index| cluster.member(index));
        let importing = target.client().call(&["CLUSTER", "SETSLOT", &open.slot, "IMPORTING", &source.id]);
        assert_eq!(importing, Reply::ok());
        let migrating = source.client().call(&["CLUSTER", "SETSLOT", &open.slot, "MIGRATING", &target.id]);
        assert_eq!(migrating, Reply::ok());
        open
    }

    fn move_key(&self, cluster: &Cluster, key: &str) {
        let port = cluster.member(self.target).port.to_string();
        let reply = cluster.member(self.source).client().call(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        assert!(reply == Reply::ok() || reply == Reply::Simple(b"NOKEY".to_vec()), "{reply:?}");
    }

    fn close(self, cluster: &Cluster) {
        let id = &cluster.member(self.target).id;
        for index in [self.target, self.source, 2] {
            assert_eq!(cluster.member(index).client().call(&["CLUSTER", "SETSLOT", &self.slot, "NODE", id]), Reply::ok());
        }
        cluster.wait_for_agreement();
    }
}

fn halfway(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let tag = &tags_in(7..8)[0];
    let key = |name: &str| format!("{tag}{name}");
    let [here, there, missing] = ["here", "there", "missing"].map(key);
    let mut client = proxy.client();
    for (key, value) in [(&here, "10"), (&there, "20")] {
        assert_eq!(client.call(&["SET", key, value]), Reply::ok());
    }
    let slot = Halfway::open(&cluster, slot_of(tag), 0, 1);
    slot.move_key(&cluster, &there);
    for at_once in [false, true] {
        let mut check = |commands: &[String], expected: Reply| {
            assert_eq!(transaction(&mut client, commands, at_once), expected, "{commands:?}");
        };
        check(&[format!("INCR {here}"), format!("DECR {here}")], integers(&[11, 10]));
        check(&[format!("INCR {there}"), format!("DECR {there}")], integers(&[21, 20]));
        check(&[format!("SET {missing} 1"), format!("DEL {missing}")], Reply::Array(vec![Reply::ok(), Reply::Integer(1)]));
        check(
            &[format!("EVAL return\u{a0}redis.call('GET',KEYS[1]) 1 {there}").replace('\u{a0}', "\t"), "PING".into()],
            Reply::Array(vec![Reply::bulk("20"), Reply::Simple(b"PONG".to_vec())]),
        );
    }
    // Watched on either side.
    for (key, value) in [(&here, "10"), (&there, "20")] {
        for changed in [false, true] {
            assert_eq!(client.call(&["WATCH", key]), Reply::ok());
            assert_eq!(client.call(&["GET", key]), Reply::bulk(value));
            if changed {
                assert_eq!(proxy.client().call(&["SET", key, value]), Reply::ok());
            }
            let expected = if changed { Reply::NullArray } else { Reply::Array(vec![Reply::bulk(value)]) };
            assert_eq!(transaction(&mut client, &[format!("GET {key}")], false), expected, "{key}, changed: {changed}");
        }
    }
    // Keys on both sides are served when they are together again.
    let both = [format!("INCR {here}"), format!("INCR {there}")];
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| transaction(&mut proxy.client(), &both, true));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "it waits for its keys to meet");
        slot.move_key(&cluster, &here);
        assert_eq!(join(waiting), integers(&[11, 21]));
    });
    // What is watched where it went to stays watched there.
    assert_eq!(client.call(&["WATCH", &here]), Reply::ok());
    slot.close(&cluster);
    assert_eq!(transaction(&mut client, &[format!("GET {here}")], false), Reply::Array(vec![Reply::bulk("11")]));
    assert_eq!(transaction(&mut client, &both, true), integers(&[12, 22]));
    // A key that goes away changes for who watches it, and so does a slot, whether or not its keys are there.
    let mut other = proxy.client();
    assert_eq!(other.call(&["WATCH", &missing]), Reply::ok());
    let slot = Halfway::open(&cluster, slot_of(tag), 1, 0);
    assert_eq!(client.call(&["WATCH", &here]), Reply::ok());
    slot.move_key(&cluster, &here);
    assert_eq!(transaction(&mut client, &[format!("GET {there}")], false), Reply::NullArray, "the key went away");
    assert_eq!(transaction(&mut client, &[format!("GET {here}")], false), Reply::Array(vec![Reply::bulk("12")]));
    slot.move_key(&cluster, &there);
    slot.close(&cluster);
    assert_eq!(transaction(&mut other, &[format!("SET {missing} 1")], false), Reply::NullArray, "the slot went away");
    assert_eq!(transaction(&mut other, &both, true), integers(&[13, 23]));
}

/// What cannot be done says so at once, with what would help, and ends the transaction.
fn refusals(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut client = proxy.client();
    let refused = |client: &mut Client, request: &[&str]| -> String {
        assert_eq!(client.call(&["MULTI"]), Reply::ok());
        let reply = client.call(request);
        assert!(reply.is_error(), "{request:?}: {reply:?}");
        let aborted = Reply::error("EXECABORT Transaction discarded because of previous errors.");
        assert_eq!(client.call(&["EXEC"]), aborted, "{request:?}");
        reply.text()
    };
    let all = ["DBSIZE", "FLUSHALL", "INFO", "RANDOMKEY", "KEYS *", "SCAN 0", "SCRIPT EXISTS x", "SUBSCRIBE c", "CLIENT LIST"];
    for command in all.iter().chain(&["CLIENT REPLY OFF", "CLIENT UNPAUSE", "SHUTDOWN"]) {
        let request: Vec<&str> = command.split(' ').collect();
        let text = refused(&mut client, &request);
        assert!(text.starts_with("ERR proxy: "), "{command}: {text}");
    }
    let words = "CROSSSLOT Keys in request don't hash to the same slot (proxy: key 'a' in slot 15495 and key 'b' in slot 3300; ";
    let text = refused(&mut client, &["MGET", "a", "b"]);
    assert!(text.starts_with(words), "{text}");
    assert_eq!(client.call(&["MULTI"]), Reply::ok());
    assert_eq!(client.call(&["SET", "a", "1"]), Reply::Simple(b"QUEUED".to_vec()));
    let text = client.call(&["SET", "b", "1"]).text();
    assert!(text.starts_with(words) && text.contains("cross_slot.transactions"), "{text}");
    assert_eq!(client.call(&["DISCARD"]), Reply::ok());
    assert_eq!(client.call(&["WATCH", "a"]), Reply::ok());
    let text = client.call(&["WATCH", "b"]).text();
    assert!(text.starts_with(words), "{text}");
    let text = refused(&mut client, &["SET", "b", "1"]);
    assert!(text.starts_with(words), "a watched key binds: {text}");
    assert_eq!(transaction(&mut client, &["SET b 1".to_owned()], false), Reply::Array(vec![Reply::ok()]), "it binds no more");
}

/// Sizes: many commands, large ones, large replies, and pipelines of transactions.
fn sizes(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut client = proxy.client();
    for commands in [1, 1000, 70_000] {
        let all: Vec<String> = (0..commands).map(|_| "INCR {s}many".to_owned()).collect();
        let reply = transaction(&mut client, &all, true);
        let first = reply.elements().first().and_then(Reply::integer).expect("a number");
        assert_eq!(reply, integers(&(first..first + commands).collect::<Vec<_>>()), "{commands} commands");
    }
    for size in [100, 20_000, 70_000, 5_000_000] {
        let value = "x".repeat(size);
        let commands = [format!("SET {{s}}large {value}"), "STRLEN {s}large".into(), "GET {s}large".into(), "PING".into()];
        let pong = Reply::Simple(b"PONG".to_vec());
        let expected = Reply::Array(vec![Reply::ok(), Reply::Integer(size as i64), Reply::bulk(&value), pong]);
        for at_once in [false, true] {
            assert_eq!(transaction(&mut client, &commands, at_once), expected, "{size} bytes");
        }
        // Also where the reply is put together by the proxy.
        let commands = [&commands[..], &["CLIENT GETNAME".to_owned()]].concat();
        assert_eq!(transaction(&mut client, &commands, true).elements()[..4], *expected.elements(), "{size} bytes");
    }
    let one = |number: usize| vec![line("MULTI"), line(&format!("INCR {{p{number}}}n")), line("EXEC"), line("INCR {p0}n")];
    let replies = client.pipeline(&(0..500).flat_map(|number| one(number % 7)).collect::<Vec<_>>());
    let counted: Vec<i64> = replies
        .chunks(4)
        .enumerate()
        .flat_map(|(number, replies)| [(number % 7 == 0).then(|| replies[2].elements()[0].integer()), Some(replies[3].integer())])
        .flatten()
        .map(|number| number.expect("a number"))
        .collect();
    assert_eq!(counted, (1..=counted.len() as i64).collect::<Vec<_>>(), "in the order sent");
}

/// CLIENT REPLY and CLIENT LIST know of transactions, and what is watched ends with its client.
fn connections(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &[("limits.private_lanes", "4"), ("retry.deadline", "5s"), ("proxy.workers", "1")]);
    let mut client = proxy.client();
    let send = |client: &mut Client, text: &str| client.send(text.as_bytes()).expect("sent");
    send(&mut client, "CLIENT REPLY SKIP\r\nMULTI\r\nINCR a\r\nEXEC\r\n");
    assert_eq!(client.receive().expect("a reply"), Reply::Simple(b"QUEUED".to_vec()));
    assert_eq!(client.receive().expect("a reply"), integers(&[1]));
    send(&mut client, "CLIENT REPLY OFF\r\nMULTI\r\nINCR a\r\nEXEC\r\nMULTI\r\nINCR\r\nEXEC\r\nCLIENT REPLY ON\r\nGET a\r\n");
    assert_eq!(client.receive().expect("a reply"), Reply::ok());
    assert_eq!(client.receive().expect("a reply"), Reply::bulk("2"));

    assert_eq!(client.call(&["CLIENT", "SETNAME", "queues"]), Reply::ok());
    assert_eq!(client.call(&["WATCH", "a", "a", "{a}b"]), Reply::ok());
    assert_eq!(client.call(&["MULTI"]), Reply::ok());
    for _ in 0..3 {
        client.call(&["GET", "a"]);
    }
    let text = proxy.client().call(&["CLIENT", "LIST"]).text();
    let line = text.lines().find(|line| line.contains(" name=queues ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains(" flags=x ") && line.contains(" multi=3 "), "{line}");
    assert_eq!(line.contains(" watch=2 "), line.contains(" watch="), "{line}");
    drop(client);

    // A pause of writes holds EXEC if it writes, and only then.
    let (mut reader, mut writer) = (proxy.client(), proxy.client());
    for (client, command) in [(&mut reader, ["GET", "a"]), (&mut writer, ["INCR", "a"])] {
        assert_eq!(client.call(&["MULTI"]), Reply::ok());
        assert_eq!(client.call(&command), Reply::Simple(b"QUEUED".to_vec()));
    }
    let mut admin = proxy.client();
    assert_eq!(admin.call(&["CLIENT", "PAUSE", "60000", "WRITE"]), Reply::ok());
    send(&mut writer, "EXEC\r\n");
    assert_eq!(reader.call(&["EXEC"]), Reply::Array(vec![Reply::bulk("2")]));
    assert_eq!(reader.call(&["GET", "a"]), Reply::bulk("2"), "the other EXEC waits");
    assert_eq!(admin.call(&["CLIENT", "UNPAUSE"]), Reply::ok());
    assert_eq!(writer.receive().expect("a reply"), integers(&[3]));

    // Each takes a lane of four, and all four come back however their clients go.
    for round in 0..5 {
        let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.call(&["WATCH", &format!("k{number}")]), Reply::ok(), "round {round}");
        }
        let mut fifth = proxy.client();
        if round == 0 {
            let text = fifth.call(&["WATCH", "k"]).text();
            assert!(text.contains("limits.private_lanes"), "{text}");
        }
        match round {
            0 => clients.clear(),
            1 => clients.iter_mut().for_each(|client| assert_eq!(client.call(&["UNWATCH"]), Reply::ok())),
            2 => clients.iter_mut().for_each(|client| {
                client.call(&["MULTI"]);
                assert_eq!(client.call(&["DISCARD"]), Reply::ok());
            }),
            3 => clients.iter_mut().for_each(|client| assert_eq!(client.call(&["RESET"]).text(), "RESET")),
            _ => clients.iter_mut().for_each(|client| {
                client.call(&["MULTI"]);
                client.call(&["GET"]);
                assert!(client.call(&["EXEC"]).is_error());
            }),
        }
        // A lane that watched is as new to the next.
        assert_eq!(fifth.call(&["WATCH", "fresh"]), Reply::ok(), "round {round}");
        for number in 0..4 {
            assert_eq!(proxy.client().call(&["SET", &format!("k{number}"), "x"]), Reply::ok());
        }
        assert_eq!(
            transaction(&mut fifth, &["GET fresh".to_owned()], false),
            Reply::Array(vec![Reply::NullBulk]),
            "round {round}"
        );
    }
}

/// Transactions over several slots, where the operator allows them.
fn over_slots(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &[PER_SLOT]);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let commands = |text: &str| text.split("; ").map(str::to_owned).collect::<Vec<_>>();
    let show = |reply: Reply| format!("{reply:?}");
    let mut check = |text: &str, expected: &str| {
        for at_once in [false, true] {
            let reply = show(transaction(&mut client, &commands(text), at_once));
            assert_eq!(reply, expected, "{text}, at once: {at_once}");
        }
    };
    check("SET a 1; SET b 2; SET c 3; GET b; GET a; GET c", "*[+OK, +OK, +OK, \"2\", \"1\", \"3\"]");
    check("MGET a b c nosuch a", "*[*[\"1\", \"2\", \"3\", $-1, \"1\"]]");
    check("MSET a 5 b 6 c 7; MGET c b a; DEL a b c d; EXISTS a b", "*[+OK, *[\"7\", \"6\", \"5\"], :3, :0]");
    check(
        "PING; CLIENT GETNAME; SET a x; LPUSH a 1; INCR b; DEL a b",
        "*[+PONG, $-1, +OK, -WRONGTYPE Operation against a key holding the wrong kind of value, :1, :2]",
    );
    let reply = transaction(&mut client, &commands("HELLO 3; HSET a f v; HGETALL a; DEL a b; HELLO 2; HGETALL b"), true);
    let [_, _, map, _, _, flat] = reply.elements() else { panic!("{reply:?}") };
    assert_eq!([show(map.clone()), show(flat.clone())], ["%[\"f\", \"v\"]", "*[]"]);
    // One command of one slot stays one command of one slot.
    assert_eq!(client.call(&["MULTI"]), Reply::ok());
    assert!(client.call(&["RENAME", "a", "b"]).text().starts_with("CROSSSLOT "));
    assert!(client.call(&["EXEC"]).text().starts_with("EXECABORT "));

    // As kombu does it: WATCH one key, change another.
    for (changed, expected) in [("none", "*[:1, :1]"), ("queue", "*[:0, :2]"), ("watched", "*-1")] {
        assert!(!client.call(&["HSET", "watched", "tag", "job"]).is_error());
        assert_eq!(client.call(&["WATCH", "watched"]), Reply::ok());
        match changed {
            "none" => {}
            "queue" => assert!(!other.call(&["LPUSH", "elsewhere", "x"]).is_error()),
            _ => assert!(!other.call(&["HSET", "watched", "tag", "other"]).is_error()),
        }
        let reply = transaction(&mut client, &commands("LPUSH queue job; HDEL watched tag"), false);
        let expected = if changed == "queue" { "*[:2, :1]" } else { expected };
        assert_eq!(show(reply), expected, "{changed} changed");
    }
    assert_eq!(other.call(&["LLEN", "queue"]), Reply::Integer(2), "nothing was pushed when the watched key had changed");
    // Keys of several slots are watched, also those that nothing is done to.
    for changed in ["", "a", "b", "c"] {
        assert_eq!(client.call(&["WATCH", "a", "b", "c"]), Reply::ok());
        if !changed.is_empty() {
            assert_eq!(other.call(&["SET", changed, changed]), Reply::ok());
        }
        let reply = show(transaction(&mut client, &commands("SET d 1; PING"), true));
        assert_eq!(reply, if changed.is_empty() { "*[+OK, +PONG]" } else { "*-1" }, "{changed} changed");
    }
}

crate::on_every_server!(slots_move, master_dies, halfway, refusals, sizes, connections, over_slots);
