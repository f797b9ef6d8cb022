//! What a server says of a command at queueing time: that it does not know it, that it has the wrong number of arguments, that the
//! user may not run it, that it is not allowed there. The texts and the rules differ between versions and users, so the server is
//! asked itself, once for each command and number of arguments: `MULTI, the command, EXEC x`. EXEC with an argument drops the
//! transaction on all servers, so nothing is ever carried out.

use rustc_hash::FxHashSet;

use crate::{
    cluster::Slot,
    command::{Class, Command, Transaction as Kind},
    resp::encode,
};

use super::super::{
    Engine,
    ids::UserId,
    merge::{Job, Merge},
    send::Target,
    session::Pause,
};

/// What was found to be queued by the servers: user, command, number of arguments.
#[derive(Default)]
pub struct Checked(FxHashSet<(UserId, u16, u8)>);

/// No command takes a fixed number of arguments that is higher than this: all longer requests are alike.
const ARGUMENTS_MAX: usize = 16;

/// More than all commands with all numbers of arguments that matter, of a few users.
const CHECKED_MAX: usize = 64 * 1024;

/// What EXEC says when all that came before it was well.
const DROPPED: &[u8] = b"-EXECABORT";

/// How the proxy says that it reached no node.
const OWN_ERRORS: [&[u8]; 2] = [b"-ERR proxy: ", b"-LOADING Keyway "];

impl Checked {
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Engine {
    pub(super) fn is_checked(&self, index: u32, command: &Command, arguments: usize) -> bool {
        let user = self.clients[index as usize].user;
        self.checked.0.contains(&(user, command.id, arguments.min(ARGUMENTS_MAX) as u8))
    }

    /// Asks the slot's owner, or any node, whether it would queue this. The answer is the client's if it is an error.
    pub(super) fn check(
        &mut self,
        index: u32,
        command: Option<&'static Command>,
        frame: &[u8],
        slot: Option<Slot>,
    ) -> Result<(), Pause> {
        self.barrier(index)?;
        let merge = self.owe_merge(index, Job::Check { frame: frame.to_vec(), command });
        let target = slot.map_or(Target::Any(self.any_slot(index)), Target::Slot);
        let begins = command.is_some_and(|command| command.class == Class::Transaction(Kind::Multi)) && !self.queues(index);
        let lead = if begins { 1 } else { 2 };
        self.add_part(merge, target, lead, (0, 0), |out| {
            out.extend_from_slice(super::MULTI);
            if !begins {
                out.extend_from_slice(frame);
            }
            encode::command(out, &[b"EXEC", b"x"]);
        });
        Ok(())
    }

    /// The server's opinion is here. False: the command is taken again.
    pub(in super::super) fn merged_check(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let reply = merge.reply(0).to_vec();
        let Job::Check { frame, command } = &mut merge.job else { return true };
        let (frame, command) = (std::mem::take(frame), *command);
        // A command whose keys are in several slots is split later on, and then refused by none.
        let split = command.is_some_and(|command| matches!(command.class, Class::Split(_))) && reply.starts_with(b"-CROSSSLOT");
        // No node could be asked. What follows must not be carried out one by one for that: EXEC will tell.
        let begins =
            command.is_some_and(|command| command.class == Class::Transaction(Kind::Multi)) && !self.queues(merge.client);
        let unasked = begins && OWN_ERRORS.iter().any(|own| reply.starts_with(own));
        if !reply.starts_with(DROPPED) && !split && !unasked {
            // Before Valkey 9 these two are errors without consequences.
            let harmless = reply.starts_with(b"-ERR MULTI calls can not be nested")
                || reply.starts_with(b"-ERR WATCH inside MULTI is not allowed");
            if !harmless {
                self.spoil(merge.client);
            }
            out.extend_from_slice(&reply);
            return true;
        }
        let nested = |kind| matches!(kind, Kind::Multi | Kind::Watch) && self.queues(merge.client);
        match command {
            Some(command) if !matches!(command.class, Class::Transaction(kind) if nested(kind)) => {
                let arguments = super::super::pump::spans_of(&frame).map_or(0, |spans| spans.len());
                self.note_checked(merge.client, command, arguments);
                merge.next_stage(Job::Again { frame });
                false
            }
            // The table does not hold it and a server does: it has no keys as far as anyone knows.
            _ => {
                self.enqueue_plain(merge.client, &frame);
                out.extend_from_slice(b"+QUEUED\r\n");
                true
            }
        }
    }

    fn note_checked(&mut self, index: u32, command: &Command, arguments: usize) {
        if self.checked.0.len() >= CHECKED_MAX {
            self.checked.clear();
        }
        let user = self.clients[index as usize].user;
        self.checked.0.insert((user, command.id, arguments.min(ARGUMENTS_MAX) as u8));
    }
}
