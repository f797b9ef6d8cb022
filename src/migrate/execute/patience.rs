//! How long to go on trying when nothing moves.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::halt::End;
use super::{Event, Halt, Limits, Listener};
use crate::cluster::Slot;
use crate::control::ControlError;
use crate::migrate::recovery::Trouble;

/// The first wait, and what it doubles to.
const WAIT_MIN: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_millis(200);

/// What kept a step from being carried out.
#[derive(Debug)]
pub(super) enum Trip {
    /// An end does not answer, or is not the master any more.
    Lost { end: End, node: Arc<str>, why: String },
    /// An end answered something else than expected; perhaps not for long.
    Refused(String),
    /// The facts are such that only an operator can tell; perhaps not for long.
    Doubt(Trouble),
    /// No use in trying again.
    Halt(Halt),
}

impl Trip {
    pub fn lost(end: End, node: &Arc<str>) -> impl Fn(ControlError) -> Trip + use<> {
        let node = node.clone();
        move |error| Trip::Lost { end, node: node.clone(), why: error.to_string() }
    }
}

impl From<Halt> for Trip {
    fn from(halt: Halt) -> Trip {
        Trip::Halt(halt)
    }
}

/// Counts the time since the last progress.
pub(super) struct Patience {
    since: Option<Instant>,
    next_wait: Duration,
    told: String,
}

impl Patience {
    pub fn new() -> Patience {
        Patience { since: None, next_wait: WAIT_MIN, told: String::new() }
    }

    /// Something moved.
    pub fn renew(&mut self) {
        *self = Patience::new();
    }

    /// Waits a little because of `trip`; ends the leg when it has lasted too long, or when whoever drives wants to stop.
    pub async fn wait(
        &mut self,
        slot: Slot,
        trip: Trip,
        limits: &Limits,
        stop: &watch::Receiver<bool>,
        tell: Listener<'_>,
    ) -> Result<(), Halt> {
        let (limit, why, halt) = match trip {
            Trip::Halt(halt) => return Err(halt),
            Trip::Doubt(trouble) => (limits.doubt, trouble.reason().to_owned(), Halt::Trouble { slot, trouble }),
            Trip::Refused(why) => (limits.patience, why.clone(), Halt::Stuck { slot, why }),
            Trip::Lost { end, node, why } => (limits.patience, why.clone(), Halt::NodeLost { end, node, why }),
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        // A moment is given to everything: most of it passes within a gossip round.
        let ordered = *stop.borrow() && since.elapsed() > limits.doubt;
        if since.elapsed() > limit || ordered {
            return Err(halt);
        }
        if self.told != why && self.next_wait > WAIT_MIN {
            tell(Event::Waiting { slot: Some(slot), reason: why.clone() });
            self.told = why;
        }
        sleep(self.next_wait).await;
        self.next_wait = (self.next_wait * 2).min(WAIT_MAX);
        Ok(())
    }
}
