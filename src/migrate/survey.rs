//! Asks every node of the cluster what a migration must know. It reads only.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::inventory::{Atomic, Fields, Inventory, NodeReport, Server, Told};
use crate::cluster::{Addr, NodesView, SLOT_COUNT, SlotMap};
use crate::control::{Connection, Dialer, Pipeline, Reply};

/// All of one node's answers together must come within this.
const NODE_LIMIT: Duration = Duration::from_secs(10);

/// Settings that a migration looks at. Asked one by one: 6.2 takes one pattern a question.
const SETTINGS: [&str; 9] = [
    "cluster-node-timeout",
    "cluster-require-full-coverage",
    "cluster-allow-replica-migration",
    "cluster-migration-barrier",
    "cluster-databases",
    "maxmemory",
    "maxmemory-policy",
    "proto-max-bulk-len",
    "client-output-buffer-limit",
];

/// Asks all nodes of the map at once.
pub async fn survey(dialer: &Dialer, map: &SlotMap) -> Inventory {
    ask_all(dialer, map, Depth::Whole).await
}

/// Asks all nodes at once for what changes while slots move: their views, CLUSTER INFO and INFO. Cheap enough for every second.
pub async fn glance(dialer: &Dialer, map: &SlotMap) -> Inventory {
    ask_all(dialer, map, Depth::Glance).await
}

/// How much is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Whole,
    /// No keys, functions, modules, settings and jobs: they are told as none.
    Glance,
}

async fn ask_all(dialer: &Dialer, map: &SlotMap, depth: Depth) -> Inventory {
    let mut asking = JoinSet::new();
    for node in &map.nodes {
        let (dialer, id, addr) = (dialer.clone(), node.id.clone(), node.addr.clone());
        asking.spawn(async move {
            let told = timeout(NODE_LIMIT, ask(&dialer, &addr, depth)).await;
            let told =
                told.unwrap_or_else(|_| Err(format!("node {addr}: expected its answers within {NODE_LIMIT:?}, found none")));
            NodeReport { id, addr, told: told.map(Box::new) }
        });
    }
    let mut nodes = Vec::new();
    while let Some(joined) = asking.join_next().await {
        match joined {
            Ok(report) => nodes.push(report),
            Err(panicked) => tracing::error!(%panicked, "asking a node"),
        }
    }
    nodes.sort_by(|one, other| one.id.cmp(&other.id));
    Inventory { nodes }
}

async fn ask(dialer: &Dialer, addr: &Addr, depth: Depth) -> Result<Told, String> {
    let mut node = dialer.dial(addr).await.map_err(|error| error.to_string())?;
    let mut questions = Pipeline::new();
    questions.push(["CLUSTER", "NODES"]).push(["CLUSTER", "INFO"]).push(["INFO"]);
    if depth == Depth::Whole {
        questions.push(["MODULE", "LIST"]).push(["FUNCTION", "DUMP"]);
        questions.push(["COMMAND", "INFO", "CLUSTER|MIGRATESLOTS", "CLUSTER|MIGRATION"]);
        for setting in SETTINGS {
            questions.push(["CONFIG", "GET", setting]);
        }
    }
    let mut replies = node.call_many(&questions).await.map_err(|error| error.to_string())?.into_iter();
    let mut next = || replies.next().unwrap_or(Reply::Null);
    let view = NodesView::parse(&bulk(next(), addr, "CLUSTER NODES")?).map_err(|error| format!("node {addr}: {error}"))?;
    let cluster = Fields::parse(&text(next(), addr, "CLUSTER INFO")?);
    let info = Fields::parse(&text(next(), addr, "INFO")?);
    if depth == Depth::Glance {
        let server = Server::of(&info);
        let (modules, functions, keys) = (BTreeSet::new(), None, None);
        let (config, atomic, jobs, denied, databases) = (None, Atomic::No, Vec::new(), BTreeSet::new(), 1);
        return Ok(Told { server, view, cluster, info, config, modules, functions, atomic, jobs, denied, databases, keys });
    }
    let modules = modules(next());
    let functions = match next() {
        Reply::BulkString(dump) => Some(sha1_smol::Sha1::from(&dump[..]).digest().to_string()),
        _ => None,
    };
    let atomic = atomic(next());
    let config = config(std::iter::from_fn(|| Some(next())).take(SETTINGS.len()));
    let databases = config.as_ref().and_then(|config| config.number("cluster-databases")).unwrap_or(1).clamp(1, 10_000) as u32;
    let jobs = if atomic == Atomic::MigrateSlots { running_jobs(&mut node).await? } else { Vec::new() };
    let is_master = view.myself().flags.master;
    let keys = if is_master { Some(key_counts(&mut node, databases).await?) } else { None };
    let denied = if is_master { denied_commands(&mut node, atomic, config.is_some()).await? } else { BTreeSet::new() };
    let server = Server::of(&info);
    Ok(Told { server, view, cluster, info, config, modules, functions, atomic, jobs, denied, databases, keys })
}

/// What a migration does on nodes, in forms that do nothing: whoever may not give them at all is told so first.
const RIGHTS: [(&str, &[&str]); 12] = [
    ("cluster|setslot", &["CLUSTER", "SETSLOT", "16384", "STABLE"]),
    ("cluster|getkeysinslot", &["CLUSTER", "GETKEYSINSLOT", "0", "0"]),
    ("migrate", &["MIGRATE", "127.0.0.1", "1", "{keyway}probe", "x", "1"]),
    ("restore-asking", &["RESTORE-ASKING", "{keyway}probe", "0", "x"]),
    ("eval", &["EVAL", "return 1", "1", "{keyway}probe"]),
    // No client lives to have this number. 6.2 takes 0 for "whichever", and kills them all.
    ("client|kill", &["CLIENT", "KILL", "ID", "9223372036854775807"]),
    ("client|setname", &["CLIENT", "SETNAME", ""]),
    ("client|list", &["CLIENT", "LIST", "TYPE", "pubsub"]),
    ("wait", &["WAIT", "0", "0"]),
    ("unlink", &["UNLINK", "{keyway}probe"]),
    ("asking", &["ASKING"]),
    ("exists", &["EXISTS", "{keyway}probe"]),
];

/// As `RIGHTS`, where whole slots can be moved at once. There is no such node.
const ATOMIC_RIGHT: (&str, &[&str]) =
    ("cluster|migrateslots", &["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", "0", "NODE", "nobody"]);

/// The commands of a migration that the node denies the proxy's own user. Servers without ACL DRYRUN cannot be asked, only tried.
async fn denied_commands(node: &mut Connection, atomic: Atomic, config: bool) -> Result<BTreeSet<&'static str>, String> {
    let tried: Vec<_> = RIGHTS.into_iter().chain((atomic == Atomic::MigrateSlots).then_some(ATOMIC_RIGHT)).collect();
    let mut questions = Pipeline::new();
    for (_, words) in &tried {
        questions.push(*words);
    }
    let replies = node.call_many(&questions).await.map_err(|error| error.to_string())?;
    let is_denied = |reply: &Reply| matches!(reply, Reply::Error(text) if text.starts_with("NOPERM"));
    let denied = tried.iter().zip(&replies).filter(|(_, reply)| is_denied(reply)).map(|((name, _), _)| *name);
    Ok(denied.chain((!config).then_some("config|get")).collect())
}

/// How many keys each slot holds on this node, all databases together.
async fn key_counts(node: &mut Connection, databases: u32) -> Result<Vec<u32>, String> {
    let mut counts = vec![0u32; SLOT_COUNT];
    let mut questions = Pipeline::new();
    for slot in 0..SLOT_COUNT {
        questions.push(["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]);
    }
    for database in 0..databases {
        if databases > 1 {
            let selected = node.call(["SELECT", &database.to_string()]).await.map_err(|error| error.to_string())?;
            if let Reply::Error(error) = selected {
                return Err(format!("node {}: expected SELECT {database} to succeed, found '{error}'", node.addr()));
            }
        }
        for (count, reply) in counts.iter_mut().zip(node.call_many(&questions).await.map_err(|error| error.to_string())?) {
            match reply {
                Reply::Integer(found) => *count += u32::try_from(found).unwrap_or(0),
                other => return Err(unexpected(node.addr(), "CLUSTER COUNTKEYSINSLOT", &other)),
            }
        }
    }
    Ok(counts)
}

/// Atomic migrations that have not come to an end.
async fn running_jobs(node: &mut Connection) -> Result<Vec<String>, String> {
    let reply = node.call(["CLUSTER", "GETSLOTMIGRATIONS"]).await.map_err(|error| error.to_string())?;
    let Reply::Array(jobs) = reply else { return Err(unexpected(node.addr(), "CLUSTER GETSLOTMIGRATIONS", &reply)) };
    let running = |job: Reply| {
        let fields = pairs(job);
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map_or("?", |(_, value)| value.as_str()).to_owned();
        let state = field("state");
        let ended = ["success", "failed", "cancelled", "canceled"].contains(&state.as_str());
        (!ended).then(|| format!("{} of {} is {state}", field("operation"), field("slot_ranges")))
    };
    Ok(jobs.into_iter().filter_map(running).collect())
}

fn config(replies: impl Iterator<Item = Reply>) -> Option<Fields> {
    let mut fields = Fields::default();
    for reply in replies {
        if let Reply::Error(_) = reply {
            return None;
        }
        for (name, value) in pairs(reply) {
            fields.insert(name, value);
        }
    }
    Some(fields)
}

fn modules(reply: Reply) -> BTreeSet<String> {
    let Reply::Array(modules) = reply else { return BTreeSet::new() };
    let name = |module: Reply| pairs(module).into_iter().find(|(key, _)| key == "name").map(|(_, name)| name);
    modules.into_iter().filter_map(name).collect()
}

fn atomic(reply: Reply) -> Atomic {
    match reply {
        Reply::Array(known) => match &known[..] {
            [Reply::Array(_), ..] => Atomic::MigrateSlots,
            [_, Reply::Array(_)] => Atomic::Migration,
            _ => Atomic::No,
        },
        _ => Atomic::No,
    }
}

/// A flat array as names and values; values that are no text are left empty.
fn pairs(reply: Reply) -> Vec<(String, String)> {
    let Reply::Array(items) = reply else { return Vec::new() };
    let text = |item: &Reply| match item {
        Reply::BulkString(bytes) | Reply::SimpleString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Integer(number) => number.to_string(),
        _ => String::new(),
    };
    items.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn bulk(reply: Reply, addr: &Addr, question: &str) -> Result<bytes::Bytes, String> {
    match reply {
        Reply::BulkString(bytes) => Ok(bytes),
        other => Err(unexpected(addr, question, &other)),
    }
}

fn text(reply: Reply, addr: &Addr, question: &str) -> Result<String, String> {
    bulk(reply, addr, question).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn unexpected(addr: &Addr, question: &str, found: &Reply) -> String {
    match found {
        Reply::Error(error) => format!("node {addr}: expected an answer to {question}, found '{error}'"),
        other => format!("node {addr}: expected an answer to {question}, found {other:?}").chars().take(300).collect(),
    }
}
