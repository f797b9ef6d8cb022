//! A job of the servers while it runs: whether it gets on, and its end when it does not, or when it is not wanted any more.

use std::time::Duration;

use tokio::time::Instant;

use super::atomic::count_keys;
use super::halt::{End, Halt};
use super::jobs::{Entry, cancel};
use super::patience::Trip;
use super::{Event, Executor, Listener, Orders};
use crate::cluster::Slot;

/// Between two counts of what has arrived, and between two tries to end a job.
const COUNT: Duration = Duration::from_secs(1);

/// How a running job looks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signs {
    /// Of each job.
    states: String,
    remaining: u64,
    /// Keys at the target.
    arrived: u64,
}

/// Why a job is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwanted {
    Ordered,
    StoodStill,
}

/// What is known of a job that runs.
#[derive(Debug)]
pub(super) struct Watch {
    signs: Option<Signs>,
    /// They have been so.
    since: Instant,
    arrived: u64,
    counted: Option<Instant>,
    /// When it was to stop first.
    ordered: Option<Instant>,
    /// When it was tried to end it: first, and last.
    tried: Option<(Instant, Instant)>,
}

impl Watch {
    pub fn new() -> Watch {
        Watch { signs: None, since: Instant::now(), arrived: 0, counted: None, ordered: None, tried: None }
    }

    /// What it was doing when it was seen last.
    pub fn states(&self) -> &str {
        self.signs.as_ref().map_or("", |signs| &signs.states)
    }

    /// Why the job is to be cancelled now, if it is: it has stood still for `patience`, or it goes on for `grace` since it was to stop.
    fn verdict(&mut self, now: Instant, signs: Signs, stop: bool, patience: Duration, grace: Duration) -> Option<Unwanted> {
        if self.signs.as_ref() != Some(&signs) {
            (self.signs, self.since) = (Some(signs), now);
        }
        if stop && now - *self.ordered.get_or_insert(now) >= grace {
            return Some(Unwanted::Ordered);
        }
        (now - self.since >= patience).then_some(Unwanted::StoodStill)
    }
}

impl Executor {
    /// Watches the jobs that have these slots, and ends them when they stand still or are not wanted any more: then why.
    pub(super) async fn attend(
        &mut self,
        slots: &[Slot],
        entries: &[Entry],
        watch: &mut Watch,
        orders: &Orders,
        tell: Listener<'_>,
    ) -> Result<Option<Unwanted>, Trip> {
        let now = Instant::now();
        if watch.counted.is_none_or(|at| now - at > COUNT) {
            watch.counted = Some(now);
            watch.arrived = count_keys(self.end(End::Target)?, slots, End::Target).await?.into_iter().sum();
        }
        let states: Vec<&str> = entries.iter().map(|entry| entry.state.as_str()).collect();
        let remaining = entries.iter().map(|entry| entry.remaining).sum();
        let signs = Signs { states: states.join(", "), remaining, arrived: watch.arrived };
        let (patience, grace) = (self.limits.patience, self.limits.doubt);
        let Some(why) = watch.verdict(now, signs, *orders.stop.borrow(), patience, grace) else { return Ok(None) };
        if watch.tried.is_some_and(|(_, last)| now - last < COUNT) {
            return Ok(None);
        }
        let first = watch.tried.map_or(now, |(first, _)| first);
        watch.tried = Some((first, now));
        orders.fence.check()?;
        let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
        let source = self.end(End::Source)?;
        let outcome = cancel(&mut source.connection, &names).await.map_err(Trip::lost(End::Source, &source.id))?;
        let refusal = outcome.as_ref().err().map_or("it goes on although it was cancelled", String::as_str);
        if now - first > patience {
            let why = format!("the job ({}) cannot be ended: {refusal}", watch.states());
            return Err(Trip::Halt(Halt::Stuck { slot: slots[0], why }));
        }
        if outcome.is_err() {
            tell(Event::Waiting { slot: Some(slots[0]), reason: format!("the job cannot be cancelled now: {refusal}") });
        }
        Ok(outcome.is_ok().then_some(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_does_not_get_on() {
        let mut watch = Watch::new();
        let begun = Instant::now();
        let mut at = |seconds: u64, states: &str, arrived: u64, stop: bool| {
            let signs = Signs { states: states.into(), remaining: 0, arrived };
            let now = begun + Duration::from_secs(seconds);
            watch.verdict(now, signs, stop, Duration::from_secs(60), Duration::from_secs(2))
        };
        for step in 0..5 {
            assert_eq!(at(50 * step, "snapshotting", step, false), None, "it gets on");
        }
        assert_eq!(at(259, "snapshotting", 4, false), None);
        assert_eq!(at(260, "snapshotting", 4, false), Some(Unwanted::StoodStill));
        assert_eq!(at(261, "replicating", 4, true), None, "most are over within the grace");
        assert_eq!(at(263, "replicating", 5, true), Some(Unwanted::Ordered), "however much it gets on");
    }
}
