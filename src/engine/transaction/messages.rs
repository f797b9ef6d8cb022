//! Messages of a transaction: PUBLISH and SPUBLISH between MULTI and EXEC.
//!
//! They go out by themselves when the commands are carried out, to the node where their listeners are counted. Nobody sees the inside
//! of an EXEC, so nobody can tell. Inside of the unit their count would be that of another node, and Valkey 9.1 does not look whether
//! the keys of a transaction with a message are there: on a slot that is on the move it would make a key a second time.

use crate::resp::{View, encode, view};

use super::super::{Engine, merge::Job, pubsub::Receivers};

impl Engine {
    /// Sends all of them at once: those of one channel go one way and keep their order, as outside of transactions.
    pub(super) fn message_stage(&mut self, merge: u32) {
        let Job::Exec(job) = &self.merges[merge as usize].job else { return };
        let messages = job.answered..job.groups.len();
        for place in messages {
            let Job::Exec(job) = &self.merges[merge as usize].job else { return };
            let frame = job.queued.frame(job.groups[place].pieces[0].item).to_vec();
            let (target, receivers) = self.message_target(&frame);
            if let Job::Exec(job) = &mut self.merges[merge as usize].job {
                job.groups[place].message = Some(receivers);
            }
            self.add_part(merge, target, 0, (0, 0), |out| out.extend_from_slice(&frame));
        }
    }
}

/// A count as a standalone server would give it; any other reply as it is.
pub(super) fn counted(receivers: Receivers, reply: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match view(reply) {
        Some(View::Integer(count)) => encode::integer(&mut out, receivers.correct(count)),
        _ => out.extend_from_slice(reply),
    }
    out
}
