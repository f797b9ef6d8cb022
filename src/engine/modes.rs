//! What a connection is in the middle of, and what it may ask meanwhile: the checks that a server makes before it runs a command.

use crate::{
    command::{Command, Verdict},
    resp::Span,
};

use super::{Engine, session::Pause};

/// The states of a connection in which not every command is simply carried out. Most connections are in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes(u8);

impl Modes {
    /// It has not authenticated itself, and must.
    pub const LOCKED_OUT: Modes = Modes(1);
    /// Between MULTI and EXEC.
    pub const TRANSACTION: Modes = Modes(1 << 1);
    /// It has subscriptions and speaks RESP2.
    pub const SUBSCRIBED: Modes = Modes(1 << 2);
    /// CLIENT PAUSE holds all that it asks.
    pub const PAUSED: Modes = Modes(1 << 3);
    /// CLIENT PAUSE holds its writes.
    pub const PAUSED_WRITES: Modes = Modes(1 << 4);
    /// It sees what all clients do, and may not touch keys itself.
    pub const MONITORING: Modes = Modes(1 << 5);
    /// The operator refuses some commands.
    pub const POLICED: Modes = Modes(1 << 6);
    /// It has said CLIENT CACHING, which belongs to its next command.
    pub const CACHING: Modes = Modes(1 << 7);

    #[inline]
    pub fn is_plain(self) -> bool {
        self.0 == 0
    }

    pub fn has(self, mode: Modes) -> bool {
        self.0 & mode.0 != 0
    }

    /// Held by CLIENT PAUSE, perhaps only where it writes.
    pub fn is_paused(self) -> bool {
        self.has(Modes::PAUSED) || self.has(Modes::PAUSED_WRITES)
    }

    pub fn set(&mut self, mode: Modes, on: bool) {
        if on { self.0 |= mode.0 } else { self.0 &= !mode.0 }
    }
}

impl Engine {
    /// Looks at a command that the table knows, in the order in which a server does. `None`: it is carried out as ever.
    pub(super) fn in_mode(
        &mut self,
        index: u32,
        command: &'static Command,
        frame: &[u8],
        spans: &[Span],
    ) -> Option<Result<(), Pause>> {
        if self.is_locked_out(index)
            && let Some(taken) = self.answer_stranger(index, command, frame, spans)
        {
            return Some(taken);
        }
        if self.clients[index as usize].modes.has(Modes::POLICED) && self.settings.policy.verdict(command) == Verdict::Denied {
            self.deny(index, &command.lower_name());
            return Some(Ok(()));
        }
        let modes = self.clients[index as usize].modes;
        if modes.has(Modes::SUBSCRIBED)
            && let Some(refused) = self.refuse_while_subscribed(index, command, frame, spans)
        {
            return Some(refused);
        }
        // To a server it is a replica, which no pause holds.
        if modes.has(Modes::MONITORING) {
            return self.refuse_while_monitoring(index, command, frame, spans).then_some(Ok(()));
        }
        let exec_writes = || modes.has(Modes::PAUSED_WRITES) && command.name == "EXEC" && self.queued_may_replicate(index);
        if self.is_held_by_pause(modes, command, frame, spans) || exec_writes() {
            return Some(Err(Pause::Client));
        }
        if modes.has(Modes::CACHING)
            && let Err(pause) = self.lead_with_caching(index, command, frame, spans)
        {
            return Some(Err(pause));
        }
        if modes.has(Modes::TRANSACTION) {
            return self.in_transaction(index, command, frame, spans);
        }
        None
    }

    /// As `in_mode`, for a name or subcommand that the table does not hold; `container` is what the subcommand is one of.
    pub(super) fn unknown_in_mode(
        &mut self,
        index: u32,
        container: Option<&'static Command>,
        frame: &[u8],
        spans: &[Span],
    ) -> Option<Result<(), Pause>> {
        if self.is_locked_out(index) {
            return Some(self.answer_stranger_unknown(index, container.is_some(), frame));
        }
        let name = spans[0].of(frame);
        let policy = &self.settings.policy;
        let verdict = container.map_or_else(|| policy.verdict_on_module(name), |container| policy.verdict(container));
        if verdict == Verdict::Denied {
            self.deny(index, &String::from_utf8_lossy(name).to_ascii_lowercase());
            return Some(Ok(()));
        }
        None
    }

    /// Refuses a command in the operator's name.
    fn deny(&mut self, index: u32, name: &str) {
        self.counters.denied += 1;
        let name = name.replace(['\r', '\n'], " ");
        self.reply_now(index, format!("-ERR proxy: '{name}' is refused by commands.deny\r\n").as_bytes());
    }
}
