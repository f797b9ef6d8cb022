//! Who listens to what at which node, as the real servers keep it (semantics, section 8).

use std::collections::BTreeMap;

use keyway::resp::{Proto, encode};

use crate::{
    cluster::{Cluster, Said, Word},
    node::Caller,
};

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Channel,
    Pattern,
    Shard,
}

/// A channel, a pattern or a sharded channel.
pub type Topic = (Kind, String);

/// The connections that listen at one node, with what they speak.
pub type Channels = BTreeMap<Topic, Vec<(usize, Proto)>>;

/// A message that was sent to a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    pub topic: Topic,
    pub channel: String,
    pub payload: Vec<u8>,
}

/// The kind that a command is about, and whether it begins to listen.
pub fn kind_of(name: &[u8]) -> Option<(Kind, bool)> {
    match name {
        b"SUBSCRIBE" => Some((Kind::Channel, true)),
        b"PSUBSCRIBE" => Some((Kind::Pattern, true)),
        b"SSUBSCRIBE" => Some((Kind::Shard, true)),
        b"UNSUBSCRIBE" => Some((Kind::Channel, false)),
        b"PUNSUBSCRIBE" => Some((Kind::Pattern, false)),
        b"SUNSUBSCRIBE" => Some((Kind::Shard, false)),
        _ => None,
    }
}

/// Patterns end in a star, or are plain.
pub fn matches(pattern: &str, channel: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == channel, |head| channel.starts_with(head))
}

/// Carries out one of the six commands: one confirmation for each name.
pub fn change(cluster: &mut Cluster, node: usize, caller: &mut Caller, name: &[u8], args: &[Vec<u8>], out: &mut Vec<u8>) {
    let (kind, begins) = kind_of(name).expect("one of the six");
    let word = String::from_utf8_lossy(name).to_ascii_lowercase();
    let (conn, proto) = (caller.conn, caller.proto);
    let channels = &mut cluster.nodes[node].channels;
    let mut names: Vec<String> = args[1..].iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    if names.is_empty() {
        let listens = |(topic, listeners): &(&Topic, &Vec<(usize, Proto)>)| {
            topic.0 == kind && listeners.iter().any(|(other, _)| *other == conn)
        };
        names = channels.iter().filter(listens).map(|(topic, _)| topic.1.clone()).collect();
        if names.is_empty() {
            confirm(out, proto, &word, None, count(channels, conn, kind));
        }
    }
    for name in names {
        let listeners = channels.entry((kind, name.clone())).or_default();
        listeners.retain(|(other, _)| *other != conn || begins);
        if begins && listeners.iter().all(|(other, _)| *other != conn) {
            listeners.push((conn, proto));
        }
        channels.retain(|_, listeners| !listeners.is_empty());
        confirm(out, proto, &word, Some(&name), count(channels, conn, kind));
        cluster.listened.push((conn, (kind, name)));
    }
}

fn count(channels: &Channels, conn: usize, kind: Kind) -> usize {
    let counted = channels.iter().filter(|(topic, _)| (topic.0 == Kind::Shard) == (kind == Kind::Shard));
    counted.filter(|(_, listeners)| listeners.iter().any(|(other, _)| *other == conn)).count()
}

fn confirm(out: &mut Vec<u8>, proto: Proto, word: &str, name: Option<&str>, count: usize) {
    encode::push(out, proto, 3);
    encode::bulk(out, word);
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, proto),
    }
    encode::integer(out, count as i64);
}

/// PUBLISH at a node: its own listeners are told at once and counted, the other nodes hear of it.
pub fn publish(cluster: &mut Cluster, node: usize, channel: &str, payload: &[u8]) -> usize {
    for other in (0..cluster.nodes.len()).filter(|other| *other != node && cluster.nodes[*other].alive) {
        cluster.bus.push((node, other, channel.to_owned(), payload.to_vec()));
    }
    tell(cluster, node, channel, payload)
}

/// Tells a node's listeners; returns how many.
pub fn tell(cluster: &mut Cluster, node: usize, channel: &str, payload: &[u8]) -> usize {
    let hears = |topic: &Topic| match topic.0 {
        Kind::Channel => topic.1 == channel,
        Kind::Pattern => matches(&topic.1, channel),
        Kind::Shard => false,
    };
    tell_where(cluster, node, channel, payload, hears)
}

/// SPUBLISH at a node.
pub fn publish_in_shard(cluster: &mut Cluster, node: usize, channel: &str, payload: &[u8]) -> usize {
    tell_where(cluster, node, channel, payload, |topic| topic.0 == Kind::Shard && topic.1 == channel)
}

fn tell_where(cluster: &mut Cluster, node: usize, channel: &str, payload: &[u8], hears: impl Fn(&Topic) -> bool) -> usize {
    let mut told = 0;
    for (topic, listeners) in cluster.nodes[node].channels.iter().filter(|(topic, _)| hears(topic)) {
        for (conn, proto) in listeners {
            let mut bytes = Vec::new();
            encode::push(&mut bytes, *proto, if topic.0 == Kind::Pattern { 4 } else { 3 });
            match topic.0 {
                Kind::Channel => encode::bulk(&mut bytes, "message"),
                Kind::Shard => encode::bulk(&mut bytes, "smessage"),
                Kind::Pattern => {
                    encode::bulk(&mut bytes, "pmessage");
                    encode::bulk(&mut bytes, &topic.1);
                }
            }
            encode::bulk(&mut bytes, channel);
            encode::bulk(&mut bytes, payload);
            let message = Message { topic: topic.clone(), channel: channel.to_owned(), payload: payload.to_vec() };
            cluster.said.push(Said { conn: *conn, bytes, word: Word::Message(message) });
            told += 1;
        }
    }
    told
}

/// Sharded channels whose slot has left the node: their listeners are told so, unasked.
pub fn leave(cluster: &mut Cluster, node: usize) {
    let shard: Vec<Topic> = cluster.nodes[node].channels.keys().filter(|topic| topic.0 == Kind::Shard).cloned().collect();
    for topic in shard {
        let unit = cluster.slot_and_unit(&topic.1).1;
        let importing = cluster.is_master(node) && cluster.shards[cluster.nodes[node].shard].importing.contains_key(&unit);
        if cluster.nodes[node].view.units[unit].1 == node || importing {
            continue;
        }
        for (conn, proto) in cluster.nodes[node].channels.remove(&topic).unwrap_or_default() {
            let mut bytes = Vec::new();
            let left = count(&cluster.nodes[node].channels, conn, Kind::Shard);
            confirm(&mut bytes, proto, "sunsubscribe", Some(&topic.1), left);
            cluster.said.push(Said { conn, bytes, word: Word::Left(topic.clone()) });
        }
    }
}

/// The node has learned that a connection is gone.
pub fn forget(cluster: &mut Cluster, node: usize, conn: usize) {
    cluster.nodes[node].channels.retain(|_, listeners| {
        listeners.retain(|(other, _)| *other != conn);
        !listeners.is_empty()
    });
}
