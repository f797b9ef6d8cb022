//! A client's stream is read as the same requests however it is cut, and `redis-protocol` reads the same arguments.
#![no_main]

use keyway::resp::{Limits, ProtocolError, RequestScanner, Scanned, split_inline};
use keyway_fuzz::{Verdict, cuts};
use libfuzzer_sys::fuzz_target;
use redis_protocol::resp2::{
    decode::decode,
    encode::encode,
    types::{OwnedFrame, Resp2Frame},
};

/// What a client's stream is read as.
#[derive(Debug, PartialEq)]
enum Event {
    Request {
        frame: Vec<u8>,
        arguments: Vec<Vec<u8>>,
    },
    Inline(Vec<u8>),
    Skip(Vec<u8>),
    /// The end: an unfinished request, and how many bytes would say more.
    More(Vec<u8>, usize),
    Error(Vec<u8>, ProtocolError),
}

// The first byte says where the stream is cut, the second which limits hold.
fuzz_target!(|input: &[u8]| {
    let [seed, limits, stream @ ..] = input else { return };
    let limits = match limits % 3 {
        0 => Limits::default(),
        1 => Limits::default().before_authentication(),
        _ => Limits { bulk_len_max: 40, multibulk_len_max: 6, inline_len_max: 30, query_buffer_max: 90, authenticated: true },
    };
    let whole = read(stream, &cuts(1, stream.len()), &limits);
    let cut = read(stream, &cuts(*seed, stream.len()), &limits);
    match &cut[..] {
        // What comes at once need not be kept, and may be longer than what comes in pieces.
        [before @ .., Event::Error(_, ProtocolError::QueryBuffer)] => assert!(whole.starts_with(before), "{cut:?} {whole:?}"),
        _ => assert_eq!(cut, whole),
    }
    for event in &whole {
        compare(event, limits == Limits::default());
    }
});

/// Reads `stream` as it arrives, each arrival ending at one of `cuts`.
fn read(stream: &[u8], cuts: &[usize], limits: &Limits) -> Vec<Event> {
    let mut scanner = RequestScanner::default();
    let (mut spans, mut events) = (Vec::new(), Vec::new());
    let (mut used, mut need) = (0, 0);
    for &arrived in cuts {
        loop {
            let buf = &stream[used..arrived];
            let answer = scanner.scan(buf, &mut spans, limits);
            if let Ok(Scanned::More { need: more }) = answer {
                assert!(more > buf.len(), "more than there is");
                need = more;
                break;
            }
            assert!(buf.len() >= need, "an answer before the bytes it was said to need: {answer:?}");
            need = 0;
            let (len, event) = match answer {
                Ok(Scanned::Request { len }) => {
                    let frame = buf[..len].to_vec();
                    let arguments = spans.iter().map(|span| span.of(&frame).to_vec()).collect();
                    (len, Event::Request { frame, arguments })
                }
                Ok(Scanned::Inline { len }) => (len, Event::Inline(buf[..len].to_vec())),
                Ok(Scanned::Skip { len }) => (len, Event::Skip(buf[..len].to_vec())),
                Ok(Scanned::More { .. }) => unreachable!("handled above"),
                Err(error) => {
                    events.push(Event::Error(stream[used..].to_vec(), error));
                    return events;
                }
            };
            assert!(len > 0 && len <= buf.len());
            used += len;
            events.push(event);
        }
    }
    events.push(Event::More(stream[used..].to_vec(), need));
    events
}

/// Checks one request against `redis-protocol`. It may differ only as the head of `src/resp/oracle.rs` says: it takes lengths such as
/// `+1`, `01` and any two bytes behind a bulk, which the scanner refuses.
fn compare(event: &Event, unlimited: bool) {
    match event {
        Event::Request { frame, arguments } => {
            let arguments = arguments.iter().cloned().map(OwnedFrame::BulkString).collect();
            assert_eq!(Verdict::of(decode(frame)), Verdict::Whole(frame.len(), OwnedFrame::Array(arguments)));
        }
        Event::Inline(line) => assert_ne!(split_inline(line), Ok(Vec::new()), "a line without words is skipped"),
        Event::Skip(skipped) if skipped.starts_with(b"*") => {
            if let Verdict::Whole(len, _) = Verdict::of(decode(skipped)) {
                assert_eq!(len, skipped.len());
            }
        }
        Event::More(begun, _) if begun.starts_with(b"*") => {
            let theirs = Verdict::of(decode(begun));
            assert!(!matches!(theirs, Verdict::Whole(..)), "cut for us, whole for them: {theirs:?}");
        }
        Event::Error(refused, error) if unlimited && refused.starts_with(b"*") => {
            if let Verdict::Whole(len, OwnedFrame::Array(items)) = Verdict::of(decode(refused)) {
                let request = items.iter().all(|item| matches!(item, OwnedFrame::BulkString(_)));
                let frame = OwnedFrame::Array(items);
                let mut canonical = vec![0; frame.encode_len(false)];
                let canonical_len = encode(&mut canonical, &frame, false).expect("any frame can be encoded");
                assert!(!request || canonical[..canonical_len] != refused[..len], "whole for them: {error}");
            }
        }
        _ => {}
    }
}
