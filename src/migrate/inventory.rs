//! The cluster as its nodes themselves tell it, all of them, at one moment. Pure: what is asked and how stands in `survey`.
//!
//! One node's view cannot show that two nodes claim a slot, nor where a half-moved slot is open: only the node that holds
//! a mark shows it. So nothing here is taken from one node on behalf of another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::{Addr, NodeFacts, NodesView, OpenMark, SLOT_COUNT, Slot};

/// The owner's id of each of the 16384 slots.
pub type Owners = Vec<Option<Arc<str>>>;

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Every node that the slot map or any node's view names, in the order of their ids.
    pub nodes: Vec<NodeReport>,
}

/// What became of asking one node.
#[derive(Clone, Debug)]
pub struct NodeReport {
    pub id: Arc<str>,
    /// Where it was asked.
    pub addr: Addr,
    /// Its answers, or in one line why there are none.
    pub told: Result<Box<Told>, String>,
}

/// What a node told of itself.
#[derive(Clone, Debug)]
pub struct Told {
    pub view: NodesView,
    pub server: Server,
    /// `CLUSTER INFO`.
    pub cluster: Fields,
    /// `INFO`, all default sections.
    pub info: Fields,
    /// `CONFIG GET` of what matters to a migration; `None` when the node does not let us ask.
    pub config: Option<Fields>,
    pub modules: BTreeSet<String>,
    /// SHA-1 of `FUNCTION DUMP`; `None` before 7.0, or when the node does not let us ask.
    pub functions: Option<String>,
    pub atomic: Atomic,
    /// Atomic migrations that have not ended, one line each.
    pub jobs: Vec<String>,
    /// Commands of a migration that the node does not let us give; masters only.
    pub denied: BTreeSet<&'static str>,
    /// How many databases a slot's keys may lie in.
    pub databases: u32,
    /// Keys in each of the 16384 slots, all databases together; masters only.
    pub keys: Option<Vec<u32>>,
}

/// Which software answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    pub valkey: bool,
    pub version: (u32, u32, u32),
}

impl Server {
    /// From `INFO server`. Valkey calls itself Redis 7.2.4 there, for clients that look.
    pub fn of(info: &Fields) -> Server {
        let valkey = info.get("server_name") == Some("valkey") || info.get("valkey_version").is_some();
        let version = info.get(if valkey { "valkey_version" } else { "redis_version" }).unwrap_or_default();
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        Server { valkey, version: (part(), part(), part()) }
    }

    /// Whether marks of open slots follow a failover, and the servers mend half-finished hand-overs themselves.
    pub fn replicates_marks(self) -> bool {
        self.valkey && self.version >= (8, 0, 0)
    }

    /// Whether the receiver of an open slot refuses every request while its source's shard fails over.
    pub fn target_goes_down_at_source_failover(self) -> bool {
        !self.valkey && self.version < (7, 4, 0)
    }

    /// Whether SETSLOT may stand in a script or a transaction: on Valkey it crashes a master that has replicas.
    pub fn setslot_in_script(self) -> bool {
        !(self.valkey && self.version >= (8, 0, 0))
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor, patch) = self.version;
        write!(f, "{} {major}.{minor}.{patch}", if self.valkey { "Valkey" } else { "Redis" })
    }
}

/// Whether a node can move whole slots by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomic {
    No,
    /// Valkey's `CLUSTER MIGRATESLOTS`.
    MigrateSlots,
    /// Redis's `CLUSTER MIGRATION`, which Keyway does not drive yet.
    Migration,
}

/// `name:value` lines, as INFO and CLUSTER INFO have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    pub fn parse(text: &str) -> Fields {
        let line = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim_end().to_owned()));
        Fields(text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    pub fn insert(&mut self, name: String, value: String) {
        self.0.insert(name, value);
    }

    /// The fields whose names begin so.
    pub fn starting<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        let all = self.0.range(prefix.to_owned()..);
        all.take_while(move |(name, _)| name.starts_with(prefix)).map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// One replica as its master sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaLink {
    pub addr: String,
    pub online: bool,
    /// Bytes of the replication stream that it has not confirmed.
    pub lag_bytes: u64,
}

impl Told {
    pub fn myself(&self) -> &NodeFacts {
        self.view.myself()
    }

    pub fn is_master(&self) -> bool {
        self.myself().flags.master
    }

    /// Its replicas, by its own `INFO replication`.
    pub fn replica_links(&self) -> Vec<ReplicaLink> {
        let offset = self.info.number("master_repl_offset").unwrap_or(0);
        let lines = self.info.starting("slave").filter(|(name, _)| name[5..].bytes().all(|byte| byte.is_ascii_digit()));
        let link = |line: &str| {
            let part = |name: &str| {
                line.split(',').find_map(|part| part.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
            };
            ReplicaLink {
                addr: format!("{}:{}", part("ip").unwrap_or("?"), part("port").unwrap_or("?")),
                online: part("state") == Some("online"),
                lag_bytes: offset.saturating_sub(part("offset").and_then(|text| text.parse().ok()).unwrap_or(0)),
            }
        };
        lines.map(|(_, line)| link(line)).collect()
    }

    /// All its keys.
    pub fn key_count(&self) -> u64 {
        self.keys.as_ref().map_or(0, |keys| keys.iter().map(|count| u64::from(*count)).sum())
    }

    /// Bytes that a key takes on average; what the data set takes, spread evenly.
    pub fn bytes_per_key(&self) -> u64 {
        let bytes = self.info.number("used_memory_dataset").or(self.info.number("used_memory")).unwrap_or(0);
        bytes / self.key_count().max(1)
    }
}

/// A slot that nodes name different owners for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    pub slot: Slot,
    /// Owner's id (none: "nobody"), and the nodes that say so.
    pub says: BTreeMap<Option<Arc<str>>, Vec<Arc<str>>>,
}

/// A mark of an open slot and the node that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub holder: Arc<str>,
    pub mark: OpenMark,
}

impl Inventory {
    /// The nodes that answered.
    pub fn answers(&self) -> impl Iterator<Item = (&NodeReport, &Told)> {
        self.nodes.iter().filter_map(|node| Some((node, node.told.as_deref().ok()?)))
    }

    /// The masters that answered, by their own word.
    pub fn masters(&self) -> impl Iterator<Item = (&NodeReport, &Told)> {
        self.answers().filter(|(_, told)| told.is_master())
    }

    pub fn find(&self, id: &str) -> Option<&NodeReport> {
        self.nodes.iter().find(|node| &*node.id == id)
    }

    /// What a node told, if it answered.
    pub fn told(&self, id: &str) -> Option<&Told> {
        self.find(id)?.told.as_deref().ok()
    }

    /// The node that a name means: its id or an unambiguous beginning of it (3 letters or more), its address, or its hostname.
    pub fn named(&self, name: &str) -> Result<&NodeReport, NotANode> {
        let hostname = |node: &&NodeReport| {
            node.told.as_ref().is_ok_and(|told| {
                let me = told.myself();
                me.hostname.as_deref() == Some(name)
                    || me.hostname.as_ref().is_some_and(|host| format!("{host}:{}", me.port) == name)
            })
        };
        let exact = |node: &&NodeReport| &*node.id == name || node.addr.as_str() == name;
        let prefix = |node: &&NodeReport| name.len() >= 3 && node.id.starts_with(name);
        if let Some(node) = self.nodes.iter().find(exact) {
            return Ok(node);
        }
        let found: Vec<&NodeReport> = self.nodes.iter().filter(|node| prefix(node) || hostname(node)).collect();
        match found[..] {
            [node] => Ok(node),
            [] => Err(NotANode::Unknown(name.escape_debug().take(128).collect())),
            [first, second, ..] => Err(NotANode::Several {
                name: name.escape_debug().take(128).collect(),
                first: short(&first.id).to_owned(),
                second: short(&second.id).to_owned(),
            }),
        }
    }

    /// Who owns each slot in the eyes of most of the nodes that answered; equal numbers: in the eyes of one that claims it.
    pub fn owners(&self) -> Owners {
        let views = self.opinions();
        (0..SLOT_COUNT)
            .map(|slot| {
                let mut votes: BTreeMap<&Arc<str>, (usize, bool)> = BTreeMap::new();
                for (voter, owners) in &views {
                    if let Some(owner) = &owners[slot] {
                        let (count, own) = votes.entry(owner).or_default();
                        *count += 1;
                        *own |= owner == voter;
                    }
                }
                votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(owner, _)| owner.clone())
            })
            .collect()
    }

    /// Each node that answered, and who owns each slot in its view.
    fn opinions(&self) -> Vec<(Arc<str>, Owners)> {
        self.answers().map(|(node, told)| (node.id.clone(), owners_in(&told.view))).collect()
    }

    /// Slots about whose owner the nodes do not agree, in rising order.
    pub fn disagreements(&self) -> Vec<Disagreement> {
        let views = self.opinions();
        let Some((_, first)) = views.first() else { return Vec::new() };
        Slot::all()
            .filter(|slot| views.iter().any(|(_, owners)| owners[slot.index()] != first[slot.index()]))
            .map(|slot| {
                let mut says: BTreeMap<Option<Arc<str>>, Vec<Arc<str>>> = BTreeMap::new();
                for (voter, owners) in &views {
                    says.entry(owners[slot.index()].clone()).or_default().push(voter.clone());
                }
                Disagreement { slot, says }
            })
            .collect()
    }

    /// Every mark of an open slot, on masters and replicas.
    pub fn open_slots(&self) -> Vec<Open> {
        self.answers()
            .flat_map(|(node, told)| told.myself().open.iter().map(|mark| Open { holder: node.id.clone(), mark: mark.clone() }))
            .collect()
    }

    /// Keys that lie on a master which does not own their slot: master, slot, keys.
    pub fn orphans(&self) -> Vec<(Arc<str>, Slot, u32)> {
        let owners = self.owners();
        self.masters()
            .flat_map(|(node, told)| {
                let keys = told.keys.as_deref().unwrap_or_default();
                let stray =
                    Slot::all().zip(keys).filter(|(slot, count)| **count > 0 && owners[slot.index()].as_ref() != Some(&node.id));
                stray.map(|(slot, count)| (node.id.clone(), slot, *count)).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// Why a name means no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotANode {
    #[error("expected a node's id, beginning of an id, address or hostname, found '{0}'")]
    Unknown(String),
    #[error("expected a name that means one node, found '{name}', which means {first} and {second}")]
    Several { name: String, first: String, second: String },
}

/// An id as people read it: its first eight letters.
pub fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Who owns each slot in one view.
fn owners_in(view: &NodesView) -> Owners {
    let mut owners = vec![None; SLOT_COUNT];
    for node in &view.nodes {
        for (first, last) in &node.slots {
            owners[first.index()..=last.index()].fill(Some(node.id.clone()));
        }
    }
    owners
}
