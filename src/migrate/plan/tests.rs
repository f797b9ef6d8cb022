use proptest::prelude::*;

use super::*;
use crate::cluster::{Addr, SLOT_COUNT};

/// A cluster of `owners.len()` nodes in which node i owns the slots of `owners[i]`, each with as many keys as `keys` says.
fn layout(owners: &[&str], keys: impl Fn(usize) -> u64) -> Layout {
    let places = (0..owners.len())
        .map(|node| Place { id: format!("{node:040}").into(), addr: Addr::new("127.0.0.1", 7000 + node as u16) });
    let mut owner = vec![None; SLOT_COUNT];
    for (node, text) in owners.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        for slot in SlotSet::parse(text).expect("the test's own slots").iter() {
            owner[slot.index()] = Some(node as u16);
        }
    }
    let keys: Vec<u64> = (0..SLOT_COUNT).map(keys).collect();
    let bytes = keys.iter().map(|keys| keys * 100).collect();
    Layout::new(places.collect(), owner, keys, bytes, None)
}

const THREE: [&str; 3] = ["0-5460", "5461-10922", "10923-16383"];

fn by(by: Measure) -> Goal {
    Goal::Rebalance { by, weights: Vec::new(), tolerance: 0.02 }
}

/// Loads of all nodes after the moves, and how many slots each moved slot's source had given it up for.
fn after(layout: &Layout, moves: &[Move], measure: Measure) -> Vec<u64> {
    let mut loads: Vec<u64> =
        (0..layout.places.len()).map(|node| layout.slots_of(node).map(|slot| layout.weight(measure, slot)).sum()).collect();
    for each in moves {
        for slot in &each.slots {
            assert_eq!(layout.owner(*slot), Some(each.source), "slot {slot} moves from who owns it");
            loads[each.source] -= layout.weight(measure, *slot);
            loads[each.target] += layout.weight(measure, *slot);
        }
    }
    loads
}

fn shown(moves: &[Move]) -> Vec<(usize, usize, String)> {
    let set = |slots: &[Slot]| slots.iter().copied().collect::<SlotSet>().to_string();
    moves.iter().map(|each| (each.source, each.target, set(&each.slots))).collect()
}

#[track_caller]
fn check(owners: &[&str], keys: impl Fn(usize) -> u64, goal: &Goal, expected: Result<&[(usize, usize, &str)], NoPlan>) {
    let found = plan(&layout(owners, keys), goal).map(|moves| shown(&moves));
    let expected =
        expected.map(|moves| moves.iter().map(|(from, to, slots)| (*from, *to, (*slots).to_owned())).collect::<Vec<_>>());
    assert_eq!(found, expected, "{owners:?} {goal:?}");
}

#[test]
fn a_balanced_cluster_is_left_alone() {
    check(&THREE, |_| 0, &by(Measure::Slots), Ok(&[]));
    check(&THREE, |_| 10, &by(Measure::Keys), Ok(&[]));
    // 2 % off is near enough.
    check(&["0-5400", "5401-10922", "10923-16383"], |_| 0, &by(Measure::Slots), Ok(&[]));
}

#[test]
fn an_empty_master_gets_an_even_part_in_few_ranges() {
    let four = ["0-5460", "5461-10922", "10923-16383", ""];
    check(&four, |_| 0, &by(Measure::Slots), Ok(&[(0, 3, "4096-5460"), (1, 3, "9557-10922"), (2, 3, "10923-12287")]));
    check(
        &four,
        |_| 0,
        &Goal::Fill { node: 3, share: None },
        Ok(&[(0, 3, "4096-5460"), (1, 3, "9557-10922"), (2, 3, "10923-12287")]),
    );
}

#[test]
fn a_drained_node_keeps_nothing() {
    let goal = Goal::Drain { node: 1 };
    let before = layout(&THREE, |_| 0);
    let moves = plan(&before, &goal).expect("a plan");
    assert_eq!(after(&before, &moves, Measure::Slots), [8192, 0, 8192]);
    assert_eq!(shown(&moves), [(1, 0, "5461-8191".to_owned()), (1, 2, "8192-10922".to_owned())], "ranges go on");
    let heavy = layout(&THREE, |slot| if slot % 7 == 0 { 1000 } else { 1 });
    let moves = plan(&heavy, &goal).expect("a plan");
    let loads = after(&heavy, &moves, Measure::Keys);
    assert_eq!((loads[1], after(&heavy, &moves, Measure::Slots)[1]), (0, 0));
    assert!(loads[0].abs_diff(loads[2]) < 1500, "{loads:?}");
}

#[test]
fn weights_are_parts() {
    let goal = Goal::Rebalance { by: Measure::Slots, weights: vec![(0, 2.0), (2, 0.0)], tolerance: 0.02 };
    let before = layout(&THREE, |_| 0);
    let moves = plan(&before, &goal).expect("a plan");
    assert_eq!(after(&before, &moves, Measure::Slots), [10923, 5461, 0]);
}

#[test]
fn what_cannot_be_planned_is_told() {
    let set = |text| SlotSet::parse(text).expect("the test's own slots");
    let goal = |slots, from, to| Goal::Move { slots: set(slots), from, to };
    let id = |node: usize| format!("{node:040}").into();
    check(&THREE, |_| 0, &goal("5-7", 0, 1), Ok(&[(0, 1, "5-7")]));
    check(&THREE, |_| 0, &goal("5-7", 1, 1), Err(NoPlan::SameNode(id(1))));
    check(&THREE, |_| 0, &goal("5460-5462", 0, 1), Err(NoPlan::NotOwned { node: id(0), found: set("5461-5462") }));
    check(&["0-100"], |_| 0, &goal("1", 0, 0), Err(NoPlan::Unowned(set("101-16383"))));
    check(&["0-16383"], |_| 0, &Goal::Drain { node: 0 }, Err(NoPlan::NobodyElse));
    check(&THREE, |_| 0, &Goal::Fill { node: 0, share: Some(1.5) }, Err(NoPlan::Share(150.0)));
    check(&THREE, |_| 0, &by(Measure::Cpu), Err(NoPlan::NoCpu));
    let nobody = Goal::Rebalance { by: Measure::Slots, weights: vec![(0, 0.0), (1, 0.0), (2, 0.0)], tolerance: 0.0 };
    check(&THREE, |_| 0, &nobody, Err(NoPlan::NoWeight));
}

#[test]
fn probes_come_first_and_batches_keep_their_limits() {
    let layout = layout(&THREE, |slot| match slot {
        0..10 => 0,
        10 => 3,
        500 => 5_000,
        _ => 10,
    });
    let moves = plan(&layout, &Goal::Move { slots: SlotSet::parse("0-999").expect("slots"), from: 0, to: 1 }).expect("a plan");
    let limits = BatchLimits { slots: 100, keys: 700, bytes: u64::MAX };
    let batches = batches(&layout, &moves, limits, Canary::Slots(5));
    let kinds: Vec<BatchKind> = batches.iter().map(|batch| batch.kind).collect();
    assert_eq!(kinds[..2], [BatchKind::Probe, BatchKind::Canary]);
    assert_eq!(kinds.last(), Some(&BatchKind::Heavy));
    assert_eq!(batches[0].slots, [Slot::new(10).expect("a slot")], "the lightest that holds anything");
    assert_eq!(batches[1].slots.len(), 4, "with the probe they are five");
    for batch in &batches[2..batches.len() - 1] {
        let keys: u64 = batch.slots.iter().map(|slot| layout.keys[slot.index()]).sum();
        assert!(batch.slots.len() <= 100 && keys <= 700, "{} slots, {keys} keys", batch.slots.len());
    }
    let mut all: Vec<Slot> = batches.into_iter().flat_map(|batch| batch.slots).collect();
    all.sort();
    assert_eq!(all, moves[0].slots, "every slot once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the cluster looks like: nobody gives and takes, every slot moves once at most, nobody is further off than before, and
    /// who was near enough is not moved away from its part by more than one slot.
    #[test]
    fn rebalancing_never_makes_it_worse(
        cuts in proptest::collection::vec(0usize..SLOT_COUNT, 1..6),
        seed in 0u64..1000,
        measure in prop_oneof![Just(Measure::Slots), Just(Measure::Keys), Just(Measure::Bytes)],
    ) {
        let mut cuts = cuts;
        cuts.extend([0, SLOT_COUNT]);
        cuts.sort();
        let texts: Vec<String> = cuts.windows(2)
            .map(|pair| if pair[0] < pair[1] { format!("{}-{}", pair[0], pair[1] - 1) } else { String::new() })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let layout = layout(&texts, |slot| (slot as u64).wrapping_mul(2_654_435_761 + seed) >> 7 & 63);
        let moves = plan(&layout, &by(measure)).expect("a plan");
        let (before, after) = (after(&layout, &[], measure), after(&layout, &moves, measure));
        let even = before.iter().sum::<u64>() as f64 / before.len() as f64;
        for node in 0..before.len() {
            let gives = moves.iter().any(|each| each.source == node);
            let takes = moves.iter().any(|each| each.target == node);
            prop_assert!(!(gives && takes), "node {node} gives and takes: {:?}", shown(&moves));
            let off = |load: u64| (load as f64 - even).abs();
            prop_assert!(off(after[node]) <= off(before[node]).max(64.0), "{before:?} became {after:?}");
        }
        let slots: Vec<Slot> = moves.iter().flat_map(|each| each.slots.clone()).collect();
        prop_assert_eq!(slots.iter().copied().collect::<SlotSet>().len(), slots.len());
        prop_assert_eq!(shown(&moves), shown(&plan(&layout, &by(measure)).expect("a plan")), "the same input, the same plan");
        let spread = after.iter().max().unwrap_or(&0) - after.iter().min().unwrap_or(&0);
        let allowed = (even * 0.05) as u64 + 130;
        prop_assert!(moves.is_empty() || spread <= allowed, "{after:?}");
    }
}
