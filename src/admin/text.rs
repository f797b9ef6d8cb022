//! Aligned lines for people.

use std::time::{Duration, UNIX_EPOCH};

/// Columns are as wide as their widest cell and two blanks apart; the last one is not padded.
pub(super) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Bytes as people read them: `1.2 MB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match UNITS.iter().find(|(_, unit)| bytes as f64 >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit),
        None => format!("{bytes} B"),
    }
}

/// A time as people read it: `1 h 5 min`, `20 s`.
pub(super) fn time(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, minutes) => format!("{minutes} min {rest} s"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// A moment as people read it, in UTC, from milliseconds since 1970: `2026-01-31T23:59:58Z`.
pub(super) fn moment(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1000, 1_234_567, 9_990_000_000].map(size), ["0 B", "999 B", "1.0 kB", "1.2 MB", "10.0 GB"]);
        assert_eq!([0, 59, 60, 3599, 3660].map(time), ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 1 min"]);
        assert_eq!(moment(951_827_696_000), "2000-02-29T12:34:56Z");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "long", "x"], ["bcd", "e", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), ["a    long  x", "bcd  e"]);
        assert_eq!(columns(&[]), Vec::<String>::new());
    }
}
