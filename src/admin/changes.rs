//! What became of the slot map, in lines for people: the events of `keyway:topology`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::events::{Channel, Events};
use crate::cluster::{Node, Role, Slot, SlotMap};

/// Lines told of one change; a cluster that was formed anew must not push everything else out.
const LINES_MAX: usize = 50;

/// Ranges named in one line.
const RANGES_MAX: usize = 8;

/// Tells every change of the map until the topology ends.
pub(super) async fn tell_changes(mut maps: watch::Receiver<Option<Arc<SlotMap>>>, events: Events) {
    let mut known = maps.borrow_and_update().clone();
    while maps.changed().await.is_ok() {
        let Some(map) = maps.borrow_and_update().clone() else { continue };
        let lines = match &known {
            Some(before) if before.version == map.version => Vec::new(),
            Some(before) => changes(before, &map),
            None => vec![format!("found the cluster: {} nodes, {} slots assigned", map.nodes.len(), map.covered())],
        };
        let more = lines.len().saturating_sub(LINES_MAX);
        lines.iter().take(LINES_MAX).for_each(|line| events.tell(Channel::Topology, line));
        if more > 0 {
            events.tell(Channel::Topology, &format!("and {more} changes more"));
        }
        known = Some(map);
    }
}

/// Nodes first, then slots.
fn changes(before: &SlotMap, after: &SlotMap) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &after.nodes {
        let was = before.find_id(&node.id).map(|index| before.node(index));
        let name = name(node);
        match was {
            None => lines.push(format!("{name} joined as {}", role(node, after))),
            Some(was) if was.role != node.role => lines.push(format!("{name} is now {}", role(node, after))),
            Some(_) => {}
        }
        match was.is_some_and(|was| was.failed) {
            false if node.failed => lines.push(format!("{name} failed")),
            true if !node.failed => lines.push(format!("{name} is back")),
            _ => {}
        }
    }
    let gone = before.nodes.iter().filter(|node| after.find_id(&node.id).is_none());
    lines.extend(gone.map(|node| format!("{} left", name(node))));
    lines.extend(handed_over(before, after));
    lines.extend(open(before, after));
    lines
}

/// `10.0.0.1:7001 (aaaaaaaa)`
fn name(node: &Node) -> String {
    format!("{} ({})", node.addr, node.id.get(..8).unwrap_or(&node.id))
}

fn role(node: &Node, map: &SlotMap) -> String {
    match &node.role {
        Role::Master => "a master".to_owned(),
        Role::Replica { of } => {
            let master = map.find_id(of).map_or(of.to_string(), |index| map.node(index).addr.to_string());
            format!("a replica of {master}")
        }
    }
}

/// One line for each pair of owners that slots went between.
fn handed_over(before: &SlotMap, after: &SlotMap) -> Vec<String> {
    let mut moved: BTreeMap<[Option<u16>; 2], Vec<Slot>> = BTreeMap::new();
    for slot in Slot::all() {
        let owners @ [old, new] = [before, after].map(|map| map.owner(slot));
        if old.map(|index| &before.node(index).id) != new.map(|index| &after.node(index).id) {
            moved.entry(owners).or_default().push(slot);
        }
    }
    let line = |([old, new], slots): ([Option<u16>; 2], Vec<Slot>)| {
        let count = if slots.len() == 1 { "slot".to_owned() } else { format!("{} slots", slots.len()) };
        let [from, to] =
            [(before, old), (after, new)].map(|(map, owner)| owner.map_or("nobody".to_owned(), |index| name(map.node(index))));
        format!("{count} {} from {from} to {to}", ranges(&slots))
    };
    moved.into_iter().map(line).collect()
}

fn open(before: &SlotMap, after: &SlotMap) -> Vec<String> {
    let is_in = |map: &SlotMap, slot: Slot| map.open_slots.iter().any(|open| open.slot == slot);
    let began = after.open_slots.iter().filter(|open| !is_in(before, open.slot)).map(|open| {
        let [source, target] = [open.source, open.target].map(|index| name(after.node(index)));
        format!("slot {} begins to move from {source} to {target}", open.slot)
    });
    // One that has changed hands is told above.
    let same_owner = |slot: Slot| {
        let id = |map: &SlotMap| map.owner(slot).map(|index| map.node(index).id.clone());
        id(before) == id(after)
    };
    let ended = before.open_slots.iter().filter(|open| !is_in(after, open.slot) && same_owner(open.slot));
    began.chain(ended.map(|open| format!("slot {} stays where it is", open.slot))).collect()
}

/// `0-99, 200`: slots come in rising order.
fn ranges(slots: &[Slot]) -> String {
    let runs: Vec<&[Slot]> = slots.chunk_by(|one, next| next.get() == one.get() + 1).collect();
    let run = |run: &&[Slot]| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    let shown: Vec<String> = runs.iter().take(RANGES_MAX).map(run).collect();
    let more = if runs.len() > RANGES_MAX { format!(" and {} ranges more", runs.len() - RANGES_MAX) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Addr, Persona};

    fn node(id: &str, port: u16, role: Role) -> Node {
        let addr = Addr::new("10.0.0.1", port);
        Node { id: id.into(), addr, aliases: Vec::new(), role, failed: false, epoch: 1, cursor_has_slot: false }
    }

    fn map(version: u64, nodes: Vec<Node>, ranges: &[(u16, u16, u16)]) -> SlotMap {
        SlotMap::new(version, version, nodes, ranges, Persona::default())
    }

    fn masters() -> Vec<Node> {
        vec![node("aaaa", 7001, Role::Master), node("bbbb", 7002, Role::Master)]
    }

    #[test]
    fn slots_that_change_hands() {
        let before = map(1, masters(), &[(0, 8191, 0), (8192, 16383, 1)]);
        let after = map(2, masters(), &[(0, 99, 1), (100, 199, 0), (200, 200, 1), (201, 8191, 0), (8192, 16383, 1)]);
        assert_eq!(changes(&before, &after), ["101 slots 0-99, 200 from 10.0.0.1:7001 (aaaa) to 10.0.0.1:7002 (bbbb)"]);
        assert_eq!(changes(&before, &before), Vec::<String>::new());
        let after = map(2, masters(), &[(0, 4, 0), (6, 8191, 0), (8192, 16383, 1)]);
        assert_eq!(changes(&before, &after), ["slot 5 from 10.0.0.1:7001 (aaaa) to nobody"]);
    }

    #[test]
    fn a_failover_and_its_nodes() {
        let replica = || node("cccc", 7003, Role::Replica { of: "aaaa".into() });
        let before = map(1, [masters(), vec![replica()]].concat(), &[(0, 8191, 0), (8192, 16383, 1)]);
        let mut dead = node("aaaa", 7001, Role::Master);
        dead.failed = true;
        let nodes = vec![dead, node("bbbb", 7002, Role::Master), node("cccc", 7003, Role::Master)];
        let after = map(2, nodes, &[(0, 8191, 2), (8192, 16383, 1)]);
        assert_eq!(
            changes(&before, &after),
            [
                "10.0.0.1:7001 (aaaa) failed",
                "10.0.0.1:7003 (cccc) is now a master",
                "8192 slots 0-8191 from 10.0.0.1:7001 (aaaa) to 10.0.0.1:7003 (cccc)",
            ]
        );
        let without =
            map(3, vec![node("bbbb", 7002, Role::Master), node("cccc", 7003, Role::Master)], &[(0, 8191, 1), (8192, 16383, 0)]);
        assert!(changes(&after, &without).contains(&"10.0.0.1:7001 (aaaa) left".to_owned()));
        assert_eq!(changes(&without, &after)[0], "10.0.0.1:7001 (aaaa) joined as a master");
    }

    #[test]
    fn many_ranges_are_cut() {
        let slots: Vec<Slot> = (0..40).filter_map(|number| Slot::new(number * 2)).collect();
        assert_eq!(ranges(&slots), "0, 2, 4, 6, 8, 10, 12, 14 and 32 ranges more");
    }
}
