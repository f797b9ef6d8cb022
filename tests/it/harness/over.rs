//! The end of a load that several threads make.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether it is over.
#[derive(Default)]
pub struct Over(AtomicBool);

impl Over {
    pub fn yet(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It is over when the guard goes: also when its thread panics, so that no other thread runs on for ever.
    pub fn when_dropped(&self) -> Guard<'_> {
        Guard(self)
    }
}

pub struct Guard<'a>(&'a Over);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for a thread of a scope, and panics as it did.
pub fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
