//! The pure state machine of one worker.
