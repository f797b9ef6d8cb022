//! FORGET: a plan whose record nobody can read stands in the way of all others, and one that has ended may be of no more use.

use super::{Coordinator, Refused};
use crate::migrate::record::NoRecord;

impl Coordinator {
    /// Drops a plan's record, unless it is driven or may hold slots. Answers its id.
    pub async fn forget(&self, name: &str) -> Result<String, Refused> {
        let mut store = self.store();
        let place = store.place(name).await?;
        if let Some(holder) = store.holder(&place).await? {
            return Err(Refused::Driven { plan: place.id, holder });
        }
        match store.load(&place).await {
            Ok(Some(loaded)) if !loaded.progress.standing.state.is_at_rest() => {
                return Err(Refused::NotOver { plan: place.id, state: loaded.progress.standing.state.word() });
            }
            Ok(_) | Err(NoRecord::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        store.drop(&place).await?;
        Ok(place.id)
    }
}
