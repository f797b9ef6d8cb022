//! Asking one node, or whoever answers for a seed's name.

use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cluster::{Addr, AskedView, NodesError, NodesView, Persona};
use crate::control::{Connection, ControlError, Credentials, Dialer, Pipeline, Reply};
use crate::topology::hello::parse_hello;
use crate::topology::pace::startup_wait;

/// The port of a seed that names none.
const DEFAULT_PORT: u16 = 6379;

/// A name may stand for every node of a large cluster (a headless Kubernetes service): this many of them are tried.
const ADDRESSES_PER_SEED: usize = 8;

/// A node's answer, and the connection it came over.
#[derive(Debug)]
pub(super) struct Answer {
    pub asked: AskedView,
    /// What the node says of itself; asked once on each connection, since a node that was restarted with another
    /// version needs a new one.
    pub persona: Option<Persona>,
    /// Whether its default user needs a password, if that was asked and answered.
    pub default_locked: Option<bool>,
    pub connection: Connection,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("node {addr}: expected an answer within {limit:?}, found none")]
    Late { addr: Addr, limit: Duration },
    #[error("node {addr}: expected its CLUSTER NODES, found {found:?}")]
    Refused { addr: Addr, found: String },
    #[error("node {addr}: its CLUSTER NODES is not what was expected: {error}")]
    Unreadable { addr: Addr, error: NodesError },
    #[error("seed {seed}: expected an address, found {found}")]
    Unresolved { seed: String, found: String },
}

/// Asks a node for its view, over `link` if there is one (a fresh connection takes over from one that turns out dead), and
/// on fresh connections, or when `asks_default` is set, also whether strangers are let in.
pub(super) async fn ask_node(
    dialer: Dialer,
    addr: Addr,
    link: Option<Connection>,
    asks_default: bool,
    limit: Duration,
) -> Result<Answer, NoAnswer> {
    let late = NoAnswer::Late { addr: addr.clone(), limit };
    let asks_default = asks_default || link.is_none();
    timeout(limit, async {
        let asking = ask_patiently(dialer.clone(), addr.clone(), link);
        if !asks_default {
            return asking.await;
        }
        let (answer, default_locked) = tokio::join!(asking, ask_default(&dialer, &addr));
        answer.map(|answer| Answer { default_locked, ..answer })
    })
    .await
    .unwrap_or(Err(late))
}

/// Whether a connection that says nothing may do nothing. A connection that was let in stays so, so each question is a new one.
async fn ask_default(dialer: &Dialer, addr: &Addr) -> Option<bool> {
    let stranger = Dialer { credentials: Credentials::default(), ..dialer.clone() };
    match stranger.dial(addr).await.ok()?.call(["HELLO", "2"]).await.ok()? {
        Reply::Error(text) => Some(text.starts_with("NOAUTH")),
        _ => Some(false),
    }
}

async fn ask_patiently(dialer: Dialer, addr: Addr, link: Option<Connection>) -> Result<Answer, NoAnswer> {
    if let Some(mut connection) = link
        && let Ok(reply) = connection.call(["CLUSTER", "NODES"]).await
    {
        return answer(addr, reply, None, connection);
    }
    let mut connection = dialer.dial(&addr).await?;
    let mut questions = Pipeline::new();
    questions.push(["HELLO", "2"]).push(["CLUSTER", "NODES"]);
    let mut replies = connection.call_many(&questions).await?.into_iter();
    // `call_many` answers each of the two questions.
    let (hello, nodes) = (replies.next().unwrap_or(Reply::Null), replies.next().unwrap_or(Reply::Null));
    answer(addr, nodes, parse_hello(hello), connection)
}

fn answer(addr: Addr, reply: Reply, persona: Option<Persona>, connection: Connection) -> Result<Answer, NoAnswer> {
    let text = match reply {
        Reply::BulkString(text) => text,
        Reply::Error(text) => return Err(NoAnswer::Refused { addr, found: text.to_string() }),
        other => return Err(NoAnswer::Refused { addr, found: format!("{other:?}") }),
    };
    match NodesView::parse(&text) {
        Ok(view) => Ok(Answer { asked: AskedView { asked: addr, view }, persona, default_locked: None, connection }),
        Err(error) => Err(NoAnswer::Unreadable { addr, error }),
    }
}

/// Asks the nodes that a seed's name stands for now: the first that answers with a view that owns slots speaks for the
/// seed, or else the last that answered.
pub(super) async fn ask_seed(dialer: Dialer, seed: String, limit: Duration) -> Result<Answer, NoAnswer> {
    let mut asking = JoinSet::new();
    let dialer = Dialer { tls: dialer.tls.as_ref().map(|tls| tls.named(name_of(&seed).host())), ..dialer };
    for addr in resolve(&seed, dialer.dial_timeout).await? {
        asking.spawn(ask_node(dialer.clone(), addr, None, true, limit));
    }
    let mut outcome = Err(NoAnswer::Unresolved { seed, found: "none".into() });
    while let Some(joined) = asking.join_next().await {
        match joined {
            Ok(Ok(answer)) if answer.asked.view.covered() > 0 => return Ok(answer),
            Ok(Ok(answer)) => outcome = Ok(answer),
            Ok(Err(why)) if outcome.is_err() => outcome = Err(why),
            Ok(Err(_)) => {}
            Err(panicked) => tracing::error!(%panicked, "asking a seed"),
        }
    }
    outcome
}

/// Asks a seed until it answers with a view that owns slots.
pub(super) async fn ask_seed_until_usable(dialer: Dialer, seed: String, limit: Duration, now_us: super::Now) -> (u64, Answer) {
    for attempt in 0.. {
        let asked_at_us = now_us();
        match ask_seed(dialer.clone(), seed.clone(), limit).await {
            Ok(answer) if answer.asked.view.covered() > 0 => return (asked_at_us, answer),
            Ok(answer) => tracing::warn!(node = %answer.asked.asked, "it belongs to no cluster yet: no slot has an owner"),
            Err(why) => tracing::warn!(seed, "{why}"),
        }
        sleep(startup_wait(attempt, fastrand::f64())).await;
    }
    std::future::pending().await
}

fn name_of(seed: &str) -> Addr {
    Addr::parse(seed).unwrap_or_else(|| Addr::new(seed.trim_matches(['[', ']']), DEFAULT_PORT))
}

async fn resolve(seed: &str, limit: Duration) -> Result<Vec<Addr>, NoAnswer> {
    let unresolved = |found: String| NoAnswer::Unresolved { seed: seed.to_owned(), found };
    let name = name_of(seed);
    let found = timeout(limit, lookup_host((name.host(), name.port()))).await;
    let found = found.map_err(|_| unresolved(format!("no answer within {limit:?}")))?;
    let mut addrs: Vec<Addr> = found
        .map_err(|error| unresolved(error.to_string()))?
        .map(|found| Addr::new(&found.ip().to_string(), found.port()))
        .collect();
    fastrand::shuffle(&mut addrs);
    addrs.truncate(ADDRESSES_PER_SEED);
    Ok(addrs)
}
