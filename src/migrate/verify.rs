//! PURE. Whether what a plan has moved is where it should be, and nowhere else.

use std::collections::BTreeSet;

use super::draft::glance_at;
use super::inventory::{Inventory, short};
use super::preflight::{Finding, Severity};
use super::record::Plan;
use super::slot_set::SlotSet;

/// The checks of the pre-flight that say whether the cluster is whole.
const WHOLE: [&str; 6] = ["reachable", "coverage", "agreement", "open-slots", "atomic-jobs", "orphan-keys"];

/// `done` are the slots that the plan has moved: they are the targets', and all its others are still the sources'.
pub fn verify(inventory: &Inventory, plan: &Plan, done: &SlotSet) -> Vec<Finding> {
    let mut findings = vec![owners(inventory, plan, done)];
    findings.extend(glance_at(inventory, plan).into_iter().filter(|finding| WHOLE.contains(&finding.check)));
    findings
}

fn owners(inventory: &Inventory, plan: &Plan, done: &SlotSet) -> Finding {
    let owners = inventory.owners();
    let mut wrong: Vec<String> = Vec::new();
    for batch in &plan.batches {
        for (end, name) in [(&batch.target, "target"), (&batch.source, "source")] {
            let shard: BTreeSet<&str> =
                plan.shards.get(end).into_iter().flatten().map(String::as_str).chain([end.as_str()]).collect();
            let has = |slot| owners[crate::cluster::Slot::index(slot)].as_ref().is_some_and(|owner| shard.contains(&**owner));
            let elsewhere: SlotSet =
                batch.slots.iter().filter(|slot| done.contains(*slot) == (name == "target") && !has(*slot)).collect();
            if !elsewhere.is_empty() {
                wrong.push(format!("{elsewhere} are not owned by the {name} {}", short(end)));
            }
        }
    }
    let is_fine = wrong.is_empty();
    Finding {
        check: "owners",
        severity: if is_fine { Severity::Ok } else { Severity::Blocker },
        expected: format!("the targets own the {} slots that have moved, and the sources the others", done.len()),
        found: if is_fine { "so it is".to_owned() } else { wrong.join("; ") },
        advice: if is_fine { String::new() } else { "PROXY CHECK, PROXY MIGRATE REPAIR DRYRUN".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Addr;
    use crate::migrate::inventory::NodeReport;
    use crate::migrate::plan::BatchKind;
    use crate::migrate::preflight::tests::{IDS, told};
    use crate::migrate::record::tests::{batch, plan};

    #[test]
    fn slots_are_where_they_should_be() {
        let node = |me: usize| NodeReport {
            id: IDS[me].into(),
            addr: Addr::new("127.0.0.1", 7000 + me as u16),
            told: Ok(Box::new(told(me))),
        };
        let inventory = Inventory { nodes: (0..3).map(node).collect() };
        let check = |source: usize, target: usize, slots: &str, done: &str, expected: &str| {
            let plan = plan(vec![batch(BatchKind::Ordinary, IDS[source], IDS[target], slots, 1, 1)]);
            let done = SlotSet::try_from(done.to_owned()).expect("slots");
            let findings = verify(&inventory, &plan, &done);
            assert_eq!(findings.len(), 1 + WHOLE.len());
            let wrong: Vec<_> = findings
                .iter()
                .filter(|finding| finding.severity == Severity::Blocker)
                .map(|finding| finding.found.as_str())
                .collect();
            assert_eq!(wrong.join(" "), expected);
        };
        check(0, 1, "5-6", "", "");
        check(1, 0, "5-6", "5-6", "");
        check(0, 1, "5-6", "6", "6 are not owned by the target bbbbbbbb");
        check(1, 0, "5-6", "5", "6 are not owned by the source bbbbbbbb");
    }
}
