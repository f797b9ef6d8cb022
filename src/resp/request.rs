//! Where a client's request ends, and where its arguments lie.

use super::error::ProtocolError;
use super::header::{self, Fault};
use super::inline::is_blank_line;
use super::limits::Limits;

/// One argument's place in its frame, in bytes from the frame's start. Frames are shorter than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    /// The argument's bytes. Panics if `frame` is not (at least the start of) the frame it was found in.
    #[inline]
    pub fn of<'a>(self, frame: &'a [u8]) -> &'a [u8] {
        &frame[self.start as usize..self.end()]
    }

    /// The offset behind the argument's last byte.
    #[inline]
    pub fn end(self) -> usize {
        self.start as usize + self.len as usize
    }
}

/// What stands at the start of a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// `buf[..len]` is one whole multibulk request and `spans` holds one span per argument, at least one.
    Request { len: usize },
    /// `buf[..len]` is one line with its newline, to be taken apart by [`split_inline`](super::split_inline).
    Inline { len: usize },
    /// `buf[..len]` asks for nothing (`*0`, `*-1`, a blank line) and gets no reply.
    Skip { len: usize },
    /// The request is unfinished. Scanning again cannot say more before there are `need` bytes, which is
    /// always more than there were.
    More { need: usize },
}

/// Finds the requests in one client's stream.
///
/// After [`Scanned::More`] the next call must be given the same bytes and more; the scan goes on at the
/// argument that was cut. After any other answer it starts anew. After an error it is of no more use.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestScanner {
    /// How much of the unfinished request is known: up to an argument's header, or searched for a newline.
    at: u32,
    /// Arguments from `at` on that are still to be found; 0 unless in the middle of a multibulk request.
    arguments_left: u32,
}

impl RequestScanner {
    /// Scans the request at the start of `buf`. `spans` is cleared, and filled on [`Scanned::Request`] only.
    ///
    /// # Errors
    /// As soon as the faulty header is whole, as the servers do, and not before.
    #[inline]
    pub fn scan(&mut self, buf: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Result<Scanned, ProtocolError> {
        spans.clear();
        if self.arguments_left > 0 {
            return self.resume(buf, spans, limits);
        }
        let Some((b'*', line)) = buf.split_first() else {
            return self.scan_line(buf, limits);
        };
        let (count, head) = match header::short_number(line) {
            Some(short) => short,
            None => match header::number(line, limits.inline_len_max).map_err(multibulk_fault)? {
                None => return more(buf.len() + 1, limits),
                Some((count, head)) if count <= 0 => return Ok(Scanned::Skip { len: 1 + head }),
                // A count beyond usize is beyond any limit.
                Some((count, head)) => (usize::try_from(count).unwrap_or(usize::MAX), head),
            },
        };
        if count == 0 {
            return Ok(Scanned::Skip { len: 1 + head });
        }
        let arguments = check_count(count, limits)?;
        match scan_arguments(buf, 1 + head, arguments, spans, limits)? {
            Arguments::Whole { len } => Ok(Scanned::Request { len }),
            Arguments::Cut { at, left, need } => self.pause(at, left, need, limits),
        }
    }

    /// Goes on with a cut multibulk request; once it is whole, one last pass collects its spans.
    #[cold]
    fn resume(&mut self, buf: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Result<Scanned, ProtocolError> {
        match scan_arguments(buf, self.at as usize, self.arguments_left, spans, limits)? {
            Arguments::Cut { at, left, need } => {
                spans.clear();
                self.pause(at, left, need, limits)
            }
            Arguments::Whole { len } => {
                *self = Self::default();
                spans.clear();
                self.scan(&buf[..len], spans, limits)
            }
        }
    }

    #[cold]
    fn pause(&mut self, at: usize, left: u32, need: usize, limits: &Limits) -> Result<Scanned, ProtocolError> {
        let more = more(need, limits)?;
        // `at` lies before `need`, which `more` has found to fit into 32 bits.
        self.at = at as u32;
        self.arguments_left = left;
        Ok(more)
    }

    /// Anything that does not begin with `*` is a line of words.
    #[cold]
    fn scan_line(&mut self, buf: &[u8], limits: &Limits) -> Result<Scanned, ProtocolError> {
        let searched = self.at as usize;
        let unsearched = buf.get(searched..).unwrap_or_default();
        // The servers do not see past a NUL: they wait for a newline until the line is too long.
        let end = memchr::memchr2(b'\n', 0, unsearched).map(|found| searched + found);
        match end {
            Some(newline) if buf[newline] == b'\n' => {
                if newline > limits.inline_len_max {
                    return Err(ProtocolError::TooBigInline);
                }
                self.at = 0;
                let len = newline + 1;
                Ok(if is_blank_line(&buf[..len]) { Scanned::Skip { len } } else { Scanned::Inline { len } })
            }
            _ if buf.len() > limits.inline_len_max => Err(ProtocolError::TooBigInline),
            Some(_) => more(limits.inline_len_max + 1, limits),
            None => {
                let more = more(buf.len() + 1, limits)?;
                // `more` has found that this and one byte fit into 32 bits.
                self.at = buf.len() as u32;
                Ok(more)
            }
        }
    }
}

/// How a run over arguments ended.
enum Arguments {
    Whole {
        len: usize,
    },
    /// The argument whose header is at `at` is unfinished; `left` counts it.
    Cut {
        at: usize,
        left: u32,
        need: usize,
    },
}

/// Runs over `left` arguments from `at` on, and appends their spans.
#[inline]
fn scan_arguments(
    buf: &[u8],
    mut at: usize,
    mut left: u32,
    spans: &mut Vec<Span>,
    limits: &Limits,
) -> Result<Arguments, ProtocolError> {
    let len_max = limits.bulk_len_max;
    while left > 0 {
        let rest = buf.get(at..).unwrap_or_default();
        let short = match rest {
            [b'$', line @ ..] => header::short_number(line),
            _ => None,
        };
        let (len, head) = match short {
            Some(short) if short.0 <= len_max => short,
            _ => match long_header(rest, limits)? {
                Some(long) => long,
                None => return Ok(Arguments::Cut { at, left, need: buf.len() + 1 }),
            },
        };
        let start = at + 1 + head;
        // `len` is at most `bulk_len_max`; saturation makes an absurd limit end in `QueryBuffer`.
        let end = start.saturating_add(len);
        match buf.get(end..end.saturating_add(2)) {
            Some(b"\r\n") => {}
            Some(_) => return Err(ProtocolError::InvalidCrlf),
            None => return Ok(Arguments::Cut { at, left, need: end.saturating_add(2) }),
        }
        // Exact: `more` lets no frame grow beyond 32 bits.
        spans.push(Span { start: start as u32, len: len as u32 });
        at = end + 2;
        left -= 1;
    }
    Ok(Arguments::Whole { len: at })
}

/// Any argument header: its length, and its own size without the `$`. `None`: it is cut.
#[inline(never)]
fn long_header(rest: &[u8], limits: &Limits) -> Result<Option<(usize, usize)>, ProtocolError> {
    let Some((&kind, line)) = rest.split_first() else {
        return Ok(None);
    };
    let number = header::number(line, limits.inline_len_max);
    // The servers look at the first byte only when they have the line.
    if kind != b'$' && !matches!(number, Ok(None) | Err(Fault::TooLong)) {
        return Err(ProtocolError::ExpectedDollar(kind));
    }
    let Some((len, head)) = number.map_err(bulk_fault)? else {
        return Ok(None);
    };
    let len = usize::try_from(len).map_err(|_| ProtocolError::InvalidBulkLength)?;
    if len > limits.bulk_len_max {
        return Err(ProtocolError::InvalidBulkLength);
    }
    if !limits.authenticated && len > Limits::UNAUTHENTICATED_BULK_LEN_MAX {
        return Err(ProtocolError::UnauthenticatedBulkLength);
    }
    Ok(Some((len, head)))
}

#[inline]
fn check_count(count: usize, limits: &Limits) -> Result<u32, ProtocolError> {
    let arguments = u32::try_from(count).map_err(|_| ProtocolError::InvalidMultibulkLength)?;
    if count > limits.multibulk_len_max {
        return Err(ProtocolError::InvalidMultibulkLength);
    }
    if !limits.authenticated && count > Limits::UNAUTHENTICATED_MULTIBULK_LEN_MAX {
        return Err(ProtocolError::UnauthenticatedMultibulkLength);
    }
    Ok(arguments)
}

/// `More`, unless the request would then exceed what may be kept of it.
fn more(need: usize, limits: &Limits) -> Result<Scanned, ProtocolError> {
    if need > limits.query_buffer_max.min(u32::MAX as usize) {
        return Err(ProtocolError::QueryBuffer);
    }
    Ok(Scanned::More { need })
}

fn multibulk_fault(fault: Fault) -> ProtocolError {
    match fault {
        Fault::NotANumber => ProtocolError::InvalidMultibulkLength,
        Fault::InvalidCrlf => ProtocolError::InvalidCrlf,
        Fault::TooLong => ProtocolError::TooBigMultibulkCount,
    }
}

fn bulk_fault(fault: Fault) -> ProtocolError {
    match fault {
        Fault::NotANumber => ProtocolError::InvalidBulkLength,
        Fault::InvalidCrlf => ProtocolError::InvalidCrlf,
        Fault::TooLong => ProtocolError::TooBigBulkCount,
    }
}
