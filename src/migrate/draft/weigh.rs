//! What slots weigh, asked of their owners: a few keys of each slot stand for all of them.

use std::collections::BTreeMap;

use crate::cluster::Slot;
use crate::control::{Connection, Dialer, Pipeline, Reply};
use crate::migrate::SlotSet;
use crate::migrate::plan::{Layout, Place};

/// Keys of a slot that are looked at.
const SAMPLES: usize = 3;
/// Elements of a large value that MEMORY USAGE looks at.
const ELEMENTS: &str = "5";
/// Slots asked about in one go, so that a node answers others in between.
const CHUNK: usize = 256;

/// Puts the sampled bytes of these slots into the layout. Slots of few keys lean on what a key of the node takes on average.
pub async fn bytes(dialer: &Dialer, layout: &mut Layout, slots: &SlotSet) -> Result<(), String> {
    for place in 0..layout.places.len() {
        let held: Vec<Slot> =
            layout.slots_of(place).filter(|slot| slots.contains(*slot) && layout.keys[slot.index()] > 0).collect();
        if held.is_empty() {
            continue;
        }
        let mut node = dial(dialer, &layout.places[place]).await?;
        for chunk in held.chunks(CHUNK) {
            let sampled = sample(&mut node, chunk).await?;
            for slot in chunk {
                let (count, average) = (layout.keys[slot.index()], layout.bytes[slot.index()] / layout.keys[slot.index()].max(1));
                let sizes = sampled.get(slot).map(Vec::as_slice).unwrap_or_default();
                layout.bytes[slot.index()] = extrapolated(sizes, count, average);
            }
        }
    }
    Ok(())
}

/// Bytes of a slot with `count` keys of which some were measured, where a key of its node takes `average` bytes.
fn extrapolated(sizes: &[u64], count: u64, average: u64) -> u64 {
    let measured = sizes.len() as u64;
    if measured == 0 {
        return count * average;
    }
    // One key of average size stands beside the sample: a single large one among thousands of unseen shall not speak for all.
    let mean = (sizes.iter().sum::<u64>() + average) / (measured + 1);
    sizes.iter().sum::<u64>() + count.saturating_sub(measured) * mean
}

async fn dial(dialer: &Dialer, place: &Place) -> Result<Connection, String> {
    dialer.dial(&place.addr).await.map_err(|error| error.to_string())
}

async fn sample(node: &mut Connection, slots: &[Slot]) -> Result<BTreeMap<Slot, Vec<u64>>, String> {
    let mut questions = Pipeline::new();
    for slot in slots {
        questions.push(["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &SAMPLES.to_string()]);
    }
    let replies = node.call_many(&questions).await.map_err(|error| error.to_string())?;
    let mut keys: Vec<(Slot, bytes::Bytes)> = Vec::new();
    for (slot, reply) in slots.iter().zip(replies) {
        let Reply::Array(found) = reply else { return Err(format!("node {}: no list of the keys of slot {slot}", node.addr())) };
        keys.extend(found.into_iter().filter_map(|key| match key {
            Reply::BulkString(key) => Some((*slot, key)),
            _ => None,
        }));
    }
    let mut sized: BTreeMap<Slot, Vec<u64>> = BTreeMap::new();
    if keys.is_empty() {
        return Ok(sized);
    }
    let mut questions = Pipeline::new();
    for (_, key) in &keys {
        questions.push([b"MEMORY".as_slice(), b"USAGE", key, b"SAMPLES", ELEMENTS.as_bytes()]);
    }
    let replies = node.call_many(&questions).await.map_err(|error| error.to_string())?;
    for ((slot, _), reply) in keys.iter().zip(replies) {
        // A key that has gone meanwhile, or MEMORY denied to this account: the average has to do.
        if let Reply::Integer(bytes) = reply {
            sized.entry(*slot).or_default().push(bytes.max(0) as u64);
        }
    }
    Ok(sized)
}

/// Microseconds of CPU that each slot has taken, where every owner tells.
pub async fn cpu(dialer: &Dialer, layout: &Layout) -> Result<Option<Vec<u64>>, String> {
    let mut taken = vec![0; crate::cluster::SLOT_COUNT];
    for place in 0..layout.places.len() {
        if layout.slots_of(place).next().is_none() {
            continue;
        }
        let mut node = dial(dialer, &layout.places[place]).await?;
        let reply = node.call(["CLUSTER", "SLOT-STATS", "SLOTSRANGE", "0", "16383"]).await.map_err(|error| error.to_string())?;
        let Some(slots) = slot_cpu(&reply) else { return Ok(None) };
        slots.into_iter().for_each(|(slot, cpu)| taken[slot.index()] = cpu);
    }
    Ok(Some(taken))
}

/// `[[slot, [name, value, ...]], ...]`; none when it is an error or lacks `cpu-usec` (cluster-slot-stats-enabled no).
fn slot_cpu(reply: &Reply) -> Option<Vec<(Slot, u64)>> {
    let Reply::Array(slots) = reply else { return None };
    let one = |entry: &Reply| {
        let Reply::Array(entry) = entry else { return None };
        let [Reply::Integer(slot), Reply::Array(fields)] = &entry[..] else { return None };
        let cpu = fields.chunks_exact(2).find_map(|pair| match pair {
            [Reply::BulkString(name) | Reply::SimpleString(name), Reply::Integer(value)] if &name[..] == b"cpu-usec" => {
                Some(*value)
            }
            _ => None,
        })?;
        Some((Slot::new(u16::try_from(*slot).ok()?)?, cpu.max(0) as u64))
    };
    slots.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_stands_for_the_slot() {
        assert_eq!(extrapolated(&[], 10, 100), 1000);
        assert_eq!(extrapolated(&[100, 100], 2, 50), 200, "all are known");
        assert_eq!(extrapolated(&[1000], 11, 0), 1000 + 10 * 500);
        assert_eq!(extrapolated(&[100, 100, 100], 103, 100), 10_300);
    }

    #[test]
    fn cpu_of_slots() {
        let text = |text: &'static str| Reply::BulkString(text.into());
        let entry = |slot, fields| Reply::Array(vec![Reply::Integer(slot), Reply::Array(fields)]);
        let with = entry(5, vec![text("key-count"), Reply::Integer(1), text("cpu-usec"), Reply::Integer(77)]);
        let without = entry(5, vec![text("key-count"), Reply::Integer(1)]);
        assert_eq!(slot_cpu(&Reply::Array(vec![with])), Slot::new(5).map(|slot| vec![(slot, 77)]));
        assert_eq!(slot_cpu(&Reply::Array(vec![without])), None);
        assert_eq!(slot_cpu(&Reply::Error("ERR unknown".into())), None);
    }
}
