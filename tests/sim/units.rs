//! Transactions: what clients put into them, and whether each was carried out wholly and once or not at all.

use std::collections::HashMap;

use keyway::resp::{View, view};

use crate::{
    answers::is_giving_up,
    client::{Expect, Owed, Planned},
    conn::Frame,
    serve::sha_of,
    shard::Value,
    tags::{channel_object, parse_tag, tag_of, tag_of_key, tag_text},
    truth::Tag,
    world::{What, World},
};

/// What a client put between MULTI and EXEC.
pub struct Unit {
    pub expects: Vec<Expect>,
    commands: Vec<Vec<Vec<u8>>>,
    /// The place of its first command among the client's requests.
    first_seq: u32,
    client: usize,
    watching: bool,
    /// Its client was told that it watches: it must be carried out there and nowhere else.
    guarded: bool,
    /// A command was refused when it was queued, as it had to be.
    doomed: bool,
    applied: u32,
}

impl Unit {
    /// Whether a node that carries it out can be seen to do so.
    fn executes_tagged(&self) -> bool {
        self.commands.iter().any(|args| !is_message(args) && tag_of(args).is_some())
    }
}

#[derive(Default)]
pub struct Units {
    pub list: Vec<Unit>,
    by_tag: HashMap<Tag, usize>,
    pub carried_out: u64,
    pub nulls: u64,
    pub compared: u64,
}

/// The value that replaces another says so, and whose tag the other had.
pub fn replacing(tag: Tag, key: &str, old: Option<Tag>) -> Vec<u8> {
    let old = old.map_or("nothing".to_owned(), tag_text);
    format!("{}{key}:after {old}", tag_text(tag)).into_bytes()
}

impl World {
    /// A client begins a transaction: all of it is planned at once, so that its tags are known.
    pub fn plan_unit(&mut self, index: usize) {
        let seq = self.clients[index].seq;
        match self.random.u32(0..20) {
            0 => return self.plan(index, vec![(words(&["EXEC"]), error("ERR EXEC without MULTI"))]),
            1 => return self.plan(index, vec![(words(&["DISCARD"]), error("ERR DISCARD without MULTI"))]),
            2 => return self.plan(index, vec![(words(&["UNWATCH"]), ok())]),
            3..=7 => return self.plan_compare(index),
            _ => {}
        }
        let mut steps = Vec::new();
        let tag = self.random.usize(0..self.cluster.tags.len());
        let watching = self.random.u32(0..6) == 0;
        if watching {
            let mut args = words(&["WATCH"]);
            let kind = if self.random.bool() { "k0" } else { "l0" };
            args.push(format!("{{{}}}{kind}", self.cluster.tags[tag].name).into_bytes());
            steps.push((args, ok()));
        }
        steps.push((words(&["MULTI"]), Expect::Begun));
        let first_seq = seq + steps.len() as u32;
        let mut commands = Vec::new();
        let mut expects = Vec::new();
        let mut doomed = false;
        for _ in 0..self.random.u32(0..6) {
            let at = (index as u32, seq + steps.len() as u32);
            match self.random.u32(0..40) {
                0 => {
                    doomed = true;
                    let shown = "-ERR wrong number of arguments for 'get' command";
                    steps.push((words(&["GET"]), Expect::Refused(shown.into())));
                }
                1 if commands.iter().any(|args: &Vec<Vec<u8>>| !crate::node::keys_of(args).is_empty()) => {
                    doomed = true;
                    let other = (tag + 1) % self.cluster.tags.len();
                    let key = format!("{{{}}}k0", self.cluster.tags[other].name);
                    steps.push((words(&["GET", &key]), Expect::Refused("-CROSSSLOT".into())));
                }
                2 if !self.cluster.valkey => steps.push((words(&["MULTI"]), error("ERR MULTI calls can not be nested"))),
                3 if !self.cluster.valkey => steps.push((words(&["WATCH", "k"]), error("ERR WATCH inside MULTI is not allowed"))),
                _ => {
                    let (args, expect) = self.unit_command(index, tag, at);
                    steps.push((args.clone(), Expect::Queued));
                    commands.push(args);
                    expects.push(expect);
                }
            }
        }
        let unit = Unit { expects, commands, first_seq, client: index, watching, guarded: false, doomed, applied: 0 };
        self.end_unit(index, steps, unit);
    }

    fn end_unit(&mut self, index: usize, mut steps: Vec<(Vec<Vec<u8>>, Expect)>, unit: Unit) {
        if self.random.u32(0..10) == 0 {
            steps.push((words(&["DISCARD"]), ok()));
            return self.plan(index, steps);
        }
        let number = self.units.list.len();
        for tag in unit.commands.iter().filter_map(|args| tag_of(args)).map(|(tag, _)| tag) {
            self.units.by_tag.insert(tag, number);
        }
        self.units.list.push(unit);
        steps.push((words(&["EXEC"]), Expect::Unit(number)));
        self.plan(index, steps);
    }

    /// One command of a transaction, and what is expected of it inside of EXEC's answer.
    fn unit_command(&mut self, index: usize, tag: usize, at: Tag) -> (Vec<Vec<u8>>, Expect) {
        let name = self.cluster.tags[tag].name.clone();
        let number = self.random.u32(0..3);
        let text = tag_text(at);
        let key = |kind: &str| format!("{{{name}}}{kind}{number}");
        match self.random.u32(0..14) {
            0..=1 => {
                let key = key("k");
                (words(&["SET", &key, &format!("{text}{key}:")]), Expect::Written(vec![key]))
            }
            2..=4 => (words(&["RPUSH", &key("l"), &text]), Expect::Pushed(key("l"))),
            5 => (words(&["GET", &key("k")]), Expect::Text(key("k"))),
            6 => {
                let counter = format!("{{{name}}}c{index}n");
                match self.may_be_bob(index) {
                    true => (words(&["GET", &key("k")]), Expect::Text(key("k"))),
                    false => (words(&["INCR", &counter]), Expect::Counter(counter)),
                }
            }
            7 => (words(&["MGET", &key("k"), &key("p")]), Expect::Lasting(vec![key("k"), key("p")])),
            8 => (words(&["PING"]), Expect::Exact(b"+PONG\r\n".to_vec())),
            9 => {
                let body = crate::asks::body(number);
                let known = self.bodies_seen.contains(&body) && self.random.bool();
                let sha = sha_of(body.as_bytes());
                let script = if known { ["EVALSHA", &sha] } else { ["EVAL", &body] };
                (words(&[script[0], script[1], "1", &key("l"), &text]), Expect::Script(key("l")))
            }
            10 if self.families.block => {
                let queue = format!("{{{name}}}q0");
                let shape = crate::queues::Shape::Element;
                (words(&["LPOP", &queue]), Expect::Popped { keys: vec![queue], timeout_us: None, shape })
            }
            11 if self.families.block => {
                let queue = format!("{{{name}}}q0");
                let shape = crate::queues::Shape::Pair;
                (words(&["BLPOP", &queue, "0"]), Expect::Popped { keys: vec![queue], timeout_us: None, shape })
            }
            12 if self.families.pubsub => {
                let channel = format!("ch{number}");
                (words(&["PUBLISH", &channel, &text]), Expect::Published(channel_object(&channel)))
            }
            13 if self.families.pubsub => {
                let channel = format!("{{{name}}}ch");
                (words(&["SPUBLISH", &channel, &text]), Expect::Published(channel_object(&channel)))
            }
            _ => {
                let key = format!("{{{name}}}q{}", number % 2);
                (words(&["RPUSH", &key, &text]), Expect::Job(key))
            }
        }
    }

    /// Compare and set: WATCH, GET, and when the value is known MULTI, SET, EXEC.
    fn plan_compare(&mut self, index: usize) {
        let tag = self.random.usize(0..self.cluster.tags.len());
        let key = format!("{{{}}}w{}", self.cluster.tags[tag].name, self.random.u32(0..2));
        let own = format!("{{{}}}~{}", self.cluster.tags[tag].name, tag_text((index as u32, self.clients[index].seq)));
        let watch = if self.random.bool() { words(&["WATCH", &key]) } else { words(&["WATCH", &key, &own]) };
        self.clients[index].compares = true;
        self.plan(index, vec![(watch, Expect::Watched), (words(&["GET", &key]), Expect::Compare(key))]);
    }

    /// The value to be compared with has come, or will not.
    pub fn compare(&mut self, index: usize, key: &str, found: Result<Option<Tag>, ()>) {
        let watched = std::mem::replace(&mut self.clients[index].watch_failed, false);
        self.clients[index].compares = false;
        let seq = self.clients[index].seq;
        let steps = match found {
            Ok(old) if !watched => {
                let at = (index as u32, seq + 1);
                let set = vec![b"SET".to_vec(), key.as_bytes().to_vec(), replacing(at, key, old)];
                let mut steps = vec![(words(&["MULTI"]), Expect::Begun), (set.clone(), Expect::Queued)];
                let mut commands = vec![set];
                let mut expects = vec![Expect::Written(vec![key.to_owned()])];
                if self.random.bool() {
                    let log = format!("{}l0", &key[..=key.find('}').expect("keys have tags")]);
                    let push = words(&["RPUSH", &log, &tag_text((index as u32, seq + 2))]);
                    steps.push((push.clone(), Expect::Queued));
                    commands.push(push);
                    expects.push(Expect::Pushed(log));
                }
                let (first_seq, watching, guarded) = (seq + 1, true, true);
                let unit = Unit { expects, commands, first_seq, client: index, watching, guarded, doomed: false, applied: 0 };
                return self.end_unit(index, steps, unit);
            }
            _ => vec![(words(&["UNWATCH"]), ok())],
        };
        self.plan(index, steps);
    }

    /// Steps that follow one another, whatever else the client does.
    pub fn plan(&mut self, index: usize, steps: Vec<(Vec<Vec<u8>>, Expect)>) {
        for (args, expect) in steps {
            let write = matches!(expect, Expect::Unit(_));
            self.clients[index].planned.push_back(Planned { args, expect, write });
        }
        self.later(0, What::ClientActs(index));
    }

    /// A node carried a transaction out on a connection: it must be one that a client asked for, and all of it.
    pub fn check_unit(&mut self, conn: usize, carried_out: &[Vec<Vec<u8>>]) {
        let tags = carried_out.iter().filter_map(|args| tag_of(args)).map(|(tag, _)| tag);
        let Some(number) = tags.filter_map(|tag| self.units.by_tag.get(&tag).copied()).next() else { return };
        let unit = &mut self.units.list[number];
        unit.applied += 1;
        self.units.carried_out += 1;
        let asked = unit.commands.iter().filter(|args| !is_message(args));
        let same = asked.clone().count() == carried_out.len()
            && asked.zip(carried_out).all(|(asked, done)| is_same_command(asked, done));
        let unguarded = unit.guarded && !self.conns[conn].caller.guarded;
        if !same || unit.applied > 1 || unguarded {
            let what = match same {
                true if unguarded => "where nothing is watched",
                true => "twice",
                false => "not as it was asked for",
            };
            let shown: Vec<String> =
                carried_out.iter().map(|args| String::from_utf8_lossy(&args.join(&b' ')).into_owned()).collect();
            let text =
                format!("the transaction of client {} at {} was carried out {what}: {shown:?}", unit.client, unit.first_seq);
            self.truth.accuse(text);
        }
    }

    /// A transaction's message goes out when its commands were carried out, and only then.
    pub fn check_message_queued(&mut self, tag: Tag, args: &[Vec<u8>]) {
        let Some(unit) = self.units.by_tag.get(&tag).map(|number| &self.units.list[*number]).filter(|_| is_message(args)) else {
            return;
        };
        if unit.executes_tagged() && unit.applied == 0 {
            let text = format!("the message {tag:?} of a transaction is sent, and the transaction was not carried out");
            self.truth.accuse(text);
        }
    }

    /// What was SET under a watch replaces what its client had read.
    pub fn check_written(&mut self) {
        for (key, new, old) in std::mem::take(&mut self.cluster.overwritten) {
            let new = String::from_utf8_lossy(&new).into_owned();
            let Some((_, said)) = new.split_once(":after ") else { continue };
            self.units.compared += 1;
            let old = match &old {
                Some(Value::Text(old)) => parse_tag(old).map_or("nothing".to_owned(), tag_text),
                _ => "nothing".to_owned(),
            };
            if said != old {
                self.truth.accuse(format!("an update of {key} is lost: {new} replaces {old}"));
            }
        }
    }

    /// A lane on which a client watches keys is nobody else's, nor is one that another user has named.
    pub fn check_caller(&mut self, index: usize, frame: &Frame) {
        let Some((client, seq)) = frame.attempt.map(|attempt| self.truth.attempts[attempt].tag) else { return };
        let caller = &self.conns[index].caller;
        let watching = caller.watched.iter().filter_map(|(key, _)| tag_of_key(key.as_bytes()));
        if let Some((other, _)) = watching.into_iter().find(|(other, _)| *other != client) {
            let text = format!("request {:?} was carried out on conn {index}, where client {other} watches", (client, seq));
            self.truth.accuse(text);
        }
        self.check_user(index, (client, seq));
    }

    /// EXEC's answer agrees with what happened.
    pub fn check_unit_reply(&mut self, index: usize, number: usize, sent_at: u64, reply: &[u8]) -> Result<(), String> {
        let unit = &self.units.list[number];
        let tagged = unit.executes_tagged();
        let Some(View::Array(elements)) = view(reply) else {
            self.units.nulls += 1;
            return match (unit.watching, unit.applied) {
                (false, _) => Err("null without a watch".into()),
                (_, 0) => Ok(()),
                _ => Err("null, and the transaction was carried out".into()),
            };
        };
        if unit.doomed {
            return Err("a transaction with a refused command was carried out".into());
        }
        if tagged && unit.applied != 1 {
            return Err(format!("the transaction was carried out {} times", unit.applied));
        }
        let elements: Vec<Vec<u8>> = elements.map(<[u8]>::to_vec).collect();
        if elements.len() != unit.expects.len() {
            return Err(format!("{} answers to {} commands", elements.len(), unit.expects.len()));
        }
        let (expects, tags) = (unit.expects.clone(), self.seqs_of(number));
        for ((expect, seq), element) in expects.into_iter().zip(tags).zip(elements) {
            let owed = Owed { seq, expect, sent_at, write: true, one_slot: true, forbidden: false };
            // A message goes its own way.
            let message = matches!(owed.expect, Expect::Published(_));
            if message && element[0] == b'-' && self.is_allowed_error(index, &owed, &element) {
                continue;
            }
            self.check_element(index, &owed, &element).map_err(|why| format!("{why} ({:?})", owed.expect))?;
        }
        Ok(())
    }

    /// Where the commands of a transaction stand among the client's requests.
    fn seqs_of(&self, number: usize) -> Vec<u32> {
        let unit = &self.units.list[number];
        let tag = |args: &Vec<Vec<u8>>| tag_of(args).map_or(unit.first_seq, |((_, seq), _)| seq);
        unit.commands.iter().map(tag).collect()
    }

    /// An error instead of EXEC's array.
    pub fn is_allowed_unit_error(&mut self, number: usize, owed: &Owed, text: &str) -> bool {
        let unit = &self.units.list[number];
        let (applied, doomed, spoiled) = (unit.applied, unit.doomed, self.clients[unit.client].spoiled);
        let tagged = unit.executes_tagged();
        let tags: Vec<Tag> = unit.commands.iter().filter_map(|args| tag_of(args)).map(|(tag, _)| tag).collect();
        if text.contains("proxy: outcome unknown") {
            self.unknown_outcomes += 1;
            return !tagged || tags.iter().any(|tag| self.truth.is_unknown(*tag));
        }
        if is_giving_up(text) {
            return applied == 0 && self.may_give_up(owed);
        }
        text.starts_with("-EXECABORT Transaction discarded because of previous errors.") && (doomed || spoiled) && applied == 0
    }
}

/// Messages are no part of what a node carries out as a unit.
fn is_message(args: &[Vec<u8>]) -> bool {
    args[0] == b"PUBLISH" || args[0] == b"SPUBLISH"
}

/// The same arguments; a script may go by its body instead of its name.
fn is_same_command(asked: &[Vec<u8>], done: &[Vec<u8>]) -> bool {
    match (asked, done) {
        ([name, sha, asked @ ..], [other, body, done @ ..]) if name == b"EVALSHA" && other == b"EVAL" => {
            sha_of(body).as_bytes() == sha && asked == done
        }
        _ => asked == done,
    }
}

pub fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

pub fn ok() -> Expect {
    Expect::Exact(b"+OK\r\n".to_vec())
}

pub fn error(text: &str) -> Expect {
    Expect::Refused(format!("-{text}"))
}
