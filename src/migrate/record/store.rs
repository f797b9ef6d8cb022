//! Reading and writing records. Every write is one script on the record's slot, which looks at the lease first.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::keyed::Keyed;
use super::{Lease, Plan, Progress, Timing, tag_for};
use crate::control::{Dialer, Reply};
use crate::migrate::machine::Order;
use crate::migrate::pace::Throttle;
use crate::topology::TopologyHandle;

const INDEX: &str = "{keyway}:plans";
/// Fields of the index beside the plans' own: the plan which holds slots, and the highest token so far. No plan has such an id.
const ACTIVE: &str = "active";
const TOKEN: &str = "token";

/// Lines of a plan's log that are kept.
const LOG_LINES: usize = 10_000;
/// A plan that nobody starts is forgotten.
const DRAFT_KEPT: Duration = Duration::from_secs(24 * 3600);
/// So is one that has ended, much later: until then it can be rolled back.
const ENDED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Orders that wait to be taken up.
const ORDERS_MAX: usize = 100;
/// How long a new lease may wait for a replica to know it.
const WAIT_MS: &str = "500";

/// KEYS plan; ARGV plan, progress, expiry in ms.
const DRAFT: &str = "redis.call('HSET',KEYS[1],'plan',ARGV[1],'progress',ARGV[2],'version','1') \
    redis.call('PEXPIRE',KEYS[1],ARGV[3]) return 1";

/// KEYS plan, lease, orders.
const LOAD: &str = "local f=redis.call('HMGET',KEYS[1],'plan','progress','version') \
    return {f[1] or '',f[2] or '',f[3] or '0',redis.call('GET',KEYS[2]) or '',redis.call('LLEN',KEYS[3])}";

/// KEYS plan, lease; ARGV holder, lease in ms, token at least. A holder that asks again, because the reply was lost, gets what it has.
const TAKE: &str = "if redis.call('EXISTS',KEYS[1])==0 then return {0,''} end \
    local held=redis.call('GET',KEYS[2]) \
    if held then local token=string.match(held,'^(%d+) ') \
      if held==token..' '..ARGV[1] then redis.call('PEXPIRE',KEYS[2],ARGV[2]) return {1,token} end return {0,held} end \
    local token=math.max(tonumber(redis.call('HGET',KEYS[1],'token') or '0'),tonumber(ARGV[3])-1)+1 \
    redis.call('HSET',KEYS[1],'token',token) redis.call('PERSIST',KEYS[1]) \
    redis.call('SET',KEYS[2],token..' '..ARGV[1],'NX','PX',ARGV[2]) \
    return {1,tostring(token)}";

/// KEYS plan, lease, log, orders; ARGV lease, lease in ms, version, progress, orders that were taken up, expiry in ms or 0, lines of log kept,
/// lines. What was written already, because the reply was lost, counts as written now.
const WRITE: &str = "if redis.call('GET',KEYS[2])~=ARGV[1] then return {0} end \
    local version=tonumber(redis.call('HGET',KEYS[1],'version') or '0') \
    if not(version==ARGV[3]+1 and redis.call('HGET',KEYS[1],'progress')==ARGV[4]) then \
      if version~=tonumber(ARGV[3]) then return {0} end \
      version=redis.call('HINCRBY',KEYS[1],'version',1) redis.call('HSET',KEYS[1],'progress',ARGV[4]) \
      if tonumber(ARGV[5])>0 then redis.call('LTRIM',KEYS[4],ARGV[5],-1) end \
      for i=8,#ARGV do redis.call('XADD',KEYS[3],'MAXLEN','~',ARGV[7],'*','line',ARGV[i]) end \
      if ARGV[6]~='0' then for _,key in ipairs({KEYS[1],KEYS[3],KEYS[4]}) do redis.call('PEXPIRE',key,ARGV[6]) end \
      else redis.call('PERSIST',KEYS[1]) end end \
    redis.call('PEXPIRE',KEYS[2],ARGV[2]) \
    local reply={1,version} for _,order in ipairs(redis.call('LRANGE',KEYS[4],0,-1)) do table.insert(reply,order) end \
    return reply";

/// KEYS lease; ARGV lease.
const RELEASE: &str = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0";

/// KEYS plan, orders; ARGV order, most.
const ORDER: &str = "if redis.call('EXISTS',KEYS[1])==0 or redis.call('LLEN',KEYS[2])>=tonumber(ARGV[2]) then return 0 end \
    return redis.call('RPUSH',KEYS[2],ARGV[1])";

/// KEYS index; ARGV field, id, the id that may be replaced. Answers who has it.
const CLAIM: &str = "local held=redis.call('HGET',KEYS[1],ARGV[1]) \
    if held and held~=ARGV[2] and held~=ARGV[3] then return held end \
    redis.call('HSET',KEYS[1],ARGV[1],ARGV[2]) return ARGV[2]";

/// KEYS index; ARGV field, id.
const UNCLAIM: &str =
    "if redis.call('HGET',KEYS[1],ARGV[1])==ARGV[2] then return redis.call('HDEL',KEYS[1],ARGV[1]) end return 0";

/// Why a record cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRecord {
    #[error("NORECORD the record of plans cannot be reached: {0}")]
    Unreachable(String),
    #[error("NOPLAN expected the id of a plan that PROXY MIGRATE LIST shows, or the beginning of one, found '{0}'")]
    Unknown(String),
    #[error("NOPLAN expected an id that means one plan, found '{name}', which means {first} and {second}")]
    Several { name: String, first: String, second: String },
    #[error("NORECORD the record of plan {id} is not what was expected: {found}")]
    Damaged { id: String, found: String },
    #[error("BUSY {0} orders wait for the plan's driver: expected it to take them up")]
    TooManyOrders(usize),
}

/// What an operator tells a plan's driver, wherever that is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    Order(Order),
    Throttle(Throttle),
}

/// A plan's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: String,
    pub tag: String,
}

impl Place {
    fn key(&self, kind: &str) -> String {
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
    Done {
        version: u64,
        orders: Vec<Told>,
    },
    /// Another holds the lease, or has written since.
    Fenced,
}

/// What a write carries.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub progress: &'a Progress,
    /// How many of the orders that the last write brought were taken up.
    pub taken_up: usize,
    pub lines: &'a [String],
}

/// One line of a plan's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `<ms since 1970>-<number>`, the stream's own.
    pub id: String,
    pub text: String,
}

/// The index of all plans.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub places: Vec<Place>,
    /// The plan that holds slots.
    pub active: Option<String>,
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

    pub async fn index(&mut self) -> Result<Index, NoRecord> {
        let Reply::Array(fields) = self.call(INDEX, &["HGETALL", INDEX]).await? else { return Ok(Index::default()) };
        let mut index = Index::default();
        for pair in fields.chunks_exact(2) {
            match (text(&pair[0]), text(&pair[1])) {
                (name, id) if name == ACTIVE => index.active = Some(id),
                (name, _) if name == TOKEN => {}
                (id, tag) => index.places.push(Place { id, tag }),
            }
        }
        index.places.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(index)
    }

    /// The plan that a name means: its id or the beginning of it.
    pub async fn find(&mut self, name: &str) -> Result<Loaded, NoRecord> {
        let shown = || name.escape_debug().take(64).collect::<String>();
        let index = self.index().await?;
        let found: Vec<&Place> = index.places.iter().filter(|place| !name.is_empty() && place.id.starts_with(name)).collect();
        match found[..] {
            [place] => self.load(place).await?.ok_or_else(|| NoRecord::Unknown(shown())),
            [] => Err(NoRecord::Unknown(shown())),
            [first, second, ..] => Err(NoRecord::Several { name: shown(), first: first.id.clone(), second: second.id.clone() }),
        }
    }

    /// All plans, the latest first. What the index names and nobody knows any more is dropped from it.
    pub async fn all(&mut self) -> Result<Vec<Loaded>, NoRecord> {
        let mut all = Vec::new();
        for place in self.index().await?.places {
            match self.load(&place).await? {
                Some(loaded) => all.push(loaded),
                None => {
                    self.call(INDEX, &["HDEL", INDEX, &place.id]).await?;
                }
            }
        }
        all.sort_by_key(|loaded| std::cmp::Reverse(loaded.plan.drafted_ms));
        Ok(all)
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

    /// Says that a token was met: those to come are higher.
    pub async fn met_token(&mut self, token: u64) -> Result<(), NoRecord> {
        self.call(INDEX, &["HSET", INDEX, TOKEN, &token.to_string()]).await.map(drop)
    }

    /// Asks for the right to drive a plan. Its token is higher than that of every driver before, of any plan.
    pub async fn take(&mut self, place: &Place) -> Result<Taken, NoRecord> {
        let next = text(&self.call(INDEX, &["HINCRBY", INDEX, TOKEN, "1"]).await?);
        // No two attempts are the same holder, so that of two in one process one is refused too.
        let holder = format!("{}/{:08x}", self.instance, fastrand::u32(..));
        let asked = Instant::now();
        let (plan, lease) = (place.key("plan"), place.key("lease"));
        let reply = self.eval(TAKE, &[&plan, &lease], &[&holder, &self.lease_ms(), &next]).await?;
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
    pub async fn write(&mut self, place: &Place, lease: &mut Lease, version: u64, entry: Entry<'_>) -> Result<Written, NoRecord> {
        let keys = ["plan", "lease", "log", "orders"].map(|kind| place.key(kind));
        let expiry = if entry.progress.standing.state.is_at_rest() { ENDED_KEPT.as_millis() } else { 0 };
        let mut arguments = vec![
            lease.text(),
            self.lease_ms(),
            version.to_string(),
            json(entry.progress),
            entry.taken_up.to_string(),
            expiry.to_string(),
            LOG_LINES.to_string(),
        ];
        arguments.extend(entry.lines.iter().cloned());
        let asked = Instant::now();
        let reply = self.eval(WRITE, &keys, &arguments).await?;
        let Reply::Array(fields) = &reply else { return Err(self.unexpected(place, &reply)) };
        match &fields[..] {
            [Reply::Integer(1), Reply::Integer(version), orders @ ..] => {
                lease.renewed(asked, self.timing);
                let read = |order: &Reply| {
                    serde_json::from_str(&text(order))
                        .map_err(|error| NoRecord::Damaged { id: place.id.clone(), found: format!("an order: {error}") })
                };
                Ok(Written::Done { version: *version as u64, orders: orders.iter().map(read).collect::<Result<_, _>>()? })
            }
            _ => Ok(Written::Fenced),
        }
    }

    /// Lets go of a plan.
    pub async fn release(&mut self, place: &Place, lease: &Lease) -> Result<(), NoRecord> {
        self.eval(RELEASE, &[place.key("lease")], &[lease.text()]).await.map(drop)
    }

    /// Leaves a word for whoever drives the plan.
    pub async fn tell(&mut self, place: &Place, told: &Told) -> Result<(), NoRecord> {
        let keys = [place.key("plan"), place.key("orders")];
        match self.eval(ORDER, &keys, &[json(told), ORDERS_MAX.to_string()]).await? {
            Reply::Integer(0) => Err(NoRecord::TooManyOrders(ORDERS_MAX)),
            _ => Ok(()),
        }
    }

    /// Says that this plan holds slots, unless another does: then that one's id. `over` names one that does no more.
    pub async fn claim(&mut self, id: &str, over: &str) -> Result<Option<String>, NoRecord> {
        let holder = text(&self.eval(CLAIM, &[INDEX], &[ACTIVE, id, over]).await?);
        Ok(Some(holder).filter(|holder| holder != id))
    }

    /// Whether slots may be open because of a plan; one that is gone has none.
    pub async fn holds_slots(&mut self, id: &str) -> Result<bool, NoRecord> {
        match self.find(id).await {
            Ok(loaded) => Ok(loaded.progress.standing.state.holds_slots()),
            Err(NoRecord::Unknown(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn unclaim(&mut self, id: &str) -> Result<(), NoRecord> {
        self.eval(UNCLAIM, &[INDEX], &[ACTIVE, id]).await.map(drop)
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

    async fn eval(&mut self, script: &str, keys: &[impl AsRef<str>], arguments: &[impl AsRef<str>]) -> Result<Reply, NoRecord> {
        let count = keys.len().to_string();
        let keys_and_arguments = keys.iter().map(AsRef::as_ref).chain(arguments.iter().map(AsRef::as_ref));
        let words: Vec<&str> = ["EVAL", script, &count].into_iter().chain(keys_and_arguments).collect();
        let key = keys.first().map_or("", AsRef::as_ref);
        self.call(key, &words).await
    }

    async fn call(&mut self, key: &str, words: &[&str]) -> Result<Reply, NoRecord> {
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

fn text(reply: &Reply) -> String {
    match reply {
        Reply::BulkString(text) | Reply::SimpleString(text) => String::from_utf8_lossy(text).into_owned(),
        Reply::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}
