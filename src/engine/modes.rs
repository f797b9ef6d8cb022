//! What a connection is in the middle of, and what it may ask meanwhile: the checks that a server makes before it runs a command.

use crate::{command::Command, resp::Span};

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
        if self.is_held_by_pause(modes, command, frame, spans) {
            return Some(Err(Pause::Client));
        }
        if modes.has(Modes::TRANSACTION) {
            return self.in_transaction(index, command, frame, spans);
        }
        None
    }
}
