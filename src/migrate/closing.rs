//! PURE. Which slots of a plan stand open, before it may be said that none does: that a mark was not seen says nothing while the node that
//! would hold it does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::SlotSet;
use super::inventory::{Inventory, Open, Told, short};
use super::record::Plan;
use crate::cluster::{OpenMark, Slot};

/// Which way a slot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Back,
}

/// The slots of the plan that stand open, each with its way. `begun` are those that the record takes for open: when their marks are gone,
/// keys at the wrong end tell. The error: why it cannot be known just now. The inventory is one with keys.
pub fn open_slots(inventory: &Inventory, plan: &Plan, begun: &SlotSet) -> Result<BTreeMap<Slot, Direction>, String> {
    let mut ends = BTreeMap::new();
    for id in plan.nodes() {
        ends.insert(id, end(inventory, plan, id)?);
    }
    let mut open: BTreeMap<Slot, Direction> = BTreeMap::new();
    for mark in inventory.open_slots().iter().filter(|mark| inventory.told(&mark.holder).is_some_and(Told::is_master)) {
        let (slot, from, _) = from_and_to(mark);
        let Some(batch) = plan.batch_of(slot) else { continue };
        let goes_back = members(plan, &batch.target).contains(&*from);
        open.insert(slot, if goes_back { Direction::Back } else { Direction::Forward });
    }
    let owners = inventory.owners();
    let differ: SlotSet = inventory.disagreements().into_iter().map(|each| each.slot).collect();
    for slot in begun.iter().filter(|slot| !open.contains_key(slot)).collect::<Vec<_>>() {
        let Some(batch) = plan.batch_of(slot) else { continue };
        if differ.contains(slot) {
            return Err(format!("the nodes name different owners of slot {slot}"));
        }
        let owner = owners[slot.index()].as_deref().unwrap_or_default();
        let other = if members(plan, &batch.target).contains(owner) { &batch.source } else { &batch.target };
        let kept = ends.get(other.as_str()).copied().flatten().and_then(|told| told.keys.as_ref()?.get(slot.index()));
        if kept.is_some_and(|keys| *keys > 0) {
            open.insert(slot, Direction::Forward);
        }
    }
    Ok(open)
}

/// The master of an end's shard. None for one that has nothing to tell any more: it follows another node, or nobody knows it.
fn end<'a>(inventory: &'a Inventory, plan: &Plan, id: &str) -> Result<Option<&'a Told>, String> {
    let members = members(plan, id);
    if let Some((_, told)) = inventory.masters().find(|(node, _)| members.contains(&*node.id)) {
        return match told.jobs.first() {
            Some(job) => Err(format!("an atomic migration is still running at {}: {job}", short(id))),
            None => Ok(Some(told)),
        };
    }
    // A source that has given its last slot away may have become the target's replica.
    let follows = |told: &Told| told.myself().master.as_ref().is_some_and(|of| !members.contains(&**of));
    let is_known = |told: &Told| told.view.nodes.iter().any(|node| members.contains(&*node.id));
    if inventory.told(id).is_some_and(follows) || !inventory.answers().any(|(_, told)| is_known(told)) {
        return Ok(None);
    }
    Err(format!("no master of {}'s shard answers: start it, fail it over, or let every node CLUSTER FORGET it", short(id)))
}

fn members<'a>(plan: &'a Plan, id: &'a str) -> BTreeSet<&'a str> {
    plan.shards.get(id).into_iter().flatten().map(String::as_str).chain([id]).collect()
}

/// The slot that a mark stands for, and the nodes that it goes from and to.
pub fn from_and_to(open: &Open) -> (Slot, Arc<str>, Arc<str>) {
    match &open.mark {
        OpenMark::Migrating { slot, to } => (*slot, open.holder.clone(), to.clone()),
        OpenMark::Importing { slot, from } => (*slot, from.clone(), open.holder.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Addr, NodesView};
    use crate::migrate::inventory::NodeReport;
    use crate::migrate::plan::BatchKind;
    use crate::migrate::preflight::tests::{IDS, told};
    use crate::migrate::record::tests::{batch, plan};

    /// What is found of slots 5 to 8 on their way from the first node to the second, 5 to 7 begun, after `change`.
    fn found(change: impl Fn(usize, &mut Told)) -> Result<String, String> {
        let node = |me: usize| {
            let mut told = told(me);
            change(me, &mut told);
            let silent = told.server.version.0 == 0;
            let told = if silent { Err("timed out".to_owned()) } else { Ok(Box::new(told)) };
            NodeReport { id: IDS[me].into(), addr: Addr::new("127.0.0.1", 7000 + me as u16), told }
        };
        let inventory = Inventory { nodes: (0..3).map(node).collect() };
        let plan = plan(vec![batch(BatchKind::Ordinary, IDS[0], IDS[1], "5-8", 1, 1)]);
        let open = open_slots(&inventory, &plan, &SlotSet::parse("5-7").expect("slots"))?;
        Ok(open.iter().map(|(slot, direction)| format!("{slot} {direction:?}")).collect::<Vec<_>>().join(", "))
    }

    /// Changes the node's own lines in what it tells of all.
    fn rewrite(told: &mut Told, change: impl Fn(&str) -> String) {
        let line = |node: &crate::cluster::NodeFacts| {
            let myself = if node.flags.myself { "myself," } else { "" };
            let ranges: Vec<String> = node.slots.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            let ranges = ranges.join(" ");
            format!("{} 127.0.0.1:{}@1 {myself}master - 0 0 {} connected {ranges}", node.id, node.port, node.epoch)
        };
        let text: String = told.view.nodes.iter().map(|node| change(&line(node)) + "\n").collect();
        told.view = NodesView::parse(text.as_bytes()).expect("the test's own text");
    }

    fn mark(told: &mut Told, mark: &str) {
        rewrite(told, |line| if line.contains("myself") { format!("{line} {mark}") } else { line.to_owned() });
    }

    #[test]
    fn what_stands_open() {
        assert_eq!(found(|_, _| {}), Ok(String::new()), "begun by the record, and untouched");
        let source_marked = |me, told: &mut Told| {
            if me == 0 {
                mark(told, &format!("[6->-{}]", IDS[1]))
            }
        };
        assert_eq!(found(source_marked), Ok("6 Forward".into()));
        let target_marked = |me, told: &mut Told| {
            if me == 1 {
                mark(told, &format!("[8-<-{}]", IDS[0]))
            }
        };
        assert_eq!(found(target_marked), Ok("8 Forward".into()));
        let back = |me, told: &mut Told| {
            if me == 0 {
                mark(told, &format!("[7-<-{}]", IDS[1]))
            }
        };
        assert_eq!(found(back), Ok("7 Back".into()));
        // A failover has wiped the marks out.
        let stray = |slot: usize| {
            move |me, told: &mut Told| {
                if let (1, Some(keys)) = (me, &mut told.keys) {
                    keys[slot] = 1;
                }
            }
        };
        assert_eq!(found(stray(6)), Ok("6 Forward".into()));
        assert_eq!(found(stray(8)), Ok(String::new()), "not this plan's");
    }

    #[test]
    fn what_was_not_seen_is_not_closed() {
        let silent = |who: usize| {
            move |me, told: &mut Told| {
                if me == who {
                    told.server.version = (0, 0, 0);
                }
            }
        };
        for end in [0, 1] {
            let why = found(silent(end)).expect_err("an end does not answer");
            assert!(why.starts_with(&format!("no master of {}'s shard answers", IDS[end])), "{why}");
        }
        assert_eq!(found(silent(2)), Ok(String::new()), "no end of this plan");
        // One that every node has forgotten has nothing to say.
        let forgotten = |me, told: &mut Told| match me {
            1 => told.server.version = (0, 0, 0),
            _ => rewrite(told, |line| if line.starts_with(IDS[1]) { String::new() } else { line.to_owned() }),
        };
        assert_eq!(found(forgotten), Ok(String::new()));
        // Nor has a source that follows the target.
        let follows = |me: usize, told: &mut Told| {
            let myself = if me == 0 { "myself," } else { "" };
            rewrite(told, |line| match line.split_once(' ') {
                Some((id, _)) if id == IDS[0] => format!("{id} 127.0.0.1:7000@1 {myself}slave {} 0 0 1 connected", IDS[1]),
                Some((id, _)) if id == IDS[1] => line.replace("5461-10922", "0-10922"),
                _ => line.to_owned(),
            });
        };
        assert_eq!(found(follows), Ok(String::new()));
        let job = |me, told: &mut Told| {
            if me == 0 {
                told.jobs.push("EXPORT of 5-8 is snapshotting".into());
            }
        };
        let why = found(job).expect_err("a job runs");
        assert!(why.contains("EXPORT of 5-8 is snapshotting"), "{why}");
        let differ = |me, told: &mut Told| {
            if me == 2 {
                rewrite(told, |line| line.replace("0-5460", "0-5 7-5460").replace("5461-10922", "6-6 5461-10922"));
            }
        };
        let why = found(differ).expect_err("one node has heard of an owner");
        assert_eq!(why, "the nodes name different owners of slot 6");
    }
}
