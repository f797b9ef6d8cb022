//! Buffers of clients at rest, kept for the next that becomes active.

use super::session::Active;

/// Small sets are kept up to this number: as many as are active at once in a busy turn.
const SMALL_KEPT: usize = 256;
/// What a small set may hold, in bytes.
const SMALL_CAPACITY: usize = 16 * 1024;
/// Sets that grew for large values: few, and only while they are in use, so that the memory of a burst comes back.
const GROWN_KEPT: usize = 4;
const GROWN_CAPACITY: usize = 2 * 1024 * 1024;

/// Boxed, because that is how a session holds them: taking one moves a pointer.
#[derive(Default)]
#[expect(clippy::vec_box)]
pub struct Pool {
    small: Vec<Box<Active>>,
    /// The fewest that `small` held since the last sweep: so many nobody needed.
    small_unused: usize,
    grown: Vec<Box<Active>>,
    grown_used: bool,
}

impl Pool {
    pub fn take(&mut self) -> Box<Active> {
        if let Some(active) = self.grown.pop() {
            self.grown_used = true;
            return active;
        }
        let active = self.small.pop().unwrap_or_default();
        self.small_unused = self.small_unused.min(self.small.len());
        active
    }

    /// Takes back what is at rest.
    pub fn give(&mut self, mut active: Box<Active>) {
        debug_assert!(active.is_at_rest());
        match active.capacity() {
            capacity if capacity <= SMALL_CAPACITY && self.small.len() < SMALL_KEPT => self.small.push(active),
            capacity if capacity > SMALL_CAPACITY && capacity <= GROWN_CAPACITY && self.grown.len() < GROWN_KEPT => {
                self.grown.push(active)
            }
            _ => {}
        }
    }

    /// Called about once a second: lets go of what nobody used since the last time.
    pub fn sweep(&mut self) {
        if !std::mem::take(&mut self.grown_used) {
            self.grown.clear();
        }
        // Half of it, so that traffic that comes and goes does not start from nothing each time; the coldest, which lie deepest.
        self.small.drain(..self.small_unused.div_ceil(2));
        self.small_unused = self.small.len();
    }
}
