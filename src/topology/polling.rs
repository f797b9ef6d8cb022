//! The questions under way, the connections they travel on, and what nodes said of themselves.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::cluster::{Addr, AskedView, NodesView, Persona, SlotMap};
use crate::control::{Connection, Dialer};
use crate::topology::ask::{Answer, NoAnswer, ask_node, ask_seed};

/// How long a round waits for the others once someone has answered: a busy node must not hold up the news.
const STRAGGLERS_WAIT: Duration = Duration::from_millis(100);

/// Whom a question goes to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Target {
    Node(Addr),
    /// A name that may stand for several nodes.
    Seed(String),
}

/// When a round of questions is over, if not everybody has answered or failed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    /// A moment after the first answer.
    Stragglers,
    /// Not before.
    Everybody,
}

/// What a round brought.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub views: Vec<AskedView>,
    pub failures: Vec<NoAnswer>,
}

/// Asks nodes concurrently, and keeps one connection to each. A question that outlives its round goes on, so that the
/// connection of a slow node survives; its view is dropped, for the next round will have a newer one.
#[derive(Debug)]
pub(super) struct Polling {
    pub dialer: Dialer,
    /// For one node's answer, everything included.
    pub answer_timeout: Duration,
    links: FxHashMap<Addr, Connection>,
    /// By node id, what it said on its latest connection.
    personas: FxHashMap<Arc<str>, Persona>,
    /// What the node said last that was asked whether its default user needs a password.
    pub default_locked: Option<bool>,
    /// The next node that is asked is asked that too.
    pub asks_default: bool,
    under_way: JoinSet<Done>,
    busy: FxHashSet<Target>,
    round: u64,
}

/// A question that came to its end.
#[derive(Debug)]
pub(super) struct Done {
    target: Target,
    round: u64,
    outcome: Result<Answer, NoAnswer>,
}

impl Polling {
    pub fn new(dialer: Dialer, answer_timeout: Duration) -> Polling {
        Polling {
            dialer,
            answer_timeout,
            links: FxHashMap::default(),
            personas: FxHashMap::default(),
            default_locked: None,
            asks_default: false,
            under_way: JoinSet::new(),
            busy: FxHashSet::default(),
            round: 0,
        }
    }

    /// Asks all targets that are not still busy with an earlier question, and collects what they answer.
    pub async fn round(&mut self, targets: Vec<Target>, patience: Patience) -> Round {
        while let Some(done) = self.under_way.try_join_next() {
            self.settle(done);
        }
        self.round += 1;
        let mut waiting: FxHashSet<Target> = FxHashSet::default();
        for target in targets {
            if self.ask(target.clone()) {
                waiting.insert(target);
            }
        }
        let mut round = Round::default();
        let mut until: Option<Instant> = None;
        while !waiting.is_empty() {
            let Some(done) = self.next_until(until).await else { break };
            let Some((target, outcome)) = self.settle(done) else { continue };
            waiting.remove(&target);
            match outcome {
                Ok(view) => {
                    round.views.push(view);
                    if patience == Patience::Stragglers {
                        until = until.or(Some(Instant::now() + STRAGGLERS_WAIT));
                    }
                }
                Err(why) => round.failures.push(why),
            }
        }
        round
    }

    /// Waits for a question that outlived its round to come to its end; for ever when there is none.
    pub async fn straggler(&mut self) -> Result<Done, JoinError> {
        match self.under_way.join_next().await {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }

    /// Takes a question off the list: keeps its connection and what the node says of itself, and hands on what it says of
    /// the cluster if it belongs to the present round.
    pub fn settle(&mut self, done: Result<Done, JoinError>) -> Option<(Target, Result<AskedView, NoAnswer>)> {
        let done = done.inspect_err(|panicked| tracing::error!(%panicked, "asking a node")).ok()?;
        self.busy.remove(&done.target);
        let outcome = done.outcome.map(|answer| self.adopt(answer));
        (done.round == self.round).then_some((done.target, outcome))
    }

    /// Keeps what an answer brought besides the node's view.
    pub fn adopt(&mut self, answer: Answer) -> AskedView {
        let Answer { asked, persona, default_locked, connection } = answer;
        self.default_locked = default_locked.or(self.default_locked);
        if let Some(persona) = persona {
            self.personas.insert(asked.view.myself().id.clone(), persona);
        }
        self.links.insert(connection.addr().clone(), connection);
        asked
    }

    /// Asks nodes what they are, without waiting for the answers; the connections are kept.
    pub fn greet(&mut self, addrs: impl IntoIterator<Item = Addr>) {
        self.round += 1;
        for addr in addrs {
            self.ask(Target::Node(addr));
        }
        // Whatever they say of the cluster belongs to no round.
        self.round += 1;
    }

    pub fn persona(&self, id: &str) -> Option<&Persona> {
        self.personas.get(id)
    }

    /// The oldest version among the nodes that views speak of, which promises nothing that some node cannot keep.
    pub fn oldest_persona<'a>(&self, views: impl IntoIterator<Item = &'a NodesView>) -> Option<Persona> {
        let ids = views.into_iter().flat_map(|view| &view.nodes).map(|node| &node.id);
        let known = ids.filter_map(|id| Some((id, self.personas.get(id)?)));
        known.min_by_key(|(id, persona)| (persona.version_numbers(), *id)).map(|(_, persona)| persona.clone())
    }

    /// Forgets what concerns nodes that are not in the map.
    pub fn retain(&mut self, map: &SlotMap) {
        self.links.retain(|addr, _| map.find_addr(addr.as_str()).is_some());
        self.personas.retain(|id, _| map.find_id(id).is_some());
    }

    /// Puts a question on its way, unless the same one is: whether it did.
    fn ask(&mut self, target: Target) -> bool {
        if !self.busy.insert(target.clone()) {
            return false;
        }
        let (dialer, limit, round) = (self.dialer.clone(), self.answer_timeout, self.round);
        let asks_default = std::mem::take(&mut self.asks_default);
        let link = match &target {
            Target::Node(addr) => self.links.remove(addr),
            Target::Seed(_) => None,
        };
        self.under_way.spawn(async move {
            let outcome = match target.clone() {
                Target::Node(addr) => ask_node(dialer, addr, link, asks_default, limit).await,
                Target::Seed(seed) => ask_seed(dialer, seed, limit).await,
            };
            Done { target, round, outcome }
        });
        true
    }

    /// The next question that comes to its end, or `None` when the time is over.
    async fn next_until(&mut self, until: Option<Instant>) -> Option<Result<Done, JoinError>> {
        let Some(until) = until else { return self.under_way.join_next().await };
        tokio::select! {
            biased;
            done = self.under_way.join_next() => done,
            () = sleep_until(until) => None,
        }
    }
}
