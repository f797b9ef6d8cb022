//! Work queues while slots move and masters change: each job is done exactly once, and whoever waits is woken wherever its slot goes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::over::{Over, join};
use crate::harness::{Client, Cluster, PATIENCE, Proxy, Reply, Server, wait_until_within};
use crate::reshard::move_lowest_slots;

/// How long the trouble lasts, unless `TEST_BLOCKING_SECONDS` says so.
const SECONDS_DEFAULT: u64 = 8;

fn duration() -> Duration {
    let seconds =
        std::env::var("TEST_BLOCKING_SECONDS").ok().map(|text| text.parse().expect("TEST_BLOCKING_SECONDS is a number"));
    Duration::from_secs(seconds.unwrap_or(SECONDS_DEFAULT))
}

/// Up to Redis 7.0 a node looks once a second for clients that wait for a slot it has lost. If the slot is back by then, it serves
/// them there: a BLMOVE between keys of which one is still on the other side then makes the other a second time.
const LET_GO: Duration = Duration::from_millis(1500);

/// The ways of handing jobs over.
const KINDS: [&str; 4] = ["popped", "moved", "group", "read"];

/// What the threads share.
struct Work {
    port: u16,
    tags: Vec<String>,
    /// Nothing more is handed in.
    closing: Over,
    /// All is done.
    over: Over,
    /// Jobs by kind and tag, each with how often it was handed in and done; an unknown outcome counts as neither.
    jobs: Mutex<BTreeMap<(usize, String, u64), Job>>,
    unknown: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Job {
    handed_in: bool,
    perhaps: bool,
    done: u32,
}

impl Work {
    fn client(&self) -> Client {
        Client::connect(self.port)
    }

    fn key(&self, kind: usize, tag: &str) -> String {
        format!("{tag}jobs:{}", KINDS[kind])
    }

    fn change(&self, kind: usize, tag: &str, number: u64, change: impl FnOnce(&mut Job)) {
        change(self.jobs.lock().expect("nobody panics with it").entry((kind, tag.to_owned(), number)).or_default());
    }

    /// Only an outcome that nobody can know is an error that a client may see.
    fn is_unknown(&self, reply: &Reply, what: &str) -> bool {
        let Reply::Error(text) = reply else { return false };
        assert!(text.starts_with(b"ERR proxy: outcome unknown"), "{what}: {reply:?}");
        self.unknown.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Hands in jobs of all kinds, here and there.
    fn produce(&self) {
        let mut client = self.client();
        for number in 0.. {
            if self.closing.yet() {
                return;
            }
            let tag = &self.tags[fastrand::usize(..self.tags.len())];
            for kind in 0..KINDS.len() {
                let (key, job) = (self.key(kind, tag), number.to_string());
                let request: &[&str] = if kind < 2 { &["RPUSH", &key, &job] } else { &["XADD", &key, "*", "job", &job] };
                self.change(kind, tag, number, |entry| entry.perhaps = true);
                let reply = client.call(request);
                if !self.is_unknown(&reply, &key) {
                    self.change(kind, tag, number, |entry| entry.handed_in = true);
                }
            }
            std::thread::sleep(Duration::from_millis(fastrand::u64(1..20)));
        }
    }

    /// Takes jobs of one kind and tag until all are done.
    fn consume(&self, kind: usize, tag: &str, ready: impl FnOnce()) {
        let mut client = self.client();
        let (key, done) = (self.key(kind, tag), format!("{tag}done:{}", KINDS[kind]));
        let mut last = "0-0".to_owned();
        if KINDS[kind] == "group" {
            let created = client.call(&["XGROUP", "CREATE", &key, "g", "0", "MKSTREAM"]);
            assert_eq!(created, Reply::ok());
        }
        ready();
        for round in 0_u64.. {
            if self.over.yet() {
                return;
            }
            // Short waits and long ones: those that end by themselves, and those that are carried along.
            let seconds = ["1", "4"][(round % 2) as usize];
            let millis = format!("{seconds}000");
            let reply = match KINDS[kind] {
                "popped" => client.call(&["BLPOP", &key, seconds]),
                "moved" => client.call(&["BLMOVE", &key, &done, "LEFT", "RIGHT", seconds]),
                "group" => client.call(&["XREADGROUP", "GROUP", "g", "c", "COUNT", "5", "BLOCK", &millis, "STREAMS", &key, ">"]),
                _ => client.call(&["XREAD", "COUNT", "5", "BLOCK", &millis, "STREAMS", &key, &last]),
            };
            if self.is_unknown(&reply, &key) || reply.is_null() {
                continue;
            }
            let did = |job: &str| self.change(kind, tag, job.parse().expect("jobs are numbers"), |entry| entry.done += 1);
            match KINDS[kind] {
                "popped" => did(&reply.elements()[1].text()),
                "moved" => did(&reply.text()),
                _ => {
                    for entry in reply.elements()[0].elements()[1].elements() {
                        let [id, fields] = entry.elements() else { panic!("{reply:?}") };
                        did(&fields.elements()[1].text());
                        last = id.text();
                        if KINDS[kind] == "group" {
                            let acked = client.call(&["XACK", &key, "g", &last]);
                            assert!(self.is_unknown(&acked, "XACK") || acked == Reply::Integer(1), "XACK: {acked:?}");
                        }
                    }
                }
            }
        }
    }
}

/// Runs producers and consumers through `trouble`. Afterwards each job has been done once, but for those on `lossy` tags.
fn under_work(proxy: &Proxy, tags: Vec<String>, trouble: impl FnOnce(), lossy: impl Fn(&str) -> bool) {
    let work = Work {
        port: proxy.port,
        tags,
        closing: Over::default(),
        over: Over::default(),
        jobs: Mutex::default(),
        unknown: AtomicU64::new(0),
    };
    let ready = AtomicU64::new(0);
    std::thread::scope(|threads| {
        let work = &work;
        let ready = &ready;
        let all: Vec<(usize, &String)> = (0..KINDS.len()).flat_map(|kind| work.tags.iter().map(move |tag| (kind, tag))).collect();
        let count = all.len() as u64;
        let consumers: Vec<_> = all
            .into_iter()
            .map(|(kind, tag)| {
                threads.spawn(move || {
                    let _over = work.over.when_dropped();
                    work.consume(kind, tag, || {
                        ready.fetch_add(1, Ordering::Relaxed);
                    });
                })
            })
            .collect();
        let over = work.over.when_dropped();
        wait_until_within(PATIENCE, "the consumers", || {
            let ready = ready.load(Ordering::Relaxed);
            if ready == count { Ok(()) } else { Err(format!("{ready} of {count}")) }
        });
        let producers: Vec<_> = (0..1).map(|_| threads.spawn(move || work.produce())).collect();
        let closing = work.closing.when_dropped();
        trouble();
        std::thread::sleep(Duration::from_secs(1));
        drop(closing);
        producers.into_iter().for_each(join);
        let unfinished = |work: &Work| {
            let jobs = work.jobs.lock().expect("nobody panics with it");
            jobs.iter().filter(|((_, tag, _), job)| job.handed_in && job.done == 0 && !lossy(tag)).count()
        };
        wait_until_within(2 * PATIENCE, "all jobs to be done", || match unfinished(work) {
            0 => Ok(()),
            left if work.over.yet() => panic!("a consumer ended with {left} jobs left"),
            left => Err(format!("{left} left")),
        });
        drop(over);
        consumers.into_iter().for_each(join);
    });
    let jobs = work.jobs.lock().expect("nobody panics with it");
    let wrong: Vec<_> =
        jobs.iter().filter(|((_, tag, _), job)| !lossy(tag) && job.done != 1 && (job.handed_in || job.done > 1)).collect();
    let wrong: Vec<_> = wrong.iter().map(|((kind, tag, number), job)| (KINDS[*kind], tag, number, job.done)).collect();
    assert!(wrong.is_empty(), "not done once: {wrong:?}");
    let unknown = work.unknown.load(Ordering::Relaxed);
    println!("{} jobs, {unknown} unknown outcomes, {} lost where a master died", jobs.len(), work_left(&jobs));
    assert!(jobs.len() > 100, "too few to show anything");
}

fn work_left(jobs: &BTreeMap<(usize, String, u64), Job>) -> usize {
    jobs.values().filter(|job| job.handed_in && job.done == 0).count()
}

/// Slots move with the queues in them.
fn queues_on_the_move(server: Server) {
    let mut cluster =
        Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(30), ..ClusterOptions::default() });
    let proxy = Proxy::start(&cluster);
    let mut tags: Vec<String> = tags_in(0..16).into_iter().step_by(4).collect();
    tags.extend(tags_in(8000..8001));
    let newcomer = cluster.add_empty_master();
    let deadline = Instant::now() + duration();
    let mut moves = 0;
    under_work(
        &proxy,
        tags,
        || {
            for round in 0.. {
                let target = if round % 2 == 0 { newcomer } else { 1 };
                let atomic = server == Server::Valkey91 && round % 4 >= 2;
                for (from, to) in [(0, target), (target, 0)] {
                    // Every way there is, at least once.
                    if Instant::now() > deadline && moves >= 6 {
                        return;
                    }
                    move_lowest_slots(&cluster, from, to, if from == newcomer { 15 } else { 16 }, atomic);
                    moves += 1;
                    if matches!(server, Server::Redis62 | Server::Redis70) {
                        std::thread::sleep(LET_GO);
                    }
                }
            }
        },
        |_| false,
    );
    println!("{server:?}: {moves} moves");
}

/// Masters and replicas change places in peace.
fn queues_change_masters(server: Server) {
    let cluster =
        Cluster::start(server, ClusterOptions { node_timeout: Duration::from_secs(10), ..ClusterOptions::with_failover() });
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    let tags = [tags_in(0..2), tags_in(8000..8001)].concat();
    let trouble = || {
        for replica in [3, 4, 0] {
            std::thread::sleep(Duration::from_secs(2));
            cluster.change_places(replica);
        }
    };
    under_work(&proxy, tags, trouble, |_| false);
}

/// A master is killed. What waits there is told that nobody knows, or waits on at its heir; other masters' queues do not notice.
fn queues_of_a_dead_master(server: Server) {
    let mut cluster = Cluster::start(server, ClusterOptions::with_failover());
    let proxy = Proxy::start_with(&cluster, &[("retry.deadline", "45s")]);
    let dead = tags_in(0..2);
    let tags = [dead.clone(), tags_in(8000..8002)].concat();
    let mut client = proxy.client();
    let trouble = || {
        std::thread::sleep(Duration::from_secs(2));
        cluster.kill(0);
        wait_until_within(PATIENCE, "the replica to be master", || {
            let view = cluster.view_of(3);
            let heir = view.iter().find(|node| node.id == cluster.member(3).id).expect("it knows itself");
            if heir.is_master() && heir.owns(0) { Ok(()) } else { Err(format!("{view:?}")) }
        });
        // The queues of the dead are served by its heir.
        let key = format!("{}after", dead[0]);
        assert_eq!(client.call(&["RPUSH", &key, "x"]), Reply::Integer(1));
        assert_eq!(client.call(&["BLPOP", &key, "0"]).elements().len(), 2);
        std::thread::sleep(Duration::from_secs(3));
    };
    // A dead master may have lost what it had acknowledged: it answers before its replica has it.
    under_work(&proxy, tags, trouble, |tag| tags_in(0..2).iter().any(|dead| dead == tag));
}

crate::on_every_server!(queues_on_the_move, queues_change_masters, queues_of_a_dead_master);
