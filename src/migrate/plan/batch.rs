//! In which order slots move, and after how many everything is looked at again.

use serde::{Deserialize, Serialize};

use super::{Layout, Measure, Move};
use crate::cluster::Slot;

/// What one batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    pub slots: usize,
    pub keys: u64,
    pub bytes: u64,
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        BatchLimits { slots: 200, keys: 1_000_000, bytes: 1 << 30 }
    }
}

/// How much is moved before anyone may say that it works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Canary {
    Slots(usize),
    /// Of the plan's slots, 0 to 1.
    Share(f64),
}

impl Default for Canary {
    fn default() -> Canary {
        Canary::Share(0.01)
    }
}

/// Slots of one pair that move before the next look at the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub kind: BatchKind,
    pub source: usize,
    pub target: usize,
    pub slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchKind {
    /// The lightest slot of each pair that holds anything: it proves that the way is open.
    Probe,
    Canary,
    Ordinary,
    /// One slot that is too heavy to share a batch.
    Heavy,
}

/// The whole plan in its order: a probe for each pair, the canary, then batches within the limits, pair by pair in turn, and heavy
/// slots by themselves at the end.
pub fn batches(layout: &Layout, moves: &[Move], limits: BatchLimits, canary: Canary) -> Vec<Batch> {
    let total: usize = moves.iter().map(|each| each.slots.len()).sum();
    let mut canaries = match canary {
        Canary::Slots(count) => count,
        Canary::Share(share) => (total as f64 * share).ceil() as usize,
    };
    let (mut probes, mut first, mut heavy) = (Vec::new(), Vec::new(), Vec::new());
    let mut queues: Vec<Vec<Batch>> = Vec::new();
    for each in moves {
        let batch = |kind: BatchKind, slots: Vec<Slot>| Batch { kind, source: each.source, target: each.target, slots };
        let is_heavy = |slot: &Slot| layout.keys[slot.index()] > limits.keys || layout.bytes[slot.index()] > limits.bytes;
        let (large, mut slots): (Vec<Slot>, Vec<Slot>) = each.slots.iter().partition(|slot| is_heavy(slot));
        heavy.extend(large.into_iter().map(|slot| batch(BatchKind::Heavy, vec![slot])));
        // An empty slot proves nothing, but where all are empty it has to do.
        let lightest = slots.iter().copied().min_by_key(|slot| {
            let keys = layout.keys[slot.index()];
            (keys == 0, layout.bytes[slot.index()], keys, *slot)
        });
        if let Some(lightest) = lightest {
            slots.retain(|slot| *slot != lightest);
            probes.push(batch(BatchKind::Probe, vec![lightest]));
            canaries = canaries.saturating_sub(1);
        }
        let share = canaries.min(slots.len()).min(limits.slots);
        if share > 0 {
            let mut light = slots.clone();
            light.sort_by_key(|slot| (layout.weight(Measure::Bytes, *slot), *slot));
            light.truncate(share);
            light.sort();
            slots.retain(|slot| light.binary_search(slot).is_err());
            canaries -= light.len();
            first.push(batch(BatchKind::Canary, light));
        }
        queues.push(cut(layout, &slots, limits).into_iter().map(|slots| batch(BatchKind::Ordinary, slots)).collect());
    }
    let longest = queues.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..longest).flat_map(|round| queues.iter().filter_map(move |queue| queue.get(round).cloned()));
    probes.into_iter().chain(first).chain(in_turn).chain(heavy).collect()
}

fn cut(layout: &Layout, slots: &[Slot], limits: BatchLimits) -> Vec<Vec<Slot>> {
    let mut batches: Vec<Vec<Slot>> = Vec::new();
    let (mut keys, mut bytes) = (0, 0);
    for slot in slots {
        let (more_keys, more_bytes) = (layout.keys[slot.index()], layout.bytes[slot.index()]);
        match batches.last_mut() {
            Some(batch)
                if batch.len() < limits.slots && keys + more_keys <= limits.keys && bytes + more_bytes <= limits.bytes =>
            {
                batch.push(*slot);
                (keys, bytes) = (keys + more_keys, bytes + more_bytes);
            }
            _ => {
                batches.push(vec![*slot]);
                (keys, bytes) = (more_keys, more_bytes);
            }
        }
    }
    batches
}
