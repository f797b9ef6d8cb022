//! One reply of the replies that several nodes gave to the same command.
//!
//! A part that failed fails the whole with its own error: nothing is left out in silence. Parts are put together from
//! their raw bytes as far as possible, and are in the client's protocol version already.
//!
//! Sources: the merges of the command table, and raw replies of Redis 6.2.5, 7.0.15, 8.2.3 and Valkey 9.1.2.

mod latency;
mod logs;
mod stats;

use std::collections::HashSet;

use crate::command::Fan;
use crate::resp::{Elements, Proto, View, encode, view};

/// Appends to `out` the one reply that stands for `replies`, whole replies in the order of the nodes. `count` is the
/// number that the request of a log gave, if it gave one: SLOWLOG GET, COMMANDLOG GET, ACL LOG.
///
/// INFO and RANDOMKEY need more than the replies and are not merged here.
pub fn merge(fan: Fan, proto: Proto, count: Option<i64>, replies: &[&[u8]], out: &mut Vec<u8>) {
    if replies.is_empty() {
        return encode::error(out, "ERR proxy: there is no node to ask");
    }
    let start = out.len();
    let merged = match first_error(replies) {
        _ if fan == Fan::OneSucceeded => one_succeeded(replies, out),
        Some(error) => raw(error, out),
        None => merge_successes(fan, proto, count, replies, out),
    };
    if merged.is_none() {
        out.truncate(start);
        encode::error(
            out,
            format!("ERR proxy: cannot make one reply of what the nodes answered, such as {}", excerpt(replies[0])),
        );
    }
}

/// `None` if a reply has not the shape that its command's replies have.
fn merge_successes(fan: Fan, proto: Proto, count: Option<i64>, replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    match fan {
        Fan::Sum => {
            let sum = integers(replies)?.into_iter().fold(0, i64::saturating_add);
            encode::integer(out, sum);
            Some(())
        }
        Fan::Min => {
            encode::integer(out, integers(replies)?.into_iter().min()?);
            Some(())
        }
        Fan::Max => {
            encode::integer(out, integers(replies)?.into_iter().max()?);
            Some(())
        }
        Fan::AllOk => raw(replies[0], out),
        Fan::FirstEqual => first_equal(replies, out),
        Fan::OneSucceeded => one_succeeded(replies, out),
        Fan::AndPerElement => and_per_element(replies, out),
        Fan::Concat => concat(replies, out),
        Fan::Union => union(replies, out),
        Fan::SumPerChannel => sum_per_channel(replies, out),
        Fan::Newest => logs::newest(count, replies, out),
        Fan::AclLog => logs::acl_log(count, replies, out),
        Fan::LatencyLatest => latency::latest(replies, out),
        Fan::LatencyHistory => latency::history(replies, out),
        Fan::LatencyHistogram => latency::histogram(proto, replies, out),
        Fan::FunctionStats => stats::function(proto, replies, out),
        Fan::MemoryStats => stats::memory(proto, replies, out),
        Fan::Info | Fan::RandomKey => None,
    }
}

fn first_equal(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let Some(other) = replies.iter().find(|reply| **reply != replies[0]) else { return raw(replies[0], out) };
    let (first, other) = (excerpt(replies[0]), excerpt(other));
    encode::error(out, format!("ERR proxy: the nodes answered differently: {first} and {other}"));
    Some(())
}

/// A node that ran something and stopped it speaks for all, then one that could not stop it, then one with another
/// trouble, then those that had nothing to stop.
fn one_succeeded(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let rank = |reply: &&&[u8]| match error_of(reply) {
        None => 0,
        Some(text) if text.starts_with(b"UNKILLABLE") => 1,
        Some(text) if text.starts_with(b"NOTBUSY") => 3,
        Some(_) => 2,
    };
    raw(replies.iter().min_by_key(rank)?, out)
}

fn and_per_element(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut all = integers_of(replies[0])?;
    for reply in &replies[1..] {
        let one = integers_of(reply)?;
        if one.len() != all.len() {
            return None;
        }
        all.iter_mut().zip(one).for_each(|(all, one)| *all = (*all).min(one));
    }
    encode::array(out, all.len());
    all.into_iter().for_each(|one| encode::integer(out, one));
    Some(())
}

fn concat(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let parts: Vec<Elements> = replies.iter().map(|reply| elements(reply)).collect::<Option<_>>()?;
    encode::array(out, parts.iter().map(Elements::len).sum());
    parts.into_iter().flatten().try_for_each(|element| raw(element, out))
}

fn union(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let parts: Vec<Elements> = replies.iter().map(|reply| elements(reply)).collect::<Option<_>>()?;
    let mut seen = HashSet::new();
    let distinct: Vec<&[u8]> = parts.into_iter().flatten().filter(|element| seen.insert(*element)).collect();
    encode::array(out, distinct.len());
    distinct.into_iter().try_for_each(|element| raw(element, out))
}

/// Channels stand in the order of the request, perhaps twice, on every node.
fn sum_per_channel(replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut sums: Vec<(&[u8], i64)> = counts_of(replies[0])?;
    for reply in &replies[1..] {
        let counts = counts_of(reply)?;
        let same = sums.len() == counts.len() && sums.iter().zip(&counts).all(|(sum, count)| sum.0 == count.0);
        if !same {
            return None;
        }
        sums.iter_mut().zip(counts).for_each(|(sum, count)| sum.1 = sum.1.saturating_add(count.1));
    }
    encode::array(out, 2 * sums.len());
    for (channel, sum) in sums {
        raw(channel, out)?;
        encode::integer(out, sum);
    }
    Some(())
}

fn counts_of(reply: &[u8]) -> Option<Vec<(&[u8], i64)>> {
    pairs(reply)?.into_iter().map(|(channel, count)| Some((channel, integer(count)?))).collect()
}

fn first_error<'a>(replies: &[&'a [u8]]) -> Option<&'a [u8]> {
    replies.iter().copied().find(|reply| error_of(reply).is_some())
}

fn error_of(reply: &[u8]) -> Option<&[u8]> {
    match view(reply)? {
        View::Error(text) => Some(text),
        _ => None,
    }
}

/// Appends a reply, or a part of one, as it is.
fn raw(reply: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.extend_from_slice(reply);
    Some(())
}

/// The elements of any aggregate; those of a map are keys and values by turns, as in the flat array of RESP2.
fn elements(reply: &[u8]) -> Option<Elements<'_>> {
    match view(reply)? {
        View::Array(elements) | View::Map(elements) | View::Set(elements) | View::Push(elements) => Some(elements),
        _ => None,
    }
}

fn pairs(reply: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut elements = elements(reply)?;
    let mut pairs = Vec::with_capacity(elements.len() / 2);
    while let Some(key) = elements.next() {
        pairs.push((key, elements.next()?));
    }
    Some(pairs)
}

fn integer(reply: &[u8]) -> Option<i64> {
    match view(reply)? {
        View::Integer(number) => Some(number),
        _ => None,
    }
}

fn integers(replies: &[&[u8]]) -> Option<Vec<i64>> {
    replies.iter().map(|reply| integer(reply)).collect()
}

fn integers_of(reply: &[u8]) -> Option<Vec<i64>> {
    elements(reply)?.map(integer).collect()
}

/// A number in any of its spellings: doubles are bulks in RESP2.
fn number(reply: &[u8]) -> Option<f64> {
    match view(reply)? {
        View::Integer(number) => Some(number as f64),
        View::Double(text) | View::Bulk(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

fn text(reply: &[u8]) -> Option<&[u8]> {
    match view(reply)? {
        View::Bulk(text) | View::Simple(text) | View::Verbatim(text) => Some(text),
        _ => None,
    }
}

/// The start of a reply, for an error's text.
fn excerpt(reply: &[u8]) -> String {
    const EXCERPT_LEN_MAX: usize = 60;
    let shown = text(reply).unwrap_or(reply);
    shown[..shown.len().min(EXCERPT_LEN_MAX)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines are written with LF here and with CR LF on the wire.
    pub(super) fn check_counted(fan: Fan, proto: Proto, count: Option<i64>, replies: &[&str], expected: &str) {
        let wire: Vec<String> = replies.iter().map(|reply| reply.replace('\n', "\r\n")).collect();
        let wire: Vec<&[u8]> = wire.iter().map(|reply| reply.as_bytes()).collect();
        let mut out = b"+before\r\n".to_vec();
        merge(fan, proto, count, &wire, &mut out);
        let merged = out.strip_prefix(b"+before\r\n").expect("what stood there is kept");
        assert_eq!(String::from_utf8_lossy(merged).replace("\r\n", "\n"), expected, "{fan:?} {replies:?}");
        assert!(view(merged).is_some());
    }

    pub(super) fn check(fan: Fan, proto: Proto, replies: &[&str], expected: &str) {
        check_counted(fan, proto, None, replies, expected);
    }

    fn check2(fan: Fan, replies: &[&str], expected: &str) {
        check(fan, Proto::Resp2, replies, expected);
    }

    #[test]
    fn numbers_are_merged() {
        check2(Fan::Sum, &[":3\n", ":0\n", ":4\n"], ":7\n");
        check2(Fan::Sum, &[":9223372036854775807\n", ":1\n"], ":9223372036854775807\n");
        check2(Fan::Min, &[":1795361037\n", ":1795361030\n"], ":1795361030\n");
        check2(Fan::AndPerElement, &["*3\n:1\n:1\n:0\n", "*3\n:1\n:0\n:0\n"], "*3\n:1\n:0\n:0\n");
        check2(
            Fan::SumPerChannel,
            &["*6\n$1\na\n:1\n$1\nb\n:0\n$1\na\n:1\n", "*6\n$1\na\n:2\n$1\nb\n:5\n$1\na\n:2\n"],
            "*6\n$1\na\n:3\n$1\nb\n:5\n$1\na\n:3\n",
        );
        check2(Fan::SumPerChannel, &["*0\n", "*0\n"], "*0\n");
    }

    #[test]
    fn lists_are_joined() {
        check2(Fan::Concat, &["*1\n$1\na\n", "*0\n", "*2\n$1\nb\n$1\na\n"], "*3\n$1\na\n$1\nb\n$1\na\n");
        check2(Fan::Concat, &["*0\n", "*0\n"], "*0\n");
        check2(Fan::Union, &["*2\n$1\na\n$1\nb\n", "*2\n$1\nb\n$1\nc\n"], "*3\n$1\na\n$1\nb\n$1\nc\n");
    }

    #[test]
    fn statuses_are_merged() {
        check2(Fan::AllOk, &["+OK\n", "+OK\n"], "+OK\n");
        check2(Fan::FirstEqual, &["$5\nmylib\n", "$5\nmylib\n"], "$5\nmylib\n");
        check2(
            Fan::FirstEqual,
            &["$5\nmylib\n", "$5\nmylib\n", "+OK\n"],
            "-ERR proxy: the nodes answered differently: mylib and OK\n",
        );
        let (busy, kill) =
            ("-NOTBUSY No scripts in execution right now.\n", "-UNKILLABLE Sorry the script already executed write commands\n");
        check2(Fan::OneSucceeded, &[busy, "+OK\n", kill], "+OK\n");
        check2(Fan::OneSucceeded, &[busy, kill, busy], kill);
        check2(Fan::OneSucceeded, &[busy, busy], busy);
        check2(Fan::OneSucceeded, &[busy, "-NOPERM no\n"], "-NOPERM no\n");
    }

    #[test]
    fn one_failed_part_fails_the_whole() {
        let all = [
            Fan::Sum,
            Fan::AllOk,
            Fan::FirstEqual,
            Fan::AndPerElement,
            Fan::Concat,
            Fan::Union,
            Fan::SumPerChannel,
            Fan::Min,
            Fan::Newest,
            Fan::FunctionStats,
            Fan::MemoryStats,
            Fan::LatencyLatest,
            Fan::LatencyHistory,
            Fan::LatencyHistogram,
            Fan::AclLog,
        ];
        for fan in all {
            check2(fan, &["+OK\n", "-ERR first\n", "-ERR second\n"], "-ERR first\n");
            check(fan, Proto::Resp3, &["+OK\n", "!9\nERR third\n"], "!9\nERR third\n");
            check2(fan, &[], "-ERR proxy: there is no node to ask\n");
        }
    }

    #[test]
    fn a_reply_of_another_shape_is_an_error_and_never_a_nil() {
        fn fails(fan: Fan, replies: &[&str], excerpt: &str) {
            check2(fan, replies, &format!("-ERR proxy: cannot make one reply of what the nodes answered, such as {excerpt}\n"));
        }
        fails(Fan::Sum, &["+OK\n", ":1\n"], "OK");
        fails(Fan::Sum, &["$-1\n"], "$-1\\r\\n");
        fails(Fan::Concat, &["*-1\n"], "*-1\\r\\n");
        fails(Fan::AndPerElement, &["*1\n:1\n", "*2\n:1\n:1\n"], "*1\\r\\n:1\\r\\n");
        fails(Fan::SumPerChannel, &["*2\n$1\na\n:1\n", "*2\n$1\nb\n:1\n"], "*2\\r\\n$1\\r\\na\\r\\n:1\\r\\n");
        fails(Fan::SumPerChannel, &["*1\n$1\na\n"], "*1\\r\\n$1\\r\\na\\r\\n");
        fails(Fan::LatencyHistory, &["*1\n*1\n:1\n"], "*1\\r\\n*1\\r\\n:1\\r\\n");
        fails(Fan::FunctionStats, &["*2\n$1\na\n:1\n"], "*2\\r\\n$1\\r\\na\\r\\n:1\\r\\n");
        fails(Fan::Info, &["$1\nx\n"], "x");
    }
}
