//! One connection: TCP, with TLS or without, or unix, and what its task and the flusher share.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::engine::ClientId;

use super::secured::Secured;

/// How long the end of a connection with TLS may take, during which a client may read what it was sent last.
const FAREWELL: Duration = Duration::from_secs(1);

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

    /// Whether records are still to be sent that the engine knows nothing of any more.
    pub fn are_sending(&self) -> bool {
        self.0.iter().flatten().any(|socket| !socket.is_pushed_out())
    }

    pub fn remove(&mut self, client: ClientId) -> Option<Rc<Socket>> {
        self.0.get_mut(client.0 as usize)?.take()
    }
}

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Secured>),
}

/// What came of a write.
pub struct Written {
    /// Bytes that need not be written again.
    pub count: usize,
    /// There is no room for more.
    pub blocked: bool,
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

    /// Reads what has arrived, by way of `scratch`, into `take`: at once, or with TLS record by record, until it answers false. Answers
    /// whether more may come.
    pub fn poll_receive(
        &self,
        context: &mut Context<'_>,
        scratch: &mut [u8],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Poll<io::Result<bool>> {
        let mut buffer = ReadBuf::new(scratch);
        match &mut *self.stream.borrow_mut() {
            Stream::Tcp(stream) => ready!(Pin::new(stream).poll_read(context, &mut buffer))?,
            Stream::Unix(stream) => ready!(Pin::new(stream).poll_read(context, &mut buffer))?,
            Stream::Tls(stream) => return stream.poll_receive(context, scratch, take),
        }
        let received = buffer.filled();
        if !received.is_empty() {
            take(received);
        }
        Poll::Ready(Ok(!received.is_empty()))
    }

    pub fn is_secured(&self) -> bool {
        matches!(*self.stream.borrow(), Stream::Tls(_))
    }

    /// Writes without waiting, with TLS by way of `room`, which is made the first time.
    pub fn try_write(&self, slices: &[IoSlice<'_>], room: &RefCell<Vec<u8>>) -> io::Result<Written> {
        let written = match (&mut *self.stream.borrow_mut(), slices) {
            (Stream::Tcp(stream), [slice]) => stream.try_write(slice),
            (Stream::Unix(stream), [slice]) => stream.try_write(slice),
            (Stream::Tcp(stream), slices) => stream.try_write_vectored(slices),
            (Stream::Unix(stream), slices) => stream.try_write_vectored(slices),
            (Stream::Tls(stream), slices) => return stream.try_write(slices, &mut room.borrow_mut()),
        };
        match written {
            Ok(count) => Ok(Written { count, blocked: count < slices.iter().map(|slice| slice.len()).sum() }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Written { count: 0, blocked: true }),
            Err(error) => Err(error),
        }
    }

    /// Sends what was taken before and found no room; answers whether that is all of it.
    pub fn push_out(&self) -> io::Result<bool> {
        match &mut *self.stream.borrow_mut() {
            Stream::Tls(stream) => stream.push_out(),
            _ => Ok(true),
        }
    }

    /// Whether all that was taken has been sent.
    pub fn is_pushed_out(&self) -> bool {
        match &*self.stream.borrow() {
            Stream::Tls(stream) => stream.is_pushed_out(),
            _ => true,
        }
    }

    /// Ends a connection that the engine is done with: with TLS what was taken has to be sent, and the end to be said.
    pub async fn finish(&self) {
        if let Stream::Tls(stream) = &mut *self.stream.borrow_mut() {
            stream.say_goodbye();
        } else {
            return;
        }
        let sent = poll_fn(|context| {
            loop {
                match self.push_out() {
                    Ok(false) => ready!(self.poll_write_ready(context))?,
                    Ok(true) => return Poll::Ready(Ok(())),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        });
        // Whoever does not read, or is gone, will miss it.
        let _: Result<io::Result<()>, _> = tokio::time::timeout(FAREWELL, sent).await;
    }

    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self.stream.borrow() {
            Stream::Tcp(stream) => stream.poll_write_ready(context),
            Stream::Tls(stream) => stream.poll_write_ready(context),
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
