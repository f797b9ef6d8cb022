//! A lane's task: dials the node, then reads until the connection ends.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{io::ReadBuf, net::TcpStream};

use crate::{cluster::Addr, engine::LaneId};

use super::{
    clients::READS_A_TURN,
    listener::set_keepalive,
    socket::{Socket, Stream},
    worker::Worker,
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
        let socket = Rc::new(Socket::new(Stream::Tcp(stream)));
        worker.lanes.borrow_mut().insert(lane, socket.clone());
        if !worker.with_engine(|engine| engine.lane_connected(lane)) {
            worker.lanes.borrow_mut().remove(&lane);
            return;
        }
        poll_fn(|context| poll(&worker, lane, &socket, context)).await;
    });
}

async fn dial(worker: &Worker, addr: &Addr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((addr.host(), addr.port())).await?;
    stream.set_nodelay(true)?;
    set_keepalive(&stream, worker.config.keepalive)?;
    Ok(stream)
}

fn poll(worker: &Rc<Worker>, lane: LaneId, socket: &Rc<Socket>, context: &mut Context<'_>) -> Poll<()> {
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
        let mut buffer = ReadBuf::new(&mut scratch);
        match socket.poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                worker.with_engine(|engine| engine.lane_bytes(lane, buffer.filled()))
            }
            Poll::Ready(_) => {
                drop(scratch);
                worker.lane_ended(lane);
                return Poll::Ready(());
            }
        }
    }
    context.waker().wake_by_ref();
    Poll::Pending
}
