//! What a command answers, and its two forms on the wire.

use bytes::{Bytes, BytesMut};
use redis_protocol::codec::{Resp2, Resp3};
use redis_protocol::error::RedisProtocolError;
use redis_protocol::resp2::types::BytesFrame as Resp2Frame;
use redis_protocol::resp3::types::{BytesFrame as Resp3Frame, VerbatimStringFormat};
use serde_json::Value;
use tokio_util::codec::Encoder;

use super::Facts;
use crate::resp::Proto;

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
    Null,
    Integer(i64),
    Bulk(Bytes),
    /// Several lines for people. RESP2: a bulk string, RESP3: verbatim text.
    Text(String),
    Array(Vec<Reply>),
    /// What a subscriber is told. RESP2: an array.
    Push(Vec<Reply>),
    /// More than one reply to one request.
    Several(Vec<Reply>),
    /// RESP2: keys and values in turn.
    Map(Vec<(Reply, Reply)>),
    /// Pairs for people. RESP2: one short line each, aligned. RESP3: a map.
    Table(Vec<(String, String)>),
    /// RESP2: the text of INFO. RESP3: a map of maps.
    Facts(Facts),
    /// The same thing for people and for programs. RESP2: one line each, RESP3: the value; JSON is asked for by the request's last word.
    Report(Report),
}

/// What a command found.
#[derive(Debug, PartialEq)]
pub(super) struct Report {
    /// For people: short and aligned.
    pub lines: Vec<String>,
    pub value: Value,
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

    /// Appends the reply as a client of this version reads it. Aggregates are opened here and only what is in them is
    /// left to `redis-protocol`: its maps are hash maps, and help and INFO have an order.
    pub fn write(self, proto: Proto, out: &mut BytesMut) -> Result<(), RedisProtocolError> {
        match (self, proto) {
            (Self::Array(items), _) => {
                open(out, '*', items.len());
                items.into_iter().try_for_each(|item| item.write(proto, out))
            }
            (Self::Push(items), _) => {
                open(out, if proto == Proto::Resp3 { '>' } else { '*' }, items.len());
                items.into_iter().try_for_each(|item| item.write(proto, out))
            }
            (Self::Several(replies), _) => replies.into_iter().try_for_each(|reply| reply.write(proto, out)),
            (Self::Map(pairs), _) => {
                match proto {
                    Proto::Resp2 => open(out, '*', 2 * pairs.len()),
                    Proto::Resp3 => open(out, '%', pairs.len()),
                }
                pairs.into_iter().flat_map(|(key, value)| [key, value]).try_for_each(|item| item.write(proto, out))
            }
            // Simple strings: redis-cli shows them without quotes.
            (Self::Table(rows), Proto::Resp2) => {
                Self::Array(table_lines(&rows).into_iter().map(Self::Simple).collect()).write(proto, out)
            }
            (Self::Table(rows), Proto::Resp3) => Self::text_map(rows).write(proto, out),
            (Self::Facts(facts), Proto::Resp2) => Self::Text(facts_text(&facts)).write(proto, out),
            (Self::Facts(facts), Proto::Resp3) => {
                let sections = facts.into_iter().map(|(title, lines)| (Self::bulk(&title), Self::text_map(lines)));
                Self::Map(sections.collect()).write(proto, out)
            }
            (Self::Report(report), Proto::Resp2) => {
                Self::Array(report.lines.into_iter().map(Self::Simple).collect()).write(proto, out)
            }
            (Self::Report(report), Proto::Resp3) => write_value(&report.value, out),
            (Self::Simple(text), Proto::Resp2) => write2(Resp2Frame::SimpleString(text.into()), out),
            (Self::Error(text), Proto::Resp2) => write2(Resp2Frame::Error(text.into()), out),
            (Self::Null, Proto::Resp2) => write2(Resp2Frame::Null, out),
            (Self::Null, Proto::Resp3) => write3(Resp3Frame::Null, out),
            (Self::Integer(number), Proto::Resp2) => write2(Resp2Frame::Integer(number), out),
            (Self::Bulk(bytes), Proto::Resp2) => write2(Resp2Frame::BulkString(bytes), out),
            (Self::Text(text), Proto::Resp2) => write2(Resp2Frame::BulkString(text.into()), out),
            (Self::Simple(text), Proto::Resp3) => write3(Resp3Frame::SimpleString { data: text.into(), attributes: None }, out),
            (Self::Error(text), Proto::Resp3) => write3(Resp3Frame::SimpleError { data: text.into(), attributes: None }, out),
            (Self::Integer(data), Proto::Resp3) => write3(Resp3Frame::Number { data, attributes: None }, out),
            (Self::Bulk(data), Proto::Resp3) => write3(Resp3Frame::BlobString { data, attributes: None }, out),
            (Self::Text(text), Proto::Resp3) => {
                let format = VerbatimStringFormat::Text;
                write3(Resp3Frame::VerbatimString { data: text.into(), format, attributes: None }, out)
            }
        }
    }

    /// One JSON document, unless it is an error.
    pub fn into_json(self) -> Self {
        match self {
            Self::Report(report) => Self::bulk(&report.value.to_string()),
            Self::Table(rows) => Self::bulk(&json_object(rows).to_string()),
            Self::Facts(facts) => {
                let sections = facts.into_iter().map(|(title, lines)| (title, json_object(lines)));
                Self::bulk(&Value::Object(sections.collect()).to_string())
            }
            other => other,
        }
    }

    fn text_map(rows: Vec<(String, String)>) -> Self {
        Self::Map(rows.into_iter().map(|(key, text)| (Self::bulk(&key), Self::bulk(&text))).collect())
    }
}

fn json_object(rows: Vec<(String, String)>) -> Value {
    Value::Object(rows.into_iter().map(|(key, text)| (key, Value::String(text))).collect())
}

/// A JSON value as RESP3 has it: objects are maps, fractions doubles.
fn write_value(value: &Value, out: &mut BytesMut) -> Result<(), RedisProtocolError> {
    let null = || Resp3Frame::Null;
    match value {
        Value::Null => write3(null(), out),
        Value::Bool(data) => write3(Resp3Frame::Boolean { data: *data, attributes: None }, out),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(data), _) => write3(Resp3Frame::Number { data, attributes: None }, out),
            (None, Some(data)) => write3(Resp3Frame::Double { data, attributes: None }, out),
            (None, None) => write3(null(), out),
        },
        Value::String(text) => Reply::bulk(text).write(Proto::Resp3, out),
        Value::Array(items) => {
            open(out, '*', items.len());
            items.iter().try_for_each(|item| write_value(item, out))
        }
        Value::Object(fields) => {
            open(out, '%', fields.len());
            fields.iter().try_for_each(|(name, field)| {
                Reply::bulk(name).write(Proto::Resp3, out)?;
                write_value(field, out)
            })
        }
    }
}

fn open(out: &mut BytesMut, kind: char, len: usize) {
    out.extend_from_slice(format!("{kind}{len}\r\n").as_bytes());
}

fn write2(frame: Resp2Frame, out: &mut BytesMut) -> Result<(), RedisProtocolError> {
    Resp2::default().encode(frame, out)
}

fn write3(frame: Resp3Frame, out: &mut BytesMut) -> Result<(), RedisProtocolError> {
    Resp3::default().encode(frame, out)
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
            let parts = wrap(key, LINE_COLUMNS - 4);
            lines.extend(
                parts.iter().enumerate().map(|(index, part)| if index == 0 { part.clone() } else { format!("    {part}") }),
            );
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
