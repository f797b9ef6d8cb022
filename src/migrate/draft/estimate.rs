//! PURE. How long a batch will take, before anything was measured.

use std::time::Duration;

use crate::migrate::pace::Throttle;
use crate::migrate::record::{Mode, PlanBatch};

/// SETSLOT on two ends and all other masters, looked at before and behind.
const CLASSIC_SLOT: Duration = Duration::from_millis(5);
/// A small key on the way by MIGRATE, and each megabyte of large ones.
const CLASSIC_KEY: Duration = Duration::from_micros(40);
const CLASSIC_MEGABYTE: Duration = Duration::from_millis(42);
/// A job's snapshot, hand-over and clean-up, whatever is in it.
const ATOMIC_BATCH: Duration = Duration::from_millis(500);
const ATOMIC_KEY: Duration = Duration::from_micros(6);
const ATOMIC_MEGABYTE: Duration = Duration::from_millis(10);

pub fn estimate(batch: &PlanBatch) -> Duration {
    let keys = batch.keys as f64;
    let megabytes = batch.bytes as f64 / 1e6;
    match batch.mode {
        Mode::Classic => {
            let busy = CLASSIC_KEY.mul_f64(keys) + CLASSIC_MEGABYTE.mul_f64(megabytes);
            CLASSIC_SLOT.mul_f64(batch.slots.len() as f64) + busy.div_f64(Throttle::default().duty)
        }
        Mode::Atomic => ATOMIC_BATCH + ATOMIC_KEY.mul_f64(keys) + ATOMIC_MEGABYTE.mul_f64(megabytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan::BatchKind;
    use crate::migrate::record::tests::batch;

    #[test]
    fn keys_and_bytes_and_slots_take_time() {
        let of = |mode: Mode, slots: &str, keys: u64, bytes: u64| {
            estimate(&PlanBatch { mode, ..batch(BatchKind::Ordinary, "a", "b", slots, keys, bytes) })
        };
        assert_eq!(of(Mode::Classic, "0-199", 0, 0), Duration::from_secs(1));
        // 200 thousand keys of 100 bytes took redis-cli 20 to 37 seconds, and Valkey itself one.
        let (classic, atomic) =
            (of(Mode::Classic, "0-8191", 200_000, 20_000_000), of(Mode::Atomic, "0-8191", 200_000, 20_000_000));
        assert!((20..60).contains(&classic.as_secs()) && (1..5).contains(&atomic.as_secs()), "{classic:?} {atomic:?}");
    }
}
