//! PROXY MIGRATE PLAN.

use super::ask::{parse_drain, parse_fill, parse_move, parse_rebalance};
use super::show;
use crate::admin::definition::{Definition, Handler, Role, Wrong};
use crate::admin::reply::Reply;
use crate::migrate::draft::Request;

pub(in crate::admin::commands) static MOVE: Definition = Definition {
    name: "PROXY MIGRATE PLAN MOVE",
    syntax: "PROXY MIGRATE PLAN MOVE slots FROM node TO node [CANARY n|pct] [MODE AUTO|CLASSIC|ATOMIC] [OBSERVE time] [JSON]",
    summary: "Plan to move slots from one master to another",
    help: "Slots are written 0-99,200. A node is named by its id, an unambiguous beginning of it, its address or its hostname. The plan is \
           shown and kept for 24 hours; nothing moves before PROXY MIGRATE START. CANARY is how much moves before everything is looked at \
           for the first time (1% of the slots), OBSERVE how long the gates stay armed behind the last slot (24h).",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| parse_move(arguments).and_then(planned),
};

pub(in crate::admin::commands) static REBALANCE: Definition = Definition {
    name: "PROXY MIGRATE PLAN REBALANCE",
    syntax: "PROXY MIGRATE PLAN REBALANCE [BY SLOTS|KEYS|BYTES|CPU] [WEIGHT node=weight ...] [TOLERANCE pct] [CANARY n|pct] \
             [MODE AUTO|CLASSIC|ATOMIC] [OBSERVE time] [JSON]",
    summary: "Plan to give every master its part",
    help: "Each master's part is its weight by the sum of all (1 where none is given; one of weight 0 ends up empty). Masters that are off \
           their part by no more than TOLERANCE (2%) are left alone. BY SLOTS if nothing else is said; bytes are sampled, CPU needs \
           cluster-slot-stats-enabled yes on the nodes (Redis 8.2, Valkey 8). Nothing moves before PROXY MIGRATE START.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| parse_rebalance(arguments).and_then(planned),
};

pub(in crate::admin::commands) static DRAIN: Definition = Definition {
    name: "PROXY MIGRATE PLAN DRAIN",
    syntax: "PROXY MIGRATE PLAN DRAIN node [CANARY n|pct] [MODE AUTO|CLASSIC|ATOMIC] [OBSERVE time] [JSON]",
    summary: "Plan to take all slots from a master",
    help: "The others get them by what they lack of an even part. The drained master stays a master without slots until it is forgotten. \
           Nothing moves before PROXY MIGRATE START.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| parse_drain(arguments).and_then(planned),
};

pub(in crate::admin::commands) static FILL: Definition = Definition {
    name: "PROXY MIGRATE PLAN FILL",
    syntax: "PROXY MIGRATE PLAN FILL node [SHARE pct] [CANARY n|pct] [MODE AUTO|CLASSIC|ATOMIC] [OBSERVE time] [JSON]",
    summary: "Plan to give a master its part",
    help: "It ends up with SHARE percent of everything, or with an even part; the others give by what they have too much. Nothing moves \
           before PROXY MIGRATE START.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| parse_fill(arguments).and_then(planned),
};

fn planned(request: Request) -> Result<Handler, Wrong> {
    Ok(Handler::later(move |state| {
        let migrations = state.migrations.clone();
        async move {
            match migrations.plan(&request).await {
                Ok(draft) => show::draft(&migrations, &draft),
                Err(refused) => Reply::Error(refused.to_string()),
            }
        }
    }))
}
