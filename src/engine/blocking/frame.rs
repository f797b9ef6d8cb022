//! The bytes of a blocking command: how long it waits, and the same command with less time left.

use crate::{
    command::{self, Command, Keys, Special},
    resp::{Span, encode},
};

use super::super::ids::Micros;

/// What a timeout counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds, with decimals.
    Seconds,
    Millis,
}

/// The argument that says how long a command waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    pub argument: usize,
    pub unit: Unit,
}

/// Longer waits are for ever to the proxy: the node counts them.
const COUNTED_MAX_US: f64 = 1e15;

impl Timeout {
    /// Where this command says it. `None`: there is no such argument.
    pub fn of(command: &Command, frame: &[u8], spans: &[Span]) -> Option<Timeout> {
        let argument = match (command.name, command.keys) {
            (_, Keys::Special(Special::Streams)) => command::stream_words(frame, spans).0?,
            (_, Keys::Numkeys { .. }) => 1,
            ("WAIT", _) => 2,
            ("WAITAOF", _) => 3,
            _ => spans.len() - 1,
        };
        let unit = match (command.name, command.keys) {
            (_, Keys::Special(Special::Streams)) | ("WAIT" | "WAITAOF", _) => Unit::Millis,
            _ => Unit::Seconds,
        };
        (argument < spans.len()).then_some(Timeout { argument, unit })
    }

    /// How long it is, in microseconds, 0 being for ever. `None`: it is nothing that a server takes, or longer than anybody counts.
    /// Fractions of a millisecond are rounded up: nobody is told too early.
    pub fn read(self, frame: &[u8], spans: &[Span]) -> Option<Micros> {
        let text = std::str::from_utf8(spans[self.argument].of(frame)).ok()?;
        let us = match self.unit {
            Unit::Seconds => (text.parse::<f64>().ok()? * 1e3).ceil() * 1e3,
            Unit::Millis => text.parse::<u64>().ok()? as f64 * 1e3,
        };
        (0.0..=COUNTED_MAX_US).contains(&us).then_some(us as Micros)
    }

    /// How the argument says that so much time is left, which is not nothing. Half a millisecond more than that, because Redis 6.2
    /// cuts off what is less than a whole one, and takes 0.001 for no time at all: for ever.
    pub fn write(self, left_us: Micros) -> Vec<u8> {
        let ms = left_us.div_ceil(1000);
        match self.unit {
            Unit::Seconds => format!("{}.{:03}5", ms / 1000, ms % 1000),
            Unit::Millis => ms.to_string(),
        }
        .into_bytes()
    }
}

/// The same request with other arguments in some places.
pub fn rewritten(frame: &[u8], spans: &[Span], changes: &[(usize, Vec<u8>)], out: &mut Vec<u8>) {
    encode::array(out, spans.len());
    for (index, span) in spans.iter().enumerate() {
        let changed = changes.iter().find(|(argument, _)| *argument == index);
        encode::bulk(out, changed.map_or(span.of(frame), |(_, value)| value));
    }
}

/// The arguments of XREAD that stand for "what comes from now on", each with the index of its key.
pub fn ids_from_now(frame: &[u8], spans: &[Span]) -> Vec<(usize, usize)> {
    let Some(streams) = command::stream_words(frame, spans).1 else { return Vec::new() };
    let first = streams + 1;
    let count = (spans.len() - first) / 2;
    (0..count).map(|n| (first + n, first + count + n)).filter(|(_, id)| spans[*id].of(frame) == b"$").collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::pump::spans_of;
    use super::*;

    fn request(line: &str) -> (Vec<u8>, Vec<Span>) {
        let mut frame = Vec::new();
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        encode::command(&mut frame, &words);
        let spans = spans_of(&frame).expect("just written");
        (frame, spans)
    }

    #[test]
    fn timeouts_of_all_commands() {
        let check = |line: &str, expected: Option<(usize, Option<Micros>)>| {
            let (frame, spans) = request(line);
            let command = command::resolve(&frame, &spans).expect("a known command");
            let timeout = Timeout::of(command, &frame, &spans);
            assert_eq!(timeout.map(|timeout| (timeout.argument, timeout.read(&frame, &spans))), expected, "{line}");
        };
        check("BLPOP a b 0", Some((3, Some(0))));
        check("BRPOP a 1.5", Some((2, Some(1_500_000))));
        check("BZPOPMIN a 0.0001", Some((2, Some(1000))));
        check("BZPOPMAX a 1e1", Some((2, Some(10_000_000))));
        check("BRPOPLPUSH a b 2", Some((3, Some(2_000_000))));
        check("BLMOVE a b LEFT RIGHT 3", Some((5, Some(3_000_000))));
        check("BLMPOP 4 2 a b LEFT COUNT 3", Some((1, Some(4_000_000))));
        check("BZMPOP .5 1 a MIN", Some((1, Some(500_000))));
        check("XREAD BLOCK 20 STREAMS a $", Some((2, Some(20_000))));
        check("XREAD COUNT 1 BLOCK 20 BLOCK 30 STREAMS a $", Some((6, Some(30_000))));
        check("XREADGROUP GROUP g c BLOCK 0 STREAMS a >", Some((5, Some(0))));
        check("XREAD BLOCK", None);
        check("WAIT 1 100", Some((2, Some(100_000))));
        check("WAITAOF 1 1 100", Some((3, Some(100_000))));
        check("WAIT 1", None);
        // The servers have words of their own for these.
        for bad in ["-1", "abc", "nan", "inf", "1e300", "1.5x"] {
            check(&format!("BLPOP a {bad}"), Some((2, None)));
        }
        check("XREAD BLOCK 1.5 STREAMS a $", Some((2, None)));
        check("XREAD BLOCK -1 STREAMS a $", Some((2, None)));
    }

    #[test]
    fn time_that_is_left_is_rounded_up() {
        let check = |unit: Unit, left_us: Micros, expected: &str| {
            let written = Timeout { argument: 1, unit }.write(left_us);
            assert_eq!(String::from_utf8_lossy(&written), expected);
        };
        check(Unit::Seconds, 1, "0.0015");
        check(Unit::Seconds, 1_500_000, "1.5005");
        check(Unit::Seconds, 61_000_001, "61.0015");
        check(Unit::Millis, 1, "1");
        check(Unit::Millis, 20_000, "20");
        check(Unit::Millis, 20_001, "21");
    }

    #[test]
    fn arguments_are_replaced_in_place() {
        let (frame, spans) = request("XREAD BLOCK 100 STREAMS a b $ 5-1");
        assert_eq!(ids_from_now(&frame, &spans), [(4, 6)]);
        let mut out = Vec::new();
        rewritten(&frame, &spans, &[(2, b"70".to_vec()), (6, b"3-1".to_vec())], &mut out);
        assert_eq!(out, request("XREAD BLOCK 70 STREAMS a b 3-1 5-1").0);
    }
}
