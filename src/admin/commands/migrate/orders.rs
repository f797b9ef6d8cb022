//! PROXY MIGRATE START, PAUSE, RESUME, ABORT, ROLLBACK and THROTTLE.

use std::future::Future;
use std::time::Duration;

use super::show;
use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::Reply;
use crate::config::{parse_duration, parse_size};
use crate::migrate::Coordinator;
use crate::migrate::coordinator::{Refused, ThrottleChange};
use crate::migrate::machine::Order;
use crate::migrate::record::Loaded;

pub(in crate::admin::commands) static START: Definition = Definition {
    name: "PROXY MIGRATE START",
    syntax: "PROXY MIGRATE START plan [APPROVE code] [JSON]",
    summary: "Start a plan",
    help: "All checks of PROXY CHECK are made again for this plan, and a blocker stops it. Plans of more than 1000 slots, or of 500 slots with \
           more than 10 GB, need the code that PROXY MIGRATE PLAN showed. This instance drives the plan; if it dies, another goes on.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| {
        let (name, code) = match arguments {
            [name] => (shown(name), None),
            [name, word, code] if word.eq_ignore_ascii_case(b"APPROVE") => (shown(name), Some(shown(code))),
            [_, word, _] => return Err(Wrong::Value { expected: "APPROVE", found: shown(word) }),
            _ => return Err(Wrong::Count),
        };
        Ok(shown_when_done(async move |migrations: Coordinator| migrations.start(&name, code.as_deref()).await))
    },
};

pub(in crate::admin::commands) static PAUSE: Definition = Definition {
    name: "PROXY MIGRATE PAUSE",
    syntax: "PROXY MIGRATE PAUSE plan [JSON]",
    summary: "Let a plan stop behind the open slot",
    help: "It stays paused until PROXY MIGRATE RESUME, ABORT or ROLLBACK. The reply waits for the open slot, but no more than 5 seconds longer \
           than migrate.lease: then it says NOTYET, and the order stands.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| ordered(arguments, Order::Pause),
};

pub(in crate::admin::commands) static RESUME: Definition = Definition {
    name: "PROXY MIGRATE RESUME",
    syntax: "PROXY MIGRATE RESUME plan [JSON]",
    summary: "Let a paused plan go on",
    help: "Also one that a gate has paused, or that waits for an operator: what stood in its way is looked at again. If it is still there, the \
           reply is the error STOPPED and why.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| ordered(arguments, Order::Resume),
};

pub(in crate::admin::commands) static ABORT: Definition = Definition {
    name: "PROXY MIGRATE ABORT",
    syntax: "PROXY MIGRATE ABORT plan [JSON]",
    summary: "Give a plan up behind the open slot",
    help: "What has moved stays where it is; PROXY MIGRATE ROLLBACK takes it back.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| ordered(arguments, Order::Abort),
};

pub(in crate::admin::commands) static ROLLBACK: Definition = Definition {
    name: "PROXY MIGRATE ROLLBACK",
    syntax: "PROXY MIGRATE ROLLBACK plan [JSON]",
    summary: "Move back what a plan has moved",
    help: "The latest slots first, with the same care. An open slot goes to its end before. It can be paused, resumed and aborted.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| ordered(arguments, Order::Rollback),
};

pub(in crate::admin::commands) static THROTTLE: Definition = Definition {
    name: "PROXY MIGRATE THROTTLE",
    syntax: "PROXY MIGRATE THROTTLE plan [BLOCK time] [KEYS n] [BYTES size] [DUTY pct] [JOB n] [REST time] [JSON]",
    summary: "Make a plan gentler or faster",
    help: "Mode classic: how long one MIGRATE may block its source (3ms; small keys that gain little by it go in shorter ones), the most keys (1000) and bytes (1mb) in one, and the share of its time \
           that a source spends on it (90). Mode atomic: the most keys in one job (20000), from the next one on, and the rest between two jobs (0); \
           what a job does in its own time no server lets us slow. What is not named stays.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| {
        let (name, settings) = arguments.split_first().ok_or(Wrong::Count)?;
        let (name, change) = (shown(name), throttle(settings)?);
        Ok(shown_when_done(async move |migrations: Coordinator| migrations.throttle(&name, change).await))
    },
};

/// The plan's status when it is so, or why not.
fn shown_when_done<F: Future<Output = Result<Loaded, Refused>> + Send>(
    act: impl FnOnce(Coordinator) -> F + Send + 'static,
) -> Handler {
    Handler::later(move |state| {
        let migrations = state.migrations.clone();
        async move {
            match act(migrations.clone()).await {
                Ok(loaded) => show::status(&migrations, &loaded),
                Err(refused) => Reply::Error(refused.to_string()),
            }
        }
    })
}

fn ordered(arguments: &[&[u8]], order: Order) -> Result<Handler, Wrong> {
    let [name] = arguments else { return Err(Wrong::Count) };
    let name = shown(name);
    Ok(shown_when_done(async move |migrations: Coordinator| migrations.order(&name, order).await))
}

fn throttle(settings: &[&[u8]]) -> Result<ThrottleChange, Wrong> {
    let mut change = ThrottleChange::default();
    let mut pairs = settings.chunks_exact(2);
    for pair in &mut pairs {
        let (name, value) = (pair[0], shown(pair[1]));
        let wrong = |expected| Wrong::Value { expected, found: value.clone() };
        if name.eq_ignore_ascii_case(b"BLOCK") {
            let limits = Duration::from_millis(1)..=Duration::from_secs(10);
            let block = parse_duration(&value).filter(|block| limits.contains(block));
            change.block = Some(block.ok_or_else(|| wrong("a time from 1ms to 10s"))?);
        } else if name.eq_ignore_ascii_case(b"KEYS") {
            let keys = value.parse().ok().filter(|keys| (1..=1_000_000).contains(keys));
            change.keys = Some(keys.ok_or_else(|| wrong("a number of keys from 1 to 1000000"))?);
        } else if name.eq_ignore_ascii_case(b"BYTES") {
            let bytes = parse_size(&value).filter(|bytes| *bytes > 0);
            change.bytes = Some(bytes.ok_or_else(|| wrong("a size such as 1mb"))? as u64);
        } else if name.eq_ignore_ascii_case(b"DUTY") {
            let percent =
                value.strip_suffix('%').unwrap_or(&value).parse::<f64>().ok().filter(|percent| (1.0..=100.0).contains(percent));
            change.duty = Some(percent.ok_or_else(|| wrong("a share from 1 to 100 percent"))? / 100.0);
        } else if name.eq_ignore_ascii_case(b"JOB") {
            let keys = value.parse().ok().filter(|keys| (1..=100_000_000).contains(keys));
            change.job = Some(keys.ok_or_else(|| wrong("a number of keys from 1 to 100000000"))?);
        } else if name.eq_ignore_ascii_case(b"REST") {
            let rest = parse_duration(&value).filter(|rest| *rest <= Duration::from_secs(3600));
            change.rest = Some(rest.ok_or_else(|| wrong("a time from 0 to 1h"))?);
        } else {
            return Err(Wrong::Value { expected: "BLOCK, KEYS, BYTES, DUTY, JOB or REST", found: shown(name) });
        }
    }
    if pairs.remainder().is_empty() { Ok(change) } else { Err(Wrong::Count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_throttle() {
        let parsed = |line: &str| {
            let words: Vec<&[u8]> = line.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes).collect();
            throttle(&words)
        };
        assert_eq!(parsed(""), Ok(ThrottleChange::default()));
        let change = parsed("block 5ms KEYS 10 bytes 64kb DUTY 25% Job 5000 REST 2s").expect("all six");
        let expected = ThrottleChange {
            block: Some(Duration::from_millis(5)),
            keys: Some(10),
            bytes: Some(65_536),
            duty: Some(0.25),
            job: Some(5000),
            rest: Some(Duration::from_secs(2)),
        };
        assert_eq!(change, expected);
        for wrong in ["BLOCK", "BLOCK 0", "BLOCK 11s", "KEYS 0", "BYTES 0", "DUTY 0", "DUTY 101", "JOB 0", "REST 2h", "SPEED 1"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
