//! What only a closer look shows: large keys, slots that outweigh the others, libraries that are missing, who waits.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Intent, Severity, finding, fine, some_of, takes_part, who};
use crate::migrate::Inventory;
use crate::migrate::deep::{BigKey, Depth};
use crate::migrate::inventory::Atomic;

/// What a node is blocked for by MIGRATE of a large key, in microseconds a megabyte: measured on Redis 7.0 with a hash of half a
/// million fields, and with a string.
const BLOCK_US_PER_MB: u64 = 42_000;
const BLOCK_US_PER_MB_OF_STRING: u64 = 3_500;

/// A block that clients notice.
const BLOCK_US_NOTICED: u64 = 100_000;

/// What RESTORE takes at most: `proto-max-bulk-len`, 512 MB unless it was changed.
const DUMP_BYTES_MAX: u64 = 512 << 20;

/// A slot with more than this share of all keys, in percent, and more than so many, outweighs the others.
const HEAVY_PERCENT: u64 = 10;
const HEAVY_KEYS: u64 = 500;

/// The checks of a closer look; `depths` are those of the masters that let themselves be looked at.
pub fn deep(inventory: &Inventory, depths: &[Depth], intent: Option<Intent>) -> Vec<Finding> {
    [
        looked(depths),
        big_keys(inventory, depths, intent),
        slot_weights(inventory),
        libraries(inventory, depths, intent),
        snapshots(inventory, intent),
        waiting(inventory, depths),
    ]
    .concat()
}

fn looked(depths: &[Depth]) -> Vec<Finding> {
    let expected = "every master lets its keys be looked at";
    let silent: Vec<String> = depths.iter().filter_map(|depth| depth.looked.as_ref().err().cloned()).collect();
    match silent.is_empty() {
        true => fine("samples", expected),
        false => vec![finding(
            "samples",
            Severity::Warning,
            expected,
            some_of(silent.into_iter()),
            "look again, or find out why it does not answer",
        )],
    }
}

fn block_us(key: &BigKey) -> u64 {
    let a_megabyte = if key.kind == "string" { BLOCK_US_PER_MB_OF_STRING } else { BLOCK_US_PER_MB };
    key.bytes.saturating_mul(a_megabyte) >> 20
}

fn big_keys(inventory: &Inventory, depths: &[Depth], intent: Option<Intent>) -> Vec<Finding> {
    let (seen, keys) = depths
        .iter()
        .filter_map(|depth| depth.looked.as_ref().ok())
        .fold((0, 0), |(seen, keys), sample| (seen + sample.seen, keys + sample.keys));
    let expected = format!("no key is so large that moving it stops its node for long ({seen} of {keys} keys were looked at)");
    let timeouts = inventory.answers().filter_map(|(_, told)| told.config.as_ref()?.number("cluster-node-timeout"));
    let deadly_us = timeouts.min().unwrap_or(15_000) * 1000 / 2;
    let mut findings = Vec::new();
    for depth in depths {
        let Ok(sample) = &depth.looked else { continue };
        let large: Vec<&BigKey> =
            sample.largest.iter().filter(|key| block_us(key) > BLOCK_US_NOTICED || key.bytes > DUMP_BYTES_MAX).collect();
        let Some(largest) = large.iter().map(|key| block_us(key)).max() else { continue };
        let atomic = match intent {
            Some(intent) => !large.iter().any(|key| intent.classic.contains(key.slot)),
            None => inventory.told(&depth.id).is_some_and(|told| told.atomic == Atomic::MigrateSlots),
        };
        let impossible = large.iter().any(|key| key.bytes > DUMP_BYTES_MAX);
        let severity = match atomic {
            true => Severity::Note,
            false if impossible || largest > deadly_us => Severity::Blocker,
            false => Severity::Warning,
        };
        let line = |key: &&BigKey| {
            format!(
                "{} of slot {}: a {} of {} MB, about {} ms",
                key.name,
                key.slot,
                key.kind,
                key.bytes >> 20,
                block_us(key) / 1000
            )
        };
        let found = format!("{}: {}", depth.addr, some_of(large.iter().map(line).collect::<Vec<_>>().into_iter()));
        let advice = match severity {
            Severity::Note => "the atomic mode does not stop the node for it; the classic protocol would",
            Severity::Blocker => "split it into smaller keys, or leave its slot where it is",
            _ => "it moves alone, and its node answers nobody meanwhile: do it when that hurts least",
        };
        findings.push(finding("big-keys", severity, &expected, found, advice));
    }
    if findings.is_empty() { fine("big-keys", &expected) } else { findings }
}

fn slot_weights(inventory: &Inventory) -> Vec<Finding> {
    let expected = format!("no slot holds more than {HEAVY_PERCENT} % of all keys");
    let total: u64 = inventory.masters().map(|(_, told)| told.key_count()).sum();
    let heavy: Vec<String> = inventory
        .masters()
        .flat_map(|(node, told)| {
            let counts = told.keys.iter().flatten().enumerate();
            let is_heavy = |keys: u64| keys > HEAVY_KEYS && keys * 100 > total * HEAVY_PERCENT;
            counts
                .filter(move |(_, keys)| is_heavy(u64::from(**keys)))
                .map(move |(slot, keys)| format!("slot {slot} of {} holds {keys} of {total}", node.addr))
                .collect::<Vec<_>>()
        })
        .collect();
    if heavy.is_empty() {
        return fine("slot-weights", &expected);
    }
    let advice =
        "one hash tag has many keys: its slot moves in a batch of its own, and balancing by slots alone will not balance";
    vec![finding("slot-weights", Severity::Note, &expected, some_of(heavy.into_iter()), advice)]
}

fn libraries(inventory: &Inventory, depths: &[Depth], intent: Option<Intent>) -> Vec<Finding> {
    let expected = "every master has the function libraries of the others";
    let known: Vec<(&Depth, &BTreeSet<String>)> =
        depths.iter().filter_map(|depth| Some((depth, depth.looked.as_ref().ok()?.libraries.as_ref()?))).collect();
    let mut holders: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for (depth, libraries) in &known {
        for library in *libraries {
            holders.entry(library).or_default().push(depth.addr.to_string());
        }
    }
    let mut findings = Vec::new();
    for (depth, libraries) in known {
        let lacks: Vec<String> = holders
            .iter()
            .filter(|(library, _)| !libraries.contains(**library))
            .map(|(library, nodes)| format!("{library} (which {} has)", nodes.join(", ")))
            .collect();
        if !lacks.is_empty() {
            let is_target = intent.is_some_and(|intent| intent.targets().contains(&depth.id));
            let severity = if is_target { Severity::Blocker } else { Severity::Warning };
            let found = format!("{} lacks {}", who(inventory, &depth.id), some_of(lacks.into_iter()));
            findings.push(finding(
                "libraries",
                severity,
                expected,
                found,
                "FUNCTION LOAD REPLACE it through the proxy, which reaches all masters",
            ));
        }
    }
    if findings.is_empty() { fine("libraries", expected) } else { findings }
}

fn snapshots(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "no master is writing a snapshot: an atomic migration forks as well, and memory may double";
    let writing = inventory.masters().filter(|(node, told)| {
        let runs = |name: &str| told.info.number(name) == Some(1);
        takes_part(intent, &node.id, told) && (runs("rdb_bgsave_in_progress") || runs("aof_rewrite_in_progress"))
    });
    let writing: Vec<String> = writing.map(|(node, _)| node.addr.to_string()).collect();
    if writing.is_empty() {
        return fine("snapshots", expected);
    }
    let found = format!("{} is writing one", writing.join(", "));
    vec![finding("snapshots", Severity::Warning, expected, found, "wait until it is written")]
}

fn waiting(inventory: &Inventory, depths: &[Depth]) -> Vec<Finding> {
    let expected = "nobody waits on keys, and no shard channel has listeners";
    let mut found: Vec<String> = inventory
        .masters()
        .filter_map(|(node, told)| {
            let count = told.info.number("blocked_clients").filter(|count| *count > 0)?;
            Some(format!("{}: {count} blocked clients", node.addr))
        })
        .collect();
    found.extend(depths.iter().filter_map(|depth| {
        let count = depth.looked.as_ref().ok()?.shard_channels;
        (count > 0).then(|| format!("{}: {count} shard channels", depth.addr))
    }));
    if found.is_empty() {
        return fine("waiting-clients", expected);
    }
    let advice =
        "those behind the proxy move along; clients that are connected to the node itself are sent away when their slot goes";
    vec![finding("waiting-clients", Severity::Note, expected, some_of(found.into_iter()), advice)]
}
