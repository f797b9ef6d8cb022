//! TLS handshakes with clients and nodes, on a thread of their own: each is up to a millisecond of computing, and a thousand clients that
//! come at once must not keep a worker's other clients waiting. A worker gets connections that are ready for requests.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::telemetry::log::RateLimitedLine;
use crate::tls::{self, CertificateName, Failure, NodeTls, ServerConfig, Session};

use super::listener::Accepted;

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

    /// Shakes hands with a client, and hands over the connection with the names of its certificate if that succeeds.
    pub fn accept(
        &self,
        accepted: Accepted,
        config: Arc<ServerConfig>,
        named_by: Option<CertificateName>,
        place: OwnedSemaphorePermit,
        hand_over: impl FnOnce(Accepted) + Send + 'static,
    ) {
        // A unix socket is not encrypted: the configuration allows no such listener.
        let Accepted::Tcp { stream, peer, local } = accepted else { return };
        let Handshakes { limit, tally, complaints, .. } = self.clone();
        self.runtime.spawn(async move {
            let _place = place;
            let made = timeout(limit, server_side(stream, config)).await.unwrap_or(Err(Failure::Timeout(limit)));
            match made {
                Ok((stream, session)) => {
                    tally.clients.fetch_add(1, Relaxed);
                    let certificate = session.peer_certificate().zip(named_by);
                    let names = certificate.map_or_else(Vec::new, |(certificate, kind)| tls::names(certificate, kind));
                    hand_over(Accepted::Tls { stream, session: Box::new(session), peer, local, names });
                }
                Err(error) => {
                    tally.clients_failed.fetch_add(1, Relaxed);
                    if let Some(suppressed) = may_complain(&complaints.clients) {
                        tracing::warn!(client = %peer, listener = %local, suppressed, "a client's TLS handshake failed: {error}");
                    }
                }
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

async fn server_side(stream: std::net::TcpStream, config: Arc<ServerConfig>) -> Result<(std::net::TcpStream, Session), Failure> {
    let stream = TcpStream::from_std(stream)?;
    let outcome = tls::accept(&stream, config).await;
    if let Err(Failure::Plain) = outcome {
        // Whoever reads it knows what to do. If there is no room for it, nobody is reading.
        let _ = stream.try_write(b"-ERR proxy: this port speaks TLS only\r\n");
    }
    Ok((stream.into_std()?, outcome?))
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
