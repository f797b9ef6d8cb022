//! PURE. What speaks against moving slots now: every check tells what it expected, what it found, and what to do.

mod capacity;
mod deep;
mod health;
mod settings;

pub use deep::deep;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Inventory;
use super::inventory::{Told, short};
use super::plan::{Layout, Move};
use super::slot_set::SlotSet;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Ok,
    /// Worth knowing.
    Note,
    /// It may go wrong.
    Warning,
    /// It must not start.
    Blocker,
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Blocker => "blocker",
        }
    }
}

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check's name, for scripts.
    pub check: &'static str,
    pub severity: Severity,
    pub expected: String,
    pub found: String,
    /// What to do about it; empty when all is well.
    pub advice: String,
}

/// What is to be moved, for the checks that depend on it.
#[derive(Clone, Copy)]
pub struct Intent<'a> {
    pub layout: &'a Layout,
    pub moves: &'a [Move],
    /// All that is to move, also where an end is gone; and what of it goes by the classic protocol.
    pub slots: &'a SlotSet,
    pub classic: &'a SlotSet,
}

impl Intent<'_> {
    fn sources(&self) -> BTreeSet<Arc<str>> {
        self.moves.iter().map(|each| self.layout.places[each.source].id.clone()).collect()
    }

    fn targets(&self) -> BTreeSet<Arc<str>> {
        self.moves.iter().map(|each| self.layout.places[each.target].id.clone()).collect()
    }
}

/// What all findings together say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Warning,
    Blocked,
}

impl Verdict {
    pub fn of(findings: &[Finding]) -> Verdict {
        match findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Blocker) => Verdict::Blocked,
            Some(Severity::Warning) => Verdict::Warning,
            _ => Verdict::Ok,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Blocked => "blocked",
        }
    }
}

/// Every check, in the order in which they are worth reading. Without an intent those that need one look at the cluster as a whole.
pub fn preflight(inventory: &Inventory, intent: Option<Intent>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for check in [
        health::reachable,
        health::coverage,
        health::agreement,
        health::open_slots,
        health::atomic_jobs,
        health::orphans,
        health::epochs,
        health::flags,
        health::replicas,
        health::software,
        health::modules,
        health::functions,
        health::rights,
        capacity::memory,
        capacity::eviction,
        settings::node_timeout,
        settings::full_coverage,
        settings::replica_migration,
        settings::atomic_mode,
    ] {
        findings.extend(check(inventory, intent));
    }
    findings
}

fn fine(check: &'static str, expected: &str) -> Vec<Finding> {
    vec![Finding { check, severity: Severity::Ok, expected: expected.into(), found: "so it is".into(), advice: String::new() }]
}

fn finding(check: &'static str, severity: Severity, expected: &str, found: String, advice: &str) -> Finding {
    Finding { check, severity, expected: expected.into(), found, advice: advice.into() }
}

/// `name of addr`: how findings name a node.
fn who(inventory: &Inventory, id: &str) -> String {
    match inventory.find(id) {
        Some(node) => format!("{} ({})", node.addr, short(id)),
        None => short(id).to_owned(),
    }
}

/// The first few of many, and how many more there are.
fn some_of(items: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let count = items.len();
    let shown: Vec<String> = items.take(SHOWN).collect();
    let more = if count > SHOWN { format!(" and {} more", count - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

/// Whether a node is an end of a planned move; without a plan every master is.
fn takes_part(intent: Option<Intent>, id: &Arc<str>, told: &Told) -> bool {
    match intent {
        Some(intent) => intent.sources().contains(id) || intent.targets().contains(id),
        None => told.is_master(),
    }
}

#[cfg(test)]
pub(super) mod tests;
