//! The commands themselves, once a node has decided to carry one out.

use std::hash::{DefaultHasher, Hash, Hasher};

use keyway::resp::{Proto, encode};

use crate::{channels, cluster::Cluster, node::Outcome, shard::Value};

/// Positions of a hash table that a slot's keys are spread over: what SCAN's cursor counts.
const BUCKETS: u64 = 4;

pub fn serve(
    cluster: &mut Cluster,
    index: usize,
    proto: Proto,
    name: &[u8],
    args: &[Vec<u8>],
    keys: &[String],
    out: &mut Vec<u8>,
) -> Outcome {
    let Cluster { nodes, shards, popped, overwritten, .. } = cluster;
    let shard = &mut shards[nodes[index].shard];
    match name {
        b"GET" | b"GETRANGE" => text(out, proto, shard.data.get(&keys[0]), name == b"GETRANGE"),
        b"SET" => {
            let old = shard.put(&keys[0], Value::Text(args[2].clone()));
            overwritten.push((keys[0].clone(), args[2].clone(), old));
            encode::simple(out, "OK");
        }
        b"MSET" => {
            for (key, value) in keys.iter().zip(args[2..].iter().step_by(2)) {
                shard.put(key, Value::Text(value.clone()));
            }
            encode::simple(out, "OK");
        }
        b"MGET" => {
            encode::array(out, keys.len());
            keys.iter().for_each(|key| text(out, proto, shard.data.get(key), false));
        }
        b"DEL" | b"UNLINK" => encode::integer(out, keys.iter().filter(|key| shard.take(key).is_some()).count() as i64),
        b"EXISTS" | b"TOUCH" => encode::integer(out, keys.iter().filter(|key| shard.data.contains_key(*key)).count() as i64),
        b"RPUSH" | b"LPUSH" => match shard.push(&keys[0], &args[2], name == b"LPUSH") {
            Some(len) => encode::integer(out, len as i64),
            None => encode::error(out, "WRONGTYPE Operation against a key holding the wrong kind of value"),
        },
        b"LPOP" | b"RPOP" => match shard.pop(&keys[0], name == b"LPOP") {
            Some(element) => {
                encode::bulk(out, &element);
                popped.push((keys[0].clone(), element));
            }
            None => encode::null(out, proto),
        },
        b"BLPOP" | b"BRPOP" => match keys.iter().find_map(|key| Some((key, shard.pop(key, name == b"BLPOP")?))) {
            Some((key, element)) => {
                encode::array(out, 2);
                encode::bulk(out, key);
                encode::bulk(out, &element);
                popped.push((key.clone(), element));
            }
            None => encode::null_array(out, proto),
        },
        b"LMPOP" | b"BLMPOP" => match keys.iter().find_map(|key| Some((key, shard.pop(key, true)?))) {
            Some((key, element)) => {
                encode::array(out, 2);
                encode::bulk(out, key);
                encode::array(out, 1);
                encode::bulk(out, &element);
                popped.push((key.clone(), element));
            }
            None => encode::null_array(out, proto),
        },
        b"LMOVE" | b"BLMOVE" => match shard.pop(&keys[0], true) {
            Some(element) => {
                shard.push(&keys[1], &element, false);
                encode::bulk(out, &element);
            }
            None if name == b"LMOVE" => encode::null(out, proto),
            None => encode::null_array(out, proto),
        },
        b"LRANGE" => {
            let elements = match shard.data.get(&keys[0]) {
                Some(Value::List(elements)) => elements.as_slice(),
                _ => &[],
            };
            encode::array(out, elements.len());
            elements.iter().for_each(|element| encode::bulk(out, element));
        }
        b"INCR" => {
            shard.touch(&keys[0]);
            match shard.data.entry(keys[0].clone()).or_insert(Value::Number(0)) {
                Value::Number(number) => {
                    *number += 1;
                    encode::integer(out, *number);
                }
                _ => encode::error(out, NOT_A_NUMBER),
            }
        }
        b"TYPE" => encode::simple(
            out,
            match shard.data.get(&keys[0]) {
                None => "none",
                Some(Value::List(_)) => "list",
                Some(_) => "string",
            },
        ),
        b"EVAL" | b"EVALSHA" => return script(cluster, index, name, args, keys, out),
        b"PUBLISH" | b"SPUBLISH" => {
            let channel = String::from_utf8_lossy(&args[1]).into_owned();
            let told = match name {
                b"PUBLISH" => channels::publish(cluster, index, &channel, &args[2]),
                _ => channels::publish_in_shard(cluster, index, &channel, &args[2]),
            };
            encode::integer(out, told as i64);
        }
        b"SCRIPT" => {
            let sha = sha_of(&args[2]);
            cluster.nodes[index].scripts.insert(sha.clone());
            encode::bulk(out, sha);
        }
        b"DBSIZE" => encode::integer(out, shard.data.len() as i64),
        b"KEYS" => {
            encode::array(out, shard.data.len());
            shard.data.keys().for_each(|key| encode::bulk(out, key));
        }
        b"FLUSHALL" => {
            shard.data.clear();
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

pub const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";

fn text(out: &mut Vec<u8>, proto: Proto, value: Option<&Value>, never_null: bool) {
    match value {
        Some(Value::Text(text)) => encode::bulk(out, text),
        Some(Value::Number(number)) => encode::bulk(out, number.to_string()),
        _ if never_null => encode::bulk(out, b""),
        _ => encode::null(out, proto),
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
    cluster.shards[node.shard].push(&keys[0], &args[4], false);
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
