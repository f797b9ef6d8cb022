//! What one client cannot do to others, and where the proxy says enough.

use std::time::Duration;

use crate::harness::client::{closed, request};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

use super::{Told, subscribe};

/// A subscriber that does not read is cut off; the others are told everything.
fn slow_subscriber(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &[("limits.subscriber_buffer", "1mb")]);
    let channel = ["flood".to_owned()];
    let mut slow: Vec<Client> = ["2", "3"]
        .map(|proto| {
            let mut client = proxy.client();
            subscribe(&mut client, proto, "SUBSCRIBE", &channel);
            client
        })
        .into();
    let mut readers = ["2", "3"].map(|proto| {
        let mut client = proxy.client();
        subscribe(&mut client, proto, "SUBSCRIBE", &channel);
        client
    });
    let mut publisher = proxy.client();
    const MESSAGES: usize = 4000;
    // Small ones and such as are passed on without a copy; 50 MB in all, more than any socket holds.
    let payload = |number: usize| format!("{number}:{}", "x".repeat(if number.is_multiple_of(2) { 24_000 } else { 1_000 }));
    for number in 0..MESSAGES {
        assert!(!publisher.call(&["PUBLISH", &channel[0], &payload(number)]).is_error());
        for reader in &mut readers {
            let told = Told::of(&reader.receive().expect("a message")).expect("a message");
            assert!(told.payload == payload(number), "message {number} is not what was published");
        }
    }
    for client in &mut slow {
        assert!(client.until_closed().is_some(), "a subscriber that does not read is cut off");
    }
    wait_until("the dead subscribers not to be counted", || match publisher.call(&["PUBLISH", &channel[0], "last"]) {
        Reply::Integer(2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn too_many(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &[("limits.client_subscriptions", "10"), ("limits.subscriptions", "64kb")]);
    let mut client = proxy.client();
    assert!(!client.call(&["HELLO", "3"]).is_error());
    let names: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
    subscribe(&mut client, "3", "SUBSCRIBE", &names);
    let refused = client.call(&["PSUBSCRIBE", "one-more"]);
    assert!(refused.text().contains("limits.client_subscriptions"), "{refused:?}");
    // Those that it has are no new ones.
    assert_eq!(client.call(&["SUBSCRIBE", "c3"]).elements()[2], Reply::Integer(10));
    let mut other = proxy.client();
    let refused = other.call(&["SUBSCRIBE", &"long".repeat(20_000)]);
    assert!(refused.text().contains("limits.subscriptions"), "{refused:?}");
    assert_eq!(other.call(&["PING"]).text(), "PONG", "it is no subscriber");
}

/// A long reply that is on its way is not cut by messages.
fn not_between(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut client = proxy.client();
    subscribe(&mut client, "3", "SUBSCRIBE", &["busy".to_owned()]);
    let value = "v".repeat(8 << 20);
    assert_eq!(proxy.client().call(&["SET", "long", &value]), Reply::ok());
    let over = crate::harness::over::Over::default();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut publisher = proxy.client();
            while !over.yet() {
                publisher.call(&["PUBLISH", "busy", "m"]);
            }
        });
        let _over = over.when_dropped();
        let mut messages = 0;
        for _ in 0..10 {
            client.send(&request(&["GET", "long"])).expect("the proxy reads");
            loop {
                match client.receive().expect("whole replies and whole messages") {
                    Reply::Bulk(found) => break assert!(found == value.as_bytes()),
                    push => {
                        assert_eq!(push, Reply::Push(vec![Reply::bulk("message"), Reply::bulk("busy"), Reply::bulk("m")]));
                        messages += 1;
                    }
                }
            }
        }
        assert!(messages > 0, "messages came meanwhile");
    });
}

/// Who only listens is not idle.
fn listeners_are_not_idle(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start_with(&cluster, &[("timeouts.idle", "1s")]);
    let mut listener = proxy.client();
    subscribe(&mut listener, "2", "SUBSCRIBE", &["rare".to_owned()]);
    let mut idle = proxy.client();
    assert_eq!(idle.call(&["PING"]).text(), "PONG");
    let error = idle.receive().expect_err("an idle client is cut off");
    assert!(closed(&error), "{error}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(proxy.client().call(&["PUBLISH", "rare", "m"]), Reply::Integer(1));
    assert!(Told::of(&listener.receive().expect("it listens still")).is_some());
}

crate::on_every_server!(slow_subscriber, too_many, not_between, listeners_are_not_idle);
