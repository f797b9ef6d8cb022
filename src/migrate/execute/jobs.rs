//! The log of a node's atomic migrations, as `CLUSTER GETSLOTMIGRATIONS` tells it. It is read as an open map: versions differ.

use std::time::Duration;

use super::nodes::text;
use crate::control::{Connection, ControlError, Pipeline, Reply};
use crate::migrate::SlotSet;

/// States of a job that has ended.
const ENDED: [&str; 4] = ["success", "failed", "cancelled", "canceled"];

/// The source itself says so when it went on serving before it knew of the hand-over.
const SUSPICIOUS: &str = "lost writes";

/// ARGV names of jobs. Ends all exports of the node, in the same moment in which it sees that they are these and that none is being handed
/// over.
const CANCEL: &str = "\
local ours={} for i=1,#ARGV do ours[ARGV[i]]=true end local ended={success=1,failed=1,cancelled=1,canceled=1} local found=false \
for _,job in ipairs(redis.call('CLUSTER','GETSLOTMIGRATIONS')) do \
local field={} for i=1,#job,2 do field[job[i]]=job[i+1] end \
if field.operation=='EXPORT' and not ended[field.state] then found=true \
if not ours[field.name] then return 'another job runs there as well: '..field.name end \
if field.state=='failover-granted' then return 'it is being handed over' end end end \
if found then redis.call('CLUSTER','CANCELSLOTMIGRATIONS') end return ''";

/// One job, running or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    pub export: bool,
    pub slots: SlotSet,
    /// `snapshotting`, `success`, `failed`, …
    pub state: String,
    /// Why it ended, if it says.
    pub message: String,
    /// Unix time, by the node's clock.
    pub created: u64,
    /// Bytes of the stream that the target lacks, where the server tells.
    pub remaining: u64,
}

impl Entry {
    pub fn is_running(&self) -> bool {
        !ENDED.contains(&self.state.as_str())
    }

    pub fn is_suspicious(&self) -> bool {
        self.message.contains(SUSPICIOUS)
    }

    pub fn reason(&self) -> String {
        if self.message.is_empty() { format!("the job ended as {}", self.state) } else { self.message.clone() }
    }
}

/// Ends these jobs of a source. The inner error: why it cannot be done now.
pub(super) async fn cancel(source: &mut Connection, names: &[String]) -> Result<Result<(), String>, ControlError> {
    let words = ["EVAL", CANCEL, "0"].into_iter().chain(names.iter().map(String::as_str));
    Ok(match source.call(words).await? {
        Reply::BulkString(why) if why.is_empty() => Ok(()),
        reply => Err(text(&reply)),
    })
}

/// What a node says of its jobs with any of these slots that were begun within `age` and may have lost writes; nothing when it has no
/// such log.
pub async fn suspicions(node: &mut Connection, slots: &SlotSet, age: Duration) -> Result<Vec<String>, ControlError> {
    let mut questions = Pipeline::new();
    questions.push(["TIME"]).push(["CLUSTER", "GETSLOTMIGRATIONS"]);
    let replies = node.call_many(&questions).await?;
    let [Reply::Array(time), Reply::Array(log)] = &replies[..] else { return Ok(Vec::new()) };
    let now: u64 = time.first().and_then(|seconds| text(seconds).parse().ok()).unwrap_or(0);
    let suspects = suspects(entries(log), slots, now.saturating_sub(age.as_secs()));
    Ok(suspects.into_iter().map(|entry| entry.message).collect())
}

fn suspects(log: Vec<Entry>, slots: &SlotSet, since: u64) -> Vec<Entry> {
    let concerns = |entry: &Entry| entry.export && entry.created >= since && slots.iter().any(|slot| entry.slots.contains(slot));
    log.into_iter().filter(|entry| concerns(entry) && entry.is_suspicious()).collect()
}

/// The log's entries; those without slots are left out.
pub(super) fn entries(log: &[Reply]) -> Vec<Entry> {
    let entry = |job: &Reply| {
        let Reply::Array(fields) = job else { return None };
        let field =
            |name: &str| fields.chunks_exact(2).find(|pair| text(&pair[0]) == name).map_or(String::new(), |pair| text(&pair[1]));
        let slots = field("slot_ranges").replace(' ', ",");
        Some(Entry {
            name: field("name"),
            export: field("operation") == "EXPORT",
            slots: SlotSet::parse(&slots).ok()?,
            state: field("state"),
            message: field("message"),
            created: field("create_time").parse().unwrap_or(0),
            remaining: field("remaining_repl_size").parse().unwrap_or(0),
        })
    };
    log.iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_valkey_says() {
        let bulk = |text: &str| Reply::BulkString(text.to_owned().into());
        let job = [
            ("name", "f00"),
            ("operation", "EXPORT"),
            ("slot_ranges", "0-9 12-12"),
            ("state", "failed"),
            ("message", "Target node timed out"),
        ];
        let mut fields: Vec<Reply> = job.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
        fields.extend([bulk("create_time"), Reply::Integer(7), bulk("new"), Reply::Null]);
        let found = entries(&[Reply::Array(fields), Reply::Null]);
        let expected = Entry {
            name: "f00".into(),
            export: true,
            slots: SlotSet::parse("0-9,12").expect("slots"),
            state: "failed".into(),
            message: "Target node timed out".into(),
            created: 7,
            remaining: 0,
        };
        assert_eq!(found, [expected]);
        assert!(!found[0].is_running());
    }

    #[test]
    fn only_new_jobs_of_these_slots_are_suspected() {
        let entry = |slots: &str, created: u64, message: &str| Entry {
            name: String::new(),
            export: true,
            slots: SlotSet::parse(slots).expect("slots"),
            state: "failed".into(),
            message: message.into(),
            created,
            remaining: 0,
        };
        let lost = "Unpaused before migration completed (migration may have succeeded with lost writes)";
        let log = vec![entry("0-9", 99, lost), entry("0-9", 100, "cancelled"), entry("20", 100, lost), entry("5", 100, lost)];
        let found = suspects(log, &SlotSet::parse("5-6").expect("slots"), 100);
        assert_eq!(found, [entry("5", 100, lost)]);
    }
}
