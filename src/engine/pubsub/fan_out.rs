//! One message to many clients: looked up once, copied into each one's pipe, and nothing else.

use bytes::Bytes;

use crate::{
    engine::{Engine, Event, ids::ClientId, pipe::LARGE_FRAME},
    resp::Proto,
};

use super::{Kind, Reach, is_keyspace};

/// A message that is being told: as it came, and as it is shared among clients when it is large.
struct Message<'a> {
    push: &'a [u8],
    whole: [Option<Bytes>; 2],
}

impl Message<'_> {
    /// Appends it in the client's protocol: a push of RESP3 is an array of RESP2.
    fn append(&self, out: &mut Vec<u8>, proto: Proto) {
        out.push(first_byte(proto));
        out.extend_from_slice(&self.push[1..]);
    }

    /// For a large one: bytes that are copied once, however many clients get them.
    fn whole(&mut self, proto: Proto) -> Bytes {
        if let Some(whole) = &self.whole[proto as usize] {
            return whole.clone();
        }
        let mut bytes = Vec::with_capacity(self.push.len());
        self.append(&mut bytes, proto);
        self.whole[proto as usize].insert(bytes.into()).clone()
    }
}

fn first_byte(proto: Proto) -> u8 {
    if proto == Proto::Resp2 { b'*' } else { b'>' }
}

impl Engine {
    /// A message came in for a topic of the lane's user.
    pub(super) fn published(&mut self, lane: u32, kind: Kind, name: &[u8], channel: &[u8], push: &[u8]) {
        let user = self.lanes[lane as usize].via.user;
        let Some(index) = self.pubsub.find(user, kind, name) else { return };
        let topic = &self.pubsub.topics[index as usize];
        // From a place that was left, it comes from another one as well.
        let Some(place) = topic.places.iter().find(|place| place.lane == lane) else { return };
        let told = match topic.reach {
            Reach::OneNode | Reach::SlotOwner => true,
            Reach::EveryMaster if is_keyspace(channel) => self.tells_of_keys(topic, place),
            Reach::EveryMaster => topic.main == Some(place.node),
        };
        if !told {
            return;
        }
        let subscribers = std::mem::take(&mut self.pubsub.topics[index as usize].subscribers);
        self.counters.messages += subscribers.len() as u64;
        let mut message = Message { push, whole: [None, None] };
        for client in &subscribers {
            self.tell(*client, &mut message);
        }
        self.pubsub.topics[index as usize].subscribers = subscribers;
    }

    fn tell(&mut self, client: u32, message: &mut Message<'_>) {
        if self.clients[client as usize].close_told || self.hears_nothing(client) {
            return;
        }
        let Engine { clients, pool, settings, agenda, .. } = self;
        let session = &mut clients[client as usize];
        let proto = session.proto;
        let active = session.active.get_or_insert_with(|| pool.take());
        let mut held = 0;
        if session.mid_reply {
            let own = session.subscribed.as_mut().expect("a subscriber has subscriptions");
            message.append(&mut own.held, proto);
            held = own.held.len();
        } else if message.push.len() >= LARGE_FRAME {
            active.out.push_large(message.whole(proto));
        } else {
            message.append(active.out.small(), proto);
        }
        let over = active.output_held() + held > settings.subscriber_buffer_max.min(settings.output_buffer_max);
        agenda.write_client(client, session);
        if over {
            self.clients[client as usize].close_told = true;
            self.counters.output_overflows += 1;
            self.events.push_back(Event::CloseClient { client: ClientId(client) });
        }
    }

    /// A long reply has come to its end: the messages that came meanwhile follow it.
    pub(in crate::engine) fn tell_held(&mut self, client: u32) {
        let session = &mut self.clients[client as usize];
        session.mid_reply = false;
        let Some(own) = session.subscribed.as_mut().filter(|own| !own.held.is_empty()) else { return };
        let held = std::mem::take(&mut own.held);
        if let Some(active) = session.active.as_mut() {
            active.out.small().extend_from_slice(&held);
            self.mark_client_dirty(client);
        }
    }
}
