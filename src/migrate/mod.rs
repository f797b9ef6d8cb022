//! Slots on the move: what the cluster looks like, what is to move, and how it is moved.
//!
//! - `deep` — samples of what the masters hold
//! - `hot` — the slots that weigh most
//! - `inventory`, `survey` — the facts, from every node itself
//! - `plan` — PURE: the moves that reach a goal, and their order
//! - `holds` — PURE: slots that are open, and between whom
//! - `recovery`, `refusal`, `pace` — PURE: the next step of a slot, what an answer to MIGRATE means, how much at a time
//! - `execute` — moves slots on real servers
//! - `preflight` — PURE: what speaks against moving anything now
//! - `draft` — a request becomes a plan that can be started
//! - `machine` — PURE: the life of a plan
//! - `gates` — PURE: whether a plan may go on
//! - `closing` — PURE: which slots of a plan stand open
//! - `verify` — PURE: whether what has moved is where it should be
//! - `record` — plans as the cluster keeps them
//! - `coordinator` — drives plans, from any instance

pub mod closing;
pub mod coordinator;
pub mod deep;
pub mod draft;
pub mod execute;
pub mod gates;
pub mod holds;
pub mod hot;
pub mod inventory;
pub mod machine;
pub mod pace;
pub mod plan;
pub mod preflight;
pub mod record;
pub mod recovery;
pub mod refusal;
mod slot_set;
pub mod survey;
pub mod verify;

pub use coordinator::Coordinator;
pub use holds::Holds;
pub use inventory::Inventory;
pub use slot_set::{NotSlots, SlotSet};
