//! Masters that join the cluster get the functions that the others have: slots that move to them bring keys, and no libraries.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::timeout;

use crate::cluster::{Addr, SlotMap};
use crate::control::{CopyError, Dialer, copy_libraries};

/// A map waits this long for its newcomers to get their libraries.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// A newcomer is looked at once before it is in the map, and once behind that: a library that is loaded in between reaches only those
/// that are in the map. One that cannot be reached or refuses is looked at so often in all.
const LOOKS: u8 = 2;
const LOOKS_MAX: u8 = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Looked {
    well: u8,
    tried: u8,
}

/// The masters that joined lately, by id.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    looked: FxHashMap<Arc<str>, Looked>,
}

impl Newcomers {
    /// Notes who is new in `candidate`; before the first map those are who own no slot yet. A replica that was promoted has its master's
    /// libraries.
    pub fn note(&mut self, current: Option<&SlotMap>, candidate: &SlotMap) {
        self.looked.retain(|id, _| candidate.find_id(id).is_some());
        let is_new = |master: &u16| match current {
            Some(current) => current.find_id(&candidate.node(*master).id).is_none(),
            None => !candidate.owners().contains(master),
        };
        let joined = candidate.masters().filter(is_new).map(|master| candidate.node(master).id.clone());
        self.looked.extend(joined.map(|id| (id, Looked::default())));
    }

    /// Gives each what it lacks.
    pub async fn equip(&mut self, map: &SlotMap, dialer: &Dialer) {
        let masters = || map.masters().map(|master| map.node(master)).filter(|node| !node.failed);
        let Some(giver) = masters().find(|node| !self.looked.contains_key(&node.id)).map(|node| node.addr.clone()) else {
            return;
        };
        for taker in masters() {
            let Some(looked) = self.looked.get_mut(&taker.id) else { continue };
            looked.tried += 1;
            match timeout(WAIT_MAX, give(dialer, &giver, &taker.addr)).await {
                Ok(Ok(copied)) => {
                    looked.well += 1;
                    if !copied.is_empty() {
                        tracing::info!(node = %taker.addr, libraries = copied.join(","), "gave a new master the functions of the others");
                    }
                }
                Ok(Err(why)) => tracing::warn!(node = %taker.addr, "a new master may lack functions: {why}"),
                Err(_) => tracing::warn!(node = %taker.addr, "a new master may lack functions: no answer within {WAIT_MAX:?}"),
            }
        }
        self.looked.retain(|_, looked| looked.well < LOOKS && looked.tried < LOOKS_MAX);
    }
}

async fn give(dialer: &Dialer, giver: &Addr, taker: &Addr) -> Result<Vec<String>, CopyError> {
    let mut giver = dialer.dial(giver).await.map_err(CopyError::Giver)?;
    let mut taker = dialer.dial(taker).await.map_err(CopyError::Taker)?;
    copy_libraries(&mut giver, &mut taker).await
}
