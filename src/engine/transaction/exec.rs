//! EXEC: one unit for each slot (as a rule there is one), and one reply.

use crate::{
    cluster::Slot,
    command::{self, SplitKind},
    resp::{Proto, Span, View, encode, view},
};

use super::{
    super::{
        Engine,
        answer::lane_mut,
        forward::whole,
        identity::hello_proto as proto_of_hello,
        ids::{LaneId, NONE, Ticket},
        merge::{Job, Merge, Part, integer},
        persona,
        pipe::LARGE_FRAME,
        pubsub::Receivers,
        pump::spans_of,
        refused::could_be_refusal,
        send::{BULK_FRAME, NotNow, Target},
        session::{Pause, Session, State},
        split::PartWriter,
    },
    ABORTED, EXEC, MULTI,
    messages::counted,
    queue::{ItemKind, Queued},
};

/// A transaction that is put together from parts.
#[derive(Debug)]
pub struct ExecJob {
    pub(super) queued: Queued,
    /// In the order in which they are sent: those that watch first, one by one, then all others at once, then messages.
    pub(super) groups: Vec<Group>,
    /// How many of them are answered.
    pub(super) answered: usize,
}

/// What goes to one slot, as one unit.
#[derive(Debug)]
pub(super) struct Group {
    slot: Option<Slot>,
    /// The lane that watches keys of this slot, and whether the node serves it behind ASKING only.
    watch: Option<(LaneId, bool)>,
    pub(super) pieces: Vec<Piece>,
    /// A message instead of commands, and what is to be corrected about its count.
    pub(super) message: Option<Option<Receivers>>,
    reply: Vec<u8>,
}

/// One element of a unit's reply, and which command of the client's it belongs to.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) item: usize,
    /// Of a command that is split: which of its keys.
    keys: Vec<usize>,
}

/// What stands for the reply of a lane that is gone before its unit was sent whole.
pub(in super::super) const LANE_LOST: &[u8] = b"-LANELOST\r\n";

impl Group {
    fn new(slot: Option<Slot>, watch: Option<(LaneId, bool)>) -> Self {
        Group { slot, watch, pieces: Vec::new(), message: None, reply: Vec::new() }
    }

    fn of_message(item: usize) -> Self {
        let pieces = vec![Piece { item, keys: Vec::new() }];
        Group { slot: None, watch: None, pieces, message: Some(None), reply: Vec::new() }
    }

    /// Whether commands are in it.
    fn executes(&self) -> bool {
        self.message.is_none() && !self.pieces.is_empty()
    }

    /// Whether the node refused the unit because a watched key changed, or its slot is not there any more: both end a WATCH.
    fn watch_failed(&self) -> bool {
        let refused = self.reply.strip_prefix(b"-").is_some_and(could_be_refusal) || self.reply == LANE_LOST;
        self.watch.is_some() && (refused || matches!(view(&self.reply), Some(View::Null)))
    }
}

impl Engine {
    /// EXEC between MULTI and its end.
    pub(super) fn exec(&mut self, index: u32) -> Result<(), Pause> {
        let transaction = self.clients[index as usize].transaction.as_ref();
        let watches = transaction.is_some_and(|transaction| !transaction.watched.is_empty());
        let Some(queued) = transaction.and_then(|transaction| transaction.queued.as_ref()) else { return Ok(()) };
        if queued.refused {
            self.forget_queued(index);
            return self.unwatch(index, ABORTED);
        }
        if queued.plain && !watches {
            return self.exec_plain(index);
        }
        self.barrier(index)?;
        let watched = self.take_watched(index);
        let Some(queued) = self.forget_queued(index) else { return Ok(()) };
        let lost = watched.iter().any(|watched| watched.broken || lane_mut(&mut self.lanes, watched.lane).is_none());
        if lost {
            let mut null = Vec::new();
            encode::null_array(&mut null, self.clients[index as usize].proto);
            return self.release_watches(index, watched, &null);
        }
        let mut groups: Vec<Group> =
            watched.iter().map(|watched| Group::new(Some(watched.slot), Some((watched.lane, watched.asking)))).collect();
        distribute(&queued, &mut groups);
        // A slot that is only watched is asked before anything is done.
        groups.sort_by_key(|group| (group.message.is_some(), group.watch.is_none(), !group.pieces.is_empty()));
        let mut job = ExecJob { queued, groups, answered: 0 };
        if job.groups.is_empty() {
            let mut out = Vec::new();
            self.assemble(index, &mut job, &mut out);
            self.reply_now(index, &out);
            return Ok(());
        }
        let merge = self.owe_merge(index, Job::Exec(Box::new(job)));
        self.exec_stage(merge);
        Ok(())
    }

    /// One unit, whose reply is the client's as it comes.
    fn exec_plain(&mut self, index: u32) -> Result<(), Pause> {
        let transaction = self.clients[index as usize].transaction.as_ref();
        let Some(queued) = transaction.and_then(|transaction| transaction.queued.as_ref()) else { return Ok(()) };
        if queued.items.is_empty() {
            self.forget_queued(index);
            self.reply_now(index, b"*0\r\n");
            return Ok(());
        }
        let bulk = queued.frames.len() + EXEC.len() >= BULK_FRAME;
        let slot = queued.slot.as_ref().map(|(slot, _)| *slot);
        let target = slot.map_or(Target::Any(self.any_slot(index)), Target::Slot);
        let alone = slot.filter(|slot| bulk || self.table.is_moving(*slot, self.now));
        match slot {
            Some(slot) if !self.settled(index) || alone.is_some() => self.nothing_unfinished(index, slot)?,
            Some(_) => {}
            None => self.behind_others(index, target)?,
        }
        let via = self.clients[index as usize].via();
        let bulk = bulk && slot.is_some();
        let lane = self.resolve(target).ok_or(NotNow::NoNode).and_then(|node| self.lane_to(node, via, bulk));
        if let Ok(lane) = lane
            && !self.has_room(lane)
        {
            return self.wait_for_room(index, lane);
        }
        let Some(mut queued) = self.forget_queued(index) else { return Ok(()) };
        queued.frames.extend_from_slice(EXEC);
        let lead = queued.items.len() as u32 + 1;
        let seq = self.owe(index, State::Sent { lane: lane.unwrap_or(NONE) }, slot);
        match lane {
            Ok(lane) if queued.frames.len() >= LARGE_FRAME => {
                self.queue_large(lane, whole(index, seq), NONE, lead, queued.frames.into());
            }
            Ok(lane) => self.queue(lane, whole(index, seq), NONE, lead, |out| out.extend_from_slice(&queued.frames)),
            Err(_) => self.hold_fresh(whole(index, seq), target, via, lead, queued.frames.into(), 0),
        }
        if alone.is_some() {
            self.clients[index as usize].unsettle();
        }
        Ok(())
    }

    /// Sends the next units: the next one that watches, or all that are left, or then the messages.
    pub(in super::super) fn exec_stage(&mut self, merge: u32) {
        let entry = &self.merges[merge as usize];
        let (client, seq, proto) = (entry.client, entry.seq, entry.via.proto);
        let Job::Exec(job) = &entry.job else { return };
        if job.groups[job.answered].message.is_some() {
            return self.message_stage(merge);
        }
        let mut units = Vec::new();
        for group in job.groups[job.answered..].iter().filter(|group| group.message.is_none()) {
            units.push((group.slot, group.watch, write_unit(&job.queued, group, proto)));
            if group.watch.is_some() {
                break;
            }
        }
        for (slot, watch, (unit, lead)) in units {
            let target = slot.map_or(Target::Any(self.any_slot(client)), Target::Slot);
            match watch {
                None => self.add_part(merge, target, lead, (0, 0), |out| out.extend_from_slice(&unit)),
                Some((lane, _)) => {
                    let part = self.add_private_part(merge, target, Some(lane));
                    let ticket = Ticket { client, seq, part };
                    match lane_mut(&mut self.lanes, lane).map(|lane| lane.id.index) {
                        Some(lane) => self.queue(lane, ticket, NONE, lead, |out| out.extend_from_slice(&unit)),
                        None => self.deliver(ticket, LANE_LOST),
                    }
                }
            }
        }
    }

    /// Adds one part that goes to a lane of its own; the caller sends it. Answers its number.
    pub(super) fn add_private_part(&mut self, merge: u32, target: Target, lane: Option<LaneId>) -> u32 {
        let entry = &mut self.merges[merge as usize];
        let state = State::Sent { lane: lane.map_or(NONE, |lane| lane.index) };
        entry.parts.push(Part { target, state, first: 0, count: 0 });
        entry.left += 1;
        entry.parts.len() as u32 - 1
    }

    /// Units were answered. False: others follow.
    pub(in super::super) fn merged_exec(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let Job::Exec(mut job) = std::mem::replace(&mut merge.job, Job::Sum) else { return true };
        for part in 0..merge.parts.len() {
            let place = job.answered + part;
            job.groups[place].reply = match &job.groups[place].message {
                Some(Some(receivers)) => counted(*receivers, merge.reply(part)),
                _ => merge.reply(part).to_vec(),
            };
            if let Some((lane, _)) = job.groups[place].watch {
                self.end_watch(lane);
            }
        }
        job.answered += merge.parts.len();
        // As long as nothing was carried out, a watched key that changed ends it all, and so does an error.
        let last = &job.groups[job.answered - 1];
        let idle = last.message.is_none() && !job.groups[..job.answered - merge.parts.len()].iter().any(Group::executes);
        let alone = job.groups.iter().filter(|group| group.executes()).count() <= 1;
        if idle && last.watch_failed() {
            encode::null_array(out, merge.via.proto);
        } else if idle && (alone || last.watch.is_some()) && !matches!(view(&last.reply), Some(View::Array(_))) {
            out.extend_from_slice(&last.reply);
        } else if job.answered < job.groups.len() {
            merge.next_stage(Job::Exec(job));
            return false;
        } else {
            self.assemble(merge.client, &mut job, out);
            return true;
        }
        for group in &job.groups[job.answered..] {
            if let Some((lane, _)) = group.watch {
                self.close_watch(lane);
            }
        }
        true
    }

    /// The reply of a transaction whose units are all answered, element by element.
    fn assemble(&mut self, index: u32, job: &mut ExecJob, out: &mut Vec<u8>) {
        let Session { proto, face, .. } = self.clients[index as usize];
        let elements = elements_of(job);
        encode::array(out, job.queued.items.len());
        self.clients[index as usize].transaction.get_or_insert_default().executing = Some(job.queued.items.len());
        for (place, item) in job.queued.items.iter().enumerate() {
            let element =
                || elements[place].first().map_or(&b"-ERR proxy: a node left out an answer\r\n"[..], |(_, bytes)| bytes);
            let fails = || element().first() == Some(&b'-');
            match item.kind {
                ItemKind::Own | ItemKind::Hello => out.extend(self.own_answer(index, job.queued.frame(place))),
                ItemKind::Split(kind) => write_split(kind, job.queued.frame(place), &elements[place], out),
                ItemKind::ConfigGet if !fails() => persona::config_get(element(), proto, face, out),
                ItemKind::CommandList if !fails() => persona::command_list(element(), false, &self.settings.policy, out),
                ItemKind::CommandCount if !fails() => persona::command_list(element(), true, &self.settings.policy, out),
                ItemKind::CommandNames if !fails() => persona::command_names(element(), proto, &self.settings.policy, out),
                _ => out.extend_from_slice(element()),
            }
        }
        self.clients[index as usize].transaction.get_or_insert_default().executing = None;
    }

    /// A unit was refused while it was queued. `why` is the server's reason: one that the client is not to see holds the unit.
    pub(in super::super) fn aborted_text(&mut self, why: &[u8]) -> Vec<u8> {
        // What the servers were found to queue may be different now.
        self.checked.clear();
        let why = String::from_utf8_lossy(why[1..].trim_ascii_end()).into_owned();
        let mut out = Vec::new();
        encode::error(
            &mut out,
            format!("EXECABORT Transaction discarded because of previous errors. (proxy: a node said: {why})"),
        );
        out
    }
}

/// Gives every command its groups: that of its slot, or the first.
fn distribute(queued: &Queued, groups: &mut Vec<Group>) {
    let place_of = |slot: Option<Slot>, groups: &mut Vec<Group>| {
        let found = match slot {
            Some(slot) => groups.iter().position(|group| group.slot == Some(slot)),
            None => (!groups.is_empty()).then_some(0),
        };
        found.unwrap_or_else(|| {
            groups.push(Group::new(slot, None));
            groups.len() - 1
        })
    };
    // Commands without keys go with the first slot, also when they come before it.
    let commands = || queued.items.iter().filter(|item| item.kind != ItemKind::Message);
    if let Some(first) = commands().find_map(|item| item.slot) {
        place_of(Some(first), groups);
    }
    let mut messages = Vec::new();
    for (item, command) in queued.items.iter().enumerate() {
        match command.kind {
            ItemKind::Own | ItemKind::Hello => {}
            ItemKind::Message => messages.push(Group::of_message(item)),
            ItemKind::Split(kind) => {
                for (slot, keys) in keys_by_slot(kind, queued.frame(item)) {
                    let place = place_of(Some(slot), groups);
                    groups[place].pieces.push(Piece { item, keys });
                }
            }
            _ => {
                let place = place_of(command.slot, groups);
                groups[place].pieces.push(Piece { item, keys: Vec::new() });
            }
        }
    }
    groups.append(&mut messages);
}

/// The keys of a split command, by their numbers, in order of their slots.
fn keys_by_slot(kind: SplitKind, frame: &[u8]) -> Vec<(Slot, Vec<usize>)> {
    let spans = spans_of(frame).unwrap_or_default();
    let (lead_args, step) = kind.shape();
    let mut found: Vec<(Slot, Vec<usize>)> = Vec::new();
    for (key, place) in (lead_args..spans.len()).step_by(step).enumerate() {
        let slot = Slot::of(spans[place].of(frame));
        match found.iter_mut().find(|(known, _)| *known == slot) {
            Some((_, keys)) => keys.push(key),
            None => found.push((slot, vec![key])),
        }
    }
    found
}

/// What a group sends, and how many replies come before EXEC's. The protocol is changed where the client changes it, and back at the
/// end: the lane is others' too.
fn write_unit(queued: &Queued, group: &Group, proto: Proto) -> (Vec<u8>, u32) {
    let (mut out, mut lead) = (Vec::new(), 1);
    if group.watch.is_some_and(|(_, asking)| asking) {
        encode::command(&mut out, &[b"ASKING"]);
        lead += 1;
    }
    out.extend_from_slice(MULTI);
    let mut pieces = group.pieces.iter().peekable();
    let mut changed = false;
    for (item, command) in queued.items.iter().enumerate() {
        if command.kind == ItemKind::Hello
            && let Some(proto) = hello_proto(queued.frame(item))
        {
            write_hello(&mut out, proto);
            (lead, changed) = (lead + 1, true);
        }
        while let Some(piece) = pieces.next_if(|piece| piece.item == item) {
            let frame = queued.frame(item);
            match command.kind {
                ItemKind::Split(kind) => {
                    let spans = spans_of(frame).unwrap_or_default();
                    PartWriter::new(Vec::new(), kind, frame, &spans).write_keys(&mut out, piece.keys.iter().copied());
                }
                ItemKind::CommandCount => encode::command(&mut out, &[b"COMMAND"]),
                _ => out.extend_from_slice(frame),
            }
            lead += 1;
        }
    }
    if changed {
        write_hello(&mut out, proto);
        lead += 1;
    }
    out.extend_from_slice(EXEC);
    (out, lead)
}

/// The protocol that a HELLO changes to, if nothing is wrong with it.
fn hello_proto(frame: &[u8]) -> Option<Proto> {
    let arguments: Vec<&[u8]> = spans_of(frame)?.iter().map(|span| span.of(frame)).collect();
    proto_of_hello(&arguments)
}

fn write_hello(out: &mut Vec<u8>, proto: Proto) {
    encode::command(out, &[b"HELLO", if proto == Proto::Resp3 { b"3" } else { b"2" }]);
}

/// For each command its elements: one, or one for each of its slots with the numbers of the keys there.
fn elements_of(job: &ExecJob) -> Vec<Vec<(&[usize], &[u8])>> {
    let mut elements: Vec<Vec<(&[usize], &[u8])>> = vec![Vec::new(); job.queued.items.len()];
    for group in job.groups.iter().filter(|group| group.message.is_some()) {
        elements[group.pieces[0].item].push((&group.pieces[0].keys, &group.reply));
    }
    for group in job.groups.iter().filter(|group| group.message.is_none()) {
        let hellos: Vec<usize> = changes_of(&job.queued);
        let mut array = match view(&group.reply) {
            Some(View::Array(array)) => Some(array),
            _ => None,
        };
        let mut hellos = hellos.into_iter().peekable();
        for piece in &group.pieces {
            // What the nodes say to HELLO is not the client's.
            while hellos.next_if(|hello| *hello < piece.item).is_some() {
                array.as_mut().and_then(Iterator::next);
            }
            let element = match &mut array {
                Some(array) => array.next().unwrap_or(b"-ERR proxy: a node left out an answer\r\n"),
                // The slot's unit failed as a whole: so did each of its commands.
                None if group.reply.first() == Some(&b'-') && group.reply != LANE_LOST => &group.reply,
                None => b"-ERR proxy: not executed: a watched key of this slot changed, or its slot moved\r\n",
            };
            elements[piece.item].push((&piece.keys, element));
        }
    }
    elements
}

/// Which commands change the protocol on the nodes.
fn changes_of(queued: &Queued) -> Vec<usize> {
    let is_change = |item: &usize| queued.items[*item].kind == ItemKind::Hello && hello_proto(queued.frame(*item)).is_some();
    (0..queued.items.len()).filter(is_change).collect()
}

/// One answer of a split command's parts: the first error, or what they are together.
fn write_split(kind: SplitKind, frame: &[u8], parts: &[(&[usize], &[u8])], out: &mut Vec<u8>) {
    if let Some((_, error)) = parts.iter().find(|(_, reply)| reply.first() == Some(&b'-')) {
        return out.extend_from_slice(error);
    }
    match kind {
        SplitKind::Mset => encode::simple(out, "OK"),
        SplitKind::Sum => encode::integer(out, parts.iter().map(|(_, reply)| integer(reply)).sum()),
        SplitKind::Mget | SplitKind::ShardNumsub => {
            let count = spans_of(frame).map_or(0, |spans| spans.len().saturating_sub(1));
            let mut values: Vec<&[u8]> = vec![b"-ERR proxy: a node left out an answer\r\n"; count];
            for (keys, reply) in parts {
                if let Some(View::Array(found)) = view(reply) {
                    keys.iter().zip(found).for_each(|(key, value)| values[*key] = value);
                }
            }
            encode::array(out, count);
            values.iter().for_each(|value| out.extend_from_slice(value));
        }
    }
}

/// Whether nothing in a unit changes anything, so that it may be sent again when its outcome is unknown.
pub(in super::super) fn only_reads(unit: &[u8]) -> bool {
    let mut rest = unit;
    while !rest.is_empty() {
        let Some((len, spans)) = next_frame(rest) else { return false };
        let harmless = command::resolve(&rest[..len], &spans).is_ok_and(|command| {
            command.flags.is_readonly()
                || matches!(command.name, "MULTI" | "EXEC" | "ASKING" | "PING" | "ECHO" | "TIME" | "HELLO")
        });
        if !harmless {
            return false;
        }
        rest = &rest[len..];
    }
    true
}

fn next_frame(bytes: &[u8]) -> Option<(usize, Vec<Span>)> {
    use crate::resp::{Limits, RequestScanner, Scanned};
    let mut spans = Vec::new();
    match RequestScanner::default().scan(bytes, &mut spans, &Limits::default()) {
        Ok(Scanned::Request { len }) => Some((len, spans)),
        _ => None,
    }
}
