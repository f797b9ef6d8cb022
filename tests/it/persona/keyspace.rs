//! The keys of all nodes as one keyspace.

use std::collections::{BTreeSet, HashSet};

use super::{Scene, texts, write_keys};
use crate::harness::cluster::{SLOT_COUNT, slot_of};
use crate::harness::text::words;
use crate::harness::{Client, Reply, Server};

pub fn keyspace(scene: &Scene) {
    let mut client = scene.proxy.client();
    let names = write_keys(&mut client, "key", 1000);
    assert_eq!(client.call(&["DBSIZE"]), Reply::Integer(1000));
    let keys = client.call(&["KEYS", "*"]);
    assert_eq!(keys.elements().len(), 1000);
    assert_eq!(texts(&keys), names);
    assert_eq!(client.call(&["KEYS", "key:1?"]).elements().len(), 10);
    let all: Vec<&String> = names.iter().collect();
    let with = |command: &str| [vec![command.to_owned()], all.iter().map(|name| (*name).clone()).collect()].concat();
    for command in ["EXISTS", "TOUCH"] {
        assert_eq!(client.call(&with(command)), Reply::Integer(1000), "{command} of all");
    }
    let got = client.call(&with("MGET"));
    let strings = got.elements().iter().filter(|value| value.text() == "value").count();
    assert_eq!((strings, got.elements().len()), (500, 1000), "MGET of all: other types are nil");
    assert_eq!(client.call(&with("UNLINK")), Reply::Integer(1000));
    assert_eq!(client.call(&["DBSIZE"]), Reply::Integer(0));
    write_keys(&mut client, "again", 100);
    assert_eq!(client.call(&["FLUSHALL"]), Reply::ok());
    assert_eq!(client.call(&["DBSIZE"]), Reply::Integer(0));
    for member in scene.cluster.members() {
        assert_eq!(member.client().call(&["DBSIZE"]), Reply::Integer(0), "every node is empty");
    }
    // A write right behind the flush, in one pipeline, survives it.
    let behind = client.pipeline(&[vec!["SET", "x", "1"], vec!["FLUSHALL"], vec!["SET", "x", "2"], vec!["GET", "x"]]);
    assert_eq!(behind[3], Reply::bulk("2"));
    assert_eq!(client.call(&["DBSIZE"]), Reply::Integer(1));
}

/// A full walk: what came, in how many calls. Cursors must fit a double, which JavaScript clients use.
fn walk(client: &mut Client, options: &[&str]) -> (Vec<String>, usize) {
    let (mut keys, mut cursor) = (Vec::new(), "0".to_owned());
    for calls in 1..100_000 {
        let reply = client.call(&[&["SCAN", &cursor], options].concat());
        let [next, page] = reply.elements() else { panic!("SCAN {cursor} {options:?}: {reply:?}") };
        keys.extend(page.elements().iter().map(Reply::text));
        cursor = next.text();
        let number: u64 = cursor.parse().unwrap_or_else(|_| panic!("no cursor: {reply:?}"));
        assert!(number < 1 << 53, "cursor {number}");
        if number == 0 {
            return (keys, calls);
        }
    }
    panic!("SCAN does not end");
}

pub fn scan(scene: &Scene) {
    let mut client = scene.proxy.client();
    assert_eq!(walk(&mut client, &[]).0, Vec::<String>::new(), "nothing there");
    let names = write_keys(&mut client, "key", 3000);
    let check = |options: &[&str], expected: &BTreeSet<String>, client: &mut Client| {
        let (keys, calls) = walk(client, options);
        let unique: BTreeSet<String> = keys.iter().cloned().collect();
        assert_eq!(unique, *expected, "SCAN {options:?}: {} of {}", unique.len(), expected.len());
        assert_eq!(keys.len(), unique.len(), "SCAN {options:?} gave keys twice although nothing changed");
        calls
    };
    let calls_of_10 = check(&[], &names, &mut client);
    let calls_of_1000 = check(&["COUNT", "1000"], &names, &mut client);
    assert!(calls_of_1000 < calls_of_10, "COUNT is passed on: {calls_of_1000} and {calls_of_10} calls");
    check(&["COUNT", "1"], &names, &mut client);
    check(&["COUNT", "100000"], &names, &mut client);
    let ending_in_7 = names.iter().filter(|name| name.ends_with('7')).cloned().collect();
    check(&["MATCH", "*7", "COUNT", "100"], &ending_in_7, &mut client);
    let sets: BTreeSet<String> = names.iter().enumerate().filter(|(n, _)| n % 4 == 0).map(|(_, name)| name.clone()).collect();
    check(&["TYPE", "set", "COUNT", "100"], &sets, &mut client);
    let tagged: BTreeSet<String> = (0..50).map(|n| format!("{{tag}}:{n}")).collect();
    for name in &tagged {
        client.call(&["SET", name, "1"]);
    }
    check(&["MATCH", "{tag}:*"], &tagged, &mut client);
    check(&["MATCH", "{tag}:*", "COUNT", "1000"], &tagged, &mut client);
    // A page goes on from any connection: cursors hold all there is to know.
    let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
    loop {
        let reply = scene.proxy.client().call(&["SCAN", &cursor, "COUNT", "100"]);
        found.extend(texts(&reply.elements()[1]));
        cursor = reply.elements()[0].text();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 3050);
}

pub fn random_key(scene: &Scene) {
    let mut client = scene.proxy.client();
    assert!(client.call(&["RANDOMKEY"]).is_null());
    // One key alone must be found, wherever it is.
    client.call(&["SET", "alone", "1"]);
    assert!((0..30).all(|_| client.call(&["RANDOMKEY"]) == Reply::bulk("alone")));
    let names = write_keys(&mut client, "key", 300);
    let mut drawn = HashSet::new();
    for _ in 0..300 {
        let name = client.call(&["RANDOMKEY"]).text();
        assert!(name == "alone" || names.contains(&name), "{name:?} was never written");
        drawn.insert(u32::from(slot_of(&name)) * 3 / u32::from(SLOT_COUNT));
    }
    assert_eq!(drawn.len(), 3, "keys of each of the three masters are drawn");
}

/// Commands that need all their keys in one slot; `a` and `b` are in two.
const CROSS_SLOT: &str = r#"
MSETNX a 1 b 2
RENAME a b
RENAMENX a b
COPY a b
SINTER a b
SUNION a b
SDIFF a b
SINTERSTORE a b c
SUNIONSTORE a b c
SDIFFSTORE a b c
SMOVE a b m
RPOPLPUSH a b
LMOVE a b LEFT LEFT
PFCOUNT a b
PFMERGE a b
BITOP AND a b
ZUNIONSTORE a 1 b
ZINTERSTORE a 1 b
ZUNION 2 a b
ZINTER 2 a b
ZDIFF 2 a b
ZDIFFSTORE a 1 b
ZRANGESTORE a b 0 1
GEOSEARCHSTORE a b FROMLONLAT 1 1 BYRADIUS 1 m
EVAL "return 1" 2 a b
XREAD STREAMS a b 0 0
SORT a STORE b"#;

/// Those that came after 6.2.
const CROSS_SLOT_SINCE_7_0: &str = r#"
LCS a b
SINTERCARD 2 a b
ZINTERCARD 2 a b
LMPOP 2 a b LEFT
ZMPOP 2 a b MIN
FCALL f 2 a b
EVAL_RO "return 1" 2 a b"#;

/// Valkey 9.1 executes it wherever it is sent, and nobody ever finds the keys again: the proxy alone prevents it.
const CROSS_SLOT_OF_VALKEY: &str = "MSETEX 2 a 1 b 2";

pub fn cross_slot(scene: &Scene) {
    let newer = if scene.server == Server::Redis62 { "" } else { CROSS_SLOT_SINCE_7_0 };
    let newest = if scene.server == Server::Valkey91 { CROSS_SLOT_OF_VALKEY } else { "" };
    let mut client = scene.proxy.client();
    for key in ["a", "b"] {
        client.call(&["SET", key, "1"]);
    }
    for line in CROSS_SLOT.lines().chain(newer.lines()).chain(newest.lines()).filter(|line| !line.is_empty()) {
        let reply = client.call(&words(line));
        assert_eq!(reply, Reply::error("CROSSSLOT Keys in request don't hash to the same slot"), "{line}");
    }
    // Nothing of it was done, on no node.
    assert_eq!(client.call(&["DBSIZE"]), Reply::Integer(2));
    assert_eq!(client.call(&["MGET", "a", "b"]), Reply::Array(vec![Reply::bulk("1"), Reply::bulk("1")]));
}
