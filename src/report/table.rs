//! The one table of every metric: name, type, unit, help, labels, and where its value is. The exposition and `deploy/metrics.md` come from it.
//!
//! Labels take their values from fixed lists, or from the cluster's own nodes: there are as many series as nodes, and never more.

use super::sources::Facts;
use crate::migrate::machine::State;

/// One metric.
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// What the value counts or measures.
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub read: fn(&Facts, Put<'_>),
}

/// Takes a value, with one for each of the metric's labels.
pub type Put<'a> = &'a mut dyn FnMut(&[&str], f64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from the proxy's (or, of `redis_cluster_…`, a node's) start.
    Counter,
    Gauge,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Facts, Put<'_>),
) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, help, read }
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Facts, Put<'_>),
) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, labels, help, read }
}

/// A value without labels.
macro_rules! of {
    (|$facts:ident| $value:expr) => {
        |$facts, put| put(&[], $value as f64)
    };
}

/// Values by one label.
macro_rules! by {
    (|$facts:ident| $($label:literal => $value:expr),* $(,)?) => {
        |$facts, put| { $(put(&[$label], $value as f64);)* }
    };
}

/// What every master that answers says.
macro_rules! of_masters {
    (|$view:ident| $value:expr) => {
        |facts, put| {
            for master in &facts.health.masters {
                if let Some($view) = &master.view {
                    put(&[&master.addr], $value as f64);
                }
            }
        }
    };
}

/// What is known of the plan that holds slots, or of the latest.
macro_rules! of_plan {
    (|$loaded:ident| $value:expr) => {
        |facts, put| {
            if let Some($loaded) = &facts.health.plan {
                put(&[], $value as f64);
            }
        }
    };
}

pub static METRICS: &[Metric] = &[
    gauge("keyway_info", "1", &["version"], "The proxy's version, as a label.", |_, put| put(&[env!("CARGO_PKG_VERSION")], 1.0)),
    gauge("keyway_uptime_seconds", "seconds", &[], "Since the proxy's start.", of!(|facts| facts.uptime_s)),
    gauge(
        "keyway_ready",
        "0 or 1",
        &[],
        "Whether a request can be served: what /readyz answers.",
        of!(|facts| u8::from(facts.is_ready)),
    ),
    gauge("keyway_workers", "threads", &[], "Workers.", of!(|facts| facts.workers)),
    gauge("keyway_resident_bytes", "bytes", &[], "Resident memory of the process.", |facts, put| {
        if let Some(bytes) = facts.resident_bytes {
            put(&[], bytes as f64);
        }
    }),
    gauge(
        "keyway_clients",
        "clients",
        &["state"],
        "Clients that are connected, and those of them that wait in a blocking command.",
        by!(|facts| "connected" => facts.connected, "blocked" => facts.blocked),
    ),
    counter(
        "keyway_connections_total",
        "connections",
        &["outcome"],
        "Connections of clients that came. rejected: limits.clients was reached; refused_by_address: proxy.allow_from, proxy.deny_from; without_proxy_header: of a load balancer that did not say whose it is.",
        by!(|facts|
            "accepted" => facts.accepted,
            "rejected" => facts.rejected,
            "refused_by_address" => facts.refused_by_address,
            "without_proxy_header" => facts.without_proxy_header,
        ),
    ),
    counter(
        "keyway_clients_cut_total",
        "clients",
        &["cause"],
        "Clients that the proxy has disconnected.",
        by!(|facts| "output_limit" => facts.counters.output_overflows, "idle" => facts.counters.idle_closed),
    ),
    gauge(
        "keyway_limit",
        "see the label",
        &["of"],
        "The configured limits that clients, replies_owed and buffers are to be seen against: clients of the proxy, bytes of one client or lane.",
        by!(|facts| "clients" => facts.limits.clients, "client_input_bytes" => facts.limits.query_buffer_bytes,
            "client_output_bytes" => facts.limits.output_buffer_bytes, "lane_bytes" => facts.limits.lane_buffer_bytes),
    ),
    gauge(
        "keyway_buffer_bytes",
        "bytes",
        &["of"],
        "Bytes held for clients (input that is not carried out yet, replies that are not written yet) and for lanes.",
        by!(|facts| "client_input" => facts.load.input_bytes, "client_output" => facts.load.output_bytes, "lane" => facts.load.lane_bytes),
    ),
    gauge("keyway_lanes", "connections", &[], "Connections to nodes.", of!(|facts| facts.load.lanes)),
    gauge("keyway_replies_owed", "replies", &[], "Requests that clients wait for.", of!(|facts| facts.load.owed)),
    gauge(
        "keyway_requests_waiting",
        "requests",
        &[],
        "Requests that are held: for a resend, a failover, a slot on the move.",
        of!(|facts| facts.load.waiting),
    ),
    counter("keyway_requests_total", "requests", &[], "Requests of clients.", of!(|facts| facts.counters.requests)),
    counter(
        "keyway_redirects_absorbed_total",
        "replies",
        &["kind"],
        "Redirects and refusals of nodes that clients did not see. unavailable: CLUSTERDOWN, MASTERDOWN, LOADING, READONLY.",
        by!(|facts| "moved" => facts.counters.moved, "ask" => facts.counters.asked, "tryagain" => facts.counters.try_again,
            "unavailable" => facts.counters.held),
    ),
    counter(
        "keyway_redirects_refused_total",
        "replies",
        &["cause"],
        "Redirects that were not followed at once: to an address that no map had confirmed yet, and errors that only looked like one.",
        by!(|facts| "unknown_address" => facts.counters.unknown_addresses, "forged" => facts.counters.forged_redirects),
    ),
    counter("keyway_resends_total", "requests", &[], "Requests that were sent again.", of!(|facts| facts.counters.resent)),
    counter(
        "keyway_retry_budget_waits_total",
        "requests",
        &[],
        "Resends that waited for the retry budget.",
        of!(|facts| facts.counters.budget_waits),
    ),
    counter(
        "keyway_errors_total",
        "replies",
        &["code"],
        "Errors of the proxy's own. deadline: given up at retry.deadline; unknown_outcome: written to a node and not answered; denied: commands.deny.",
        by!(|facts| "deadline" => facts.counters.gave_up, "unknown_outcome" => facts.counters.unknown_outcomes,
            "denied" => facts.counters.denied),
    ),
    counter(
        "keyway_logins_total",
        "logins",
        &["outcome"],
        "Logins of clients. throttled: not tried, because too many from their address had failed.",
        by!(|facts| "accepted" => facts.counters.logins, "failed" => facts.counters.failed_logins,
            "throttled" => facts.counters.throttled_logins),
    ),
    counter(
        "keyway_lanes_lost_total",
        "connections",
        &["cause"],
        "Connections to nodes that ended: lost, given up because what came was no reply, or not greeted.",
        by!(|facts| "lost" => facts.counters.lost_lanes, "broken" => facts.counters.broken_lanes,
            "refused" => facts.counters.refused_greetings),
    ),
    counter(
        "keyway_scripts_healed_total",
        "requests",
        &[],
        "Scripts that a node did not have and was given.",
        of!(|facts| facts.counters.scripts_healed),
    ),
    counter("keyway_messages_total", "messages", &[], "Messages told to subscribers.", of!(|facts| facts.counters.messages)),
    counter(
        "keyway_resubscriptions_total",
        "subscriptions",
        &[],
        "Subscriptions at nodes that were lost and asked for anew.",
        of!(|facts| facts.counters.resubscriptions),
    ),
    counter(
        "keyway_pops_given_back_total",
        "elements",
        &[],
        "Pops for clients that were gone: what was popped was put back.",
        of!(|facts| facts.counters.given_back),
    ),
    gauge(
        "keyway_slots",
        "slots",
        &["state"],
        "Slots of the proxy's own map: covered by a master, and by one that is not failed.",
        |facts, put| {
            let (covered, served) = facts.map.as_ref().map_or((0, 0), |map| (map.covered(), map.served()));
            put(&["covered"], covered as f64);
            put(&["served"], served as f64);
        },
    ),
    gauge("keyway_node_slots", "slots", &["node"], "Slots of each master in the proxy's own map.", |facts, put| {
        let Some(map) = &facts.map else { return };
        let mut counts = vec![0u32; map.nodes.len()];
        for owner in map.owners() {
            if let Some(count) = counts.get_mut(usize::from(*owner)) {
                *count += 1;
            }
        }
        for master in map.masters() {
            put(&[map.node(master).addr.as_str()], f64::from(counts[usize::from(master)]));
        }
    }),
    gauge(
        "keyway_slots_open",
        "slots",
        &[],
        "Slots that are on their way from one master to another.",
        of!(|facts| facts.map.as_ref().map_or(0, |map| map.open_slots.len())),
    ),
    gauge(
        "keyway_map_version",
        "version",
        &[],
        "Grows with every map that differs from the one before.",
        of!(|facts| facts.map.as_ref().map_or(0, |map| map.version)),
    ),
    counter(
        "keyway_refreshes_total",
        "refreshes",
        &["outcome"],
        "Refreshes of the slot map: changed: another map was published; refused: maps and views that were not believed; unanswered: nobody answered; all: every refresh.",
        by!(|facts| "all" => facts.topology.refreshes, "changed" => facts.topology.changes, "refused" => facts.topology.refusals,
            "unanswered" => facts.topology.unanswered),
    ),
    gauge(
        "redis_cluster_state",
        "0 or 1",
        &["node"],
        "Whether the master calls the cluster ok.",
        of_masters!(|view| u8::from(view.is_ok)),
    ),
    gauge(
        "redis_cluster_slots_assigned",
        "slots",
        &["node"],
        "Slots that have an owner in this master's view.",
        of_masters!(|view| view.slots_assigned),
    ),
    gauge(
        "redis_cluster_slots_ok",
        "slots",
        &["node"],
        "Slots whose owner is well in this master's view.",
        of_masters!(|view| view.slots_ok),
    ),
    gauge(
        "redis_cluster_slots_pfail",
        "slots",
        &["node"],
        "Slots whose owner this master suspects.",
        of_masters!(|view| view.slots_pfail),
    ),
    gauge(
        "redis_cluster_slots_fail",
        "slots",
        &["node"],
        "Slots whose owner is failed in this master's view.",
        of_masters!(|view| view.slots_fail),
    ),
    gauge("redis_cluster_known_nodes", "nodes", &["node"], "Nodes that this master knows.", of_masters!(|view| view.known_nodes)),
    counter(
        "redis_cluster_messages_sent_total",
        "messages",
        &["node"],
        "Messages that this master has sent on the cluster bus.",
        of_masters!(|view| view.messages_sent),
    ),
    counter(
        "redis_cluster_messages_received_total",
        "messages",
        &["node"],
        "Messages that this master has received on the cluster bus.",
        of_masters!(|view| view.messages_received),
    ),
    gauge(
        "redis_replica_lag_bytes",
        "bytes",
        &["node", "replica"],
        "Bytes of the master's stream that the replica has not acknowledged.",
        |facts, put| {
            for master in &facts.health.masters {
                for (replica, lag) in master.view.iter().flat_map(|view| &view.replicas) {
                    put(&[&master.addr, replica], *lag as f64);
                }
            }
        },
    ),
    gauge(
        "keyway_node_answers",
        "0 or 1",
        &["node"],
        "Whether the master answered the proxy's last question about its health.",
        |facts, put| {
            for master in &facts.health.masters {
                put(&[&master.addr], f64::from(u8::from(master.view.is_some())));
            }
        },
    ),
    gauge(
        "keyway_migration_state",
        "0 or 1",
        &["state"],
        "The state of the plan that holds slots, or else of the latest: 1 for the one it is in.",
        |facts, put| {
            if let Some(loaded) = &facts.health.plan {
                for state in State::ALL {
                    put(&[state.word()], f64::from(u8::from(loaded.progress.standing.state == state)));
                }
            }
        },
    ),
    gauge(
        "keyway_migration_slots",
        "slots",
        &["of"],
        "Slots of that plan: those that the target owns, and all.",
        |facts, put| {
            if let Some(loaded) = &facts.health.plan {
                put(&["done"], loaded.progress.done.len() as f64);
                put(&["total"], loaded.plan.slot_count() as f64);
            }
        },
    ),
    gauge(
        "keyway_migration_keys_moved",
        "keys",
        &[],
        "Keys that the plan has moved.",
        of_plan!(|loaded| loaded.progress.keys_moved),
    ),
    gauge(
        "keyway_migration_eta_seconds",
        "seconds",
        &[],
        "What is left of the plan, by its pace so far.",
        of_plan!(|loaded| loaded.progress.eta(&loaded.plan).as_secs()),
    ),
    gauge(
        "keyway_migration_gate_open",
        "0 or 1",
        &["gate"],
        "The plan's gates as they stood at the last look: 0 for one that pauses it.",
        |facts, put| {
            let gates = facts.health.plan.iter().flat_map(|loaded| &loaded.progress.gates);
            for gate in gates {
                put(&[&gate.gate], f64::from(u8::from(gate.open)));
            }
        },
    ),
];
