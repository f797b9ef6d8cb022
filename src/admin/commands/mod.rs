//! The list of all admin commands, one file per family.

mod client;
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
    &proxy::HELP,
    &proxy::INFO,
    &proxy::VERSION,
    &quit::QUIT,
];
