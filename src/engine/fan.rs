//! Commands that go to many nodes, and those of one part whose reply is rewritten.

use crate::{
    cluster::Slot,
    command::{Command, Fan},
    resp::{Proto, Span, encode},
};

use super::{
    Engine,
    ids::NONE,
    info::{ProxyFacts, merge_info},
    merge::{Job, Merge, integer},
    pubsub::Question,
    pump::spans_of,
    send::Target,
    session::{Ending, Pause, ReplyMode, State},
};

pub(super) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// A request of the proxy's own.
pub(super) fn asks_any(words: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode::command(&mut frame, words);
    frame
}

impl Engine {
    /// To all masters (or all nodes), alone: behind what this client has in flight, and before what it sends next.
    pub(super) fn fan_out(
        &mut self,
        index: u32,
        command: &'static Command,
        fan: Fan,
        frame: &[u8],
        spans: &[Span],
    ) -> Result<(), Pause> {
        if !command.accepts(spans.len()) {
            return self.send_any(index, frame);
        }
        if matches!(command.name, "ACL|SETUSER" | "ACL|DELUSER" | "ACL|LOAD" | "ACL|SAVE") {
            return if self.refuses_acl(index, command) { Ok(()) } else { self.everywhere(index, fan, frame) };
        }
        self.barrier(index)?;
        let masters = if self.table.map.is_some() { self.master_targets() } else { Vec::new() };
        // Of no parts it would never end.
        if masters.is_empty() {
            return self.await_map(index, frame);
        }
        match command.name {
            "SCRIPT|LOAD" => self.remember_body(spans[2].of(frame)),
            "SCRIPT|FLUSH" => self.scripts.clear(),
            _ => {}
        }
        let count = spans.get(2).filter(|_| fan == Fan::Newest).map(|count| count.of(frame));
        let count = count.and_then(|count| std::str::from_utf8(count).ok()?.parse().ok());
        let (job, request) = match fan {
            Fan::Info => (Job::Info, None),
            Fan::RandomKey => (Job::RandomKeySizes, Some(&b"*1\r\n$6\r\nDBSIZE\r\n"[..])),
            fan => match Question::of(command.name, spans.get(2).map(|argument| argument.of(frame))) {
                Some(question) => (Job::Pubsub(question), None),
                None => (Job::Fan { fan, count }, None),
            },
        };
        let mut targets = masters;
        if command.name == "SCRIPT|FLUSH" && self.table.all().next().is_some() {
            targets = self.table.all().map(Target::Node).collect();
        }
        let merge = self.owe_merge(index, job);
        if fan == Fan::RandomKey {
            // How many keys there are is for the proxy to know; whether the user may have one is asked with the next question.
            self.merges[merge as usize].via.user = self.users.service();
        }
        for target in targets {
            self.add_part(merge, target, 0, (0, 0), |out| out.extend_from_slice(request.unwrap_or(frame)));
        }
        Ok(())
    }

    /// Every master: one that owns slots is named by its lowest, so that its successor answers if it dies meanwhile.
    pub(super) fn master_targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        let mut named = Vec::new();
        for slot in Slot::all() {
            if let Some(owner) = self.table.owner(slot)
                && !named.contains(&owner)
            {
                named.push(owner);
                targets.push(Target::Any(slot));
            }
        }
        targets.extend(self.table.masters().filter(|node| !named.contains(node)).map(Target::Node));
        targets
    }

    /// Owes a reply that a merge will make, and lets nothing overtake it.
    pub(super) fn owe_merge(&mut self, index: u32, job: Job) -> u32 {
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        let via = self.clients[index as usize].via();
        let merge = self.open_merge(index, seq, via, job);
        self.raise_barrier(index);
        merge
    }

    /// A request to one node whose reply is changed on its way.
    pub(super) fn one_part(&mut self, index: u32, frame: &[u8], job: Job) -> Result<(), Pause> {
        self.barrier(index)?;
        let merge = self.owe_merge(index, job);
        self.add_part(merge, Target::Any(self.any_slot(index)), 0, (0, 0), |out| out.extend_from_slice(frame));
        Ok(())
    }

    /// COMMAND COUNT counts what COMMAND lists.
    pub(super) fn count_commands(&mut self, index: u32) -> Result<(), Pause> {
        self.one_part(index, b"*1\r\n$7\r\nCOMMAND\r\n", Job::CommandList { count_only: true })
    }

    /// As `one_part`, in the proxy's own name: what the client's user may do is not asked, so nothing of the data may be either.
    pub(super) fn one_part_as_service(&mut self, index: u32, frame: &[u8], job: Job) -> Result<(), Pause> {
        self.barrier(index)?;
        let merge = self.owe_merge(index, job);
        self.merges[merge as usize].via.user = self.users.service();
        self.add_part(merge, Target::Any(self.any_slot(index)), 0, (0, 0), |out| out.extend_from_slice(frame));
        Ok(())
    }

    /// What needs a map before it can begin waits for one behind a PING to any node, which waits for one too.
    pub(super) fn await_map(&mut self, index: u32, frame: &[u8]) -> Result<(), Pause> {
        self.one_part_as_service(index, PING, Job::Again { frame: frame.to_vec() })
    }

    /// What the request waited for is here: it is taken again, in the place that it was given.
    pub(super) fn again_stage(&mut self, merge: u32) {
        let merge = self.merges.remove(merge as usize);
        let Job::Again { frame } = merge.job else { return };
        let session = &mut self.clients[merge.client as usize];
        // It was alone behind its barrier, so giving its place back and asking again keeps the order.
        let place = session.active.as_mut().and_then(|active| active.replies.pop_back());
        session.barrier = None;
        if session.ending == Ending::Gone {
            // It had not begun, and nothing may be begun for nobody: a subscription would never end.
            return self.touch(merge.client);
        }
        if place.is_some_and(|reply| reply.silent) && session.reply_mode == ReplyMode::On {
            session.reply_mode = ReplyMode::SkipNext;
        }
        let spans = spans_of(&frame).expect("a frame that was read before");
        // Nothing of this client is in flight, so nothing but a full lane can make it wait.
        if let Err(pause) = self.admit(merge.client, &frame, &spans) {
            self.take_back(merge.client, &frame, pause);
        }
    }

    pub(super) fn merged_info(&mut self, merge: &Merge, out: &mut Vec<u8>) {
        let texts: Vec<&[u8]> = (0..merge.parts.len()).map(|part| text_of(merge.reply(part))).collect();
        let facts = ProxyFacts { pubsub_clients: self.pubsub.registry.clients() as u64, ..self.facts.clone() };
        let text = self.clients[merge.client as usize].face.info(merge_info(&texts, &facts));
        encode::verbatim(out, merge.via.proto, &text);
    }

    /// RANDOMKEY: a master by the weight of its keys, then one of its keys; the others in turn should it have become empty.
    pub(super) fn merged_random_key(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let mut others = match &mut merge.job {
            Job::RandomKey { others } => std::mem::take(others),
            _ => {
                let weights: Vec<i64> = (0..merge.parts.len()).map(|part| integer(merge.reply(part))).collect();
                let total: i64 = weights.iter().sum();
                let mut pick = if total > 0 { self.random.i64(0..total) } else { 0 };
                let chosen = weights.iter().position(|weight| {
                    pick -= weight;
                    pick < 0
                });
                let mut targets: Vec<Target> = merge.parts.iter().map(|part| part.target).collect();
                if let Some(chosen) = chosen {
                    let chosen = targets.remove(chosen);
                    targets.push(chosen);
                }
                merge.next_stage(Job::RandomKey { others: targets });
                return false;
            }
        };
        let empty = matches!(crate::resp::view(merge.reply(0)), Some(crate::resp::View::Null));
        if empty && !others.is_empty() {
            merge.next_stage(Job::RandomKey { others: std::mem::take(&mut others) });
            return false;
        }
        out.extend_from_slice(merge.reply(0));
        true
    }

    pub(super) fn random_key_stage(&mut self, index: u32) {
        let Job::RandomKey { others } = &mut self.merges[index as usize].job else { return };
        let target = others.pop().unwrap_or(Target::Any(Slot::of(b"")));
        let merge = &mut self.merges[index as usize];
        merge.via.user = self.clients[merge.client as usize].rides;
        self.add_part(index, target, 0, (0, 0), |out| encode::command(out, &[b"RANDOMKEY"]));
    }
}

/// The text of a bulk or verbatim string.
fn text_of(reply: &[u8]) -> &[u8] {
    match crate::resp::view(reply) {
        Some(crate::resp::View::Bulk(text) | crate::resp::View::Verbatim(text)) => text,
        _ => b"",
    }
}

/// The null that a missing bulk string is in this protocol.
pub(super) fn null(proto: Proto) -> Vec<u8> {
    let mut out = Vec::new();
    encode::null(&mut out, proto);
    out
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, sync::Arc};

    use crate::{
        cluster::{Persona, SlotMap},
        engine::{Engine, Scripts, Settings},
    };

    #[test]
    fn without_masters_nobody_waits_for_ever() {
        for command in ["DBSIZE", "INFO", "RANDOMKEY", "SCRIPT FLUSH", "ACL SAVE", "FLUSHALL"] {
            let settings = Settings { retry_deadline_us: 1_000_000, ..Settings::default() };
            let mut engine = Engine::new(settings, Arc::new(Scripts::new(1000)), 1, 0);
            engine.map_published(Arc::new(SlotMap::new(1, 0, Vec::new(), &[], Persona::default())));
            let client = engine.client_open(1, "127.0.0.1:1", "127.0.0.1:2");
            engine.client_bytes(client, format!("{command}\r\n").as_bytes());
            for second in 1..5 {
                engine.set_now(second * 1_000_000);
                engine.tick();
            }
            let mut slices = [IoSlice::new(&[]); 4];
            let count = engine.client_chunks(client, &mut slices);
            let told: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            assert!(told.starts_with(b"-"), "{command}: {}", told.escape_ascii());
            assert_eq!(engine.load().owed, 0, "{command}");
        }
    }
}
