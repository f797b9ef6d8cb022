//! From what an operator asks to a plan that can be started: names become nodes, the planner chooses slots, their weight is sampled,
//! and each move gets its mode.

mod estimate;
mod intended;
mod open;
mod weigh;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Inventory;
use super::deep::look;
use super::inventory::{Atomic, NotANode, Told};
use super::plan::{self, Batch, BatchLimits, Canary, Goal, Layout, Measure, Move, NoPlan, batches};
use super::preflight::{Finding, Severity, deep, preflight};
use super::record::{Mode, Plan, PlanBatch};
use super::slot_set::SlotSet;
use crate::cluster::Slot;
use crate::control::Dialer;
use estimate::estimate;
use intended::Intended;

pub use open::{Left, OpenSlots, of_open_slots};

/// What an operator wants, with nodes as they were named.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    Move { slots: SlotSet, from: String, to: String },
    Rebalance { by: Measure, weights: Vec<(String, f64)>, tolerance: f64 },
    Drain { node: String },
    Fill { node: String, share: Option<f64> },
}

/// Which mode the moves get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ModeChoice {
    /// Atomic wherever both ends have it.
    #[default]
    Auto,
    Always(Mode),
}

/// One PROXY MIGRATE PLAN.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub wish: Wish,
    pub canary: Canary,
    pub mode: ModeChoice,
    pub observe: Duration,
    /// The words behind PLAN, as they were given.
    pub words: String,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoDraft {
    #[error(transparent)]
    Name(#[from] NotANode),
    #[error("expected a master, found {0}, which is a replica or does not answer")]
    NotAMaster(String),
    #[error(transparent)]
    Plan(#[from] NoPlan),
    #[error(
        "expected both ends of every move to have CLUSTER MIGRATESLOTS (Valkey 9), found {0} without it: MODE auto, or MODE classic"
    )]
    NotAtomic(String),
    #[error("expected an answer to questions about the weight of slots, found: {0}")]
    Weight(String),
}

/// A plan, and what speaks against it now.
#[derive(Clone, Debug)]
pub struct Draft {
    pub plan: Plan,
    /// Findings of the pre-flight checks that are worth a warning or more.
    pub risks: Vec<Finding>,
}

/// Makes a plan from what the cluster looks like. It asks nodes about sizes, and changes nothing.
pub async fn draft(dialer: &Dialer, inventory: &Inventory, request: &Request) -> Result<Draft, NoDraft> {
    let mut layout = Layout::of(inventory);
    let goal = goal(inventory, &layout, &request.wish)?;
    if let Goal::Rebalance { by, .. } = &goal {
        match by {
            Measure::Bytes => {
                let all = Slot::all().collect();
                weigh::bytes(dialer, &mut layout, &all).await.map_err(NoDraft::Weight)?;
            }
            Measure::Cpu => layout.cpu = weigh::cpu(dialer, &layout).await.map_err(NoDraft::Weight)?,
            Measure::Slots | Measure::Keys => {}
        }
    }
    let moves = plan::plan(&layout, &goal)?;
    let moved: SlotSet = moves.iter().flat_map(|each| each.slots.iter().copied()).collect();
    weigh::bytes(dialer, &mut layout, &moved).await.map_err(NoDraft::Weight)?;
    let plan = assemble(inventory, &layout, &moves, request)?;
    let risks =
        check(dialer, inventory, &plan).await.into_iter().filter(|finding| finding.severity >= Severity::Warning).collect();
    Ok(Draft { plan, risks })
}

/// The pre-flight checks of a plan, and a closer look at the keys that it moves.
pub async fn check(dialer: &Dialer, inventory: &Inventory, plan: &Plan) -> Vec<Finding> {
    // A key that stays where it is stands in nobody's way.
    let depths = look(dialer, inventory, &plan.slots()).await;
    let intended = Intended::of(inventory, plan);
    let mut findings = vec![intended.ends()];
    findings.extend(preflight(inventory, Some(intended.intent())));
    findings.extend(deep(inventory, &depths, Some(intended.intent())));
    findings
}

/// The pre-flight checks of a plan alone.
pub fn glance_at(inventory: &Inventory, plan: &Plan) -> Vec<Finding> {
    preflight(inventory, Some(Intended::of(inventory, plan).intent()))
}

fn goal(inventory: &Inventory, layout: &Layout, wish: &Wish) -> Result<Goal, NoDraft> {
    let place = |name: &String| {
        let node = inventory.named(name)?;
        let place = layout.places.iter().position(|place| place.id == node.id);
        place.ok_or_else(|| NoDraft::NotAMaster(node.addr.to_string()))
    };
    Ok(match wish {
        Wish::Move { slots, from, to } => Goal::Move { slots: slots.clone(), from: place(from)?, to: place(to)? },
        Wish::Rebalance { by, weights, tolerance } => {
            let weights = weights.iter().map(|(name, weight)| Ok((place(name)?, *weight)));
            Goal::Rebalance { by: *by, weights: weights.collect::<Result<_, NoDraft>>()?, tolerance: *tolerance }
        }
        Wish::Drain { node } => Goal::Drain { node: place(node)? },
        Wish::Fill { node, share } => Goal::Fill { node: place(node)?, share: *share },
    })
}

fn assemble(inventory: &Inventory, layout: &Layout, moves: &[Move], request: &Request) -> Result<Plan, NoDraft> {
    // A source with keys in several databases would lose writes (see `execute::atomic`).
    let in_one_database = |told: &Told| told.info.starting("db").filter(|(name, _)| name[2..].parse::<u32>().is_ok()).count() < 2;
    let has_it = |place: usize| {
        let told = inventory.told(&layout.places[place].id);
        told.is_some_and(|told| told.atomic == Atomic::MigrateSlots && in_one_database(told))
    };
    let mode = |batch: &Batch| match request.mode {
        ModeChoice::Always(Mode::Classic) => Ok(Mode::Classic),
        _ if has_it(batch.source) && has_it(batch.target) => Ok(Mode::Atomic),
        ModeChoice::Auto => Ok(Mode::Classic),
        ModeChoice::Always(Mode::Atomic) => {
            let without = if has_it(batch.source) { batch.target } else { batch.source };
            Err(NoDraft::NotAtomic(layout.places[without].addr.to_string()))
        }
    };
    let planned = batches(layout, moves, BatchLimits::default(), request.canary).into_iter().map(|batch| {
        let sum = |weights: &[u64]| batch.slots.iter().map(|slot| weights[slot.index()]).sum();
        Ok(PlanBatch {
            kind: batch.kind,
            source: layout.places[batch.source].id.to_string(),
            target: layout.places[batch.target].id.to_string(),
            mode: mode(&batch)?,
            keys: sum(&layout.keys),
            bytes: sum(&layout.bytes),
            slots: batch.slots.iter().copied().collect(),
        })
    });
    let batches: Vec<PlanBatch> = planned.collect::<Result<_, NoDraft>>()?;
    let gives = |place: usize| moves.iter().filter(|each| each.source == place).map(|each| each.slots.len()).sum::<usize>();
    let emptied = (0..layout.places.len()).filter(|place| gives(*place) > 0 && gives(*place) == layout.slots_of(*place).count());
    let emptied = emptied.map(|place| layout.places[place].id.to_string()).collect();
    Ok(Plan { emptied, observe_s: request.observe.as_secs(), ..plan_of(inventory, request.words.clone(), batches) })
}

/// A plan of these batches, nothing emptied and nothing observed.
fn plan_of(inventory: &Inventory, asked: String, batches: Vec<PlanBatch>) -> Plan {
    let ends = batches.iter().flat_map(|batch| [&batch.source, &batch.target]);
    Plan {
        id: format!("{:08x}", fastrand::u32(..)),
        asked,
        drafted_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        eta_s: batches.iter().map(estimate).sum::<Duration>().as_secs().max(u64::from(!batches.is_empty())),
        shards: ends.map(|id| shard(inventory, id)).collect(),
        batches,
        observe_s: 0,
        emptied: Vec::new(),
    }
}

/// A master and all who replicate it, in anyone's eyes.
fn shard(inventory: &Inventory, master: &str) -> (String, BTreeSet<String>) {
    let all = inventory.answers().flat_map(|(_, told)| &told.view.nodes);
    let replicas = all.filter(|node| node.master.as_deref() == Some(master)).map(|node| node.id.to_string());
    (master.to_owned(), replicas.chain([master.to_owned()]).collect())
}
