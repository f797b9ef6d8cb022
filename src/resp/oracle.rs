//! Compares the scanners with `redis-protocol`, an independent reader of the same format.
//!
//! They agree on every frame a server or a client writes. On others they may differ, and only so:
//!
//! * `redis-protocol` also judges what scalars say (`:x`, `#x`, text that is no UTF-8), what may be a key of a map,
//!   and knows no attribute of a null or of an attribute. The scanners only look for ends.
//! * `redis-protocol` accepts lengths such as `+1` and `01`, and any two bytes behind a bulk. The scanners refuse
//!   them: the servers accept no such request and write no such reply.
//! * `redis-protocol` knows streamed types (`$?`, `;`, `.`) and `HELLO` as a frame; in RESP3 it takes `-1` for `?`.
//! * `redis-protocol` waits for the format of a verbatim string that is too short to have one.

use proptest::collection::{hash_map, hash_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use redis_protocol::resp2::types::{OwnedFrame as Frame2, Resp2Frame};
use redis_protocol::resp3::types::{OwnedFrame as Frame3, Resp3Frame, VerbatimStringFormat};
use redis_protocol::{resp2, resp3};

use super::request::tests::Event;
use super::*;

/// What a reader makes of the bytes it is given.
#[derive(Debug, PartialEq)]
enum Verdict<F> {
    Whole(usize, F),
    Cut,
    Refused,
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

fn decode2(bytes: &[u8]) -> Verdict<Frame2> {
    match resp2::decode::decode(bytes) {
        Ok(Some((frame, len))) => Verdict::Whole(len, frame),
        Ok(None) => Verdict::Cut,
        Err(_) => Verdict::Refused,
    }
}

fn decode3(bytes: &[u8]) -> Verdict<Frame3> {
    match resp3::decode::complete::decode(bytes) {
        Ok(Some((frame, len))) => Verdict::Whole(len, frame),
        Ok(None) => Verdict::Cut,
        Err(_) => Verdict::Refused,
    }
}

/// Bytes that often look like pieces of a frame.
fn blob() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..12), vec(select(&b"\r\n$*:+-0123"[..]), 0..12), vec(Just(b'x'), 90..130)]
}

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,12}"
}

fn tree2() -> impl Strategy<Value = Frame2> {
    let leaf = prop_oneof![
        text().prop_map(|text| Frame2::SimpleString(text.into())),
        text().prop_map(Frame2::Error),
        any::<i64>().prop_map(Frame2::Integer),
        blob().prop_map(Frame2::BulkString),
        Just(Frame2::Null),
    ];
    leaf.prop_recursive(4, 40, 12, |inner| vec(inner, 0..12).prop_map(Frame2::Array))
}

/// What may be a key of a map in `redis-protocol`.
fn leaf3() -> impl Strategy<Value = Frame3> {
    prop_oneof![
        blob().prop_map(|data| Frame3::BlobString { data, attributes: None }),
        text().prop_map(|text| Frame3::BlobError { data: text.into(), attributes: None }),
        text().prop_map(|text| Frame3::SimpleString { data: text.into(), attributes: None }),
        text().prop_map(|data| Frame3::SimpleError { data, attributes: None }),
        any::<bool>().prop_map(|data| Frame3::Boolean { data, attributes: None }),
        any::<i64>().prop_map(|data| Frame3::Number { data, attributes: None }),
        any::<f64>().prop_map(|data| Frame3::Double { data: if data.is_nan() { 0.5 } else { data }, attributes: None }),
        "-?[1-9][0-9]{0,40}".prop_map(|text| Frame3::BigNumber { data: text.into(), attributes: None }),
        blob().prop_map(|data| Frame3::VerbatimString { data, format: VerbatimStringFormat::Text, attributes: None }),
        Just(Frame3::Null),
    ]
}

fn tree3() -> impl Strategy<Value = Frame3> {
    let tree = leaf3().prop_recursive(4, 40, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(|data| Frame3::Array { data, attributes: None }),
            vec(inner.clone(), 0..8).prop_map(|data| Frame3::Push { data, attributes: None }),
            hash_map(leaf3(), inner, 0..4).prop_map(|data| Frame3::Map { data, attributes: None }),
            hash_set(leaf3(), 0..8).prop_map(|data| Frame3::Set { data, attributes: None }),
        ]
    });
    (tree, proptest::option::weighted(0.2, hash_map(leaf3(), leaf3(), 0..3))).prop_map(|(mut frame, attributes)| {
        if let Some(attributes) = attributes
            && !matches!(frame, Frame3::Null)
        {
            frame.add_attributes(attributes).expect("all but null can have attributes");
        }
        frame
    })
}

/// Rising positions in `0..=len`.
fn positions(cuts: &[Index], len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..8)
}

/// A change of one byte, mostly into one that means something.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let byte = || prop_oneof![4 => select(&b"\r\n$*:+-_#,(!=%~>|0123456789?;.HP \0"[..]), 1 => any::<u8>()];
    let mutation = prop_oneof![
        4 => (any::<Index>(), byte()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        2 => (any::<Index>(), byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        2 => any::<Index>().prop_map(Mutation::Remove),
        1 => any::<Index>().prop_map(Mutation::Truncate),
    ];
    vec(mutation, 0..4)
}

fn mutate(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        match mutation {
            Mutation::Insert(at, byte) => bytes.insert(at.index(bytes.len() + 1), *byte),
            _ if bytes.is_empty() => {}
            Mutation::Replace(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Mutation::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Mutation::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
    bytes
}

/// Checks that the first reply in `bytes` ends where `redis-protocol` says, but for the differences above.
fn compare_reply<F: std::fmt::Debug>(bytes: &[u8], theirs: &Verdict<F>, encode: fn(&F) -> Vec<u8>) {
    let ours = ReplyScanner::default().advance(bytes);
    let name = bytes.escape_ascii().to_string();
    match (ours, theirs) {
        (Ok(Progress { used, done: true }), Verdict::Whole(len, _)) => assert_eq!(used, *len, "{name}"),
        (Ok(Progress { done: true, .. }), Verdict::Cut) => {
            let short = |len: u8| memchr::memmem::find(bytes, &[b'=', b'0' + len, b'\r']).is_some();
            assert!((0..4).any(short), "{name}: whole for us, cut for them");
        }
        (Ok(Progress { done: false, .. }), Verdict::Whole(..)) => panic!("{name}: cut for us, whole for them"),
        (Err(ReplyError::UnknownType(b'H' | b';' | b'.')), _) => {}
        (Err(error), Verdict::Whole(len, frame)) => assert_ne!(encode(frame), bytes[..*len], "{name}: {error}"),
        _ => {}
    }
}

/// Checks the first request in `bytes`, which is no inline one, likewise.
fn compare_request(bytes: &[u8]) {
    let mut spans = Vec::new();
    let ours = RequestScanner::default().scan(bytes, &mut spans, &Limits::default());
    let name = bytes.escape_ascii().to_string();
    match (ours, decode2(bytes)) {
        (Ok(Scanned::Request { len }), theirs) => {
            let arguments = spans.iter().map(|span| Frame2::BulkString(span.of(bytes).to_vec())).collect();
            assert_eq!(theirs, Verdict::Whole(len, Frame2::Array(arguments)), "{name}");
        }
        (Ok(Scanned::Skip { len }), Verdict::Whole(theirs, _)) => assert_eq!(len, theirs, "{name}"),
        (Ok(Scanned::More { .. }), Verdict::Whole(..)) => panic!("{name}: cut for us, whole for them"),
        (Ok(Scanned::Inline { .. }), _) => panic!("{name}: not inline"),
        (Err(error), Verdict::Whole(len, Frame2::Array(items))) => {
            let request = items.iter().all(|item| matches!(item, Frame2::BulkString(_)));
            let canonical = encode2(&Frame2::Array(items)) == bytes[..len];
            assert!(!request || !canonical, "{name}: {error}");
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn resp2_replies(trees in vec(tree2(), 1..4), cuts in cuts()) {
        let replies: Vec<Vec<u8>> = trees.iter().map(encode2).collect();
        let stream = replies.concat();
        let lens: Vec<usize> = replies.iter().map(Vec::len).collect();
        prop_assert_eq!(first_reply_len(&stream), Some(lens[0]));
        prop_assert_eq!(reply::tests::read(&stream, &positions(&cuts, stream.len())), Ok((lens, 0)));
    }

    #[test]
    fn resp3_replies(trees in vec(tree3(), 1..4), cuts in cuts()) {
        let replies: Vec<Vec<u8>> = trees.iter().map(encode3).collect();
        let stream = replies.concat();
        let lens: Vec<usize> = replies.iter().map(Vec::len).collect();
        prop_assert_eq!(first_reply_len(&stream), Some(lens[0]));
        prop_assert_eq!(reply::tests::read(&stream, &positions(&cuts, stream.len())), Ok((lens, 0)));
    }

    #[test]
    fn views(tree in tree3()) {
        let reply = encode3(&tree);
        let view = view(&reply);
        let decoded = |elements: Elements<'_>| -> Vec<Frame3> {
            elements.map(|element| match decode3(element) {
                Verdict::Whole(len, frame) if len == element.len() => frame,
                other => panic!("{}: {other:?}", element.escape_ascii()),
            }).collect()
        };
        match (tree, view) {
            (Frame3::BlobString { data, .. }, Some(View::Bulk(text)))
            | (Frame3::BlobError { data, .. }, Some(View::Error(text)))
            | (Frame3::SimpleString { data, .. }, Some(View::Simple(text)))
            | (Frame3::BigNumber { data, .. }, Some(View::BigNumber(text)))
            | (Frame3::VerbatimString { data, .. }, Some(View::Verbatim(text))) => prop_assert_eq!(data, text),
            (Frame3::SimpleError { data, .. }, Some(View::Error(text))) => prop_assert_eq!(data.as_bytes(), text),
            (Frame3::Boolean { data, .. }, Some(View::Boolean(boolean))) => prop_assert_eq!(data, boolean),
            (Frame3::Number { data, .. }, Some(View::Integer(number))) => prop_assert_eq!(data, number),
            (Frame3::Double { data, .. }, Some(View::Double(text))) => {
                prop_assert_eq!(Ok(data), std::str::from_utf8(text).expect("digits").parse());
            }
            (Frame3::Null, Some(View::Null)) => {}
            (Frame3::Array { data, .. }, Some(View::Array(elements))) | (Frame3::Push { data, .. }, Some(View::Push(elements))) => {
                prop_assert_eq!(data.len(), elements.len());
                prop_assert_eq!(data, decoded(elements));
            }
            (Frame3::Set { data, .. }, Some(View::Set(elements))) => {
                prop_assert_eq!(data.len(), elements.len());
                prop_assert_eq!(data, decoded(elements).into_iter().collect());
            }
            (Frame3::Map { data, .. }, Some(View::Map(elements))) => {
                prop_assert_eq!(2 * data.len(), elements.len());
                let pairs = decoded(elements);
                prop_assert_eq!(data, pairs.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect());
            }
            (tree, view) => prop_assert!(false, "{tree:?} is seen as {view:?}"),
        }
    }

    #[test]
    fn requests(requests in vec(vec(blob(), 1..12), 1..4), cuts in cuts()) {
        let mut stream = Vec::new();
        for arguments in &requests {
            let start = stream.len();
            encode::command(&mut stream, &arguments.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let theirs = Frame2::Array(arguments.iter().cloned().map(Frame2::BulkString).collect());
            prop_assert_eq!(decode2(&stream[start..]), Verdict::Whole(stream.len() - start, theirs));
        }
        let mut events: Vec<Event> = requests.into_iter().map(Event::Request).collect();
        events.push(Event::More(1));
        prop_assert_eq!(request::tests::read(&stream, &positions(&cuts, stream.len()), &Limits::default()), events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn damaged_resp2_replies(tree in tree2(), mutations in mutations(), cuts in cuts()) {
        let bytes = mutate(encode2(&tree), &mutations);
        compare_reply(&bytes, &decode2(&bytes), encode2);
        view(&bytes);
        prop_assert_eq!(reply::tests::read(&bytes, &positions(&cuts, bytes.len())), reply::tests::read(&bytes, &[]));
    }

    #[test]
    fn damaged_resp3_replies(tree in tree3(), mutations in mutations(), cuts in cuts()) {
        let bytes = mutate(encode3(&tree), &mutations);
        compare_reply(&bytes, &decode3(&bytes), encode3);
        if let Some(View::Array(elements) | View::Map(elements) | View::Set(elements) | View::Push(elements)) = view(&bytes) {
            prop_assert!(elements.map(<[u8]>::len).sum::<usize>() <= bytes.len());
        }
        prop_assert_eq!(reply::tests::read(&bytes, &positions(&cuts, bytes.len())), reply::tests::read(&bytes, &[]));
    }

    #[test]
    fn damaged_requests(arguments in vec(blob(), 0..6), mutations in mutations(), cuts in cuts()) {
        let mut bytes = Vec::new();
        encode::command(&mut bytes, &arguments.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let bytes = mutate(bytes, &mutations);
        if bytes.starts_with(b"*") {
            compare_request(&bytes);
        }
        let limits = Limits::default();
        let whole = request::tests::read(&bytes, &[], &limits);
        prop_assert_eq!(&request::tests::read(&bytes, &positions(&cuts, bytes.len()), &limits), &whole);
        for event in whole {
            if let Event::Inline(line) = event {
                prop_assert_ne!(split_inline(&line), Ok(Vec::new()));
            }
        }
    }
}
