//! The nodes at work: what has arrived is carried out, and what they say goes to the connections that it is for.

use crate::{
    channels,
    cluster::{Said, Word},
    conn::{Frame, Told},
    node::{Outcome, execute},
    shard::Popped,
    waiting::{self, timeout_at},
    world::{What, World},
};

impl World {
    /// So many bytes arrive at the node, which carries out what is whole.
    pub fn node_reads(&mut self, index: usize, count: usize) {
        let conn = &mut self.conns[index];
        conn.to_node.take(count);
        conn.reached += count as u64;
        self.node_works(index);
    }

    fn node_works(&mut self, index: usize) {
        loop {
            let World { conns, cluster, now, .. } = self;
            let conn = &mut conns[index];
            if conn.caller.blocked || conn.frames.front().is_none_or(|frame| frame.end > conn.reached) {
                break;
            }
            let frame = conn.frames.pop_front().expect("just seen");
            let mut out = Vec::new();
            let outcome = execute(cluster, conn.node, &mut conn.caller, &frame.args, *now, &mut out);
            if self.trace {
                println!(
                    "{:>9}     node {} (conn {index}) answers {} to {}",
                    self.now,
                    self.conns[index].node,
                    String::from_utf8_lossy(&out[..out.len().min(100)]).replace("\r\n", "|"),
                    String::from_utf8_lossy(&frame.args[0])
                );
            }
            self.node_answers(index, frame, outcome, &out);
            self.carry_words();
        }
        self.deliver_from_node_later(index);
    }

    /// What a node made of a command is noted, and its answer is on its way.
    fn node_answers(&mut self, index: usize, frame: Frame, outcome: Outcome, out: &[u8]) {
        if matches!(outcome, Outcome::Served | Outcome::Forged) {
            self.note_script(&frame.args);
        }
        if outcome != Outcome::Refused {
            self.check_caller(index, &frame);
        }
        let node = self.conns[index].node;
        if matches!(frame.args[0].as_slice(), b"PUBLISH" | b"SPUBLISH") && outcome == Outcome::Served {
            self.check_published(node, &frame.args);
        }
        if outcome == Outcome::Served {
            self.pops.returned(&frame.args);
        }
        self.check_written();
        self.note_listeners();
        let conn = &mut self.conns[index];
        conn.answered += out.len() as u64;
        conn.from_node.push(out);
        match outcome {
            Outcome::Queued => return conn.unit.push(frame.attempt),
            Outcome::Blocked => return conn.waits = frame.attempt,
            _ => {}
        }
        let mut done: Vec<(Option<usize>, Outcome)> = vec![(frame.attempt, outcome)];
        if matches!(frame.args[0].as_slice(), b"EXEC" | b"DISCARD" | b"RESET") {
            done = std::mem::take(&mut conn.unit).into_iter().zip(std::mem::take(&mut conn.caller.unit)).collect();
            let carried_out = std::mem::take(&mut conn.caller.carried_out);
            carried_out.iter().for_each(|args| self.note_script(args));
            self.check_unit(index, &carried_out);
        }
        let popped = std::mem::take(&mut self.cluster.popped);
        self.node_did(index, done, popped, false);
        let conn = &mut self.conns[index];
        if timeout_at(&frame.args).is_some() {
            conn.replies.push_back((conn.answered, Told::Waited));
        }
        if let Some(other) = waiting::unblocks(&frame.args) {
            conn.replies.push_back((conn.answered, Told::Unblocked(other)));
        }
    }

    /// What was carried out by its body may go by its name from now on.
    fn note_script(&mut self, args: &[Vec<u8>]) {
        if args[0].eq_ignore_ascii_case(b"EVAL") {
            self.bodies_seen.insert(String::from_utf8_lossy(&args[1]).into_owned());
        }
    }

    fn node_did(&mut self, index: usize, done: Vec<(Option<usize>, Outcome)>, popped: Vec<Popped>, late: bool) {
        let tag = match done[..] {
            [(Some(attempt), _)] => Some(self.truth.attempts[attempt].tag),
            _ => None,
        };
        let conn = &mut self.conns[index];
        for (attempt, outcome) in done.into_iter().filter_map(|(attempt, outcome)| Some((attempt?, outcome))) {
            match outcome {
                Outcome::Refused => self.truth.refused(attempt),
                outcome => self.truth.served(attempt, outcome == Outcome::Forged, late),
            }
            conn.replies.push_back((conn.answered, Told::Reply(attempt)));
        }
        if let (Some((client, _)), false) = (tag, popped.is_empty() || self.calm_since.is_some())
            && self.random.u32(0..20) == 0
        {
            // Its client goes while the element is on its way.
            let wait = self.delay();
            self.later(wait, What::GiveUp(client as usize));
        }
        let conn = &mut self.conns[index];
        for (key, element) in popped {
            self.pops.popped(key, &element, tag);
            conn.replies.push_back((conn.answered, Told::Popped(element)));
        }
    }

    /// Carries what nodes say unasked to the connections that it is for.
    pub fn carry_words(&mut self) {
        for (from, to, channel, payload) in std::mem::take(&mut self.cluster.bus) {
            self.publish_on_bus(from, to, channel, payload);
        }
        for (at, conn, number) in std::mem::take(&mut self.cluster.timeouts) {
            self.later(at.saturating_sub(self.now), What::TimeOut(conn, number));
        }
        for Said { conn: index, bytes, word } in std::mem::take(&mut self.cluster.said) {
            self.say(|| format!("    conn {index} is told {}", String::from_utf8_lossy(&bytes).replace("\r\n", "|")));
            let conn = &mut self.conns[index];
            if conn.open {
                conn.from_node.push(&bytes);
                conn.answered += bytes.len() as u64;
            }
            match word {
                Word::Unblocked { outcome, popped } => {
                    conn.caller.blocked = false;
                    let waited = conn.waits.take();
                    let late = !self.conns[index].open;
                    self.node_did(index, vec![(waited, outcome)], popped, late);
                    let conn = &mut self.conns[index];
                    conn.replies.push_back((conn.answered, Told::Waited));
                    self.later(0, What::NodeWorks(index));
                }
                Word::Message(message) => conn.replies.push_back((conn.answered, Told::Message(message))),
                Word::Left(topic) => {
                    self.topic_lost(index, topic);
                }
                Word::Close => self.later(0, What::HangUp(index)),
            }
            self.deliver_from_node_later(index);
        }
    }

    /// A connection that does not wait any more is served on.
    pub fn node_works_on(&mut self, index: usize) {
        if self.conns[index].open {
            self.node_works(index);
        }
    }

    /// The node ends a connection behind what it has said on it.
    pub fn hang_up(&mut self, index: usize) {
        match self.conns[index].from_node.len() {
            0 => self.end_conn(index, true),
            _ => self.later(100, What::HangUp(index)),
        }
    }

    /// The end of a connection reaches the node.
    pub fn node_forgets(&mut self, index: usize) {
        let node = self.conns[index].node;
        waiting::forget(&mut self.cluster, node, index);
        channels::forget(&mut self.cluster, node, index);
    }

    pub fn deliver_from_node_later(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let silence = conn.silent_until.saturating_sub(self.now);
        if conn.from_node.len() > 0 && !std::mem::replace(&mut conn.from_node.scheduled, true) {
            let wait = silence + self.random.u64(0..=self.plan.delay_max_us);
            self.later(wait, What::FromNode(index));
        }
    }
}
