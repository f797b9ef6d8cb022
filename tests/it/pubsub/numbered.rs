//! Numbered messages on many channels: each subscriber is told each of them once and in order, whatever happens to slots and roles.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::over::{Over, join};
use crate::harness::{Cluster, Proxy, Reply, Server, wait_until};
use crate::reshard::{MOVED_SLOTS, migrate_slots, redis_cli_reshard};

use super::{BETWEEN_MOVES, Told, fill_slots, subscribe, wait_for_bus};

/// How each subscriber subscribes: protocol, command, and what it adds to the channels' tags.
const SUBSCRIBERS: [(&str, &str, &str); 6] = [
    ("2", "SUBSCRIBE", "news"),
    ("3", "SUBSCRIBE", "news"),
    ("3", "SUBSCRIBE", "news"),
    ("2", "PSUBSCRIBE", "new?"),
    ("3", "PSUBSCRIBE", "n*s"),
    ("3", "PSUBSCRIBE", "new?"),
];

const PUBLISHERS: usize = 2;
const END: &str = "end";

/// Which gaps are forgiven: none, or those of a time around a kill.
#[derive(Clone, Copy, PartialEq)]
enum Gaps {
    Never,
    Once,
}

struct Load {
    port: u16,
    tags: Vec<String>,
    over: Over,
    published: AtomicU64,
    gaps: Gaps,
}

impl Load {
    fn new(port: u16, gaps: Gaps) -> Load {
        let mut tags = tags_in(0..6);
        tags.extend(tags_in(8000..8002));
        tags.extend(tags_in(16000..16002));
        Load { port, tags, over: Over::default(), published: AtomicU64::new(0), gaps }
    }

    /// Publishes on every second channel, in turns, and says how often each publisher's message was not confirmed.
    fn publish(&self, me: usize) {
        let mut client = crate::harness::Client::connect(self.port);
        let channels: Vec<String> = self.tags.iter().skip(me).step_by(PUBLISHERS).map(|tag| format!("{tag}news")).collect();
        let mut number = 0u64;
        while !self.over.yet() {
            number += 1;
            for channel in &channels {
                let reply = client.call(&["PUBLISH", channel, &number.to_string()]);
                match reply {
                    // Each subscriber is subscribed to each channel in one way.
                    Reply::Integer(count) if count == SUBSCRIBERS.len() as i64 || self.gaps == Gaps::Once => {}
                    Reply::Error(ref text) if self.gaps == Gaps::Once && text.starts_with(b"ERR proxy: outcome unknown") => {}
                    other => panic!("PUBLISH {channel} {number}: {other:?}"),
                }
                self.published.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for channel in &channels {
            wait_until("the last message to be published", || match client.call(&["PUBLISH", channel, END]) {
                Reply::Integer(count) if count == SUBSCRIBERS.len() as i64 => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }

    /// Reads until every channel has ended. Returns how many messages were missed.
    fn read(&self, client: &mut crate::harness::Client, me: usize) -> u64 {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let (mut ended, mut missed) = (0, 0);
        while ended < self.tags.len() {
            let reply = client.receive().unwrap_or_else(|error| panic!("subscriber {me}: {error}, after {last:?}"));
            let told = Told::of(&reply).unwrap_or_else(|| panic!("subscriber {me} was told {reply:?}"));
            if told.payload == END {
                ended += 1;
                continue;
            }
            let number: u64 = told.payload.parse().expect("a number was published");
            let last = last.entry(told.channel.clone()).or_default();
            assert!(number > *last, "subscriber {me}, {}: {number} after {last}", told.channel);
            let gap = number - *last - 1;
            assert!(gap == 0 || self.gaps == Gaps::Once, "subscriber {me}, {}: {number} after {last}", told.channel);
            missed += gap;
            *last = number;
        }
        missed
    }
}

/// Runs publishers and subscribers while `trouble` happens. Returns what each subscriber missed.
fn under_load(load: &Load, trouble: impl FnOnce()) -> Vec<u64> {
    let clients: Vec<_> = SUBSCRIBERS
        .iter()
        .map(|(proto, command, name)| {
            let mut client = crate::harness::Client::connect(load.port);
            let names: Vec<String> = load.tags.iter().map(|tag| format!("{tag}{name}")).collect();
            subscribe(&mut client, proto, command, &names);
            client
        })
        .collect();
    std::thread::scope(|threads| {
        let over = load.over.when_dropped();
        let readers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(me, mut client)| {
                threads.spawn(move || {
                    let _over = load.over.when_dropped();
                    load.read(&mut client, me)
                })
            })
            .collect();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|me| {
                threads.spawn(move || {
                    let _over = load.over.when_dropped();
                    load.publish(me);
                })
            })
            .collect();
        trouble();
        let before = load.published.load(Ordering::Relaxed);
        wait_until("publishing to go on", || {
            let now = load.published.load(Ordering::Relaxed);
            if now > before + 500 || load.over.yet() { Ok(()) } else { Err(format!("{before} to {now}")) }
        });
        drop(over);
        publishers.into_iter().for_each(join);
        readers.into_iter().map(join).collect()
    })
}

fn slots_move(server: Server) {
    let cluster = Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(30), ..ClusterOptions::default() });
    wait_for_bus(&cluster);
    let proxy = Proxy::start(&cluster);
    fill_slots(&proxy);
    let load = Load::new(proxy.port, Gaps::Never);
    let mut moves = 0;
    let missed = under_load(&load, || {
        let deadline = Instant::now() + Duration::from_secs(8);
        for atomic in [false, true].into_iter().cycle() {
            for (from, to) in [(0, 1), (1, 0)] {
                if load.over.yet() || moves >= 2 && Instant::now() > deadline {
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
    let published = load.published.load(Ordering::Relaxed);
    println!("{server:?}: {moves} moves under {published} messages to {} subscribers, none missed", missed.len());
    assert!(moves >= 2, "{moves} moves show nothing");
}

fn places_change(server: Server) {
    let cluster =
        Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(10), ..ClusterOptions::with_failover() });
    wait_for_bus(&cluster);
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    let load = Load::new(proxy.port, Gaps::Never);
    under_load(&load, || [3, 4, 0].into_iter().for_each(|replica| cluster.change_places(replica)));
    println!("{server:?}: 3 planned failovers under {} messages, none missed", load.published.load(Ordering::Relaxed));
}

fn a_master_dies(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::with_failover());
    wait_for_bus(&cluster);
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    let load = Load::new(proxy.port, Gaps::Once);
    let missed = under_load(&load, || {
        cluster.kill(0);
        wait_until("the replica to be master", || {
            let view = cluster.view_of(3);
            let heir = view.iter().find(|node| node.id == cluster.member(3).id).expect("it knows itself");
            if heir.is_master() && heir.owns(0) { Ok(()) } else { Err(format!("{view:?}")) }
        });
    });
    let published = load.published.load(Ordering::Relaxed);
    println!("{server:?}: a kill under {published} messages; each subscriber missed {missed:?}");
}

crate::on_every_server!(slots_move, places_change, a_master_dies);
