//! FORGET: a plan whose record nobody can read stands in the way of all others, and one that has ended may be of no more use.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Coordinator, Refused};
use crate::migrate::record::NoRecord;

/// A driver gives its lease back a moment after it has written that its plan is over.
const GIVING_BACK: Duration = Duration::from_secs(3);

/// Between two looks at the lease.
const LOOK: Duration = Duration::from_millis(50);

impl Coordinator {
    /// Drops a plan's record, unless it is driven or may hold slots. Answers its id.
    pub async fn forget(&self, name: &str) -> Result<String, Refused> {
        let mut store = self.store();
        let place = store.place(name).await?;
        match store.load(&place).await {
            Ok(Some(loaded)) if !loaded.progress.standing.state.is_at_rest() => {
                return Err(Refused::NotOver { plan: place.id, state: loaded.progress.standing.state.word() });
            }
            Ok(_) | Err(NoRecord::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let since = Instant::now();
        while let Some(holder) = store.holder(&place).await? {
            if since.elapsed() > GIVING_BACK {
                return Err(Refused::Driven { plan: place.id, holder });
            }
            sleep(LOOK).await;
        }
        store.drop(&place).await?;
        Ok(place.id)
    }
}
