//! What the tests stand on: server processes, clusters, the proxy, and a client that sees every byte.

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod moves;
pub mod over;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod relay;
pub mod servers;
pub mod text;

pub use client::{Client, Reply};
pub use cluster::Cluster;
pub use proxy::Proxy;
pub use servers::{Server, Standalone};

use std::time::{Duration, Instant};

/// Long enough for anything that is going to happen on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` until it answers `Ok`, and returns that. After [`PATIENCE`] the last refusal is the panic's text.
pub fn wait_until<T>(what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    wait_until_within(PATIENCE, what, probe)
}

/// As [`wait_until`], with a patience of one's own.
pub fn wait_until_within<T>(patience: Duration, what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match probe() {
            Ok(value) => return value,
            Err(refusal) if Instant::now() > deadline => {
                panic!("waited {patience:?} in vain for {what}: {refusal}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// One `#[test]` for each server, called after it: `on_every_server!(scenario_a, scenario_b)` where each is a
/// `fn(Server)` in the calling module.
#[macro_export]
macro_rules! on_every_server {
    ($($scenario:ident),+ $(,)?) => {
        mod redis_6_2 { $(#[test] fn $scenario() { super::$scenario($crate::harness::Server::Redis62); })+ }
        mod redis_7_0 { $(#[test] fn $scenario() { super::$scenario($crate::harness::Server::Redis70); })+ }
        mod redis_8_2 { $(#[test] fn $scenario() { super::$scenario($crate::harness::Server::Redis82); })+ }
        mod valkey_9_1 { $(#[test] fn $scenario() { super::$scenario($crate::harness::Server::Valkey91); })+ }
    };
}

/// As [`on_every_server`], for what takes long and differs between the two kinds of servers rather than between their versions.
#[macro_export]
macro_rules! on_both_kinds_of_servers {
    ($($scenario:ident),+ $(,)?) => {
        mod redis_kind { $(#[test] fn $scenario() { super::$scenario($crate::harness::Server::Redis70); })+ }
        mod valkey_kind { $(#[test] fn $scenario() { super::$scenario($crate::harness::Server::Valkey91); })+ }
    };
}
