//! From a client's bytes to requests, and from each request to the one step that carries it out.

use bytes::Bytes;

use crate::{
    cluster::Slot,
    command::{self, Class, Command, Local},
    resp::{ProtocolError, RequestScanner, Scanned, Span, encode, is_http, split_inline},
};

use super::{
    ClientId, Engine,
    identity::Unfinished,
    ids::NONE,
    local::select,
    modes::Modes,
    pump::spans_of,
    send::{BULK_FRAME, Target},
    session::{Active, Ending, NO_SLOT, Pause, Reply, ReplyMode, State},
    since::has_subcommands,
};

/// A cut request of at least this size has its whole room reserved at once: its sender has shown that it means it.
const RESERVE_WHOLE_FROM: usize = 1024 * 1024;

impl Engine {
    /// Takes what a client sent. Requests that must wait stay in its input until they may go on.
    pub fn client_bytes(&mut self, client: ClientId, data: &[u8]) {
        let index = client.0;
        let session = &mut self.clients[index as usize];
        session.last_active = self.now;
        if session.deaf || session.ending == Ending::Gone {
            return;
        }
        if session.has_input() || session.pause.is_some() {
            self.add_input(index, data);
        } else {
            self.consume_fresh(index, data);
        }
        self.settle();
    }

    #[inline(always)]
    fn consume_fresh(&mut self, index: u32, data: &[u8]) {
        let used = self.consume(index, data);
        if used < data.len() {
            self.keep_input(index, &data[used..]);
        }
    }

    /// Something of the client waits already: what came now follows it.
    #[inline(never)]
    fn add_input(&mut self, index: u32, mut data: &[u8]) {
        while !data.is_empty() {
            let session = &mut self.clients[index as usize];
            let held = session.active.as_ref().map_or(0, |active| active.input.len());
            let paused = session.pause.is_some();
            if held == 0 && !paused {
                return self.consume_fresh(index, data);
            }
            let active = self.activate(index);
            let wanted = if paused { data.len() } else { active.input_needed.saturating_sub(held).clamp(1, data.len()) };
            reserve(&mut active.input, active.input_needed, wanted);
            active.input.extend_from_slice(&data[..wanted]);
            data = &data[wanted..];
            if !paused && active.input.len() >= active.input_needed {
                self.consume_input(index);
            }
        }
    }

    /// Goes on with what waits in a client's input.
    pub(super) fn consume_input(&mut self, index: u32) {
        let Some(active) = self.clients[index as usize].active.as_mut() else { return };
        let mut input = std::mem::take(&mut active.input);
        if input.len() >= BULK_FRAME && self.consume_whole(index, &mut input) {
            return;
        }
        let used = self.consume(index, &input);
        if used == input.len() {
            input.clear();
        } else {
            input.drain(..used);
        }
        let active = self.activate(index);
        active.input = input;
    }

    /// A large request that fills the input exactly is passed on without a copy.
    fn consume_whole(&mut self, index: u32, input: &mut Vec<u8>) -> bool {
        let mut spans = std::mem::take(&mut self.spans);
        let session = &mut self.clients[index as usize];
        let scanned = session.scanner.scan(input, &mut spans, &self.settings.limits);
        let whole = matches!(scanned, Ok(Scanned::Request { len }) if len == input.len());
        if whole {
            let frame = Bytes::from(std::mem::take(input));
            self.whole = Some(frame.clone());
            let taken = self.admit(index, &frame, &spans);
            self.whole = None;
            if let Err(pause) = taken {
                self.clients[index as usize].pause = Some(pause);
                let input = frame.try_into_mut().map_or_else(|shared| shared.to_vec(), |owned| owned.to_vec());
                self.activate(index).input = input;
            }
        } else {
            // The scanner is asked again by the ordinary path, from the request's beginning.
            self.clients[index as usize].scanner = RequestScanner::default();
        }
        self.spans = spans;
        whole
    }

    /// Puts a request that was taken and cannot go on back before what waits in a client's input.
    pub(super) fn take_back(&mut self, index: u32, frame: &[u8], pause: Pause) {
        let session = &mut self.clients[index as usize];
        session.pause = Some(pause);
        session.scanner = RequestScanner::default();
        let active = self.activate(index);
        active.input.splice(..0, frame.iter().copied());
        active.input_needed = 0;
    }

    fn keep_input(&mut self, index: u32, rest: &[u8]) {
        if rest.is_empty() || self.clients[index as usize].deaf {
            return;
        }
        let active = self.activate(index);
        reserve(&mut active.input, active.input_needed, rest.len());
        active.input.extend_from_slice(rest);
    }

    pub(super) fn activate(&mut self, index: u32) -> &mut Active {
        let Engine { clients, pool, .. } = self;
        clients[index as usize].active.get_or_insert_with(|| pool.take())
    }

    /// Takes whole requests from the front of `buf` until one is cut or must wait. Answers how many bytes it took.
    #[inline]
    fn consume(&mut self, index: u32, buf: &[u8]) -> usize {
        let at = self.pass_on(index, buf);
        if at == buf.len() { at } else { self.consume_any(index, buf, at) }
    }

    /// As `consume`, from the request at `at` on, which could not be passed on.
    #[inline(never)]
    fn consume_any(&mut self, index: u32, buf: &[u8], mut at: usize) -> usize {
        let mut spans = std::mem::take(&mut self.spans);
        while at < buf.len() {
            let rest = &buf[at..];
            let session = &mut self.clients[index as usize];
            if session.deaf {
                at = buf.len();
                break;
            }
            let scanned = session.scanner.scan(rest, &mut spans, &self.settings.limits);
            match self.consume_one(index, rest, scanned, &spans) {
                Some(len) => at += len,
                None => break,
            }
            if at < buf.len() {
                at += self.pass_on(index, &buf[at..]);
            }
        }
        self.spans = spans;
        at
    }

    /// Takes what the scanner found at the start of `rest`, whatever it is: so many bytes. `None`: it is cut or must wait.
    fn consume_one(&mut self, index: u32, rest: &[u8], scanned: Result<Scanned, ProtocolError>, spans: &[Span]) -> Option<usize> {
        let taken = match scanned {
            Ok(Scanned::Request { len }) => self.admit(index, &rest[..len], spans).map(|()| len),
            Ok(Scanned::Inline { len }) => self.inline(index, &rest[..len]).map(|()| len),
            Ok(Scanned::Skip { len }) => Ok(len),
            Ok(Scanned::More { need }) if self.clients[index as usize].modes.is_plain() => {
                self.activate(index).input_needed = need;
                return None;
            }
            Ok(Scanned::More { need }) => match self.look_at_unfinished(index, rest) {
                Ok(()) => {
                    self.activate(index).input_needed = need;
                    return None;
                }
                Err(Unfinished::Wait) => Err(Pause::Stranger),
                Err(Unfinished::Refused(error)) => self.behind_barrier(index).map(|()| {
                    self.protocol_error(index, error);
                    rest.len()
                }),
            },
            Err(error) => self.behind_barrier(index).map(|()| {
                self.protocol_error(index, error);
                rest.len()
            }),
        };
        match taken {
            Ok(len) => Some(len),
            Err(pause) => {
                let session = &mut self.clients[index as usize];
                session.pause = Some(pause);
                // What waits is scanned again from its beginning.
                session.scanner = RequestScanner::default();
                None
            }
        }
    }

    /// An inline request is written as the multibulk that it means, and goes the same way.
    fn inline(&mut self, index: u32, line: &[u8]) -> Result<(), Pause> {
        match split_inline(line) {
            Ok(arguments) if arguments.is_empty() => Ok(()),
            Ok(arguments) => {
                let mut frame = Vec::new();
                let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
                encode::command(&mut frame, &arguments);
                let spans = spans_of(&frame).expect("a request that was just written is whole");
                self.inline = true;
                let taken = self.admit(index, &frame, &spans);
                self.inline = false;
                taken
            }
            Err(error) => {
                self.behind_barrier(index)?;
                self.protocol_error(index, error);
                Ok(())
            }
        }
    }

    /// What follows a request that goes alone waits for its reply, also when it is no request at all: the other's place in the queue
    /// may be given back and taken anew.
    fn behind_barrier(&mut self, index: u32) -> Result<(), Pause> {
        let session = &mut self.clients[index as usize];
        if let Some(barrier) = session.barrier {
            if (barrier.wrapping_sub(session.head) as i32) >= 0 {
                return Err(Pause::Barrier);
            }
            session.barrier = None;
        }
        Ok(())
    }

    pub(super) fn protocol_error(&mut self, index: u32, error: ProtocolError) {
        self.counters.protocol_errors += 1;
        if !error.is_silent() {
            let seq = self.owe(index, State::Sent { lane: NONE }, None);
            let mut text = Vec::new();
            error.append_reply(&mut text);
            self.answer(index, seq, &text);
        }
        self.end_after_replies(index);
    }

    /// Nothing more is read from it; it is closed when all it is owed was written.
    pub(super) fn end_after_replies(&mut self, index: u32) {
        let session = &mut self.clients[index as usize];
        session.deaf = true;
        if session.ending == Ending::No {
            session.ending = Ending::AfterReplies;
        }
        self.touch(index);
    }

    /// Owes the client one more reply. Answers its number.
    pub(super) fn owe(&mut self, index: u32, state: State, slot: Option<Slot>) -> u32 {
        let Engine { clients, pool, table, now, .. } = self;
        let session = &mut clients[index as usize];
        let silent = match session.reply_mode {
            ReplyMode::On => false,
            ReplyMode::Off => true,
            ReplyMode::SkipNext => {
                session.reply_mode = ReplyMode::On;
                true
            }
        };
        let reply = Reply { state, slot: slot.map_or(NO_SLOT, Slot::get), silent, arrived: *now };
        session.owe(reply, table.version, pool)
    }

    /// Owes one reply and gives it at once.
    pub(super) fn reply_now(&mut self, index: u32, reply: &[u8]) {
        if let Some(captured) = &mut self.captured {
            return captured.extend_from_slice(reply);
        }
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        self.answer(index, seq, reply);
    }

    /// Takes one request, or says why it must wait; then nothing of it has happened.
    pub(super) fn admit(&mut self, index: u32, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        let session = &mut self.clients[index as usize];
        if session.owed() >= self.settings.pipeline_depth {
            return Err(Pause::Depth);
        }
        if session.barrier.is_some() {
            self.behind_barrier(index)?;
        }
        let Some(command) = command::lookup(spans[0].of(frame)) else {
            if is_http(spans[0].of(frame)) {
                self.protocol_error(index, ProtocolError::Http);
                return Ok(());
            }
            if !self.clients[index as usize].modes.is_plain()
                && let Some(taken) = self.unknown_in_mode(index, None, frame, spans)
            {
                return taken;
            }
            if self.is_for_operators(index, spans[0].of(frame)) {
                return self.call_operators(index, frame, spans);
            }
            return self.unknown(index, frame, spans);
        };
        let command = match spans.get(1) {
            Some(sub) if !command.subs.is_empty() => match command::lookup_sub(command, sub.of(frame)) {
                Some(sub) => sub,
                None => return self.unknown_sub(index, command, frame, spans),
            },
            _ => command,
        };
        let session = &mut self.clients[index as usize];
        session.last_command = Some(command);
        if !session.modes.is_plain()
            && let Some(taken) = self.in_mode(index, command, frame, spans)
        {
            self.counters.requests += u64::from(taken.is_ok());
            return taken;
        }
        let taken = match spans.get(1) {
            Some(key) if command.has_one_key => self.send_single(index, Slot::of(key.of(frame)), frame, false),
            _ => self.carry_out(index, command, frame, spans),
        };
        if taken.is_ok() {
            self.counters.requests += 1;
        }
        taken
    }

    /// A subcommand that the table does not hold: the server says itself what is wrong with it. One without a table of
    /// subcommands takes argument 2 for the key first, and only tells the slot's owner what it thinks of the rest.
    fn unknown_sub(&mut self, index: u32, container: &'static Command, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        if !self.clients[index as usize].modes.is_plain()
            && let Some(taken) = self.unknown_in_mode(index, Some(container), frame, spans)
        {
            return taken;
        }
        if self.clients[index as usize].modes.has(Modes::SUBSCRIBED)
            && self.persona().is_some_and(|persona| !has_subcommands(persona))
            && let Some(refused) = self.refuse_while_subscribed(index, container, frame, spans)
        {
            return refused;
        }
        if container.class == Class::Local(Local::ClusterRefused) {
            if self.clients[index as usize].modes.has(Modes::TRANSACTION) {
                return self.enqueue_unknown_cluster_sub(index, frame, spans[1].of(frame));
            }
            self.unknown_cluster_sub(index, spans[1].of(frame));
            return Ok(());
        }
        if self.clients[index as usize].modes.has(Modes::TRANSACTION) {
            return match spans.get(2) {
                _ if self.persona().is_some_and(has_subcommands) => self.enqueue_unknown(index, frame),
                key => self.enqueue_learned(index, frame, key.map(|key| key.of(frame)).as_slice()),
            };
        }
        match spans.get(2) {
            Some(key) if self.persona().is_some_and(|persona| !has_subcommands(persona)) => {
                self.send_single(index, Slot::of(key.of(frame)), frame, false)
            }
            _ => self.send_any(index, frame),
        }
    }

    /// Everything that is not one plain key.
    pub(super) fn carry_out(&mut self, index: u32, command: &'static Command, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        if matches!(command.class, Class::Blocking | Class::Transaction(_))
            && command.accepts(spans.len())
            && let Some(taken) = self.ask_permission(index, command, frame)
        {
            return taken;
        }
        match command.class {
            Class::Keyed => self.keyed(index, command, frame, spans),
            Class::Split(kind) => self.split(index, kind, frame, spans),
            Class::AllMasters(fan) | Class::AllNodes(fan) => self.fan_out(index, command, fan, frame, spans),
            Class::AnyNode => self.any_node(index, command, frame, spans),
            Class::ScanCursor => self.scan(index, frame, spans),
            Class::Local(local) => self.local(index, command, local, frame, spans),
            Class::Container => self.send_any(index, frame),
            Class::Blocking => self.blocking(index, command, frame, spans),
            Class::Transaction(kind) => self.transaction(index, command, kind, frame, spans),
            Class::PubSub(which) => self.pubsub(index, command, which, frame, spans),
            Class::Blocked(reason) => self.refused_by_default(index, command, reason, frame, spans),
        }
    }

    pub(super) fn keyed(&mut self, index: u32, command: &'static Command, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        if command::blocks(command, frame, spans) {
            return self.blocking(index, command, frame, spans);
        }
        if let ("COPY", [_, _, _, option, database, ..]) = (command.name, spans)
            && option.of(frame).eq_ignore_ascii_case(b"DB")
            && database.of(frame) != b"0"
        {
            self.reply_now(index, select(database.of(frame)));
            return Ok(());
        }
        if command.flags.is_pubsub()
            && let [_, channel, _] = spans
            && let Some(taken) = self.publish_sharded(index, frame, channel.of(frame))
        {
            return taken;
        }
        let mut keys = std::mem::take(&mut self.keys);
        keys.clear();
        let found = command::keys(command, frame, spans, &mut keys);
        let slots = found.ok().and_then(|()| keys.split_first()).map(|(first, others)| {
            let slot = Slot::of(spans[*first as usize].of(frame));
            let stray = others.iter().find(|key| Slot::of(spans[**key as usize].of(frame)) != slot);
            (slot, stray.is_some(), !others.is_empty())
        });
        self.keys = keys;
        if command.flags.is_script() {
            self.remember_script(frame, spans);
        }
        match slots {
            Some((_, true, _)) => {
                self.reply_now(index, b"-CROSSSLOT Keys in request don't hash to the same slot\r\n");
                Ok(())
            }
            Some((slot, false, many)) => self.send_single(index, slot, frame, many),
            None => self.send_ordered(index, Target::Any(self.any_slot(index)), frame),
        }
    }

    fn any_node(&mut self, index: u32, command: &'static Command, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        if command.name.starts_with("ACL|") && self.refuses_acl(index, command) {
            return Ok(());
        }
        match command.name {
            // Messages of one channel keep their order when they take one way.
            "PUBLISH" if spans.len() == 3 => self.publish(index, frame, spans[1].of(frame)),
            "CONFIG|GET" if spans.len() > 2 => self.one_part(index, frame, super::merge::Job::ConfigGet),
            "COMMAND" if spans.len() == 1 => self.one_part(index, frame, super::merge::Job::CommandList { count_only: false }),
            "COMMAND|LIST" => self.one_part(index, frame, super::merge::Job::CommandNames),
            "COMMAND|COUNT" if spans.len() == 2 => self.count_commands(index),
            _ => self.send_any(index, frame),
        }
    }

    pub(super) fn local(
        &mut self,
        index: u32,
        command: &'static Command,
        local: Local,
        frame: &[u8],
        spans: &[Span],
    ) -> Result<(), Pause> {
        if command.accepts(spans.len())
            && let Some(taken) = self.ask_permission(index, command, frame)
        {
            return taken;
        }
        let arguments: Vec<&[u8]> = spans.iter().map(|span| span.of(frame)).collect();
        self.answer_locally(index, command, local, &arguments, frame)
    }
}

/// Makes room for more of a cut request: all of it once much of it is here, else as the vector grows by itself.
fn reserve(input: &mut Vec<u8>, needed: usize, more: usize) {
    if input.len() >= RESERVE_WHOLE_FROM && needed > input.capacity() {
        input.reserve_exact(needed - input.len());
    } else {
        input.reserve(more);
    }
}
