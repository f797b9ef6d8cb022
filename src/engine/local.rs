//! Commands that the proxy answers itself: the connection's own state, and what only a standalone server would say.

use crate::{
    cluster::{Persona, Slot},
    command::{Command, Local},
    resp::encode,
};

use super::{
    Engine,
    client_filter::{self, ClientFilter, Grammar},
    face::Face,
    fan::null,
    modes::Modes,
    orders::Order,
    pubsub::subscribed_pong,
    session::{Labels, Pause, ReplyMode},
    since::{has_subcommands, is_valkey, knows},
};

pub(super) const OK: &[u8] = b"+OK\r\n";
pub(super) const BAD_NAME: &[u8] = b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n";
pub(super) const CLUSTER_DISABLED: &[u8] = b"-ERR This instance has cluster support disabled\r\n";
pub(super) const SYNTAX: &[u8] = b"-ERR syntax error\r\n";
const NOT_AN_INTEGER: &[u8] = b"-ERR value is not an integer or out of range\r\n";
/// Out of range, so that no client of any node has it.
pub(super) const NOBODYS_ADDRESS: &[u8] = b"256.0.0.0:0";
/// Error texts show so many bytes of a name.
const SHOWN_LEN_MAX: usize = 128;
const NO_SUCH_DB: &[u8] = b"-ERR DB index is out of range\r\n";

impl Engine {
    /// Answers a command whose row says that the proxy does. `arguments` begin with the name, for subcommands with the container's.
    pub(super) fn answer_locally(
        &mut self,
        index: u32,
        command: &'static Command,
        local: Local,
        arguments: &[&[u8]],
        frame: &[u8],
    ) -> Result<(), Pause> {
        if local == Local::ClusterRefused {
            return self.cluster_refused(index, command, arguments, frame);
        }
        if !command.accepts(arguments.len()) || self.is_unknown_here(command) {
            // Every server would refuse it for its arity, or this one does not know it: the words are its own.
            return self.send_any(index, frame);
        }
        let proto = self.clients[index as usize].proto;
        let reply: Vec<u8> = match local {
            Local::Ping if arguments.len() <= 2 && self.clients[index as usize].modes.has(Modes::SUBSCRIBED) => {
                subscribed_pong(arguments.get(1).copied().unwrap_or_default())
            }
            Local::Ping => match arguments {
                [_] => b"+PONG\r\n".to_vec(),
                [_, text] => bulk(text),
                _ => return self.send_any(index, frame),
            },
            Local::Echo => bulk(arguments[1]),
            Local::Hello => return self.hello(index, arguments, frame),
            Local::Auth => return self.authenticate(index, arguments, frame),
            Local::AclWhoami => return self.who_am_i(index, frame),
            Local::Select => select(arguments[1]).to_vec(),
            Local::Swapdb => swapdb(arguments).to_vec(),
            Local::Move => match arguments[2] {
                b"0" => b"-ERR source and destination objects are the same\r\n".to_vec(),
                database => select(database).to_vec(),
            },
            Local::Quit => {
                self.end_monitor(index);
                self.reply_now(index, OK);
                self.end_after_replies(index);
                return Ok(());
            }
            Local::Reset => return self.reset(index),
            Local::Role => role(),
            Local::Monitor => return self.monitor(index, frame),
            Local::ClusterRefused => CLUSTER_DISABLED.to_vec(),
            Local::ClientId => integer(self.clients[index as usize].public_id as i64),
            Local::ClientGetname => match self.clients[index as usize].labels.as_ref().filter(|labels| !labels.name.is_empty()) {
                Some(labels) => bulk(&labels.name),
                None => null(proto),
            },
            Local::ClientSetname => self.set_name(index, arguments[2]),
            Local::ClientSetinfo => self.set_info(index, arguments[2], arguments[3]),
            Local::ClientInfo => {
                let mut out = Vec::new();
                encode::verbatim(&mut out, proto, self.client_line(index));
                out
            }
            Local::ClientList => return self.client_list(index, &arguments[2..]),
            Local::ClientReply => return self.client_reply(index, arguments[2]),
            Local::ClientNoEvict | Local::ClientNoTouch => self.no_evict_or_touch(index, local, arguments[2]),
            Local::ClientCapa => {
                self.labels(index).redirect |=
                    arguments[2..].iter().any(|capability| capability.eq_ignore_ascii_case(b"redirect"));
                OK.to_vec()
            }
            Local::ClientHelp => return self.send_any(index, frame),
            Local::ClientGetredir => integer(self.tracking_shown(index).3),
            Local::ClientTrackinginfo => self.tracking_info(index, proto),
            Local::ClientCaching => return self.client_caching(index, arguments[2]),
            Local::ClientTracking => return self.client_tracking(index, &arguments[2..], frame),
            Local::ClientUnblock => return self.client_unblock(index, &arguments[2..]),
            Local::ClientKill => return self.client_kill(index, &arguments[2..]),
            Local::ClientPause => return self.client_pause(index, &arguments[2..]),
            Local::ClientUnpause => return self.order(index, Order::Unpause),
            // No standalone server is in import mode, unless it is told to be.
            Local::ClientImportSource if arguments[2].eq_ignore_ascii_case(b"OFF") => OK.to_vec(),
            Local::ClientImportSource => b"-ERR Server is not in import mode\r\n".to_vec(),
        };
        self.reply_now(index, &reply);
        Ok(())
    }

    /// Who the servers behind are, if one was asked yet.
    pub(super) fn persona(&self) -> Option<&Persona> {
        self.table.map.as_ref().map(|map| &map.persona)
    }

    pub(super) fn is_unknown_here(&self, command: &Command) -> bool {
        self.persona().is_some_and(|persona| !knows(persona, command.name))
    }

    /// CLUSTER and the like, as a server without a cluster answers them.
    fn cluster_refused(&mut self, index: u32, command: &'static Command, arguments: &[&[u8]], frame: &[u8]) -> Result<(), Pause> {
        let is_sub = command.name.starts_with("CLUSTER|");
        if self.clients[index as usize].face == Face::Cluster
            && command.name != "CLUSTERSCAN"
            && command.accepts(arguments.len())
            && !self.is_unknown_here(command)
            && (is_sub || command.name != "CLUSTER")
        {
            return self.as_cluster(index, command, arguments, frame);
        }
        if is_sub && self.persona().is_some_and(|persona| !has_subcommands(persona)) {
            self.reply_now(index, CLUSTER_DISABLED);
        } else if self.is_unknown_here(command) && is_sub {
            self.unknown_cluster_sub(index, arguments[1]);
        } else if self.is_unknown_here(command) || !command.accepts(arguments.len()) {
            return self.send_any(index, frame);
        } else {
            let reply = cluster_answer(self.persona(), command, arguments);
            self.reply_now(index, &reply);
        }
        Ok(())
    }

    /// A subcommand of CLUSTER that the server behind, or the table, does not hold. It never goes to a node: one that
    /// is newer than its neighbours might know it, and do it.
    pub(super) fn unknown_cluster_sub(&mut self, index: u32, sub: &[u8]) {
        if self.persona().is_none_or(|persona| !has_subcommands(persona)) {
            return self.reply_now(index, CLUSTER_DISABLED);
        }
        let mut reply = b"-ERR unknown subcommand '".to_vec();
        let shown = sub.iter().take(SHOWN_LEN_MAX).take_while(|byte| **byte != 0);
        reply.extend(shown.map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
        reply.extend_from_slice(b"'. Try CLUSTER HELP.\r\n");
        self.reply_now(index, &reply);
    }

    pub(super) fn labels(&mut self, index: u32) -> &mut Labels {
        self.clients[index as usize].labels.get_or_insert_default()
    }

    fn set_name(&mut self, index: u32, name: &[u8]) -> Vec<u8> {
        if !is_plain(name) {
            return BAD_NAME.to_vec();
        }
        self.labels(index).name = name.to_vec();
        OK.to_vec()
    }

    fn set_info(&mut self, index: u32, attribute: &[u8], value: &[u8]) -> Vec<u8> {
        let library = attribute.eq_ignore_ascii_case(b"LIB-NAME");
        if !library && !attribute.eq_ignore_ascii_case(b"LIB-VER") {
            let attribute = String::from_utf8_lossy(attribute).replace(['\r', '\n'], " ");
            return format!("-ERR Unrecognized option '{attribute}'\r\n").into_bytes();
        }
        if !is_plain(value) {
            // The name is one of the two that are ASCII, in the client's own spelling.
            let name = String::from_utf8_lossy(attribute);
            return format!("-ERR {name} cannot contain spaces, newlines or special characters.\r\n").into_bytes();
        }
        let labels = self.labels(index);
        *(if library { &mut labels.lib_name } else { &mut labels.lib_version }) = value.to_vec();
        OK.to_vec()
    }

    fn no_evict_or_touch(&mut self, index: u32, local: Local, value: &[u8]) -> Vec<u8> {
        let on = match value.to_ascii_uppercase().as_slice() {
            b"ON" => true,
            b"OFF" => false,
            _ => return SYNTAX.to_vec(),
        };
        let labels = self.labels(index);
        *(if local == Local::ClientNoEvict { &mut labels.no_evict } else { &mut labels.no_touch }) = on;
        OK.to_vec()
    }

    fn client_reply(&mut self, index: u32, mode: &[u8]) -> Result<(), Pause> {
        let session = &mut self.clients[index as usize];
        match mode.to_ascii_uppercase().as_slice() {
            b"ON" => {
                session.reply_mode = ReplyMode::On;
                self.reply_now(index, OK);
            }
            b"OFF" => session.reply_mode = ReplyMode::Off,
            b"SKIP" if session.reply_mode == ReplyMode::Off => {}
            b"SKIP" => session.reply_mode = ReplyMode::SkipNext,
            _ => self.reply_now(index, SYNTAX),
        }
        Ok(())
    }

    /// CLIENT LIST with its filters.
    fn client_list(&mut self, index: u32, options: &[&[u8]]) -> Result<(), Pause> {
        let asker = self.clients[index as usize].public_id;
        match client_filter::parse(Grammar::of_list(self.persona()), options, asker, false) {
            Ok(filter) => self.order_of(index, &filter.clone(), Order::List(filter)),
            Err(error) => self.complain(index, &error),
        }
    }

    /// CLIENT KILL addr:port, or with filters.
    fn client_kill(&mut self, index: u32, options: &[&[u8]]) -> Result<(), Pause> {
        let by = self.clients[index as usize].public_id;
        if let [addr] = options {
            return self.order(index, Order::Kill { filter: ClientFilter::of_address(addr), by, counts: false });
        }
        match client_filter::parse(Grammar::of_kill(self.persona()), options, by, true) {
            Ok(filter) => self.order_of(index, &filter.clone(), Order::Kill { filter, by, counts: true }),
            Err(error) => self.complain(index, &error),
        }
    }

    /// Only the cluster knows its users: a node is asked to kill those of this one at an address that nobody can have.
    fn order_of(&mut self, index: u32, filter: &ClientFilter, order: Order) -> Result<(), Pause> {
        match filter.user() {
            Some(user) => self.order_if(index, &[b"CLIENT", b"KILL", b"USER", user, b"LADDR", NOBODYS_ADDRESS], order),
            None => self.order(index, order),
        }
    }

    pub(super) fn complain(&mut self, index: u32, error: &str) -> Result<(), Pause> {
        let mut reply = Vec::new();
        encode::error(&mut reply, error);
        self.reply_now(index, &reply);
        Ok(())
    }
}

/// What a server without a cluster says to a command that is well-formed and known to it.
fn cluster_answer(persona: Option<&Persona>, command: &Command, arguments: &[&[u8]]) -> Vec<u8> {
    let version = persona.map(Persona::version_numbers);
    let valkey = persona.is_some_and(is_valkey);
    match command.name {
        "READONLY" | "READWRITE" if valkey && version >= Some((9, 0, 0)) => OK.to_vec(),
        // Before 7.0 it only takes a flag away, which was never set.
        "READWRITE" if version.is_some_and(|version| version < (7, 0, 0)) => OK.to_vec(),
        "CLUSTER|KEYSLOT" if valkey && version >= Some((9, 0, 0)) => integer(Slot::of(arguments[2]).get().into()),
        _ => CLUSTER_DISABLED.to_vec(),
    }
}

/// As a standalone server with one database.
pub(super) fn select(database: &[u8]) -> &'static [u8] {
    match strict_integer(database) {
        Some(0) => OK,
        Some(_) => NO_SUCH_DB,
        None => NOT_AN_INTEGER,
    }
}

fn swapdb(arguments: &[&[u8]]) -> &'static [u8] {
    match (strict_integer(arguments[1]), strict_integer(arguments[2])) {
        (None, _) => b"-ERR invalid first DB index\r\n",
        (_, None) => b"-ERR invalid second DB index\r\n",
        (Some(0), Some(0)) => OK,
        _ => NO_SUCH_DB,
    }
}

fn role() -> Vec<u8> {
    let mut out = Vec::new();
    encode::array(&mut out, 3);
    encode::bulk(&mut out, b"master");
    encode::integer(&mut out, 0);
    encode::array(&mut out, 0);
    out
}

/// Names and library labels: printable and without blanks, so that CLIENT LIST stays readable.
pub(super) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// As the servers read integers: no sign but a minus, no leading zeros, no blanks.
pub(super) fn strict_integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

pub(super) fn bulk(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bulk(&mut out, text);
    out
}

pub(super) fn integer(number: i64) -> Vec<u8> {
    format!(":{number}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_database() {
        assert_eq!(select(b"0"), OK);
        for out_of_range in [&b"1"[..], b"-1", b"15"] {
            assert_eq!(select(out_of_range), NO_SUCH_DB);
        }
        for wrong in [&b"x"[..], b"00", b"+0", b" 0", b""] {
            assert_eq!(select(wrong), NOT_AN_INTEGER);
        }
        assert_eq!(swapdb(&[b"SWAPDB", b"0", b"0"]), OK);
        assert_eq!(swapdb(&[b"SWAPDB", b"0", b"1"]), NO_SUCH_DB);
    }
}
