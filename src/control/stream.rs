//! What carries a connection to a node.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::{Failure, NodeTls};

#[derive(Debug)]
pub(super) enum NodeStream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl NodeStream {
    /// Shakes hands with the node that was dialled at `host`.
    pub async fn secure(stream: TcpStream, tls: &NodeTls, host: &str) -> Result<NodeStream, Failure> {
        let (config, name) = tls.for_host(host)?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(Failure::of_stream)?;
        Ok(NodeStream::Secured(Box::new(stream)))
    }
}

impl AsyncRead for NodeStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NodeStream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            NodeStream::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for NodeStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            NodeStream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            NodeStream::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NodeStream::Plain(stream) => Pin::new(stream).poll_flush(context),
            NodeStream::Secured(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            NodeStream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            NodeStream::Secured(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
