//! Whether what moves fits where it goes.

use super::{Finding, Intent, Severity, finding, fine};
use crate::migrate::Inventory;

/// Share of `maxmemory` that a target may fill, in percent.
const FILL_PERCENT: u64 = 90;
/// What a key takes on its new node beside what it took on the old one, in percent of that.
const MARGIN_PERCENT: u64 = 120;

pub fn memory(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = format!("every target has room for what it gets, below {FILL_PERCENT} % of its maxmemory");
    let mut findings = Vec::new();
    for (node, told) in inventory.masters() {
        let Some(limit) = told.info.number("maxmemory").filter(|limit| *limit > 0) else { continue };
        let gets: u64 = intent.map_or(0, |intent| {
            let taking = intent.moves.iter().filter(|each| intent.layout.places[each.target].id == node.id);
            taking.flat_map(|each| &each.slots).map(|slot| intent.layout.bytes[slot.index()]).sum()
        });
        let used = told.info.number("used_memory").unwrap_or(0);
        let after = used + gets * MARGIN_PERCENT / 100;
        if after > limit / 100 * FILL_PERCENT {
            // A full node is only in the way of a plan that gives it more.
            let severity = if gets > 0 { Severity::Blocker } else { Severity::Warning };
            let found = format!("{}: {used} bytes used, {gets} to come, maxmemory {limit}", node.addr);
            findings.push(finding("memory", severity, &expected, found, "raise maxmemory there, or move less"));
        }
    }
    if findings.is_empty() { fine("memory", &expected) } else { findings }
}

pub fn eviction(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "no target evicts keys: maxmemory-policy noeviction, or no maxmemory";
    let evicting = inventory.masters().filter(|(node, told)| {
        let gets = intent.is_none_or(|intent| intent.targets().contains(&node.id));
        let limited = told.info.number("maxmemory").is_some_and(|limit| limit > 0);
        gets && limited && told.info.get("maxmemory_policy").is_some_and(|policy| policy != "noeviction")
    });
    let findings: Vec<Finding> = evicting
        .map(|(node, told)| {
            let found = format!("{}: {}", node.addr, told.info.get("maxmemory_policy").unwrap_or("?"));
            finding(
                "eviction",
                Severity::Warning,
                expected,
                found,
                "keys that have just arrived may be evicted at once if it fills up",
            )
        })
        .collect();
    if findings.is_empty() { fine("eviction", expected) } else { findings }
}
