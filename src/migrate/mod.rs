//! Slots on the move: what the cluster looks like, what is to move, and how it is moved.
//!
//! - `deep` — samples of what the masters hold
//! - `hot` — the slots that weigh most
//! - `inventory`, `survey` — the facts, from every node itself
//! - `plan` — PURE: the moves that reach a goal, and their order
//! - `recovery`, `refusal`, `pace` — PURE: the next step of a slot, what an answer to MIGRATE means, how much at a time
//! - `execute` — moves slots on real servers
//! - `preflight` — PURE: what speaks against moving anything now

pub mod deep;
pub mod execute;
pub mod hot;
pub mod inventory;
pub mod pace;
pub mod plan;
pub mod preflight;
pub mod recovery;
pub mod refusal;
mod slot_set;
pub mod survey;

pub use inventory::Inventory;
pub use slot_set::{NotSlots, SlotSet};
