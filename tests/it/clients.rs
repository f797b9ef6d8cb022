//! Real clients, told that there is one standalone server.

use std::collections::BTreeSet;
use std::process::Command;

use redis::Commands;

use crate::harness::process::bound_command;
use crate::harness::programs::{self, node, python};
use crate::harness::servers::tool;
use crate::harness::{Cluster, Proxy, Server, Standalone};

fn run(mut command: Command, input: &str) -> String {
    let outcome = programs::run(&mut command, input);
    outcome.printed_by_success(&format!("{command:?}"))
}

fn redis_cli(proxy: &Proxy, arguments: &[&str], input: &str) -> String {
    let mut command = bound_command(&tool("redis-cli"));
    command.args(["-p", &proxy.port.to_string()]).args(arguments);
    run(command, input)
}

fn cli(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let check =
        |arguments: &[&str], expected: &str| assert_eq!(redis_cli(&proxy, arguments, ""), expected, "redis-cli {arguments:?}");
    check(&["SET", "k", "v"], "OK\n");
    check(&["GET", "k"], "v\n");
    check(&["GET", "missing"], "\n");
    check(&["HSET", "h", "a", "1", "b", "2"], "2\n");
    check(&["-3", "HGETALL", "h"], "a 1\nb 2\n");
    check(&["-3", "--json", "HGETALL", "h"], "{\"a\":\"1\",\"b\":\"2\"}\n");
    check(&["--csv", "LRANGE", "none", "0", "-1"], "\n");
    check(&["-x", "ECHO"], "\n");
    check(&["EVAL", "return {KEYS[1],ARGV[1]}", "1", "k", "x"], "k\nx\n");
    assert_eq!(redis_cli(&proxy, &[], "SET a 1\nINCR a\nGET a\n"), "OK\n2\n2\n", "commands from standard input");

    let load: String = (0..5000).map(|n| format!("SET key:{n} {n}\r\n")).collect();
    let piped = redis_cli(&proxy, &["--pipe"], &load);
    assert!(piped.contains("errors: 0, replies: 5000"), "{piped}");
    let scanned: BTreeSet<String> = redis_cli(&proxy, &["--scan", "--pattern", "key:*"], "").lines().map(str::to_owned).collect();
    assert_eq!(scanned.len(), 5000, "--scan");
    let biggest = redis_cli(&proxy, &["--bigkeys", "-i", "0"], "");
    assert!(biggest.contains("Sampled 5003 keys in the keyspace!"), "{biggest}");
    let info = redis_cli(&proxy, &["INFO", "replication"], "");
    assert!(info.contains("role:master"), "{info}");
    // With -c a cluster's client follows redirects: there are none to follow.
    check(&["-c", "GET", "key:1234"], "1234\n");
}

/// All of redis-benchmark's own tests, with clients that wait for each reply and with such that send many at once.
fn benchmark(server: Server) {
    let cluster = Cluster::of_masters(server);
    let mut proxy = Proxy::start(&cluster);
    for more in [
        &["-P", "16"][..],
        &["-P", "1", "-c", "20", "-n", "2000"],
        &["-P", "16", "-3", "--threads", "2"],
        &["-k", "0", "-n", "500"],
    ] {
        let mut command = bound_command(&tool("redis-benchmark"));
        command.args(["-p", &proxy.port.to_string(), "-q", "-r", "10000", "-n", "10000"]).args(more);
        let printed = run(command, "");
        let complaints: Vec<&str> =
            printed.split(['\n', '\r']).filter(|line| line.contains("rror") || line.contains("WARN")).collect();
        assert!(complaints.is_empty(), "{more:?}: {complaints:?}");
        assert_eq!(printed.matches("requests per second, p50=").count(), 20, "one line a test: {printed}");
    }
    proxy.assert_alive();
}

fn redis_py(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    for version in REDIS_PY {
        for protocol in ["2", "3"] {
            let command = python(version, "redis_py.py", &[&proxy.port.to_string(), protocol]);
            assert_eq!(run(command, ""), "ok\n", "{version:?}, RESP{protocol}");
        }
    }
}

/// Versions 5, 6, and 8 of the virtual environment.
const REDIS_PY: [Option<&str>; 3] = [Some("redis5"), Some("redis6"), None];

fn node_clients(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let port = proxy.port.to_string();
    for command in [node("ioredis.cjs", &[&port]), node("node_redis.cjs", &[&port, "2"]), node("node_redis.cjs", &[&port, "3"])] {
        assert_eq!(run(command, ""), "ok\n");
    }
}

/// What a script prints is the same behind the proxy as before a standalone server.
fn alike(standalone: &Standalone, proxy: &Proxy, command: impl Fn(&str) -> Command) {
    let [expected, found] = [standalone.port(), proxy.port].map(|port| run(command(&port.to_string()), ""));
    let (mut expected, mut found) = (expected.lines(), found.lines());
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return,
            (expected, found) => assert_eq!(found, expected, "{:?}", command("PORT")),
        }
    }
}

fn redis_py_applications(server: Server) {
    let cluster = Cluster::of_masters(server);
    let (standalone, proxy) = (Standalone::start(server), Proxy::start(&cluster));
    for (version, resp) in [(Some("redis5"), "2"), (Some("redis6"), "3"), (None, "2"), (None, "3")] {
        alike(&standalone, &proxy, |port| python(version, "redis_py_app.py", &["127.0.0.1", port, resp, "{app}"]));
    }
}

fn ioredis_applications(server: Server) {
    let cluster = Cluster::of_masters(server);
    let (standalone, proxy) = (Standalone::start(server), Proxy::start(&cluster));
    alike(&standalone, &proxy, |port| node("ioredis_app.cjs", &["127.0.0.1", port, "{app}"]));
}

fn node_redis_applications(server: Server) {
    let cluster = Cluster::of_masters(server);
    let (standalone, proxy) = (Standalone::start(server), Proxy::start(&cluster));
    for resp in ["2", "3"] {
        alike(&standalone, &proxy, |port| node("node_redis_app.cjs", &["127.0.0.1", port, resp, "{app}"]));
    }
}

/// Without hash tags, and with the settings that make up for them.
fn applications_over_all_slots(server: Server) {
    let cluster = Cluster::of_masters(server);
    let standalone = Standalone::start(server);
    let proxy = Proxy::start_with(&cluster, &[("cross_slot.transactions", "per-slot"), ("cross_slot.blocking", "poll")]);
    alike(&standalone, &proxy, |port| python(None, "redis_py_app.py", &["127.0.0.1", port, "3", "app:"]));
    alike(&standalone, &proxy, |port| node("ioredis_app.cjs", &["127.0.0.1", port, "app:"]));
    alike(&standalone, &proxy, |port| node("node_redis_app.cjs", &["127.0.0.1", port, "3", "app:"]));
}

fn cli_in_a_terminal(server: Server) {
    let cluster = Cluster::of_masters(server);
    let (standalone, proxy) = (Standalone::start(server), Proxy::start(&cluster));
    alike(&standalone, &proxy, |port| python(None, "redis_cli_pty.py", &["127.0.0.1", port]));
}

fn redis_rs(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    for protocol in ["resp2", "resp3"] {
        let client =
            redis::Client::open(format!("redis://127.0.0.1:{}/?protocol={protocol}", proxy.port)).expect("a valid address");
        use_redis_rs(&mut client.get_connection().expect("the proxy listens"))
            .unwrap_or_else(|error| panic!("{protocol}: {error}"));
    }
}

fn use_redis_rs(connection: &mut redis::Connection) -> redis::RedisResult<()> {
    let () = redis::cmd("FLUSHALL").query(connection)?;
    let () = connection.set("k", "v")?;
    assert_eq!(connection.get::<_, String>("k")?, "v");
    assert_eq!(connection.get::<_, Option<String>>("missing")?, None);
    let pairs: Vec<(String, usize)> = (0..200).map(|n| (format!("key:{n}"), n)).collect();
    let () = connection.mset(&pairs)?;
    let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
    assert_eq!(connection.mget::<_, Vec<usize>>(&keys)?, (0..200).collect::<Vec<_>>());
    assert_eq!(connection.scan_match::<_, String>("key:*")?.collect::<redis::RedisResult<BTreeSet<_>>>()?.len(), 200);
    let mut pipe = redis::pipe();
    for n in 0..100 {
        pipe.cmd("INCR").arg(format!("n:{n}")).cmd("ECHO").arg(n);
    }
    let replies: Vec<usize> = pipe.query(connection)?;
    assert_eq!(replies, (0..100).flat_map(|n| [1, n]).collect::<Vec<_>>());
    let () = connection.hset_multiple("h", &[("a", 1), ("b", 2)])?;
    assert_eq!(connection.hgetall::<_, std::collections::BTreeMap<String, i64>>("h")?.len(), 2);
    let () = connection.zadd("z", "m", 1.5)?;
    assert_eq!(connection.zscore::<_, _, f64>("z", "m")?, 1.5);
    let echoed: Vec<String> = redis::cmd("EVAL").arg("return {KEYS[1],ARGV[1]}").arg(1).arg("k").arg("a").query(connection)?;
    assert_eq!(echoed, ["k", "a"]);
    let refusal = connection.lpush::<_, _, ()>("k", 1).expect_err("a list command on a string");
    assert_eq!(refusal.code(), Some("WRONGTYPE"), "{refusal}");
    assert_eq!(connection.del::<_, usize>(&keys)?, 200);
    Ok(())
}

crate::on_every_server!(cli, redis_py);
crate::on_both_kinds_of_servers!(
    benchmark,
    cli_in_a_terminal,
    node_clients,
    redis_rs,
    redis_py_applications,
    ioredis_applications,
    node_redis_applications,
    applications_over_all_slots,
);
