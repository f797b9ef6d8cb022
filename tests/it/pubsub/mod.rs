//! Subscriptions: as on a standalone server in peace, and without a gap or a message told twice while slots, roles and nodes change.

mod alike;
mod keyspace;
mod limits;
mod numbered;
mod sharded;

use std::time::Duration;

use crate::harness::cluster::tags_in;
use crate::harness::{Client, Cluster, Proxy, Reply, wait_until};
use crate::reshard::MOVED_SLOTS;

/// Moves that follow each other at once make Redis 7.0 lose the last slot of the one before: nobody owns it then.
const BETWEEN_MOVES: Duration = Duration::from_millis(500);

/// What a subscriber was told: the kind of message, its channel, and what was published.
struct Told {
    channel: String,
    payload: String,
}

impl Told {
    /// A message of any kind, in RESP2 or RESP3; `None` for what is no message.
    fn of(reply: &Reply) -> Option<Told> {
        let elements = reply.elements();
        let texts: Vec<String> = elements.iter().map(Reply::text).collect();
        match (texts.first().map(String::as_str), &texts[..]) {
            (Some("message" | "smessage"), [_, channel, payload]) => {
                Some(Told { channel: channel.clone(), payload: payload.clone() })
            }
            (Some("pmessage"), [_, _, channel, payload]) => Some(Told { channel: channel.clone(), payload: payload.clone() }),
            _ => None,
        }
    }
}

/// Subscribes, in this protocol, and reads the confirmations.
fn subscribe(client: &mut Client, proto: &str, command: &str, names: &[String]) {
    assert!(!client.call(&["HELLO", proto]).is_error());
    let mut request = vec![command.to_owned()];
    request.extend_from_slice(names);
    client.send(&crate::harness::client::request(&request)).expect("the proxy reads");
    for (number, name) in names.iter().enumerate() {
        let reply = client.receive().expect("a confirmation");
        let expected = [Reply::bulk(command.to_lowercase()), Reply::bulk(name), Reply::Integer(number as i64 + 1)];
        assert_eq!(reply.elements(), expected, "{command} {name}: {reply:?}");
    }
}

/// Waits until what is published at any node is told at every other: a cluster that has just come together may lose messages.
fn wait_for_bus(cluster: &Cluster) {
    let count = cluster.members().len();
    for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
        let (mut publisher, mut subscriber) = (cluster.member(from).client(), cluster.member(to).client());
        subscriber.call(&["SUBSCRIBE", "is-anyone-there"]);
        wait_until("a message to come from node to node", || {
            publisher.call(&["PUBLISH", "is-anyone-there", "hello"]);
            next_within(&mut subscriber, Duration::from_millis(500)).map(drop).ok_or_else(|| format!("{from} to {to}"))
        });
    }
}

/// Puts keys into the slots that are going to move.
fn fill_slots(proxy: &Proxy) {
    let keys = tags_in(0..2 * MOVED_SLOTS).into_iter().flat_map(|tag| (0..12).map(move |number| format!("{tag}fixed:{number}")));
    let requests: Vec<Vec<String>> = keys.map(|key| vec!["SET".to_owned(), key, "value".to_owned()]).collect();
    assert!(proxy.client().pipeline(&requests).iter().all(|reply| *reply == Reply::ok()));
}

/// A reply, or `None` when nothing comes for a while.
fn next_within(client: &mut Client, patience: Duration) -> Option<Reply> {
    client.set_timeout(patience);
    client.receive().ok()
}
