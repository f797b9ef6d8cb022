//! Bytes: what is no request, what is cut, what is deep, what is large.

use std::time::Duration;

use super::Scene;
use crate::harness::client::request;
use crate::harness::text::words;
use crate::harness::{Client, Cluster, Proxy, Reply, Server};

/// Raw bytes, each on a connection of its own. A reply to `sentinel` shows that the connection lives and is in step.
const RAW: &[&[u8]] = &[
    b"\r\n",
    b"   \r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*-5\r\n",
    b"PING\r\n",
    b"PING\n",
    b"  PING  \r\n",
    b"PING a\tb\r\n",
    b"SET inline \"a b\"\r\nGET inline\r\n",
    b"SET inline \"\\x41\\n\\t\\\"\\\\\"\r\nGET inline\r\n",
    b"SET inline 'it\\'s'\r\nGET inline\r\n",
    b"SET inline \"\"\r\nGET inline\r\n",
    b"SET inline \"abc\r\n",
    b"SET inline 'abc\r\n",
    b"PING\r\n*1\r\n$4\r\nPING\r\nPING\r\n",
    b"*abc\r\n",
    b"*+1\r\n",
    b"* 1\r\n",
    b"*1 \r\n",
    b"*\r\n",
    b"*01\r\n$4\r\nPING\r\n",
    b"*1048577\r\n",
    b"*2147483648\r\n",
    b"*99999999999999999999\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n*1\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n$abc\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$ 4\r\nPING\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$99999999999999999999\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*2\r\n$0\r\n\r\n$1\r\na\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n*x\r\n",
    b"GET a\r\nMGET a b c\r\n*1\r\n$z\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"post x\r\n",
    b"Host: x\r\n",
    b"*1\r\n$4\r\nPOST\r\n",
    b"*1\r\n$5\r\nhost:\r\n",
    b"GET / HTTP/1.1\r\n",
    b"SET quit 1\r\nQUIT\r\nSET quit 2\r\n",
    b"GET quit\r\n",
    b"QUIT now\r\n",
    b"PING\r\nMGET a b c d\r\nQUIT\r\n",
    b"CLIENT REPLY SKIP\r\nPING\r\nECHO seen\r\n",
    b"CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nPING\r\nECHO seen\r\n",
    b"CLIENT REPLY SKIP\r\nSET skipped v\r\nGET skipped\r\n",
    b"CLIENT REPLY SKIP\r\nMGET a b c\r\nGET skipped\r\n",
    b"CLIENT REPLY SKIP\r\nNOSUCH\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nPING\r\nNOSUCH\r\nGET skipped\r\nCLIENT REPLY ON\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nMGET a b c\r\nRESET\r\nPING\r\n",
    b"HELLO 3 FOO\r\nHGETALL none\r\n",
];

/// Where the four servers disagree, Keyway is strict: it passes frames on unparsed, so it takes only what is framed for all.
/// Redis ignores which two bytes end a bulk string, Valkey 9 allows text right behind a quote, and all four forget to
/// close a connection that has its replies turned off.
const STRICT: &[(&[u8], &[u8])] = &[
    (b"CLIENT REPLY OFF\r\nQUIT\r\n", b""),
    (b"CLIENT REPLY OFF\r\n*x\r\n", b""),
    (b"*1\r\n$4\r\nPINGxx", b"-ERR Protocol error: invalid CRLF in request\r\n"),
    (b"SET inline \"a\"b\r\n", b"-ERR Protocol error: unbalanced quotes in request\r\n"),
    (b"SET inline 'a'b\r\n", b"-ERR Protocol error: unbalanced quotes in request\r\n"),
];

/// As [`RAW`], but nothing may follow them: the server waits for more bytes of a line, until that is too long.
fn too_long_lines() -> [(&'static str, Vec<u8>); 3] {
    let long = |start: &str, byte: u8| [start.as_bytes(), &vec![byte; 200_000]].concat();
    [("inline", long("", b'a')), ("multibulk count", long("*", b'1')), ("bulk length", long("*1\r\n$", b'1'))]
}

pub fn bytes_and_closing(scene: &Scene) {
    let sentinel = request(&["ECHO", "sentinel"]);
    let ask = |mut client: Client, bytes: &[u8]| {
        // The other side may close while we still write, which is an outcome, too.
        let _ = client.send(&[bytes, &sentinel].concat());
        let (answer, end) = client.until(b"$8\r\nsentinel\r\n", Duration::from_secs(5));
        format!("{} ({end:?})", answer.escape_ascii())
    };
    let mut differences = Vec::new();
    for bytes in RAW {
        let (expected, found) = (ask(scene.standalone.client(), bytes), ask(scene.proxy.client(), bytes));
        if expected != found {
            differences.push(format!("{}\n    standalone {expected}\n    proxy      {found}", bytes.escape_ascii()));
        }
    }
    for (bytes, expected) in STRICT {
        let mut client = scene.proxy.client();
        client.send(bytes).expect("the proxy reads");
        assert_eq!(client.until_closed().as_deref(), Some(*expected), "{}", bytes.escape_ascii());
    }
    for (name, bytes) in too_long_lines() {
        let ask = |mut client: Client| {
            let _ = client.send(&bytes);
            client.until_closed().map(|bytes| bytes.escape_ascii().to_string())
        };
        let (expected, found) = (ask(scene.standalone.client()), ask(scene.proxy.client()));
        if expected != found {
            differences.push(format!("too long {name}\n    standalone {expected:?}\n    proxy      {found:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

pub fn cut_at_every_byte(scene: &Scene) {
    let bytes: Vec<u8> = ["SET cut \"some value\"", "GET cut", "MGET cut none {x}cut", "DEL cut none"]
        .iter()
        .flat_map(|line| request(&words(line)))
        .collect();
    let expected = scene.standalone.client().exchange(&bytes, 4).expect("a standalone server answers");
    for end in 1..bytes.len() {
        let mut client = scene.proxy.client();
        let (first, second) = bytes.split_at(end);
        client.send(first).expect("the proxy reads");
        // Answering what is complete shows that the cut arrived as one.
        if end % 8 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        client.send(second).expect("the proxy reads");
        let found: Vec<Reply> = (0..4).map(|_| client.receive().expect("a reply")).collect();
        assert_eq!(found, expected, "cut at {end}");
    }
}

pub fn deep_pipeline(scene: &Scene) {
    const DEPTH: usize = 10_000;
    let mut client = scene.proxy.client();
    let set: Vec<Vec<String>> = (0..DEPTH).map(|n| vec!["SET".into(), format!("key:{n}"), format!("value:{n}")]).collect();
    assert!(client.pipeline(&set).iter().all(|reply| *reply == Reply::ok()));
    let mixed = |n: usize| match n % 4 {
        0 => vec!["ECHO".into(), format!("{n}")],
        1 => vec!["MGET".into(), format!("key:{n}"), format!("key:{}", n - 1)],
        2 => vec!["EXISTS".into(), format!("key:{n}"), "missing".into()],
        _ => vec!["GET".into(), format!("key:{n}")],
    };
    let expected = |n: usize| match n % 4 {
        0 => Reply::bulk(format!("{n}")),
        1 => Reply::Array(vec![Reply::bulk(format!("value:{n}")), Reply::bulk(format!("value:{}", n - 1))]),
        2 => Reply::Integer(1),
        _ => Reply::bulk(format!("value:{n}")),
    };
    let replies = client.pipeline(&(0..DEPTH).map(mixed).collect::<Vec<_>>());
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!(*reply, expected(n), "request {n}");
    }
}

#[test]
pub fn large_values() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let proxy = Proxy::start(&cluster);
    let mut client = proxy.client();
    for size in [16 * 1024 - 1, 16 * 1024, 64 * 1024, 64 * 1024 + 1, 1 << 20, 100 << 20] {
        let value: Vec<u8> = (0..size).map(|at: usize| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
        assert_eq!(client.call(&[b"SET".as_slice(), b"large", &value]), Reply::ok(), "{size}");
        assert!(client.call(&["GET", "large"]) == Reply::Bulk(value), "{size} bytes came back changed");
    }
    // Large among small, in one pipeline, stays in order.
    let big = vec![b'x'; 300_000];
    let requests: Vec<Vec<&[u8]>> = (0..50)
        .map(|n| if n % 5 == 0 { vec![b"SET".as_slice(), b"big", &big] } else { vec![b"STRLEN".as_slice(), b"big"] })
        .collect();
    for (n, reply) in client.pipeline(&requests).iter().enumerate() {
        let expected = if n % 5 == 0 { Reply::ok() } else { Reply::Integer(300_000) };
        assert_eq!(*reply, expected, "request {n}");
    }
    let mget = client.call(&["MGET", "large", "big", "missing", "big"]);
    let lengths: Vec<usize> = mget.elements().iter().map(|value| value.text().len()).collect();
    assert_eq!(lengths.len(), 4);
    assert_eq!(lengths[1], 300_000);
}
