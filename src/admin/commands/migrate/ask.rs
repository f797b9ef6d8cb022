//! What the words behind PROXY MIGRATE PLAN mean.

use std::time::Duration;

use crate::admin::definition::{Wrong, shown};
use crate::config::parse_duration;
use crate::migrate::SlotSet;
use crate::migrate::draft::{ModeChoice, Request, Wish};
use crate::migrate::plan::{Canary, Measure};
use crate::migrate::record::Mode;

/// How long the gates stay armed behind the last slot, unless OBSERVE says so.
const OBSERVE: Duration = Duration::from_secs(24 * 3600);
/// A node that is off its part by no more is left alone, unless TOLERANCE says so.
const TOLERANCE: f64 = 0.02;

/// The words that are left to read.
struct Words<'a> {
    left: &'a [&'a [u8]],
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a [u8], Wrong> {
        let (first, left) = self.left.split_first().ok_or(Wrong::Count)?;
        self.left = left;
        Ok(first)
    }

    fn text(&mut self) -> Result<String, Wrong> {
        let word = self.next()?;
        let wrong = || Wrong::Value { expected: "text", found: shown(word) };
        std::str::from_utf8(word).map(str::to_owned).map_err(|_| wrong())
    }

    fn fixed(&mut self, word: &'static str) -> Result<(), Wrong> {
        let found = self.next()?;
        if found.eq_ignore_ascii_case(word.as_bytes()) {
            Ok(())
        } else {
            Err(Wrong::Value { expected: word, found: shown(found) })
        }
    }

    /// A share such as `5` or `2.5%`, in percent; as a part of one.
    fn percent(&mut self, expected: &'static str) -> Result<f64, Wrong> {
        let word = self.text()?;
        let number = word.strip_suffix('%').unwrap_or(&word).parse::<f64>().ok();
        let percent = number.filter(|percent| (0.0..=100.0).contains(percent));
        Ok(percent.ok_or(Wrong::Value { expected, found: shown(word.as_bytes()) })? / 100.0)
    }

    /// Whether one of these words comes next; it is taken then.
    fn take(&mut self, names: &[&'static str]) -> Option<&'static str> {
        let next = self.left.first()?;
        let name = names.iter().find(|name| next.eq_ignore_ascii_case(name.as_bytes()))?;
        self.left = &self.left[1..];
        Some(name)
    }
}

pub(super) fn parse_move(arguments: &[&[u8]]) -> Result<Request, Wrong> {
    let mut words = Words { left: arguments };
    let slots = words.text()?;
    let slots = SlotSet::parse(&slots)
        .map_err(|_| Wrong::Value { expected: "slots such as 0-99,200 between 0 and 16383", found: shown(slots.as_bytes()) })?;
    words.fixed("FROM")?;
    let from = words.text()?;
    words.fixed("TO")?;
    let to = words.text()?;
    finish("MOVE", arguments, words, Wish::Move { slots, from, to })
}

pub(super) fn parse_drain(arguments: &[&[u8]]) -> Result<Request, Wrong> {
    let mut words = Words { left: arguments };
    let node = words.text()?;
    finish("DRAIN", arguments, words, Wish::Drain { node })
}

pub(super) fn parse_fill(arguments: &[&[u8]]) -> Result<Request, Wrong> {
    let mut words = Words { left: arguments };
    let node = words.text()?;
    let share = match words.take(&["SHARE"]) {
        Some(_) => Some(words.percent("a share of all in percent, such as 20")?),
        None => None,
    };
    finish("FILL", arguments, words, Wish::Fill { node, share })
}

pub(super) fn parse_rebalance(arguments: &[&[u8]]) -> Result<Request, Wrong> {
    let mut words = Words { left: arguments };
    let (mut by, mut weights, mut tolerance) = (Measure::Slots, Vec::new(), TOLERANCE);
    while let Some(option) = words.take(&["BY", "WEIGHT", "TOLERANCE"]) {
        match option {
            "BY" => by = measure(words.next()?)?,
            "TOLERANCE" => tolerance = words.percent("a share in percent, such as 2")?,
            _ => {
                weights.push(weight(&words.text()?)?);
                while words.left.first().is_some_and(|word| word.contains(&b'=')) {
                    weights.push(weight(&words.text()?)?);
                }
            }
        }
    }
    finish("REBALANCE", arguments, words, Wish::Rebalance { by, weights, tolerance })
}

fn measure(word: &[u8]) -> Result<Measure, Wrong> {
    let known = [("SLOTS", Measure::Slots), ("KEYS", Measure::Keys), ("BYTES", Measure::Bytes), ("CPU", Measure::Cpu)];
    let found = known.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, measure)| *measure).ok_or(Wrong::Value { expected: "SLOTS, KEYS, BYTES or CPU", found: shown(word) })
}

fn weight(word: &str) -> Result<(String, f64), Wrong> {
    let wrong = || Wrong::Value { expected: "node=weight, such as 127.0.0.1:7000=2", found: shown(word.as_bytes()) };
    let (node, weight) = word.rsplit_once('=').ok_or_else(wrong)?;
    let weight = weight.parse::<f64>().ok().filter(|weight| (0.0..=1e6).contains(weight)).ok_or_else(wrong)?;
    Ok((node.to_owned(), weight))
}

/// The options that every plan has.
fn finish(form: &str, arguments: &[&[u8]], mut words: Words, wish: Wish) -> Result<Request, Wrong> {
    let all = arguments.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ");
    let words_given = format!("{form} {all}").trim_end().escape_debug().take(400).collect();
    let mut request = Request { wish, canary: Canary::default(), mode: ModeChoice::Auto, observe: OBSERVE, words: words_given };
    while let Some(option) = words.take(&["CANARY", "MODE", "OBSERVE"]) {
        match option {
            "CANARY" => request.canary = canary(&words.text()?)?,
            "MODE" => request.mode = mode(words.next()?)?,
            _ => {
                let text = words.text()?;
                let wrong = || Wrong::Value { expected: "a time such as 24h, 10m or 0", found: shown(text.as_bytes()) };
                request.observe = parse_duration(&text).ok_or_else(wrong)?;
            }
        }
    }
    match words.left.first() {
        None => Ok(request),
        Some(_) if words.left.len() > 10 => Err(Wrong::Count),
        Some(word) => Err(Wrong::Value { expected: "an option of this command", found: shown(word) }),
    }
}

fn canary(word: &str) -> Result<Canary, Wrong> {
    let wrong = || Wrong::Value { expected: "a number of slots, or a share such as 1%", found: shown(word.as_bytes()) };
    match word.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
            Ok(Canary::Share(percent.ok_or_else(wrong)? / 100.0))
        }
        None => word.parse().ok().filter(|slots| *slots <= crate::cluster::SLOT_COUNT).map(Canary::Slots).ok_or_else(wrong),
    }
}

fn mode(word: &[u8]) -> Result<ModeChoice, Wrong> {
    let known = [
        ("AUTO", ModeChoice::Auto),
        ("CLASSIC", ModeChoice::Always(Mode::Classic)),
        ("ATOMIC", ModeChoice::Always(Mode::Atomic)),
    ];
    let found = known.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, mode)| *mode).ok_or(Wrong::Value { expected: "AUTO, CLASSIC or ATOMIC", found: shown(word) })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parser = fn(&[&[u8]]) -> Result<Request, Wrong>;

    fn parsed(parser: Parser, line: &str) -> Result<Request, Wrong> {
        let words: Vec<&[u8]> = line.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes).collect();
        parser(&words)
    }

    #[track_caller]
    fn check(parser: Parser, line: &str, wish: Wish) {
        let request = parsed(parser, line).unwrap_or_else(|wrong| panic!("{line}: {wrong:?}"));
        assert_eq!(request.wish, wish, "{line}");
    }

    #[track_caller]
    fn refused(parser: Parser, line: &str, expected: &str) {
        match parsed(parser, line).expect_err(line) {
            Wrong::Value { expected: found, .. } => assert_eq!(found, expected, "{line}"),
            other => assert_eq!(format!("{other:?}"), expected, "{line}"),
        }
    }

    #[test]
    fn every_form_is_read() {
        let slots = |text| SlotSet::parse(text).expect("slots");
        let node = |text: &str| text.to_owned();
        check(parse_move, "0-99,200 from a TO b", Wish::Move { slots: slots("0-99,200"), from: node("a"), to: node("b") });
        check(parse_drain, "10.0.0.1:7000", Wish::Drain { node: node("10.0.0.1:7000") });
        check(parse_fill, "abc", Wish::Fill { node: node("abc"), share: None });
        check(parse_fill, "abc SHARE 20%", Wish::Fill { node: node("abc"), share: Some(0.2) });
        let rebalance = |by, weights: &[(&str, f64)], tolerance| Wish::Rebalance {
            by,
            weights: weights.iter().map(|(name, weight)| (node(name), *weight)).collect(),
            tolerance,
        };
        check(parse_rebalance, "", rebalance(Measure::Slots, &[], 0.02));
        check(parse_rebalance, "by keys tolerance 5", rebalance(Measure::Keys, &[], 0.05));
        check(parse_rebalance, "WEIGHT a=2 b=0 BY CPU", rebalance(Measure::Cpu, &[("a", 2.0), ("b", 0.0)], 0.02));
    }

    #[test]
    fn options_come_in_any_order() {
        let request = parsed(parse_drain, "a OBSERVE 10m CANARY 5 MODE atomic").expect("options");
        assert_eq!(
            (request.observe, request.canary, request.mode),
            (Duration::from_secs(600), Canary::Slots(5), ModeChoice::Always(Mode::Atomic))
        );
        assert_eq!(request.words, "DRAIN a OBSERVE 10m CANARY 5 MODE atomic");
        let request = parsed(parse_rebalance, "CANARY 2% OBSERVE 0").expect("options");
        assert_eq!((request.observe, request.canary, request.mode), (Duration::ZERO, Canary::Share(0.02), ModeChoice::Auto));
        assert_eq!(parsed(parse_drain, "a").expect("no options").observe, Duration::from_secs(86_400));
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused(parse_move, "0-99", "Count");
        refused(parse_move, "0-99 FROM a", "Count");
        refused(parse_move, "0-16384 FROM a TO b", "slots such as 0-99,200 between 0 and 16383");
        refused(parse_move, "0-99 TO a FROM b", "FROM");
        refused(parse_drain, "", "Count");
        refused(parse_drain, "a CANARY x", "a number of slots, or a share such as 1%");
        refused(parse_drain, "a OBSERVE 5", "a time such as 24h, 10m or 0");
        refused(parse_drain, "a MODE slow", "AUTO, CLASSIC or ATOMIC");
        refused(parse_drain, "a b", "an option of this command");
        refused(parse_fill, "a SHARE 101", "a share of all in percent, such as 20");
        refused(parse_rebalance, "BY weight", "SLOTS, KEYS, BYTES or CPU");
        refused(parse_rebalance, "WEIGHT a", "node=weight, such as 127.0.0.1:7000=2");
        refused(parse_rebalance, "WEIGHT a=-1", "node=weight, such as 127.0.0.1:7000=2");
        refused(parse_rebalance, "BY", "Count");
    }
}
