//! Numbers of INFO: integers, decimals with as many digits as the server prints, sizes for people.

/// How one number is made of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    Sum,
    Max,
    Min,
}

/// One number of all values, with the most decimals of any; `None` if one is no number or there is none.
pub fn fold<'a>(fold: Fold, values: impl Iterator<Item = &'a str>) -> Option<String> {
    let values: Vec<&str> = values.collect();
    let integers: Option<Vec<i128>> = values.iter().map(|value| value.parse().ok()).collect();
    if let Some(integers) = integers {
        let folded = match fold {
            Fold::Sum => integers.iter().copied().reduce(i128::saturating_add),
            Fold::Max => integers.iter().copied().max(),
            Fold::Min => integers.iter().copied().min(),
        };
        return folded.map(|number| number.to_string());
    }
    let decimals = values.iter().filter_map(|value| value.split_once('.')).map(|(_, digits)| digits.len()).max();
    let numbers: Vec<f64> = values.iter().map(|value| value.parse().ok()).collect::<Option<_>>()?;
    let folded = match fold {
        Fold::Sum => numbers.into_iter().reduce(|left, right| left + right),
        Fold::Max => numbers.into_iter().reduce(f64::max),
        Fold::Min => numbers.into_iter().reduce(f64::min),
    };
    folded.map(|number| format!("{number:.*}", decimals.unwrap_or(0)))
}

/// The sum of limits, where 0 is none: one node without a limit leaves the cluster without one.
pub fn fold_limit<'a>(values: impl Iterator<Item = &'a str>) -> Option<String> {
    let values: Vec<&str> = values.collect();
    if values.contains(&"0") { Some("0".to_owned()) } else { fold(Fold::Sum, values.into_iter()) }
}

/// A quotient, if both are known and it exists.
pub fn ratio(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    let (over, under) = (over?, under?);
    (under > 0.0).then_some(over / under)
}

/// A number of bytes as servers write it for people: `512B`, `2.72M`.
pub fn human(bytes: f64) -> String {
    let units = ["K", "M", "G", "T", "P"];
    if bytes < 1024.0 {
        return format!("{bytes}B");
    }
    let power = (1..units.len()).take_while(|power| bytes >= 1024_f64.powi(*power as i32 + 1)).count();
    format!("{:.2}{}", bytes / 1024_f64.powi(power as i32 + 1), units[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_folded_with_their_decimals() {
        fn check(rule: Fold, values: &[&str], expected: Option<&str>) {
            assert_eq!(fold(rule, values.iter().copied()).as_deref(), expected, "{rule:?} {values:?}");
        }
        check(Fold::Sum, &["1", "2", "3"], Some("6"));
        check(Fold::Sum, &["-1"], Some("-1"));
        check(Fold::Sum, &["18446744073709551615", "1"], Some("18446744073709551616"));
        check(Fold::Sum, &["0.07", "1.5"], Some("1.57"));
        check(Fold::Sum, &["0.535559", "1"], Some("1.535559"));
        check(Fold::Max, &["3", "10"], Some("10"));
        check(Fold::Max, &["3.00", "10.50"], Some("10.50"));
        check(Fold::Min, &["3", "10"], Some("3"));
        check(Fold::Sum, &["libc", "libc"], None);
        check(Fold::Sum, &["1", "libc"], None);
        check(Fold::Sum, &[], None);
    }

    #[test]
    fn sizes_are_written_for_people() {
        fn check(bytes: f64, expected: &str) {
            assert_eq!(human(bytes), expected);
        }
        check(0.0, "0B");
        check(320.0, "320B");
        check(1023.0, "1023B");
        check(1024.0, "1.00K");
        check(33_792.0, "33.00K");
        check(2_854_600.0, "2.72M");
        check(25_276_502_016.0, "23.54G");
        check(1_500_000_000_000_000.0, "1.33P");
    }
}
