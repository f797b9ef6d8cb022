//! tokio drivers of the engine: sockets in, bytes across, bytes out. Nothing is decided here.
//!
//! A worker is a thread with one current-thread runtime: a task a socket, one flusher behind them in the runtime's queue, one timer.
//! Tasks read and feed the engine; the flusher then writes every dirty lane and client once.

mod clients;
mod clock;
mod forwarded;
mod gate;
mod handshakes;
mod lanes;
mod listener;
mod memory;
mod owner;
mod secured;
mod socket;
mod worker;

pub use crate::engine::{ProxyAnswer, ProxyCall};
pub use clock::Clock;
pub use gate::Gate;
pub use handshakes::{Arrival, Entry, HandshakeTally, Handshakes};
pub use listener::{Accepted, BindError, Listener, UnixSocket};
pub use memory::give_back_for_ever;
pub use owner::{Owner, user_id};
pub use worker::{NodesTls, Shared, ToOperators, ToWorker, WorkerConfig, WorkerHandle, WorkerStats};
