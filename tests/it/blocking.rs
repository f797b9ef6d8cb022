//! Commands that wait: woken, ended and counted as by one server, and no element is lost with a client that goes away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::cluster::{ClusterOptions, slot_of};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, Standalone, wait_until};

pub fn send(client: &mut Client, arguments: &[&str]) {
    client.send(&crate::harness::client::request(arguments)).expect("the connection is open");
}

fn receive(client: &mut Client) -> Reply {
    client.receive().expect("a reply comes")
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Waits until INFO says that so many clients are blocked.
pub fn wait_for_blocked(client: &mut Client, count: usize) {
    wait_until("clients to be blocked", || {
        let info = client.call(&["INFO", "clients"]).text();
        let line = info.lines().find(|line| line.starts_with("blocked_clients:")).unwrap_or_default().trim();
        if line == format!("blocked_clients:{count}") { Ok(()) } else { Err(format!("{line}, not {count}")) }
    });
}

/// Both sides of a comparison: a standalone server, and the proxy before a cluster.
struct Sides {
    standalone: Standalone,
    proxy: Proxy,
}

impl Sides {
    fn each(&self, resp3: bool, act: impl Fn(&dyn Fn() -> Client) -> Vec<Reply>, what: &str) {
        let hello = |mut client: Client| {
            if resp3 {
                assert!(!client.call(&["HELLO", "3"]).is_error());
            }
            client
        };
        let expected = act(&|| hello(self.standalone.client()));
        let found = act(&|| hello(self.proxy.client()));
        assert_eq!(found, expected, "{what}, RESP3: {resp3}");
    }
}

/// A command that blocks, and what wakes it; of Redis 6.2, or of 7.0.
const WOKEN: &[(&str, &str, bool)] = &[
    ("BLPOP {q}a {q}b 0", "RPUSH {q}b 1 2", false),
    ("BRPOP {q}a {q}b 30", "RPUSH {q}a 1 2", false),
    ("BLMOVE {q}a {q}c LEFT RIGHT 0", "RPUSH {q}a 1", false),
    ("BRPOPLPUSH {q}a {q}c 30", "RPUSH {q}a 1", false),
    ("BZPOPMIN {q}a {q}b 0", "ZADD {q}b 1.5 m 2 n", false),
    ("BZPOPMAX {q}a 30", "ZADD {q}a 1.5 m inf n", false),
    ("BLMPOP 0 2 {q}a {q}b RIGHT COUNT 2", "RPUSH {q}b 1 2 3", true),
    ("BZMPOP 30 2 {q}a {q}b MAX COUNT 2", "ZADD {q}b 1 m 2 n 3 o", true),
    ("XREAD BLOCK 0 STREAMS {q}a {q}b $ $", "XADD {q}b 5-1 f v", false),
    ("XREAD COUNT 1 BLOCK 30000 STREAMS {q}a 0", "XADD {q}a 5-1 f v", false),
    ("XREADGROUP GROUP g me BLOCK 0 STREAMS {q}x >", "XADD {q}x * f v", false),
];

fn woken(server: Server) {
    let cluster = Cluster::of_masters(server);
    let sides = Sides { standalone: Standalone::start(server), proxy: Proxy::start(&cluster) };
    for (blocking, waking, since_7_0) in WOKEN {
        for resp3 in [false, true] {
            if *since_7_0 && server == Server::Redis62 {
                continue;
            }
            let act = |connect: &dyn Fn() -> Client| {
                let (mut blocked, mut other) = (connect(), connect());
                other.call(&["FLUSHALL"]);
                other.call(&["XGROUP", "CREATE", "{q}x", "g", "$", "MKSTREAM"]);
                send(&mut blocked, &words(blocking));
                wait_for_blocked(&mut other, 1);
                let pushed = other.call(&words(waking));
                let id = if pushed.text().contains('-') { pushed.text() } else { String::new() };
                let mut woken = receive(&mut blocked);
                wait_for_blocked(&mut other, 0);
                // The id that the server chose.
                if waking.contains('*') {
                    woken = Reply::bulk(format!("{woken:?}").replace(&id, "id"));
                }
                let left = other.call(&["TYPE", "{q}c"]);
                vec![woken, left, blocked.call(&["PING"])]
            };
            sides.each(resp3, act, blocking);
        }
    }
    vanished(&sides);
    order(&sides);
    timeouts(&sides);
    unblocked(&sides.proxy, server);
    across_slots_refused(&sides.proxy);
}

/// A group's stream is deleted while a consumer waits for it. Redis 6.2 lets it wait on.
fn vanished(sides: &Sides) {
    for end in ["DEL {q}s", "XGROUP DESTROY {q}s g", "SET {q}s v"] {
        let act = |connect: &dyn Fn() -> Client| {
            let (mut blocked, mut other) = (connect(), connect());
            other.call(&["FLUSHALL"]);
            other.call(&["XGROUP", "CREATE", "{q}s", "g", "$", "MKSTREAM"]);
            send(&mut blocked, &words("XREADGROUP GROUP g me BLOCK 1500 STREAMS {q}s >"));
            wait_for_blocked(&mut other, 1);
            other.call(&words(end));
            vec![receive(&mut blocked)]
        };
        sides.each(false, act, end);
    }
}

/// What follows a blocked command waits for it.
fn order(sides: &Sides) {
    let act = |connect: &dyn Fn() -> Client| {
        let (mut blocked, mut other) = (connect(), connect());
        other.call(&["FLUSHALL"]);
        let pipeline: Vec<u8> = ["SET before 1", "BLPOP q 0", "PING", "SET z 1", "BRPOP q 0", "GET z"]
            .iter()
            .flat_map(|line| crate::harness::client::request(&words(line)))
            .collect();
        blocked.send(&pipeline).expect("open");
        let mut seen = vec![receive(&mut blocked)];
        wait_for_blocked(&mut other, 1);
        seen.push(other.call(&["GET", "before"]));
        seen.push(other.call(&["GET", "z"]));
        seen.push(other.call(&["RPUSH", "q", "x"]));
        seen.extend((0..3).map(|_| receive(&mut blocked)));
        wait_for_blocked(&mut other, 1);
        seen.push(other.call(&["GET", "z"]));
        seen.push(other.call(&["RPUSH", "q", "y"]));
        seen.extend((0..2).map(|_| receive(&mut blocked)));
        seen
    };
    sides.each(false, act, "a pipeline behind BLPOP");
}

/// Nobody is told before the time is over, and everybody is told in the end.
fn timeouts(sides: &Sides) {
    for (line, wait) in [
        ("BLPOP {q}none 0.3", 300),
        ("BLMOVE {q}none {q}c LEFT LEFT 0.25", 250),
        ("BZPOPMIN {q}none 1", 1000),
        ("XREAD BLOCK 200 STREAMS {q}none $", 200),
        ("WAIT 9 200", 200),
    ] {
        for resp3 in [false, true] {
            let act = |connect: &dyn Fn() -> Client| {
                let mut client = connect();
                let asked = Instant::now();
                let reply = client.call(&words(line));
                assert!(asked.elapsed() >= Duration::from_millis(wait), "{line} after {:?}", asked.elapsed());
                vec![reply]
            };
            sides.each(resp3, act, line);
        }
    }
}

const UNBLOCKED: &str = "UNBLOCKED client unblocked via CLIENT UNBLOCK";

/// CLIENT UNBLOCK finds the clients of all workers, wherever and by whatever they are blocked.
fn unblocked(proxy: &Proxy, server: Server) {
    let mut other = proxy.client();
    other.call(&["FLUSHALL"]);
    for line in ["BLPOP q 0", "XREAD BLOCK 0 STREAMS q $", "WAIT 9 0"] {
        let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
        let ids: Vec<String> = clients.iter_mut().map(|client| client.call(&["CLIENT", "ID"]).text()).collect();
        assert_eq!(other.call(&["CLIENT", "UNBLOCK", &ids[0]]), Reply::Integer(0), "it is not blocked");
        clients.iter_mut().for_each(|client| send(client, &words(line)));
        wait_for_blocked(&mut other, 4);
        let flags = |other: &mut Client, id: &str| {
            let list = other.call(&["CLIENT", "LIST", "ID", id]).text();
            list.split(' ').find(|field| field.starts_with("flags=")).map(str::to_owned)
        };
        assert_eq!(flags(&mut other, &ids[0]).as_deref(), Some("flags=b"));
        for (number, (client, id)) in clients.iter_mut().zip(&ids).enumerate() {
            let reason: &[&str] = [&[][..], &["TIMEOUT"], &["ERROR"], &["error"]][number];
            assert_eq!(other.call(&[&["CLIENT", "UNBLOCK", id][..], reason].concat()), Reply::Integer(1), "{line}");
            let reply = receive(client);
            match number {
                0 | 1 if line.starts_with("WAIT") => assert_eq!(reply, Reply::Integer(0)),
                0 | 1 => assert_eq!(reply, Reply::NullArray, "{line} {reason:?}"),
                _ => assert_eq!(reply, Reply::error(UNBLOCKED), "{line} {reason:?}"),
            }
        }
        wait_for_blocked(&mut other, 0);
        assert_eq!(flags(&mut other, &ids[0]).as_deref(), Some("flags=N"));
        // Their connections to the nodes are used again: nothing of the unblocking is left on them.
        for client in &mut clients {
            send(client, &["BLPOP", "q", "0"]);
        }
        wait_for_blocked(&mut other, 4);
        std::thread::sleep(Duration::from_millis(50));
        wait_for_blocked(&mut other, 4);
        assert_eq!(other.call(&["RPUSH", "q", "1", "2", "3", "4"]), Reply::Integer(4), "{server:?}");
        let popped: BTreeMap<String, ()> = clients.iter_mut().map(|client| (receive(client).elements()[1].text(), ())).collect();
        assert_eq!(popped.len(), 4);
    }
}

fn across_slots_refused(proxy: &Proxy) {
    let mut client = proxy.client();
    for line in ["BLPOP a b 1", "XREAD BLOCK 10 STREAMS a b $ $"] {
        let text = client.call(&words(line)).text();
        assert_eq!(
            text,
            format!(
                "CROSSSLOT Keys in request don't hash to the same slot (proxy: 'a' is in slot {}, 'b' in slot {}; \
                 cross_slot.blocking = \"poll\" serves it all the same)",
                slot_of("a"),
                slot_of("b")
            )
        );
    }
    for line in ["BLMOVE a b LEFT LEFT 1", "XREADGROUP GROUP g c BLOCK 10 STREAMS a b > >"] {
        let text = client.call(&words(line)).text();
        assert!(text.starts_with("CROSSSLOT ") && text.contains("cannot be served over several slots"), "{text}");
    }
}

/// Each node connection that is leased to one client counts, and the limit says so.
fn lanes_used_up(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &[("limits.private_lanes", "3")]);
    let mut other = proxy.client();
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| send(client, &["BLPOP", "q", "0"]));
    // Two workers of three each.
    wait_for_blocked(&mut other, 6);
    let refused = |client: &mut Client| {
        client.set_timeout(Duration::from_millis(300));
        let reply = client.receive().ok();
        client.set_timeout(Duration::from_secs(30));
        reply
    };
    let answers: Vec<Option<Reply>> = clients.iter_mut().map(refused).collect();
    let refusal = "ERR proxy: 'blpop' is refused: all 3 private connections of this worker are in use (limits.private_lanes)";
    assert_eq!(answers.iter().flatten().collect::<Vec<_>>(), [&Reply::error(refusal); 2]);
    assert_eq!(other.call(&["RPUSH", "q", "1", "2", "3", "4", "5", "6"]), Reply::Integer(6));
    for (client, answer) in clients.iter_mut().zip(&answers) {
        if answer.is_none() {
            assert_eq!(receive(client).elements().len(), 2);
        }
        assert_eq!(client.call(&["BLPOP", "q", "0.01"]), Reply::NullArray, "there are lanes again");
    }
}

/// What a client that ends its stream is still told: elements, until the proxy closes.
fn rest_of(client: &mut Client) -> Vec<Reply> {
    let mut got = Vec::new();
    while let Ok(reply) = client.receive() {
        got.push(reply);
    }
    got
}

/// Clients die while elements are pushed: each element reaches one of them, or a living one, or is still there.
fn dying(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let [lists, sets]: [&[&str]; 2] = match server {
        Server::Redis62 => [&["BLPOP {q} 0", "BRPOP {q} 0", "BLPOP {q}none {q} 0"], &["BZPOPMIN {q} 0", "BZPOPMAX {q} 0"]],
        _ => [
            &["BLPOP {q} 0", "BRPOP {q} 0", "BLMPOP 0 1 {q} LEFT COUNT 3", "BLMPOP 0 2 {q}none {q} RIGHT COUNT 2"],
            &["BZPOPMIN {q} 0", "BZPOPMAX {q} 0", "BZMPOP 0 1 {q} MIN COUNT 2"],
        ],
    };
    let mut other = proxy.client();
    let (mut pushed, mut popped) = (0, 0);
    for round in 0..40 {
        let is_list = round % 2 == 0;
        let pops = if is_list { lists } else { sets };
        let mut clients: Vec<Client> = (0..12).map(|_| proxy.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            send(client, &words(pops[number % pops.len()]));
        }
        wait_for_blocked(&mut other, 12);
        // Three live; four are gone at once; five end their streams while elements come, and read what they are still told.
        let living = clients.split_off(9);
        drop(clients.split_off(5));
        // Whoever is gone without the proxy having heard of it is told what nobody reads, as by any server.
        wait_for_blocked(&mut other, 8);
        let elements: Vec<String> = (0..fastrand::usize(1..8)).map(|n| format!("e{round}:{n}")).collect();
        let mut got = Vec::new();
        std::thread::scope(|threads| {
            let dying = threads.spawn(|| ended(clients));
            for element in &elements {
                let push = if is_list { vec!["RPUSH", "{q}", element] } else { vec!["ZADD", "{q}", "1", element] };
                assert!(!other.call(&push).is_error(), "{push:?}");
            }
            got.extend(dying.join().expect("it ends"));
        });
        got.extend(ended(living));
        wait_for_blocked(&mut other, 0);
        popped += got.len();
        pushed += elements.len();
        let range = if is_list { "LRANGE" } else { "ZRANGE" };
        wait_until("every element to be somewhere, once", || {
            let mut all = got.clone();
            all.extend(other.call(&[range, "{q}", "0", "-1"]).elements().iter().map(Reply::text));
            all.sort();
            if all == elements { Ok(()) } else { Err(format!("round {round}: {all:?} of {elements:?}")) }
        });
        other.call(&["DEL", "{q}"]);
    }
    let info = proxy.admin().call(&["INFO"]).text();
    let given_back = info.lines().find(|line| line.starts_with("given_back:")).unwrap_or_default();
    println!("{server:?}: {pushed} pushed, {popped} popped, {given_back}");
}

/// Ends the clients' streams, and returns the elements that they are told before the proxy closes.
fn ended(mut clients: Vec<Client>) -> Vec<String> {
    let mut got = Vec::new();
    clients.iter_mut().for_each(|client| client.finish().expect("open"));
    clients.iter_mut().flat_map(rest_of).for_each(|reply| elements_in(&reply, &mut got));
    got
}

/// The elements `e…` in a pop's reply.
fn elements_in(reply: &Reply, into: &mut Vec<String>) {
    match reply {
        Reply::Bulk(text) if text.starts_with(b"e") => into.push(reply.text()),
        other => other.elements().iter().for_each(|element| elements_in(element, into)),
    }
}

/// Keys in several slots, asked one after the other: the answers are a standalone server's.
fn polled(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &[("cross_slot.blocking", "poll"), ("cross_slot.poll_interval", "20ms")]);
    let sides = Sides { standalone: Standalone::start(server), proxy };
    let cases: &[(&str, &[&str], &str, bool)] = &[
        ("BLPOP a b c 0", &["RPUSH c 1 2", "RPUSH b 3"], "RPUSH a 9", false),
        ("BRPOP a b c 5", &["RPUSH c 1 2"], "RPUSH a 9", false),
        ("BLPOP a b 0.05", &[], "PING", false),
        ("BLPOP a b 0", &[], "RPUSH b 1", false),
        ("BLPOP a b x", &[], "PING", false),
        ("BLPOP a b -1", &[], "PING", false),
        ("BLPOP a b 0", &["SET a v", "RPUSH b 1"], "PING", false),
        ("BLPOP a b 0", &["SET b v", "RPUSH a 1"], "PING", false),
        ("BZPOPMIN a b 0", &["ZADD b 1.5 m 2 n"], "PING", false),
        ("BZPOPMAX a b 0", &[], "ZADD a inf n", false),
        ("BZPOPMAX a b 0.05", &[], "PING", false),
        ("BLMPOP 0 3 a b c LEFT COUNT 2", &["RPUSH b 1 2 3"], "PING", true),
        ("BLMPOP 0.05 3 a b c RIGHT", &[], "PING", true),
        ("BLMPOP 1 3 a b c UP", &[], "PING", true),
        ("BLMPOP x 3 a b c LEFT", &[], "PING", true),
        ("BZMPOP 0 2 a b MIN COUNT 2", &[], "ZADD b 1 m 2 n", true),
        ("XREAD BLOCK 0 STREAMS a b c 0 0 0", &["XADD c 1-1 f v", "XADD a 2-1 f v", "XADD a 2-2 f w"], "PING", false),
        ("XREAD COUNT 1 BLOCK 0 STREAMS a b a $ 0 0", &["XADD a 1-1 f v"], "PING", false),
        ("XREAD BLOCK 0 STREAMS a b $ $", &["XADD a 1-1 f v"], "XADD b 1-1 f v", false),
        ("XREAD BLOCK 0 STREAMS a b $ $", &["XADD a 1-1 f v"], "XADD a 2-1 f v", false),
        ("XREAD BLOCK 0 BLOCK 50 STREAMS a b $ $", &["XADD a 1-1 f v"], "PING", false),
        ("XREAD BLOCK x STREAMS a b $ $", &[], "PING", false),
        ("XREAD BLOCK 50 STREAMS a b $ $", &["SET b v"], "PING", false),
    ];
    for (blocking, before, waking, since_7_0) in cases {
        for resp3 in [false, true] {
            if *since_7_0 && server == Server::Redis62 {
                continue;
            }
            let act = |connect: &dyn Fn() -> Client| {
                let (mut blocked, mut other) = (connect(), connect());
                other.call(&["FLUSHALL"]);
                for line in *before {
                    other.call(&words(line));
                }
                send(&mut blocked, &words(blocking));
                // What finds something at once is answered before the next push.
                let at_once =
                    (*waking == "PING" || blocking.starts_with('B') && !before.is_empty()).then(|| receive(&mut blocked));
                if at_once.is_none() {
                    wait_for_blocked(&mut other, 1);
                    // Time for a few rounds.
                    std::thread::sleep(Duration::from_millis(60));
                }
                other.call(&words(waking));
                let reply = at_once.unwrap_or_else(|| receive(&mut blocked));
                wait_for_blocked(&mut other, 0);
                let mut seen = vec![reply];
                for key in ["a", "b", "c"] {
                    seen.push(other.call(&["LRANGE", key, "0", "-1"]));
                    seen.push(other.call(&["ZRANGE", key, "0", "-1"]));
                }
                seen
            };
            sides.each(resp3, act, &format!("{blocking} behind {before:?} woken by {waking}"));
        }
    }
    polled_ends(&sides.proxy);
}

fn polled_ends(proxy: &Proxy) {
    let mut other = proxy.client();
    other.call(&["FLUSHALL"]);
    let mut blocked = proxy.client();
    let id = blocked.call(&["CLIENT", "ID"]).text();
    for (reason, expected) in [("TIMEOUT", Reply::NullArray), ("ERROR", Reply::error(UNBLOCKED))] {
        send(&mut blocked, &["BLPOP", "a", "b", "0"]);
        wait_for_blocked(&mut other, 1);
        assert_eq!(other.call(&["CLIENT", "UNBLOCK", &id, reason]), Reply::Integer(1));
        assert_eq!(receive(&mut blocked), expected);
    }
    // Clients that poll die while elements are pushed.
    let mut total = 0;
    for round in 0..20 {
        other.call(&["DEL", "a", "b", "c"]);
        let (mut pushed, mut got) = (0, 0);
        let mut clients: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
        clients.iter_mut().for_each(|client| send(client, &["BLPOP", "a", "b", "c", "0"]));
        wait_for_blocked(&mut other, 6);
        let push = |other: &mut Client, pushed: &mut i64| {
            for key in ["a", "b", "c"] {
                other.call(&["RPUSH", key, "e"]);
                *pushed += 1;
            }
        };
        push(&mut other, &mut pushed);
        if round % 2 == 0 {
            wait_until("somebody to pop", || match other.call(&["EXISTS", "a", "b", "c"]).integer() {
                Some(3) => Err("all are there".to_owned()),
                _ => Ok(()),
            });
        }
        clients.iter_mut().for_each(|client| client.finish().expect("open"));
        push(&mut other, &mut pushed);
        got += clients.iter_mut().map(|client| rest_of(client).len() as i64).sum::<i64>();
        wait_for_blocked(&mut other, 0);
        wait_until("every element to be somewhere", || {
            let left: i64 = ["a", "b", "c"].iter().filter_map(|key| other.call(&["LLEN", key]).integer()).sum();
            if left + got == pushed { Ok(()) } else { Err(format!("{left} left, {got} popped of {pushed}")) }
        });
        total += got;
    }
    assert!(total > 0, "nobody popped anything");
}

/// WAIT counts the replicas that have what this connection wrote, wherever that was.
fn waits(server: Server) {
    let cluster = Cluster::start(server, ClusterOptions { replicas_each: 1, ..ClusterOptions::default() });
    let proxy = Proxy::start(&cluster);
    let mut client = proxy.client();
    assert_eq!(client.call(&["WAIT", "1", "20000"]), Reply::Integer(1), "without a write");
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(client.call(&["SET", key, "v"]), Reply::ok());
        assert_eq!(client.call(&["WAIT", "1", "20000"]), Reply::Integer(1));
    }
    let asked = Instant::now();
    assert_eq!(client.call(&["WAIT", "2", "300"]), Reply::Integer(1));
    assert!(asked.elapsed() >= Duration::from_millis(300));
    if matches!(server, Server::Redis82 | Server::Valkey91) {
        assert_eq!(client.call(&["WAITAOF", "0", "0", "100"]).elements().len(), 2);
        let text = client.call(&["WAITAOF", "1", "0", "100"]).text();
        assert_eq!(text, "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.");
    }
    // Others go on meanwhile: no shared connection waits.
    let mut waiting = proxy.client();
    send(&mut waiting, &["WAIT", "2", "0"]);
    let mut other = proxy.client();
    wait_for_blocked(&mut other, 1);
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(other.call(&["GET", key]), Reply::bulk("v"));
    }
    drop(waiting);
    wait_for_blocked(&mut other, 0);
    // A replica that has stopped does not have what is written from now on.
    cluster.member(3).stop();
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(client.call(&["SET", key, "w"]), Reply::ok());
    }
    assert_eq!(client.call(&["WAIT", "1", "300"]), Reply::Integer(0), "{server:?}");
    cluster.member(3).go_on();
    assert_eq!(client.call(&["WAIT", "1", "30000"]), Reply::Integer(1));
}

/// Thousands of clients wait at once; each is served once.
#[test]
fn two_thousand() {
    const COUNT: usize = 2000;
    let cluster = Cluster::of_masters(Server::Redis70);
    let proxy = Proxy::start(&cluster);
    let mut other = proxy.client();
    let mut clients: Vec<Client> = (0..COUNT).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.call(&["PING"]).text(), "PONG"));
    let idle = proxy.rss_bytes();
    for (number, client) in clients.iter_mut().enumerate() {
        send(client, &["BLPOP", &format!("q{}", number % 50), "0"]);
    }
    wait_for_blocked(&mut other, COUNT);
    let each = (proxy.rss_bytes().saturating_sub(idle)) / COUNT as u64;
    println!("{COUNT} blocked clients: {each} bytes each above idle ones");
    for number in 0..COUNT {
        other.call(&["RPUSH", &format!("q{}", number % 50), &format!("e{number}")]);
    }
    let mut got: Vec<String> = clients.iter_mut().map(|client| receive(client).elements()[1].text()).collect();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), COUNT);
    wait_for_blocked(&mut other, 0);
    // Blocked again, and gone all at once.
    for client in &mut clients {
        send(client, &["BLPOP", "q", "0"]);
    }
    wait_for_blocked(&mut other, COUNT);
    drop(clients);
    wait_for_blocked(&mut other, 0);
    assert_eq!(other.call(&["RPUSH", "q", "x"]), Reply::Integer(1));
    assert_eq!(other.call(&["LLEN", "q"]), Reply::Integer(1), "nobody waits for it any more");
    wait_until("the nodes to forget them", || {
        let info = cluster.member(0).client().call(&["INFO", "clients"]).text();
        if info.contains("blocked_clients:0") { Ok(()) } else { Err(info) }
    });
}

crate::on_every_server!(woken, lanes_used_up, dying, polled, waits);
