//! CLIENT LIST and CLIENT INFO: one line a client, with the fields of the server that is behind.

use crate::{cluster::Persona, command::Command, resp::Proto};

use super::{
    Engine,
    client_filter::ClientFilter,
    modes::Modes,
    pubsub::Kind,
    session::{Ending, Session},
    since::has_subcommands,
    transaction::Transaction,
};

/// One client's line, with its id to order it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLine {
    pub id: u64,
    pub text: String,
}

impl Engine {
    /// The lines of this worker's clients that the filter lets through.
    pub(super) fn list_clients(&self, filter: &ClientFilter) -> Vec<ClientLine> {
        let wanted = |index: u32, session: &Session| session.ending != Ending::Gone && self.matches(filter, index, session);
        let sessions = self.clients.iter().filter(|(index, session)| wanted(*index as u32, session));
        sessions.map(|(index, session)| ClientLine { id: session.public_id, text: self.client_line(index as u32) }).collect()
    }

    /// What TYPE calls it.
    pub(super) fn kind_of(&self, session: &Session) -> &'static str {
        if session.subscribed.as_ref().is_some_and(|own| own.is_subscriber()) { "pubsub" } else { "normal" }
    }

    /// Its flags, a letter each, as CLIENT LIST shows them.
    pub(super) fn flags_of(&self, index: u32, session: &Session) -> String {
        let labels = session.labels.as_deref();
        let (tracks, broken, broadcasts, _) = self.tracking_shown(index);
        let flags = [
            (session.modes.has(Modes::MONITORING), 'O'),
            (session.subscribed.as_ref().is_some_and(|own| own.is_subscriber()), 'P'),
            (session.transaction.as_deref().and_then(Transaction::queued).is_some(), 'x'),
            (self.is_blocked(index), 'b'),
            (tracks, 't'),
            (broken, 'R'),
            (broadcasts, 'B'),
            (labels.is_some_and(|labels| labels.no_evict), 'e'),
            (labels.is_some_and(|labels| labels.no_touch), 'T'),
        ];
        let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect();
        if flags.is_empty() { "N".into() } else { flags }
    }

    pub(super) fn client_line(&self, index: u32) -> String {
        let session = &self.clients[index as usize];
        let default = Persona::default();
        let persona = self.table.map.as_ref().map_or(&default, |map| &map.persona);
        let (valkey, version) = (persona.server == "valkey", persona.version_numbers());
        let labels = session.labels.as_deref().cloned().unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let seconds = |since: u64| self.now.saturating_sub(since) / 1_000_000;
        let active = session.active.as_deref();
        let (input, output) = active.map_or((0, 0), |active| (active.input.len(), active.output_held()));
        let count = |kind| session.subscribed.as_ref().map_or(0, |own| own.count(kind));
        let subscriptions = [Kind::Channel, Kind::Pattern, Kind::Shard].map(count);
        let transaction = session.transaction.as_deref();
        let queued = transaction.and_then(Transaction::queued);
        let flags = self.flags_of(index, session);
        let mut line = format!(
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={flags}",
            session.public_id,
            session.peer,
            session.local,
            text(&labels.name),
            seconds(session.opened),
            seconds(session.last_active),
        );
        if valkey {
            line.push_str(if labels.redirect { " capa=r" } else { " capa=" });
        }
        line.push_str(&format!(" db=0 sub={} psub={}", subscriptions[0], subscriptions[1]));
        if version >= (7, 0, 0) {
            line.push_str(&format!(" ssub={}", subscriptions[2]));
        }
        // Valkey makes a client's state of transactions when it is needed first, and then counts what is in it.
        let empty = if valkey && version >= (9, 0, 0) && transaction.is_some() { 0 } else { -1 };
        line.push_str(&format!(" multi={}", queued.map_or(empty, |queued| queued as i64)));
        if version >= (7, 4, 0) {
            line.push_str(&format!(" watch={}", transaction.map_or(0, Transaction::watched_keys)));
        }
        line.push_str(&format!(" qbuf={input} qbuf-free=0 argv-mem=0"));
        if version >= (7, 0, 0) {
            line.push_str(" multi-mem=0 rbs=0 rbp=0");
        }
        line.push_str(&format!(
            " obl=0 oll=0 omem={output} tot-mem={} events=r cmd={} user={}",
            input + output,
            session.last_command.map_or_else(|| "NULL".into(), |command| command_shown(command, persona)),
            text(&self.user_name(session)),
        ));
        if version >= (6, 2, 0) {
            line.push_str(&format!(" redir={}", self.tracking_shown(index).3));
        }
        if version >= (7, 0, 0) {
            line.push_str(if session.proto == Proto::Resp3 { " resp=3" } else { " resp=2" });
        }
        if version >= (7, 2, 0) {
            line.push_str(&format!(" lib-name={} lib-ver={}", text(&labels.lib_name), text(&labels.lib_version)));
        }
        if version >= (8, 0, 0) {
            if !valkey {
                line.push_str(" io-thread=0");
            }
            line.push_str(&format!(" tot-net-in=0 tot-net-out=0 tot-cmds={}", session.commands));
        }
        line.push('\n');
        line
    }
}

/// `client|info`, or only `client` where the server has no table of subcommands.
fn command_shown(command: &Command, persona: &Persona) -> String {
    let name = command.lower_name();
    match name.split_once('|') {
        Some((container, _)) if !has_subcommands(persona) => container.to_owned(),
        _ => name,
    }
}
