//! FUNCTION STATS and MEMORY STATS of several nodes: both are maps.

use super::{elements, integer, number, pairs, raw, text};
use crate::resp::{Proto, View, encode, view};

/// The running script of the node that has one; the rest, such as the counts of libraries, is the same on all nodes
/// and is taken from the first.
pub fn function(proto: Proto, replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut running = None;
    for reply in replies {
        let (_, script) = pairs(reply)?.into_iter().find(|(name, _)| text(name) == Some(b"running_script"))?;
        if view(script)? != View::Null {
            running = running.or(Some(script));
        }
    }
    let fields = pairs(replies[0])?;
    encode::map(out, proto, fields.len());
    for (name, value) in fields {
        raw(name, out)?;
        raw(running.filter(|_| text(name) == Some(b"running_script")).unwrap_or(value), out)?;
    }
    Some(())
}

/// Numbers are summed, also in the maps of the databases; what is a share or a mean is computed from the sums.
pub fn memory(proto: Proto, replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut merged = Fields::default();
    let mut payload = 0.0;
    for reply in replies {
        let fields = Fields::parse(reply)?;
        payload += fields.sum("keys.bytes-per-key") * fields.sum("keys.count");
        merged.add(fields)?;
    }
    merged.compute(payload);
    merged.write(proto, out)
}

/// A field that is a share of one sum in another: `factor * part / (whole - less) + added`.
struct Share {
    name: &'static str,
    part: &'static str,
    whole: &'static str,
    less: Option<&'static str>,
    factor: f64,
    added: f64,
}

const SHARES: [Share; 6] = [
    percentage("dataset.percentage", "dataset.bytes", "total.allocated", Some("startup.allocated")),
    percentage("peak.percentage", "total.allocated", "peak.allocated", None),
    excess("allocator-fragmentation.ratio", "allocator-fragmentation.bytes", "allocator.allocated"),
    excess("allocator-rss.ratio", "allocator-rss.bytes", "allocator.active"),
    excess("rss-overhead.ratio", "rss-overhead.bytes", "allocator.resident"),
    excess("fragmentation", "fragmentation.bytes", "total.allocated"),
];

const fn percentage(name: &'static str, part: &'static str, whole: &'static str, less: Option<&'static str>) -> Share {
    Share { name, part, whole, less, factor: 100.0, added: 0.0 }
}

/// The ratio of the whole with the part to the whole.
const fn excess(name: &'static str, part: &'static str, whole: &'static str) -> Share {
    Share { name, part, whole, less: None, factor: 1.0, added: 1.0 }
}

enum Field<'a> {
    Sum(i64),
    Share(f64),
    Database(Fields<'a>),
    /// Kept as the first node has it.
    Other(&'a [u8]),
}

/// By name, in the order of the first node; what only others have comes last.
#[derive(Default)]
struct Fields<'a>(Vec<(&'a [u8], Field<'a>)>);

impl<'a> Fields<'a> {
    fn parse(reply: &'a [u8]) -> Option<Fields<'a>> {
        let fields = pairs(reply)?.into_iter().map(|(name, value)| {
            let field = match (integer(value), number(value)) {
                (Some(sum), _) => Field::Sum(sum),
                (None, Some(share)) => Field::Share(share),
                _ if elements(value).is_some() => Field::Database(Fields::parse(value)?),
                _ => Field::Other(value),
            };
            Some((text(name)?, field))
        });
        Some(Fields(fields.collect::<Option<_>>()?))
    }

    /// `None` if a field is of different kinds on different nodes.
    fn add(&mut self, other: Fields<'a>) -> Option<()> {
        for (name, field) in other.0 {
            match (self.0.iter_mut().find(|(known, _)| *known == name).map(|(_, field)| field), field) {
                (None, field) => self.0.push((name, field)),
                (Some(Field::Sum(sum)), Field::Sum(more)) => *sum = sum.saturating_add(more),
                (Some(Field::Database(database)), Field::Database(more)) => database.add(more)?,
                // Replaced by what the sums give, or the worst if it is none of the known shares.
                (Some(Field::Share(worst)), Field::Share(more)) => *worst = worst.max(more),
                (Some(Field::Other(_)), Field::Other(_)) => {}
                _ => return None,
            }
        }
        Some(())
    }

    /// Sets what is made of sums. `payload` is the sum of the nodes' bytes per key times their keys.
    fn compute(&mut self, payload: f64) {
        for share in &SHARES {
            let whole = self.sum(share.whole) - share.less.map_or(0.0, |less| self.sum(less));
            let part = if whole > 0.0 { self.sum(share.part) / whole } else { 0.0 };
            if let Some(Field::Share(value)) = self.field(share.name) {
                *value = share.factor * part + share.added;
            }
        }
        let keys = self.sum("keys.count");
        if let Some(Field::Sum(mean)) = self.field("keys.bytes-per-key") {
            *mean = if keys > 0.0 { (payload / keys) as i64 } else { 0 };
        }
    }

    fn field(&mut self, name: &str) -> Option<&mut Field<'a>> {
        self.0.iter_mut().find(|(known, _)| *known == name.as_bytes()).map(|(_, field)| field)
    }

    /// A field's number; 0 if there is none.
    fn sum(&self, name: &str) -> f64 {
        match self.0.iter().find(|(known, _)| *known == name.as_bytes()) {
            Some((_, Field::Sum(sum))) => *sum as f64,
            _ => 0.0,
        }
    }

    fn write(&self, proto: Proto, out: &mut Vec<u8>) -> Option<()> {
        encode::map(out, proto, self.0.len());
        for (name, field) in &self.0 {
            encode::bulk(out, name);
            match field {
                Field::Sum(sum) => encode::integer(out, *sum),
                Field::Share(share) => encode::double(out, proto, share.to_string()),
                Field::Database(database) => database.write(proto, out)?,
                Field::Other(value) => raw(value, out)?,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use crate::command::Fan;
    use crate::resp::Proto;

    #[test]
    fn function_stats_show_the_running_script_of_any_node() {
        // Redis 8.2.3, Valkey 9.1.2
        let engines = "$7\nengines\n%1\n$3\nLUA\n%2\n$15\nlibraries_count\n:1\n$15\nfunctions_count\n:2\n";
        let idle = format!("%2\n$14\nrunning_script\n_\n{engines}");
        let busy = format!("%2\n$14\nrunning_script\n%2\n$4\nname\n$1\nf\n$11\nduration_ms\n:12\n{engines}");
        let check3 = |replies: &[&str], expected: &str| check(Fan::FunctionStats, Proto::Resp3, replies, expected);
        check3(&[&idle, &idle], &idle);
        check3(&[&idle, &busy], &busy);
        check3(&[&busy, &idle], &busy);
        let engines = "$7\nengines\n*2\n$3\nLUA\n*4\n$15\nlibraries_count\n:1\n$15\nfunctions_count\n:2\n";
        let idle = format!("*4\n$14\nrunning_script\n$-1\n{engines}");
        let busy = format!("*4\n$14\nrunning_script\n*4\n$4\nname\n$1\nf\n$11\nduration_ms\n:12\n{engines}");
        check(Fan::FunctionStats, Proto::Resp2, &[&idle, &idle, &busy], &busy);
    }

    #[test]
    fn memory_stats_are_summed_and_shares_computed_again() {
        // Redis 6.2.5 and 8.2.3, shortened.
        let first = "%15\n$14\npeak.allocated\n:2000\n$15\ntotal.allocated\n:1000\n$17\nstartup.allocated\n:500\n\
                     $4\ndb.0\n%1\n$23\noverhead.hashtable.main\n:192\n$10\nkeys.count\n:4\n$18\nkeys.bytes-per-key\n:100\n\
                     $13\ndataset.bytes\n:400\n$18\ndataset.percentage\n,80\n$15\npeak.percentage\n,50\n\
                     $19\nallocator.allocated\n:1000\n$29\nallocator-fragmentation.ratio\n,1.5\n\
                     $29\nallocator-fragmentation.bytes\n:500\n$13\nfragmentation\n,3.5\n$19\nfragmentation.bytes\n:2500\n\
                     $6\nfuture\n+x\n";
        let second = "%15\n$14\npeak.allocated\n:2000\n$15\ntotal.allocated\n:1000\n$17\nstartup.allocated\n:500\n\
                     $4\ndb.0\n%2\n$23\noverhead.hashtable.main\n:8\n$26\noverhead.hashtable.expires\n:56\n\
                     $10\nkeys.count\n:12\n$18\nkeys.bytes-per-key\n:20\n\
                     $13\ndataset.bytes\n:100\n$18\ndataset.percentage\n,20\n$15\npeak.percentage\n,50\n\
                     $19\nallocator.allocated\n:1000\n$29\nallocator-fragmentation.ratio\n,1\n\
                     $29\nallocator-fragmentation.bytes\n:0\n$13\nfragmentation\n,1\n$19\nfragmentation.bytes\n:-500\n\
                     $6\nfuture\n+y\n";
        let merged = "%15\n$14\npeak.allocated\n:4000\n$15\ntotal.allocated\n:2000\n$17\nstartup.allocated\n:1000\n\
                     $4\ndb.0\n%2\n$23\noverhead.hashtable.main\n:200\n$26\noverhead.hashtable.expires\n:56\n\
                     $10\nkeys.count\n:16\n$18\nkeys.bytes-per-key\n:40\n\
                     $13\ndataset.bytes\n:500\n$18\ndataset.percentage\n,50\n$15\npeak.percentage\n,50\n\
                     $19\nallocator.allocated\n:2000\n$29\nallocator-fragmentation.ratio\n,1.25\n\
                     $29\nallocator-fragmentation.bytes\n:500\n$13\nfragmentation\n,2\n$19\nfragmentation.bytes\n:2000\n\
                     $6\nfuture\n+x\n";
        check(Fan::MemoryStats, Proto::Resp3, &[first, second], merged);
        // Doubles are bulks and maps are flat in RESP2; an empty node divides nothing by nothing.
        check(
            Fan::MemoryStats,
            Proto::Resp2,
            &[
                "*8\n$15\ntotal.allocated\n:3\n$14\npeak.allocated\n:4\n$15\npeak.percentage\n$2\n75\n$18\nkeys.bytes-per-key\n:0\n",
                "*8\n$15\ntotal.allocated\n:5\n$14\npeak.allocated\n:6\n$15\npeak.percentage\n$5\n83.33\n$18\nkeys.bytes-per-key\n:0\n",
            ],
            "*8\n$15\ntotal.allocated\n:8\n$14\npeak.allocated\n:10\n$15\npeak.percentage\n$2\n80\n$18\nkeys.bytes-per-key\n:0\n",
        );
    }
}
