//! Whether a node carries one command out, as the real servers decide it (semantics, section 16).

use keyway::resp::{Proto, encode};

use crate::{cluster::Cluster, serve::serve};

/// What a connection to a node remembers between two commands.
pub struct Caller {
    pub proto: Proto,
    pub asking: bool,
    pub queued: Option<Vec<Vec<Vec<u8>>>>,
    /// ASKING came before MULTI: it lasts until EXEC.
    unit_asking: bool,
    /// What became of the queued commands, told by EXEC.
    pub unit: Vec<Outcome>,
}

impl Default for Caller {
    fn default() -> Self {
        Caller { proto: Proto::Resp2, asking: false, queued: None, unit_asking: false, unit: Vec::new() }
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Served,
    /// EXEC will tell.
    Queued,
    /// Not executed: MOVED, ASK, TRYAGAIN, CLUSTERDOWN, LOADING, READONLY, NOSCRIPT.
    Refused,
    /// Executed, and answered with a refusal that the script made up.
    Forged,
}

/// The keys of a command, in order.
pub fn keys_of(args: &[Vec<u8>]) -> Vec<String> {
    let text = |at: usize| String::from_utf8_lossy(&args[at]).into_owned();
    let name = args.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match name.as_slice() {
        b"GET" | b"SET" | b"GETRANGE" | b"RPUSH" | b"LRANGE" | b"INCR" | b"TYPE" if args.len() > 1 => vec![text(1)],
        b"MGET" | b"DEL" | b"UNLINK" | b"EXISTS" | b"TOUCH" => (1..args.len()).map(text).collect(),
        b"MSET" => (1..args.len()).step_by(2).map(text).collect(),
        b"EVAL" | b"EVALSHA" if args.len() > 3 && args[2] == b"1" => vec![text(3)],
        _ => vec![],
    }
}

/// Carries out one command and appends its reply.
pub fn execute(cluster: &mut Cluster, node: usize, caller: &mut Caller, args: &[Vec<u8>], out: &mut Vec<u8>) -> Outcome {
    let asking = std::mem::take(&mut caller.asking);
    let name = args[0].to_ascii_uppercase();
    if name != b"EXEC" && caller.queued.is_some() {
        return queue(cluster, node, caller, &name, args, out);
    }
    match name.as_slice() {
        b"HELLO" => {
            caller.proto = Proto::Resp3;
            encode::map(out, caller.proto, 1);
            encode::bulk(out, "proto");
            encode::integer(out, 3);
            return Outcome::Served;
        }
        b"AUTH" => {
            encode::simple(out, "OK");
            return Outcome::Served;
        }
        b"MULTI" => {
            (caller.queued, caller.unit_asking, caller.unit) = (Some(Vec::new()), asking, Vec::new());
            encode::simple(out, "OK");
            return Outcome::Served;
        }
        b"EXEC" => return exec(cluster, node, caller, out),
        b"ASKING" => {
            caller.asking = true;
            encode::simple(out, "OK");
            return Outcome::Served;
        }
        _ => {}
    }
    let keys = keys_of(args);
    match refusal(cluster, node, asking, &name, &keys) {
        Some(text) => {
            encode::error(out, text);
            Outcome::Refused
        }
        None => serve(cluster, node, caller.proto, &name, args, &keys, out),
    }
}

fn queue(cluster: &Cluster, node: usize, caller: &mut Caller, name: &[u8], args: &[Vec<u8>], out: &mut Vec<u8>) -> Outcome {
    match refusal(cluster, node, caller.unit_asking, name, &keys_of(args)) {
        Some(text) => {
            encode::error(out, text);
            caller.unit.push(Outcome::Refused);
        }
        None => {
            encode::simple(out, "QUEUED");
            caller.unit.push(Outcome::Queued);
            caller.queued.get_or_insert_default().push(args.to_vec());
        }
    }
    Outcome::Queued
}

/// The queued commands are carried out, or all are refused: where one was refused before, and where their slot has moved since.
fn exec(cluster: &mut Cluster, node: usize, caller: &mut Caller, out: &mut Vec<u8>) -> Outcome {
    let queued = caller.queued.take().unwrap_or_default();
    let keys: Vec<String> = queued.iter().flat_map(|args| keys_of(args)).collect();
    let refused = match caller.unit.contains(&Outcome::Refused) {
        true => Some("EXECABORT Transaction discarded because of previous errors.".to_owned()),
        false => refusal(cluster, node, caller.unit_asking, b"EXEC", &keys),
    };
    if let Some(refused) = refused {
        encode::error(out, refused);
        caller.unit.fill(Outcome::Refused);
        return Outcome::Refused;
    }
    encode::array(out, queued.len());
    for (args, outcome) in queued.iter().zip(&mut caller.unit) {
        let name = args[0].to_ascii_uppercase();
        *outcome = serve(cluster, node, caller.proto, &name, args, &keys_of(args), out);
    }
    Outcome::Served
}

/// Why a node does not carry the command out.
fn refusal(cluster: &Cluster, index: usize, asking: bool, name: &[u8], keys: &[String]) -> Option<String> {
    let node = &cluster.nodes[index];
    if node.loading {
        return Some("LOADING Redis is loading the dataset in memory".into());
    }
    let Some(first) = keys.first() else {
        let writes = matches!(name, b"FLUSHALL");
        return (writes && !cluster.is_master(index)).then(|| "READONLY You can't write against a read only replica.".into());
    };
    let (slot, unit) = cluster.slot_and_unit(first);
    if keys.iter().any(|key| cluster.slot_and_unit(key).0 != slot) {
        return Some("CROSSSLOT Keys in request don't hash to the same slot".into());
    }
    let owner = node.view.units[unit].1;
    if node.cluster_down || (cluster.full_coverage && node.view.failed[owner]) {
        return Some("CLUSTERDOWN The cluster is down".into());
    }
    let shard = &cluster.shards[node.shard];
    let here = keys.iter().filter(|key| shard.data.contains_key(*key)).count();
    if owner != index {
        let importing = cluster.is_master(index) && shard.importing.contains_key(&unit);
        if !(importing && asking) {
            return Some(format!("MOVED {slot} {}", spelled(cluster, index, owner)));
        }
        return (keys.len() > 1 && here < keys.len()).then(|| TRY_AGAIN.into());
    }
    let to = shard.migrating.get(&unit).filter(|_| here < keys.len())?;
    match here {
        0 => Some(format!("ASK {slot} {}", spelled(cluster, index, node.view.masters[*to].1))),
        _ => Some(TRY_AGAIN.into()),
    }
}

pub const TRY_AGAIN: &str = "TRYAGAIN Multiple keys request during rehashing of slot";

/// Redis may leave the host out where it is its own.
fn spelled(cluster: &Cluster, by: usize, node: usize) -> String {
    let (mine, other) = (&cluster.nodes[by].addr, &cluster.nodes[node].addr);
    if mine.host() == other.host() && other.port() % 2 == 0 { format!(":{}", other.port()) } else { other.to_string() }
}
