//! Keyway against real servers, real clients and real trouble.
//!
//! Every test starts what it needs (a standalone server, a cluster, the proxy) on free ports in a folder of its own
//! and stops it at its end. `tests/run.sh` installs the servers; a test whose server is missing fails and says so.

mod harness;

mod addresses;
mod admin;
mod blocking;
mod blocking_trouble;
mod ci_gate;
mod client_commands;
mod client_crates;
mod clients;
mod commands;
mod face;
mod failover;
mod frameworks;
mod functions;
mod hostile;
mod identity;
mod migrate;
mod migrate_execute;
mod monitor;
mod operators;
mod persona;
mod pubsub;
mod reshard;
mod sidecar;
mod telemetry;
mod tidy;
mod tls;
mod tracking;
mod transactions;
