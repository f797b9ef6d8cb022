//! Drives plans: those that were started here, and those that the looks have found.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use super::Parts;
use super::driver::Driver;
use super::look::{Hint, Looks};
use crate::control::Dialer;
use crate::migrate::execute::take_over;
use crate::migrate::record::{Lease, Loaded, NoRecord, Place, Store};

/// Hints to the looks that wait.
const HINTS_MAX: usize = 100;

/// A plan to drive, with the lease that was taken on it.
pub(super) type Start = Box<(Store, Loaded, Lease)>;

/// What the rest of the coordinator tells the task.
pub(super) enum Word {
    /// A plan that was just started here.
    Drive(Start),
    /// Somebody has left an order for this plan.
    Look(Place),
}

/// The plans that are driven here.
#[derive(Clone, Debug, Default)]
pub(super) struct Driven(Arc<Mutex<HashSet<String>>>);

impl Driven {
    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        // A set is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn contains(&self, id: &str) -> bool {
        self.lock().contains(id)
    }

    pub fn insert(&self, id: &str) {
        self.lock().insert(id.to_owned());
    }

    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }
}

pub(super) struct Task {
    parts: Parts,
    words: mpsc::Receiver<Word>,
    events: broadcast::Sender<Arc<str>>,
    driven: Driven,
    drivers: JoinSet<Place>,
}

impl Task {
    pub fn new(parts: Parts, words: mpsc::Receiver<Word>, events: broadcast::Sender<Arc<str>>) -> Task {
        Task { parts, words, events, driven: Driven::default(), drivers: JoinSet::new() }
    }

    /// Until the last handle is gone.
    pub async fn run(mut self) {
        let (hints, hinted) = mpsc::channel(HINTS_MAX);
        // One that was found is driven before the next is looked for.
        let (finds, mut found) = mpsc::channel(1);
        let looks = Looks::new(self.parts.clone(), hinted, self.events.clone(), finds, self.driven.clone());
        // It ends with `hints`.
        tokio::spawn(looks.run());
        loop {
            tokio::select! {
                word = self.words.recv() => match word {
                    None => return,
                    Some(Word::Drive(start)) => self.drive(start, false),
                    Some(Word::Look(place)) => {
                        // When so many wait, the plan is looked at in its turn.
                        let _ = hints.try_send(Hint::Told(place));
                    }
                },
                Some(start) = found.recv() => self.drive(start, true),
                Some(ended) = self.drivers.join_next() => match ended {
                    // It takes hints for as long as this task lives.
                    Ok(place) => drop(hints.send(Hint::LetGo(place)).await),
                    Err(panicked) => tracing::error!(%panicked, "driving a plan"),
                },
            }
        }
    }

    fn drive(&mut self, start: Start, adopted: bool) {
        let (store, loaded, lease) = *start;
        let place = loaded.place.clone();
        self.driven.insert(&place.id);
        let driver = Driver::new(self.parts.clone(), store, loaded, lease, self.events.clone());
        self.drivers.spawn(async move {
            driver.run(adopted).await;
            place
        });
    }
}

/// Ends what earlier drivers have under way, and makes sure of the lease behind that. False: another drives, or it took too long.
pub(super) async fn fence(parts: &Parts, store: &mut Store, place: &Place, lease: &mut Lease) -> Result<bool, NoRecord> {
    Ok(has_no_better(parts, store, lease.token).await? && store.renew(place, lease).await?)
}

/// Ends what drivers with lower tokens have under way, of whichever plan. False when one with a higher token is about: then the record
/// has forgotten tokens, and whoever takes it next has a higher one.
pub(super) async fn has_no_better(parts: &Parts, store: &mut Store, token: u64) -> Result<bool, NoRecord> {
    let Some(map) = parts.topology.current() else { return Ok(true) };
    // A node that hangs must not outlast the lease. It is passed over: whoever moves slots there meets it again.
    let limit = parts.timing.lease / 10;
    let (dial_timeout, reply_timeout) = (limit.min(parts.dialer.dial_timeout), limit.min(parts.dialer.reply_timeout));
    let dialer = Dialer { dial_timeout, reply_timeout, ..parts.dialer.clone() };
    let met = take_over(&dialer, &map, token).await;
    if met > token {
        store.met_token(met).await?;
    }
    Ok(met <= token)
}
