//! The log of a node's atomic migrations, as `CLUSTER GETSLOTMIGRATIONS` tells it. It is read as an open map: versions differ.

use super::nodes::text;
use crate::control::Reply;
use crate::migrate::SlotSet;

/// One job, running or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub slots: SlotSet,
    /// `snapshotting`, `success`, `failed`, …
    pub state: String,
    /// Why it ended, if it says.
    pub message: String,
    /// Unix time.
    pub created: u64,
}

impl Entry {
    pub fn is_running(&self) -> bool {
        !["success", "failed", "cancelled", "canceled"].contains(&self.state.as_str())
    }

    pub fn reason(&self) -> String {
        if self.message.is_empty() { format!("the job ended as {}", self.state) } else { self.message.clone() }
    }
}

/// The log's entries; those without slots are left out.
pub(super) fn entries(log: &[Reply]) -> Vec<Entry> {
    let entry = |job: &Reply| {
        let Reply::Array(fields) = job else { return None };
        let field =
            |name: &str| fields.chunks_exact(2).find(|pair| text(&pair[0]) == name).map_or(String::new(), |pair| text(&pair[1]));
        let slots = field("slot_ranges").replace(' ', ",");
        Some(Entry {
            slots: SlotSet::parse(&slots).ok()?,
            state: field("state"),
            message: field("message"),
            created: field("create_time").parse().unwrap_or(0),
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
            slots: SlotSet::parse("0-9,12").expect("slots"),
            state: "failed".into(),
            message: "Target node timed out".into(),
            created: 7,
        };
        assert_eq!(found, [expected]);
        assert!(!found[0].is_running());
    }
}
