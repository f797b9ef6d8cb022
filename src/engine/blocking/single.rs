//! The forms of blocking commands that do not block, for one key or for the keys of one slot.

use crate::{
    command::{self, Command},
    resp::{Span, View, encode, view},
};

/// XREAD up to its word STREAMS, without any BLOCK: on a shared lane it must not wait.
pub(super) fn without_block<'a>(frame: &'a [u8], spans: &[Span]) -> Vec<&'a [u8]> {
    let streams = command::stream_words(frame, spans).1.unwrap_or(0);
    let mut kept = Vec::new();
    let mut index = 0;
    while index <= streams {
        let word = spans[index].of(frame);
        if index > 0 && word.eq_ignore_ascii_case(b"BLOCK") {
            index += 2;
            continue;
        }
        kept.push(word);
        if index > 0 && word.eq_ignore_ascii_case(b"COUNT") {
            index += 1;
            kept.push(spans[index].of(frame));
        }
        index += 1;
    }
    kept
}

/// The pop of one key that does not block.
pub(super) fn pop(command: &Command, frame: &[u8], spans: &[Span], keys: &[u32], key: &[u8]) -> Vec<u8> {
    let mut arguments: Vec<&[u8]> = match command.name {
        "BLPOP" => vec![b"LPOP", key],
        "BRPOP" => vec![b"RPOP", key],
        "BZPOPMIN" => vec![b"ZPOPMIN", key],
        "BZPOPMAX" => vec![b"ZPOPMAX", key],
        "BLMPOP" => vec![b"LMPOP", b"1", key],
        _ => vec![b"ZMPOP", b"1", key],
    };
    if matches!(command.name, "BLMPOP" | "BZMPOP") {
        let behind = keys.last().map_or(spans.len(), |last| *last as usize + 1);
        arguments.extend(spans[behind..].iter().map(|span| span.of(frame)));
    }
    let mut out = Vec::new();
    encode::command(&mut out, &arguments);
    out
}

/// Turns the answer of such a pop into the blocking command's. False: there was nothing.
pub(super) fn popped(command: &Command, key: &[u8], reply: &[u8], out: &mut Vec<u8>) -> bool {
    match (command.name, view(reply)) {
        ("BLMPOP" | "BZMPOP", Some(View::Array(_))) => out.extend_from_slice(reply),
        ("BZPOPMIN" | "BZPOPMAX", Some(View::Array(elements))) if elements.len() == 2 => {
            encode::array(out, 3);
            encode::bulk(out, key);
            elements.for_each(|element| out.extend_from_slice(element));
        }
        ("BLPOP" | "BRPOP", Some(View::Bulk(_))) => {
            encode::array(out, 2);
            encode::bulk(out, key);
            out.extend_from_slice(reply);
        }
        _ => return false,
    }
    true
}

/// The same command with its first key only.
pub(super) fn with_one_key(command: &Command, frame: &[u8], spans: &[Span], keys: &[u32]) -> Vec<u8> {
    let (first, last) = (keys[0] as usize, keys[keys.len() - 1] as usize);
    let mut arguments: Vec<&[u8]> = spans[..=first].iter().map(|span| span.of(frame)).collect();
    match command.name {
        "XREAD" => arguments.push(spans[last + 1].of(frame)),
        "BLMPOP" | "BZMPOP" => {
            arguments[2] = b"1";
            arguments.extend(spans[last + 1..].iter().map(|span| span.of(frame)));
        }
        _ => arguments.extend(spans[last + 1..].iter().map(|span| span.of(frame))),
    }
    let mut out = Vec::new();
    encode::command(&mut out, &arguments);
    out
}

#[cfg(test)]
mod tests {
    use super::{super::super::pump::spans_of, *};

    fn request(line: &str) -> (Vec<u8>, Vec<Span>) {
        let mut frame = Vec::new();
        encode::command(&mut frame, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        let spans = spans_of(&frame).expect("just written");
        (frame, spans)
    }

    #[test]
    fn one_key_is_asked_without_blocking() {
        let check = |line: &str, key: &str, popping: &str, single: &str| {
            let (frame, spans) = request(line);
            let command = command::resolve(&frame, &spans).expect("a known command");
            let mut keys = Vec::new();
            command::keys(command, &frame, &spans, &mut keys).expect("it has keys");
            assert_eq!(pop(command, &frame, &spans, &keys, key.as_bytes()), request(popping).0, "{line}");
            assert_eq!(with_one_key(command, &frame, &spans, &keys), request(single).0, "{line}");
        };
        check("BLPOP a b 1", "b", "LPOP b", "BLPOP a 1");
        check("BRPOP a b 1", "a", "RPOP a", "BRPOP a 1");
        check("BZPOPMIN a b c 1", "c", "ZPOPMIN c", "BZPOPMIN a 1");
        check("BZPOPMAX a b 1", "b", "ZPOPMAX b", "BZPOPMAX a 1");
        check("BLMPOP 1 2 a b LEFT COUNT 3", "b", "LMPOP 1 b LEFT COUNT 3", "BLMPOP 1 1 a LEFT COUNT 3");
        check("BZMPOP 1 2 a b MAX", "a", "ZMPOP 1 a MAX", "BZMPOP 1 1 a MAX");
    }

    #[test]
    fn a_read_loses_every_block() {
        let check = |line: &str, expected: &str| {
            let (frame, spans) = request(line);
            let kept = without_block(&frame, &spans);
            assert_eq!(kept, expected.split(' ').map(str::as_bytes).collect::<Vec<_>>(), "{line}");
        };
        check("XREAD BLOCK 0 STREAMS a b 0 0", "XREAD STREAMS");
        check("XREAD block 0 COUNT 2 BLOCK 5 streams a b 0 0", "XREAD COUNT 2 streams");
        check("XREAD COUNT block BLOCK 5 STREAMS block b 0 0", "XREAD COUNT block STREAMS");
    }

    #[test]
    fn answers_become_the_blocking_commands() {
        let check = |name: &str, reply: &str, expected: Option<&str>| {
            let command = command::lookup(name.as_bytes()).expect("a known command");
            let mut out = Vec::new();
            let found = popped(command, b"k", reply.as_bytes(), &mut out);
            assert_eq!(found.then(|| String::from_utf8_lossy(&out).into_owned()).as_deref(), expected, "{name} {reply:?}");
        };
        check("BLPOP", "$1\r\nx\r\n", Some("*2\r\n$1\r\nk\r\n$1\r\nx\r\n"));
        check("BRPOP", "_\r\n", None);
        check("BLPOP", "$-1\r\n", None);
        check("BZPOPMIN", "*2\r\n$1\r\nm\r\n,1.5\r\n", Some("*3\r\n$1\r\nk\r\n$1\r\nm\r\n,1.5\r\n"));
        check("BZPOPMAX", "*0\r\n", None);
        check("BLMPOP", "*-1\r\n", None);
        check("BLMPOP", "*2\r\n$1\r\nk\r\n*1\r\n$1\r\nx\r\n", Some("*2\r\n$1\r\nk\r\n*1\r\n$1\r\nx\r\n"));
        check("BZMPOP", "_\r\n", None);
    }
}
