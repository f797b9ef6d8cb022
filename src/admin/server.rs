//! Accepting operators and answering them.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::AdminState;
use super::calls::serve_calls;
use super::changes::tell_changes;
use super::definition::{Outcome, Session, answer};
use super::listener::{Arrived, Listener, Stream};
use super::reply::Reply;
use super::request::RequestReader;
use crate::net::ToOperators;
use crate::resp::Proto;
use crate::telemetry::log::RateLimitedLine;
use crate::tls::is_handshake;

/// Connections at once, over all listeners. Operators and their scripts are few, and each may hold a request and its
/// replies.
const CONNECTIONS_MAX: usize = 64;

/// Replies are written before more are made; the buffer holds no more than this and one reply.
const OUTPUT_BYTES: usize = 64 * 1024;

const READ_BYTES: usize = 4 * 1024;

/// A forgotten console gives its place back; redis-cli connects again by itself.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Who does not read an answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who listens to events may have halted the terminal for a while; what happens meanwhile is counted, not kept.
const LISTENER_WRITE_TIMEOUT: Duration = Duration::from_secs(600);

/// When no connection can be accepted (no file descriptor is left), trying again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
#[derive(Clone)]
struct Shared {
    state: AdminState,
    places: Arc<Semaphore>,
    next_id: Arc<AtomicU64>,
    complaints: Arc<Mutex<RateLimitedLine>>,
}

/// Serves the admin port, and the `calls` from clients' ports, until `shutdown` is ready; then cuts every connection and closes the
/// listeners.
pub async fn serve(
    listeners: Vec<Listener>,
    calls: mpsc::UnboundedReceiver<ToOperators>,
    state: AdminState,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shared = Shared { state, places, next_id: Arc::new(AtomicU64::new(1)), complaints: Arc::default() };
    // Dropped at the end of this function, which aborts what is in it.
    let mut accepting = JoinSet::new();
    accepting.spawn(serve_calls(calls, shared.state.clone()));
    accepting.spawn(tell_changes(shared.state.cluster.topology.maps(), shared.state.events.clone()));
    for listener in listeners {
        tracing::info!(address = %listener.address(), "listening for operators");
        accepting.spawn(accept_all(listener, shared.clone()));
    }
    shutdown.await;
}

async fn accept_all(listener: Listener, shared: Shared) {
    let mut connections = JoinSet::new();
    let mut failures = RateLimitedLine::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((arrived, peer)) => {
                    connections.spawn(serve_one(arrived, peer, shared.clone()));
                }
                Err(error) => {
                    if let Some(suppressed) = failures.allow(Instant::now()) {
                        tracing::warn!(%error, suppressed, "cannot accept a connection on {}", listener.address());
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_one(arrived: Arrived, peer: String, shared: Shared) {
    let place = shared.places.try_acquire();
    let mut stream = match (arrived, &place) {
        (Arrived::Plain(stream), _) => stream,
        // Whether a stranger is told why is not worth a handshake.
        (Arrived::Secure(..), Err(_)) => return,
        (arrived, Ok(_)) => match arrived.secured().await {
            Ok(stream) => stream,
            Err(error) => return shared.complain(&peer, &error),
        },
    };
    // Errors end the connection and concern nobody else.
    let _ = match place {
        Ok(_place) => {
            let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
            let outcome =
                converse(&mut stream, Session::new(id, peer.clone(), shared.state.operators.first()), &shared.state).await;
            if let Err(error) = &outcome
                && error.kind() == io::ErrorKind::Unsupported
            {
                shared.complain(&peer, error);
            }
            outcome
        }
        Err(_) => refuse(&mut stream).await,
    };
}

impl Shared {
    fn complain(&self, peer: &str, error: &dyn std::fmt::Display) {
        // Whoever panicked left whole numbers behind.
        let mut line = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = line.allow(Instant::now()) {
            tracing::warn!(operator = %peer, suppressed, "an operator was cut off: {error}");
        }
    }
}

async fn refuse(stream: &mut Box<dyn Stream>) -> io::Result<()> {
    let mut out = BytesMut::new();
    let full = Reply::Error("ERR max number of clients reached".to_owned());
    full.write(Proto::Resp2, &mut out).map_err(io::Error::other)?;
    send(stream, &mut out, WRITE_TIMEOUT).await
}

async fn converse(stream: &mut Box<dyn Stream>, mut session: Session, state: &AdminState) -> io::Result<()> {
    let mut requests = RequestReader::new();
    let mut received = BytesMut::new();
    let mut out = BytesMut::new();
    while !session.closing {
        match requests.read(&mut received) {
            Ok(Some(words)) => {
                let reply = match answer(&words, &mut session, state) {
                    Outcome::Now(reply) => reply,
                    Outcome::Later(reply) => {
                        // What was answered before need not wait for the cluster.
                        send(stream, &mut out, WRITE_TIMEOUT).await?;
                        reply.await
                    }
                };
                reply.write(session.proto, &mut out).map_err(io::Error::other)?;
                if out.len() > OUTPUT_BYTES {
                    send(stream, &mut out, WRITE_TIMEOUT).await?;
                }
            }
            Ok(None) if session.subscribed.is_empty() => {
                send(stream, &mut out, WRITE_TIMEOUT).await?;
                received.reserve(READ_BYTES);
                if timeout(IDLE_TIMEOUT, stream.read_buf(&mut received)).await?? == 0 {
                    return Ok(());
                }
                if is_handshake(&received) {
                    return Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        "expected RESP, found a TLS handshake on a port without TLS",
                    ));
                }
            }
            Ok(None) => {
                send(stream, &mut out, LISTENER_WRITE_TIMEOUT).await?;
                received.reserve(READ_BYTES);
                tokio::select! {
                    read = stream.read_buf(&mut received) => if read? == 0 {
                        return Ok(());
                    },
                    (channel, line) = session.subscribed.next() => {
                        let message = [Reply::bulk("message"), Reply::bulk(channel.name()), Reply::bulk(&line)];
                        Reply::Push(message.into()).write(session.proto, &mut out).map_err(io::Error::other)?;
                    }
                }
            }
            Err(error) => {
                let mut line = Vec::new();
                error.append_reply(&mut line);
                out.extend_from_slice(&line);
                session.closing = true;
            }
        }
    }
    send(stream, &mut out, WRITE_TIMEOUT).await
}

async fn send(stream: &mut Box<dyn Stream>, out: &mut BytesMut, limit: Duration) -> io::Result<()> {
    if !out.is_empty() {
        timeout(limit, stream.write_all_buf(out)).await??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::admin::definition::tests::state;
    use crate::admin::{Channel, bind};
    use crate::config::ListenAddr;

    /// Runs `test` with the address of a served admin port.
    fn with_server<T, F: Future<Output = T>>(listen: &str, test: impl FnOnce(String) -> F) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let address = ListenAddr::parse(listen).expect("the test's own text");
            let listeners = bind("admin.listen", &[address], None).await.expect("a free address");
            let address = listeners[0].address();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let serving = tokio::spawn(serve(listeners, mpsc::unbounded_channel().1, state(), async { drop(stopped.await) }));
            let outcome = test(address).await;
            drop(stop);
            serving.await.expect("serving ends in order");
            outcome
        })
    }

    async fn exchange(stream: &mut (impl Stream + ?Sized), request: &[u8], reply_len: usize) -> String {
        stream.write_all(request).await.expect("the server reads");
        let mut reply = vec![0; reply_len];
        stream.read_exact(&mut reply).await.expect("the server answers");
        String::from_utf8(reply).expect("text")
    }

    async fn rest(stream: &mut (impl Stream + ?Sized)) -> String {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.expect("the server closes");
        rest
    }

    #[test]
    fn a_pipeline_is_answered_in_order_until_quit() {
        with_server("127.0.0.1:0", |address| async move {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            assert_eq!(exchange(&mut stream, b"PING\r\n*1\r\n$4\r\nPI", 7).await, "+PONG\r\n");
            stream.write_all(b"NG\r\nPING a\r\nQUIT\r\nPING b\r\n").await.expect("the server reads");
            assert_eq!(rest(&mut stream).await, "+PONG\r\n$1\r\na\r\n+OK\r\n");
        });
    }

    #[test]
    fn what_is_no_request_is_told_and_closed() {
        #[track_caller]
        fn check(request: &'static [u8], expected: &str) {
            let answer = with_server("127.0.0.1:0", |address| async move {
                let mut stream = TcpStream::connect(address).await.expect("it listens");
                stream.write_all(request).await.expect("the server reads");
                rest(&mut stream).await
            });
            assert_eq!(answer, expected);
        }
        check(b"PING\r\n*z\r\n", "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n");
        check(b"*1\r\n$99999999\r\n", "-ERR Protocol error: invalid bulk length\r\n");
        check(b"POST / HTTP/1.1\r\n", "");
    }

    #[test]
    fn places_are_limited_and_given_back() {
        with_server("127.0.0.1:0", |address| async move {
            let mut connected = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                let mut stream = TcpStream::connect(&address).await.expect("it listens");
                exchange(&mut stream, b"PING\r\n", 7).await;
                connected.push(stream);
            }
            let mut refused = TcpStream::connect(&address).await.expect("it listens");
            assert_eq!(rest(&mut refused).await, "-ERR max number of clients reached\r\n");
            let mut leaving = connected.pop().expect("there are many");
            exchange(&mut leaving, b"QUIT\r\n", 5).await;
            rest(&mut leaving).await;
            let mut next = TcpStream::connect(&address).await.expect("it listens");
            assert_eq!(exchange(&mut next, b"PING\r\n", 7).await, "+PONG\r\n");
        });
    }

    #[test]
    fn a_listener_that_does_not_read_is_told_what_it_missed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // Its end of the wire holds a few lines only.
            let (mut near, far) = tokio::io::duplex(256);
            let (state, lines_told) = (state(), 5000);
            let events = state.events.clone();
            let serving = tokio::spawn(async move {
                let session = Session::new(1, "test:0".to_owned(), state.operators.first());
                let mut stream: Box<dyn Stream> = Box::new(far);
                converse(&mut stream, session, &state).await
            });
            let subscribed = "*3\r\n$9\r\nsubscribe\r\n$17\r\nkeyway:migrations\r\n:1\r\n";
            assert_eq!(exchange(&mut near, b"SUBSCRIBE keyway:migrations\r\n", subscribed.len()).await, subscribed);
            for number in 0..lines_told {
                events.tell(Channel::Migrations, &format!("line {number}."));
                tokio::task::yield_now().await;
            }
            events.tell(Channel::Migrations, "the end.");
            let mut text = String::new();
            while !text.contains("the end.") {
                let mut buffer = [0; 4096];
                let count = near.read(&mut buffer).await.expect("it is served");
                text.push_str(std::str::from_utf8(&buffer[..count]).expect("text"));
            }
            let shown = text.lines().filter(|line| line.contains(" line ")).count();
            let missed: Vec<usize> = text
                .lines()
                .filter_map(|line| line.split_once(" lines missed: this connection reads too slowly"))
                .filter_map(|(count, _)| count.parse().ok())
                .collect();
            assert_eq!(shown + missed.iter().sum::<usize>(), lines_told, "{missed:?}");
            assert!(!missed.is_empty());
            assert_eq!(exchange(&mut near, b"PING\r\n", 20).await, "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
            drop(near);
            serving.await.expect("nothing panics there").expect("it ends in order");
        });
    }

    #[test]
    fn a_unix_socket_is_private_and_gone_afterwards() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("keyway-admin-{}.sock", std::process::id()));
        // What a process that was killed has left behind does not stand in the way.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
        with_server(&format!("unix:{}", path.display()), |_| async {
            let mode = std::fs::metadata(&path).expect("the socket's file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let mut stream = tokio::net::UnixStream::connect(&path).await.expect("it listens");
            assert_eq!(exchange(&mut stream, b"PING\r\n", 7).await, "+PONG\r\n");
            let again =
                bind("admin.listen", &[ListenAddr::Unix(path.clone())], None).await.expect_err("it is in use").to_string();
            assert!(again.contains("cannot listen on unix:") && again.contains("in use"), "{again}");
        });
        assert!(!path.exists());
    }
}
