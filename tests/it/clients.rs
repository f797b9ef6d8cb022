//! Real clients, told that there is one standalone server.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use redis::Commands;

use crate::harness::process::bound_command;
use crate::harness::servers::{tool, venv};
use crate::harness::{Cluster, Proxy, Server};

/// Runs a program to its end and returns what it printed; anything but success is a panic with all of it.
fn run(mut command: Command, input: &str) -> String {
    use std::io::Write;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program is installed");
    // It may end without reading all of it, which its exit code then tells.
    let _ = child.stdin.take().expect("it was asked for").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("a child of ours can be waited for");
    let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{printed}\n{complaint}", output.status);
    printed.into_owned()
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name).display().to_string()
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

fn benchmark(server: Server) {
    let cluster = Cluster::of_masters(server);
    let mut proxy = Proxy::start(&cluster);
    for more in [&["-P", "16"][..], &["-P", "1", "-c", "20", "-n", "4000"], &["-P", "16", "-3"]] {
        let mut command = bound_command(&tool("redis-benchmark"));
        command.args(["-p", &proxy.port.to_string(), "-q", "-r", "10000", "-n", "20000"]);
        command.args(["-t", "ping,set,get,incr,lpush,rpush,lpop,sadd,hset,spop,zadd,lrange_100,mset"]).args(more);
        let printed = run(command, "");
        let complaints: Vec<&str> =
            printed.split(['\n', '\r']).filter(|line| line.contains("rror") || line.contains("WARN")).collect();
        assert!(complaints.is_empty(), "{complaints:?}");
        assert_eq!(printed.matches("requests per second, p50=").count(), 15, "one line a test: {printed}");
    }
    proxy.assert_alive();
}

fn redis_py(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    for protocol in ["2", "3"] {
        let mut command = bound_command(&venv().join("bin/python"));
        command.args([&script("redis_py.py"), &proxy.port.to_string(), protocol]);
        assert_eq!(run(command, ""), "ok\n", "RESP{protocol}");
    }
}

fn node(proxy: &Proxy, name: &str, more: &[&str]) {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.tools/node/node_modules");
    assert!(modules.is_dir(), "{} is missing: run `tests/run.sh install`", modules.display());
    let mut command = bound_command(&tool("node"));
    command.env("NODE_PATH", modules).args([&script(name), &proxy.port.to_string()]).args(more);
    assert_eq!(run(command, ""), "ok\n", "{name} {more:?}");
}

fn node_clients(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    node(&proxy, "ioredis.cjs", &[]);
    node(&proxy, "node_redis.cjs", &["2"]);
    node(&proxy, "node_redis.cjs", &["3"]);
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

crate::on_every_server!(cli, benchmark, redis_py, node_clients, redis_rs);
