//! Tags: what a request carries so that it is known again wherever it turns up.

use crate::{node::keys_of, truth::Tag, waiting::timeout_at};

/// Numbers that carry a tag where a command takes a number: LRANGE's and GETRANGE's end.
pub const NUMBER_TAG: u64 = 1_000_000_000;

pub fn tag_text(tag: Tag) -> String {
    format!("c{}s{}.", tag.0, tag.1)
}

/// The tag that begins a value, an element or a key's name.
pub fn parse_tag(text: &[u8]) -> Option<Tag> {
    let text = std::str::from_utf8(text.get(..text.len().min(24))?).ok()?;
    let (client, rest) = text.strip_prefix('c')?.split_once('s')?;
    Some((client.parse().ok()?, rest.split_once('.')?.0.parse().ok()?))
}

/// The tag of a key that exists for it only.
pub fn tag_of_key(key: &[u8]) -> Option<Tag> {
    let at = key.iter().position(|byte| *byte == b'~')?;
    parse_tag(&key[at + 1..])
}

/// The tag of a request as a node receives it, and whether it writes.
pub fn tag_of(args: &[Vec<u8>]) -> Option<(Tag, bool)> {
    let name = args.first()?.to_ascii_uppercase();
    match name.as_slice() {
        b"SET" | b"RPUSH" | b"MSET" | b"PUBLISH" | b"SPUBLISH" => Some((parse_tag(args.get(2)?)?, true)),
        b"EVAL" | b"EVALSHA" => Some((parse_tag(args.get(4)?)?, true)),
        b"LRANGE" | b"GETRANGE" => {
            let number: u64 = std::str::from_utf8(args.get(3)?).ok()?.parse().ok()?;
            let number = number.checked_sub(NUMBER_TAG)?;
            Some((((number / 1_000_000) as u32, (number % 1_000_000) as u32), false))
        }
        b"MGET" | b"EXISTS" | b"DEL" | b"UNLINK" | b"TOUCH" => {
            Some((tag_of_key(args.last()?)?, name == b"DEL" || name == b"UNLINK"))
        }
        b"BLMOVE" | b"LMOVE" => Some((tag_of_key(args.get(2)?)?, true)),
        _ if timeout_at(args).is_some() => Some((tag_of_key(keys_of(args).last()?.as_bytes())?, true)),
        _ => None,
    }
}

/// What a request acts on, so that two of them have an order: its keys, or its channel.
pub fn objects_of(args: &[Vec<u8>]) -> Vec<String> {
    if args[0].eq_ignore_ascii_case(b"PUBLISH") || args[0].eq_ignore_ascii_case(b"SPUBLISH") {
        return args.get(1).map(|channel| channel_object(&String::from_utf8_lossy(channel))).into_iter().collect();
    }
    keys_of(args)
}

/// A channel among the keys of the truth.
pub fn channel_object(channel: &str) -> String {
    format!("#{channel}")
}
