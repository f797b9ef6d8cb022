//! Commands on keys, carried out by whoever owns their slot at the moment.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cluster::{Addr, Redirect, Slot, parse_redirect};
use crate::control::{Connection, Dialer, Pipeline, Reply};
use crate::topology::{RefreshCause, TopologyHandle};

/// A slot that fails over is back within it, as a rule.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Between tries, so that a node in trouble is not asked without end.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections to the owners of keys, made when they are needed.
pub(super) struct Keyed {
    pub topology: TopologyHandle,
    pub dialer: Dialer,
    links: BTreeMap<Addr, Connection>,
}

impl Keyed {
    pub fn new(topology: TopologyHandle, dialer: Dialer) -> Keyed {
        Keyed { topology, dialer, links: BTreeMap::new() }
    }

    /// Carries out a command whose keys all lie in the slot of `key`; follows redirects and waits for a slot that nobody serves just now.
    /// A command may be carried out twice, when its first reply was lost. Errors that the node means are replies.
    pub async fn call<A: AsRef<[u8]>>(&mut self, key: &str, words: &[A]) -> Result<Reply, String> {
        let slot = Slot::of(key.as_bytes());
        let until = Instant::now() + CALL_LIMIT;
        let mut sent_on: Option<(Addr, bool)> = None;
        let mut last = "expected a slot map, found none".to_owned();
        while Instant::now() < until {
            let (addr, asking) = match sent_on.take() {
                Some(sent_on) => sent_on,
                None => match self.owner(slot) {
                    Some(addr) => (addr, false),
                    None => {
                        sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            let reply = match self.ask(&addr, asking, words).await {
                Ok(reply) => reply,
                Err(error) => {
                    last = error;
                    self.topology.hint(RefreshCause::LaneLost);
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Reply::Error(text) = &reply else { return Ok(reply) };
            match parse_redirect(text.as_bytes(), &addr) {
                Some(redirect) => {
                    let asking = matches!(redirect, Redirect::Ask { .. });
                    self.topology.hint(RefreshCause::Moved);
                    sent_on = redirect.addr().and_then(|addr| self.known(addr)).map(|addr| (addr, asking));
                    if sent_on.is_none() {
                        sleep(PAUSE).await;
                    }
                }
                None if for_now(text) => {
                    self.topology.hint(RefreshCause::ClusterDown);
                    sleep(PAUSE).await;
                }
                None => return Ok(reply),
            }
            last = text.to_string();
        }
        Err(format!("no node served slot {slot} within {CALL_LIMIT:?}: {last}"))
    }

    /// How many replicas the owner of a slot has.
    pub fn replicas(&self, key: &str) -> usize {
        let Some(map) = self.topology.current() else { return 0 };
        map.owner(Slot::of(key.as_bytes())).map_or(0, |owner| map.replicas(owner).filter(|node| !map.node(*node).failed).count())
    }

    /// Who serves a slot, as far as is known.
    pub fn owner(&self, slot: Slot) -> Option<Addr> {
        let map = self.topology.current()?;
        map.owner(slot).map(|owner| map.node(owner).addr.clone())
    }

    /// What a redirect names is one more spelling of a node, nothing to dial.
    fn known(&self, addr: &Addr) -> Option<Addr> {
        let map = self.topology.current()?;
        map.find_addr(addr.as_str()).map(|node| map.node(node).addr.clone())
    }

    async fn ask<A: AsRef<[u8]>>(&mut self, addr: &Addr, asking: bool, words: &[A]) -> Result<Reply, String> {
        let mut link = match self.links.remove(addr) {
            Some(link) => link,
            None => self.dialer.dial(addr).await.map_err(|error| error.to_string())?,
        };
        let mut commands = Pipeline::new();
        if asking {
            commands.push(["ASKING"]);
        }
        commands.push(words);
        let reply = link.call_many(&commands).await.map_err(|error| error.to_string())?.pop();
        self.links.insert(addr.clone(), link);
        reply.ok_or_else(|| format!("node {addr}: expected a reply, found none"))
    }
}

/// Errors that go away by themselves.
fn for_now(error: &str) -> bool {
    ["TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "READONLY", "NOREPLICAS", "BUSY "]
        .iter()
        .any(|code| error.starts_with(code))
}
