//! Why the coordinator does not do what an operator asks.

use std::time::Duration;

use crate::migrate::draft::NoDraft;
use crate::migrate::machine::Refusal;
use crate::migrate::record::NoRecord;

/// Each reads as an error line: its code first, and what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    #[error("NOMAP expected a slot map, found none: no node of the cluster has answered yet")]
    NoMap,
    #[error("NOPLAN expected a plan, found none: PROXY MIGRATE PLAN makes one")]
    NoPlans,
    #[error(transparent)]
    Record(#[from] NoRecord),
    #[error("ERR {0}")]
    Draft(#[from] NoDraft),
    #[error("WRONGSTATE {0}: see PROXY MIGRATE STATUS")]
    State(#[from] Refusal),
    #[error(
        "NOAPPROVAL plan {plan} moves {slots} slots: expected APPROVE and the code that PROXY MIGRATE PLAN showed, found {found}"
    )]
    NotApproved { plan: String, slots: usize, found: String },
    #[error("BLOCKED {check}: expected {expected}; found {found}. Do: {advice}. PROXY CHECK shows all")]
    Blocked { check: String, expected: String, found: String, advice: String },
    #[error("STALE the cluster has changed since plan {plan} was made: {found}. PROXY MIGRATE PLAN makes a new one")]
    Stale { plan: String, found: String },
    #[error("BUSY plan {plan} is {state}: one plan moves slots at a time")]
    Busy { plan: String, state: String },
    #[error("BUSY plan {plan} is being driven by another instance ({holder})")]
    Driven { plan: String, holder: String },
    #[error(
        "SLOW plan {plan}: its lease was over before all nodes had answered: expected them within migrate.lease ({lease:?}); PROXY CHECK \
         names one that hangs"
    )]
    Slow { plan: String, lease: Duration },
    #[error(
        "NOTYET plan {plan} was told, and has not obeyed within {waited_s} seconds: it does so behind the open slot or job, whoever drives \
         it; see PROXY MIGRATE STATUS {plan}"
    )]
    NotYet { plan: String, waited_s: u64 },
    #[error("REFUSED plan {plan}: {order} was not obeyed: {why}; see PROXY MIGRATE STATUS {plan}")]
    ByDriver { plan: String, order: &'static str, why: String },
    #[error("STOPPED plan {plan}: {order} was obeyed, and the plan is {state} now: {reason}")]
    Stopped { plan: String, order: &'static str, state: &'static str, reason: String },
    #[error(
        "WRONGSTATE plan {plan}: expected one that has ended or was not begun, found one that is {state}: PROXY MIGRATE ABORT {plan}, or wait \
         for the end of its observation"
    )]
    NotOver { plan: String, state: &'static str },
    #[error(
        "UNREPAIRABLE {slots} slots stand open and cannot be finished; slot {slot}: {why}. PROXY MIGRATE REPAIR DRYRUN shows all"
    )]
    Unrepairable { slots: usize, slot: String, why: String },
}
