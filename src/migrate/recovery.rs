//! PURE. From what the nodes show of one slot to the next step of its classic migration.
//!
//! There is no other state than the slot's own: whoever looks, the driver in the middle of a move or another instance after a crash,
//! comes to the same step. Every combination of observed facts meets exactly one row.

/// Who owns the slot in a node's own view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Source,
    Target,
    /// A third node.
    Other,
    Nobody,
}

/// The mark that a node holds on the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    None,
    /// MIGRATING to the target, on the source; IMPORTING from the source, on the target.
    Ours,
    /// As ours, but it names the master that this shard had before a failover.
    Stale,
    /// Any other: somebody else moves this slot.
    Foreign,
}

/// One slot as its two ends show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Observed {
    pub owner_at_source: Owner,
    pub owner_at_target: Owner,
    pub source_mark: Mark,
    pub target_mark: Mark,
    /// Keys of the slot, in all databases.
    pub source_has_keys: bool,
    pub target_has_keys: bool,
    /// All other masters name the target.
    pub announced: bool,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `SETSLOT IMPORTING` on the target: first, so that whoever is sent there with ASK is served.
    OpenTarget,
    /// `SETSLOT MIGRATING` on the source: from now on its keys only become fewer.
    OpenSource,
    /// Move keys.
    Drain,
    /// `SETSLOT NODE` on the target, behind a guard that reads the source once more: this is the step that can lose keys.
    Own,
    /// `SETSLOT NODE` on the source, which clears its mark.
    Clear,
    /// `SETSLOT STABLE` on the target: its mark is left over.
    CloseTarget,
    /// `SETSLOT NODE` on the other masters.
    Announce,
    Done,
    Stop(Trouble),
}

/// Why nobody but an operator can say what is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Somebody else moves this slot.
    ForeignMark,
    /// Neither end owns it.
    ForeignOwner,
    /// The source holds keys of a slot that the target owns: nobody sees them.
    OrphansAtSource,
    /// The target holds keys though nobody has begun to move any: left over from an earlier attempt, or the marks were lost.
    StrayKeysAtTarget,
    /// The target imports the slot and holds keys of it, and the source does not know that it is open: it has served all keys since.
    SourceForgot,
    /// The source was started anew and has less than half of the keys that it had.
    SourceEmptied,
}

impl Trouble {
    /// In words, for a status and a log.
    pub fn reason(self) -> &'static str {
        match self {
            Trouble::ForeignMark => "somebody else is moving this slot: a mark of another migration stands on it",
            Trouble::ForeignOwner => "neither the source nor the target owns this slot any more",
            Trouble::OrphansAtSource => {
                "the source still holds keys of this slot, which the target owns already: they cannot be seen"
            }
            Trouble::StrayKeysAtTarget => "the target holds keys of this slot although it is not importing it",
            Trouble::SourceForgot => {
                "the target holds keys of this slot and the source has lost its mark, so that nobody can tell which copy of a key is the \
                 newer one; CLUSTER SETSLOT MIGRATING on the source lets its copies win"
            }
            Trouble::SourceEmptied => {
                "the source was started anew and has lost keys of this slot: those it had not handed over are gone, unless it can be started \
                 from a backup; RESUME goes on without them"
            }
        }
    }
}

/// What whoever looks knows of the slot beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    Nothing,
    /// This plan opened it, at this very source.
    Open,
    /// This plan opened it, and the source has failed over since: nobody was let to the new master.
    Held,
}

/// Whether a source that was started anew has lost keys: it should have `expected`, but for those that ended or were deleted meanwhile.
pub fn has_lost_keys(expected: u64, found: u64) -> bool {
    found < expected.div_ceil(2)
}

/// The table.
pub fn next(seen: Observed, known: Known) -> Step {
    use Owner::{Source, Target};
    if seen.source_mark == Mark::Foreign || seen.target_mark == Mark::Foreign {
        return Step::Stop(Trouble::ForeignMark);
    }
    match (seen.owner_at_source, seen.owner_at_target) {
        (Source, Source) => match (seen.target_mark, seen.source_mark) {
            (Mark::None, _) if seen.target_has_keys && known == Known::Nothing => Step::Stop(Trouble::StrayKeysAtTarget),
            // A source without its mark has answered nil for what had moved, and taken writes to it, unless nobody was let to it.
            (_, Mark::None) if seen.target_has_keys && known != Known::Held => Step::Stop(Trouble::SourceForgot),
            (Mark::None, _) => Step::OpenTarget,
            // On Redis 6.2 to 7.2 it counts the slot as missing and refuses everything: that must end first.
            (Mark::Stale, _) => Step::CloseTarget,
            (_, Mark::None | Mark::Stale) => Step::OpenSource,
            _ if seen.source_has_keys => Step::Drain,
            _ => Step::Own,
        },
        // Redis 6.2 to 7.2, when the source's shard has failed over: the target leaves the slot that it imports to nobody, counts it as
        // missing and refuses everything.
        (Source, Owner::Nobody) if seen.target_mark != Mark::None => Step::CloseTarget,
        // The target says that it is its own: what is missing is that the others hear of it.
        (Source, Target) if seen.source_has_keys => Step::Stop(Trouble::OrphansAtSource),
        (Source, Target) => Step::Clear,
        // The source gave it away and the target does not know: it answers MOVED to each other for ever, unless told.
        (Target, Source) if seen.source_has_keys => Step::Stop(Trouble::OrphansAtSource),
        (Target, Source) => Step::Own,
        (Target, Target) if seen.source_has_keys => Step::Stop(Trouble::OrphansAtSource),
        (Target, Target) if seen.source_mark != Mark::None => Step::Clear,
        (Target, Target) if seen.target_mark != Mark::None => Step::CloseTarget,
        (Target, Target) if !seen.announced => Step::Announce,
        (Target, Target) => Step::Done,
        _ => Step::Stop(Trouble::ForeignOwner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNERS: [Owner; 4] = [Owner::Source, Owner::Target, Owner::Other, Owner::Nobody];
    const MARKS: [Mark; 4] = [Mark::None, Mark::Ours, Mark::Stale, Mark::Foreign];

    fn all() -> impl Iterator<Item = (Observed, Known)> {
        let booleans = [false, true];
        OWNERS.into_iter().flat_map(move |owner_at_source| {
            OWNERS.into_iter().flat_map(move |owner_at_target| {
                MARKS.into_iter().flat_map(move |source_mark| {
                    MARKS.into_iter().flat_map(move |target_mark| {
                        (0..24u8).map(move |bits| {
                            let bit = |at: u8| booleans[usize::from(bits >> at & 1)];
                            let known = [Known::Nothing, Known::Open, Known::Held][usize::from(bits >> 3)];
                            let seen = Observed {
                                owner_at_source,
                                owner_at_target,
                                source_mark,
                                target_mark,
                                source_has_keys: bit(0),
                                target_has_keys: bit(1),
                                announced: bit(2),
                            };
                            (seen, known)
                        })
                    })
                })
            })
        })
    }

    /// What a node does when it is told a step, as far as this slot goes.
    fn carry_out(mut seen: Observed, step: Step) -> Observed {
        match step {
            Step::OpenTarget => seen.target_mark = Mark::Ours,
            Step::OpenSource => seen.source_mark = Mark::Ours,
            Step::Drain => (seen.source_has_keys, seen.target_has_keys) = (false, true),
            Step::Own => (seen.owner_at_target, seen.target_mark) = (Owner::Target, Mark::None),
            Step::Clear => (seen.owner_at_source, seen.source_mark) = (Owner::Target, Mark::None),
            Step::CloseTarget => seen.target_mark = Mark::None,
            Step::Announce => seen.announced = true,
            Step::Done | Step::Stop(_) => {}
        }
        seen
    }

    #[test]
    fn every_combination_ends_done_or_with_a_reason() {
        let (mut done, mut stopped) = (0, 0);
        for (first, known) in all() {
            let mut seen = first;
            let mut steps = Vec::new();
            loop {
                let step = next(seen, known);
                steps.push(step);
                match step {
                    Step::Done => break done += 1,
                    Step::Stop(_) => break stopped += 1,
                    _ => {}
                }
                assert!(steps.len() < 10, "{first:?} goes round in circles: {steps:?}");
                seen = carry_out(seen, step);
            }
        }
        assert_eq!(done + stopped, 4 * 4 * 4 * 4 * 24);
        assert!(done > 100 && stopped > 100, "{done} done, {stopped} stopped");
    }

    /// The rule of rules: the target is never made the owner while the source holds a key.
    #[test]
    fn keys_are_never_left_behind() {
        for (seen, known) in all().filter(|(seen, _)| seen.source_has_keys) {
            let step = next(seen, known);
            assert!(!matches!(step, Step::Own | Step::Clear | Step::Announce | Step::Done), "{seen:?}: {step:?}");
        }
    }

    /// A source without its mark gets it, and keys at the target come before its own, only where nobody has been let to it.
    #[test]
    fn no_copy_wins_by_the_targets_mark_alone() {
        let doubtful = |seen: &Observed| seen.source_mark == Mark::None && seen.target_has_keys;
        for (seen, known) in all().filter(|(seen, known)| doubtful(seen) && *known != Known::Held) {
            assert!(!matches!(next(seen, known), Step::OpenSource | Step::Drain), "{seen:?} {known:?}");
        }
    }

    #[test]
    fn a_source_that_came_back_with_less_than_half() {
        let check =
            |expected: u64, found: u64, lost: bool| assert_eq!(has_lost_keys(expected, found), lost, "{expected} {found}");
        check(0, 0, false);
        check(1, 0, true);
        check(1, 1, false);
        check(100, 49, true);
        check(100, 50, false);
        check(100, 120, false);
    }

    #[test]
    fn the_rows_of_the_recovery_table() {
        let closed = Observed {
            owner_at_source: Owner::Source,
            owner_at_target: Owner::Source,
            source_mark: Mark::None,
            target_mark: Mark::None,
            source_has_keys: true,
            target_has_keys: false,
            announced: false,
        };
        let check = |what: &str, seen: Observed, known: Known, expected: Step| assert_eq!(next(seen, known), expected, "{what}");
        let open = Observed { source_mark: Mark::Ours, target_mark: Mark::Ours, ..closed };
        let owned = Observed {
            owner_at_target: Owner::Target,
            source_mark: Mark::Ours,
            source_has_keys: false,
            target_has_keys: true,
            ..closed
        };
        let told = Observed { owner_at_source: Owner::Target, source_mark: Mark::None, ..owned };
        check("nothing has begun", closed, Known::Nothing, Step::OpenTarget);
        check("the driver died behind IMPORTING", Observed { target_mark: Mark::Ours, ..closed }, Known::Open, Step::OpenSource);
        check(
            "the target failed over and lost its mark",
            Observed { target_has_keys: true, target_mark: Mark::None, ..open },
            Known::Open,
            Step::OpenTarget,
        );
        check(
            "the source failed over and lost its mark",
            Observed { target_has_keys: true, source_mark: Mark::None, ..open },
            Known::Held,
            Step::OpenSource,
        );
        check(
            "the source failed over, the target names the old one",
            Observed { source_mark: Mark::None, target_mark: Mark::Stale, ..open },
            Known::Held,
            Step::CloseTarget,
        );
        check(
            "the target failed over, the source names the old one",
            Observed { source_mark: Mark::Stale, ..open },
            Known::Open,
            Step::OpenSource,
        );
        check(
            "the source failed over, the target counts the slot as nobody's",
            Observed { owner_at_target: Owner::Nobody, source_mark: Mark::None, target_mark: Mark::Stale, ..open },
            Known::Held,
            Step::CloseTarget,
        );
        check("in the middle", Observed { target_has_keys: true, ..open }, Known::Open, Step::Drain);
        check("all keys have moved", Observed { source_has_keys: false, target_has_keys: true, ..open }, Known::Open, Step::Own);
        check("the target owns it, the source does not know", owned, Known::Open, Step::Clear);
        check(
            "the target owns it and the source's mark is left",
            Observed { owner_at_source: Owner::Target, ..owned },
            Known::Open,
            Step::Clear,
        );
        check(
            "the source was told first, the target never",
            Observed { owner_at_target: Owner::Source, target_mark: Mark::Ours, ..told },
            Known::Open,
            Step::Own,
        );
        check("the others do not know yet", told, Known::Open, Step::Announce);
        check("all is said", Observed { announced: true, ..told }, Known::Open, Step::Done);
        check(
            "keys were left behind",
            Observed { source_has_keys: true, announced: true, ..told },
            Known::Open,
            Step::Stop(Trouble::OrphansAtSource),
        );
        check(
            "an old attempt left keys",
            Observed { target_has_keys: true, ..closed },
            Known::Nothing,
            Step::Stop(Trouble::StrayKeysAtTarget),
        );
        let forgotten = Observed { target_has_keys: true, source_mark: Mark::None, ..open };
        for known in [Known::Nothing, Known::Open] {
            check("the source has no mark any more", forgotten, known, Step::Stop(Trouble::SourceForgot));
        }
        check(
            "only the target is marked, and holds nothing",
            Observed { source_mark: Mark::None, ..open },
            Known::Nothing,
            Step::OpenSource,
        );
        check(
            "another tool is at it",
            Observed { source_mark: Mark::Foreign, ..open },
            Known::Open,
            Step::Stop(Trouble::ForeignMark),
        );
        check(
            "it went elsewhere",
            Observed { owner_at_source: Owner::Other, owner_at_target: Owner::Other, ..closed },
            Known::Open,
            Step::Stop(Trouble::ForeignOwner),
        );
    }
}
