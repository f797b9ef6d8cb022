//! What is known of plans, kept in the cluster itself so that any instance can go on with any plan.
//!
//! ```text
//! {keyway}:plans              hash   id -> tag, `active` -> id of the plan that holds slots
//! {keyway:<tag>}:plan:<id>    hash   plan, progress (JSON), version, token, order
//! {keyway:<tag>}:lease:<id>   string `<token> <holder>`, expires
//! {keyway:<tag>}:log:<id>     stream of lines, capped
//! {keyway:<tag>}:wanted:<id>  list of keys that clients of other instances than the driver's wait for, expires
//! {keyway:<tag>}:fence        string, on each Redis master that gives or takes: the highest token that was there (`execute::token`)
//! ```
//!
//! The tag is chosen so that the plan does not move its own record. The cluster's state is the truth and the record is intent: what the
//! last write said may be lost, because whoever takes a plan over looks at the slots first.

mod held;
mod index;
mod keeper;
mod keyed;
mod lease;
mod plan;
mod scripts;
mod store;
mod tag;
mod told;

pub use held::Held;
pub use index::{Claimed, Index};
pub use keeper::Keeper;
pub use lease::{Lease, Timing};
pub use plan::{Gate, Mode, Pair, Plan, PlanBatch, Progress};
pub use store::{Entry, Loaded, LogLine, NoRecord, Place, Store, Taken, Written};
pub use tag::{tag_for, tags};
pub use told::{Heard, No, Told};

#[cfg(test)]
pub(crate) use plan::tests;
