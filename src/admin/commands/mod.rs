//! The list of all admin commands, one file per family.

mod check;
mod client;
mod cluster;
mod command;
mod hello;
mod info;
mod ping;
mod proxy;
mod quit;

use super::definition::Definition;

/// In the order of their names, which is the order of help.
pub(super) static COMMANDS: &[&Definition] = &[
    &client::ID,
    &client::SETINFO,
    &client::SETNAME,
    &command::COMMAND,
    &command::COUNT,
    &command::DOCS,
    &hello::HELLO,
    &info::INFO,
    &ping::PING,
    &check::CHECK,
    &proxy::HELP,
    &proxy::INFO,
    &cluster::NODES,
    &cluster::REFRESH,
    &cluster::SLOT,
    &cluster::SLOTS,
    &cluster::TOPOLOGY,
    &proxy::VERSION,
    &quit::QUIT,
];
