//! Keeps a driver's name on every master, for as long as it drives: an earlier driver that dials again meets it, also where the new one
//! has nothing to do yet, and also when the record has forgotten who holds the lease.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::sleep;

use super::fence::claim;
use crate::cluster::Addr;
use crate::control::Dialer;
use crate::topology::TopologyHandle;

/// Between two looks at which nodes are masters, and between two tries to reach one.
const LOOK: Duration = Duration::from_millis(200);

/// Between two PINGs, so that a connection that is gone is missed.
const PULSE: Duration = Duration::from_millis(500);

/// Ends with it.
pub struct Guard {
    task: JoinHandle<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guard {
    /// Starts on the runtime of the caller.
    pub fn start(topology: TopologyHandle, dialer: Dialer, token: u64) -> Guard {
        Guard { task: tokio::spawn(watch(topology, dialer, token)) }
    }
}

async fn watch(topology: TopologyHandle, dialer: Dialer, token: u64) {
    let mut standing = JoinSet::new();
    let mut posts: FxHashMap<Arc<str>, (Addr, AbortHandle)> = FxHashMap::default();
    loop {
        if let Some(map) = topology.current() {
            let masters: FxHashMap<Arc<str>, Addr> =
                map.masters().map(|index| map.node(index)).map(|node| (node.id.clone(), node.addr.clone())).collect();
            posts.retain(|id, (addr, post)| {
                let stays = masters.get(id) == Some(addr);
                if !stays {
                    post.abort();
                }
                stays
            });
            for (id, addr) in masters {
                posts.entry(id).or_insert_with(|| {
                    let post = standing.spawn(stand(dialer.clone(), addr.clone(), token));
                    (addr, post)
                });
            }
            while standing.try_join_next().is_some() {}
        }
        sleep(LOOK).await;
    }
}

/// At one node.
async fn stand(dialer: Dialer, addr: Addr, token: u64) {
    loop {
        if let Ok(mut node) = dialer.dial(&addr).await
            && claim(&mut node, token).await.is_ok()
        {
            while node.call(["PING"]).await.is_ok() {
                sleep(PULSE).await;
            }
        }
        sleep(LOOK).await;
    }
}
