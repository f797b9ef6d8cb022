//! A driver's token on the nodes themselves, where a script may call SETSLOT (Redis): the node compares it in the same moment in which it
//! obeys. It lies under a key of a slot that the node owns and the leg leaves alone. Where there is none, and where a node does not let
//! scripts at its keys just now, connections alone tell drivers apart (see `fence`).

use super::nodes::{Node, Nodes};
use super::patience::Trip;
use super::{End, Halt};
use crate::cluster::{Addr, NodesView, Slot};
use crate::control::{Dialer, Reply};
use crate::migrate::SlotSet;
use crate::migrate::record::tags;

/// How long it lies there when nobody raises it, in milliseconds.
const KEPT_MS: &str = "3600000";

/// KEYS fence; ARGV token, how long it is kept. The highest stays.
const RAISE: &str = "\
local held=redis.call('GET',KEYS[1]) \
if held and tonumber(held)>tonumber(ARGV[1]) then return redis.error_reply('FENCED '..held) end \
return redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2])";

/// KEYS fence, or none; ARGV token, the mark that must stand in the node's own view or nothing, the words behind CLUSTER SETSLOT.
const SET_SLOT: &str = "\
if KEYS[1] then local held=redis.call('GET',KEYS[1]) \
if held and tonumber(held)>tonumber(ARGV[1]) then return redis.error_reply('FENCED '..held) end end \
if ARGV[2]~='' and not string.find(redis.call('CLUSTER','NODES'),ARGV[2],1,true) then \
return redis.error_reply('UNMARKED this node does not hold the mark '..ARGV[2]..' any more') end \
return redis.call('CLUSTER','SETSLOT',unpack(ARGV,3))";

/// Answers for which a script never ran, or not to its end: of rights, of memory, and of the key's slot.
const NOT_RUN: [&str; 9] =
    ["NOPERM ", "OOM ", "MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN ", "READONLY ", "NOREPLICAS ", "MISCONF "];

/// Whether a reply says that a later driver was here.
fn is_fenced(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(error) if error.starts_with("FENCED "))
}

fn not_run(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(error) if NOT_RUN.iter().any(|code| error.starts_with(code)))
}

/// A key of a slot that the node owns in its own view and that is not about to move.
fn fence_key(view: &NodesView, moving: &SlotSet) -> Option<String> {
    let owned: SlotSet = view.myself().slots.iter().flat_map(|(first, last)| Slot::span(*first, *last)).collect();
    tags().map(|tag| format!("{{keyway:{tag}}}:fence")).find(|key| {
        let slot = Slot::of(key.as_bytes());
        owned.contains(slot) && !moving.contains(slot)
    })
}

impl Nodes {
    /// Puts the token on both ends, once a leg and connection.
    pub async fn raise_tokens(&mut self) -> Result<(), Trip> {
        let (Some(token), moving) = (self.token(), self.moving.clone()) else { return Ok(()) };
        for end in [End::Source, End::Target] {
            if let Some(node) = self.node(end)
                && node.fence_key.is_none()
            {
                let key = if node.server.setslot_in_script() { raise(node, end, &moving, token).await? } else { None };
                node.fence_key = Some(key);
            }
        }
        Ok(())
    }

    /// `CLUSTER SETSLOT` with these words, unless a later driver was at the node; `mark` must be in the node's own view, where a script
    /// can look.
    pub async fn set_slot(&mut self, end: End, words: &[&str], mark: &str) -> Result<Reply, Trip> {
        let token = self.token().unwrap_or(0).to_string();
        let Some(node) = self.node(end) else { return Err(Trip::Refused(format!("{end} is not connected"))) };
        let lost = Trip::lost(end, &node.id);
        if node.server.setslot_in_script() {
            let mut script = vec!["EVAL", SET_SLOT];
            let key = node.fence_key.clone().flatten();
            match &key {
                Some(key) => script.extend(["1", key]),
                None => script.push("0"),
            }
            script.extend([&token, mark]);
            script.extend(words);
            let reply = node.connection.call(&script).await.map_err(&lost)?;
            if is_fenced(&reply) {
                return Err(Trip::Halt(Halt::Fenced));
            }
            if !not_run(&reply) {
                return Ok(reply);
            }
        }
        let plain = [&["CLUSTER", "SETSLOT"], words].concat();
        node.connection.call(&plain).await.map_err(&lost)
    }
}

/// Takes a slot's mark from a receiver that answers nobody because of it, while it still names `from`, and tells it who owns the slot.
/// No driver's act: see `coordinator::freed`. The error is for people.
pub async fn take_mark(dialer: &Dialer, receiver: &Addr, slot: Slot, [from, owner]: [&str; 2]) -> Result<(), String> {
    let mut node = dialer.dial(receiver).await.map_err(|error| error.to_string())?;
    let (slot, mark) = (slot.to_string(), format!("[{slot}-<-{from}]"));
    let taken = node.call(["EVAL", SET_SLOT, "0", "0", &mark, &slot, "STABLE"]).await.map_err(|error| error.to_string())?;
    if let Reply::Error(error) = taken {
        return Err(format!("{receiver} answers SETSLOT {slot} STABLE with '{error}'"));
    }
    // Where this is refused gossip tells it a little later.
    let told = node.call(["CLUSTER", "SETSLOT", &slot, "NODE", owner]).await;
    tracing::debug!(?told, slot, owner, "telling a receiver who owns the slot");
    Ok(())
}

/// The key under which the token lies now, if there is one.
async fn raise(node: &mut Node, end: End, moving: &SlotSet, token: u64) -> Result<Option<String>, Trip> {
    let lost = Trip::lost(end, &node.id);
    let nodes = node.connection.call(["CLUSTER", "NODES"]).await.map_err(&lost)?;
    let Reply::BulkString(nodes) = nodes else { return Ok(None) };
    let view = NodesView::parse(&nodes).map_err(|error| Trip::Refused(error.to_string()))?;
    let Some(key) = fence_key(&view, moving) else { return Ok(None) };
    let reply = node.connection.call(["EVAL", RAISE, "1", &key, &token.to_string(), KEPT_MS]).await.map_err(&lost)?;
    match reply {
        _ if is_fenced(&reply) => Err(Trip::Halt(Halt::Fenced)),
        Reply::Error(error) => {
            tracing::debug!(%error, node = %node.connection.addr(), "the token is not kept there");
            Ok(None)
        }
        _ => Ok(Some(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_stays_where_it_is() {
        let key = |owned: &str, moving: &str| {
            let text = format!("a 127.0.0.1:1@2 myself,master - 0 0 1 connected {owned}\n");
            let view = NodesView::parse(text.as_bytes()).expect("the test's own text");
            fence_key(&view, &SlotSet::parse(moving).expect("the test's own slots"))
        };
        let slot = |key: Option<String>| key.map(|key| Slot::of(key.as_bytes()).index());
        assert!(slot(key("0-5460", "5")).is_some_and(|slot| slot < 5461));
        assert!(slot(key("0-16383", "0-16000")).is_some_and(|slot| slot > 16000));
        assert_eq!(key("0-5460", "0-5460"), None, "all of it goes");
        assert_eq!(key("", "5"), None, "it has nothing yet");
    }
}
