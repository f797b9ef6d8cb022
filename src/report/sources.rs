//! What the proxy can tell of itself, gathered from its parts whenever somebody asks: nothing is counted twice, and nothing on the request path.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::health::Health;
use crate::cluster::SlotMap;
use crate::engine::{Counters, Load};
use crate::net::{Clock, Shared, WorkerStats};
use crate::topology::{TopologyHandle, TopologyStats};

/// The parts that know. Clones are the same ones.
#[derive(Clone)]
pub struct Sources {
    pub shared: Arc<Shared>,
    pub stats: Vec<Arc<Mutex<WorkerStats>>>,
    pub topology: TopologyHandle,
    pub clock: Clock,
    pub limits: Limits,
    /// What the nodes and the plans' record said last.
    pub health: watch::Receiver<Arc<Health>>,
    /// No new clients are to come.
    pub stopping: Arc<AtomicBool>,
}

/// Limits that what is held is to be seen against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub clients: usize,
    pub query_buffer_bytes: usize,
    pub output_buffer_bytes: usize,
    pub lane_buffer_bytes: usize,
}

/// Everything at one moment. The workers' part is a second old at most.
pub struct Facts {
    pub uptime_s: u64,
    pub workers: usize,
    pub connected: u64,
    pub blocked: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub refused_by_address: u64,
    pub without_proxy_header: u64,
    pub counters: Counters,
    pub load: Load,
    pub limits: Limits,
    pub map: Option<Arc<SlotMap>>,
    pub topology: TopologyStats,
    pub health: Arc<Health>,
    /// Resident memory; `None` where the system does not say.
    pub resident_bytes: Option<u64>,
    pub is_ready: bool,
}

impl Sources {
    pub fn facts(&self) -> Facts {
        let mut total = WorkerStats::default();
        for stats in &self.stats {
            // Numbers are whole whoever panicked.
            let stats = *stats.lock().unwrap_or_else(PoisonError::into_inner);
            total.counters += stats.counters;
            total.load += stats.load;
        }
        Facts {
            uptime_s: self.clock.now_us() / 1_000_000,
            workers: self.stats.len(),
            connected: self.shared.connected.load(Relaxed) as u64,
            blocked: self.shared.blocked.load(Relaxed),
            accepted: self.shared.accepted.load(Relaxed),
            rejected: self.shared.rejected.load(Relaxed),
            refused_by_address: self.shared.refused_by_address.load(Relaxed),
            without_proxy_header: self.shared.without_header.load(Relaxed),
            counters: total.counters,
            load: total.load,
            limits: self.limits,
            map: self.topology.current(),
            topology: self.topology.stats(),
            health: self.health.borrow().clone(),
            resident_bytes: resident_bytes(),
            is_ready: self.is_ready(),
        }
    }

    /// Whether a request can be served: there is a slot map with a slot that somebody serves, and no end is near.
    pub fn is_ready(&self) -> bool {
        !self.stopping.load(Relaxed) && self.topology.current().is_some_and(|map| map.served() > 0)
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))?;
    Some(kilobytes.trim().parse::<u64>().ok()? << 10)
}
