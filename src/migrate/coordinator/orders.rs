//! START, PAUSE, RESUME, ABORT, ROLLBACK, THROTTLE: an operator's word reaches the plan's driver, wherever that is.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::task::{Word, has_no_better};
use super::{Coordinator, Refused, settings};
use crate::migrate::SlotSet;
use crate::migrate::draft::check;
use crate::migrate::inventory::{Inventory, short};
use crate::migrate::machine::{Fact, Order, Standing, State};
use crate::migrate::pace::Throttle;
use crate::migrate::preflight::{Finding, Severity};
use crate::migrate::record::{Claimed, Entry, Heard, Lease, Loaded, NoRecord, Plan, Store, Taken, Told, Written};

/// Between two looks whether an order has been carried out.
const LOOK: Duration = Duration::from_millis(50);
/// How long the reply waits for the open slot, once the order has been taken up.
const SETTLE: Duration = Duration::from_secs(5);

/// How a plan begins.
pub(super) enum Beginning {
    /// With all checks, from its start.
    Checked,
    /// As it is, from there.
    At(Standing),
}

/// What THROTTLE changes; what is not named stays.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThrottleChange {
    pub block: Option<Duration>,
    pub keys: Option<usize>,
    pub bytes: Option<u64>,
    /// 0 to 1.
    pub duty: Option<f64>,
    pub job: Option<u64>,
    pub rest: Option<Duration>,
}

impl ThrottleChange {
    fn apply(self, throttle: Throttle) -> Throttle {
        Throttle {
            block: self.block.unwrap_or(throttle.block),
            keys: self.keys.unwrap_or(throttle.keys),
            bytes: self.bytes.unwrap_or(throttle.bytes),
            duty: self.duty.unwrap_or(throttle.duty),
            job: self.job.unwrap_or(throttle.job),
            rest: self.rest.unwrap_or(throttle.rest),
        }
    }
}

impl Coordinator {
    /// Starts a plan here, if nothing speaks against it.
    pub async fn start(&self, name: &str, approve: Option<&str>) -> Result<Loaded, Refused> {
        let mut store = self.store();
        let loaded = store.find(name).await?;
        loaded.progress.standing.ordered(Order::Start)?;
        approved(&loaded.plan, approve)?;
        self.begin(store, loaded, Beginning::Checked).await
    }

    /// Takes a plan's lease, and drives it unless something speaks against it.
    pub(super) async fn begin(&self, mut store: Store, mut loaded: Loaded, how: Beginning) -> Result<Loaded, Refused> {
        // Before the lease: a closer look may take longer than that holds.
        let (standing, outcome) = match how {
            Beginning::At(standing) => (standing, Ok(())),
            Beginning::Checked => {
                let inventory = self.inventory().await?;
                let findings = check(&self.parts.dialer, &inventory, &loaded.plan).await;
                self.can_keep_masters(&loaded.plan).await?;
                judge(&inventory, findings, &loaded.plan, &loaded.progress.standing)?
            }
        };
        let (place, id) = (loaded.place.clone(), loaded.plan.id.clone());
        let asked = Instant::now();
        let mut lease = loop {
            let holder = match store.take(&place).await? {
                Taken::Ours(lease) => break lease,
                Taken::Held(holder) => holder,
            };
            // Whoever does no more than what a plan at rest was told, such as THROTTLE, lets go in a moment.
            let is_as_it_was = store.load(&place).await?.is_some_and(|now| now.progress.standing == loaded.progress.standing);
            if !is_as_it_was || asked.elapsed() > SETTLE {
                return Err(Refused::Driven { plan: id, holder });
            }
            sleep(LOOK).await;
        };
        let begun = self.begin_leased(&mut store, &mut loaded, &mut lease, standing, outcome).await;
        match begun {
            Ok(true) => {
                let now = Loaded { lease: Some(lease.text()), ..loaded.clone() };
                let start = Word::Drive(Box::new((store, loaded, lease)));
                // The task lives as long as this handle.
                let _ = self.words.send(start).await;
                return Ok(now);
            }
            Ok(false) => {}
            Err(refused) => {
                store.release(&place, &lease).await?;
                return Err(refused);
            }
        }
        store.release(&place, &lease).await?;
        Ok(loaded)
    }

    /// Whether it is to be driven.
    async fn begin_leased(
        &self,
        store: &mut Store,
        loaded: &mut Loaded,
        lease: &mut Lease,
        standing: Standing,
        outcome: Result<(), Refused>,
    ) -> Result<bool, Refused> {
        // Another may have started, and ended, it in between.
        let Some(now) = store.load(&loaded.place).await? else { return Err(NoRecord::Unknown(loaded.plan.id.clone()).into()) };
        if now.progress.standing != loaded.progress.standing {
            return Err(Refused::Driven { plan: now.plan.id, holder: "it was started a moment ago".into() });
        }
        (loaded.version, loaded.progress.throttle) = (now.version, now.progress.throttle);
        if standing.state.holds_slots() {
            self.claim(store, &loaded.plan.id).await?;
            if !has_no_better(&self.parts, store, lease.token).await? {
                return Err(Refused::Driven { plan: loaded.plan.id.clone(), holder: "one with a higher token".into() });
            }
            if !store.renew(&loaded.place, lease).await? {
                return Err(Refused::Slow { plan: loaded.plan.id.clone(), lease: self.parts.timing.lease });
            }
        }
        let reason = if standing.reason.is_empty() { String::new() } else { format!(": {}", standing.reason) };
        let line = format!("state {}{reason}", standing.state.word());
        loaded.progress.standing = standing;
        loaded.version += 1;
        let entry = Entry { progress: &loaded.progress, version: loaded.version, obeyed: 0, lines: std::slice::from_ref(&line) };
        match store.write(&loaded.place, lease, entry).await? {
            Written::Done(_) => {}
            Written::Fenced => return Err(Refused::Driven { plan: loaded.plan.id.clone(), holder: "it was faster".into() }),
        }
        // Nobody has to listen.
        let _ = self.events.send(format!("{} {line}", loaded.plan.id).into());
        outcome.map(|()| loaded.progress.standing.state.holds_slots())
    }

    /// One plan moves slots at a time.
    async fn claim(&self, store: &mut Store, id: &str) -> Result<(), Refused> {
        match store.claim(id).await? {
            None => Ok(()),
            Some(Claimed { plan, state }) => Err(Refused::Busy { plan, state: state.into() }),
        }
    }

    /// Whether no plan but this one moves slots.
    pub(super) async fn is_free(&self, id: &str) -> Result<(), Refused> {
        match self.store().claimed_beside(id).await? {
            None => Ok(()),
            Some(Claimed { plan, state }) => Err(Refused::Busy { plan, state: state.into() }),
        }
    }

    /// Whether masters which will have no slot left can be told to stay masters: the driver does so.
    async fn can_keep_masters(&self, plan: &Plan) -> Result<(), Refused> {
        for id in &plan.emptied {
            settings::replica_migration(&self.parts, id).await.map_err(|found| Refused::Blocked {
                check: "replica-migration".into(),
                expected: "cluster-allow-replica-migration can be switched off on a master that is emptied".into(),
                found,
                advice: "let the proxy's user CONFIG GET and CONFIG SET it".into(),
            })?;
        }
        Ok(())
    }

    /// Orders something of a plan, and waits until it is so, or until the open slot has taken its time.
    pub async fn order(&self, name: &str, order: Order) -> Result<Loaded, Refused> {
        let mut store = self.store();
        let loaded = store.find(name).await?;
        let after = loaded.progress.standing.ordered(order)?;
        if after == loaded.progress.standing {
            return Ok(loaded);
        }
        if after.state.holds_slots() && !loaded.progress.standing.state.holds_slots() {
            // The driver makes sure of it when it obeys.
            self.is_free(&loaded.plan.id).await?;
        }
        let now = self.tell(store, loaded, Told::Order(order), |state| match order {
            Order::Start | Order::Resume => true,
            Order::Pause => !matches!(state, State::Canary | State::Running | State::RollingBack | State::Verifying),
            Order::Abort => matches!(state, State::Aborted | State::NeedsOperator),
            Order::Rollback => matches!(state, State::RollingBack | State::RolledBack | State::Paused | State::NeedsOperator),
        });
        let now = now.await?;
        let Standing { state, reason, .. } = &now.progress.standing;
        match state {
            State::Paused | State::NeedsOperator if order != Order::Pause => Err(Refused::Stopped {
                plan: now.plan.id.clone(),
                order: order.word(),
                state: state.word(),
                reason: reason.clone(),
            }),
            _ => Ok(now),
        }
    }

    pub async fn throttle(&self, name: &str, change: ThrottleChange) -> Result<Loaded, Refused> {
        let mut store = self.store();
        let loaded = store.find(name).await?;
        let throttle = change.apply(loaded.progress.throttle);
        if change == ThrottleChange::default() {
            return Ok(loaded);
        }
        self.tell(store, loaded, Told::Throttle(throttle), |_| true).await
    }

    async fn tell(&self, mut store: Store, loaded: Loaded, told: Told, is_so: impl Fn(State) -> bool) -> Result<Loaded, Refused> {
        let heard = Heard::new(told);
        store.tell(&loaded.place, &heard).await?;
        // If nobody drives it, this instance does.
        let _ = self.words.send(Word::Look(loaded.place.clone())).await;
        let lease = self.parts.timing.lease;
        let begun = Instant::now();
        let mut taken_up: Option<Instant> = None;
        loop {
            sleep(LOOK).await;
            let Some(now) = store.load(&loaded.place).await? else { return Err(NoRecord::Unknown(loaded.plan.id).into()) };
            if let Some(no) = now.progress.refused.iter().find(|no| no.ticket == heard.ticket) {
                return Err(Refused::ByDriver { plan: loaded.plan.id, order: heard.told.word(), why: no.why.clone() });
            }
            if now.orders == 0 {
                let since = *taken_up.get_or_insert_with(Instant::now);
                if is_so(now.progress.standing.state) || since.elapsed() > SETTLE {
                    return Ok(now);
                }
            } else if begun.elapsed() > lease + SETTLE {
                return Err(Refused::NotYet { plan: loaded.plan.id, waited_s: (lease + SETTLE).as_secs() });
            }
        }
    }
}

fn approved(plan: &Plan, given: Option<&str>) -> Result<(), Refused> {
    let Some(code) = plan.approval() else { return Ok(()) };
    if given.is_some_and(|given| given.eq_ignore_ascii_case(&code)) {
        return Ok(());
    }
    let found = given.map_or("none".to_owned(), |given| format!("'{given}'"));
    Err(Refused::NotApproved { plan: plan.id.clone(), slots: plan.slot_count(), found })
}

/// Where a plan stands that is to start now: blocked, or on its way.
fn judge(
    inventory: &Inventory,
    findings: Vec<Finding>,
    plan: &Plan,
    standing: &Standing,
) -> Result<(Standing, Result<(), Refused>), Refused> {
    if let Some(found) = moved_meanwhile(inventory, plan) {
        return Err(Refused::Stale { plan: plan.id.clone(), found });
    }
    let Some(blocker) = findings.into_iter().find(|finding| finding.severity == Severity::Blocker) else {
        return Ok((standing.ordered(Order::Start)?, Ok(())));
    };
    let reason = format!("{}: found {}; {}", blocker.check, blocker.found, blocker.advice);
    let refused = Refused::Blocked {
        check: blocker.check.to_owned(),
        expected: blocker.expected,
        found: blocker.found,
        advice: blocker.advice,
    };
    Ok((standing.found(Fact::Blocked(reason)), Err(refused)))
}

/// Slots that are not where the plan would take them from, in words.
fn moved_meanwhile(inventory: &Inventory, plan: &Plan) -> Option<String> {
    let owners = inventory.owners();
    plan.batches.iter().find_map(|batch| {
        let has = |slot: &crate::cluster::Slot| owners[slot.index()].as_deref() == Some(batch.source.as_str());
        let gone: SlotSet = batch.slots.iter().filter(|slot| !has(slot)).collect();
        (!gone.is_empty()).then(|| format!("{gone} are not owned by {} any more", short(&batch.source)))
    })
}
