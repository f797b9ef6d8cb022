//! The record of plans, as drivers read and write it: nothing that was told is lost with a driver, and no reply that was.

use std::collections::BTreeMap;
use std::time::Duration;

use keyway::migrate::SlotSet;
use keyway::migrate::machine::Order;
use keyway::migrate::pace::Throttle;
use keyway::migrate::plan::BatchKind;
use keyway::migrate::record::{
    Claimed, Entry, Heard, Keeper, Lease, LogLine, Mode, NoRecord, Place, Plan, PlanBatch, Progress, Store, Taken, Timing, Told,
    Written,
};

use crate::harness::cluster::slot_of;
use crate::harness::{Client, Cluster, PATIENCE, Server};
use crate::migrate_execute::mover::connect;

fn plan(cluster: &Cluster, id: &str) -> Plan {
    let [source, target] = [0, 1].map(|index| cluster.member(index).id.clone());
    let slots = SlotSet::parse("5-6").expect("slots");
    let batch = PlanBatch { kind: BatchKind::Ordinary, source, target, mode: Mode::Classic, slots, keys: 1, bytes: 1 };
    Plan {
        id: id.into(),
        asked: "MOVE".into(),
        drafted_ms: 1,
        batches: vec![batch],
        eta_s: 1,
        observe_s: 0,
        emptied: Vec::new(),
        shards: BTreeMap::new(),
    }
}

/// A plan's key of one kind, and a connection to whoever has it.
fn key(cluster: &Cluster, place: &Place, kind: &str) -> (String, Client) {
    let key = format!("{{keyway:{}}}:{kind}:{}", place.tag, place.id);
    let view = cluster.view();
    let owner = view.iter().find(|node| node.owns(slot_of(&key))).expect("all slots are served");
    (key, Client::connect(owner.port))
}

async fn taken(store: &mut Store, place: &Place) -> Lease {
    match store.take(place).await.expect("the record is there") {
        Taken::Ours(lease) => lease,
        Taken::Held(holder) => panic!("it is held by {holder}"),
    }
}

/// What the keeper hands on, once it has written twice.
async fn told(keeper: &mut Keeper, obeyed: usize) -> Vec<Told> {
    keeper.write(&Progress::drafted(), Vec::new(), obeyed).await;
    keeper.write(&Progress::drafted(), Vec::new(), 0).await;
    assert_eq!(keeper.lost(), None);
    std::iter::from_fn(|| keeper.orders.try_recv().ok()).map(|heard| heard.told).collect()
}

async fn orders(store: &mut Store, place: &Place) -> usize {
    store.load(place).await.expect("it can be read").expect("it is known").orders
}

/// An order waits in the record until it was obeyed, and one that nobody understands stops nobody.
async fn orders_outlive_drivers(cluster: &Cluster, mut store: Store, another: impl Fn() -> Store) {
    let place = store.draft(&plan(cluster, "aaaaaaaa")).await.expect("it is written");
    let (pause, slower) = (Told::Order(Order::Pause), Told::Throttle(Throttle { keys: 7, ..Throttle::default() }));
    store.tell(&place, &Heard::new(pause.clone())).await.expect("it is told");
    let (key, mut client) = key(cluster, &place, "orders");
    client.call(&["RPUSH", &key, "{\"later\":1}"]);
    store.tell(&place, &Heard::new(slower.clone())).await.expect("it is told");
    let strange = Told::Unknown("{\\\"later\\\":1}".into());
    let lease = taken(&mut store, &place).await;
    let mut keeper = Keeper::start(another(), place.clone(), lease, 1, Progress::drafted());
    assert_eq!(told(&mut keeper, 0).await, [pause, strange.clone(), slower.clone()]);
    assert_eq!(told(&mut keeper, 0).await, [], "they are handed on once");
    assert_eq!(orders(&mut store, &place).await, 3, "none was obeyed");
    assert_eq!(told(&mut keeper, 1).await, []);
    assert_eq!(orders(&mut store, &place).await, 2);
    // This driver ends, and the next one is told what is left.
    drop(keeper);
    let version = loop {
        let loaded = store.load(&place).await.expect("it can be read").expect("it is known");
        if loaded.lease.is_none() {
            break loaded.version;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let lease = taken(&mut store, &place).await;
    let mut keeper = Keeper::start(another(), place.clone(), lease, version, Progress::drafted());
    assert_eq!(told(&mut keeper, 0).await, [strange, slower]);
    assert_eq!(told(&mut keeper, 2).await, []);
    assert_eq!(orders(&mut store, &place).await, 0);
}

/// A write whose reply was lost is followed by one that says more, and may itself come once more, late.
async fn replies_get_lost(cluster: &Cluster, mut store: Store) {
    let place = store.draft(&plan(cluster, "bbbbbbbb")).await.expect("it is written");
    let lease = taken(&mut store, &place).await;
    let first = Progress { keys_moved: 1, ..Progress::drafted() };
    let second = Progress { keys_moved: 2, ..Progress::drafted() };
    let lines = ["one", "two"].map(str::to_owned);
    let entry = |progress, version, count: usize| Entry { progress, version, obeyed: 0, lines: &lines[..count] };
    let is_done = |written: Result<Written, NoRecord>| matches!(written.expect("it is reached"), Written::Done(_));
    assert!(is_done(store.write(&place, &mut lease.clone(), entry(&first, 2, 1)).await));
    assert!(is_done(store.write(&place, &mut lease.clone(), entry(&second, 3, 2)).await), "as if there had been no reply");
    assert!(!is_done(store.write(&place, &mut lease.clone(), entry(&first, 2, 1)).await), "too late");
    let loaded = store.load(&place).await.expect("it can be read").expect("it is known");
    assert_eq!((loaded.version, loaded.progress.keys_moved), (3, 2));
    let log: Vec<String> = store.log(&place, 10).await.expect("a log").into_iter().map(|LogLine { text, .. }| text).collect();
    assert_eq!(log, lines);
    let mut lease = lease;
    assert_eq!(store.renew(&place, &mut lease).await, Ok(true));
    store.release(&place, &lease).await.expect("it is reached");
    assert_eq!(store.renew(&place, &mut lease).await, Ok(false), "it was given back");
}

/// Whoever is about to hold slots is as good as one that does; and what cannot be read hides nothing else.
async fn one_holds_slots(cluster: &Cluster, mut store: Store) {
    let mut place = Vec::new();
    for id in ["cccccccc", "dddddddd", "00000000"] {
        place.push(store.draft(&plan(cluster, id)).await.expect("it is written"));
    }
    let lease = taken(&mut store, &place[0]).await;
    assert_eq!(store.claim("cccccccc").await, Ok(None));
    let claimed = Claimed { plan: "cccccccc".into(), state: "about to move slots" };
    assert_eq!(store.claim("dddddddd").await, Ok(Some(claimed)), "its state does not say so yet");
    store.release(&place[0], &lease).await.expect("it is reached");
    assert_eq!(store.claim("dddddddd").await, Ok(None), "it came to nothing");
    store.unclaim("cccccccc").await.expect("it is reached");
    assert_eq!(store.index().await.expect("an index").active.as_deref(), Some("dddddddd"), "only one's own");
    let (key, mut client) = key(cluster, &place[2], "plan");
    client.call(&["HSET", &key, "progress", "from another world"]);
    assert!(matches!(store.find("00000000").await, Err(NoRecord::Damaged { .. })));
    let all = store.all().await.expect("the others");
    let ids: Vec<&str> = all.iter().map(|loaded| loaded.plan.id.as_str()).collect();
    assert!(ids.contains(&"cccccccc") && ids.contains(&"dddddddd") && !ids.contains(&"00000000"), "{ids:?}");
}

#[test]
fn records() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let (runtime, topology, dialer, _) = connect(&cluster, None);
    let store = || Store::new(topology.clone(), dialer.clone(), Timing { lease: PATIENCE }, "test".into());
    runtime.block_on(async {
        orders_outlive_drivers(&cluster, store(), store).await;
        replies_get_lost(&cluster, store()).await;
        one_holds_slots(&cluster, store()).await;
    });
}
