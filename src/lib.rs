//! Keyway: a proxy that makes a Redis or Valkey Cluster look like one standalone server.

pub mod cluster;
pub mod control;
pub mod topology;
