//! Replies made of many: parts of a split command, answers of a fan-out, and the stages of the few commands that ask twice.

use crate::{
    cluster::{Addr, Slot},
    command::{Command, Fan},
    resp::{Span, View, encode, view},
};

use super::{
    Engine,
    blocking::{Poll, Unblock},
    identity::LoginJob,
    ids::{Micros, NONE, Ticket},
    lane::Via,
    orders::Order,
    pubsub::{Kind, Question, Receivers},
    scan_cursor::ScanJob,
    send::Target,
    session::{NO_SLOT, State},
    transaction::{ExecJob, WatchJob},
};

/// One part: where it went, where it stands, and which keys it holds.
#[derive(Debug)]
pub struct Part {
    pub target: Target,
    /// `Sent`, `Waiting`, or `Parked` with its place in the merge's arena.
    pub state: State,
    /// Its keys are `order[first..first + count]` of the merge.
    pub first: u32,
    pub count: u32,
}

impl Part {
    pub fn slot(&self) -> u16 {
        self.target.order().map_or(NO_SLOT, Slot::get)
    }

    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Parked { .. })
    }
}

/// What the parts are for.
#[derive(Debug)]
pub enum Job {
    /// Element i of the reply belongs to key i.
    Mget,
    /// PUBSUB SHARDNUMSUB: a channel and its count, in the order asked.
    ShardNumsub,
    /// The sum of the parts' integers.
    Sum,
    /// +OK when all parts say so.
    AllOk,
    /// The same command to many nodes, merged as its row says. `count` is SLOWLOG GET's.
    Fan {
        fan: Fan,
        count: Option<i64>,
    },
    /// RANDOMKEY's first stage: how many keys each master has.
    RandomKeySizes,
    /// Its second: a key of one master; the others still to be asked should it have become empty.
    RandomKey {
        others: Vec<Target>,
    },
    Info,
    Scan(Box<ScanJob>),
    /// AUTH: a node says whether the client is let in.
    Login(Box<LoginJob>),
    /// Whether the user may run a command that the proxy carries out itself.
    Permit {
        frame: Vec<u8>,
        command: &'static Command,
    },
    /// The same command to every node, replicas too: `nodes` are those that the parts went to.
    Everywhere {
        fan: Fan,
        nodes: Vec<Addr>,
    },
    /// COMMAND INFO of a name that the table does not hold.
    Learn {
        frame: Vec<u8>,
    },
    /// COMMAND GETKEYS of a learned command whose keys move.
    LearnKeys {
        frame: Vec<u8>,
    },
    /// The request is taken again from its beginning, now that what it waited for is here.
    Again {
        frame: Vec<u8>,
    },
    /// The request goes where COMMAND GETKEYS said.
    SendTo {
        frame: Vec<u8>,
        slot: Option<Slot>,
    },
    /// WAIT and WAITAOF: what each master says.
    Wait,
    /// A blocking command over several slots.
    Poll(Box<Poll>),
    /// What was popped for a client that is gone is on its way back.
    GiveBack,
    /// A node is told to unblock one of this proxy's connections.
    Unblock(Unblock),
    /// The order is given when the node has no complaint.
    Order(Order),
    /// COMMAND without the commands that are refused; or only their count.
    CommandList {
        count_only: bool,
    },
    /// COMMAND LIST without the names of what is refused.
    CommandNames,
    /// PUBLISH or SPUBLISH, whose count is corrected by this.
    Publish(Receivers),
    /// A PUBSUB subcommand, asked of every master.
    Pubsub(Question),
    /// CONFIG GET with what a standalone server would say.
    ConfigGet,
    /// Whether a server would queue this; `command` as the table knows it.
    Check {
        frame: Vec<u8>,
        command: Option<&'static Command>,
    },
    /// A part for each slot of a transaction.
    Exec(Box<ExecJob>),
    Watch(WatchJob),
    /// UNWATCH on private lanes; the client is told this.
    Unwatch {
        reply: Vec<u8>,
    },
}

/// See the module's head. Parts' replies are kept in one arena, in the order in which they come.
#[derive(Debug)]
pub struct Merge {
    pub client: u32,
    pub seq: u32,
    pub via: Via,
    pub job: Job,
    pub parts: Vec<Part>,
    pub left: u32,
    /// How many parts were answered with an error.
    failed: u32,
    arena: Vec<u8>,
    /// The request's keys, as indexes, in the order of the parts.
    pub order: Vec<u32>,
    /// What its client is to be told behind the reply.
    pub told: Vec<u8>,
    /// Where in the arena each key's element stands: MGET's scratch, kept for its capacity.
    places: Vec<Span>,
}

/// Merges kept for the next split command, with their buffers.
const SPARE_MERGES: usize = 64;
/// What a spare merge's arena may hold, in bytes.
const SPARE_ARENA: usize = 64 * 1024;

impl Job {
    /// Its parts only ask: they may be sent again whatever their command is.
    pub fn only_asks(&self) -> bool {
        let writes = matches!(self, Job::AllOk | Job::Sum | Job::Mget | Job::ShardNumsub | Job::Fan { .. });
        !writes && !matches!(self, Job::Publish(_) | Job::Poll(_) | Job::GiveBack | Job::Exec(_) | Job::Everywhere { .. })
    }
}

impl Merge {
    pub fn reply(&self, part: usize) -> &[u8] {
        match self.parts[part].state {
            State::Parked { at, len } => &self.arena[at as usize..(at + len) as usize],
            _ => &[],
        }
    }

    /// Adds a part, whose keys are `order[keys.0..keys.0 + keys.1]`. Answers the ticket of its request.
    #[inline]
    pub fn open_part(&mut self, target: Target, state: State, (first, count): (u32, u32)) -> Ticket {
        let ticket = Ticket { client: self.client, seq: self.seq, part: self.parts.len() as u32 };
        self.parts.push(Part { target, state, first, count });
        self.left += 1;
        ticket
    }

    /// Whether a part of it is here.
    pub fn has_begun(&self) -> bool {
        self.parts.iter().any(Part::is_finished)
    }

    /// Keeps one part's reply. Answers whether it is the last.
    #[inline]
    pub fn take_reply(&mut self, part: u32, reply: &[u8]) -> bool {
        let failed = reply.first() == Some(&b'-');
        // That all is well is known without the words.
        let kept = if !failed && matches!(self.job, Job::AllOk) { &[] } else { reply };
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(kept);
        self.parts[part as usize].state = State::Parked { at, len: kept.len() as u32 };
        self.failed += u32::from(failed);
        self.left -= 1;
        self.left == 0
    }

    /// The first part that failed.
    fn failure(&self) -> Option<usize> {
        let failed = |part: &usize| self.reply(*part).first() == Some(&b'-');
        (0..self.parts.len()).filter(|_| self.failed > 0).find(failed)
    }

    /// Forgets its parts: the next stage begins.
    pub fn next_stage(&mut self, job: Job) {
        self.job = job;
        self.parts.clear();
        self.arena.clear();
        (self.left, self.failed) = (0, 0);
    }
}

impl Engine {
    /// Opens a merge in the place of the reply that the client is owed last. Answers its index.
    pub(super) fn open_merge(&mut self, client: u32, seq: u32, via: Via, job: Job) -> u32 {
        let mut merge = self.spare_merges.pop().unwrap_or_else(|| Merge {
            client,
            seq,
            via,
            job: Job::Sum,
            parts: Vec::new(),
            left: 0,
            failed: 0,
            arena: Vec::new(),
            order: Vec::new(),
            told: Vec::new(),
            places: Vec::new(),
        });
        (merge.client, merge.seq, merge.via, merge.job) = (client, seq, via, job);
        let index = self.merges.insert(merge) as u32;
        self.clients[client as usize].reply(seq).state = State::Merging { merge: index };
        index
    }

    /// Adds one part and sends it, or holds it if it has no lane for now.
    pub(super) fn add_part(&mut self, merge: u32, target: Target, lead: u32, keys: (u32, u32), write: impl FnOnce(&mut Vec<u8>)) {
        let lane = self.lane_of(target, self.merges[merge as usize].via);
        let entry = &mut self.merges[merge as usize];
        let ticket = entry.open_part(target, State::Sent { lane: lane.unwrap_or(NONE) }, keys);
        match lane {
            Some(lane) => self.queue(lane, ticket, NONE, lead, write),
            None => {
                let via = entry.via;
                self.hold_part(ticket, target, via, lead, write)
            }
        }
    }

    /// Adds one part that is not sent before a moment has passed.
    pub(super) fn add_part_later(&mut self, merge: u32, target: Target, wait_us: Micros, write: impl FnOnce(&mut Vec<u8>)) {
        let entry = &mut self.merges[merge as usize];
        let ticket = entry.open_part(target, State::Sent { lane: NONE }, (0, 0));
        let via = entry.via;
        let mut frame = Vec::new();
        write(&mut frame);
        self.hold_fresh(ticket, target, via, 0, frame.into(), self.now + wait_us);
    }

    /// Takes one part's reply; the last one finishes the merge.
    pub(super) fn part_done(&mut self, ticket: Ticket, reply: &[u8]) {
        let State::Merging { merge: index } = self.clients[ticket.client as usize].reply(ticket.seq).state else {
            unreachable!("a part's reply belongs to a merge")
        };
        if matches!(self.merges[index as usize].job, Job::Watch(_)) {
            self.watch_answered(index, ticket.part, reply);
        }
        if self.merges[index as usize].take_reply(ticket.part, reply) {
            self.finish_merge(index);
        } else if self.clients[ticket.client as usize].waiting > 0 {
            // A finished part may let a waiting one of the same client go on.
            self.pump_later(ticket.client);
        }
    }

    pub(super) fn finish_merge(&mut self, index: u32) {
        let mut merge = self.merges.remove(index as usize);
        let mut out = std::mem::take(&mut self.scratch);
        out.clear();
        let finished = self.merged(&mut merge, &mut out);
        if finished {
            let (client, seq) = (merge.client, merge.seq);
            let told = std::mem::take(&mut merge.told);
            if self.spare_merges.len() < SPARE_MERGES && merge.arena.capacity() <= SPARE_ARENA {
                merge.next_stage(Job::Sum);
                merge.order.clear();
                self.spare_merges.push(merge);
            }
            self.deliver(Ticket { client, seq, part: NONE }, &out);
            self.notify_now(client, &told);
        } else {
            let (client, seq) = (merge.client, merge.seq);
            let place = self.merges.insert(merge) as u32;
            self.clients[client as usize].reply(seq).state = State::Merging { merge: place };
            self.next_stage(place);
        }
        if out.capacity() > SPARE_ARENA {
            out = Vec::new();
        }
        self.scratch = out;
    }

    /// Builds the reply of a merge whose parts are all in. False: another stage follows.
    fn merged(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let tolerant = matches!(
            merge.job,
            Job::Fan { fan: Fan::OneSucceeded, .. }
                | Job::Learn { .. }
                | Job::LearnKeys { .. }
                | Job::Again { .. }
                | Job::Scan(_)
                | Job::Wait
                | Job::Poll(_)
                | Job::Unblock(_)
                | Job::Check { .. }
                | Job::Exec(_)
                | Job::Watch(_)
                | Job::Unwatch { .. }
                | Job::Login(_)
                | Job::Everywhere { .. }
                | Job::Permit { .. }
        );
        if !tolerant && let Some(first) = merge.failure() {
            part_error(merge, first, out);
            return true;
        }
        match &merge.job {
            Job::Mget => merged_mget(merge, out),
            Job::ShardNumsub => {
                let mut counted = Vec::new();
                merged_numsub(merge, &mut counted);
                self.corrected_numsub(Kind::Shard, &counted, out);
            }
            Job::Publish(receivers) => encode::integer(out, receivers.correct(integer(merge.reply(0)))),
            Job::Pubsub(question) => self.merged_pubsub(merge, question, out),
            Job::Sum => encode::integer(out, (0..merge.parts.len()).map(|part| integer(merge.reply(part))).sum()),
            Job::AllOk => encode::simple(out, b"OK"),
            Job::Fan { fan, count } => {
                let replies: Vec<&[u8]> = (0..merge.parts.len()).map(|part| merge.reply(part)).collect();
                super::merge_replies::merge(*fan, merge.via.proto, *count, &replies, out);
            }
            Job::Info => self.merged_info(merge, out),
            Job::ConfigGet => {
                super::persona::config_get(merge.reply(0), merge.via.proto, self.clients[merge.client as usize].face, out)
            }
            Job::CommandList { count_only } => {
                super::persona::command_list(merge.reply(0), *count_only, &self.settings.policy, out)
            }
            Job::CommandNames => super::persona::command_names(merge.reply(0), merge.via.proto, &self.settings.policy, out),
            Job::RandomKeySizes | Job::RandomKey { .. } => return self.merged_random_key(merge, out),
            Job::Scan(_) => return self.merged_scan(merge, out),
            Job::Login(_) => return self.logged_in(merge, out),
            Job::Permit { .. } => return self.permitted(merge, out),
            Job::Everywhere { .. } => self.done_everywhere(merge, out),
            Job::Learn { .. } | Job::LearnKeys { .. } => return self.merged_learn(merge, out),
            Job::Wait => self.merged_wait(merge, out),
            Job::Poll(_) => return self.merged_poll(merge, out),
            Job::Unblock(_) => return self.merged_unblock(merge),
            Job::GiveBack => {}
            Job::Again { .. } => return answers_for_proxy(merge.reply(0), out),
            Job::SendTo { .. } | Job::Order(_) => return false,
            Job::Check { .. } => return self.merged_check(merge, out),
            Job::Exec(_) => return self.merged_exec(merge, out),
            Job::Watch(_) => self.merged_watch(merge, out),
            Job::Unwatch { reply } => out.extend_from_slice(reply),
        }
        true
    }

    fn next_stage(&mut self, index: u32) {
        match self.merges[index as usize].job {
            Job::RandomKey { .. } => self.random_key_stage(index),
            Job::Scan(_) => self.scan_stage(index),
            Job::Poll(_) => self.poll_stage(index),
            Job::Unblock(_) => self.unblock_stage(index),
            Job::Login(_) => self.login_stage(index),
            Job::Again { .. } => self.again_stage(index),
            Job::SendTo { .. } => self.send_to_stage(index),
            Job::Exec(_) => self.exec_stage(index),
            Job::Order(_) => self.order_stage(index),
            _ => unreachable!("this job has one stage"),
        }
    }
}

/// One failed part fails the whole, in the part's own words and with its place.
fn part_error(merge: &Merge, first: usize, out: &mut Vec<u8>) {
    // Only the line's end: texts such as that of an unknown command end in a blank.
    let error = merge.reply(first);
    let error = error.strip_suffix(b"\r\n").unwrap_or(error);
    out.extend_from_slice(error);
    // What every part says is no news of one of them: bad arguments are told in the server's own words.
    let unanimous = (0..merge.parts.len()).all(|part| merge.reply(part) == merge.reply(first));
    // Whoever only reads is told in the server's words what he may not.
    let plain = matches!(merge.job, Job::Mget) && error.starts_with(b"-NOPERM");
    if !unanimous && !plain {
        let place = match merge.parts[first].target {
            Target::Slot(slot) => format!("slot {}", slot.get()),
            Target::Any(_) | Target::Node(_) | Target::Prefer(..) => format!("node {} of {}", first + 1, merge.parts.len()),
        };
        let (failed, parts) = (merge.failed, merge.parts.len());
        out.extend_from_slice(format!(" (proxy: {failed} of {parts} parts failed, first {place})").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a reply to the proxy's own question is no node's, and so the client's answer. A node's refusal is an answer as well.
pub(super) fn answers_for_proxy(reply: &[u8], out: &mut Vec<u8>) -> bool {
    let nobodys = reply.starts_with(b"-ERR proxy:") || reply.starts_with(b"-LOADING");
    if nobodys {
        out.extend_from_slice(reply);
    }
    nobodys
}

pub(super) fn integer(reply: &[u8]) -> i64 {
    match view(reply) {
        Some(View::Integer(value)) => value,
        _ => 0,
    }
}

/// Elements go to the places of their keys.
fn merged_mget(merge: &mut Merge, out: &mut Vec<u8>) {
    if merge.parts.len() == merge.order.len() && joined_in_order(merge, out) {
        return;
    }
    out.clear();
    let mut places = std::mem::take(&mut merge.places);
    places.clear();
    places.resize(merge.order.len(), Span::default());
    let mut found = 0;
    for (number, part) in merge.parts.iter().enumerate() {
        let keys = &merge.order[part.first as usize..(part.first + part.count) as usize];
        if let (State::Parked { at, len }, [key]) = (&part.state, keys) {
            // One key, one element: what follows the header `*1` is the element.
            if merge.reply(number).starts_with(b"*1\r\n") {
                places[*key as usize] = Span { start: at + 4, len: len - 4 };
                found += 1;
                continue;
            }
        }
        let Some(View::Array(elements)) = view(merge.reply(number)) else { continue };
        for (key, element) in keys.iter().zip(elements) {
            // The element is a piece of the arena, so this is its offset.
            let start = element.as_ptr().addr() - merge.arena.as_ptr().addr();
            places[*key as usize] = Span { start: start as u32, len: element.len() as u32 };
            found += 1;
        }
    }
    // Every key is one part's.
    if found == places.len() {
        encode::array(out, places.len());
        for element in &places {
            out.extend_from_slice(element.of(&merge.arena));
        }
    } else {
        out.extend_from_slice(b"-ERR proxy: a node answered MGET with something else than one element a key\r\n");
    }
    merge.places = places;
}

/// Joins the elements of parts that hold one key each, in the keys' order, as of a request whose slots differ. False: some do not.
fn joined_in_order(merge: &Merge, out: &mut Vec<u8>) -> bool {
    encode::array(out, merge.parts.len());
    for (number, (part, key)) in merge.parts.iter().zip(&merge.order).enumerate() {
        // One key, one element: what follows the header `*1` is the element.
        let State::Parked { at, len } = part.state else { return false };
        match merge.arena[at as usize..(at + len) as usize].strip_prefix(b"*1\r\n") {
            Some(element) if part.count == 1 && *key as usize == number => out.extend_from_slice(element),
            _ => return false,
        }
    }
    true
}

fn merged_numsub(merge: &Merge, out: &mut Vec<u8>) {
    let mut places: Vec<Vec<u8>> = vec![Vec::new(); merge.order.len()];
    for (number, part) in merge.parts.iter().enumerate() {
        let keys = &merge.order[part.first as usize..(part.first + part.count) as usize];
        if let Some(View::Array(elements)) = view(merge.reply(number)) {
            let elements: Vec<&[u8]> = elements.collect();
            for (key, pair) in keys.iter().zip(elements.chunks_exact(2)) {
                places[*key as usize] = pair.concat();
            }
        }
    }
    encode::array(out, places.len() * 2);
    out.extend(places.concat());
}
