//! What makes a client sure that it talks to a standalone server, where no line of a transcript can show it: bytes that
//! are no command, connections that close, INFO, the command table, the whole keyspace, scripts, and other clients.

mod info;
mod keyspace;
mod others;
mod wire;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::harness::{Client, Cluster, Proxy, Reply, Server, Standalone};

/// One cluster with the proxy before it, and the standalone server it must look like.
struct Scene {
    server: Server,
    cluster: Cluster,
    proxy: Proxy,
    standalone: Standalone,
}

type Phase = (&'static str, fn(&Scene));

const PHASES: &[Phase] = &[
    ("bytes that are no request, and closing", wire::bytes_and_closing),
    ("requests cut at every byte", wire::cut_at_every_byte),
    ("a pipeline of ten thousand over all nodes", wire::deep_pipeline),
    ("INFO is one standalone server's", info::info),
    ("INFO's keyspace counts every node", info::info_keyspace),
    ("the command table is the server's, less what is refused", info::command_table),
    ("keys of all nodes are one keyspace", keyspace::keyspace),
    ("SCAN walks everything with any COUNT, MATCH and TYPE", keyspace::scan),
    ("RANDOMKEY comes from every node", keyspace::random_key),
    ("keys of several slots in a command for one", keyspace::cross_slot),
    ("clients know themselves and each other", others::clients),
    ("scripts run where they were never loaded", others::scripts),
    ("logs of all nodes are one", info::slow_log),
    ("the admin port answers", info::admin),
];

fn persona(server: Server) {
    let cluster = Cluster::of_masters(server);
    let scene = Scene { server, proxy: Proxy::start(&cluster), cluster, standalone: Standalone::start(server) };
    let mut failed = Vec::new();
    for (name, phase) in PHASES {
        println!("{server:?}: {name}");
        scene.proxy.client().call(&["FLUSHALL"]);
        scene.standalone.client().call(&["FLUSHALL"]);
        if catch_unwind(AssertUnwindSafe(|| phase(&scene))).is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "{server:?}: {failed:?}");
}

/// Writes `count` keys named `prefix:n` with a few types, and returns their names.
fn write_keys(client: &mut Client, prefix: &str, count: usize) -> BTreeSet<String> {
    let names: BTreeSet<String> = (0..count).map(|n| format!("{prefix}:{n}")).collect();
    let command = |(n, name): (usize, &String)| match n % 4 {
        0 => vec!["SADD".to_owned(), name.clone(), "member".to_owned()],
        1 => vec!["HSET".to_owned(), name.clone(), "field".to_owned(), "value".to_owned()],
        _ => vec!["SET".to_owned(), name.clone(), "value".to_owned()],
    };
    let commands: Vec<Vec<String>> = names.iter().enumerate().map(command).collect();
    assert!(client.pipeline(&commands).iter().all(|reply| !reply.is_error()));
    names
}

fn texts(reply: &Reply) -> BTreeSet<String> {
    reply.elements().iter().map(Reply::text).collect()
}

use others::commands_of_the_server;

crate::on_every_server!(persona, commands_of_the_server);
