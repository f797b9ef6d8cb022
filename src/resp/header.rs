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

/// Reads up to three digits and CR LF from the bytes behind the type byte: nearly every header there is, in a
/// few instructions. `None` says to ask [`number`].
///
/// The fixed size leaves one check of bounds to the caller. It is no loss: the shortest whole argument
/// (`$0\r\n\r\n`) has that many bytes behind its `$`.
#[inline(always)]
pub(super) fn short_number(line: &[u8; 5]) -> Option<(usize, usize)> {
    let digit = |at: usize| Some(usize::from(line[at].wrapping_sub(b'0'))).filter(|digit| *digit <= 9);
    let hundreds = digit(0)?;
    if line[1..3] == *b"\r\n" {
        return Some((hundreds, 3));
    }
    if hundreds == 0 {
        return None;
    }
    let tens = hundreds * 10 + digit(1)?;
    if line[2..4] == *b"\r\n" {
        return Some((tens, 4));
    }
    let ones = tens * 10 + digit(2)?;
    if line[3..5] == *b"\r\n" { Some((ones, 5)) } else { None }
}

/// Reads the number and CR LF at the start of `line`, the bytes behind the type byte. `None`: the line is cut.
///
/// Nothing is judged before the whole line is there, so the answer does not depend on where it is cut.
pub(super) fn number(line: &[u8], line_len_max: usize) -> Result<Option<Number>, Fault> {
    // What does not begin with digits and CR within these bytes is cut, negative or faulty.
    let cr = line.iter().take(SHORT_LINE_LEN).position(|byte| !byte.is_ascii_digit());
    let cr = match cr {
        Some(cr) if line[cr] == b'\r' => Some(cr),
        _ => memchr::memchr(b'\r', line),
    };
    let Some(cr) = cr else {
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

/// Where a search by hand is given up for one that is fast on long lines but slow to begin.
pub(super) const SHORT_LINE_LEN: usize = 12;

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
            let short = line.first_chunk().and_then(short_number).map(|(number, len)| (number as i64, len));
            assert!(short.is_none() || Ok(short) == expected, "{:?}", line.escape_ascii().to_string());
        }
        check(b"", Ok(None));
        check(b"1", Ok(None));
        check(b"1\r", Ok(None));
        check(b"1\r\n", Ok(Some((1, 3))));
        check(b"12\r\n$", Ok(Some((12, 4))));
        check(b"01\r\n", Err(Fault::NotANumber));
        check(b"0\r\n\r\n", Ok(Some((0, 3))));
        check(b"00\r\n$", Err(Fault::NotANumber));
        check(b"010\r\n", Err(Fault::NotANumber));
        check(b":1\r\n$", Err(Fault::NotANumber));
        check(b"1/\r\n$", Err(Fault::NotANumber));
        check(b"12x\r\n", Err(Fault::NotANumber));
        check(b"123\r\n$", Ok(Some((123, 5))));
        check(b"1234\r\n$", Ok(Some((1234, 6))));
        check(b"536870912\r\n", Ok(Some((536870912, 11))));
        check(b"9223372036854775807\r\n", Ok(Some((i64::MAX, 21))));
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
