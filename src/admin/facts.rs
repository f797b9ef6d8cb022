//! What INFO of the admin port tells.

use super::Facts;
use crate::report;

/// The sections of PROXY INFO, in their order.
pub fn facts_of(facts: &report::Facts) -> Facts {
    let line = |name: &str, value: u64| (name.to_string(), value.to_string());
    let (load, topology, map) = (facts.load, facts.topology, &facts.map);
    let section = |title: &str, lines: Vec<(String, String)>| (title.to_owned(), lines);
    vec![
        section(
            "Proxy",
            vec![
                ("keyway_version".into(), env!("CARGO_PKG_VERSION").into()),
                line("process_id", u64::from(std::process::id())),
                line("uptime_in_seconds", facts.uptime_s),
                line("workers", facts.workers as u64),
            ],
        ),
        section(
            "Clients",
            vec![
                line("connected_clients", facts.connected),
                line("blocked_clients", facts.blocked),
                line("total_connections_received", facts.accepted),
                line("rejected_connections", facts.rejected),
                line("refused_by_address", facts.refused_by_address),
                line("without_proxy_header", facts.without_proxy_header),
            ],
        ),
        section(
            "Load",
            vec![
                line("lanes", load.lanes as u64),
                line("replies_owed", load.owed as u64),
                line("requests_waiting", load.waiting as u64),
                line("input_bytes", load.input_bytes as u64),
                line("output_bytes", load.output_bytes as u64),
                line("lane_bytes", load.lane_bytes as u64),
            ],
        ),
        section("Counters", facts.counters.named().into_iter().map(|(name, value)| line(name, value)).collect()),
        section(
            "Topology",
            vec![
                line("map_version", map.as_ref().map_or(0, |map| map.version)),
                line("nodes", map.as_ref().map_or(0, |map| map.nodes.len() as u64)),
                line("slots_covered", map.as_ref().map_or(0, |map| map.covered() as u64)),
                line("slots_served", map.as_ref().map_or(0, |map| map.served() as u64)),
                line("refreshes", topology.refreshes),
                line("map_changes", topology.changes),
                line("maps_refused", topology.refusals),
                line("refreshes_unanswered", topology.unanswered),
            ],
        ),
    ]
}
