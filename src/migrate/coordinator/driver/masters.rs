//! Masters that the plan leaves without slots stay masters: as replicas of whoever took their last slot they could neither be watched nor be
//! given slots again.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Driver, LetGo};
use crate::cluster::{Slot, SlotMap};
use crate::migrate::closing::Direction;
use crate::migrate::coordinator::settings::{replica_migration, set_replica_migration};
use crate::migrate::machine::Fact;

/// How long a node that does not let itself be set back is asked again.
const RESTORE_PATIENCE: Duration = Duration::from_secs(5);
const RESTORE_PAUSE: Duration = Duration::from_millis(500);

impl Driver {
    /// Tells the masters that will have no slot left to stay masters. What is changed is written down before. Answers whether they did.
    pub(super) async fn keep_masters(&mut self, direction: Direction) -> Result<bool, LetGo> {
        if self.kept == Some(direction) {
            return Ok(true);
        }
        let Some(map) = self.parts.topology.current() else { return Ok(false) };
        let mut kept = self.progress.kept_masters.clone();
        for id in self.emptied(&map, direction) {
            match replica_migration(&self.parts, &id).await {
                Ok(true) if !kept.contains(&id) => kept.push(id),
                Ok(_) => {}
                Err(error) => return self.cannot_keep(&error).await,
            }
        }
        if kept != self.progress.kept_masters {
            self.progress.kept_masters = kept;
            self.write().await;
            self.check_lease()?;
        }
        for id in self.progress.kept_masters.clone() {
            if let Err(error) = set_replica_migration(&self.parts, &id, "no").await {
                return self.cannot_keep(&error).await;
            }
        }
        self.kept = Some(direction);
        Ok(true)
    }

    async fn cannot_keep(&mut self, error: &str) -> Result<bool, LetGo> {
        self.found(Fact::Hindered(format!(
            "a master that is emptied would become a replica, and cluster-allow-replica-migration could not be switched off: {error}; \
             CONFIG SET it to no there, then PROXY MIGRATE RESUME"
        )));
        self.write().await;
        Ok(false)
    }

    /// Ids of the present masters that will have no slot left: on the way back those whose every slot the plan has brought.
    fn emptied(&self, map: &SlotMap, direction: Direction) -> BTreeSet<String> {
        let present = |id: &str| {
            let members = self.members(id);
            let mut masters = map.masters().map(|index| (index, &map.node(index).id));
            masters.find(|(_, id)| members.contains(&***id)).map(|(index, id)| (index, id.to_string()))
        };
        match direction {
            Direction::Forward => {
                self.plan.emptied.iter().map(|id| present(id).map_or_else(|| id.clone(), |(_, present)| present)).collect()
            }
            Direction::Back => {
                let gives_all = |index: u16| {
                    let mut owned = Slot::all().filter(|slot| map.owner(*slot) == Some(index));
                    owned.all(|slot| self.progress.done.contains(slot))
                };
                let targets: BTreeSet<&str> = self.plan.batches.iter().map(|batch| batch.target.as_str()).collect();
                targets.into_iter().filter_map(present).filter(|(index, _)| gives_all(*index)).map(|(_, id)| id).collect()
            }
        }
    }

    /// Puts back what the plan had changed about nodes. What could not be put back stays written down, for who drives the plan next.
    pub(super) async fn restore(&mut self) {
        let until = Instant::now() + RESTORE_PATIENCE;
        loop {
            let mut left = Vec::new();
            for id in std::mem::take(&mut self.progress.kept_masters) {
                if let Err(error) = set_replica_migration(&self.parts, &id, "yes").await {
                    left.push((id, error));
                }
            }
            self.progress.kept_masters = left.iter().map(|(id, _)| id.clone()).collect();
            if left.is_empty() {
                return;
            }
            if Instant::now() > until {
                for (id, error) in left {
                    self.say(format!(
                        "cluster-allow-replica-migration was yes on {id} and could not be set back: {error}; CONFIG SET it there"
                    ));
                }
                return;
            }
            sleep(RESTORE_PAUSE).await;
        }
    }
}
