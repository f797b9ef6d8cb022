//! Looking: whose slots are, whether all nodes have heard of it, and whether what has moved is well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Driver, LetGo, TICK, wall_ms};
use crate::cluster::Slot;
use crate::migrate::SlotSet;
use crate::migrate::closing::from_and_to;
use crate::migrate::execute::{Halt, Shard, suspicions};
use crate::migrate::machine::Fact;
use crate::migrate::preflight::Severity;
use crate::migrate::record::Mode;
use crate::migrate::survey::{glance, survey};
use crate::migrate::verify::verify;

/// How long all nodes may take to name the new owners.
const CONVERGENCE: Duration = Duration::from_secs(30);
/// Between two looks at it.
const CONVERGENCE_LOOK: Duration = Duration::from_millis(100);
/// How long a verification that fails is repeated: news may be under way.
const VERIFY_PATIENCE: Duration = Duration::from_secs(10);

impl Driver {
    /// Looks whose the plan's slots are: the record may be behind, or an operator may have moved some.
    pub(super) async fn reconcile(&mut self) -> Result<(), LetGo> {
        loop {
            self.check_lease()?;
            let Some(map) = self.parts.topology.current() else {
                sleep(TICK).await;
                continue;
            };
            let inventory = glance(&self.parts.dialer, &map).await;
            if inventory.masters().next().is_none() {
                sleep(TICK).await;
                continue;
            }
            self.hold_what_is_open(&inventory);
            let owners = inventory.owners();
            // On its way to the target until nobody holds a mark and all have heard of it.
            let mut under_way: SlotSet = inventory.disagreements().into_iter().map(|each| each.slot).collect();
            under_way.extend(
                inventory.open_slots().iter().map(from_and_to).filter(|mark| self.goes_forward(mark)).map(|(slot, ..)| slot),
            );
            let goes_back = self.progress.standing.way.is_back();
            let mut done = SlotSet::new();
            for batch in &self.plan.batches {
                let target = self.members(&batch.target);
                done.extend(
                    batch
                        .slots
                        .iter()
                        .filter(|slot| goes_back || !under_way.contains(*slot))
                        .filter(|slot| owners[slot.index()].as_ref().is_some_and(|owner| target.contains(&**owner))),
                );
            }
            if done != self.progress.done {
                self.say(format!("{} slots are the targets', {} were written down", done.len(), self.progress.done.len()));
                let was = std::mem::replace(&mut self.progress.done, done);
                self.suspect_unseen(&was).await;
            }
            return Ok(());
        }
    }

    /// Slots that servers handed over while nobody looked on: whether the one that gave them doubts it itself.
    async fn suspect_unseen(&mut self, was: &SlotSet) {
        let unseen = |slot: &Slot| was.contains(*slot) != self.progress.done.contains(*slot);
        let atomic = self.plan.batches.iter().filter(|batch| batch.mode == Mode::Atomic);
        let unseen: SlotSet = atomic.flat_map(|batch| batch.slots.iter().collect::<Vec<_>>()).filter(unseen).collect();
        let Some(map) = self.parts.topology.current().filter(|_| !unseen.is_empty()) else { return };
        let age = Duration::from_millis(wall_ms().saturating_sub(self.plan.drafted_ms));
        for index in map.masters() {
            let addr = &map.node(index).addr;
            // One that is gone has taken its log with it.
            let Ok(mut node) = self.parts.dialer.dial(addr).await else { continue };
            let found = suspicions(&mut node, &unseen, age).await.unwrap_or_default();
            if let Some(why) = found.into_iter().next() {
                self.found(Fact::Unclear(Halt::Suspect { slots: unseen.clone(), why }.reason()));
                return;
            }
        }
    }

    /// Whether a mark is of the plan's own way, and not of its way back.
    pub(super) fn goes_forward(&self, (slot, from, _): &(Slot, Arc<str>, Arc<str>)) -> bool {
        self.plan.batch_of(*slot).is_some_and(|batch| !self.members(&batch.target).contains(&**from))
    }

    pub(super) fn members(&self, id: &str) -> BTreeSet<String> {
        self.plan.shards.get(id).into_iter().flatten().cloned().chain([id.to_owned()]).collect()
    }

    pub(super) fn shard(&self, id: &str) -> Shard {
        Shard { id: id.into(), members: self.members(id).iter().map(|id| id.as_str().into()).collect() }
    }

    /// Waits until every node names the new owner.
    pub(super) async fn converge(&mut self, slots: &SlotSet, owner: &str) -> Result<(), LetGo> {
        let members = self.members(owner);
        let until = Instant::now() + CONVERGENCE;
        loop {
            self.check_lease()?;
            let Some(map) = self.parts.topology.current() else { return Ok(()) };
            let inventory = glance(&self.parts.dialer, &map).await;
            let mut behind = Vec::new();
            for (node, told) in inventory.answers() {
                let owned: SlotSet = told
                    .view
                    .nodes
                    .iter()
                    .filter(|node| members.contains(&*node.id))
                    .flat_map(|node| &node.slots)
                    .flat_map(|(first, last)| Slot::span(*first, *last))
                    .collect();
                if slots.iter().any(|slot| !owned.contains(slot)) {
                    behind.push(node.addr.to_string());
                }
            }
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                self.found(Fact::Hindered(format!(
                    "{} do not name the new owner of slots after {CONVERGENCE:?}: see PROXY CHECK, then PROXY MIGRATE RESUME",
                    behind.join(", ")
                )));
                self.write().await;
                return Ok(());
            }
            sleep(CONVERGENCE_LOOK).await;
        }
    }

    /// Looks at everything, keys and all. Answers what is not well.
    pub(super) async fn verified(&mut self) -> Result<Option<String>, LetGo> {
        let until = Instant::now() + VERIFY_PATIENCE;
        loop {
            self.check_lease()?;
            let Some(map) = self.parts.topology.current() else { return Ok(Some("there is no slot map".into())) };
            let inventory = survey(&self.parts.dialer, &map).await;
            let findings = verify(&inventory, &self.plan, &self.progress.done);
            let wrong = findings.iter().find(|finding| finding.severity == Severity::Blocker);
            match wrong {
                None => return Ok(None),
                Some(finding) if Instant::now() > until => {
                    return Ok(Some(format!("{}: {}; {}", finding.check, finding.found, finding.advice)));
                }
                Some(_) => sleep(CONVERGENCE_LOOK).await,
            }
        }
    }

    /// Before the rest follows the canary everything is looked at once.
    pub(super) async fn look_at_canary(&mut self) -> Result<(), LetGo> {
        match self.verified().await? {
            None => self.found(Fact::CanaryFine),
            Some(why) => self.found(Fact::Hindered(format!("the canary is not well: {why}"))),
        }
        self.write().await;
        Ok(())
    }

    pub(super) async fn verify(&mut self) -> Result<(), LetGo> {
        match self.verified().await? {
            None => {
                self.say(format!("verified {} slots", self.progress.done.len()));
                self.progress.observed_from_ms = wall_ms();
                self.found(Fact::Verified { observe: self.plan.observe_s > 0 });
            }
            Some(why) => self.found(Fact::Hindered(format!("the verification failed: {why}; then PROXY MIGRATE RESUME"))),
        }
        self.write().await;
        Ok(())
    }
}
