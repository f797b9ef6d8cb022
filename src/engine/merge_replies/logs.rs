//! Logs of several nodes as one: newest first, cut at the count of the request.

use std::cmp::Reverse;

use super::{elements, integer, number, pairs, raw, text};
use crate::resp::encode;

/// What servers answer when the request names no count.
const COUNT_DEFAULT: i64 = 10;

/// SLOWLOG GET and COMMANDLOG GET: entries of identifier, time in seconds, duration and more.
///
/// Every node counts its own entries, so identifiers collide. An entry's new one is its place in the united log, where
/// the newest has as many before it as all nodes have ever logged: a client that remembers the last one it has seen
/// sees larger ones for entries that are new.
pub fn newest(count: Option<i64>, replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut entries = Vec::new();
    let mut logged: i64 = 0;
    for reply in replies {
        let entries_before = entries.len();
        for entry in elements(reply)? {
            let mut fields = elements(entry)?;
            let (identifier, time) = (integer(fields.next()?)?, integer(fields.next()?)?);
            if entries.len() == entries_before {
                logged = logged.saturating_add(identifier).saturating_add(1);
            }
            entries.push((time, entry));
        }
    }
    // Each node's entries are in order already, and stay so where times are equal.
    entries.sort_by_key(|(time, _)| Reverse(*time));
    // -1 asks for all.
    entries.truncate(usize::try_from(count.unwrap_or(COUNT_DEFAULT)).unwrap_or(usize::MAX));
    encode::array(out, entries.len());
    for (place, (_, entry)) in entries.into_iter().enumerate() {
        let mut fields = elements(entry)?;
        encode::array(out, fields.len());
        fields.next()?;
        encode::integer(out, logged - 1 - place as i64);
        fields.try_for_each(|field| raw(field, out))?;
    }
    Some(())
}

/// ACL LOG: entries are maps, newest first by their age, which is the only time that all versions tell.
/// ACL LOG RESET answers a status.
pub fn acl_log(count: Option<i64>, replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    if text(replies[0]).is_some() {
        return raw(replies[0], out);
    }
    let mut entries = Vec::new();
    for reply in replies {
        for entry in elements(reply)? {
            let fields = pairs(entry)?;
            let (_, age) = fields.into_iter().find(|(name, _)| text(name) == Some(b"age-seconds"))?;
            entries.push((number(age)?, entry));
        }
    }
    entries.sort_by(|left, right| left.0.total_cmp(&right.0));
    // A negative count is none to a server.
    entries.truncate(usize::try_from(count.unwrap_or(COUNT_DEFAULT)).unwrap_or(0));
    encode::array(out, entries.len());
    entries.into_iter().try_for_each(|(_, entry)| raw(entry, out))
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_counted;
    use crate::command::Fan;
    use crate::resp::Proto;

    #[test]
    fn slow_log_entries_are_merged_by_time() {
        let check = |count, replies: &[&str], expected: &str| {
            check_counted(Fan::Newest, Proto::Resp2, count, replies, expected);
        };
        // Redis 8.2.3, Valkey 9.1.2
        let first = "*2\n*6\n:8\n:1795362037\n:11\n*2\n$5\nHELLO\n$1\n2\n$15\n127.0.0.1:53828\n$0\n\n\
                     *6\n:7\n:1795362031\n:28351\n*1\n$4\nPING\n$15\n127.0.0.1:53828\n$0\n\n";
        let second = "*1\n*6\n:3\n:1795362034\n:13\n*1\n$4\nECHO\n$15\n127.0.0.1:43094\n$1\nn\n";
        let [hello, echo, ping] = [
            ":1795362037\n:11\n*2\n$5\nHELLO\n$1\n2\n$15\n127.0.0.1:53828\n$0\n\n",
            ":1795362034\n:13\n*1\n$4\nECHO\n$15\n127.0.0.1:43094\n$1\nn\n",
            ":1795362031\n:28351\n*1\n$4\nPING\n$15\n127.0.0.1:53828\n$0\n\n",
        ];
        // Nine and four entries were logged: the newest is the thirteenth.
        let all = format!("*3\n*6\n:12\n{hello}*6\n:11\n{echo}*6\n:10\n{ping}");
        check(None, &[first, second], &all);
        check(Some(-1), &[first, second, "*0\n"], &all);
        check(Some(2), &[second, first], &format!("*2\n*6\n:12\n{hello}*6\n:11\n{echo}"));
        check(Some(0), &["*0\n", "*0\n"], "*0\n");
        check(
            Some(5),
            &[first, "-ERR count should be greater than or equal to -1\n"],
            "-ERR count should be greater than or equal to -1\n",
        );
        check(None, &["*1\n:1\n"], "-ERR proxy: cannot make one reply of what the nodes answered, such as *1\\r\\n:1\\r\\n\n");
    }

    #[test]
    fn ten_entries_are_asked_for_by_default() {
        let entries: String = (0..12).rev().map(|id| format!("*2\n:{id}\n:{id}\n")).collect();
        let newest: String = (2..12).rev().map(|id| format!("*2\n:{id}\n:{id}\n")).collect();
        check_counted(Fan::Newest, Proto::Resp2, None, &[&format!("*12\n{entries}")], &format!("*10\n{newest}"));
    }

    #[test]
    fn acl_log_entries_are_merged_by_age() {
        // Redis 7.0.15, shortened; doubles are bulks in RESP2.
        let entry2 = |age: &str| format!("*4\n$6\nreason\n$4\nauth\n$11\nage-seconds\n${}\n{age}\n", age.len());
        let entry3 = |age: &str| format!("%2\n$6\nreason\n$4\nauth\n$11\nage-seconds\n,{age}\n");
        let [young, middle, old] = ["0.38900000000000001", "2", "10.5"].map(entry2);
        check_counted(
            Fan::AclLog,
            Proto::Resp2,
            None,
            &[&format!("*2\n{young}{old}"), &format!("*1\n{middle}")],
            &format!("*3\n{young}{middle}{old}"),
        );
        let [young, middle, old] = ["0.389", "2", "10.5"].map(entry3);
        check_counted(
            Fan::AclLog,
            Proto::Resp3,
            Some(1),
            &[&format!("*1\n{old}"), &format!("*1\n{middle}"), &format!("*1\n{young}")],
            &format!("*1\n{young}"),
        );
        check_counted(Fan::AclLog, Proto::Resp2, None, &["+OK\n", "+OK\n"], "+OK\n");
        check_counted(Fan::AclLog, Proto::Resp2, None, &["+OK\n", "-NOPERM no\n"], "-NOPERM no\n");
        check_counted(Fan::AclLog, Proto::Resp2, Some(-5), &[&format!("*1\n{}", entry2("1")), "*0\n"], "*0\n");
    }
}
