//! PROXY MIGRATE STATUS, LIST and LOG.

use super::show;
use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::Reply;

/// Lines of log that are shown, unless the command says how many.
const LOG_LINES: usize = 50;
const LOG_LINES_MAX: usize = 10_000;

pub(in crate::admin::commands) static STATUS: Definition = Definition {
    name: "PROXY MIGRATE STATUS",
    syntax: "PROXY MIGRATE STATUS [plan] [JSON]",
    summary: "Show where a plan stands",
    help: "Without a name: the plan that moves slots now, or else the latest. Any instance knows of all plans.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| {
        let name = match arguments {
            [] => None,
            [name] => Some(shown(name)),
            _ => return Err(Wrong::Count),
        };
        Ok(Handler::later(move |state| {
            let migrations = state.migrations.clone();
            async move {
                match migrations.status(name.as_deref()).await {
                    Ok(loaded) => show::status(&migrations, &loaded),
                    Err(refused) => Reply::Error(refused.to_string()),
                }
            }
        }))
    },
};

pub(in crate::admin::commands) static LIST: Definition = Definition {
    name: "PROXY MIGRATE LIST",
    syntax: "PROXY MIGRATE LIST [JSON]",
    summary: "List all plans, the latest first",
    help: "Plans that were never started are forgotten after 24 hours, others 30 days behind their end.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [] => Ok(Handler::later(|state| {
            let migrations = state.migrations.clone();
            async move {
                match migrations.list().await {
                    Ok(all) => show::list(&all),
                    Err(refused) => Reply::Error(refused.to_string()),
                }
            }
        })),
        _ => Err(Wrong::Count),
    },
};

pub(in crate::admin::commands) static LOG: Definition = Definition {
    name: "PROXY MIGRATE LOG",
    syntax: "PROXY MIGRATE LOG plan [count] [JSON]",
    summary: "Show the latest lines of a plan's log",
    help: "The oldest first, 50 unless count says so. SUBSCRIBE keyway:migrations shows them as they come.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| {
        let (name, count) = match arguments {
            [name] => (shown(name), LOG_LINES),
            [name, count] => {
                let number = std::str::from_utf8(count).ok().and_then(|text| text.parse().ok());
                let number = number.filter(|number| (1..=LOG_LINES_MAX).contains(number));
                (shown(name), number.ok_or(Wrong::Value { expected: "a number of lines from 1 to 10000", found: shown(count) })?)
            }
            _ => return Err(Wrong::Count),
        };
        Ok(Handler::later(move |state| {
            let migrations = state.migrations.clone();
            async move {
                match migrations.log(&name, count).await {
                    Ok(lines) => show::log(&lines),
                    Err(refused) => Reply::Error(refused.to_string()),
                }
            }
        }))
    },
};
