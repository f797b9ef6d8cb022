//! When to ask next. Pure: waits and dice in, a wait out.

use std::time::Duration;

use crate::cluster::{SLOT_COUNT, SlotMap};

/// Refreshes are never closer than this, from the end of one to the start of the next: a MOVED storm asks for thousands.
const HINTED_WAIT_MIN: Duration = Duration::from_millis(20);
/// While hints keep coming and nothing changes, the wait doubles up to here.
const HINTED_WAIT_MAX: Duration = Duration::from_millis(250);
/// And no further than here while some slot has no live owner: a replica is about to be promoted, and clients wait.
const HINTED_WAIT_MAX_UNSERVED: Duration = Duration::from_millis(100);
/// Hints that stayed away for so long begin anew.
const QUIET: Duration = Duration::from_secs(1);

/// A cluster that does not serve every slot is asked again by itself after a wait between these.
const UNWELL_WAIT_MIN: Duration = Duration::from_millis(100);
const UNWELL_WAIT_MAX: Duration = Duration::from_millis(250);
/// What did not heal for so long will not heal in a quarter of a second; hints still ask at once.
const UNSERVED_FOR_MAX: Duration = Duration::from_secs(30);
/// The wait from then on, unless the interval is shorter.
const UNSERVED_LONG_WAIT: Duration = Duration::from_secs(1);
/// A failed node whose slots are all served stays in the nodes' memory until someone forgets it, often for ever: after so
/// long without a change it is no reason to hurry.
const FAILED_FOR_MAX: Duration = Duration::from_secs(10);

/// How a cluster is, as far as the pace goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Health {
    Whole,
    /// Every slot has a live owner, but some node failed.
    Wounded,
    /// Some slot has no owner, or a failed one, or nobody could be asked, or no answer was accepted.
    Unserved,
}

impl Health {
    pub fn of(map: &SlotMap) -> Health {
        if map.served() < SLOT_COUNT {
            Health::Unserved
        } else if map.nodes.iter().any(|node| node.failed) {
            Health::Wounded
        } else {
            Health::Whole
        }
    }
}

/// The memory of the pace: what came of the refreshes so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Refreshes in a row that a hint asked for and that changed nothing.
    in_vain: u32,
}

impl Pace {
    /// Notes what came of a refresh: whether a hint caused it, how long after the end of the one before it began, and
    /// whether it changed the map.
    pub fn note(&mut self, hinted: bool, after: Duration, changed: bool) {
        let vain = hinted && !changed;
        self.in_vain = match self.in_vain {
            _ if !vain => 0,
            _ if after > QUIET => 1,
            so_far => so_far.saturating_add(1),
        };
    }

    /// How long after the end of a refresh a hint may cause the next. `dice` is in 0..1, here and below.
    pub fn hinted_wait(&self, health: Health, dice: f64) -> Duration {
        let doubled = HINTED_WAIT_MIN.saturating_mul(1 << self.in_vain.min(8));
        let longest = if health == Health::Unserved { HINTED_WAIT_MAX_UNSERVED } else { HINTED_WAIT_MAX };
        let jittered = doubled.min(longest).mul_f64(0.8 + 0.2 * dice);
        jittered.max(HINTED_WAIT_MIN)
    }

    /// How long after the end of a refresh the next comes by itself. `unchanged_for` is how long the cluster has been
    /// this way.
    pub fn own_wait(&self, health: Health, unchanged_for: Duration, interval: Duration, dice: f64) -> Duration {
        let unwell = UNWELL_WAIT_MIN + (UNWELL_WAIT_MAX - UNWELL_WAIT_MIN).mul_f64(dice);
        let scheduled = |wait: Duration| wait.mul_f64(0.9 + 0.2 * dice);
        match health {
            Health::Unserved if unchanged_for <= UNSERVED_FOR_MAX => unwell,
            Health::Unserved => scheduled(UNSERVED_LONG_WAIT.min(interval)),
            Health::Wounded if unchanged_for <= FAILED_FOR_MAX => unwell,
            Health::Wounded | Health::Whole => scheduled(interval),
        }
    }
}

/// How long to wait before the seeds are asked again at start-up: 50 ms doubling to 1 s, half of it by dice so that a
/// thousand sidecars that start together do not ask together.
pub(super) fn startup_wait(attempt: u32, dice: f64) -> Duration {
    let doubled = Duration::from_millis(50).saturating_mul(1 << attempt.min(8));
    doubled.min(Duration::from_secs(1)).mul_f64(0.5 + 0.5 * dice)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn hints_in_vain_slow_down() {
        let mut pace = Pace::default();
        let mut waits = Vec::new();
        for _ in 0..6 {
            let wait = |health, dice| pace.hinted_wait(health, dice).as_millis();
            waits.push((wait(Health::Whole, 0.0), wait(Health::Wounded, 1.0), wait(Health::Unserved, 1.0)));
            pace.note(true, ms(50), false);
        }
        let expected = [(20, 20, 20), (32, 40, 40), (64, 80, 80), (128, 160, 100), (200, 250, 100), (200, 250, 100)];
        assert_eq!(waits, expected);
    }

    #[test]
    fn what_begins_the_count_anew() {
        fn check(what: &str, hinted: bool, after: Duration, changed: bool, expected_ms: u128) {
            let mut pace = Pace { in_vain: 3 };
            pace.note(hinted, after, changed);
            assert_eq!(pace.hinted_wait(Health::Whole, 1.0).as_millis(), expected_ms, "{what}");
        }
        check("in vain again", true, ms(50), false, 250);
        check("a change", true, ms(50), true, 20);
        check("a quiet while", true, ms(1500), false, 40);
        check("no hint", false, ms(200), false, 20);
    }

    #[test]
    fn own_waits() {
        fn check(health: Health, unchanged_for_s: u64, expected_ms: (u128, u128)) {
            let wait = |dice| {
                Pace::default().own_wait(health, Duration::from_secs(unchanged_for_s), Duration::from_secs(10), dice).as_millis()
            };
            assert_eq!((wait(0.0), wait(1.0)), expected_ms, "{health:?} for {unchanged_for_s} s");
        }
        check(Health::Whole, 0, (9_000, 11_000));
        check(Health::Whole, 100, (9_000, 11_000));
        check(Health::Wounded, 10, (100, 250));
        check(Health::Wounded, 11, (9_000, 11_000));
        check(Health::Unserved, 30, (100, 250));
        check(Health::Unserved, 31, (900, 1_100));
    }

    #[test]
    fn startup_waits() {
        fn check(attempt: u32, expected_ms: (u128, u128)) {
            let wait = |dice| startup_wait(attempt, dice).as_millis();
            assert_eq!((wait(0.0), wait(1.0)), expected_ms, "{attempt}");
        }
        check(0, (25, 50));
        check(1, (50, 100));
        check(4, (400, 800));
        check(5, (500, 1_000));
        check(u32::MAX, (500, 1_000));
    }
}
