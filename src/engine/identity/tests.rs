//! Logins against a node made of texts.

use std::{io::IoSlice, sync::Arc};

use crate::{
    access::Throttle,
    cluster::{Addr, Node, Persona, Role, SlotMap},
    engine::{ClientId, Engine, Event, LaneId, RefreshCause, Scripts, Settings},
    resp::encode,
};

/// The answers to the greeting of a private lane: its user is who he says, and the lane has this number.
const LET_IN: &[u8] = b"+OK\r\n:5\r\n";
const WRONG: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// An engine with clients and one node, and what they said to each other.
struct World {
    engine: Engine,
    now: u64,
}

fn map(version: u64, locked: bool) -> Arc<SlotMap> {
    let node = Node {
        id: "node".into(),
        addr: Addr::new("127.0.0.1", 7000),
        aliases: Vec::new(),
        role: Role::Master,
        failed: false,
        epoch: 1,
        cursor_has_slot: false,
    };
    let persona = Persona { version: "7.0.15".into(), ..Persona::default() };
    let mut map = SlotMap::new(version, version, vec![node], &[(0, 16383, 0)], persona);
    map.default_locked = locked;
    Arc::new(map)
}

impl World {
    fn new(settings: Settings) -> World {
        World { engine: Engine::new(settings, Arc::new(Scripts::new(0)), 1, 0), now: 0 }
    }

    fn locked() -> World {
        let mut world = World::new(Settings::default());
        world.engine.map_published(map(1, true));
        world
    }

    fn client(&mut self) -> ClientId {
        self.engine.client_open(1, "10.0.0.1:1", "127.0.0.1:2")
    }

    fn ask(&mut self, client: ClientId, words: &[&str]) {
        let mut frame = Vec::new();
        encode::command(&mut frame, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        self.engine.client_bytes(client, &frame);
    }

    /// The lane that is dialled next, connected.
    fn dialled(&mut self) -> LaneId {
        loop {
            match self.engine.next_event() {
                Some(Event::Dial { lane, .. }) => {
                    assert!(self.engine.lane_connected(lane));
                    return lane;
                }
                Some(_) => {}
                None => panic!("no lane is dialled"),
            }
        }
    }

    /// What is to be written to a lane, all of it, as text.
    fn sent(&mut self, lane: LaneId) -> String {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = self.engine.lane_chunks(lane, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        self.engine.lane_wrote(lane, bytes.len());
        String::from_utf8(bytes)
            .expect("text")
            .split("\r\n")
            .filter(|line| !line.starts_with(['*', '$']))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn told(&mut self, client: ClientId) -> String {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = self.engine.client_chunks(client, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        self.engine.client_wrote(client, bytes.len());
        String::from_utf8(bytes).expect("text")
    }

    fn log_in(&mut self, client: ClientId, password: &str) -> LaneId {
        self.ask(client, &["AUTH", "app", password]);
        let lane = self.dialled();
        assert_eq!(self.sent(lane), format!("AUTH app {password} CLIENT ID "));
        self.engine.lane_bytes(lane, LET_IN);
        assert_eq!(self.sent(lane), format!("AUTH app {password} "), "the request itself, once the greeting was taken");
        self.engine.lane_bytes(lane, b"+OK\r\n");
        assert_eq!(self.told(client), "+OK\r\n");
        lane
    }

    fn pass(&mut self, us: u64) {
        self.now += us;
        self.engine.set_now(self.now);
        self.engine.tick();
    }

    fn closed(&mut self) -> Vec<LaneId> {
        let mut closed = Vec::new();
        while let Some(event) = self.engine.next_event() {
            if let Event::CloseLane { lane } = event {
                closed.push(lane);
            }
        }
        closed
    }
}

#[test]
fn a_refused_greeting_is_the_answer_and_no_fault_of_the_node() {
    let mut world = World::locked();
    let client = world.client();
    world.ask(client, &["AUTH", "app", "wrong"]);
    let lane = world.dialled();
    world.sent(lane);
    world.engine.lane_bytes(lane, WRONG);
    assert_eq!(world.told(client).as_bytes(), WRONG);
    assert_eq!(world.closed(), [lane]);
    let counters = world.engine.counters;
    assert_eq!((counters.failed_logins, counters.broken_lanes, counters.lost_lanes), (1, 0, 0));
    // The node is dialled at once for the next, and the client is who it was: nobody.
    world.ask(client, &["GET", "k"]);
    assert_eq!(world.told(client), "-NOAUTH Authentication required.\r\n");
    world.log_in(client, "right");
    assert_eq!(world.engine.counters.logins, 1);
}

#[test]
fn what_follows_an_auth_waits_for_it_and_rides_its_lanes() {
    let mut world = World::locked();
    let client = world.client();
    world.ask(client, &["AUTH", "app", "right"]);
    world.ask(client, &["GET", "k"]);
    let lane = world.dialled();
    assert_eq!(world.sent(lane), "AUTH app right CLIENT ID ");
    world.engine.lane_bytes(lane, LET_IN);
    world.sent(lane);
    world.engine.lane_bytes(lane, b"+OK\r\n");
    let shared = world.dialled();
    assert_eq!(world.sent(shared), "AUTH app right ");
    world.engine.lane_bytes(shared, b"+OK\r\n");
    assert_eq!(world.sent(shared), "GET k ");
    world.engine.lane_bytes(shared, b"$1\r\nv\r\n");
    assert_eq!(world.told(client), "+OK\r\n$1\r\nv\r\n");
}

#[test]
fn a_user_who_is_deleted_under_way_is_told_and_let_go() {
    let mut world = World::locked();
    let client = world.client();
    world.log_in(client, "right");
    world.ask(client, &["GET", "k"]);
    let shared = world.dialled();
    world.sent(shared);
    world.engine.lane_bytes(shared, WRONG);
    assert_eq!(world.told(client).as_bytes(), WRONG);
    assert!(
        std::iter::from_fn(|| world.engine.next_event())
            .any(|event| matches!(event, Event::CloseClient { client: closed } if closed == client))
    );
}

#[test]
fn a_users_place_is_given_to_another_only_when_its_lanes_are_closed() {
    let mut world = World::locked();
    let first = world.client();
    let lane = world.log_in(first, "one");
    world.engine.client_gone(first);
    world.pass(2_000_000);
    assert_eq!(world.closed(), [], "kept for whoever comes again");
    let again = world.client();
    world.ask(again, &["AUTH", "app", "one"]);
    assert_eq!(world.sent(lane), "AUTH app one ", "its lane is found again, and the password is looked at again");
    world.engine.lane_bytes(lane, WRONG);
    assert_eq!(world.told(again).as_bytes(), WRONG, "it was changed meanwhile");
    world.engine.client_gone(again);
    world.pass(60_000_000);
    assert_eq!(world.closed(), [lane]);
    let other = world.client();
    world.ask(other, &["AUTH", "other", "two"]);
    let lane = world.dialled();
    assert_eq!(world.sent(lane), "AUTH other two CLIENT ID ");
}

#[test]
fn a_default_user_that_turns_out_to_need_a_password() {
    let mut world = World::new(Settings::default());
    world.engine.map_published(map(1, false));
    let client = world.client();
    world.ask(client, &["GET", "k"]);
    let lane = world.dialled();
    assert_eq!(world.sent(lane), "GET k ", "nothing is said first, and least of all the proxy's own password");
    world.engine.lane_bytes(lane, b"-NOAUTH Authentication required.\r\n");
    assert_eq!(world.told(client), "-NOAUTH Authentication required.\r\n");
    assert!(matches!(world.engine.next_event(), Some(Event::Refresh(RefreshCause::DefaultUser))));
    world.engine.map_published(map(2, true));
    let late = world.client();
    world.ask(late, &["GET", "k"]);
    assert_eq!(world.told(late), "-NOAUTH Authentication required.\r\n");
    world.engine.map_published(map(3, false));
    world.ask(late, &["PING"]);
    assert_eq!(world.told(late), "+PONG\r\n", "nobody has to say anything any more");
}

#[test]
fn a_stranger_sends_little_also_before_anything_is_known() {
    let large = b"*2\r\n$4\r\nECHO\r\n$20000\r\nx";
    let mut world = World::new(Settings::default());
    let [early, late] = [world.client(), world.client()];
    world.engine.client_bytes(early, large);
    assert_eq!((world.told(early).as_str(), world.engine.client_reads(early)), ("", false), "it waits until it is known");
    world.engine.map_published(map(1, true));
    assert_eq!(world.told(early), "-ERR Protocol error: unauthenticated bulk length\r\n");
    world.engine.client_bytes(late, b"*11\r\n");
    assert_eq!(world.told(late), "-ERR Protocol error: unauthenticated multibulk length\r\n");

    let mut world = World::new(Settings::default());
    let client = world.client();
    world.engine.client_bytes(client, large);
    world.engine.map_published(map(1, false));
    assert!(world.engine.client_reads(client));
    world.engine.client_bytes(client, &[&[b'x'; 19_999][..], b"\r\n"].concat());
    assert!(world.told(client).starts_with("$20000\r\n"), "it was no stranger after all");
}

#[test]
fn an_address_with_too_many_wrong_passwords_is_not_asked_about() {
    let mut world = World::new(Settings { throttle: Arc::new(Throttle::new(2, 1_000_000)), ..Settings::default() });
    world.engine.map_published(map(1, true));
    let client = world.client();
    for password in ["one", "two"] {
        world.ask(client, &["AUTH", "app", password]);
        let lane = world.dialled();
        world.engine.lane_bytes(lane, WRONG);
        assert_eq!(world.told(client).as_bytes(), WRONG);
    }
    world.closed();
    world.ask(client, &["HELLO", "3", "AUTH", "app", "three"]);
    assert!(world.told(client).starts_with("-ERR proxy: too many wrong passwords from this address"));
    assert!(world.engine.next_event().is_none());
    world.pass(1_000_000);
    world.log_in(client, "right");
}

#[test]
fn nobody_reaches_other_clients_before_it_is_known_who_is_a_stranger() {
    for words in
        [&["CLIENT", "KILL", "ID", "1"][..], &["CLIENT", "LIST"], &["CLIENT", "PAUSE", "100"], &["CLIENT", "UNBLOCK", "1"]]
    {
        let mut world = World::new(Settings::default());
        let client = world.client();
        world.ask(client, words);
        assert_eq!(world.told(client), "", "{words:?}");
        world.engine.map_published(map(1, true));
        let lane = world.dialled();
        assert_eq!(world.sent(lane), "PING ");
        world.engine.lane_bytes(lane, b"+PONG\r\n");
        assert_eq!(world.told(client), "-NOAUTH Authentication required.\r\n", "{words:?}");
    }
}
