//! Subscriptions over nodes that say what a test tells them to.

use std::{collections::BTreeMap, io::IoSlice, sync::Arc};

use crate::{
    cluster::{Addr, Node, Persona, Role, Slot, SlotMap},
    engine::{ClientId, Engine, Event, LaneId, Scripts, Settings},
    resp::{Limits, RequestScanner, Scanned, encode},
};

/// An engine and the connections to its nodes, which are named by their ports.
struct World {
    engine: Engine,
    lanes: BTreeMap<u16, LaneId>,
    closed: Vec<ClientId>,
    clients: u64,
    now: u64,
}

/// Masters with a third of the slots each.
const PORTS: [u16; 3] = [1, 2, 3];

fn map(version: u64, asked_at: u64, ports: &[u16], replicas: &[u16], failed: &[u16], slots: &[(u16, u16, u16)]) -> SlotMap {
    let node = |port: &u16| Node {
        id: format!("node-{port}").into(),
        addr: Addr::new("10.0.0.1", *port),
        aliases: Vec::new(),
        role: if replicas.contains(port) {
            Role::Replica { of: if *port == 4 { "node-2" } else { "node-4" }.into() }
        } else {
            Role::Master
        },
        failed: failed.contains(port),
        epoch: u64::from(*port),
        cursor_has_slot: false,
    };
    let persona = Persona { server: "redis".into(), version: "7.0.15".into(), ..Persona::default() };
    SlotMap::new(version, asked_at, ports.iter().map(node).collect(), slots, persona)
}

impl World {
    fn new(settings: Settings) -> World {
        let mut world = World {
            engine: Engine::new(settings, Arc::new(Scripts::new(0)), 1, 0),
            lanes: BTreeMap::new(),
            closed: Vec::new(),
            clients: 0,
            now: 0,
        };
        world.publish_map(&PORTS, &[], &[], &[(0, 5460, 0), (5461, 10922, 1), (10923, 16383, 2)]);
        world
    }

    fn publish_map(&mut self, ports: &[u16], replicas: &[u16], failed: &[u16], slots: &[(u16, u16, u16)]) {
        self.now += 1000;
        self.engine.set_now(self.now);
        self.engine.map_published(Arc::new(map(self.now, self.now, ports, replicas, failed, slots)));
        self.events();
    }

    fn client(&mut self) -> ClientId {
        self.clients += 1;
        self.engine.client_open(self.clients, "peer", "local")
    }

    fn asks(&mut self, client: ClientId, arguments: &[&str]) {
        let mut frame = Vec::new();
        let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        encode::command(&mut frame, &arguments);
        self.engine.client_bytes(client, &frame);
        self.events();
    }

    /// Connects what is dialled.
    fn events(&mut self) {
        while let Some(event) = self.engine.next_event() {
            match event {
                Event::Dial { lane, addr } => {
                    self.lanes.insert(addr.port(), lane);
                    assert!(self.engine.lane_connected(lane));
                }
                Event::CloseClient { client } => self.closed.push(client),
                _ => {}
            }
        }
    }

    fn passes(&mut self, us: u64) {
        self.now += us;
        self.engine.set_now(self.now);
        self.engine.tick();
        self.events();
    }

    /// The requests that the node behind the port's last lane was sent since this was asked last, without greetings.
    fn sent(&mut self, port: u16) -> Vec<String> {
        let Some(lane) = self.lanes.get(&port).copied() else { return Vec::new() };
        let mut sent = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); 8];
            let count = self.engine.lane_chunks(lane, &mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            if bytes.is_empty() {
                return sent;
            }
            self.engine.lane_wrote(lane, bytes.len());
            for request in requests(&bytes) {
                match request.as_str() {
                    "HELLO 3" => self.says(port, "+OK\r\n"),
                    _ => sent.push(request),
                }
            }
        }
    }

    fn says(&mut self, port: u16, bytes: &str) {
        self.engine.lane_bytes(self.lanes[&port], bytes.as_bytes());
        self.events();
    }

    /// A push of these words; the last is an integer where it says so.
    fn pushes(&mut self, port: u16, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        let mut push = format!(">{}\r\n", words.len());
        for word in words {
            match word.strip_prefix(':') {
                Some(number) => push.push_str(&format!(":{number}\r\n")),
                None => push.push_str(&format!("${}\r\n{word}\r\n", word.len())),
            }
        }
        self.says(port, &push);
    }

    /// What a client was told since this was asked last, as words.
    #[track_caller]
    fn told(&mut self, client: ClientId, expected: &str) {
        let mut slices = [IoSlice::new(&[]); 16];
        let count = self.engine.client_chunks(client, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        self.engine.client_wrote(client, bytes.len());
        let text = String::from_utf8(bytes).expect("tests speak ASCII");
        let lines = text.split("\r\n").filter(|line| !line.is_empty() && !line.starts_with('$'));
        assert_eq!(lines.collect::<Vec<_>>().join(" "), expected);
    }

    fn lose(&mut self, port: u16) {
        let lane = self.lanes.remove(&port).expect("there is a lane to it");
        self.engine.lane_lost(lane);
    }
}

fn requests(mut bytes: &[u8]) -> Vec<String> {
    let (mut scanner, mut spans, mut found) = (RequestScanner::default(), Vec::new(), Vec::new());
    while let Ok(Scanned::Request { len }) = scanner.scan(bytes, &mut spans, &Limits::default()) {
        let words = spans.iter().map(|span| String::from_utf8_lossy(span.of(bytes)).into_owned());
        found.push(words.collect::<Vec<_>>().join(" "));
        bytes = &bytes[len..];
    }
    found
}

/// The port of the master that owns a channel's slot in the first map.
fn home(channel: &str) -> u16 {
    match Slot::of(channel.as_bytes()).get() {
        0..=5460 => 1,
        5461..=10922 => 2,
        _ => 3,
    }
}

#[test]
fn one_subscription_serves_all_and_is_confirmed_when_it_stands() {
    let mut world = World::new(Settings::default());
    let (first, second, port) = (world.client(), world.client(), home("news"));
    world.asks(first, &["SUBSCRIBE", "news"]);
    world.asks(second, &["HELLO", "3"]);
    world.engine.client_wrote(second, 0);
    assert_eq!(world.sent(port), ["subscribe news"]);
    world.told(first, "");
    // What is asked behind it waits, too.
    world.asks(first, &["PING"]);
    world.pushes(port, "subscribe news :1");
    world.told(first, "*3 subscribe news :1 *2 pong");
    let mut greeting = [IoSlice::new(&[]); 16];
    let count = world.engine.client_chunks(second, &mut greeting);
    let len = greeting[..count].iter().map(|slice| slice.len()).sum();
    world.engine.client_wrote(second, len);
    world.asks(second, &["SUBSCRIBE", "news", "news"]);
    world.told(second, ">3 subscribe news :1 >3 subscribe news :1");
    assert!(world.sent(port).is_empty(), "it stands already");
    world.pushes(port, "message news hello");
    world.told(first, "*3 message news hello");
    world.told(second, ">3 message news hello");
    world.asks(first, &["UNSUBSCRIBE"]);
    world.told(first, "*3 unsubscribe news :0");
    assert!(world.sent(port).is_empty(), "the other one is still there");
    world.pushes(port, "message news again");
    world.told(first, "");
    world.told(second, ">3 message news again");
    world.engine.client_gone(second);
    assert_eq!(world.sent(port), ["unsubscribe news"]);
    world.pushes(port, "unsubscribe news :0");
    assert_eq!(world.engine.pubsub.topics.len(), 0);
    assert_eq!(world.engine.pubsub.held_bytes, 0);
    assert!(world.engine.pubsub.registry.is_empty());
    assert_eq!(world.engine.pubsub.registry.clients(), 0);
    // A lane that nothing comes in on is closed after a while.
    world.passes(2_000_000);
    assert_eq!(world.engine.load().lanes, 0);
}

#[test]
fn a_refusal_fails_the_whole_command() {
    let mut world = World::new(Settings::default());
    let client = world.client();
    let (open, secret) = ("{a}open", "{a}secret");
    let port = home(open);
    world.asks(client, &["SUBSCRIBE", open, secret]);
    assert_eq!(world.sent(port).len(), 2);
    // Topics are looked at in any order.
    world.says(port, "-NOPERM no\r\n");
    world.told(client, "-NOPERM no");
    world.pushes(port, "subscribe x :1");
    assert_eq!(world.sent(port).len(), 1, "the one that stands is given up");
    assert_eq!(world.engine.pubsub.topics.len(), 0);
    world.asks(client, &["CLIENT", "ID"]);
    world.told(client, ":1");
}

#[test]
fn what_is_lost_is_subscribed_to_again_and_nobody_is_told() {
    let mut world = World::new(Settings::default());
    let (client, port) = (world.client(), home("news"));
    world.asks(client, &["PSUBSCRIBE", "news"]);
    world.sent(port);
    world.pushes(port, "psubscribe news :1");
    world.told(client, "*3 psubscribe news :1");
    world.lose(port);
    assert!(!world.lanes.contains_key(&port), "a node that closed is not dialled in a tight loop");
    world.passes(50_000);
    assert_eq!(world.sent(port), ["psubscribe news"]);
    world.pushes(port, "psubscribe news :1");
    world.pushes(port, "pmessage news news back");
    world.told(client, "*4 pmessage news news back");
    // Its node fails: any other will do.
    let others: Vec<u16> = PORTS.into_iter().filter(|other| *other != port).collect();
    let heir = (0..3).find(|index| PORTS[*index] == others[0]).expect("it is one of them") as u16;
    world.publish_map(&PORTS, &[], &[port], &[(0, 16383, heir)]);
    assert_eq!(world.sent(others[0]), ["psubscribe news"]);
    world.pushes(others[0], "psubscribe news :1");
    world.pushes(others[0], "pmessage news news on");
    world.told(client, "*4 pmessage news news on");
}

#[test]
fn a_move_of_the_slot_leaves_a_channel_where_it_is() {
    let mut world = World::new(Settings::default());
    let (client, port) = (world.client(), home("news"));
    world.asks(client, &["SUBSCRIBE", "news"]);
    world.sent(port);
    world.pushes(port, "subscribe news :1");
    let elsewhere = (0..3).find(|index| PORTS[*index] != port).expect("there are three") as u16;
    world.publish_map(&PORTS, &[], &[], &[(0, 16383, elsewhere)]);
    assert!(PORTS.into_iter().all(|port| world.sent(port).is_empty()));
    world.told(client, "*3 subscribe news :1");
    // And so it is published where it is subscribed, to keep its order.
    let publisher = world.client();
    world.asks(publisher, &["PUBLISH", "news", "m"]);
    assert_eq!(world.sent(port), ["PUBLISH news m"]);
}

#[test]
fn a_shard_channel_follows_its_slot() {
    let mut world = World::new(Settings::default());
    let (client, port) = (world.client(), home("news"));
    world.asks(client, &["SSUBSCRIBE", "news"]);
    assert_eq!(world.sent(port), ["ssubscribe news"]);
    let (target, slot) = (PORTS.into_iter().find(|other| *other != port).expect("there are three"), Slot::of(b"news").get());
    // Refused at first: the map was old.
    world.says(port, &format!("-MOVED {slot} 10.0.0.1:{target}\r\n"));
    assert_eq!(world.sent(target), ["ssubscribe news"]);
    world.pushes(target, "ssubscribe news :1");
    world.told(client, "*3 ssubscribe news :1");
    // The slot goes back: the node says so, and the client is not told.
    world.pushes(target, "sunsubscribe news :0");
    assert_eq!(world.sent(target), ["ssubscribe news"]);
    world.says(target, &format!("-MOVED {slot} 10.0.0.1:{port}\r\n"));
    assert_eq!(world.sent(port), ["ssubscribe news"]);
    world.pushes(port, "ssubscribe news :1");
    world.pushes(port, "smessage news m");
    world.told(client, "*3 smessage news m");
    // The new owner is known before the old one has noticed: both are listened to.
    let index = PORTS.iter().position(|other| *other == target).expect("it is one of them") as u16;
    world.publish_map(&PORTS, &[], &[], &[(0, 16383, index)]);
    assert_eq!(world.sent(target), ["ssubscribe news"]);
    world.pushes(port, "smessage news old");
    world.pushes(target, "ssubscribe news :1");
    world.pushes(target, "smessage news new");
    world.told(client, "*3 smessage news old *3 smessage news new");
    world.pushes(port, "sunsubscribe news :0");
    assert!(world.sent(port).is_empty() && world.sent(target).is_empty());
}

#[test]
fn notifications_come_from_every_master_and_messages_from_one() {
    let mut world = World::new(Settings::default());
    let (client, main) = (world.client(), home("*"));
    world.asks(client, &["PSUBSCRIBE", "*"]);
    for port in PORTS {
        assert_eq!(world.sent(port), ["psubscribe *"]);
        world.told(client, "");
        world.pushes(port, "psubscribe * :1");
    }
    world.told(client, "*3 psubscribe * :1");
    for port in PORTS {
        world.pushes(port, &format!("pmessage * __keyevent@0__:set key-{port}"));
        world.told(client, &format!("*4 pmessage * __keyevent@0__:set key-{port}"));
        world.pushes(port, "pmessage * news hello");
        world.told(client, if port == main { "*4 pmessage * news hello" } else { "" });
    }
    // A master comes, and one becomes a replica of it: it tells of its new master's keys until that one does.
    let former = PORTS.into_iter().find(|port| *port != main).expect("there are three");
    world.publish_map(&[1, 2, 3, 4], &[former], &[], &[(0, 16383, 3)]);
    world.pushes(former, "pmessage * __keyevent@0__:set replicated");
    world.told(client, "*4 pmessage * __keyevent@0__:set replicated");
    assert_eq!(world.sent(4), ["psubscribe *"]);
    world.pushes(former, "pmessage * __keyevent@0__:set perhaps-twice");
    world.told(client, "");
    world.pushes(4, "psubscribe * :1");
    assert_eq!(world.sent(former), ["punsubscribe *"]);
    world.pushes(former, "pmessage * __keyevent@0__:set twice");
    world.pushes(4, "pmessage * __keyevent@0__:set once");
    world.told(client, "*4 pmessage * __keyevent@0__:set once");
}

/// Who comes back as a master is asked anew, so that it is known which of its notifications its replica has told.
#[test]
fn a_master_that_comes_back_tells_what_its_replica_has_not() {
    let mut world = World::new(Settings::default());
    let (client, main) = (world.client(), home("*"));
    let index = PORTS.iter().position(|port| *port == main).expect("it is one of them") as u16;
    world.asks(client, &["PSUBSCRIBE", "*"]);
    for port in PORTS {
        world.sent(port);
        world.pushes(port, "psubscribe * :1");
    }
    world.told(client, "*3 psubscribe * :1");
    world.publish_map(&[1, 2, 3, 4], &[main], &[], &[(0, 16383, 3)]);
    world.sent(4);
    world.pushes(4, "psubscribe * :1");
    world.pushes(main, "pmessage * __keyevent@0__:set twice");
    world.pushes(main, "pmessage * news one");
    world.told(client, "*4 pmessage * news one");
    world.publish_map(&[1, 2, 3, 4], &[4], &[], &[(0, 16383, index)]);
    assert_eq!(world.sent(main), ["psubscribe *"]);
    world.pushes(main, "pmessage * __keyevent@0__:set its-replica-told-this");
    world.told(client, "");
    world.pushes(main, "psubscribe * :1");
    world.pushes(main, "pmessage * __keyevent@0__:set new");
    world.pushes(4, "pmessage * __keyevent@0__:set new");
    world.told(client, "*4 pmessage * __keyevent@0__:set new");
    world.engine.client_gone(client);
    for port in PORTS {
        assert_eq!(world.sent(port), ["punsubscribe *"]);
        world.pushes(port, "punsubscribe * :0");
    }
    world.sent(4);
    world.pushes(4, "punsubscribe * :0");
    assert!(world.engine.pubsub.registry.is_empty());
}

/// A map of the middle of a failover: the former master does not know yet that it is a replica.
#[test]
fn one_of_two_masters_of_the_same_keys_is_listened_to() {
    let mut world = World::new(Settings::default());
    let client = world.client();
    let slots = [(0, 5460, 0), (5461, 10922, 1), (10923, 16383, 2)];
    // Node 4 is a replica of node 2.
    world.publish_map(&[1, 2, 3, 4], &[4], &[], &slots);
    world.asks(client, &["SUBSCRIBE", "__keyevent@0__:set"]);
    for port in PORTS {
        world.sent(port);
        world.pushes(port, "subscribe __keyevent@0__:set :1");
    }
    world.told(client, "*3 subscribe __keyevent@0__:set :1");
    world.publish_map(&[1, 2, 3, 4], &[], &[], &[(0, 5460, 0), (5461, 10922, 3), (10923, 16383, 2)]);
    assert_eq!(world.sent(4), ["subscribe __keyevent@0__:set"]);
    world.pushes(4, "subscribe __keyevent@0__:set :1");
    world.pushes(4, "message __keyevent@0__:set k");
    world.pushes(2, "message __keyevent@0__:set k");
    world.told(client, "*3 message __keyevent@0__:set k");
}

#[test]
fn nobody_waits_for_ever() {
    let mut world = World::new(Settings { retry_deadline_us: 1_000_000, ..Settings::default() });
    let (client, port) = (world.client(), home("news"));
    world.asks(client, &["SSUBSCRIBE", "news"]);
    for _ in 0..40 {
        if !world.sent(port).is_empty() {
            world.says(port, "-CLUSTERDOWN The cluster is down\r\n");
        }
        world.passes(50_000);
    }
    let slices = &mut [IoSlice::new(&[]); 4];
    let count = world.engine.client_chunks(client, slices);
    let text: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
    let text = String::from_utf8(text).expect("ASCII");
    assert!(text.starts_with("-ERR proxy: no subscription to 'news' within 1 s after "), "{text}");
    assert!(text.ends_with("the last one: CLUSTERDOWN The cluster is down\r\n"), "{text}");
    assert_eq!(world.engine.pubsub.topics.len(), 0);
}

#[test]
fn who_does_not_read_is_cut_off_and_others_are_not() {
    let mut world = World::new(Settings { subscriber_buffer_max: 100_000, ..Settings::default() });
    let (slow, quick, port) = (world.client(), world.client(), home("news"));
    world.asks(slow, &["SUBSCRIBE", "news"]);
    world.sent(port);
    world.pushes(port, "subscribe news :1");
    world.asks(quick, &["SUBSCRIBE", "news"]);
    world.told(quick, "*3 subscribe news :1");
    for length in [1000, 20_000] {
        let message = "m".repeat(length);
        for _ in 0..8 {
            world.pushes(port, &format!("message news {message}"));
            world.told(quick, &format!("*3 message news {message}"));
        }
    }
    assert_eq!(world.closed, [slow]);
}

#[test]
fn a_lost_right_ends_the_clients_that_used_it() {
    let mut world = World::new(Settings::default());
    let (client, port) = (world.client(), home("news"));
    world.asks(client, &["SUBSCRIBE", "news"]);
    world.sent(port);
    world.pushes(port, "subscribe news :1");
    world.lose(port);
    world.passes(50_000);
    world.sent(port);
    world.says(port, "-NOPERM this user has no permissions to access one of the channels used as arguments\r\n");
    assert_eq!(world.closed, [client]);
}

#[test]
fn a_silent_node_is_asked_whether_it_lives() {
    let mut world = World::new(Settings { node_timeout_us: 5_000_000, ..Settings::default() });
    let (client, port) = (world.client(), home("news"));
    world.asks(client, &["SUBSCRIBE", "news"]);
    world.sent(port);
    world.pushes(port, "subscribe news :1");
    for _ in 0..11 {
        world.passes(1_000_000);
    }
    assert_eq!(world.sent(port), ["PING"]);
    world.says(port, "+PONG\r\n");
    world.pushes(port, "message news m");
    world.told(client, "*3 subscribe news :1 *3 message news m");
    for _ in 0..20 {
        world.passes(1_000_000);
    }
    assert_eq!(world.engine.counters.lost_lanes, 1, "no answer: it is given up");
}
