//! Connections that wait for an element of a list, as the real servers keep them (semantics, section 9).

use keyway::resp::{Proto, encode};

use crate::{
    cluster::{Cluster, Said, Word},
    node::{Caller, Outcome, keys_of, spelled},
    serve::serve,
};

/// A connection that waits.
pub struct Waiter {
    pub conn: usize,
    /// Tells one wait of a connection from the next.
    pub number: u64,
    proto: Proto,
    args: Vec<Vec<u8>>,
}

/// Where a blocking command has its timeout.
pub fn timeout_at(args: &[Vec<u8>]) -> Option<usize> {
    match args[0].to_ascii_uppercase().as_slice() {
        b"BLPOP" | b"BRPOP" => Some(args.len() - 1),
        b"BLMOVE" => Some(5),
        b"BLMPOP" => Some(1),
        _ => None,
    }
}

/// A timeout in microseconds.
pub fn timeout_us(text: &[u8]) -> Option<u64> {
    let seconds: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (seconds >= 0.0).then_some((seconds * 1e6).round() as u64)
}

/// Lets a connection wait if no list that it asks for has an element. False if there is one, or the command is no good.
pub fn wait(cluster: &mut Cluster, node: usize, caller: &mut Caller, args: &[Vec<u8>], now: u64) -> bool {
    let keys = keys_of(args);
    let sources = if args[0].eq_ignore_ascii_case(b"BLMOVE") { &keys[..1] } else { &keys[..] };
    let shard = &cluster.shards[cluster.nodes[node].shard];
    let Some(timeout) = timeout_at(args).and_then(|at| timeout_us(args.get(at)?)) else { return false };
    if sources.iter().any(|key| shard.data.contains_key(key)) {
        return false;
    }
    cluster.waits += 1;
    let number = cluster.waits;
    caller.blocked = true;
    let waiter = Waiter { conn: caller.conn, number, proto: caller.proto, args: args.to_vec() };
    cluster.nodes[node].waiting.push(waiter);
    if timeout > 0 {
        cluster.timeouts.push((now + timeout, caller.conn, number));
    }
    true
}

/// Serves whoever waits for a list that has got elements, first come, first served.
pub fn serve_ready(cluster: &mut Cluster, node: usize) {
    let shard = cluster.nodes[node].shard;
    let own = std::mem::take(&mut cluster.popped);
    while let Some(key) = cluster.shards[shard].ready.pop_front() {
        while cluster.shards[shard].data.contains_key(&key) {
            let waits = |waiter: &Waiter| {
                let keys = keys_of(&waiter.args);
                let sources = if waiter.args[0].eq_ignore_ascii_case(b"BLMOVE") { &keys[..1] } else { &keys[..] };
                sources.contains(&key)
            };
            let Some(place) = cluster.nodes[node].waiting.iter().position(waits) else { break };
            let waiter = cluster.nodes[node].waiting.remove(place);
            let name = waiter.args[0].to_ascii_uppercase();
            let mut bytes = Vec::new();
            let outcome = serve(cluster, node, waiter.proto, &name, &waiter.args, &keys_of(&waiter.args), &mut bytes);
            let popped = std::mem::take(&mut cluster.popped);
            cluster.said.push(Said { conn: waiter.conn, bytes, word: Word::Unblocked { outcome, popped } });
        }
    }
    cluster.popped = own;
}

/// The connection that a CLIENT UNBLOCK names.
pub fn unblocks(args: &[Vec<u8>]) -> Option<usize> {
    let [name, word, id, ..] = args else { return None };
    let is_unblock = name.eq_ignore_ascii_case(b"CLIENT") && word.eq_ignore_ascii_case(b"UNBLOCK");
    // No server has a connection 0.
    is_unblock.then(|| std::str::from_utf8(id).ok()?.parse::<usize>().ok()?.checked_sub(1))?
}

/// CLIENT ID, and CLIENT UNBLOCK id TIMEOUT|ERROR. Connections are their own ids.
pub fn client(cluster: &mut Cluster, node: usize, caller: &Caller, args: &[Vec<u8>], out: &mut Vec<u8>) -> Outcome {
    match (args[1].to_ascii_uppercase().as_slice(), unblocks(args)) {
        (b"ID", _) => encode::integer(out, caller.conn as i64 + 1),
        (b"UNBLOCK", Some(id)) => {
            let waiter = cluster.nodes[node].waiting.iter().find(|waiter| waiter.conn == id).map(|waiter| waiter.number);
            encode::integer(out, i64::from(waiter.is_some()));
            match waiter {
                Some(_) if args.get(3).is_some_and(|how| how == b"ERROR") => {
                    forget(cluster, node, id);
                    refuse(cluster, id, "UNBLOCKED client unblocked via CLIENT UNBLOCK".into());
                }
                Some(number) => timed_out(cluster, node, id, number),
                None => {}
            }
        }
        _ => encode::error(out, "ERR syntax error"),
    }
    Outcome::Served
}

/// A wait is over without an element.
pub fn timed_out(cluster: &mut Cluster, node: usize, conn: usize, number: u64) {
    let waits = |waiter: &Waiter| waiter.conn == conn && waiter.number == number;
    let Some(place) = cluster.nodes[node].waiting.iter().position(waits) else { return };
    let waiter = cluster.nodes[node].waiting.remove(place);
    let mut bytes = Vec::new();
    encode::null_array(&mut bytes, waiter.proto);
    cluster.said.push(Said { conn, bytes, word: Word::Unblocked { outcome: Outcome::Served, popped: Vec::new() } });
}

/// Whoever waits for what the node does not own any more is sent on. The servers look at this now and then.
pub fn leave(cluster: &mut Cluster, node: usize) {
    for waiter in std::mem::take(&mut cluster.nodes[node].waiting) {
        let keys = keys_of(&waiter.args);
        let (slot, unit) = cluster.slot_and_unit(&keys[0]);
        let owner = cluster.nodes[node].view.units[unit].1;
        let importing = cluster.is_master(node) && cluster.shards[cluster.nodes[node].shard].importing.contains_key(&unit);
        let text = if cluster.nodes[node].cluster_down {
            "CLUSTERDOWN The cluster is down".to_owned()
        } else if owner != node && !importing {
            format!("MOVED {slot} {}", spelled(cluster, node, owner))
        } else {
            cluster.nodes[node].waiting.push(waiter);
            continue;
        };
        refuse(cluster, waiter.conn, text);
    }
}

/// A master has become a replica. Redis tells at once whoever waits, and hangs up.
pub fn demoted(cluster: &mut Cluster, node: usize) {
    if cluster.valkey || cluster.is_master(node) {
        return;
    }
    for waiter in std::mem::take(&mut cluster.nodes[node].waiting) {
        let text = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";
        refuse(cluster, waiter.conn, text.into());
        cluster.said.push(Said { conn: waiter.conn, bytes: Vec::new(), word: Word::Close });
    }
}

fn refuse(cluster: &mut Cluster, conn: usize, text: String) {
    let mut bytes = Vec::new();
    encode::error(&mut bytes, text);
    cluster.said.push(Said { conn, bytes, word: Word::Unblocked { outcome: Outcome::Refused, popped: Vec::new() } });
}

/// The node has learned that a connection is gone.
pub fn forget(cluster: &mut Cluster, node: usize, conn: usize) {
    cluster.nodes[node].waiting.retain(|waiter| waiter.conn != conn);
}
