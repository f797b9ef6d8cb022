//! Reading and writing records. Every write is one script on the record's slot, which looks at the lease first.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::index::{INDEX, TOKEN};
use super::keyed::Keyed;
use super::scripts::{DRAFT, LOAD, ORDER, RELEASE, RENEW, TAKE, WRITE};
use super::{Heard, Lease, Plan, Progress, Timing, tag_for};
use crate::cluster::{Addr, Slot};
use crate::control::{Dialer, Reply};
use crate::migrate::machine::State;
use crate::topology::TopologyHandle;

/// Lines of a plan's log that are kept.
const LOG_LINES: usize = 10_000;
/// A plan that nobody starts is forgotten.
const DRAFT_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Whoever is about to drive it finds it so long, at least.
const HELD_KEPT: Duration = Duration::from_secs(3600);
/// One that has ended is forgotten much later: until then it can be rolled back.
const ENDED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Orders that wait to be taken up.
const ORDERS_MAX: usize = 100;
/// How long a new lease may wait for a replica to know it.
const WAIT_MS: &str = "500";

/// Why a record cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRecord {
    #[error("NORECORD the record of plans cannot be reached: {0}")]
    Unreachable(String),
    #[error("NOPLAN expected the id of a plan that PROXY MIGRATE LIST shows, or the beginning of one, found '{0}'")]
    Unknown(String),
    #[error("NOPLAN expected an id that means one plan, found '{name}', which means {first} and {second}")]
    Several { name: String, first: String, second: String },
    #[error(
        "NORECORD the record of plan {id} is not what was expected: {found}; another version of Keyway may have written it, and can read it, or \
         PROXY MIGRATE FORGET {id} drops it"
    )]
    Damaged { id: String, found: String },
    #[error("BUSY {0} orders wait for the plan's driver: expected it to take them up")]
    TooManyOrders(usize),
}

/// A plan's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: String,
    pub tag: String,
}

impl Place {
    pub(super) fn key(&self, kind: &str) -> String {
        format!("{{keyway:{}}}:{kind}:{}", self.tag, self.id)
    }
}

/// Everything that is written down of a plan.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub place: Place,
    pub plan: Plan,
    pub progress: Progress,
    pub version: u64,
    /// Who drives it.
    pub lease: Option<String>,
    /// Orders that nobody has taken up.
    pub orders: usize,
}

/// What became of asking for a lease.
#[derive(Clone, Debug)]
pub enum Taken {
    Ours(Lease),
    /// `<token> <holder>`, or nothing when the record is gone.
    Held(String),
}

/// What became of a write.
#[derive(Clone, Debug)]
pub enum Written {
    /// The orders that wait, the oldest first.
    Done(Vec<Heard>),
    /// Another holds the lease.
    Fenced,
}

/// What a write carries.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub progress: &'a Progress,
    /// The one that this write makes: higher than that of every attempt before, whether it came through or not.
    pub version: u64,
    /// How many orders have been obeyed since the lease was taken: they wait no more.
    pub obeyed: usize,
    pub lines: &'a [String],
}

/// One line of a plan's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `<ms since 1970>-<number>`, the stream's own.
    pub id: String,
    pub text: String,
}

/// See the module's head.
pub struct Store {
    keyed: Keyed,
    pub timing: Timing,
    /// The name of this process among all.
    instance: String,
}

impl Store {
    pub fn new(topology: TopologyHandle, dialer: Dialer, timing: Timing, instance: String) -> Store {
        Store { keyed: Keyed::new(topology, dialer), timing, instance }
    }

    /// Writes down a new plan.
    pub async fn draft(&mut self, plan: &Plan) -> Result<Place, NoRecord> {
        let map = self.keyed.topology.current().ok_or_else(|| NoRecord::Unreachable("there is no slot map yet".into()))?;
        let place = Place { id: plan.id.clone(), tag: tag_for(&map, &plan.slots(), &plan.nodes()) };
        let key = place.key("plan");
        let expiry = DRAFT_KEPT.as_millis().to_string();
        self.eval(DRAFT, &[&key], &[&json(plan), &json(&Progress::drafted()), &expiry]).await?;
        self.call(INDEX, &["HSET", INDEX, &place.id, &place.tag]).await?;
        Ok(place)
    }

    /// The plan that a name means: its id or the beginning of it.
    pub async fn find(&mut self, name: &str) -> Result<Loaded, NoRecord> {
        let place = self.place(name).await?;
        self.load(&place).await?.ok_or(NoRecord::Unknown(place.id))
    }

    /// Where the plan that a name means is kept, as the index knows.
    pub async fn place(&mut self, name: &str) -> Result<Place, NoRecord> {
        let shown = || name.escape_debug().take(64).collect::<String>();
        let mut places = self.index().await?.places;
        places.retain(|place| !name.is_empty() && place.id.starts_with(name));
        match &places[..] {
            [place] => Ok(place.clone()),
            [] => Err(NoRecord::Unknown(shown())),
            [first, second, ..] => Err(NoRecord::Several { name: shown(), first: first.id.clone(), second: second.id.clone() }),
        }
    }

    /// `<token> <holder>` of whoever drives a plan, however little of the rest can be read.
    pub async fn holder(&mut self, place: &Place) -> Result<Option<String>, NoRecord> {
        let key = place.key("lease");
        let held = text(&self.call(&key, &["GET", &key]).await?);
        Ok(Some(held).filter(|held| !held.is_empty()))
    }

    /// Forgets a plan and all that is written down of it.
    pub async fn drop(&mut self, place: &Place) -> Result<(), NoRecord> {
        let keys = ["plan", "lease", "log", "orders", "wanted"].map(|kind| place.key(kind));
        let [plan, lease, log, orders, wanted] = &keys;
        self.call(plan, &["DEL", plan, lease, log, orders, wanted]).await?;
        self.unclaim(&place.id).await?;
        self.forget(place).await
    }

    /// All plans that can be read, the latest first. What the index names and nobody knows any more is dropped from it; of what cannot be
    /// read just now the log tells.
    pub async fn all(&mut self) -> Result<Vec<Loaded>, NoRecord> {
        let mut all = Vec::new();
        // Each would be waited for as long as the first.
        let mut silent = BTreeSet::new();
        for place in self.index().await?.places {
            if silent.contains(&self.owner(&place)) {
                continue;
            }
            match self.load(&place).await {
                Ok(Some(loaded)) => all.push(loaded),
                Ok(None) => self.forget(&place).await?,
                Err(error) => {
                    tracing::warn!(plan = place.id, "{error}");
                    if matches!(error, NoRecord::Unreachable(_)) {
                        silent.insert(self.owner(&place));
                    }
                }
            }
        }
        all.sort_by_key(|loaded| std::cmp::Reverse(loaded.plan.drafted_ms));
        Ok(all)
    }

    /// Where a plan's record lies now.
    pub fn owner(&self, place: &Place) -> Option<Addr> {
        self.keyed.owner(Slot::of(place.key("plan").as_bytes()))
    }

    /// Drops a plan from the index: its record is gone.
    pub async fn forget(&mut self, place: &Place) -> Result<(), NoRecord> {
        self.call(INDEX, &["HDEL", INDEX, &place.id]).await.map(drop)
    }

    pub async fn load(&mut self, place: &Place) -> Result<Option<Loaded>, NoRecord> {
        let keys = [place.key("plan"), place.key("lease"), place.key("orders")];
        let reply = self.eval(LOAD, &keys, &[] as &[&str]).await?;
        let damaged = |found: String| NoRecord::Damaged { id: place.id.clone(), found };
        let Reply::Array(fields) = reply else { return Err(damaged(format!("{reply:?}"))) };
        let [plan, progress, version, lease, orders] = &fields[..] else {
            return Err(damaged(format!("{} fields", fields.len())));
        };
        if text(plan).is_empty() {
            return Ok(None);
        }
        Ok(Some(Loaded {
            place: place.clone(),
            plan: serde_json::from_str(&text(plan)).map_err(|error| damaged(error.to_string()))?,
            progress: serde_json::from_str(&text(progress)).map_err(|error| damaged(error.to_string()))?,
            version: text(version).parse().map_err(|_| damaged(text(version)))?,
            lease: Some(text(lease)).filter(|lease| !lease.is_empty()),
            orders: text(orders).parse().unwrap_or(0),
        }))
    }

    /// Asks for the right to drive a plan. Its token is higher than that of every driver before, of any plan.
    pub async fn take(&mut self, place: &Place) -> Result<Taken, NoRecord> {
        let next = text(&self.call(INDEX, &["HINCRBY", INDEX, TOKEN, "1"]).await?);
        // No two attempts are the same holder, so that of two in one process one is refused too.
        let holder = format!("{}/{:08x}", self.instance, fastrand::u32(..));
        let asked = Instant::now();
        let (plan, lease) = (place.key("plan"), place.key("lease"));
        let reply =
            self.eval(TAKE, &[&plan, &lease], &[&holder, &self.lease_ms(), &next, &HELD_KEPT.as_millis().to_string()]).await?;
        let Reply::Array(fields) = &reply else { return Err(self.unexpected(place, &reply)) };
        match &fields[..] {
            [Reply::Integer(1), token] => {
                if self.keyed.replicas(&plan) > 0 {
                    // A lease that a failover forgets is no lease. A replica that is behind only makes it likelier, so nothing hangs on it.
                    let _ = self.call(&plan, &["WAIT", "1", WAIT_MS]).await;
                }
                let token = text(token).parse().map_err(|_| self.unexpected(place, token))?;
                Ok(Taken::Ours(Lease::new(token, holder, asked, self.timing)))
            }
            [_, held] => Ok(Taken::Held(text(held))),
            _ => Err(self.unexpected(place, &reply)),
        }
    }

    /// Writes progress and log, and renews the lease.
    pub async fn write(&mut self, place: &Place, lease: &mut Lease, entry: Entry<'_>) -> Result<Written, NoRecord> {
        let keys = ["plan", "lease", "log", "orders"].map(|kind| place.key(kind));
        let expiry = match entry.progress.standing.state {
            State::Drafted | State::Blocked => DRAFT_KEPT,
            state if state.is_at_rest() => ENDED_KEPT,
            _ => Duration::ZERO,
        };
        let mut arguments = vec![
            lease.text(),
            self.lease_ms(),
            entry.version.to_string(),
            json(entry.progress),
            entry.obeyed.to_string(),
            lease.lines.to_string(),
            expiry.as_millis().to_string(),
            LOG_LINES.to_string(),
        ];
        arguments.extend(entry.lines.iter().cloned());
        let asked = Instant::now();
        let reply = self.eval(WRITE, &keys, &arguments).await?;
        let Reply::Array(fields) = &reply else { return Err(self.unexpected(place, &reply)) };
        let [Reply::Integer(1), orders @ ..] = &fields[..] else { return Ok(Written::Fenced) };
        lease.renewed(asked, self.timing);
        lease.lines += entry.lines.len();
        Ok(Written::Done(orders.iter().map(|order| Heard::read(&text(order))).collect()))
    }

    /// Keeps a plan for longer without a word. Whether it is still the lease's.
    pub async fn renew(&mut self, place: &Place, lease: &mut Lease) -> Result<bool, NoRecord> {
        let asked = Instant::now();
        let reply = self.eval(RENEW, &[place.key("lease")], &[lease.text(), self.lease_ms()]).await?;
        let is_ours = reply == Reply::Integer(1);
        if is_ours {
            lease.renewed(asked, self.timing);
        }
        Ok(is_ours)
    }

    /// Lets go of a plan.
    pub async fn release(&mut self, place: &Place, lease: &Lease) -> Result<(), NoRecord> {
        self.eval(RELEASE, &[place.key("lease")], &[lease.text()]).await.map(drop)
    }

    /// Leaves a word for whoever drives the plan.
    pub async fn tell(&mut self, place: &Place, told: &Heard) -> Result<(), NoRecord> {
        let keys = [place.key("plan"), place.key("orders")];
        match self.eval(ORDER, &keys, &[json(told), ORDERS_MAX.to_string()]).await? {
            Reply::Integer(0) => Err(NoRecord::TooManyOrders(ORDERS_MAX)),
            _ => Ok(()),
        }
    }

    /// The latest lines of a plan's log, the oldest first.
    pub async fn log(&mut self, place: &Place, count: usize) -> Result<Vec<LogLine>, NoRecord> {
        let key = place.key("log");
        let mut lines = self.lines(&key, &["XREVRANGE", &key, "+", "-", "COUNT", &count.to_string()]).await?;
        lines.reverse();
        Ok(lines)
    }

    /// The lines behind one.
    pub async fn log_since(&mut self, place: &Place, id: &str, count: usize) -> Result<Vec<LogLine>, NoRecord> {
        let key = place.key("log");
        // 6.0 and older know no exclusive ranges, so the line itself comes along.
        let lines = self.lines(&key, &["XRANGE", &key, id, "+", "COUNT", &(count + 1).to_string()]).await?;
        Ok(lines.into_iter().filter(|line| line.id != id).collect())
    }

    async fn lines(&mut self, key: &str, words: &[&str]) -> Result<Vec<LogLine>, NoRecord> {
        let Reply::Array(entries) = self.call(key, words).await? else { return Ok(Vec::new()) };
        let line = |entry: &Reply| {
            let Reply::Array(entry) = entry else { return None };
            let [id, Reply::Array(fields)] = &entry[..] else { return None };
            Some(LogLine { id: text(id), text: text(fields.get(1)?) })
        };
        Ok(entries.iter().filter_map(line).collect())
    }

    fn lease_ms(&self) -> String {
        self.timing.lease.as_millis().to_string()
    }

    fn unexpected(&self, place: &Place, found: &Reply) -> NoRecord {
        NoRecord::Damaged { id: place.id.clone(), found: format!("{found:?}") }
    }

    pub(super) async fn eval(
        &mut self,
        script: &str,
        keys: &[impl AsRef<str>],
        arguments: &[impl AsRef<str>],
    ) -> Result<Reply, NoRecord> {
        let count = keys.len().to_string();
        let keys_and_arguments = keys.iter().map(AsRef::as_ref).chain(arguments.iter().map(AsRef::as_ref));
        let words: Vec<&str> = ["EVAL", script, &count].into_iter().chain(keys_and_arguments).collect();
        let key = keys.first().map_or("", AsRef::as_ref);
        self.call(key, &words).await
    }

    pub(super) async fn call(&mut self, key: &str, words: &[&str]) -> Result<Reply, NoRecord> {
        match self.keyed.call(key, words).await {
            Ok(Reply::Error(error)) => Err(NoRecord::Unreachable(format!("expected {} to succeed, found '{error}'", words[0]))),
            Ok(reply) => Ok(reply),
            Err(error) => Err(NoRecord::Unreachable(error)),
        }
    }
}

/// What is written has text for keys and no numbers that JSON lacks, so that nothing is in the way.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data")
}

pub(super) fn text(reply: &Reply) -> String {
    match reply {
        Reply::BulkString(text) | Reply::SimpleString(text) => String::from_utf8_lossy(text).into_owned(),
        Reply::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}
