//! Looks for plans that nobody drives, and drives them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Parts;
use super::driver::Driver;
use crate::migrate::execute::take_over;
use crate::migrate::machine::State;
use crate::migrate::record::{Lease, Loaded, NoRecord, Place, Store, Taken};

/// A plan that has ended is looked at again after so long: another instance may have been told something and died.
const REST: Duration = Duration::from_secs(60);
/// Lines of another driver's log that are passed on in one look.
const RELAYED: usize = 200;

/// What the rest of the coordinator tells the task.
pub(super) enum Word {
    /// A plan that was just started here.
    Drive(Box<(Store, Loaded, Lease)>),
    /// Somebody has left an order for this plan.
    Look(Place),
}

pub(super) struct Task {
    pub parts: Parts,
    pub words: mpsc::Receiver<Word>,
    pub events: broadcast::Sender<Arc<str>>,
    store: Store,
    driven: HashSet<String>,
    drivers: JoinSet<Place>,
    /// Plans that have ended, and since when they are known to be.
    resting: HashMap<String, Instant>,
    /// How far the logs of other drivers have been passed on.
    relayed: BTreeMap<String, String>,
    told: Option<NoRecord>,
}

impl Task {
    pub fn new(parts: Parts, words: mpsc::Receiver<Word>, events: broadcast::Sender<Arc<str>>) -> Task {
        let store = parts.store();
        let (driven, drivers) = (HashSet::new(), JoinSet::new());
        Task { parts, words, events, store, driven, drivers, resting: HashMap::new(), relayed: BTreeMap::new(), told: None }
    }

    /// Until the last handle is gone.
    pub async fn run(mut self) {
        let mut looks = interval(self.parts.timing.look());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                word = self.words.recv() => match word {
                    None => return,
                    Some(Word::Drive(start)) => {
                        let (store, loaded, lease) = *start;
                        self.drive(store, loaded, lease, false);
                        Ok(())
                    }
                    Some(Word::Look(place)) => {
                        self.resting.remove(&place.id);
                        self.look_at(&place, None).await
                    }
                },
                Some(ended) = self.drivers.join_next() => {
                    match ended {
                        Ok(place) => self.let_go(&place).await,
                        Err(panicked) => {
                            tracing::error!(%panicked, "driving a plan");
                            Ok(())
                        }
                    }
                }
                _ = looks.tick() => self.look().await,
            };
            match outcome {
                // The same trouble is told once.
                Err(error) if self.told.as_ref() != Some(&error) => {
                    tracing::warn!("plans of migrations: {error}");
                    self.told = Some(error);
                }
                Err(_) => {}
                Ok(()) => self.told = None,
            }
        }
    }

    async fn look(&mut self) -> Result<(), NoRecord> {
        // Nobody is waiting for an answer, so there is no reason to wait for a cluster.
        if self.parts.topology.current().is_none() {
            return Ok(());
        }
        let index = self.store.index().await?;
        self.relayed.retain(|id, _| index.places.iter().any(|place| place.id == *id));
        self.resting.retain(|_, since| since.elapsed() < REST);
        for place in index.places.iter().filter(|place| !self.driven.contains(&place.id)).cloned().collect::<Vec<_>>() {
            // What has ended begins again only as the one that holds slots.
            if index.active.as_deref() == Some(&place.id) || !self.resting.contains_key(&place.id) {
                self.look_at(&place, index.active.as_deref()).await?;
            }
        }
        Ok(())
    }

    /// Goes on with a plan that nobody drives.
    async fn look_at(&mut self, place: &Place, active: Option<&str>) -> Result<(), NoRecord> {
        if self.driven.contains(&place.id) {
            return Ok(());
        }
        let Some(loaded) = self.store.load(place).await? else { return Ok(()) };
        let state = loaded.progress.standing.state;
        if state.is_at_rest() && loaded.orders == 0 {
            if self.relayed.contains_key(&place.id) {
                self.relay(place).await?;
                self.relayed.remove(&place.id);
            }
            if !matches!(state, State::Drafted | State::Blocked) {
                self.resting.insert(place.id.clone(), Instant::now());
            }
            return Ok(());
        }
        if loaded.lease.is_some() {
            return self.relay(place).await;
        }
        if loaded.progress.standing.state.holds_slots() && !self.claim(place, active).await? {
            return Ok(());
        }
        let mut store = self.parts.store();
        let Taken::Ours(lease) = store.take(place).await? else { return Ok(()) };
        // What the last driver wrote in its last moment counts.
        let Some(loaded) = store.load(place).await? else { return Ok(()) };
        if self.relayed.contains_key(&place.id) {
            self.relay(place).await?;
        }
        if let Some(lease) = fence(&self.parts, &mut store, place, lease).await? {
            tracing::info!(plan = place.id, token = lease.token, "going on with a plan that nobody drives");
            self.drive(store, loaded, lease, true);
        }
        Ok(())
    }

    /// Whether no other plan moves slots.
    async fn claim(&mut self, place: &Place, active: Option<&str>) -> Result<bool, NoRecord> {
        let Some(other) = self.store.claim(&place.id, "").await? else { return Ok(true) };
        if active != Some(&other) || self.store.holds_slots(&other).await? {
            return Ok(false);
        }
        Ok(self.store.claim(&place.id, &other).await?.is_none())
    }

    fn drive(&mut self, store: Store, loaded: Loaded, lease: Lease, adopted: bool) {
        let place = loaded.place.clone();
        self.driven.insert(place.id.clone());
        self.relayed.remove(&place.id);
        let driver = Driver::new(self.parts.clone(), store, loaded, lease, self.events.clone());
        self.drivers.spawn(async move {
            driver.run(adopted).await;
            place
        });
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

/// Ends what earlier drivers have under way. None when one with a higher token is about: then this one steps back.
pub(super) async fn fence(parts: &Parts, store: &mut Store, place: &Place, lease: Lease) -> Result<Option<Lease>, NoRecord> {
    let Some(map) = parts.topology.current() else { return Ok(Some(lease)) };
    let met = take_over(&parts.dialer, &map, lease.token).await;
    if met <= lease.token {
        return Ok(Some(lease));
    }
    // The record has forgotten tokens: whoever takes it next has a higher one.
    store.met_token(met).await?;
    store.release(place, &lease).await?;
    Ok(None)
}
