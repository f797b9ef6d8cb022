//! PROXY MIGRATE: plans that move slots.

mod ask;
mod look;
mod orders;
mod plan;
mod repair;
mod show;

pub(super) use look::{LIST, LOG, STATUS};
pub(super) use orders::{ABORT, PAUSE, RESUME, ROLLBACK, START, THROTTLE};
pub(super) use plan::{DRAIN, FILL, MOVE, REBALANCE};
pub(super) use repair::{ADOPT, FORGET, REPAIR, VERIFY};
