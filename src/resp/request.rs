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
    pub fn of(self, frame: &[u8]) -> &[u8] {
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
    /// Scans the request at the start of `buf`. `spans` is filled on [`Scanned::Request`], and of no meaning otherwise.
    ///
    /// # Errors
    /// As soon as the faulty header is whole, as the servers do, and not before.
    pub fn scan(&mut self, buf: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Result<Scanned, ProtocolError> {
        if self.arguments_left == 0
            && let Some(len) = short_request(buf, spans, limits)
        {
            return Ok(Scanned::Request { len });
        }
        self.scan_any(buf, spans, limits)
    }

    /// Whether the next bytes are the beginning of a request, as far as it knows.
    #[inline]
    pub fn is_between(&self) -> bool {
        self.arguments_left == 0
    }

    /// As `scan`, for what is not short, or not whole, or no request.
    #[inline(never)]
    fn scan_any(&mut self, buf: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Result<Scanned, ProtocolError> {
        spans.clear();
        if self.arguments_left > 0 {
            return self.resume(buf, spans, limits);
        }
        let Some((b'*', line)) = buf.split_first() else {
            return self.scan_line(buf, limits);
        };
        let (count, head) = match line.first_chunk().and_then(header::short_number) {
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
#[inline(always)]
fn scan_arguments(
    buf: &[u8],
    at: usize,
    mut left: u32,
    spans: &mut Vec<Span>,
    limits: &Limits,
) -> Result<Arguments, ProtocolError> {
    let mut rest = buf.get(at..).unwrap_or_default();
    while left > 0 {
        let at = buf.len() - rest.len();
        let (head, len) = match short_argument(rest) {
            Some((head, len)) if len <= limits.bulk_len_max => (head, len),
            _ => match long_argument(rest, limits)? {
                Argument::Whole { head, len } => (head, len),
                Argument::Cut { need } => return Ok(Arguments::Cut { at, left, need: at.saturating_add(need) }),
            },
        };
        // Exact: `more` lets no frame grow beyond 32 bits.
        spans.push(Span { start: (at + head) as u32, len: len as u32 });
        rest = &rest[head + len + 2..];
        left -= 1;
    }
    Ok(Arguments::Whole { len: buf.len() - rest.len() })
}

/// Walks over a whole request of short arguments, as nearly all requests are, without noting where they lie. `None` from any of its
/// functions says that it may be something else, which a [`RequestScanner`] between two requests can tell.
pub struct ShortRequest<'a> {
    buf: &'a [u8],
    rest: &'a [u8],
    left: usize,
}

impl<'a> ShortRequest<'a> {
    /// The request at the start of `buf`. Its header announces no more arguments than the bytes behind it can hold.
    #[inline(always)]
    pub fn begin(buf: &'a [u8], limits: &Limits) -> Option<Self> {
        let Some([b'*', line @ ..]) = buf.first_chunk::<6>() else {
            return None;
        };
        let (left, line_len) = header::short_number(line)?;
        let rest = &buf[1 + line_len..];
        let may_be = left > 0 && left * SHORTEST_ARGUMENT <= rest.len() && limits.allow_short_arguments(left);
        may_be.then_some(ShortRequest { buf, rest, left })
    }

    /// The next argument.
    #[inline(always)]
    pub fn argument(&mut self) -> Option<&'a [u8]> {
        let (head, len) = short_argument(self.rest).filter(|_| self.left > 0)?;
        let (argument, rest) = self.rest.split_at(head + len + 2);
        (self.rest, self.left) = (rest, self.left - 1);
        Some(&argument[head..head + len])
    }

    /// The size of the request; what is left of it is walked over.
    #[inline(always)]
    pub fn end(mut self) -> Option<usize> {
        while self.left > 0 {
            let (head, len) = short_argument(self.rest)?;
            (self.rest, self.left) = (&self.rest[head + len + 2..], self.left - 1);
        }
        Some(self.buf.len() - self.rest.len())
    }
}

/// As [`ShortRequest`], and notes where the arguments lie. Nothing is done twice for requests of as many arguments as the one before.
#[inline(always)]
fn short_request(buf: &[u8], spans: &mut Vec<Span>, limits: &Limits) -> Option<usize> {
    let ShortRequest { mut rest, left, .. } = ShortRequest::begin(buf, limits)?;
    spans.resize(left, Span::default());
    for span in spans.iter_mut() {
        let start = buf.len() - rest.len();
        let (head, len) = short_argument(rest)?;
        // Exact: a thousand arguments of a thousand bytes fit.
        *span = Span { start: (start + head) as u32, len: len as u32 };
        rest = &rest[head + len + 2..];
    }
    Some(buf.len() - rest.len())
}

/// Bytes of `$0` and two line ends.
const SHORTEST_ARGUMENT: usize = 6;

/// The sizes of header and body of the argument at the start of `rest`, if it is whole and shorter than 1000
/// bytes, as nearly all are. [`long_argument`] would find it too, in some 10 ns more (`benches/scan.rs`).
#[inline(always)]
fn short_argument(rest: &[u8]) -> Option<(usize, usize)> {
    let Some([b'$', line @ ..]) = rest.first_chunk::<6>() else {
        return None;
    };
    let (len, line_len) = header::short_number(line)?;
    let end = 1 + line_len + len;
    (rest.get(end..end + 2)? == b"\r\n").then_some((1 + line_len, len))
}

/// One argument, by the sizes of its header and its body.
enum Argument {
    Whole {
        head: usize,
        len: usize,
    },
    /// From its start on so many bytes would say more.
    Cut {
        need: usize,
    },
}

/// Any argument at the start of `rest`.
#[inline(never)]
fn long_argument(rest: &[u8], limits: &Limits) -> Result<Argument, ProtocolError> {
    let Some((head, len)) = bulk_header(rest, limits)? else {
        return Ok(Argument::Cut { need: rest.len() + 1 });
    };
    // `len` is at most `bulk_len_max`; saturation makes an absurd limit end in `QueryBuffer`.
    let end = head.saturating_add(len);
    match rest.get(end..end.saturating_add(2)) {
        Some(b"\r\n") => Ok(Argument::Whole { head, len }),
        Some(_) => Err(ProtocolError::InvalidCrlf),
        None => Ok(Argument::Cut { need: end.saturating_add(2) }),
    }
}

/// The size of the argument header at the start of `rest`, and the length it announces. `None`: it is cut.
fn bulk_header(rest: &[u8], limits: &Limits) -> Result<Option<(usize, usize)>, ProtocolError> {
    let Some((&kind, line)) = rest.split_first() else {
        return Ok(None);
    };
    let number = header::number(line, limits.inline_len_max);
    if kind != b'$' {
        // The servers look at the first byte only when they have the line.
        return match number {
            Ok(None) if kind != b'\r' || line.is_empty() => Ok(None),
            Err(Fault::TooLong) if kind != b'\r' => Err(ProtocolError::TooBigBulkCount),
            _ => Err(ProtocolError::ExpectedDollar(kind)),
        };
    }
    let Some((len, line_len)) = number.map_err(bulk_fault)? else {
        return Ok(None);
    };
    let len = usize::try_from(len).map_err(|_| ProtocolError::InvalidBulkLength)?;
    if len > limits.bulk_len_max {
        return Err(ProtocolError::InvalidBulkLength);
    }
    if !limits.authenticated && len > Limits::UNAUTHENTICATED_BULK_LEN_MAX {
        return Err(ProtocolError::UnauthenticatedBulkLength);
    }
    Ok(Some((1 + line_len, len)))
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a client's stream is read as.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(in crate::resp) enum Event {
        Request(Vec<Vec<u8>>),
        Inline(Vec<u8>),
        Skip,
        /// The end: an unfinished request, and how many bytes would say more.
        More(usize),
        Error(ProtocolError),
    }

    /// What [`ShortRequest`] finds at the start of `buf`: its arguments and its length. It has to find no more than the scanner, and the same
    /// when it goes to the end at once.
    fn walk(buf: &[u8], limits: &Limits) -> Option<(Vec<Vec<u8>>, usize)> {
        let begin = || ShortRequest::begin(buf, limits);
        let (at_once, mut request) = (begin().and_then(ShortRequest::end), begin()?);
        let mut arguments = Vec::new();
        while let Some(argument) = request.argument() {
            arguments.push(argument.to_vec());
        }
        let end = request.end();
        assert_eq!(end, at_once);
        Some((arguments, end?))
    }

    /// Reads `stream` as it arrives, each arrival ending at one of `cuts` (rising) or at its end.
    pub(in crate::resp) fn read(stream: &[u8], cuts: &[usize], limits: &Limits) -> Vec<Event> {
        let mut scanner = RequestScanner::default();
        let mut spans = vec![Span::default(); 3];
        let mut events = Vec::new();
        let mut used = 0;
        let mut need = 0;
        for &arrived in cuts.iter().chain([&stream.len()]) {
            loop {
                let buf = &stream[used..arrived];
                match scanner.scan(buf, &mut spans, limits) {
                    Ok(Scanned::More { need: more }) => {
                        assert!(more > buf.len(), "more than there is");
                        assert_eq!(walk(buf, limits), None, "what is short is whole");
                        need = more;
                        break;
                    }
                    answer => {
                        if let Some((_, len)) = walk(buf, limits) {
                            assert_eq!(answer, Ok(Scanned::Request { len }), "what is short is a request");
                        }
                        assert!(buf.len() >= need, "an answer before the bytes it was said to need: {answer:?}");
                        need = 0;
                        match answer {
                            Ok(Scanned::Request { len }) => {
                                let arguments: Vec<Vec<u8>> = spans.iter().map(|span| span.of(&buf[..len]).to_vec()).collect();
                                assert!(walk(buf, limits).is_none_or(|walked| walked == (arguments.clone(), len)));
                                events.push(Event::Request(arguments));
                                used += len;
                            }
                            Ok(Scanned::Inline { len }) => {
                                events.push(Event::Inline(buf[..len].to_vec()));
                                used += len;
                            }
                            Ok(Scanned::Skip { len }) => {
                                events.push(Event::Skip);
                                used += len;
                            }
                            Ok(Scanned::More { .. }) => unreachable!("handled above"),
                            Err(error) => {
                                events.push(Event::Error(error));
                                return events;
                            }
                        }
                    }
                }
            }
        }
        events.push(Event::More(need));
        events
    }

    /// Checks what `stream` is read as: whole, cut once at every byte, and byte by byte.
    fn check_within(limits: &Limits, stream: &[u8], expected: &[Event]) {
        let name = stream[..stream.len().min(80)].escape_ascii().to_string();
        assert_eq!(read(stream, &[], limits), expected, "{name}");
        let step = stream.len() / 2000 + 1;
        for cut in (0..stream.len()).step_by(step) {
            assert_eq!(read(stream, &[cut], limits), expected, "{name} cut at {cut}");
        }
        let every: Vec<usize> = (0..stream.len()).step_by(step).collect();
        assert_eq!(read(stream, &every, limits), expected, "{name} byte by byte");
    }

    fn check(stream: &[u8], expected: &[Event]) {
        check_within(&Limits::default(), stream, expected);
    }

    fn request(arguments: &[&[u8]]) -> Event {
        Event::Request(arguments.iter().map(|argument| argument.to_vec()).collect())
    }

    fn inline(line: &[u8]) -> Event {
        Event::Inline(line.to_vec())
    }

    use Event::{Error, More, Skip};

    #[test]
    fn multibulk() {
        check(b"", &[More(1)]);
        check(b"*", &[More(2)]);
        check(b"*1\r", &[More(4)]);
        check(b"*1\r\n", &[More(5)]);
        check(b"*1\r\n$4\r", &[More(8)]);
        check(b"*1\r\n$4\r\n", &[More(14)]);
        check(b"*1\r\n$4\r\nPING\r", &[More(14)]);
        check(b"*1\r\n$4\r\nPING\r\n", &[request(&[b"PING"]), More(1)]);
        check(b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n", &[request(&[b"GET", b"key:1"]), More(1)]);
        check(b"*1\r\n$0\r\n\r\n", &[request(&[b""]), More(1)]);
        check(b"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\0\n\r\n*1", &[request(&[b"ECHO", b"\r\n\0\n"]), More(3)]);
        let long = [b'x'; 1234];
        let stream = [b"*2\r\n$4\r\nECHO\r\n$1234\r\n", &long[..], b"\r\n*1\r\n$4\r\nPING\r\n"].concat();
        check(&stream, &[request(&[b"ECHO", &long]), request(&[b"PING"]), More(1)]);
        let stream = [&b"*120\r\n"[..], &b"$1\r\na\r\n".repeat(120)].concat();
        check(&stream, &[request(&[&b"a"[..]; 120]), More(1)]);
    }

    #[test]
    fn skipped() {
        for count in ["0", "-1", "-9223372036854775808"] {
            check(format!("*{count}\r\nPING\r\n").as_bytes(), &[Skip, inline(b"PING\r\n"), More(1)]);
        }
        for blank in [&b"\n"[..], b"\r\n", b" \t\r\n", b"\r\r\n", b"\x0b\x0c \n"] {
            check(&[blank, b"*1\r\n$1\r\na\r\n"].concat(), &[Skip, request(&[b"a"]), More(1)]);
        }
    }

    #[test]
    fn lines() {
        check(b"P", &[More(2)]);
        check(b"PING\r", &[More(6)]);
        check(b"PING\n", &[inline(b"PING\n"), More(1)]);
        check(b"PING\r\nGET a\n*1\r\n$1\r\na\r\n$", &[inline(b"PING\r\n"), inline(b"GET a\n"), request(&[b"a"]), More(2)]);
        check(b"\x80\r\n", &[inline(b"\x80\r\n"), More(1)]);
        check(b"POST / HTTP/1.1\r\n", &[inline(b"POST / HTTP/1.1\r\n"), More(1)]);
        // The servers wait behind a NUL for a newline they never see.
        check(b"PI\0NG\r\nPING\r\n", &[More(64 * 1024 + 1)]);
        check(b"\0", &[More(64 * 1024 + 1)]);
    }

    #[test]
    fn faults() {
        for count in ["", "x", "+1", "-", "-0", "00", "01", " 1", "1 ", "1a", "2147483648", "-9223372036854775809", "1\0"] {
            let stream = format!("PING\r\n*{count}\r\n$4\r\nPING\r\n");
            check(stream.as_bytes(), &[inline(b"PING\r\n"), Error(ProtocolError::InvalidMultibulkLength)]);
        }
        for len in ["", "x", "-1", "+4", "04", "-0", "4 ", "536870913", "99999999999999999999"] {
            let stream = format!("*2\r\n$4\r\nECHO\r\n${len}\r\n");
            check(stream.as_bytes(), &[Error(ProtocolError::InvalidBulkLength)]);
        }
        check(b"*2147483647\r\n", &[More(14)]);
        check(b"*1\r\n$536870912\r\n", &[More(536870930)]);
        check(b"*1\r\n:4\r\n", &[Error(ProtocolError::ExpectedDollar(b':'))]);
        check(b"*1\r\n\r\n", &[Error(ProtocolError::ExpectedDollar(b'\r'))]);
        check(b"*1\r\n\r", &[More(6)]);
        check(b"*1\r\n4\r\n", &[Error(ProtocolError::ExpectedDollar(b'4'))]);
        check(b"*1\r\nx\r\r", &[Error(ProtocolError::ExpectedDollar(b'x'))]);
        check(b"*1\r\n:4", &[More(7)]);
        check(b"*1x", &[More(4)]);
        check(b"*1x\r", &[More(5)]);
        check(b"*1\n$4\nPING\n", &[More(12)]);
        check(b"*1\rX", &[Error(ProtocolError::InvalidCrlf)]);
        check(b"*1\r\n$4\rX", &[Error(ProtocolError::InvalidCrlf)]);
        check(b"*1\r\n$4\r\nPINGXY", &[Error(ProtocolError::InvalidCrlf)]);
        check(b"*1\r\n$4\r\nPING\rY", &[Error(ProtocolError::InvalidCrlf)]);
        check(b"*1\r\n$5\r\nPING\r\n\r", &[Error(ProtocolError::InvalidCrlf)]);
    }

    #[test]
    fn too_long() {
        const MAX: usize = 64 * 1024;
        let long = |head: &str, fill: u8, len: usize, tail: &str| {
            let filled = [head.as_bytes(), &vec![fill; len - head.len()]].concat();
            [&filled, tail.as_bytes()].concat()
        };
        check(&long("", b'A', MAX, ""), &[More(MAX + 1)]);
        check(&long("", b'A', MAX, "\n"), &[inline(&long("", b'A', MAX, "\n")), More(1)]);
        check(&long("", b'A', MAX + 1, ""), &[Error(ProtocolError::TooBigInline)]);
        check(&long("", b'A', MAX + 1, "\n"), &[Error(ProtocolError::TooBigInline)]);
        check(&long("A\0", b'A', MAX + 1, ""), &[Error(ProtocolError::TooBigInline)]);
        check(&long("*", b'1', MAX, ""), &[More(MAX + 1)]);
        check(&long("*", b'1', MAX, "\r\n"), &[Error(ProtocolError::InvalidMultibulkLength)]);
        check(&long("*", b'1', MAX + 1, ""), &[Error(ProtocolError::TooBigMultibulkCount)]);
        check(&long("*", b'1', MAX + 1, "\r\n"), &[Error(ProtocolError::TooBigMultibulkCount)]);
        check(&long("*1\r\n$", b'1', MAX + 4, ""), &[More(MAX + 5)]);
        check(&long("*1\r\n$", b'1', MAX + 4, "\r\n"), &[Error(ProtocolError::InvalidBulkLength)]);
        check(&long("*1\r\n$", b'1', MAX + 5, ""), &[Error(ProtocolError::TooBigBulkCount)]);
        check(&long("*1\r\nx", b'1', MAX + 5, "\r\n"), &[Error(ProtocolError::TooBigBulkCount)]);
    }

    #[test]
    fn limited() {
        let limits =
            Limits { bulk_len_max: 5, multibulk_len_max: 3, inline_len_max: 30, query_buffer_max: 40, authenticated: true };
        let check = |stream: &[u8], expected: &[Event]| check_within(&limits, stream, expected);
        check(b"*3\r\n$1\r\na\r\n$1\r\na\r\n$5\r\naaaaa\r\n", &[request(&[b"a", b"a", b"aaaaa"]), More(1)]);
        check(b"*4\r\n", &[Error(ProtocolError::InvalidMultibulkLength)]);
        check(b"*1\r\n$6\r\n", &[Error(ProtocolError::InvalidBulkLength)]);
        check(b"*1\r\n$10\r\n", &[Error(ProtocolError::InvalidBulkLength)]);
        let limits = Limits { query_buffer_max: 40, ..Limits::default() };
        let check = |stream: &[u8], expected: &[Event]| check_within(&limits, stream, expected);
        check(b"*1\r\n$30\r\n", &[Error(ProtocolError::QueryBuffer)]);
        check(b"*1\r\n$29\r\n", &[More(40)]);
        check(&[b'A'; 39], &[More(40)]);
        check(&[b'A'; 40], &[Error(ProtocolError::QueryBuffer)]);
        let limits = Limits::default().before_authentication();
        let check = |stream: &[u8], expected: &[Event]| check_within(&limits, stream, expected);
        check(b"*10\r\n", &[More(6)]);
        check(b"*11\r\n", &[Error(ProtocolError::UnauthenticatedMultibulkLength)]);
        check(b"*2147483648\r\n", &[Error(ProtocolError::InvalidMultibulkLength)]);
        check(b"*1\r\n$16384\r\n", &[More(12 + 16384 + 2)]);
        check(b"*1\r\n$16385\r\n", &[Error(ProtocolError::UnauthenticatedBulkLength)]);
        check(b"*1\r\n$536870913\r\n", &[Error(ProtocolError::InvalidBulkLength)]);
        // Beyond what a span can address, whatever the configuration says.
        let limits = Limits { bulk_len_max: usize::MAX, query_buffer_max: usize::MAX, ..Limits::default() };
        let check = |stream: &[u8], expected: &[Event]| check_within(&limits, stream, expected);
        check(b"*1\r\n$4294967278\r\n", &[Error(ProtocolError::QueryBuffer)]);
        check(b"*1\r\n$9223372036854775807\r\n", &[Error(ProtocolError::QueryBuffer)]);
    }

    #[test]
    fn stays_small() {
        assert!(size_of::<RequestScanner>() <= 8, "there is one per client");
    }
}
