//! What a plan changes about nodes while it runs.

use super::Parts;
use crate::control::Reply;

/// The setting that makes a master which gives away its last slot a replica of the receiver: it could neither be watched nor rolled back.
const NAME: &str = "cluster-allow-replica-migration";

/// Whether the node would become a replica.
pub(super) async fn replica_migration(parts: &Parts, id: &str) -> Result<bool, String> {
    let reply = ask(parts, id, &["CONFIG", "GET", NAME]).await?;
    let Reply::Array(pair) = &reply else { return Err(format!("{reply:?}")) };
    Ok(matches!(&pair[..], [_, Reply::BulkString(value)] if &value[..] == b"yes"))
}

pub(super) async fn set_replica_migration(parts: &Parts, id: &str, value: &str) -> Result<(), String> {
    ask(parts, id, &["CONFIG", "SET", NAME, value]).await.map(drop)
}

async fn ask(parts: &Parts, id: &str, words: &[&str]) -> Result<Reply, String> {
    let addr = parts.topology.current().and_then(|map| map.find_id(id).map(|node| map.node(node).addr.clone()));
    let addr = addr.ok_or_else(|| format!("no node {id} in the slot map"))?;
    let mut node = parts.dialer.dial(&addr).await.map_err(|error| error.to_string())?;
    match node.call(words).await.map_err(|error| error.to_string())? {
        Reply::Error(error) => Err(format!("node {addr}: {error}")),
        reply => Ok(reply),
    }
}
