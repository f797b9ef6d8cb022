//! What the engine is told once, at its start.

use std::sync::Arc;

use crate::{
    access::{Accounts, Throttle},
    command::Policy,
    resp::Limits,
};

use super::{ids::Micros, transaction::CrossSlot};

/// The engine's share of the configuration, resolved.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a request may be held, redirected and sent again before its client gets an error.
    pub retry_deadline_us: Micros,
    /// Resends allowed per hundred fresh requests.
    pub retry_budget_percent: u64,
    /// Resends allowed per second whatever the traffic, so that a quiet proxy still heals.
    pub retry_floor_per_second: u64,
    pub limits: Limits,
    /// Replies owed to one client before its reading pauses.
    pub pipeline_depth: usize,
    /// Bytes of replies kept for one client that does not read, before it is cut off.
    pub output_buffer_max: usize,
    /// Bytes queued or in flight on one lane before its clients' reading pauses.
    pub lane_buffer_max: usize,
    /// A client that is silent for so long is cut off; 0 = never.
    pub idle_timeout_us: Micros,
    /// A lane with requests in flight that is silent for so long is given up.
    pub node_timeout_us: Micros,
    /// Private lanes of one worker, leased and idle: blocked clients and those that watch keys need one each.
    pub private_lanes_max: usize,
    /// Channels, patterns and shard channels that one client may be subscribed to.
    pub client_subscriptions_max: usize,
    /// Bytes that one worker keeps for subscriptions: names, and who wants them.
    pub subscriptions_bytes_max: usize,
    /// Bytes of messages kept for one subscriber that does not read, before it is cut off.
    pub subscriber_buffer_max: usize,
    /// Blocking commands over several slots are asked again after so long at most; 0 = they are refused.
    pub blocking_poll_us: Micros,
    pub cross_slot_transactions: CrossSlot,
    /// The proxy's own account, if one is configured.
    pub auth: Option<Auth>,
    pub identity: Identity,
    /// Users of the cluster that one worker's clients may be at once, each with lanes of its own.
    pub users_max: usize,
    pub throttle: Arc<Throttle>,
    /// What the operator refuses, and what he allows.
    pub policy: Arc<Policy>,
    /// Whether clients' ports know PROXY.
    pub proxy_commands: bool,
    /// TCP port shown in INFO, 0 when the proxy listens on unix sockets only.
    pub tcp_port: u16,
}

/// Who says who a client is.
#[derive(Clone, Debug)]
pub enum Identity {
    /// The cluster: a client rides lanes of its own user.
    Passthrough,
    /// The proxy: all clients ride lanes of the proxy's account, and are let in by these accounts.
    Proxy(Arc<Accounts>),
}

/// The account that the proxy itself has in the cluster.
#[derive(Clone)]
pub struct Auth {
    pub username: Option<String>,
    pub password: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Auth {{ username: {:?}, password: *** }}", self.username)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            retry_deadline_us: 10_000_000,
            retry_budget_percent: 100,
            retry_floor_per_second: 1000,
            limits: Limits::default(),
            pipeline_depth: 1024,
            output_buffer_max: 1 << 30,
            lane_buffer_max: 64 << 20,
            idle_timeout_us: 0,
            node_timeout_us: 60_000_000,
            private_lanes_max: 10_000,
            client_subscriptions_max: 100_000,
            subscriptions_bytes_max: 256 << 20,
            subscriber_buffer_max: 32 << 20,
            blocking_poll_us: 0,
            cross_slot_transactions: CrossSlot::Reject,
            auth: None,
            identity: Identity::Passthrough,
            users_max: 1000,
            throttle: Arc::new(Throttle::new(0, 0)),
            policy: Arc::default(),
            proxy_commands: false,
            tcp_port: 0,
        }
    }
}
