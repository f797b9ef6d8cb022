//! Slots on the move: what the cluster looks like, what is to move, and how it is moved.
//!
//! - `inventory`, `survey` — the facts, from every node itself
//! - `plan` — PURE: the moves that reach a goal, and their order
//! - `preflight` — PURE: what speaks against moving anything now

pub mod inventory;
pub mod plan;
pub mod preflight;
pub mod recovery;
mod slot_set;
pub mod survey;

pub use inventory::Inventory;
pub use slot_set::{NotSlots, SlotSet};
