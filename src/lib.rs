//! Keyway: a proxy that makes a Redis or Valkey Cluster look like one standalone server.

pub mod cluster;
pub mod command;
pub mod engine;
pub mod resp;
