//! Which arguments of a request are keys.
//!
//! The positions are computed as a server computes them for its own slot check, because a proxy that
//! sees other keys than the server would send a request to a node that redirects it for ever. One exception
//! is named at `sort`.

use super::command::{Class, Command, Keys, Special};
use crate::resp::Span;

/// The keys cannot be determined: a bad count, a missing STREAMS, too few arguments. A server does not
/// redirect such a request but answers with its own error, so it may be sent to any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKeys;

/// Replaces `out` by the argument indexes of the request's keys, in order of appearance except that a
/// destination which stands behind its sources comes last. Fine and empty: the command has no keys here.
#[inline]
pub fn keys(command: &Command, frame: &[u8], spans: &[Span], out: &mut Vec<u32>) -> Result<(), NoKeys> {
    out.clear();
    match command.keys {
        Keys::First if spans.len() > 1 => out.push(1),
        Keys::First => return Err(NoKeys),
        Keys::None => {}
        _ => return movable_keys(command.keys, Arguments { frame, spans }, out),
    }
    Ok(())
}

/// Whether the request occupies its connection until it is served or its time is over: always so for
/// [`Class::Blocking`], for XREAD and XREADGROUP if BLOCK is among the options before STREAMS.
pub fn blocks(command: &Command, frame: &[u8], spans: &[Span]) -> bool {
    if command.flags.may_block() {
        return stream_options(Arguments { frame, spans }).block;
    }
    command.class == Class::Blocking
}

fn movable_keys(keys: Keys, arguments: Arguments, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    match keys {
        Keys::Range { first, last, step } => range(arguments, first, last, step, out),
        Keys::Numkeys { at, step, dest } => numkeys(arguments, at, step, dest, out),
        Keys::Special(Special::Sort) => sort(arguments, out),
        Keys::Special(Special::Georadius) => georadius(arguments, out),
        Keys::Special(Special::Streams) => streams(arguments, out),
        Keys::Special(Special::Stralgo) => stralgo(arguments, out),
        Keys::Special(Special::Migrate) => migrate(arguments, out),
        Keys::None | Keys::First => Ok(()),
    }
}

/// A request's arguments, the command's name among them.
#[derive(Clone, Copy)]
struct Arguments<'a> {
    frame: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Arguments<'a> {
    fn count(self) -> usize {
        self.spans.len()
    }

    fn get(self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| span.of(self.frame))
    }

    fn is(self, index: usize, word: &str) -> bool {
        self.get(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
    }
}

fn range(arguments: Arguments, first: u8, last: i8, step: u8, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    let count = arguments.count() as i64;
    let last = if last < 0 { count + i64::from(last) } else { last.into() };
    if i64::from(first) > last || last >= count {
        return Err(NoKeys);
    }
    out.extend((u32::from(first)..=last as u32).step_by(step.into()));
    Ok(())
}

fn numkeys(arguments: Arguments, at: u8, step: u8, dest: bool, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    let (at, step) = (usize::from(at), usize::from(step));
    let keys = arguments.get(at).and_then(count_of).ok_or(NoKeys)?;
    // Every key needs its `step` arguments, as the server demands. Only a script may do without keys.
    if keys > (arguments.count() - at - 1) / step || (keys == 0 && dest) {
        return Err(NoKeys);
    }
    if dest {
        out.push(1);
    }
    out.extend((0..keys).map(|key| (at + 1 + key * step) as u32));
    Ok(())
}

/// A count as servers read it: decimal digits only, no sign, no leading zero.
fn count_of(text: &[u8]) -> Option<usize> {
    if text.len() > 1 && text[0] == b'0' || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The destination is the argument of the last STORE, and options are read as the command itself reads
/// them. The server's own key search does not skip STORE's argument, so it misjudges a destination that
/// has the name of an option; with the true keys such a request can only be refused, never misdirected.
fn sort(arguments: Arguments, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    let mut dest = None;
    let mut index = 2;
    while index < arguments.count() {
        if arguments.is(index, "STORE") && index + 1 < arguments.count() {
            dest = Some(index as u32 + 1);
            index += 2;
        } else if arguments.is(index, "LIMIT") {
            index += 3;
        } else if arguments.is(index, "BY") || arguments.is(index, "GET") {
            index += 2;
        } else {
            index += 1;
        }
    }
    first_and(dest, arguments, out)
}

fn georadius(arguments: Arguments, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    let mut dest = None;
    // The shorter of the two commands has its first option here; in the longer one a unit stands there.
    let mut index = 5;
    while index + 1 < arguments.count() {
        if arguments.is(index, "STORE") || arguments.is(index, "STOREDIST") {
            index += 1;
            dest = Some(index as u32);
        }
        index += 1;
    }
    first_and(dest, arguments, out)
}

fn first_and(dest: Option<u32>, arguments: Arguments, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    if arguments.count() < 2 {
        return Err(NoKeys);
    }
    out.push(1);
    out.extend(dest);
    Ok(())
}

fn streams(arguments: Arguments, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    let first = stream_options(arguments).streams.ok_or(NoKeys)? + 1;
    let named = arguments.count() - first;
    if named == 0 || !named.is_multiple_of(2) {
        return Err(NoKeys);
    }
    out.extend(first as u32..(first + named / 2) as u32);
    Ok(())
}

/// What stands before the keys of XREAD and XREADGROUP.
struct StreamOptions {
    block: bool,
    /// Index of the word STREAMS.
    streams: Option<usize>,
}

/// Options come first, so the first STREAMS that is no option's argument is the word itself, whatever the
/// keys, the group or the consumer are called. CLAIM is an option of servers newer than the table.
fn stream_options(arguments: Arguments) -> StreamOptions {
    let mut block = false;
    let mut index = 1;
    while index < arguments.count() {
        if arguments.is(index, "STREAMS") {
            return StreamOptions { block, streams: Some(index) };
        }
        if arguments.is(index, "BLOCK") {
            block = true;
            index += 2;
        } else if arguments.is(index, "COUNT") || arguments.is(index, "CLAIM") {
            index += 2;
        } else if arguments.is(index, "GROUP") {
            index += 3;
        } else if arguments.is(index, "NOACK") {
            index += 1;
        } else {
            break;
        }
    }
    StreamOptions { block, streams: None }
}

fn stralgo(arguments: Arguments, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    for index in 1..arguments.count() {
        if arguments.is(index, "STRINGS") {
            return Ok(());
        }
        if arguments.is(index, "KEYS") && index + 2 < arguments.count() {
            out.extend([index as u32 + 1, index as u32 + 2]);
            return Ok(());
        }
    }
    Err(NoKeys)
}

fn migrate(arguments: Arguments, out: &mut Vec<u32>) -> Result<(), NoKeys> {
    if !arguments.get(3).ok_or(NoKeys)?.is_empty() {
        out.push(3);
        return Ok(());
    }
    let mut index = 6;
    while index < arguments.count() {
        if arguments.is(index, "KEYS") {
            out.extend(index as u32 + 1..arguments.count() as u32);
            return if out.is_empty() { Err(NoKeys) } else { Ok(()) };
        }
        index += match () {
            () if arguments.is(index, "AUTH2") => 3,
            () if arguments.is(index, "AUTH") => 2,
            () => 1,
        };
    }
    out.push(3);
    Ok(())
}
