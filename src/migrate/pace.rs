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
    /// Keys that the servers move in one job of their own, at most, unless a single slot has more.
    #[serde(default = "job_keys")]
    pub job: u64,
    /// The rest between two such jobs.
    #[serde(default)]
    pub rest: Duration,
}

/// A job takes a fifth of a second beside its keys, and when it is over its source drops them all at once.
fn job_keys() -> u64 {
    20_000
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { block: Duration::from_millis(3), keys: 1000, bytes: 1 << 20, duty: 0.9, job: job_keys(), rest: Duration::ZERO }
    }
}

impl std::fmt::Display for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Throttle { block, keys, bytes, duty, job, rest } = self;
        let duty = duty * 100.0;
        write!(f, "block {block:?}, {keys} keys, {bytes} bytes, duty {duty:.0}%; atomic jobs of {job} keys, rest {rest:?}")
    }
}

/// Learns what a call and each of its keys cost on the way from one node to another, from calls of two sizes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Calls with as many keys as they may have, and calls with half of that and less.
    full: Mean,
    small: Mean,
    /// The keys of the latest full call.
    latest: usize,
    turn: u32,
}

/// Moving averages over calls: their keys, and their time in microseconds.
#[derive(Clone, Copy, Debug)]
struct Mean {
    keys: f64,
    us: f64,
}

impl Mean {
    fn learn(&mut self, keys: f64, us: f64) {
        self.keys += (keys - self.keys) * LEARNING;
        self.us += (us - self.us) * LEARNING;
    }
}

/// The weight of the latest call in the averages.
const LEARNING: f64 = 0.2;

/// Every so many calls one is small, so that both sizes are known.
const SMALL_TURN: u32 = 16;

/// What a call takes besides its keys, in microseconds, is no less: a round trip between two servers.
const CALL_US_MIN: f64 = 100.0;

/// A call is no larger than it takes to bring its own cost down to this share of its time: beyond that its source's clients would wait
/// for longer and gain little. With nodes next to each other that are some 40 small keys, in half a millisecond.
const CALL_SHARE: f64 = 0.33;

/// So many keys may go together anyway.
const GAIN_KEYS_MIN: f64 = 16.0;

/// A source rests no longer than this at once.
const REST_MAX: Duration = Duration::from_secs(5);

impl Default for Pace {
    /// A key of 100 bytes takes about 10 us on a machine of today, and a call 150; several times that is a careful beginning.
    fn default() -> Pace {
        let [full, small] = [16.0, 4.0].map(|keys| Mean { keys, us: 300.0 + 80.0 * keys });
        Pace { full, small, latest: 16, turn: 0 }
    }
}

impl Pace {
    /// How many keys the next call may have as far as time and number go: at least one.
    pub fn next(&mut self, throttle: &Throttle) -> usize {
        let most = self.most(throttle);
        self.turn += 1;
        if self.turn.is_multiple_of(SMALL_TURN) {
            return most.div_ceil(4);
        }
        self.latest = most;
        most
    }

    fn most(&self, throttle: &Throttle) -> usize {
        let (call_us, key_us) = self.costs();
        let by_time = (throttle.block.as_micros() as f64 - call_us) / key_us;
        let by_gain = (1.0 / CALL_SHARE - 1.0) * call_us / key_us;
        (by_time.min(by_gain.max(GAIN_KEYS_MIN)) as usize).clamp(1, throttle.keys.max(1))
    }

    /// What a call costs, and what each of its keys does, in microseconds.
    fn costs(&self) -> (f64, f64) {
        let (full, small) = (self.full, self.small);
        let slope = (full.us - small.us) / (full.keys - small.keys);
        // Other things take time as well and may turn it around; keys cost something, and not more than all of it.
        let all = full.us / full.keys;
        let key_us = if slope.is_finite() { slope.clamp(all / 4.0, all) } else { all }.max(0.1);
        ((full.us - key_us * full.keys).max(CALL_US_MIN), key_us)
    }

    /// A call with so many keys took so long.
    pub fn learn(&mut self, keys: usize, took: Duration) {
        let mean = if keys * 2 <= self.latest { &mut self.small } else { &mut self.full };
        mean.learn(keys as f64, took.as_micros() as f64);
    }

    /// How many of the next keys, whose sizes in bytes these are, go together as far as bytes go: at least one.
    pub fn fitting(sizes: impl ExactSizeIterator<Item = u64>, throttle: &Throttle) -> usize {
        let (all, mut bytes) = (sizes.len(), 0u64);
        let fitting = sizes.take_while(|size| {
            bytes = bytes.saturating_add(*size);
            bytes <= throttle.bytes
        });
        fitting.count().max(1).min(all)
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

    /// Two hundred calls on a way where a call costs `call_us` and a key `key_us`, each a little more or less.
    fn call(pace: &mut Pace, call_us: u64, key_us: u64, throttle: &Throttle) {
        for turn in 0..200 {
            let keys = pace.next(throttle);
            let noise = [90, 104, 97, 140, 111, 98, 85][turn % 7];
            pace.learn(keys, Duration::from_micros((call_us + key_us * keys as u64) * noise / 100));
        }
    }

    #[track_caller]
    fn expect(pace: &Pace, throttle: &Throttle, around: std::ops::RangeInclusive<usize>) {
        let most = pace.most(throttle);
        assert!(around.contains(&most), "{most} keys, expected {around:?}: {pace:?}");
    }

    #[test]
    fn calls_are_as_large_as_pays_and_as_may_be() {
        let throttle = Throttle::default();
        expect(&Pace::default(), &throttle, 16..=16);
        let check = |call_us: u64, key_us: u64, throttle: &Throttle, around: std::ops::RangeInclusive<usize>| {
            let mut pace = Pace::default();
            call(&mut pace, call_us, key_us, throttle);
            expect(&pace, throttle, around);
        };
        // Close nodes: 150 us a call are a third of it with 38 keys. Distant ones need more keys, up to what BLOCK allows.
        check(150, 8, &throttle, 20..=90);
        check(500, 8, &throttle, 85..=180);
        check(2000, 8, &throttle, 60..=200);
        check(2000, 8, &Throttle { block: Duration::from_millis(10), ..throttle }, 350..=700);
        // Keys that are slow to move.
        check(150, 40_000, &throttle, 1..=1);
        check(150, 8, &Throttle { keys: 10, ..throttle }, 10..=10);
    }

    #[test]
    fn what_calls_cost_is_learned_anew() {
        let throttle = Throttle::default();
        let mut pace = Pace::default();
        for _ in 0..3 {
            call(&mut pace, 150, 40_000, &throttle);
            expect(&pace, &throttle, 1..=1);
            call(&mut pace, 150, 8, &throttle);
            expect(&pace, &throttle, 20..=90);
        }
    }

    #[test]
    fn large_keys_go_alone() {
        let throttle = Throttle { bytes: 1000, ..Throttle::default() };
        let check =
            |sizes: &[u64], expected: usize| assert_eq!(Pace::fitting(sizes.iter().copied(), &throttle), expected, "{sizes:?}");
        check(&[5000, 10], 1);
        check(&[400, 400, 400], 2);
        check(&[10, 5000], 1);
        check(&[10], 1);
        check(&[], 0);
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
