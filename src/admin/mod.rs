//! The admin port: the PROXY namespace for operators, spoken in RESP so that `redis-cli -p 6390` is the console.
//!
//! Every command is one [`Definition`](definition::Definition) in `commands/`: name, syntax, summary, help, role and
//! parser. Dispatch, `PROXY HELP`, `COMMAND` and `COMMAND DOCS` (by which redis-cli completes and hints) are made from
//! the list of them. Requests are read with the proxy's own scanner, replies are written with `redis-protocol`.
//!
//! Who may give a command is decided by [`Operators`]; without users the configuration lets the port listen on loopback addresses
//! and unix sockets only. What happens is told live through [`Events`]. The same commands can be given on clients' ports
//! (`admin.on_client_ports`); the workers pass them on.

mod calls;
mod changes;
mod commands;
mod definition;
mod docs;
mod events;
mod facts;
mod listener;
mod operators;
mod reply;
mod request;
mod server;
mod syntax;
mod text;

use std::fmt;
use std::sync::Arc;

use crate::control::Dialer;
use crate::migrate::Coordinator;
use crate::topology::TopologyHandle;

pub use events::{Channel, Events};
pub use facts::facts_of;
pub use listener::{BindError, Listener, Secure, Stream, bind};
pub use operators::Operators;
pub use server::serve;

/// What INFO tells: sections in order, each with its lines in order.
pub type Facts = Vec<(String, Vec<(String, String)>)>;

/// What the commands can reach.
#[derive(Clone)]
pub struct AdminState {
    /// Gathers the facts of this moment. Called on the thread that serves the port, once per INFO.
    pub info: Arc<dyn Fn() -> Facts + Send + Sync>,
    pub cluster: Cluster,
    pub operators: Arc<Operators>,
    pub events: Events,
    /// Plans that move slots.
    pub migrations: Coordinator,
}

/// The way to the cluster, for commands that look at it.
#[derive(Clone)]
pub struct Cluster {
    pub topology: TopologyHandle,
    /// Makes connections as the proxy's own account.
    pub dialer: Dialer,
    /// The clock of `SlotMap::asked_at_us`.
    pub now_us: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminState")
    }
}
