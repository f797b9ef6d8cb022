//! PURE. Slots that stand open and that no plan moves: what would finish them, and which of them nobody can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::plan_of;
use crate::cluster::{OpenMark, Slot};
use crate::migrate::SlotSet;
use crate::migrate::inventory::{Inventory, Told, short};
use crate::migrate::plan::BatchKind;
use crate::migrate::record::{Mode, Plan, PlanBatch};

/// All slots that stand open.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenSlots {
    /// Finishes those that can be finished.
    pub plan: Plan,
    /// The others.
    pub left: Vec<Left>,
}

/// A slot that stands open and cannot be finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub slot: Slot,
    /// And what to do about it.
    pub why: String,
}

/// What would finish all slots that stand open, whoever has opened them. `shards` are members of shards as far as earlier plans knew
/// them: of a master that is gone the cluster itself does not tell who replicated it.
pub fn of_open_slots(inventory: &Inventory, shards: &[BTreeSet<String>], asked: &str) -> OpenSlots {
    let seeing = Seeing { inventory, shards, owners: inventory.owners() };
    let mut marks: BTreeMap<Slot, Vec<(Arc<str>, OpenMark)>> = BTreeMap::new();
    for open in inventory.open_slots() {
        let (OpenMark::Migrating { slot, .. } | OpenMark::Importing { slot, .. }) = open.mark;
        marks.entry(slot).or_default().push((open.holder, open.mark));
    }
    let mut pairs: BTreeMap<(String, String), SlotSet> = BTreeMap::new();
    let mut successors: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut left = Vec::new();
    for (slot, marks) in marks {
        match seeing.ends(slot, &marks) {
            Err(why) => left.push(Left { slot, why }),
            Ok(Ends { source, target, named }) => {
                for (was, is) in named {
                    successors.entry(is).or_default().insert(was);
                }
                pairs.entry((source.to_string(), target.to_string())).or_default().insert(slot);
            }
        }
    }
    let count = |id: &str, slot: Slot| {
        inventory.told(id).and_then(|told| told.keys.as_ref()).map_or(0, |keys| u64::from(keys[slot.index()]))
    };
    let batch = |((source, target), slots): ((String, String), SlotSet)| {
        let keys = slots.iter().map(|slot| count(&source, slot)).sum();
        PlanBatch { kind: BatchKind::Ordinary, mode: Mode::Classic, keys, bytes: 0, source, target, slots }
    };
    let mut plan = plan_of(inventory, asked.to_owned(), pairs.into_iter().map(batch).collect());
    for (is, were) in successors {
        // Marks that name them are this shard's.
        plan.shards.entry(is).or_default().extend(were);
    }
    OpenSlots { plan, left }
}

struct Ends {
    source: Arc<str>,
    target: Arc<str>,
    /// Who a mark or its holder is, and who is the master in its place now.
    named: Vec<(String, String)>,
}

struct Seeing<'a> {
    inventory: &'a Inventory,
    shards: &'a [BTreeSet<String>],
    owners: Vec<Option<Arc<str>>>,
}

impl Seeing<'_> {
    /// Between which masters a slot stands open, as all its marks say.
    fn ends(&self, slot: Slot, marks: &[(Arc<str>, OpenMark)]) -> Result<Ends, String> {
        let mut found: BTreeSet<(Arc<str>, Arc<str>)> = BTreeSet::new();
        let mut named = Vec::new();
        for (holder, mark) in marks {
            let close =
                || format!("or CLUSTER SETSLOT {slot} STABLE on {} if nothing that it holds of it is needed", short(holder));
            let mut present = |id: &Arc<str>, by_owner: bool| {
                let now = self.present(id, slot, holder, by_owner).ok_or_else(|| {
                    let gone = format!("{} is no living master, and nobody knows who took its place", short(id));
                    format!("{gone}: bring it back, {}", close())
                })?;
                named.push((id.to_string(), now.to_string()));
                Ok::<_, String>(now)
            };
            let (source, target) = match mark {
                OpenMark::Migrating { to, .. } => (present(holder, false)?, present(to, false)?),
                OpenMark::Importing { from, .. } => (present(from, true)?, present(holder, false)?),
            };
            if source == target {
                return Err(format!(
                    "{} holds a mark on it that leads nowhere: it was both ends; {}",
                    short(holder),
                    &close()[3..]
                ));
            }
            found.insert((source, target));
        }
        named.retain(|(was, is)| was != is);
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some((source, target)), None) => Ok(Ends { source, target, named }),
            _ => Err("its marks name different ends: look at PROXY SLOT, and CLUSTER SETSLOT the wrong ones STABLE".into()),
        }
    }

    /// The master that a node is, or that stands in its place. `by_owner`: it had the slot.
    fn present(&self, id: &Arc<str>, slot: Slot, holder: &Arc<str>, by_owner: bool) -> Option<Arc<str>> {
        let is_master = |id: &str| self.inventory.told(id).is_some_and(Told::is_master);
        if is_master(id) {
            return Some(id.clone());
        }
        // It may have come back as a replica; of one that is down the others know.
        let views = self.inventory.answers().flat_map(|(_, told)| &told.view.nodes);
        let own = self.inventory.told(id).and_then(|told| told.myself().master.clone());
        let followed = own.or_else(|| views.filter(|node| node.id == *id).find_map(|node| node.master.clone()));
        if let Some(master) = followed.filter(|master| is_master(master)) {
            return Some(master);
        }
        let epoch = |id: &str| self.inventory.told(id).map_or(0, |told| told.myself().epoch);
        let members = self.shards.iter().filter(|shard| shard.contains(&**id)).flatten();
        if let Some(member) = members.filter(|member| is_master(member)).max_by_key(|member| epoch(member)) {
            return Some(member.as_str().into());
        }
        // The slot went with the shard.
        self.owners[slot.index()].clone().filter(|owner| by_owner && owner != holder && owner != id && is_master(owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Addr;
    use crate::migrate::inventory::NodeReport;
    use crate::migrate::preflight::tests::{IDS, told};

    const GONE: &str = "dddddddd";

    /// The plan's pairs and what is left of a cluster of three with these marks: holder, slot, other end; `>` gives, `<` takes.
    fn found(marks: &[(usize, u16, char, &str)], shards: &[&[&str]]) -> (Vec<String>, Vec<(usize, String)>, Plan) {
        let node = |me: usize| {
            let mut told = told(me);
            let myself = told.view.nodes.iter_mut().find(|node| node.flags.myself).expect("it tells of itself");
            for (_, slot, way, other) in marks.iter().filter(|mark| mark.0 == me) {
                let slot = Slot::new(*slot).expect("a slot");
                myself.open.push(match way {
                    '>' => OpenMark::Migrating { slot, to: (*other).into() },
                    _ => OpenMark::Importing { slot, from: (*other).into() },
                });
            }
            NodeReport { id: IDS[me].into(), addr: Addr::new("127.0.0.1", 7000 + me as u16), told: Ok(Box::new(told)) }
        };
        let inventory = Inventory { nodes: (0..3).map(node).collect() };
        let shards: Vec<BTreeSet<String>> = shards.iter().map(|shard| shard.iter().map(|id| id.to_string()).collect()).collect();
        let open = of_open_slots(&inventory, &shards, "REPAIR");
        let pairs = open.plan.pairs();
        let pairs = pairs.iter().map(|pair| format!("{} {} {}", pair.slots, &pair.source[..1], &pair.target[..1])).collect();
        (pairs, open.left.into_iter().map(|left| (left.slot.index(), left.why)).collect(), open.plan)
    }

    #[test]
    fn marks_say_what_is_to_be_finished() {
        let [a, b, c] = IDS;
        let marks = [(0, 5, '>', b), (1, 5, '<', a), (1, 6, '<', a), (0, 7, '>', c)];
        let (pairs, left, _) = found(&marks, &[]);
        assert_eq!((pairs, left), (vec!["5-6 a b".to_owned(), "7 a c".to_owned()], vec![]));
        let (pairs, left, _) = found(&[(0, 5, '>', b), (2, 5, '<', a)], &[]);
        assert_eq!(pairs, Vec::<String>::new());
        assert!(matches!(&left[..], [(5, why)] if why.contains("different ends")), "{left:?}");
    }

    #[test]
    fn a_failover_leaves_marks_that_name_the_dead() {
        let a = IDS[0];
        // The receiver names the source's former master: the slot went to who took its place.
        let (pairs, left, plan) = found(&[(1, 5, '<', GONE)], &[]);
        assert_eq!((pairs, left), (vec!["5 a b".to_owned()], vec![]));
        assert!(plan.shards[a].contains(GONE), "or its mark would be a stranger's");
        // Of the receiver's former master only an earlier plan can tell.
        let (pairs, left, _) = found(&[(0, 5, '>', GONE)], &[&[GONE, IDS[1]]]);
        assert_eq!((pairs, left), (vec!["5 a b".to_owned()], vec![]));
        let (pairs, left, _) = found(&[(0, 5, '>', GONE), (0, 6, '>', IDS[1])], &[&[GONE, "eeeeeeee"]]);
        assert_eq!(pairs, ["6 a b"], "what can be finished is");
        assert!(matches!(&left[..], [(5, why)] if why.contains("SETSLOT 5 STABLE on aaaaaaaa")), "{left:?}");
        // The receiver owns it already, and waits for nobody.
        let (pairs, left, _) = found(&[(0, 5, '<', GONE)], &[]);
        assert!(pairs.is_empty() && left.len() == 1, "{pairs:?} {left:?}");
    }
}
