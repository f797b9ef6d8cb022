//! VERIFY, REPAIR and ADOPT.

use super::orders::Beginning;
use super::{Coordinator, Refused};
use crate::cluster::OpenMark;
use crate::migrate::Holds;
use crate::migrate::draft::{Left, OpenSlots, of_open_slots};
use crate::migrate::machine::{Order, Standing};
use crate::migrate::preflight::Finding;
use crate::migrate::record::{Loaded, Plan, PlanBatch, Progress};
use crate::migrate::verify::verify;

impl Coordinator {
    /// Whether what a plan has moved is where it should be.
    pub async fn verify(&self, name: &str) -> Result<(Loaded, Vec<Finding>), Refused> {
        let loaded = self.store().find(name).await?;
        let inventory = self.inventory().await?;
        let findings = verify(&inventory, &loaded.plan, &loaded.progress.done);
        Ok((loaded, findings))
    }

    /// What would finish the slots that stand open and that no plan is moving.
    pub async fn open_slots(&self) -> Result<OpenSlots, Refused> {
        self.is_free("").await?;
        // Where they cannot be read, the nodes themselves tell most of it.
        let plans = self.store().all().await.unwrap_or_default();
        let shards: Vec<_> = plans.into_iter().flat_map(|loaded| loaded.plan.shards.into_values()).collect();
        Ok(of_open_slots(&self.inventory().await?, &shards, "REPAIR"))
    }

    /// Finishes all slots that stand open, as far as that can be done. No plan when there are none.
    pub async fn repair(&self) -> Result<(Option<Loaded>, Vec<Left>), Refused> {
        let open = self.open_slots().await?;
        let standing = Standing::adopted().ordered(Order::Resume)?;
        self.take_up(open, standing).await
    }

    /// Makes a plan of the slots that stand open, because the record of who opened them is lost. It waits for an operator.
    pub async fn adopt(&self) -> Result<(Option<Loaded>, Vec<Left>), Refused> {
        let mut open = self.open_slots().await?;
        open.plan.asked = "ADOPT".to_owned();
        self.take_up(open, Standing::adopted()).await
    }

    /// The slots that their sources say are open: what lies at the targets is there because of that. A mark at the target alone may be
    /// of long ago, and the source has served the slot since.
    async fn marked_at_source(&self, plan: &Plan) -> Result<Holds, Refused> {
        let inventory = self.inventory().await?;
        let mut holds = Holds::default();
        for open in inventory.open_slots() {
            let OpenMark::Migrating { slot, to } = open.mark else { continue };
            let is_ours = |batch: &&PlanBatch| (batch.source.as_str(), batch.target.as_str()) == (&*open.holder, &*to);
            if let Some(batch) = plan.batch_of(slot).filter(is_ours) {
                holds.hold([slot], &batch.source, &batch.target);
            }
        }
        Ok(holds)
    }

    async fn take_up(&self, open: OpenSlots, standing: Standing) -> Result<(Option<Loaded>, Vec<Left>), Refused> {
        let OpenSlots { plan, left } = open;
        if plan.batches.is_empty() {
            return match left.first() {
                None => Ok((None, left)),
                Some(first) => {
                    Err(Refused::Unrepairable { slots: left.len(), slot: first.slot.to_string(), why: first.why.clone() })
                }
            };
        }
        let mut store = self.store();
        let place = store.draft(&plan).await?;
        let progress = Progress { open: plan.slots(), holds: self.marked_at_source(&plan).await?, ..Progress::drafted() };
        let loaded = Loaded { place, plan, progress, version: 1, lease: None, orders: 0 };
        self.begin(store, loaded, Beginning::At(standing)).await.map(|loaded| (Some(loaded), left))
    }
}
