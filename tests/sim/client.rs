//! A scripted client: what it asks, what it is owed for it, and what it makes of the answers.

use std::collections::{HashMap, HashSet, VecDeque};

use keyway::{
    engine::ClientId,
    resp::{View, encode, view},
};

use crate::{
    link::Stream,
    node::{TRY_AGAIN, sha_of},
    truth::Tag,
    world::World,
};

/// What a reply must look like.
#[derive(Clone, Debug)]
pub enum Expect {
    Exact(Vec<u8>),
    Hello,
    /// +OK to a write of these keys.
    Written(Vec<String>),
    /// The length of a list, at least this client's own elements.
    Pushed(String),
    Text(String),
    Texts(Vec<String>),
    List(String),
    Count(usize),
    Counter(String),
    /// A script's own text, and the list that it pushed to.
    Script(String),
    Forged(Vec<u8>),
    Scan,
    Keys,
    Number,
    Sha(String),
    /// The name of no command.
    Unknown,
    Clients,
}

pub struct Owed {
    pub seq: u32,
    pub expect: Expect,
    pub sent_at: u64,
    pub write: bool,
    /// Its keys lie in one slot, so it is carried out wholly or not at all.
    pub one_slot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    /// It ended its own stream and still reads.
    HalfClosed,
    Closed,
}

pub struct Client {
    pub engine: usize,
    pub id: ClientId,
    pub life: Life,
    pub to_engine: Stream,
    pub to_client: Stream,
    pub received: Vec<u8>,
    pub owed: VecDeque<Owed>,
    pub seq: u32,
    pub left: u32,
    /// It reads nothing until this moment.
    pub stalled_until: u64,
    /// What this client pushed onto its lists and was told to be done.
    acked: HashMap<String, Vec<u32>>,
    /// What INCR answered, for each counter.
    counters: HashMap<String, HashSet<i64>>,
    scan: Option<(u64, HashSet<String>, u32)>,
    pub wants_close: bool,
    /// What it speaks, by the answers it has read.
    resp3: bool,
    /// The driver has more for it than it takes.
    pub write_waits: bool,
    pub answered: u64,
}

impl Client {
    pub fn new(engine: usize, id: ClientId, left: u32) -> Client {
        Client {
            engine,
            id,
            life: Life::Open,
            to_engine: Stream::default(),
            to_client: Stream::default(),
            received: Vec::new(),
            owed: VecDeque::new(),
            seq: 0,
            left,
            stalled_until: 0,
            acked: HashMap::new(),
            counters: HashMap::new(),
            scan: None,
            wants_close: false,
            resp3: false,
            write_waits: false,
            answered: 0,
        }
    }

    pub fn is_scanning(&self) -> bool {
        self.scan.is_some()
    }
}

/// Numbers that carry a tag where a command takes a number: LRANGE's and GETRANGE's end.
const NUMBER_TAG: u64 = 1_000_000_000;

pub fn tag_text(tag: Tag) -> String {
    format!("c{}s{}.", tag.0, tag.1)
}

/// The tag that begins a value, an element or a key's name.
pub fn parse_tag(text: &[u8]) -> Option<Tag> {
    let text = std::str::from_utf8(text.get(..text.len().min(24))?).ok()?;
    let (client, rest) = text.strip_prefix('c')?.split_once('s')?;
    Some((client.parse().ok()?, rest.split_once('.')?.0.parse().ok()?))
}

/// The tag of a request as a node receives it, and whether it writes.
pub fn tag_of(args: &[Vec<u8>]) -> Option<(Tag, bool)> {
    let name = args.first()?.to_ascii_uppercase();
    match name.as_slice() {
        b"SET" | b"RPUSH" | b"MSET" => Some((parse_tag(args.get(2)?)?, true)),
        b"EVAL" | b"EVALSHA" => Some((parse_tag(args.get(4)?)?, true)),
        b"LRANGE" | b"GETRANGE" => {
            let number: u64 = std::str::from_utf8(args.get(3)?).ok()?.parse().ok()?;
            let number = number.checked_sub(NUMBER_TAG)?;
            Some((((number / 1_000_000) as u32, (number % 1_000_000) as u32), false))
        }
        b"MGET" | b"EXISTS" | b"DEL" | b"UNLINK" | b"TOUCH" => {
            let key = args.last()?;
            let at = key.iter().position(|byte| *byte == b'~')?;
            Some((parse_tag(&key[at + 1..])?, name == b"DEL" || name == b"UNLINK"))
        }
        _ => None,
    }
}

/// Bodies of scripts. All push; they differ so that nodes may know one and not another.
fn body(number: u32) -> String {
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
            if client.left == 0 || client.owed.len() >= self.plan.depth_max * 2 || client.wants_close {
                break;
            }
            self.clients[index].left -= 1;
            self.ask(index);
        }
        self.deliver_to_engine_later(index);
        let client = &self.clients[index];
        if client.left > 0 {
            let wait = self.random.u64(0..self.plan.faults_us / 10);
            self.later(wait, crate::world::What::ClientActs(index));
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
            client.owed.push_back(Owed { seq: client.seq, expect, sent_at: now, write, one_slot });
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
            91 => {
                self.request(index, &[b"CLIENT", b"REPLY", b"SKIP"], None, false, true);
                let key = self.key(index, 'l');
                let text = tag_text((index as u32, self.clients[index].seq));
                self.request(index, &[b"RPUSH", key.as_bytes(), text.as_bytes()], None, true, true);
            }
            92 if self.clients[index].seq == 0 || self.random.u32(0..4) == 0 => {
                self.request(index, &[b"HELLO", b"3"], Some(Expect::Hello), false, true);
            }
            92 => match self.random.u32(0..4) {
                0 => self.request(index, &[b"HELLO", b"2"], Some(Expect::Hello), false, true),
                1 => self.request(index, &[b"RESET"], Some(Expect::Exact(b"+RESET\r\n".to_vec())), false, true),
                _ => self.request(index, &[b"CLIENT", b"LIST"], Some(Expect::Clients), false, true),
            },
            93 => self.request(index, &[b"NOSUCH", text.as_bytes()], Some(Expect::Unknown), true, true),
            94..=96 if self.plan.scans && self.clients[index].scan.is_none() => {
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

    fn ask_scan(&mut self, index: usize) {
        let cursor = self.clients[index].scan.as_ref().map_or(0, |scan| scan.0).to_string();
        let count = self.random.u32(1..20).to_string();
        self.request(index, &[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()], Some(Expect::Scan), false, false);
    }

    /// One reply reached a client.
    pub fn client_reads_reply(&mut self, index: usize, reply: &[u8]) {
        let now = self.now;
        if self.trace {
            println!(
                "{now:>9} client {index} reads {}",
                String::from_utf8_lossy(&reply[..reply.len().min(120)]).replace("\r\n", "|")
            );
        }
        let client = &mut self.clients[index];
        client.answered += 1;
        let Some(owed) = client.owed.pop_front() else {
            return self
                .truth
                .accuse(format!("client {index} was told {:?} and was owed nothing", String::from_utf8_lossy(reply)));
        };
        if reply.first() == Some(&b'-') && self.is_allowed_error(index, &owed, reply) {
            if matches!(owed.expect, Expect::Scan) {
                self.clients[index].scan = None;
            }
            return;
        }
        if let Err(why) = self.check_reply(index, &owed, reply) {
            let tag = (index as u32, owed.seq);
            let text = format!(
                "client {index} request {} ({:?}) was answered {:?}: {why}{}",
                owed.seq,
                owed.expect,
                String::from_utf8_lossy(&reply[..reply.len().min(300)]),
                self.truth.describe(tag)
            );
            self.truth.accuse(text);
        }
    }

    fn is_allowed_error(&mut self, index: usize, owed: &Owed, reply: &[u8]) -> bool {
        let tag = (index as u32, owed.seq);
        let text = String::from_utf8_lossy(reply);
        if matches!(&owed.expect, Expect::Forged(forged) if forged == reply) {
            return true;
        }
        if text.contains("proxy: outcome unknown") {
            self.unknown_outcomes += 1;
            let tagged = !matches!(owed.expect, Expect::Counter(_) | Expect::Count(_) | Expect::Sha(_) | Expect::Unknown);
            return owed.write && (!tagged || self.truth.is_unknown(tag));
        }
        if text.contains("proxy: no answer within") || text.starts_with("-LOADING Keyway has no slot map yet") {
            self.gave_up += 1;
            let in_time = self.now < owed.sent_at + self.plan.deadline_us;
            let calm = self.calm_since.is_some_and(|calm| calm + 2_500_000 < self.now);
            let done = owed.write && owed.one_slot && self.truth.was_applied(tag) && !matches!(owed.expect, Expect::Forged(..));
            return !in_time && !calm && !done;
        }
        matches!(owed.expect, Expect::Unknown) && text.starts_with("-ERR unknown command 'NOSUCH'")
    }

    fn check_reply(&mut self, index: usize, owed: &Owed, reply: &[u8]) -> Result<(), String> {
        let tag = (index as u32, owed.seq);
        let seen = view(reply).ok_or("it cannot be read")?;
        let client = &mut self.clients[index];
        match (&owed.expect, reply[0]) {
            (Expect::Hello, kind) => client.resp3 = kind == b'%',
            (Expect::Exact(text), _) if text == b"+RESET\r\n" => client.resp3 = false,
            (_, b'_' | b'%' | b'~' | b'=') if !client.resp3 => return Err("a RESP2 client does not read this".into()),
            _ if client.resp3 && reply.starts_with(b"$-1") => return Err("a RESP3 client does not read this".into()),
            _ => {}
        }
        match (&owed.expect, seen) {
            (Expect::Exact(expected), _) => (expected == reply).then_some(()).ok_or("another text was expected".into()),
            (Expect::Hello, View::Map(_) | View::Array(_)) => Ok(()),
            (Expect::Clients, View::Bulk(text) | View::Verbatim(text)) if text.starts_with(b"id=") => Ok(()),
            (Expect::Written(keys), View::Simple(b"OK")) => self.applied_once(tag, keys),
            (Expect::Pushed(key), View::Integer(_)) => {
                self.clients[index].acked.entry(key.clone()).or_default().push(owed.seq);
                self.applied_once(tag, std::slice::from_ref(key))
            }
            (Expect::Script(key), View::Bulk(text)) if text == tag_text(tag).as_bytes() => {
                self.clients[index].acked.entry(key.clone()).or_default().push(owed.seq);
                self.applied_once(tag, std::slice::from_ref(key))
            }
            (Expect::Text(key), found) => is_text_of(key, &found),
            (Expect::Texts(keys), View::Array(elements)) if elements.len() == keys.len() => keys
                .iter()
                .zip(elements)
                .try_for_each(|(key, element)| is_text_of(key, &view(element).ok_or("unreadable element")?)),
            (Expect::List(key), View::Array(elements)) => {
                self.check_list(index, owed.seq, key, elements.map(<[u8]>::to_vec).collect())
            }
            (Expect::Count(most), View::Integer(count)) if (0..=*most as i64).contains(&count) => Ok(()),
            (Expect::Counter(key), View::Integer(count)) => {
                let new = self.clients[index].counters.entry(key.clone()).or_default().insert(count);
                new.then_some(()).ok_or("the counter stood there before".into())
            }
            (Expect::Scan, View::Array(mut elements)) if elements.len() == 2 => {
                let cursor = elements.next().and_then(view);
                let keys = elements.next().and_then(view);
                self.check_page(index, cursor, keys)
            }
            (Expect::Keys, View::Array(_)) | (Expect::Number, View::Integer(_)) => Ok(()),
            (Expect::Sha(sha), View::Bulk(found)) if found == sha.as_bytes() => Ok(()),
            _ => Err("it has the wrong shape".into()),
        }
    }

    fn applied_once(&self, tag: Tag, keys: &[String]) -> Result<(), String> {
        keys.iter().try_for_each(|key| match self.truth.times_applied(tag, key) {
            1 => Ok(()),
            times => Err(format!("it was applied {times} times to {key}")),
        })
    }

    /// A list holds whole elements, each once, and all that this client was told to have pushed before.
    fn check_list(&mut self, index: usize, seq: u32, key: &str, elements: Vec<Vec<u8>>) -> Result<(), String> {
        let mut found = HashSet::new();
        for element in &elements {
            let Some(View::Bulk(text)) = view(element) else { return Err("an element is no string".into()) };
            let tag = parse_tag(text).ok_or("an element that nobody pushed")?;
            if !found.insert(tag) && !self.plan.forgeries {
                return Err(format!("{tag:?} is in it twice"));
            }
        }
        let acked = self.clients[index].acked.get(key).map(Vec::as_slice).unwrap_or_default();
        let client = index as u32;
        let missing = |pushed: &&u32| {
            **pushed < seq && !found.contains(&(client, **pushed)) && !self.truth.came_after(client, key, **pushed, seq)
        };
        match acked.iter().find(missing) {
            Some(missing) => Err(format!("the acknowledged element of request {missing} is missing")),
            None => Ok(()),
        }
    }

    /// A whole scan finds every key that was there from its beginning to its end.
    fn check_page(&mut self, index: usize, cursor: Option<View<'_>>, keys: Option<View<'_>>) -> Result<(), String> {
        let (Some(View::Bulk(cursor)), Some(View::Array(keys))) = (cursor, keys) else { return Err("it is no page".into()) };
        let cursor: u64 = std::str::from_utf8(cursor).ok().and_then(|digits| digits.parse().ok()).ok_or("no cursor")?;
        let found = keys.filter_map(|key| match view(key) {
            Some(View::Bulk(key)) => Some(String::from_utf8_lossy(key).into_owned()),
            _ => None,
        });
        let Some((at, seen, pages)) = self.clients[index].scan.as_mut() else { return Err("no scan is under way".into()) };
        *at = cursor;
        *pages += 1;
        seen.extend(found);
        if *pages > 3000 {
            return Err("the scan does not end".into());
        }
        if cursor == 0 {
            let missing = self.lasting_keys.iter().find(|key| !seen.contains(*key)).cloned();
            self.clients[index].scan = None;
            self.scans_done += 1;
            return missing.map_or(Ok(()), |key| Err(format!("the scan missed {key}")));
        }
        if self.clients[index].life == Life::Open {
            self.ask_scan(index);
            self.deliver_to_engine_later(index);
        }
        Ok(())
    }
}

fn bulk(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bulk(&mut out, text);
    out
}

/// A value says which key it was written to.
fn is_text_of(key: &str, found: &View<'_>) -> Result<(), String> {
    match found {
        View::Null | View::Bulk(b"") => Ok(()),
        View::Bulk(text) if parse_tag(text).is_some() => {
            let mark = format!(".{key}:");
            let head = &text[..text.len().min(80)];
            head.windows(mark.len())
                .any(|window| window == mark.as_bytes())
                .then_some(())
                .ok_or("it belongs to another key".into())
        }
        _ => Err("it is no text".into()),
    }
}
