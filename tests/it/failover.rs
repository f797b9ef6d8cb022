//! Masters die under load. Reads never fail, a write fails only when nobody can know its outcome, all else waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::cluster::{ClusterOptions, slot_of, tags_in};
use crate::harness::over::{Over, join};
use crate::harness::{Client, Cluster, PATIENCE, Proxy, Reply, Server, wait_until};

/// How the error of a write begins that was sent and not answered when its connection broke.
const OUTCOME_UNKNOWN: &[u8] = b"ERR proxy: outcome unknown";

fn outcome_unknown(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with(OUTCOME_UNKNOWN))
}

/// The slots of the three masters, and a tag in a few of each.
const PER_MASTER: u16 = 6;

fn tags() -> [Vec<String>; 3] {
    [0, 6000, 12000].map(|first| tags_in(first..first + PER_MASTER))
}

/// What the threads share: how far each got, and when to stop.
struct Load {
    port: u16,
    tags: Vec<String>,
    over: Over,
    /// Requests answered.
    answered: [AtomicU64; 6],
}

impl Load {
    fn new(port: u16) -> Load {
        Load { port, tags: tags().concat(), over: Over::default(), answered: Default::default() }
    }

    fn runs(&self) -> bool {
        !self.over.yet()
    }

    fn answered(&self, thread: usize, requests: usize) {
        self.answered[thread].fetch_add(requests as u64, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// Waits until every thread has answered many more requests: none of them hangs.
    fn wait_for_progress(&self) {
        let before: Vec<u64> = self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        wait_until("every thread to go on", || {
            let now: Vec<u64> = self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            let slowest = now.iter().zip(&before).map(|(now, before)| now - before).min().expect("there are threads");
            if slowest > 3 * self.tags.len() as u64 || !self.runs() { Ok(()) } else { Err(format!("{before:?} to {now:?}")) }
        });
    }
}

/// What one writer did with its counter of one slot.
#[derive(Clone, Copy, Default)]
struct Written {
    acknowledged: i64,
    unknown: i64,
}

impl Written {
    fn note(&mut self, reply: &Reply, what: &str) {
        match reply {
            Reply::Integer(_) => self.acknowledged += 1,
            reply if outcome_unknown(reply) => self.unknown += 1,
            other => panic!("{what}: {other:?}"),
        }
    }
}

fn fixed(tag: &str) -> [String; 2] {
    [format!("{tag}fixed"), format!("value of {tag}")]
}

fn single_reads(load: &Load, thread: usize) {
    let mut client = load.client();
    while load.runs() {
        for tag in &load.tags {
            let [key, value] = fixed(tag);
            assert_eq!(client.call(&["GET", &key]), Reply::bulk(value), "GET {key}");
        }
        load.answered(thread, load.tags.len());
    }
}

fn pipelined_reads(load: &Load, thread: usize) {
    let mut client = load.client();
    let keys: Vec<[String; 2]> = load.tags.iter().cycle().take(100).map(|tag| fixed(tag)).collect();
    let requests: Vec<Vec<&str>> = keys.iter().map(|[key, _]| vec!["GET", key]).collect();
    while load.runs() {
        for ([key, value], reply) in keys.iter().zip(client.pipeline(&requests)) {
            assert_eq!(reply, Reply::bulk(value), "GET {key}");
        }
        load.answered(thread, requests.len());
    }
}

fn split_reads(load: &Load, thread: usize) {
    let mut client = load.client();
    let keys: Vec<[String; 2]> = load.tags.iter().map(|tag| fixed(tag)).collect();
    let mget: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().map(|[key, _]| key.as_str())).collect();
    let exists: Vec<&str> = ["EXISTS"].into_iter().chain(keys.iter().map(|[key, _]| key.as_str())).collect();
    let values = Reply::Array(keys.iter().map(|[_, value]| Reply::bulk(value)).collect());
    while load.runs() {
        assert_eq!(client.call(&mget), values, "MGET over all slots");
        assert_eq!(client.call(&exists), Reply::Integer(keys.len() as i64), "EXISTS over all slots");
        load.answered(thread, load.tags.len());
    }
}

fn single_writes(load: &Load, thread: usize) -> Vec<Written> {
    let mut client = load.client();
    let mut written = vec![Written::default(); load.tags.len()];
    while load.runs() {
        for (written, tag) in written.iter_mut().zip(&load.tags) {
            written.note(&client.call(&["INCR", &format!("{tag}single")]), tag);
        }
        load.answered(thread, load.tags.len());
    }
    written
}

fn pipelined_writes(load: &Load, thread: usize) -> Vec<Written> {
    let mut client = load.client();
    let mut written = vec![Written::default(); load.tags.len()];
    let requests: Vec<Vec<String>> = load.tags.iter().map(|tag| vec!["INCR".to_owned(), format!("{tag}pipelined")]).collect();
    while load.runs() {
        for ((written, tag), reply) in written.iter_mut().zip(&load.tags).zip(client.pipeline(&requests)) {
            written.note(&reply, tag);
        }
        load.answered(thread, load.tags.len());
    }
    written
}

/// Scripts are writes to the proxy; after a failover the new master does not have them.
fn scripted_writes(load: &Load, thread: usize) -> Vec<Written> {
    let mut client = load.client();
    let mut written = vec![Written::default(); load.tags.len()];
    let sha = client.call(&["SCRIPT", "LOAD", "return redis.call('INCR',KEYS[1])"]).text();
    while load.runs() {
        for (written, tag) in written.iter_mut().zip(&load.tags) {
            written.note(&client.call(&["EVALSHA", &sha, "1", &format!("{tag}scripted")]), tag);
        }
        load.answered(thread, load.tags.len());
    }
    written
}

/// Runs all threads while `trouble` happens. Returns, for the three writers, what they wrote.
fn under_load(load: &Load, trouble: impl FnOnce()) -> [Vec<Written>; 3] {
    const READERS: [fn(&Load, usize); 3] = [single_reads, pipelined_reads, split_reads];
    const WRITERS: [fn(&Load, usize) -> Vec<Written>; 3] = [single_writes, pipelined_writes, scripted_writes];
    std::thread::scope(|threads| {
        let spawn_reader = |(thread, reader): (usize, &fn(&Load, usize))| {
            let reader = *reader;
            threads.spawn(move || {
                let _over = load.over.when_dropped();
                reader(load, thread);
            })
        };
        let readers: Vec<_> = READERS.iter().enumerate().map(spawn_reader).collect();
        let writers = WRITERS.map(|writer| {
            let thread =
                READERS.len() + WRITERS.iter().position(|other| std::ptr::fn_addr_eq(*other, writer)).expect("it is one of them");
            threads.spawn(move || {
                let _over = load.over.when_dropped();
                writer(load, thread)
            })
        });
        let over = load.over.when_dropped();
        load.wait_for_progress();
        trouble();
        load.wait_for_progress();
        drop(over);
        for reader in readers {
            join(reader);
        }
        writers.map(|writer| join(writer))
    })
}

/// Writes what is read later, and waits until the replicas have it: replication is asynchronous.
fn write_fixed(cluster: &Cluster, proxy: &Proxy) {
    let mut client = proxy.client();
    for tag in tags().concat() {
        let [key, value] = fixed(&tag);
        assert_eq!(client.call(&["SET", &key, &value]), Reply::ok());
    }
    wait_until("the replicas to have it all", || {
        for index in 0..3 {
            let [master, replica] = [index, index + 3].map(|index| cluster.member(index).client().call(&["DBSIZE"]));
            if master != replica {
                return Err(format!("master {index} has {master:?}, its replica {replica:?}"));
            }
        }
        Ok(())
    });
}

const NAMES: [&str; 3] = ["single", "pipelined", "scripted"];

/// A counter shows each acknowledged write once. Where an outcome is unknown it may be there or not, never twice. Only a
/// dead master may have lost acknowledged ones: it answers before its replica has them.
fn check_counters(proxy: &Proxy, written: &[Vec<Written>; 3], is_lossy: impl Fn(&str) -> bool) {
    let mut client = proxy.client();
    for (name, written) in NAMES.iter().zip(written) {
        for (tag, written) in tags().concat().iter().zip(written) {
            let value: i64 = client.call(&["GET", &format!("{tag}{name}")]).text().parse().expect("a counter");
            let (least, most) = (written.acknowledged, written.acknowledged + written.unknown);
            assert!(
                value <= most,
                "{tag}{name} is {value}, after {least} acknowledged and {} unknown: a write ran twice",
                written.unknown
            );
            assert!(value >= least || is_lossy(tag), "{tag}{name} is {value}, after {least} acknowledged: a write was lost");
        }
    }
}

/// A master is killed; its replica takes over.
fn replica_takes_over(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::with_failover());
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    write_fixed(&cluster, &proxy);
    let load = Load::new(proxy.port);
    let dead_slots = tags()[0].clone();
    let started = Instant::now();
    let written = under_load(&load, || {
        cluster.kill(0);
        wait_until("the replica to be master", || {
            let view = cluster.view_of(3);
            let heir = view.iter().find(|node| node.id == cluster.member(3).id).expect("it knows itself");
            if heir.is_master() && heir.owns(0) { Ok(()) } else { Err(format!("{view:?}")) }
        });
        println!("{server:?}: the replica took over after {:?}", started.elapsed());
    });
    check_counters(&proxy, &written, |tag| dead_slots.iter().any(|dead| dead == tag));
    for (name, written) in NAMES.iter().zip(&written) {
        for (tag, written) in tags().concat().iter().zip(written) {
            let on_the_dead = dead_slots.contains(tag);
            assert!(written.unknown == 0 || on_the_dead, "{tag}{name} is on a node that lived: {} unknown", written.unknown);
            assert!(written.unknown <= 1, "{tag}{name}: one kill, {} unknown outcomes", written.unknown);
        }
        let unknown: i64 = written.iter().map(|written| written.unknown).sum();
        // Only what was on its way when the connection broke; a writer that waits for each reply has one request there.
        let in_flight = if *name == "pipelined" { i64::from(PER_MASTER) } else { 1 };
        assert!(unknown <= in_flight, "{name}: {unknown} unknown outcomes of {in_flight} in flight");
    }
    // The dead one comes back as a replica, which is no event for anybody.
    cluster.restart(0);
    let mut client = proxy.client();
    cluster.wait_for_agreement();
    for tag in &load.tags {
        let [key, value] = fixed(tag);
        assert_eq!(client.call(&["GET", &key]), Reply::bulk(value));
    }
}

/// `CLUSTER FAILOVER`: master and replica change places in peace, so nothing may fail or be lost at all.
fn planned(server: Server) {
    let cluster =
        Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(10), ..ClusterOptions::with_failover() });
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    write_fixed(&cluster, &proxy);
    let load = Load::new(proxy.port);
    let written = under_load(&load, || {
        for replica in [3, 4, 0] {
            cluster.change_places(replica);
        }
    });
    let unknown: i64 = written.iter().flatten().map(|written| written.unknown).sum();
    assert_eq!(unknown, 0, "no connection broke");
    check_counters(&proxy, &written, |_| false);
}

const DEADLINE: Duration = Duration::from_secs(2);

/// A master without a replica dies: its slots fail after the deadline, all others are served as ever.
fn no_replica(server: Server) {
    let options = ClusterOptions { node_timeout: Duration::from_secs(2), full_coverage: false, ..ClusterOptions::default() };
    let mut cluster = Cluster::start(server, options);
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "2s")]);
    let mut client = proxy.client();
    for tag in tags().concat() {
        let [key, value] = fixed(&tag);
        assert_eq!(client.call(&["SET", &key, &value]), Reply::ok());
    }
    let [dead, alive, _] = tags();
    cluster.kill(0);
    let over = Over::default();
    std::thread::scope(|threads| {
        let until_here = over.when_dropped();
        let others = threads.spawn(|| {
            let mut client = proxy.client();
            let mut rounds = 0;
            while !over.yet() || rounds < 100 {
                for tag in &alive {
                    let [key, value] = fixed(tag);
                    assert_eq!(client.call(&["GET", &key]), Reply::bulk(value));
                    assert_eq!(client.call(&["SET", &format!("{tag}other"), "x"]), Reply::ok());
                }
                rounds += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // Twice: with the death just noticed, and when the cluster has long agreed on it.
        for round in 0..2 {
            let both = [format!("{}fixed", dead[0]), format!("{}fixed", alive[0])];
            for command in [vec!["GET", both[0].as_str()], vec!["SET", &both[0], "x"], vec!["MGET", &both[0], &both[1]]] {
                let asked = Instant::now();
                let reply = client.call(&command);
                let waited = asked.elapsed();
                let unknown = round == 0 && command[0] == "SET" && outcome_unknown(&reply);
                let plain = matches!(&reply, Reply::Error(text) if text.starts_with(b"ERR proxy: "));
                assert!(plain, "{command:?}: {reply:?}");
                assert!(
                    unknown || waited >= DEADLINE.mul_f32(0.9),
                    "{command:?} failed after {waited:?}, before the deadline: {reply:?}"
                );
                assert!(waited < DEADLINE + Duration::from_secs(20), "{command:?} failed only after {waited:?}");
            }
            wait_until("the others to call it failed", || {
                let view = cluster.view_of(1);
                if view.iter().any(|node| node.has("fail")) { Ok(()) } else { Err(format!("{view:?}")) }
            });
        }
        drop(until_here);
        join(others);
    });
    // It comes back, empty: its slots are served again without anybody touching the proxy.
    cluster.restart(0);
    wait_until("the slots to be served again", || match client.call(&["GET", &format!("{}fixed", dead[0])]) {
        reply if reply.is_null() => Ok(()),
        reply => Err(format!("{reply:?}")),
    });
    assert_eq!(slot_of(&dead[0]), 0);
}

/// The proxy starts before the cluster: clients wait, are told LOADING at the deadline, and are served when it comes.
fn starts_before_the_cluster(server: Server) {
    let mut cluster = Cluster::of_masters(server);
    let seeds = cluster.seeds();
    for index in 0..3 {
        cluster.kill(index);
    }
    let hasty = Proxy::launch(&seeds, &[("retry.deadline", "2s")]);
    let patient = Proxy::launch(&seeds, &[("retry.deadline", "60s")]);
    let connect = |proxy: &Proxy| wait_until("the listener", || Client::try_connect(proxy.port).ok_or_else(|| proxy.log()));
    let mut client = connect(&hasty);
    let asked = Instant::now();
    for command in [&["GET", "k"][..], &["SET", "k", "v"], &["MGET", "a", "b"], &["DBSIZE"]] {
        let reply = client.call(command);
        assert!(matches!(&reply, Reply::Error(text) if text.starts_with(b"LOADING ")), "{command:?}: {reply:?}");
    }
    assert!(asked.elapsed() >= DEADLINE.mul_f32(0.9), "{:?}", asked.elapsed());
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| {
            let mut client = connect(&patient);
            client.set_timeout(2 * PATIENCE);
            client.call(&["SET", "k", "v"])
        });
        for index in 0..3 {
            cluster.restart(index);
        }
        assert_eq!(join(waiting), Reply::ok(), "who waits is served");
    });
    wait_until("the hasty one to serve", || match client.call(&["GET", "k"]) {
        reply if reply == Reply::bulk("v") => Ok(()),
        reply => Err(format!("{reply:?}")),
    });
}

crate::on_every_server!(replica_takes_over, planned, no_replica, starts_before_the_cluster);
