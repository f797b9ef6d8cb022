//! One node of the cluster.

use std::sync::Arc;

use crate::cluster::Addr;

/// A node as the proxy knows it. Its `id` stays the same for as long as the node's `nodes.conf` does, whatever
/// becomes of its address and role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub id: Arc<str>,
    /// Where to dial it: the announced `ip:port` with the address rules applied.
    pub addr: Addr,
    /// Other spellings of `addr` that redirects may use: announced, by hostname, and both rewritten.
    pub aliases: Vec<Addr>,
    pub role: Role,
    /// The cluster agreed that it is down (flag `fail`; a mere suspicion, `fail?`, does not count).
    pub failed: bool,
    /// Its config epoch; a replica shows its master's.
    pub epoch: u64,
    /// Its SCAN cursors carry the slot in their low bits (see `Persona::cursor_has_slot`).
    pub cursor_has_slot: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    Master,
    /// `of` is the id of its master, which the map may not hold (it was forgotten, or its address is unknown).
    Replica {
        of: Arc<str>,
    },
}

impl Node {
    pub fn is_master(&self) -> bool {
        self.role == Role::Master
    }

    /// Every spelling of its address, `addr` first.
    pub fn spellings(&self) -> impl Iterator<Item = &Addr> {
        std::iter::once(&self.addr).chain(&self.aliases)
    }
}
