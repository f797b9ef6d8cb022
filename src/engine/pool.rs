//! Buffers of clients at rest, kept for the next that becomes active.

use super::session::Active;

/// Small sets are kept up to this number.
const SMALL_KEPT: usize = 256;
/// What a small set may hold, in bytes.
const SMALL_CAPACITY: usize = 16 * 1024;
/// The smallest, which clients need that ask for a small value at a time, are kept up to this number: as many as are active at once in
/// the turns of a worker with a thousand busy clients, or more. To make one, and let it go again, takes as long as its request.
const TINY_KEPT: usize = 2048;
const TINY_CAPACITY: usize = 2 * 1024;
/// Sets that grew for large values: few, and until the next sweep only, so that the memory of a burst comes back.
const GROWN_KEPT: usize = 4;
const GROWN_CAPACITY: usize = 2 * 1024 * 1024;

/// How many small sets there may be besides one of this capacity.
#[inline]
fn kept(capacity: usize) -> usize {
    if capacity <= TINY_CAPACITY { TINY_KEPT } else { SMALL_KEPT }
}

/// Boxed, because that is how a session holds them: taking one moves a pointer.
#[derive(Default)]
#[expect(clippy::vec_box)]
pub struct Pool {
    small: Vec<Box<Active>>,
    /// The fewest that `small` held since the last sweep: so many nobody needed.
    small_unused: usize,
    grown: Vec<Box<Active>>,
}

impl Pool {
    /// A small set if there is one: a grown one would live on in the hands of clients that do not need its room. Large values find the
    /// grown ones all the same, because every small set that they took has grown.
    #[inline]
    pub fn take(&mut self) -> Box<Active> {
        match self.small.pop() {
            Some(active) => {
                self.small_unused = self.small_unused.min(self.small.len());
                active
            }
            None => self.take_other(),
        }
    }

    #[cold]
    fn take_other(&mut self) -> Box<Active> {
        self.small_unused = 0;
        self.grown.pop().unwrap_or_default()
    }

    /// Takes back what is at rest.
    pub fn give(&mut self, mut active: Box<Active>) {
        debug_assert!(active.is_at_rest());
        match active.capacity() {
            capacity if capacity <= SMALL_CAPACITY && self.small.len() < kept(capacity) => self.small.push(active),
            capacity if capacity > SMALL_CAPACITY && capacity <= GROWN_CAPACITY && self.grown.len() < GROWN_KEPT => {
                self.grown.push(active)
            }
            _ => {}
        }
    }

    /// Called about once a second: lets go of what nobody used since the last time. Grown sets go in any case: to grow a few anew costs
    /// large values nothing that they would notice, and whether one was needed, or only taken, cannot be told.
    pub fn sweep(&mut self) {
        self.grown = Vec::new();
        // Half of it, so that traffic that comes and goes does not start from nothing each time; the coldest, which lie deepest.
        self.small.drain(..self.small_unused.div_ceil(2));
        self.small_unused = self.small.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(capacity: usize) -> Box<Active> {
        let mut active = Box::new(Active::default());
        active.input.reserve_exact(capacity);
        active
    }

    /// How many small sets it keeps, and how many bytes it keeps in all.
    fn held(pool: &mut Pool) -> (usize, usize) {
        let bytes = pool.small.iter_mut().chain(&mut pool.grown).map(|active| active.capacity()).sum();
        (pool.small.len(), bytes)
    }

    #[test]
    fn the_memory_of_a_burst_comes_back_under_small_traffic() {
        let mut pool = Pool::default();
        (0..10_000).for_each(|_| pool.give(sized(TINY_CAPACITY)));
        (0..1000).for_each(|_| pool.give(sized(SMALL_CAPACITY)));
        (0..10).for_each(|_| pool.give(sized(1024 * 1024)));
        assert_eq!(held(&mut pool), (2048, (4 + 4) * 1024 * 1024), "a burst of small values leaves this much at most");
        let mut pool = Pool::default();
        (0..1000).for_each(|_| pool.give(sized(SMALL_CAPACITY)));
        (0..10_000).for_each(|_| pool.give(sized(TINY_CAPACITY)));
        assert_eq!(held(&mut pool), (2048, (4 + 3) * 1024 * 1024 + 512 * 1024), "or this much");
        let mut pool = Pool::default();
        (0..256).for_each(|_| pool.give(sized(1024)));
        let mut seen = Vec::new();
        for _second in 0..10 {
            for _turn in 0..100 {
                let taken: Vec<Box<Active>> = (0..3).map(|_| pool.take()).collect();
                assert!(taken.iter().all(|active| active.input.capacity() == 1024), "what is kept is used, the small ones first");
                taken.into_iter().for_each(|active| pool.give(active));
            }
            pool.sweep();
            seen.push(held(&mut pool).0);
        }
        assert_eq!(seen, [256, 129, 66, 34, 18, 10, 6, 4, 3, 3]);
        assert_eq!(held(&mut pool), (3, 3 * 1024));
    }

    #[test]
    fn grown_sets_serve_large_values_in_turn() {
        let mut pool = Pool::default();
        pool.give(sized(1024 * 1024));
        for _ in 0..100 {
            let taken = pool.take();
            assert_eq!(taken.input.capacity(), 1024 * 1024);
            pool.give(taken);
        }
        pool.give(sized(GROWN_CAPACITY + 1));
        assert_eq!(held(&mut pool), (0, 1024 * 1024), "what is larger than any kept one is let go at once");
    }
}
