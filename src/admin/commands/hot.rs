//! PROXY SLOTS, whole and by weight.

use serde_json::json;

use super::cluster::{no_map, slots};
use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::{Reply, Report};
use crate::admin::text::columns;
use crate::migrate::hot::{Hottest, hottest};

/// More would be no list of the heaviest.
const COUNT_MAX: usize = 1000;

pub(super) static SLOTS: Definition = Definition {
    name: "PROXY SLOTS",
    syntax: "PROXY SLOTS [HOT count] [JSON]",
    summary: "List the ranges of slots and their owners, or the heaviest slots",
    help: "In rising order, gaps included; slots that are being moved stand at the end. HOT asks all masters for the slots that cost most: \
           in CPU time where the server has cluster-slot-stats-enabled yes (Redis 8.2, Valkey 8 and later), else in keys.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [] => Ok(Handler::now(|_, state| state.cluster.topology.current().map_or_else(no_map, |map| slots(&map)))),
        [hot, count] if hot.eq_ignore_ascii_case(b"HOT") => {
            let number = std::str::from_utf8(count).ok().and_then(|count| count.parse().ok());
            let count: usize = number
                .filter(|count| (1..=COUNT_MAX).contains(count))
                .ok_or_else(|| Wrong::Value { expected: "a number of slots from 1 to 1000", found: shown(count) })?;
            Ok(Handler::later(move |state| {
                let cluster = state.cluster.clone();
                async move {
                    match cluster.topology.current() {
                        Some(map) => report(&hottest(&cluster.dialer, &map, count).await),
                        None => no_map(),
                    }
                }
            }))
        }
        [other, ..] if !other.eq_ignore_ascii_case(b"HOT") => Err(Wrong::Value { expected: "HOT", found: shown(other) }),
        _ => Err(Wrong::Count),
    },
};

fn report(hottest: &Hottest) -> Reply {
    let title = ["slot", "owner", "keys", "cpu", "in", "out"].map(str::to_owned).to_vec();
    let row = |slot: &crate::migrate::hot::HotSlot| {
        let traffic = slot.traffic.map_or(Default::default(), |cost| {
            [
                format!("{} ms", cost.cpu_us / 1000),
                format!("{} kB", cost.bytes_in / 1000),
                format!("{} kB", cost.bytes_out / 1000),
            ]
        });
        [[slot.slot.to_string(), slot.owner.to_string(), slot.keys.to_string()], traffic].concat()
    };
    let mut lines = columns(&std::iter::once(title).chain(hottest.slots.iter().map(row)).collect::<Vec<_>>());
    lines.extend(hottest.silent.iter().map(|why| format!("missing: {why}")));
    let value = json!({
        "by": if hottest.by_cpu { "cpu" } else { "keys" },
        "slots": hottest.slots.iter().map(|slot| json!({
            "slot": slot.slot.get(),
            "owner": slot.owner.as_str(),
            "keys": slot.keys,
            "cpu_us": slot.traffic.map(|cost| cost.cpu_us),
            "bytes_in": slot.traffic.map(|cost| cost.bytes_in),
            "bytes_out": slot.traffic.map(|cost| cost.bytes_out),
        })).collect::<Vec<_>>(),
        "missing": hottest.silent,
    });
    Reply::Report(Report { lines, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::definition::tests::check;
    use crate::cluster::{Addr, Slot};
    use crate::migrate::hot::{HotSlot, Traffic};

    #[test]
    fn the_heaviest_slots() {
        let slot = |slot: u16, keys: u64, traffic: Option<Traffic>| HotSlot {
            slot: Slot::new(slot).expect("a slot"),
            owner: Addr::new("10.0.0.1", 7001),
            keys,
            traffic,
        };
        let traffic = Traffic { cpu_us: 12_345, bytes_in: 4000, bytes_out: 70_000 };
        let slots = vec![slot(5, 100, Some(traffic)), slot(16000, 7, None)];
        let Reply::Report(found) = report(&Hottest { by_cpu: true, slots, silent: vec!["node a: down".to_owned()] }) else {
            panic!("no report")
        };
        let expected = [
            "slot   owner          keys  cpu    in    out",
            "5      10.0.0.1:7001  100   12 ms  4 kB  70 kB",
            "16000  10.0.0.1:7001  7",
            "missing: node a: down",
        ];
        assert_eq!(found.lines, expected);
        assert_eq!((found.value["by"].as_str(), found.value["slots"][0]["cpu_us"].as_u64()), (Some("cpu"), Some(12_345)));
    }

    #[test]
    fn what_is_no_number_of_slots() {
        let syntax = "Syntax: PROXY SLOTS [HOT count] [JSON]\r\n";
        check("PROXY SLOTS HOT 0", &format!("-ERR expected a number of slots from 1 to 1000, found '0'. {syntax}"));
        check("PROXY SLOTS COLD 5", &format!("-ERR expected HOT, found 'COLD'. {syntax}"));
        check("PROXY SLOTS HOT", &format!("-ERR wrong number of arguments for 'proxy|slots' command. {syntax}"));
    }
}
