//! The wire format of Redis (RESP2 and RESP3): bytes only, no command is known here.
//!
//! * [`RequestScanner`] finds where a client's request ends and where its arguments lie,
//!   [`split_inline`] takes an inline line apart, [`Limits`] bounds both, [`ProtocolError`] is what a client hears.
//! * [`ReplyScanner`] finds where a server's reply ends without ever holding all of it.
//! * [`view`] looks into one whole reply, [`encode`] writes replies and commands.
//!
//! No value tree is built: requests and replies are passed on as the bytes they came in. What is accepted
//! follows the servers themselves; where Redis is laxer than Valkey (what may stand for CR LF) the stricter
//! one is followed, because a request that one of them refuses would cost every client on its shared lane.
//!
//! Source: the Redis documentation, "Redis serialization protocol specification", and probes of
//! redis-server 6.2.5, 7.0.15, 8.2.3 and valkey-server 9.1.2.

pub mod encode;
mod error;
mod header;
mod inline;
mod limits;
mod reply;
mod request;
mod view;

#[cfg(test)]
mod oracle;

pub use encode::Proto;
pub use error::{ProtocolError, is_http};
pub use inline::split_inline;
pub use limits::Limits;
pub use reply::{Progress, ReplyError, ReplyScanner, first_reply_len, plain_reply_len};
pub use request::{RequestScanner, Scanned, ShortRequest, Span};
pub use view::{Elements, View, view};
