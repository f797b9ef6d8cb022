//! Sizes and durations as people write them.

use std::time::Duration;

/// Redis's meaning of `kb`, `mb` and `gb` (redis.conf, "Note on units"): powers of 1024.
pub const KB: usize = 1 << 10;
pub const MB: usize = 1 << 20;
pub const GB: usize = 1 << 30;

/// Largest first, so that [`show_size`] finds the largest unit that divides.
const SIZE_UNITS: [(&str, usize); 4] = [("gb", GB), ("mb", MB), ("kb", KB), ("b", 1)];
const DURATION_UNITS_MS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A size in bytes: `65536`, `64kb`, `512mb`, `1gb`, in upper or lower case. `None` when it is no size.
pub fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = number_and_unit(text)?;
    let bytes = match unit.as_str() {
        "" => 1,
        unit => SIZE_UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    usize::try_from(number).ok()?.checked_mul(bytes)
}

/// A size in the largest unit that divides it: `64kb`, `1gb`, `65537` (plain bytes).
pub fn show_size(bytes: usize) -> String {
    match SIZE_UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) if *unit > 1 => format!("{}{name}", bytes / unit),
        _ => bytes.to_string(),
    }
}

/// A duration with its unit: `500ms`, `10s`, `5m`, `2h`. Only `0` may stand without one, because a bare
/// `5` is read as seconds by one person and as milliseconds by the next.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    if number == 0 && unit.is_empty() {
        return Some(Duration::ZERO);
    }
    let unit_ms = DURATION_UNITS_MS.iter().find(|(name, _)| *name == unit)?.1;
    Some(Duration::from_millis(number.checked_mul(unit_ms)?))
}

/// A duration in the largest unit that divides it: `5m`, `1500ms`, `0`.
pub fn show_duration(duration: Duration) -> String {
    // Configured durations are whole milliseconds and far below 2^64 of them.
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match DURATION_UNITS_MS.iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", ms / unit),
        None => "0".to_owned(),
    }
}

fn number_and_unit(text: &str) -> Option<(u64, String)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        #[track_caller]
        fn check(text: &str, expected: Option<usize>) {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
        check("0", Some(0));
        check("65536", Some(65536));
        check("64kb", Some(64 * KB));
        check("512MB", Some(512 * MB));
        check("1gb", Some(GB));
        check("7b", Some(7));
        for wrong in ["", "kb", "-1", "+1", "1.5gb", "64k", "1 gb", "1tb", "99999999999999999999", "18446744073709551615gb"] {
            check(wrong, None);
        }
    }

    #[test]
    fn durations() {
        #[track_caller]
        fn check(text: &str, expected_ms: Option<u64>) {
            assert_eq!(parse_duration(text), expected_ms.map(Duration::from_millis), "{text:?}");
        }
        check("0", Some(0));
        check("0s", Some(0));
        check("500ms", Some(500));
        check("10s", Some(10_000));
        check("5m", Some(300_000));
        check("2H", Some(7_200_000));
        for wrong in ["", "s", "5", "-5s", "1.5s", "5 s", "1d", "18446744073709551615h"] {
            check(wrong, None);
        }
    }

    #[test]
    fn shown_in_the_largest_unit_that_divides() {
        #[track_caller]
        fn check(shown: String, expected: &str) {
            assert_eq!(shown, expected);
        }
        check(show_size(0), "0");
        check(show_size(1000), "1000");
        check(show_size(64 * KB), "64kb");
        check(show_size(1536 * MB), "1536mb");
        check(show_size(GB), "1gb");
        check(show_duration(Duration::ZERO), "0");
        check(show_duration(Duration::from_millis(1500)), "1500ms");
        check(show_duration(Duration::from_secs(10)), "10s");
        check(show_duration(Duration::from_secs(300)), "5m");
        check(show_duration(Duration::from_secs(7200)), "2h");
    }
}
