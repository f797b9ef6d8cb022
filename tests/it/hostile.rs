//! Input that means harm, and clients that do: the proxy lives on, within its limits, and serves the others.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;

use crate::harness::client::{append_request, closed, request};
use crate::harness::cluster::slot_of;
use crate::harness::over::{Over, join};
use crate::harness::text::words;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

/// Inputs sent in all, unless `TEST_HOSTILE_INPUTS` says how many.
const INPUTS_DEFAULT: usize = 100_000;
const THREADS: usize = 4;

/// What is mutated: every kind of request there is, in every kind of order.
const SEEDS: &str = r#"
PING
GET k
SET k v
SET k v EX 100 NX
MGET a b c d e f g h
MSET a 1 b 2 c 3
DEL a b c
INCRBY n 5
LPUSH l a b c
LRANGE l 0 -1
HSET h f v
HGETALL h
ZADD z 1 a
ZRANGE z 0 -1 WITHSCORES
XADD x * f v
XREAD COUNT 1 STREAMS x 0
XREAD COUNT 1 STREAMS x y 0 0
EVAL "return {KEYS[1],ARGV[1],1,false}" 1 k v
EVALSHA ffffffffffffffffffffffffffffffffffffffff 1 k
ZUNIONSTORE {a}d 2 {a}b {a}c WEIGHTS 1 2
SORT {a}l STORE {a}d
GEORADIUS g 1 1 1 km STORE d
SCAN 0 MATCH * COUNT 10
SCAN 123456789 COUNT 1
KEYS k*
DBSIZE
RANDOMKEY
INFO
HELLO 3
HELLO 2 SETNAME x
CLIENT SETNAME me
CLIENT LIST
CLIENT REPLY SKIP
CLIENT INFO
COMMAND INFO get
COMMAND GETKEYS MSET a 1 b 2
CONFIG GET save
OBJECT ENCODING k
SCRIPT LOAD "return 1"
SCRIPT EXISTS ffffffffffffffffffffffffffffffffffffffff
SUBSCRIBE c
MULTI
EXEC
BLPOP l 1
SELECT 0
ECHO hello
RESET
FOO bar"#;

fn seeds() -> Vec<Vec<u8>> {
    let lines = SEEDS.lines().filter(|line| !line.is_empty());
    lines.flat_map(|line| [request(&words(line)), format!("{line}\r\n").into_bytes()]).collect()
}

/// Numbers that parsers get wrong.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "-0",
    "1",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e9",
    "",
    "0x10",
    "00000000000000000000000000000001",
];

/// A few valid requests with a few things wrong.
fn mutated(seeds: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut input: Vec<u8> = (0..random.usize(1..6)).flat_map(|_| seeds[random.usize(..seeds.len())].clone()).collect();
    for _ in 0..random.usize(1..4) {
        mutate(&mut input, random);
    }
    input
}

fn mutate(input: &mut Vec<u8>, random: &mut Rng) {
    if input.is_empty() {
        return input.push(random.u8(..));
    }
    let at = random.usize(..input.len());
    let end = (at + random.usize(1..20)).min(input.len());
    match random.u8(..8) {
        0 => input[at] = random.u8(..),
        1 => input[at] ^= 1 << random.u8(..8),
        2 => input.insert(at, *random.choice(b"*$+-:\r\n\0\"' \xff").expect("not empty")),
        3 => drop(input.drain(at..end)),
        4 => {
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        5 => input.truncate(at),
        6 => replace_number(input, at, NUMBERS[random.usize(..NUMBERS.len())]),
        _ => {
            let noise: Vec<u8> = (0..random.usize(1..200)).map(|_| random.u8(..)).collect();
            input.splice(at..at, noise);
        }
    }
}

/// Puts `number` in the place of the first digits from `at` on.
fn replace_number(input: &mut Vec<u8>, at: usize, number: &str) {
    let Some(start) = input[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
    let digits = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    input.splice(start..start + digits, number.bytes());
}

/// Sends one input after the other on connections that last until the proxy closes them, or for twenty inputs.
fn attack(port: u16, inputs: usize, seed: u64, over: &Over) {
    let (seeds, mut random) = (seeds(), Rng::with_seed(seed));
    let (mut client, mut connection_sent) = (None, Vec::new());
    for sent in 0..inputs {
        if over.yet() {
            return;
        }
        let input = mutated(&seeds, &mut random);
        let connected = client.get_or_insert_with(|| {
            let client = Client::connect(port);
            client.reset_on_close();
            connection_sent.clear();
            client
        });
        connection_sent.extend_from_slice(&input);
        let outcome = connected.send(&input).and_then(|()| connected.discard_what_arrived());
        match outcome {
            Err(error) if closed(&error) => client = None,
            Err(error) => panic!("input {sent} of seed {seed}, {}: {error}", input.escape_ascii()),
            Ok(()) if sent % 20 == 19 => {
                let mut last = client.take().expect("it has just sent something");
                // The proxy has read all of it when it closes its side.
                let _ = last.finish();
                let closed = last.until_closed().is_some();
                assert!(closed, "a hang, input {sent} of seed {seed}: {}", connection_sent.escape_ascii());
            }
            Ok(()) => {}
        }
        if sent % 500 == 0 {
            let mut sane = Client::connect(port);
            sane.reset_on_close();
            assert_eq!(sane.call(&["SET", "sane", "yes"]), Reply::ok(), "after input {sent} of seed {seed}");
            assert_eq!(sane.call(&["GET", "sane"]), Reply::bulk("yes"), "after input {sent} of seed {seed}");
        }
    }
}

fn attack_from_all_sides(proxy: &Proxy, inputs: usize, seed: u64) {
    let over = Over::default();
    std::thread::scope(|threads| {
        let spawn = |thread: usize| {
            let over = &over;
            threads.spawn(move || {
                let result = std::panic::catch_unwind(|| attack(proxy.port, inputs / THREADS, seed + thread as u64, over));
                if let Err(panic) = result {
                    drop(over.when_dropped());
                    std::panic::resume_unwind(panic);
                }
            })
        };
        let attackers: Vec<_> = (0..THREADS).map(spawn).collect();
        attackers.into_iter().for_each(join);
    });
}

#[test]
fn mutated_inputs() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let mut proxy = Proxy::start_with(&cluster, &[("log.level", "error")]);
    let inputs = std::env::var("TEST_HOSTILE_INPUTS").map_or(INPUTS_DEFAULT, |text| text.parse().expect("a number"));
    // The first tenth fills every cache and pool there is; what comes after must not add to it.
    attack_from_all_sides(&proxy, inputs / 10, 1);
    proxy.assert_alive();
    let before = settled_rss(&proxy);
    attack_from_all_sides(&proxy, inputs - inputs / 10, 1000);
    proxy.assert_alive();
    let after = settled_rss(&proxy);
    println!("{inputs} inputs; resident {} KiB, then {} KiB", before / 1024, after / 1024);
    assert!(after < before + (16 << 20), "resident memory grew from {before} to {after} bytes");
    let mut admin = proxy.admin();
    assert_eq!(admin.call(&["PING"]).text(), "PONG");
    attack_from_all_sides_at(proxy.admin_port, 2000);
    assert_eq!(proxy.admin().call(&["PING"]).text(), "PONG", "the admin port, after the same");
    proxy.assert_alive();
}

fn attack_from_all_sides_at(port: u16, inputs: usize) {
    let (seeds, mut random) = (seeds(), Rng::with_seed(7));
    for _ in 0..inputs {
        let mut client = Client::connect(port);
        client.reset_on_close();
        let outcome = client.send(&mutated(&seeds, &mut random)).and_then(|()| client.discard_what_arrived());
        assert!(outcome.as_ref().err().is_none_or(closed), "{outcome:?}");
    }
}

/// Memory once nobody is connected: the smallest of a second's readings.
fn settled_rss(proxy: &Proxy) -> u64 {
    let reading = |_| {
        std::thread::sleep(Duration::from_millis(100));
        proxy.rss_bytes()
    };
    (0..10).map(reading).min().expect("ten readings")
}

/// A script may return any error text. Believing it would let whoever can run a script choose where the proxy connects
/// and sends other clients' data, with its credentials.
fn forged_redirects(server: Server) {
    let cluster = Cluster::of_masters(server);
    let mut proxy = Proxy::start(&cluster);
    let trap = TcpListener::bind("127.0.0.1:0").expect("a free port");
    trap.set_nonblocking(true).expect("sockets can be set so");
    let trap_port = trap.local_addr().expect("it is bound").port();
    let mut client = proxy.client();
    let slot = slot_of("k");
    for kind in ["MOVED", "ASK"] {
        for (slot, keys) in [(slot, &["1", "k"][..]), (1, &["1", "k"]), (1, &["0"])] {
            let text = format!("{kind} {slot} 127.0.0.1:{trap_port}");
            for body in [format!("return redis.error_reply('{text}')"), format!("return {{err='{text}'}}")] {
                let reply = client.call(&[&["EVAL", &body], keys].concat());
                assert!(reply.is_error(), "{body}: {reply:?}");
            }
            let body = format!("return {{1,{{err='{text}'}}}}");
            let reply = client.call(&[&["EVAL", &body], keys].concat());
            assert_eq!(reply, Reply::Array(vec![Reply::Integer(1), Reply::error(&text)]), "inside an array it is data");
        }
    }
    // Nonsense in the place of an address, and of a slot.
    for text in [
        "MOVED",
        "MOVED 1",
        "MOVED x y",
        "MOVED 99999 127.0.0.1:1",
        "ASK 1 :0",
        "ASK 1 ?:6379",
        "MOVED 1 127.0.0.1:99999",
        "TRYAGAIN",
        "ASK",
    ] {
        let reply = client.call(&["EVAL", &format!("return redis.error_reply('{text}')"), "1", "k"]);
        assert!(reply.is_error(), "{text}: {reply:?}");
    }
    // A node that exists may be named, but a script that says so has run: at most once more, then never again.
    let real = cluster.member(2).port;
    let body = format!("redis.call('INCR',KEYS[1]); return redis.error_reply('MOVED {slot} 127.0.0.1:{real}')");
    let reply = client.call(&["EVAL", &body, "1", "k"]);
    assert!(reply.is_error(), "{reply:?}");
    let runs: i64 = client.call(&["GET", "k"]).text().parse().expect("a counter");
    assert!((1..=2).contains(&runs), "the script ran {runs} times");
    // Long enough for a refresh of the topology, after which a believed address would be dialled.
    std::thread::sleep(Duration::from_secs(2));
    let visitor = trap.accept();
    assert!(matches!(&visitor, Err(error) if error.kind() == ErrorKind::WouldBlock), "a forged address was dialled: {visitor:?}");
    assert!(!proxy.peers().contains(&trap_port));
    proxy.assert_alive();
}

/// Many clients read slowly or not at all; they are cut at the limit, and the rest of the world goes on.
#[test]
fn clients_that_do_not_read() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let mut proxy = Proxy::start_with(&cluster, &[("limits.output_buffer", "1mb")]);
    let value = "v".repeat(100_000);
    assert_eq!(proxy.client().call(&["SET", "big", &value]), Reply::ok());
    let before = settled_rss(&proxy);
    let over = Over::default();
    std::thread::scope(|threads| {
        let until_here = over.when_dropped();
        let bystander = threads.spawn(|| {
            let (mut client, mut served) = (proxy.client(), 0);
            while !over.yet() || served < 1000 {
                assert_eq!(client.call(&["SET", "small", "x"]), Reply::ok());
                assert_eq!(client.call(&["GET", "small"]), Reply::bulk("x"));
                served += 1;
            }
        });
        // 1000 replies of 100 KB each: a hundred times the limit, and far more than the kernel keeps for us.
        let requests: Vec<u8> = (0..1000).flat_map(|_| request(&["GET", "big"])).collect();
        for _ in 0..8 {
            let mut deaf = proxy.client();
            // The proxy may cut it while it is still writing.
            let _ = deaf.send(&requests);
            wait_until("a client that does not read to be cut", || match deaf.send(&request(&["PING"])) {
                Ok(()) => Err("it may still write".to_owned()),
                Err(_) => Ok(()),
            });
        }
        drop(until_here);
        join(bystander);
    });
    proxy.assert_alive();
    let after = settled_rss(&proxy);
    assert!(after < before + (32 << 20), "resident memory went from {before} to {after} bytes");
    // A client that does read gets as much as it likes.
    let (mut reader, requests) = (proxy.client(), vec![vec!["GET", "big"]; 5]);
    for _ in 0..50 {
        assert!(reader.pipeline(&requests).iter().all(|reply| *reply == Reply::bulk(&value)));
    }
}

#[test]
fn ten_thousand_idle_clients() {
    const CLIENTS: usize = 10_000;
    allow_open_files(18_000);
    let cluster = Cluster::of_masters(Server::Redis70);
    let mut proxy = Proxy::start(&cluster);
    let before = settled_rss(&proxy);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.call(&["SET", "k", "v"]), Reply::ok());
    }
    let idle = settled_rss(&proxy);
    println!("{CLIENTS} idle clients: resident {} KiB before, {} KiB with them", before / 1024, idle / 1024);
    for client in &mut clients {
        client.send(&request(&["GET", "k"])).expect("it is connected");
    }
    for client in &mut clients {
        assert_eq!(client.receive().expect("a reply"), Reply::bulk("v"));
    }
    assert_eq!(proxy.client().call(&["CLIENT", "LIST"]).text().lines().count(), CLIENTS + 1);
    drop(clients);
    proxy.assert_alive();
    let most = cluster.members().len() * 20 + 100;
    wait_until("their sockets to be closed", || {
        let open = proxy.process().open_files();
        if open < most { Ok(()) } else { Err(format!("{open} files are open")) }
    });
}

/// Lets this process hold that many files, which only another program can do without unsafe code.
fn allow_open_files(count: u32) {
    let pid = std::process::id().to_string();
    let output = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--nofile={count}:")])
        .output()
        .expect("prlimit (util-linux) is here");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn more_clients_than_allowed() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let proxy = Proxy::start_with(&cluster, &[("limits.clients", "20")]);
    let mut clients: Vec<Client> = Vec::new();
    let refusal = loop {
        let mut client = proxy.client();
        match client.try_call(&["PING"]) {
            Some(reply) if reply.is_error() => break reply,
            Some(_) => clients.push(client),
            None => panic!("client {} was cut without a word", clients.len()),
        }
        assert!(clients.len() <= 20, "more than the limit");
    };
    assert_eq!(refusal, Reply::error("ERR max number of clients reached"));
    assert_eq!(clients.len(), 20);
    for client in &mut clients {
        assert_eq!(client.call(&["GET", "k"]), Reply::NullBulk, "those who are in stay in");
    }
    // One goes, one may come.
    clients.pop();
    wait_until("a free place", || match proxy.client().try_call(&["GET", "k"]) {
        Some(reply) if !reply.is_error() => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn limits_of_one_request() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let settings = [("limits.query_buffer", "1mb"), ("limits.bulk_len", "512kb"), ("limits.pipeline_depth", "16")];
    let mut proxy = Proxy::start_with(&cluster, &settings);
    // A value up to the limit passes, one byte more does not.
    let mut client = proxy.client();
    assert_eq!(client.call(&["SET", "k", &"x".repeat(512 * 1024)]), Reply::ok());
    client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$524289\r\n").expect("the proxy reads");
    let last = client.until_closed().expect("it closes");
    assert_eq!(last.escape_ascii().to_string(), r"-ERR Protocol error: invalid bulk length\r\n");
    // All arguments together.
    let mut client = proxy.client();
    let mut many = Vec::new();
    append_request(&mut many, &vec!["x".repeat(100_000); 30]);
    let _ = client.send(&many);
    assert!(client.until_closed().is_some(), "a request of 3 MB is cut");
    // Depth is no error: whoever sends more waits.
    let requests: Vec<Vec<String>> = (0..2000).map(|n| vec!["ECHO".to_owned(), n.to_string()]).collect();
    let mixed: Vec<Vec<String>> =
        requests.iter().flat_map(|echo| [echo.clone(), vec!["STRLEN".to_owned(), "k".to_owned()]]).collect();
    let replies = proxy.client().pipeline(&mixed);
    for (n, pair) in replies.chunks(2).enumerate() {
        assert_eq!(pair, [Reply::bulk(n.to_string()), Reply::Integer(512 * 1024)], "pair {n}");
    }
    proxy.assert_alive();
}

/// Clients that vanish in the middle of everything leave nothing behind.
#[test]
fn clients_that_vanish() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let mut proxy = Proxy::start(&cluster);
    let values = "v".repeat(50_000);
    assert_eq!(proxy.client().call(&["MSET", "a", &values, "b", &values, "c", &values]), Reply::ok());
    let lanes: HashSet<u16> = proxy.peers();
    for round in 0..300 {
        let mut client = proxy.client();
        client.reset_on_close();
        let bytes: Vec<u8> = ["MGET a b c", "GET a", "SET d x", "KEYS *", "SCAN 0"]
            .iter()
            .cycle()
            .take(20)
            .flat_map(|line| request(&words(line)))
            .collect();
        let end = bytes.len() - round % 60;
        client.send(&bytes[..end]).expect("the proxy reads");
    }
    let mut client = proxy.client();
    let requests: Vec<Vec<&str>> = vec![vec!["MGET", "a", "b", "c"]; 20];
    let expected = Reply::Array(vec![Reply::bulk(&values); 3]);
    assert!(client.pipeline(&requests).iter().all(|reply| *reply == expected), "nobody gets another one's reply");
    wait_until("only the lanes and one client to be left", || {
        let open = proxy.process().open_files();
        let most = lanes.len() * 8 + 60;
        if open <= most { Ok(()) } else { Err(format!("{open} files are open")) }
    });
    proxy.assert_alive();
}

crate::on_every_server!(forged_redirects);
