//! Work queues: elements that are popped, whether at once or after a wait, and what becomes of each.

use std::collections::HashMap;

use crate::{
    client::{Expect, Life, Owed},
    conn::Frame,
    tags::{tag_of, tag_text},
    truth::Tag,
    waiting::{self, timeout_at, timeout_us},
    world::{What, World},
};

/// What became of an element that a node took out of a list.
struct Pop {
    key: String,
    /// The engine has the whole answer.
    heard: bool,
    /// The engine was giving it back.
    returning: bool,
    /// The client that was told it.
    told: Option<usize>,
    /// The request that it was popped for, where that can be told.
    tag: Option<Tag>,
    /// Its client had gone when the engine heard of it: it belongs back where it was.
    due_back: bool,
}

/// A blocking request as it was first sent.
struct Wait {
    /// Between these two moments.
    queued: (u64, u64),
    timeout_us: u64,
}

/// Every element that was popped, and every request that asked for one and whose client has gone.
#[derive(Default)]
pub struct Pops {
    by_element: HashMap<Vec<u8>, Pop>,
    /// What was popped for a request.
    by_tag: HashMap<Tag, Vec<u8>>,
    abandoned: Vec<Vec<String>>,
    waits: HashMap<Tag, Wait>,
    pub given_back: u64,
    pub wrong: Option<String>,
}

impl Pops {
    fn accuse(&mut self, text: String) {
        self.wrong.get_or_insert(text);
    }

    /// A node took an element out.
    pub fn popped(&mut self, key: String, element: &[u8], tag: Option<Tag>) {
        tag.map(|tag| self.by_tag.insert(tag, element.to_vec()));
        let pop = Pop { key, heard: false, returning: false, told: None, tag, due_back: false };
        if self.by_element.insert(element.to_vec(), pop).is_some() {
            self.accuse(format!("{:?} was popped twice", String::from_utf8_lossy(element)));
        }
    }

    /// The engine pushes an element that was popped for a client that has gone: a give-back is nobody's request.
    pub fn is_return(&mut self, args: &[Vec<u8>]) -> bool {
        let push = args[0] == b"LPUSH" || args[0] == b"RPUSH";
        let Some(pop) = args.get(2).filter(|_| push).and_then(|element| self.by_element.get_mut(element)) else { return false };
        pop.returning = true;
        if let (Some(client), true) = (pop.told, pop.heard) {
            self.accuse(format!("{:?} is given back, but client {client} was told it", String::from_utf8_lossy(&args[2])));
        }
        true
    }

    /// It is in its list again.
    pub fn returned(&mut self, args: &[Vec<u8>]) {
        let push = args[0] == b"LPUSH" || args[0] == b"RPUSH";
        if push && self.by_element.get(&args[2]).is_some_and(|pop| pop.returning) {
            self.by_element.remove(&args[2]);
            self.given_back += 1;
        }
    }

    pub fn count(&self) -> u64 {
        self.by_element.len() as u64
    }

    /// The engine has heard of it. `is_gone`: whether a client is.
    pub fn heard(&mut self, element: &[u8], is_gone: impl Fn(u32) -> bool) {
        if let Some(pop) = self.by_element.get_mut(element) {
            pop.heard = true;
            pop.due_back = pop.tag.is_some_and(|(client, _)| is_gone(client));
        }
    }

    /// A request is answered as if nothing had been popped for it.
    fn nothing_for(&self, tag: Tag) -> Result<(), String> {
        let element = self.by_tag.get(&tag).filter(|element| self.by_element.contains_key(*element));
        element.map_or(Ok(()), |element| Err(format!("{:?} was popped for it", String::from_utf8_lossy(element))))
    }

    /// A client was told that it has popped an element.
    fn told(&mut self, element: &[u8], client: usize) -> Result<(), String> {
        let pop = self.by_element.get_mut(element).ok_or("nobody popped it")?;
        match pop.told.replace(client) {
            Some(other) => Err(format!("client {other} was told the same element")),
            None => Ok(()),
        }
    }

    /// Whatever reached the engine has reached a client, unless whoever asked for it has gone. If he had gone before, and there was
    /// `time` to do it, the engine has given it back, or tried to.
    pub fn check_all_told(&mut self, time: bool) -> Result<(), String> {
        for (element, pop) in &self.by_element {
            if pop.due_back && !pop.returning && time {
                return Err(format!("{:?} was popped for a client that had gone, and is lost", String::from_utf8_lossy(element)));
            }
            if pop.heard && pop.told.is_none() {
                let Some(place) = self.abandoned.iter().position(|keys| keys.contains(&pop.key)) else {
                    return Err(format!("{:?} was popped and nobody was told", String::from_utf8_lossy(element)));
                };
                self.abandoned.swap_remove(place);
            }
        }
        Ok(())
    }
}

/// The keys that a reply may pop from.
fn popped_keys(expect: &Expect) -> Option<&[String]> {
    match expect {
        Expect::Popped { keys, .. } => Some(keys),
        _ => None,
    }
}

impl World {
    /// A client asks for an element: at once or after a wait, from one list or two, to itself or to a list of its own.
    pub fn ask_pop(&mut self, index: usize) {
        let tag = self.random.usize(0..self.cluster.tags.len());
        let name = self.cluster.tags[tag].name.clone();
        let queue = format!("{{{name}}}q{}", self.random.u32(0..2));
        let own = format!("{{{name}}}~{}", tag_text((index as u32, self.clients[index].seq)));
        let timeout = match self.random.u32(0..6) {
            0 => "0".to_owned(),
            1 => self.random.u32(1..4).to_string(),
            _ => format!("0.{:03}", self.random.u32(20..800)),
        };
        let timeout_us = timeout_us(timeout.as_bytes()).expect("a number");
        let head = self.random.bool();
        let marked = self.random.bool();
        let waits = |keys: Vec<String>| Expect::Popped { keys, timeout_us: Some(timeout_us), shape: Shape::Pair };
        match self.random.u32(0..10) {
            0..=1 => {
                let keys = vec![queue.clone()];
                let expect = Expect::Popped { keys, timeout_us: None, shape: Shape::Element };
                self.request(index, &[if head { b"LPOP" } else { b"RPOP" }, queue.as_bytes()], Some(expect), true, true);
            }
            2..=3 => {
                let args: [&[u8]; 6] = [b"BLMOVE", queue.as_bytes(), own.as_bytes(), b"LEFT", b"RIGHT", timeout.as_bytes()];
                let expect = Expect::Handed { own: own.clone(), timeout_us };
                self.request(index, &args, Some(expect), true, true);
            }
            4 => {
                let args: [&[u8]; 6] = [b"BLMPOP", timeout.as_bytes(), b"2", queue.as_bytes(), own.as_bytes(), b"LEFT"];
                let expect = Expect::Popped { keys: vec![queue.clone()], timeout_us: Some(timeout_us), shape: Shape::Nested };
                self.request(index, &args, Some(expect), true, true);
            }
            5..=6 if marked => {
                let other = format!("{{{name}}}q2");
                let args: [&[u8]; 5] = [b"BLPOP", queue.as_bytes(), other.as_bytes(), own.as_bytes(), timeout.as_bytes()];
                self.request(index, &args, Some(waits(vec![queue.clone(), other.clone()])), true, true);
            }
            _ => {
                let args: [&[u8]; 4] =
                    [if head { b"BLPOP" } else { b"BRPOP" }, queue.as_bytes(), own.as_bytes(), timeout.as_bytes()];
                let plain = [args[0], args[1], args[3]];
                self.request(index, if marked { &args } else { &plain }, Some(waits(vec![queue.clone()])), true, true);
            }
        }
    }

    /// CLIENT UNBLOCK of some client, which may be blocked.
    pub fn ask_unblock(&mut self, index: usize) {
        let other = self.random.usize(0..self.clients.len());
        let id = self.clients[other].public_id;
        self.unblocked.insert(id);
        let how = if self.random.bool() { "TIMEOUT" } else { "ERROR" };
        let id = id.to_string();
        self.request(index, &[b"CLIENT", b"UNBLOCK", id.as_bytes(), how.as_bytes()], Some(Expect::Number), true, false);
    }

    /// A client appends a job to a queue.
    pub fn ask_job(&mut self, index: usize) {
        let tag = self.random.usize(0..self.cluster.tags.len());
        let queue = format!("{{{}}}q{}", self.cluster.tags[tag].name, self.random.u32(0..2));
        let job = tag_text((index as u32, self.clients[index].seq));
        self.request(index, &[b"RPUSH", queue.as_bytes(), job.as_bytes()], Some(Expect::Job(queue.clone())), true, true);
    }

    /// The answer to a pop: the element is told once, and null comes when the time is over and not before.
    pub fn check_popped(&mut self, index: usize, owed: &Owed, key: Option<&[u8]>, element: Option<&[u8]>) -> Result<(), String> {
        let Expect::Popped { keys, timeout_us, .. } = &owed.expect else { unreachable!("called for this only") };
        let Some(element) = element else {
            self.pops.nothing_for((index as u32, owed.seq))?;
            return self.check_not_early(index, owed, *timeout_us);
        };
        if key.is_some_and(|key| keys.iter().all(|asked| asked.as_bytes() != key)) {
            return Err("the element is of a list that was not asked for".into());
        }
        self.pops.told(element, index)
    }

    pub fn check_not_early(&self, index: usize, owed: &Owed, timeout_us: Option<u64>) -> Result<(), String> {
        match timeout_us {
            _ if self.unblocked.contains(&self.clients[index].public_id) => Ok(()),
            Some(0) => Err("a wait without an end has ended".into()),
            // The servers count in milliseconds.
            Some(wait) if self.now + 1000 < owed.sent_at + wait => Err("the wait is not over yet".into()),
            _ => Ok(()),
        }
    }

    /// A client is gone with what it is owed.
    pub fn abandon(&mut self, owed: &[Owed]) {
        for owed in owed {
            let expects = match &owed.expect {
                Expect::Unit(unit) => &self.units.list[*unit].expects[..],
                expect => std::slice::from_ref(expect),
            };
            self.pops.abandoned.extend(expects.iter().filter_map(popped_keys).map(<[String]>::to_vec));
        }
    }

    /// An engine queues a blocking command: alone on its lane, and with the time that is left.
    pub fn check_wait_queued(&mut self, index: usize, args: &[Vec<u8>]) {
        let conn = &mut self.conns[index];
        if conn.leased {
            let text = String::from_utf8_lossy(&args[0]).into_owned();
            self.truth.accuse(format!("{text} is queued on conn {index} behind a blocking command that is not answered"));
        }
        match args[0].as_slice() {
            b"MULTI" => conn.in_multi = true,
            b"EXEC" => conn.in_multi = false,
            _ => {}
        }
        let conn = &mut self.conns[index];
        let greets = matches!(args[0].as_slice(), b"HELLO" | b"AUTH" | b"CLIENT" | b"ASKING");
        let fresh = if greets { conn.fresh } else { std::mem::take(&mut conn.fresh) };
        if let Some(other) = waiting::unblocks(args).filter(|other| *other < self.conns.len()) {
            self.conns[other].unblocked_by.push(index);
        }
        let Some(at) = timeout_at(args).filter(|_| !self.conns[index].in_multi) else { return };
        self.conns[index].leased = true;
        if !self.conns[index].unblocked_by.is_empty() {
            let text = String::from_utf8_lossy(&args[0]).into_owned();
            self.truth.accuse(format!("{text} is queued on conn {index}, where a CLIENT UNBLOCK may end it that is another's"));
        }
        let Some(left) = timeout_us(&args[at]) else { return };
        // What goes out when a lane opens was written when the lane was wanted.
        let opens = fresh && self.conns[index].heard_at == self.now;
        let now = if opens { self.conns[index].dialled } else { self.now };
        let Some(((client, seq), _)) = tag_of(args) else { return };
        let Some(wait) = self.pops.waits.get(&(client, seq)) else {
            self.pops.waits.insert((client, seq), Wait { queued: (now, self.now), timeout_us: left });
            return;
        };
        let most = wait.timeout_us.saturating_sub(now.saturating_sub(wait.queued.1)) + 2_000;
        let text = match (wait.timeout_us, left) {
            (0, 0) => return,
            (0, _) => "has an end that its client did not ask for",
            (_, 0) => "has no end, against its client's wish",
            _ if left > most => "lasts longer than what is left of its time",
            _ => return,
        };
        self.truth.accuse(format!("the wait of request {:?} {text}: {left} us, {most} at most", (client, seq)));
    }

    /// A request of a client must not be sent while an earlier one of the same client waits for an element.
    pub fn check_behind_wait(&mut self, frame: &Frame) {
        let Some((client, seq)) = frame.attempt.map(|attempt| self.truth.attempts[attempt].tag) else { return };
        let Some(asker) = self.clients.get(client as usize).filter(|asker| !self.unblocked.contains(&asker.public_id)) else {
            return;
        };
        let deadline = self.plan.deadline_us;
        let waits = asker.owed.iter().filter(|owed| owed.seq < seq && owed.expect.waits());
        let over = |seq| {
            let wait = self.pops.waits.get(&(client, seq)).filter(|wait| wait.timeout_us > 0);
            wait.is_some_and(|wait| wait.queued.0 + wait.timeout_us < self.now + 2_000)
        };
        let unanswered = waits.filter(|owed| owed.sent_at + deadline > self.now && !over(owed.seq));
        if let Some(earlier) = unanswered.map(|owed| owed.seq).find(|earlier| self.truth.is_waiting((client, *earlier))) {
            let text = format!("request {seq} of client {client} is sent while request {earlier} still waits for an element");
            self.truth.accuse(text);
        }
    }

    /// Nodes look now and then whether who waits there waits at the right place.
    pub fn look_after_waiters(&mut self) {
        (0..self.cluster.nodes.len()).for_each(|node| waiting::leave(&mut self.cluster, node));
        self.carry_words();
        let wait = self.random.u64(20_000..400_000);
        self.later(wait, What::Cron);
    }

    /// When all is calm, whoever still waits gets something.
    pub fn feed(&mut self) {
        let mut hungry: Vec<String> = Vec::new();
        for client in self.clients.iter().filter(|client| client.life != Life::Closed) {
            if let Some(owed) = client.owed.front() {
                match &owed.expect {
                    Expect::Popped { keys, timeout_us: Some(_), .. } => hungry.extend(keys.first().cloned()),
                    Expect::Handed { own, .. } => {
                        let prefix = &own[..=own.find('}').expect("keys have tags")];
                        hungry.extend((0..2).map(|number| format!("{prefix}q{number}")));
                    }
                    _ => {}
                }
            }
        }
        for key in hungry {
            let unit = self.cluster.slot_and_unit(&key).1;
            let shard = self.cluster.shard_of(unit);
            let node = self.cluster.master_of(shard);
            if self.cluster.nodes[node].alive && !self.cluster.nodes[node].loading {
                self.fed += 1;
                let element = tag_text((u32::MAX, self.fed));
                self.cluster.shards[shard].push(&key, element.as_bytes(), false);
                waiting::serve_ready(&mut self.cluster, node);
            }
        }
        self.carry_words();
        self.later(300_000, What::Feed);
    }
}

/// How a popped element comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Element,
    /// The list's name and the element.
    Pair,
    /// The list's name and an array with the element.
    Nested,
}
