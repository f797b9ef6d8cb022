//! From a scanned request to its slot: the command's row, its keys, their slots.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keyway::{
    cluster::Slot,
    command,
    resp::{Limits, RequestScanner, Scanned, Span, encode},
};

/// A request and where its arguments stand.
fn scanned(arguments: &[&[u8]]) -> (Vec<u8>, Vec<Span>) {
    let (mut frame, mut spans) = (Vec::new(), Vec::new());
    encode::command(&mut frame, arguments);
    let answer = RequestScanner::default().scan(&frame, &mut spans, &Limits::default());
    assert!(matches!(answer, Ok(Scanned::Request { .. })), "{answer:?}");
    (frame, spans)
}

/// What every request needs; the slots are told apart by their sum, so that none of them can be left out.
fn route(frame: &[u8], spans: &[Span], keys: &mut Vec<u32>) -> (u16, u32) {
    let command = command::resolve(frame, spans).expect("a known command");
    keys.clear();
    command::keys(command, frame, spans, keys).expect("a request with keys");
    let slots = keys.iter().map(|key| u32::from(Slot::of(spans[*key as usize].of(frame)).get())).sum();
    (command.id, slots)
}

fn routes(criterion: &mut Criterion) {
    let names: Vec<Vec<u8>> = (0..100).map(|number| format!("key:{number:012}").into_bytes()).collect();
    let many = |name: &'static [u8], count: usize| -> Vec<&[u8]> {
        std::iter::once(name).chain(names[..count].iter().map(Vec::as_slice)).collect()
    };
    let value = [b'x'; 64];
    let cases: [(&str, Vec<&[u8]>); 7] = [
        ("GET", many(b"GET", 1)),
        ("SET", vec![b"SET", &names[0], &value]),
        ("get, tagged key", vec![b"get", b"user:{4711}:name"]),
        ("MGET 10", many(b"MGET", 10)),
        ("MGET 100", many(b"MGET", 100)),
        ("EVAL 2 keys", vec![b"EVAL", b"return 1", b"2", &names[0], &names[1], b"argument"]),
        ("XREAD 2 streams", vec![b"XREAD", b"COUNT", b"10", b"STREAMS", &names[0], &names[1], b"0", b"0"]),
    ];
    let mut group = criterion.benchmark_group("route");
    group.throughput(Throughput::Elements(1));
    let mut keys = Vec::new();
    for (name, arguments) in cases {
        let (frame, spans) = scanned(&arguments);
        group.bench_function(name, |bencher| bencher.iter(|| route(black_box(&frame), black_box(&spans), &mut keys)));
    }
}

criterion_group!(benches, routes);
criterion_main!(benches);
