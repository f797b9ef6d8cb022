//! What a client asks.

use std::collections::HashSet;

use keyway::resp::encode;

use crate::{
    client::{Expect, Life, Owed, Planned, Role},
    node::TRY_AGAIN,
    plan::Families,
    serve::sha_of,
    tags::{NUMBER_TAG, tag_text},
    truth::Tag,
    users::User,
    world::{What, World},
};

/// Bodies of scripts. All push; they differ so that nodes may know one and not another.
pub fn body(number: u32) -> String {
    format!("redis.call('RPUSH', KEYS[1], ARGV[1]) -- {number}")
}

impl World {
    /// A client writes a burst of requests.
    pub fn client_acts(&mut self, index: usize) {
        if self.clients[index].life != Life::Open {
            return;
        }
        let burst = self.random.usize(1..=self.plan.depth_max);
        for _ in 0..burst {
            let client = &self.clients[index];
            if client.owed.len() >= self.plan.depth_max * 2 || client.wants_close {
                break;
            }
            if let Some(planned) = self.clients[index].planned.pop_front() {
                self.ask_planned(index, planned);
                continue;
            }
            let client = &self.clients[index];
            if client.left == 0 || client.compares || client.awaits_name {
                break;
            }
            self.clients[index].left -= 1;
            self.choose(index);
        }
        self.deliver_to_engine_later(index);
        let client = &self.clients[index];
        if client.left > 0 || !client.planned.is_empty() {
            let wait = self.random.u64(0..self.plan.faults_us / 10);
            self.later(wait, What::ClientActs(index));
        }
    }

    /// Writes one request, and notes what is owed for it.
    pub fn request(&mut self, index: usize, args: &[&[u8]], expect: Option<Expect>, write: bool, one_slot: bool) {
        let mut frame = Vec::new();
        encode::command(&mut frame, args);
        let now = self.now;
        let client = &mut self.clients[index];
        client.to_engine.push(&frame);
        if let Some(expect) = expect {
            let forbidden = self.families.auth && !User::Bob.may(args[0]);
            client.owed.push_back(Owed { seq: client.seq, expect, sent_at: now, write, one_slot, forbidden });
        }
        if self.trace {
            let shown: Vec<String> =
                args.iter().map(|arg| String::from_utf8_lossy(&arg[..arg.len().min(40)]).into_owned()).collect();
            println!("{:>9} client {index} asks #{}: {}", self.now, self.clients[index].seq, shown.join(" "));
        }
        self.clients[index].seq += 1;
    }

    fn key(&mut self, index: usize, kind: char) -> String {
        let tag = self.random.usize(0..self.cluster.tags.len());
        let own = self.random.bool();
        let name = &self.cluster.tags[tag].name;
        match (kind, own) {
            ('s', _) | ('n', _) => format!("{{{name}}}c{index}{kind}"),
            (_, true) => format!("{{{name}}}c{index}{kind}{}", self.random.u32(0..2)),
            (_, false) => format!("{{{name}}}{kind}{}", self.random.u32(0..3)),
        }
    }

    fn value(&mut self, index: usize, key: &str) -> Vec<u8> {
        let seq = self.clients[index].seq;
        let mut value = format!("{}{key}:", tag_text((index as u32, seq))).into_bytes();
        if self.random.u32(0..4) == 0 {
            let len = value.len() + self.random.usize(0..300);
            value.resize(len, b'x');
        }
        if self.plan.large && self.random.u32(0..20) == 0 {
            let len = *self.random.choice([17_000, 66_000, 140_000].iter()).expect("three choices");
            value.resize(len, b'x');
        }
        value
    }

    pub fn ask_planned(&mut self, index: usize, planned: Planned) {
        let args: Vec<&[u8]> = planned.args.iter().map(Vec::as_slice).collect();
        self.request(index, &args, Some(planned.expect), planned.write, true);
    }

    /// A request of one of the families that are tried, or of those that always are.
    fn choose(&mut self, index: usize) {
        let Families { tx, block, pubsub, auth } = self.families;
        let client = &self.clients[index];
        let plain = !client.is_scanning();
        match (client.role, self.random.u32(0..100)) {
            (Role::Listener, _) if client.ears.are_open() => self.ask_listen(index),
            (Role::Listener, 0..60) => self.ask_listen(index),
            (Role::Both, 0..20) => self.ask_listen(index),
            (_, 20..40) if tx && plain => self.plan_unit(index),
            (_, 40..48) if block => self.ask_pop(index),
            (_, 48) if block => self.ask_unblock(index),
            (_, 49..58) if block => self.ask_job(index),
            (_, 58..66) if pubsub => self.ask_publish(index),
            (_, 66..70) if auth => self.ask_auth(index),
            _ => self.ask(index),
        }
    }

    fn ask(&mut self, index: usize) {
        let tag: Tag = (index as u32, self.clients[index].seq);
        let text = tag_text(tag);
        let number = (NUMBER_TAG + u64::from(tag.0) * 1_000_000 + u64::from(tag.1)).to_string();
        match self.random.u32(0..100) {
            0..=14 => {
                let key = self.key(index, 'k');
                let value = self.value(index, &key);
                self.request(index, &[b"SET", key.as_bytes(), &value], Some(Expect::Written(vec![key.clone()])), true, true);
            }
            15..=24 => {
                let key = self.key(index, 'k');
                self.request(index, &[b"GET", key.as_bytes()], Some(Expect::Text(key.clone())), false, true);
            }
            25..=29 => {
                let key = self.key(index, 'k');
                let expect = Expect::Text(key.clone());
                self.request(index, &[b"getrange", key.as_bytes(), b"0", number.as_bytes()], Some(expect), false, true);
            }
            30..=49 => {
                let key = self.key(index, 'l');
                self.request(index, &[b"RPUSH", key.as_bytes(), text.as_bytes()], Some(Expect::Pushed(key.clone())), true, true);
            }
            50..=57 => {
                let key = self.key(index, 'l');
                let expect = Expect::List(key.clone());
                self.request(index, &[b"LRANGE", key.as_bytes(), b"0", number.as_bytes()], Some(expect), false, true);
            }
            58..=62 => {
                let key = self.key(index, 'n');
                self.request(index, &[b"INCR", key.as_bytes()], Some(Expect::Counter(key.clone())), true, true);
            }
            63..=69 => self.ask_many_reads(index),
            70..=75 => self.ask_mset(index),
            76..=79 => self.ask_delete(index),
            80..=86 => self.ask_script(index),
            87..=88 => self.request(index, &[b"PING", text.as_bytes()], Some(Expect::Exact(bulk(&text))), false, true),
            89..=90 => self.request(index, &[b"ECHO", text.as_bytes()], Some(Expect::Exact(bulk(&text))), false, true),
            // A node is asked whether its user may be silent, and may not answer in time.
            91 if !self.families.auth => {
                self.request(index, &[b"CLIENT", b"REPLY", b"SKIP"], None, false, true);
                let key = self.key(index, 'l');
                let text = tag_text((index as u32, self.clients[index].seq));
                self.request(index, &[b"RPUSH", key.as_bytes(), text.as_bytes()], None, true, true);
            }
            92 if self.clients[index].role != Role::Worker => {
                self.request(index, &[b"CLIENT", b"LIST"], Some(Expect::Clients), false, true);
            }
            92 if self.clients[index].seq == 0 || self.random.u32(0..4) == 0 => {
                self.clients[index].asks_resp3 = true;
                self.request(index, &[b"HELLO", b"3"], Some(Expect::Hello), false, true);
            }
            92 => match self.random.u32(0..4) {
                0 => {
                    self.clients[index].asks_resp3 = false;
                    self.request(index, &[b"HELLO", b"2"], Some(Expect::Hello), false, true);
                }
                1 => {
                    self.clients[index].asks_resp3 = false;
                    self.unname(index);
                    self.request(index, &[b"RESET"], Some(Expect::Exact(b"+RESET\r\n".to_vec())), false, true);
                }
                _ => self.request(index, &[b"CLIENT", b"LIST"], Some(Expect::Clients), false, true),
            },
            93 => self.request(index, &[b"NOSUCH", text.as_bytes()], Some(Expect::Unknown), true, true),
            94..=96 if self.plan.scans && !self.clients[index].is_scanning() && self.clients[index].role != Role::Listener => {
                self.clients[index].scan = Some((0, HashSet::new(), 0));
                self.ask_scan(index);
            }
            97..=98 if self.plan.fan_outs => match self.random.u32(0..3) {
                0 => self.request(index, &[b"DBSIZE"], Some(Expect::Number), false, false),
                1 => self.request(index, &[b"KEYS", b"*"], Some(Expect::Keys), false, false),
                _ => {
                    let body = body(self.random.u32(0..3));
                    self.request(
                        index,
                        &[b"SCRIPT", b"LOAD", body.as_bytes()],
                        Some(Expect::Sha(sha_of(body.as_bytes()))),
                        true,
                        false,
                    );
                }
            },
            _ => {
                let key = self.key(index, 's');
                let value = self.value(index, &key);
                self.request(index, &[b"SET", key.as_bytes(), &value], Some(Expect::Written(vec![key.clone()])), true, true);
            }
        }
    }

    /// Several keys, of one slot or of many; half of the time with one that carries the request's tag.
    fn many_keys(&mut self) -> (Vec<String>, bool) {
        let tags = if self.random.bool() { 1 } else { self.random.usize(1..=self.cluster.tags.len()) };
        let mut keys: Vec<String> = Vec::new();
        let mut names: Vec<String> = self.cluster.tags.iter().map(|tag| tag.name.clone()).collect();
        self.random.shuffle(&mut names);
        for name in names.iter().take(tags) {
            for number in 0..self.random.u32(1..=3) {
                keys.push(format!("{{{name}}}k{number}"));
            }
        }
        self.random.shuffle(&mut keys);
        (keys, tags == 1)
    }

    fn ask_many_reads(&mut self, index: usize) {
        let (mut keys, one_slot) = self.many_keys();
        if self.random.bool() {
            // Of each slot one key that nobody has, so that every part can be told apart.
            let tag = tag_text((index as u32, self.clients[index].seq));
            let mut names: Vec<String> =
                keys.iter().map(|key| key[..=key.find('}').expect("keys have tags")].to_owned()).collect();
            names.sort();
            names.dedup();
            keys.extend(names.into_iter().map(|name| format!("{name}~{tag}")));
        }
        let mget = self.random.bool();
        let mut args: Vec<&[u8]> = vec![if mget { b"MGET" } else { b"EXISTS" }];
        args.extend(keys.iter().map(|key| key.as_bytes()));
        let expect = if mget { Expect::Texts(keys.clone()) } else { Expect::Count(keys.len()) };
        self.request(index, &args, Some(expect), false, one_slot);
    }

    fn ask_mset(&mut self, index: usize) {
        let (keys, one_slot) = self.many_keys();
        let values: Vec<Vec<u8>> = keys.iter().map(|key| self.value(index, key)).collect();
        let mut args: Vec<&[u8]> = vec![b"MSET"];
        for (key, value) in keys.iter().zip(&values) {
            args.extend([key.as_bytes(), value]);
        }
        // Near its deadline it may be carried out key by key, and a part of it in vain.
        let whole = one_slot && keys.len() == 1;
        self.request(index, &args, Some(Expect::Written(keys.clone())), true, whole);
    }

    fn ask_delete(&mut self, index: usize) {
        let tag = tag_text((index as u32, self.clients[index].seq));
        let key = self.key(index, 'k');
        let marker = format!("{}~{tag}", &key[..=key.find('}').expect("keys have tags")]);
        let args: [&[u8]; 3] = [b"DEL", key.as_bytes(), marker.as_bytes()];
        let args = if self.random.bool() { &args[..] } else { &args[..2] };
        self.request(index, args, Some(Expect::Count(1)), true, true);
    }

    fn ask_script(&mut self, index: usize) {
        let text = tag_text((index as u32, self.clients[index].seq));
        let key = self.key(index, 'l');
        let body = body(self.random.u32(0..3));
        let sha = sha_of(body.as_bytes());
        let known = self.bodies_seen.contains(&body) && self.random.bool();
        let (name, script): (&[u8], &str) = if known { (b"EVALSHA", &sha) } else { (b"EVAL", &body) };
        let mut args: Vec<&[u8]> = vec![name, script.as_bytes(), b"1", key.as_bytes(), text.as_bytes()];
        let forged = self.forged_text(&key);
        if self.plan.forgeries && self.random.u32(0..3) == 0 {
            args.push(&forged);
            let error = [b"-", &forged[..], b"\r\n"].concat();
            self.request(index, &args, Some(Expect::Forged(error)), true, true);
        } else {
            self.request(index, &args, Some(Expect::Script(key.clone())), true, true);
        }
    }

    fn forged_text(&mut self, key: &str) -> Vec<u8> {
        let (slot, _) = self.cluster.slot_and_unit(key);
        let known = self.random.usize(0..self.cluster.nodes.len());
        let known = self.cluster.nodes[known].addr.to_string();
        match self.random.u32(0..7) {
            0 => format!("MOVED {slot} 6.6.6.6:666"),
            1 => format!("ASK {slot} 6.6.6.6:666"),
            2 => format!("MOVED {} {known}", (slot + 1) % 16384),
            3 => "READONLY You can't write against a read only replica.".to_owned(),
            4 => format!("MOVED {slot} {known}"),
            5 => "ERR forged".to_owned(),
            _ => TRY_AGAIN.to_owned(),
        }
        .into_bytes()
    }

    pub fn ask_scan(&mut self, index: usize) {
        let cursor = self.clients[index].scan.as_ref().map_or(0, |scan| scan.0).to_string();
        let count = self.random.u32(1..20).to_string();
        self.request(index, &[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()], Some(Expect::Scan), false, false);
    }
}

fn bulk(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bulk(&mut out, text);
    out
}
