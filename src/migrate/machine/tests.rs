use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn facts() -> Vec<Fact> {
    let why = || "why".to_owned();
    vec![
        Fact::Blocked(why()),
        Fact::CanaryFine,
        Fact::AllMoved,
        Fact::Verified { observe: true },
        Fact::Verified { observe: false },
        Fact::Hindered(why()),
        Fact::Unclear(why()),
        Fact::ObservationOver,
        Fact::AllBack,
        Fact::Stopped,
        Fact::Uncovered(why()),
    ]
}

/// Everything that can come next.
fn after(standing: &Standing) -> Vec<Standing> {
    let orders = Order::ALL.into_iter().filter_map(|order| standing.ordered(order).ok());
    orders.chain(facts().into_iter().map(|fact| standing.found(fact))).collect()
}

/// All that can be reached from here, reasons aside.
fn reachable(from: Standing) -> Vec<Standing> {
    let mut known: BTreeSet<(&str, String)> = BTreeSet::new();
    let mut open = vec![from];
    let mut all = Vec::new();
    while let Some(standing) = open.pop() {
        if known.insert((standing.state.word(), format!("{:?}", standing.way))) {
            open.extend(after(&standing));
            all.push(standing);
        }
    }
    all
}

#[test]
fn every_state_can_be_reached_and_left() {
    let all = reachable(Standing::drafted());
    for state in State::ALL {
        let standing: Vec<_> = all.iter().filter(|standing| standing.state == state).collect();
        assert!(!standing.is_empty(), "{state:?} is never reached");
        for standing in standing {
            let leaves = after(standing).iter().any(|next| next.state != state);
            let never_started = state == State::Aborted && standing.way == Way::Canary;
            assert!(leaves || never_started || state == State::RolledBack, "{standing:?} is never left");
        }
    }
}

#[test]
fn nothing_that_was_given_up_goes_forward() {
    for (state, way) in [
        (State::Aborting, Way::End),
        (State::Aborted, Way::End),
        (State::RollingBack, Way::Back),
        (State::RollingBack, Way::BackUncovered),
        (State::RolledBack, Way::Back),
    ] {
        let all = reachable(Standing { state, reason: String::new(), way });
        assert!(!all.iter().any(|next| matches!(next.state, State::Canary | State::Running | State::Done)), "{state:?}: {all:?}");
    }
}

#[test]
fn a_plan_at_noon() {
    let mut standing = Standing::drafted();
    let mut seen = vec![standing.state.word()];
    let mut step = |next: Standing| {
        seen.push(next.state.word());
        standing = next.clone();
        next
    };
    let started = step(Standing::drafted().ordered(Order::Start).expect("it is drafted"));
    let running = step(started.found(Fact::CanaryFine));
    let paused = step(running.found(Fact::Hindered("replica behind".into())));
    assert_eq!((paused.reason.as_str(), paused.work()), ("replica behind", Work::Wait));
    let resumed = step(paused.ordered(Order::Resume).expect("it is paused"));
    let verifying = step(resumed.found(Fact::AllMoved));
    let observing = step(verifying.found(Fact::Verified { observe: true }));
    let done = step(observing.found(Fact::ObservationOver));
    let back = step(done.ordered(Order::Rollback).expect("what is done can be taken back"));
    assert_eq!(back.work(), Work::MoveBack);
    step(back.found(Fact::AllBack));
    let words = "drafted canary running paused running verifying observing done rolling-back rolled-back";
    assert_eq!(seen.join(" "), words);
}

#[test]
fn a_plan_whose_slots_stay_uncovered_goes_back_and_stays_on_its_way() {
    let uncovered = || Fact::Uncovered("no owner".into());
    let running = Standing { state: State::Running, way: Way::Forward, ..Standing::drafted() };
    let paused = running.found(Fact::Hindered("gate coverage closed".into()));
    let back = paused.found(uncovered());
    assert_eq!((back.state, back.way, back.reason.as_str()), (State::RollingBack, Way::BackUncovered, "no owner"));
    let hindered = back.found(Fact::Hindered("gate memory closed".into()));
    assert_eq!(hindered.found(uncovered()), hindered, "it goes back already");
    for order in [Order::Resume, Order::Rollback] {
        let goes_on = hindered.ordered(order).expect("it is paused");
        assert_eq!((goes_on.state, goes_on.way), (State::RollingBack, Way::BackUncovered), "{order:?}");
    }
    let aborted = paused.ordered(Order::Abort).expect("it has slots left to move");
    assert_eq!(aborted.found(uncovered()), aborted, "what was given up moves nothing");
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let at = |state| Standing { state, ..Standing::drafted() };
    let check = |state, order, expected: &str| {
        let refusal = at(state).ordered(order).expect_err(expected);
        assert_eq!(refusal.to_string(), expected);
    };
    check(State::Running, Order::Start, "expected a plan that was not started before, found one that is running");
    check(State::Drafted, Order::Pause, "expected a plan that moves slots, found one that is drafted");
    check(State::Aborted, Order::Resume, "expected a plan that is paused, found one that is aborted");
    check(State::Done, Order::Abort, "expected a plan that has slots left to move, found one that is done");
    check(State::Blocked, Order::Rollback, "expected a plan that has moved slots, found one that is blocked");
}

proptest! {
    /// Whatever happens in whatever order: a plan moves slots only after START, and at rest it needs no driver.
    #[test]
    fn nothing_moves_unless_it_was_started(steps in proptest::collection::vec(0usize..16, 0..40)) {
        let mut standing = Standing::drafted();
        let mut started = false;
        for step in steps {
            let facts = facts();
            standing = match Order::ALL.get(step) {
                Some(order) => match standing.ordered(*order) {
                    Ok(next) => {
                        started |= *order == Order::Start;
                        next
                    }
                    Err(_) => standing,
                },
                None => standing.found(facts[step - Order::ALL.len()].clone()),
            };
            prop_assert!(started || standing.state.is_at_rest(), "{standing:?}");
            prop_assert_eq!(standing.work() == Work::Rest, standing.state.is_at_rest());
        }
    }
}
