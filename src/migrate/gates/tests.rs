use crate::cluster::{Addr, NodesView};
use crate::migrate::inventory::{Fields, NodeReport, Told};
use crate::migrate::plan::BatchKind;
use crate::migrate::preflight::tests::{IDS, told};
use crate::migrate::record::tests::{batch, plan};

use super::*;

/// The gates that are closed while slots 5 and 6 move from the first of three nodes to the second, after `change`.
fn closed(change: impl Fn(&mut [Told; 3], &mut Glance)) -> Vec<String> {
    let mut all = [told(0), told(1), told(2)];
    let mut glance = Glance::default();
    glance.latency.insert(IDS[0].into(), Duration::from_millis(1));
    let node = |me: usize, told: Told| NodeReport {
        id: IDS[me].into(),
        addr: Addr::new("127.0.0.1", 7000 + me as u16),
        told: Ok(Box::new(told)),
    };
    let mut before = glance.clone();
    before.inventory.nodes = (0..3).map(|me| node(me, told(me))).collect();
    change(&mut all, &mut glance);
    glance.inventory.nodes = all.into_iter().enumerate().map(|(me, told)| node(me, told)).collect();
    let plan = plan(vec![batch(BatchKind::Ordinary, IDS[0], IDS[1], "5-6,100", 1, 1)]);
    let open = SlotSet::parse("5-6").expect("slots");
    let gates = judge(&glance, &Baseline::of(&before), Moving { plan: &plan, open: &open }, &GateLimits::default());
    assert_eq!(gates.len(), 8);
    gates.into_iter().filter(|gate| !gate.open).map(|gate| gate.gate).collect()
}

/// What node `me` tells, its text of CLUSTER NODES changed.
fn view(told: &mut Told, change: impl Fn(String) -> String) {
    let line = |node: &crate::cluster::NodeFacts| {
        let myself = if node.flags.myself { "myself," } else { "" };
        let ranges: Vec<String> = node.slots.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        format!("{} 127.0.0.1:{}@1 {myself}master - 0 0 {} connected {}\n", node.id, node.port, node.epoch, ranges.join(" "))
    };
    let text: String = told.view.nodes.iter().map(line).collect();
    told.view = NodesView::parse(change(text).as_bytes()).expect("the test's own text");
}

/// Adds marks to the line of the node itself.
fn mark(told: &mut Told, marks: &str) {
    view(told, |text| {
        let lines =
            text.lines().map(|line| if line.contains("myself") { format!("{line} {marks}\n") } else { format!("{line}\n") });
        lines.collect()
    });
}

#[test]
fn a_healthy_cluster_lets_plans_go_on() {
    assert_eq!(closed(|_, _| {}), Vec::<String>::new());
    // The plan's own marks, on the slots that it moves now.
    let ours = closed(|all, _| {
        mark(&mut all[0], &format!("[5->-{}]", IDS[1]));
        mark(&mut all[1], &format!("[5-<-{}]", IDS[0]));
    });
    assert_eq!(ours, Vec::<String>::new());
    // The hand-over of a slot that is under way: one node knows already.
    let under_way = closed(|all, _| {
        view(&mut all[1], |text| text.replace("0-5460", "0-4 6-5460").replace("5461-10922", "5-5 5461-10922"));
    });
    assert_eq!(under_way, Vec::<String>::new());
}

#[test]
fn each_gate_closes_for_its_reason() {
    let check = |expected: &str, change: &dyn Fn(&mut [Told; 3], &mut Glance)| assert_eq!(closed(change), [expected]);
    check("coverage", &|all, _| {
        all[2].cluster = Fields::parse("cluster_state:ok\ncluster_slots_assigned:16383\ncluster_slots_ok:16383")
    });
    check("agreement", &|all, _| {
        view(&mut all[2], |text| text.replace("0-5460", "0-99 101-5460").replace("10923-16383", "100-100 10923-16383"));
    });
    check("foreign", &|all, _| mark(&mut all[2], &format!("[12000->-{}]", IDS[0])));
    check("foreign", &|all, _| mark(&mut all[0], &format!("[5->-{}]", IDS[2])));
    check("foreign", &|all, _| mark(&mut all[0], &format!("[7->-{}]", IDS[1])));
    check("memory", &|all, _| all[1].info = Fields::parse("used_memory:950\nmaxmemory:1000"));
    check("latency", &|_, glance| {
        glance.latency.insert(IDS[0].into(), Duration::from_millis(200));
    });
    check("errors", &|_, glance| {
        glance.errors.insert(IDS[0].into(), (20, 1000));
    });
}

#[test]
fn a_replica_that_falls_behind_closes_its_gate() {
    let limits = GateLimits::default();
    let plan = plan(vec![batch(BatchKind::Ordinary, IDS[0], IDS[1], "5", 1, 1)]);
    let with = |replica: &str| {
        let mut told = told(1);
        told.info = Fields::parse(&format!("master_repl_offset:100000000\nslave0:ip=127.0.0.1,port=1,{replica},lag=0"));
        let node = NodeReport { id: IDS[1].into(), addr: Addr::new("127.0.0.1", 7001), told: Ok(Box::new(told)) };
        Glance { inventory: Inventory { nodes: vec![node] }, ..Glance::default() }
    };
    let before = Baseline::of(&with("state=online,offset=100000000"));
    let open = |replica: &str| {
        let gates = judge(&with(replica), &before, Moving { plan: &plan, open: &SlotSet::new() }, &limits);
        gates.iter().find(|gate| gate.gate == "replicas").is_some_and(|gate| gate.open)
    };
    assert!(open("state=online,offset=99999999"));
    assert!(!open("state=online,offset=1"), "behind");
    assert!(!open("state=wait_bgsave,offset=0"), "gone");
}

#[test]
fn one_bad_look_is_no_reason() {
    let gate = |name: &str, open| Gate { gate: name.into(), open, found: String::new() };
    let mut streaks = Streaks::default();
    let mut look = |name: &str, open| streaks.believe(vec![gate(name, open)])[0].open;
    assert_eq!([false; 5].map(|open| look("coverage", open)), [true, true, true, false, false]);
    assert!(look("coverage", true));
    assert_eq!([false; 2].map(|open| look("foreign", open)), [true, false]);
    assert!(!look("memory", false));
}
