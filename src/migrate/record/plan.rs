//! What is written down of a plan: what it is, which never changes, and how far it has come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha1_smol::Sha1;

use crate::cluster::Slot;
use crate::migrate::execute;
use crate::migrate::machine::Standing;
use crate::migrate::pace::Throttle;
use crate::migrate::plan::BatchKind;
use crate::migrate::{Holds, SlotSet};

use super::No;

/// A plan with more slots needs an approval code to start.
const APPROVE_SLOTS: usize = 1000;
/// So does one with as many slots and more bytes than these.
const APPROVE_HEAVY_SLOTS: usize = 500;
const APPROVE_BYTES: u64 = 10_000_000_000;

/// How a slot's keys travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Key by key, with MIGRATE.
    Classic,
    /// Whole slots, by the servers themselves.
    Atomic,
}

impl Mode {
    pub fn word(self) -> &'static str {
        match self {
            Mode::Classic => "classic",
            Mode::Atomic => "atomic",
        }
    }
}

impl From<Mode> for execute::Mode {
    fn from(mode: Mode) -> execute::Mode {
        match mode {
            Mode::Classic => execute::Mode::Classic,
            Mode::Atomic => execute::Mode::Atomic,
        }
    }
}

/// What a plan is. Nothing is left to choose when it is carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Eight letters that no other plan of the cluster has.
    pub id: String,
    /// What the operator asked for, in the words of the command.
    pub asked: String,
    /// Wall clock, in milliseconds since 1970.
    pub drafted_ms: u64,
    /// In the order in which they are carried out.
    pub batches: Vec<PlanBatch>,
    pub eta_s: u64,
    /// How long the gates stay armed behind the last slot; 0 for not at all.
    pub observe_s: u64,
    /// Ids of the masters that will have no slot left.
    pub emptied: Vec<String>,
    /// Each end's master and, to find its successor by, its replicas.
    pub shards: BTreeMap<String, BTreeSet<String>>,
}

/// Slots that move from one node to another before everything is looked at again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanBatch {
    pub kind: BatchKind,
    /// Ids of masters.
    pub source: String,
    pub target: String,
    pub mode: Mode,
    pub slots: SlotSet,
    pub keys: u64,
    pub bytes: u64,
}

/// All that goes from one node to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair<'a> {
    pub source: &'a str,
    pub target: &'a str,
    pub mode: Mode,
    pub slots: SlotSet,
    pub keys: u64,
    pub bytes: u64,
}

impl Plan {
    pub fn slots(&self) -> SlotSet {
        self.batches.iter().flat_map(|batch| batch.slots.iter().collect::<Vec<_>>()).collect()
    }

    pub fn slot_count(&self) -> usize {
        self.batches.iter().map(|batch| batch.slots.len()).sum()
    }

    pub fn keys(&self) -> u64 {
        self.batches.iter().map(|batch| batch.keys).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| batch.bytes).sum()
    }

    /// The plan by source and target, in the order in which they come first.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let mut pairs: Vec<Pair> = Vec::new();
        for batch in &self.batches {
            let same = |pair: &&mut Pair| pair.source == batch.source && pair.target == batch.target && pair.mode == batch.mode;
            match pairs.iter_mut().find(same) {
                Some(pair) => {
                    pair.slots.extend(batch.slots.iter());
                    pair.keys += batch.keys;
                    pair.bytes += batch.bytes;
                }
                None => pairs.push(Pair {
                    source: &batch.source,
                    target: &batch.target,
                    mode: batch.mode,
                    slots: batch.slots.clone(),
                    keys: batch.keys,
                    bytes: batch.bytes,
                }),
            }
        }
        pairs
    }

    /// Ids of all nodes that give or take.
    pub fn nodes(&self) -> Vec<&str> {
        let mut nodes: Vec<&str> = self.batches.iter().flat_map(|batch| [batch.source.as_str(), batch.target.as_str()]).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// The batch that moves a slot.
    pub fn batch_of(&self, slot: Slot) -> Option<&PlanBatch> {
        self.batches.iter().find(|batch| batch.slots.contains(slot))
    }

    /// What START must be given; none when the plan is small.
    pub fn approval(&self) -> Option<String> {
        let (slots, bytes) = (self.slot_count(), self.bytes());
        let large = slots > APPROVE_SLOTS || slots >= APPROVE_HEAVY_SLOTS && bytes > APPROVE_BYTES;
        // Who has read the plan knows the code, and another plan has another.
        let pairs: Vec<String> =
            self.pairs().iter().map(|pair| format!("{} {} {}", pair.source, pair.target, pair.slots)).collect();
        large.then(|| Sha1::from(format!("{} {}", self.id, pairs.join(" "))).digest().to_string()[..8].to_owned())
    }
}

/// How far a plan has come. Whoever holds the lease writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub standing: Standing,
    /// Slots that the target owns.
    pub done: SlotSet,
    /// The slots that were being moved when this was written: marks that are missing there were lost.
    pub open: SlotSet,
    pub keys_moved: u64,
    pub throttle: Throttle,
    /// Milliseconds of moving so far, for what is left.
    pub moving_ms: u64,
    /// Wall clock, in milliseconds since 1970; 0 before it has begun.
    pub observed_from_ms: u64,
    /// The gates as they stood.
    pub gates: Vec<Gate>,
    /// Nodes whose cluster-allow-replica-migration the plan has switched off.
    pub kept_masters: Vec<String>,
    /// Slots that every instance holds; older records have none.
    #[serde(default)]
    pub holds: Holds,
    /// The latest orders that were refused; older records have none.
    #[serde(default)]
    pub refused: Vec<No>,
}

/// One gate and whether it lets the plan go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub gate: String,
    pub open: bool,
    /// What was found, in one line.
    pub found: String,
}

impl Progress {
    pub fn drafted() -> Progress {
        Progress {
            standing: Standing::drafted(),
            done: SlotSet::new(),
            open: SlotSet::new(),
            keys_moved: 0,
            throttle: Throttle::default(),
            moving_ms: 0,
            observed_from_ms: 0,
            gates: Vec::new(),
            kept_masters: Vec::new(),
            holds: Holds::default(),
            refused: Vec::new(),
        }
    }

    /// How long it will take from here: by what has been measured, before that by the plan's own guess.
    pub fn eta(&self, plan: &Plan) -> Duration {
        let total = plan.slot_count();
        let (left, done) = (total.saturating_sub(self.done.len()), self.done.len());
        if left == 0 {
            return Duration::ZERO;
        }
        let whole_s = if done == 0 || self.moving_ms == 0 {
            plan.eta_s as f64
        } else {
            // A slot costs something and a key costs something: the share of both that is done.
            let keys_done: u64 = self.keys_moved.min(plan.keys());
            let share = (done as f64 / total as f64 + keys_done as f64 / plan.keys().max(1) as f64) / 2.0;
            self.moving_ms as f64 / 1000.0 / if plan.keys() == 0 { done as f64 / total as f64 } else { share }
        };
        Duration::from_secs_f64((whole_s * left as f64 / total as f64).clamp(1.0, 1e7))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn batch(kind: BatchKind, source: &str, target: &str, slots: &str, keys: u64, bytes: u64) -> PlanBatch {
        let slots = SlotSet::parse(slots).expect("the test's own slots");
        PlanBatch { kind, source: source.into(), target: target.into(), mode: Mode::Classic, slots, keys, bytes }
    }

    pub fn plan(batches: Vec<PlanBatch>) -> Plan {
        Plan {
            id: "0123abcd".into(),
            asked: "MOVE".into(),
            drafted_ms: 1,
            batches,
            eta_s: 100,
            observe_s: 0,
            emptied: Vec::new(),
            shards: BTreeMap::new(),
        }
    }

    #[test]
    fn large_plans_need_a_code() {
        let check = |slots: &str, bytes: u64, expected: bool| {
            let plan = plan(vec![batch(BatchKind::Ordinary, "a", "b", slots, 1, bytes)]);
            assert_eq!(plan.approval().is_some(), expected, "{slots} {bytes}");
        };
        check("0-999", 1, false);
        check("0-1000", 1, true);
        check("0-499", 10_000_000_001, true);
        check("0-498", 10_000_000_001, false);
        check("0-499", 10_000_000_000, false);
        let one = plan(vec![batch(BatchKind::Ordinary, "a", "b", "0-2000", 1, 1)]);
        let other = plan(vec![batch(BatchKind::Ordinary, "a", "c", "0-2000", 1, 1)]);
        assert_eq!(one.approval(), one.clone().approval());
        assert_ne!(one.approval(), other.approval());
        assert_eq!(one.approval().map(|code| code.len()), Some(8));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let probe = batch(BatchKind::Probe, "a", "b", "5", 1, 100);
        let rest = batch(BatchKind::Ordinary, "a", "b", "0-4,6-9", 9, 900);
        let plan = plan(vec![probe, rest]);
        let text = serde_json::to_string(&plan).expect("a plan can be written");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("and read"), plan);
        let progress = Progress { done: SlotSet::parse("5").expect("slots"), ..Progress::drafted() };
        let text = serde_json::to_string(&progress).expect("progress can be written");
        assert_eq!(serde_json::from_str::<Progress>(&text).expect("and read"), progress);
        let older = text.replace(r#","holds":{"between":[],"unacknowledged":{}},"refused":[]"#, "");
        assert_ne!(older, text);
        assert_eq!(serde_json::from_str::<Progress>(&older).expect("an older record can be read"), progress);
        let pairs = plan.pairs();
        assert_eq!((pairs.len(), pairs[0].slots.to_string().as_str(), pairs[0].keys), (1, "0-9", 10));
        assert_eq!((plan.slot_count(), plan.bytes(), plan.nodes()), (10, 1000, vec!["a", "b"]));
    }

    #[test]
    fn what_is_left_takes_as_long_as_what_is_done() {
        let plan = plan(vec![batch(BatchKind::Ordinary, "a", "b", "0-9", 100, 1)]);
        let mut progress = Progress::drafted();
        assert_eq!(progress.eta(&plan), Duration::from_secs(100));
        progress.done = SlotSet::parse("0-4").expect("slots");
        (progress.keys_moved, progress.moving_ms) = (50, 10_000);
        assert_eq!(progress.eta(&plan), Duration::from_secs(10));
        progress.done = SlotSet::parse("0-9").expect("slots");
        assert_eq!(progress.eta(&plan), Duration::ZERO);
    }
}
