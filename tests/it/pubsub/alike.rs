//! Several connections play the same piece on a standalone server and through the proxy, and are told the same.

use crate::harness::client::request;
use crate::harness::servers::venv;
use crate::harness::text::words;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, Standalone, wait_until};

/// `connection command`, one after the other. Messages that a step sets off are compared with it, on whatever connection they come.
const PIECE: &str = r#"
c PUBLISH news nobody
a SUBSCRIBE news
a SUBSCRIBE news sport news weather
a PING
a PING hello
a GET x
a CLIENT ID
a MULTI
a HELLO 3
a AUTH x
a FOO
a GET
a SUBSCRIBE
b HELLO 3
b SUBSCRIBE news
b PSUBSCRIBE n* *s news
b GET x
b PING
b CLIENT GETNAME
c PUBLISH news one
c PUBLISH sport two
c PUBLISH nothing three
d PSUBSCRIBE "\x00*" [
c PUBLISH "\x00\r\n" binary
d PUNSUBSCRIBE [
c PUBLISH "\x00\r\n" "\r\n\x00"
c PUBSUB NUMSUB news sport nothing news
c PUBSUB NUMSUB
c PUBSUB NUMPAT
c PUBSUB CHANNELS n*
c PUBSUB CHANNELS sport
c PUBSUB CHANNELS zzz
e PSUBSCRIBE n*
c PUBSUB NUMPAT
c PUBLISH news both
a UNSUBSCRIBE sport
a UNSUBSCRIBE never
a PUNSUBSCRIBE
a PUNSUBSCRIBE n*
c PUBLISH sport gone
c PUBLISH news still
b UNSUBSCRIBE
b UNSUBSCRIBE
b PUNSUBSCRIBE n*
b PUNSUBSCRIBE "*s"
b PUNSUBSCRIBE
b PUNSUBSCRIBE
b UNSUBSCRIBE never
b SUBSCRIBE own
b PUBLISH own myself
b HELLO 2
b GET x
b PING
b UNSUBSCRIBE own
b GET x
a UNSUBSCRIBE news
a UNSUBSCRIBE weather
a GET x
a SUBSCRIBE again
a RESET
a GET x
c PUBLISH again nobody
d RESET
e RESET
c PUBSUB NUMPAT
c PUBSUB CHANNELS
a SSUBSCRIBE s1 s2 s3 s1
b SSUBSCRIBE s1
c SPUBLISH s1 one
c SPUBLISH s2 two
c SPUBLISH news none
a SUBSCRIBE news
a GET x
c PUBLISH s1 none
c PUBSUB SHARDNUMSUB s1 s2 s4
c PUBSUB SHARDNUMSUB s1
c PUBSUB SHARDNUMSUB
c PUBSUB SHARDCHANNELS s2
c PUBSUB SHARDCHANNELS x*
c PUBSUB NUMSUB s1 news
a SUNSUBSCRIBE s1
a SUNSUBSCRIBE s9
a UNSUBSCRIBE
c SPUBLISH s1 less
a SUNSUBSCRIBE s2
a SUNSUBSCRIBE
a SUNSUBSCRIBE
a GET x
b QUIT
c SPUBLISH s1 gone
c PUBSUB SHARDCHANNELS
"#;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Ends what a step sets off on a connection: answered behind everything else.
const MARK: &str = "mark";

fn is_mark(reply: &Reply) -> bool {
    let last = reply.elements().last().unwrap_or(reply);
    *last == Reply::bulk(MARK)
}

/// What each connection is told in each step.
fn play(clients: &mut [Client], expected: Option<&[Vec<Vec<Reply>>]>) -> Vec<Vec<Vec<Reply>>> {
    let mut told = Vec::new();
    let mut quit = vec![false; clients.len()];
    for (step, line) in PIECE.lines().filter(|line| !line.is_empty()).enumerate() {
        let (name, command) = line.split_once(' ').expect("a connection and a command");
        let speaker = NAMES.iter().position(|known| *known == name).expect("a known connection");
        clients[speaker].send(&request(&words(command))).expect("the other side reads");
        let mut all = vec![Vec::new(); clients.len()];
        for (index, client) in clients.iter_mut().enumerate().filter(|(index, _)| !quit[*index]) {
            if let Some(expected) = expected {
                // Messages come through the cluster in their own time: as many as on the standalone server are waited for.
                let count = expected[step][index].len();
                let receive =
                    |_| client.receive().unwrap_or_else(|error| panic!("{line}: {} is told less: {error}", NAMES[index]));
                all[index].extend((0..count).map(receive));
            }
        }
        quit[speaker] |= command == "QUIT";
        for (index, client) in clients.iter_mut().enumerate().filter(|(index, _)| !quit[*index]) {
            client.send(&request(&["PING", MARK])).expect("the other side reads");
            loop {
                let reply = client.receive().unwrap_or_else(|error| panic!("{line}: no answer to PING on {index}: {error}"));
                if is_mark(&reply) {
                    break;
                }
                all[index].push(reply);
            }
        }
        if quit[speaker] && expected.is_none() {
            all[speaker].push(clients[speaker].receive().expect("QUIT is answered"));
        }
        for told in &mut all {
            // Which of a client's subscriptions is told first, and whether a publisher hears itself before its count, is no promise.
            told.sort();
        }
        told.push(all);
    }
    told
}

fn like_a_standalone(server: Server) {
    let cluster = Cluster::of_masters(server);
    super::wait_for_bus(&cluster);
    let proxy = Proxy::start(&cluster);
    let standalone = Standalone::start(server);
    let connect = |connect: &dyn Fn() -> Client| NAMES.map(|_| connect());
    let expected = play(&mut connect(&|| standalone.client()), None);
    let found = play(&mut connect(&|| proxy.client()), Some(&expected));
    let mut wrong = Vec::new();
    let lines = PIECE.lines().filter(|line| !line.is_empty());
    for ((line, expected), mut found) in lines.zip(&expected).zip(found) {
        if line.contains("HELLO 2") || line.contains("b HELLO 3") {
            // A connection's own number is in it.
            continue;
        }
        for (name, (expected, found)) in NAMES.iter().zip(expected.iter().zip(&mut found)) {
            if expected != found {
                wrong.push(format!("{line}: {name} is told {found:?} instead of {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{server:?}:\n{}", wrong.join("\n"));
}

/// CLIENT REPLY silences pushes in 6.2 and replies only ever since.
fn silenced(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let standalone = Standalone::start(server);
    let piece: [&[&str]; 12] = [
        &["CLIENT", "REPLY", "OFF"],
        &["SUBSCRIBE", "a"],
        &["GET", "x"],
        &["CLIENT", "REPLY", "ON"],
        &["CLIENT", "REPLY", "SKIP"],
        &["PSUBSCRIBE", "b"],
        &["ECHO", "x"],
        &["CLIENT", "REPLY", "SKIP"],
        &["UNSUBSCRIBE", "a"],
        &["PUNSUBSCRIBE"],
        &["ECHO", "end"],
        &["CLIENT", "REPLY", "OFF"],
    ];
    for proto in ["2", "3"] {
        // In RESP2 a subscriber may not ask for replies again.
        let piece = if proto == "2" { &piece[..3] } else { &piece[..] };
        let [alone, proxied] = [standalone.client(), proxy.client()].map(|mut client| {
            assert!(!client.call(&["HELLO", proto]).is_error());
            let bytes: Vec<u8> = piece.iter().flat_map(|command| request(command)).collect();
            client.send(&bytes).expect("the other side reads");
            let replies = std::iter::from_fn(|| super::next_within(&mut client, std::time::Duration::from_millis(500)));
            replies.collect::<Vec<_>>()
        });
        assert_eq!(proxied, alone, "{server:?}, RESP{proto}");
    }
    let mut publisher = proxy.client();
    let mut client = proxy.client();
    assert!(!client.call(&["HELLO", "3"]).is_error());
    client.call(&["SUBSCRIBE", "quiet"]);
    client.send(&request(&["CLIENT", "REPLY", "OFF"])).expect("the proxy reads");
    client.send(&request(&["CLIENT", "ID"])).expect("the proxy reads");
    assert_eq!(super::next_within(&mut client, std::time::Duration::from_millis(200)), None);
    assert_eq!(publisher.call(&["PUBLISH", "quiet", "m"]), Reply::Integer(1));
    let told = super::next_within(&mut client, std::time::Duration::from_secs(2));
    assert_eq!(told.is_some(), server != Server::Redis62, "{told:?}");
}

/// CLIENT LIST and INFO tell of subscribers.
fn listed(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut subscribers: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut subscribers {
        super::subscribe(client, "3", "SUBSCRIBE", &["a".to_owned(), "b".to_owned()]);
        client.call(&["PSUBSCRIBE", "p*"]);
    }
    let mut client = proxy.client();
    let listed = client.call(&["CLIENT", "LIST", "TYPE", "pubsub"]).text();
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(listed.lines().all(|line| line.contains(" flags=P ") && line.contains(" sub=2 psub=1 ")), "{listed}");
    // The one that waited for the proxy to serve may not have left yet.
    wait_until("one ordinary client", || {
        let normal = client.call(&["CLIENT", "LIST", "TYPE", "normal"]).text();
        if normal.lines().count() == 1 { Ok(()) } else { Err(normal) }
    });
    let info = client.call(&["INFO", "clients"]).text();
    let counted = info.lines().find_map(|line| line.strip_prefix("pubsub_clients:"));
    assert!(counted.is_none_or(|count| count.trim() == "4"), "{info}");
}

fn redis_py(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    for protocol in ["2", "3"] {
        let mut command = crate::harness::process::bound_command(&venv().join("bin/python"));
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/redis_py_pubsub.py");
        let output = command.arg(script).args([&proxy.port.to_string(), protocol]).output().expect("python is installed");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output.stdout == b"ok\n", "RESP{protocol}: {complaint}");
    }
}

crate::on_every_server!(like_a_standalone, silenced, listed, redis_py);
