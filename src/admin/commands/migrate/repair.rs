//! PROXY MIGRATE VERIFY, REPAIR, ADOPT and FORGET.

use super::show;
use crate::admin::commands::check::report;
use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::{Reply, Report};

pub(in crate::admin::commands) static VERIFY: Definition = Definition {
    name: "PROXY MIGRATE VERIFY",
    syntax: "PROXY MIGRATE VERIFY plan [JSON]",
    summary: "Look whether what a plan has moved is where it should be",
    help: "Owners in every node's view, marks, running jobs, and keys where nobody can see them. It changes nothing.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| {
        let [name] = arguments else { return Err(Wrong::Count) };
        let name = shown(name);
        Ok(Handler::later(move |state| {
            let migrations = state.migrations.clone();
            async move {
                match migrations.verify(&name).await {
                    Ok((_, findings)) => report(&findings),
                    Err(refused) => Reply::Error(refused.to_string()),
                }
            }
        }))
    },
};

pub(in crate::admin::commands) static REPAIR: Definition = Definition {
    name: "PROXY MIGRATE REPAIR",
    syntax: "PROXY MIGRATE REPAIR [DRYRUN] [JSON]",
    summary: "Finish the slots that stand open",
    help: "Slots that some tool has begun to move and left open are moved to their end, as a plan of their own. DRYRUN shows them, \
           and those of which an end is gone for good, with what to do.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| {
        let is_dry = match arguments {
            [] => false,
            [word] if word.eq_ignore_ascii_case(b"DRYRUN") => true,
            [word] => return Err(Wrong::Value { expected: "DRYRUN or nothing", found: shown(word) }),
            _ => return Err(Wrong::Count),
        };
        Ok(Handler::later(move |state| {
            let migrations = state.migrations.clone();
            async move {
                let outcome = if is_dry {
                    migrations.open_slots().await.map(|open| show::open(&migrations, &open))
                } else {
                    migrations.repair().await.map(|(loaded, left)| {
                        loaded.map_or_else(nothing_open, |loaded| show::with_left(show::status(&migrations, &loaded), &left))
                    })
                };
                outcome.unwrap_or_else(|refused| Reply::Error(refused.to_string()))
            }
        }))
    },
};

pub(in crate::admin::commands) static ADOPT: Definition = Definition {
    name: "PROXY MIGRATE ADOPT",
    syntax: "PROXY MIGRATE ADOPT [JSON]",
    summary: "Make a plan of the slots that stand open",
    help: "For when the record of the plan that opened them is lost. The plan is paused: RESUME finishes the slots, ROLLBACK finishes them and \
           moves them back.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| match arguments {
        [] => Ok(Handler::later(|state| {
            let migrations = state.migrations.clone();
            async move {
                match migrations.adopt().await {
                    Ok((Some(loaded), left)) => show::with_left(show::status(&migrations, &loaded), &left),
                    Ok((None, _)) => nothing_open(),
                    Err(refused) => Reply::Error(refused.to_string()),
                }
            }
        })),
        _ => Err(Wrong::Count),
    },
};

pub(in crate::admin::commands) static FORGET: Definition = Definition {
    name: "PROXY MIGRATE FORGET",
    syntax: "PROXY MIGRATE FORGET plan [JSON]",
    summary: "Drop the record of a plan that has ended, or that nobody can read",
    help: "No slot moves, and what has moved stays where it is; it cannot be rolled back any more. Not while the plan is driven or may hold slots. \
           A record that cannot be read stands in the way of all plans if it was the one that held slots: PROXY MIGRATE REPAIR DRYRUN then shows \
           what it has left open.",
    since: "0.1.0",
    role: Role::Operator,
    parse: |arguments| {
        let [name] = arguments else { return Err(Wrong::Count) };
        let name = shown(name);
        Ok(Handler::later(move |state| {
            let migrations = state.migrations.clone();
            async move {
                match migrations.forget(&name).await {
                    Ok(id) => {
                        let lines = vec![format!("forgotten  {id}"), "next       PROXY MIGRATE REPAIR DRYRUN".to_owned()];
                        Reply::Report(Report { lines, value: serde_json::json!({"forgotten": id}) })
                    }
                    Err(refused) => Reply::Error(refused.to_string()),
                }
            }
        }))
    },
};

fn nothing_open() -> Reply {
    let value = serde_json::json!({"plan": null, "open": []});
    Reply::Report(Report { lines: vec!["no slot stands open".to_owned()], value })
}
