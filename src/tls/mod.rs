//! TLS, by rustls with the crypto of ring: configurations from files, and kept as the files are; handshakes; records.
//!
//! ring needs a C compiler and nothing else to build, and adds the least to the program; TLS 1.2 and 1.3 are spoken, nothing older.
//!
//! A worker's connections are [`Session`]s, which take records apart in the worker's own buffers. Whoever has few connections and needs
//! streams (control, admin) uses tokio-rustls with the same configurations.

mod files;
mod handshake;
mod live;
mod names;
mod nodes;
mod session;

pub use files::{ClientCertificates, FileError, Identity, NodeFiles, ServerFiles, Verify, Version, Which};
pub use handshake::{Failure, accept, connect, is_alert, is_handshake};
pub use live::{Files, Live, Reloads, follow};
pub use names::{CertificateName, expires_at, names};
pub use nodes::NodeTls;
pub use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
pub use session::{PLAIN_MAX, ROOM, Session};

#[cfg(test)]
mod tests;
