//! Whether the cluster is whole and of one mind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Finding, Intent, Severity, finding, fine, some_of, takes_part, who};
use crate::cluster::{OpenMark, SLOT_COUNT};
use crate::migrate::inventory::{Inventory, Server, short};

/// A replica that has not confirmed more than this is not up to date, in bytes.
const LAG_MAX: u64 = 64 << 20;

pub fn reachable(inventory: &Inventory, _: Option<Intent>) -> Vec<Finding> {
    let expected = "every node of the cluster answers and has its data loaded";
    // Whether it is a master the others say; of nodes that nobody knows nothing is expected.
    let is_master = |id: &Arc<str>| {
        inventory
            .answers()
            .any(|(_, told)| told.view.nodes.iter().any(|node| node.id == *id && node.flags.master && !node.flags.fail))
    };
    let mut findings: Vec<Finding> = inventory
        .nodes
        .iter()
        .filter_map(|node| {
            let error = node.told.as_ref().err()?;
            let severity = if is_master(&node.id) { Severity::Blocker } else { Severity::Warning };
            Some(finding(
                "reachable",
                severity,
                expected,
                error.clone(),
                "bring the node back, or CLUSTER FORGET it if it is gone for good",
            ))
        })
        .collect();
    findings.extend(inventory.answers().filter(|(_, told)| told.info.number("loading") == Some(1)).map(|(node, _)| {
        let found = format!("{} is loading its data", node.addr);
        finding("reachable", Severity::Blocker, expected, found, "wait until it has loaded")
    }));
    if findings.is_empty() { fine("reachable", expected) } else { findings }
}

pub fn coverage(inventory: &Inventory, _: Option<Intent>) -> Vec<Finding> {
    let expected = "16384 slots assigned and served, and the state ok, in every node's view";
    let bad = |name: &str, told: &crate::migrate::inventory::Told| {
        told.cluster.number(name).is_some_and(|count| count != SLOT_COUNT as u64)
    };
    let wrong: Vec<String> = inventory
        .answers()
        .filter(|(_, told)| {
            told.cluster.get("cluster_state") != Some("ok")
                || bad("cluster_slots_assigned", told)
                || bad("cluster_slots_ok", told)
        })
        .map(|(node, told)| {
            let field = |name| told.cluster.get(name).unwrap_or("?");
            format!(
                "{} sees state {}, {} assigned, {} served",
                node.addr,
                field("cluster_state"),
                field("cluster_slots_assigned"),
                field("cluster_slots_ok")
            )
        })
        .collect();
    if wrong.is_empty() {
        return fine("coverage", expected);
    }
    let advice = "give the missing slots an owner (redis-cli --cluster fix), or bring back the master that owns them; \
                  on Redis 6.2 to 7.2 a receiver of an open slot sees one missing after its source's failover: CLUSTER SETSLOT <slot> STABLE on it";
    vec![finding("coverage", Severity::Blocker, expected, some_of(wrong.into_iter()), advice)]
}

pub fn agreement(inventory: &Inventory, _: Option<Intent>) -> Vec<Finding> {
    let expected = "all nodes name the same owner for every slot";
    let disagreements = inventory.disagreements();
    if disagreements.is_empty() {
        return fine("agreement", expected);
    }
    let lines: Vec<String> = disagreements
        .iter()
        .map(|each| {
            let says = each.says.iter().map(|(owner, voters)| {
                let owner = owner.as_ref().map_or("nobody".to_owned(), |owner| who(inventory, owner));
                format!("{} of {} nodes say {owner}", voters.len(), inventory.answers().count())
            });
            format!("slot {}: {}", each.slot, says.collect::<Vec<_>>().join(", "))
        })
        .collect();
    let advice = "wait a few seconds and check again; if it stays, CLUSTER SETSLOT <slot> NODE <owner> on the nodes that differ, \
                  or CLUSTER BUMPEPOCH on the rightful owner";
    vec![finding("agreement", Severity::Blocker, expected, some_of(lines.into_iter()), advice)]
}

pub fn open_slots(inventory: &Inventory, _: Option<Intent>) -> Vec<Finding> {
    let expected = "no slot is being moved: no MIGRATING and no IMPORTING mark on any node";
    let open = inventory.open_slots();
    if open.is_empty() {
        return fine("open-slots", expected);
    }
    let line = |open: &crate::migrate::inventory::Open| match &open.mark {
        OpenMark::Migrating { slot, to } => format!("{} gives slot {slot} to {}", who(inventory, &open.holder), short(to)),
        OpenMark::Importing { slot, from } => format!("{} takes slot {slot} from {}", who(inventory, &open.holder), short(from)),
    };
    let found = some_of(open.iter().map(line).collect::<Vec<_>>().into_iter());
    vec![finding(
        "open-slots",
        Severity::Blocker,
        expected,
        found,
        "finish what moves it; if nothing does, PROXY MIGRATE REPAIR finishes it",
    )]
}

pub fn atomic_jobs(inventory: &Inventory, _: Option<Intent>) -> Vec<Finding> {
    let expected = "no atomic migration is running";
    let jobs: Vec<String> = inventory
        .answers()
        .flat_map(|(node, told)| told.jobs.iter().map(|job| format!("{}: {job}", node.addr)).collect::<Vec<_>>())
        .collect();
    if jobs.is_empty() {
        return fine("atomic-jobs", expected);
    }
    vec![finding(
        "atomic-jobs",
        Severity::Blocker,
        expected,
        some_of(jobs.into_iter()),
        "wait for it, or CLUSTER CANCELSLOTMIGRATIONS on its source",
    )]
}

pub fn orphans(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "no master holds keys of a slot that it does not own";
    let orphans = inventory.orphans();
    if orphans.is_empty() {
        return fine("orphan-keys", expected);
    }
    let is_planned = |slot| intent.is_some_and(|intent| intent.slots.contains(slot));
    let severity = if orphans.iter().any(|(_, slot, _)| is_planned(*slot)) { Severity::Blocker } else { Severity::Warning };
    let lines: Vec<String> =
        orphans.iter().map(|(node, slot, keys)| format!("{} holds {keys} keys of slot {slot}", who(inventory, node))).collect();
    let advice = "they are left over from an earlier migration and nobody can see them: compare them with the owner's, then delete them \
                  on that node, or import them by opening the slot again";
    vec![finding("orphan-keys", severity, expected, some_of(lines.into_iter()), advice)]
}

pub fn epochs(inventory: &Inventory, _: Option<Intent>) -> Vec<Finding> {
    let expected = "every master that owns slots has a config epoch of its own";
    let mut by_epoch: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (node, told) in inventory.masters().filter(|(_, told)| !told.myself().slots.is_empty()) {
        by_epoch.entry(told.myself().epoch).or_default().push(node.addr.to_string());
    }
    let shared: Vec<String> = by_epoch
        .into_iter()
        .filter(|(_, nodes)| nodes.len() > 1)
        .map(|(epoch, nodes)| format!("{} share epoch {epoch}", nodes.join(" and ")))
        .collect();
    if shared.is_empty() {
        return fine("epochs", expected);
    }
    vec![finding(
        "epochs",
        Severity::Warning,
        expected,
        some_of(shared.into_iter()),
        "the nodes settle it by themselves: check again in a few seconds",
    )]
}

pub fn flags(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "no node is failed, suspected or without an address in another's eyes, and all links are up";
    let mut found: BTreeSet<(bool, String)> = BTreeSet::new();
    for (node, told) in inventory.answers() {
        for other in told.view.nodes.iter().filter(|other| !other.flags.myself) {
            let what = match other.flags {
                flags if flags.fail => "failed",
                flags if flags.suspected => "suspected to have failed",
                flags if flags.noaddr => "without an address",
                _ if !other.connected => "not linked",
                _ => continue,
            };
            let matters = inventory.told(&other.id).is_some_and(|told| takes_part(intent, &other.id, told));
            found.insert((matters, format!("{} is {what} in the eyes of {}", who(inventory, &other.id), node.addr)));
        }
    }
    if found.is_empty() {
        return fine("links", expected);
    }
    let severity = if found.iter().any(|(matters, _)| *matters) { Severity::Blocker } else { Severity::Warning };
    let found = some_of(found.into_iter().map(|(_, line)| line).collect::<Vec<_>>().into_iter());
    vec![finding(
        "links",
        severity,
        expected,
        found,
        "bring the node or the network between the two back, or CLUSTER FORGET a node that is gone",
    )]
}

pub fn replicas(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "every master that takes part has a replica that is online and up to date";
    let mut findings = Vec::new();
    for (node, told) in inventory.masters().filter(|(node, told)| takes_part(intent, &node.id, told)) {
        let links = told.replica_links();
        let known = told.view.nodes.iter().filter(|other| other.master.as_ref() == Some(&node.id) && !other.flags.fail).count();
        let offline = links.iter().filter(|link| !link.online).count() + known.saturating_sub(links.len());
        if links.is_empty() && known == 0 {
            let found = format!("{} has none", node.addr);
            findings.push(finding(
                "replicas",
                Severity::Warning,
                expected,
                found,
                "add one: what moves to a master without a replica dies with it",
            ));
        } else if offline > 0 {
            // SETSLOT waits for all replicas there, and is refused when one does not answer.
            let severity = if told.server.replicates_marks() { Severity::Blocker } else { Severity::Warning };
            let found = format!("{offline} of {} of {} are not online", known.max(links.len()), node.addr);
            findings.push(finding("replicas", severity, expected, found, "bring it back before slots move"));
        } else if let Some(slow) = links.iter().find(|link| link.lag_bytes > LAG_MAX) {
            let found = format!("{} of {} is {} bytes behind", slow.addr, node.addr, slow.lag_bytes);
            findings.push(finding("replicas", Severity::Warning, expected, found, "wait until it has caught up"));
        }
    }
    if findings.is_empty() { fine("replicas", expected) } else { findings }
}

pub fn software(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "every target runs the software of its source, the same version or a newer one";
    let Some(intent) = intent else {
        let versions: BTreeSet<Server> = inventory.answers().map(|(_, told)| told.server).collect();
        if versions.len() < 2 {
            return fine("software", expected);
        }
        let found = some_of(versions.iter().map(Server::to_string).collect::<Vec<_>>().into_iter());
        return vec![finding(
            "software",
            Severity::Note,
            expected,
            found,
            "move slots from old to new only: a value may not be readable by an older server",
        )];
    };
    let mut findings = Vec::new();
    for each in intent.moves {
        let (source, target) = (&intent.layout.places[each.source], &intent.layout.places[each.target]);
        let (Some(from), Some(to)) = (inventory.told(&source.id), inventory.told(&target.id)) else { continue };
        if from.server.valkey != to.server.valkey
            || (to.server.version.0, to.server.version.1) < (from.server.version.0, from.server.version.1)
        {
            let found = format!("{} is {}, {} is {}", source.addr, from.server, target.addr, to.server);
            findings.push(finding(
                "software",
                Severity::Blocker,
                expected,
                found,
                "upgrade the target first: it may not read what the source writes",
            ));
        }
    }
    if findings.is_empty() { fine("software", expected) } else { findings }
}

pub fn rights(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "the proxy's own user may move slots on every master";
    let findings: Vec<Finding> = inventory
        .masters()
        .filter(|(node, told)| takes_part(intent, &node.id, told) && !told.denied.is_empty())
        .map(|(node, told)| {
            let denied: Vec<&str> = told.denied.iter().copied().collect();
            let found = format!("{} denies it {}", node.addr, denied.join(", "));
            let advice = "ACL SETUSER it there with these commands and all keys, or name another user in cluster.username";
            finding("rights", Severity::Blocker, expected, found, advice)
        })
        .collect();
    if findings.is_empty() { fine("rights", expected) } else { findings }
}

pub fn modules(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "all masters have loaded the same modules";
    let all: BTreeSet<&String> = inventory.masters().flat_map(|(_, told)| &told.modules).collect();
    let lacking: Vec<(bool, String)> = inventory
        .masters()
        .filter_map(|(node, told)| {
            let lacks: Vec<&str> = all.iter().filter(|name| !told.modules.contains(**name)).map(|name| name.as_str()).collect();
            let matters = intent.is_none_or(|intent| intent.targets().contains(&node.id));
            (!lacks.is_empty()).then(|| (matters, format!("{} lacks {}", node.addr, lacks.join(", "))))
        })
        .collect();
    if lacking.is_empty() {
        return fine("modules", expected);
    }
    let severity = if lacking.iter().any(|(matters, _)| *matters) { Severity::Blocker } else { Severity::Warning };
    let found = some_of(lacking.into_iter().map(|(_, line)| line).collect::<Vec<_>>().into_iter());
    vec![finding("modules", severity, expected, found, "load the module there: keys of its types cannot be restored without it")]
}

pub fn functions(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let expected = "all masters hold the same function libraries";
    let mut holders: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
    for (node, told) in inventory.masters() {
        holders.entry(told.functions.as_deref()).or_default().push(node.addr.to_string());
    }
    if holders.len() < 2 {
        return fine("functions", expected);
    }
    let severity = if intent.is_some() { Severity::Blocker } else { Severity::Warning };
    let found = holders.values().map(|nodes| nodes.join(", ")).collect::<Vec<_>>().join(" differ from ");
    vec![finding(
        "functions",
        severity,
        expected,
        found,
        "FUNCTION DUMP on one that has them all, FUNCTION RESTORE on the others; FUNCTION LOAD through the proxy reaches all",
    )]
}
