//! Where operators connect, and who asks by HTTP.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::config::ListenAddr;
use crate::tls::{Failure, Live, ServerConfig, is_handshake};

/// After so much silence the system asks whether a connection's machine is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A bound address. A unix socket's file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// `None`: in plain text.
    tls: Option<Secure>,
}

/// TLS on a listener.
#[derive(Clone, Debug)]
pub struct Secure {
    pub config: Live<ServerConfig>,
    /// For each handshake.
    pub limit: Duration,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf },
}

/// An address that cannot be listened on, and the key that names it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {error}")]
pub struct BindError {
    pub address: ListenAddr,
    pub key: &'static str,
    pub error: io::Error,
}

/// A connection, whatever carries it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that has come.
pub enum Arrived {
    Plain(Box<dyn Stream>),
    /// Still to be made with TLS.
    Secure(TcpStream, Secure),
}

/// Listens on every address, or on none. Must be called inside a runtime.
pub async fn bind(key: &'static str, addresses: &[ListenAddr], tls: Option<&Secure>) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let bound = match address {
            ListenAddr::Tcp(tcp) => TcpListener::bind((tcp.host.as_str(), tcp.port)).await.map(Socket::Tcp),
            ListenAddr::Unix(path) => bind_unix(path),
        };
        let socket = bound.map_err(|error| BindError { address: address.clone(), key, error })?;
        listeners.push(Listener { socket, tls: tls.cloned() });
    }
    Ok(listeners)
}

impl Listener {
    /// The address, with the real port where 0 was asked for.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map_or_else(|error| error.to_string(), |addr| addr.to_string()),
            Socket::Unix { path, .. } => format!("unix:{}", path.display()),
        }
    }

    /// A connection, and where it comes from.
    pub async fn accept(&self) -> io::Result<(Arrived, String)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // An answer is one write; it shall not wait for the next.
                stream.set_nodelay(true)?;
                // Who only listens sends nothing: the system must find out that its machine is gone.
                SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                let arrived = match &self.tls {
                    Some(secure) => Arrived::Secure(stream, secure.clone()),
                    None => Arrived::Plain(Box::new(stream)),
                };
                Ok((arrived, peer.to_string()))
            }
            Socket::Unix { listener, path } => {
                Ok((Arrived::Plain(Box::new(listener.accept().await?.0)), format!("{}:0", path.display())))
            }
        }
    }
}

impl Arrived {
    /// The connection, ready for requests.
    pub async fn secured(self) -> Result<Box<dyn Stream>, Failure> {
        let (stream, Secure { config, limit }) = match self {
            Arrived::Plain(stream) => return Ok(stream),
            Arrived::Secure(stream, secure) => (stream, secure),
        };
        let shaking_hands = async {
            let mut begin = [0];
            if stream.peek(&mut begin).await? > 0 && !is_handshake(&begin) {
                return Err(Failure::Plain);
            }
            TlsAcceptor::from(config.now()).accept(stream).await.map_err(Failure::of_stream)
        };
        Ok(Box::new(timeout(limit, shaking_hands).await.unwrap_or(Err(Failure::Timeout(limit)))?))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix { path, .. } = &self.socket {
            // It may have been removed by somebody else; there is nothing more to do then.
            let _ = fs::remove_file(path);
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    let listener = UnixListener::bind(path).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse if is_left_over(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        _ => Err(error),
    })?;
    let socket = Socket::Unix { listener, path: path.to_owned() };
    // With or without a password: only the proxy's own user may connect.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Whether a socket's file was left by a process that did not end in order: nobody listens on it.
fn is_left_over(path: &Path) -> bool {
    let is_socket = fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let answers = std::os::unix::net::UnixStream::connect(path);
    is_socket && answers.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
