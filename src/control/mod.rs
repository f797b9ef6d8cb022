//! Connections of the control thread to nodes: RESP2, one question after another or many at once, a time limit on
//! everything. Requests of clients never travel here.

mod connection;
mod dialer;
mod error;
mod libraries;
mod pipeline;
mod stream;

pub use connection::Connection;
pub use dialer::{Credentials, Dialer};
pub use error::{ControlError, Fault};
pub use libraries::{CopyError, copy_libraries};
pub use pipeline::Pipeline;
/// A node's reply. Errors that the node answers are replies too.
pub use redis_protocol::resp2::types::BytesFrame as Reply;
