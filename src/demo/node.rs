//! A connection to one node, one command at a time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

/// A node of the demo answers in milliseconds; longer is a node that hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the node 127.0.0.1:{port} cannot be asked {command}: {error}")]
    Connection { port: u16, command: String, error: std::io::Error },
    #[error("the node 127.0.0.1:{port} answered {command} with: {answer}")]
    Refused { port: u16, command: String, answer: String },
}

#[derive(Debug)]
pub(super) struct Node {
    pub port: u16,
    stream: TcpStream,
}

impl Node {
    pub fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { port, stream })
    }

    /// Sends one command and returns its answer as text. An error reply is an error.
    pub fn ask(&mut self, command: &[&str]) -> Result<String, NodeError> {
        let shown = command[..command.len().min(2)].join(" ");
        let refused = |port, answer: String| NodeError::Refused { port, command: shown.clone(), answer };
        let answer = self.exchange(command).map_err(|error| {
            let command = shown.clone();
            NodeError::Connection { port: self.port, command, error }
        })?;
        match answer {
            OwnedFrame::Error(answer) => Err(refused(self.port, answer)),
            answer => answer.to_string().ok_or_else(|| refused(self.port, format!("{answer:?}"))),
        }
    }

    fn exchange(&mut self, command: &[&str]) -> std::io::Result<OwnedFrame> {
        let mut request = format!("*{}\r\n", command.len());
        for argument in command {
            request += &format!("${}\r\n{argument}\r\n", argument.len());
        }
        self.stream.write_all(request.as_bytes())?;
        let mut received = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            let len = self.stream.read(&mut chunk)?;
            if len == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&chunk[..len]);
            if let Some((answer, _)) = decode(&received).map_err(std::io::Error::other)? {
                return Ok(answer);
            }
        }
    }
}
