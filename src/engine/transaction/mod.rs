//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! The proxy queues: nothing is sent before EXEC, and then `MULTI, …, EXEC` goes as one unit in one write, so that the slot's owner
//! of that moment serves all of it, and what was refused as a whole can be sent again as a whole. What a server would say at
//! queueing time the server says itself, see `check`. Most transactions are of one slot, and their reply is passed on as it comes;
//! those that watch keys, ask for what the proxy answers itself, or span slots are put together in `exec`.

mod check;
mod exec;
mod messages;
mod queue;
mod watch;

#[cfg(test)]
mod tests;

use rustc_hash::FxHashSet;

use crate::{
    cluster::Slot,
    command::{Class, Command, Local, Transaction as Kind},
    resp::{Span, encode},
};

use super::{Engine, ids::LaneId, modes::Modes, session::Pause};

pub(super) use self::{
    check::Checked,
    exec::{ExecJob, LANE_LOST, only_reads},
    queue::Queued,
    watch::WatchJob,
};

const OK: &[u8] = b"+OK\r\n";
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";

/// What becomes of transactions whose keys are in several slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrossSlot {
    /// CROSSSLOT at queueing time.
    #[default]
    Reject,
    /// One MULTI and EXEC for each slot, one result: atomic within each slot only.
    PerSlot,
}

/// What a client has between WATCH or MULTI and EXEC. It stays, empty, when they are over: who made one will make another.
#[derive(Default)]
pub struct Transaction {
    /// Between MULTI and EXEC.
    queued: Option<Queued>,
    /// How many commands are being carried out: their own answers may tell.
    executing: Option<usize>,
    watched: Vec<Watched>,
    /// Hashes of the watched keys.
    keys: FxHashSet<u64>,
}

/// The keys of one slot that are watched, all on one private lane.
#[derive(Debug)]
struct Watched {
    slot: Slot,
    /// One of them, to be named in errors.
    key: Vec<u8>,
    lane: LaneId,
    /// The node serves the slot behind ASKING only.
    asking: bool,
    /// A later WATCH found that the slot is not there any more: EXEC answers null.
    broken: bool,
}

impl Transaction {
    /// How many commands are queued, if MULTI was said: what CLIENT LIST shows.
    pub fn queued(&self) -> Option<usize> {
        self.executing.or(self.queued.as_ref().map(Queued::count))
    }

    /// What is watched cannot be relied on any more.
    pub fn break_watches(&mut self) {
        self.watched.iter_mut().for_each(|watched| watched.broken = true);
    }

    /// How many keys are watched.
    pub fn watched_keys(&self) -> usize {
        self.keys.len()
    }
}

impl Engine {
    /// Between MULTI and EXEC. `None`: the command is carried out at once.
    pub(super) fn in_transaction(
        &mut self,
        index: u32,
        command: &'static Command,
        frame: &[u8],
        spans: &[Span],
    ) -> Option<Result<(), Pause>> {
        let accepted = command.accepts(spans.len());
        match command.class {
            Class::Transaction(Kind::Exec | Kind::Discard) | Class::Local(Local::Quit | Local::Reset) if accepted => None,
            Class::Transaction(Kind::Exec) => {
                self.forget_queued(index);
                let text = b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n";
                Some(self.unwatch(index, text))
            }
            _ => Some(self.enqueue(index, command, frame, spans)),
        }
    }

    /// What the five commands do outside of MULTI; EXEC and DISCARD inside of it, too.
    pub(super) fn transaction(
        &mut self,
        index: u32,
        command: &'static Command,
        kind: Kind,
        frame: &[u8],
        spans: &[Span],
    ) -> Result<(), Pause> {
        if !command.accepts(spans.len()) {
            return self.send_any(index, frame);
        }
        let queues = self.clients[index as usize].modes.has(Modes::TRANSACTION);
        match kind {
            Kind::Multi => self.multi(index, command, frame),
            Kind::Exec if queues => self.exec(index),
            Kind::Discard if queues => {
                self.forget_queued(index);
                self.unwatch(index, OK)
            }
            Kind::Exec => {
                self.reply_now(index, b"-ERR EXEC without MULTI\r\n");
                Ok(())
            }
            Kind::Discard => {
                self.reply_now(index, b"-ERR DISCARD without MULTI\r\n");
                Ok(())
            }
            Kind::Watch => self.watch(index, frame, spans),
            Kind::Unwatch => self.unwatch(index, OK),
        }
    }

    fn multi(&mut self, index: u32, command: &'static Command, frame: &[u8]) -> Result<(), Pause> {
        if !self.is_checked(index, command, 1) {
            return self.check(index, Some(command), frame, None);
        }
        let per_slot = self.settings.cross_slot_transactions == CrossSlot::PerSlot;
        let session = &mut self.clients[index as usize];
        session.modes.set(Modes::TRANSACTION, true);
        let transaction = session.transaction.get_or_insert_default();
        // What is watched binds the transaction to its slot.
        let bound = transaction.watched.first().filter(|_| !per_slot).map(|watched| (watched.slot, watched.key.clone()));
        transaction.queued = Some(Queued::new(bound));
        self.reply_now(index, OK);
        Ok(())
    }

    /// MULTI is over. Answers what was queued.
    fn forget_queued(&mut self, index: u32) -> Option<Queued> {
        let session = &mut self.clients[index as usize];
        session.modes.set(Modes::TRANSACTION, false);
        session.transaction.as_mut()?.queued.take()
    }

    /// RESET, or the client is gone: nothing is queued or watched any more.
    pub(super) fn drop_transaction(&mut self, index: u32) {
        self.forget_queued(index);
        for watched in self.take_watched(index) {
            self.close_watch(watched.lane);
        }
    }
}

/// CROSSSLOT in the server's words, with the two keys and what can be done.
fn cross_slot(first: (Slot, &[u8]), second: (Slot, &[u8]), advice: &str) -> Vec<u8> {
    let show = |key: &[u8]| {
        const SHOWN_LEN_MAX: usize = 64;
        let cut = if key.len() > SHOWN_LEN_MAX { "…" } else { "" };
        format!("'{}{cut}'", key[..key.len().min(SHOWN_LEN_MAX)].escape_ascii())
    };
    let mut out = Vec::new();
    let (first_slot, second_slot) = (first.0.get(), second.0.get());
    let text = format!(
        "CROSSSLOT Keys in request don't hash to the same slot (proxy: key {} in slot {first_slot} and key {} in slot {second_slot}; {advice})",
        show(first.1),
        show(second.1)
    );
    encode::error(&mut out, text);
    out
}
