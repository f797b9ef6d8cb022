//! Forming a cluster out of empty nodes, as `redis-cli --cluster create` does it but without it.

use std::thread;
use std::time::{Duration, Instant};

use super::DemoError;
use super::node::{Node, NodeError};

const SLOT_COUNT: usize = 16384;
/// One command with thousands of arguments is legal; a few smaller ones are easier on the nodes' buffers.
const SLOTS_PER_COMMAND: usize = 1000;

/// The nodes' gossip needs a few seconds for six nodes and more for a hundred.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Makes the first `masters` nodes masters of equal shares of the slots and the rest their replicas, and returns
/// when every node says that the cluster is ok, all agree on it, and every replica holds its master's data.
pub(super) fn form(nodes: &mut [Node], masters: usize) -> Result<(), DemoError> {
    give_epochs(nodes)?;
    give_slots(&mut nodes[..masters])?;
    introduce(nodes)?;
    wait_until(nodes, "the nodes do not all know each other", all_known)?;
    give_masters(nodes, masters)?;
    wait_until(nodes, "the nodes do not agree that the cluster is ok", is_ok_and_agreed)?;
    wait_until(nodes, "a replica has not caught up with its master", replicas_are_filled)
}

/// An own epoch for each while it is still alone; later they would have to settle it among themselves.
fn give_epochs(nodes: &mut [Node]) -> Result<(), NodeError> {
    for (index, node) in nodes.iter_mut().enumerate() {
        node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
    }
    Ok(())
}

fn give_slots(masters: &mut [Node]) -> Result<(), NodeError> {
    let count = masters.len();
    for (index, master) in masters.iter_mut().enumerate() {
        let (from, to) = share(index, count);
        let slots: Vec<String> = (from..to).map(|slot| slot.to_string()).collect();
        for batch in slots.chunks(SLOTS_PER_COMMAND) {
            let command: Vec<&str> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(batch.iter().map(String::as_str)).collect();
            master.ask(&command)?;
        }
    }
    Ok(())
}

/// The slots of one of `count` masters: the first, and the one after the last.
pub(super) fn share(index: usize, count: usize) -> (usize, usize) {
    (SLOT_COUNT * index / count, SLOT_COUNT * (index + 1) / count)
}

/// One node meets all others; gossip does the rest.
fn introduce(nodes: &mut [Node]) -> Result<(), NodeError> {
    let Some((first, others)) = nodes.split_first_mut() else { return Ok(()) };
    for other in others {
        first.ask(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()])?;
    }
    Ok(())
}

fn give_masters(nodes: &mut [Node], masters: usize) -> Result<(), NodeError> {
    let (masters, replicas) = nodes.split_at_mut(masters);
    for (index, replica) in replicas.iter_mut().enumerate() {
        let id = masters[index % masters.len()].ask(&["CLUSTER", "MYID"])?;
        replica.ask(&["CLUSTER", "REPLICATE", &id])?;
    }
    Ok(())
}

fn wait_until(nodes: &mut [Node], otherwise: &str, holds: fn(&mut [Node]) -> Result<bool, NodeError>) -> Result<(), DemoError> {
    let give_up_at = Instant::now() + READY_TIMEOUT;
    while !holds(nodes)? {
        if Instant::now() > give_up_at {
            return Err(DemoError::NotReady { seconds: READY_TIMEOUT.as_secs(), waiting_for: otherwise.to_owned() });
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn all_known(nodes: &mut [Node]) -> Result<bool, NodeError> {
    let count = nodes.len();
    for node in nodes {
        let known = node.ask(&["CLUSTER", "NODES"])?;
        if known.lines().count() < count || known.contains("handshake") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_ok_and_agreed(nodes: &mut [Node]) -> Result<bool, NodeError> {
    let mut agreed: Option<Vec<String>> = None;
    for node in nodes {
        let is_ok = node.ask(&["CLUSTER", "INFO"])?.lines().any(|line| line.trim_end() == "cluster_state:ok");
        let view = layout(&node.ask(&["CLUSTER", "NODES"])?);
        if !is_ok || *agreed.get_or_insert_with(|| view.clone()) != view {
            return Ok(false);
        }
    }
    Ok(true)
}

fn replicas_are_filled(nodes: &mut [Node]) -> Result<bool, NodeError> {
    for node in nodes {
        if node.ask(&["INFO", "replication"])?.contains("master_link_status:down") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What an answer to CLUSTER NODES says about the layout, without what differs between nodes that agree (who is
/// asked, pings, link states). Fields: id, address, flags, master, ping, pong, epoch, link, slots...
fn layout(cluster_nodes: &str) -> Vec<String> {
    let mut lines: Vec<String> = cluster_nodes
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let field = |index: usize| fields.get(index).copied().unwrap_or_default();
            let flags = field(2).trim_start_matches("myself,");
            format!("{} {flags} {} {}", field(0), field(3), fields.get(8..).unwrap_or_default().join(" "))
        })
        .collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_slot_once() {
        for count in 1..=64 {
            let shares: Vec<_> = (0..count).map(|index| share(index, count)).collect();
            assert_eq!((shares[0].0, shares[count - 1].1), (0, SLOT_COUNT));
            assert!(shares.windows(2).all(|pair| pair[0].1 == pair[1].0), "{count}");
        }
    }

    #[test]
    fn layouts_are_equal_whoever_tells_them() {
        let of_a = "a 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-9\nb 127.0.0.1:3@4 slave a 0 17 1 connected\n";
        let of_b = "b 127.0.0.1:3@4 myself,slave a 0 0 1 connected\na 127.0.0.1:1@2 master - 5 17 1 connected 0-9\n";
        let moved = "b 127.0.0.1:3@4 myself,slave a 0 0 1 connected\na 127.0.0.1:1@2 master - 5 17 1 connected 0-8\n";
        assert_eq!(layout(of_a), layout(of_b));
        assert_ne!(layout(of_a), layout(moved));
    }
}
