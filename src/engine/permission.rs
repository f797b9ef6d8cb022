//! Whether a user may run what the proxy carries out itself: a node is asked by a request of the same command that changes nothing.
//!
//! The answer holds until the next sweep, for a second at most. Of the default user it is asked only once a node has refused it
//! something, and where other clients are concerned.

use crate::command::{Class, Command, Local};

use super::{
    Engine,
    fan::asks_any,
    local::NOBODYS_ADDRESS,
    merge::{Job, Merge},
    modes::Modes,
    session::Pause,
    settings::Identity,
};

/// The question for a command: its answer does not matter unless it is a refusal, and it leaves no trace on a connection that others
/// share. `None`: everybody may, or a node is asked anyway.
fn question(command: &Command) -> Option<&'static [&'static [u8]]> {
    let local = match command.class {
        Class::Local(local) => local,
        _ => return question_beyond_local(command),
    };
    Some(match local {
        Local::Ping => &[b"PING"],
        Local::Echo => &[b"ECHO", b""],
        Local::Select => &[b"SELECT", b"0"],
        Local::Role => &[b"ROLE"],
        Local::ClientCaching => &[b"CLIENT", b"CACHING", b"?"],
        Local::ClientCapa => &[b"CLIENT", b"CAPA", b"?"],
        Local::ClientGetname => &[b"CLIENT", b"GETNAME"],
        Local::ClientGetredir => &[b"CLIENT", b"GETREDIR"],
        Local::ClientId => &[b"CLIENT", b"ID"],
        Local::ClientImportSource => &[b"CLIENT", b"IMPORT-SOURCE", b"?"],
        Local::ClientInfo => &[b"CLIENT", b"INFO"],
        // To 6.2 the id 0 would be everybody.
        Local::ClientKill => &[b"CLIENT", b"KILL", b"ADDR", NOBODYS_ADDRESS],
        Local::ClientList => &[b"CLIENT", b"LIST", b"ID", b"0"],
        Local::ClientNoEvict => &[b"CLIENT", b"NO-EVICT", b"?"],
        Local::ClientNoTouch => &[b"CLIENT", b"NO-TOUCH", b"?"],
        Local::ClientPause => &[b"CLIENT", b"PAUSE", b"?"],
        Local::ClientReply => &[b"CLIENT", b"REPLY", b"?"],
        Local::ClientSetinfo => &[b"CLIENT", b"SETINFO", b"?", b""],
        Local::ClientSetname => &[b"CLIENT", b"SETNAME", b""],
        Local::ClientTracking => &[b"CLIENT", b"TRACKING", b"?"],
        Local::ClientTrackinginfo => &[b"CLIENT", b"TRACKINGINFO"],
        Local::ClientUnblock => &[b"CLIENT", b"UNBLOCK", b"0"],
        // It takes no argument that could be wrong.
        Local::ClientUnpause => &[b"CLIENT", b"UNPAUSE"],
        Local::AclWhoami
        | Local::Auth
        | Local::ClientHelp
        | Local::ClusterRefused
        | Local::Hello
        | Local::Monitor
        | Local::Move
        | Local::Quit
        | Local::Reset
        | Local::Swapdb => return None,
    })
}

/// As `question`, for what else is answered without a node where nothing is queued, watched or written.
fn question_beyond_local(command: &Command) -> Option<&'static [&'static [u8]]> {
    Some(match command.name {
        "DISCARD" => &[b"DISCARD"],
        "EXEC" => &[b"EXEC"],
        "UNWATCH" => &[b"UNWATCH"],
        "WAIT" => &[b"WAIT", b"0", b"0"],
        "WAITAOF" => &[b"WAITAOF", b"0", b"0", b"0"],
        _ => return None,
    })
}

/// Whether a command reaches other clients.
fn reaches_others(command: &Command) -> bool {
    matches!(
        command.class,
        Class::Local(Local::ClientKill | Local::ClientList | Local::ClientPause | Local::ClientUnblock | Local::ClientUnpause)
    )
}

impl Engine {
    /// Asks whether the client's user may run a command that the proxy carries out, if that is to be asked.
    pub(super) fn ask_permission(&mut self, index: u32, command: &'static Command, frame: &[u8]) -> Option<Result<(), Pause>> {
        if self.table.map.is_none() && self.is_passthrough() && reaches_others(command) {
            // Nobody knows yet whether this is a stranger.
            return Some(self.await_map(index, frame));
        }
        let user = self.clients[index as usize].user;
        let free = !self.users.is_restricted(user) && !reaches_others(command);
        if free
            // What EXEC carries out has nothing to wait for; what reaches other clients is not among it.
            || self.captured.is_some()
            || self.clients[index as usize].modes.has(Modes::TRANSACTION)
            || matches!(self.settings.identity, Identity::Proxy(_))
            || self.table.map.is_none()
            || self.users.is_permitted(user, command.id)
        {
            return None;
        }
        let question = asks_any(question(command)?);
        Some(self.one_part(index, &question, Job::Permit { frame: frame.to_vec(), command }))
    }

    /// The node has answered. False: the command is carried out.
    pub(super) fn permitted(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let Job::Permit { frame, command } = std::mem::replace(&mut merge.job, Job::Sum) else { return true };
        let reply = merge.reply(0);
        let refusals = [&b"-NOPERM"[..], b"-EXECABORT", b"-NOAUTH", b"-WRONGPASS", b"-LOADING", b"-ERR proxy:"];
        if refusals.iter().any(|code| reply.starts_with(code)) {
            out.extend_from_slice(reply);
            return true;
        }
        self.users.permit(self.clients[merge.client as usize].user, command.id);
        merge.next_stage(Job::Again { frame });
        false
    }
}
