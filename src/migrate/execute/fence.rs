//! Only one driver acts. A driver has a token that is higher than that of every driver before it; its connections carry it as their
//! name, and whoever connects with a higher one ends those with a lower, so that nothing of an earlier driver is under way any more. A
//! node runs one command at a time: when the connection is gone, so is the command.
//!
//! A driver whose connection was ended dials again, and its own clock may have stood still meanwhile. So each new connection is named
//! first, and then the record is asked whether the lease is still held: whoever takes the lease behind that answer finds the connection
//! by its name. The `Guard` keeps names on all masters beside, in case the record itself has forgotten. Where a script may call SETSLOT,
//! the token also lies on the nodes (see `token`).

use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::Halt;
use crate::cluster::SlotMap;
use crate::control::{Connection, ControlError, Dialer, Fault, Pipeline, Reply};

/// What connections of drivers are called, with the token behind it.
const NAME: &str = "keyway:";

/// The right to act.
#[derive(Clone, Debug)]
pub struct Fence {
    /// Higher than that of every driver before.
    pub token: u64,
    /// By this process's own clock, when the lease ends unless it is renewed, a margin taken off.
    pub until: watch::Receiver<Instant>,
    /// Whoever keeps the record: a sender that is left here is answered when the record has said, later than that, that the lease is
    /// held, and dropped when it is not.
    pub record: mpsc::Sender<oneshot::Sender<()>>,
}

impl Fence {
    pub(super) fn check(&self) -> Result<(), Halt> {
        if Instant::now() < *self.until.borrow() { Ok(()) } else { Err(Halt::Fenced) }
    }

    /// Makes a new connection one of this driver's. False: another drives, or the lease is over, and nothing may be sent.
    pub(super) async fn admit(&self, node: &mut Connection) -> Result<bool, ControlError> {
        Ok(claim(node, self.token).await? <= self.token && self.is_held().await && self.check().is_ok())
    }

    /// Asks the record. It is bounded by the lease: who keeps it gives up when that is over.
    async fn is_held(&self) -> bool {
        let (says, said) = oneshot::channel();
        self.record.send(says).await.is_ok() && said.await.is_ok()
    }
}

/// Ends every connection of a driver with a lower token, on all masters of the map. Returns the highest token that was met: when it is
/// higher than `token`, that driver is the one. Masters that cannot be asked are passed over: an executor does the same whenever it
/// connects to a node.
pub async fn take_over(dialer: &Dialer, map: &SlotMap, token: u64) -> u64 {
    let mut asking = JoinSet::new();
    for master in map.masters() {
        let (dialer, addr) = (dialer.clone(), map.node(master).addr.clone());
        asking.spawn(async move {
            let mut node = dialer.dial(&addr).await?;
            claim(&mut node, token).await
        });
    }
    let mut highest = 0;
    while let Some(joined) = asking.join_next().await {
        match joined {
            Ok(Ok(met)) => highest = highest.max(met),
            Ok(Err(error)) => tracing::warn!(%error, "ending the connections of earlier drivers"),
            Err(panicked) => tracing::error!(%panicked, "ending the connections of earlier drivers"),
        }
    }
    highest
}

/// Names the connection and ends those of earlier drivers on this node. Returns the highest other token that was met.
pub(super) async fn claim(node: &mut Connection, token: u64) -> Result<u64, ControlError> {
    let mut words = Pipeline::new();
    words.push(["CLIENT", "SETNAME", &format!("{NAME}{token}")]).push(["CLIENT", "LIST"]);
    let replies = node.call_many(&words).await?;
    let addr = node.addr().clone();
    let refused = |reply: &Reply| {
        let error = if let Reply::Error(error) = reply { error.to_string() } else { format!("{reply:?}") };
        ControlError { addr: addr.clone(), fault: Fault::Refused(error) }
    };
    // Without a name nobody would find it.
    let list = match &replies[..] {
        [Reply::Error(_), _] => return Err(refused(&replies[0])),
        [_, Reply::BulkString(list)] => list,
        _ => return Err(refused(&replies[replies.len() - 1])),
    };
    let mut highest = 0;
    for client in String::from_utf8_lossy(list).lines() {
        let Some(other) = field(client, "name").and_then(|name| name.strip_prefix(NAME)?.parse::<u64>().ok()) else { continue };
        highest = highest.max(if other == token { 0 } else { other });
        if let Some(id) = field(client, "id").filter(|_| other < token) {
            node.call(["CLIENT", "KILL", "ID", id]).await?;
        }
    }
    Ok(highest)
}

/// A field of a line of CLIENT LIST.
pub(super) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|part| part.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_client_list() {
        let line = "id=7 addr=127.0.0.1:5 laddr=127.0.0.1:6 fd=8 name=keyway:12 age=0 cmd=restore-asking user=default";
        assert_eq!(field(line, "id"), Some("7"));
        assert_eq!(field(line, "name"), Some("keyway:12"));
        assert_eq!(field(line, "cmd"), Some("restore-asking"));
        assert_eq!(field(line, "resp"), None);
    }

    #[test]
    fn a_lease_ends_by_itself() {
        let (renew, until) = watch::channel(Instant::now() + std::time::Duration::from_secs(60));
        let fence = Fence { token: 1, until, record: mpsc::channel(1).0 };
        assert_eq!(fence.check(), Ok(()));
        renew.send_replace(Instant::now());
        assert_eq!(fence.check(), Err(Halt::Fenced));
    }
}
