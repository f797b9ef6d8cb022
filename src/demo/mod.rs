//! `keyway demo`: a whole cluster on this machine to try the proxy with, gone when the proxy stops.
//!
//! [`Plan::new`] finds a server program and free ports, [`Plan::start`] starts the nodes and forms the cluster
//! (without `redis-cli`), and the [`Demo`] it returns keeps them alive until it is dropped. The proxy itself is
//! run as always, with [`Plan::settings`].

mod form;
mod guide;
mod node;
mod program;
mod servers;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use node::NodeError;
use program::Program;
use servers::Servers;

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Masters of the cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    masters: u16,
    /// Replicas in all, dealt out over the masters in turn [default: one per master]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=128))]
    replicas: Option<u16>,
    /// The server to run: a redis-server or valkey-server [default: the first of them in PATH]
    #[arg(long, value_name = "PATH")]
    server_bin: Option<PathBuf>,
    /// The proxy's port; its admin port is 10 above
    #[arg(long, value_name = "PORT", default_value_t = 6380, value_parser = clap::value_parser!(u16).range(1..=65525))]
    port: u16,
}

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("found no redis-server or valkey-server in PATH: install one, or name it with --server-bin")]
    NoServer,
    #[error("{} is no program that can be run (--server-bin)", .0.display())]
    NotAProgram(PathBuf),
    #[error("127.0.0.1:{0} is in use: choose another port with --port (the admin port is 10 above it)")]
    PortInUse(u16),
    #[error("found no {0} free ports between {FIRST_PORT} and {LAST_PORT} (each node needs a second one, 10000 above)")]
    NoFreePorts(usize),
    #[error("cannot start {what}: {error}")]
    Start { what: String, error: std::io::Error },
    #[error("the node 127.0.0.1:{port} stopped at its start; it said:\n{said}")]
    NodeStopped { port: u16, said: String },
    #[error("the cluster was not ready within {seconds} s: {waiting_for}")]
    NotReady { seconds: u64, waiting_for: String },
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Where nodes' ports are looked for; the last leaves room for the cluster bus, 10000 above (Redis 6.2 has no
/// setting for it).
const FIRST_PORT: u16 = 7000;
const LAST_PORT: u16 = u16::MAX - CLUSTER_BUS_OFFSET;
const CLUSTER_BUS_OFFSET: u16 = 10_000;
const ADMIN_PORT_OFFSET: u16 = 10;

/// What a demo will consist of.
#[derive(Debug)]
pub struct Plan {
    program: Program,
    proxy_port: u16,
    masters: usize,
    /// One per node, masters first.
    ports: Vec<u16>,
}

/// A cluster that lives as long as this value: dropping it stops every node and removes their folder.
#[derive(Debug)]
pub struct Demo {
    guide: String,
    _servers: Servers,
}

impl Plan {
    /// Finds everything a demo needs, and starts nothing.
    pub fn new(options: &Options) -> Result<Self, DemoError> {
        let program = Program::find(options.server_bin.as_deref())?;
        let proxy_port = options.port;
        // Held while ports for the nodes are looked for, so that these are not among them.
        let _proxy = [proxy_port, proxy_port + ADMIN_PORT_OFFSET]
            .map(|port| listen(port).ok_or(DemoError::PortInUse(port)))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let masters = usize::from(options.masters);
        let nodes = masters + usize::from(options.replicas.unwrap_or(options.masters));
        let is_free = |port: &u16| listen(*port).is_some() && listen(port + CLUSTER_BUS_OFFSET).is_some();
        let ports: Vec<u16> = (FIRST_PORT..=LAST_PORT).filter(is_free).take(nodes).collect();
        if ports.len() < nodes {
            return Err(DemoError::NoFreePorts(nodes));
        }
        Ok(Self { program, proxy_port, masters, ports })
    }

    /// The proxy's configuration as `--set` takes it. It comes after all others: a password meant for another
    /// cluster would keep the proxy out of this one.
    pub fn settings(&self) -> Vec<String> {
        let seeds: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        vec![
            format!("proxy.listen=127.0.0.1:{}", self.proxy_port),
            format!("admin.listen=127.0.0.1:{}", self.admin_port()),
            format!("cluster.seeds={}", seeds.join(",")),
            "cluster.username=".to_owned(),
            "cluster.password=".to_owned(),
            "cluster.address_map=".to_owned(),
        ]
    }

    /// Starts the nodes and forms the cluster, telling on standard output what it does. When it fails half-way,
    /// nothing is left behind.
    pub fn start(self) -> Result<Demo, DemoError> {
        println!("Starting {} nodes of {} ...", self.ports.len(), self.program);
        let mut servers = Servers::new()?;
        for port in &self.ports {
            servers.start(&self.program.path, *port)?;
        }
        let mut nodes = servers.connect()?;
        println!("Forming the cluster ...");
        form::form(&mut nodes, self.masters)?;
        let guide = guide::write(&self, &mut nodes, &servers.pids())?;
        Ok(Demo { guide, _servers: servers })
    }

    fn admin_port(&self) -> u16 {
        self.proxy_port + ADMIN_PORT_OFFSET
    }
}

impl Demo {
    /// What to try next.
    pub fn guide(&self) -> &str {
        &self.guide
    }
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}
