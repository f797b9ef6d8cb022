//! Functions: a library is wherever a slot may be.

use crate::harness::cluster::tags_in;
use crate::harness::{Cluster, Proxy, Reply, Server, wait_until};
use crate::reshard::move_lowest_slots;

const LIBRARY: &str =
    "#!lua name=lib\nredis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)";

/// A master joins a cluster whose functions it does not have, and gets a slot from a tool that knows nothing of functions.
fn reach_a_newcomer(server: Server) {
    let mut cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &[("cluster.refresh_interval", "500ms")]);
    let mut client = proxy.client();
    assert_eq!(client.call(&["FUNCTION", "LOAD", LIBRARY]).text(), "lib");

    let newcomer = cluster.add_empty_master();
    wait_until("the proxy to know the newcomer", || {
        let info = proxy.admin().call(&["PROXY", "INFO"]).text();
        if info.contains("nodes:4") { Ok(()) } else { Err(info) }
    });
    move_lowest_slots(&cluster, 0, newcomer, 1, false);
    let key = format!("{}k", tags_in(0..1)[0]);
    assert_eq!(client.call(&["FCALL", "put", "1", &key, "v"]), Reply::ok());
    assert_eq!(cluster.member(newcomer).client().call(&["GET", &key]), Reply::bulk("v"), "it ran at the newcomer");

    // What is loaded while the newcomer is there reaches it as all others; what it has is not loaded twice.
    let again = LIBRARY.replace("lib", "other").replace("put", "store");
    assert_eq!(client.call(&["FUNCTION", "LOAD", &again]).text(), "other");
    assert_eq!(client.call(&["FCALL", "store", "1", &key, "w"]), Reply::ok());
    assert!(!proxy.log().contains("may lack functions"), "{}", proxy.log());
}

#[test]
fn redis_7_0() {
    reach_a_newcomer(Server::Redis70);
}

#[test]
fn redis_8_2() {
    reach_a_newcomer(Server::Redis82);
}

#[test]
fn valkey_9_1() {
    reach_a_newcomer(Server::Valkey91);
}
