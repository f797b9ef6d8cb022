//! The number in a length header, shared by both scanners.

/// What is wrong with a header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No strict decimal integer: `+1`, `04`, `-0`, blanks and nothing at all are refused, as by the servers.
    NotANumber,
    /// CR is followed by something else than LF.
    InvalidCrlf,
    /// No CR within the limit.
    TooLong,
}

/// A number and how many bytes it takes with its CR LF.
pub(super) type Number = (i64, usize);

/// Reads one or two digits and CR LF at the start of `line` (the bytes behind the type byte): nearly every
/// header there is, in a few instructions. `None` says to ask [`number`].
#[inline(always)]
pub(super) fn short_number(line: &[u8]) -> Option<(usize, usize)> {
    match *line {
        [ones @ b'0'..=b'9', b'\r', b'\n', ..] => Some((usize::from(ones - b'0'), 3)),
        [tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((usize::from(tens - b'0') * 10 + usize::from(ones - b'0'), 4))
        }
        _ => None,
    }
}

/// Reads the number and CR LF at the start of `line`, the bytes behind the type byte. `None`: the line is cut.
///
/// Nothing is judged before the whole line is there, so the answer does not depend on where it is cut.
pub(super) fn number(line: &[u8], line_len_max: usize) -> Result<Option<Number>, Fault> {
    let Some(cr) = memchr::memchr(b'\r', line) else {
        return if line.len() >= line_len_max { Err(Fault::TooLong) } else { Ok(None) };
    };
    if cr >= line_len_max {
        return Err(Fault::TooLong);
    }
    match line.get(cr + 1) {
        None => Ok(None),
        Some(b'\n') => match strict_integer(&line[..cr]) {
            Some(number) => Ok(Some((number, cr + 2))),
            None => Err(Fault::NotANumber),
        },
        Some(_) => Err(Fault::InvalidCrlf),
    }
}

/// The integer that `digits` spells in the only way Redis itself would spell it.
pub(super) fn strict_integer(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Counted downwards, because the lowest number has no positive counterpart.
    let mut number = 0i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(number) } else { number.checked_neg() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        fn check(digits: &str, expected: Option<i64>) {
            assert_eq!(strict_integer(digits.as_bytes()), expected, "{digits:?}");
        }
        check("0", Some(0));
        check("7", Some(7));
        check("10", Some(10));
        check("-1", Some(-1));
        check("9223372036854775807", Some(i64::MAX));
        check("9223372036854775808", None);
        check("-9223372036854775808", Some(i64::MIN));
        check("-9223372036854775809", None);
        check("11111111111111111111111111", None);
        for refused in ["", "-", "+1", "-0", "00", "04", "-04", " 1", "1 ", "1a", "a", "--1", "1-", "\0"] {
            check(refused, None);
        }
    }

    #[test]
    fn lines() {
        fn check(line: &[u8], expected: Result<Option<Number>, Fault>) {
            assert_eq!(number(line, 30), expected, "{:?}", line.escape_ascii().to_string());
            let short = short_number(line).map(|(number, len)| (number as i64, len));
            assert!(short.is_none() || Ok(short) == expected, "{:?}", line.escape_ascii().to_string());
        }
        check(b"", Ok(None));
        check(b"1", Ok(None));
        check(b"1\r", Ok(None));
        check(b"1\r\n", Ok(Some((1, 3))));
        check(b"12\r\n$", Ok(Some((12, 4))));
        check(b"01\r\n", Err(Fault::NotANumber));
        check(b"123\r\n$", Ok(Some((123, 5))));
        check(b"-1\r\n$", Ok(Some((-1, 4))));
        check(b"x", Ok(None));
        check(b"x\r", Ok(None));
        check(b"x\r\n", Err(Fault::NotANumber));
        check(b"1\n\r\n", Err(Fault::NotANumber));
        check(b"1\rx", Err(Fault::InvalidCrlf));
        check(b"1\r\r\n", Err(Fault::InvalidCrlf));
        check(&[b'1'; 29], Ok(None));
        check(&[b'1'; 30], Err(Fault::TooLong));
        check(b"111111111111111111111111111111\r\n", Err(Fault::TooLong));
    }
}
