//! PURE. A plan as the checks know it: its moves between the masters that are there now, and what they weigh.

use crate::migrate::inventory::{Inventory, short};
use crate::migrate::plan::{Layout, Move};
use crate::migrate::preflight::{Finding, Intent, Severity};
use crate::migrate::record::{Mode, Plan, PlanBatch};
use crate::migrate::slot_set::SlotSet;

pub(super) struct Intended {
    layout: Layout,
    moves: Vec<Move>,
    slots: SlotSet,
    classic: SlotSet,
    /// Ends that no master stands for.
    gone: Vec<String>,
}

impl Intended {
    /// An end is the plan's own node, or the member of its shard that is the master now.
    pub fn of(inventory: &Inventory, plan: &Plan) -> Intended {
        let mut layout = Layout::of(inventory);
        plan.batches.iter().for_each(|batch| weigh(&mut layout, batch));
        let mut gone = Vec::new();
        let mut place = |id: &str| {
            let of_shard = |node: &str| plan.shards.get(id).is_some_and(|members| members.contains(node));
            let own = layout.places.iter().position(|place| &*place.id == id);
            let found = own.or_else(|| layout.places.iter().position(|place| of_shard(&place.id)));
            if found.is_none() && !gone.iter().any(|known| known == id) {
                gone.push(id.to_owned());
            }
            found
        };
        let moves = plan.pairs().into_iter().filter_map(|pair| {
            let (source, target) = (place(pair.source), place(pair.target));
            Some(Move { source: source?, target: target?, slots: pair.slots.iter().collect() })
        });
        let moves = moves.collect();
        let classic = plan.batches.iter().filter(|batch| batch.mode == Mode::Classic);
        let classic = classic.flat_map(|batch| batch.slots.iter().collect::<Vec<_>>()).collect();
        Intended { layout, moves, slots: plan.slots(), classic, gone }
    }

    pub fn intent(&self) -> Intent<'_> {
        Intent { layout: &self.layout, moves: &self.moves, slots: &self.slots, classic: &self.classic }
    }

    /// Nothing of an end that is gone can be checked.
    pub fn ends(&self) -> Finding {
        let is_fine = self.gone.is_empty();
        let gone: Vec<&str> = self.gone.iter().map(|id| short(id)).collect();
        Finding {
            check: "ends",
            severity: if is_fine { Severity::Ok } else { Severity::Blocker },
            expected: "a master that answers at both ends of every move".to_owned(),
            found: if is_fine { "so it is".to_owned() } else { format!("none for {}", gone.join(", ")) },
            advice: if is_fine { "" } else { "bring it back, or make a new plan: PROXY MIGRATE PLAN" }.to_owned(),
        }
    }
}

/// What was sampled of these very slots when the plan was made tells more than what a key of their node takes on average.
fn weigh(layout: &mut Layout, batch: &PlanBatch) {
    let Some(a_key) = batch.bytes.checked_div(batch.keys) else { return };
    for slot in batch.slots.iter() {
        layout.bytes[slot.index()] = layout.keys[slot.index()] * a_key;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cluster::Addr;
    use crate::migrate::inventory::NodeReport;
    use crate::migrate::plan::BatchKind;
    use crate::migrate::preflight::preflight;
    use crate::migrate::preflight::tests::{IDS, told};
    use crate::migrate::record::tests::{batch, plan};

    /// What `check` finds of a plan from the first of three masters to `target`, a shard of the second, with room for 5 MB there.
    fn found(target: &str, bytes: u64, check: &str) -> (Severity, String) {
        let node = |me: usize| {
            let mut told = told(me);
            if me == 1 {
                told.info.insert("maxmemory".into(), "17000000".into());
                told.keys.as_mut().expect("counted")[7] = 3;
            }
            NodeReport { id: IDS[me].into(), addr: Addr::new("127.0.0.1", 7000 + me as u16), told: Ok(Box::new(told)) }
        };
        let inventory = Inventory { nodes: (0..3).map(node).collect() };
        let mut plan = plan(vec![batch(BatchKind::Ordinary, IDS[0], target, "5-9", 50, bytes)]);
        plan.shards.insert("failed-over".to_owned(), BTreeSet::from([IDS[1].to_owned(), "failed-over".to_owned()]));
        let intended = Intended::of(&inventory, &plan);
        let findings = [preflight(&inventory, Some(intended.intent())), vec![intended.ends()]].concat();
        let finding = findings.into_iter().find(|finding| finding.check == check).expect("a check");
        (finding.severity, finding.found)
    }

    #[test]
    fn an_end_is_its_shards_master() {
        assert_eq!(found(IDS[1], 5_000, "ends").0, Severity::Ok);
        assert_eq!(found("failed-over", 5_000, "ends").0, Severity::Ok);
        assert_eq!(found("gone", 5_000, "ends"), (Severity::Blocker, "none for gone".to_owned()));
        // Keys that nobody can see are in the way wherever the end is.
        for target in [IDS[1], "failed-over", "gone"] {
            assert_eq!(found(target, 5_000, "orphan-keys").0, Severity::Blocker, "{target}");
        }
    }

    #[test]
    fn room_is_needed_for_what_was_sampled() {
        // A key of the node takes a hundred bytes on average; those of these slots do not.
        assert_eq!(found(IDS[1], 5_000, "memory").0, Severity::Ok);
        for target in [IDS[1], "failed-over"] {
            let (severity, text) = found(target, 10_000_000, "memory");
            assert!(severity == Severity::Blocker && text.contains("10000000 to come"), "{text}");
        }
    }
}
