//! Settings of the nodes that make a migration harder.

use super::{Finding, Intent, Severity, finding, fine, takes_part};
use crate::migrate::Inventory;
use crate::migrate::inventory::{Atomic, Told};

/// Below it, a busy second can look like a failure, in milliseconds.
const NODE_TIMEOUT_MIN_MS: u64 = 5_000;

fn setting<'a>(told: &'a Told, name: &str) -> Option<&'a str> {
    told.config.as_ref()?.get(name)
}

pub fn node_timeout(inventory: &Inventory, _: Option<Intent>) -> Vec<Finding> {
    let expected =
        format!("cluster-node-timeout is at least {NODE_TIMEOUT_MIN_MS} ms: a block of half of it looks like a failure");
    let findings: Vec<Finding> = inventory
        .answers()
        .filter_map(|(node, told)| {
            let timeout: u64 = setting(told, "cluster-node-timeout")?.parse().ok()?;
            let found = format!("{}: {timeout} ms", node.addr);
            let low = timeout < NODE_TIMEOUT_MIN_MS;
            low.then(|| {
                finding(
                    "node-timeout",
                    Severity::Warning,
                    &expected,
                    found,
                    "CONFIG SET cluster-node-timeout 15000 on every node while slots move",
                )
            })
        })
        .collect();
    if findings.is_empty() { fine("node-timeout", &expected) } else { findings }
}

pub fn full_coverage(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "a failover in mid-slot does not stop its receiver: cluster-require-full-coverage no, or Redis 7.4 and later, or Valkey 8";
    let at_risk = inventory.masters().filter(|(node, told)| {
        takes_part(intent, &node.id, told)
            && told.server.target_goes_down_at_source_failover()
            && setting(told, "cluster-require-full-coverage") == Some("yes")
    });
    let findings: Vec<Finding> = at_risk
        .map(|(node, told)| {
            let found = format!("{} is {} with cluster-require-full-coverage yes", node.addr, told.server);
            let advice = "CONFIG SET cluster-require-full-coverage no while slots move; the coordinator repairs it within seconds otherwise";
            finding("full-coverage", Severity::Warning, expected, found, advice)
        })
        .collect();
    if findings.is_empty() { fine("full-coverage", expected) } else { findings }
}

pub fn replica_migration(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "a master that gives its last slot stays a master: cluster-allow-replica-migration no";
    let Some(intent) = intent else { return fine("replica-migration", expected) };
    let gives_all = |id: &std::sync::Arc<str>| {
        let Some(place) = intent.layout.places.iter().position(|place| place.id == *id) else { return false };
        let gives: usize = intent.moves.iter().filter(|each| each.source == place).map(|each| each.slots.len()).sum();
        gives > 0 && gives == intent.layout.slots_of(place).count()
    };
    let findings: Vec<Finding> = inventory
        .masters()
        .filter(|(node, told)| gives_all(&node.id) && setting(told, "cluster-allow-replica-migration") == Some("yes"))
        .map(|(node, _)| {
            let found =
                format!("{} will give its last slot, and then become a replica of the receiver and copy all its data", node.addr);
            finding(
                "replica-migration",
                Severity::Warning,
                expected,
                found,
                "CONFIG SET cluster-allow-replica-migration no on it, if it is to be rolled back or watched before it goes",
            )
        })
        .collect();
    if findings.is_empty() { fine("replica-migration", expected) } else { findings }
}

pub fn atomic_mode(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "both ends of every move can move whole slots atomically";
    let kinds = inventory.masters().filter(|(node, told)| takes_part(intent, &node.id, told)).map(|(_, told)| told.atomic);
    let kinds: Vec<Atomic> = kinds.collect();
    if !kinds.is_empty() && kinds.iter().all(|kind| *kind == Atomic::MigrateSlots) {
        return fine("atomic-mode", expected);
    }
    let (found, advice) = if kinds.contains(&Atomic::Migration) {
        (
            "Redis's CLUSTER MIGRATION, which Keyway does not drive yet",
            "the classic protocol is used: it is slower, and clients may meet ASK, which the proxy absorbs",
        )
    } else {
        ("servers without it", "the classic protocol is used: it is slower, and clients may meet ASK, which the proxy absorbs")
    };
    vec![finding("atomic-mode", Severity::Note, expected, found.into(), advice)]
}
