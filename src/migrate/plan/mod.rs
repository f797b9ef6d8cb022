//! PURE. From what the cluster looks like and what the operator wants to the moves that get there: the same input gives the
//! same plan, and nothing is left to choose when it is carried out.

mod batch;
mod choose;
mod layout;

use std::sync::Arc;

pub use batch::{Batch, BatchKind, BatchLimits, Canary, batches};
pub use layout::{Layout, Measure, Place};

use super::SlotSet;
use crate::cluster::Slot;
use choose::{Ledger, Share};

/// What the operator wants. Nodes are indexes into the layout's places.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    Move {
        slots: SlotSet,
        from: usize,
        to: usize,
    },
    /// Each node's part is its weight by the sum of all; 1 for nodes that are not named. A node of weight 0 ends up empty.
    Rebalance {
        by: Measure,
        weights: Vec<(usize, f64)>,
        /// A node that is off its part by no more than this share of it is left alone.
        tolerance: f64,
    },
    /// The node gives all it has, to the others by what they lack of an even part.
    Drain {
        node: usize,
    },
    /// The node ends up with this share of everything; without one, an even part. The others give by what they have too much.
    Fill {
        node: usize,
        share: Option<f64>,
    },
}

/// Slots that go from one node to another, in rising order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub source: usize,
    pub target: usize,
    pub slots: Vec<Slot>,
}

/// Why there is no such plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoPlan {
    #[error("expected two nodes, found {0} as source and as target")]
    SameNode(Arc<str>),
    #[error("expected slots that {node} owns, found {found} that it does not")]
    NotOwned { node: Arc<str>, found: SlotSet },
    #[error("expected an owner for every slot, found none for {0}: repair the cluster first")]
    Unowned(SlotSet),
    #[error("expected another master to take the slots, found none")]
    NobodyElse,
    #[error("expected weights of which one is above 0, found none")]
    NoWeight,
    #[error("expected a share above 0 and below 100 percent, found {0} percent")]
    Share(f64),
    #[error(
        "expected the nodes to tell how busy each slot is, found that they do not: set cluster-slot-stats-enabled yes on them (Redis 8.2, Valkey 8), or balance BY keys"
    )]
    NoCpu,
}

/// The moves that reach the goal, few and small; none when it is reached already.
pub fn plan(layout: &Layout, goal: &Goal) -> Result<Vec<Move>, NoPlan> {
    let unowned: SlotSet = Slot::all().filter(|slot| layout.owner(*slot).is_none()).collect();
    if !unowned.is_empty() {
        return Err(NoPlan::Unowned(unowned));
    }
    match goal {
        Goal::Move { slots, from, to } => move_slots(layout, slots, *from, *to),
        Goal::Rebalance { by, weights, tolerance } => rebalance(layout, *by, weights, *tolerance),
        Goal::Drain { node } => drain(layout, *node),
        Goal::Fill { node, share } => fill(layout, *node, *share),
    }
}

fn move_slots(layout: &Layout, slots: &SlotSet, from: usize, to: usize) -> Result<Vec<Move>, NoPlan> {
    if from == to {
        return Err(NoPlan::SameNode(layout.places[from].id.clone()));
    }
    let found: SlotSet = slots.iter().filter(|slot| layout.owner(*slot) != Some(from)).collect();
    if !found.is_empty() {
        return Err(NoPlan::NotOwned { node: layout.places[from].id.clone(), found });
    }
    Ok(vec![Move { source: from, target: to, slots: slots.iter().collect() }])
}

fn rebalance(layout: &Layout, by: Measure, weights: &[(usize, f64)], tolerance: f64) -> Result<Vec<Move>, NoPlan> {
    let mut parts = vec![1.0; layout.places.len()];
    for (node, weight) in weights {
        parts[*node] = weight.max(0.0);
    }
    if parts.iter().sum::<f64>() <= 0.0 {
        return Err(NoPlan::NoWeight);
    }
    let ledger = Ledger::new(layout, by)?;
    let shares = Share::by_weight(&ledger, &parts);
    // A node that is to be empty is never near enough.
    let off = |node: usize| ledger.load(node).abs_diff(shares[node].wanted) as f64 > shares[node].wanted as f64 * tolerance;
    if (0..parts.len()).all(|node| !off(node) && (parts[node] > 0.0 || layout.slots_of(node).next().is_none())) {
        return Ok(Vec::new());
    }
    Ok(ledger.even_out(&shares))
}

fn drain(layout: &Layout, node: usize) -> Result<Vec<Move>, NoPlan> {
    if layout.places.len() < 2 {
        return Err(NoPlan::NobodyElse);
    }
    // Slots alone would leave a node with the heavy ones to whoever comes first; an empty cluster has nothing but slots.
    let by = if layout.total(Measure::Keys) > 0 { Measure::Keys } else { Measure::Slots };
    let ledger = Ledger::new(layout, by)?;
    let parts: Vec<f64> = (0..layout.places.len()).map(|place| if place == node { 0.0 } else { 1.0 }).collect();
    let shares = Share::by_weight(&ledger, &parts);
    Ok(ledger.give_all(node, &shares))
}

fn fill(layout: &Layout, node: usize, share: Option<f64>) -> Result<Vec<Move>, NoPlan> {
    let count = layout.places.len();
    if count < 2 {
        return Err(NoPlan::NobodyElse);
    }
    let share = share.unwrap_or(1.0 / count as f64);
    if share <= 0.0 || share >= 1.0 {
        return Err(NoPlan::Share(share * 100.0));
    }
    let by = if layout.total(Measure::Keys) > 0 { Measure::Keys } else { Measure::Slots };
    let ledger = Ledger::new(layout, by)?;
    let others = (1.0 - share) / (count - 1) as f64;
    let parts: Vec<f64> = (0..count).map(|place| if place == node { share } else { others }).collect();
    let shares = Share::by_weight(&ledger, &parts);
    Ok(ledger.take_for(node, &shares))
}

#[cfg(test)]
mod tests;
