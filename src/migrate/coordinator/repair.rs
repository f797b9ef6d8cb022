//! VERIFY, REPAIR and ADOPT.

use super::orders::Beginning;
use super::{Coordinator, Refused};
use crate::migrate::draft::of_open_slots;
use crate::migrate::machine::{Order, Standing};
use crate::migrate::preflight::Finding;
use crate::migrate::record::{Loaded, Plan, Progress};
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
    pub async fn open_slots(&self) -> Result<Plan, Refused> {
        self.is_free("").await?;
        Ok(of_open_slots(&self.inventory().await?, "REPAIR"))
    }

    /// Finishes all slots that stand open. None when there are none.
    pub async fn repair(&self) -> Result<Option<Loaded>, Refused> {
        let plan = self.open_slots().await?;
        let standing = Standing::adopted().ordered(Order::Resume)?;
        self.take_up(plan, standing).await
    }

    /// Makes a plan of the slots that stand open, because the record of who opened them is lost. It waits for an operator.
    pub async fn adopt(&self) -> Result<Option<Loaded>, Refused> {
        let plan = Plan { asked: "ADOPT".to_owned(), ..self.open_slots().await? };
        self.take_up(plan, Standing::adopted()).await
    }

    async fn take_up(&self, plan: Plan, standing: Standing) -> Result<Option<Loaded>, Refused> {
        if plan.batches.is_empty() {
            return Ok(None);
        }
        let mut store = self.store();
        let place = store.draft(&plan).await?;
        // What lies at the targets is there because of these very marks.
        let progress = Progress { open: plan.slots(), ..Progress::drafted() };
        let loaded = Loaded { place, plan, progress, version: 1, lease: None, orders: 0 };
        self.begin(store, loaded, Beginning::At(standing)).await.map(Some)
    }
}
