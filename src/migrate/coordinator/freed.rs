//! Redis before 7.4: once the source of an open slot has failed over, the slot's receiver refuses every request for whatever it owns, until
//! the slot is taken from it. The driver does that within a moment. If it has died as well, and the receiver is where the record of plans
//! lies, nobody can become the driver; so whoever cannot read the record does it instead.
//!
//! Nothing can be lost by it, whoever does it and how often: the receiver does not own the slot, it keeps the keys that it has got, and
//! nobody is served any while its mark names a master that is gone. The next driver finds the mark missing, and sets it anew before
//! anybody is sent there.

use std::sync::Arc;

use super::Parts;
use crate::cluster::{Addr, OpenMark, Slot};
use crate::migrate::Inventory;
use crate::migrate::execute::take_mark;
use crate::migrate::inventory::Told;
use crate::migrate::survey::glance;

/// A slot by which its receiver is out of order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stuck {
    slot: Slot,
    receiver: Addr,
    /// The master that the receiver's mark names, and that is gone.
    from: Arc<str>,
    /// The one that took its place.
    owner: Arc<str>,
}

/// Looks for receivers that are out of order, and takes the slots from them.
pub(super) async fn free_receivers(parts: &Parts) {
    let Some(map) = parts.topology.current() else { return };
    for Stuck { slot, receiver, from, owner } in stuck(&glance(&parts.dialer, &map).await) {
        match take_mark(&parts.dialer, &receiver, slot, [&from, &owner]).await {
            Ok(()) => {
                tracing::warn!(%slot, %receiver, "nobody drives, and an open slot whose source failed over had stopped its receiver")
            }
            Err(error) => tracing::warn!(%slot, "an open slot has stopped its receiver: {error}"),
        }
    }
}

fn stuck(inventory: &Inventory) -> Vec<Stuck> {
    let mut found = Vec::new();
    for (node, told) in inventory.masters() {
        if !told.server.target_goes_down_at_source_failover() || told.cluster.get("cluster_state") != Some("fail") {
            continue;
        }
        for mark in &told.myself().open {
            let OpenMark::Importing { slot, from } = mark else { continue };
            let owns = |told: &Told| told.myself().slots.iter().any(|(first, last)| (first..=last).contains(&slot));
            // By its own word. The receiver itself may have become the owner; and one that still serves the slot has not failed over.
            let owner = inventory.masters().find(|(_, told)| owns(told)).map(|(owner, _)| owner.id.clone());
            let is_there = inventory.told(from).is_some_and(Told::is_master);
            if let Some(owner) = owner.filter(|owner| *owner != node.id && !is_there) {
                found.push(Stuck { slot: *slot, receiver: node.addr.clone(), from: from.clone(), owner });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::inventory::{Fields, NodeReport};
    use crate::migrate::preflight::tests::{IDS, told};

    const GONE: &str = "dddddddd";

    /// What is found when the second of three nodes imports slot 5, which is the first one's.
    fn found(from: &str, version: (u32, u32, u32), valkey: bool, state: &str) -> usize {
        let node = |me: usize| {
            let mut told = told(me);
            if me == 1 {
                (told.server.version, told.server.valkey) = (version, valkey);
                told.cluster = Fields::parse(&format!("cluster_state:{state}\r\n"));
                let myself = told.view.nodes.iter_mut().find(|node| node.flags.myself).expect("it tells of itself");
                myself.open.push(OpenMark::Importing { slot: Slot::new(5).expect("a slot"), from: from.into() });
            }
            NodeReport { id: IDS[me].into(), addr: Addr::new("127.0.0.1", 7000 + me as u16), told: Ok(Box::new(told)) }
        };
        let found = stuck(&Inventory { nodes: (0..3).map(node).collect() });
        assert!(found.iter().all(|stuck| (stuck.slot.index(), &*stuck.owner) == (5, IDS[0])), "{found:?}");
        found.len()
    }

    #[test]
    fn only_a_receiver_that_answers_nobody_is_freed() {
        assert_eq!(found(GONE, (7, 0, 15), false, "fail"), 1);
        assert_eq!(found(IDS[0], (7, 0, 15), false, "fail"), 0, "its source lives");
        assert_eq!(found(IDS[2], (7, 0, 15), false, "fail"), 0, "a master that is there");
        assert_eq!(found(GONE, (7, 0, 15), false, "ok"), 0, "it serves");
        assert_eq!(found(GONE, (8, 2, 0), false, "fail"), 0, "it has other reasons");
        assert_eq!(found(GONE, (9, 1, 0), true, "fail"), 0, "keys in a slot that is nobody's are deleted there");
    }
}
