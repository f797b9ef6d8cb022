//! A look into one whole reply, without copying it.

use super::header::{self, strict_integer};
use super::reply::{first_reply_len, values_len};

/// What a reply says. RESP2's and RESP3's ways to say null are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View<'a> {
    Simple(&'a [u8]),
    /// The text of `-` and of RESP3's bulk error `!`.
    Error(&'a [u8]),
    Integer(i64),
    /// As the server spelt it: versions differ in the digits they print, so it is never formatted anew.
    Double(&'a [u8]),
    Boolean(bool),
    BigNumber(&'a [u8]),
    Bulk(&'a [u8]),
    /// Without its format (`txt:`).
    Verbatim(&'a [u8]),
    Null,
    Array(Elements<'a>),
    /// Keys and values by turns: two elements per pair.
    Map(Elements<'a>),
    Set(Elements<'a>),
    Push(Elements<'a>),
}

/// Looks into `reply`, one whole reply as [`ReplyScanner`](super::ReplyScanner) delimits it; attributes before it
/// are skipped. `None` if it is malformed.
pub fn view(mut reply: &[u8]) -> Option<View<'_>> {
    loop {
        let (&kind, rest) = reply.split_first()?;
        match kind {
            b'|' => reply = behind_attribute(rest)?,
            b'$' | b'=' | b'!' => return bulk(kind, rest),
            b'*' | b'%' | b'~' | b'>' => return aggregate(kind, rest),
            _ => return scalar(kind, rest.strip_suffix(b"\r\n")?),
        }
    }
}

/// What follows the pairs of an attribute.
fn behind_attribute(rest: &[u8]) -> Option<&[u8]> {
    let (n_pairs, head) = number(rest)?;
    let pairs = &rest[head..];
    let len = values_len(pairs, u64::try_from(n_pairs).ok()?.checked_mul(2)?)?;
    Some(&pairs[len..])
}

fn scalar(kind: u8, text: &[u8]) -> Option<View<'_>> {
    Some(match (kind, text) {
        (b'+', text) => View::Simple(text),
        (b'-', text) => View::Error(text),
        (b':', digits) => View::Integer(strict_integer(digits)?),
        (b',', number) => View::Double(number),
        (b'(', number) => View::BigNumber(number),
        (b'#', b"t") => View::Boolean(true),
        (b'#', b"f") => View::Boolean(false),
        (b'_', b"") => View::Null,
        _ => return None,
    })
}

fn bulk(kind: u8, rest: &[u8]) -> Option<View<'_>> {
    let (len, head) = number(rest)?;
    let body = &rest[head..];
    if len == -1 && kind == b'$' && body.is_empty() {
        return Some(View::Null);
    }
    let text = body.strip_suffix(b"\r\n")?;
    if usize::try_from(len) != Ok(text.len()) {
        return None;
    }
    match (kind, text) {
        (b'$', text) => Some(View::Bulk(text)),
        (b'!', text) => Some(View::Error(text)),
        (_, [_, _, _, b':', text @ ..]) => Some(View::Verbatim(text)),
        _ => None,
    }
}

fn aggregate(kind: u8, rest: &[u8]) -> Option<View<'_>> {
    let (count, head) = number(rest)?;
    let body = &rest[head..];
    if count == -1 && kind == b'*' && body.is_empty() {
        return Some(View::Null);
    }
    let left = usize::try_from(count).ok()?;
    Some(match kind {
        b'*' => View::Array(Elements { rest: body, left }),
        b'%' => View::Map(Elements { rest: body, left: left.checked_mul(2)? }),
        b'~' => View::Set(Elements { rest: body, left }),
        _ => View::Push(Elements { rest: body, left }),
    })
}

/// The number at the start of `line`, and its size with CR LF.
fn number(line: &[u8]) -> Option<(i64, usize)> {
    header::number(line, line.len()).ok()?
}

/// The elements of an array, map, set or push, each as its raw bytes with its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elements<'a> {
    rest: &'a [u8],
    left: usize,
}

impl Elements<'_> {
    /// How many elements are still to come.
    pub fn len(&self) -> usize {
        self.left
    }

    /// True if no element is to come.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        match first_reply_len(self.rest).and_then(|len| self.rest.split_at_checked(len)) {
            Some((element, rest)) => {
                self.rest = rest;
                Some(element)
            }
            // Only if the bytes were no whole reply.
            None => {
                self.left = 0;
                None
            }
        }
    }
}
