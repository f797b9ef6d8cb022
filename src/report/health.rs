//! What the masters say of the cluster, and the plans' record of the plan under way: asked for at an interval, so that whoever scrapes
//! often costs the nodes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::{Addr, SlotMap};
use crate::control::{Connection, ControlError, Dialer, Pipeline, Reply};
use crate::migrate::Coordinator;
use crate::migrate::record::Loaded;
use crate::topology::TopologyHandle;

/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// The latest answers.
#[derive(Default)]
pub struct Health {
    /// In the order of the map.
    pub masters: Vec<MasterHealth>,
    /// The plan that holds slots, or the latest one.
    pub plan: Option<Loaded>,
}

/// What one master says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterHealth {
    pub addr: String,
    /// Its CLUSTER INFO and the lag of its replicas; `None` when it did not answer.
    pub view: Option<View>,
}

/// CLUSTER INFO of a master, as far as numbers go, and its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub is_ok: bool,
    pub slots_assigned: u64,
    pub slots_ok: u64,
    pub slots_pfail: u64,
    pub slots_fail: u64,
    pub known_nodes: u64,
    pub messages_sent: u64,
    pub messages_received: u64,
    /// Of each replica its address, and the bytes of the stream that it has not acknowledged.
    pub replicas: Vec<(String, u64)>,
}

/// Asks, and tells whoever listens, for ever.
pub struct Watch {
    topology: TopologyHandle,
    dialer: Dialer,
    migrations: Coordinator,
    connections: HashMap<Addr, Connection>,
    told: watch::Sender<Arc<Health>>,
}

impl Watch {
    pub fn new(topology: TopologyHandle, dialer: Dialer, migrations: Coordinator, told: watch::Sender<Arc<Health>>) -> Watch {
        Watch { topology, dialer, migrations, connections: HashMap::new(), told }
    }

    pub async fn run(mut self, every: Duration) {
        let mut turns = interval(every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let Some(map) = self.topology.current() else { continue };
            let masters = self.ask(&map).await;
            // Without plans, or without the node that has their record, there is none to tell of.
            let plan = self.migrations.status(None).await.ok();
            self.told.send_replace(Arc::new(Health { masters, plan }));
        }
    }

    /// Each master keeps its connection for the next time; those of nodes that are gone, or do not answer, go.
    async fn ask(&mut self, map: &SlotMap) -> Vec<MasterHealth> {
        let places = Arc::new(Semaphore::new(ASKED_AT_ONCE));
        let mut known = std::mem::take(&mut self.connections);
        let mut asking = JoinSet::new();
        for (position, master) in map.masters().enumerate() {
            let addr = map.node(master).addr.clone();
            let (kept, dialer, places) = (known.remove(&addr), self.dialer.clone(), places.clone());
            asking.spawn(async move {
                let _place = places.acquire_owned().await;
                let answer = ask_one(kept, &dialer, &addr).await;
                (position, addr, answer)
            });
        }
        let mut masters = Vec::new();
        while let Some(answered) = asking.join_next().await {
            let Ok((position, addr, answer)) = answered else { continue };
            let name = addr.as_str().to_owned();
            let view = answer.ok().map(|(connection, view)| {
                self.connections.insert(addr, connection);
                view
            });
            masters.push((position, MasterHealth { addr: name, view }));
        }
        masters.sort_by_key(|(position, _)| *position);
        masters.into_iter().map(|(_, master)| master).collect()
    }
}

async fn ask_one(kept: Option<Connection>, dialer: &Dialer, addr: &Addr) -> Result<(Connection, View), ControlError> {
    if let Some(mut connection) = kept
        && let Ok(view) = view_of(&mut connection).await
    {
        return Ok((connection, view));
    }
    let mut connection = dialer.dial(addr).await?;
    let view = view_of(&mut connection).await?;
    Ok((connection, view))
}

async fn view_of(connection: &mut Connection) -> Result<View, ControlError> {
    let mut questions = Pipeline::new();
    questions.push(["CLUSTER", "INFO"]).push(["INFO", "replication"]);
    let replies = connection.call_many(&questions).await?;
    let text = |index: usize| match replies.get(index) {
        Some(Reply::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    Ok(parse(&text(0), &text(1)))
}

/// Fields that a server does not have are 0, as those of an account that may not ask.
fn parse(cluster: &str, replication: &str) -> View {
    let value = |text: &str, name: &str| -> Option<String> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    };
    let number = |text: &str, name: &str| value(text, name).and_then(|value| value.parse().ok()).unwrap_or(0);
    let offset: u64 = number(replication, "master_repl_offset");
    let replica = |line: &str| {
        let (name, facts) = line.trim().split_once(':')?;
        name.strip_prefix("slave")?.parse::<u32>().ok()?;
        let fact = |wanted: &str| facts.split(',').find_map(|fact| fact.strip_prefix(wanted)?.strip_prefix('='));
        let acknowledged: u64 = fact("offset")?.parse().ok()?;
        Some((format!("{}:{}", fact("ip")?, fact("port")?), offset.saturating_sub(acknowledged)))
    };
    View {
        is_ok: value(cluster, "cluster_state").as_deref() == Some("ok"),
        slots_assigned: number(cluster, "cluster_slots_assigned"),
        slots_ok: number(cluster, "cluster_slots_ok"),
        slots_pfail: number(cluster, "cluster_slots_pfail"),
        slots_fail: number(cluster, "cluster_slots_fail"),
        known_nodes: number(cluster, "cluster_known_nodes"),
        messages_sent: number(cluster, "cluster_stats_messages_sent"),
        messages_received: number(cluster, "cluster_stats_messages_received"),
        replicas: replication.lines().filter_map(replica).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masters_view() {
        let cluster = "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16380\r\ncluster_slots_pfail:3\r\n\
                       cluster_slots_fail:1\r\ncluster_known_nodes:6\r\ncluster_stats_messages_sent:12\r\n\
                       cluster_stats_messages_received:11\r\n";
        let replication = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                           slave0:ip=10.0.0.2,port=7001,state=online,offset=90,lag=1\r\n\
                           slave1:ip=10.0.0.3,port=7002,state=online,offset=100,lag=0,type=replica\r\n\
                           slave_read_only:1\r\nmaster_repl_offset:100\r\n";
        let expected = View {
            is_ok: true,
            slots_assigned: 16384,
            slots_ok: 16380,
            slots_pfail: 3,
            slots_fail: 1,
            known_nodes: 6,
            messages_sent: 12,
            messages_received: 11,
            replicas: vec![("10.0.0.2:7001".to_owned(), 10), ("10.0.0.3:7002".to_owned(), 0)],
        };
        assert_eq!(parse(cluster, replication), expected);
        assert_eq!(parse("", "slave0:ip=1,port=2"), View::default());
    }
}
