//! The list of all admin commands, one file per family.

mod auth;
mod check;
mod client;
mod cluster;
mod command;
mod hello;
mod hot;
mod info;
mod migrate;
mod ping;
mod proxy;
mod quit;
mod subscribe;

use super::definition::Definition;

/// In the order of their names, which is the order of help.
pub(super) static COMMANDS: &[&Definition] = &[
    &auth::AUTH,
    &client::ID,
    &client::SETINFO,
    &client::SETNAME,
    &command::COMMAND,
    &command::COUNT,
    &command::DOCS,
    &hello::HELLO,
    &info::INFO,
    &ping::PING,
    &auth::PROXY_AUTH,
    &check::CHECK,
    &proxy::HELP,
    &proxy::INFO,
    &migrate::ABORT,
    &migrate::ADOPT,
    &migrate::FORGET,
    &migrate::LIST,
    &migrate::LOG,
    &migrate::PAUSE,
    &migrate::DRAIN,
    &migrate::FILL,
    &migrate::MOVE,
    &migrate::REBALANCE,
    &migrate::REPAIR,
    &migrate::RESUME,
    &migrate::ROLLBACK,
    &migrate::START,
    &migrate::STATUS,
    &migrate::THROTTLE,
    &migrate::VERIFY,
    &cluster::NODES,
    &cluster::REFRESH,
    &cluster::SLOT,
    &hot::SLOTS,
    &cluster::TOPOLOGY,
    &proxy::VERSION,
    &auth::WHOAMI,
    &quit::QUIT,
    &quit::RESET,
    &subscribe::SUBSCRIBE,
    &subscribe::UNSUBSCRIBE,
];
