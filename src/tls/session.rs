//! The records of one connection: taken apart in whatever buffer they were read into, made into whatever buffer they are written from.
//!
//! rustls's unbuffered connections leave buffers to us: a quiet connection owns none, a read takes as much as there is, and one write
//! sends many records.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, Error};

/// Plain bytes that are made into records at once.
pub const PLAIN_MAX: usize = 64 * 1024;

/// Room for the records of [`PLAIN_MAX`] bytes in as many slices as one write has, and for what TLS itself may have to say.
pub const ROOM: usize = PLAIN_MAX + 8 * 1024;

pub(super) enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// See the module's head.
pub struct Session {
    connection: Connection,
    /// The beginning of a record, whose rest has not arrived.
    partial: Vec<u8>,
    /// What arrived with the end of the handshake.
    early: Vec<u8>,
    /// The other side will send nothing more.
    ended: bool,
}

/// What a connection needs next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Again,
    /// More bytes, for the handshake.
    Input,
    /// Nothing: it is open.
    Open,
    Ended,
}

impl Session {
    pub(super) fn new(connection: Connection) -> Self {
        Session { connection, partial: Vec::new(), early: Vec::new(), ended: false }
    }

    /// Goes on with the handshake by what has arrived, of which it leaves what it cannot use yet. What is to be sent is appended to
    /// `out`, also if it fails: then that says why.
    pub(super) fn shake_hands(&mut self, arrived: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Step, Error> {
        let mut early = std::mem::take(&mut self.early);
        let (used, step) = self.connection.run(arrived, out, &mut |plain| {
            early.extend_from_slice(plain);
            true
        });
        self.early = early;
        arrived.drain(..used);
        if step == Ok(Step::Open) {
            self.partial = std::mem::take(arrived);
        }
        step
    }

    pub fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(connection) => connection,
            Connection::Client(connection) => connection,
        }
    }

    /// The certificate that the other side has shown.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.state().peer_certificates()?.first()
    }

    /// What arrived with the end of the handshake, once.
    pub fn take_early(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.early)
    }

    /// The beginning of a record, which is to stand before what is read next.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Whether the other side has said that it will send nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes records apart: `arrived` is [`Session::partial`] and what was read behind it. `take` gets their contents, until it answers
    /// false. What TLS itself has to answer is appended to `out`.
    pub fn open(&mut self, arrived: &mut [u8], out: &mut Vec<u8>, mut take: impl FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let (used, step) = self.connection.run(arrived, out, &mut take);
        self.ended |= step? == Step::Ended;
        let rest = &arrived[used..];
        if rest.is_empty() {
            // A quiet connection owns no buffer.
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Makes records of `plain`, of which there are at most [`PLAIN_MAX`] bytes since `room` was as long as [`ROOM`]; answers how much
    /// of `room` they take.
    pub fn seal(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, Error> {
        self.connection.write(&mut self.partial, |open| match open {
            Open::Server(mut traffic) => traffic.encrypt(plain, room),
            Open::Client(mut traffic) => traffic.encrypt(plain, room),
        })
    }

    /// The words that end a connection in order.
    pub fn close(&mut self, room: &mut [u8]) -> Result<usize, Error> {
        self.connection.write(&mut self.partial, |open| match open {
            Open::Server(mut traffic) => traffic.queue_close_notify(room),
            Open::Client(mut traffic) => traffic.queue_close_notify(room),
        })
    }
}

/// A connection that records can be made for.
enum Open<'c> {
    Server(WriteTraffic<'c, ServerConnectionData>),
    Client(WriteTraffic<'c, ClientConnectionData>),
}

impl Connection {
    /// Takes apart what is whole in `arrived`, until `take` answers false; answers how many bytes of it are done with.
    fn run(
        &mut self,
        arrived: &mut [u8],
        out: &mut Vec<u8>,
        take: &mut dyn FnMut(&[u8]) -> bool,
    ) -> (usize, Result<Step, Error>) {
        let mut used = 0;
        loop {
            let rest = &mut arrived[used..];
            let (discard, step) = match self {
                Connection::Server(connection) => digest(connection.process_tls_records(rest), out, take),
                Connection::Client(connection) => digest(connection.process_tls_records(rest), out, take),
            };
            used += discard;
            match step {
                Ok(Step::Again) => {}
                Err(error) => {
                    // The alert that tells the other side why stands ready, and is asked for before anything else is looked at.
                    let rest = &mut arrived[used..];
                    let _ = match self {
                        Connection::Server(connection) => digest(connection.process_tls_records(rest), out, take),
                        Connection::Client(connection) => digest(connection.process_tls_records(rest), out, take),
                    };
                    return (used, Err(error));
                }
                step => return (used, step),
            }
        }
    }

    /// Brings the connection to where records can be made, and makes some. `partial` is what it may still need to look at.
    fn write(&mut self, partial: &mut [u8], write: impl FnOnce(Open<'_>) -> Result<usize, EncryptError>) -> Result<usize, Error> {
        let written = match self {
            Connection::Server(connection) => match connection.process_tls_records(partial).state? {
                ConnectionState::WriteTraffic(traffic) => write(Open::Server(traffic)),
                _ => return Err(Error::HandshakeNotComplete),
            },
            Connection::Client(connection) => match connection.process_tls_records(partial).state? {
                ConnectionState::WriteTraffic(traffic) => write(Open::Client(traffic)),
                _ => return Err(Error::HandshakeNotComplete),
            },
        };
        written.map_err(|error| Error::General(error.to_string()))
    }
}

/// Does what one state of a connection asks for; answers how many bytes of what arrived are done with.
fn digest<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Vec<u8>,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut step = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        if !take(record.payload) {
                            step = Ok(Step::Ended);
                            break;
                        }
                    }
                    Err(error) => {
                        step = Err(error);
                        break;
                    }
                }
            }
            step
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let begin = out.len();
            let written = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(missing)) => {
                    out.resize(begin + missing.required_size, 0);
                    data.encode(&mut out[begin..])
                }
                written => written,
            };
            written.map(|_| Step::Again).map_err(|error| Error::General(error.to_string()))
        }
        // It stands in `out` and is sent before anything else.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Input),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Open),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Ended),
        // Early data, which is not asked for.
        Ok(_) => Err(Error::HandshakeNotComplete),
        Err(error) => Err(error),
    };
    (discard, step)
}
