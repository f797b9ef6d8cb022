//! SCAN over the whole cluster with a cursor that needs no memory and survives reshards.
//!
//! Slots are walked in rising order. The cursor holds the slot, the position inside of it, and a tag of the node that gave the
//! position: `position << 22 | slot << 8 | tag`, below 2^53. A page is one atomic look at a node: the keys together with the node's
//! own view of its slots (MULTI … EXEC), so that a slot counts as visited only if the node owned it at that very moment; what it is
//! giving away is asked for at the receiver too. Where the node changed, its position means nothing and the slot begins anew.
//!
//! Servers whose own cursors carry the slot (Redis 7.4, Valkey 8) are asked by SCAN. Older ones keep all slots in one table, whose
//! cursor cannot say what a reshard moved: they are asked slot by slot with GETKEYSINSLOT, whole slots at a time.

use std::ops::RangeInclusive;

use crate::{
    cluster::{NodeFacts, NodesView, OpenMark, SLOT_COUNT, Slot},
    resp::{Span, View, encode, view},
};

use super::{
    Engine, RefreshCause,
    fan::PING,
    glob::glob_match,
    ids::Micros,
    merge::{Job, Merge},
    retry::backoff_us,
    send::Target,
    session::Pause,
};

const SLOTS: u16 = SLOT_COUNT as u16;

/// Slots of an older server whose key counts are asked for at once.
const COUNTED_AT_ONCE: u16 = 512;

/// Keys of one slot that GETKEYSINSLOT is asked for: all of them.
const ALL_KEYS: &[u8] = b"1000000000";

/// Where a scan stands, as the client holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Cursor {
    slot: u16,
    position: u64,
    tag: u8,
}

impl Cursor {
    fn parse(text: &[u8]) -> Option<Cursor> {
        let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        Some(Cursor { slot: (number >> 8) as u16 % SLOTS, position: number >> 22, tag: number as u8 })
    }

    /// The number that a client is given; 0 is the end, and never anything else.
    fn number(self) -> u64 {
        if self.slot >= SLOTS {
            return 0;
        }
        (self.position << 22 | u64::from(self.slot) << 8 | u64::from(self.tag)).max(1)
    }
}

/// Eight bits that tell a node from its neighbours.
fn tag_of(id: &str) -> u8 {
    std::hash::BuildHasher::hash_one(&rustc_hash::FxBuildHasher, id) as u8
}

/// One page under way.
#[derive(Debug)]
pub struct ScanJob {
    cursor: Cursor,
    /// Where the page began.
    begun: Cursor,
    next: Cursor,
    options: Options,
    stage: Stage,
    keys: Vec<Vec<u8>>,
    lost: u32,
    /// The client's user may scan, and may not look at the cluster: that is done in the proxy's own name.
    as_service: bool,
}

#[derive(Clone, Debug, Default)]
struct Options {
    pattern: Option<Vec<u8>>,
    count: Option<i64>,
    kind: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Stage {
    /// Find the slot's owner and begin.
    Begin,
    /// Whether the client's user may scan at all is asked.
    Permission,
    /// As `Begin`, a little later: who should own the slot does not.
    Wait { wait_us: Micros },
    /// A page of the server's own SCAN is asked for; the node that was expected to answer.
    Native,
    /// Key counts of these slots are asked for.
    Counting { slots: u16 },
    /// The keys of these slots are asked for.
    Listing { slots: u16 },
    /// Keys of these slots, which are on the move, are asked for at their receivers.
    Receivers { slots: Vec<(Slot, Target)> },
    /// The types of `candidates` are asked for.
    Types { candidates: Vec<Vec<u8>> },
}

/// What a stage made of its replies.
enum Step {
    Next(Stage),
    Done,
    Error(Vec<u8>),
}

impl Engine {
    pub(super) fn scan(&mut self, index: u32, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        // The server's own words for what is no SCAN at all.
        let Some(cursor) = spans.get(1).and_then(|cursor| Cursor::parse(cursor.of(frame))) else {
            return self.send_any(index, frame);
        };
        let options = match parse_options(frame, &spans[2..]) {
            Ok(options) => options,
            Err(error) => {
                self.reply_now(index, error);
                return Ok(());
            }
        };
        let job = ScanJob {
            cursor,
            begun: cursor,
            next: cursor,
            options,
            stage: Stage::Begin,
            keys: Vec::new(),
            lost: 0,
            as_service: false,
        };
        // PING waits for a map and for the slot's owner, should there be none yet.
        self.one_part_as_service(index, PING, Job::Scan(Box::new(job)))
    }

    /// Judges a stage's replies. True: the page is in `out`.
    pub(super) fn merged_scan(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let Job::Scan(mut job) = std::mem::replace(&mut merge.job, Job::Sum) else { return true };
        let user = self.clients[merge.client as usize].user;
        if let Some(error) = (0..merge.parts.len()).map(|part| merge.reply(part)).find(|reply| reply.starts_with(b"-")) {
            // A user may have SCAN alone, and none of what it takes to look at a cluster.
            let refused = [&b"-NOPERM"[..], b"-ERR EXEC without MULTI", b"-EXECABORT"].iter().any(|code| error.starts_with(code));
            if !refused || job.as_service || matches!(job.stage, Stage::Permission) {
                out.extend_from_slice(error);
                return true;
            }
            self.users.scan_as_service(user);
            let cursor = job.begun;
            let begin = ScanJob { cursor, next: cursor, stage: Stage::Permission, keys: Vec::new(), ..*job };
            merge.next_stage(Job::Scan(Box::new(begin)));
            return false;
        }
        let stage = std::mem::replace(&mut job.stage, Stage::Begin);
        let step = match stage {
            Stage::Begin if !job.as_service && self.users.scans_as_service(user) => Step::Next(Stage::Permission),
            Stage::Permission => {
                job.as_service = true;
                Step::Next(Stage::Begin)
            }
            Stage::Begin | Stage::Wait { .. } => Step::Next(Stage::Begin),
            Stage::Native => self.native_page(&mut job, merge.reply(0)),
            Stage::Counting { slots } => counted(&job, merge.reply(0), slots),
            Stage::Listing { slots } => self.listed(&mut job, merge.reply(0), slots),
            Stage::Receivers { slots } => self.received(&mut job, &slots, merge),
            Stage::Types { candidates } => {
                let wanted = job.options.kind.clone().unwrap_or_default();
                for (part, key) in candidates.into_iter().enumerate() {
                    let kind = match view(merge.reply(part)) {
                        Some(View::Simple(kind) | View::Bulk(kind)) => kind,
                        _ => b"",
                    };
                    if kind.eq_ignore_ascii_case(&wanted) {
                        job.keys.push(key);
                    }
                }
                Step::Done
            }
        };
        match step {
            Step::Error(error) => out.extend_from_slice(&error),
            Step::Done => {
                encode::array(out, 2);
                encode::bulk(out, job.next.number().to_string());
                encode::array(out, job.keys.len());
                for key in &job.keys {
                    encode::bulk(out, key);
                }
            }
            Step::Next(stage) => {
                job.stage = stage;
                merge.next_stage(Job::Scan(job));
                return false;
            }
        }
        true
    }

    /// Sends what the job's stage asks.
    pub(super) fn scan_stage(&mut self, index: u32) {
        let merge = &mut self.merges[index as usize];
        let Job::Scan(job) = &mut merge.job else { return };
        let slot = Slot::new(job.cursor.slot).expect("a cursor's slot is in range");
        let owner = self.table.owner(slot);
        merge.via.user = if job.as_service { self.users.service() } else { self.clients[merge.client as usize].rides };
        match &mut job.stage {
            Stage::Permission => {
                self.add_part(index, Target::Any(slot), 0, (0, 0), |out| encode::command(out, &[b"SCAN", b"0", b"COUNT", b"1"]));
            }
            Stage::Begin => match owner {
                None => {
                    self.add_part(index, Target::Any(slot), 0, (0, 0), |out| encode::command(out, &[b"PING"]));
                }
                Some(node) => {
                    let entry = &self.table.nodes[usize::from(node.0)];
                    if entry.cursor_has_slot {
                        let tag = tag_of(&entry.id);
                        self.ask_native(index, slot, tag);
                    } else {
                        self.ask_counts(index, slot, node);
                    }
                }
            },
            Stage::Wait { wait_us } => {
                let wait_us = *wait_us;
                self.add_part_later(index, Target::Any(slot), wait_us, |out| encode::command(out, &[b"PING"]));
            }
            Stage::Listing { slots } => {
                let slots = *slots;
                self.ask_keys(index, slot, slots);
            }
            Stage::Receivers { slots } => {
                for (slot, target) in slots.clone() {
                    self.add_part(index, target, 3, (0, 0), |out| {
                        encode::command(out, &[b"MULTI"]);
                        encode::command(out, &[b"CLUSTER", b"NODES"]);
                        write_keys_in_slot(out, slot.get());
                        encode::command(out, &[b"EXEC"]);
                    });
                }
            }
            Stage::Types { candidates } => {
                let keys = candidates.clone();
                for key in keys {
                    self.add_part(index, Target::Slot(Slot::of(&key)), 0, (0, 0), |out| encode::command(out, &[b"TYPE", &key]));
                }
            }
            Stage::Native | Stage::Counting { .. } => unreachable!("these are sent as they are chosen"),
        }
    }

    fn ask_native(&mut self, index: u32, slot: Slot, tag: u8) {
        let Job::Scan(job) = &mut self.merges[index as usize].job else { return };
        if job.cursor.tag != tag {
            job.cursor = Cursor { position: 0, tag, ..job.cursor };
        }
        job.stage = Stage::Native;
        let position = (job.cursor.position << 14 | u64::from(slot.get())).to_string();
        let options = job.options.clone();
        self.add_part(index, Target::Any(slot), 3, (0, 0), |out| {
            encode::command(out, &[b"MULTI"]);
            let count = options.count.map(|count| count.to_string());
            let mut arguments: Vec<&[u8]> = vec![b"SCAN", position.as_bytes()];
            for (name, value) in [
                (&b"MATCH"[..], options.pattern.as_deref()),
                (b"COUNT", count.as_deref().map(str::as_bytes)),
                (b"TYPE", options.kind.as_deref()),
            ] {
                if let Some(value) = value {
                    arguments.extend([name, value]);
                }
            }
            encode::command(out, &arguments);
            encode::command(out, &[b"CLUSTER", b"NODES"]);
            encode::command(out, &[b"EXEC"]);
        });
    }

    /// A page of SCAN, and what its node owned at that moment.
    fn native_page(&mut self, job: &mut ScanJob, reply: &[u8]) -> Step {
        let Some(View::Array(results)) = view(reply) else { return Step::Error(unreadable("SCAN")) };
        let results: Vec<&[u8]> = results.collect();
        let [page, nodes] = results[..] else { return Step::Error(unreadable("SCAN")) };
        if page.starts_with(b"-") {
            return Step::Error(page.to_vec());
        }
        let Some(nodes) = parse_nodes(nodes) else { return Step::Error(unreadable("CLUSTER NODES")) };
        let myself = nodes.myself();
        if tag_of(&myself.id) != job.cursor.tag && job.cursor.position > 0 {
            // Another node answered than gave the position.
            job.cursor = Cursor { position: 0, ..job.cursor };
            return Step::Next(Stage::Begin);
        }
        let Some(run_end) = run_end(myself, job.cursor.slot) else { return self.lost_slot(job, &nodes) };
        let (Some(server_cursor), Some(keys)) = page_of(page) else { return Step::Error(unreadable("SCAN")) };
        let at = (server_cursor & 0x3FFF) as u16;
        let visited_end = if server_cursor == 0 || at > run_end || at < job.cursor.slot {
            job.next = Cursor { slot: run_end + 1, ..Cursor::default() };
            run_end + 1
        } else {
            job.next = Cursor { slot: at, position: server_cursor >> 14, tag: tag_of(&myself.id) };
            at
        };
        job.keys.extend(keys);
        match self.receivers(&nodes, job.cursor.slot..visited_end) {
            Some(moving) if moving.is_empty() => Step::Done,
            Some(moving) => Step::Next(Stage::Receivers { slots: moving }),
            None => self.page_anew(job),
        }
    }

    /// Where the keys are that slots on the move have given away already. `None` when the map does not know a receiver yet (a node
    /// that has just joined): without its keys the page would be short of them.
    fn receivers(&mut self, nodes: &NodesView, visited: std::ops::Range<u16>) -> Option<Vec<(Slot, Target)>> {
        let mut targets = Vec::new();
        for mark in &nodes.myself().open {
            if let OpenMark::Migrating { slot, to } = mark
                && visited.contains(&slot.get())
            {
                self.table.mark_moving(*slot, self.now);
                let Some(node) = self.table.find_id(to) else {
                    self.refresh(RefreshCause::UnknownAddress);
                    return None;
                };
                targets.push((*slot, Target::Node(node)));
            }
        }
        Some(targets)
    }

    /// What the page holds cannot be completed now: it begins anew, a little later.
    fn page_anew(&mut self, job: &mut ScanJob) -> Step {
        job.keys.clear();
        job.lost += 1;
        Step::Next(Stage::Wait { wait_us: backoff_us(job.lost, self.random.u64(..)) })
    }

    /// The keys that receivers have, if they are still receiving, or own the slot by now. Else it went on since the page was made, and
    /// the page begins anew.
    fn received(&mut self, job: &mut ScanJob, slots: &[(Slot, Target)], merge: &Merge) -> Step {
        let mut found = Vec::new();
        for (part, (slot, _)) in slots.iter().enumerate() {
            let Some(View::Array(mut results)) = view(merge.reply(part)) else { return Step::Error(unreadable("GETKEYSINSLOT")) };
            let Some(nodes) = results.next().and_then(parse_nodes) else { return Step::Error(unreadable("CLUSTER NODES")) };
            let myself = nodes.myself();
            let receives =
                myself.open.iter().any(|mark| matches!(mark, OpenMark::Importing { slot: coming, .. } if coming == slot));
            if !receives && run_end(myself, slot.get()).is_none() {
                return self.page_anew(job);
            }
            found.extend(results.next().map(bulks).unwrap_or_default());
        }
        job.filter(found)
    }

    /// The node that was asked does not own the slot: its own view says who does. It may be wrong, or point to a node that the map
    /// does not hold yet, so all but the first try wait for better news, until the request's deadline.
    fn lost_slot(&mut self, job: &mut ScanJob, nodes: &NodesView) -> Step {
        job.lost += 1;
        self.refresh(RefreshCause::Moved);
        let owner = nodes.nodes.iter().find(|node| node.slots.iter().any(|(first, last)| covers(*first, *last, job.cursor.slot)));
        if let (Some(owner), Some(slot)) = (owner, Slot::new(job.cursor.slot))
            && let Some(node) = self.table.find_id(&owner.id)
        {
            self.note_owner(slot, node);
        }
        match job.lost {
            1 => Step::Next(Stage::Begin),
            tries => Step::Next(Stage::Wait { wait_us: backoff_us(tries, self.random.u64(..)) }),
        }
    }

    fn ask_counts(&mut self, index: u32, slot: Slot, node: super::ids::NodeId) {
        let first = slot.get();
        let last = (first..SLOTS.min(first + COUNTED_AT_ONCE))
            .take_while(|number| Slot::new(*number).is_some_and(|slot| self.table.owner(slot) == Some(node)))
            .last()
            .unwrap_or(first);
        let slots = last - first + 1;
        if let Job::Scan(job) = &mut self.merges[index as usize].job {
            job.stage = Stage::Counting { slots };
        }
        self.add_part(index, Target::Any(slot), u32::from(slots) + 1, (0, 0), |out| {
            encode::command(out, &[b"MULTI"]);
            for slot in first..=last {
                encode::command(out, &[b"CLUSTER", b"COUNTKEYSINSLOT", slot.to_string().as_bytes()]);
            }
            encode::command(out, &[b"EXEC"]);
        });
    }

    fn ask_keys(&mut self, index: u32, slot: Slot, slots: u16) {
        let first = slot.get();
        self.add_part(index, Target::Any(slot), u32::from(slots) + 2, (0, 0), |out| {
            encode::command(out, &[b"MULTI"]);
            encode::command(out, &[b"CLUSTER", b"NODES"]);
            for slot in first..first + slots {
                write_keys_in_slot(out, slot);
            }
            encode::command(out, &[b"EXEC"]);
        });
    }

    /// The keys of whole slots, as far as the node owned them at that moment.
    fn listed(&mut self, job: &mut ScanJob, reply: &[u8], slots: u16) -> Step {
        let Some(View::Array(mut results)) = view(reply) else { return Step::Error(unreadable("GETKEYSINSLOT")) };
        let Some(nodes) = results.next().and_then(parse_nodes) else { return Step::Error(unreadable("CLUSTER NODES")) };
        let first = job.cursor.slot;
        let Some(run_end) = run_end(nodes.myself(), first) else { return self.lost_slot(job, &nodes) };
        let visited: RangeInclusive<u16> = first..=run_end.min(first + slots - 1);
        let mut found = Vec::new();
        for (_, keys) in visited.clone().zip(results) {
            found.extend(bulks(keys));
        }
        job.next = Cursor { slot: visited.end() + 1, ..Cursor::default() };
        let Some(moving) = self.receivers(&nodes, first..visited.end() + 1) else { return self.page_anew(job) };
        if moving.is_empty() {
            return job.filter(found);
        }
        // They are filtered with what the receivers add.
        job.keys.extend(found);
        Step::Next(Stage::Receivers { slots: moving })
    }
}

impl ScanJob {
    /// Keeps what the client's MATCH and TYPE ask for of keys that came from GETKEYSINSLOT.
    fn filter(&mut self, found: Vec<Vec<u8>>) -> Step {
        let listed = std::mem::take(&mut self.keys);
        let wanted = |key: &Vec<u8>| self.options.pattern.as_deref().is_none_or(|pattern| glob_match(pattern, key));
        let mut kept: Vec<Vec<u8>> = listed.into_iter().chain(found).filter(wanted).collect();
        if self.options.kind.is_some() && !kept.is_empty() {
            return Step::Next(Stage::Types { candidates: kept });
        }
        self.keys.append(&mut kept);
        Step::Done
    }
}

/// How many of the counted slots make a page.
fn counted(job: &ScanJob, reply: &[u8], asked: u16) -> Step {
    let Some(View::Array(counts)) = view(reply) else { return Step::Error(unreadable("COUNTKEYSINSLOT")) };
    let wanted = job.options.count.unwrap_or(10);
    let (mut slots, mut keys) = (0, 0);
    for count in counts.take(usize::from(asked)) {
        slots += 1;
        keys += super::merge::integer(count);
        if keys >= wanted {
            break;
        }
    }
    Step::Next(Stage::Listing { slots: slots.max(1) })
}

fn write_keys_in_slot(out: &mut Vec<u8>, slot: u16) {
    encode::command(out, &[b"CLUSTER", b"GETKEYSINSLOT", slot.to_string().as_bytes(), ALL_KEYS]);
}

fn unreadable(command: &str) -> Vec<u8> {
    format!("-ERR proxy: SCAN cannot read a node's answer to {command}\r\n").into_bytes()
}

fn parse_nodes(reply: &[u8]) -> Option<NodesView> {
    match view(reply)? {
        View::Bulk(text) | View::Verbatim(text) => NodesView::parse(text).ok(),
        _ => None,
    }
}

fn covers(first: Slot, last: Slot, slot: u16) -> bool {
    (first.get()..=last.get()).contains(&slot)
}

/// The last slot of the node's run that holds `slot`; ranges that touch are one run.
fn run_end(node: &NodeFacts, slot: u16) -> Option<u16> {
    let mut end = None;
    let mut at = slot;
    while let Some((_, last)) = node.slots.iter().find(|(first, last)| covers(*first, *last, at)) {
        end = Some(last.get());
        at = last.get() + 1;
    }
    end
}

fn bulks(reply: &[u8]) -> Vec<Vec<u8>> {
    match view(reply) {
        Some(View::Array(elements)) => elements
            .filter_map(|element| match view(element) {
                Some(View::Bulk(text)) => Some(text.to_vec()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn page_of(page: &[u8]) -> (Option<u64>, Option<Vec<Vec<u8>>>) {
    let Some(View::Array(mut fields)) = view(page) else { return (None, None) };
    let cursor = fields.next().and_then(view).and_then(|cursor| match cursor {
        View::Bulk(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    });
    (cursor, fields.next().map(bulks))
}

fn parse_options(frame: &[u8], spans: &[Span]) -> Result<Options, &'static [u8]> {
    let mut options = Options::default();
    let mut rest = spans;
    while let [name, value, others @ ..] = rest {
        let value = value.of(frame);
        match name.of(frame).to_ascii_uppercase().as_slice() {
            b"MATCH" => options.pattern = Some(value.to_vec()),
            b"TYPE" => options.kind = Some(value.to_vec()),
            b"COUNT" => {
                let count = std::str::from_utf8(value).ok().and_then(|digits| digits.parse::<i64>().ok());
                let count = count.ok_or(&b"-ERR value is not an integer or out of range\r\n"[..])?;
                if count < 1 {
                    return Err(b"-ERR syntax error\r\n");
                }
                options.count = Some(count);
            }
            _ => return Err(b"-ERR syntax error\r\n"),
        }
        rest = others;
    }
    if rest.is_empty() { Ok(options) } else { Err(b"-ERR syntax error\r\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_small_and_only_the_end_is_zero() {
        for slot in [0, 1, 8000, SLOTS - 1] {
            for position in [0, 1, (1 << 31) - 1] {
                for tag in [0, 1, 255] {
                    let cursor = Cursor { slot, position, tag };
                    let number = cursor.number();
                    assert!(number > 0 && number < 1 << 53, "{cursor:?}: {number}");
                    let back = Cursor::parse(number.to_string().as_bytes()).expect("a number");
                    assert_eq!((back.slot, back.position), (slot, position));
                }
            }
        }
        assert_eq!(Cursor { slot: SLOTS, ..Cursor::default() }.number(), 0);
        for wrong in [&b""[..], b"x", b"-1", b" 1", b"18446744073709551616"] {
            assert_eq!(Cursor::parse(wrong), None);
        }
    }

    #[test]
    fn options_are_read_in_any_order_and_case() {
        let parse = |arguments: &[&[u8]]| {
            let mut frame = Vec::new();
            encode::command(&mut frame, arguments);
            let spans = super::super::pump::spans_of(&frame).expect("just written");
            parse_options(&frame, &spans).map(|options| (options.pattern, options.count, options.kind))
        };
        assert_eq!(
            parse(&[b"count", b"5", b"Match", b"a*", b"TYPE", b"list"]),
            Ok((Some(b"a*".to_vec()), Some(5), Some(b"list".to_vec())))
        );
        assert_eq!(parse(&[b"COUNT", b"0"]), Err(&b"-ERR syntax error\r\n"[..]));
        assert_eq!(parse(&[b"COUNT", b"x"]), Err(&b"-ERR value is not an integer or out of range\r\n"[..]));
        assert_eq!(parse(&[b"COUNT"]), Err(&b"-ERR syntax error\r\n"[..]));
        assert_eq!(parse(&[b"FOO", b"1"]), Err(&b"-ERR syntax error\r\n"[..]));
    }
}
