//! CLIENT PAUSE: for a while the clients' requests wait, all of them or only writes.
//!
//! It costs nothing while nobody pauses: as long as it lasts, every session has a mode for it, which `in_mode` looks at.

use crate::{command::Command, resp::Span};

use super::{
    Engine, Timer,
    ids::{Micros, NONE},
    local::strict_integer,
    modes::Modes,
    orders::Order,
    session::Pause,
    since::{has_subcommands, is_valkey},
};

/// A pause that is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientPause {
    until: Micros,
    writes_only: bool,
}

/// Commands that are no writes and may reach replicas all the same: in a pause of writes they wait too.
const MAY_REPLICATE: [&str; 6] = ["EVAL", "EVALSHA", "FCALL", "PFCOUNT", "PUBLISH", "SPUBLISH"];

impl ClientPause {
    fn mode(self) -> Modes {
        if self.writes_only { Modes::PAUSED_WRITES } else { Modes::PAUSED }
    }
}

impl Engine {
    /// CLIENT PAUSE ms [WRITE|ALL]
    pub(super) fn client_pause(&mut self, index: u32, arguments: &[&[u8]]) -> Result<(), Pause> {
        let valkey = self.persona().is_some_and(is_valkey);
        match parse(arguments, valkey, self.persona().is_some_and(has_subcommands)) {
            Ok(order) => self.order(index, order),
            Err(error) => self.complain(index, error),
        }
    }

    /// Begins a pause, or adds to the one that is on: it lasts as long as the longer of both and holds what the stricter holds.
    pub(super) fn pause_clients(&mut self, for_us: Micros, writes_only: bool) {
        let known = self.client_pause.unwrap_or(ClientPause { until: 0, writes_only: true });
        let until = known.until.max(self.now.saturating_add(for_us));
        let pause = ClientPause { until, writes_only: writes_only && known.writes_only };
        self.client_pause = Some(pause);
        for (_, session) in self.clients.iter_mut() {
            session.modes.set(pause.mode(), true);
        }
        self.timers.push(Timer { at: until, client: NONE });
    }

    pub(super) fn unpause_clients(&mut self) {
        if self.client_pause.take().is_none() {
            return;
        }
        let mut held = Vec::new();
        for (index, session) in self.clients.iter_mut() {
            session.modes.set(Modes::PAUSED, false);
            session.modes.set(Modes::PAUSED_WRITES, false);
            if session.pause == Some(Pause::Client) {
                held.push(index as u32);
            }
        }
        for client in held {
            self.resume_later(client);
        }
    }

    pub(super) fn end_due_pause(&mut self) {
        if self.client_pause.is_some_and(|pause| pause.until <= self.now) {
            self.unpause_clients();
        }
    }

    /// The mode that a client which comes now begins in.
    pub(super) fn pause_mode(&self) -> Modes {
        self.client_pause.map_or(Modes::default(), ClientPause::mode)
    }

    /// Whether a request waits for the end of the pause. What is wrong with its form is told at once.
    pub(super) fn is_held_by_pause(&self, modes: Modes, command: &Command, frame: &[u8], spans: &[Span]) -> bool {
        if !command.accepts(spans.len()) {
            return false;
        }
        modes.has(Modes::PAUSED) || (modes.has(Modes::PAUSED_WRITES) && self.may_replicate(command, frame, spans))
    }

    /// Whether it writes, or may reach replicas in another way.
    pub(super) fn may_replicate(&self, command: &Command, frame: &[u8], spans: &[Span]) -> bool {
        let knows_script_flags = self.persona().is_some_and(has_subcommands);
        match command.name {
            // A script of 7.0 may say of itself that it writes nothing.
            "EVAL" if knows_script_flags => !only_reads(spans[1].of(frame)),
            name if name.starts_with("SCRIPT|") => !knows_script_flags,
            name => command.flags.is_write() || MAY_REPLICATE.contains(&name),
        }
    }
}

/// Whether a script's first line declares it: `#!lua flags=no-writes,allow-stale`.
fn only_reads(body: &[u8]) -> bool {
    let Some(line) = body.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next()) else { return false };
    let flags = line.split(|byte| *byte == b' ').find_map(|word| word.strip_prefix(b"flags="));
    flags.is_some_and(|flags| flags.split(|byte| *byte == b',').any(|flag| flag == b"no-writes"))
}

fn parse(arguments: &[&[u8]], ignores_more: bool, has_subcommands: bool) -> Result<Order, &'static str> {
    let (time, mode) = match arguments {
        [time] => (*time, &b"ALL"[..]),
        [time, mode] => (*time, *mode),
        [time, mode, ..] if ignores_more => (*time, *mode),
        _ if has_subcommands => return Err("ERR unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP."),
        _ => return Err("ERR Unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP."),
    };
    let writes_only = match mode.to_ascii_uppercase().as_slice() {
        b"WRITE" => true,
        b"ALL" => false,
        _ => return Err("ERR CLIENT PAUSE mode must be WRITE or ALL"),
    };
    match strict_integer(time) {
        None => Err("ERR timeout is not an integer or out of range"),
        Some(..0) => Err("ERR timeout is negative"),
        Some(millis) => Ok(Order::Pause { for_us: (millis as u64).saturating_mul(1000), writes_only }),
    }
}
