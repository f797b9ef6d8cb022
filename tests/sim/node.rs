//! One node carries out one command, as the real servers do (semantics, section 16).

use std::hash::{DefaultHasher, Hash, Hasher};

use keyway::resp::{Proto, encode};

use crate::cluster::{Cluster, Value};

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

/// Positions of a hash table that a slot's keys are spread over: what SCAN's cursor counts.
const BUCKETS: u64 = 4;

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

fn serve(
    cluster: &mut Cluster,
    index: usize,
    proto: Proto,
    name: &[u8],
    args: &[Vec<u8>],
    keys: &[String],
    out: &mut Vec<u8>,
) -> Outcome {
    let shard = cluster.nodes[index].shard;
    let data = &mut cluster.shards[shard].data;
    match name {
        b"GET" | b"GETRANGE" => text(out, proto, data.get(&keys[0]), name == b"GETRANGE"),
        b"SET" => {
            data.insert(keys[0].clone(), Value::Text(args[2].clone()));
            encode::simple(out, "OK");
        }
        b"MSET" => {
            for (key, value) in keys.iter().zip(args[2..].iter().step_by(2)) {
                data.insert(key.clone(), Value::Text(value.clone()));
            }
            encode::simple(out, "OK");
        }
        b"MGET" => {
            encode::array(out, keys.len());
            keys.iter().for_each(|key| text(out, proto, data.get(key), false));
        }
        b"DEL" | b"UNLINK" => encode::integer(out, keys.iter().filter(|key| data.remove(*key).is_some()).count() as i64),
        b"EXISTS" | b"TOUCH" => encode::integer(out, keys.iter().filter(|key| data.contains_key(*key)).count() as i64),
        b"RPUSH" => push(out, data.entry(keys[0].clone()).or_insert(Value::List(vec![])), &args[2]),
        b"LRANGE" => {
            let elements = match data.get(&keys[0]) {
                Some(Value::List(elements)) => elements.as_slice(),
                _ => &[],
            };
            encode::array(out, elements.len());
            elements.iter().for_each(|element| encode::bulk(out, element));
        }
        b"INCR" => match data.entry(keys[0].clone()).or_insert(Value::Number(0)) {
            Value::Number(number) => {
                *number += 1;
                encode::integer(out, *number);
            }
            _ => encode::error(out, "ERR value is not an integer or out of range"),
        },
        b"TYPE" => encode::simple(
            out,
            match data.get(&keys[0]) {
                None => "none",
                Some(Value::List(_)) => "list",
                Some(_) => "string",
            },
        ),
        b"EVAL" | b"EVALSHA" => return script(cluster, index, name, args, keys, out),
        b"SCRIPT" => {
            let sha = sha_of(&args[2]);
            cluster.nodes[index].scripts.insert(sha.clone());
            encode::bulk(out, sha);
        }
        b"DBSIZE" => encode::integer(out, data.len() as i64),
        b"KEYS" => {
            encode::array(out, data.len());
            data.keys().for_each(|key| encode::bulk(out, key));
        }
        b"FLUSHALL" => {
            data.clear();
            encode::simple(out, "OK");
        }
        b"SCAN" => scan(cluster, index, args, out),
        b"CLUSTER" => about_cluster(cluster, index, proto, args, out),
        b"PING" => encode::simple(out, "PONG"),
        _ => {
            encode::error(out, format!("ERR unknown command '{}', with args beginning with: ", String::from_utf8_lossy(&args[0])))
        }
    }
    Outcome::Served
}

fn text(out: &mut Vec<u8>, proto: Proto, value: Option<&Value>, never_null: bool) {
    match value {
        Some(Value::Text(text)) => encode::bulk(out, text),
        Some(Value::Number(number)) => encode::bulk(out, number.to_string()),
        _ if never_null => encode::bulk(out, b""),
        _ => encode::null(out, proto),
    }
}

fn push(out: &mut Vec<u8>, list: &mut Value, element: &[u8]) {
    match list {
        Value::List(elements) => {
            elements.push(element.to_vec());
            encode::integer(out, elements.len() as i64);
        }
        _ => encode::error(out, "WRONGTYPE Operation against a key holding the wrong kind of value"),
    }
}

pub fn sha_of(body: &[u8]) -> String {
    let mut sha = sha1_smol::Sha1::new();
    sha.update(body);
    sha.digest().to_string()
}

/// A script pushes its first argument onto its key's list and answers it; with a second argument it answers that text as an
/// error of its own.
fn script(cluster: &mut Cluster, index: usize, name: &[u8], args: &[Vec<u8>], keys: &[String], out: &mut Vec<u8>) -> Outcome {
    let node = &mut cluster.nodes[index];
    if name == b"EVAL" {
        node.scripts.insert(sha_of(&args[1]));
    } else if !node.scripts.contains(&*String::from_utf8_lossy(&args[1])) {
        encode::error(out, "NOSCRIPT No matching script. Please use EVAL.");
        return Outcome::Refused;
    }
    let list = cluster.shards[node.shard].data.entry(keys[0].clone()).or_insert(Value::List(vec![]));
    push(&mut Vec::new(), list, &args[4]);
    match args.get(5) {
        Some(forged) => {
            encode::error(out, String::from_utf8_lossy(forged).into_owned());
            Outcome::Forged
        }
        None => {
            encode::bulk(out, &args[4]);
            Outcome::Served
        }
    }
}

/// SCAN as servers do it whose cursor is `position << 14 | slot`: one slot after the other, in positions of the node's own hash.
fn scan(cluster: &Cluster, index: usize, args: &[Vec<u8>], out: &mut Vec<u8>) {
    let node = &cluster.nodes[index];
    let number = |at: usize| std::str::from_utf8(&args[at]).ok().and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0);
    let cursor = number(1);
    let count = args.iter().position(|arg| arg.eq_ignore_ascii_case(b"COUNT")).map_or(10, |at| number(at + 1)) as usize;
    let (slot, mut position) = ((cursor & 0x3FFF) as u16, cursor >> 14);
    let mut slots: Vec<(u16, usize)> = cluster.by_slot.iter().map(|(slot, tag)| (*slot, *tag)).collect();
    slots.sort_unstable();
    let mut found: Vec<String> = Vec::new();
    let mut next = 0;
    for (at, tag) in slots {
        let keys = cluster.keys_in(node.shard, tag);
        if at < slot || keys.is_empty() {
            continue;
        }
        if at > slot {
            position = 0;
        }
        if found.len() >= count {
            next = u64::from(at) | position << 14;
            break;
        }
        while position < BUCKETS {
            found.extend(keys.iter().filter(|key| bucket(node.hash_seed, key) == position).cloned());
            position += 1;
            if found.len() >= count {
                break;
            }
        }
        if position < BUCKETS {
            next = u64::from(at) | position << 14;
            break;
        }
        position = 0;
    }
    encode::array(out, 2);
    encode::bulk(out, next.to_string());
    encode::array(out, found.len());
    found.iter().for_each(|key| encode::bulk(out, key));
}

fn bucket(seed: u64, key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, key).hash(&mut hasher);
    hasher.finish() % BUCKETS
}

fn about_cluster(cluster: &Cluster, index: usize, proto: Proto, args: &[Vec<u8>], out: &mut Vec<u8>) {
    let shard = cluster.nodes[index].shard;
    let keys = || {
        let slot = std::str::from_utf8(&args[2]).ok().and_then(|digits| digits.parse::<u16>().ok()).unwrap_or(0);
        cluster.by_slot.get(&slot).map(|tag| cluster.keys_in(shard, *tag)).unwrap_or_default()
    };
    match args[1].as_slice() {
        b"NODES" => encode::verbatim(out, proto, cluster.nodes_text(index)),
        b"COUNTKEYSINSLOT" => encode::integer(out, keys().len() as i64),
        b"GETKEYSINSLOT" => {
            let keys = keys();
            encode::array(out, keys.len());
            keys.iter().for_each(|key| encode::bulk(out, key));
        }
        _ => encode::error(out, "ERR unknown subcommand"),
    }
}
