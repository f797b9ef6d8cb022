//! Listeners that show a cluster of one node, for clients that insist on a cluster.

use std::process::Command;

use crate::harness::process::{bound_command, free_port};
use crate::harness::servers::{tool, venv};
use crate::harness::{Client, Cluster, Proxy, Reply, Server};

fn run(mut command: Command) -> String {
    let output = command.output().expect("the program is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn cluster_clients(server: Server) {
    let cluster = Cluster::of_masters(server);
    let port = free_port();
    let proxy = Proxy::start_with(&cluster, &[("proxy.cluster_listen", &format!("127.0.0.1:{port}"))]);
    let mut client = Client::connect(port);

    let nodes = client.call(&["CLUSTER", "NODES"]).text();
    assert!(
        nodes.contains(&format!(" 127.0.0.1:{port}@")) && nodes.ends_with(" myself,master - 0 0 1 connected 0-16383\n"),
        "{nodes}"
    );
    let id = client.call(&["CLUSTER", "MYID"]).text();
    assert!(id.len() == 40 && nodes.starts_with(&id));
    let slots = client.call(&["CLUSTER", "SLOTS"]);
    let [range] = slots.elements() else { panic!("{slots:?}") };
    assert_eq!(range.elements()[..2], [Reply::Integer(0), Reply::Integer(16383)]);
    assert_eq!(range.elements()[2].elements()[..3], [Reply::bulk("127.0.0.1"), Reply::Integer(port.into()), Reply::bulk(&id)]);
    assert!(client.call(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok\r\n"));
    assert_eq!(client.call(&["CLUSTER", "KEYSLOT", "foo"]), Reply::Integer(12182));
    assert_eq!(client.call(&["SET", "foo", "v"]), Reply::ok());
    assert_eq!(client.call(&["CLUSTER", "COUNTKEYSINSLOT", "12182"]), Reply::Integer(1));
    assert_eq!(client.call(&["READONLY"]), Reply::ok());
    assert!(client.call(&["CLUSTER", "RESET"]).text().starts_with("ERR proxy: "));
    let info = client.call(&["INFO"]).text();
    assert!(info.contains("cluster_enabled:1\r\n") && info.contains("_mode:cluster\r\n"), "{info}");
    let hello = format!("{:?}", client.call(&["HELLO", "3"]));
    assert!(hello.contains("\"mode\", \"cluster\""), "{hello}");
    if server != Server::Redis62 {
        let shards = client.call(&["CLUSTER", "SHARDS"]);
        assert!(format!("{shards:?}").contains("\"online\""), "{shards:?}");
    }
    // The other listener shows nothing of it.
    assert!(proxy.client().call(&["CLUSTER", "SLOTS"]).is_error());
    assert!(proxy.client().call(&["INFO"]).text().contains("cluster_enabled:0\r\n"));

    let mut cli = bound_command(&tool("redis-cli"));
    cli.args(["-c", "-p", &port.to_string(), "GET", "foo"]);
    assert_eq!(run(cli), "v\n");
    let mut check = bound_command(&tool("redis-cli"));
    check.args(["--cluster", "call", &format!("127.0.0.1:{port}"), "DBSIZE"]);
    assert!(run(check).contains("127.0.0.1"), "redis-cli --cluster finds the one node");

    client.call(&["FLUSHALL"]);
    let mut python = bound_command(&venv().join("bin/python"));
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/redis_py_cluster.py")).arg(port.to_string());
    assert_eq!(run(python), "ok\n");

    let mut node = bound_command(&tool("node"));
    node.env("NODE_PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/node/node_modules"));
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/ioredis_cluster.cjs")).arg(port.to_string());
    assert_eq!(run(node), "ok\n");
}

crate::on_every_server!(cluster_clients);
