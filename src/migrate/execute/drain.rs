//! A slot's keys, from its source to its target, a few at a time.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::halt::{End, Halt};
use super::nodes::{Node, text};
use super::passage::Passage;
use super::patience::Trip;
use super::{Event, Executor, Listener, Orders};
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

/// The runtime's timers count milliseconds.
pub(super) const TIMER: Duration = Duration::from_millis(1);

/// So much of the rest may have been had before it was due.
const CREDIT: Duration = Duration::from_millis(5);

/// A key and about how many bytes it takes.
pub(super) type Sized = (Bytes, u64);

/// A MIGRATE that went well.
struct Ended {
    /// How long the source was busy with it.
    took: Duration,
    /// The keys that go next.
    next: Vec<Sized>,
}

fn ask_sizes(questions: &mut Pipeline, keys: &[Bytes]) {
    for key in keys {
        questions.push([&b"MEMORY"[..], b"USAGE", key]);
    }
}

/// A key that is gone, or a node that does not let us ask, tells no size: then the number of keys is the only bound.
fn with_sizes(keys: Vec<Bytes>, sizes: Vec<Reply>) -> impl Iterator<Item = Sized> {
    let size = |reply: Reply| if let Reply::Integer(bytes) = reply { u64::try_from(bytes).unwrap_or(0) } else { 0 };
    keys.into_iter().zip(sizes.into_iter().map(size))
}

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
            let listed = self.page(passage, database).await?;
            let mut listed = listed.into_iter();
            let first = listed.by_ref().take(self.pace.next(&orders.throttle.borrow())).collect();
            let mut sized = self.sizes(database, first).await?;
            while !sized.is_empty() {
                orders.fence.check()?;
                let gone = self.rest(passage, database, orders, tell).await?;
                if !gone.is_empty() {
                    // Named once more they would look as if their moving were in doubt.
                    sized.retain(|(key, _)| !gone.contains(key));
                    listed = listed.filter(|key| !gone.contains(key)).collect::<Vec<_>>().into_iter();
                    continue;
                }
                let throttle = *orders.throttle.borrow();
                let batch: Vec<Sized> = sized.drain(..Pace::fitting(sized.iter().map(|(_, bytes)| *bytes), &throttle)).collect();
                let next = if sized.is_empty() { listed.by_ref().take(self.pace.next(&throttle)).collect() } else { Vec::new() };
                sized.extend(self.move_together(passage, database, &batch, next, orders, tell).await?);
            }
        }
        match passage.keys > before {
            true => Ok(()),
            // Keys whose time is over are counted until the server comes by.
            false => Err(Trip::Refused("the source counts keys that it does not list".into())),
        }
    }

    /// Moves these keys with one MIGRATE, and notes what it cost. Answers the sizes of those that go next.
    pub(super) async fn move_together(
        &mut self,
        passage: &mut Passage,
        database: u32,
        batch: &[Sized],
        next: Vec<Bytes>,
        orders: &Orders,
        tell: Listener<'_>,
    ) -> Result<Vec<Sized>, Trip> {
        let throttle = *orders.throttle.borrow();
        if let [(key, bytes)] = batch
            && *bytes > throttle.bytes
        {
            tell(Event::BigKey { slot: passage.slot, key: key.clone(), bytes: *bytes });
        }
        let Ended { took, next } = self.migrate(passage, database, batch, next, tell).await?;
        self.pace.learn(batch.len(), took);
        let idle_since = self.rested_at.max(Instant::now() - took - CREDIT);
        self.rested_at = idle_since + took + Pace::rest(took, &throttle);
        Ok(next)
    }

    pub(super) fn end(&mut self, end: End) -> Result<&mut Node, Trip> {
        self.nodes.node(end).ok_or_else(|| Trip::Refused(format!("{end} is not connected")))
    }

    /// Some of the slot's keys.
    async fn page(&mut self, passage: &mut Passage, database: u32) -> Result<Vec<Bytes>, Trip> {
        if let Some(keys) = passage.listed.take() {
            return Ok(keys);
        }
        let source = self.end(End::Source)?;
        let lost = Trip::lost(End::Source, &source.id);
        source.select(database).await.map_err(&lost)?;
        let list = ["CLUSTER", "GETKEYSINSLOT", &passage.slot.to_string(), &PAGE.to_string()];
        let reply = source.connection.call(list).await.map_err(&lost)?;
        let refusal = text(&reply);
        keys_of(reply).ok_or_else(|| Trip::Refused(format!("the source answers GETKEYSINSLOT with '{refusal}'")))
    }

    /// The sizes of a page's first keys; those of the next are asked for behind each MIGRATE.
    pub(super) async fn sizes(&mut self, database: u32, keys: Vec<Bytes>) -> Result<VecDeque<Sized>, Trip> {
        if keys.is_empty() {
            return Ok(VecDeque::new());
        }
        let source = self.end(End::Source)?;
        let lost = Trip::lost(End::Source, &source.id);
        source.select(database).await.map_err(&lost)?;
        let mut questions = Pipeline::new();
        ask_sizes(&mut questions, &keys);
        let sizes = source.connection.call_many(&questions).await.map_err(&lost)?;
        Ok(with_sizes(keys, sizes).collect())
    }

    /// One MIGRATE, and all that its answer asks for; and behind it the sizes of the keys that go next.
    async fn migrate(
        &mut self,
        passage: &mut Passage,
        database: u32,
        batch: &[Sized],
        next: Vec<Bytes>,
        tell: Listener<'_>,
    ) -> Result<Ended, Trip> {
        let keys: Vec<Bytes> = batch.iter().map(|(key, _)| key.clone()).collect();
        let bytes: u64 = batch.iter().map(|(_, bytes)| bytes).sum();
        let began = Instant::now();
        passage.expect_fewer(keys.len());
        let (reply, sizes) = self.send(passage, database, &keys, bytes, &next, tell).await?;
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
        Ok(Ended { took, next: with_sizes(next, sizes).collect() })
    }

    /// One MIGRATE, and its answer; in the same write the sizes of other keys are asked for.
    pub(super) async fn send(
        &mut self,
        passage: &mut Passage,
        database: u32,
        keys: &[Bytes],
        bytes: u64,
        next: &[Bytes],
        tell: Listener<'_>,
    ) -> Result<(Reply, Vec<Reply>), Trip> {
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
        let mut commands = Pipeline::new();
        commands.push(&words);
        ask_sizes(&mut commands, next);
        match source.connection.call_many(&commands).await {
            Ok(mut replies) => {
                source.connection.set_reply_timeout(reply_timeout);
                let sizes = replies.split_off(1);
                Ok((replies.remove(0), sizes))
            }
            Err(error) => {
                let trip = lost(error);
                passage.doubt(keys, tell);
                Err(trip)
            }
        }
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
