//! When to look at whose waiting requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::ids::Micros;

/// Look at this client's waiting requests at this moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Timer {
    pub at: Micros,
    pub client: u32,
}

/// The next comes first.
#[derive(Default)]
pub struct TimerQueue(BinaryHeap<Reverse<(Micros, u32)>>);

impl TimerQueue {
    pub fn push(&mut self, timer: Timer) {
        self.0.push(Reverse((timer.at, timer.client)));
    }

    pub fn next(&self) -> Option<Micros> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    pub fn pop_due(&mut self, now: Micros) -> Option<u32> {
        let due = self.next().is_some_and(|at| at <= now);
        due.then(|| self.0.pop()).flatten().map(|Reverse((_, client))| client)
    }
}
