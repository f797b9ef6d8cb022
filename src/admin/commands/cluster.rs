//! What the proxy holds for the cluster: its slot map.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::{Reply, Report};
use crate::admin::text::columns;
use crate::cluster::{Node, Role as NodeRole, SLOT_COUNT, Slot, SlotMap};

/// How long a refresh may take before the operator is told that nobody answers.
const REFRESH_LIMIT: Duration = Duration::from_secs(5);

pub(super) static NODES: Definition = Definition {
    name: "PROXY NODES",
    syntax: "PROXY NODES [JSON]",
    summary: "List the nodes of the slot map",
    help: "One line a node: role, address, id, slots, what it replicates, and whether the cluster takes it for failed.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [] => Ok(Handler::now(|_, state| state.cluster.topology.current().map_or_else(no_map, |map| nodes(&map)))),
        _ => Err(Wrong::Count),
    },
};

pub(super) static REFRESH: Definition = Definition {
    name: "PROXY REFRESH",
    syntax: "PROXY REFRESH [JSON]",
    summary: "Ask the cluster for its slots now",
    help: "It waits for the answer, at most 5 seconds, and shows what PROXY TOPOLOGY shows.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| match arguments {
        [] => Ok(Handler::later(|state| {
            let cluster = state.cluster.clone();
            async move {
                let since = (cluster.now_us)();
                match timeout(REFRESH_LIMIT, cluster.topology.confirmed_since(since)).await {
                    Ok(Some(map)) => topology(&map, (cluster.now_us)()),
                    _ => {
                        Reply::Error(format!("NOREFRESH expected an answer of the cluster within {REFRESH_LIMIT:?}, found none"))
                    }
                }
            }
        })),
        _ => Err(Wrong::Count),
    },
};

pub(super) static SLOT: Definition = Definition {
    name: "PROXY SLOT",
    syntax: "PROXY SLOT slot|KEY [key] [JSON]",
    summary: "Show who owns a slot, or the slot of a key",
    help: "PROXY SLOT 866 tells of slot 866, PROXY SLOT KEY user:1 of the slot that this key lies in.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: parse_slot,
};

pub(super) static TOPOLOGY: Definition = Definition {
    name: "PROXY TOPOLOGY",
    syntax: "PROXY TOPOLOGY [JSON]",
    summary: "Show the slot map that requests are routed by",
    help: "Its version and age, how many slots are assigned and served, and each master with its slots and replicas.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [] => Ok(Handler::now(|_, state| {
            let now_us = (state.cluster.now_us)();
            state.cluster.topology.current().map_or_else(no_map, |map| topology(&map, now_us))
        })),
        _ => Err(Wrong::Count),
    },
};

pub(super) fn no_map() -> Reply {
    Reply::Error("NOMAP expected a slot map, found none: no node of the cluster has answered yet".to_owned())
}

fn parse_slot(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let slot = match arguments {
        [word, key] if word.eq_ignore_ascii_case(b"KEY") => Slot::of(key),
        [number] => Slot::parse(number)
            .ok_or_else(|| Wrong::Value { expected: "a slot from 0 to 16383, or KEY and a key", found: shown(number) })?,
        _ => return Err(Wrong::Count),
    };
    Ok(Handler::now(move |_, state| state.cluster.topology.current().map_or_else(no_map, |map| one_slot(&map, slot))))
}

fn one_slot(map: &SlotMap, slot: Slot) -> Reply {
    let owner = map.owner(slot).map(|index| map.node(index));
    let open = map.open_slots.iter().find(|open| open.slot == slot);
    let replicas =
        map.owner(slot).map_or(Vec::new(), |owner| map.replicas(owner).map(|index| map.node(index).addr.to_string()).collect());
    let mut rows = vec![
        vec!["slot".to_owned(), slot.to_string()],
        vec!["owner".to_owned(), owner.map_or("nobody".to_owned(), |node| format!("{} ({})", node.addr, node.id))],
        vec!["replicas".to_owned(), if replicas.is_empty() { "none".to_owned() } else { replicas.join(", ") }],
    ];
    let moving = open.map(|open| (map.node(open.source), map.node(open.target)));
    if let Some((source, target)) = moving {
        rows.push(vec!["moving".to_owned(), format!("from {} to {}", source.addr, target.addr)]);
    }
    let value = json!({
        "slot": slot.get(),
        "owner": owner.map(|node| json!({"id": &*node.id, "address": node.addr.as_str(), "failed": node.failed})),
        "replicas": replicas,
        "moving": moving.map(|(source, target)| json!({"source": &*source.id, "target": &*target.id})),
    });
    Reply::Report(Report { lines: columns(&rows), value })
}

fn role(node: &Node) -> &'static str {
    match node.role {
        NodeRole::Master => "master",
        NodeRole::Replica { .. } => "replica",
    }
}

fn slot_count(map: &SlotMap, node: u16) -> usize {
    map.ranges(node).map(|(first, last)| usize::from(last.get() - first.get()) + 1).sum()
}

fn range(first: Slot, last: Slot) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn nodes(map: &SlotMap) -> Reply {
    let title = ["role", "address", "slots", "id", "state"].map(str::to_owned).to_vec();
    let row = |index: u16| {
        let node = map.node(index);
        let state = match &node.role {
            _ if node.failed => "failed".to_owned(),
            NodeRole::Master => "ok".to_owned(),
            NodeRole::Replica { of } => {
                format!("of {}", map.find_id(of).map_or(of.to_string(), |master| map.node(master).addr.to_string()))
            }
        };
        vec![role(node).to_owned(), node.addr.to_string(), slot_count(map, index).to_string(), node.id.to_string(), state]
    };
    let rows: Vec<Vec<String>> = std::iter::once(title).chain(map.indexes().map(row)).collect();
    let value = map.indexes().map(|index| {
        let node = map.node(index);
        json!({
            "id": &*node.id,
            "address": node.addr.as_str(),
            "role": role(node),
            "master": match &node.role { NodeRole::Replica { of } => Some(&**of), NodeRole::Master => None },
            "failed": node.failed,
            "epoch": node.epoch,
            "slots": slot_count(map, index),
        })
    });
    Reply::Report(Report { lines: columns(&rows), value: value.collect() })
}

pub(super) fn slots(map: &SlotMap) -> Reply {
    let mut ranges: Vec<(Slot, Slot, Option<u16>)> = Vec::new();
    for slot in Slot::all() {
        let owner = map.owner(slot);
        match ranges.last_mut() {
            Some((_, last, known)) if *known == owner => *last = slot,
            _ => ranges.push((slot, slot, owner)),
        }
    }
    let owner = |owner: Option<u16>| owner.map_or("nobody".to_owned(), |index| map.node(index).addr.to_string());
    let mut rows: Vec<Vec<String>> = ranges.iter().map(|(first, last, node)| vec![range(*first, *last), owner(*node)]).collect();
    rows.extend(map.open_slots.iter().map(|open| {
        vec![open.slot.to_string(), format!("moving from {} to {}", map.node(open.source).addr, map.node(open.target).addr)]
    }));
    let value = json!({
        "ranges": ranges.iter().map(|(first, last, node)| json!({
            "first": first.get(), "last": last.get(), "owner": node.map(|index| map.node(index).id.to_string()),
        })).collect::<Vec<_>>(),
        "moving": map.open_slots.iter().map(|open| json!({
            "slot": open.slot.get(), "source": &*map.node(open.source).id, "target": &*map.node(open.target).id,
        })).collect::<Vec<_>>(),
    });
    Reply::Report(Report { lines: columns(&rows), value })
}

fn topology(map: &SlotMap, now_us: u64) -> Reply {
    let age_ms = now_us.saturating_sub(map.asked_at_us) / 1000;
    let mut rows = vec![
        vec!["version".to_owned(), map.version.to_string()],
        vec!["age".to_owned(), format!("{age_ms} ms")],
        vec!["assigned".to_owned(), format!("{} of {SLOT_COUNT} slots", map.covered())],
        vec!["served".to_owned(), format!("{} of {SLOT_COUNT} slots", map.served())],
        vec!["moving".to_owned(), format!("{} slots", map.open_slots.len())],
    ];
    let masters: Vec<u16> = map.masters().collect();
    for index in &masters {
        let node = map.node(*index);
        let ranges: Vec<String> = map.ranges(*index).map(|(first, last)| range(first, last)).collect();
        let replicas = map.replicas(*index).count();
        let failed = if node.failed { ", failed" } else { "" };
        rows.push(vec![
            "master".to_owned(),
            format!("{}: {} slots in {} ranges, {replicas} replicas{failed}", node.addr, slot_count(map, *index), ranges.len()),
        ]);
    }
    let value = json!({
        "version": map.version,
        "age_ms": age_ms,
        "slots_assigned": map.covered(),
        "slots_served": map.served(),
        "slots_moving": map.open_slots.len(),
        "masters": masters.iter().map(|index| {
            let node = map.node(*index);
            json!({
                "id": &*node.id,
                "address": node.addr.as_str(),
                "failed": node.failed,
                "slots": map.ranges(*index).map(|(first, last)| range(first, last)).collect::<Vec<_>>().join(","),
                "replicas": map.replicas(*index).map(|replica| map.node(replica).addr.to_string()).collect::<Vec<_>>(),
            })
        }).collect::<Vec<_>>(),
    });
    Reply::Report(Report { lines: columns(&rows), value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::definition::tests::check;
    use crate::cluster::{Addr, Persona};

    fn map() -> SlotMap {
        let node = |id: &str, port: u16, role: NodeRole| Node {
            id: id.into(),
            addr: Addr::new("10.0.0.1", port),
            aliases: Vec::new(),
            role,
            failed: false,
            epoch: 1,
            cursor_has_slot: false,
        };
        let nodes = vec![
            node("aaaa", 7001, NodeRole::Master),
            node("bbbb", 7002, NodeRole::Master),
            node("cccc", 7003, NodeRole::Replica { of: "aaaa".into() }),
        ];
        SlotMap::new(7, 1_000_000, nodes, &[(0, 99, 0), (200, 200, 0), (300, 16383, 1)], Persona::default())
    }

    #[track_caller]
    fn shows(reply: Reply, lines: &[&str], json: &str) {
        let Reply::Report(report) = reply else { panic!("{reply:?} is no report") };
        assert_eq!(report.lines, lines);
        assert_eq!(report.value.to_string(), json);
    }

    #[test]
    fn a_slot_and_its_owner() {
        shows(
            one_slot(&map(), Slot::new(200).expect("a slot")),
            &["slot      200", "owner     10.0.0.1:7001 (aaaa)", "replicas  10.0.0.1:7003"],
            r#"{"slot":200,"owner":{"id":"aaaa","address":"10.0.0.1:7001","failed":false},"replicas":["10.0.0.1:7003"],"moving":null}"#,
        );
        shows(
            one_slot(&map(), Slot::new(150).expect("a slot")),
            &["slot      150", "owner     nobody", "replicas  none"],
            r#"{"slot":150,"owner":null,"replicas":[],"moving":null}"#,
        );
    }

    #[test]
    fn nodes_slots_and_topology() {
        shows(
            nodes(&map()),
            &[
                "role     address        slots  id    state",
                "master   10.0.0.1:7001  101    aaaa  ok",
                "master   10.0.0.1:7002  16084  bbbb  ok",
                "replica  10.0.0.1:7003  0      cccc  of 10.0.0.1:7001",
            ],
            concat!(
                r#"[{"id":"aaaa","address":"10.0.0.1:7001","role":"master","master":null,"failed":false,"epoch":1,"slots":101},"#,
                r#"{"id":"bbbb","address":"10.0.0.1:7002","role":"master","master":null,"failed":false,"epoch":1,"slots":16084},"#,
                r#"{"id":"cccc","address":"10.0.0.1:7003","role":"replica","master":"aaaa","failed":false,"epoch":1,"slots":0}]"#
            ),
        );
        let Reply::Report(report) = slots(&map()) else { panic!("no report") };
        let expected = [
            "0-99       10.0.0.1:7001",
            "100-199    nobody",
            "200        10.0.0.1:7001",
            "201-299    nobody",
            "300-16383  10.0.0.1:7002",
        ];
        assert_eq!(report.lines, expected);
        let Reply::Report(report) = topology(&map(), 1_250_000) else { panic!("no report") };
        assert_eq!(report.lines[1..4], ["age       250 ms", "assigned  16185 of 16384 slots", "served    16185 of 16384 slots"]);
    }

    #[test]
    fn before_the_cluster_has_answered() {
        let none = "-NOMAP expected a slot map, found none: no node of the cluster has answered yet\r\n";
        for command in ["PROXY NODES", "PROXY SLOT 5", "PROXY SLOT KEY a", "PROXY SLOTS json", "PROXY TOPOLOGY"] {
            check(command, none);
        }
        check(
            "PROXY SLOT 16384",
            "-ERR expected a slot from 0 to 16383, or KEY and a key, found '16384'. Syntax: PROXY SLOT slot|KEY [key] [JSON]\r\n",
        );
    }
}
