//! The lanes of tracking clients: what they say first, what comes on them unasked, and what their loss means.

use crate::{
    engine::{
        Engine, LaneId, Timer,
        ids::{Micros, NONE, NodeId, Ticket, UserId},
        lane::{LaneState, Via},
        send::NotNow,
    },
    resp::{Proto, encode},
};

use super::options::Choice;

/// How long a node that cannot be reached is left alone.
const DIAL_AGAIN_US: Micros = 100_000;

/// Who asked for what no client did: what is answered is looked at no further.
pub(in crate::engine) const NOBODY: Ticket = Ticket { client: NONE, seq: 0, part: NONE };

impl Engine {
    /// What a new lane says last, if it is a tracking client's. In RESP2 a node tells another connection, which must be there before.
    pub(in crate::engine) fn tracking_words(&mut self, node: NodeId, via: Via) -> Result<Option<Vec<Vec<u8>>>, NotNow> {
        let Some(client) = self.trackers.client_of(via.user) else { return Ok(None) };
        let resp2 = self.clients[client as usize].proto == Proto::Resp2;
        let Some(tracker) = self.trackers.by_client.get(&client) else { return Ok(None) };
        if !resp2 {
            return Ok(Some(tracker.options.words(None)));
        }
        if via.proto == Proto::Resp3 {
            return Ok(Some(vec![b"CLIENT".to_vec(), b"ID".to_vec()]));
        }
        let catcher = self.lane_to(node, Via { proto: Proto::Resp3, ..via }, false)?;
        let id = self.trackers.catchers.get(&catcher).ok_or(NotNow::Soon)?;
        Ok(self.trackers.by_client.get(&client).map(|tracker| tracker.options.words(Some(id))))
    }

    /// The client's options have changed: its lanes tell their nodes.
    pub(super) fn tell_lanes_again(&mut self, client: u32) {
        let Some(tracker) = self.trackers.by_client.get(&client) else { return };
        let Some(alias) = tracker.alias else { return };
        let words = tracker.options.new_words();
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let lanes: Vec<u32> = self.lanes.iter().filter(|(_, lane)| lane.via.user == alias).map(|(lane, _)| lane as u32).collect();
        for lane in lanes {
            self.ask_for_nobody(client, lane, &words);
        }
    }

    /// Says something to a node for a tracking client, which hears nothing of the answer.
    pub(super) fn ask_for_nobody(&mut self, client: u32, lane: u32, words: &[&[u8]]) {
        self.trackers.by_client.entry(client).and_modify(|tracker| tracker.unanswered += 1);
        self.queue(lane, NOBODY, NONE, 1, |out| encode::command(out, words));
    }

    /// A node has answered that, or never will.
    pub(in crate::engine) fn nobody_answered(&mut self, user: UserId) {
        let Some(client) = self.trackers.client_of(user) else { return };
        self.trackers.by_client.entry(client).and_modify(|tracker| tracker.unanswered -= 1);
        self.settle_tracker(client);
    }

    /// Closes all lanes of an alias, and gives its name back.
    pub(super) fn close_alias(&mut self, alias: UserId) {
        self.trackers.by_alias.remove(&alias.0);
        let lanes: Vec<LaneId> = self.lanes.iter().filter(|(_, lane)| lane.via.user == alias).map(|(_, lane)| lane.id).collect();
        for id in lanes {
            let lane = &self.lanes[id.index as usize];
            if lane.role.is_pinned() || !lane.queue.is_empty() {
                // What is watched on it is watched no more, and what is in flight has to be answered.
                self.give_lane_up(id.index);
                continue;
            }
            self.trackers.catchers.remove(&id.index);
            self.close_lane(id.index);
        }
        self.users.drop_alias(alias);
    }

    /// Broadcasts come from all masters: a lane to each is dialled at once, and again when it is lost.
    pub(super) fn dial_tracker(&mut self, client: u32) {
        let Some(tracker) = self.trackers.by_client.get(&client) else { return };
        let Some(alias) = tracker.alias.filter(|_| tracker.options.choice == Choice::Broadcast) else { return };
        let via = Via { proto: self.clients[client as usize].proto, user: alias };
        let masters: Vec<NodeId> = self.table.masters().collect();
        for node in masters {
            match self.lane_to(node, via, false) {
                // The lane that must be there before calls again when it is.
                Ok(_) | Err(NotNow::Soon) => {}
                Err(NotNow::DialAfter(at)) => self.timers.push(Timer { at, client }),
                Err(_) => self.timers.push(Timer { at: self.now + DIAL_AGAIN_US, client }),
            }
        }
    }

    /// A moment that was waited for has come.
    pub(in crate::engine) fn tick_tracker(&mut self, client: u32) {
        if !self.trackers.is_empty() {
            self.dial_tracker(client);
            self.settle_tracker(client);
        }
    }

    /// Every master broadcasts to the client, or it is too late.
    pub(super) fn settle_tracker(&mut self, client: u32) {
        let Some(tracker) = self.trackers.by_client.get_mut(&client) else { return };
        let (Some(alias), Some((seq, deadline))) = (tracker.alias, tracker.owed) else { return };
        let via = Via { proto: self.clients[client as usize].proto, user: alias };
        let is_open = |node: NodeId| match self.table.nodes[usize::from(node.0)].lane(via, false) {
            NONE => false,
            lane => self.lanes[lane as usize].is_open(),
        };
        if tracker.unanswered == 0 && self.table.masters().all(is_open) {
            tracker.owed = None;
            self.answer(client, seq, b"+OK\r\n");
        } else if deadline <= self.now {
            self.fail_tracking(client, b"-ERR proxy: not every master could be asked to broadcast in time\r\n");
        }
    }

    fn fail_tracking(&mut self, client: u32, error: &[u8]) {
        let owed = self.trackers.by_client.get_mut(&client).and_then(|tracker| tracker.owed.take());
        if let Some((seq, _)) = owed {
            self.end_tracking(client);
            self.answer(client, seq, error);
        }
    }

    /// A node refuses a part of a lane's greeting: a client that waits for it is told so, and its lanes are closed.
    pub(in crate::engine) fn tracking_refused(&mut self, index: u32, error: &[u8]) {
        if let Some(client) = self.trackers.client_of(self.lanes[index as usize].via.user) {
            self.fail_tracking(client, error);
        }
    }

    /// A lane has been answered a part of its greeting.
    pub(in crate::engine) fn tracking_greeted(&mut self, index: u32, reply: &[u8]) {
        let lane = &self.lanes[index as usize];
        let (user, node, open) = (lane.via.user, lane.node, lane.state == LaneState::Open);
        let Some(client) = self.trackers.client_of(user) else { return };
        if let Some(id) = reply.strip_prefix(b":") {
            self.trackers.catchers.insert(index, id.trim_ascii_end().to_vec());
        }
        if open {
            self.table.node(node).dial_succeeded();
            self.pump_later(client);
            self.tick_tracker(client);
        }
    }

    /// A lane is gone, and with it all that its node remembered. Where it caught what was told of another one, that one is of no use.
    pub(in crate::engine) fn tracking_lane_lost(&mut self, index: u32, node: NodeId, via: Via) {
        let Some(client) = self.trackers.client_of(via.user) else { return };
        if self.trackers.catchers.remove(&index).is_some() {
            let told = self.table.node(node).lane(Via { proto: Proto::Resp2, ..via }, false);
            if told != NONE {
                self.give_lane_up(told);
            }
        }
        self.drop_all(client);
        self.timers.push(Timer { at: self.now + DIAL_AGAIN_US, client });
    }

    /// A push on a tracking client's lane. Answers whether it was one.
    pub(in crate::engine) fn tracking_push(&mut self, user: UserId, push: &[u8]) -> bool {
        let Some(client) = self.trackers.client_of(user) else { return false };
        match push.strip_prefix(b">2\r\n$10\r\ninvalidate\r\n") {
            Some(keys) => self.invalidate(client, keys),
            None => self.counters.unexpected_pushes += 1,
        }
        true
    }

    /// A new map: slots may have new owners, and there may be new masters to hear from.
    pub(in crate::engine) fn trackers_meet_map(&mut self, changed: bool) {
        if self.trackers.is_empty() {
            return;
        }
        let clients: Vec<u32> = self.trackers.by_client.keys().copied().collect();
        for client in clients {
            if changed {
                self.drop_all(client);
            }
            self.dial_tracker(client);
        }
    }
}
