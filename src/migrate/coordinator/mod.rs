//! The coordinator of one instance: what operators ask of plans, and the task that drives them.

mod driver;
mod forget;
mod freed;
mod held;
mod look;
mod orders;
mod refused;
mod repair;
mod sentry;
mod settings;
mod tally;
mod task;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};

use super::Inventory;
use super::draft::{Draft, Request, draft};
use super::record::{Loaded, LogLine, Store, Timing};
use super::survey::survey;
use crate::control::Dialer;
use crate::topology::TopologyHandle;

use task::{Task, Word};

pub use orders::ThrottleChange;
pub use refused::Refused;

/// Words to the task that wait.
const WORDS_MAX: usize = 100;
/// Lines that a listener may be behind; who is further behind misses some.
const EVENTS_MAX: usize = 1024;

/// What a coordinator works with.
#[derive(Clone)]
pub struct Parts {
    pub topology: TopologyHandle,
    /// Makes connections as the proxy's own account.
    pub dialer: Dialer,
    /// The clock of `SlotMap::asked_at_us`.
    pub now_us: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub timing: Timing,
    /// The name of this process among all before the cluster.
    pub instance: String,
    /// The 99th percentile of PING that is never held against a node.
    pub latency_limit: Duration,
    /// What has moved goes back when slots have been uncovered for so long, if ever.
    pub back_when_uncovered: Option<Duration>,
}

impl Parts {
    fn store(&self) -> Store {
        Store::new(self.topology.clone(), self.dialer.clone(), self.timing, self.instance.clone())
    }
}

/// The way to the coordinator. Clones are the same one.
#[derive(Clone)]
pub struct Coordinator {
    parts: Parts,
    words: mpsc::Sender<Word>,
    events: broadcast::Sender<Arc<str>>,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("instance", &self.parts.instance).finish()
    }
}

impl Coordinator {
    /// The coordinator, and its task: it looks after plans for as long as it is run.
    pub fn new(parts: Parts) -> (Coordinator, impl Future<Output = ()> + Send + 'static) {
        let (words, taken) = mpsc::channel(WORDS_MAX);
        let events = broadcast::Sender::new(EVENTS_MAX);
        let task = Task::new(parts.clone(), taken, events.clone());
        let holding = held::hold_open_slots(parts.clone());
        let both = async move {
            tokio::select! {
                () = task.run() => {}
                () = holding => {}
            }
        };
        (Coordinator { parts, words, events }, both)
    }

    fn store(&self) -> Store {
        self.parts.store()
    }

    /// A line for everything that happens to plans, from now on: the plan's id first.
    pub fn events(&self) -> broadcast::Receiver<Arc<str>> {
        self.events.subscribe()
    }

    /// Asks every node for everything.
    async fn inventory(&self) -> Result<Inventory, Refused> {
        let map = self.parts.topology.current().ok_or(Refused::NoMap)?;
        Ok(survey(&self.parts.dialer, &map).await)
    }

    /// Makes a plan and writes it down, unless nothing is to be moved. Moves nothing.
    pub async fn plan(&self, request: &Request) -> Result<Draft, Refused> {
        let inventory = self.inventory().await?;
        let draft = draft(&self.parts.dialer, &inventory, request).await?;
        if !draft.plan.batches.is_empty() {
            self.store().draft(&draft.plan).await?;
        }
        Ok(draft)
    }

    /// The plan of this name, or the one that is most of interest: that which holds slots, else the latest.
    pub async fn status(&self, name: Option<&str>) -> Result<Loaded, Refused> {
        let mut store = self.store();
        if let Some(name) = name {
            return Ok(store.find(name).await?);
        }
        let index = store.index().await?;
        if let Some(active) = index.places.iter().find(|place| index.active.as_ref() == Some(&place.id))
            && let Some(loaded) = store.load(active).await?
            && loaded.progress.standing.state.holds_slots()
        {
            return Ok(loaded);
        }
        store.all().await?.into_iter().next().ok_or(Refused::NoPlans)
    }

    /// All plans, the latest first.
    pub async fn list(&self) -> Result<Vec<Loaded>, Refused> {
        Ok(self.store().all().await?)
    }

    /// The latest lines of a plan's log, the oldest first.
    pub async fn log(&self, name: &str, count: usize) -> Result<Vec<LogLine>, Refused> {
        let mut store = self.store();
        let loaded = store.find(name).await?;
        Ok(store.log(&loaded.place, count).await?)
    }

    /// Where nodes are, by their ids: for people.
    pub fn address(&self, id: &str) -> Option<String> {
        let map = self.parts.topology.current()?;
        map.find_id(id).map(|node| map.node(node).addr.to_string())
    }
}
