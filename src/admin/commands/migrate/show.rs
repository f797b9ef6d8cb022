//! Plans as operators see them.

use serde_json::{Value, json};

use crate::admin::reply::{Reply, Report};
use crate::admin::text::{columns, moment, size, time};
use crate::migrate::Coordinator;
use crate::migrate::draft::{Draft, Left, OpenSlots};
use crate::migrate::plan::BatchKind;
use crate::migrate::record::{Loaded, LogLine, Pair, Plan};

/// A node as lines show it.
fn who(migrations: &Coordinator, id: &str) -> String {
    migrations.address(id).unwrap_or_else(|| id.get(..8).unwrap_or(id).to_owned())
}

fn row(name: &str, text: String) -> Vec<String> {
    vec![name.to_owned(), text]
}

fn move_lines(migrations: &Coordinator, pairs: &[Pair]) -> Vec<String> {
    let cells = |pair: &Pair| {
        vec![
            "move".to_owned(),
            format!("{} -> {}", who(migrations, pair.source), who(migrations, pair.target)),
            pair.mode.word().to_owned(),
            format!("{} slots", pair.slots.len()),
            format!("{} keys", pair.keys),
            size(pair.bytes),
        ]
    };
    columns(&pairs.iter().map(cells).collect::<Vec<_>>())
}

fn moves_value(migrations: &Coordinator, plan: &Plan) -> Vec<Value> {
    let value = |pair: &Pair| {
        json!({
            "source": pair.source,
            "target": pair.target,
            "slots": pair.slots.len(),
            "keys": pair.keys,
            "bytes": pair.bytes,
            "mode": pair.mode.word(),
            "ranges": pair.slots.to_string(),
            "source_address": migrations.address(pair.source),
            "target_address": migrations.address(pair.target),
        })
    };
    plan.pairs().iter().map(value).collect()
}

pub(super) fn draft(migrations: &Coordinator, draft: &Draft) -> Reply {
    let Draft { plan, risks } = draft;
    let approve = plan.approval();
    let is_empty = plan.batches.is_empty();
    let canary: usize = plan
        .batches
        .iter()
        .filter(|batch| matches!(batch.kind, BatchKind::Probe | BatchKind::Canary))
        .map(|batch| batch.slots.len())
        .sum();
    let mut lines = Vec::new();
    if is_empty {
        lines.push(format!("{}: nothing is to be moved", plan.asked));
    } else {
        lines.extend(columns(&[row("plan", plan.id.clone()), row("asked", plan.asked.clone())]));
        lines.extend(move_lines(migrations, &plan.pairs()));
        let code = approve.as_ref().map(|code| format!(" APPROVE {code}")).unwrap_or_default();
        let mut rows = vec![
            row("total", format!("{} slots, {} keys, {}", plan.slot_count(), plan.keys(), size(plan.bytes()))),
            row("time", format!("about {} in {} batches", time(plan.eta_s), plan.batches.len())),
            row("canary", format!("{canary} slots")),
            row("observe", time(plan.observe_s)),
        ];
        // What is found in several places has one remedy.
        for alike in risks.chunk_by(|one, next| (one.check, &one.advice) == (next.check, &next.advice)) {
            let found: Vec<&str> = alike.iter().map(|risk| risk.found.as_str()).collect();
            rows.push(row(alike[0].severity.word(), format!("{}: {}", alike[0].check, found.join("; "))));
            rows.push(row("", format!("do: {}", alike[0].advice)));
        }
        rows.push(row("next", format!("PROXY MIGRATE START {}{code}", plan.id)));
        lines.extend(columns(&rows));
    }
    let value = json!({
        "plan": if is_empty { Value::Null } else { Value::from(plan.id.as_str()) },
        "moves": moves_value(migrations, plan),
        "needs_approval": approve.is_some(),
        "approve": approve,
        "asked": plan.asked,
        "slots": plan.slot_count(),
        "keys": plan.keys(),
        "bytes": plan.bytes(),
        "eta_seconds": plan.eta_s,
        "batches": plan.batches.len(),
        "canary_slots": canary,
        "observe_seconds": plan.observe_s,
        "risks": risks.iter().map(|risk| json!({
            "check": risk.check,
            "severity": risk.severity.word(),
            "expected": risk.expected,
            "found": risk.found,
            "advice": risk.advice,
        })).collect::<Vec<_>>(),
    });
    Reply::Report(Report { lines, value })
}

pub(super) fn status(migrations: &Coordinator, loaded: &Loaded) -> Reply {
    let Loaded { plan, progress, lease, .. } = loaded;
    let (done, total) = (progress.done.len(), plan.slot_count());
    let eta = progress.eta(plan).as_secs();
    let driver = lease.as_deref().and_then(|lease| lease.split_once(' ')).map(|(_, holder)| holder.to_owned());
    let mut rows = vec![
        row("plan", plan.id.clone()),
        row("asked", plan.asked.clone()),
        row("state", progress.standing.state.word().to_owned()),
    ];
    if !progress.standing.reason.is_empty() {
        rows.push(row("reason", progress.standing.reason.clone()));
    }
    rows.push(row("slots", format!("{done} of {total}")));
    rows.push(row("keys", format!("{} of about {}", progress.keys_moved, plan.keys())));
    rows.push(row("left", time(eta)));
    rows.push(row("driver", driver.clone().unwrap_or_else(|| "none".to_owned())));
    for gate in &progress.gates {
        rows.push(row(&format!("gate {}", gate.gate), format!("{}: {}", if gate.open { "open" } else { "closed" }, gate.found)));
    }
    let gates = progress.gates.iter().map(|gate| json!({"gate": gate.gate, "open": gate.open, "found": gate.found}));
    let value = json!({
        "plan": plan.id,
        "state": progress.standing.state.word(),
        "reason": progress.standing.reason,
        "slots_done": done,
        "slots_total": total,
        "keys_moved": progress.keys_moved,
        "eta_seconds": eta,
        "gates": gates.collect::<Vec<_>>(),
        "asked": plan.asked,
        "keys_total": plan.keys(),
        "driver": driver,
        "moves": moves_value(migrations, plan),
        "observed_from_ms": progress.observed_from_ms,
        "observe_seconds": plan.observe_s,
    });
    Reply::Report(Report { lines: columns(&rows), value })
}

pub(super) fn list(all: &[Loaded]) -> Reply {
    let title = ["plan", "state", "slots", "made", "asked"].map(str::to_owned).to_vec();
    let cells = |loaded: &Loaded| {
        vec![
            loaded.plan.id.clone(),
            loaded.progress.standing.state.word().to_owned(),
            format!("{}/{}", loaded.progress.done.len(), loaded.plan.slot_count()),
            moment(loaded.plan.drafted_ms),
            loaded.plan.asked.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(title).chain(all.iter().map(cells)).collect();
    let value = all.iter().map(|loaded| {
        json!({
            "plan": loaded.plan.id,
            "state": loaded.progress.standing.state.word(),
            "reason": loaded.progress.standing.reason,
            "slots_done": loaded.progress.done.len(),
            "slots_total": loaded.plan.slot_count(),
            "drafted_ms": loaded.plan.drafted_ms,
            "asked": loaded.plan.asked,
        })
    });
    Reply::Report(Report { lines: columns(&rows), value: value.collect() })
}

pub(super) fn log(lines: &[LogLine]) -> Reply {
    let ms = |line: &LogLine| line.id.split('-').next().and_then(|ms| ms.parse::<u64>().ok()).unwrap_or(0);
    let shown = lines.iter().map(|line| format!("{}  {}", moment(ms(line)), line.text)).collect();
    let value = lines.iter().map(|line| json!({"time_ms": ms(line), "text": line.text})).collect();
    Reply::Report(Report { lines: shown, value })
}

/// The slots that stand open, and where they would go.
pub(super) fn open(migrations: &Coordinator, open: &OpenSlots) -> Reply {
    let pairs = open.plan.pairs();
    let cells = |pair: &Pair| {
        vec![
            "open".to_owned(),
            pair.slots.to_string(),
            format!("{} -> {}", who(migrations, pair.source), who(migrations, pair.target)),
            format!("{} keys left", pair.keys),
        ]
    };
    let mut lines = columns(&pairs.iter().map(cells).collect::<Vec<_>>());
    match (pairs.is_empty(), open.left.is_empty()) {
        (true, true) => lines.push("no slot stands open".to_owned()),
        (true, false) => {}
        (false, _) => lines.push("next  PROXY MIGRATE REPAIR".to_owned()),
    }
    let value = json!({"plan": null, "open": moves_value(migrations, &open.plan)});
    with_left(Reply::Report(Report { lines, value }), &open.left)
}

/// Says which slots stand open and cannot be finished.
pub(super) fn with_left(mut reply: Reply, left: &[Left]) -> Reply {
    if let Reply::Report(Report { lines, value }) = &mut reply {
        lines.extend(left.iter().map(|left| format!("slot {} cannot be repaired: {}", left.slot, left.why)));
        value["left"] = left.iter().map(|left| json!({"slot": left.slot.index(), "why": left.why})).collect();
    }
    reply
}
