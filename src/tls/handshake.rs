//! Handshakes over a socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, Error, InvalidMessage, ServerConfig};
use tokio::net::TcpStream;

use super::session::{Connection, Session, Step};

/// What may arrive and not be of use yet: the chains of certificates of the largest authorities are a quarter of it.
const ARRIVED_MAX: usize = 64 * 1024;

const READ_BYTES: usize = 4 * 1024;

/// The first byte of every TLS connection (RFC 8446, section 5.1), which begins nothing in RESP.
const HANDSHAKE: u8 = 0x16;

/// Whether a connection that begins with these bytes speaks TLS.
pub fn is_handshake(begin: &[u8]) -> bool {
    begin.first() == Some(&HANDSHAKE)
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("expected a TLS handshake, found plain text")]
    Plain,
    #[error("expected a TLS handshake, found {0}")]
    Tls(Error),
    #[error("expected a TLS handshake, found {0}")]
    Io(#[from] io::Error),
    #[error("expected a TLS handshake, found the connection closed")]
    Closed,
    #[error("expected a TLS handshake within {0:?}, found none")]
    Timeout(Duration),
    #[error("expected a host name or IP address to verify, found {0:?}")]
    NoName(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Failure::Plain,
            error => Failure::Tls(error),
        }
    }
}

impl Failure {
    /// From the error of a stream of tokio-rustls, which wraps those of rustls.
    pub fn of_stream(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Failure::Closed,
            Err(error) => Failure::Io(error),
        }
    }
}

/// Whether the error of a stream is TLS's own, rather than the connection's.
pub fn is_alert(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Error>())
}

/// With a client.
pub async fn accept(stream: &TcpStream, config: Arc<ServerConfig>) -> Result<Session, Failure> {
    let mut arrived = Vec::new();
    receive(stream, &mut arrived).await?;
    if !is_handshake(&arrived) {
        return Err(Failure::Plain);
    }
    shake_hands(stream, Session::new(Connection::Server(UnbufferedServerConnection::new(config)?)), arrived).await
}

/// With a node that is to be `name`.
pub async fn connect(stream: &TcpStream, config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Session, Failure> {
    shake_hands(stream, Session::new(Connection::Client(UnbufferedClientConnection::new(config, name)?)), Vec::new()).await
}

async fn shake_hands(stream: &TcpStream, mut session: Session, mut arrived: Vec<u8>) -> Result<Session, Failure> {
    let mut out = Vec::new();
    loop {
        let step = session.shake_hands(&mut arrived, &mut out);
        // Also the alert that tells the other side why there is none.
        let sent = send(stream, &out).await;
        let step = step?;
        sent?;
        out.clear();
        match step {
            Step::Open => return Ok(session),
            Step::Ended => return Err(Failure::Closed),
            Step::Again | Step::Input if arrived.len() >= ARRIVED_MAX => {
                return Err(Failure::Tls(Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge)));
            }
            Step::Again | Step::Input => receive(stream, &mut arrived).await?,
        }
    }
}

async fn receive(stream: &TcpStream, arrived: &mut Vec<u8>) -> Result<(), Failure> {
    arrived.reserve(READ_BYTES);
    loop {
        stream.readable().await?;
        match stream.try_read_buf(arrived) {
            Ok(0) => return Err(Failure::Closed),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
