//! Which arguments of a request are keys.
//!
//! The positions are computed as a server computes them for its own slot check, because a proxy that
//! sees other keys than the server would send a request to a node that redirects it for ever. One exception
//! is named at `sort`.

use super::class::Class;
use super::row::{Command, Keys, Special};
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
        return stream_options(Arguments { frame, spans }).block.is_some();
    }
    command.class == Class::Blocking
}

/// Index of the argument behind BLOCK, the last one if it stands there twice, and of the word STREAMS, of XREAD and XREADGROUP.
pub fn stream_words(frame: &[u8], spans: &[Span]) -> (Option<usize>, Option<usize>) {
    let options = stream_options(Arguments { frame, spans });
    (options.block, options.streams)
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
    // As many as there are, the last one perhaps without its value. Only a script may do without keys.
    if keys > (arguments.count() - at - 1).div_ceil(step) || (keys == 0 && dest) {
        return Err(NoKeys);
    }
    if dest {
        out.push(1);
    }
    out.extend((0..keys).map(|key| (at + 1 + key * step) as u32));
    Ok(())
}

/// A count as a server's key search reads it, which is laxer than the command: ` +02x` is 2, `x` is 0. The
/// command refuses such a count, but only on the node that owns the keys that were found with it.
fn count_of(text: &[u8]) -> Option<usize> {
    let digits = text.trim_ascii_start();
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    if digits.starts_with(b"-") {
        return None;
    }
    digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .try_fold(0_usize, |count, digit| count.checked_mul(10)?.checked_add(usize::from(digit - b'0')))
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
    let pairs = (arguments.count() - first) / 2;
    if pairs == 0 {
        return Err(NoKeys);
    }
    out.extend(first as u32..(first + pairs) as u32);
    Ok(())
}

/// What stands before the keys of XREAD and XREADGROUP.
struct StreamOptions {
    /// Index of the argument behind the last BLOCK.
    block: Option<usize>,
    /// Index of the word STREAMS.
    streams: Option<usize>,
}

/// Options come first, so the first STREAMS that is no option's argument is the word itself, whatever the
/// keys, the group or the consumer are called. An unknown option is passed over, because servers find the
/// keys behind it too before they refuse it. CLAIM is an option of servers newer than the table.
fn stream_options(arguments: Arguments) -> StreamOptions {
    let mut block = None;
    let mut index = 1;
    while index < arguments.count() {
        if arguments.is(index, "STREAMS") {
            return StreamOptions { block, streams: Some(index) };
        }
        if arguments.is(index, "BLOCK") {
            block = Some(index + 1);
        }
        index += if arguments.is(index, "GROUP") {
            3
        } else if ["BLOCK", "COUNT", "CLAIM"].iter().any(|option| arguments.is(index, option)) {
            2
        } else {
            1
        };
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
        index += if arguments.is(index, "AUTH2") {
            3
        } else if arguments.is(index, "AUTH") {
            2
        } else {
            1
        };
    }
    out.push(3);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::lookup::{all, resolve};
    use super::*;

    /// Words are parted by blanks; `''` is the empty argument.
    fn request(line: &str) -> (Vec<u8>, Vec<Span>) {
        let mut frame = Vec::new();
        let spans = line.split(' ').map(|word| word.trim_matches('\'')).map(|word| {
            frame.extend_from_slice(word.as_bytes());
            Span { start: (frame.len() - word.len()) as u32, len: word.len() as u32 }
        });
        let spans = spans.collect();
        (frame, spans)
    }

    fn check(line: &str, expected: Result<&[u32], NoKeys>) {
        let (frame, spans) = request(line);
        let command = resolve(&frame, &spans).expect("the table names known commands");
        let mut found = vec![99];
        let result = keys(command, &frame, &spans, &mut found);
        assert_eq!(result.map(|()| found.as_slice()), expected, "{line}");
    }

    /// What COMMAND GETKEYS of Redis 6.2.5, 7.0.15, 8.2.3 and Valkey 9.1.2 says, of each that knows the command.
    #[test]
    fn keys_are_where_the_servers_find_them() {
        check("GET k", Ok(&[1]));
        check("SET k v EX 10", Ok(&[1]));
        check("MGET a b c", Ok(&[1, 2, 3]));
        check("DEL a", Ok(&[1]));
        check("DEL a b c", Ok(&[1, 2, 3]));
        check("MSET a 1 b 2", Ok(&[1, 3]));
        check("MSETNX a 1 b 2", Ok(&[1, 3]));
        check("MSET a 1 b", Ok(&[1, 3]));
        check("BITOP AND d a b", Ok(&[2, 3, 4]));
        check("PFMERGE d a b", Ok(&[1, 2, 3]));
        check("PFCOUNT a b", Ok(&[1, 2]));
        check("BLPOP a b 0", Ok(&[1, 2]));
        check("BRPOP a 0", Ok(&[1]));
        check("BZPOPMIN a b c 1.5", Ok(&[1, 2, 3]));
        check("BLMOVE a b LEFT RIGHT 0", Ok(&[1, 2]));
        check("BRPOPLPUSH a b 0", Ok(&[1, 2]));
        check("BLMPOP 0 2 a b LEFT COUNT 3", Ok(&[3, 4]));
        check("BLMPOP 0 3 a b LEFT", Ok(&[3, 4, 5]));
        check("BZMPOP 0 1 a MIN", Ok(&[3]));
        check("LMPOP 2 a b LEFT", Ok(&[2, 3]));
        check("LMPOP 0 a LEFT", Ok(&[]));
        check("ZMPOP 1 a MAX", Ok(&[2]));
        check("EVAL return 0", Ok(&[]));
        check("EVAL return 0 x", Ok(&[]));
        check("EVAL return 2 a b c", Ok(&[3, 4]));
        check("EVAL return 3 a b", Err(NoKeys));
        check("EVAL return -1 a b", Err(NoKeys));
        check("EVAL return +1 a b", Ok(&[3]));
        check("EVAL return 01 a b", Ok(&[3]));
        check("EVAL return abc a b", Ok(&[]));
        check("EVAL return 18446744073709551617 a b", Err(NoKeys));
        check("EVALSHA ffff 1 a", Ok(&[3]));
        check("EVAL_RO s 1 a", Ok(&[3]));
        check("FCALL f 2 a b x", Ok(&[3, 4]));
        check("FCALL_RO f 0", Ok(&[]));
        check("ZUNION 2 a b WEIGHTS 1 2", Ok(&[2, 3]));
        check("ZUNIONSTORE d 2 a b WEIGHTS 1 2", Ok(&[1, 3, 4]));
        check("ZUNIONSTORE d 0 a", Err(NoKeys));
        check("ZUNIONSTORE d 3 a b", Err(NoKeys));
        check("ZUNIONSTORE foo foo foo", Err(NoKeys));
        check("ZDIFFSTORE d 1 a", Ok(&[1, 3]));
        check("ZINTERSTORE d 1 a AGGREGATE MAX", Ok(&[1, 3]));
        check("ZINTERCARD 2 a b LIMIT 1", Ok(&[2, 3]));
        check("SINTERCARD 2 a b LIMIT 1", Ok(&[2, 3]));
        check("SINTERSTORE d a b", Ok(&[1, 2, 3]));
        check("ZRANGESTORE d s 0 -1", Ok(&[1, 2]));
        check("SORT k", Ok(&[1]));
        check("SORT k BY w_* LIMIT 0 5 GET # STORE d", Ok(&[1, 10]));
        check("SORT k STORE d1 STORE d2", Ok(&[1, 5]));
        check("SORT k STORE", Ok(&[1]));
        check("SORT k BY store", Ok(&[1]));
        check("SORT k BY store STORE d", Ok(&[1, 5]));
        check("SORT k GET store STORE d", Ok(&[1, 5]));
        check("SORT k LIMIT store d STORE e", Ok(&[1, 6]));
        check("SORT k STORE by", Ok(&[1, 3]));
        check("SORT k store d ALPHA DESC", Ok(&[1, 3]));
        check("SORT k LIMIT 0", Ok(&[1]));
        check("SORT k FOO bar STORE d", Ok(&[1, 5]));
        check("SORT_RO k BY w_* STORE d", Ok(&[1]));
        check("GEORADIUS k 1 2 3 km", Ok(&[1]));
        check("GEORADIUS k 1 2 3 km STORE d", Ok(&[1, 7]));
        check("GEORADIUS k 1 2 3 km STORE", Ok(&[1]));
        check("GEORADIUS k 1 2 3 km STORE STORE d", Ok(&[1, 7]));
        check("GEORADIUSBYMEMBER k m 3 km STORE d", Ok(&[1, 6]));
        check("GEORADIUSBYMEMBER k STORE 3 km ASC", Ok(&[1]));
        check("GEORADIUS_RO k 1 2 3 km", Ok(&[1]));
        check("GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 1 km", Ok(&[1, 2]));
        check("XREAD STREAMS a 0", Ok(&[2]));
        check("XREAD STREAMS a b 0 0", Ok(&[2, 3]));
        check("XREAD COUNT 2 BLOCK 0 STREAMS a 0", Ok(&[6]));
        check("XREAD STREAMS STREAMS 0", Ok(&[2]));
        check("XREAD STREAMS STREAMS STREAMS 0 0", Ok(&[2, 3]));
        check("XREAD STREAMS BLOCK 0", Ok(&[2]));
        check("XREAD BLOCK 1000 COUNT 1 STREAMS a b $ $", Ok(&[6, 7]));
        check("XREAD STREAMS a b 0", Ok(&[2]));
        check("XREAD COUNT 2 a 0", Err(NoKeys));
        check("XREAD FOO STREAMS a 0", Ok(&[3]));
        check("XREAD STREAMS BLOCK x 0 0", Ok(&[2, 3]));
        check("XREADGROUP GROUP g c STREAMS a >", Ok(&[5]));
        check("XREADGROUP GROUP STREAMS STREAMS STREAMS a >", Ok(&[5]));
        check("XREADGROUP GROUP g c COUNT 1 NOACK BLOCK 5 STREAMS a b > >", Ok(&[10, 11]));
        check("XREADGROUP GROUP BLOCK c NOACK STREAMS a >", Ok(&[6]));
        check("XREADGROUP NOACK GROUP g c STREAMS a >", Ok(&[6]));
        check("STRALGO LCS KEYS a b", Ok(&[3, 4]));
        check("STRALGO LCS IDX KEYS a b WITHMATCHLEN", Ok(&[4, 5]));
        check("STRALGO LCS STRINGS a b", Ok(&[]));
        check("STRALGO LCS STRINGS keys b", Ok(&[]));
        check("STRALGO LCS IDX", Err(NoKeys));
        check("STRALGO LCS KEYS a", Err(NoKeys));
        check("LCS a b IDX", Ok(&[1, 2]));
        check("MIGRATE host 6379 k 0 100", Ok(&[3]));
        check("MIGRATE host 6379 k 0 100 COPY REPLACE", Ok(&[3]));
        check("MIGRATE host 6379 '' 0 100 KEYS a b", Ok(&[7, 8]));
        check("MIGRATE host 6379 '' 0 100 COPY AUTH KEYS KEYS a b", Ok(&[10, 11]));
        check("MIGRATE host 6379 '' 0 100 AUTH2 KEYS KEYS KEYS a b", Ok(&[10, 11]));
        check("MIGRATE host 6379 '' 0 100 COPY", Ok(&[3]));
        check("MSETEX 2 a 1 b 2 EX 10", Ok(&[2, 4]));
        check("MSETEX 1 a 1", Ok(&[2]));
        check("MSETEX 2 a 1 b", Ok(&[2, 4]));
        check("MSETEX 1 a 1 NX", Ok(&[2]));
        check("OBJECT ENCODING k", Ok(&[2]));
        check("OBJECT HELP", Ok(&[]));
        check("MEMORY USAGE k SAMPLES 5", Ok(&[2]));
        check("MEMORY STATS", Ok(&[]));
        check("XINFO STREAM k FULL", Ok(&[2]));
        check("XINFO HELP", Ok(&[]));
        check("XGROUP CREATE k g 0", Ok(&[2]));
        check("XGROUP CREATECONSUMER k g c", Ok(&[2]));
        check("DEBUG OBJECT k", Ok(&[]));
        check("COPY a b DB 0", Ok(&[1, 2]));
        check("RENAME a b", Ok(&[1, 2]));
        check("SMOVE a b m", Ok(&[1, 2]));
        check("LMOVE a b LEFT RIGHT", Ok(&[1, 2]));
        check("RPOPLPUSH a b", Ok(&[1, 2]));
        check("PUBLISH c m", Ok(&[]));
        check("SUBSCRIBE a b", Ok(&[]));
        check("WATCH a b", Ok(&[1, 2]));
        check("PING", Ok(&[]));
        check("CONFIG GET k", Ok(&[]));
        check("VADD k FP32 x y", Ok(&[1]));
        check("VSIM k ELE e", Ok(&[1]));
        check("HEXPIRE k 10 FIELDS 1 f", Ok(&[1]));
        check("ZUNION 01 a b", Ok(&[2]));
        check("ZUNION 1x a b", Ok(&[2]));
        check("EVAL s 1.5 a b", Ok(&[3]));
        check("ZUNIONSTORE d +1 a", Ok(&[1, 3]));
        check("XREAD NOACK STREAMS a", Err(NoKeys));
        check("XREAD COUNT 2 STREAMS", Err(NoKeys));
        check("XREAD STREAMS a b c 0 0", Ok(&[2, 3]));
        check("SINTERCARD -1 a", Err(NoKeys));
        check("LMPOP x a LEFT", Ok(&[]));
        check("MSETEX 3 a 1 b", Err(NoKeys));
        check("MSETEX 2 a 1", Err(NoKeys));
        check("BLMPOP 0 02 a b LEFT", Ok(&[3, 4]));
    }

    /// Where servers disagree with each other, with themselves, or check slots of what they do not call keys.
    #[test]
    fn keys_are_what_the_command_uses() {
        check("GEORADIUS k 1 2 3 km STORE d STOREDIST e", Ok(&[1, 9]));
        check("GEORADIUS k 1 2 3 km STOREDIST e COUNT 1 STORE d", Ok(&[1, 11]));
        check("XREAD COUNT STREAMS STREAMS a 0", Ok(&[4]));
        check("MIGRATE host 6379 '' 0 100 KEYS", Err(NoKeys));
        check("MIGRATE host 6379 k 0 100 KEYS a", Ok(&[3]));
        check("SSUBSCRIBE c1 c2", Ok(&[1, 2]));
        check("SPUBLISH c m", Ok(&[1]));
        check("SUNSUBSCRIBE", Err(NoKeys));
        check("PUBSUB SHARDNUMSUB a b", Ok(&[2, 3]));
        check("SORT k STORE by STORE d", Ok(&[1, 5]));
        check("XREADGROUP COUNT 1 GROUP g STREAMS STREAMS a >", Ok(&[7]));
    }

    #[test]
    fn a_request_without_its_arguments_has_no_keys() {
        for command in all().filter(|command| command.keys != Keys::None) {
            let (frame, spans) = request(command.name);
            assert_eq!(keys(command, &frame, &spans, &mut Vec::new()), Err(NoKeys), "{}", command.name);
        }
    }

    #[test]
    fn blocking_requests_are_told_by_their_options() {
        fn check(line: &str, expected: bool) {
            let (frame, spans) = request(line);
            let command = resolve(&frame, &spans).expect("the table names known commands");
            assert_eq!(blocks(command, &frame, &spans), expected, "{line}");
        }
        check("GET k", false);
        check("LPOP k", false);
        check("BLPOP k 0", true);
        check("WAIT 1 0", true);
        check("WAITAOF 1 0 0", true);
        check("XREAD STREAMS a 0", false);
        check("XREAD COUNT 2 BLOCK 0 STREAMS a 0", true);
        check("XREAD block 10 STREAMS a 0", true);
        check("XREAD STREAMS BLOCK 0", false);
        check("XREAD COUNT BLOCK STREAMS a 0", false);
        check("XREADGROUP GROUP BLOCK c STREAMS a >", false);
        check("XREADGROUP GROUP g BLOCK STREAMS BLOCK >", false);
        check("XREADGROUP GROUP g c NOACK BLOCK 1 STREAMS a >", true);
        check("XREADGROUP GROUP g c CLAIM 5 BLOCK 1 STREAMS a >", true);
        check("GRAPH.QUERY g q", false);
    }
}
