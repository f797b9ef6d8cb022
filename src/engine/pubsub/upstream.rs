//! Where topics are subscribed. Each is looked at when something about it changed, and brought a step nearer to where it belongs;
//! clients are not told of any of it.

use std::cmp::Reverse;

use crate::engine::{
    Engine, Event, RefreshCause,
    ids::{ClientId, NodeId},
    retry::{Asked, Verdict, backoff_us, on_error},
    send::NotNow,
    session::Ending,
    table::Table,
};

use super::{Keys, Kind, Place, Reach, Topic, lanes::Ask};

/// After so many failures a topic that any node can serve goes to another one.
const TRIES_AT_HOME: u32 = 3;

/// Redirects that are followed at once.
const HOPS_AT_ONCE: u32 = 3;

/// A topic that cannot be asked for looks again after this long, and later the more topics are in the same state: twenty thousand
/// tries a second are no storm.
const LOOK_AGAIN_US: u64 = 20_000;
const LOOK_AGAIN_EACH_US: u64 = 50;

/// What a node refuses for a reason that is not known to pass is asked for again after this long, for those who are subscribed.
const REFUSED_AGAIN_US: u64 = 1_000_000;

/// Whether no message of the topic is missed from now on.
pub(super) fn is_standing(table: &Table, topic: &Topic) -> bool {
    let stands_at = |node: NodeId| topic.places.iter().any(|place| place.standing && place.node == node);
    match topic.reach {
        Reach::OneNode | Reach::SlotOwner => topic.places.iter().any(|place| place.standing),
        Reach::EveryMaster => !topic.places.is_empty() && table.tellers().all(stands_at),
    }
}

impl Engine {
    /// Looks at what this batch changed.
    pub(in crate::engine) fn settle_topics(&mut self) {
        while let Some(index) = self.pubsub.todo.pop() {
            if let Some(topic) = self.pubsub.topics.get_mut(index as usize).filter(|topic| topic.queued) {
                topic.queued = false;
                self.settle_topic(index);
            }
        }
    }

    /// Does what is due at this time.
    pub(in crate::engine) fn tick_subscriptions(&mut self) {
        while let Some(Reverse((at, index, unique))) = self.pubsub.later.peek().copied()
            && at <= self.now
        {
            self.pubsub.later.pop();
            if self.pubsub.topics.get(index as usize).is_some_and(|topic| topic.unique == unique) {
                self.pubsub.look_at(index);
            }
        }
        self.give_up_waiting();
    }

    /// A map tells of new owners, new masters, and nodes that are no more.
    pub(in crate::engine) fn subscriptions_meet_map(&mut self) {
        for lane in self.pubsub.lanes.all() {
            if !self.table.nodes[usize::from(self.lanes[lane as usize].node.0)].in_map {
                self.give_lane_up(lane);
            }
        }
        let topics: Vec<u32> = self.pubsub.topics.iter().map(|(index, _)| index as u32).collect();
        for index in topics {
            let topic = &mut self.pubsub.topics[index as usize];
            let settled = match topic.reach {
                Reach::OneNode => !topic.places.is_empty(),
                Reach::SlotOwner => topic.places.iter().any(|place| self.table.owner(topic.slot) == Some(place.node)),
                Reach::EveryMaster => false,
            };
            if !settled {
                topic.not_before = 0;
                self.pubsub.look_at(index);
            }
        }
    }

    fn settle_topic(&mut self, index: u32) {
        if self.pubsub.topics[index as usize].is_unused() {
            return self.drop_topic(index);
        }
        if self.pubsub.topics[index as usize].not_before <= self.now {
            match self.pubsub.topics[index as usize].reach {
                Reach::OneNode => self.place_anywhere(index),
                Reach::SlotOwner => self.place_at_owner(index),
                Reach::EveryMaster => self.place_at_masters(index),
            }
        }
        let topic = &mut self.pubsub.topics[index as usize];
        if !topic.waiting.is_empty() && is_standing(&self.table, topic) {
            for waiting in std::mem::take(&mut topic.waiting) {
                let command = &mut self.pubsub.waiting[waiting as usize];
                command.left -= 1;
                if command.left == 0 {
                    self.await_topics(waiting);
                }
            }
        }
    }

    fn drop_topic(&mut self, index: u32) {
        while let Some(place) = self.pubsub.topics[index as usize].places.pop() {
            self.leave_place(index, place);
        }
        self.pubsub.forget(index);
    }

    /// At the node that all workers have in common for it: its slot's owner at first.
    fn place_anywhere(&mut self, index: u32) {
        let topic = &self.pubsub.topics[index as usize];
        if !topic.places.is_empty() {
            return;
        }
        let usable = |node: &NodeId| {
            let entry = &self.table.nodes[usize::from(node.0)];
            entry.in_map && !entry.failed
        };
        let home = self.pubsub.registry.home(topic.kind, &topic.name).and_then(|id| self.table.find_id(&id)).filter(usable);
        let first = home.or_else(|| self.table.owner(topic.slot).filter(usable)).or_else(|| self.table.masters().next());
        let reachable = |node: &NodeId| self.table.nodes[usize::from(node.0)].dial_after_us <= self.now;
        let node = match first {
            Some(first) if topic.tries >= TRIES_AT_HOME && !reachable(&first) => self.table.masters().find(reachable),
            _ => None,
        };
        self.ask(index, node.or(first));
    }

    /// The old owner says itself when it has nothing more to tell. Until then its messages are not the new owner's: both are taken.
    /// One that became a replica is told by its master, and is as good as that.
    fn place_at_owner(&mut self, index: u32) {
        let topic = &self.pubsub.topics[index as usize];
        let owner = self.table.owner(topic.slot);
        let good = |place: &Place| Some(place.node) == owner || !self.table.is_teller(place.node);
        if !topic.places.iter().any(good) {
            self.ask(index, owner);
        }
    }

    /// A node that is no master any more tells of its master's keys as long as they are replicated to it: it is kept until all masters
    /// stand.
    fn place_at_masters(&mut self, index: u32) {
        let topic = &self.pubsub.topics[index as usize];
        let is_placed = |node: &NodeId| topic.places.iter().any(|place| place.node == *node);
        let missing: Vec<NodeId> = self.table.tellers().filter(|node| !is_placed(node)).collect();
        for node in missing {
            self.ask(index, Some(node));
        }
        let again = |place: &&mut Place| place.keys == Keys::Former && self.table.is_teller(place.node);
        let topic = &mut self.pubsub.topics[index as usize];
        let again: Option<u32> = topic.places.iter_mut().find(again).map(|place| {
            place.keys = Keys::Asked;
            place.lane
        });
        if let Some(lane) = again {
            self.ask_for(index, lane);
        }
        let topic = &mut self.pubsub.topics[index as usize];
        if !topic.main.is_some_and(|main| topic.places.iter().any(|place| place.node == main)) {
            let owner = self.table.owner(topic.slot);
            let place = topic.places.iter().find(|place| Some(place.node) == owner).or(topic.places.first());
            topic.main = place.map(|place| place.node);
        }
        if is_standing(&self.table, &self.pubsub.topics[index as usize]) {
            self.leave_former_masters(index);
        }
    }

    /// Subscribes at a node, or looks again when it may be possible.
    fn ask(&mut self, index: u32, node: Option<NodeId>) {
        let topic = &self.pubsub.topics[index as usize];
        let user = topic.user;
        let asked = node.ok_or(NotNow::NoNode).and_then(|node| self.push_lane(node, user));
        let again = self.now + LOOK_AGAIN_US + self.pubsub.later.len() as u64 * LOOK_AGAIN_EACH_US;
        match asked {
            Ok(lane) if self.has_room(lane) => {
                let topic = &mut self.pubsub.topics[index as usize];
                let place = Place { node: self.lanes[lane as usize].node, lane, standing: false, keys: Keys::Told };
                topic.places.push(place);
                self.pubsub.lanes.place_made(lane);
                self.ask_for(index, lane);
            }
            Ok(_) => self.pubsub.look_at_later(index, again),
            Err(refused) => {
                self.refresh(RefreshCause::LaneLost);
                self.pubsub.topics[index as usize].tries += 1;
                let at = if let NotNow::DialAfter(at) = refused { at } else { again };
                self.pubsub.look_at_later(index, at);
            }
        }
    }

    fn ask_for(&mut self, index: u32, lane: u32) {
        let topic = &self.pubsub.topics[index as usize];
        let (kind, name) = (topic.kind, topic.name.clone());
        let ask = Ask::Subscribe { topic: index, unique: topic.unique };
        self.ask_on_lane(lane, ask, &[kind.subscribe(), &name]);
    }

    /// Unsubscribes at a node.
    fn leave_place(&mut self, index: u32, place: Place) {
        self.pubsub.lanes.place_left(place.lane);
        let topic = &self.pubsub.topics[index as usize];
        let (kind, name) = (topic.kind, topic.name.clone());
        let ask = Ask::Unsubscribe { kind, name: name.clone(), stood: place.standing };
        self.ask_on_lane(place.lane, ask, &[kind.unsubscribe(), &name]);
        if kind == Kind::Shard {
            self.ask_on_lane(place.lane, Ask::Alive, &[b"PING"]);
        }
    }

    /// A node confirmed a subscription.
    pub(super) fn stands(&mut self, lane: u32, index: u32, unique: u32) {
        let Some(topic) = self.pubsub.topics.get_mut(index as usize).filter(|topic| topic.unique == unique) else { return };
        let Some(place) = topic.place_on(lane) else { return };
        place.keys = Keys::Told;
        if std::mem::replace(&mut place.standing, true) {
            return;
        }
        let node = self.table.nodes[usize::from(place.node.0)].id.clone();
        topic.tries = 0;
        topic.last_error.clear();
        self.pubsub.registry.stood(topic.kind, &topic.name, &node);
        if topic.reach == Reach::OneNode {
            self.pubsub.registry.set_home(topic.kind, &topic.name, &node);
        }
        self.pubsub.look_at(index);
    }

    /// All masters tell of their keys: those who were masters need not, but what is published may still be taken from one of them.
    fn leave_former_masters(&mut self, index: u32) {
        let topic = &mut self.pubsub.topics[index as usize];
        let table = &self.table;
        let main = topic.main;
        let former = |place: &mut Place| !table.is_teller(place.node) && Some(place.node) != main;
        let former: Vec<Place> = topic.places.extract_if(.., former).collect();
        for place in &mut topic.places {
            if !table.is_teller(place.node) {
                place.keys = Keys::Former;
            }
        }
        for place in former {
            self.leave_place(index, place);
        }
    }

    /// Whether a notification that came from this place is to be told. Those of a former master are its successor's too: they count
    /// until that one is asked, so that the little that is asked for in vain is missed, and nothing is told twice.
    pub(super) fn tells_of_keys(&self, topic: &Topic, place: &Place) -> bool {
        let asked_at = |node: NodeId| {
            let at = |place: &Place| place.node == node && (place.standing || self.lanes[place.lane as usize].is_open());
            topic.places.iter().any(at)
        };
        if place.keys != Keys::Told || self.table.is_teller(place.node) {
            return place.keys == Keys::Told;
        }
        match self.table.successor(place.node) {
            Some(successor) => !asked_at(successor),
            None => !self.table.tellers().all(asked_at),
        }
    }

    /// A topic lost a place that stood, or that it had asked for.
    pub(super) fn falls(&mut self, index: u32, lane: u32) {
        let topic = &mut self.pubsub.topics[index as usize];
        let Some(at) = topic.places.iter().position(|place| place.lane == lane) else { return };
        let place = topic.places.swap_remove(at);
        self.pubsub.lanes.place_left(lane);
        if place.standing {
            let node = self.table.nodes[usize::from(place.node.0)].id.clone();
            self.pubsub.registry.fell(topic.kind, &topic.name, &node);
            self.counters.resubscriptions += 1;
        }
        self.pubsub.look_at(index);
    }

    /// A node refused a subscription. `reply` is its error.
    pub(super) fn refused(&mut self, lane: u32, index: u32, unique: u32, reply: &[u8]) {
        if self.pubsub.topics.get(index as usize).is_none_or(|topic| topic.unique != unique) {
            return;
        }
        self.falls(index, lane);
        let line = reply[1..].trim_ascii_end();
        let from = self.lanes[lane as usize].node;
        let topic = &mut self.pubsub.topics[index as usize];
        topic.last_error = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
        topic.tries += 1;
        let slot = (topic.kind == Kind::Shard).then_some(topic.slot);
        let tries = topic.tries;
        let asked = Asked { slot, script: false, read_only: true };
        let mut cause = RefreshCause::ClusterDown;
        match on_error(line, asked, &self.table.nodes[usize::from(from.0)].addr) {
            Verdict::Deliver => return self.refuse_for_good(index, reply),
            Verdict::Moved(slot, addr) => {
                self.counters.moved += 1;
                cause = RefreshCause::Moved;
                match addr.as_ref().and_then(|addr| self.table.find(addr)) {
                    Some(node) if node != from => {
                        self.table.patch(slot, node, self.now);
                        if tries <= HOPS_AT_ONCE {
                            return self.refresh(cause);
                        }
                    }
                    Some(_) => {}
                    None => cause = RefreshCause::UnknownAddress,
                }
            }
            _ => self.counters.held += 1,
        }
        self.refresh(cause);
        let crowd = self.pubsub.later.len() as u64 * LOOK_AGAIN_EACH_US;
        let at = self.now + backoff_us(tries, self.random.u64(..)) + crowd;
        self.pubsub.look_at_later(index, at);
    }

    /// Waiting will not help: those who asked are told. Who was subscribed and may not be any more is cut off, as the server does it.
    fn refuse_for_good(&mut self, index: u32, reply: &[u8]) {
        let topic = &mut self.pubsub.topics[index as usize];
        for waiting in std::mem::take(&mut topic.waiting) {
            self.fail_waiting(waiting, reply);
        }
        let topic = &self.pubsub.topics[index as usize];
        if reply.starts_with(b"-NOPERM") || reply.starts_with(b"-NOAUTH") {
            for client in &topic.subscribers {
                let session = &mut self.clients[*client as usize];
                if session.ending != Ending::Gone && !std::mem::replace(&mut session.close_told, true) {
                    self.events.push_back(Event::CloseClient { client: ClientId(*client) });
                }
            }
        }
        self.pubsub.look_at_later(index, self.now + REFUSED_AGAIN_US);
        // Nobody may want it any more.
        self.pubsub.look_at(index);
    }
}
