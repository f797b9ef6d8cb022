//! Shard channels while their slots move: what a subscriber of a cluster itself could miss may be missed, and nothing more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::over::{Over, join};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};
use crate::reshard::{MOVED_SLOTS, migrate_slots, redis_cli_reshard};

use super::{BETWEEN_MOVES, Told, fill_slots, subscribe};

const SUBSCRIBERS: [&str; 4] = ["2", "3", "2", "3"];
const END: &str = "end";
/// From here on nothing moves any more.
const STEADY: u64 = 1_000_000;

/// Publishes until it is over, then in peace, then the end.
fn publish(port: u16, channels: &[String], over: &Over, published: &AtomicU64) {
    let mut client = Client::connect(port);
    let mut send = |channel: &str, text: &str| {
        let reply = client.call(&["SPUBLISH", channel, text]);
        assert!(matches!(reply, Reply::Integer(_)), "SPUBLISH {channel} {text}: {reply:?}");
        reply
    };
    let mut number = 0;
    while !over.yet() {
        number += 1;
        for channel in channels {
            send(channel, &number.to_string());
            published.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for number in STEADY..STEADY + 100 {
        for channel in channels {
            assert_eq!(send(channel, &number.to_string()), Reply::Integer(SUBSCRIBERS.len() as i64), "{channel} {number}");
        }
    }
    channels.iter().for_each(|channel| drop(send(channel, END)));
}

/// Reads until every channel has ended. Returns how many messages were missed while slots moved.
fn read(client: &mut Client, channels: usize) -> u64 {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let (mut ended, mut missed) = (0, 0);
    while ended < channels {
        let reply = client.receive().unwrap_or_else(|error| panic!("{error} after {last:?}"));
        let told = Told::of(&reply).unwrap_or_else(|| panic!("a subscriber was told {reply:?}"));
        let last = last.entry(told.channel.clone()).or_default();
        if told.payload == END {
            assert_eq!(*last, STEADY + 99, "{}", told.channel);
            ended += 1;
            continue;
        }
        let number: u64 = told.payload.parse().expect("a number was published");
        assert!(number > *last, "{}: {number} after {last}", told.channel);
        match number {
            STEADY => {}
            number if number > STEADY => assert_eq!(number, *last + 1, "{}: a gap in peace", told.channel),
            number => missed += number - *last - 1,
        }
        *last = number;
    }
    missed
}

/// Returns what was published, and what each subscriber missed while `trouble` happened.
fn under_load(port: u16, trouble: impl FnOnce(&Over)) -> (u64, Vec<u64>) {
    let mut tags = tags_in(0..6);
    tags.extend(tags_in(8000..8002));
    let channels: Vec<String> = tags.iter().map(|tag| format!("{tag}shard")).collect();
    let clients = SUBSCRIBERS.map(|proto| {
        let mut client = Client::connect(port);
        subscribe(&mut client, proto, "SSUBSCRIBE", &channels);
        client
    });
    let (over, published) = (Over::default(), AtomicU64::new(0));
    let missed = std::thread::scope(|threads| {
        let guard = over.when_dropped();
        let readers = clients.map(|mut client| threads.spawn(move || read(&mut client, 8)));
        let (over, published, channels) = (&over, &published, &channels);
        let publisher = threads.spawn(move || {
            let _over = over.when_dropped();
            publish(port, channels, over, published);
        });
        trouble(over);
        // What the last trouble moved has found its new place: counts are of all subscribers again, and stay so.
        let mut client = Client::connect(port);
        wait_until("all subscriptions to stand", || {
            let mut request = vec!["PUBSUB", "SHARDNUMSUB"];
            request.extend(channels.iter().map(String::as_str));
            let counts = client.call(&request);
            let counts: Vec<Option<i64>> = counts.elements().iter().skip(1).step_by(2).map(Reply::integer).collect();
            if counts.iter().all(|count| *count == Some(4)) { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        std::thread::sleep(Duration::from_millis(500));
        drop(guard);
        join(publisher);
        readers.map(join).to_vec()
    });
    (published.into_inner(), missed)
}

fn slots_move(server: Server) {
    if server == Server::Redis62 {
        return no_shard_channels(server);
    }
    let cluster = Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(30), ..ClusterOptions::default() });
    let proxy = Proxy::start(&cluster);
    fill_slots(&proxy);
    let mut moves = 0;
    let (published, missed) = under_load(proxy.port, |over| {
        let deadline = Instant::now() + Duration::from_secs(6);
        for atomic in [false, true].into_iter().cycle() {
            for (from, to) in [(0, 1), (1, 0)] {
                if over.yet() || moves >= 2 && Instant::now() > deadline {
                    return;
                }
                if atomic && server == Server::Valkey91 {
                    migrate_slots(&cluster, from, to, MOVED_SLOTS);
                } else {
                    redis_cli_reshard(&cluster, from, to, MOVED_SLOTS);
                }
                moves += 1;
                std::thread::sleep(BETWEEN_MOVES);
            }
        }
    });
    println!("{server:?}: {moves} moves of 6 of 8 channels under {published} messages; each subscriber missed {missed:?}");
    assert!(moves >= 2, "{moves} moves show nothing");
}

fn places_change(server: Server) {
    if server == Server::Redis62 {
        return no_shard_channels(server);
    }
    let cluster =
        Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(10), ..ClusterOptions::with_failover() });
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    let (published, missed) =
        under_load(proxy.port, |_| [3, 4, 0].into_iter().for_each(|replica| cluster.change_places(replica)));
    println!("{server:?}: 3 planned failovers under {published} messages; each subscriber missed {missed:?}");
}

/// Before 7.0 nobody knows them.
fn no_shard_channels(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let reply = proxy.client().call(&["SSUBSCRIBE", "c"]);
    assert_eq!(reply, Reply::error("ERR unknown command `SSUBSCRIBE`, with args beginning with: `c`, "));
}

crate::on_every_server!(slots_move, places_change);
