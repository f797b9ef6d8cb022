//! What goes wrong between the control thread and a node.

use std::io;
use std::time::Duration;

use crate::cluster::Addr;
use crate::tls::Failure;

/// A question that a node did not answer. (An error that the node answered is a reply.)
#[derive(Debug, thiserror::Error)]
#[error("node {addr}: {fault}")]
pub struct ControlError {
    pub addr: Addr,
    pub fault: Fault,
}

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("expected a connection, found {0}")]
    Dial(io::Error),
    #[error(transparent)]
    Tls(Failure),
    #[error("expected a connection within {0:?}, found none")]
    DialTimeout(Duration),
    #[error("expected AUTH to succeed, found {0:?}")]
    Auth(String),
    #[error("expected a reply within {0:?}, found none")]
    Timeout(Duration),
    #[error("expected a reply, found the connection closed")]
    Closed,
    #[error("expected a reply, found {0}")]
    Io(io::Error),
    #[error("expected RESP2, found {0:?}")]
    Protocol(String),
    #[error("expected a connection that can be named and found, found '{0}'")]
    Refused(String),
}

impl ControlError {
    /// Whether the node may have carried the question out all the same: it was on its way.
    pub fn outcome_unknown(&self) -> bool {
        match self.fault {
            Fault::Dial(_) | Fault::Tls(_) | Fault::DialTimeout(_) | Fault::Auth(_) | Fault::Refused(_) => false,
            Fault::Timeout(_) | Fault::Closed | Fault::Io(_) | Fault::Protocol(_) => true,
        }
    }
}
