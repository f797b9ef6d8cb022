//! Keyspace notifications, which each node tells of its own keys only: through the proxy all are told, once each.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::cluster::ClusterOptions;
use crate::harness::over::join;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};
use crate::reshard::{MOVED_SLOTS, redis_cli_reshard};

use super::{Told, subscribe};

const LAST: &str = "the-last-key";

/// How each listener listens, and how often it is told of one SET.
const LISTENERS: [(&str, &str, &str, usize); 5] = [
    ("2", "SUBSCRIBE", "__keyevent@0__:set", 1),
    ("3", "PSUBSCRIBE", "__keyevent@0__:*", 1),
    ("2", "PSUBSCRIBE", "__keyspace@0__:*", 1),
    ("3", "PSUBSCRIBE", "__key*", 2),
    ("3", "PSUBSCRIBE", "*", 2),
];

fn options(options: ClusterOptions) -> ClusterOptions {
    let arguments = ["--notify-keyspace-events", "KEA"].map(str::to_owned).to_vec();
    ClusterOptions { arguments, ..options }
}

/// The key that a notification tells was set; nothing for other events (those of keys that move) and other messages.
fn set_key(told: &Told) -> Option<String> {
    match told.channel.split_once("__:") {
        Some(("__keyevent@0", "set")) => Some(told.payload.clone()),
        Some(("__keyspace@0", key)) if told.payload == "set" => Some(key.to_owned()),
        _ => None,
    }
}

/// Reads until it was told of the last key. Returns how often each key was told of, and what was published besides.
fn listen(client: &mut Client, times: usize) -> (BTreeMap<String, usize>, Vec<String>) {
    let (mut keys, mut published) = (BTreeMap::new(), Vec::new());
    while keys.get(LAST).is_none_or(|told| *told < times) {
        let reply = client.receive().unwrap_or_else(|error| panic!("{error} after {} keys", keys.len()));
        let told = Told::of(&reply).unwrap_or_else(|| panic!("a listener was told {reply:?}"));
        if told.channel == "news" {
            published.push(told.payload.clone());
        }
        if let Some(key) = set_key(&told) {
            *keys.entry(key).or_default() += 1;
        }
    }
    (keys, published)
}

/// Whether what is published arrives in the order in which it was published.
#[derive(PartialEq, Eq)]
enum Order {
    Kept,
    /// Two nodes that publish one behind the other reach a third one over connections of their own.
    OfEachMaster,
}

/// Writes and publishes while `trouble` happens. Returns for each listener which keys it was told of too seldom or too often.
fn under_load(proxy: &Proxy, order: Order, trouble: impl FnOnce()) -> Vec<Vec<(String, usize)>> {
    let clients = LISTENERS.map(|(proto, command, name, times)| {
        let mut client = proxy.client();
        subscribe(&mut client, proto, command, &[name.to_owned()]);
        (client, times)
    });
    let over = crate::harness::over::Over::default();
    let (written, told) = std::thread::scope(|threads| {
        let guard = over.when_dropped();
        let listeners = clients.map(|(mut client, times)| threads.spawn(move || listen(&mut client, times)));
        let writer = threads.spawn(|| {
            let _over = over.when_dropped();
            let mut client = proxy.client();
            let mut written = 0_u64;
            while !over.yet() || written < 2000 {
                let reply = client.call(&["SET", &format!("key:{written}"), "v"]);
                assert_eq!(reply, Reply::ok(), "SET key:{written}");
                if written.is_multiple_of(10) {
                    // The listener to everything.
                    assert_eq!(client.call(&["PUBLISH", "news", &(written / 10).to_string()]), Reply::Integer(1));
                }
                written += 1;
                std::thread::sleep(Duration::from_micros(500));
            }
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(client.call(&["SET", LAST, "v"]), Reply::ok());
            written
        });
        trouble();
        drop(guard);
        (join(writer), listeners.map(join))
    });
    let expected: Vec<u64> = (0..=(written - 1) / 10).collect();
    let mut published: Vec<u64> = told[4].1.iter().map(|number| number.parse().expect("it was a number")).collect();
    if order == Order::OfEachMaster {
        published.sort_unstable();
    }
    assert_eq!(published, expected, "what is published is told once, and in order");
    let wrong = LISTENERS.iter().zip(&told).map(|((.., times), (keys, _))| {
        let keys = (0..written).map(|number| format!("key:{number}")).map(|key| (keys.get(&key).copied().unwrap_or(0), key));
        keys.filter(|(told, _)| told != times).map(|(told, key)| (key, told)).collect()
    });
    println!("{written} keys written");
    wrong.collect()
}

/// A master comes, and slots move to it and back.
fn a_master_comes(server: Server) {
    let mut cluster =
        Cluster::start(server, options(ClusterOptions { node_timeout: Duration::from_secs(30), ..ClusterOptions::default() }));
    let proxy = Proxy::start_with(&cluster, &[("cluster.refresh_interval", "500ms")]);
    let wrong = under_load(&proxy, Order::Kept, || {
        let newcomer = cluster.add_empty_master();
        wait_until("the proxy to know the newcomer", || {
            let info = proxy.admin().call(&["PROXY", "INFO"]).text();
            if info.contains("nodes:4") { Ok(()) } else { Err(info) }
        });
        std::thread::sleep(Duration::from_millis(300));
        redis_cli_reshard(&cluster, 0, newcomer, MOVED_SLOTS * 20);
        redis_cli_reshard(&cluster, 1, newcomer, MOVED_SLOTS * 20);
        redis_cli_reshard(&cluster, newcomer, 0, MOVED_SLOTS * 30);
    });
    assert!(wrong.iter().all(Vec::is_empty), "told too seldom or too often: {wrong:?}");
}

/// Master and replica change places: nothing is told twice, and little is missed around the change.
fn places_change(server: Server) {
    let cluster = Cluster::start(
        server,
        options(ClusterOptions { node_timeout: Duration::from_secs(10), ..ClusterOptions::with_failover() }),
    );
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    let wrong =
        under_load(&proxy, Order::OfEachMaster, || [3, 4, 0].into_iter().for_each(|replica| cluster.change_places(replica)));
    let often = wrong.iter().zip(LISTENERS).flat_map(|(keys, (.., times))| keys.iter().filter(move |(_, told)| *told > times));
    let missed: Vec<usize> = wrong.iter().map(Vec::len).collect();
    println!("{server:?}: 3 planned failovers; each listener missed {missed:?}");
    assert_eq!(often.collect::<Vec<_>>(), Vec::<&(String, usize)>::new(), "told twice");
}

crate::on_every_server!(a_master_comes, places_change);
