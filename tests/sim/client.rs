//! A scripted client: what it is owed, and what it remembers of what it was told.

use std::collections::{HashMap, HashSet, VecDeque};

use keyway::engine::ClientId;

use crate::{channels::Kind, identities::Since, link::Stream, listeners::Ears, queues::Shape, users::User};

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
    /// An error that begins so.
    Refused(String),
    /// MULTI's OK.
    Begun,
    Queued,
    /// EXEC's array, of this transaction.
    Unit(usize),
    Watched,
    /// The value that a transaction will replace.
    Compare(String),
    /// Texts, the last of a key that may last from the world's beginning.
    Lasting(Vec<String>),
    /// The length of a queue.
    Job(String),
    /// An element of one of these lists, or null, at once or when the time is over.
    Popped {
        keys: Vec<String>,
        timeout_us: Option<u64>,
        shape: Shape,
    },
    /// An element that went into a list of this request's own.
    Handed {
        own: String,
        timeout_us: u64,
    },
    /// How many heard it, of one channel.
    Published(String),
    /// A topic that is listened to now, or not any more; and to how many.
    Confirmed {
        word: &'static str,
        kind: Kind,
        name: Option<String>,
        count: i64,
        begins: bool,
    },
    /// It is this user from now on.
    Named {
        user: User,
        hello: bool,
    },
    Scan,
    Keys,
    Number,
    Sha(String),
    /// The name of no command.
    Unknown,
    Clients,
}

impl Expect {
    /// Whether it may take as long as its client wishes.
    pub fn waits(&self) -> bool {
        matches!(self, Expect::Popped { timeout_us: Some(_), .. } | Expect::Handed { .. })
    }
}

/// A request that a client has decided on.
pub struct Planned {
    pub args: Vec<Vec<u8>>,
    pub expect: Expect,
    pub write: bool,
}

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Worker,
    /// Listens in RESP2, and does nothing else while it does.
    Listener,
    /// Listens in RESP3, among other things.
    Both,
}

pub struct Owed {
    pub seq: u32,
    pub expect: Expect,
    pub sent_at: u64,
    pub write: bool,
    /// Its keys lie in one slot, so it is carried out wholly or not at all.
    pub one_slot: bool,
    /// One of its client's users may not do it.
    pub forbidden: bool,
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
    pub public_id: u64,
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
    pub role: Role,
    /// What it asks next, whatever else it would.
    pub planned: VecDeque<Planned>,
    /// It asks nothing before it has an answer.
    pub compares: bool,
    pub awaits_name: bool,
    pub watch_failed: bool,
    /// A command of its transaction was not queued, for no fault of its own.
    pub spoiled: bool,
    /// Its MULTI failed: what it is told since means nothing to it, and it is about to go.
    pub confused: bool,
    pub ears: Ears,
    /// Who it is, from which request on.
    pub names: Vec<Since>,
    /// What it will speak when all is answered.
    pub asks_resp3: bool,
    /// What it speaks, by the answers it has read.
    pub resp3: bool,
    /// The driver has more for it than it takes.
    pub write_waits: bool,
    pub answered: u64,
}

impl Client {
    pub fn new(engine: usize, id: ClientId, public_id: u64, left: u32) -> Client {
        Client {
            engine,
            id,
            public_id,
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
            role: Role::Worker,
            planned: VecDeque::new(),
            compares: false,
            awaits_name: false,
            watch_failed: false,
            spoiled: false,
            confused: false,
            ears: Ears::default(),
            names: Vec::new(),
            asks_resp3: false,
            resp3: false,
            write_waits: false,
            answered: 0,
        }
    }

    /// Whether it has asked and heard all that it wanted.
    pub fn is_done(&self) -> bool {
        self.left == 0
            && self.owed.is_empty()
            && self.planned.is_empty()
            && !self.compares
            && !self.awaits_name
            && !self.ears.are_owed()
    }

    pub fn is_scanning(&self) -> bool {
        self.scan.is_some()
    }
}
