//! Where a server's reply ends.

use super::header::{self, Fault};

/// How far a call of [`ReplyScanner::advance`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `buf[..used]` belongs to the current reply.
    pub used: usize,
    /// The current reply ends at `used`.
    pub done: bool,
}

/// Why a server's stream cannot be read on: it speaks no RESP, or the stream was cut and glued. Its lane is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("a reply begins with the byte {:?}", char::from(*.0))]
    UnknownType(u8),
    #[error("a length in a reply is no number")]
    InvalidLength,
    #[error("a length or a value in a reply does not end in CR LF")]
    InvalidCrlf,
    #[error("a line in a reply is too long")]
    LineTooLong,
}

/// Finds the ends of the replies in one server's stream, keeping nothing of them.
///
/// All types of RESP2 and RESP3 are known but the streamed ones (`$?`, `*?`), which no server sends. An attribute
/// belongs to the value behind it. Scalars are only searched for their end: what they say is for
/// [`view`](super::view) to judge.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyScanner {
    /// Values that are still to begin before the reply is over. That an element belongs to an inner array or
    /// an outer one makes no difference to where the end is, so one count stands for any depth.
    values_left: u64,
    /// Bytes still to come of the bulk being read, with its CR LF.
    bulk_left: u64,
    /// A push may stand inside of a reply, and is none of its values.
    asides: bool,
}

/// Longest header, number, double and the like, in bytes: none comes near it, so a longer one is no RESP.
const LINE_LEN_MAX: usize = 64 * 1024;

/// Longest simple string or error, in bytes. It has to be held until its end is seen, but a script's error or
/// a MONITOR line may quote long arguments.
const TEXT_LEN_MAX: usize = 1024 * 1024;

/// A value that began.
enum Value {
    /// A whole value of this size without elements.
    Whole(usize),
    /// A header of this size, of a bulk of that many bytes.
    Bulk(usize, u64),
    /// A header of this size, of that many values; `true` if itself it is none (an attribute).
    Aggregate(usize, u64, bool),
    /// Its first line is cut.
    Cut,
}

impl ReplyScanner {
    /// For a connection that tracks keys at Redis 6.2, which tells of those that EXEC changes in the middle of EXEC's reply.
    pub fn with_asides() -> Self {
        ReplyScanner { asides: true, ..ReplyScanner::default() }
    }

    /// Takes the bytes behind those used so far, up to the end of the current reply at most.
    ///
    /// A line that is cut is not used: it is to be given again with more. A bulk is used as it comes.
    ///
    /// # Errors
    /// If the bytes are no RESP; the scanner is of no more use then.
    #[inline]
    pub fn advance(&mut self, buf: &[u8]) -> Result<Progress, ReplyError> {
        match short_reply_len(buf) {
            Some(used) if self.at_start() => Ok(Progress { used, done: true }),
            _ => self.advance_values(buf),
        }
    }

    /// As [`advance`](Self::advance), for replies of any shape.
    fn advance_values(&mut self, buf: &[u8]) -> Result<Progress, ReplyError> {
        let at_start = self.at_start();
        let mut used = if self.bulk_left > 0 { self.advance_bulk(buf)? } else { 0 };
        let mut left = if at_start { 1 } else { self.values_left };
        while left > 0 && self.bulk_left == 0 {
            let rest = &buf[used..];
            if let Some(len) = short_bulk_len(rest) {
                used += len;
                left -= 1;
                continue;
            }
            match value(rest)? {
                Value::Whole(len) => {
                    used += len;
                    left -= 1;
                }
                Value::Bulk(head, len) => {
                    self.bulk_left = len + 2;
                    left -= 1;
                    used += head;
                    used += self.advance_bulk(&buf[used..])?;
                }
                Value::Aggregate(head, count, extra) => {
                    used += head;
                    let aside = self.asides && rest[0] == b'>' && !(at_start && used == head);
                    left = (left - u64::from(!extra && !aside)).checked_add(count).ok_or(ReplyError::InvalidLength)?;
                }
                Value::Cut => break,
            }
        }
        // A reply of which nothing is used has not begun.
        if !at_start || used > 0 {
            self.values_left = left;
        }
        Ok(Progress { used, done: left == 0 && self.bulk_left == 0 })
    }

    /// Whether a push may stand inside of a reply.
    pub fn has_asides(&self) -> bool {
        self.asides
    }

    /// True between replies: nothing of the current one has been used.
    pub fn at_start(&self) -> bool {
        self.values_left == 0 && self.bulk_left == 0
    }

    /// Bytes still to come of the bulk being read, its CR LF among them; 0 if none is.
    pub fn bulk_left(&self) -> u64 {
        self.bulk_left
    }

    /// Uses what there is of the bulk being read.
    fn advance_bulk(&mut self, buf: &[u8]) -> Result<usize, ReplyError> {
        let used = usize::try_from(self.bulk_left).unwrap_or(usize::MAX).min(buf.len());
        let left = self.bulk_left - used as u64;
        // A wrong line end shows that the stream is out of step, before a reply reaches the wrong client.
        let line_end_ok = match (left, &buf[..used]) {
            (0, [.., b'\r', b'\n'] | [b'\n'] | []) => true,
            (1, [.., b'\r'] | []) => true,
            (0 | 1, _) => false,
            _ => true,
        };
        if !line_end_ok {
            return Err(ReplyError::InvalidCrlf);
        }
        self.bulk_left = left;
        Ok(used)
    }
}

/// The length of the first whole reply in `buf`; `None` if there is none, or no RESP.
pub fn first_reply_len(buf: &[u8]) -> Option<usize> {
    short_reply_len(buf).or_else(|| values_len(buf, 1))
}

/// The length of the first `count` values in `buf`; `None` if there are fewer.
pub(super) fn values_len(buf: &[u8], count: u64) -> Option<usize> {
    if count == 0 {
        return Some(0);
    }
    let mut scanner = ReplyScanner { values_left: count, ..ReplyScanner::default() };
    match scanner.advance_values(buf) {
        Ok(Progress { used, done: true }) => Some(used),
        _ => None,
    }
}

/// The size of the reply at the start of `buf` if it is whole, and neither an error nor a push.
#[inline(always)]
pub fn plain_reply_len(buf: &[u8]) -> Option<usize> {
    short_reply_len(buf).or_else(|| long_reply_len(buf))
}

/// As `plain_reply_len`, whatever the shape. An attribute may belong to either.
#[inline(never)]
fn long_reply_len(buf: &[u8]) -> Option<usize> {
    if matches!(buf.first()?, b'-' | b'>' | b'|') { None } else { values_len(buf, 1) }
}

/// The size of the reply at the start of `buf` if it is whole and of a shape that most have: a short bulk, alone or as the only
/// element, a null, a short integer, or `+OK`. Never that of an error or a push.
#[inline(always)]
fn short_reply_len(buf: &[u8]) -> Option<usize> {
    let short_bulk = short_bulk_len(buf);
    if short_bulk.is_some() {
        return short_bulk;
    }
    // Compared as numbers of four bytes, which a match over patterns is not.
    let head = *buf.first_chunk::<4>()?;
    if head == *b"*1\r\n" {
        let element = &buf[head.len()..];
        return Some(head.len() + short_bulk_len(element).or_else(|| null_len(element))?);
    }
    if head == *b"+OK\r" {
        return (buf.get(4) == Some(&b'\n')).then_some(5);
    }
    if head[0] == b':' { short_integer_len(buf) } else { null_len(buf) }
}

/// The size of the null at the start of `buf`, as RESP2 has it.
#[inline]
fn null_len(buf: &[u8]) -> Option<usize> {
    buf.starts_with(b"$-1\r\n").then_some(5)
}

/// The size of the integer at the start of `buf` if it is whole and short.
fn short_integer_len(buf: &[u8]) -> Option<usize> {
    let cr = buf.iter().take(header::SHORT_LINE_LEN).position(|byte| *byte == b'\r')?;
    (buf.get(cr + 1) == Some(&b'\n')).then_some(cr + 2)
}

/// The size of the value at the start of `rest` if it is a whole bulk of less than 1000 bytes, as most are.
#[inline(always)]
fn short_bulk_len(rest: &[u8]) -> Option<usize> {
    let Some([b'$', line @ ..]) = rest.first_chunk::<6>() else {
        return None;
    };
    let (len, head) = header::short_number(line)?;
    let end = 1 + head + len;
    (rest.get(end..end + 2)? == b"\r\n").then_some(end + 2)
}

/// What begins at the start of `rest`.
fn value(rest: &[u8]) -> Result<Value, ReplyError> {
    let Some((&kind, line)) = rest.split_first() else {
        return Ok(Value::Cut);
    };
    match kind {
        b'$' | b'*' | b'=' | b'!' | b'%' | b'~' | b'>' | b'|' => sized(kind, line),
        b'+' | b'-' => whole_line(line, TEXT_LEN_MAX),
        b':' | b'_' | b',' | b'#' | b'(' => whole_line(line, LINE_LEN_MAX),
        _ => Err(ReplyError::UnknownType(kind)),
    }
}

/// A value that begins with a length.
fn sized(kind: u8, line: &[u8]) -> Result<Value, ReplyError> {
    let short = line.first_chunk().and_then(header::short_number).map(|(count, head)| (count as i64, head));
    let number = match short {
        Some(_) => short,
        None => header::number(line, LINE_LEN_MAX).map_err(|fault| match fault {
            Fault::NotANumber => ReplyError::InvalidLength,
            Fault::InvalidCrlf => ReplyError::InvalidCrlf,
            Fault::TooLong => ReplyError::LineTooLong,
        })?,
    };
    let Some((count, head)) = number else {
        return Ok(Value::Cut);
    };
    if count == -1 && matches!(kind, b'$' | b'*') {
        return Ok(Value::Whole(1 + head));
    }
    let count = u64::try_from(count).map_err(|_| ReplyError::InvalidLength)?;
    // Twice an i64 fits into a u64, and so does one and a line end.
    Ok(match kind {
        b'$' | b'=' | b'!' => Value::Bulk(1 + head, count),
        b'%' => Value::Aggregate(1 + head, 2 * count, false),
        b'|' => Value::Aggregate(1 + head, 2 * count, true),
        _ => Value::Aggregate(1 + head, count, false),
    })
}

/// A value of one line.
fn whole_line(line: &[u8], len_max: usize) -> Result<Value, ReplyError> {
    let short = line.iter().take(header::SHORT_LINE_LEN).position(|byte| *byte == b'\r');
    if let Some(cr) = short
        && line.get(cr + 1) == Some(&b'\n')
    {
        return Ok(Value::Whole(cr + 3));
    }
    let mut searched = 0;
    while let Some(found) = memchr::memchr(b'\r', &line[searched..]) {
        searched += found + 1;
        match line.get(searched) {
            Some(b'\n') if searched > len_max => return Err(ReplyError::LineTooLong),
            Some(b'\n') => return Ok(Value::Whole(searched + 2)),
            _ => {}
        }
    }
    if line.len() > len_max { Err(ReplyError::LineTooLong) } else { Ok(Value::Cut) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_push_inside_of_a_reply_is_none_of_its_values_where_that_may_be() {
        let stream = b"*2\r\n>2\r\n+invalidate\r\n*1\r\n+a\r\n+OK\r\n:1\r\n";
        for cut in 0..stream.len() {
            let mut scanner = ReplyScanner::with_asides();
            let used = scanner.advance(&stream[..cut]).expect("it is RESP").used;
            let progress = scanner.advance(&stream[used..]).expect("it is RESP");
            assert_eq!((used + progress.used, progress.done), (stream.len(), true), "cut at {cut}");
        }
        let push = b">2\r\n+invalidate\r\n*1\r\n+a\r\n";
        let progress = ReplyScanner::with_asides().advance(push).expect("it is RESP");
        assert_eq!((progress.used, progress.done), (push.len(), true), "by itself it is one");
    }

    /// The lengths of the replies in `stream`, which arrives up to each of `cuts` (rising) and to its end, and how
    /// many bytes of another reply were used after them.
    pub(in crate::resp) fn read(stream: &[u8], cuts: &[usize]) -> Result<(Vec<usize>, usize), ReplyError> {
        let mut scanner = ReplyScanner::default();
        let mut lens = Vec::new();
        let mut used = 0;
        let mut start = 0;
        for &arrived in cuts.iter().chain([&stream.len()]) {
            loop {
                let left = scanner.bulk_left();
                let progress = scanner.advance(&stream[used..arrived])?;
                used += progress.used;
                assert!(left == 0 || progress.used > 0 || used == arrived, "a bulk is used as it comes");
                assert_eq!(scanner.at_start(), progress.done || used == start, "at_start");
                if !progress.done {
                    assert!(scanner.bulk_left() == 0 || used == arrived, "a bulk is used as it comes");
                    break;
                }
                assert_eq!(scanner.bulk_left(), 0);
                lens.push(used - start);
                start = used;
            }
        }
        Ok((lens, used - start))
    }

    /// Checks how `stream` is divided: whole, cut once at every byte, and byte by byte.
    fn check(stream: &[u8], expected: Result<(Vec<usize>, usize), ReplyError>) {
        let name = stream[..stream.len().min(80)].escape_ascii().to_string();
        assert_eq!(read(stream, &[]), expected, "{name}");
        let step = stream.len() / 2000 + 1;
        for cut in (0..stream.len()).step_by(step) {
            assert_eq!(read(stream, &[cut]), expected, "{name} cut at {cut}");
        }
        let every: Vec<usize> = (0..stream.len()).step_by(step).collect();
        assert_eq!(read(stream, &every), expected, "{name} byte by byte");
        let first = expected.ok().and_then(|(lens, _)| lens.first().copied());
        assert_eq!(first_reply_len(stream).filter(|_| first.is_some()), first, "{name}");
    }

    #[test]
    fn whole() {
        for reply in [
            "+OK\r\n",
            "+\r\n",
            "+a\rb\nc\r\n",
            "-ERR no such key\r\n",
            ":0\r\n",
            ":-12\r\n",
            "$0\r\n\r\n",
            "$-1\r\n",
            "$5\r\na\r\nb\n\r\n",
            "$12\r\nabcdefghijkl\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*2\r\n$1\r\na\r\n:1\r\n",
            "*2\r\n*2\r\n:1\r\n*0\r\n*1\r\n*1\r\n$-1\r\n",
            "*3\r\n$-1\r\n*-1\r\n_\r\n",
            "_\r\n",
            "#t\r\n",
            "#f\r\n",
            ",1.5\r\n",
            ",-inf\r\n",
            "(3492890328409238509324850943850943825024385\r\n",
            "!21\r\nSYNTAX invalid syntax\r\n",
            "=15\r\ntxt:Some string\r\n",
            "%0\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
            "~2\r\n+a\r\n+b\r\n",
            ">3\r\n+message\r\n+ch\r\n$2\r\nhi\r\n",
            "|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n",
            "|1\r\n+a\r\n:1\r\n|0\r\n*2\r\n|1\r\n+b\r\n|1\r\n+c\r\n:1\r\n:2\r\n:3\r\n:4\r\n",
            "%1\r\n|1\r\n+a\r\n:1\r\n+key\r\n+value\r\n",
        ] {
            check(reply.as_bytes(), Ok((vec![reply.len()], 0)));
            check(format!("{reply}{reply}").as_bytes(), Ok((vec![reply.len(); 2], 0)));
        }
        let array = [&b"*100\r\n"[..], b"$100\r\n", &[b'x'; 100], b"\r\n", &b"$-1\r\n".repeat(99)].concat();
        check(&array, Ok((vec![array.len()], 0)));
        let deep = [b"*1\r\n".repeat(1000), b":1\r\n".to_vec()].concat();
        check(&deep, Ok((vec![deep.len()], 0)));
    }

    #[test]
    fn cut() {
        check(b"", Ok((vec![], 0)));
        check(b"+OK", Ok((vec![], 0)));
        check(b"+OK\r", Ok((vec![], 0)));
        check(b":1\r\n+O", Ok((vec![4], 0)));
        check(b"$3", Ok((vec![], 0)));
        check(b"$3\r\n", Ok((vec![], 4)));
        check(b"$3\r\nab", Ok((vec![], 6)));
        check(b"$3\r\nabc\r", Ok((vec![], 8)));
        check(b"*2\r\n:1\r\n:", Ok((vec![], 8)));
        check(b"|1\r\n+a\r\n:1\r\n", Ok((vec![], 12)));
        check(b"$9223372036854775807\r\na", Ok((vec![], 23)));
        check(b"*9223372036854775807\r\n:1\r\n", Ok((vec![], 26)));
    }

    #[test]
    fn bulk_left_counts_the_line_end() {
        let mut scanner = ReplyScanner::default();
        for (arrived, used, left) in [(&b"$10\r\nabc"[..], 8, 9), (b"", 0, 9), (b"defghij", 7, 2), (b"\r", 1, 1), (b"\n+", 1, 0)]
        {
            let progress = scanner.advance(arrived);
            assert_eq!(progress, Ok(Progress { used, done: left == 0 }));
            assert_eq!(scanner.bulk_left(), left);
        }
    }

    #[test]
    fn faults() {
        for len in ["", "x", "+1", "01", "-2", "?", "1 ", "9223372036854775808"] {
            check(format!("${len}\r\n").as_bytes(), Err(ReplyError::InvalidLength));
            check(format!("*1\r\n*{len}\r\n").as_bytes(), Err(ReplyError::InvalidLength));
        }
        for kind in ["=", "!", "%", "~", ">", "|"] {
            check(format!("{kind}-1\r\n").as_bytes(), Err(ReplyError::InvalidLength));
        }
        check(b"*9223372036854775807\r\n%9223372036854775807\r\n", Err(ReplyError::InvalidLength));
        check(b"$1\r\naX", Err(ReplyError::InvalidCrlf));
        check(b"$1\r\nabc", Err(ReplyError::InvalidCrlf));
        check(b"$1\r\na\rc", Err(ReplyError::InvalidCrlf));
        check(b"$1\rX", Err(ReplyError::InvalidCrlf));
        check(b"PONG\r\n", Err(ReplyError::UnknownType(b'P')));
        check(b"+OK\r\n\r\n", Err(ReplyError::UnknownType(b'\r')));
        check(b"*1\r\n;4\r\n", Err(ReplyError::UnknownType(b';')));
    }

    #[test]
    fn too_long() {
        let line = |kind: u8, len: usize, tail: &[u8]| [&[kind], &vec![b'1'; len - 1][..], tail].concat();
        for (kind, len_max) in [(b'+', TEXT_LEN_MAX), (b'-', TEXT_LEN_MAX), (b':', LINE_LEN_MAX), (b'(', LINE_LEN_MAX)] {
            check(&line(kind, len_max, b"\r\n"), Ok((vec![len_max + 2], 0)));
            check(&line(kind, len_max + 1, b"\r\n"), Err(ReplyError::LineTooLong));
            check(&line(kind, len_max + 2, b""), Err(ReplyError::LineTooLong));
        }
        check(&line(b'$', LINE_LEN_MAX, b""), Ok((vec![], 0)));
        check(&line(b'$', LINE_LEN_MAX + 1, b""), Err(ReplyError::LineTooLong));
    }
}
