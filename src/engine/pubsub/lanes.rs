//! Push lanes: what is asked on them, and what comes in.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{
    engine::{
        Engine, Event,
        answer::Broken,
        ids::{LaneId, Micros, NONE, NodeId, Ticket, UserId},
        lane::{Lane, Role, Via},
        send::NotNow,
    },
    resp::{Proto, View, encode, view},
};

use super::{Kind, text_of};

/// A lane that is silent for so long is asked whether the node is still there.
const SILENT_US: Micros = 10_000_000;

/// One request on a push lane that is not answered yet.
pub(super) enum Ask {
    Subscribe {
        topic: u32,
        unique: u32,
    },
    Unsubscribe {
        kind: Kind,
        name: Arc<[u8]>,
        stood: bool,
    },
    /// PING.
    Alive,
}

struct PushLane {
    node: NodeId,
    user: UserId,
    asks: VecDeque<Ask>,
    /// Subscriptions that stand on it or were asked for.
    places: usize,
}

/// All push lanes, by their place among the lanes, and by where they go.
#[derive(Default)]
pub(super) struct PushLanes {
    lanes: FxHashMap<u32, PushLane>,
    by_node: FxHashMap<(NodeId, UserId), u32>,
}

impl PushLanes {
    pub fn all(&self) -> Vec<u32> {
        self.lanes.keys().copied().collect()
    }

    pub fn place_made(&mut self, lane: u32) {
        self.lanes.get_mut(&lane).expect("a push lane is in both tables").places += 1;
    }

    /// A topic has no place on the lane any more, which may be gone itself.
    pub fn place_left(&mut self, lane: u32) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.places -= 1;
        }
    }

    fn remove(&mut self, lane: u32) -> Option<PushLane> {
        let found = self.lanes.remove(&lane)?;
        self.by_node.remove(&(found.node, found.user));
        Some(found)
    }
}

/// What is queued on a push lane answers no client.
const NOBODY: Ticket = Ticket { client: NONE, seq: 0, part: NONE };

impl Engine {
    /// The push lane to a node, dialled if need be.
    pub(super) fn push_lane(&mut self, node: NodeId, user: UserId) -> Result<u32, NotNow> {
        if let Some(known) = self.pubsub.lanes.by_node.get(&(node, user)) {
            return Ok(*known);
        }
        let index = self.dial(node, Via { proto: Proto::Resp3, user }, Role::Push)?;
        self.pubsub.lanes.lanes.insert(index, PushLane { node, user, asks: VecDeque::new(), places: 0 });
        self.pubsub.lanes.by_node.insert((node, user), index);
        Ok(index)
    }

    /// Sends one request. Its lead of one keeps its answer apart from those that belong to a client.
    pub(super) fn ask_on_lane(&mut self, lane: u32, ask: Ask, command: &[&[u8]]) {
        self.queue(lane, NOBODY, NONE, 1, |out| encode::command(out, command));
        self.pubsub.lanes.lanes.get_mut(&lane).expect("a push lane is in both tables").asks.push_back(ask);
    }

    /// The request that an answer answers.
    fn answered(&mut self, lane: u32) -> Result<Ask, Broken> {
        let entry = self.pop_front(lane)?;
        self.release(lane, &entry);
        self.pubsub.lanes.lanes.get_mut(&lane).and_then(|lane| lane.asks.pop_front()).ok_or(Broken)
    }

    /// A reply that is no push: an error, or PING's.
    pub(in crate::engine) fn push_lane_reply(&mut self, lane: u32, reply: &[u8]) -> Result<(), Broken> {
        let error = reply.first() == Some(&b'-');
        let mut ask = self.answered(lane)?;
        if !error && matches!(ask, Ask::Unsubscribe { kind: Kind::Shard, .. }) {
            ask = self.answered(lane)?;
        }
        match ask {
            Ask::Alive => {}
            Ask::Subscribe { topic, unique } if error => self.refused(lane, topic, unique, reply),
            // The slot has left the node, and all its subscriptions with it.
            Ask::Unsubscribe { kind, name, stood } if error => self.left_upstream(lane, kind, &name, stood),
            Ask::Subscribe { .. } | Ask::Unsubscribe { .. } => return Err(Broken),
        }
        Ok(())
    }

    /// A push that came in on a push lane.
    pub(in crate::engine) fn pushed(&mut self, lane: u32, push: &[u8]) -> Result<(), Broken> {
        let Some(View::Push(mut elements)) = view(push) else { return Err(Broken) };
        let mut next = || elements.next().and_then(text_of);
        let Some(word) = next() else { return Err(Broken) };
        let name = next();
        match (word, name) {
            (b"message", Some(channel)) => self.published(lane, Kind::Channel, channel, channel, push),
            (b"smessage", Some(channel)) => self.published(lane, Kind::Shard, channel, channel, push),
            (b"pmessage", Some(pattern)) => match next() {
                Some(channel) => self.published(lane, Kind::Pattern, pattern, channel, push),
                None => return Err(Broken),
            },
            (b"subscribe" | b"psubscribe" | b"ssubscribe", _) => match self.answered(lane)? {
                Ask::Subscribe { topic, unique } => self.stands(lane, topic, unique),
                _ => return Err(Broken),
            },
            (b"unsubscribe", Some(name)) => self.unsubscribed(lane, Kind::Channel, name)?,
            (b"punsubscribe", Some(name)) => self.unsubscribed(lane, Kind::Pattern, name)?,
            (b"sunsubscribe", Some(name)) => self.unsubscribed(lane, Kind::Shard, name)?,
            _ => self.counters.unexpected_pushes += 1,
        }
        Ok(())
    }

    /// A node says that a subscription is over: because it was asked to end it, or because the shard channel's slot has left it.
    fn unsubscribed(&mut self, lane: u32, kind: Kind, name: &[u8]) -> Result<(), Broken> {
        let Some(found) = self.pubsub.lanes.lanes.get_mut(&lane) else { return Err(Broken) };
        let user = found.user;
        let asked =
            matches!(found.asks.front(), Some(Ask::Unsubscribe { kind: of, name: asked, .. }) if *of == kind && **asked == *name);
        if asked && kind == Kind::Shard {
            // Perhaps not the answer: the slot may have left the node before it was asked. PING's answer ends the request.
            if let Some(Ask::Unsubscribe { stood, .. }) = found.asks.front_mut() {
                let stood = std::mem::take(stood);
                self.left_upstream(lane, kind, name, stood);
            }
        } else if asked {
            if let Ask::Unsubscribe { stood, .. } = self.answered(lane)? {
                self.left_upstream(lane, kind, name, stood);
            }
        } else if let Some(topic) = self.pubsub.find(user, kind, name)
            && self.pubsub.topics[topic as usize].place_on(lane).is_some_and(|place| place.standing)
        {
            self.pubsub.topics[topic as usize].not_before = 0;
            self.falls(topic, lane);
        }
        Ok(())
    }

    fn left_upstream(&mut self, lane: u32, kind: Kind, name: &[u8], stood: bool) {
        if stood {
            let node = self.lanes[lane as usize].node;
            self.pubsub.registry.fell(kind, name, &self.table.nodes[usize::from(node.0)].id);
        }
    }

    /// A push lane is gone: what stood through it is subscribed to again.
    pub(in crate::engine) fn push_lane_lost(&mut self, index: u32, lane: &Lane) {
        let Some(lost) = self.pubsub.lanes.remove(index) else { return };
        let node = self.table.nodes[usize::from(lane.node.0)].id.clone();
        for ask in lost.asks {
            if let Ask::Unsubscribe { kind, name, stood: true } = ask {
                self.pubsub.registry.fell(kind, &name, &node);
            }
        }
        let error = if lane.is_open() { "the connection to the node was lost" } else { self.last_greeting_error.as_str() };
        let error = error.to_owned();
        let topics: Vec<u32> = self.pubsub.topics.iter().map(|(topic, _)| topic as u32).collect();
        for topic in topics {
            if self.pubsub.topics[topic as usize].place_on(index).is_some() {
                self.falls(topic, index);
                let topic = &mut self.pubsub.topics[topic as usize];
                topic.tries += 1;
                topic.last_error.clone_from(&error);
            }
        }
    }

    /// Closes push lanes that nothing is subscribed through, and asks silent ones whether they live.
    pub(in crate::engine) fn sweep_push_lanes(&mut self) {
        let quiet = |index: &u32| self.lanes[*index as usize].queue.is_empty();
        let silent = |index: &u32| self.lanes[*index as usize].progress_us + SILENT_US < self.now;
        let lanes = self.pubsub.lanes.lanes.iter().filter(|(index, lane)| quiet(index) && (lane.places == 0 || silent(index)));
        let lanes: Vec<(u32, bool)> = lanes.map(|(index, lane)| (*index, lane.places == 0)).collect();
        for (index, unused) in lanes {
            if unused {
                self.close_push_lane(index);
            } else {
                self.ask_on_lane(index, Ask::Alive, &[b"PING"]);
            }
        }
    }

    fn close_push_lane(&mut self, index: u32) {
        let lane = self.lanes.remove(index as usize);
        self.table.node(lane.node).lane_closed();
        self.pubsub.lanes.remove(index);
        let lane: LaneId = lane.id;
        self.events.push_back(Event::CloseLane { lane });
    }
}
