//! A slot's keys, from its source to its target, a few at a time.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::classic::Passage;
use super::fence::field;
use super::halt::{End, Halt};
use super::nodes::{Node, text};
use super::patience::Trip;
use super::{Event, Executor, Kept, Listener, Orders};
use crate::cluster::Slot;
use crate::control::{Pipeline, Reply};
use crate::migrate::pace::Pace;
use crate::migrate::refusal::{Moved, judge};

/// Keys that are listed at once. From the source's mark on nothing is added to the slot, so a list stays true.
pub(super) const PAGE: usize = 1000;

/// MIGRATE gives each of its reads and writes so long, within a third of the node timeout: whoever is blocked for longer is taken for
/// dead by the others.
const IO_LIMIT_MIN: Duration = Duration::from_millis(500);
const IO_LIMIT_MAX: Duration = Duration::from_secs(5);

/// And a large key so much longer: the target says nothing until it has read it whole.
const BYTES_PER_SECOND_MIN: u64 = 20 << 20;

/// How long a replica of either end may take to know of a batch before others are told that it is waited for.
const REPLICA_WAIT_MS: &str = "200";

/// Keys that both ends are asked for at once.
const ASKED: usize = 1000;

/// The runtime's timers count milliseconds.
const TIMER: Duration = Duration::from_millis(1);

/// A key and about how many bytes it takes.
type Sized = (Bytes, u64);

/// The keys in an answer of GETKEYSINSLOT.
pub(super) fn keys_of(reply: Reply) -> Option<Vec<Bytes>> {
    let Reply::Array(keys) = reply else { return None };
    Some(keys.into_iter().filter_map(|key| if let Reply::BulkString(key) = key { Some(key) } else { None }).collect())
}

impl Executor {
    /// Moves one page of the slot's keys out of each database.
    pub(super) async fn drain(&mut self, passage: &mut Passage, orders: &Orders, tell: Listener<'_>) -> Result<(), Trip> {
        let before = passage.keys;
        let databases = self.end(End::Source)?.databases;
        for database in 0..databases {
            let page = self.page(passage, database).await?;
            let mut left = &page[..];
            while !left.is_empty() {
                orders.fence.check()?;
                let throttle = *orders.throttle.borrow();
                let sizes: Vec<u64> = left.iter().take(throttle.keys.max(1)).map(|(_, bytes)| *bytes).collect();
                let (batch, rest) = left.split_at(self.pace.take(&sizes, &throttle));
                if let [(key, bytes)] = batch
                    && *bytes > throttle.bytes
                {
                    tell(Event::BigKey { slot: passage.slot, key: key.clone(), bytes: *bytes });
                }
                self.rest(orders).await;
                let took = self.migrate(passage, database, batch, tell).await?;
                self.pace.learn(batch.len(), took);
                self.rested_at = self.rested_at.max(Instant::now() - took) + took + Pace::rest(took, &throttle);
                left = rest;
            }
        }
        match passage.keys > before {
            true => Ok(()),
            // Keys whose time is over are counted until the server comes by.
            false => Err(Trip::Refused("the source counts keys that it does not list".into())),
        }
    }

    /// The source has its rest between two MIGRATEs, in which other commands may run. Less than a timer can measure is made up for
    /// behind a later one. A new throttle ends it: a rest may be long behind a large key.
    async fn rest(&self, orders: &Orders) {
        if self.rested_at <= Instant::now() + TIMER {
            return;
        }
        let mut throttle = orders.throttle.clone();
        throttle.mark_unchanged();
        tokio::select! {
            () = sleep_until(self.rested_at) => {}
            _ = throttle.changed() => {}
        }
    }

    pub(super) fn end(&mut self, end: End) -> Result<&mut Node, Trip> {
        self.nodes.node(end).ok_or_else(|| Trip::Refused(format!("{end} is not connected")))
    }

    /// Some of the slot's keys, and their sizes.
    async fn page(&mut self, passage: &mut Passage, database: u32) -> Result<Vec<Sized>, Trip> {
        let source = self.end(End::Source)?;
        let lost = Trip::lost(End::Source, &source.id);
        source.select(database).await.map_err(&lost)?;
        let keys = match passage.listed.take() {
            Some(keys) => keys,
            None => {
                let list = ["CLUSTER", "GETKEYSINSLOT", &passage.slot.to_string(), &PAGE.to_string()];
                let reply = source.connection.call(list).await.map_err(&lost)?;
                let refusal = text(&reply);
                keys_of(reply).ok_or_else(|| Trip::Refused(format!("the source answers GETKEYSINSLOT with '{refusal}'")))?
            }
        };
        let mut questions = Pipeline::new();
        for key in &keys {
            questions.push([&b"MEMORY"[..], b"USAGE", key]);
        }
        let sizes = if keys.is_empty() { Vec::new() } else { source.connection.call_many(&questions).await.map_err(&lost)? };
        // A key that is gone, or a node that does not let us ask, tells no size: then the number of keys is the only bound.
        let size = |reply: Reply| if let Reply::Integer(bytes) = reply { u64::try_from(bytes).unwrap_or(0) } else { 0 };
        Ok(keys.into_iter().zip(sizes.into_iter().map(size)).collect())
    }

    /// One MIGRATE, and all that its answer asks for. Returns how long the source was blocked.
    async fn migrate(
        &mut self,
        passage: &mut Passage,
        database: u32,
        batch: &[Sized],
        tell: Listener<'_>,
    ) -> Result<Duration, Trip> {
        let keys: Vec<Bytes> = batch.iter().map(|(key, _)| key.clone()).collect();
        let bytes: u64 = batch.iter().map(|(_, bytes)| bytes).sum();
        let began = Instant::now();
        passage.expect_fewer(keys.len());
        let reply = self.send(passage, database, &keys, bytes, tell).await?;
        let took = began.elapsed();
        let line = text(&reply);
        let moved = judge(if matches!(reply, Reply::Error(_)) { Err(&line) } else { Ok(&line) });
        match moved {
            Moved::All => self.acknowledge(passage, &keys, bytes, took, tell).await?,
            Moved::NotSent => {
                passage.unsettled = None;
                return Err(Trip::Refused(format!("the source cannot connect to the target at {}", self.target_at(passage))));
            }
            Moved::Unknown => {
                self.note_left(passage, database, keys.clone(), tell).await?;
                // One that is gone has moved, or was removed by a client before anybody could look: the source does not tell which.
                passage.unsettled = Some((database, keys));
                return Err(Trip::Refused(format!("the target did not answer the source in time: {line}")));
            }
            Moved::Refused(cause) => {
                passage.doubt(&keys, tell);
                passage.unsettled = None;
                return Err(Trip::Halt(Halt::Refused { slot: passage.slot, cause }));
            }
            Moved::Busy | Moved::LookAgain => {
                self.note_left(passage, database, keys, tell).await?;
                return Err(Trip::Refused(format!("MIGRATE is answered with '{line}'")));
            }
        }
        Ok(took)
    }

    async fn send(
        &mut self,
        passage: &mut Passage,
        database: u32,
        keys: &[Bytes],
        bytes: u64,
        tell: Listener<'_>,
    ) -> Result<Reply, Trip> {
        let (host, port) =
            self.target_at(passage).rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap_or_default();
        let (credentials, reply_timeout) = (self.nodes.dialer.credentials.clone(), self.nodes.dialer.reply_timeout);
        let source = self.end(End::Source)?;
        let lost = Trip::lost(End::Source, &source.id);
        source.select(database).await.map_err(&lost)?;
        let limit =
            (source.node_timeout / 3).clamp(IO_LIMIT_MIN, IO_LIMIT_MAX) + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let (database_text, limit_text) = (database.to_string(), limit.as_millis().to_string());
        let mut words: Vec<&[u8]> =
            vec![b"MIGRATE", host.as_bytes(), port.as_bytes(), b"", database_text.as_bytes(), limit_text.as_bytes(), b"REPLACE"];
        match (&credentials.username, &credentials.password) {
            (Some(username), Some(password)) => words.extend([&b"AUTH2"[..], username.as_bytes(), password.as_bytes()]),
            (None, Some(password)) => words.extend([&b"AUTH"[..], password.as_bytes()]),
            (_, None) => {}
        }
        words.push(b"KEYS");
        words.extend(keys.iter().map(|key| &key[..]));
        // Whatever becomes of the connection, these may be on their way.
        passage.unsettled = Some((database, keys.to_vec()));
        // It may use its limit for the connection, the writing and the reading, each.
        source.connection.set_reply_timeout(limit * 4 + Duration::from_secs(5));
        let reply = source.connection.call(&words).await.map_err(&lost);
        if reply.is_err() {
            passage.doubt(keys, tell);
        } else {
            source.connection.set_reply_timeout(reply_timeout);
        }
        reply
    }

    /// Where the source reaches the target.
    fn target_at(&mut self, passage: &Passage) -> String {
        match &passage.target_at {
            Some((host, port)) => format!("{host}:{port}"),
            None => self.nodes.node(End::Target).map(|node| node.connection.addr().as_str().to_owned()).unwrap_or_default(),
        }
    }

    async fn acknowledge(
        &mut self,
        passage: &mut Passage,
        keys: &[Bytes],
        bytes: u64,
        took: Duration,
        tell: Listener<'_>,
    ) -> Result<(), Trip> {
        (passage.unsettled, passage.keys, passage.bytes) = (None, passage.keys + keys.len() as u64, passage.bytes + bytes);
        passage.trust(keys, tell);
        passage.unconfirmed = true;
        tell(Event::KeysMoved { slot: passage.slot, keys: keys.len(), bytes, took });
        self.confirm(passage).await
    }

    /// Waits until a replica of the source knows that the last batch is gone, and one of the target that it has come: whichever takes
    /// over without knowing it would bring keys back, or lose them. Nothing more moves before.
    pub(super) async fn confirm(&mut self, passage: &mut Passage) -> Result<(), Trip> {
        let (asks_source, asks_target) = (passage.source_has_replicas, passage.target_has_replicas);
        let Some((_, source, _, target)) = self.nodes.pair() else { return Err(Trip::Refused("an end is not connected".into())) };
        let (mut at_source, mut at_target) = (Pipeline::new(), Pipeline::new());
        at_source.push(["WAIT", "1", REPLICA_WAIT_MS]);
        if asks_target {
            let touched = passage.touched.get_or_insert_with(|| touched_key(passage.slot));
            // The keys came by a connection of the source's, and WAIT counts what its own connection has written.
            at_target.push(["ASKING"]).push(["EVAL", TOUCH, "1", touched]).push(["WAIT", "1", REPLICA_WAIT_MS]);
        }
        let (source, target) = tokio::join!(
            is_replicated(source, End::Source, at_source, asks_source),
            is_replicated(target, End::Target, at_target, asks_target)
        );
        source?;
        target?;
        passage.unconfirmed = false;
        Ok(())
    }

    /// A MIGRATE broke off: notes which of its keys are still at the source, at once, before clients remove more of them.
    async fn note_left(
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
    async fn present(&mut self, end: End, database: u32, keys: &[Bytes]) -> Result<Vec<Bytes>, Trip> {
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
                let reply = self.send(passage, database, std::slice::from_ref(&key), 0, tell).await?;
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

/// Waits until one of the end's replicas, if it has any, knows of all that has happened there. The last of the questions is WAIT.
async fn is_replicated(node: &mut Node, end: End, questions: Pipeline, has_replicas: bool) -> Result<(), Trip> {
    if !has_replicas {
        return Ok(());
    }
    let replies = node.connection.call_many(&questions).await.map_err(Trip::lost(end, &node.id))?;
    match replies.last() {
        Some(Reply::Integer(1..)) => Ok(()),
        Some(Reply::Integer(_)) => Err(Trip::Refused(format!(
            "no replica of {end} {} knows yet what was moved last: keys could be lost, or come back, if one took over",
            node.connection.addr()
        ))),
        other => Err(Trip::Refused(format!("{end} answers WAIT with '{}'", other.map(text).unwrap_or_default()))),
    }
}

/// A write that leaves nothing behind and that nobody sees. KEYS a key that nobody has.
const TOUCH: &str = "redis.call('SET',KEYS[1],'') return redis.call('DEL',KEYS[1])";

/// The name of a key in this slot that nobody else uses.
fn touched_key(slot: Slot) -> String {
    let mut names = (0..u32::MAX).map(|number| format!("{{keyway:{number:x}}}:touched"));
    // One in 16,384 is in the slot.
    names.find(|name| Slot::of(name.as_bytes()) == slot).unwrap_or_default()
}
