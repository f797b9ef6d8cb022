//! PURE. How many keys one MIGRATE takes, and how long to rest behind it: the source serves nobody while it runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the operator allows; PROXY MIGRATE THROTTLE changes it while a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throttle {
    /// One MIGRATE should block its source no longer than this.
    pub block: Duration,
    /// Keys in one call, at most.
    pub keys: usize,
    /// Bytes in one call, at most; a larger key goes alone.
    pub bytes: u64,
    /// The share of its time that a source may spend on moving, 0 to 1.
    pub duty: f64,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { block: Duration::from_millis(3), keys: 1000, bytes: 1 << 20, duty: 0.7 }
    }
}

impl std::fmt::Display for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Throttle { block, keys, bytes, duty } = self;
        write!(f, "block {block:?}, {keys} keys, {bytes} bytes, duty {:.0}%", duty * 100.0)
    }
}

/// Learns what a key costs on the way from one node to another.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Microseconds a key, a moving average.
    key_us: f64,
}

/// A source rests no longer than this at once.
const REST_MAX: Duration = Duration::from_secs(5);

/// The weight of the latest call in the average.
const LEARNING: f64 = 0.2;

impl Default for Pace {
    /// A key of 100 bytes takes about 40 us on a machine of today; twice that is a careful beginning.
    fn default() -> Pace {
        Pace { key_us: 80.0 }
    }
}

impl Pace {
    /// How many of the next keys, whose sizes in bytes these are, go together: at least one.
    pub fn take(&self, sizes: &[u64], throttle: &Throttle) -> usize {
        let by_time = (throttle.block.as_micros() as f64 / self.key_us) as usize;
        let most = by_time.clamp(1, throttle.keys.max(1));
        let mut bytes = 0u64;
        let fitting = sizes.iter().take(most).take_while(|size| {
            bytes = bytes.saturating_add(**size);
            bytes <= throttle.bytes
        });
        fitting.count().max(1).min(sizes.len())
    }

    /// A call with so many keys took so long.
    pub fn learn(&mut self, keys: usize, took: Duration) {
        if keys > 0 {
            let us = took.as_micros() as f64 / keys as f64;
            self.key_us += (us.max(1.0) - self.key_us) * LEARNING;
        }
    }

    /// The rest behind a call, so that the source has its share of time for others; not for ever behind a large key, as its slot stays
    /// open meanwhile.
    pub fn rest(took: Duration, throttle: &Throttle) -> Duration {
        let duty = throttle.duty.clamp(0.01, 1.0);
        took.mul_f64((1.0 - duty) / duty).min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_grow_and_shrink_with_what_keys_cost() {
        let throttle = Throttle::default();
        let small = vec![100; 5000];
        let mut pace = Pace::default();
        assert_eq!(pace.take(&small, &throttle), 37);
        (0..50).for_each(|_| pace.learn(100, Duration::from_micros(1000)));
        assert_eq!(pace.take(&small, &throttle), 299, "10 us a key: 3 ms are 300 keys");
        (0..50).for_each(|_| pace.learn(1, Duration::from_millis(40)));
        assert_eq!(pace.take(&small, &throttle), 1);
        assert_eq!(pace.take(&small[..0], &throttle), 0);
    }

    #[test]
    fn large_keys_go_alone() {
        let throttle = Throttle { bytes: 1000, ..Throttle::default() };
        let pace = Pace::default();
        let check = |sizes: &[u64], expected: usize| assert_eq!(pace.take(sizes, &throttle), expected, "{sizes:?}");
        check(&[5000, 10], 1);
        check(&[400, 400, 400], 2);
        check(&[10, 5000], 1);
        check(&[10], 1);
    }

    #[test]
    fn a_source_rests_for_its_share() {
        let half = Throttle { duty: 0.5, ..Throttle::default() };
        assert_eq!(Pace::rest(Duration::from_millis(4), &half), Duration::from_millis(4));
        let full = Throttle { duty: 1.0, ..half };
        assert_eq!(Pace::rest(Duration::from_millis(4), &full), Duration::ZERO);
        let little = Throttle { duty: 0.01, ..half };
        assert_eq!(Pace::rest(Duration::from_millis(10), &little), Duration::from_millis(990));
        assert_eq!(Pace::rest(Duration::from_secs(60), &little), REST_MAX);
    }
}
