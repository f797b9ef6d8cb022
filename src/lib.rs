//! Keyway: a proxy that makes a Redis or Valkey Cluster look like one standalone server.

pub mod app;
pub mod config;
pub mod resp;
pub mod telemetry;
