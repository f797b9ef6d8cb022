//! What became of keys whose MIGRATE came to no good end, and of keys that both ends hold.

use bytes::Bytes;

use super::drain::keys_of;
use super::fence::field;
use super::halt::End;
use super::nodes::text;
use super::passage::Passage;
use super::patience::Trip;
use super::{Event, Executor, Kept, Listener, Orders};
use crate::control::{Pipeline, Reply};

/// Keys that both ends are asked for at once.
const ASKED: usize = 1000;

impl Executor {
    /// A MIGRATE broke off: notes which of its keys are still at the source, at once, before clients remove more of them.
    pub(super) async fn note_left(
        &mut self,
        passage: &mut Passage,
        database: u32,
        keys: Vec<Bytes>,
        tell: Listener<'_>,
    ) -> Result<(), Trip> {
        let left = match self.present(End::Source, database, &keys).await {
            Ok(left) => left,
            Err(trip) => {
                passage.doubt(&keys, tell);
                return Err(trip);
            }
        };
        passage.keys += (keys.len() - left.len()) as u64;
        passage.unconfirmed = true;
        passage.doubt(&left, tell);
        passage.unsettled = Some((database, left));
        Ok(())
    }

    /// Waits until nothing of a MIGRATE that broke off can arrive any more, and tells which keys the target alone holds now: clients may
    /// have removed them.
    pub(super) async fn settle(&mut self, passage: &mut Passage, tell: Listener<'_>) -> Result<(), Trip> {
        let Some((database, keys)) = passage.unsettled.clone() else { return Ok(()) };
        self.end_strays().await?;
        let left = self.present(End::Source, database, &keys).await?;
        let removed: Vec<Bytes> = keys.into_iter().filter(|key| !left.contains(key)).collect();
        let doubtful = self.present(End::Target, database, &removed).await?;
        if !doubtful.is_empty() {
            tell(Event::Doubtful { slot: passage.slot, keys: doubtful });
        }
        passage.unsettled = None;
        Ok(())
    }

    /// Ends connections over which the target still restores keys. A new connection comes behind all that was sent before it.
    async fn end_strays(&mut self) -> Result<(), Trip> {
        let dialer = self.nodes.dialer.clone();
        let target = self.end(End::Target)?;
        let lost = Trip::lost(End::Target, &target.id);
        let mut fresh = dialer.dial(target.connection.addr()).await.map_err(&lost)?;
        fresh.call(["PING"]).await.map_err(&lost)?;
        let list = text(&fresh.call(["CLIENT", "LIST"]).await.map_err(&lost)?);
        for line in list.lines().filter(|line| field(line, "cmd") == Some("restore-asking")) {
            if let Some(id) = field(line, "id") {
                fresh.call(["CLIENT", "KILL", "ID", id]).await.map_err(&lost)?;
            }
        }
        Ok(())
    }

    /// Those of the keys that an end holds.
    pub(super) async fn present(&mut self, end: End, database: u32, keys: &[Bytes]) -> Result<Vec<Bytes>, Trip> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let node = self.end(end)?;
        let lost = Trip::lost(end, &node.id);
        node.select(database).await.map_err(&lost)?;
        let mut questions = Pipeline::new();
        for key in keys {
            // Without it an importing node sends us back. It holds for one command, and a node that owns the slot minds it not.
            questions.push(["ASKING"]).push([&b"EXISTS"[..], key]);
        }
        let replies = node.connection.call_many(&questions).await.map_err(&lost)?;
        let mut found = Vec::new();
        for (key, reply) in keys.iter().zip(replies.iter().skip(1).step_by(2)) {
            match reply {
                Reply::Integer(1) => found.push(key.clone()),
                Reply::Integer(_) => {}
                // The source sends on whoever asks for what it does not hold.
                Reply::Error(error) if error.starts_with("ASK ") => {}
                Reply::Error(error) if error.starts_with("MOVED ") => {
                    return Err(Trip::Lost { end, node: node.id.clone(), why: "it does not own its slots any more".into() });
                }
                other => return Err(Trip::Refused(format!("{end} answers EXISTS with '{}'", text(other)))),
            }
        }
        Ok(found)
    }

    /// The source's shard has failed over, and its new master may not know what was moved last: looks for keys that both ends hold, and
    /// drops one copy of each. Nobody is let to the new master meanwhile, so that none of them changes.
    pub(super) async fn settle_conflicts(
        &mut self,
        passage: &mut Passage,
        orders: &Orders,
        tell: Listener<'_>,
    ) -> Result<(), Trip> {
        let slot = passage.slot.to_string();
        let source = self.end(End::Source)?;
        let (databases, lost) = (source.databases, Trip::lost(End::Source, &source.id));
        for database in 0..databases {
            let source = self.end(End::Source)?;
            source.select(database).await.map_err(&lost)?;
            let count = text(&source.connection.call(["CLUSTER", "COUNTKEYSINSLOT", &slot]).await.map_err(&lost)?);
            let reply = source.connection.call(["CLUSTER", "GETKEYSINSLOT", &slot, &count]).await.map_err(&lost)?;
            let refusal = text(&reply);
            let keys = keys_of(reply)
                .ok_or_else(|| Trip::Refused(format!("the source answers GETKEYSINSLOT {slot} {count} with '{refusal}'")))?;
            for keys in keys.chunks(ASKED) {
                orders.fence.check()?;
                for key in self.present(End::Target, database, keys).await? {
                    self.resolve(passage, database, key, tell).await?;
                }
            }
        }
        Ok(())
    }

    /// Both ends hold a key. If it was acknowledged it has been the target's since, and the source's new master missed only that it is
    /// gone; if it was not it is the source's.
    async fn resolve(&mut self, passage: &mut Passage, database: u32, key: Bytes, tell: Listener<'_>) -> Result<(), Trip> {
        let kept = if passage.unacknowledged.contains(&key) { Kept::Source } else { Kept::Target };
        let (command, reply) = match kept {
            Kept::Source => {
                let (reply, _) = self.send(passage, database, std::slice::from_ref(&key), 0, &[], tell).await?;
                passage.unsettled = None;
                ("MIGRATE", reply)
            }
            Kept::Target => {
                let source = self.end(End::Source)?;
                let lost = Trip::lost(End::Source, &source.id);
                source.select(database).await.map_err(&lost)?;
                ("UNLINK", source.connection.call([&b"UNLINK"[..], &key]).await.map_err(lost)?)
            }
        };
        match reply {
            // Its time was over meanwhile.
            Reply::Error(error) if kept == Kept::Target && error.starts_with("ASK ") => {}
            Reply::Error(error) => return Err(Trip::Refused(format!("the source answers {command} with '{error}'"))),
            _ => {}
        }
        passage.trust(std::slice::from_ref(&key), tell);
        passage.expect_fewer(1);
        (passage.keys, passage.unconfirmed) = (passage.keys + 1, true);
        tell(Event::Conflict { slot: passage.slot, key, kept });
        Ok(())
    }
}
