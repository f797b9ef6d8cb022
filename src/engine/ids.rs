//! Names for the engine's things: small integers that index slabs.

/// A client's place in its worker's slab. Reused after the client is gone and nothing of it is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u32);

/// A lane: its place in its worker's slab, and a number that no other lane ever has, so that what the driver says of a lane that
/// the engine gave up meanwhile is not taken for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId {
    pub(super) index: u32,
    pub(super) unique: u32,
}

/// A node's place in its worker's route table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// A user of the cluster whom a lane is authenticated as: a place in the engine's list of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u16);

/// Microseconds since a moment that the driver chose; the engine only compares and adds.
pub type Micros = u64;

/// No index: the value of an absent slab entry in packed records.
pub const NONE: u32 = u32::MAX;

/// Which reply of a client a request in flight answers: the whole of it, or one part of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub client: u32,
    pub seq: u32,
    /// The part's index in the reply's merge, or `NONE` when the request is the whole.
    pub part: u32,
}
