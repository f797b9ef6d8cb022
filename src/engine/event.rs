//! What an engine asks of whoever drives it.

use bytes::Bytes;

use crate::cluster::{Addr, Slot};

use super::{
    ids::{ClientId, LaneId},
    operators::ProxyCall,
    orders::{Order, OrderToken},
    tracking::Invalidation,
};

/// What the driver is to do.
#[derive(Debug)]
pub enum Event {
    /// Connect to this node, then call `lane_connected`, or `lane_lost`.
    Dial { lane: LaneId, addr: Addr },
    /// Close this lane's connection; the engine has forgotten it.
    CloseLane { lane: LaneId },
    /// Close this client's connection, then call `client_gone`.
    CloseClient { client: ClientId },
    /// Its input goes on: read it again.
    Resume { client: ClientId },
    /// The slot map should be asked for anew.
    Refresh(RefreshCause),
    /// Have every worker, this one too, `obey` the order, then call `obeyed` with the sum of what came of it.
    Order { token: OrderToken, order: Order },
    /// Have the control thread carry out a PROXY command, then call `operators_answered`.
    CallOperators { token: OrderToken, call: Box<ProxyCall> },
    /// Have every worker, this one too, call `invalidated`: one of them may have the client.
    Invalidate(Invalidation),
    /// Have every worker, this one too, call `redirect_broken`: a client is gone that others redirect to.
    TargetGone { id: u64 },
    /// A request for these keys of a slot that is being moved waits until all of them are on one node.
    Wanted { slot: Slot, keys: Vec<Bytes> },
}

/// Why a new slot map is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshCause {
    Moved,
    UnknownAddress,
    ClusterDown,
    LaneLost,
    /// Whether the default user needs a password may have changed.
    DefaultUser,
}
