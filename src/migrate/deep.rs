//! A closer look at the masters: samples of their keys, their function libraries, who listens. It reads only, and takes seconds.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Inventory, SlotSet};
use crate::cluster::{Addr, Slot};
use crate::control::{Connection, Dialer, Pipeline, Reply};

/// All of one node's answers together must come within this.
const NODE_LIMIT: Duration = Duration::from_secs(60);

/// Keys looked at on one master, about; each slot that has any gives at least one.
const KEYS_SAMPLED: usize = 20_000;

/// Questions sent together: a node's answers to them fit into memory, and it serves others between.
const QUESTIONS_AT_ONCE: usize = 1000;

/// Largest keys that are told of each master.
const LARGEST: usize = 5;

/// Longer names are cut.
const NAME_LEN_MAX: usize = 64;

/// What a closer look at one master found.
#[derive(Clone, Debug)]
pub struct Depth {
    pub id: Arc<str>,
    pub addr: Addr,
    /// Or in one line why nothing was seen.
    pub looked: Result<Sample, String>,
}

#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Keys that it has in the slots that were asked for, and how many of them were looked at.
    pub keys: u64,
    pub seen: u64,
    /// In falling order of size.
    pub largest: Vec<BigKey>,
    /// Names; `None` before 7.0, or when the node does not let us ask.
    pub libraries: Option<BTreeSet<String>>,
    pub shard_channels: usize,
}

/// A key and what it takes, as MEMORY USAGE estimates it from a few elements; of a string its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BigKey {
    /// Printable, and cut.
    pub name: String,
    pub slot: Slot,
    pub kind: String,
    pub bytes: u64,
}

/// Looks at all masters of an inventory at once, and at the keys of these slots.
pub async fn look(dialer: &Dialer, inventory: &Inventory, slots: &SlotSet) -> Vec<Depth> {
    let mut looking = JoinSet::new();
    for (node, told) in inventory.masters() {
        let (dialer, id, addr) = (dialer.clone(), node.id.clone(), node.addr.clone());
        let counts: Vec<(Slot, u32)> = Slot::all()
            .zip(told.keys.iter().flatten().copied())
            .filter(|(slot, count)| *count > 0 && slots.contains(*slot))
            .collect();
        let databases = told.databases;
        looking.spawn(async move {
            let looked = timeout(NODE_LIMIT, sample(&dialer, &addr, &counts, databases)).await;
            let looked =
                looked.unwrap_or_else(|_| Err(format!("node {addr}: expected its answers within {NODE_LIMIT:?}, found none")));
            Depth { id, addr, looked }
        });
    }
    let mut depths = Vec::new();
    while let Some(joined) = looking.join_next().await {
        match joined {
            Ok(depth) => depths.push(depth),
            Err(panicked) => tracing::error!(%panicked, "looking at a node"),
        }
    }
    depths.sort_by(|one, other| one.id.cmp(&other.id));
    depths
}

async fn sample(dialer: &Dialer, addr: &Addr, counts: &[(Slot, u32)], databases: u32) -> Result<Sample, String> {
    let mut node = dialer.dial(addr).await.map_err(|error| error.to_string())?;
    let mut found = Sample { keys: counts.iter().map(|(_, count)| u64::from(*count)).sum(), ..Sample::default() };
    let of_each = (KEYS_SAMPLED / counts.len().max(1)).clamp(1, 1000).to_string();
    for database in 0..databases {
        if databases > 1 {
            ask(&mut node, &[words(["SELECT", &database.to_string()])]).await?;
        }
        let question = |(slot, _): &(Slot, u32)| words(["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &of_each]);
        let lists = ask(&mut node, &counts.iter().map(question).collect::<Vec<_>>()).await?;
        let keys = counts.iter().zip(lists).flat_map(|((slot, _), list)| bulks(list).into_iter().map(|key| (*slot, key)));
        let keys: Vec<(Slot, Vec<u8>)> = keys.collect();
        found.seen += keys.len() as u64;
        found.largest.extend(sizes(&mut node, keys).await?);
        found.largest.sort_by_key(|key| Reverse(key.bytes));
        found.largest.truncate(LARGEST);
    }
    let mut others = ask(&mut node, &[words(["FUNCTION", "LIST"]), words(["PUBSUB", "SHARDCHANNELS"])]).await?.into_iter();
    found.libraries = others.next().and_then(libraries);
    found.shard_channels = others.next().map_or(0, |channels| bulks(channels).len());
    Ok(found)
}

/// Keys with their sizes; one that is gone meanwhile is left out.
async fn sizes(node: &mut Connection, keys: Vec<(Slot, Vec<u8>)>) -> Result<Vec<BigKey>, String> {
    let questions: Vec<_> = keys.iter().map(|(_, key)| vec![b"TYPE".to_vec(), key.clone()]).collect();
    let kinds = ask(node, &questions).await?;
    let kinds: Vec<String> = kinds.into_iter().map(|kind| text(&kind)).collect();
    let question = |((_, key), kind): (&(Slot, Vec<u8>), &String)| match kind.as_str() {
        "string" => vec![b"STRLEN".to_vec(), key.clone()],
        _ => vec![b"MEMORY".to_vec(), b"USAGE".to_vec(), key.clone(), b"SAMPLES".to_vec(), b"5".to_vec()],
    };
    let replies = ask(node, &keys.iter().zip(&kinds).map(question).collect::<Vec<_>>()).await?;
    let sized = keys.into_iter().zip(kinds).zip(replies).filter_map(|(((slot, key), kind), reply)| match reply {
        Reply::Integer(bytes) => Some(BigKey { name: shown(&key), slot, kind, bytes: bytes.max(0) as u64 }),
        _ => None,
    });
    Ok(sized.collect())
}

/// Sends questions some at a time; answers that are errors are answers, unless we may not ask.
async fn ask(node: &mut Connection, questions: &[Vec<Vec<u8>>]) -> Result<Vec<Reply>, String> {
    let mut replies = Vec::new();
    for questions in questions.chunks(QUESTIONS_AT_ONCE) {
        let mut pipeline = Pipeline::new();
        for words in questions {
            pipeline.push(words);
        }
        replies.extend(node.call_many(&pipeline).await.map_err(|error| error.to_string())?);
    }
    let denied = replies.iter().find_map(|reply| match reply {
        Reply::Error(text) if text.starts_with("NOPERM") => Some(text),
        _ => None,
    });
    if let Some(denied) = denied {
        return Err(format!("node {}: {denied}", node.addr()));
    }
    Ok(replies)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<Vec<u8>> {
    words.map(|word| word.as_bytes().to_vec()).into()
}

fn bulks(reply: Reply) -> Vec<Vec<u8>> {
    let Reply::Array(items) = reply else { return Vec::new() };
    let bytes = |item: Reply| match item {
        Reply::BulkString(bytes) => Some(bytes.to_vec()),
        _ => None,
    };
    items.into_iter().filter_map(bytes).collect()
}

fn text(reply: &Reply) -> String {
    match reply {
        Reply::SimpleString(bytes) | Reply::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

/// FUNCTION LIST: for each library its name and more, in pairs.
fn libraries(reply: Reply) -> Option<BTreeSet<String>> {
    let Reply::Array(libraries) = reply else { return None };
    let name = |library: Reply| {
        let Reply::Array(fields) = library else { return None };
        let at = fields.iter().position(|field| text(field) == "library_name")?;
        fields.get(at + 1).map(text)
    };
    Some(libraries.into_iter().filter_map(name).collect())
}

fn shown(key: &[u8]) -> String {
    let printable = String::from_utf8_lossy(key).escape_debug().to_string();
    match printable.char_indices().nth(NAME_LEN_MAX) {
        Some((end, _)) => format!("{}…", &printable[..end]),
        None => printable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_libraries() {
        let bulk = |text: &'static str| Reply::BulkString(text.into());
        let library = |name: &'static str| Reply::Array(vec![bulk("library_name"), bulk(name), bulk("engine"), bulk("LUA")]);
        let found = libraries(Reply::Array(vec![library("b"), library("a")]));
        assert_eq!(found, Some(BTreeSet::from(["a".to_owned(), "b".to_owned()])));
        assert_eq!(libraries(Reply::Error("ERR unknown command".into())), None);
    }

    #[test]
    fn names_of_keys_can_be_shown() {
        assert_eq!(shown(b"user:1"), "user:1");
        assert_eq!(shown(b"a\r\n\xff"), "a\\r\\n\u{fffd}");
        assert_eq!(shown(&[b'x'; 100]).chars().count(), NAME_LEN_MAX + 1);
    }
}
