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
    /// Takes the bytes behind those used so far, up to the end of the current reply at most.
    ///
    /// A line that is cut is not used: it is to be given again with more. A bulk is used as it comes.
    ///
    /// # Errors
    /// If the bytes are no RESP; the scanner is of no more use then.
    pub fn advance(&mut self, buf: &[u8]) -> Result<Progress, ReplyError> {
        let at_start = self.at_start();
        let mut used = if self.bulk_left > 0 { self.advance_bulk(buf)? } else { 0 };
        let mut left = if at_start { 1 } else { self.values_left };
        while left > 0 && self.bulk_left == 0 {
            let rest = &buf[used..];
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
                    left = (left - u64::from(!extra)).checked_add(count).ok_or(ReplyError::InvalidLength)?;
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
    values_len(buf, 1)
}

/// The length of the first `count` values in `buf`; `None` if there are fewer.
pub(super) fn values_len(buf: &[u8], count: u64) -> Option<usize> {
    if count == 0 {
        return Some(0);
    }
    let mut scanner = ReplyScanner { values_left: count, bulk_left: 0 };
    match scanner.advance(buf) {
        Ok(Progress { used, done: true }) => Some(used),
        _ => None,
    }
}

/// What begins at the start of `rest`.
#[inline]
fn value(rest: &[u8]) -> Result<Value, ReplyError> {
    let Some((&kind, line)) = rest.split_first() else {
        return Ok(Value::Cut);
    };
    match kind {
        b'$' | b'*' => {
            if let Some((count, head)) = header::short_number(line) {
                return Ok(match kind {
                    b'$' => Value::Bulk(1 + head, count as u64),
                    _ => Value::Aggregate(1 + head, count as u64, false),
                });
            }
            sized(kind, line)
        }
        b'=' | b'!' | b'%' | b'~' | b'>' | b'|' => sized(kind, line),
        b'+' | b'-' => whole_line(line, TEXT_LEN_MAX),
        b':' | b'_' | b',' | b'#' | b'(' => whole_line(line, LINE_LEN_MAX),
        _ => Err(ReplyError::UnknownType(kind)),
    }
}

/// A value that begins with a length.
fn sized(kind: u8, line: &[u8]) -> Result<Value, ReplyError> {
    let number = header::number(line, LINE_LEN_MAX).map_err(|fault| match fault {
        Fault::NotANumber => ReplyError::InvalidLength,
        Fault::InvalidCrlf => ReplyError::InvalidCrlf,
        Fault::TooLong => ReplyError::LineTooLong,
    })?;
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
    let mut searched = 0;
    while let Some(found) = memchr::memchr(b'\r', &line[searched..]) {
        searched += found + 1;
        match line.get(searched) {
            Some(b'\n') if searched > len_max => return Err(ReplyError::LineTooLong),
            Some(b'\n') => return Ok(Value::Whole(1 + searched + 1)),
            _ => {}
        }
    }
    if line.len() > len_max { Err(ReplyError::LineTooLong) } else { Ok(Value::Cut) }
}
