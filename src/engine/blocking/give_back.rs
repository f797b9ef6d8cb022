//! What a pop took for a client that is gone, and the command that puts it back where it was.

use bytes::Bytes;

use crate::{
    command::Command,
    resp::{Span, View, encode, view},
};

/// What a blocking command takes out of the keyspace. What it only moves, or notes as pending, is not lost with its client; XREADGROUP
/// with NOACK has said that it may be. A key's time to live, if the pop emptied the key, does not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    /// `[key, element]` from this end.
    Element(End),
    /// `[key, [element …]]` from this end.
    Elements(End),
    /// `[key, member, score]`.
    Member,
    /// `[key, [[member, score] …]]`.
    Members,
}

/// The end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Left,
    Right,
}

impl End {
    fn push(self) -> &'static [u8] {
        match self {
            End::Left => b"LPUSH",
            End::Right => b"RPUSH",
        }
    }
}

impl Takes {
    pub fn of(command: &Command, frame: &[u8], spans: &[Span], keys: &[u32]) -> Takes {
        match command.name {
            "BLPOP" => Takes::Element(End::Left),
            "BRPOP" => Takes::Element(End::Right),
            "BLMPOP" => {
                let side = keys.last().and_then(|key| spans.get(*key as usize + 1));
                let right = side.is_some_and(|side| side.of(frame).eq_ignore_ascii_case(b"RIGHT"));
                Takes::Elements(if right { End::Right } else { End::Left })
            }
            "BZPOPMIN" | "BZPOPMAX" => Takes::Member,
            "BZMPOP" => Takes::Members,
            _ => Takes::Nothing,
        }
    }

    /// The key that was taken from, and the command that undoes it. `None`: the reply says that nothing was taken.
    ///
    /// The element that was popped last is pushed first, so that they stand as before. A member that was added anew since keeps the
    /// score that it has now.
    pub fn give_back(self, reply: &[u8]) -> Option<(Vec<u8>, Bytes)> {
        let mut parts = elements(reply)?;
        let key = text(parts.next()?)?;
        let mut arguments: Vec<&[u8]> = Vec::new();
        match self {
            Takes::Nothing => return None,
            Takes::Element(end) => arguments.extend([end.push(), key, text(parts.next()?)?]),
            Takes::Elements(end) => {
                arguments.extend([end.push(), key]);
                let popped: Option<Vec<&[u8]>> = elements(parts.next()?)?.map(text).collect();
                arguments.extend(popped?.into_iter().rev());
            }
            Takes::Member => {
                let (member, score) = (text(parts.next()?)?, text(parts.next()?)?);
                arguments.extend([b"ZADD", key, b"NX", score, member]);
            }
            Takes::Members => {
                arguments.extend([b"ZADD", key, b"NX"]);
                for pair in elements(parts.next()?)? {
                    let mut pair = elements(pair)?;
                    let (member, score) = (text(pair.next()?)?, text(pair.next()?)?);
                    arguments.extend([score, member]);
                }
            }
        }
        let mut frame = Vec::new();
        encode::command(&mut frame, &arguments);
        Some((key.to_vec(), frame.into()))
    }
}

fn elements(reply: &[u8]) -> Option<crate::resp::Elements<'_>> {
    match view(reply)? {
        View::Array(elements) => Some(elements),
        _ => None,
    }
}

fn text(reply: &[u8]) -> Option<&[u8]> {
    match view(reply)? {
        View::Bulk(text) | View::Double(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_popped_goes_back_to_its_end() {
        let check = |takes: Takes, reply: &str, expected: Option<&[&str]>| {
            let found = takes.give_back(reply.as_bytes());
            let expected = expected.map(|words| {
                let mut frame = Vec::new();
                encode::command(&mut frame, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
                (words[1].as_bytes().to_vec(), Bytes::from(frame))
            });
            assert_eq!(found, expected, "{takes:?} {reply:?}");
        };
        let popped = "*2\r\n$1\r\nq\r\n$2\r\nab\r\n";
        check(Takes::Element(End::Left), popped, Some(&["LPUSH", "q", "ab"]));
        check(Takes::Element(End::Right), popped, Some(&["RPUSH", "q", "ab"]));
        check(Takes::Nothing, popped, None);
        let three = "*2\r\n$1\r\nq\r\n*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n";
        check(Takes::Elements(End::Left), three, Some(&["LPUSH", "q", "c", "b", "a"]));
        check(Takes::Elements(End::Right), three, Some(&["RPUSH", "q", "c", "b", "a"]));
        check(Takes::Member, "*3\r\n$1\r\nz\r\n$1\r\nm\r\n$3\r\n1.5\r\n", Some(&["ZADD", "z", "NX", "1.5", "m"]));
        check(Takes::Member, "*3\r\n$1\r\nz\r\n$1\r\nm\r\n,inf\r\n", Some(&["ZADD", "z", "NX", "inf", "m"]));
        let members = "*2\r\n$1\r\nz\r\n*2\r\n*2\r\n$1\r\na\r\n,1\r\n*2\r\n$1\r\nb\r\n,2\r\n";
        check(Takes::Members, members, Some(&["ZADD", "z", "NX", "1", "a", "2", "b"]));
        for nothing in ["*-1\r\n", "_\r\n", "-ERR no\r\n", "$-1\r\n"] {
            for takes in [Takes::Element(End::Left), Takes::Elements(End::Right), Takes::Member, Takes::Members] {
                check(takes, nothing, None);
            }
        }
    }
}
