//! A client's task: reads while the engine wants more, writes when the flusher found no room.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::net::{TcpStream, UnixStream};

use crate::{
    engine::{ClientId, Face},
    tls,
};

use super::{
    listener::Accepted,
    secured::Secured,
    socket::{Socket, Stream},
    worker::Worker,
};

/// Reads of one socket in one turn: a client that sends without end does not keep others waiting.
pub(super) const READS_A_TURN: usize = 4;

/// Takes over a connection.
pub(super) fn start(worker: &Rc<Worker>, accepted: Accepted, public_id: u64, face: Face) {
    let (stream, peer, local, names) = match register(accepted) {
        Ok(registered) => registered,
        Err(error) => {
            tracing::warn!(%error, "a new client's connection could not be used");
            worker.client_refused();
            return;
        }
    };
    let client = worker.with_engine(|engine| engine.client_open_as(public_id, &peer, &local, face));
    if !names.is_empty() {
        worker.with_engine(|engine| engine.client_shows(client, &names));
    }
    let socket = Rc::new(Socket::new(stream));
    worker.clients.borrow_mut().insert(client, socket.clone());
    worker.client_opened();
    tokio::task::spawn_local(run(worker.clone(), client, socket));
}

/// The stream, both its ends, and the names that it shows.
fn register(accepted: Accepted) -> io::Result<(Stream, String, String, Vec<String>)> {
    Ok(match accepted {
        Accepted::Tcp { stream, peer, local } => (Stream::Tcp(TcpStream::from_std(stream)?), peer.to_string(), local, Vec::new()),
        Accepted::Tls { stream, session, peer, local, names } => {
            (Stream::Tls(Box::new(Secured::new(TcpStream::from_std(stream)?, session))), peer.to_string(), local, names)
        }
        Accepted::Unix { stream, path, names } => (Stream::Unix(UnixStream::from_std(stream)?), path.clone(), path, names),
    })
}

async fn run(worker: Rc<Worker>, client: ClientId, socket: Rc<Socket>) {
    let mut ended = false;
    // A client that speaks TLS to a plain port shows it at once.
    let mut silent = !socket.is_secured();
    poll_fn(|context| {
        if socket.closed.get() {
            return Poll::Ready(());
        }
        socket.remember(context);
        write_on(&worker, client, &socket, context);
        if ended {
            return if socket.closed.get() { Poll::Ready(()) } else { Poll::Pending };
        }
        read_on(&worker, client, &socket, context, &mut ended, &mut silent)
    })
    .await;
    // Its engine id may belong to another by now if it was closed by the engine; then the table has no such socket.
    if socket.is_secured() {
        // In a box of its own: the task of a client in plain text, of which there may be thousands, keeps no room for it.
        Box::pin(socket.finish()).await;
    }
}

fn write_on(worker: &Rc<Worker>, client: ClientId, socket: &Socket, context: &mut Context<'_>) {
    while socket.write_blocked.get() && !socket.closed.get() {
        match socket.poll_write_ready(context) {
            Poll::Pending => return,
            Poll::Ready(Ok(())) => {
                socket.write_blocked.set(false);
                worker.flush_client(client);
            }
            Poll::Ready(Err(_)) => worker.close_client(client),
        }
    }
}

fn read_on(
    worker: &Rc<Worker>,
    client: ClientId,
    socket: &Rc<Socket>,
    context: &mut Context<'_>,
    ended: &mut bool,
    silent: &mut bool,
) -> Poll<()> {
    for _ in 0..READS_A_TURN {
        if socket.closed.get() {
            return Poll::Ready(());
        }
        if !worker.engine.borrow().client_reads(client) {
            return Poll::Pending;
        }
        let mut scratch = worker.scratch.borrow_mut();
        let take = |bytes: &[u8]| {
            if std::mem::take(silent) && tls::is_handshake(bytes) {
                worker.refuse_tls(client);
            } else {
                worker.with_engine(|engine| engine.client_bytes(client, bytes));
            }
            !socket.closed.get()
        };
        match socket.poll_receive(context, &mut scratch, take) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(true)) => {}
            Poll::Ready(Ok(false)) => {
                *ended = true;
                worker.with_engine(|engine| engine.client_eof(client));
                return if socket.closed.get() { Poll::Ready(()) } else { Poll::Pending };
            }
            Poll::Ready(Err(_)) => {
                worker.close_client(client);
                return Poll::Ready(());
            }
        }
    }
    context.waker().wake_by_ref();
    Poll::Pending
}
