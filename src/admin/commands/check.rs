//! PROXY CHECK: what speaks against moving slots now.

use serde_json::json;

use super::cluster::no_map;
use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::{Reply, Report};
use crate::cluster::Slot;
use crate::migrate::deep::look;
use crate::migrate::preflight::{Finding, Severity, Verdict, deep, preflight};
use crate::migrate::survey::survey;

pub(super) static CHECK: Definition = Definition {
    name: "PROXY CHECK",
    syntax: "PROXY CHECK [DEEP] [JSON]",
    summary: "Look for what speaks against moving slots",
    help: "It asks every node, masters and replicas, and changes nothing. Each check is ok, a note, a warning or a blocker, with what \
           was expected, what was found, and what to do. A blocker stops a migration from starting. DEEP looks closer, for seconds: at samples of every \
           master's keys for large ones, at the weight of slots, function libraries, snapshots being written, and who waits.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| {
        let is_deep = match arguments {
            [] => false,
            [word] if word.eq_ignore_ascii_case(b"DEEP") => true,
            [word] => return Err(Wrong::Value { expected: "DEEP", found: shown(word) }),
            _ => return Err(Wrong::Count),
        };
        Ok(Handler::later(move |state| {
            let cluster = state.cluster.clone();
            async move {
                let Some(map) = cluster.topology.current() else { return no_map() };
                let inventory = survey(&cluster.dialer, &map).await;
                let mut findings = preflight(&inventory, None);
                if is_deep {
                    findings.extend(deep(&inventory, &look(&cluster.dialer, &inventory, &Slot::all().collect()).await, None));
                }
                report(&findings)
            }
        }))
    },
};

/// Findings as lines, the gravest last, where the eye is, and the verdict behind them.
pub(super) fn report(findings: &[Finding]) -> Reply {
    let verdict = Verdict::of(findings);
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    let mut lines = Vec::new();
    for finding in sorted {
        lines.push(format!("{:<7}  {:<17}  {}", finding.severity.word(), finding.check, finding.expected));
        if finding.severity > Severity::Ok {
            lines.push(format!("         {:<17}  found: {}", "", finding.found));
            lines.push(format!("         {:<17}  do: {}", "", finding.advice));
        }
    }
    let count = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    lines.push(format!(
        "verdict: {} ({} ok, {} notes, {} warnings, {} blockers)",
        verdict.word(),
        count(Severity::Ok),
        count(Severity::Note),
        count(Severity::Warning),
        count(Severity::Blocker)
    ));
    let value = json!({
        "verdict": verdict.word(),
        "findings": findings.iter().map(|finding| json!({
            "check": finding.check,
            "severity": finding.severity.word(),
            "expected": finding.expected,
            "found": finding.found,
            "advice": finding.advice,
        })).collect::<Vec<_>>(),
    });
    Reply::Report(Report { lines, value })
}
