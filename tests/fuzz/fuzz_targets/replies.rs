//! A server's stream is read as the same replies however it is cut, and `redis-protocol` finds the same ends.
#![no_main]

use std::fmt::Debug;

use keyway::resp::{Elements, Progress, ReplyError, ReplyScanner, View, first_reply_len, view};
use keyway_fuzz::{Verdict, cuts};
use libfuzzer_sys::fuzz_target;
use redis_protocol::{
    resp2::{
        self,
        types::{OwnedFrame as Frame2, Resp2Frame},
    },
    resp3::{
        self,
        types::{OwnedFrame as Frame3, Resp3Frame},
    },
};

// The first byte says where the stream is cut.
fuzz_target!(|input: &[u8]| {
    let [seed, stream @ ..] = input else { return };
    let (lens, end) = read(stream, &cuts(1, stream.len()));
    assert_eq!(read(stream, &cuts(*seed, stream.len())), (lens.clone(), end));
    assert_eq!(first_reply_len(stream), lens.first().copied());
    let mut at = 0;
    for len in lens {
        let reply = &stream[at..at + len];
        if let Some(view) = view(reply) {
            look_into(view, reply.len());
        }
        at += len;
    }
    compare(stream, &Verdict::of(resp2::decode::decode(stream)), encode2);
    compare(stream, &Verdict::of(resp3::decode::complete::decode(stream)), encode3);
});

/// The lengths of the replies in `stream`, which arrives up to each of `cuts`, and how many bytes of another were used after them.
fn read(stream: &[u8], cuts: &[usize]) -> (Vec<usize>, Result<usize, ReplyError>) {
    let mut scanner = ReplyScanner::default();
    let mut lens = Vec::new();
    let (mut used, mut start) = (0, 0);
    for &arrived in cuts {
        loop {
            let left = scanner.bulk_left();
            let progress = match scanner.advance(&stream[used..arrived]) {
                Ok(progress) => progress,
                Err(error) => return (lens, Err(error)),
            };
            used += progress.used;
            assert!(left == 0 || progress.used > 0 || used == arrived, "a bulk is used as it comes");
            assert_eq!(scanner.at_start(), progress.done || used == start, "at_start");
            if !progress.done {
                assert!(scanner.bulk_left() == 0 || used == arrived, "a bulk is used as it comes");
                break;
            }
            assert!(used > start, "a reply is never empty");
            lens.push(used - start);
            start = used;
        }
    }
    (lens, Ok(used - start))
}

/// Looks at everything in a whole reply of `room` bytes. Levels beyond what any server sends are passed over.
fn look_into(seen: View<'_>, room: usize) {
    let mut inner = vec![(seen, room, 0)];
    while let Some((seen, room, depth)) = inner.pop() {
        let elements: Elements<'_> = match seen {
            View::Array(elements) | View::Map(elements) | View::Set(elements) | View::Push(elements) => elements,
            _ => continue,
        };
        let announced = elements.len();
        let elements: Vec<&[u8]> = elements.collect();
        assert_eq!(elements.len(), announced);
        assert!(elements.iter().map(|element| element.len()).sum::<usize>() < room);
        if depth < 8 {
            inner.extend(elements.into_iter().filter_map(|element| Some((view(element)?, element.len(), depth + 1))));
        }
    }
}

fn encode2(frame: &Frame2) -> Vec<u8> {
    let mut out = vec![0; frame.encode_len(false)];
    let len = resp2::encode::encode(&mut out, frame, false).expect("any frame can be encoded");
    out.truncate(len);
    out
}

fn encode3(frame: &Frame3) -> Vec<u8> {
    let mut out = vec![0; frame.encode_len(false)];
    let len = resp3::encode::complete::encode(&mut out, frame, false).expect("any frame can be encoded");
    out.truncate(len);
    out
}

/// Checks that the first reply ends where `redis-protocol` says, but for the differences at the head of `src/resp/oracle.rs`.
fn compare<F: Debug>(bytes: &[u8], theirs: &Verdict<F>, encode: fn(&F) -> Vec<u8>) {
    match (ReplyScanner::default().advance(bytes), theirs) {
        (Ok(Progress { used, done: true }), Verdict::Whole(len, _)) => assert_eq!(used, *len),
        (Ok(Progress { done: true, .. }), Verdict::Cut) => {
            // It waits for the format of a verbatim string that is too short to have one.
            let short = |len: u8| memchr::memmem::find(bytes, &[b'=', b'0' + len, b'\r']).is_some();
            assert!((0..4).any(short), "whole for us, cut for them");
        }
        (Ok(Progress { done: false, .. }), Verdict::Whole(..)) => panic!("cut for us, whole for them"),
        // Streamed types, and `HELLO` as a frame.
        (Err(ReplyError::UnknownType(b'H' | b';' | b'.')), _) => {}
        // Lengths such as `+1` and `01`, and any two bytes behind a bulk.
        (Err(error), Verdict::Whole(len, frame)) => assert_ne!(encode(frame), bytes[..*len], "whole for them: {error}"),
        _ => {}
    }
}
