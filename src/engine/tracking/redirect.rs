//! Whom invalidations are told: the client itself, or the one that REDIRECT names, on whichever worker it is.

use crate::{
    engine::{Engine, Event, session::Ending},
    resp::{Proto, encode},
};

/// Keys of which one client is to be told, for all workers: one of them has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// Its CLIENT ID.
    pub to: u64,
    /// An array of keys; empty: all keys.
    keys: Vec<u8>,
}

/// What a node says in the place of keys when all are meant.
const ALL: &[u8] = b"_\r\n";

impl Engine {
    /// Tells of keys, an array or `ALL`, that the client may have cached.
    pub(super) fn invalidate(&mut self, client: u32, keys: &[u8]) {
        let Some(tracker) = self.trackers.by_client.get(&client) else { return };
        match tracker.options.redirect {
            None => {
                let mut push = b">2\r\n$10\r\ninvalidate\r\n".to_vec();
                push.extend_from_slice(keys);
                self.notify(client, &push);
            }
            Some(id) if tracker.broken => {
                if self.clients[client as usize].proto == Proto::Resp3 {
                    self.notify(client, format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n").as_bytes());
                }
            }
            Some(id) => {
                let keys = if keys == ALL { Vec::new() } else { keys.to_vec() };
                self.events.push_back(Event::Invalidate(Invalidation { to: id as u64, keys }));
            }
        }
    }

    /// Has the client, or whom it redirects to, drop all that is cached.
    pub(super) fn drop_all(&mut self, client: u32) {
        if self.trackers.by_client.get(&client).is_some_and(|tracker| tracker.alias.is_some()) {
            self.invalidate(client, ALL);
        }
    }

    /// Tells a client of this worker what another's lane brought. In RESP2 only a subscriber can be told.
    pub fn invalidated(&mut self, told: &Invalidation) {
        let Some(client) = self.trackers.targets.get(&told.to).copied() else { return };
        let session = &self.clients[client as usize];
        let mut out = Vec::new();
        match session.proto {
            Proto::Resp3 => out.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n"),
            Proto::Resp2 if session.subscribed.as_ref().is_some_and(|own| own.is_subscriber()) => {
                out.extend_from_slice(b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n");
            }
            Proto::Resp2 => return,
        }
        match told.keys.is_empty() {
            true => encode::null(&mut out, session.proto),
            false => out.extend_from_slice(&told.keys),
        }
        self.notify(client, &out);
        self.settle();
    }

    /// Whether this worker has the client that REDIRECT names; from now on it is found at once.
    pub(in crate::engine) fn aim_at(&mut self, id: u64) -> bool {
        let here = |session: &crate::engine::session::Session| session.public_id == id && session.ending != Ending::Gone;
        let found = self.clients.iter().find(|(_, session)| here(session)).map(|(index, _)| index as u32);
        if let Some(client) = found {
            self.trackers.targets.insert(id, client);
        }
        found.is_some()
    }

    /// A client is gone: perhaps one that others redirect to.
    pub(in crate::engine) fn target_gone(&mut self, client: u32) {
        let id = self.clients[client as usize].public_id;
        if self.trackers.targets.remove(&id).is_some() {
            self.events.push_back(Event::TargetGone { id });
        }
    }

    /// Whoever redirects to this client has nobody to tell.
    pub fn redirect_broken(&mut self, id: u64) {
        for tracker in self.trackers.by_client.values_mut() {
            tracker.broken |= tracker.options.redirect == Some(id as i64);
        }
    }
}
