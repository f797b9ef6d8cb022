//! A scripted client: what it is owed, and what it remembers of what it was told.

use std::collections::{HashMap, HashSet, VecDeque};

use keyway::engine::ClientId;

use crate::link::Stream;

/// What a reply must look like.
#[derive(Clone, Debug)]
pub enum Expect {
    Exact(Vec<u8>),
    Hello,
    /// +OK to a write of these keys.
    Written(Vec<String>),
    /// The length of a list, at least this client's own elements.
    Pushed(String),
    Text(String),
    Texts(Vec<String>),
    List(String),
    Count(usize),
    Counter(String),
    /// A script's own text, and the list that it pushed to.
    Script(String),
    Forged(Vec<u8>),
    Scan,
    Keys,
    Number,
    Sha(String),
    /// The name of no command.
    Unknown,
    Clients,
}

pub struct Owed {
    pub seq: u32,
    pub expect: Expect,
    pub sent_at: u64,
    pub write: bool,
    /// Its keys lie in one slot, so it is carried out wholly or not at all.
    pub one_slot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    /// It ended its own stream and still reads.
    HalfClosed,
    Closed,
}

pub struct Client {
    pub engine: usize,
    pub id: ClientId,
    pub life: Life,
    pub to_engine: Stream,
    pub to_client: Stream,
    pub received: Vec<u8>,
    pub owed: VecDeque<Owed>,
    pub seq: u32,
    pub left: u32,
    /// It reads nothing until this moment.
    pub stalled_until: u64,
    /// What this client pushed onto its lists and was told to be done.
    pub acked: HashMap<String, Vec<u32>>,
    /// What INCR answered, for each counter.
    pub counters: HashMap<String, HashSet<i64>>,
    pub scan: Option<(u64, HashSet<String>, u32)>,
    pub wants_close: bool,
    /// What it speaks, by the answers it has read.
    pub resp3: bool,
    /// The driver has more for it than it takes.
    pub write_waits: bool,
    pub answered: u64,
}

impl Client {
    pub fn new(engine: usize, id: ClientId, left: u32) -> Client {
        Client {
            engine,
            id,
            life: Life::Open,
            to_engine: Stream::default(),
            to_client: Stream::default(),
            received: Vec::new(),
            owed: VecDeque::new(),
            seq: 0,
            left,
            stalled_until: 0,
            acked: HashMap::new(),
            counters: HashMap::new(),
            scan: None,
            wants_close: false,
            resp3: false,
            write_waits: false,
            answered: 0,
        }
    }

    pub fn is_scanning(&self) -> bool {
        self.scan.is_some()
    }
}
