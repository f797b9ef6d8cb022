//! Conversations with the fake cluster beside what Redis 7.0, 8.2 and Valkey 9.1 answered to the same.

use std::collections::BTreeMap;

use fastrand::Rng;
use keyway::resp::{Elements, Proto, View, first_reply_len, view};

use crate::{
    channels,
    cluster::{Cluster, Word},
    node::{Caller, Outcome, execute},
    plan::Plan,
    waiting,
};

/// Two masters that each own half of the slots, with a replica each, and connections that are named by a letter.
struct Talk {
    cluster: Cluster,
    callers: BTreeMap<char, (usize, Caller)>,
    heard: BTreeMap<usize, Vec<String>>,
    /// The slot that moves, from node `source` to node `target`.
    tag: usize,
    source: usize,
    target: usize,
}

impl Talk {
    fn new(valkey: bool) -> Talk {
        let mut random = Rng::with_seed(7);
        let mut plan = Plan::of(&mut random);
        (plan.masters, plan.new_master, plan.replicas, plan.tags) = (2, false, 1, 4);
        (plan.valkey, plan.old_server, plan.full_coverage, plan.auth, plan.one_host) = (valkey, false, false, false, false);
        let cluster = Cluster::new(&plan, &mut random);
        let source = cluster.master_of(cluster.shard_of(cluster.tags[0].unit));
        Talk { target: 1 - source, source, tag: 0, cluster, callers: BTreeMap::new(), heard: BTreeMap::new() }
    }

    /// `a: SET {t}k 1` is said on connection `a`, which leads to the source; capitals lead to the target. `{t}` is the moving tag.
    fn say(&mut self, line: &str) -> String {
        let (letter, command) = line.split_once(": ").expect("a letter and a command");
        let letter = letter.chars().next().expect("a letter");
        let node = if letter.is_uppercase() { self.target } else { self.source };
        let tag = format!("{{{}}}", self.cluster.tags[self.tag].name);
        let args: Vec<Vec<u8>> = command.split(' ').map(|word| word.replace("{t}", &tag).into_bytes()).collect();
        let number = letter as usize;
        let caller = self.callers.entry(letter).or_insert_with(|| (node, Caller::new(number, &self.cluster)));
        let mut out = Vec::new();
        let outcome = execute(&mut self.cluster, caller.0, &mut caller.1, &args, 0, &mut out);
        self.carry();
        if outcome == Outcome::Blocked { "(waits)".into() } else { self.shown(&out) }
    }

    /// A reply on one line, with the moving slot and the nodes' addresses replaced by words.
    fn shown(&self, reply: &[u8]) -> String {
        let slot = self.cluster.tags[self.tag].slot;
        let tag = format!("{{{}}}", self.cluster.tags[self.tag].name);
        let mut text = pretty(reply).replace(&tag, "{t}");
        for (name, node) in [("T", self.target), ("S", self.source)] {
            text = text.replace(&format!(" {slot} {}", self.cluster.nodes[node].addr), &format!(" s {name}"));
        }
        text
    }

    fn carry(&mut self) {
        for said in std::mem::take(&mut self.cluster.said) {
            let text = if matches!(said.word, Word::Close) { "(closed)".into() } else { self.shown(&said.bytes) };
            self.heard.entry(said.conn).or_default().push(text);
            if let Word::Unblocked { .. } = said.word
                && let Some((_, caller)) = self.callers.get_mut(&(said.conn as u8 as char))
            {
                caller.blocked = false;
            }
        }
    }

    fn open_slot(&mut self) {
        let unit = self.cluster.tags[self.tag].unit;
        let (from, to) = (self.cluster.nodes[self.source].shard, self.cluster.nodes[self.target].shard);
        self.cluster.shards[to].importing.insert(unit, from);
        self.cluster.shards[from].migrating.insert(unit, to);
    }

    fn move_key(&mut self, key: &str) {
        let key = key.replace("{t}", &format!("{{{}}}", self.cluster.tags[self.tag].name));
        let (from, to) = (self.cluster.nodes[self.source].shard, self.cluster.nodes[self.target].shard);
        self.cluster.hand_key(&key, from, to);
        self.carry();
    }

    fn finish(&mut self) {
        let unit = self.cluster.tags[self.tag].unit;
        let (from, to) = (self.cluster.nodes[self.source].shard, self.cluster.nodes[self.target].shard);
        self.cluster.shards[to].importing.remove(&unit);
        self.cluster.claim(unit, self.target);
        self.cluster.gossip(self.source);
        self.cluster.shards[from].migrating.remove(&unit);
        channels::leave(&mut self.cluster, self.source);
        waiting::leave(&mut self.cluster, self.source);
        self.carry();
    }

    /// The source's replica takes over.
    fn fail_over(&mut self) {
        let shard = self.cluster.nodes[self.source].shard;
        let replica = (0..4).find(|node| *node != self.source && self.cluster.nodes[*node].shard == shard).expect("it has one");
        self.cluster.take_over(shard, replica);
        self.cluster.gossip(self.source);
        waiting::leave(&mut self.cluster, self.source);
        self.carry();
    }

    /// Carries out the left half of a line, and answers the line with what really came.
    fn said(&mut self, line: &str) -> String {
        let (command, _) = line.split_once(" => ").expect("what is said and what is answered");
        let found = match command.split_once(' ') {
            None if command == "open" => self.act(Talk::open_slot),
            None if command == "finish" => self.act(Talk::finish),
            Some(("fail", "over")) => self.act(Talk::fail_over),
            Some(("move", key)) => self.act(|talk| talk.move_key(key)),
            Some((letter, "hears")) => {
                let conn = letter.chars().next().expect("a letter") as usize;
                self.heard.remove(&conn).map_or("nothing".into(), |heard| heard.join(" "))
            }
            _ => self.say(command),
        };
        format!("{command} => {found}")
    }

    fn act(&mut self, act: impl FnOnce(&mut Talk)) -> String {
        act(self);
        "done".into()
    }
}

/// Replies as one reads them: errors with their dash, `nil`, arrays in brackets.
fn pretty(mut reply: &[u8]) -> String {
    let mut all = Vec::new();
    while let Some(len) = first_reply_len(reply) {
        all.push(shape(&reply[..len]));
        reply = &reply[len..];
    }
    all.join(" ")
}

fn shape(reply: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let list = |elements: Elements<'_>| elements.map(shape).collect::<Vec<_>>().join(" ");
    match view(reply).expect("a reply") {
        View::Simple(word) | View::Bulk(word) => text(word),
        View::Error(error) => format!("-{}", text(error)),
        View::Integer(number) => format!(":{number}"),
        View::Null => "nil".into(),
        View::Push(elements) => format!(">[{}]", list(elements)),
        View::Map(elements) => format!("%[{}]", list(elements)),
        View::Array(elements) => format!("[{}]", list(elements)),
        other => panic!("no node answers {other:?}"),
    }
}

#[track_caller]
fn check(valkey: bool, lines: &str) {
    let mut talk = Talk::new(valkey);
    let lines: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let found: Vec<String> = lines.iter().map(|line| talk.said(line)).collect();
    assert_eq!(found, lines, "valkey: {valkey}");
}

const TRY_AGAIN: &str = "-TRYAGAIN Multiple keys request during rehashing of slot";
const ABORTED: &str = "-EXECABORT Transaction discarded because of previous errors.";

#[test]
fn transactions_on_an_open_slot() {
    let begin = "a: SET {t}e 1 => OK
        a: SET {t}f 1 => OK
        a: MULTI => OK
        a: SET {t}e 2 => QUEUED
        b: WATCH {t}e => OK
        c: WATCH {t}e => OK
        c: MULTI => OK
        c: SET {t}f 9 => QUEUED
        d: WATCH {t}m => OK
        d: MULTI => OK
        d: SET {t}m 1 => QUEUED
        e: MULTI => OK
        e: SET {t}e 2 => QUEUED
        e: SET {t}f 2 => QUEUED
        open => done";
    let target = format!(
        "A: MULTI => OK
        A: SET {{t}}x 1 => -MOVED s S
        A: EXEC => {ABORTED}
        A: ASKING => OK
        A: MULTI => OK
        A: SET {{t}}x 1 => QUEUED
        A: EXEC => [OK]
        A: ASKING => OK
        A: MULTI => OK
        A: SET {{t}}x2 1 => QUEUED
        A: SET {{t}}y 1 => QUEUED
        A: EXEC => {TRY_AGAIN}
        A: ASKING => OK
        A: MULTI => OK
        A: SET {{t}}z 1 => QUEUED
        A: SET {{t}}z 1 => QUEUED
        A: EXEC => [OK OK]
        A: ASKING => OK
        A: MGET {{t}}no {{t}}no => [nil nil]
        A: ASKING => OK
        A: WATCH {{t}}no => OK
        move {{t}}e => done
        a: EXEC => -ASK s T
        a: EXEC => -ERR EXEC without MULTI
        e: EXEC => {TRY_AGAIN}
        c: EXEC => nil"
    );
    let end = "move {t}f => done
        finish => done
        d: EXEC => -MOVED s T";
    let redis = format!(
        "g: MULTI => OK
        g: SET {{t}}x 1 => -ASK s T
        g: SET {{t}}e 1 => QUEUED
        g: EXEC => {ABORTED}
        g: MULTI => OK
        g: MGET {{t}}e {{t}}x => {TRY_AGAIN}
        g: EXEC => {ABORTED}
        g: WATCH {{t}}x => -ASK s T
        g: WATCH {{t}}x {{t}}e => {TRY_AGAIN}"
    );
    let moved = format!(
        "b: MULTI => OK
        b: SET {{t}}e 1 => -ASK s T
        b: EXEC => {ABORTED}"
    );
    check(false, &[begin, &redis, &target, &moved, end].join("\n"));
    let valkey = format!(
        "g: MULTI => OK
        g: SET {{t}}x 1 => QUEUED
        g: EXEC => -ASK s T
        g: MULTI => OK
        g: SET {{t}}e 1 => QUEUED
        g: SET {{t}}x 1 => QUEUED
        g: EXEC => {TRY_AGAIN}
        g: WATCH {{t}}x => -ASK s T
        A: ASKING => OK
        A: MULTI => OK
        A: MGET {{t}}e {{t}}no => QUEUED
        A: EXEC => {TRY_AGAIN}"
    );
    let moved = "b: MULTI => OK
        b: SET {t}e 1 => QUEUED
        b: EXEC => nil";
    check(true, &[begin, &valkey, &target, moved, end].join("\n"));
}

#[test]
fn waiting_for_elements() {
    let lines = "a: BLPOP {t}q 0 => (waits)
        b: BRPOP {t}q 0 => (waits)
        c: RPUSH {t}q 1 => :1
        a hears => [{t}q 1]
        b hears => nothing
        a: BLPOP {t}q 0 => (waits)
        d: BLMOVE {t}src {t}q LEFT RIGHT 0 => (waits)
        c: RPUSH {t}src v => :1
        d hears => v
        b hears => [{t}q v]
        a hears => nothing
        c: MULTI => OK
        c: RPUSH {t}q x => QUEUED
        c: LPOP {t}q => QUEUED
        c: BLPOP {t}q 0 => QUEUED
        c: EXEC => [:1 x nil]
        a hears => nothing
        e: WATCH {t}q => OK
        c: RPUSH {t}q y => :1
        a hears => [{t}q y]
        e: MULTI => OK
        e: PING => QUEUED
        e: EXEC => nil
        a: BLPOP {t}q 0 => (waits)
        open => done
        b: BLPOP {t}q 0 => -ASK s T
        A: ASKING => OK
        A: BLPOP {t}q 0 => (waits)
        B: ASKING => OK
        B: BLPOP {t}q {t}q2 0 => -TRYAGAIN Multiple keys request during rehashing of slot
        C: ASKING => OK
        C: RPUSH {t}q v => :1
        A hears => [{t}q v]
        finish => done
        a hears => -MOVED s T";
    check(false, lines);
    check(true, lines);
    check(
        false,
        "a: BLPOP {t}q 0 => (waits)\nfail over => done\na hears => -UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?) (closed)",
    );
}

#[test]
fn listening() {
    let lines = "a: SUBSCRIBE c d => [subscribe c :1] [subscribe d :2]
        a: PSUBSCRIBE c* => [psubscribe c* :3]
        a: SSUBSCRIBE {t}ch => [ssubscribe {t}ch :1]
        b: PUBLISH c hi => :2
        a hears => [message c hi] [pmessage c* c hi]
        open => done
        b: SPUBLISH {t}ch m => :1
        a hears => [smessage {t}ch m]
        A: SPUBLISH {t}ch m => -MOVED s S
        A: ASKING => OK
        A: SPUBLISH {t}ch m => :0
        finish => done
        a hears => [sunsubscribe {t}ch :0]
        b: SPUBLISH {t}ch m => -MOVED s T
        a: UNSUBSCRIBE => [unsubscribe c :2] [unsubscribe d :1]
        a: UNSUBSCRIBE => [unsubscribe nil :1]";
    check(false, lines);
}

#[test]
fn a_resp3_connection_is_pushed_to() {
    let mut talk = Talk::new(false);
    assert!(talk.say("a: HELLO 3").starts_with('%'));
    assert_eq!(talk.callers[&'a'].1.proto, Proto::Resp3);
    assert_eq!(talk.say("a: SUBSCRIBE c"), ">[subscribe c :1]");
    assert_eq!(talk.say("b: PUBLISH c x"), ":1");
    assert_eq!(talk.said("a hears => anything"), "a hears => >[message c x]");
}
