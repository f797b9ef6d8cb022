//! A TCP connection with TLS: reads and writes whole buffers, as many records at once as there are.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::{PLAIN_MAX, ROOM, Session};

use super::socket::Written;

pub struct Secured {
    stream: TcpStream,
    session: Box<Session>,
    /// Records that the system had no room for.
    unsent: Vec<u8>,
}

impl Secured {
    pub fn new(stream: TcpStream, session: Box<Session>) -> Self {
        Secured { stream, session, unsent: Vec::new() }
    }

    /// As [`super::socket::Socket::poll_receive`].
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        scratch: &mut [u8],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Poll<io::Result<bool>> {
        let early = self.session.take_early();
        if !early.is_empty() {
            take(&early);
            return Poll::Ready(Ok(true));
        }
        if self.session.has_ended() {
            return Poll::Ready(Ok(false));
        }
        let partial = self.session.partial();
        let held = partial.len();
        scratch[..held].copy_from_slice(partial);
        let mut buffer = ReadBuf::new(&mut scratch[held..]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        let end = held + buffer.filled().len();
        if end == held {
            // Without a word of farewell, as many clients do it. What was begun and is not whole is carried out by nobody.
            return Poll::Ready(Ok(false));
        }
        let opened = self.session.open(&mut scratch[..end], &mut self.unsent, take);
        // An answer of TLS itself, or the alert that says what was wrong.
        let pushed = self.push_out();
        opened.map_err(io::Error::other)?;
        pushed?;
        Poll::Ready(Ok(true))
    }

    /// As [`super::socket::Socket::try_write`].
    pub fn try_write(&mut self, slices: &[IoSlice<'_>], room: &mut Vec<u8>) -> io::Result<Written> {
        room.resize(ROOM, 0);
        let (mut count, mut sealed) = (0, 0);
        for slice in slices {
            let part = &slice[..slice.len().min(PLAIN_MAX - count)];
            sealed += self.session.seal(part, &mut room[sealed..]).map_err(io::Error::other)?;
            count += part.len();
        }
        let sent = self.send(&room[..sealed])?;
        self.unsent.extend_from_slice(&room[sent..sealed]);
        Ok(Written { count, blocked: sent < sealed })
    }

    /// Sends what there was no room for; answers whether that is all of it.
    pub fn push_out(&mut self) -> io::Result<bool> {
        if self.unsent.is_empty() {
            return Ok(true);
        }
        let sent = self.send(&self.unsent)?;
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            // A client that reads again needs no buffer any more.
            self.unsent = Vec::new();
        }
        Ok(self.unsent.is_empty())
    }

    pub fn is_pushed_out(&self) -> bool {
        self.unsent.is_empty()
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.try_write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(context)
    }

    /// Says that nothing more will come, behind what is still to be sent.
    pub fn say_goodbye(&mut self) {
        let mut room = [0; 256];
        // A session that failed has said so already.
        if let Ok(len) = self.session.close(&mut room) {
            self.unsent.extend_from_slice(&room[..len]);
        }
    }
}
