//! MONITOR: what all masters do, seen by one client.

use std::time::Duration;

use crate::harness::client::request;
use crate::harness::cluster::tags_in;
use crate::harness::{Client, Cluster, PATIENCE, Proxy, Reply, Server, wait_until};

/// A client that monitors.
struct Monitor(Client);

impl Monitor {
    fn start(proxy: &Proxy) -> Monitor {
        let mut client = proxy.client();
        assert_eq!(client.call(&["MONITOR"]), Reply::ok());
        Monitor(client)
    }

    /// A request's own reply, which lines may come before.
    fn call(&mut self, arguments: &[&str]) -> Reply {
        self.0.send(&request(arguments)).expect("it is connected");
        loop {
            match self.0.receive().expect("it is answered") {
                Reply::Simple(text) if text.first().is_some_and(u8::is_ascii_digit) => {}
                reply => return reply,
            }
        }
    }

    /// Lines until one that contains `last`.
    fn until(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        self.0.set_timeout(PATIENCE);
        loop {
            let Reply::Simple(line) = self.0.receive().unwrap_or_else(|error| panic!("no {last:?} in {lines:?}: {error}")) else {
                panic!("a line of MONITOR is a status");
            };
            lines.push(String::from_utf8_lossy(&line).into_owned());
            if lines[lines.len() - 1].contains(last) {
                return lines;
            }
        }
    }
}

/// One tag of each master, in the order of the members.
fn tags() -> Vec<String> {
    [0..1, 8000..8001, 16000..16001].into_iter().flat_map(tags_in).collect()
}

/// Sends something to every member that is seen, until the monitor has seen it of all of them.
fn wait_until_all_are_seen(cluster: &Cluster, monitor: &mut Monitor, word: &str) {
    for (place, member) in cluster.members().iter().enumerate() {
        monitor.0.set_timeout(Duration::from_millis(100));
        let wanted = format!("\"PING\" \"{word}:{place}\"");
        wait_until("the monitor to see every node", || {
            member.client().call(&["PING", &format!("{word}:{place}")]);
            while let Ok(line) = monitor.0.receive() {
                if line_text(&line).contains(&wanted) {
                    return Ok(());
                }
            }
            Err(wanted.clone())
        });
    }
}

fn line_text(reply: &Reply) -> String {
    match reply {
        Reply::Simple(line) => String::from_utf8_lossy(line).into_owned(),
        other => panic!("no line: {other:?}"),
    }
}

fn lines(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    for proto in ["2", "3"] {
        let mut monitor = Monitor(proxy.client());
        assert!(!monitor.0.call(&["HELLO", proto]).is_error());
        assert_eq!(monitor.0.call(&["MONITOR"]), Reply::ok());
        let mut client = proxy.client();
        for (place, tag) in tags().iter().enumerate() {
            assert_eq!(client.call(&["SET", tag, &format!("value:{place}")]), Reply::ok());
            assert_eq!(client.call(&["GET", tag]).text(), format!("value:{place}"));
            let seen = monitor.until("\"GET\"");
            let seen: Vec<&str> = seen.iter().map(|line| line.split_once("] ").expect("a line has an address").1).collect();
            let of_this: Vec<&str> = seen.into_iter().filter(|line| line.contains(tag.as_str())).collect();
            assert_eq!(of_this, [format!("\"SET\" \"{tag}\" \"value:{place}\""), format!("\"GET\" \"{tag}\"")]);
        }
        // A script's own calls, and bytes that are no text.
        client.call(&["EVAL", "return redis.call('SET',KEYS[1],'\\0\\n\"')", "1", &tags()[1]]);
        let seen = monitor.until("lua] ");
        assert!(seen[seen.len() - 1].ends_with(r#""\x00\n\"""#), "{seen:?}");
        // What makes them a cluster is nobody's business.
        for member in cluster.members() {
            member.client().call(&["CLUSTER", "NODES"]);
            member.client().call(&["ASKING"]);
            member.client().call(&["PING", "after"]);
            let seen = monitor.until("\"after\"");
            assert!(!seen.iter().any(|line| line.contains("CLUSTER") || line.contains("ASKING")), "{seen:?}");
        }
        // Passwords are not shown.
        let mut direct = cluster.any_client();
        for secret in [
            &["AUTH", "swordfish"][..],
            &["AUTH", "default", "swordfish"],
            &["HELLO", "2", "AUTH", "nobody", "swordfish"],
            &["ACL", "SETUSER", "joe", ">swordfish"],
            &["CONFIG", "SET", "masterauth", "swordfish"],
            &["CONFIG", "SET", "masterauth", ""],
            &["MIGRATE", "127.0.0.1", "1", "k", "0", "1", "AUTH2", "joe", "swordfish"],
            &["PING", "no more secrets"],
        ] {
            direct.call(secret);
        }
        let seen = monitor.until("no more secrets");
        assert!(seen.iter().any(|line| line.contains("(redacted)")), "{seen:?}");
        assert!(!seen.iter().any(|line| line.contains("swordfish")), "{seen:?}");
    }
}

fn mode(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let verb = if server == Server::Redis62 { "interract" } else { "interact" };
    let mut monitor = Monitor::start(&proxy);
    for keyspace in
        [&["GET", "a"][..], &["SET", "a", "1"], &["EVAL", "return 1", "0"], &["DBSIZE"], &["KEYS", "x"], &["PUBLISH", "a", "b"]]
    {
        assert_eq!(monitor.call(keyspace), Reply::error(&format!("ERR Replica can't {verb} with the keyspace")), "{keyspace:?}");
    }
    assert_eq!(monitor.call(&["PING"]).text(), "PONG");
    assert!(monitor.call(&["NOSUCH"]).is_error());
    assert!(monitor.call(&["CLIENT", "INFO"]).text().contains(" flags=O "));
    // A second one is answered nothing.
    monitor.0.send(&[request(&["MONITOR"]), request(&["PING", "next"])].concat()).expect("it is connected");
    assert_eq!(monitor.0.receive().expect("PING is answered").text(), "next", "in their place");
    // To a server it is a replica: no pause holds it.
    let mut other = proxy.client();
    assert_eq!(other.call(&["CLIENT", "PAUSE", "60000", "WRITE"]), Reply::ok());
    assert!(monitor.call(&["SET", "a", "1"]).is_error());
    assert_eq!(other.call(&["CLIENT", "UNPAUSE"]), Reply::ok());
    // RESET leaves.
    assert_eq!(monitor.call(&["RESET"]).text(), "RESET");
    assert!(monitor.call(&["CLIENT", "INFO"]).text().contains(" flags=N "));
    assert_eq!(other.call(&["SET", "a", "1"]), Reply::ok());
    assert_eq!(monitor.call(&["GET", "a"]).text(), "1");
    // QUIT too, and there is nothing left of it.
    assert_eq!(monitor.call(&["MONITOR"]), Reply::ok());
    monitor.0.send(&request(&["QUIT"])).expect("it is connected");
    assert!(monitor.0.until_closed().expect("it is closed").ends_with(b"+OK\r\n"));
    let mut direct = cluster.any_client();
    wait_until("no node to have a monitor", || match direct.call(&["CLIENT", "LIST"]).text() {
        text if text.contains("flags=O") => Err(text),
        _ => Ok(()),
    });
    // Who may not is told so by a node.
    for member in cluster.members() {
        assert_eq!(member.client().call(&["ACL", "SETUSER", "default", "-monitor"]), Reply::ok());
    }
    let mut client = proxy.client();
    let refused = client.call(&["MONITOR"]);
    assert!(refused.text().starts_with("NOPERM"), "{refused:?}");
    assert_eq!(client.call(&["GET", "a"]).text(), "1", "it is as it was");
}

fn topology(server: Server) {
    let mut cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut monitor = Monitor::start(&proxy);
    // Lost lanes are dialled again.
    for member in cluster.members() {
        assert!(member.client().call(&["CLIENT", "KILL", "TYPE", "normal"]).integer().is_some_and(|killed| killed > 0));
    }
    wait_until_all_are_seen(&cluster, &mut monitor, "again");
    // A master that comes later is seen, too.
    cluster.add_empty_master();
    wait_until_all_are_seen(&cluster, &mut monitor, "new");
}

/// A monitor that does not read is cut off, and nobody else.
#[test]
fn a_slow_one_is_cut_off() {
    let cluster = Cluster::of_masters(Server::Valkey91);
    let mut proxy = Proxy::start_with(&cluster, &[("limits.output_buffer", "1mb")]);
    let monitor = Monitor::start(&proxy);
    let mut client = proxy.client();
    let value = "x".repeat(10_000);
    wait_until("the monitor to be cut off", || {
        (0..100).for_each(|_| assert_eq!(client.call(&["SET", "k", &value]), Reply::ok()));
        match client.call(&["CLIENT", "LIST"]).text() {
            text if text.contains("flags=O") => Err(text),
            _ => Ok(()),
        }
    });
    drop(monitor);
    proxy.assert_alive();
}

crate::on_every_server!(lines, mode, topology);
