//! The slot map of the present, kept by one task on the control thread: when the cluster is asked, whom, and whether
//! the answers are believed.
//!
//! ```text
//! hints, interval, ill health ─▶ pace ─▶ targets ─▶ polling (ask) ─▶ cluster::merge ─▶ accept ─▶ watch channel
//! ```
//!
//! The seeds are asked until one knows the cluster, and their names are resolved again whenever they are needed. Its view
//! is published at once, and from then on the masters of the current map are asked.

mod accept;
mod ask;
mod equip;
mod hello;
mod hints;
mod moves;
mod pace;
mod polling;
mod refresher;
mod stats;
mod targets;
#[cfg(test)]
mod tests;
mod wants;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::{AddressMap, Pin, Slot, SlotMap};
use crate::control::{Credentials, Dialer};
use crate::tls::NodeTls;
use equip::Newcomers;
use hints::Hints;
use moves::{Change, Moves};
use pace::{Health, Pace};
use polling::Polling;
use refresher::{Complaints, Refresher};
use stats::Counters;
use wants::Wants;

pub use hints::RefreshCause;
pub use stats::TopologyStats;

/// How to find the cluster and how often to look.
#[derive(Clone, Debug)]
pub struct TopologyConfig {
    /// `host:port` of any of its nodes, or of names that stand for some; a host alone means port 6379.
    pub seeds: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Rules that rewrite announced addresses, see `AddressMap::new`.
    pub address_map: Vec<(String, String)>,
    pub dial_timeout: Duration,
    /// For one node's answer, dialling included.
    pub answer_timeout: Duration,
    /// Between refreshes that nothing else caused.
    pub refresh_interval: Duration,
    /// `None`: nodes are spoken to in plain text.
    pub tls: Option<NodeTls>,
}

impl Default for TopologyConfig {
    fn default() -> TopologyConfig {
        TopologyConfig {
            seeds: Vec::new(),
            username: None,
            password: None,
            address_map: Vec::new(),
            dial_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(1),
            refresh_interval: Duration::from_secs(10),
            tls: None,
        }
    }
}

/// The way to the maps and to the task that makes them. The task ends when the last handle and receiver is gone.
#[derive(Clone, Debug)]
pub struct TopologyHandle {
    maps: watch::Receiver<Option<Arc<SlotMap>>>,
    hints: Arc<Hints>,
    moves: Arc<Moves>,
    wants: Arc<Wants>,
    counters: Arc<Counters>,
}

/// A clock in microseconds, the same as the workers'.
type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Starts the task on the tokio runtime of the caller. `now_us` is the clock of `SlotMap::asked_at_us`, in microseconds.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(config: TopologyConfig, now_us: impl Fn() -> u64 + Send + Sync + 'static) -> TopologyHandle {
    let (published, maps) = watch::channel(None);
    let handle =
        TopologyHandle { maps, hints: Arc::default(), moves: Arc::default(), wants: Arc::default(), counters: Arc::default() };
    let dialer = Dialer {
        credentials: Credentials { username: config.username, password: config.password },
        dial_timeout: config.dial_timeout,
        reply_timeout: config.answer_timeout,
        tls: config.tls,
    };
    let refresher = Refresher {
        seeds: config.seeds,
        rules: AddressMap::new(config.address_map),
        interval: config.refresh_interval,
        now_us: Arc::new(now_us),
        polling: Polling::new(dialer, config.answer_timeout),
        hints: handle.hints.clone(),
        moves: handle.moves.clone(),
        pins: Vec::new(),
        held: Vec::new(),
        counters: handle.counters.clone(),
        published,
        pace: Pace::default(),
        silences: Complaints::default(),
        refusals: Complaints::default(),
        thorough: false,
        newcomers: Newcomers::default(),
        health: Health::Unserved,
        steady_since: Instant::now(),
    };
    tokio::spawn(refresher.run());
    handle
}

impl TopologyHandle {
    /// The maps as they are published, `None` until the cluster was found. Every successful refresh publishes one; only
    /// one that says something new has a new `version`.
    pub fn maps(&self) -> watch::Receiver<Option<Arc<SlotMap>>> {
        self.maps.clone()
    }

    /// The latest map.
    pub fn current(&self) -> Option<Arc<SlotMap>> {
        self.maps.borrow().clone()
    }

    /// Says that the map may be out of date. Cheap, from any thread; a refresh follows within 20 to 250 ms of the last.
    pub fn hint(&self, cause: RefreshCause) {
        self.hints.give(cause);
    }

    /// Says that these slots belong to this node from now on, because it was just made their owner: the map says so at once, without
    /// asking anybody. A node that the map does not hold changes nothing.
    pub fn slots_moved(&self, slots: &[Slot], to: &Arc<str>) {
        slots.iter().for_each(|slot| self.wants.serve(*slot, false));
        self.moves.add(slots.iter().map(|slot| Change::Owner(*slot, to.clone())));
    }

    /// Says that a slot is being moved: from now on requests for it go to no other node than these two, until it is moved or unpinned.
    pub fn pin(&self, slot: Slot, ends: [Arc<str>; 2]) {
        self.wants.serve(slot, true);
        self.moves.add([Change::Pin(Pin { slot, ends })]);
    }

    /// Takes a pin back.
    pub fn unpin(&self, slot: Slot) {
        self.wants.serve(slot, false);
        self.moves.add([Change::Unpin(slot)]);
    }

    /// Says that a request waits until these keys of a slot are on one node. Cheap, from any thread; how many are remembered is bounded.
    pub fn want(&self, slot: Slot, keys: impl IntoIterator<Item = Bytes>) {
        self.wants.want(slot, keys);
    }

    /// Takes the keys of a slot that are wanted.
    pub fn wanted(&self, slot: Slot) -> Vec<Bytes> {
        self.wants.take(slot)
    }

    /// Until keys may be wanted of a slot that is pinned here.
    pub async fn wants_arrived(&self) {
        self.wants.arrived().await;
    }

    /// Takes the wanted keys of all slots that are not pinned here.
    pub fn wanted_of_others(&self) -> Vec<Bytes> {
        self.wants.take_others()
    }

    /// Whether any slot is pinned here.
    pub fn has_pins(&self) -> bool {
        self.wants.serves()
    }

    /// Says which slots are being moved by whichever proxy, and between whom: as `pin`, until it is said anew. Pins go before.
    pub fn hold(&self, held: Vec<Pin>) {
        self.moves.add([Change::Hold(held)]);
    }

    /// A map whose questions were sent at `since_us` or later, refreshed for the purpose. `None` when the task has ended. It
    /// waits for as long as nobody answers, so callers limit it.
    pub async fn confirmed_since(&self, since_us: u64) -> Option<Arc<SlotMap>> {
        let mut maps = self.maps.clone();
        let fresh = |map: &Option<Arc<SlotMap>>| map.as_ref().is_some_and(|map| map.asked_at_us >= since_us);
        if !fresh(&maps.borrow()) {
            self.hint(RefreshCause::Asked);
        }
        maps.wait_for(fresh).await.ok()?.clone()
    }

    pub fn stats(&self) -> TopologyStats {
        self.counters.read()
    }
}
