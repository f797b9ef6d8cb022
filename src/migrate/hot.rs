//! Which slots weigh most: by the servers' own statistics where they keep them, else by keys.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::{Addr, SLOT_COUNT, Slot, SlotMap};
use crate::control::{Dialer, Pipeline, Reply};

/// All of one node's answers together must come within this.
const NODE_LIMIT: Duration = Duration::from_secs(10);

/// What a slot weighs on its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotSlot {
    pub slot: Slot,
    pub owner: Addr,
    pub keys: u64,
    /// Where the server has `cluster-slot-stats-enabled yes`.
    pub traffic: Option<Traffic>,
}

/// What requests for a slot have cost since the server's start, or its CONFIG RESETSTAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub cpu_us: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// The heaviest slots of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Hottest {
    /// They are in the order of CPU time; else of keys.
    pub by_cpu: bool,
    pub slots: Vec<HotSlot>,
    /// Why masters are missing, one line each.
    pub silent: Vec<String>,
}

/// The `count` heaviest slots of all masters.
pub async fn hottest(dialer: &Dialer, map: &SlotMap, count: usize) -> Hottest {
    let mut asking = JoinSet::new();
    for index in map.masters() {
        let (dialer, addr) = (dialer.clone(), map.node(index).addr.clone());
        let own: Vec<Slot> = Slot::all().filter(|slot| map.owner(*slot) == Some(index)).collect();
        asking.spawn(async move {
            let answer = timeout(NODE_LIMIT, ask(&dialer, &addr, &own, count)).await;
            answer.unwrap_or_else(|_| Err(format!("node {addr}: expected its answers within {NODE_LIMIT:?}, found none")))
        });
    }
    let (mut answers, mut silent) = (Vec::new(), Vec::new());
    while let Some(joined) = asking.join_next().await {
        match joined {
            Ok(Ok(answer)) => answers.push(answer),
            Ok(Err(why)) => silent.push(why),
            Err(panicked) => silent.push(panicked.to_string()),
        }
    }
    silent.sort();
    let by_cpu = !answers.is_empty() && answers.iter().all(|answer| answer.by_cpu.is_some());
    let lists = answers.into_iter().map(|answer| answer.by_cpu.filter(|_| by_cpu).unwrap_or(answer.by_keys));
    let mut slots: Vec<HotSlot> =
        lists.flatten().filter(|slot| slot.keys > 0 || slot.traffic.is_some_and(|cost| cost.cpu_us > 0)).collect();
    let weight = |slot: &HotSlot| if by_cpu { slot.traffic.map_or(0, |cost| cost.cpu_us) } else { slot.keys };
    slots.sort_by_key(|slot| (Reverse(weight(slot)), slot.slot));
    slots.truncate(count);
    Hottest { by_cpu, slots, silent }
}

/// One node's heaviest slots, in two orders.
struct Answer {
    by_cpu: Option<Vec<HotSlot>>,
    by_keys: Vec<HotSlot>,
}

async fn ask(dialer: &Dialer, addr: &Addr, own: &[Slot], count: usize) -> Result<Answer, String> {
    let mut node = dialer.dial(addr).await.map_err(|error| error.to_string())?;
    let limit = count.clamp(1, SLOT_COUNT).to_string();
    let mut questions = Pipeline::new();
    for order in ["cpu-usec", "key-count"] {
        questions.push(["CLUSTER", "SLOT-STATS", "ORDERBY", order, "LIMIT", &limit, "DESC"]);
    }
    let replies = node.call_many(&questions).await.map_err(|error| error.to_string())?;
    let mut lists = replies.into_iter().map(|reply| stats(reply, addr));
    let (by_cpu, by_keys) = (lists.next().flatten(), lists.next().flatten());
    if let Some(by_keys) = by_keys {
        return Ok(Answer { by_cpu, by_keys });
    }
    // Before Redis 8.2 and Valkey 8 only the keys can be counted.
    let mut questions = Pipeline::new();
    for slot in own {
        questions.push(["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]);
    }
    let counts = node.call_many(&questions).await.map_err(|error| error.to_string())?;
    let by_keys = own.iter().zip(counts).map(|(slot, reply)| match reply {
        Reply::Integer(keys) => Ok(HotSlot { slot: *slot, owner: addr.clone(), keys: keys.max(0) as u64, traffic: None }),
        other => Err(format!("node {addr}: expected a number of keys, found {other:?}")),
    });
    Ok(Answer { by_cpu: None, by_keys: by_keys.collect::<Result<_, _>>()? })
}

/// `[[slot, [name, number, …]], …]`; `None` when the server does not keep these.
fn stats(reply: Reply, owner: &Addr) -> Option<Vec<HotSlot>> {
    let Reply::Array(slots) = reply else { return None };
    let one = |entry: Reply| {
        let Reply::Array(mut parts) = entry else { return None };
        let (Some(Reply::Array(fields)), Some(Reply::Integer(slot))) = (parts.pop(), parts.pop()) else { return None };
        let field = |wanted: &str| {
            let at = fields.iter().position(|name| matches!(name, Reply::BulkString(name) if *name == *wanted.as_bytes()))?;
            match fields.get(at + 1) {
                Some(Reply::Integer(number)) => Some((*number).max(0) as u64),
                _ => None,
            }
        };
        let traffic = field("cpu-usec").map(|cpu_us| Traffic {
            cpu_us,
            bytes_in: field("network-bytes-in").unwrap_or(0),
            bytes_out: field("network-bytes-out").unwrap_or(0),
        });
        let slot = Slot::new(u16::try_from(slot).ok()?)?;
        Some(HotSlot { slot, owner: owner.clone(), keys: field("key-count").unwrap_or(0), traffic })
    };
    slots.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_slots() {
        let bulk = |text: &'static str| Reply::BulkString(text.into());
        let entry = |slot: i64, fields: Vec<Reply>| Reply::Array(vec![Reply::Integer(slot), Reply::Array(fields)]);
        let owner = Addr::new("10.0.0.1", 7001);
        let fields = vec![
            bulk("key-count"),
            Reply::Integer(3),
            bulk("cpu-usec"),
            Reply::Integer(77),
            bulk("network-bytes-in"),
            Reply::Integer(5),
            bulk("network-bytes-out"),
            Reply::Integer(6),
        ];
        let plain = entry(7, vec![bulk("key-count"), Reply::Integer(2)]);
        let found = stats(Reply::Array(vec![entry(5, fields), plain]), &owner).expect("statistics");
        assert_eq!((found[0].slot.get(), found[0].keys), (5, 3));
        assert_eq!(found[0].traffic, Some(Traffic { cpu_us: 77, bytes_in: 5, bytes_out: 6 }));
        assert_eq!((found[1].slot.get(), found[1].keys, found[1].traffic), (7, 2, None));
        assert_eq!(stats(Reply::Error("ERR Unrecognized sort metric for ORDERBY.".into()), &owner), None);
        assert_eq!(stats(Reply::Array(vec![entry(99_999, vec![])]), &owner), None);
    }
}
