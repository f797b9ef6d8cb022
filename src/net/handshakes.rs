//! What comes before requests, on a thread of its own: TLS handshakes with clients and nodes, and headers that say whose a connection is.
//! A handshake is up to a millisecond of computing, and a thousand clients that come at once must not keep a worker's other clients
//! waiting. A worker gets connections that are ready for requests.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::telemetry::log::RateLimitedLine;
use crate::tls::{self, CertificateName, Failure, Live, NodeTls, ServerConfig, Session};

use super::forwarded::{HeaderError, read_header};
use super::gate::Gate;
use super::listener::Accepted;
use super::worker::Shared;

/// TLS for the clients of a listener.
#[derive(Clone)]
pub struct Entry {
    pub config: Live<ServerConfig>,
    /// What of a certificate names its user.
    pub named_by: Option<CertificateName>,
}

/// A connection that something comes before the requests of.
pub struct Arrival {
    pub accepted: Accepted,
    /// It begins with a header that says whose it is.
    pub forwarded: bool,
    /// TLS comes then.
    pub entry: Option<Entry>,
    pub place: OwnedSemaphorePermit,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
enum NotLetIn {
    #[error("a client's TLS handshake failed: {0}")]
    Tls(#[from] Failure),
    #[error("a connection was cut off: {0}")]
    Header(#[from] HeaderError),
    #[error("a client was cut off: expected an address that proxy.allow_from and proxy.deny_from let in, found {0}")]
    Address(IpAddr),
    #[error("a connection was cut off: expected it to begin within {0:?}, found nothing, or not all of it")]
    Timeout(Duration),
}

/// What became of handshakes so far.
#[derive(Debug, Default)]
pub struct HandshakeTally {
    pub clients: AtomicU64,
    pub clients_failed: AtomicU64,
    pub nodes: AtomicU64,
    pub nodes_failed: AtomicU64,
}

/// The way to the thread, which ends with the last of these.
#[derive(Clone)]
pub struct Handshakes {
    runtime: tokio::runtime::Handle,
    places: Arc<Semaphore>,
    limit: Duration,
    tally: Arc<HandshakeTally>,
    complaints: Arc<Complaints>,
    _ends_thread: Arc<oneshot::Sender<()>>,
}

/// One line a second at most, for each side.
#[derive(Default)]
struct Complaints {
    clients: Mutex<RateLimitedLine>,
    nodes: Mutex<RateLimitedLine>,
}

fn may_complain(line: &Mutex<RateLimitedLine>) -> Option<u64> {
    // Whoever panicked left whole numbers behind.
    line.lock().unwrap_or_else(PoisonError::into_inner).allow(Instant::now())
}

impl Handshakes {
    /// Starts the thread. `limit` is for each handshake with a client, of which there are `clients_max` at once.
    pub fn start(limit: Duration, clients_max: usize) -> io::Result<Handshakes> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ends_thread, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("handshakes".into()).spawn(move || {
            // The sender is never used, only dropped.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Handshakes {
            runtime: handle,
            places: Arc::new(Semaphore::new(clients_max)),
            limit,
            tally: Arc::default(),
            complaints: Arc::default(),
            _ends_thread: Arc::new(ends_thread),
        })
    }

    pub fn tally(&self) -> Arc<HandshakeTally> {
        self.tally.clone()
    }

    /// A place for a handshake with a client; waits while there are too many.
    pub async fn place(&self) -> OwnedSemaphorePermit {
        self.places.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Prepares a client's connection, and hands it over if that succeeds.
    pub fn accept(
        &self,
        arrival: Arrival,
        gate: Arc<Gate>,
        shared: Arc<Shared>,
        hand_over: impl FnOnce(Accepted) + Send + 'static,
    ) {
        let Arrival { accepted, forwarded, entry, place } = arrival;
        // A unix socket has neither: the configuration allows no such listener.
        let Accepted::Tcp { stream, peer: sender, local } = accepted else { return };
        let Handshakes { limit, tally, complaints, .. } = self.clone();
        self.runtime.spawn(async move {
            let _place = place;
            let name = local.clone();
            let preparing = prepare(stream, sender, local, forwarded, entry, &gate);
            let error = match timeout(limit, preparing).await.unwrap_or(Err(NotLetIn::Timeout(limit))) {
                Ok(prepared) => {
                    if let Accepted::Tls { .. } = prepared {
                        tally.clients.fetch_add(1, Relaxed);
                    }
                    return hand_over(prepared);
                }
                Err(error) => error,
            };
            let counter = match &error {
                NotLetIn::Tls(_) => &tally.clients_failed,
                NotLetIn::Timeout(_) if !forwarded => &tally.clients_failed,
                NotLetIn::Timeout(_) | NotLetIn::Header(_) => &shared.without_header,
                NotLetIn::Address(_) => &shared.refused_by_address,
            };
            counter.fetch_add(1, Relaxed);
            if let Some(suppressed) = may_complain(&complaints.clients) {
                tracing::warn!(client = %sender, listener = %name, suppressed, "{error}");
            }
        });
    }

    /// Shakes hands with the node that was dialled at `host`, for as long as the caller waits.
    pub async fn connect(
        &self,
        stream: std::net::TcpStream,
        tls: &NodeTls,
        host: &str,
    ) -> Result<(std::net::TcpStream, Session), Failure> {
        let made = match tls.for_host(host) {
            Ok((config, name)) => {
                let task = self.runtime.spawn(async move {
                    let stream = TcpStream::from_std(stream)?;
                    let session = tls::connect(&stream, config, name).await?;
                    Ok((stream.into_std()?, session))
                });
                let _cancelled_with_us = AbortOnDrop(task.abort_handle());
                // The thread is ending, or the task was cancelled.
                task.await.unwrap_or(Err(Failure::Closed))
            }
            Err(error) => Err(error),
        };
        match &made {
            Ok(_) => _ = self.tally.nodes.fetch_add(1, Relaxed),
            Err(error) => self.node_failed(host, error),
        }
        made
    }

    /// A connection to a node came to nothing, for a reason that an operator has to know.
    pub fn node_failed(&self, node: &str, error: &dyn std::fmt::Display) {
        self.tally.nodes_failed.fetch_add(1, Relaxed);
        if let Some(suppressed) = may_complain(&self.complaints.nodes) {
            tracing::warn!(%node, suppressed, "a TLS connection to a node failed: {error}");
        }
    }
}

async fn prepare(
    stream: std::net::TcpStream,
    sender: SocketAddr,
    local: String,
    forwarded: bool,
    entry: Option<Entry>,
    gate: &Gate,
) -> Result<Accepted, NotLetIn> {
    let mut stream = TcpStream::from_std(stream).map_err(Failure::Io)?;
    let mut peer = sender;
    if forwarded && let Some(client) = read_header(&mut stream).await? {
        peer = client;
        if !gate.lets_in(peer.ip()) {
            return Err(NotLetIn::Address(peer.ip()));
        }
    }
    let Some(Entry { config, named_by }) = entry else {
        return Ok(Accepted::Tcp { stream: stream.into_std().map_err(Failure::Io)?, peer, local });
    };
    let session = tls::accept(&stream, config.now()).await.inspect_err(|failure| {
        if let Failure::Plain = failure {
            // Whoever reads it knows what to do. If there is no room for it, nobody is reading.
            let _ = stream.try_write(b"-ERR proxy: this port speaks TLS only\r\n");
        }
    })?;
    let certificate = session.peer_certificate().zip(named_by);
    let names = certificate.map_or_else(Vec::new, |(certificate, kind)| tls::names(certificate, kind));
    let stream = stream.into_std().map_err(Failure::Io)?;
    Ok(Accepted::Tls { stream, session: Box::new(session), peer, local, names })
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
