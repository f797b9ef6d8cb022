//! LATENCY LATEST, HISTORY and HISTOGRAM of several nodes.

use std::collections::BTreeMap;

use super::{elements, integer, integers_of, pairs, raw, text};
use crate::resp::{Proto, encode};

/// Per event the worst of all nodes. An entry is name, time, latest and highest latency, and in Valkey the sum and the
/// number of all latencies, which add up.
pub fn latest(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut events: Vec<(&[u8], Vec<i64>)> = Vec::new();
    for entry in replies.iter().map(|reply| elements(reply)).collect::<Option<Vec<_>>>()?.into_iter().flatten() {
        let mut fields = elements(entry)?;
        let name = fields.next()?;
        let values: Vec<i64> = fields.map(integer).collect::<Option<_>>()?;
        match events.iter_mut().find(|(known, _)| *known == name) {
            None => events.push((name, values)),
            Some((_, merged)) => {
                // Nodes of an older version do not tell the sums, so that nobody can.
                merged.truncate(values.len());
                for (place, (merged, value)) in merged.iter_mut().zip(values).enumerate() {
                    *merged = if place < 3 { (*merged).max(value) } else { merged.saturating_add(value) };
                }
            }
        }
    }
    encode::array(out, events.len());
    for (name, values) in events {
        encode::array(out, 1 + values.len());
        raw(name, out)?;
        values.into_iter().for_each(|value| encode::integer(out, value));
    }
    Some(())
}

/// Pairs of second and latency, oldest first; the worst of every second.
pub fn history(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut seconds = BTreeMap::new();
    for sample in replies.iter().map(|reply| elements(reply)).collect::<Option<Vec<_>>>()?.into_iter().flatten() {
        let [second, latency] = integers_of(sample)?.try_into().ok()?;
        seconds.entry(second).and_modify(|worst: &mut i64| *worst = (*worst).max(latency)).or_insert(latency);
    }
    encode::array(out, seconds.len());
    for (second, latency) in seconds {
        encode::array(out, 2);
        encode::integer(out, second);
        encode::integer(out, latency);
    }
    Some(())
}

/// Per command the number of calls and, at bounds of time, how many of them took no longer.
pub fn histogram(proto: Proto, replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut commands: Vec<(&[u8], Vec<Calls>)> = Vec::new();
    for reply in replies {
        for (name, value) in pairs(reply)? {
            let calls = Calls::parse(value)?;
            match commands.iter_mut().find(|(known, _)| *known == name) {
                Some((_, nodes)) => nodes.push(calls),
                None => commands.push((name, vec![calls])),
            }
        }
    }
    encode::map(out, proto, commands.len());
    for (name, nodes) in commands {
        raw(name, out)?;
        encode::map(out, proto, 2);
        encode::bulk(out, "calls");
        encode::integer(out, nodes.iter().map(|calls| calls.total).fold(0, i64::saturating_add));
        encode::bulk(out, "histogram_usec");
        let merged = merge_buckets(&nodes);
        encode::map(out, proto, merged.len());
        merged.into_iter().flat_map(|(bound, calls)| [bound, calls]).for_each(|number| encode::integer(out, number));
    }
    Some(())
}

/// One node's histogram of one command.
struct Calls {
    total: i64,
    /// Calls that took no longer, by bound in microseconds. A bound between two others adds no calls.
    buckets: BTreeMap<i64, i64>,
}

impl Calls {
    fn parse(value: &[u8]) -> Option<Calls> {
        let fields = pairs(value)?;
        let field = |name: &[u8]| fields.iter().find(|(known, _)| text(known) == Some(name)).map(|(_, value)| *value);
        let buckets = pairs(field(b"histogram_usec")?)?;
        let buckets = buckets.into_iter().map(|(bound, calls)| Some((integer(bound)?, integer(calls)?)));
        Some(Calls { total: integer(field(b"calls")?)?, buckets: buckets.collect::<Option<_>>()? })
    }

    /// How many calls took no longer than `bound`.
    fn within(&self, bound: i64) -> i64 {
        self.buckets.range(..=bound).next_back().map_or(0, |(_, calls)| *calls)
    }
}

fn merge_buckets(nodes: &[Calls]) -> BTreeMap<i64, i64> {
    let bounds = nodes.iter().flat_map(|node| node.buckets.keys().copied());
    bounds.map(|bound| (bound, nodes.iter().map(|node| node.within(bound)).fold(0, i64::saturating_add))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use crate::command::Fan;
    use crate::resp::Proto;

    #[test]
    fn the_latest_event_is_the_worst_of_all_nodes() {
        let check = |replies: &[&str], expected: &str| check(Fan::LatencyLatest, Proto::Resp2, replies, expected);
        // Redis 8.2.3
        check(
            &[
                "*1\n*4\n$7\ncommand\n:1795362037\n:28\n:28\n",
                "*2\n*4\n$4\nfork\n:1795362000\n:1\n:2\n*4\n$7\ncommand\n:1795362035\n:5\n:40\n",
                "*0\n",
            ],
            "*2\n*4\n$7\ncommand\n:1795362037\n:28\n:40\n*4\n$4\nfork\n:1795362000\n:1\n:2\n",
        );
        // Valkey 9.1.2: with the sum and the number of all.
        check(
            &["*1\n*6\n$7\ncommand\n:1795362039\n:29\n:29\n:29\n:1\n", "*1\n*6\n$7\ncommand\n:1795362030\n:2\n:7\n:9\n:2\n"],
            "*1\n*6\n$7\ncommand\n:1795362039\n:29\n:29\n:38\n:3\n",
        );
        check(
            &["*1\n*6\n$7\ncommand\n:1795362039\n:29\n:29\n:29\n:1\n", "*1\n*4\n$7\ncommand\n:1795362030\n:2\n:7\n"],
            "*1\n*4\n$7\ncommand\n:1795362039\n:29\n:29\n",
        );
        check(&["*0\n", "*0\n"], "*0\n");
    }

    #[test]
    fn histories_are_one_sequence() {
        check(
            Fan::LatencyHistory,
            Proto::Resp3,
            &["*2\n*2\n:1795362034\n:27\n*2\n:1795362036\n:1\n", "*2\n*2\n:1795362033\n:4\n*2\n:1795362034\n:30\n", "*0\n"],
            "*3\n*2\n:1795362033\n:4\n*2\n:1795362034\n:30\n*2\n:1795362036\n:1\n",
        );
    }

    #[test]
    fn histograms_are_added() {
        // Redis 7.0.15
        let set = "$3\nset\n%2\n$5\ncalls\n:479\n$14\nhistogram_usec\n%3\n:1\n:412\n:4\n:460\n:66\n:479\n";
        let set_on_another = "$3\nset\n%2\n$5\ncalls\n:9\n$14\nhistogram_usec\n%2\n:2\n:8\n:33\n:9\n";
        let get = "$3\nget\n%2\n$5\ncalls\n:2\n$14\nhistogram_usec\n%2\n:4\n:1\n:8\n:2\n";
        let both = "$3\nset\n%2\n$5\ncalls\n:488\n$14\nhistogram_usec\n%5\n:1\n:412\n:2\n:420\n:4\n:468\n:33\n:469\n:66\n:488\n";
        check(
            Fan::LatencyHistogram,
            Proto::Resp3,
            &[&format!("%1\n{set}"), &format!("%2\n{get}{set_on_another}"), "%0\n"],
            &format!("%2\n{both}{get}"),
        );
        let flat = |text: &str| text.replace("%2", "*4").replace("%3", "*6").replace("%5", "*10");
        check(
            Fan::LatencyHistogram,
            Proto::Resp2,
            &[&flat(&format!("*2\n{set}")), &flat(&format!("*2\n{set_on_another}"))],
            &flat(&format!("*2\n{both}")),
        );
        let unknown = "-ERR Unknown subcommand or wrong number of arguments for 'HISTOGRAM'. Try LATENCY HELP.\n";
        check(Fan::LatencyHistogram, Proto::Resp2, &[unknown, unknown], unknown);
    }
}
