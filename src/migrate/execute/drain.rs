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

/// How long a batch waits for one replica of the source to know that its keys are gone.
const REPLICA_WAIT_MS: &str = "100";

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
                self.rest().await;
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
    /// behind a later one.
    async fn rest(&self) {
        if self.rested_at > Instant::now() + TIMER {
            sleep_until(self.rested_at).await;
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
        let reply = self.send(passage, database, &keys, bytes, !passage.contested).await?;
        let took = began.elapsed();
        let line = text(&reply);
        let moved = judge(if matches!(reply, Reply::Error(_)) { Err(&line) } else { Ok(&line) });
        match moved {
            Moved::All => self.acknowledge(passage, &keys, bytes, took, tell).await?,
            Moved::Busy => self.resolve(passage, database, &keys, tell).await?,
            Moved::NotSent => {
                passage.unsettled = None;
                return Err(Trip::Refused(format!("the source cannot connect to the target at {}", self.target_at(passage))));
            }
            Moved::Unknown => {
                self.note_left(passage, database, keys).await?;
                return Err(Trip::Refused(format!("the target did not answer the source in time: {line}")));
            }
            Moved::Refused(cause) => {
                passage.unsettled = None;
                return Err(Trip::Halt(Halt::Refused { slot: passage.slot, cause }));
            }
            Moved::LookAgain => return Err(Trip::Refused(format!("MIGRATE is answered with '{line}'"))),
        }
        Ok(took)
    }

    async fn send(
        &mut self,
        passage: &mut Passage,
        database: u32,
        keys: &[Bytes],
        bytes: u64,
        replace: bool,
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
            vec![b"MIGRATE", host.as_bytes(), port.as_bytes(), b"", database_text.as_bytes(), limit_text.as_bytes()];
        if replace {
            words.push(b"REPLACE");
        }
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
            passage.unacknowledged.extend(keys.iter().cloned());
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
        tell(Event::KeysMoved { slot: passage.slot, keys: keys.len(), bytes, took });
        let source = self.end(End::Source)?;
        if passage.source_has_replicas && !source.server.replicates_marks() {
            // A replica that takes over without knowing it would bring these keys back.
            source.connection.call(["WAIT", "1", REPLICA_WAIT_MS]).await.map_err(Trip::lost(End::Source, &source.id))?;
        }
        Ok(())
    }

    /// A MIGRATE broke off: notes which of its keys are still at the source, at once, before clients remove more of them.
    async fn note_left(&mut self, passage: &mut Passage, database: u32, keys: Vec<Bytes>) -> Result<(), Trip> {
        let left = self.present(End::Source, database, &keys).await?;
        passage.keys += (keys.len() - left.len()) as u64;
        passage.unsettled = Some((database, left));
        Ok(())
    }

    /// Waits until nothing of a MIGRATE that broke off can arrive any more, and tells which keys clients removed meanwhile that the
    /// target may hold all the same.
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

    /// Both ends hold a key, because the source's shard failed over. A key that was acknowledged has been the target's since, and the
    /// source's new master missed only that it is gone; a key that was not is the source's.
    async fn resolve(&mut self, passage: &mut Passage, database: u32, keys: &[Bytes], tell: Listener<'_>) -> Result<(), Trip> {
        let left = self.present(End::Source, database, keys).await?;
        passage.keys += (keys.len() - left.len()) as u64;
        let both = self.present(End::Target, database, &left).await?;
        for key in both {
            let kept = if passage.unacknowledged.contains(&key) { Kept::Source } else { Kept::Target };
            match kept {
                Kept::Source => {
                    let reply = self.send(passage, database, std::slice::from_ref(&key), 0, true).await?;
                    if let Reply::Error(error) = reply {
                        return Err(Trip::Refused(format!("MIGRATE is answered with '{error}'")));
                    }
                }
                Kept::Target => {
                    let source = self.end(End::Source)?;
                    let lost = Trip::lost(End::Source, &source.id);
                    source.connection.call([&b"UNLINK"[..], &key]).await.map_err(lost)?;
                }
            }
            passage.keys += 1;
            tell(Event::Conflict { slot: passage.slot, key, kept });
        }
        passage.unsettled = None;
        Ok(())
    }
}
