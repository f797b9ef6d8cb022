//! What operators order while a plan is driven. An order waits in the record until it was obeyed; who drives next finds it there.

use tokio::time::sleep;

use super::{Driver, LetGo, TICK};
use crate::migrate::coordinator::task::has_no_better;
use crate::migrate::machine::{Standing, Work};
use crate::migrate::record::{Claimed, Heard, No, Told};

/// Refusals that are kept: whoever waits for one reads many times a second.
const REFUSED_MAX: usize = 20;

impl Driver {
    /// Obeys what was told, if anything was.
    pub(super) async fn take_orders(&mut self) -> Result<(), LetGo> {
        for heard in std::mem::take(&mut self.waiting) {
            self.take_order(heard).await?;
        }
        while let Ok(heard) = self.keeper.orders.try_recv() {
            self.take_order(heard).await?;
        }
        Ok(())
    }

    /// Waits a little for what is told, and obeys it.
    pub(super) async fn listen(&mut self) -> Result<(), LetGo> {
        tokio::select! {
            heard = self.keeper.orders.recv() => match heard {
                Some(heard) => self.take_order(heard).await,
                None => Err(LetGo),
            },
            () = sleep(TICK) => Ok(()),
        }
    }

    async fn take_order(&mut self, heard: Heard) -> Result<(), LetGo> {
        let was = self.progress.standing.state;
        self.obey(heard).await?;
        if self.progress.standing.state != was && !matches!(self.progress.standing.work(), Work::Rest | Work::Wait) {
            // What happened to the slots while nothing moved nobody has written down.
            self.closed = false;
            self.reconcile().await?;
        }
        Ok(())
    }

    async fn obey(&mut self, heard: Heard) -> Result<(), LetGo> {
        let Heard { ticket, told } = heard;
        match told {
            Told::Throttle(throttle) => {
                self.progress.throttle = throttle;
                self.throttle.send_replace(throttle);
                self.say(format!("throttle {throttle}"));
            }
            Told::Unknown(words) => {
                self.say(format!("dropped an order that this version of Keyway does not know: {words}"));
                self.refuse(ticket, "the instance that drives the plan is of another version, and does not know it".to_owned());
            }
            Told::Order(order) => {
                let next = match self.progress.standing.ordered(order) {
                    Ok(next) => self.speaks_against(&next).await?.map_or(Ok(next), Err),
                    Err(refusal) => Err(refusal.to_string()),
                };
                match next {
                    Ok(next) => {
                        self.say(format!("ordered {}", order.word()));
                        self.stand(next);
                    }
                    Err(why) => {
                        self.say(format!("refused {}: {why}", order.word()));
                        self.refuse(ticket, why);
                    }
                }
            }
        }
        self.obeyed += 1;
        Ok(())
    }

    /// Answers whoever has told it.
    fn refuse(&mut self, ticket: String, why: String) {
        let refused = &mut self.progress.refused;
        refused.push(No { ticket, why });
        refused.drain(..refused.len().saturating_sub(REFUSED_MAX));
    }

    /// Takes up an order while slots move: it is obeyed between two of them. Only how fast they move may change at once, and that is
    /// written down as obeyed in its turn.
    pub(super) async fn put_off(&mut self, heard: Heard) -> Result<(), LetGo> {
        match &heard.told {
            Told::Order(order) => self.say(format!("ordered {}: the open slot is being finished", order.word())),
            _ if self.waiting.is_empty() => return self.obey(heard).await,
            Told::Throttle(throttle) => drop(self.throttle.send_replace(*throttle)),
            Told::Unknown(_) => {}
        }
        self.waiting.push(heard);
        Ok(())
    }

    /// Why the plan may not go over to this standing. One that begins to hold slots must be the only one that does, and no driver of
    /// another may still have something under way.
    pub(super) async fn speaks_against(&mut self, next: &Standing) -> Result<Option<String>, LetGo> {
        if !next.state.holds_slots() || self.progress.standing.state.holds_slots() {
            return Ok(None);
        }
        let mut store = self.parts.store();
        match store.claim(&self.place.id).await {
            Ok(None) => {}
            Ok(Some(Claimed { plan, state })) => {
                return Ok(Some(format!("plan {plan} is {state}: one plan moves slots at a time")));
            }
            Err(error) => return Ok(Some(error.to_string())),
        }
        self.claims = true;
        match has_no_better(&self.parts, &mut store, self.keeper.token).await {
            Ok(true) => Ok(None),
            Ok(false) => Err(LetGo),
            Err(error) => Ok(Some(error.to_string())),
        }
    }
}
