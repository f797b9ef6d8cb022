//! A lane's task: dials the node, then reads until the connection ends.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::net::TcpStream;

use crate::{cluster::Addr, engine::LaneId, tls};

use super::{
    clients::READS_A_TURN,
    listener::set_keepalive,
    secured::Secured,
    socket::{Socket, Stream},
    worker::{NodesTls, Worker},
};

pub(super) fn start(worker: &Rc<Worker>, lane: LaneId, addr: Addr) {
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let dialled = tokio::time::timeout(worker.config.dial_timeout, dial(&worker, &addr)).await;
        let stream = match dialled {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(node = %addr, %error, "a node cannot be reached");
                return worker.with_engine(|engine| engine.lane_lost(lane));
            }
            Err(_) => {
                tracing::debug!(node = %addr, "a node did not answer in time");
                return worker.with_engine(|engine| engine.lane_lost(lane));
            }
        };
        let socket = Rc::new(Socket::new(stream));
        worker.lanes.borrow_mut().insert(lane, socket.clone());
        if !worker.with_engine(|engine| engine.lane_connected(lane)) {
            worker.lanes.borrow_mut().remove(&lane);
            return;
        }
        poll_fn(|context| poll(&worker, lane, &addr, &socket, context)).await;
    });
}

async fn dial(worker: &Worker, addr: &Addr) -> io::Result<Stream> {
    let stream = TcpStream::connect((addr.host(), addr.port())).await?;
    stream.set_nodelay(true)?;
    set_keepalive(&stream, worker.config.keepalive)?;
    let Some(NodesTls { tls, handshakes }) = &worker.config.nodes_tls else { return Ok(Stream::Tcp(stream)) };
    let made = handshakes.connect(stream.into_std()?, tls, addr.host()).await;
    let (stream, session) = made.map_err(io::Error::other)?;
    Ok(Stream::Tls(Box::new(Secured::new(TcpStream::from_std(stream)?, Box::new(session)))))
}

fn poll(worker: &Rc<Worker>, lane: LaneId, addr: &Addr, socket: &Rc<Socket>, context: &mut Context<'_>) -> Poll<()> {
    socket.remember(context);
    while socket.write_blocked.get() && !socket.closed.get() {
        match socket.poll_write_ready(context) {
            Poll::Pending => break,
            Poll::Ready(Ok(())) => {
                socket.write_blocked.set(false);
                worker.flush_lane(lane);
            }
            Poll::Ready(Err(_)) => worker.lane_ended(lane),
        }
    }
    for _ in 0..READS_A_TURN {
        if socket.closed.get() {
            return Poll::Ready(());
        }
        let mut scratch = worker.scratch.borrow_mut();
        let take = |bytes: &[u8]| {
            worker.with_engine(|engine| engine.lane_bytes(lane, bytes));
            !socket.closed.get()
        };
        match socket.poll_receive(context, &mut scratch, take) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(true)) => {}
            Poll::Ready(ended) => {
                drop(scratch);
                // In TLS 1.3 a node says after the handshake that it does not like the proxy's certificate.
                if let (Err(error), Some(NodesTls { handshakes, .. })) = (ended, &worker.config.nodes_tls)
                    && tls::is_alert(&error)
                {
                    handshakes.node_failed(addr.as_str(), &error);
                }
                worker.lane_ended(lane);
                return Poll::Ready(());
            }
        }
    }
    context.waker().wake_by_ref();
    Poll::Pending
}
