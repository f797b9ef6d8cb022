//! CLIENT TRACKING: nothing stale stays in a client's cache.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::client::{closed, request};
use crate::harness::cluster::{ClusterOptions, slot_of, tags_in};
use crate::harness::over::{Over, join};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};
use crate::reshard::{MOVED_SLOTS, move_lowest_slots};

/// One tag of each master.
fn tags() -> Vec<String> {
    [0..1, 8000..8001, 16000..16001].into_iter().flat_map(tags_in).collect()
}

/// The keys that the next push tells of; none: all.
#[track_caller]
fn next_push(client: &mut Client) -> Option<Vec<String>> {
    let push = client.receive().expect("an invalidation comes");
    let Reply::Push(elements) = &push else { panic!("no push: {push:?}") };
    assert_eq!(elements[0].text(), "invalidate");
    match &elements[1] {
        Reply::Array(keys) => Some(keys.iter().map(Reply::text).collect()),
        _ => None,
    }
}

#[track_caller]
fn assert_told(client: &mut Client, key: &str) {
    assert_eq!(next_push(client), Some(vec![key.to_owned()]));
}

/// Nothing comes for a while: what is to come is overtaken by what is asked later on the same lanes.
#[track_caller]
fn assert_silence(client: &mut Client) {
    for tag in tags() {
        let reply = client.call(&["EXISTS", &format!("{tag}:silence")]);
        assert_eq!(reply, Reply::Integer(0), "no push");
    }
    client.set_timeout(Duration::from_millis(50));
    let arrived = client.receive();
    assert!(arrived.is_err(), "{arrived:?}");
    client.set_timeout(Duration::from_secs(60));
}

fn tracker(proxy: &Proxy, options: &[&str]) -> Client {
    let mut client = proxy.client();
    assert!(!client.call(&["HELLO", "3"]).is_error());
    assert_eq!(client.call(&[&["CLIENT", "TRACKING", "ON"], options].concat()), Reply::ok());
    client
}

fn choices(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut writer = proxy.client();
    let mut direct: Vec<Client> = cluster.members().iter().map(|member| member.client()).collect();

    // What was read is told of once, whoever writes it, on whichever node.
    let mut client = tracker(&proxy, &[]);
    for (place, tag) in tags().iter().enumerate() {
        client.call(&["GET", tag]);
        assert_eq!(writer.call(&["SET", tag, "1"]), Reply::ok());
        assert_told(&mut client, tag);
        assert_eq!(writer.call(&["SET", tag, "2"]), Reply::ok());
        assert_eq!(client.call(&["GET", tag]).text(), "2");
        let owner = direct.iter_mut().position(|node| node.call(&["SET", tag, "3"]) == Reply::ok()).expect("one owns it");
        assert_told(&mut client, tag);
        assert_eq!(owner, place);
    }
    // Several keys of several nodes; one's own writes count, and come in their order.
    let keys = tags();
    client.call(&[&["MGET"], &keys.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    writer.call(&["DEL", &keys[0], &keys[1], &keys[2]]);
    let mut told: Vec<String> = (0..3).flat_map(|_| next_push(&mut client).expect("keys")).collect();
    let mut expected = keys.clone();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    client.call(&["GET", &keys[0]]);
    client.send(&request(&["SET", &keys[0], "own"])).expect("it is connected");
    let replies = [client.receive().expect("it is answered"), client.receive().expect("it is told")];
    assert!(replies.contains(&Reply::ok()) && replies.iter().any(|reply| matches!(reply, Reply::Push(_))), "{replies:?}");
    // Nothing is told any more.
    client.call(&["GET", &keys[0]]);
    assert_eq!(client.call(&["CLIENT", "TRACKING", "OFF"]), Reply::ok());
    writer.call(&["SET", &keys[0], "1"]);
    assert_silence(&mut client);

    let mut client = tracker(&proxy, &["NOLOOP"]);
    let large = "x".repeat(100_000);
    for key in &keys {
        for value in ["1", &large] {
            client.call(&["GET", key]);
            assert_eq!(client.call(&["SET", key, value]), Reply::ok(), "its own writes are not told");
        }
    }
    assert_silence(&mut client);
    client.call(&["GET", &keys[1]]);
    writer.call(&["SET", &keys[1], "theirs"]);
    assert_told(&mut client, &keys[1]);

    let mut client = tracker(&proxy, &["OPTIN"]);
    for key in &keys {
        client.call(&["GET", key]);
        writer.call(&["SET", key, "1"]);
    }
    assert_silence(&mut client);
    for key in &keys {
        assert_eq!(client.call(&["CLIENT", "CACHING", "YES"]), Reply::ok());
        client.call(&["GET", key]);
        client.call(&["GET", &format!("{key}:other")]);
        writer.call(&["SET", &format!("{key}:other"), "1"]);
        writer.call(&["SET", key, "2"]);
        assert_told(&mut client, key);
    }
    assert_eq!(client.call(&["CLIENT", "CACHING", "YES"]), Reply::ok());
    client.call(&["MGET", &keys[0], &keys[2]]);
    writer.call(&["SET", &keys[2], "3"]);
    assert_told(&mut client, &keys[2]);
    // To a transaction as a whole: it is not watched, so nothing of it may stay cached.
    assert_eq!(client.call(&["CLIENT", "CACHING", "YES"]), Reply::ok());
    assert_eq!(client.call(&["MULTI"]), Reply::ok());
    assert_eq!(client.call(&["GET", &keys[0]]).text(), "QUEUED");
    assert_eq!(client.call(&["EXEC"]).elements().len(), 1);
    assert_eq!(next_push(&mut client), None, "all keys");
    // In one pipeline, between others of the same slot.
    let pipeline = ["GET a", "CLIENT CACHING YES", "GET b", "GET c"];
    let pipeline: Vec<Vec<String>> = pipeline
        .iter()
        .map(|line| {
            line.split(' ').map(|word| if word.len() == 1 { format!("{{{}}}{word}", keys[1]) } else { word.into() }).collect()
        })
        .collect();
    client.pipeline(&pipeline);
    for name in ["a", "c", "b"] {
        writer.call(&["SET", &format!("{{{}}}{name}", keys[1]), "1"]);
    }
    assert_told(&mut client, &format!("{{{}}}b", keys[1]));
    assert_silence(&mut client);

    let mut client = tracker(&proxy, &["OPTOUT"]);
    assert_eq!(client.call(&["CLIENT", "CACHING", "NO"]), Reply::ok());
    client.call(&["GET", &keys[0]]);
    writer.call(&["SET", &keys[0], "1"]);
    assert_silence(&mut client);
    client.call(&["GET", &keys[0]]);
    writer.call(&["SET", &keys[0], "1"]);
    assert_told(&mut client, &keys[0]);
}

fn broadcast(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut writer = proxy.client();
    let keys = tags();
    let prefixes: Vec<&str> = keys.iter().flat_map(|key| ["PREFIX", key]).collect();
    let mut some = tracker(&proxy, &[&["BCAST", "NOLOOP"], &prefixes[..]].concat());
    let mut all = tracker(&proxy, &["BCAST"]);
    for key in &keys {
        writer.call(&["SET", &format!("other{{{key}}}"), "1"]);
        assert_told(&mut all, &format!("other{{{key}}}"));
        writer.call(&["SET", key, "1"]);
        assert_told(&mut all, key);
        assert_told(&mut some, key);
        assert_eq!(some.call(&["SET", key, "2"]), Reply::ok());
        assert_told(&mut all, key);
    }
    assert_silence(&mut some);
    // One prefix more.
    assert_eq!(some.call(&["CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", "PREFIX", "other"]), Reply::ok());
    writer.call(&["SET", &format!("other{{{}}}", keys[1]), "1"]);
    assert_told(&mut some, &format!("other{{{}}}", keys[1]));
}

fn redirected(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut writer = proxy.client();
    let key = &tags()[1];
    // Several times, so that the two are on one worker and on two.
    for _ in 0..3 {
        let mut target = proxy.client();
        let id = target.call(&["CLIENT", "ID"]).text();
        assert!(!target.call(&["SUBSCRIBE", "__redis__:invalidate"]).is_error());
        let mut target3 = proxy.client();
        target3.call(&["HELLO", "3"]);
        let id3 = target3.call(&["CLIENT", "ID"]).text();
        for proto in ["2", "3"] {
            let mut client = proxy.client();
            assert!(!client.call(&["HELLO", proto]).is_error());
            assert_eq!(client.call(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]), Reply::ok());
            assert_eq!(client.call(&["CLIENT", "GETREDIR"]).text(), id);
            client.call(&["GET", key]);
            writer.call(&["SET", key, "1"]);
            let message = target.receive().expect("it is told");
            let expected = ["message", "__redis__:invalidate"].map(Reply::bulk);
            assert_eq!(message.elements()[..2], expected);
            assert_eq!(message.elements()[2], Reply::Array(vec![Reply::bulk(key)]));
            assert_eq!(client.call(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id3]), Reply::ok());
            client.call(&["GET", key]);
            writer.call(&["SET", key, "1"]);
            assert_told(&mut target3, key);
            let mut broadcasts = proxy.client();
            assert_eq!(broadcasts.call(&["CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", &id3]), Reply::ok());
            writer.call(&["SET", key, "1"]);
            assert_told(&mut target3, key);
        }
        // Whoever redirects to one that is gone is told when something changes.
        let mut client = tracker(&proxy, &["REDIRECT", &id3]);
        drop(target3);
        wait_until("the redirect to be broken", || match client.call(&["CLIENT", "TRACKINGINFO"]) {
            info if format!("{info:?}").contains("broken_redirect") => Ok(()),
            info => Err(format!("{info:?}")),
        });
        client.call(&["GET", key]);
        writer.call(&["SET", key, "1"]);
        let push = client.receive().expect("it is told");
        assert_eq!(push, Reply::Push(vec![Reply::bulk("tracking-redir-broken"), Reply::Integer(id3.parse().expect("a number"))]));
    }
}

/// What nobody watches any more is dropped.
fn lost(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut client = tracker(&proxy, &[]);
    let mut all = tracker(&proxy, &["BCAST"]);
    let key = &tags()[2];
    client.call(&["GET", key]);
    assert!(cluster.members()[2].client().call(&["CLIENT", "KILL", "TYPE", "normal"]).integer().is_some_and(|killed| killed > 0));
    assert_eq!(next_push(&mut client), None, "all keys");
    assert_eq!(next_push(&mut all), None, "all keys");
    // It goes on.
    let mut writer = proxy.client();
    client.call(&["GET", key]);
    writer.call(&["SET", key, "1"]);
    assert_told(&mut client, key);
    wait_until("broadcasts to go on", || {
        writer.call(&["SET", key, "1"]);
        all.set_timeout(Duration::from_millis(100));
        all.receive().map(|_| ()).map_err(|error| error.to_string())
    });
    // What a transaction changes and reads: 6.2 tells of it in the middle of EXEC's reply.
    client.call(&["GET", key]);
    client.call(&["MULTI"]);
    client.call(&["SET", key, "1"]);
    client.call(&["GET", key]);
    client.send(&request(&["EXEC"])).expect("it is connected");
    if server == Server::Redis62 {
        let (seen, _) =
            client.until(format!("*1\r\n${}\r\n{key}\r\n+OK\r\n$1\r\n1\r\n", key.len()).as_bytes(), Duration::from_secs(10));
        assert!(seen.starts_with(b"*2\r\n>2\r\n$10\r\ninvalidate\r\n"), "{}", seen.escape_ascii());
    } else {
        assert_eq!(client.receive().expect("it is answered").elements().len(), 2);
        assert_told(&mut client, key);
    }
    // FLUSHALL drops all, too, in every node's words.
    client.call(&["GET", key]);
    writer.call(&["FLUSHALL"]);
    assert_eq!(next_push(&mut client), None);
    // A client that goes takes its lanes along.
    drop((client, all, writer));
    wait_until("no node to track", || {
        let text: String = cluster.members().iter().map(|member| member.client().call(&["CLIENT", "LIST"]).text()).collect();
        let tracks = |line: &str| {
            line.split(" flags=").nth(1).is_some_and(|rest| rest.split(' ').next().is_some_and(|flags| flags.contains('t')))
        };
        if text.lines().any(tracks) { Err(text) } else { Ok(()) }
    });
}

/// A client's own copies, as a cache in front of the proxy holds them.
struct Cache {
    client: Client,
    copies: BTreeMap<String, String>,
}

impl Cache {
    fn new(proxy: &Proxy) -> Cache {
        let mut client = tracker(proxy, &[]);
        client.set_timeout(Duration::from_millis(20));
        Cache { client, copies: BTreeMap::new() }
    }

    fn read(&mut self, key: &str) {
        self.client.send(&request(&["GET", key])).expect("it is connected");
        self.client.set_timeout(Duration::from_secs(60));
        while self.take_next(Some(key)) {}
        self.client.set_timeout(Duration::from_millis(20));
    }

    /// Takes what has come unasked.
    fn catch_up(&mut self) {
        while self.take_next(None) {}
    }

    /// Takes one push or reply. Answers whether more is awaited.
    fn take_next(&mut self, asked: Option<&str>) -> bool {
        let reply = match self.client.receive() {
            Ok(reply) => reply,
            Err(error) if asked.is_none() && !closed(&error) => return false,
            Err(error) => panic!("{error}"),
        };
        match (&reply, asked) {
            (Reply::Push(elements), _) => {
                match &elements[1] {
                    Reply::Array(keys) => keys.iter().for_each(|key| drop(self.copies.remove(&key.text()))),
                    _ => self.copies.clear(),
                }
                true
            }
            (reply, Some(key)) => {
                if !reply.is_error() {
                    self.copies.insert(key.to_owned(), reply.text());
                }
                false
            }
            (reply, None) => panic!("no push: {reply:?}"),
        }
    }
}

/// Copies are right again a moment after the writes have ended, whatever became of slots and nodes meanwhile.
fn coherent(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::with_failover());
    let proxy = Proxy::start(&cluster);
    let tags = tags_in(0..MOVED_SLOTS + 8);
    let keys: Vec<String> = tags.iter().flat_map(|tag| (0..4).map(move |n| format!("{tag}copied:{n}"))).collect();
    let mut caches: Vec<Cache> = (0..2).map(|_| Cache::new(&proxy)).collect();
    let mut plain = proxy.client();
    let atomic_too = server == Server::Valkey91;
    for round in 0..if atomic_too { 5 } else { 3 } {
        keys.iter().for_each(|key| caches.iter_mut().for_each(|cache| cache.read(key)));
        let over = Over::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut client = proxy.client();
                while !over.yet() {
                    // During a failover the outcome of some is unknown.
                    client.call(&["INCR", &keys[fastrand::usize(..keys.len())]]);
                }
            });
            let readers: Vec<_> = caches
                .iter_mut()
                .map(|cache| {
                    let (over, keys) = (&over, &keys);
                    scope.spawn(move || {
                        while !over.yet() {
                            cache.read(&keys[fastrand::usize(..keys.len())]);
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    })
                })
                .collect();
            let ends = over.when_dropped();
            let last = round == if atomic_too { 4 } else { 2 };
            if last {
                cluster.kill(0);
                cluster.wait_for(|cluster| {
                    let dead = cluster.member(0).id.clone();
                    let served =
                        cluster.view().iter().any(|node| node.owns(slot_of(&tags[0])) && node.is_master() && node.id != dead);
                    if served { Ok(()) } else { Err("no new master".to_owned()) }
                });
            } else {
                let (from, to) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
                move_lowest_slots(&cluster, from, to, MOVED_SLOTS, round >= 2);
            }
            drop(ends);
            join(writer);
            readers.into_iter().for_each(join);
        });
        wait_until("all copies to be right", || {
            for cache in &mut caches {
                cache.catch_up();
                for (key, copy) in &cache.copies {
                    let value = plain.call(&["GET", key]).text();
                    if *copy != value {
                        return Err(format!("round {round}: {key} is {value}, its copy {copy}"));
                    }
                }
            }
            Ok(())
        });
    }
}

crate::on_every_server!(choices, broadcast, redirected, lost, coherent);
