//! Lanes that broke: what becomes of the requests that were under way on them.

use bytes::Bytes;

use crate::command;

use super::{
    Engine, Event, LaneId, RefreshCause,
    answer::lane_mut,
    ids::{ClientId, NONE},
    lane::{InFlight, LaneState, Role, Stream, Via},
    pump::name_of,
    retry::{Asked, Verdict, on_lane_lost},
    session::{Ending, State},
    tracking::NOBODY,
    transaction::{LANE_LOST, only_reads},
};

impl Engine {
    /// The driver lost a lane, or never reached its node.
    pub fn lane_lost(&mut self, lane: LaneId) {
        if lane_mut(&mut self.lanes, lane).is_some() {
            self.lose_lane(lane.index);
        }
        self.settle();
    }

    /// The engine itself gives a lane up.
    pub(super) fn give_lane_up(&mut self, index: u32) {
        self.events.push_back(Event::CloseLane { lane: self.lanes[index as usize].id });
        self.lose_lane(index);
    }

    fn lose_lane(&mut self, index: u32) {
        let mut lane = self.lanes.remove(index as usize);
        let now = self.now;
        let node = self.table.node(lane.node);
        match lane.role {
            Role::Shared { bulk } => node.set_lane(lane.via, bulk, NONE),
            Role::Private(lease) => self.private.forget(index, lease),
            Role::Push => self.push_lane_lost(index, &lane),
            Role::Monitor { client } => self.monitor_lane_lost(lane.id, client),
        }
        let node = self.table.node(lane.node);
        node.lane_closed();
        // Also when it was open before: a node that closes at once is not dialled in a tight loop.
        node.dial_failed(now);
        self.counters.lost_lanes += 1;
        self.refresh(RefreshCause::LaneLost);
        for client in std::mem::take(&mut lane.blocked) {
            self.resume_later(client);
        }
        let streaming = lane.stream;
        let queue = std::mem::take(&mut lane.queue);
        if lane.role == Role::Push {
            return;
        }
        let mut frames = lane.pipe.frames();
        for (place, entry) in queue.into_iter().enumerate() {
            let (large, (small, small_written)) =
                (entry.is_large().then(|| frames.next_large()), frames.next_small(entry.len as usize));
            let written = small_written && large.is_none_or(|(_, written)| written) && lane.state == LaneState::Open;
            if entry.ticket == NOBODY {
                self.nobody_answered(lane.via.user);
                continue;
            }
            if place == 0 && streaming == Stream::Direct {
                self.cut_half_told(&entry);
                continue;
            }
            let frame = || large.map_or_else(|| Bytes::copy_from_slice(small), |(frame, _)| frame.clone());
            if lane.role.is_pinned() && entry.retry == NONE && (!written || self.is_internal_read(&entry)) {
                self.deliver(entry.ticket, LANE_LOST);
                continue;
            }
            self.lost_request(&entry, written, lane.via, frame);
        }
        if !self.trackers.is_empty() && lane.state == LaneState::Open {
            self.tracking_lane_lost(index, lane.node, lane.via);
        }
    }

    /// Part of its reply was told already: the client can only be cut off.
    fn cut_half_told(&mut self, entry: &InFlight) {
        self.drop_retry(entry.retry);
        let client = entry.ticket.client;
        let session = &mut self.clients[client as usize];
        if session.ending != Ending::Gone {
            session.deaf = true;
            session.close_told = true;
            self.events.push_back(Event::CloseClient { client: ClientId(client) });
        }
        self.answer(client, entry.ticket.seq, &[]);
    }

    fn lost_request(&mut self, entry: &InFlight, written: bool, via: Via, frame: impl Fn() -> Bytes) {
        if self.is_blocking(entry) {
            return self.blocked_lane_lost(entry, written);
        }
        let frame = if entry.retry == NONE { frame() } else { self.retries[entry.retry as usize].frame.clone() };
        let command = name_of(&frame).and_then(|name| command::lookup(&name));
        let read_only = match command {
            Some(command) if command.flags.is_readonly() => true,
            Some(command) if command.name == "MULTI" => only_reads(&frame),
            _ => false,
        };
        let read_only = read_only || self.is_internal_read(entry);
        let target = self.target_of(entry);
        let asked = Asked { slot: target.slot(), script: false, read_only };
        match on_lane_lost(written, asked) {
            Verdict::Resend => self.resend_lost(entry, frame, target, via),
            _ => {
                self.counters.unknown_outcomes += 1;
                let name = command.map_or("the command", |command| if command.name == "MULTI" { "EXEC" } else { command.name });
                let text = format!(
                    "-ERR proxy: outcome unknown: the connection to the node broke after '{}' was sent and before it was answered\r\n",
                    name.to_ascii_lowercase()
                );
                self.drop_retry(entry.retry);
                self.deliver(entry.ticket, text.as_bytes());
            }
        }
    }

    /// Parts that only ask a node something, whatever their command is.
    fn is_internal_read(&mut self, entry: &InFlight) -> bool {
        let reply = self.clients[entry.ticket.client as usize].reply(entry.ticket.seq);
        match reply.state {
            State::Merging { merge } => self.merges[merge as usize].job.only_asks(),
            _ => false,
        }
    }
}
