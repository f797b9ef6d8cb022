//! One connection: TCP or unix, and what its task and the flusher share.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::engine::ClientId;

/// A worker's clients' sockets by the engine's ids, which are small and dense: every write to a client begins with a look in here.
#[derive(Default)]
pub struct Sockets(Vec<Option<Rc<Socket>>>);

impl Sockets {
    pub fn get(&self, client: ClientId) -> Option<&Rc<Socket>> {
        self.0.get(client.0 as usize)?.as_ref()
    }

    pub fn insert(&mut self, client: ClientId, socket: Rc<Socket>) {
        let place = client.0 as usize;
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(socket);
    }

    pub fn remove(&mut self, client: ClientId) -> Option<Rc<Socket>> {
        self.0.get_mut(client.0 as usize)?.take()
    }
}

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// See the module's head. Lives on one thread.
pub struct Socket {
    stream: RefCell<Stream>,
    waker: RefCell<Option<Waker>>,
    /// The last write could not take everything: its task waits for room.
    pub write_blocked: Cell<bool>,
    /// Its task is to end.
    pub closed: Cell<bool>,
}

impl Socket {
    pub fn new(stream: Stream) -> Self {
        Socket {
            stream: RefCell::new(stream),
            waker: RefCell::new(None),
            write_blocked: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self.stream.borrow_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    /// Writes without waiting. `WouldBlock` when there is no room.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (&*self.stream.borrow(), slices) {
            (Stream::Tcp(stream), [slice]) => stream.try_write(slice),
            (Stream::Unix(stream), [slice]) => stream.try_write(slice),
            (Stream::Tcp(stream), slices) => stream.try_write_vectored(slices),
            (Stream::Unix(stream), slices) => stream.try_write_vectored(slices),
        }
    }

    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self.stream.borrow() {
            Stream::Tcp(stream) => stream.poll_write_ready(context),
            Stream::Unix(stream) => {
                ready!(stream.poll_write_ready(context))?;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Remembers whom to wake when the engine has something for the socket's task.
    pub fn remember(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    pub fn close(&self) {
        self.closed.set(true);
        self.wake();
    }
}
