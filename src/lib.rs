//! Keyway: a proxy that makes a Redis or Valkey Cluster look like one standalone server.

pub mod admin;
pub mod app;
pub mod cluster;
pub mod command;
pub mod config;
pub mod control;
pub mod demo;
pub mod engine;
pub mod net;
pub mod resp;
pub mod telemetry;
pub mod topology;
