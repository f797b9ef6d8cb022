//! The pure state machine of one worker.

pub mod glob;
pub mod info;
