//! What becomes of each INFO field, as a table. The first row whose pattern matches the name counts; a field
//! without a row stays as the template has it: versions, settings, the build.

use std::sync::atomic::Ordering::Relaxed;

use super::ProxyFacts;
use super::number::Fold;
use crate::engine::glob::glob_match;

#[derive(Clone, Copy)]
pub enum Rule {
    /// The template's value.
    Keep,
    Drop,
    Set(&'static str),
    Proxy(fn(&ProxyFacts) -> String),
    Fold(Fold),
    /// A sum of limits, where 0 is none.
    Limit,
    /// `ok`, or the first other word of any node.
    Status,
    /// The field without its `_human`, written for people.
    Human,
    Ratio(&'static str, &'static str),
    /// One and the share that the first field is of the second.
    Excess(&'static str, &'static str),
    /// `part` in percent of `whole`, which is meant without `less`.
    Percent {
        part: &'static str,
        whole: &'static str,
        less: Option<&'static str>,
    },
    /// Lists of named counts.
    Counts,
    Commands,
    Keyspace,
    Percentiles,
}

/// Sections of which a standalone server prints only the title.
pub const SECTIONS_EMPTIED: [&str; 1] = ["Cluster Info"];

const SUM: Rule = Rule::Fold(Fold::Sum);
const MAX: Rule = Rule::Fold(Fold::Max);

/// Patterns are those of [`glob_match`].
const RULES: &[(&str, Rule)] = &[
    // The many lines first.
    ("cmdstat_*", Rule::Commands),
    ("latency_percentiles_usec_*", Rule::Percentiles),
    ("errorstat_*", Rule::Counts),
    ("db[0-9]_distrib_*", Rule::Counts),
    ("db[0-9]*", Rule::Keyspace),
    // A standalone master, which is not loading: what waits for a node's data set waits in the proxy.
    ("redis_mode", Rule::Set("standalone")),
    ("server_mode", Rule::Set("standalone")),
    ("cluster_enabled", Rule::Set("0")),
    ("role", Rule::Set("master")),
    ("connected_slaves", Rule::Set("0")),
    ("loading", Rule::Set("0")),
    ("async_loading", Rule::Set("0")),
    ("loading_*", Rule::Drop),
    ("executable", Rule::Set("")),
    ("config_file", Rule::Set("")),
    ("cluster_connections", Rule::Drop),
    ("listener*", Rule::Drop),
    ("slave*", Rule::Drop),
    // A master that the map still holds for one may just have become a replica.
    ("master_host", Rule::Drop),
    ("master_port", Rule::Drop),
    ("master_l*", Rule::Drop),
    ("master_sync_*", Rule::Drop),
    // The proxy's own. It tracks no keys for clients.
    ("tcp_port", Rule::Proxy(|facts| facts.tcp_port.to_string())),
    ("run_id", Rule::Proxy(|facts| facts.run_id.clone())),
    ("process_id", Rule::Proxy(|facts| facts.process_id.to_string())),
    ("uptime_in_seconds", Rule::Proxy(|facts| facts.uptime_seconds.to_string())),
    ("uptime_in_days", Rule::Proxy(|facts| (facts.uptime_seconds / 86_400).to_string())),
    ("connected_clients", Rule::Proxy(|facts| facts.connected_clients.to_string())),
    ("maxclients", Rule::Proxy(|facts| facts.max_clients.to_string())),
    ("blocked_clients", Rule::Proxy(|facts| facts.blocked_clients.load(Relaxed).to_string())),
    ("pubsub_clients", Rule::Proxy(|facts| facts.pubsub_clients.to_string())),
    ("tracking_clients", Rule::Set("0")),
    ("total_connections_received", Rule::Proxy(|facts| facts.total_connections.to_string())),
    ("rejected_connections", Rule::Proxy(|facts| facts.rejected_connections.to_string())),
    // Made from other fields.
    ("*_human", Rule::Human),
    ("used_memory_peak_perc", Rule::Percent { part: "used_memory", whole: "used_memory_peak", less: None }),
    (
        "used_memory_dataset_perc",
        Rule::Percent { part: "used_memory_dataset", whole: "used_memory", less: Some("used_memory_startup") },
    ),
    // Servers disagree on which bytes are fragmented, but they all print the bytes that they mean.
    ("allocator_frag_ratio", Rule::Excess("allocator_frag_bytes", "allocator_allocated")),
    ("allocator_rss_ratio", Rule::Ratio("allocator_resident", "allocator_active")),
    ("rss_overhead_ratio", Rule::Ratio("used_memory_rss", "allocator_resident")),
    ("mem_fragmentation_ratio", Rule::Ratio("used_memory_rss", "used_memory")),
    // The worst or the last of any node.
    ("*_status", Rule::Status),
    ("rdb_last_save_time", Rule::Fold(Fold::Min)),
    ("used_memory_peak_time", MAX),
    ("latest_fork_usec", MAX),
    ("*_in_progress", MAX),
    ("*_perc", MAX),
    ("current_cow_*", MAX),
    ("client_recent_max_*", MAX),
    // Amounts and counts, which add up.
    ("used_memory*", SUM),
    ("allocator_*", SUM),
    ("total_system_memory", SUM),
    ("maxmemory", Rule::Limit),
    ("mem_*", SUM),
    ("rss_overhead_bytes", SUM),
    ("lazyfree*", SUM),
    ("active_defrag_*", SUM),
    ("*_active_defrag_time", SUM),
    ("rdb_changes_since_last_save", SUM),
    ("aof_current_size", SUM),
    ("aof_base_size", SUM),
    ("total_commands_processed", SUM),
    ("total_reads_processed", SUM),
    ("total_writes_processed", SUM),
    ("total_error_replies", SUM),
    ("unexpected_error_replies", SUM),
    ("total_net_*", SUM),
    ("total_forks", SUM),
    ("instantaneous_*", SUM),
    ("io_threaded_*", SUM),
    ("expired_*", SUM),
    ("expire_cycle_cpu_milliseconds", SUM),
    ("evicted_*", SUM),
    ("total_eviction_exceeded_time", SUM),
    ("keyspace_hits", SUM),
    ("keyspace_misses", SUM),
    ("pubsub_*", SUM),
    ("pubsubshard_channels", SUM),
    ("acl_access_denied_*", SUM),
    ("client_*_disconnections", SUM),
    ("watching_clients", SUM),
    ("total_watched_keys", SUM),
    ("total_blocking_keys*", SUM),
    ("used_cpu_*", SUM),
];

pub fn rule_of(name: &str) -> Rule {
    let row = RULES.iter().find(|(pattern, _)| glob_match(pattern.as_bytes(), name.as_bytes()));
    row.map_or(Rule::Keep, |(_, rule)| *rule)
}

/// Whether nodes print this line only when there is something to count, so that the template may lack it.
pub fn is_line_per_name(name: &str) -> bool {
    matches!(rule_of(name), Rule::Counts | Rule::Commands | Rule::Keyspace | Rule::Percentiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_made_of_others_names_fields_that_are_summed() {
        let summed = |name: &str| matches!(rule_of(name), Rule::Fold(Fold::Sum));
        for (pattern, rule) in RULES {
            let parts = match rule {
                Rule::Ratio(over, under) | Rule::Excess(over, under) => vec![*over, *under],
                Rule::Percent { part, whole, less } => [*part, *whole].into_iter().chain(*less).collect(),
                _ => continue,
            };
            assert!(parts.iter().all(|part| summed(part)), "{pattern}");
        }
    }

    #[test]
    fn each_row_is_reached() {
        for (pattern, _) in RULES {
            let name = pattern.replace("[0-9]", "0").replace('*', "x");
            let first = RULES.iter().find(|(pattern, _)| glob_match(pattern.as_bytes(), name.as_bytes()));
            assert_eq!(first.map(|row| row.0), Some(*pattern), "another row hides it");
        }
    }
}
