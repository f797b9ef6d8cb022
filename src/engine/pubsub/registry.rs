//! Who subscribes to what, over all workers: what makes a PUBLISH count clients where a node counts the workers' subscriptions.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use dashmap::DashMap;

use crate::engine::glob::glob_match;

use super::Kind;

/// A channel or pattern, as all workers together know it.
#[derive(Debug, Default)]
struct Tally {
    /// Clients that are subscribed.
    clients: usize,
    /// How many subscriptions of ours stand at each node, by the node's id.
    upstream: Vec<(Arc<str>, usize)>,
    /// The node that all workers subscribe at and publish at, so that the messages of a channel take one way and keep their order.
    home: Option<Arc<str>>,
}

impl Tally {
    fn at(&self, node: &str) -> usize {
        self.upstream.iter().find(|(id, _)| **id == *node).map_or(0, |(_, count)| *count)
    }
}

/// What a node counts, and what it should have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receivers {
    /// Clients of ours that receive a message.
    pub clients: i64,
    /// Subscriptions of ours that the node counts instead of them.
    pub upstream: i64,
}

impl Receivers {
    /// The count that a standalone server would give, from the one that a node gave.
    pub fn correct(self, counted: i64) -> i64 {
        (counted - self.upstream).max(0) + self.clients
    }
}

/// Shared by all workers. Touched when a client subscribes, unsubscribes or publishes, and by PUBSUB.
#[derive(Debug, Default)]
pub struct Registry {
    kinds: [DashMap<Arc<[u8]>, Tally>; 3],
    /// Clients with at least one subscription.
    clients: AtomicUsize,
    /// Subscriptions of clients, and of workers at nodes.
    entries: AtomicUsize,
}

impl Registry {
    /// Whether nobody here subscribes to anything.
    pub fn is_empty(&self) -> bool {
        self.entries.load(Relaxed) == 0
    }

    /// Clients with at least one subscription, over all workers.
    pub fn clients(&self) -> usize {
        self.clients.load(Relaxed)
    }

    pub fn client_began(&self) {
        self.clients.fetch_add(1, Relaxed);
    }

    pub fn client_ended(&self) {
        self.clients.fetch_sub(1, Relaxed);
    }

    pub fn joined(&self, kind: Kind, name: &Arc<[u8]>) {
        self.entries.fetch_add(1, Relaxed);
        self.kinds[kind as usize].entry(name.clone()).or_default().clients += 1;
    }

    pub fn left(&self, kind: Kind, name: &[u8]) {
        self.entries.fetch_sub(1, Relaxed);
        if let Some(mut tally) = self.kinds[kind as usize].get_mut(name) {
            tally.clients -= 1;
        }
        self.forget_unused(kind, name);
    }

    /// A subscription of a worker stands at a node.
    pub fn stood(&self, kind: Kind, name: &Arc<[u8]>, node: &Arc<str>) {
        self.entries.fetch_add(1, Relaxed);
        let mut tally = self.kinds[kind as usize].entry(name.clone()).or_default();
        match tally.upstream.iter_mut().find(|(id, _)| id == node) {
            Some((_, count)) => *count += 1,
            None => tally.upstream.push((node.clone(), 1)),
        }
    }

    /// It stands there no more.
    pub fn fell(&self, kind: Kind, name: &[u8], node: &str) {
        self.entries.fetch_sub(1, Relaxed);
        if let Some(mut tally) = self.kinds[kind as usize].get_mut(name) {
            if let Some((_, count)) = tally.upstream.iter_mut().find(|(id, _)| **id == *node) {
                *count -= 1;
            }
            tally.upstream.retain(|(_, count)| *count > 0);
        }
        self.forget_unused(kind, name);
    }

    fn forget_unused(&self, kind: Kind, name: &[u8]) {
        self.kinds[kind as usize].remove_if(name, |_, tally| tally.clients == 0 && tally.upstream.is_empty());
    }

    /// The node that a channel is subscribed and published at, if one was chosen.
    pub fn home(&self, kind: Kind, name: &[u8]) -> Option<Arc<str>> {
        self.kinds[kind as usize].get(name)?.home.clone()
    }

    pub fn set_home(&self, kind: Kind, name: &Arc<[u8]>, node: &Arc<str>) {
        // Without anybody subscribed it would stay for ever.
        if let Some(mut tally) = self.kinds[kind as usize].get_mut(name) {
            tally.home = Some(node.clone());
        }
    }

    /// Who receives a message of a channel that is published at a node: `None` if nobody here.
    pub fn receivers(&self, kind: Kind, channel: &[u8], node: &str) -> Option<Receivers> {
        if self.is_empty() {
            return None;
        }
        let mut receivers = Receivers::default();
        let mut add = |tally: &Tally| {
            receivers.clients += tally.clients as i64;
            receivers.upstream += tally.at(node) as i64;
        };
        if let Some(tally) = self.kinds[kind as usize].get(channel) {
            add(&tally);
        }
        if kind == Kind::Channel {
            for pattern in &self.kinds[Kind::Pattern as usize] {
                if glob_match(pattern.key(), channel) {
                    add(&pattern);
                }
            }
        }
        (receivers != Receivers::default()).then_some(receivers)
    }

    /// What the nodes that `asked` names counted for PUBSUB NUMSUB of this channel, and what they should have.
    pub fn subscribers(&self, kind: Kind, name: &[u8], asked: impl Fn(&str) -> bool) -> Receivers {
        self.kinds[kind as usize].get(name).map_or(Receivers::default(), |tally| {
            let counted = tally.upstream.iter().filter(|(id, _)| asked(id)).map(|(_, count)| *count as i64);
            Receivers { clients: tally.clients as i64, upstream: counted.sum() }
        })
    }

    /// As `subscribers`, for PUBSUB NUMPAT: each node counts a pattern once, however many subscribe to it.
    pub fn patterns(&self, asked: impl Fn(&str) -> bool) -> Receivers {
        let mut patterns = Receivers::default();
        for tally in &self.kinds[Kind::Pattern as usize] {
            patterns.clients += i64::from(tally.clients > 0);
            patterns.upstream += tally.upstream.iter().filter(|(id, _)| asked(id)).count() as i64;
        }
        patterns
    }

    /// The channels of our clients that match a pattern.
    pub fn channels(&self, kind: Kind, pattern: Option<&[u8]>) -> Vec<Arc<[u8]>> {
        let wanted = |name: &[u8]| pattern.is_none_or(|pattern| glob_match(pattern, name));
        self.kinds[kind as usize]
            .iter()
            .filter(|tally| tally.clients > 0 && wanted(tally.key()))
            .map(|tally| tally.key().clone())
            .collect()
    }

    /// Whether a node holds this channel for a worker only that is about to leave it.
    pub fn is_leaving(&self, kind: Kind, name: &[u8]) -> bool {
        self.kinds[kind as usize].get(name).is_some_and(|tally| tally.clients == 0 && !tally.upstream.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_by_clients_and_not_by_workers() {
        let registry = Registry::default();
        let (news, all): (Arc<[u8]>, Arc<[u8]>) = (b"news"[..].into(), b"n*"[..].into());
        let (here, there): (Arc<str>, Arc<str>) = ("here".into(), "there".into());
        assert!(registry.is_empty());
        for _ in 0..3 {
            registry.joined(Kind::Channel, &news);
        }
        registry.joined(Kind::Pattern, &all);
        for _worker in 0..2 {
            registry.stood(Kind::Channel, &news, &here);
        }
        registry.stood(Kind::Pattern, &all, &there);
        let check = |node: &str, counted: i64, expected: i64| {
            let receivers = registry.receivers(Kind::Channel, b"news", node).expect("somebody receives it");
            assert_eq!(receivers.correct(counted), expected, "{counted} counted {node}");
        };
        check("here", 2, 4);
        check("here", 3, 5);
        check("there", 1, 4);
        // A subscription that the node has not heard of yet.
        check("here", 1, 4);
        check("elsewhere", 0, 4);
        assert_eq!(registry.receivers(Kind::Channel, b"other", "here"), None);
        assert_eq!(registry.receivers(Kind::Shard, b"news", "here"), None);
        let numsub = registry.subscribers(Kind::Channel, b"news", |node| node == "here");
        assert_eq!(numsub, Receivers { clients: 3, upstream: 2 });
        assert_eq!(registry.patterns(|_| true), Receivers { clients: 1, upstream: 1 });
        assert_eq!(registry.channels(Kind::Channel, Some(b"n?ws")), std::slice::from_ref(&news));
        assert!(registry.channels(Kind::Channel, Some(b"x*")).is_empty());
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let registry = Registry::default();
        let (name, node): (Arc<[u8]>, Arc<str>) = (b"c"[..].into(), "n".into());
        registry.set_home(Kind::Channel, &name, &node);
        assert_eq!(registry.home(Kind::Channel, &name), None, "nobody is subscribed");
        registry.joined(Kind::Channel, &name);
        registry.set_home(Kind::Channel, &name, &node);
        registry.stood(Kind::Channel, &name, &node);
        assert_eq!(registry.home(Kind::Channel, &name), Some(node.clone()));
        registry.left(Kind::Channel, &name);
        assert!(registry.is_leaving(Kind::Channel, &name));
        registry.fell(Kind::Channel, &name, &node);
        assert!(registry.is_empty() && registry.kinds.iter().all(DashMap::is_empty));
    }
}
