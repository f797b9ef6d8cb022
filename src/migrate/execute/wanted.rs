//! Keys that requests wait for go first. A request for several keys of an open slot is served by neither end while they are on both
//! (TRYAGAIN); it is as soon as all that exist of them are at the target. One that also names keys which nobody has waits for the whole slot.

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::drain::TIMER;
use super::halt::End;
use super::passage::Passage;
use super::patience::Trip;
use super::{Executor, Listener, Orders};
use crate::migrate::pace::Pace;

impl Executor {
    /// The source has its rest between two MIGRATEs, in which other commands may run; but keys that are waited for are moved at once, and
    /// answered. Less than a timer can measure is made up for behind a later rest, and what a timer is late by, or the source was left alone
    /// for anyway, is rest as well. A new throttle ends it: a rest may be long behind a large key.
    pub(super) async fn rest(
        &mut self,
        passage: &mut Passage,
        database: u32,
        orders: &Orders,
        tell: Listener<'_>,
    ) -> Result<Vec<Bytes>, Trip> {
        let mut throttle = orders.throttle.clone();
        throttle.mark_unchanged();
        loop {
            // Clients have the first database only.
            let wanted = if database == 0 { self.topology.wanted(passage.slot) } else { Vec::new() };
            let here = self.present(End::Source, database, &wanted).await?;
            if !here.is_empty() {
                self.move_first(passage, database, here.clone(), orders, tell).await?;
                return Ok(here);
            }
            if self.rested_at <= Instant::now() + TIMER {
                return Ok(here);
            }
            tokio::select! {
                () = sleep_until(self.rested_at) => return Ok(here),
                _ = throttle.changed() => return Ok(here),
                () = self.topology.wants_arrived() => {}
            }
        }
    }

    async fn move_first(
        &mut self,
        passage: &mut Passage,
        database: u32,
        keys: Vec<Bytes>,
        orders: &Orders,
        tell: Listener<'_>,
    ) -> Result<(), Trip> {
        let mut sized = self.sizes(database, keys).await?;
        while !sized.is_empty() {
            orders.fence.check()?;
            let throttle = *orders.throttle.borrow();
            let next = sized.iter().take(self.pace.next(&throttle));
            let batch: Vec<_> = sized.drain(..Pace::fitting(next.map(|(_, bytes)| *bytes), &throttle)).collect();
            self.move_together(passage, database, &batch, Vec::new(), orders, tell).await?;
        }
        Ok(())
    }
}
