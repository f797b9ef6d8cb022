//! Looks for plans that nobody drives, and passes on what other instances log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Parts;
use super::task::{Driven, Start, fence};
use crate::migrate::record::{NoRecord, Place, Store, Taken};

/// A plan that has ended, or was not begun, is looked at again after so long: another instance may have been told something and died.
const REST: Duration = Duration::from_secs(60);
/// Plans that one look reads, beside the one that holds slots: the rest are the next one's.
const READS_MAX: usize = 50;
/// Lines of another driver's log that are passed on in one look.
const RELAYED: usize = 200;

/// What the looks are told.
pub(super) enum Hint {
    /// Somebody has left an order for this plan.
    Told(Place),
    /// It is not driven here any more.
    LetGo(Place),
}

/// A task of its own: a record that does not answer for seconds holds nothing up but the looks.
pub(super) struct Looks {
    parts: Parts,
    store: Store,
    hints: mpsc::Receiver<Hint>,
    events: broadcast::Sender<Arc<str>>,
    found: mpsc::Sender<Start>,
    driven: Driven,
    /// Plans that have ended or were not begun, and since when they are known to be.
    resting: HashMap<String, Instant>,
    /// The last plan that was read: the next look goes on behind it.
    last: String,
    /// How far the logs of other drivers have been passed on.
    relayed: BTreeMap<String, String>,
    /// Troubles that were told, by plan; the index has none.
    told: BTreeMap<String, NoRecord>,
}

impl Looks {
    pub fn new(
        parts: Parts,
        hints: mpsc::Receiver<Hint>,
        events: broadcast::Sender<Arc<str>>,
        found: mpsc::Sender<Start>,
        driven: Driven,
    ) -> Looks {
        let store = parts.store();
        let (resting, last, relayed, told) = (HashMap::new(), String::new(), BTreeMap::new(), BTreeMap::new());
        Looks { parts, store, hints, events, found, driven, resting, last, relayed, told }
    }

    /// Until nobody hints any more.
    pub async fn run(mut self) {
        let mut looks = interval(self.parts.timing.look());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (about, outcome) = tokio::select! {
                hint = self.hints.recv() => match hint {
                    None => return,
                    Some(Hint::Told(place)) => {
                        self.resting.remove(&place.id);
                        let outcome = self.look_at(&place).await;
                        (place.id, outcome)
                    }
                    Some(Hint::LetGo(place)) => {
                        let outcome = self.let_go(&place).await;
                        (place.id, outcome)
                    }
                },
                _ = looks.tick() => (String::new(), self.look().await),
            };
            self.tell(about, outcome);
        }
    }

    /// The same trouble is told once.
    fn tell(&mut self, about: String, outcome: Result<(), NoRecord>) {
        match outcome {
            Ok(()) => drop(self.told.remove(&about)),
            Err(error) if self.told.get(&about) != Some(&error) => {
                tracing::warn!("plans of migrations: {error}");
                self.told.insert(about, error);
            }
            Err(_) => {}
        }
    }

    /// Looks at all plans. One that cannot be read is no reason to leave the others alone.
    async fn look(&mut self) -> Result<(), NoRecord> {
        // Nobody is waiting for an answer, so there is no reason to wait for a cluster.
        if self.parts.topology.current().is_none() {
            return Ok(());
        }
        let index = self.store.index().await?;
        let is_known = |id: &String| index.places.iter().any(|place| place.id == *id);
        self.relayed.retain(|id, _| is_known(id));
        self.told.retain(|id, _| id.is_empty() || is_known(id));
        self.resting.retain(|_, since| since.elapsed() < REST);
        let is_active = |place: &Place| index.active.as_ref() == Some(&place.id);
        // The one that holds slots comes first: it may have lost its driver with the node that has the record of another.
        let (first, mut rest): (Vec<&Place>, Vec<&Place>) = index.places.iter().partition(|place| is_active(place));
        let behind = rest.partition_point(|place| place.id <= self.last);
        rest.rotate_left(behind);
        // What has ended begins again only as the one that holds slots, and so does what was not begun.
        rest.retain(|place| !self.resting.contains_key(&place.id) && !self.driven.contains(&place.id));
        rest.truncate(READS_MAX);
        if let Some(last) = rest.last() {
            self.last = last.id.clone();
        }
        let mut silent = BTreeSet::new();
        for place in first.into_iter().chain(rest) {
            if silent.contains(&self.store.owner(place)) {
                continue;
            }
            let outcome = self.look_at(place).await;
            if let Err(NoRecord::Unreachable(_)) = outcome {
                silent.insert(self.store.owner(place));
            }
            self.tell(place.id.clone(), outcome);
        }
        Ok(())
    }

    /// Goes on with a plan that nobody drives.
    async fn look_at(&mut self, place: &Place) -> Result<(), NoRecord> {
        if self.driven.contains(&place.id) {
            return Ok(());
        }
        let Some(loaded) = self.store.load(place).await? else { return self.store.forget(place).await };
        let state = loaded.progress.standing.state;
        if state.is_at_rest() && loaded.orders == 0 {
            if self.relayed.contains_key(&place.id) {
                self.relay(place).await?;
                self.relayed.remove(&place.id);
            }
            self.resting.insert(place.id.clone(), Instant::now());
            return Ok(());
        }
        // When it holds slots no more it is still looked at.
        self.resting.remove(&place.id);
        if loaded.lease.is_some() {
            return self.relay(place).await;
        }
        self.take_up(place).await
    }

    async fn take_up(&mut self, place: &Place) -> Result<(), NoRecord> {
        let mut store = self.parts.store();
        let Taken::Ours(mut lease) = store.take(place).await? else { return Ok(()) };
        // What the last driver wrote in its last moment counts.
        let Some(loaded) = store.load(place).await? else { return Ok(()) };
        if self.relayed.contains_key(&place.id) {
            self.relay(place).await?;
        }
        // Only what moves slots must be alone: a plan at rest that is told something is no reason to disturb one that runs.
        if loaded.progress.standing.state.holds_slots() {
            let is_free = store.claim(&place.id).await?.is_none();
            if !is_free || !fence(&self.parts, &mut store, place, &mut lease).await? {
                return store.release(place, &lease).await;
            }
        }
        tracing::info!(plan = place.id, token = lease.token, "going on with a plan that nobody drives");
        self.driven.insert(&place.id);
        self.relayed.remove(&place.id);
        // When nobody takes it, this task ends in a moment, too.
        let _ = self.found.send(Box::new((store, loaded, lease))).await;
        Ok(())
    }

    /// A plan that was driven here: what it has said itself is not passed on again.
    async fn let_go(&mut self, place: &Place) -> Result<(), NoRecord> {
        self.driven.remove(&place.id);
        if let Some(last) = self.store.log(place, 1).await?.pop() {
            self.relayed.insert(place.id.clone(), last.id);
        }
        Ok(())
    }

    /// Passes on what another instance has logged, for those who listen here.
    async fn relay(&mut self, place: &Place) -> Result<(), NoRecord> {
        let lines = match self.relayed.get(&place.id) {
            Some(since) => self.store.log_since(place, since, RELAYED).await?,
            None => self.store.log(place, RELAYED).await?,
        };
        if let Some(last) = lines.last() {
            self.relayed.insert(place.id.clone(), last.id.clone());
        }
        for line in lines {
            // They may have gone meanwhile.
            let _ = self.events.send(format!("{} {}", place.id, line.text).into());
        }
        Ok(())
    }
}
