//! Inline requests: a line of words, as a person types them into telnet.

use super::error::{ProtocolError, is_http};

/// Splits an inline line (with or without its line end) into its arguments; a blank line has none.
///
/// Words are separated by blanks. In `"..."` the escapes `\xHH \n \r \t \b \a` are known, any other escaped byte
/// stands for itself; in `'...'` only `\'` is one. A quote may open inside a word, but where it closes the
/// word must end. The rules are those of `sdssplitargs` in Redis; Valkey 9 also accepts `"a"b`.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`], or [`ProtocolError::Http`] if the first word is one of HTTP.
pub fn split_inline(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let mut rest = line.strip_suffix(b"\n").unwrap_or(line);
    rest = rest.strip_suffix(b"\r").unwrap_or(rest);
    let mut words = Vec::new();
    loop {
        while let [first, tail @ ..] = rest
            && is_blank(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            break;
        }
        let mut word = Vec::new();
        rest = take_word(rest, &mut word).ok_or(ProtocolError::UnbalancedQuotes)?;
        words.push(word);
    }
    match words.first() {
        Some(name) if is_http(name) => Err(ProtocolError::Http),
        _ => Ok(words),
    }
}

/// True if `line` has no words, so that the servers skip it without a reply.
pub(super) fn is_blank_line(line: &[u8]) -> bool {
    line.iter().all(|byte| is_blank(*byte))
}

/// C's `isspace`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Appends the word at the start of `rest` and returns what follows it; `None` if its quotes are unbalanced.
fn take_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            // Vertical tabs and form feeds are blanks between words, yet do not end one: so it is in Redis.
            [] | [b' ' | b'\t' | b'\n' | b'\r', ..] => return Some(rest),
            [b'"', tail @ ..] => return end_of_word(take_double_quoted(tail, word)?),
            [b'\'', tail @ ..] => return end_of_word(take_single_quoted(tail, word)?),
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

/// Appends what stands before the closing `"` and returns what follows it.
fn take_double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, tail) = match rest {
            [] => return None,
            [b'"', tail @ ..] => return Some(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_digit(*high) << 4 | hex_digit(*low), tail)
            }
            [b'\\', escaped, tail @ ..] => (unescape(*escaped), tail),
            [byte, tail @ ..] => (*byte, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

/// Appends what stands before the closing `'` and returns what follows it.
fn take_single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, tail) = match rest {
            [] => return None,
            [b'\'', tail @ ..] => return Some(tail),
            [b'\\', b'\'', tail @ ..] => (b'\'', tail),
            [byte, tail @ ..] => (*byte, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

/// `rest` if the word may end before it.
fn end_of_word(rest: &[u8]) -> Option<&[u8]> {
    match rest.first() {
        Some(byte) if !is_blank(*byte) => None,
        _ => Some(rest),
    }
}

fn unescape(escaped: u8) -> u8 {
    match escaped {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row was answered so by redis-server 7.0.15 (as the arguments of an ECHO).
    #[test]
    fn words() {
        fn check(line: &[u8], expected: &[&[u8]]) {
            let words = split_inline(line).unwrap_or_else(|error| panic!("{}: {error}", line.escape_ascii()));
            assert_eq!(words, expected, "{}", line.escape_ascii());
            assert_eq!(is_blank_line(line), expected.is_empty(), "{}", line.escape_ascii());
        }
        check(b"", &[]);
        check(b"\r\n", &[]);
        check(b" \t\r\n", &[]);
        check(b"\x0b\x0c \n", &[]);
        check(b"\r\r\n", &[]);
        check(b"PING", &[b"PING"]);
        check(b"PING\n", &[b"PING"]);
        check(b"PING\r\n", &[b"PING"]);
        check(b"\r\rPING\r\r\n", &[b"PING"]);
        check(b"\x0b\x0cPING\n", &[b"PING"]);
        check(b"  SET  a\tb \r\n", &[b"SET", b"a", b"b"]);
        check(b"ECHO a\x0bb\n", &[b"ECHO", b"a\x0bb"]);
        check(b"ECHO a \x0b\n", &[b"ECHO", b"a"]);
        check(b"ECHO a\rb\n", &[b"ECHO", b"a", b"b"]);
        check(b"ECHO \xa0\x85\n", &[b"ECHO", b"\xa0\x85"]);
        check(b"\"\"\n", &[b""]);
        check(b"''\n", &[b""]);
        check(b"ECHO \"a\\x41\\x4g\\n\\r\\t\\b\\a\\\"\\\\q\\q\"\n", &[b"ECHO", b"aAx4g\n\r\t\x08\x07\"\\qq"]);
        check(b"ECHO \"\\x4\"\n", &[b"ECHO", b"x4"]);
        check(b"ECHO \"\\xfF\\x00\"\n", &[b"ECHO", b"\xff\0"]);
        check(b"ECHO 'a\\'b\\n'\n", &[b"ECHO", b"a'b\\n"]);
        check(b"ECHO 'a b\"c'\n", &[b"ECHO", b"a b\"c"]);
        check(b"ECHO ab\"cd\"\n", &[b"ECHO", b"abcd"]);
        check(b"ECHO \"a\"\x0b\n", &[b"ECHO", b"a"]);
        check(b"ECHO \"a\" 'b'\n", &[b"ECHO", b"a", b"b"]);
        check(b"GET / HTTP/1.1\r\n", &[b"GET", b"/", b"HTTP/1.1"]);
    }

    #[test]
    fn refused() {
        fn check(line: &[u8], expected: ProtocolError) {
            assert_eq!(split_inline(line), Err(expected), "{}", line.escape_ascii());
        }
        check(b"ECHO \"a\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO 'a\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO a'b\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO \"a\"b\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO 'a'b\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO a\"b c\"d\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO \"a\\\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO \"a\\\"\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO '\\'\n", ProtocolError::UnbalancedQuotes);
        check(b"ECHO 'a\\'b\\n\\\\'\n", ProtocolError::UnbalancedQuotes);
        check(b"POST / HTTP/1.1\r\n", ProtocolError::Http);
        check(b"post\n", ProtocolError::Http);
        check(b"\"post\" a\n", ProtocolError::Http);
        check(b"Host: localhost\r\n", ProtocolError::Http);
    }
}
