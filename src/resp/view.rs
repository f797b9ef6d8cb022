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
    let left = usize::try_from(count).ok()?.checked_mul(if kind == b'%' { 2 } else { 1 })?;
    // No element is shorter than `_\r\n`: a caller may reserve room for as many as are announced.
    if left > body.len() / 3 {
        return None;
    }
    let elements = Elements { rest: body, left };
    Some(match kind {
        b'*' => View::Array(elements),
        b'%' => View::Map(elements),
        b'~' => View::Set(elements),
        _ => View::Push(elements),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reply: &str, expected: Option<View<'_>>) {
        assert_eq!(view(reply.as_bytes()), expected, "{reply:?}");
        let with_attribute = format!("|1\r\n+ttl\r\n%1\r\n:1\r\n:2\r\n|0\r\n{reply}");
        assert_eq!(view(with_attribute.as_bytes()), expected, "{with_attribute:?}");
    }

    #[test]
    fn scalars() {
        check("+OK\r\n", Some(View::Simple(b"OK")));
        check("-ERR a\r\n", Some(View::Error(b"ERR a")));
        check("!5\r\nERR a\r\n", Some(View::Error(b"ERR a")));
        check(":-12\r\n", Some(View::Integer(-12)));
        check(",1.50\r\n", Some(View::Double(b"1.50")));
        check("#t\r\n", Some(View::Boolean(true)));
        check("#f\r\n", Some(View::Boolean(false)));
        check("(123\r\n", Some(View::BigNumber(b"123")));
        check("$0\r\n\r\n", Some(View::Bulk(b"")));
        check("$4\r\na\r\nb\r\n", Some(View::Bulk(b"a\r\nb")));
        check("=6\r\ntxt:hi\r\n", Some(View::Verbatim(b"hi")));
        check("=4\r\nmkd:\r\n", Some(View::Verbatim(b"")));
        for null in ["$-1\r\n", "*-1\r\n", "_\r\n"] {
            check(null, Some(View::Null));
        }
    }

    #[test]
    fn aggregates() {
        fn check(reply: &str, kind: fn(Elements<'static>) -> View<'static>, expected: &[&str]) {
            let reply = reply.to_string().leak();
            let (View::Array(elements) | View::Map(elements) | View::Set(elements) | View::Push(elements)) =
                view(reply.as_bytes()).expect("a whole reply")
            else {
                panic!("{reply:?} has elements");
            };
            assert_eq!(view(reply.as_bytes()), Some(kind(elements.clone())), "{reply:?}");
            assert_eq!(elements.len(), expected.len(), "{reply:?}");
            assert_eq!(elements.is_empty(), expected.is_empty(), "{reply:?}");
            let elements: Vec<&[u8]> = elements.collect();
            assert_eq!(elements, expected.iter().map(|element| element.as_bytes()).collect::<Vec<_>>(), "{reply:?}");
        }
        check("*0\r\n", View::Array, &[]);
        check("*2\r\n$1\r\na\r\n*1\r\n:1\r\n", View::Array, &["$1\r\na\r\n", "*1\r\n:1\r\n"]);
        check("*1\r\n|1\r\n+a\r\n+b\r\n_\r\n", View::Array, &["|1\r\n+a\r\n+b\r\n_\r\n"]);
        check("%1\r\n+a\r\n:1\r\n", View::Map, &["+a\r\n", ":1\r\n"]);
        check("~1\r\n+a\r\n", View::Set, &["+a\r\n"]);
        check(">2\r\n+a\r\n$-1\r\n", View::Push, &["+a\r\n", "$-1\r\n"]);
    }

    #[test]
    fn malformed() {
        for reply in [
            "",
            "+OK",
            "+OK\r",
            "?\r\n",
            ":\r\n",
            ":x\r\n",
            ":+1\r\n",
            "#\r\n",
            "#x\r\n",
            "_x\r\n",
            "$\r\n",
            "$1\r\n",
            "$1\r\na",
            "$1\r\nab\r\n",
            "$2\r\na\r\n",
            "$-2\r\n\r\n",
            "$-1\r\n\r\n",
            "=3\r\ntxt\r\n",
            "=-1\r\n",
            "*",
            "*x\r\n",
            "*-2\r\n",
            "*-1\r\n:1\r\n",
            "%-1\r\n",
            "%9223372036854775807\r\n",
            "*3\r\n_\r\n_\r\n_\r",
            "|1\r\n:1\r\n",
            "|-1\r\n",
            "|1",
            "|9223372036854775807\r\n:1\r\n",
        ] {
            check(reply, None);
        }
        let Some(View::Array(mut cut)) = view(b"*2\r\n:1\r\n:2") else { panic!("the header is whole") };
        assert_eq!(cut.next(), Some(&b":1\r\n"[..]));
        assert_eq!((cut.next(), cut.len(), cut.next()), (None, 0, None));
    }

    /// Attributes follow each other without recursion: a reply of them alone must not exhaust the stack.
    #[test]
    fn many_attributes() {
        let reply = [b"|0\r\n".repeat(100_000), b":1\r\n".to_vec()].concat();
        assert_eq!(view(&reply), Some(View::Integer(1)));
    }
}
