//! One INFO text of a cluster's many: the proxy is one server, so it has one report.
//!
//! Every master is asked with the client's own sections. The first reply is the template: it decides which
//! sections and fields there are and in what order, so that a Valkey cluster reports as Valkey does. What
//! becomes of each field is a row of the table in `rules`.
//!
//! Percentiles cannot be merged: they are the worst node's. Peaks are summed, which is more than the cluster
//! ever used at once. Memory of machines is summed, also of nodes that share one: INFO does not tell.

mod number;
mod pairs;
mod rules;

use std::collections::{HashMap, HashSet};
use std::{
    fmt::Write,
    sync::{Arc, atomic::AtomicU64},
};

use number::ratio;
use rules::{Rule, is_line_per_name, rule_of};

/// What the proxy reports about itself in place of a node.
#[derive(Clone, Debug, Default)]
pub struct ProxyFacts {
    pub tcp_port: u16,
    /// Forty hexadecimal digits, the same as long as the process lives: clients tell servers apart by it.
    pub run_id: String,
    pub uptime_seconds: u64,
    pub connected_clients: u64,
    pub max_clients: u64,
    /// Accepted since the start.
    pub total_connections: u64,
    /// Turned away because of `max_clients`.
    pub rejected_connections: u64,
    /// Clients that wait in a blocking command: every worker counts its own here.
    pub blocked_clients: Arc<AtomicU64>,
    /// Clients that are subscribed to anything.
    pub pubsub_clients: u64,
    pub process_id: u32,
}

/// The body of the proxy's INFO reply. `replies` are the bodies of all masters' replies, the first is the template.
/// Empty if there are none, or if no section that was asked for exists. Lines end in CR LF, as a server's.
pub fn merge_info(replies: &[&[u8]], facts: &ProxyFacts) -> Vec<u8> {
    let texts: Vec<_> = replies.iter().map(|reply| String::from_utf8_lossy(reply)).collect();
    let reports: Vec<Report> = texts.iter().map(|text| Report::parse(text)).collect();
    let Some(template) = reports.first() else { return Vec::new() };
    let merger = Merger { reports: &reports, facts };
    let mut out = String::with_capacity(texts[0].len() + 256);
    for section in &template.sections {
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        merger.write_section(section, &mut out);
    }
    out.into_bytes()
}

/// One node's INFO text, taken apart.
struct Report<'a> {
    sections: Vec<Section<'a>>,
    /// By name; the first of a repeated name, which only lines that are never merged have.
    values: HashMap<&'a str, &'a str>,
}

struct Section<'a> {
    /// Without the `# `; empty for fields above the first title.
    title: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Report<'a> {
    fn parse(text: &'a str) -> Report<'a> {
        let mut report = Report { sections: Vec::new(), values: HashMap::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(title) = line.strip_prefix("# ") {
                report.sections.push(Section { title, fields: Vec::new() });
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            report.values.entry(name).or_insert(value);
            match report.sections.last_mut() {
                Some(section) => section.fields.push((name, value)),
                None => report.sections.push(Section { title: "", fields: vec![(name, value)] }),
            }
        }
        report
    }

    fn section(&self, title: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.title == title)
    }
}

struct Merger<'a> {
    reports: &'a [Report<'a>],
    facts: &'a ProxyFacts,
}

impl Merger<'_> {
    fn write_section(&self, section: &Section, out: &mut String) {
        if !section.title.is_empty() {
            write_line(out, format_args!("# {}", section.title));
        }
        if rules::SECTIONS_EMPTIED.contains(&section.title) {
            return;
        }
        for (name, value) in &section.fields {
            if let Some(merged) = self.merged(name, value) {
                write_line(out, format_args!("{name}:{merged}"));
            }
        }
        for (name, value) in self.only_elsewhere(section) {
            if let Some(merged) = self.merged(name, value) {
                write_line(out, format_args!("{name}:{merged}"));
            }
        }
    }

    /// Lines of names that a node only lists once it has met them, such as commands and errors, and that the
    /// template has not met.
    fn only_elsewhere(&self, section: &Section) -> Vec<(&str, &str)> {
        let mut known: HashSet<&str> = section.fields.iter().map(|(name, _)| *name).collect();
        let others = self.reports[1..].iter().filter_map(|report| report.section(section.title));
        let fields = others.flat_map(|other| other.fields.iter().copied());
        fields.filter(|(name, _)| !known.contains(name) && is_line_per_name(name) && known.insert(name)).collect()
    }

    /// The field's merged value, where `value` is the template's; `None` if the field is left out.
    fn merged(&self, name: &str, value: &str) -> Option<String> {
        let merged = match rule_of(name) {
            Rule::Keep => None,
            Rule::Drop => return None,
            Rule::Set(text) => Some(text.to_owned()),
            Rule::Proxy(fact) => Some(fact(self.facts)),
            Rule::Fold(fold) => number::fold(fold, self.values(name)),
            Rule::Limit => number::fold_limit(self.values(name)),
            Rule::Status => self.values(name).find(|status| *status != "ok").map(str::to_owned),
            Rule::Human => name.strip_suffix("_human").and_then(|base| self.total(base)).map(number::human),
            Rule::Ratio(over, under) => ratio(self.total(over), self.total(under)).map(|ratio| format!("{ratio:.2}")),
            Rule::Excess(part, of) => ratio(self.total(part), self.total(of)).map(|share| format!("{:.2}", 1.0 + share)),
            Rule::Percent { part, whole, less } => {
                let whole = self.total(whole).map(|whole| whole - less.and_then(|less| self.total(less)).unwrap_or(0.0));
                ratio(self.total(part), whole).map(|ratio| format!("{:.2}%", 100.0 * ratio))
            }
            Rule::Counts => Some(pairs::sum(self.values(name))),
            Rule::Commands => Some(pairs::sum_command(self.values(name))),
            Rule::Keyspace => Some(pairs::sum_keyspace(self.values(name))),
            Rule::Percentiles => Some(pairs::max(self.values(name))),
        };
        Some(merged.unwrap_or_else(|| value.to_owned()))
    }

    /// The field's values on all nodes that report it.
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.reports.iter().filter_map(move |report| report.values.get(name).copied())
    }

    /// The merged number of another field, for those that are made from it.
    fn total(&self, name: &str) -> Option<f64> {
        let value = self.values(name).next()?;
        self.merged(name, value)?.parse().ok()
    }
}

fn write_line(out: &mut String, line: std::fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{line}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ProxyFacts {
        ProxyFacts {
            tcp_port: 6379,
            run_id: "0123456789abcdef0123456789abcdef01234567".into(),
            uptime_seconds: 200_000,
            connected_clients: 70,
            max_clients: 9000,
            total_connections: 900,
            rejected_connections: 3,
            blocked_clients: Arc::new(AtomicU64::new(2)),
            pubsub_clients: 1,
            process_id: 4242,
        }
    }

    /// Lines are written with LF here and with CR LF on the wire.
    fn check(replies: &[&str], expected: &str) {
        let wire: Vec<String> = replies.iter().map(|reply| reply.replace('\n', "\r\n")).collect();
        let wire: Vec<&[u8]> = wire.iter().map(|reply| reply.as_bytes()).collect();
        let merged = String::from_utf8(merge_info(&wire, &facts())).expect("the tests are ASCII");
        assert!(merged.replace("\r\n", "").find(['\r', '\n']).is_none(), "{merged:?}");
        assert_eq!(merged.replace("\r\n", "\n"), expected);
    }

    #[test]
    fn a_node_becomes_a_standalone_server() {
        // Redis 8.2.3
        check(
            &["# Server\nredis_version:8.2.3\nredis_mode:cluster\nos:Linux x86_64\nprocess_id:21445\nrun_id:cdef984ea478\n\
               tcp_port:29453\nuptime_in_seconds:811\nuptime_in_days:0\nhz:10\nexecutable:/bin/redis-server\n\
               config_file:/etc/redis.conf\nio_threads_active:0\nlistener0:name=tcp,bind=*,bind=-::*,port=29453\n\n\
               # Clients\nconnected_clients:1\ncluster_connections:4\nmaxclients:10000\nblocked_clients:0\n\
               tracking_clients:2\npubsub_clients:0\nwatching_clients:1\n"],
            "# Server\nredis_version:8.2.3\nredis_mode:standalone\nos:Linux x86_64\nprocess_id:4242\n\
             run_id:0123456789abcdef0123456789abcdef01234567\ntcp_port:6379\nuptime_in_seconds:200000\nuptime_in_days:2\n\
             hz:10\nexecutable:\nconfig_file:\nio_threads_active:0\n\n\
             # Clients\nconnected_clients:70\nmaxclients:9000\nblocked_clients:2\ntracking_clients:0\npubsub_clients:1\n\
             watching_clients:1\n",
        );
        // Valkey 9.1.2
        check(
            &["# Server\nredis_version:7.2.4\nserver_name:valkey\nvalkey_version:9.1.2\nserver_mode:cluster\n\n\
               # Cluster\ncluster_enabled:1\n\n# Cluster Info\ncluster_state:ok\ncluster_known_nodes:6\n\n\
               # Keyspace\ndb0:keys=3,expires=1,avg_ttl=999941,keys_with_volatile_items=0\n"],
            "# Server\nredis_version:7.2.4\nserver_name:valkey\nvalkey_version:9.1.2\nserver_mode:standalone\n\n\
             # Cluster\ncluster_enabled:0\n\n# Cluster Info\n\n# Keyspace\ndb0:keys=3,expires=1,avg_ttl=999941,keys_with_volatile_items=0\n",
        );
    }

    #[test]
    fn replication_is_that_of_a_lone_master() {
        // Redis 7.0.15
        check(
            &["# Replication\nrole:master\nconnected_slaves:1\n\
               slave0:ip=127.0.0.1,port=31103,state=online,offset=42,lag=1\nmaster_failover_state:no-failover\n\
               master_replid:bb8e068b\nmaster_repl_offset:42\nsecond_repl_offset:-1\n"],
            "# Replication\nrole:master\nconnected_slaves:0\nmaster_failover_state:no-failover\nmaster_replid:bb8e068b\n\
             master_repl_offset:42\nsecond_repl_offset:-1\n",
        );
        check(
            &["# Replication\nrole:slave\nmaster_host:127.0.0.1\nmaster_port:31101\nmaster_link_status:up\n\
               master_last_io_seconds_ago:3\nmaster_sync_in_progress:0\nslave_read_repl_offset:42\nslave_priority:100\n\
               connected_slaves:0\nmaster_replid:bb8e068b\n"],
            "# Replication\nrole:master\nconnected_slaves:0\nmaster_replid:bb8e068b\n",
        );
    }

    #[test]
    fn amounts_are_summed_and_what_hangs_on_them_is_computed_again() {
        // Redis 7.0.15
        check(
            &[
                "# Memory\nused_memory:1000000\nused_memory_human:976.56K\nused_memory_rss:3000000\nused_memory_rss_human:2.86M\n\
                 used_memory_peak:2000000\nused_memory_peak_human:1.91M\nused_memory_peak_perc:50.00%\n\
                 used_memory_startup:500000\nused_memory_dataset:250000\nused_memory_dataset_perc:50.00%\n\
                 allocator_allocated:1000000\nallocator_active:1500000\nallocator_resident:3000000\nmaxmemory:1073741824\n\
                 maxmemory_human:1.00G\nmaxmemory_policy:noeviction\nallocator_frag_ratio:1.50\nallocator_frag_bytes:500000\n\
                 allocator_rss_ratio:2.00\nallocator_rss_bytes:1500000\nmem_fragmentation_ratio:3.00\n\
                 mem_fragmentation_bytes:-5\nmem_clients_normal:22400\nmem_allocator:jemalloc-5.2.1\nlazyfreed_objects:1\n",
                "# Memory\nused_memory:3000000\nused_memory_human:2.86M\nused_memory_rss:3000000\nused_memory_rss_human:2.86M\n\
                 used_memory_peak:3000000\nused_memory_peak_human:2.86M\nused_memory_peak_perc:100.00%\n\
                 used_memory_startup:500000\nused_memory_dataset:1250000\nused_memory_dataset_perc:50.00%\n\
                 allocator_allocated:3000000\nallocator_active:3000000\nallocator_resident:3000000\nmaxmemory:1073741824\n\
                 maxmemory_human:1.00G\nmaxmemory_policy:noeviction\nallocator_frag_ratio:1.00\nallocator_frag_bytes:0\n\
                 allocator_rss_ratio:1.00\nallocator_rss_bytes:0\nmem_fragmentation_ratio:1.00\n\
                 mem_fragmentation_bytes:7\nmem_clients_normal:1800\nmem_allocator:jemalloc-5.2.1\nlazyfreed_objects:2\n",
            ],
            "# Memory\nused_memory:4000000\nused_memory_human:3.81M\nused_memory_rss:6000000\nused_memory_rss_human:5.72M\n\
             used_memory_peak:5000000\nused_memory_peak_human:4.77M\nused_memory_peak_perc:80.00%\n\
             used_memory_startup:1000000\nused_memory_dataset:1500000\nused_memory_dataset_perc:50.00%\n\
             allocator_allocated:4000000\nallocator_active:4500000\nallocator_resident:6000000\nmaxmemory:2147483648\n\
             maxmemory_human:2.00G\nmaxmemory_policy:noeviction\nallocator_frag_ratio:1.12\nallocator_frag_bytes:500000\n\
             allocator_rss_ratio:1.33\nallocator_rss_bytes:1500000\nmem_fragmentation_ratio:1.50\n\
             mem_fragmentation_bytes:2\nmem_clients_normal:24200\nmem_allocator:jemalloc-5.2.1\nlazyfreed_objects:3\n",
        );
        check(&["# Memory\nmaxmemory:5\n", "# Memory\nmaxmemory:0\n"], "# Memory\nmaxmemory:0\n");
    }

    #[test]
    fn states_are_those_of_the_worst_node() {
        check(
            &[
                "# Persistence\nloading:1\nasync_loading:0\ncurrent_fork_perc:0.00\nrdb_changes_since_last_save:951\n\
                 rdb_bgsave_in_progress:0\nrdb_last_save_time:1795361037\nrdb_last_bgsave_status:ok\naof_enabled:0\n\
                 aof_last_write_status:ok\nloading_start_time:1795361037\nloading_eta_seconds:1\n",
                "# Persistence\nloading:0\nasync_loading:0\ncurrent_fork_perc:12.50\nrdb_changes_since_last_save:49\n\
                 rdb_bgsave_in_progress:1\nrdb_last_save_time:1795361030\nrdb_last_bgsave_status:err\naof_enabled:0\n\
                 aof_last_write_status:ok\n",
            ],
            "# Persistence\nloading:0\nasync_loading:0\ncurrent_fork_perc:12.50\nrdb_changes_since_last_save:1000\n\
             rdb_bgsave_in_progress:1\nrdb_last_save_time:1795361030\nrdb_last_bgsave_status:err\naof_enabled:0\n\
             aof_last_write_status:ok\n",
        );
    }

    #[test]
    fn traffic_is_summed() {
        check(
            &[
                "# Stats\ntotal_connections_received:18\ntotal_commands_processed:15149\ninstantaneous_ops_per_sec:2\n\
                 total_net_input_bytes:918496\ninstantaneous_input_kbps:0.07\nrejected_connections:0\nexpired_keys:4\n\
                 expired_stale_perc:0.25\nevicted_keys:1\nkeyspace_hits:5\nkeyspace_misses:2\npubsub_channels:1\n\
                 latest_fork_usec:120\nslave_expires_tracked_keys:0\ntotal_error_replies:4835\n\n\
                 # CPU\nused_cpu_sys:0.535559\nused_cpu_user:0.680062\n",
                "# Stats\ntotal_connections_received:1\ntotal_commands_processed:1\ninstantaneous_ops_per_sec:3\n\
                 total_net_input_bytes:4\ninstantaneous_input_kbps:1.05\nrejected_connections:9\nexpired_keys:1\n\
                 expired_stale_perc:0.10\nevicted_keys:0\nkeyspace_hits:5\nkeyspace_misses:3\npubsub_channels:2\n\
                 latest_fork_usec:80\nslave_expires_tracked_keys:0\ntotal_error_replies:5\n\n\
                 # CPU\nused_cpu_sys:0.500000\nused_cpu_user:0.319938\n",
            ],
            "# Stats\ntotal_connections_received:900\ntotal_commands_processed:15150\ninstantaneous_ops_per_sec:5\n\
             total_net_input_bytes:918500\ninstantaneous_input_kbps:1.12\nrejected_connections:3\nexpired_keys:5\n\
             expired_stale_perc:0.25\nevicted_keys:1\nkeyspace_hits:10\nkeyspace_misses:5\npubsub_channels:3\n\
             latest_fork_usec:120\ntotal_error_replies:4840\n\n\
             # CPU\nused_cpu_sys:1.035559\nused_cpu_user:1.000000\n",
        );
    }

    #[test]
    fn lines_per_command_and_error_are_united() {
        check(
            &[
                "# Commandstats\ncmdstat_get:calls=3,usec=9,usec_per_call=3.00,rejected_calls=0,failed_calls=0\n\n\
                 # Errorstats\nerrorstat_ERR:count=4833\n\n\
                 # Latencystats\nlatency_percentiles_usec_get:p50=1.003,p99=5.023,p99.9=7.007\n\n# Keyspace\n",
                "# Commandstats\ncmdstat_set:calls=1,usec=16,usec_per_call=16.00,rejected_calls=0,failed_calls=1\n\
                 cmdstat_get:calls=1,usec=1,usec_per_call=1.00,rejected_calls=0,failed_calls=0\n\n\
                 # Errorstats\nerrorstat_ERR:count=1\nerrorstat_WRONGTYPE:count=1\n\n\
                 # Latencystats\nlatency_percentiles_usec_get:p50=2.007,p99=3.007,p99.9=9.023\n\n\
                 # Keyspace\ndb0:keys=3,expires=1,avg_ttl=1000,subexpiry=0\n",
                "# Commandstats\n\n# Errorstats\n\n# Latencystats\n\n# Keyspace\ndb0:keys=5,expires=3,avg_ttl=2000,subexpiry=1\n",
            ],
            "# Commandstats\ncmdstat_get:calls=4,usec=10,usec_per_call=2.50,rejected_calls=0,failed_calls=0\n\
             cmdstat_set:calls=1,usec=16,usec_per_call=16.00,rejected_calls=0,failed_calls=1\n\n\
             # Errorstats\nerrorstat_ERR:count=4834\nerrorstat_WRONGTYPE:count=1\n\n\
             # Latencystats\nlatency_percentiles_usec_get:p50=2.007,p99=5.023,p99.9=9.023\n\n\
             # Keyspace\ndb0:keys=8,expires=4,avg_ttl=1750,subexpiry=1\n",
        );
        // Redis 8.2.3
        check(
            &["# Keysizes\ndb0_distrib_strings_sizes:1=3,1K=1\n", "# Keysizes\ndb0_distrib_strings_sizes:1=1,8=2\n"],
            "# Keysizes\ndb0_distrib_strings_sizes:1=4,8=2,1K=1\n",
        );
    }

    #[test]
    fn sections_are_those_that_were_asked_for() {
        check(&["# Cluster\ncluster_enabled:1\n"; 3], "# Cluster\ncluster_enabled:0\n");
        check(&["", ""], "");
        check(&[], "");
        // The other nodes are of a version without the section, or without the field.
        check(&["# Keysizes\ndb0_distrib_lists_items:1=3\n", ""], "# Keysizes\ndb0_distrib_lists_items:1=3\n");
        check(
            &["# Stats\nexpired_keys:1\nevicted_clients:2\n", "# Stats\nexpired_keys:4\n"],
            "# Stats\nexpired_keys:5\nevicted_clients:2\n",
        );
        check(&["", "# Keyspace\ndb0:keys=1,expires=0,avg_ttl=0\n"], "");
    }

    #[test]
    fn unknown_and_odd_lines_stay() {
        check(
            &["# Modules\nmodule:name=a,ver=1\nmodule:name=b,ver=2\nfuture_field:7\nno colon\n", "# Modules\nfuture_field:8\n"],
            "# Modules\nmodule:name=a,ver=1\nmodule:name=b,ver=2\nfuture_field:7\nno colon:\n",
        );
    }
}
