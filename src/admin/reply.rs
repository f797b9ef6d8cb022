//! What a command answers, and its two forms on the wire.

use bytes::Bytes;
use redis_protocol::resp2::types::BytesFrame as Resp2Frame;
use redis_protocol::resp3::types::{BytesFrame as Resp3Frame, FrameMap, VerbatimStringFormat};

use super::Facts;

/// Where the text of a table is broken, so that it reads well in a terminal of 80 columns behind redis-cli's numbers.
const LINE_COLUMNS: usize = 76;

/// A longer key has a line of its own, so that it does not push every text to the right.
const KEY_COLUMNS: usize = 30;

/// A reply before its RESP version is known.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    Simple(String),
    /// Code and text, one line.
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    /// Several lines for people. RESP2: a bulk string, RESP3: verbatim text.
    Text(String),
    Array(Vec<Reply>),
    /// RESP2: keys and values in turn.
    Map(Vec<(Reply, Reply)>),
    /// Pairs for people. RESP2: one short line each, aligned. RESP3: a map.
    Table(Vec<(String, String)>),
    /// RESP2: the text of INFO. RESP3: a map of maps.
    Facts(Facts),
}

impl Reply {
    pub fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    pub fn bulk(text: &str) -> Self {
        Self::Bulk(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// A map with text keys.
    pub fn map<const N: usize>(pairs: [(&str, Reply); N]) -> Self {
        Self::Map(pairs.into_iter().map(|(key, value)| (Self::bulk(key), value)).collect())
    }

    pub fn into_resp2(self) -> Resp2Frame {
        match self {
            Self::Simple(text) => Resp2Frame::SimpleString(text.into()),
            Self::Error(text) => Resp2Frame::Error(text.into()),
            Self::Integer(number) => Resp2Frame::Integer(number),
            Self::Bulk(bytes) => Resp2Frame::BulkString(bytes),
            Self::Text(text) => Resp2Frame::BulkString(text.into()),
            Self::Array(items) => Resp2Frame::Array(items.into_iter().map(Self::into_resp2).collect()),
            Self::Map(pairs) => {
                let flat = pairs.into_iter().flat_map(|(key, value)| [key.into_resp2(), value.into_resp2()]);
                Resp2Frame::Array(flat.collect())
            }
            // Simple strings: redis-cli shows them without quotes.
            Self::Table(rows) => {
                let lines = table_lines(&rows).into_iter().map(|line| Resp2Frame::SimpleString(line.into()));
                Resp2Frame::Array(lines.collect())
            }
            Self::Facts(facts) => Resp2Frame::BulkString(facts_text(&facts).into()),
        }
    }

    pub fn into_resp3(self) -> Resp3Frame {
        let attributes = None;
        match self {
            Self::Simple(text) => Resp3Frame::SimpleString { data: text.into(), attributes },
            Self::Error(text) => Resp3Frame::SimpleError { data: text.into(), attributes },
            Self::Integer(data) => Resp3Frame::Number { data, attributes },
            Self::Bulk(data) => Resp3Frame::BlobString { data, attributes },
            Self::Text(text) => Resp3Frame::VerbatimString { data: text.into(), format: VerbatimStringFormat::Text, attributes },
            Self::Array(items) => Resp3Frame::Array { data: items.into_iter().map(Self::into_resp3).collect(), attributes },
            Self::Map(pairs) => {
                let data: FrameMap<_, _> = pairs.into_iter().map(|(key, value)| (key.into_resp3(), value.into_resp3())).collect();
                Resp3Frame::Map { data, attributes }
            }
            Self::Table(rows) => Self::text_map(rows).into_resp3(),
            Self::Facts(facts) => {
                let sections = facts.into_iter().map(|(title, lines)| (Self::bulk(&title), Self::text_map(lines)));
                Self::Map(sections.collect()).into_resp3()
            }
        }
    }

    fn text_map(rows: Vec<(String, String)>) -> Self {
        Self::Map(rows.into_iter().map(|(key, text)| (Self::bulk(&key), Self::bulk(&text))).collect())
    }
}

/// The format of INFO: `# Section`, `key:value`, an empty line between sections.
pub(super) fn facts_text(facts: &Facts) -> String {
    let section = |(title, lines): &(String, Vec<(String, String)>)| {
        let lines: String = lines.iter().map(|(key, value)| format!("{key}:{value}\r\n")).collect();
        format!("# {title}\r\n{lines}")
    };
    facts.iter().map(section).collect::<Vec<_>>().join("\r\n")
}

/// Two columns; a text that is too long goes on in further lines.
fn table_lines(rows: &[(String, String)]) -> Vec<String> {
    let widths = rows.iter().map(|(key, _)| key.chars().count());
    let width = widths.filter(|width| *width <= KEY_COLUMNS).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (key, text) in rows {
        let is_long = key.chars().count() > width;
        if is_long {
            lines.push(key.clone());
        }
        for (index, part) in wrap(text, LINE_COLUMNS - width - 2).iter().enumerate() {
            let key = if index == 0 && !is_long { key } else { "" };
            lines.push(format!("{key:<width$}  {part}").trim_end().to_owned());
        }
    }
    lines
}

/// At least one line; words are never cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_wrapped() {
        #[track_caller]
        fn check(rows: &[(&str, &str)], expected: &[&str]) {
            let rows: Vec<_> = rows.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(table_lines(&rows), expected);
        }
        check(&[], &[]);
        check(&[("a", "one"), ("long key", "two")], &["a         one", "long key  two"]);
        check(&[("key", "")], &["key"]);
        let long = "word ".repeat(20);
        check(
            &[("key", &long)],
            &["key  word word word word word word word word word word word word word word", "     word word word word word word"],
        );
        check(&[("k", "one"), (&"x".repeat(40), "two")], &["k  one", &"x".repeat(40), "   two"]);
    }

    #[test]
    fn facts_read_like_info() {
        let line = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let facts = vec![("A".to_owned(), vec![line("x", "1"), line("y", "2")]), ("B".to_owned(), vec![line("z", "3")])];
        assert_eq!(facts_text(&facts), "# A\r\nx:1\r\ny:2\r\n\r\n# B\r\nz:3\r\n");
        assert_eq!(facts_text(&Vec::new()), "");
    }
}
