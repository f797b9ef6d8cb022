//! The whole task against nodes made of a listener and a text, on real sockets and in real time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use redis_protocol::codec::Resp2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::codec::{Decoder, Encoder};

use crate::cluster::{Slot, SlotMap};
use crate::control::Reply;
use crate::topology::{RefreshCause, TopologyConfig, TopologyHandle, start};

/// Longer than anything here takes, on a machine that is busy with something else.
const LONG: Duration = Duration::from_secs(20);

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// A node that knows two commands.
struct FakeNode {
    port: u16,
    /// Its reply to `CLUSTER NODES`.
    nodes: Mutex<String>,
    answers_after: Mutex<Duration>,
    silent: AtomicBool,
    /// How often it was asked for its view.
    asked: AtomicUsize,
}

impl FakeNode {
    async fn start() -> Arc<FakeNode> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let node = Arc::new(FakeNode {
            port: listener.local_addr().expect("a bound socket").port(),
            nodes: Mutex::default(),
            answers_after: Mutex::default(),
            silent: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
        });
        let serving = node.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        node
    }

    async fn serve(self: Arc<FakeNode>, mut stream: TcpStream) {
        let mut received = BytesMut::new();
        loop {
            while let Ok(Some(Reply::Array(words))) = Resp2::default().decode(&mut received) {
                let mut reply = BytesMut::new();
                let answer = self.answer(&words[0]).await;
                Resp2::default().encode(answer, &mut reply).expect("room for a reply");
                let _ = stream.write_all(&reply).await;
            }
            if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
                return;
            }
        }
    }

    async fn answer(&self, command: &Reply) -> Reply {
        if self.silent.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        if *command == Reply::BulkString("HELLO".into()) {
            let fields = ["server", "valkey", "version", "9.1.2"].map(|field| Reply::BulkString(field.into()));
            return Reply::Array(fields.to_vec());
        }
        self.asked.fetch_add(1, SeqCst);
        let (wait, text) = (*self.answers_after.lock().expect("no panic"), self.nodes.lock().expect("no panic").clone());
        sleep(wait).await;
        Reply::BulkString(text.into())
    }

    fn says(&self, lines: &[(&str, &FakeNode, u64, &str)]) {
        let lines = lines.iter().map(|(id, node, epoch, slots)| {
            let me = if node.port == self.port { "myself," } else { "" };
            format!("{id} 127.0.0.1:{}@1 {me}master - 0 0 {epoch} connected {slots}\n", node.port)
        });
        *self.nodes.lock().expect("no panic") = lines.collect();
    }
}

/// Runs a test with three masters, each with a third of the slots.
fn with_cluster<T: Future<Output = ()>>(test: impl FnOnce([Arc<FakeNode>; 3]) -> T) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let nodes = [FakeNode::start().await, FakeNode::start().await, FakeNode::start().await];
        let [a, b, c] = &nodes;
        for node in &nodes {
            node.says(&[("a", a, 1, "0-5460"), ("b", b, 2, "5461-10922"), ("c", c, 3, "10923-16383")]);
        }
        timeout(LONG, test(nodes)).await.expect("it ends");
    });
}

/// A task that asks only when it is told to.
async fn started(seeds: &[&FakeNode]) -> TopologyHandle {
    let seeds = seeds.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let handle = start(TopologyConfig { seeds, refresh_interval: LONG, ..TopologyConfig::default() }, now_us);
    confirmed(&handle).await;
    while handle.stats().refreshes == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    handle
}

async fn confirmed(handle: &TopologyHandle) -> Arc<SlotMap> {
    handle.confirmed_since(now_us()).await.expect("the task runs")
}

/// Waits until nothing is asked any more: longer than the longest wait between refreshes.
async fn calm(handle: &TopologyHandle) -> u64 {
    loop {
        let before = handle.stats().refreshes;
        sleep(Duration::from_millis(400)).await;
        if handle.stats().refreshes == before {
            return before;
        }
    }
}

#[test]
fn one_seed_that_answers_is_enough() {
    with_cluster(async |[a, b, c]| {
        b.silent.store(true, SeqCst);
        let closed =
            FakeNode { port: 1, nodes: Mutex::default(), answers_after: Mutex::default(), silent: false.into(), asked: 0.into() };
        let handle = started(&[&closed, &b, &c]).await;
        let map = handle.current().expect("a map");
        assert_eq!((map.covered(), map.served(), map.masters().count()), (16384, 16384, 3));
        assert_eq!((map.persona.server.as_str(), map.persona.version.as_str()), ("valkey", "9.1.2"));
        assert!(map.nodes.iter().all(|node| node.cursor_has_slot));
        assert_eq!(map.find_addr(&format!("127.0.0.1:{}", a.port)), map.find_id("a"));
    });
}

#[test]
fn a_map_that_says_nothing_new_keeps_its_version() {
    with_cluster(async |[a, ..]| {
        let handle = started(&[&a]).await;
        let first = confirmed(&handle).await;
        let second = confirmed(&handle).await;
        assert_eq!(first.version, second.version);
        assert!(first.asked_at_us < second.asked_at_us);
    });
}

#[test]
fn hints_cause_one_refresh_and_one_more_while_it_runs() {
    with_cluster(async |[a, ..]| {
        let handle = started(&[&a]).await;
        let before = calm(&handle).await;
        *a.answers_after.lock().expect("no panic") = Duration::from_millis(60);
        for _ in 0..1000 {
            handle.hint(RefreshCause::Moved);
        }
        while handle.stats().refreshes == before {
            sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..1000 {
            handle.hint(RefreshCause::LaneLost);
        }
        assert_eq!(calm(&handle).await, before + 2);
    });
}

#[test]
fn a_slow_master_does_not_hold_up_the_news() {
    with_cluster(async |[a, b, c]| {
        let handle = started(&[&a]).await;
        calm(&handle).await;
        b.silent.store(true, SeqCst);
        a.says(&[("a", &a, 4, "0-5461"), ("b", &b, 2, "5462-10922"), ("c", &c, 3, "10923-16383")]);
        let asked_at = std::time::Instant::now();
        let map = confirmed(&handle).await;
        assert_eq!(map.owner(Slot::new(5461).expect("a slot")), map.find_id("a"));
        assert!(asked_at.elapsed() < Duration::from_millis(900), "it waited for b: {:?}", asked_at.elapsed());
    });
}

#[test]
fn another_cluster_is_refused() {
    with_cluster(async |[a, b, c]| {
        let handle = started(&[&a]).await;
        let before = confirmed(&handle).await;
        for node in [&a, &b, &c] {
            node.says(&[("x", &a, 9, "0-16383"), ("y", &b, 8, ""), ("z", &c, 7, "")]);
        }
        handle.hint(RefreshCause::Asked);
        while handle.stats().refusals < 6 {
            sleep(Duration::from_millis(5)).await;
        }
        let after = handle.current().expect("a map");
        assert_eq!((after.version, after.asked_at_us), (before.version, before.asked_at_us));
        assert!(after.find_id("a").is_some() && after.find_id("x").is_none());
    });
}

#[test]
fn lost_slots_need_a_majority() {
    with_cluster(async |[a, b, c]| {
        let handle = started(&[&a]).await;
        calm(&handle).await;
        let lost = [("a", &*a, 1, "0-5460"), ("b", &*b, 2, ""), ("c", &*c, 3, "10923-16383")];
        // b and c keep their peace, so that a is the only one to speak.
        b.silent.store(true, SeqCst);
        c.silent.store(true, SeqCst);
        a.says(&lost);
        handle.hint(RefreshCause::Moved);
        while handle.stats().refusals < 2 {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(handle.current().expect("a map").covered(), 16384);
        // Its connections hang, but a new one is answered: two of three now say the same.
        c.silent.store(false, SeqCst);
        c.says(&lost);
        while handle.current().is_none_or(|map| map.covered() == 16384) {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(handle.current().expect("a map").covered(), 10922);
    });
}

#[test]
fn seeds_are_asked_when_no_master_answers() {
    with_cluster(async |[a, b, c]| {
        let seed = FakeNode::start().await;
        let masters = [("a", &*a, 1, "0-5460"), ("b", &*b, 2, "5461-10922"), ("c", &*c, 3, "10923-16383")];
        // The masters do not know the seed, so that it is in no later map and is asked only as a seed.
        seed.says(&masters);
        seed.nodes.lock().expect("no panic").push_str(&format!("s 127.0.0.1:{}@1 myself,slave a 0 0 1 connected\n", seed.port));
        let handle = started(&[&seed]).await;
        confirmed(&handle).await;
        let asked = seed.asked.load(SeqCst);
        for node in [&a, &b, &c] {
            node.silent.store(true, SeqCst);
        }
        let map = confirmed(&handle).await;
        assert!(map.find_id("s").is_some() && seed.asked.load(SeqCst) > asked);
    });
}

#[test]
fn the_task_ends_with_its_last_handle() {
    with_cluster(async |[a, ..]| {
        let handle = started(&[&a]).await;
        let (maps, asked) = (handle.maps(), handle.stats().refreshes);
        drop(handle);
        assert!(asked > 0 && maps.has_changed().is_ok());
        drop(maps);
        // Its connections close with it.
        while Arc::strong_count(&a) > 2 {
            sleep(Duration::from_millis(1)).await;
        }
    });
}
