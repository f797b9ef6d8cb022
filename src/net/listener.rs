//! Listening sockets. Accepting runs on the control thread; each connection goes to the worker with the fewest clients.

use std::{
    io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};

use crate::tls::{ROOM, Session};

use super::owner::Owner;

/// A connection on its way to a worker.
pub enum Accepted {
    Tcp {
        stream: std::net::TcpStream,
        /// Where the client is, also if another hands its connection on.
        peer: SocketAddr,
        local: String,
    },
    /// After its handshake. `names` are what its certificate says who it is.
    Tls { stream: std::net::TcpStream, session: Box<Session>, peer: SocketAddr, local: String, names: Vec<String> },
    /// `path` stands for both ends. `names` are what the user says whose process it is.
    Unix { stream: std::os::unix::net::UnixStream, path: String, names: Vec<String> },
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("cannot listen on unix:{path}: expected a socket or nothing there, found another kind of file")]
    NotASocket { path: String },
}

pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf, UnixSocket),
}

/// What becomes of a unix socket's file, and of who connects to it.
#[derive(Clone, Debug, Default)]
pub struct UnixSocket {
    /// `None`: as the umask leaves it.
    pub mode: Option<u32>,
    pub owner: Owner,
    /// Users of this machine by number, and who their processes are.
    pub users: Arc<[(u32, String)]>,
}

/// Connections that wait to be accepted: enough for every client of a restarted application to come at once.
const BACKLOG: i32 = 1024;

impl Listener {
    pub async fn tcp(address: &str) -> Result<Listener, BindError> {
        let failed = |source| BindError::Listen { address: address.to_string(), source };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for resolved in tokio::net::lookup_host(address).await.map_err(failed)? {
            match listen(resolved) {
                Ok(listener) => return Ok(Listener::Tcp(listener)),
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    /// A socket that a dead process left behind is replaced.
    pub fn unix(path: PathBuf, socket: UnixSocket) -> Result<Listener, BindError> {
        let text = path.display().to_string();
        if let Ok(found) = std::fs::symlink_metadata(&path) {
            if !found.file_type().is_socket() {
                return Err(BindError::NotASocket { path: text });
            }
            if std::os::unix::net::UnixStream::connect(&path).is_err() {
                // Nobody listens on it. If it cannot be removed, binding says why.
                let _ = std::fs::remove_file(&path);
            }
        }
        let failed = |source| BindError::Listen { address: format!("unix:{text}"), source };
        let listener = listen_unix(&path, &socket).map_err(failed)?;
        Ok(Listener::Unix(listener, path, socket))
    }

    pub async fn accept(&self, keepalive: Option<Duration>) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                set_keepalive(&stream, keepalive)?;
                let local = stream.local_addr()?.to_string();
                Ok(Accepted::Tcp { stream: stream.into_std()?, peer, local })
            }
            Listener::Unix(listener, path, socket) => {
                let (stream, _) = listener.accept().await?;
                let names = match socket.users.is_empty() {
                    true => Vec::new(),
                    false => names_of(stream.peer_cred()?.uid(), &socket.users),
                };
                Ok(Accepted::Unix { stream: stream.into_std()?, path: format!("{}:0", path.display()), names })
            }
        }
    }

    /// The TCP port, as the system gave it.
    pub fn port(&self) -> Option<u16> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Listener::Unix(..) => None,
        }
    }

    /// What a log line calls it.
    pub fn name(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map_or_else(|_| "tcp".into(), |address| address.to_string()),
            Listener::Unix(_, path, _) => format!("unix:{}", path.display()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path, _) = self {
            // Already gone is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // A restarted sidecar must not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Nobody can connect before the file's mode and owner are right, because nobody listens until then.
fn listen_unix(path: &Path, how: &UnixSocket) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let ready = || {
        if how.owner != Owner::default() {
            std::os::unix::fs::chown(path, how.owner.user, how.owner.group)?;
        }
        if let Some(mode) = how.mode {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        socket.listen(BACKLOG)
    };
    if let Err(error) = ready() {
        // It is ours, and of no use.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    UnixListener::from_std(std::os::unix::net::UnixListener::from(OwnedFd::from(socket)))
}

fn names_of(uid: u32, users: &[(u32, String)]) -> Vec<String> {
    users.iter().filter(|(id, _)| *id == uid).map(|(_, name)| name.clone()).collect()
}

pub(super) fn set_keepalive(stream: &tokio::net::TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    match keepalive {
        Some(time) => SockRef::from(stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(time / 3 + Duration::from_secs(1))),
        None => Ok(()),
    }
}

impl Accepted {
    /// Where it comes from; `None`: from this machine, by a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Accepted::Tcp { peer, .. } | Accepted::Tls { peer, .. } => Some(*peer),
            Accepted::Unix { .. } => None,
        }
    }

    /// Says why and closes, as a server does that has too many clients. What the socket's buffer does not take is lost with it.
    pub fn refuse(self, reply: &[u8]) {
        use std::io::Write;
        let _ = match self {
            Accepted::Tcp { mut stream, .. } => stream.write(reply),
            Accepted::Unix { mut stream, .. } => stream.write(reply),
            Accepted::Tls { mut stream, mut session, .. } => {
                let mut room = vec![0; ROOM];
                let sealed = session.seal(reply, &mut room).and_then(|len| Ok(len + session.close(&mut room[len..])?));
                stream.write(&room[..sealed.unwrap_or(0)])
            }
        };
    }
}
