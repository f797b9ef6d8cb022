//! Holds the slots that are open, in every instance, whoever drives the plan and whether anybody does: see `migrate::holds`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Parts;
use super::freed::free_receivers;
use crate::cluster::{Pin, Slot};
use crate::migrate::Holds;
use crate::migrate::record::{Held, NoRecord};

/// Between two looks at the record, while a plan holds slots and while none does.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_IDLE: Duration = Duration::from_millis(500);

/// A record that is not read within it may be where a receiver has stopped.
const READ: Duration = Duration::from_secs(1);

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
            match timeout(READ, held.read()).await {
                Ok(Ok(found)) => {
                    pause = if found.is_some() { LOOK } else { LOOK_IDLE };
                    pass_on_wants(&parts, &mut held, found.is_some()).await;
                    let now = found.unwrap_or_default();
                    if now != last {
                        parts.topology.hold(pins(&now));
                        last = now;
                    }
                }
                // What was read last holds: the source of an open slot may be the record's own node.
                failed => {
                    tracing::debug!(?failed, "reading which slots are held");
                    free_receivers(&parts).await;
                    pause = LOOK;
                }
            }
        }
        sleep(pause).await;
    }
}

/// What requests here wait for goes to whoever moves their slot, and what requests elsewhere do comes from the record.
async fn pass_on_wants(parts: &Parts, held: &mut Held, moves: bool) {
    let others = parts.topology.wanted_of_others();
    if !moves {
        return;
    }
    let outcome = async {
        if !others.is_empty() {
            held.want(&others).await?;
        }
        if parts.topology.has_pins() {
            for key in held.wanted().await? {
                parts.topology.want(Slot::of(&key), [key]);
            }
        }
        Ok::<_, NoRecord>(())
    };
    // They are named again when their requests are tried again.
    if let Err(error) = outcome.await {
        tracing::debug!("passing on what requests wait for: {error}");
    }
}

fn pins(holds: &Holds) -> Vec<Pin> {
    holds.iter().map(|(slot, source, target)| Pin { slot, ends: [Arc::from(source), Arc::from(target)] }).collect()
}
