//! PURE. Whether a plan may go on, from what the nodes show while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::SlotSet;
use super::inventory::{Inventory, short};
use super::record::{Gate, Plan};
use crate::cluster::{OpenMark, SLOT_COUNT, Slot};

/// From where on a gate closes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateLimits {
    /// Bytes of the replication stream that a replica may be behind.
    pub lag_bytes: u64,
    /// Share of `maxmemory` that a target may fill, in percent.
    pub fill_percent: u64,
    /// The 99th percentile of PING at an end may be so many times what it was before anything moved.
    pub latency_factor: f64,
    /// And is never held against a node below this.
    pub latency: Duration,
    /// Errors of a node's own trouble among a hundred commands.
    pub error_percent: u64,
}

impl Default for GateLimits {
    fn default() -> GateLimits {
        GateLimits {
            lag_bytes: 64 << 20,
            fill_percent: 90,
            latency_factor: 10.0,
            latency: Duration::from_millis(100),
            error_percent: 1,
        }
    }
}

/// Fewer errors than these between two looks are nobody's trouble.
const ERRORS_MIN: u64 = 10;

/// What is seen at one moment.
#[derive(Clone, Debug, Default)]
pub struct Glance {
    /// Without keys.
    pub inventory: Inventory,
    /// The 99th percentile of PING, by node.
    pub latency: BTreeMap<String, Duration>,
    /// Errors of the node's own trouble, and commands, since the last look; by node.
    pub errors: BTreeMap<String, (u64, u64)>,
}

/// What was seen before anything moved.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    pub latency: BTreeMap<String, Duration>,
    /// Replicas that were online, by master.
    pub replicas: BTreeMap<String, usize>,
}

impl Baseline {
    pub fn of(glance: &Glance) -> Baseline {
        let online = |told: &super::inventory::Told| told.replica_links().iter().filter(|link| link.online).count();
        let masters = glance.inventory.masters().map(|(node, told)| (node.id.to_string(), online(told)));
        Baseline { latency: glance.latency.clone(), replicas: masters.collect() }
    }
}

/// What the plan is about just now.
#[derive(Clone, Copy)]
pub struct Moving<'a> {
    pub plan: &'a Plan,
    /// The slots under way: their marks and owners change.
    pub open: &'a SlotSet,
}

/// All gates, in the order in which they are worth reading.
pub fn judge(now: &Glance, before: &Baseline, moving: Moving, limits: &GateLimits) -> Vec<Gate> {
    vec![
        gate("reachable", "all nodes answer", reachable(now)),
        gate("coverage", "16384 slots in every view", coverage(now)),
        gate("agreement", "all nodes name the same owners", agreement(now, moving)),
        gate("foreign", "nobody else moves slots", foreign(now, moving)),
        gate("replicas", "online and up to date", replicas(now, before, moving, limits)),
        gate("memory", "targets have room", memory(now, moving, limits)),
        gate("latency", "as before", latency(now, before, limits)),
        gate("errors", "none of the nodes' own trouble", errors(now, limits)),
    ]
}

fn gate(name: &str, fine: &str, wrong: Vec<String>) -> Gate {
    const SHOWN: usize = 3;
    let more = if wrong.len() > SHOWN { format!(" and {} more", wrong.len() - SHOWN) } else { String::new() };
    let found = if wrong.is_empty() { fine.to_owned() } else { format!("{}{more}", wrong[..wrong.len().min(SHOWN)].join("; ")) };
    Gate { gate: name.to_owned(), open: wrong.is_empty(), found }
}

/// Members of a shard, by the id of the master that it had when the plan was made.
fn members<'a>(plan: &'a Plan, id: &'a str) -> BTreeSet<&'a str> {
    plan.shards.get(id).into_iter().flatten().map(String::as_str).chain([id]).collect()
}

fn reachable(now: &Glance) -> Vec<String> {
    // A replica that is away is the matter of its master's gate.
    let is_master = |id: &str| {
        now.inventory
            .answers()
            .any(|(_, told)| told.view.nodes.iter().any(|node| &*node.id == id && node.flags.master && !node.flags.fail))
    };
    let silent = now.inventory.nodes.iter().filter(|node| is_master(&node.id));
    silent.filter_map(|node| node.told.as_ref().err().cloned()).collect()
}

fn coverage(now: &Glance) -> Vec<String> {
    let bad =
        |told: &super::inventory::Told, name: &str| told.cluster.number(name).is_some_and(|count| count != SLOT_COUNT as u64);
    now.inventory
        .masters()
        .filter(|(_, told)| {
            bad(told, "cluster_slots_assigned")
                || bad(told, "cluster_slots_ok")
                || told.cluster.get("cluster_state") != Some("ok")
        })
        .map(|(node, told)| {
            let field = |name| told.cluster.get(name).unwrap_or("?");
            format!(
                "{} sees {} assigned, {} served, state {}",
                node.addr,
                field("cluster_slots_assigned"),
                field("cluster_slots_ok"),
                field("cluster_state")
            )
        })
        .collect()
}

fn agreement(now: &Glance, moving: Moving) -> Vec<String> {
    let differ = now.inventory.disagreements().into_iter().filter(|each| !moving.open.contains(each.slot));
    let slots: SlotSet = differ.map(|each| each.slot).collect();
    if slots.is_empty() { Vec::new() } else { vec![format!("nodes differ about the owners of {slots}")] }
}

fn foreign(now: &Glance, moving: Moving) -> Vec<String> {
    let plan = moving.plan;
    let is_ours = |slot: Slot, holder: &str, other: &str| {
        let Some(batch) = plan.batch_of(slot) else { return false };
        let (source, target) = (members(plan, &batch.source), members(plan, &batch.target));
        source.contains(holder) && target.contains(other) || target.contains(holder) && source.contains(other)
    };
    let mut wrong: Vec<String> = now
        .inventory
        .open_slots()
        .into_iter()
        .filter_map(|mark| {
            let (slot, other, what) = match &mark.mark {
                OpenMark::Migrating { slot, to } => (*slot, to.clone(), "gives away"),
                OpenMark::Importing { slot, from } => (*slot, from.clone(), "takes in"),
            };
            (!is_ours(slot, &mark.holder, &other))
                .then(|| format!("{} {what} slot {slot}, which no plan moves now", short(&mark.holder)))
        })
        .collect();
    let owners = now.inventory.owners();
    for batch in &plan.batches {
        let ends: BTreeSet<&str> = members(plan, &batch.source).union(&members(plan, &batch.target)).copied().collect();
        let gone: SlotSet = batch
            .slots
            .iter()
            .filter(|slot| owners[slot.index()].as_ref().is_some_and(|owner| !ends.contains(&**owner)))
            .collect();
        if !gone.is_empty() {
            wrong.push(format!("{gone} went to neither end of the move"));
        }
    }
    wrong
}

fn ends(plan: &Plan) -> BTreeSet<&str> {
    plan.nodes().into_iter().flat_map(|id| members(plan, id)).collect()
}

fn replicas(now: &Glance, before: &Baseline, moving: Moving, limits: &GateLimits) -> Vec<String> {
    let ends = ends(moving.plan);
    let mut wrong = Vec::new();
    for (node, told) in now.inventory.masters().filter(|(node, _)| ends.contains(&*node.id)) {
        let links = told.replica_links();
        let online = links.iter().filter(|link| link.online).count();
        let had = before.replicas.get(&*node.id).copied().unwrap_or(0);
        if online < had {
            wrong.push(format!("{} has {online} replicas online and had {had}", node.addr));
        }
        let behind = links.iter().filter(|link| link.online && link.lag_bytes > limits.lag_bytes);
        wrong.extend(behind.map(|link| format!("{} is {} bytes behind {}", link.addr, link.lag_bytes, node.addr)));
    }
    wrong
}

fn memory(now: &Glance, moving: Moving, limits: &GateLimits) -> Vec<String> {
    let targets: BTreeSet<&str> = moving.plan.batches.iter().flat_map(|batch| members(moving.plan, &batch.target)).collect();
    let full = now.inventory.masters().filter(|(node, _)| targets.contains(&*node.id)).filter_map(|(node, told)| {
        let limit = told.info.number("maxmemory").filter(|limit| *limit > 0)?;
        let used = told.info.number("used_memory").unwrap_or(0);
        (used > limit / 100 * limits.fill_percent)
            .then(|| format!("{} uses {used} of {limit} bytes: raise its maxmemory", node.addr))
    });
    full.collect()
}

fn latency(now: &Glance, before: &Baseline, limits: &GateLimits) -> Vec<String> {
    let slow = now.latency.iter().filter_map(|(id, found)| {
        let was = before.latency.get(id).copied().unwrap_or_default();
        let limit = limits.latency.max(was.mul_f64(limits.latency_factor));
        let addr = now.inventory.find(id).map_or(id.clone(), |node| node.addr.to_string());
        (*found > limit).then(|| {
            format!("{addr} answers PING within {found:.0?} (p99), {was:.0?} before: PROXY MIGRATE THROTTLE makes it gentler")
        })
    });
    slow.collect()
}

fn errors(now: &Glance, limits: &GateLimits) -> Vec<String> {
    let many = now
        .errors
        .iter()
        .filter(|(_, (errors, commands))| *errors >= ERRORS_MIN && errors * 100 > commands * limits.error_percent);
    many.map(|(id, (errors, commands))| {
        let addr = now.inventory.find(id).map_or(id.clone(), |node| node.addr.to_string());
        format!("{addr} answered {errors} of {commands} commands with OOM, CLUSTERDOWN, LOADING, MISCONF or NOREPLICAS")
    })
    .collect()
}

/// Keeps a gate open until it was found closed so often in a row that it is no news under way.
#[derive(Clone, Debug, Default)]
pub struct Streaks(BTreeMap<String, u32>);

impl Streaks {
    fn needed(gate: &str) -> u32 {
        match gate {
            "memory" => 1,
            "foreign" => 2,
            // A view may be a moment behind, and one slow answer is no trend.
            _ => 4,
        }
    }

    /// The gates as they are to be believed.
    pub fn believe(&mut self, gates: Vec<Gate>) -> Vec<Gate> {
        gates
            .into_iter()
            .map(|gate| {
                let streak = self.0.entry(gate.gate.clone()).or_default();
                *streak = if gate.open { 0 } else { *streak + 1 };
                Gate { open: *streak < Streaks::needed(&gate.gate), ..gate }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
