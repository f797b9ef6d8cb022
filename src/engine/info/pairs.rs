//! Lines of INFO whose value is a list: `calls=1,usec=16,usec_per_call=16.00`.

use super::number::{self, Fold, ratio};

/// The sums of all counts.
pub fn sum<'a>(lists: impl Iterator<Item = &'a str>) -> String {
    let mut merged = Pairs::fold(Fold::Sum, lists);
    merged.sort_sizes();
    merged.text()
}

/// The sums of `cmdstat_*`, and the time per call that they give.
pub fn sum_command<'a>(lists: impl Iterator<Item = &'a str>) -> String {
    let mut merged = Pairs::fold(Fold::Sum, lists);
    let per_call = ratio(merged.number("usec"), merged.number("calls")).unwrap_or(0.0);
    merged.set("usec_per_call", format!("{per_call:.2}"));
    merged.text()
}

/// The sums of `db0`. The mean time to live is that of all keys which have one.
pub fn sum_keyspace<'a>(lists: impl Iterator<Item = &'a str>) -> String {
    let lists: Vec<Pairs> = lists.map(Pairs::parse).collect();
    let lifetimes = lists.iter().filter_map(|list| Some(list.number("expires")? * list.number("avg_ttl")?));
    let lifetime = lifetimes.sum();
    let mut merged = Pairs::fold_parsed(Fold::Sum, lists);
    let mean = ratio(Some(lifetime), merged.number("expires")).unwrap_or(0.0);
    merged.set("avg_ttl", format!("{mean:.0}"));
    merged.text()
}

/// The largest of every percentile.
pub fn max<'a>(lists: impl Iterator<Item = &'a str>) -> String {
    Pairs::fold(Fold::Max, lists).text()
}

struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn parse(list: &str) -> Pairs {
        let pairs = list.split(',').filter_map(|pair| pair.split_once('='));
        Pairs(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn fold<'a>(fold: Fold, lists: impl Iterator<Item = &'a str>) -> Pairs {
        Pairs::fold_parsed(fold, lists.map(Pairs::parse).collect())
    }

    /// Names in the order in which they are met; a value that is no number stays as it is met first.
    fn fold_parsed(fold: Fold, lists: Vec<Pairs>) -> Pairs {
        let mut merged = Pairs(Vec::new());
        for (name, value) in lists.into_iter().flat_map(|list| list.0) {
            match merged.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => {
                    if let Some(folded) = number::fold(fold, [known.as_str(), &value].into_iter()) {
                        *known = folded;
                    }
                }
                None => merged.0.push((name, value)),
            }
        }
        merged
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name)?.1.parse().ok()
    }

    fn set(&mut self, name: &str, value: String) {
        if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| known == name) {
            *known = value;
        }
    }

    /// The names of `db0_distrib_*` are sizes (`1`, `512`, `2K`), which a server lists from small to large.
    fn sort_sizes(&mut self) {
        if self.0.iter().all(|(name, _)| size(name).is_some()) {
            self.0.sort_by_key(|(name, _)| size(name));
        }
    }

    fn text(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join(",")
    }
}

fn size(name: &str) -> Option<u64> {
    let digits = name.trim_end_matches(|unit: char| unit.is_ascii_uppercase());
    let power = match &name[digits.len()..] {
        "" => 0,
        unit => 1 + ["K", "M", "G", "T", "P", "E"].iter().position(|known| *known == unit)?,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << (10 * power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_merged_by_name() {
        fn check(merged: String, expected: &str) {
            assert_eq!(merged, expected);
        }
        check(sum(["count=3", "count=4", "count=1"].into_iter()), "count=8");
        check(sum(["1=3,2K=1", "2=7,512=1,2K=4,1M=1"].into_iter()), "1=3,2=7,512=1,2K=5,1M=1");
        let calls = [
            "calls=2,usec=331,usec_per_call=165.50,rejected_calls=0,failed_calls=1",
            "calls=1,usec=16,usec_per_call=16.00,rejected_calls=2,failed_calls=1",
        ];
        check(sum_command(calls.into_iter()), "calls=3,usec=347,usec_per_call=115.67,rejected_calls=2,failed_calls=2");
        let never_run = "calls=0,usec=0,usec_per_call=0.00,rejected_calls=4,failed_calls=0";
        check(sum_command([never_run].into_iter()), never_run);
        let keys = ["keys=3,expires=1,avg_ttl=1000", "keys=9,expires=3,avg_ttl=3000"];
        check(sum_keyspace(keys.into_iter()), "keys=12,expires=4,avg_ttl=2500");
        let keys = ["keys=3,expires=0,avg_ttl=0,subexpiry=2", "keys=1,expires=0,avg_ttl=0,subexpiry=0"];
        check(sum_keyspace(keys.into_iter()), "keys=4,expires=0,avg_ttl=0,subexpiry=2");
        let percentiles = ["p50=1.003,p99=5.023,p99.9=7.007", "p50=40.191,p99=1.000,p99.9=9.100"];
        check(max(percentiles.into_iter()), "p50=40.191,p99=5.023,p99.9=9.100");
    }
}
