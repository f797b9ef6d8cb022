//! A blocking client that hides nothing: every reply type apart, every byte at hand.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Longer than every deadline the tests configure, so that a hang shows as a hang.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// One reply, RESP2 or RESP3, such that two are equal only if their bytes are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    /// `$-1`
    NullBulk,
    /// `*-1`
    NullArray,
    Array(Vec<Reply>),
    /// `_`
    Null,
    /// As sent: servers format numbers in several ways.
    Double(Vec<u8>),
    Boolean(bool),
    BigNumber(Vec<u8>),
    BulkError(Vec<u8>),
    /// With its `txt:`.
    Verbatim(Vec<u8>),
    /// Keys and values alternate.
    Map(Vec<Reply>),
    Set(Vec<Reply>),
    Push(Vec<Reply>),
    /// Attribute keys and values, and the value they belong to.
    Attributed(Vec<Reply>, Box<Reply>),
}

impl Reply {
    pub fn ok() -> Reply {
        Reply::Simple(b"OK".to_vec())
    }

    pub fn bulk(text: impl AsRef<[u8]>) -> Reply {
        Reply::Bulk(text.as_ref().to_vec())
    }

    pub fn error(text: &str) -> Reply {
        Reply::Error(text.as_bytes().to_vec())
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_) | Reply::BulkError(_))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Reply::Null | Reply::NullBulk | Reply::NullArray)
    }

    /// The text of a string, verbatim string, double or error; a number in decimal; nothing for all else.
    pub fn text(&self) -> String {
        match self {
            Reply::Simple(text) | Reply::Error(text) | Reply::Bulk(text) | Reply::Double(text) => lossy(text),
            Reply::BigNumber(text) | Reply::BulkError(text) => lossy(text),
            Reply::Verbatim(text) => lossy(text.get(4..).unwrap_or_default()),
            Reply::Integer(number) => number.to_string(),
            _ => String::new(),
        }
    }

    /// The elements of an aggregate (keys and values of a map alternate); nothing for all else.
    pub fn elements(&self) -> &[Reply] {
        match self {
            Reply::Array(all) | Reply::Map(all) | Reply::Set(all) | Reply::Push(all) => all,
            _ => &[],
        }
    }

    /// The elements, to be changed in place.
    pub fn elements_mut(&mut self) -> &mut [Reply] {
        match self {
            Reply::Array(all) | Reply::Map(all) | Reply::Set(all) | Reply::Push(all) => all,
            _ => &mut [],
        }
    }

    pub fn integer(&self) -> Option<i64> {
        if let Reply::Integer(number) = self { Some(*number) } else { None }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As a transcript shows it: RESP's own type characters, quoted strings.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, open: char, all: &[Reply]| {
            write!(f, "{open}")?;
            f.debug_list().entries(all).finish()
        };
        match self {
            Reply::Simple(text) => write!(f, "+{}", text.escape_ascii()),
            Reply::Error(text) => write!(f, "-{}", text.escape_ascii()),
            Reply::Integer(number) => write!(f, ":{number}"),
            Reply::Bulk(text) => write!(f, "\"{}\"", shortened(text)),
            Reply::NullBulk => f.write_str("$-1"),
            Reply::NullArray => f.write_str("*-1"),
            Reply::Null => f.write_str("_"),
            Reply::Double(text) => write!(f, ",{}", text.escape_ascii()),
            Reply::Boolean(value) => f.write_str(if *value { "#t" } else { "#f" }),
            Reply::BigNumber(text) => write!(f, "({}", text.escape_ascii()),
            Reply::BulkError(text) => write!(f, "!{}", text.escape_ascii()),
            Reply::Verbatim(text) => write!(f, "=\"{}\"", shortened(text)),
            Reply::Array(all) => list(f, '*', all),
            Reply::Map(all) => list(f, '%', all),
            Reply::Set(all) => list(f, '~', all),
            Reply::Push(all) => list(f, '>', all),
            Reply::Attributed(attributes, value) => {
                list(f, '|', attributes)?;
                write!(f, " {value:?}")
            }
        }
    }
}

fn shortened(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 400;
    if bytes.len() <= SHOWN_MAX {
        return bytes.escape_ascii().to_string();
    }
    format!("{}... {} bytes", bytes[..SHOWN_MAX].escape_ascii(), bytes.len())
}

/// One request as RESP sends it.
pub fn request(arguments: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    append_request(&mut bytes, arguments);
    bytes
}

pub fn append_request(out: &mut Vec<u8>, arguments: &[impl AsRef<[u8]>]) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Stream::Tcp(stream) => stream.read(buffer),
                Stream::Unix(stream) => stream.read(buffer),
                Stream::Tls(stream) => stream.read(buffer),
            };
            // A read with a time limit is interrupted when the machine is frozen for a moment.
            if !read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
                return read;
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection, with what has arrived and was not read yet.
pub struct Client {
    stream: Stream,
    arrived: Vec<u8>,
    read: usize,
}

impl Client {
    /// Connects to this machine, or panics.
    pub fn connect(port: u16) -> Client {
        let mut last = None;
        for _ in 0..5 {
            match connect(port) {
                Ok(client) => return client,
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("127.0.0.1:{port} takes no connection: {last:?}");
    }

    pub fn try_connect(port: u16) -> Option<Client> {
        connect(port).ok()
    }

    /// Connects to a Unix socket, or panics.
    pub fn connect_unix(path: &Path) -> Client {
        Client::try_connect_unix(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn try_connect_unix(path: &Path) -> io::Result<Client> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        Ok(Client::over(Stream::Unix(stream)))
    }

    /// Connects to this machine with TLS, or says why there is no handshake. With TLS 1.3 a server that does not like a client's
    /// certificate says so only where its first reply would be.
    pub fn connect_tls(port: u16, config: &Arc<ClientConfig>) -> io::Result<Client> {
        connect(port)?.secure(config)
    }

    /// Connects from another of this machine's addresses.
    pub fn connect_from(source: Ipv4Addr, port: u16) -> io::Result<Client> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        Ok(Client::over(Stream::Tcp(with_limits(socket.into())?)))
    }

    /// Begins TLS on what was a plain connection.
    pub fn secure(self, config: &Arc<ClientConfig>) -> io::Result<Client> {
        let Stream::Tcp(stream) = self.stream else { return Err(io::Error::other("not a TCP connection")) };
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Client::over(Stream::Tls(Box::new(stream))))
    }

    /// The certificate that it was shown.
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let Stream::Tls(stream) = &self.stream else { return None };
        stream.conn.peer_certificates()?.first().cloned()
    }

    fn over(stream: Stream) -> Client {
        Client { stream, arrived: Vec::new(), read: 0 }
    }

    /// Sets how long a read or a write may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout))),
            Stream::Unix(stream) => stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout))),
            Stream::Tls(tls) => tls.sock.set_read_timeout(Some(timeout)).and_then(|()| tls.sock.set_write_timeout(Some(timeout))),
        }
        .expect("a non-zero timeout is valid");
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Tells the other side that nothing more will come.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock).map(|_| ())
            }
        }
    }

    /// One request, one reply.
    pub fn call(&mut self, arguments: &[impl AsRef<[u8]>]) -> Reply {
        let bytes = request(arguments);
        let outcome = self.send(&bytes).and_then(|()| self.receive());
        outcome.unwrap_or_else(|error| panic!("{}: {error}", bytes.escape_ascii()))
    }

    /// One request, one reply, or nothing if the connection fails.
    pub fn try_call(&mut self, arguments: &[impl AsRef<[u8]>]) -> Option<Reply> {
        self.send(&request(arguments)).and_then(|()| self.receive()).ok()
    }

    /// Several requests in one write, then all their replies.
    pub fn pipeline<A: AsRef<[u8]>>(&mut self, requests: &[Vec<A>]) -> Vec<Reply> {
        let mut bytes = Vec::new();
        requests.iter().for_each(|one| append_request(&mut bytes, one));
        self.exchange(&bytes, requests.len()).unwrap_or_else(|error| panic!("pipeline of {}: {error}", requests.len()))
    }

    /// Sends bytes and reads `replies` replies meanwhile, so that neither side waits for the other to read.
    pub fn exchange(&mut self, bytes: &[u8], replies: usize) -> io::Result<Vec<Reply>> {
        const CHUNK: usize = 32 * 1024;
        let mut received = Vec::with_capacity(replies);
        for chunk in bytes.chunks(CHUNK) {
            self.send(chunk)?;
            if bytes.len() > CHUNK {
                self.take_what_arrived()?;
            }
        }
        while received.len() < replies {
            received.push(self.receive()?);
        }
        Ok(received)
    }

    fn take_what_arrived(&mut self) -> io::Result<()> {
        self.set_nonblocking(true)?;
        let outcome = loop {
            match self.read_more() {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                // A close is reported by the reply that then is missing.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.set_nonblocking(false)?;
        outcome
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Stream::Unix(stream) => stream.set_nonblocking(nonblocking),
            Stream::Tls(stream) => stream.sock.set_nonblocking(nonblocking),
        }
    }

    /// The next reply.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            let mut cursor = Cursor { bytes: &self.arrived[self.read..], at: 0 };
            if let Some(reply) = cursor.reply()? {
                self.read += cursor.at;
                if self.read == self.arrived.len() {
                    self.arrived.clear();
                    self.read = 0;
                }
                return Ok(reply);
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64 * 1024];
        // A timeout shows as WouldBlock; callers print it, so it gets its name here.
        let n = self.stream.read(&mut buffer)?;
        if n == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the other side closed the connection"));
        }
        self.arrived.extend_from_slice(&buffer[..n]);
        Ok(())
    }

    /// Reads what is there and forgets it. A close is an error.
    pub fn discard_what_arrived(&mut self) -> io::Result<()> {
        self.set_nonblocking(true)?;
        let outcome = loop {
            match self.read_more() {
                Ok(()) => self.arrived.clear(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.set_nonblocking(false)?;
        outcome
    }

    /// Closing will reset the connection instead of ending it in order. Its port is free again at once, where an orderly
    /// close keeps it for a minute: a hundred thousand connections would use up all there are.
    pub fn reset_on_close(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("sockets can be set so");
        }
    }

    /// Every byte until the other side closes; `None` if it has not done so in time.
    pub fn until_closed(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.read_more() {
                Ok(()) => {}
                Err(error) if closed(&error) => return Some(self.arrived.split_off(self.read)),
                Err(_) => return None,
            }
        }
    }

    /// Bytes until they end with `end`, and what ended them.
    pub fn until(&mut self, end: &[u8], patience: Duration) -> (Vec<u8>, End) {
        self.set_timeout(patience);
        let ended = loop {
            if self.arrived.ends_with(end) {
                break End::Found;
            }
            match self.read_more() {
                Ok(()) => {}
                Err(error) if closed(&error) => break End::Closed,
                Err(_) => break End::Silent,
            }
        };
        (std::mem::take(&mut self.arrived), ended)
    }
}

/// How a stream of bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Found,
    Closed,
    /// Nothing more came.
    Silent,
}

/// Whether an error means that the other side is gone, rather than slow.
pub fn closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn connect(port: u16) -> io::Result<Client> {
    Ok(Client::over(Stream::Tcp(tcp(port)?)))
}

fn tcp(port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    with_limits(TcpStream::connect_timeout(&address, READ_TIMEOUT)?)
}

fn with_limits(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.set_write_timeout(Some(READ_TIMEOUT))?;
    Ok(stream)
}

/// Reads a reply out of bytes that may end before it does.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// `None`: it is not complete. Bytes that are no reply at all are an error.
    fn reply(&mut self) -> io::Result<Option<Reply>> {
        let Some(line) = self.line() else {
            return Ok(None);
        };
        let Some((&kind, rest)) = line.split_first() else {
            return Err(malformed(b"an empty line"));
        };
        let rest = rest.to_vec();
        let reply = match kind {
            b'+' => Reply::Simple(rest),
            b'-' => Reply::Error(rest),
            b':' => Reply::Integer(number(&rest)?),
            b',' => Reply::Double(rest),
            b'(' => Reply::BigNumber(rest),
            b'#' => Reply::Boolean(rest == b"t"),
            b'_' => Reply::Null,
            b'$' if rest == b"-1" => Reply::NullBulk,
            b'*' if rest == b"-1" => Reply::NullArray,
            b'$' => return Ok(self.blob(&rest)?.map(Reply::Bulk)),
            b'=' => return Ok(self.blob(&rest)?.map(Reply::Verbatim)),
            b'!' => return Ok(self.blob(&rest)?.map(Reply::BulkError)),
            b'*' => return Ok(self.list(number(&rest)?)?.map(Reply::Array)),
            b'~' => return Ok(self.list(number(&rest)?)?.map(Reply::Set)),
            b'>' => return Ok(self.list(number(&rest)?)?.map(Reply::Push)),
            b'%' => return Ok(self.list(2 * number(&rest)?)?.map(Reply::Map)),
            b'|' => {
                let Some(attributes) = self.list(2 * number(&rest)?)? else {
                    return Ok(None);
                };
                let Some(value) = self.reply()? else {
                    return Ok(None);
                };
                Reply::Attributed(attributes, Box::new(value))
            }
            _ => return Err(malformed(&line)),
        };
        Ok(Some(reply))
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.at..];
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        self.at += end + 2;
        Some(rest[..end].to_vec())
    }

    fn blob(&mut self, length: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let length = usize::try_from(number(length)?).map_err(|_| malformed(length))?;
        let Some(blob) = self.bytes.get(self.at..self.at + length + 2) else {
            return Ok(None);
        };
        let Some(blob) = blob.strip_suffix(b"\r\n") else {
            return Err(malformed(blob));
        };
        self.at += length + 2;
        Ok(Some(blob.to_vec()))
    }

    fn list(&mut self, length: i64) -> io::Result<Option<Vec<Reply>>> {
        let mut list = Vec::new();
        for _ in 0..length {
            match self.reply()? {
                Some(element) => list.push(element),
                None => return Ok(None),
            }
        }
        Ok(Some(list))
    }
}

fn number(text: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| malformed(text))
}

fn malformed(found: &[u8]) -> io::Error {
    let shown = &found[..found.len().min(200)];
    io::Error::new(ErrorKind::InvalidData, format!("not a reply: {}", shown.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_and_shown() {
        let check = |bytes: &[u8], shown: &str| {
            let mut cursor = Cursor { bytes, at: 0 };
            let reply = cursor.reply().expect("well-formed").expect("complete");
            assert_eq!(format!("{reply:?}"), shown);
            assert_eq!(cursor.at, bytes.len(), "{shown}");
            for end in 0..bytes.len() {
                let mut cut = Cursor { bytes: &bytes[..end], at: 0 };
                assert_eq!(cut.reply().expect("well-formed so far"), None, "{shown} cut at {end}");
            }
        };
        check(b"+OK\r\n", "+OK");
        check(b"-ERR no\r\n", "-ERR no");
        check(b":-12\r\n", ":-12");
        check(b"$3\r\na\r\n\r\n", "\"a\\r\\n\"");
        check(b"$-1\r\n", "$-1");
        check(b"*-1\r\n", "*-1");
        check(b"_\r\n", "_");
        check(b",inf\r\n", ",inf");
        check(b"#t\r\n", "#t");
        check(b"(123\r\n", "(123");
        check(b"!3\r\nERR\r\n", "!ERR");
        check(b"=7\r\ntxt:abc\r\n", "=\"txt:abc\"");
        check(b"*2\r\n:1\r\n*0\r\n", "*[:1, *[]]");
        check(b"%1\r\n+a\r\n:1\r\n", "%[+a, :1]");
        check(b"~1\r\n+a\r\n", "~[+a]");
        check(b">1\r\n+a\r\n", ">[+a]");
        check(b"|1\r\n+ttl\r\n:9\r\n$1\r\nv\r\n", "|[+ttl, :9] \"v\"");
    }
}
