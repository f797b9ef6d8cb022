//! Blocked clients against nodes whose every byte the test says.

use std::{io::IoSlice, sync::Arc};

use crate::{
    cluster::{Addr, Node, OpenSlot, Persona, Role, Slot, SlotMap},
    engine::{ClientId, Engine, Event, LaneId, Scripts, Settings},
    resp::encode,
};

/// An engine before two nodes; the first owns all slots.
struct World {
    engine: Engine,
    now: u64,
    closed: Vec<LaneId>,
}

fn request(words: &[&str]) -> String {
    let mut frame = Vec::new();
    encode::command(&mut frame, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    String::from_utf8(frame).expect("the tests write text")
}

fn map(owner: u16) -> Arc<SlotMap> {
    let node = |port: u16| Node {
        id: format!("node-{port}").into(),
        addr: Addr::new("127.0.0.1", port),
        aliases: Vec::new(),
        role: Role::Master,
        failed: false,
        epoch: 1,
        cursor_has_slot: false,
    };
    Arc::new(SlotMap::new(1, 0, vec![node(7000), node(7001)], &[(0, 16383, owner)], Persona::default()))
}

impl World {
    fn new() -> World {
        let mut engine = Engine::new(Settings::default(), Arc::new(Scripts::new(0)), 1, 0);
        engine.map_published(map(0));
        World { engine, now: 0, closed: Vec::new() }
    }

    fn client(&mut self, words: &[&str]) -> ClientId {
        let client = self.engine.client_open(self.now + 1, "127.0.0.1:1", "127.0.0.1:2");
        self.ask(client, words);
        client
    }

    fn ask(&mut self, client: ClientId, words: &[&str]) {
        self.engine.client_bytes(client, request(words).as_bytes());
    }

    /// The lane that is dialled next.
    fn dialled(&mut self) -> LaneId {
        loop {
            match self.engine.next_event().expect("a lane is dialled") {
                Event::Dial { lane, .. } => {
                    assert!(self.engine.lane_connected(lane));
                    return lane;
                }
                Event::CloseLane { lane } => self.closed.push(lane),
                _ => {}
            }
        }
    }

    /// As `dialled`, a private one, whose name at its node is 7.
    fn private(&mut self) -> LaneId {
        let lane = self.dialled();
        assert_eq!(self.written(lane), request(&["CLIENT", "ID"]));
        self.reply(lane, ":7\r\n");
        lane
    }

    fn no_dial(&mut self) {
        while let Some(event) = self.engine.next_event() {
            assert!(!matches!(event, Event::Dial { .. }), "{event:?}");
        }
    }

    /// What the engine writes to a lane now.
    fn written(&mut self, lane: LaneId) -> String {
        let mut slices = [IoSlice::new(&[]); 4];
        let count = self.engine.lane_chunks(lane, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        self.engine.lane_wrote(lane, bytes.len());
        String::from_utf8(bytes).expect("the tests write text")
    }

    fn reply(&mut self, lane: LaneId, bytes: &str) {
        self.engine.lane_bytes(lane, bytes.as_bytes());
    }

    /// What the client is told now.
    fn told(&mut self, client: ClientId) -> String {
        let mut slices = [IoSlice::new(&[]); 4];
        let count = self.engine.client_chunks(client, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        self.engine.client_wrote(client, bytes.len());
        String::from_utf8(bytes).expect("the tests write text")
    }

    fn after(&mut self, us: u64) {
        self.now += us;
        self.engine.set_now(self.now);
        self.engine.tick();
    }
}

const POPPED: &str = "*2\r\n$1\r\nq\r\n$1\r\nx\r\n";
const CUT: &str = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";

fn slot() -> u16 {
    crate::cluster::Slot::of(b"q").get()
}

#[test]
fn what_is_popped_for_a_client_that_is_gone_goes_back() {
    let mut world = World::new();
    let client = world.client(&["BLPOP", "q", "0"]);
    let lane = world.private();
    assert_eq!(world.written(lane), request(&["BLPOP", "q", "0"]));
    world.engine.client_gone(client);
    let shared = world.dialled();
    assert_eq!(world.written(shared), request(&["CLIENT", "UNBLOCK", "7", "ERROR"]));
    world.reply(lane, POPPED);
    assert_eq!(world.written(shared), request(&["LPUSH", "q", "x"]));
    // Until the node has answered, the unblocking might still hit whoever waits there.
    let other = world.client(&["BLPOP", "q", "0"]);
    let second = world.private();
    assert_ne!(second, lane);
    world.reply(shared, ":0\r\n:1\r\n");
    assert_eq!((world.engine.load().clients, world.engine.counters.given_back), (1, 1));
    let third = world.client(&["BLPOP", "q", "0"]);
    world.no_dial();
    assert_eq!(world.written(lane), request(&["BLPOP", "q", "0"]), "the lane is leased again");
    world.reply(lane, POPPED);
    assert_eq!(world.told(third), POPPED);
    assert_eq!(world.told(other), "");
}

#[test]
fn an_unblock_that_comes_too_early_is_said_again() {
    let mut world = World::new();
    let client = world.client(&["BRPOP", "q", "0"]);
    let lane = world.private();
    world.written(lane);
    world.engine.client_gone(client);
    let shared = world.dialled();
    let unblock = request(&["CLIENT", "UNBLOCK", "7", "ERROR"]);
    for _ in 0..3 {
        assert_eq!(world.written(shared), unblock);
        world.reply(shared, ":0\r\n");
        assert_eq!(world.written(shared), "", "not at once");
        world.after(200_000);
    }
    assert_eq!(world.written(shared), unblock);
    world.reply(shared, ":1\r\n");
    world.reply(lane, CUT);
    assert_eq!((world.engine.load().clients, world.engine.counters.given_back), (0, 0));
    world.client(&["BLPOP", "q", "0"]);
    world.no_dial();
}

#[test]
fn a_node_that_may_not_be_told_to_unblock_loses_the_lane() {
    for refused in ["-NOPERM no\r\n", "-ERR unknown command\r\n"] {
        let mut world = World::new();
        let client = world.client(&["BLPOP", "q", "0"]);
        let lane = world.private();
        world.written(lane);
        world.engine.client_gone(client);
        let shared = world.dialled();
        world.written(shared);
        world.reply(shared, refused);
        let closed = std::iter::from_fn(|| world.engine.next_event());
        assert!(closed.into_iter().any(|event| matches!(event, Event::CloseLane { lane: closed } if closed == lane)));
        assert_eq!(world.engine.load().clients, 0);
    }
}

#[test]
fn a_client_that_dies_before_its_request_is_written_costs_nothing() {
    let mut world = World::new();
    let client = world.client(&["BLPOP", "q", "0"]);
    let lane = world.dialled();
    world.engine.client_gone(client);
    assert_eq!(world.written(lane), "");
    assert_eq!((world.engine.load().clients, world.engine.load().waiting), (0, 0));
}

#[test]
fn a_reply_that_was_not_written_goes_back() {
    let mut world = World::new();
    let client = world.client(&["BLPOP", "q", "0"]);
    let lane = world.private();
    world.written(lane);
    world.reply(lane, POPPED);
    world.engine.client_gone(client);
    let shared = world.dialled();
    assert_eq!(world.written(shared), request(&["LPUSH", "q", "x"]));
    // One that was written is the client's.
    let client = world.client(&["BLPOP", "q", "0"]);
    world.written(lane);
    world.reply(lane, POPPED);
    assert_eq!(world.told(client), POPPED);
    world.engine.client_gone(client);
    assert_eq!(world.written(shared), "");
}

#[test]
fn a_slot_that_moves_takes_its_waiters_along_with_the_time_they_have_left() {
    let mut world = World::new();
    let client = world.client(&["BLPOP", "q", "20"]);
    let lane = world.private();
    world.written(lane);
    // Longer than any deadline of a request: waiting is no failure.
    world.after(15_000_000);
    world.reply(lane, &format!("-MOVED {} 127.0.0.1:7001\r\n", slot()));
    let next = world.private();
    assert_eq!(world.written(next), request(&["BLPOP", "q", "5.0005"]));
    world.reply(next, "-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n");
    assert_eq!(world.told(client), "");
    world.after(5_000_000);
    assert_eq!(world.told(client), "*-1\r\n", "the proxy ends it when no node does");
}

#[test]
fn a_pop_whose_node_is_lost_is_not_tried_again_and_a_read_is() {
    for (words, again) in [
        (&["BLPOP", "q", "0"][..], false),
        (&["BLMOVE", "q", "q", "LEFT", "LEFT", "0"], false),
        (&["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "q", ">"], false),
        (&["XREAD", "BLOCK", "0", "STREAMS", "q", "5-1"], true),
    ] {
        let mut world = World::new();
        let client = world.client(words);
        let lane = world.private();
        assert_eq!(world.written(lane), request(words));
        world.engine.lane_lost(lane);
        if again {
            world.after(50_000);
            let lane = world.private();
            assert_eq!(world.written(lane), request(words));
        } else {
            let told = world.told(client);
            assert!(told.starts_with("-ERR proxy: outcome unknown: "), "{told}");
        }
    }
}

#[test]
fn an_unblocked_client_is_told_what_was_asked_for() {
    for (error, node, told) in [(false, "*-1\r\n", "*-1\r\n"), (true, CUT, CUT)] {
        let mut world = World::new();
        world.now = 41;
        let client = world.client(&["BLPOP", "q", "0"]);
        let lane = world.private();
        world.written(lane);
        assert!(!world.engine.unblock_client(43, error));
        assert!(world.engine.unblock_client(42, error));
        let shared = world.dialled();
        let reason = if error { "ERROR" } else { "TIMEOUT" };
        assert_eq!(world.written(shared), request(&["CLIENT", "UNBLOCK", "7", reason]));
        world.reply(lane, node);
        world.reply(shared, ":1\r\n");
        assert_eq!(world.told(client), told);
        assert!(!world.engine.unblock_client(42, error), "it is not blocked any more");
        world.ask(client, &["BLPOP", "q", "0"]);
        assert_eq!(world.written(lane), request(&["BLPOP", "q", "0"]));
    }
}

#[test]
fn what_waits_where_no_push_will_come_is_sent_on() {
    let mut world = World::new();
    let client = world.client(&["BLPOP", "q", "0"]);
    let lane = world.private();
    world.written(lane);
    // Another's push met a slot that is on its way.
    let other = world.client(&["RPUSH", "q", "x"]);
    let shared = world.dialled();
    world.written(shared);
    world.reply(shared, &format!("-ASK {} 127.0.0.1:7001\r\n", slot()));
    let target = world.dialled();
    world.after(2_000);
    world.written(target);
    world.reply(target, "+OK\r\n:1\r\n");
    assert_eq!(world.told(other), ":1\r\n");
    assert_eq!(world.written(shared), request(&["CLIENT", "UNBLOCK", "7", "ERROR"]));
    world.reply(shared, ":1\r\n");
    world.reply(lane, CUT);
    let again = world.written(lane);
    assert_eq!(again, request(&["BLPOP", "q", "0"]), "the owner says where");
    world.reply(lane, &format!("-ASK {} 127.0.0.1:7001\r\n", slot()));
    let private = world.private();
    world.after(2_000);
    assert_eq!(world.written(private), [request(&["ASKING"]), request(&["BLPOP", "q", "0"])].concat());
    world.reply(private, &format!("+OK\r\n{POPPED}"));
    assert_eq!(world.told(client), POPPED);
}

#[test]
fn what_a_node_keeps_although_its_slot_moves_is_asked_again_only_now_and_then() {
    let mut world = World::new();
    world.after(1_000_000);
    let words = ["XREAD", "BLOCK", "0", "STREAMS", "q", "5-1"];
    let client = world.client(&words);
    let lane = world.private();
    world.written(lane);
    world.after(10_000);
    let publish = |world: &mut World| {
        let mut open = (*map(0)).clone();
        open.asked_at_us = world.now;
        open.open_slots.push(OpenSlot { slot: Slot::new(slot()).expect("a slot"), source: 0, target: 1 });
        world.engine.map_published(Arc::new(open));
    };
    let unblock = request(&["CLIENT", "UNBLOCK", "7", "ERROR"]);
    publish(&mut world);
    let shared = world.dialled();
    assert_eq!(world.written(shared), unblock, "it came before the slot was on the move");
    for round in 0..5 {
        world.after(1_000);
        world.reply(shared, ":1\r\n");
        world.reply(lane, CUT);
        assert_eq!(world.written(lane), request(&words));
        let asks: Vec<Event> = std::iter::from_fn(|| world.engine.next_event()).collect();
        assert!(!asks.iter().any(|event| matches!(event, Event::Refresh(_))), "a map would send it on again: {asks:?}");
        world.after(10_000);
        publish(&mut world);
        assert_eq!(world.written(shared), "", "round {round}: it was asked a moment ago");
        assert_eq!(world.engine.load().owed, 1, "nothing piles up behind it");
        world.after(2_000_000);
        assert_eq!(world.written(shared), unblock, "round {round}: the stream may have gone meanwhile");
    }
    assert_eq!(world.told(client), "");
}

#[test]
fn a_stream_that_went_away_is_looked_for_at_its_owner() {
    for (answer, told) in [
        (
            "-NOGROUP No such key 'q' or consumer group 'g' in XREADGROUP with GROUP option\r\n",
            "-UNBLOCKED the stream key no longer exists\r\n",
        ),
        ("*1\r\n$1\r\nx\r\n", "*1\r\n$1\r\nx\r\n"),
    ] {
        let mut world = World::new();
        let words = ["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "q", ">"];
        let client = world.client(&words);
        let lane = world.private();
        world.written(lane);
        world.after(1_000_000);
        world.reply(lane, "-UNBLOCKED the stream key no longer exists\r\n");
        assert_eq!(world.told(client), "");
        assert_eq!(world.written(lane), request(&words));
        world.reply(lane, answer);
        assert_eq!(world.told(client), told);
    }
}

#[test]
fn nothing_behind_it_is_carried_out_and_its_end_is_seen() {
    let mut world = World::new();
    let client = world.client(&["BLPOP", "q", "0"]);
    let lane = world.private();
    world.written(lane);
    world.ask(client, &["SET", "z", "1"]);
    world.no_dial();
    assert!(world.engine.client_reads(client), "or its end would not be seen");
    world.engine.client_eof(client);
    let events: Vec<Event> = std::iter::from_fn(|| world.engine.next_event()).collect();
    assert!(events.iter().any(|event| matches!(event, Event::CloseClient { client: closed } if *closed == client)), "{events:?}");
    world.engine.client_gone(client);
    let shared = world.dialled();
    assert_eq!(world.written(shared), request(&["CLIENT", "UNBLOCK", "7", "ERROR"]));
}
