//! What an engine holds, counted.

use std::ops::AddAssign;

use super::Engine;

/// See [`Engine::load`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub clients: usize,
    pub lanes: usize,
    pub owed: usize,
    pub waiting: usize,
    pub merges: usize,
    pub output_bytes: usize,
    pub input_bytes: usize,
    pub lane_bytes: usize,
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        self.clients += other.clients;
        self.lanes += other.lanes;
        self.owed += other.owed;
        self.waiting += other.waiting;
        self.merges += other.merges;
        self.output_bytes += other.output_bytes;
        self.input_bytes += other.input_bytes;
        self.lane_bytes += other.lane_bytes;
    }
}

impl Engine {
    /// What is alive, for tests and statistics: clients, lanes, owed replies, waiting requests, bytes held.
    pub fn load(&self) -> Load {
        Load {
            clients: self.clients.len(),
            lanes: self.lanes.len(),
            owed: self.clients.iter().map(|(_, session)| session.owed()).sum(),
            waiting: self.retries.len(),
            merges: self.merges.len(),
            output_bytes: self
                .clients
                .iter()
                .filter_map(|(_, session)| session.active.as_ref())
                .map(|active| active.output_held())
                .sum(),
            input_bytes: self
                .clients
                .iter()
                .filter_map(|(_, session)| session.active.as_ref())
                .map(|active| active.input.len())
                .sum(),
            lane_bytes: self.lanes.iter().map(|(_, lane)| lane.pipe.held()).sum(),
        }
    }
}
