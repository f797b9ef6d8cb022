//! Which slots go: those that reach the goal with little movement, and that leave few ranges behind.

use super::{Layout, Measure, Move, NoPlan};
use crate::cluster::{SLOT_COUNT, Slot};

/// How much a node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub wanted: u64,
}

impl Share {
    /// The total divided by weight; what rounding leaves over goes to the first nodes that get anything.
    pub fn by_weight(ledger: &Ledger, weights: &[f64]) -> Vec<Share> {
        let total: u64 = (0..weights.len()).map(|node| ledger.load(node)).sum();
        let sum: f64 = weights.iter().sum();
        let mut shares: Vec<Share> =
            weights.iter().map(|weight| Share { wanted: (total as f64 * (weight / sum)).floor() as u64 }).collect();
        let mut left = total.saturating_sub(shares.iter().map(|share| share.wanted).sum());
        for (share, weight) in shares.iter_mut().zip(weights) {
            if *weight > 0.0 && left > 0 {
                share.wanted += 1;
                left -= 1;
            }
        }
        shares
    }
}

/// Who would own what, while the moves are chosen. A slot moves once at most.
pub struct Ledger<'a> {
    layout: &'a Layout,
    weights: Vec<u64>,
    /// All slots weigh the same: then neighbours are chosen.
    flat: bool,
    owners: Vec<usize>,
    loads: Vec<u64>,
    moved: Vec<bool>,
}

impl<'a> Ledger<'a> {
    /// Every slot has an owner.
    pub fn new(layout: &'a Layout, by: Measure) -> Result<Ledger<'a>, NoPlan> {
        layout.can_measure(by)?;
        let weights: Vec<u64> = Slot::all().map(|slot| layout.weight(by, slot)).collect();
        let owners: Vec<usize> = Slot::all().filter_map(|slot| layout.owner(slot)).collect();
        let mut loads = vec![0; layout.places.len()];
        for (owner, weight) in owners.iter().zip(&weights) {
            loads[*owner] += weight;
        }
        let flat = by == Measure::Slots;
        Ok(Ledger { layout, weights, flat, owners, loads, moved: vec![false; SLOT_COUNT] })
    }

    pub fn load(&self, node: usize) -> u64 {
        self.loads[node]
    }

    fn surplus(&self, node: usize, shares: &[Share]) -> u64 {
        self.loads[node].saturating_sub(shares[node].wanted)
    }

    fn deficit(&self, node: usize, shares: &[Share]) -> u64 {
        shares[node].wanted.saturating_sub(self.loads[node])
    }

    fn nodes(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.loads.len()
    }

    /// The largest surplus gives to the largest deficit, until nothing can be given without overshooting.
    pub fn even_out(mut self, shares: &[Share]) -> Vec<Move> {
        let mut stuck = vec![false; self.loads.len()];
        while let Some(source) =
            self.nodes().filter(|node| !stuck[*node]).max_by_key(|node| (self.surplus(*node, shares), std::cmp::Reverse(*node)))
        {
            let Some(target) = self.neediest(source, shares) else { break };
            let amount = self.surplus(source, shares).min(self.deficit(target, shares));
            stuck[source] = amount == 0 || self.give(source, target, amount) == 0;
        }
        // Whoever is to have nothing keeps nothing, not even slots that weigh nothing.
        for source in self.nodes().filter(|node| shares[*node].wanted == 0).collect::<Vec<_>>() {
            if shares.iter().any(|share| share.wanted > 0) {
                self.hand_over(source, shares);
            }
        }
        self.moves()
    }

    /// One node gives all it has to the others.
    pub fn give_all(mut self, source: usize, shares: &[Share]) -> Vec<Move> {
        self.hand_over(source, shares);
        self.moves()
    }

    /// One node takes until it has its share, from those that have most above theirs.
    pub fn take_for(mut self, target: usize, shares: &[Share]) -> Vec<Move> {
        let mut stuck = vec![false; self.loads.len()];
        stuck[target] = true;
        while self.deficit(target, shares) > 0 {
            let giving = self.nodes().filter(|node| !stuck[*node]);
            let Some(source) = giving.max_by_key(|node| (self.surplus(*node, shares), std::cmp::Reverse(*node))) else { break };
            let amount = self.surplus(source, shares).min(self.deficit(target, shares));
            stuck[source] = amount == 0 || self.give(source, target, amount) == 0;
        }
        self.moves()
    }

    fn neediest(&self, source: usize, shares: &[Share]) -> Option<usize> {
        let needy = self.nodes().filter(|node| *node != source && self.deficit(*node, shares) > 0);
        needy.max_by_key(|node| (self.deficit(*node, shares), std::cmp::Reverse(*node)))
    }

    fn hand_over(&mut self, source: usize, shares: &[Share]) {
        // Heavy slots first: the light ones even out what is left.
        while let Some(target) = self.neediest(source, shares) {
            let amount = self.deficit(target, shares);
            if self.give(source, target, amount) == 0 {
                break;
            }
        }
        let rest: Vec<usize> = (0..SLOT_COUNT).filter(|slot| self.owners[*slot] == source).collect();
        for slot in rest {
            // What no deficit has room for goes where least is, in runs of neighbours.
            let lightest = self
                .nodes()
                .filter(|node| *node != source && shares[*node].wanted > 0)
                .min_by_key(|node| (self.loads[*node].saturating_sub(shares[*node].wanted), self.loads[*node], *node));
            if let Some(target) = lightest {
                self.hand(slot, target);
            }
        }
    }

    /// Gives slots of at most `amount` together. Answers how much it was.
    fn give(&mut self, source: usize, target: usize, amount: u64) -> u64 {
        let mut left = amount;
        let mut candidates: Vec<usize> =
            (0..SLOT_COUNT).filter(|slot| self.owners[*slot] == source && !self.moved[*slot]).collect();
        if self.flat {
            self.order_by_neighbourhood(&mut candidates, target);
        } else {
            candidates.retain(|slot| self.weights[*slot] > 0);
            candidates.sort_by_key(|slot| (std::cmp::Reverse(self.weights[*slot]), !self.touches(*slot, target), *slot));
        }
        for slot in candidates {
            if self.weights[slot] <= left {
                left -= self.weights[slot];
                self.hand(slot, target);
            }
            if left == 0 {
                break;
            }
        }
        amount - left
    }

    /// First the runs that go on where a range of the target's ends or begins, then from the end of the source's last range.
    fn order_by_neighbourhood(&self, candidates: &mut Vec<usize>, target: usize) {
        let free: Vec<bool> = {
            let mut free = vec![false; SLOT_COUNT];
            candidates.iter().for_each(|slot| free[*slot] = true);
            free
        };
        let mut taken = vec![false; SLOT_COUNT];
        let mut ordered = Vec::with_capacity(candidates.len());
        for slot in (0..SLOT_COUNT).filter(|slot| self.owners[*slot] == target) {
            let mut take = |slot: usize| {
                let goes = free[slot] && !taken[slot];
                if goes {
                    taken[slot] = true;
                    ordered.push(slot);
                }
                goes
            };
            let mut next = slot + 1;
            while next < SLOT_COUNT && take(next) {
                next += 1;
            }
            let mut before = slot;
            while before > 0 && take(before - 1) {
                before -= 1;
            }
        }
        ordered.extend(candidates.iter().rev().filter(|slot| !taken[**slot]));
        *candidates = ordered;
    }

    fn touches(&self, slot: usize, target: usize) -> bool {
        let owned = |slot: usize| self.owners.get(slot) == Some(&target);
        owned(slot + 1) || slot > 0 && owned(slot - 1)
    }

    fn hand(&mut self, slot: usize, target: usize) {
        let weight = self.weights[slot];
        self.loads[self.owners[slot]] -= weight;
        self.loads[target] += weight;
        self.owners[slot] = target;
        self.moved[slot] = true;
    }

    /// What has moved, by source and target.
    fn moves(&self) -> Vec<Move> {
        let mut moves: Vec<Move> = Vec::new();
        for slot in Slot::all().filter(|slot| self.moved[slot.index()]) {
            let (Some(source), target) = (self.layout.owner(slot), self.owners[slot.index()]) else { continue };
            match moves.iter_mut().find(|known| (known.source, known.target) == (source, target)) {
                Some(known) => known.slots.push(slot),
                None => moves.push(Move { source, target, slots: vec![slot] }),
            }
        }
        moves.sort_by_key(|known| (known.source, known.target));
        moves
    }
}
