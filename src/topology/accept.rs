//! Whether to believe what the nodes said. Pure: maps and views in, a judgement out.
//!
//! Time only moves forward in a cluster: config epochs rise and slots change hands, so a candidate map that gives a slot
//! to an older epoch than the current map does, or to nobody, is more likely one stale node's memory than news. It is
//! believed when more than half of the masters that own slots in the current map say the same, which is what the cluster
//! itself takes for the truth. A cluster that shares no node with the one served so far is another cluster.

use std::fmt;

use rustc_hash::FxHashMap;

use crate::cluster::{AskedView, SLOT_COUNT, Slot, SlotMap};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judgement {
    Accept,
    Refuse(Reason),
    /// To be asked again of every master; until then the current map stands.
    NeedMajority(Doubt),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// No slot has an owner: a node that belongs to no cluster yet.
    NoSlots,
    /// It shares no node with the current map.
    Foreign,
}

/// What is doubtful, and who stands up for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Doubt {
    /// Slots that had an owner and now have none.
    pub lost: usize,
    /// Slots whose owner has a lower epoch than their owner in the current map.
    pub lowered: usize,
    /// Masters that own slots in the current map.
    pub masters: usize,
    /// Those of them that answered and say the same of every doubtful slot.
    pub agreeing: usize,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NoSlots => "it names no owner for any slot",
            Reason::Foreign => "it shares no node with the cluster served so far",
        })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Doubt { lost, lowered, masters, agreeing } = self;
        write!(
            f,
            "it takes the owner of {lost} slots away and puts {lowered} back to an older epoch, which {agreeing} of {masters} masters confirm"
        )
    }
}

/// Judges the map that `views` were merged into. Without a current map everything that owns a slot is believed.
pub(super) fn judge(current: Option<&SlotMap>, candidate: &SlotMap, views: &[AskedView]) -> Judgement {
    if candidate.covered() == 0 {
        return Judgement::Refuse(Reason::NoSlots);
    }
    let Some(current) = current else { return Judgement::Accept };
    if candidate.nodes.iter().all(|node| current.find_id(&node.id).is_none()) {
        return Judgement::Refuse(Reason::Foreign);
    }
    let (lost, lowered) = regressions(current, candidate);
    if lost.is_empty() && lowered.is_empty() {
        return Judgement::Accept;
    }
    let voters: Vec<&str> =
        current.masters().filter(|&node| current.ranges(node).next().is_some()).map(|node| &*current.node(node).id).collect();
    let indexes: FxHashMap<&str, u16> = candidate.indexes().map(|index| (&*candidate.node(index).id, index)).collect();
    let agrees = |voter: &&&str| {
        let own = views.iter().find(|asked| *asked.view.myself().id == ***voter);
        own.map(|asked| owners_in_view(asked, &indexes))
            .is_some_and(|owners| lost.iter().chain(&lowered).all(|&slot| owners[slot.index()] == candidate.owner(slot)))
    };
    let agreeing = voters.iter().filter(agrees).count();
    match agreeing * 2 > voters.len() {
        true => Judgement::Accept,
        false => Judgement::NeedMajority(Doubt { lost: lost.len(), lowered: lowered.len(), masters: voters.len(), agreeing }),
    }
}

/// Whether a view is of another cluster: it names none of the nodes of the current map. Such a view must not even be merged.
pub(super) fn is_foreign(current: &SlotMap, asked: &AskedView) -> bool {
    asked.view.nodes.iter().all(|node| current.find_id(&node.id).is_none())
}

/// The slots that the candidate leaves without an owner, and those it puts back to an older epoch.
fn regressions(current: &SlotMap, candidate: &SlotMap) -> (Vec<Slot>, Vec<Slot>) {
    let (mut lost, mut lowered) = (Vec::new(), Vec::new());
    for slot in Slot::all() {
        let Some(before) = current.owner(slot) else { continue };
        match candidate.owner(slot) {
            None => lost.push(slot),
            Some(after) if candidate.node(after).epoch < current.node(before).epoch => lowered.push(slot),
            Some(_) => {}
        }
    }
    (lost, lowered)
}

/// Who owns each slot according to one view, as the candidate's indexes; a node that the candidate leaves out owns nothing.
fn owners_in_view(asked: &AskedView, indexes: &FxHashMap<&str, u16>) -> Vec<Option<u16>> {
    let mut owners = vec![None; SLOT_COUNT];
    for node in &asked.view.nodes {
        let index = indexes.get(&*node.id).copied();
        for (first, last) in &node.slots {
            owners[first.index()..=last.index()].fill(index);
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Addr, AddressMap, NodesView, Persona, Stamp, merge};

    /// The view of `myself` in a cluster of masters, each `(id, epoch, slots)`.
    fn view(myself: &str, nodes: &[(&str, u64, &str)]) -> AskedView {
        let lines = nodes.iter().zip(1..).map(|((id, epoch, slots), port)| {
            let me = if *id == myself { "myself," } else { "" };
            format!("{id} h:{port}@1 {me}master - 0 0 {epoch} connected {slots}")
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        AskedView { asked: Addr::new("h", 1), view: NodesView::parse(text.as_bytes()).expect("the table holds views") }
    }

    fn map(views: &[AskedView]) -> SlotMap {
        let stamp = Stamp { version: 1, asked_at_us: 0, persona: Persona::default(), default_locked: false };
        merge(views, &AddressMap::default(), stamp, |_| false)
    }

    const CURRENT: &[(&str, u64, &str)] = &[("a", 1, "0-9"), ("b", 5, "10-19"), ("c", 3, "20-29")];

    fn doubt(lost: usize, lowered: usize, agreeing: usize) -> Judgement {
        Judgement::NeedMajority(Doubt { lost, lowered, masters: 3, agreeing })
    }

    #[test]
    fn one_view_against_the_current_map() {
        fn check(what: &str, says: AskedView, expected: Judgement) {
            let current = map(&[view("a", CURRENT)]);
            let candidate = map(std::slice::from_ref(&says));
            assert_eq!(judge(Some(&current), &candidate, &[says]), expected, "{what}");
        }
        check("the same", view("b", CURRENT), Judgement::Accept);
        check("b was replaced by d", view("a", &[("a", 1, "0-9"), ("c", 3, "20-29"), ("d", 6, "10-19")]), Judgement::Accept);
        check("a slot moved", view("a", &[("a", 6, "0-10"), ("b", 5, "11-19"), ("c", 3, "20-29")]), Judgement::Accept);
        check("more slots", view("a", &[("a", 1, "0-9 30"), ("b", 5, "10-19"), ("c", 3, "20-29")]), Judgement::Accept);
        check(
            "a new, empty master",
            view("a", &[("a", 1, "0-9"), ("b", 5, "10-19"), ("c", 3, "20-29"), ("d", 0, "")]),
            Judgement::Accept,
        );
        check("b's slots lost", view("a", &[("a", 1, "0-9"), ("b", 5, ""), ("c", 3, "20-29")]), doubt(10, 0, 1));
        check(
            "a remembers itself as owner of b's",
            view("a", &[("a", 1, "0-19"), ("b", 5, ""), ("c", 3, "20-29")]),
            doubt(0, 10, 1),
        );
        check("b's epoch of old", view("c", &[("a", 1, "0-9"), ("b", 4, "10-19"), ("c", 3, "20-29")]), doubt(0, 10, 1));
        check("both", view("c", &[("a", 1, "0-9"), ("b", 4, "10-14"), ("c", 3, "20-29")]), doubt(5, 5, 1));
        check("nobody owns anything", view("a", &[("a", 1, ""), ("b", 5, "")]), Judgement::Refuse(Reason::NoSlots));
        check("another cluster", view("x", &[("x", 9, "0-16383")]), Judgement::Refuse(Reason::Foreign));
        check("one node in common", view("c", &[("c", 9, "0-29"), ("x", 10, "30-99")]), Judgement::Accept);
    }

    #[test]
    fn the_first_map() {
        fn check(what: &str, says: AskedView, expected: Judgement) {
            assert_eq!(judge(None, &map(std::slice::from_ref(&says)), &[says]), expected, "{what}");
        }
        check("one slot is enough", view("a", &[("a", 0, "7")]), Judgement::Accept);
        check("none is not", view("a", &[("a", 0, "")]), Judgement::Refuse(Reason::NoSlots));
    }

    /// Every way in which the three masters of the current map can be silent, hold on to it, or say that b's slots are
    /// lost, or a's again (of old). What is doubtful is believed when two of them say it.
    #[test]
    fn majorities() {
        #[derive(Clone, Copy, PartialEq, Debug)]
        enum Says {
            Nothing,
            Current,
            Lost,
            Lowered,
        }
        let all = [Says::Nothing, Says::Current, Says::Lost, Says::Lowered];
        let current = map(&[view("a", CURRENT)]);
        for a in all {
            for b in all {
                for c in all {
                    let said = [("a", a), ("b", b), ("c", c)];
                    let views: Vec<AskedView> = said
                        .iter()
                        .filter_map(|(id, says)| match says {
                            Says::Nothing => None,
                            Says::Current => Some(view(id, CURRENT)),
                            Says::Lost => Some(view(id, &[("a", 1, "0-9"), ("b", 5, ""), ("c", 3, "20-29")])),
                            Says::Lowered => Some(view(id, &[("a", 1, "0-19"), ("b", 5, ""), ("c", 3, "20-29")])),
                        })
                        .collect();
                    let candidate = map(&views);
                    let found = judge(Some(&current), &candidate, &views);
                    let count = |wanted| said.iter().filter(|(_, says)| *says == wanted).count();
                    let owner = candidate.owner(Slot::new(10).expect("a slot"));
                    let expected = match owner.map(|owner| &*candidate.node(owner).id) {
                        _ if views.is_empty() => Judgement::Refuse(Reason::NoSlots),
                        Some("b") => Judgement::Accept,
                        Some(_) if count(Says::Lowered) >= 2 => Judgement::Accept,
                        Some(_) => doubt(0, 10, count(Says::Lowered)),
                        None if count(Says::Lost) >= 2 => Judgement::Accept,
                        None => doubt(10, 0, count(Says::Lost)),
                    };
                    assert_eq!(found, expected, "{said:?}");
                }
            }
        }
    }

    #[test]
    fn foreign_views() {
        let current = map(&[view("a", CURRENT)]);
        assert!(!is_foreign(&current, &view("x", &[("x", 9, "0-16383"), ("c", 1, "")])));
        assert!(is_foreign(&current, &view("x", &[("x", 9, "0-16383"), ("y", 1, "")])));
    }
}
