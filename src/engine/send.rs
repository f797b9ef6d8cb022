//! Sending: from a target to a lane, and a request onto it.

use bytes::Bytes;

use crate::{
    cluster::Slot,
    resp::{ReplyScanner, encode},
};

use super::{
    Engine, Event,
    ids::{LaneId, Micros, NONE, NodeId, Ticket},
    lane::{Lane, Role, Via},
    pipe::LARGE_FRAME,
    pump::Retry,
    session::State,
    since::has_subcommands,
};

/// Frames from this size on take the node's bulk lane, so that they do not delay small ones behind them.
pub const BULK_FRAME: usize = 64 * 1024;

/// Where a request goes. A slot's or "any" node is looked up anew each time the request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The owner of this slot, which is the request's own.
    Slot(Slot),
    /// A request without a slot: any master will do, this slot's owner is taken.
    Any(Slot),
    /// One part of a fan-out: this node.
    Node(NodeId),
    /// Any node will do, but this one is best while it lives; else this slot's owner.
    Prefer(NodeId, Slot),
}

impl Target {
    pub fn slot(self) -> Option<Slot> {
        match self {
            Target::Slot(slot) => Some(slot),
            Target::Any(_) | Target::Node(_) | Target::Prefer(..) => None,
        }
    }

    /// The slot among whose requests it keeps its place. A message has that of its channel, wherever it is published.
    pub fn order(self) -> Option<Slot> {
        match self {
            Target::Slot(slot) | Target::Prefer(_, slot) => Some(slot),
            Target::Any(_) | Target::Node(_) => None,
        }
    }
}

/// Why a request cannot be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// No owner is known, or the node has left the cluster: the next map may tell.
    NoNode,
    /// The node could not be reached; it is dialled again at this moment.
    DialAfter(Micros),
    /// As many private lanes as may be are leased.
    LanesUsedUp,
    /// Another lane has to be there before; its opening is told.
    Soon,
}

impl Engine {
    /// The node that a target means under the present map.
    pub(super) fn resolve(&self, target: Target) -> Option<NodeId> {
        match target {
            Target::Slot(slot) | Target::Any(slot) => self.table.owner(slot),
            Target::Prefer(node, slot) => match self.table.nodes.get(usize::from(node.0)) {
                Some(entry) if entry.in_map && !entry.failed => Some(node),
                _ => self.table.owner(slot),
            },
            Target::Node(node) => self.table.nodes.get(usize::from(node.0)).filter(|entry| entry.in_map).map(|_| node),
        }
    }

    /// The lane to a node, dialled if need be.
    #[inline]
    pub(super) fn lane_to(&mut self, node: NodeId, via: Via, bulk: bool) -> Result<u32, NotNow> {
        match self.table.node(node).lane(via, bulk) {
            NONE => self.dial_shared(node, via, bulk),
            known => Ok(known),
        }
    }

    #[cold]
    fn dial_shared(&mut self, node: NodeId, via: Via, bulk: bool) -> Result<u32, NotNow> {
        if bulk && self.trackers.client_of(via.user).is_some() {
            // A tracking client has one lane to a node, so that the node knows what is its own doing.
            return self.lane_to(node, via, false);
        }
        let index = self.dial(node, via, Role::Shared { bulk })?;
        self.table.node(node).set_lane(via, bulk, index);
        Ok(index)
    }

    /// A new lane, unless its node was found out of reach a moment ago.
    pub(super) fn dial(&mut self, node: NodeId, via: Via, role: Role) -> Result<u32, NotNow> {
        let entry = self.table.node(node);
        if entry.dial_after_us > self.now {
            return Err(NotNow::DialAfter(entry.dial_after_us));
        }
        let words = match role {
            Role::Shared { .. } | Role::Private(_) => self.tracking_words(node, via)?,
            Role::Monitor { .. } => Some(vec![b"MONITOR".to_vec()]),
            Role::Push => None,
        };
        let entry = self.table.node(node);
        let index = self.lanes.vacant_key() as u32;
        self.lanes_made = self.lanes_made.wrapping_add(1);
        let id = LaneId { index, unique: self.lanes_made };
        self.events.push_back(Event::Dial { lane: id, addr: entry.addr.clone() });
        let mut lane = Lane::new(id, node, via, role, self.users.login(via.user), words, self.now);
        if self.trackers.client_of(via.user).is_some() && self.persona().is_some_and(|persona| !has_subcommands(persona)) {
            lane.scanner = ReplyScanner::with_asides();
        }
        self.lanes.insert(lane);
        self.table.node(node).lane_made();
        Ok(index)
    }

    /// Queues one request on a lane. `write` appends its bytes; `lead` replies come before its own.
    #[inline]
    pub(super) fn queue(&mut self, lane_index: u32, ticket: Ticket, retry: u32, lead: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let lane = &mut self.lanes[lane_index as usize];
        lane.enqueue(ticket, retry, lead, self.now, write);
        self.agenda.write_lane(lane);
    }

    /// As `queue`, for a large frame that is not copied.
    pub(super) fn queue_large(&mut self, lane_index: u32, ticket: Ticket, retry: u32, lead: u32, frame: Bytes) {
        self.queue(lane_index, ticket, retry, lead, |_| {});
        self.lanes[lane_index as usize].pipe.push_large(frame);
    }

    /// Sends a held request to a lane, behind ASKING if it must be.
    pub(super) fn queue_retry(&mut self, lane_index: u32, retry_index: u32, asking: bool) {
        let retry = &self.retries[retry_index as usize];
        if retry.block.is_some() {
            return self.queue_blocking(lane_index, retry_index, asking);
        }
        let (ticket, frame, wrapped) = (retry.ticket, retry.frame.clone(), retry.wrapped);
        let lead = retry.lead + u32::from(asking) + if wrapped { 2 } else { 0 };
        if frame.len() >= LARGE_FRAME && !asking && !wrapped {
            self.queue_large(lane_index, ticket, retry_index, lead, frame);
        } else {
            self.queue(lane_index, ticket, retry_index, lead, |out| {
                if asking {
                    encode::command(out, &[b"ASKING"]);
                }
                if wrapped {
                    encode::command(out, &[b"MULTI"]);
                }
                out.extend_from_slice(&frame);
                if wrapped {
                    encode::command(out, &[b"EXEC"]);
                }
            });
        }
    }

    /// Sends one part of a reply, or holds it until it can be sent.
    pub(super) fn send_part(&mut self, ticket: Ticket, target: Target, via: Via, lead: u32, write: impl FnOnce(&mut Vec<u8>)) {
        match self.lane_of(target, via) {
            Some(lane) => {
                self.queue(lane, ticket, NONE, lead, write);
                self.set_state(ticket, State::Sent { lane });
            }
            None => self.hold_part(ticket, target, via, lead, write),
        }
    }

    /// The lane that a part takes, if it can be sent now.
    #[inline]
    pub(super) fn lane_of(&mut self, target: Target, via: Via) -> Option<u32> {
        let node = self.resolve(target)?;
        self.lane_to(node, via, false).ok()
    }

    pub(super) fn hold_part(&mut self, ticket: Ticket, target: Target, via: Via, lead: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let mut frame = Vec::new();
        write(&mut frame);
        self.hold_fresh(ticket, target, via, lead, frame.into(), 0);
    }

    /// A request that could not be sent yet waits with its own copy of its bytes, until this moment at least.
    pub(super) fn hold_fresh(&mut self, ticket: Ticket, target: Target, via: Via, lead: u32, frame: Bytes, not_before: Micros) {
        let arrived = self.clients[ticket.client as usize].reply(ticket.seq).arrived;
        let retry = Retry::new(ticket, frame, target, via, lead, arrived + self.settings.retry_deadline_us);
        self.hold(retry.after(not_before));
    }

    /// Where the reply or part that a ticket names stands now.
    pub(super) fn set_state(&mut self, ticket: Ticket, state: State) {
        let reply = self.clients[ticket.client as usize].reply(ticket.seq);
        match reply.state {
            State::Merging { merge } if ticket.part != NONE => {
                self.merges[merge as usize].parts[ticket.part as usize].state = state
            }
            _ => reply.state = state,
        }
    }

    /// Whether clients may queue more on this lane.
    pub(super) fn has_room(&self, lane_index: u32) -> bool {
        self.lanes[lane_index as usize].pipe.held() <= self.settings.lane_buffer_max
    }
}
