//! Holds the slots that are open, in every instance, whoever drives the plan and whether anybody does: see `migrate::holds`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Parts;
use super::freed::free_receivers;
use crate::cluster::Pin;
use crate::migrate::Holds;
use crate::migrate::record::Held;

/// Between two looks at the record, while a plan holds slots and while none does.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_IDLE: Duration = Duration::from_millis(500);

/// What was written so long ago is in force in every instance: two looks, and time for the answer and the workers. A plan holds slots for
/// longer than `LOOK_IDLE` before it moves one.
pub(super) const IN_FORCE: Duration = Duration::from_millis(500);

/// For ever.
pub(super) async fn hold_open_slots(parts: Parts) {
    let mut held = Held::new(parts.topology.clone(), parts.dialer.clone());
    let mut last = Holds::default();
    loop {
        let mut pause = LOOK_IDLE;
        // Nobody is waiting for an answer, so there is no reason to wait for a cluster.
        if parts.topology.current().is_some() {
            match held.read().await {
                Ok(found) => {
                    pause = if found.is_some() { LOOK } else { LOOK_IDLE };
                    let now = found.unwrap_or_default();
                    if now != last {
                        parts.topology.hold(pins(&now));
                        last = now;
                    }
                }
                // What was read last holds: the source of an open slot may be the record's own node.
                Err(error) => {
                    tracing::debug!("reading which slots are held: {error}");
                    free_receivers(&parts).await;
                    pause = LOOK;
                }
            }
        }
        sleep(pause).await;
    }
}

fn pins(holds: &Holds) -> Vec<Pin> {
    holds.iter().map(|(slot, source, target)| Pin { slot, ends: [Arc::from(source), Arc::from(target)] }).collect()
}
