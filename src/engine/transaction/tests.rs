//! One client and one node, whose part the test plays byte by byte.

use std::{io::IoSlice, sync::Arc};

use super::CrossSlot;
use crate::{
    cluster::{Addr, Node, Persona, Role, Slot, SlotMap},
    engine::{ClientId, Engine, Event, LaneId, Scripts, Settings},
    resp::encode,
};

/// What the node says to a check of a command that it would queue.
const WELL: &str =
    "+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n";

struct World {
    engine: Engine,
    client: ClientId,
    /// The youngest lane.
    lane: Option<LaneId>,
    now: u64,
}

impl World {
    fn new(cross_slot_transactions: CrossSlot) -> World {
        let settings = Settings { cross_slot_transactions, ..Settings::default() };
        let mut engine = Engine::new(settings, Arc::new(Scripts::new(10_000)), 1, 0);
        let node = |port: u16| Node {
            id: port.to_string().as_str().into(),
            addr: Addr::new("127.0.0.1", port),
            aliases: Vec::new(),
            role: Role::Master,
            failed: false,
            epoch: 1,
            cursor_has_slot: false,
        };
        let nodes = vec![node(7000), node(7001)];
        engine.map_published(Arc::new(SlotMap::new(1, 0, nodes, &[(0, 16383, 0)], Persona::default())));
        let client = engine.client_open(1, "127.0.0.1:1", "127.0.0.1:2");
        World { engine, client, lane: None, now: 0 }
    }

    /// The client sends these lines, in one piece.
    fn send(&mut self, lines: &str) {
        let mut bytes = Vec::new();
        for line in lines.split("; ") {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            encode::command(&mut bytes, &words);
        }
        self.engine.client_bytes(self.client, &bytes);
    }

    fn later(&mut self, us: u64) {
        self.now += us;
        self.engine.set_now(self.now);
        self.engine.tick();
    }

    /// What the node of the youngest lane is sent now, as words.
    fn reads(&mut self) -> String {
        while let Some(event) = self.engine.next_event() {
            if let Event::Dial { lane, .. } = event {
                self.lane = Some(lane);
                self.engine.lane_connected(lane);
            }
        }
        let Some(lane) = self.lane else { return String::new() };
        let text = self.reads_on(lane);
        if text != "; CLIENT ID" {
            return text;
        }
        // A private lane asks for its number first.
        self.answers(":7\r\n");
        self.reads_on(lane)
    }

    fn reads_on(&mut self, lane: LaneId) -> String {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = self.engine.lane_chunks(lane, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        self.engine.lane_wrote(lane, bytes.len());
        let text = String::from_utf8(bytes).expect("the tests send text");
        let words = text.split("\r\n").filter(|line| !line.starts_with('$') && !line.is_empty());
        words.map(|word| if word.starts_with('*') { ";" } else { word }).collect::<Vec<_>>().join(" ")
    }

    fn answers(&mut self, bytes: &str) {
        let lane = self.lane.expect("a lane was dialled");
        self.engine.lane_bytes(lane, bytes.as_bytes());
    }

    fn loses_lane(&mut self) {
        let lane = self.lane.take().expect("a lane was dialled");
        self.engine.lane_lost(lane);
        self.later(20_000);
    }

    /// What the client is told.
    fn told(&mut self) -> String {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = self.engine.client_chunks(self.client, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        self.engine.client_wrote(self.client, bytes.len());
        String::from_utf8(bytes).expect("the tests answer text")
    }

    /// Lets the node agree to MULTI and to each kind of command once, so that what follows is queued at once.
    fn prepared(cross_slot: CrossSlot, commands: &str) -> World {
        let mut world = World::new(cross_slot);
        world.send("MULTI");
        assert_eq!(world.reads(), "; MULTI ; EXEC x");
        world.answers(&WELL.replace("+QUEUED\r\n", ""));
        assert_eq!(world.told(), "+OK\r\n");
        for command in commands.split("; ") {
            world.send(command);
            assert_eq!(world.reads(), format!("; MULTI ; {command} ; EXEC x"));
            world.answers(WELL);
            assert_eq!(world.told(), "+QUEUED\r\n");
        }
        world.send("DISCARD");
        assert_eq!(world.told(), "+OK\r\n");
        world
    }
}

#[test]
fn a_transaction_is_one_unit_and_its_reply_is_the_servers() {
    let mut world = World::prepared(CrossSlot::Reject, "SET {t}a 1; GET {t}b");
    world.send("MULTI; SET {t}a 1; GET {t}b");
    assert_eq!((world.reads().as_str(), world.told().as_str()), ("", "+OK\r\n+QUEUED\r\n+QUEUED\r\n"));
    world.send("EXEC; GET {t}a");
    assert_eq!(world.reads(), "; MULTI ; SET {t}a 1 ; GET {t}b ; EXEC ; GET {t}a");
    world.answers("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n-MOVED 1 127.0.0.1:7001\r\n$1\r\n1\r\n");
    assert_eq!(world.told(), "*2\r\n+OK\r\n-MOVED 1 127.0.0.1:7001\r\n$1\r\n1\r\n", "an element is no redirect");
    assert_eq!(world.engine.load().owed, 0);
}

#[test]
fn what_is_not_well_is_the_servers_word_and_aborts() {
    let mut world = World::prepared(CrossSlot::Reject, "GET a");
    for (command, error, aborts) in [
        ("NOSUCH", "-ERR unknown command\r\n", true),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n", true),
        ("MULTI", "-ERR MULTI calls can not be nested\r\n", false),
        ("MULTI", "-ERR Command 'multi' not allowed inside a transaction\r\n", true),
        ("WATCH a", "-ERR WATCH inside MULTI is not allowed\r\n", false),
    ] {
        world.send(&format!("MULTI; {command}; EXEC"));
        if command == "NOSUCH" {
            assert_eq!(world.reads(), "; COMMAND INFO NOSUCH");
            world.answers("*1\r\n*-1\r\n");
        }
        assert_eq!(world.reads(), format!("; MULTI ; {command} ; EXEC x"));
        world.answers(&WELL.replace("+QUEUED\r\n", error));
        let end = if aborts { "-EXECABORT Transaction discarded because of previous errors.\r\n" } else { "*0\r\n" };
        assert_eq!(world.told(), format!("+OK\r\n{error}{end}"), "{command}");
        assert_eq!(world.reads(), "", "{command}");
    }
}

/// What the node says to the unit, what it is sent next, and what the client is told after that was answered with success.
#[test]
fn a_unit_that_was_refused_is_sent_again_whole() {
    let slot = Slot::of(b"a").get();
    let unit = "; MULTI ; INCR a ; EXEC";
    let [ask, moved] = ["ASK", "MOVED"].map(|word| format!("-{word} {slot} 127.0.0.1:7001\r\n"));
    let abort = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    let check = |answer: &str, resent: &str, leads: usize| {
        let mut world = World::prepared(CrossSlot::Reject, "INCR a");
        world.send("MULTI; INCR a; EXEC");
        assert_eq!((world.reads().as_str(), world.told().as_str()), (unit, "+OK\r\n+QUEUED\r\n"));
        world.answers(answer);
        let mut again = world.reads();
        for _ in 0..3 {
            if again.is_empty() {
                world.later(5_000);
                again = world.reads();
            }
        }
        assert_eq!(again, resent, "{answer}");
        world.answers(&format!("{}*1\r\n:1\r\n", "+OK\r\n".repeat(leads)));
        assert_eq!(world.told(), "*1\r\n:1\r\n", "{answer}");
    };
    let asking = format!("; ASKING {unit}");
    check(&format!("+OK\r\n{ask}{abort}"), &asking, 3);
    check(&format!("+OK\r\n+QUEUED\r\n{ask}"), &asking, 3);
    check(&format!("+OK\r\n{moved}{abort}"), unit, 2);
    check(&format!("+OK\r\n+QUEUED\r\n{moved}"), unit, 2);
    check("+OK\r\n+QUEUED\r\n-TRYAGAIN Multiple keys request during rehashing of slot\r\n", unit, 2);
    check(&format!("+OK\r\n-CLUSTERDOWN The cluster is down\r\n{abort}"), unit, 2);
    check(&format!("+OK\r\n-LOADING Redis is loading the dataset in memory\r\n{abort}"), unit, 2);
}

#[test]
fn an_error_that_no_resend_heals_is_told_with_its_reason() {
    let mut world = World::prepared(CrossSlot::Reject, "INCR a");
    world.send("MULTI; INCR a; EXEC");
    world.reads();
    world.answers("+OK\r\n-OOM command not allowed\r\n-EXECABORT Transaction discarded because of previous errors.\r\n");
    let told = world.told();
    assert!(
        told.ends_with(
            "-EXECABORT Transaction discarded because of previous errors. (proxy: a node said: OOM command not allowed)\r\n"
        ),
        "{told}"
    );
}

#[test]
fn a_lost_lane_is_an_unknown_outcome_only_for_what_was_written_and_writes() {
    let check = |command: &str, written: bool, expected: &str| {
        let mut world = World::prepared(CrossSlot::Reject, command);
        world.send(&format!("MULTI; {command}; EXEC"));
        if written {
            assert_eq!(world.reads(), format!("; MULTI ; {command} ; EXEC"));
        }
        world.told();
        world.loses_lane();
        if expected.starts_with(';') {
            assert_eq!((world.reads().as_str(), world.told().as_str()), (expected, ""));
        } else {
            assert_eq!((world.reads().as_str(), world.told().as_str()), ("", expected));
        }
    };
    check("GET a", true, "; MULTI ; GET a ; EXEC");
    check("GET a", false, "; MULTI ; GET a ; EXEC");
    check("INCR a", false, "; MULTI ; INCR a ; EXEC");
    let unknown =
        "-ERR proxy: outcome unknown: the connection to the node broke after 'exec' was sent and before it was answered\r\n";
    check("INCR a", true, unknown);
}

#[test]
fn the_proxys_own_answers_stand_in_their_places_and_take_effect_with_exec() {
    let mut world = World::prepared(CrossSlot::Reject, "GET a; CLIENT GETNAME; CLIENT SETNAME x");
    world.send("MULTI; CLIENT SETNAME me; GET a; HELLO 3; GET a; CLIENT GETNAME; EXEC");
    assert_eq!(world.reads(), "; MULTI ; GET a ; HELLO 3 ; GET a ; HELLO 2 ; EXEC");
    world.told();
    world.answers("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*4\r\n$-1\r\n%0\r\n_\r\n*0\r\n");
    let told = world.told();
    assert!(told.starts_with("*5\r\n+OK\r\n$-1\r\n%7\r\n"), "{told}");
    assert!(told.ends_with("_\r\n$2\r\nme\r\n"), "{told}");
    // Nothing of an aborted transaction takes effect.
    world.send("MULTI; CLIENT SETNAME other; DISCARD; CLIENT GETNAME");
    assert_eq!(world.told(), "+OK\r\n+QUEUED\r\n+OK\r\n$2\r\nme\r\n");
}

/// A client that watches `a` and has queued INCR a.
fn watching() -> World {
    let mut world = World::prepared(CrossSlot::Reject, "INCR a");
    let shared = world.lane;
    world.send("WATCH a; MULTI; INCR a");
    assert_eq!((world.reads().as_str(), world.told().as_str()), ("; WATCH a", ""), "MULTI waits for WATCH");
    assert_ne!(world.lane, shared, "on a lane of its own");
    world.answers("+OK\r\n");
    assert_eq!(world.told(), "+OK\r\n+OK\r\n+QUEUED\r\n");
    world
}

#[test]
fn a_watch_ends_in_null_when_its_slot_node_or_lane_is_gone() {
    let slot = Slot::of(b"a").get();
    let abort = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    let check = |answer: &str, expected: &str| {
        let mut world = watching();
        world.send("EXEC; PING");
        assert_eq!(world.reads(), "; MULTI ; INCR a ; EXEC");
        world.answers(answer);
        assert_eq!(world.told(), format!("{expected}+PONG\r\n"), "{answer}");
        assert_eq!(world.reads(), "", "nothing is sent again");
    };
    check("+OK\r\n+QUEUED\r\n*1\r\n:1\r\n", "*1\r\n:1\r\n");
    check("+OK\r\n+QUEUED\r\n*-1\r\n", "*-1\r\n");
    check(&format!("+OK\r\n+QUEUED\r\n-MOVED {slot} 127.0.0.1:7001\r\n"), "*-1\r\n");
    check(&format!("+OK\r\n-ASK {slot} 127.0.0.1:7001\r\n{abort}"), "*-1\r\n");
    check("+OK\r\n+QUEUED\r\n-TRYAGAIN Multiple keys request during rehashing of slot\r\n", "*-1\r\n");
    check("+OK\r\n-READONLY You can't write against a read only replica.\r\n-EXECABORT x\r\n", "*-1\r\n");

    let mut world = watching();
    world.loses_lane();
    world.send("EXEC");
    assert_eq!(world.told(), "*-1\r\n", "the lane was lost before EXEC");
    let mut world = watching();
    world.send("EXEC");
    world.loses_lane();
    assert_eq!(world.told(), "*-1\r\n", "EXEC was not written");
    let mut world = watching();
    world.send("EXEC");
    world.reads();
    world.loses_lane();
    assert!(world.told().starts_with("-ERR proxy: outcome unknown"));
}

#[test]
fn a_lane_that_watches_is_given_back_clean() {
    for (command, sent, expected) in [
        ("DISCARD", "; UNWATCH", "+OK\r\n"),
        ("RESET", "", "+RESET\r\n"),
        ("EXEC x", "; UNWATCH", "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n"),
    ] {
        let mut world = watching();
        let lane = world.lane;
        let before = world.engine.load().lanes;
        world.send(command);
        assert_eq!(world.reads_on(lane.expect("watched")), sent, "{command}");
        if !sent.is_empty() {
            world.answers("+OK\r\n");
        }
        assert_eq!(world.told(), expected, "{command}");
        assert_eq!(world.engine.load().lanes, before - usize::from(sent.is_empty()), "{command}");
        world.send("WATCH b");
        world.reads();
        assert_eq!(world.lane == lane, !sent.is_empty(), "{command}: what was given back is used again");
    }
    let mut world = watching();
    let before = world.engine.load().lanes;
    world.engine.client_gone(world.client);
    assert_eq!((world.engine.load().lanes, world.engine.load().clients), (before - 1, 0), "the client is gone");
}

#[test]
fn a_watch_follows_redirects_before_there_is_anything_to_lose() {
    let slot = Slot::of(b"a").get();
    let mut world = World::new(CrossSlot::Reject);
    world.send("WATCH a; WATCH {a}b; WATCH b");
    assert_eq!(world.reads(), "; WATCH a");
    world.answers(&format!("-MOVED {slot} 127.0.0.1:7001\r\n"));
    assert_eq!(world.reads(), "; WATCH a");
    world.answers("+OK\r\n");
    assert_eq!(world.reads(), "; WATCH {a}b");
    world.answers(&format!("-MOVED {slot} 127.0.0.1:7000\r\n"));
    let told = world.told();
    assert!(told.starts_with("+OK\r\n+OK\r\n-CROSSSLOT Keys in request don't hash to the same slot (proxy: key 'a' in slot 15495 and key 'b' in slot 3300; "), "{told}");
    let watching = world.lane;
    world.send("MULTI; EXEC");
    assert_eq!(world.reads(), "; MULTI ; EXEC x");
    world.answers(&WELL.replace("+QUEUED\r\n", ""));
    world.lane = watching;
    assert_eq!((world.told().as_str(), world.reads().as_str()), ("+OK\r\n", "; UNWATCH"));
    world.answers("+OK\r\n");
    assert_eq!(world.told(), "*-1\r\n", "what was watched first went with the slot");
}

#[test]
fn slots_apart_are_refused_or_go_each_by_itself() {
    let mut world = World::prepared(CrossSlot::Reject, "SET a 1");
    world.send("MULTI; SET a 1; SET b 2; EXEC");
    let told = world.told();
    assert!(told.starts_with("+OK\r\n+QUEUED\r\n-CROSSSLOT Keys in request don't hash to the same slot (proxy: key 'a' in slot 15495 and key 'b' in slot 3300; "), "{told}");
    assert!(told.ends_with("-EXECABORT Transaction discarded because of previous errors.\r\n"), "{told}");
    assert_eq!(world.reads(), "");

    let mut world = World::prepared(CrossSlot::PerSlot, "SET a 1; TIME; DEL a");
    world.send("MULTI; TIME; SET b 2; SET a 1; SET b 3; EXEC");
    assert_eq!(world.reads(), "; MULTI ; TIME ; SET b 2 ; SET b 3 ; EXEC ; MULTI ; SET a 1 ; EXEC");
    world.told();
    world.answers("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n*0\r\n+b2\r\n+b3\r\n");
    world.answers("+OK\r\n-OOM x\r\n-EXECABORT y\r\n");
    let why = "-EXECABORT Transaction discarded because of previous errors. (proxy: a node said: OOM x)\r\n";
    assert_eq!(world.told(), format!("*4\r\n*0\r\n+b2\r\n{why}+b3\r\n"), "a part that fails is told in its place");
}

#[test]
fn a_message_goes_out_when_the_commands_are_carried_out() {
    let mut world = World::prepared(CrossSlot::Reject, "SET a 1; PUBLISH c m");
    world.send("MULTI; PUBLISH c first; SET a 1; PUBLISH c second; EXEC");
    assert_eq!(world.reads(), "; MULTI ; SET a 1 ; EXEC");
    world.answers("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!(world.reads(), "; PUBLISH c first ; PUBLISH c second");
    world.answers(":3\r\n:4\r\n");
    assert_eq!(world.told(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n:3\r\n+OK\r\n:4\r\n");
}

#[test]
fn a_message_of_a_transaction_that_is_not_carried_out_is_nobodys() {
    let mut world = World::prepared(CrossSlot::Reject, "SET a 1; PUBLISH c m");
    world.send("MULTI; SET a 1; PUBLISH c m; EXEC");
    assert_eq!(world.reads(), "; MULTI ; SET a 1 ; EXEC");
    world.answers("+OK\r\n-OOM command not allowed\r\n-EXECABORT Transaction discarded because of previous errors.\r\n");
    assert_eq!(world.reads(), "");
    let told = world.told();
    assert!(told.contains("-EXECABORT"), "{told}");
}

#[test]
fn messages_alone_need_no_unit() {
    let mut world = World::prepared(CrossSlot::Reject, "PUBLISH c m");
    world.send("MULTI; PUBLISH c m; EXEC");
    assert_eq!(world.reads(), "; PUBLISH c m");
    world.answers(":0\r\n");
    assert_eq!(world.told(), "+OK\r\n+QUEUED\r\n*1\r\n:0\r\n");
}
