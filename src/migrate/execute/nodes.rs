//! The nodes of a leg: which of a shard's members is its master now, and a connection to it.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::timeout;

use super::fence::Fence;
use super::halt::End;
use super::patience::Trip;
use super::{Event, Halt, Leg, Listener, Shard};
use crate::cluster::{Addr, Role, SlotMap};
use crate::control::{Connection, ControlError, Dialer, Pipeline, Reply};
use crate::migrate::SlotSet;
use crate::migrate::inventory::{Fields, Server};
use crate::topology::TopologyHandle;

/// How long a fresh map is waited for before the present one has to do.
const FRESH_MAP_WAIT: Duration = Duration::from_secs(1);

/// For a node that does not tell its own.
const NODE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

/// A connection to a node, with what it said of itself.
pub(super) struct Node {
    pub id: Arc<str>,
    pub server: Server,
    /// Another one, when it was started anew.
    pub run: String,
    /// How many databases a slot's keys may lie in.
    pub databases: u32,
    /// `cluster-node-timeout`: a node that is blocked for longer is taken for dead.
    pub node_timeout: Duration,
    pub connection: Connection,
    /// Where the driver's token lies; the inner `None`: nowhere. The outer: nobody has looked yet.
    pub fence_key: Option<Option<String>>,
    /// What the connection has selected.
    database: Option<u32>,
}

impl Node {
    async fn dial(dialer: &Dialer, addr: &Addr, id: &Arc<str>, end: End) -> Result<Node, Trip> {
        let lost = Trip::lost(end, id);
        let mut connection = dialer.dial(addr).await.map_err(&lost)?;
        let mut questions = Pipeline::new();
        questions.push(["CLUSTER", "MYID"]).push(["INFO", "server"]);
        for setting in ["cluster-databases", "cluster-node-timeout"] {
            questions.push(["CONFIG", "GET", setting]);
        }
        let replies = connection.call_many(&questions).await.map_err(&lost)?;
        if text(&replies[0]) != **id {
            let why = format!("expected it at {addr}, found {}", text(&replies[0]));
            return Err(Trip::Lost { end, node: id.clone(), why });
        }
        let info = Fields::parse(&text(&replies[1]));
        let (server, run) = (Server::of(&info), info.get("run_id").unwrap_or_default().to_owned());
        let databases = setting(&replies[2]).unwrap_or(1).clamp(1, 10_000) as u32;
        let node_timeout = setting(&replies[3]).map_or(NODE_TIMEOUT_DEFAULT, Duration::from_millis);
        Ok(Node { id: id.clone(), server, run, databases, node_timeout, connection, fence_key: None, database: Some(0) })
    }

    /// Switches to a database, if it is not selected already.
    pub async fn select(&mut self, database: u32) -> Result<(), ControlError> {
        if self.databases > 1 && self.database != Some(database) {
            self.connection.call(["SELECT", &database.to_string()]).await?;
            self.database = Some(database);
        }
        Ok(())
    }

    /// Somebody is about to select others, and may not come to the end of it.
    pub fn forget_database(&mut self) {
        self.database = None;
    }
}

/// The text of a string, an error or a number; nothing for all else.
pub(super) fn text(reply: &Reply) -> String {
    match reply {
        Reply::BulkString(bytes) | Reply::SimpleString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Error(text) => text.to_string(),
        Reply::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}

/// The number in an answer of CONFIG GET.
fn setting(reply: &Reply) -> Option<u64> {
    let Reply::Array(pair) = reply else { return None };
    text(pair.get(1)?).parse().ok()
}

struct Place {
    shard: Shard,
    node: Option<Node>,
}

/// See the module's head.
pub(super) struct Nodes {
    topology: TopologyHandle,
    pub dialer: Dialer,
    now_us: Arc<dyn Fn() -> u64 + Send + Sync>,
    fence: Option<Fence>,
    ends: Option<[Place; 2]>,
    /// The leg's slots.
    pub moving: SlotSet,
    /// The other masters.
    pub others: FxHashMap<Arc<str>, Connection>,
    /// The map was of no help: the next look must be a new one.
    doubted: bool,
}

impl Nodes {
    pub fn new(topology: TopologyHandle, dialer: Dialer, now_us: Arc<dyn Fn() -> u64 + Send + Sync>) -> Nodes {
        Nodes {
            topology,
            dialer,
            now_us,
            fence: None,
            ends: None,
            moving: SlotSet::new(),
            others: FxHashMap::default(),
            doubted: false,
        }
    }

    /// Turns to a leg. Connections to the same nodes are kept, unless somebody else's token is on them.
    pub fn begin(&mut self, leg: &Leg, fence: &Fence) {
        let same_token = self.fence.as_ref().is_some_and(|old| old.token == fence.token);
        let mut kept: Vec<Node> = self.ends.take().into_iter().flatten().filter_map(|place| place.node).collect();
        if !same_token {
            kept.clear();
            self.others.clear();
        }
        // The slot that a token lies in may be one of those that move now.
        kept.iter_mut().for_each(|node| node.fence_key = None);
        self.moving = leg.slots.iter().copied().collect();
        let mut place = |shard: &Shard| Place {
            shard: shard.clone(),
            node: kept.iter().position(|node| node.id == shard.id).map(|index| kept.swap_remove(index)),
        };
        self.ends = Some([place(&leg.source), place(&leg.target)]);
        self.fence = Some(fence.clone());
    }

    pub fn fence(&self) -> Result<&Fence, Halt> {
        self.fence.as_ref().ok_or(Halt::Fenced)
    }

    pub fn token(&self) -> Option<u64> {
        self.fence.as_ref().map(|fence| fence.token)
    }

    pub fn shards(&self) -> Option<(&Shard, &Shard)> {
        let [source, target] = self.ends.as_ref()?;
        Some((&source.shard, &target.shard))
    }

    /// Both ends' connections, as far as there are any, with their shards.
    pub fn pair(&mut self) -> Option<(&Shard, &mut Node, &Shard, &mut Node)> {
        let [source, target] = self.ends.as_mut()?;
        Some((&source.shard, source.node.as_mut()?, &target.shard, target.node.as_mut()?))
    }

    pub fn node(&mut self, end: End) -> Option<&mut Node> {
        self.ends.as_mut()?[end as usize].node.as_mut()
    }

    /// The id of an end's master, as last known.
    pub fn id(&self, end: End) -> Arc<str> {
        self.ends.as_ref().map_or_else(|| "".into(), |ends| ends[end as usize].shard.id.clone())
    }

    /// An end is not what it was: it is looked for, and dialled, anew.
    pub fn forget(&mut self, end: End) {
        if let Some(ends) = &mut self.ends {
            ends[end as usize].node = None;
        }
        self.doubted = true;
    }

    /// The present map, or a newer one when the present one was no help.
    pub async fn map(&mut self) -> Result<Arc<SlotMap>, Halt> {
        if std::mem::take(&mut self.doubted) {
            let now = (self.now_us)();
            if let Ok(Some(map)) = timeout(FRESH_MAP_WAIT, self.topology.confirmed_since(now)).await {
                return Ok(map);
            }
        }
        self.topology.current().ok_or(Halt::NoCluster)
    }

    /// Sees to it that both ends are connected to their shards' present masters.
    pub async fn connect(&mut self, tell: Listener<'_>) -> Result<(), Trip> {
        for end in [End::Source, End::Target] {
            let settled = self.node(end).is_some_and(|node| node.connection.is_settled());
            if !settled {
                self.connect_end(end, tell).await.inspect_err(|_| self.doubted = true)?;
            }
        }
        self.raise_tokens().await
    }

    async fn connect_end(&mut self, end: End, tell: Listener<'_>) -> Result<(), Trip> {
        let map = self.map().await?;
        let Some([source, target]) = &mut self.ends else { return Err(Trip::Halt(Halt::NoCluster)) };
        let (place, other) = match end {
            End::Source => (source, &target.shard),
            End::Target => (target, &source.shard),
        };
        place.node = None;
        let Some(index) = master_of(&map, &place.shard, other) else {
            let why = "its shard has no live master".to_owned();
            return Err(Trip::Lost { end, node: place.shard.id.clone(), why });
        };
        let found = map.node(index);
        place.shard.members.insert(found.id.clone());
        place.shard.members.extend(map.replicas(index).map(|replica| map.node(replica).id.clone()));
        if found.id != place.shard.id {
            tell(Event::FailedOver { from: place.shard.id.clone(), to: found.id.clone() });
            place.shard.id = found.id.clone();
        }
        let mut node = Node::dial(&self.dialer, &found.addr, &found.id, end).await?;
        let fence = self.fence.as_ref().ok_or(Halt::Fenced)?;
        if !fence.admit(&mut node.connection).await.map_err(Trip::lost(end, &node.id))? {
            return Err(Trip::Halt(Halt::Fenced));
        }
        place.node = Some(node);
        Ok(())
    }
}

/// The master of a shard now: the one of the plan while it lives and is one; else, of its members that are masters and live, the one
/// that was elected last. A source that has given its last slot away becomes the target's replica: it stands for itself.
pub(in crate::migrate) fn master_of(map: &SlotMap, shard: &Shard, other: &Shard) -> Option<u16> {
    let live_master = |index: &u16| map.node(*index).is_master() && !map.node(*index).failed;
    let own = map.find_id(&shard.id);
    if let Some(index) = own.filter(live_master) {
        return Some(index);
    }
    let members = map.indexes().filter(|index| shard.members.contains(&map.node(*index).id));
    let follows = own.and_then(|index| match &map.node(index).role {
        Role::Replica { of } => Some(of),
        Role::Master => None,
    });
    if let Some(of) = follows {
        return if other.members.contains(of) { own } else { map.find_id(of).filter(live_master) };
    }
    members.filter(live_master).max_by_key(|index| map.node(*index).epoch)
}
