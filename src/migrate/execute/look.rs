//! What both ends show of a slot: each by one atomic answer, so that a mark, the owner and the number of keys belong together.

use std::sync::Arc;

use tokio::time::Instant;

use super::Shard;
use super::halt::End;
use super::nodes::{Node, Nodes};
use super::patience::Trip;
use crate::cluster::{NodesView, OpenMark, Slot};
use crate::control::{Pipeline, Reply};
use crate::migrate::recovery::{Mark, Observed, Owner};

/// One slot as it was at `at` or later.
pub(super) struct Sight {
    pub seen: Observed,
    /// Before the questions were sent.
    pub at: Instant,
    /// Where the source reaches the target, if it knows.
    pub target_at: Option<(String, u16)>,
    /// Keys of the slot at the source, in all databases.
    pub source_keys: u64,
    /// Which ends have a replica that lives, and may take over.
    pub source_has_replicas: bool,
    pub target_has_replicas: bool,
    /// A former master of the target's shard that is not its replica yet, on servers that mend marks themselves. When it comes back
    /// behind the hand-over it hears that the source has let go of a slot which it believes to be importing, takes that for its cue, and
    /// takes all that it ever owned with it, at a higher epoch and with the data of its day (seen on Valkey 9.1.2).
    pub lurking: Option<Arc<str>>,
    pub target_view: NodesView,
}

/// One end's answer.
struct Glance {
    view: NodesView,
    keys: u64,
}

impl Nodes {
    /// Asks both ends; `announced` is left for whoever needs it.
    pub async fn look(&mut self, slot: Slot) -> Result<Sight, Trip> {
        let at = Instant::now();
        let Some((source, at_source, target, at_target)) = self.pair() else {
            return Err(Trip::Refused("a connection to both ends is missing".into()));
        };
        let (giving, taking) = tokio::join!(glance(at_source, slot, End::Source), glance(at_target, slot, End::Target));
        let mends_marks = at_target.server.replicates_marks();
        let sight = compare(slot, at, mends_marks, (source, giving?), (target, taking?));
        match &sight {
            Err(Trip::Lost { end, .. }) => self.forget(*end),
            Err(_) => [End::Source, End::Target].into_iter().for_each(|end| self.forget(end)),
            Ok(_) => {}
        }
        sight
    }
}

async fn glance(node: &mut Node, slot: Slot, end: End) -> Result<Glance, Trip> {
    match ask(node, slot, end, true).await? {
        Ok(glance) => Ok(glance),
        // Redis before 7.2 refuses a transaction, whatever is in it, when its memory is full: and a full node is what one moves slots
        // away from. Questions that arrive together are answered one right behind the other, the mark before the number of keys.
        Err(error) if error.starts_with("OOM ") => ask(node, slot, end, false).await?.map_err(|error| refused(node, end, &error)),
        Err(error) => Err(refused(node, end, &error)),
    }
}

fn refused(node: &Node, end: End, found: &str) -> Trip {
    Trip::Refused(format!("{end} {}: expected its view, found '{found}'", node.connection.addr()))
}

/// The inner error is what the node said instead.
async fn ask(node: &mut Node, slot: Slot, end: End, atomic: bool) -> Result<Result<Glance, String>, Trip> {
    let slot = slot.to_string();
    let mut questions = Pipeline::new();
    if atomic {
        questions.push(["MULTI"]);
    }
    questions.push(["CLUSTER", "NODES"]);
    for database in 0..node.databases {
        if node.databases > 1 {
            questions.push(["SELECT", &database.to_string()]);
        }
        questions.push(["CLUSTER", "COUNTKEYSINSLOT", &slot]);
    }
    if atomic {
        questions.push(["EXEC"]);
    }
    node.forget_database();
    let mut answers = node.connection.call_many(&questions).await.map_err(Trip::lost(end, &node.id))?;
    if let Some(Reply::Error(error)) = answers.iter().find(|answer| matches!(answer, Reply::Error(_))) {
        return Ok(Err(error.to_string()));
    }
    if atomic {
        answers = match answers.pop() {
            Some(Reply::Array(executed)) => executed,
            _ => return Ok(Err("no answer to EXEC".into())),
        };
    }
    let mut keys = 0;
    for answer in &answers {
        match answer {
            Reply::Integer(found) => keys += u64::try_from(*found).unwrap_or(0),
            Reply::Error(error) => return Ok(Err(error.to_string())),
            _ => {}
        }
    }
    let Some(Reply::BulkString(nodes)) = answers.first() else { return Ok(Err("no CLUSTER NODES".into())) };
    Ok(NodesView::parse(nodes).map(|view| Glance { view, keys }).map_err(|error| error.to_string()))
}

fn compare(
    slot: Slot,
    at: Instant,
    mends_marks: bool,
    (source, giving): (&Shard, Glance),
    (target, taking): (&Shard, Glance),
) -> Result<Sight, Trip> {
    if !taking.view.myself().flags.master {
        return Err(Trip::Lost { end: End::Target, node: target.id.clone(), why: "it has become a replica".into() });
    }
    // A master that has given its last slot away may follow the one that took it.
    let follows = giving.view.myself().master.as_ref();
    let emptied = follows.is_some_and(|of| target.members.contains(of));
    if !giving.view.myself().flags.master && !emptied {
        return Err(Trip::Lost { end: End::Source, node: source.id.clone(), why: "it has become a replica".into() });
    }
    let target_mark = mark(&taking.view, slot, source, End::Target);
    // A mark that names a master of former times keeps the target from hearing of the present one, except where the servers mend it.
    let owner_at_target = match owner_in(&taking.view, slot) {
        Some(id) if target_mark == Mark::Stale && *id != source.id && source.members.contains(id) => Owner::Nobody,
        _ => owner(&taking.view, slot, source, target)?,
    };
    if target_mark == Mark::Stale && mends_marks {
        return Err(Trip::Refused("the target has not heard yet of the source's failover".into()));
    }
    let seen = Observed {
        owner_at_source: owner(&giving.view, slot, source, target)?,
        owner_at_target,
        source_mark: if emptied { Mark::None } else { mark(&giving.view, slot, target, End::Source) },
        target_mark,
        source_has_keys: !emptied && giving.keys > 0,
        target_has_keys: taking.keys > 0,
        announced: false,
    };
    if seen.owner_at_target == Owner::Nobody && seen.target_mark == Mark::None {
        return Err(Trip::Refused("the target has not heard yet who owns the slot".into()));
    }
    let known = giving.view.nodes.iter().find(|node| node.id == target.id && !node.host.is_empty());
    let lurks =
        |node: &&crate::cluster::NodeFacts| node.id != target.id && target.members.contains(&node.id) && node.flags.master;
    let lurking = taking.view.nodes.iter().find(lurks).filter(|_| mends_marks).map(|node| node.id.clone());
    let has_replicas =
        |view: &NodesView, end: &Shard| view.nodes.iter().any(|node| node.master.as_ref() == Some(&end.id) && !node.flags.fail);
    Ok(Sight {
        seen,
        at,
        target_at: known.map(|node| (node.host.clone(), node.port)),
        lurking,
        source_keys: giving.keys,
        source_has_replicas: has_replicas(&giving.view, source),
        target_has_replicas: has_replicas(&taking.view, target),
        target_view: taking.view,
    })
}

/// Whose the slot is in a view. A member of an end's shard that is not its master as we know it: there is a failover we know half of.
fn owner(view: &NodesView, slot: Slot, source: &Shard, target: &Shard) -> Result<Owner, Trip> {
    let half = |shard: &Shard, id: &Arc<str>| *id != shard.id && shard.members.contains(id);
    match owner_in(view, slot) {
        None => Ok(Owner::Nobody),
        Some(id) if *id == source.id => Ok(Owner::Source),
        Some(id) if *id == target.id => Ok(Owner::Target),
        Some(id) if half(source, id) || half(target, id) => {
            Err(Trip::Refused(format!("node {} sees a failover that others have not seen yet", view.myself().id)))
        }
        Some(_) => Ok(Owner::Other),
    }
}

/// The owner's id in one view.
pub(super) fn owner_in(view: &NodesView, slot: Slot) -> Option<&Arc<str>> {
    let owns = |node: &&crate::cluster::NodeFacts| node.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
    view.nodes.iter().find(owns).map(|node| &node.id)
}

/// The mark that an end holds on the slot, as seen from its own line; `peer` is the shard that it should name.
fn mark(view: &NodesView, slot: Slot, peer: &Shard, end: End) -> Mark {
    let named = |id: &Arc<str>| match id {
        id if *id == peer.id => Mark::Ours,
        id if peer.members.contains(id) => Mark::Stale,
        _ => Mark::Foreign,
    };
    let of_slot = view.myself().open.iter().find_map(|open| match open {
        OpenMark::Migrating { slot: marked, to } if *marked == slot => Some((End::Source, to)),
        OpenMark::Importing { slot: marked, from } if *marked == slot => Some((End::Target, from)),
        _ => None,
    });
    match of_slot {
        None => Mark::None,
        Some((marked, id)) if marked == end => named(id),
        Some(_) => Mark::Foreign,
    }
}
