//! One connection to one node.

use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::codec::Resp2;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, split};
use tokio::time::timeout;
use tokio_util::codec::Decoder;

use crate::cluster::Addr;
use crate::control::{ControlError, Fault, Pipeline, Reply, stream::NodeStream};

/// A reply that is longer ends the connection. The largest that the control thread asks for is a library of
/// functions (FUNCTION DUMP); a topology of 1000 nodes is 150 KB.
const REPLY_BYTES_MAX: usize = 256 << 20;

/// Room made before each read: most replies arrive in one.
const READ_BYTES: usize = 16 << 10;

/// A connection that asks and waits for the answer. After a failure, or when a call was given up half-way, replies may
/// still be under way and nobody could tell whose they are: from then on every call answers `Closed`.
#[derive(Debug)]
pub struct Connection {
    addr: Addr,
    stream: NodeStream,
    received: BytesMut,
    reply_timeout: Duration,
    /// No reply is owed.
    settled: bool,
}

impl Connection {
    pub(super) fn new(addr: Addr, stream: NodeStream, reply_timeout: Duration) -> Connection {
        Connection { addr, stream, received: BytesMut::new(), reply_timeout, settled: true }
    }

    /// Where it was dialled.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// The longest wait for each reply from now on, for commands that take their time (MIGRATE).
    pub fn set_reply_timeout(&mut self, limit: Duration) {
        self.reply_timeout = limit;
    }

    /// Whether it can be used again.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Sends one command, given as its words, and waits for the reply.
    pub async fn call<A: AsRef<[u8]>>(&mut self, words: impl IntoIterator<Item = A>) -> Result<Reply, ControlError> {
        let mut pipeline = Pipeline::new();
        pipeline.push(words);
        let mut replies = self.call_many(&pipeline).await?;
        replies.pop().ok_or_else(|| self.error(Fault::Closed))
    }

    /// Sends all commands at once and waits for their replies, one for each, in order. A reply has `reply_timeout`
    /// from the one before it.
    pub async fn call_many(&mut self, pipeline: &Pipeline) -> Result<Vec<Reply>, ControlError> {
        if !self.settled {
            return Err(self.error(Fault::Closed));
        }
        self.settled = false;
        let outcome = self.exchange(pipeline).await;
        self.settled = outcome.is_ok();
        outcome.map_err(|fault| self.error(fault))
    }

    /// Reads while it writes: a node stops reading when nobody takes its replies.
    async fn exchange(&mut self, pipeline: &Pipeline) -> Result<Vec<Reply>, Fault> {
        let (mut reader, mut writer) = split(&mut self.stream);
        let write = async {
            writer.write_all(pipeline.bytes()).await.map_err(Fault::Io)?;
            // With TLS the last records may still be here.
            writer.flush().await.map_err(Fault::Io)
        };
        let read = async {
            let mut replies = Vec::with_capacity(pipeline.len());
            while replies.len() < pipeline.len() {
                let reply = timeout(self.reply_timeout, read_reply(&mut reader, &mut self.received)).await;
                replies.push(reply.map_err(|_| Fault::Timeout(self.reply_timeout))??);
            }
            Ok(replies)
        };
        tokio::try_join!(write, read).map(|((), replies)| replies)
    }

    pub(super) fn error(&self, fault: Fault) -> ControlError {
        ControlError { addr: self.addr.clone(), fault }
    }
}

async fn read_reply(reader: &mut ReadHalf<&mut NodeStream>, received: &mut BytesMut) -> Result<Reply, Fault> {
    let mut codec = Resp2::default();
    loop {
        match codec.decode(received) {
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) if received.len() <= REPLY_BYTES_MAX => {}
            Ok(None) => return Err(Fault::Protocol(format!("a reply of more than {REPLY_BYTES_MAX} bytes"))),
            Err(error) => return Err(Fault::Protocol(error.details().to_owned())),
        }
        received.reserve(READ_BYTES);
        if reader.read_buf(received).await.map_err(Fault::Io)? == 0 {
            return Err(Fault::Closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::net::TcpListener;

    use super::*;
    use crate::control::{Credentials, Dialer};

    /// Runs `test` against a node that reads `expects` bytes, answers `replies`, piece by piece, and then waits or closes.
    fn with_node<T: Future>(
        expects: usize,
        replies: &'static [&'static [u8]],
        closes: bool,
        test: impl FnOnce(Addr) -> T,
    ) -> T::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let addr = Addr::new("127.0.0.1", listener.local_addr().expect("a bound socket").port());
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("the test dials");
                let mut asked = vec![0; expects];
                stream.read_exact(&mut asked).await.expect("the test asks");
                for piece in replies {
                    stream.write_all(piece).await.expect("the test reads");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                if !closes {
                    std::future::pending::<()>().await;
                }
            });
            test(addr).await
        })
    }

    fn dialer(password: Option<&str>) -> Dialer {
        Dialer {
            credentials: Credentials { username: password.map(|_| "app".into()), password: password.map(str::to_owned) },
            dial_timeout: Duration::from_secs(5),
            reply_timeout: Duration::from_millis(50),
            tls: None,
        }
    }

    const PING: usize = "*1\r\n$4\r\nPING\r\n".len();

    #[test]
    fn replies_come_in_order_however_they_are_cut() {
        let pieces: &[&[u8]] = &[b"+PO", b"NG\r", b"\n$3\r\na\r\n\r\n-ERR no\r\n:7", b"\r\n"];
        with_node(4 * PING, pieces, false, async |addr| {
            let mut connection = dialer(None).dial(&addr).await.expect("a connection");
            let mut pipeline = Pipeline::new();
            for _ in 0..4 {
                pipeline.push(["PING"]);
            }
            let replies = connection.call_many(&pipeline).await.expect("four replies");
            let expected = [
                Reply::SimpleString("PONG".into()),
                Reply::BulkString("a\r\n".into()),
                Reply::Error("ERR no".into()),
                Reply::Integer(7),
            ];
            assert_eq!(replies, expected);
            assert!(connection.is_settled());
        });
    }

    #[test]
    fn a_late_reply_is_nobodys() {
        with_node(PING, &[b"+PO"], false, async |addr| {
            let mut connection = dialer(None).dial(&addr).await.expect("a connection");
            let error = connection.call(["PING"]).await.expect_err("half a reply");
            assert!(matches!(error.fault, Fault::Timeout(_)) && error.outcome_unknown(), "{error}");
            assert!(!connection.is_settled());
            let error = connection.call(["PING"]).await.expect_err("the connection is spoilt");
            assert!(matches!(error.fault, Fault::Closed), "{error}");
        });
    }

    #[test]
    fn a_call_that_was_dropped_spoils_the_connection() {
        with_node(PING, &[b"+PO"], false, async |addr| {
            let mut connection = dialer(None).dial(&addr).await.expect("a connection");
            assert!(timeout(Duration::from_millis(5), connection.call(["PING"])).await.is_err());
            assert!(!connection.is_settled());
        });
    }

    #[test]
    fn what_goes_wrong() {
        fn check(replies: &'static [&'static [u8]], expected: &str) {
            with_node(PING, replies, true, async |addr| {
                let mut connection = dialer(None).dial(&addr).await.expect("a connection");
                let error = connection.call(["PING"]).await.expect_err("no reply");
                assert_eq!(error.to_string(), format!("node {addr}: {expected}"));
            });
        }
        check(&[], "expected a reply, found the connection closed");
        check(&[b"+PO"], "expected a reply, found the connection closed");
        check(&[b"?\r\n"], r#"expected RESP2, found "frame_type: Invalid frame type.""#);
    }

    #[test]
    fn credentials_come_first() {
        let auth = "*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$1\r\nx\r\n".len();
        with_node(auth, &[b"+OK\r\n"], false, async |addr| {
            assert!(dialer(Some("x")).dial(&addr).await.is_ok());
        });
        with_node(auth, &[b"-WRONGPASS no\r\n"], false, async |addr| {
            let error = dialer(Some("x")).dial(&addr).await.expect_err("a wrong password");
            assert_eq!(error.to_string(), format!(r#"node {addr}: expected AUTH to succeed, found "WRONGPASS no""#));
            assert!(!error.outcome_unknown());
        });
    }
}
