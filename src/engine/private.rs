//! Private lanes: connections that serve one client at a time, for what cannot share one (a blocking command, WATCH).

use super::{
    Engine, Event,
    ids::{Micros, NodeId},
    lane::{Lease, Role, Via},
    send::NotNow,
};

/// An idle private lane is kept so long for the next that needs one.
const IDLE_US: Micros = 30_000_000;

/// Which private lanes there are.
#[derive(Default)]
pub(super) struct PrivateLanes {
    /// Open and nobody's, those that were given back last at the end.
    idle: Vec<u32>,
    /// All of them.
    count: usize,
}

impl PrivateLanes {
    /// Whether so many more may be.
    pub fn has_room_for(&self, more: usize, max: usize) -> bool {
        self.count - self.idle.len() + more <= max
    }

    /// A lane that is a client's own in another way counts as well.
    pub fn note_made(&mut self) {
        self.count += 1;
    }

    pub fn note_gone(&mut self) {
        self.count -= 1;
    }

    /// A lane of this lease is gone.
    pub fn forget(&mut self, lane: u32, lease: Lease) {
        self.count -= 1;
        if matches!(lease, Lease::Idle { .. }) {
            self.idle.retain(|idle| *idle != lane);
        }
    }
}

impl Engine {
    /// Leases a private lane to a node: an idle one, or a new one while there may be more.
    pub(super) fn lease(&mut self, node: NodeId, via: Via, lease: Lease) -> Result<u32, NotNow> {
        let fits = |lane: &u32| {
            let lane = &self.lanes[*lane as usize];
            lane.node == node && lane.via == via
        };
        if let Some(place) = self.private.idle.iter().rposition(fits) {
            let lane = self.private.idle.remove(place);
            self.lanes[lane as usize].role = Role::Private(lease);
            return Ok(lane);
        }
        if self.private.count >= self.settings.private_lanes_max {
            // One that waits for somebody else makes room.
            match self.private.idle.first() {
                Some(oldest) => self.retire(*oldest),
                None => return Err(NotNow::LanesUsedUp),
            }
        }
        let lane = self.dial(node, via, Role::Private(lease))?;
        self.private.count += 1;
        Ok(lane)
    }

    /// Whether so many more can be leased.
    pub(super) fn private_lanes_left(&self, wanted: usize) -> bool {
        self.private.count - self.private.idle.len() + wanted <= self.settings.private_lanes_max
    }

    /// Ends a lease, when nothing is in flight. Whoever calls it vouches for the connection's state being as new.
    pub(super) fn give_back(&mut self, index: u32) {
        let lane = &mut self.lanes[index as usize];
        debug_assert!(lane.queue.is_empty());
        if lane.unblocks > 0 {
            lane.role = Role::Private(Lease::Settling);
        } else if lane.is_open() {
            lane.role = Role::Private(Lease::Idle { since: self.now });
            debug_assert!(!self.private.idle.contains(&index));
            self.private.idle.push(index);
        } else {
            self.retire(index);
        }
    }

    /// Closes a private lane that nobody waits for.
    pub(super) fn retire(&mut self, index: u32) {
        let lane = self.lanes.remove(index as usize);
        debug_assert!(lane.queue.is_empty());
        self.table.node(lane.node).lane_closed();
        if let Role::Private(lease) = lane.role {
            self.private.forget(index, lease);
        }
        self.events.push_back(Event::CloseLane { lane: lane.id });
        if !self.trackers.is_empty() {
            self.tracking_lane_lost(index, lane.node, lane.via);
        }
    }

    /// Closes lanes that nobody has needed for a while.
    pub(super) fn sweep_private_lanes(&mut self) {
        let now = self.now;
        while let Some(oldest) = self.private.idle.first().copied() {
            match self.lanes[oldest as usize].role {
                Role::Private(Lease::Idle { since }) if since + IDLE_US < now => self.retire(oldest),
                _ => break,
            }
        }
    }
}
