//! What it costs to find the ends of the frames that are most of a proxy's traffic.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keyway::resp::{Limits, ReplyScanner, RequestScanner, Scanned, encode};

/// A client's buffer of `n` requests, as a pipelining client sends them.
fn request_stream(arguments: &[&[u8]], n: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..n {
        encode::command(&mut stream, arguments);
    }
    stream
}

fn requests(criterion: &mut Criterion) {
    let keys: Vec<Vec<u8>> = (0..100).map(|n| format!("key:{n:012}").into_bytes()).collect();
    let mget: Vec<&[u8]> = [&b"MGET"[..]].into_iter().chain(keys.iter().map(Vec::as_slice)).collect();
    let value = vec![b'x'; 512];
    let cases: [(&str, &[&[u8]]); 3] =
        [("GET", &[b"GET", b"key:000000000042"]), ("SET 512 B", &[b"SET", b"key:000000000042", &value]), ("MGET 100", &mget)];
    let mut group = criterion.benchmark_group("request");
    let limits = Limits::default();
    for (name, arguments) in cases {
        let stream = request_stream(arguments, 16);
        let mut spans = Vec::new();
        // One request per iteration, at another place of the buffer each time.
        let mut at = 0;
        let mut scanner = RequestScanner::default();
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let answer = scanner.scan(black_box(&stream[at..]), &mut spans, &limits);
                let Ok(Scanned::Request { len }) = answer else { panic!("{answer:?}") };
                at = if at + len == stream.len() { 0 } else { at + len };
                black_box(&spans);
            });
        });
    }
}

fn replies(criterion: &mut Criterion) {
    let bulk = |len: usize| {
        let mut reply = Vec::new();
        encode::bulk(&mut reply, vec![b'x'; len]);
        reply
    };
    let mut array = Vec::new();
    encode::array(&mut array, 100);
    for _ in 0..100 {
        encode::bulk(&mut array, [b'x'; 64]);
    }
    let cases = [
        ("OK", b"+OK\r\n".to_vec()),
        ("integer", b":1\r\n".to_vec()),
        ("GET 64 B", bulk(64)),
        ("GET 1 KiB", bulk(1024)),
        ("array of 100 x 64 B", array),
    ];
    let mut group = criterion.benchmark_group("reply");
    for (name, reply) in cases {
        let stream = reply.repeat(16);
        let mut at = 0;
        let mut scanner = ReplyScanner::default();
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let progress = scanner.advance(black_box(&stream[at..]));
                let Ok(progress) = progress else { panic!("{progress:?}") };
                assert!(progress.done);
                at = if at + progress.used == stream.len() { 0 } else { at + progress.used };
            });
        });
    }
}

criterion_group!(benches, requests, replies);
criterion_main!(benches);
