//! PURE. The life of a plan: which state follows from what an operator orders and from what is found.
//!
//! ```text
//! drafted ─▶ canary ─▶ running ─▶ verifying ─▶ observing ─▶ done
//!    │  ▲       └────┬─────┴──────────┘           │
//!    ▼  │            ├─▶ paused ─▶ where it was   │
//!  blocked           ├─▶ aborting ─▶ aborted ─────┤
//!                    └─▶ needs-operator           └─▶ rolling-back ─▶ rolled-back
//! ```
//!
//! A plan that is aborted or rolled back never goes forward again. Orders take effect at slot boundaries: the driver stops behind the
//! open slot first, and only then tells the machine.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Made and stored; nothing has moved.
    Drafted,
    /// It was to start, and something speaks against it.
    Blocked,
    /// The probes and the canary's slots move.
    Canary,
    Running,
    /// Nothing moves until an operator says so.
    Paused,
    /// All slots have moved; everything is looked at once more.
    Verifying,
    /// Verified; the gates stay armed for as long as the plan asked.
    Observing,
    Done,
    /// The open slot is being finished; nothing follows it.
    Aborting,
    Aborted,
    /// The slots that have moved go back, the latest first.
    RollingBack,
    RolledBack,
    /// Nobody but an operator can say what is right.
    NeedsOperator,
}

impl State {
    pub const ALL: [State; 13] = [
        State::Drafted,
        State::Blocked,
        State::Canary,
        State::Running,
        State::Paused,
        State::Verifying,
        State::Observing,
        State::Done,
        State::Aborting,
        State::Aborted,
        State::RollingBack,
        State::RolledBack,
        State::NeedsOperator,
    ];

    /// As STATUS shows it.
    pub fn word(self) -> &'static str {
        match self {
            State::Drafted => "drafted",
            State::Blocked => "blocked",
            State::Canary => "canary",
            State::Running => "running",
            State::Paused => "paused",
            State::Verifying => "verifying",
            State::Observing => "observing",
            State::Done => "done",
            State::Aborting => "aborting",
            State::Aborted => "aborted",
            State::RollingBack => "rolling-back",
            State::RolledBack => "rolled-back",
            State::NeedsOperator => "needs-operator",
        }
    }

    /// Nothing comes after it by itself, and no instance has to look after it.
    pub fn is_at_rest(self) -> bool {
        matches!(self, State::Drafted | State::Blocked | State::Done | State::Aborted | State::RolledBack)
    }

    /// Slots may be open, so that no other plan may begin.
    pub fn holds_slots(self) -> bool {
        !self.is_at_rest() && self != State::Observing
    }
}

/// What the plan does, or did when it was paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    Canary,
    Forward,
    /// Nothing is left to move, but what has moved is not verified.
    Check,
    Back,
    /// As `Back`, because slots are uncovered: that they are does not stop it.
    BackUncovered,
    /// It was given up: only what is open is brought to an end.
    End,
}

impl Way {
    pub fn is_back(self) -> bool {
        matches!(self, Way::Back | Way::BackUncovered)
    }

    fn state(self) -> State {
        match self {
            Way::Canary => State::Canary,
            Way::Forward => State::Running,
            Way::Check => State::Verifying,
            Way::Back | Way::BackUncovered => State::RollingBack,
            Way::End => State::Aborting,
        }
    }
}

/// Where a plan stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub state: State,
    /// Why, in one line with the next command, where that is not plain; otherwise empty.
    pub reason: String,
    /// Where RESUME goes on.
    pub way: Way,
}

/// What an operator can order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    Start,
    Pause,
    Resume,
    Abort,
    Rollback,
}

impl Order {
    pub const ALL: [Order; 5] = [Order::Start, Order::Pause, Order::Resume, Order::Abort, Order::Rollback];

    pub fn word(self) -> &'static str {
        match self {
            Order::Start => "START",
            Order::Pause => "PAUSE",
            Order::Resume => "RESUME",
            Order::Abort => "ABORT",
            Order::Rollback => "ROLLBACK",
        }
    }
}

/// What the driver finds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// The pre-flight checks found a blocker.
    Blocked(String),
    /// The canary has moved and was looked at.
    CanaryFine,
    /// No slot is left to move.
    AllMoved,
    Verified {
        /// The plan has an observation window.
        observe: bool,
    },
    /// Something is in the way; an operator may remove it and resume.
    Hindered(String),
    /// What was found no rule decides.
    Unclear(String),
    ObservationOver,
    /// Every slot that had moved is back, and was looked at.
    AllBack,
    /// The open slot of an aborted plan is finished.
    Stopped,
    /// Slots stay uncovered, and the configuration wants what has moved to go back then.
    Uncovered(String),
}

/// Why an order is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a plan that {expected}, found one that is {found}")]
pub struct Refusal {
    expected: &'static str,
    found: &'static str,
}

/// What a driver has to do for a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing, and nobody needs to hold its lease.
    Rest,
    /// Nothing until an order comes.
    Wait,
    Move,
    MoveBack,
    Verify,
    Observe,
    /// Bring what is open to an end.
    Finish,
}

impl Standing {
    pub fn drafted() -> Standing {
        Standing { state: State::Drafted, reason: String::new(), way: Way::Canary }
    }

    /// Slots were found open that no plan knows of: an operator says whether they are to be finished.
    pub fn adopted() -> Standing {
        let reason = "made from slots that stand open: PROXY MIGRATE RESUME finishes them".to_owned();
        Standing { state: State::Paused, reason, way: Way::Forward }
    }

    pub fn work(&self) -> Work {
        match self.state {
            state if state.is_at_rest() => Work::Rest,
            State::Canary | State::Running => Work::Move,
            State::Verifying => Work::Verify,
            State::Observing => Work::Observe,
            State::RollingBack => Work::MoveBack,
            State::Aborting => Work::Finish,
            _ => Work::Wait,
        }
    }

    fn going(way: Way) -> Standing {
        Standing { state: way.state(), reason: String::new(), way }
    }

    fn at(&self, state: State, reason: impl Into<String>) -> Standing {
        Standing { state, reason: reason.into(), way: self.way }
    }

    /// Where the plan stands after an order, or why it is refused.
    pub fn ordered(&self, order: Order) -> Result<Standing, Refusal> {
        use State::*;
        let refused = |expected| Err(Refusal { expected, found: self.state.word() });
        match (order, self.state) {
            (Order::Start, Drafted | Blocked) => Ok(Standing::going(Way::Canary)),
            (Order::Start, _) => refused("was not started before"),
            (Order::Pause, Canary | Running | RollingBack) => {
                Ok(self.at(Paused, "an operator paused it: PROXY MIGRATE RESUME goes on"))
            }
            (Order::Pause, Verifying) => Ok(self.at(Paused, "an operator paused it: PROXY MIGRATE RESUME goes on")),
            (Order::Pause, Paused) => Ok(self.clone()),
            (Order::Pause, _) => refused("moves slots"),
            (Order::Resume, Paused | NeedsOperator) => Ok(Standing::going(self.way)),
            (Order::Resume, Canary | Running | Verifying | RollingBack) => Ok(self.clone()),
            (Order::Resume, _) => refused("is paused"),
            (Order::Abort, Drafted | Blocked) => Ok(self.at(Aborted, "an operator aborted it before it had started")),
            (Order::Abort, Canary | Running | Paused | RollingBack | NeedsOperator | Aborting | Verifying) => Ok(Standing {
                reason: "an operator aborted it: the open slot is being finished".into(),
                ..Standing::going(Way::End)
            }),
            (Order::Abort, Aborted) => Ok(self.clone()),
            (Order::Abort, _) => refused("has slots left to move"),
            (Order::Rollback, Drafted | Blocked) => refused("has moved slots"),
            // It was aborted before it had started.
            (Order::Rollback, Aborted) if self.way == Way::Canary => refused("has moved slots"),
            (Order::Rollback, RolledBack) => refused("was not rolled back before"),
            (Order::Rollback, RollingBack) => Ok(self.clone()),
            (Order::Rollback, _) if self.way.is_back() => Ok(Standing::going(self.way)),
            (Order::Rollback, _) => Ok(Standing::going(Way::Back)),
        }
    }

    /// Where the plan stands after what was found. What means nothing in a state leaves it as it is.
    pub fn found(&self, fact: Fact) -> Standing {
        use State::*;
        match (fact, self.state) {
            (Fact::Blocked(reason), Drafted | Blocked | Canary) => self.at(Blocked, reason),
            (Fact::CanaryFine, Canary) => Standing::going(Way::Forward),
            (Fact::AllMoved, Canary | Running) => Standing::going(Way::Check),
            (Fact::Verified { observe: true }, Verifying) => self.at(Observing, ""),
            (Fact::Verified { observe: false }, Verifying) => self.at(Done, ""),
            (Fact::ObservationOver, Observing) => self.at(Done, ""),
            (Fact::AllBack, RollingBack) => self.at(RolledBack, ""),
            (Fact::Stopped, Aborting) => {
                self.at(Aborted, "an operator aborted it: PROXY MIGRATE ROLLBACK takes back what has moved")
            }
            (Fact::Hindered(reason), Canary | Running | Verifying | RollingBack) => self.at(Paused, reason),
            // What is open stays open: only an operator can close it.
            (Fact::Hindered(reason) | Fact::Unclear(reason), Aborting) => self.at(NeedsOperator, reason),
            (Fact::Hindered(reason), Observing | Paused) => self.at(self.state, reason),
            (Fact::Unclear(reason), Canary | Running | Verifying | RollingBack | Paused) => self.at(NeedsOperator, reason),
            (Fact::Unclear(reason), Observing) => self.at(Observing, reason),
            (Fact::Uncovered(reason), Canary | Running | Paused | Verifying | Observing)
                if !self.way.is_back() && self.way != Way::End =>
            {
                Standing { reason, ..Standing::going(Way::BackUncovered) }
            }
            _ => self.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
