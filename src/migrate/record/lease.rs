//! PURE. The right to drive a plan, for a while.

use std::time::{Duration, Instant};

/// How long a lease holds, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub lease: Duration,
}

impl Timing {
    /// Between two renewals.
    pub fn renewal(self) -> Duration {
        self.lease / 3
    }

    /// Between two looks at plans that nobody drives, and at orders.
    pub fn look(self) -> Duration {
        self.lease / 5
    }

    /// A holder stops so much earlier than its lease ends, for what is still under way.
    pub fn margin(self) -> Duration {
        self.lease / 5
    }
}

/// One holder's lease on one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Rises with every holder: what comes with a lower one is refused.
    pub token: u64,
    /// Who holds it; no two are the same.
    pub holder: String,
    /// Lines of log that were written under it, or dropped.
    pub lines: usize,
    /// By this process's own clock, which nobody sets.
    good_until: Instant,
}

impl Lease {
    /// A lease that was asked for at `asked` holds from then on at the earliest.
    pub fn new(token: u64, holder: String, asked: Instant, timing: Timing) -> Lease {
        let mut lease = Lease { token, holder, lines: 0, good_until: asked };
        lease.renewed(asked, timing);
        lease
    }

    pub fn renewed(&mut self, asked: Instant, timing: Timing) {
        self.good_until = self.good_until.max(asked + timing.lease - timing.margin());
    }

    /// When the holder must have stopped, unless it renews.
    pub fn good_until(&self) -> Instant {
        self.good_until
    }

    pub fn is_good(&self, now: Instant) -> bool {
        now < self.good_until
    }

    /// As it stands in the cluster.
    pub fn text(&self) -> String {
        format!("{} {}", self.token, self.holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_stops_before_another_may_begin() {
        let timing = Timing { lease: Duration::from_secs(10) };
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut lease = Lease::new(7, "a".into(), start, timing);
        assert!(lease.is_good(at(7)) && !lease.is_good(at(8)), "the cluster lets go at 10 at the earliest");
        lease.renewed(at(3), timing);
        assert!(lease.is_good(at(10)) && !lease.is_good(at(11)));
        lease.renewed(at(1), timing);
        assert!(lease.is_good(at(10)), "an old reply takes nothing away");
        assert_eq!(lease.text(), "7 a");
    }
}
