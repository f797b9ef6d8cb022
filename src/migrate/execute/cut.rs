//! PURE. How many slots the servers move at once, and what is tried behind a failure.

use std::collections::VecDeque;

use crate::cluster::Slot;

/// So often a job of one size may fail before smaller ones are tried, and those before the servers are given up.
const FAILURES_MAX: u32 = 3;

/// Slots that move together.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub slots: Vec<Slot>,
    pub keys: u64,
    pub failures: u32,
    /// It is a part of one that failed.
    halved: bool,
}

/// The next of the slots, whose keys stand beside them, that have no more keys than this together; at least one.
pub(super) fn next_job(left: &mut VecDeque<(Slot, u64)>, keys_max: u64) -> Option<Job> {
    let (first, keys) = left.pop_front()?;
    let mut job = Job { slots: vec![first], keys, failures: 0, halved: false };
    while let Some((slot, keys)) = left.front().copied().filter(|(_, keys)| job.keys + keys <= keys_max) {
        left.pop_front();
        job.slots.push(slot);
        job.keys += keys;
    }
    Some(job)
}

/// What is tried behind a failure: the same, then its halves, then nothing.
pub(super) fn try_again(job: Job) -> Option<Vec<Job>> {
    let failures = job.failures + 1;
    if failures < FAILURES_MAX {
        return Some(vec![Job { failures, ..job }]);
    }
    if job.halved || job.slots.len() < 2 {
        return None;
    }
    let (one, other) = job.slots.split_at(job.slots.len() / 2);
    let half = |slots: &[Slot]| Job { slots: slots.to_vec(), keys: job.keys / 2, failures: 0, halved: true };
    Some(vec![half(one), half(other)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_go_together_while_their_keys_are_few() {
        let counts = [5, 5, 1, 20, 0, 3];
        let mut left: VecDeque<_> = (0..).filter_map(Slot::new).zip(counts).collect();
        let mut next = |keys_max| next_job(&mut left, keys_max).map(|job| (job.slots.len(), job.keys));
        assert_eq!((next(10), next(4)), (Some((2, 10)), Some((1, 1))));
        assert_eq!((next(4), next(4), next(4)), (Some((1, 20)), Some((2, 3)), None));
    }

    #[test]
    fn failures_make_smaller_jobs_and_then_an_end() {
        let slots = (0..5).filter_map(Slot::new).collect();
        let mut jobs = vec![Job { slots, keys: 100, failures: 0, halved: false }];
        let mut sizes = Vec::new();
        while let Some(again) = try_again(jobs.remove(0)) {
            sizes.push(again.iter().map(|job| job.slots.len()).collect::<Vec<_>>());
            jobs = again;
        }
        assert_eq!(sizes, [vec![5], vec![5], vec![2, 3], vec![2], vec![2]]);
    }
}
