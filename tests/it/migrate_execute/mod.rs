//! Slots moved by Keyway's own executors, on real servers, under load and in trouble: nothing is lost, nothing comes back, nobody notices.

pub mod failovers;
mod inside;
mod jobs;
mod memory;
pub mod mover;
pub mod oracle;
mod troubles;

use std::collections::BTreeSet;

use keyway::migrate::execute::{Event, Halt, Mode};
use keyway::migrate::recovery::Step;

use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::{Cluster, Proxy, Reply, Server};
use mover::{Mover, slots};
use oracle::{Oracle, assert_whole};

/// What a slot goes through, each of which may be the last thing that a driver does.
const STEPS: [Step; 5] = [Step::OpenTarget, Step::OpenSource, Step::Drain, Step::Own, Step::Clear];

const LIBRARY: &str = "#!lua name=kept\nredis.register_function('kept', function() return 'here' end)";

/// There and back, classic and atomic, each driver dying at another step: clients see nothing of it.
fn moves(server: Server) {
    // The executors come as a user of their own, so that the source must log in at the target.
    let user = ["--user", "mover", "on", ">secret", "~*", "&*", "+@all"].map(str::to_owned).to_vec();
    let databases =
        if server == Server::Valkey91 { ["--cluster-databases", "4"].map(str::to_owned).to_vec() } else { Vec::new() };
    let arguments = [user, databases].concat();
    let cluster = Cluster::start(server, ClusterOptions { arguments, ..ClusterOptions::default() });
    let proxy = Proxy::start(&cluster);
    let tags = [tags_in(0..8), tags_in(8000..8002)].concat();
    let oracle = Oracle::new(proxy.port, &tags);
    // Where clusters have several databases, a slot has keys in each.
    let elsewhere = format!("{}elsewhere", tags[0]);
    let in_another_database = |member: usize, command: &[&str], expected: Reply| {
        if server == Server::Valkey91 {
            let mut client = cluster.member(member).client();
            assert_eq!(client.call(&["SELECT", "2"]), Reply::ok());
            assert_eq!(client.call(command), expected);
        }
    };
    in_another_database(0, &["SET", &elsewhere, "kept"], Reply::ok());
    let functions = server != Server::Redis62;
    if functions {
        assert_eq!(cluster.member(0).client().call(&["FUNCTION", "LOAD", LIBRARY]).text(), "kept");
    }
    oracle.under_load(|| {
        let mut mover = Mover::new(&cluster, Some(("mover", "secret")));
        mover.throttle.send_modify(|throttle| throttle.keys = 7);
        for (slot, step) in (0..).zip(STEPS) {
            let leg = mover.leg(&cluster, 0, 1, slots(slot..slot + 1), Mode::Classic);
            let died = mover.run_until(&leg, |event| matches!(event, Event::Stepped { step: done, .. } if *done == step));
            // Valkey's source may hear of the new owner, and take its mark away, before it is told.
            assert!(died || (server, step) == (Server::Valkey91, Step::Clear), "{step:?}");
            mover = Mover::new(&cluster, Some(("mover", "secret")));
            mover.throttle.send_modify(|throttle| throttle.keys = 7);
        }
        // Those of the dead drivers, and more.
        let leg = mover.leg(&cluster, 0, 1, slots(0..40), Mode::Classic);
        let (done, events) = mover.run(&leg);
        assert_eq!(done.expect("nothing is in the way").slots, 40);
        let ended: BTreeSet<_> =
            events.iter().filter_map(|event| if let Event::SlotDone { slot, .. } = event { Some(*slot) } else { None }).collect();
        assert_eq!(ended.into_iter().collect::<Vec<_>>(), leg.slots);
        assert!(leg.slots.iter().all(|slot| mover.owner(*slot) == cluster.member(1).id), "the map knows without asking");
        in_another_database(1, &["GET", &elsewhere], Reply::bulk("kept"));
        // An order to stop is obeyed between two slots.
        let back = mover.leg(&cluster, 1, 0, slots(0..40), Mode::Classic);
        let stop = mover.stop.clone();
        let (done, _) = mover.run_with(&back, |event| {
            if matches!(event, Event::SlotDone { .. }) {
                stop.send_replace(true);
            }
        });
        assert_eq!(done, Err(Halt::Stopped));
        mover.stop.send_replace(false);
        assert_eq!(mover.run(&back).0.expect("it goes on").slots, 40);
        if server == Server::Valkey91 {
            // It would lose writes.
            let leg = mover.leg(&cluster, 0, 1, slots(0..40), Mode::Atomic);
            let halt = mover.run(&leg).0.expect_err("keys in several databases");
            assert!(matches!(&halt, Halt::AtomicFailed { why, .. } if why.contains("several databases")), "{halt}");
        }
        in_another_database(0, &["GET", &elsewhere], Reply::bulk("kept"));
        in_another_database(0, &["DEL", &elsewhere], Reply::Integer(1));
        if server == Server::Valkey91 {
            for (from, to) in [(0, 1), (1, 0)] {
                let leg = mover.leg(&cluster, from, to, slots(0..40), Mode::Atomic);
                let (done, events) = mover.run(&leg);
                assert_eq!(done.map(|done| done.slots), Ok(40), "{events:?}");
            }
        }
    });
    if functions {
        let list = cluster.member(1).client().call(&["FUNCTION", "LIST"]);
        assert!(format!("{list:?}").contains("kept"), "{list:?}");
        assert_eq!(cluster.member(2).client().call(&["FUNCTION", "LIST"]), Reply::Array(vec![]));
    }
    assert_whole(&cluster);
}

crate::on_every_server!(moves);
