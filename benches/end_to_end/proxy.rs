//! The proxies that are compared: how each is started, and what is asked of its process.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Outcome,
    harness::{
        Client,
        process::{Process, bound_command_with_files, free_port},
        servers::{in_path, venv},
        wait_until_within,
    },
    machine::{Machine, Share},
};

/// Files that a proxy may open: ten thousand clients and some.
const OPEN_FILES_MAX: u32 = 20_000;

/// How a proxy is started.
#[derive(Clone, Debug)]
pub enum Kind {
    Keyway(PathBuf),
    Envoy(PathBuf),
}

/// One that takes part. It can be started many times.
#[derive(Clone, Debug)]
pub struct Contestant {
    pub name: String,
    pub kind: Kind,
}

/// A running proxy with one worker; dropping it ends it.
pub struct Proxy {
    pub name: String,
    pub port: u16,
    process: Process,
    // After the process, so that its group is empty when it is removed.
    share: Share,
}

/// Envoy's binary: `KEYWAY_ENVOY`, the tests' virtual environment (where `benches/install.sh` puts it), or PATH.
pub fn find_envoy() -> Option<PathBuf> {
    let named = std::env::var_os("KEYWAY_ENVOY").map(PathBuf::from);
    named.into_iter().chain([venv().join("bin/envoy")]).chain(in_path("envoy")).find(|path| path.is_file())
}

impl Contestant {
    pub fn start(&self, machine: &Machine, seeds: &str) -> Outcome<Proxy> {
        let port = free_port();
        let mut command = match &self.kind {
            Kind::Keyway(binary) => {
                let mut command = bound_command_with_files(binary, OPEN_FILES_MAX);
                for (key, value) in [
                    ("proxy.listen", format!("127.0.0.1:{port}")),
                    ("proxy.workers", "1".into()),
                    ("cluster.seeds", seeds.into()),
                    ("admin.listen", format!("127.0.0.1:{}", free_port())),
                    ("log.level", "error".into()),
                ] {
                    command.args(["--set", &format!("{key}={value}")]);
                }
                command
            }
            Kind::Envoy(binary) => {
                let file = machine.folder.join(format!("envoy-{port}.yaml"));
                fs::write(&file, envoy_configuration(port, seeds))?;
                let mut command = bound_command_with_files(binary, OPEN_FILES_MAX);
                command.arg("-c").arg(&file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
                command
            }
        };
        // What configures this bench, or the shell that it runs in, is not meant for the proxy.
        let own = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("KEYWAY_");
        std::env::vars_os().map(|(name, _)| name).filter(own).for_each(|name| {
            command.env_remove(name);
        });
        let process = Process::start(&self.name, command, &machine.folder.join(format!("{}-{port}.log", self.name)));
        let share = Share::of(process.pid(), &format!("{}-{port}", self.name));
        let proxy = Proxy { name: self.name.clone(), port, process, share };
        wait_until_within(Duration::from_secs(20), &self.name, || proxy.serves());
        machine.pin_proxy(proxy.pid());
        Ok(proxy)
    }

    /// What `--version` prints, on one line.
    pub fn version(&self) -> String {
        let (Kind::Keyway(binary) | Kind::Envoy(binary)) = &self.kind;
        let output = std::process::Command::new(binary).arg("--version").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let text = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("version unknown").trim();
        // Envoy: "<path>  version: <commit>/<version>/…".
        text.split_once("version: ").map_or_else(|| text.to_owned(), |(_, version)| format!("envoy {version}"))
    }
}

impl Proxy {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Every third of the slots answers.
    fn serves(&self) -> Result<(), String> {
        let mut client =
            Client::try_connect(self.port).ok_or_else(|| format!("no listener yet; log:\n{}", self.process.log()))?;
        for key in ["bar", "c", "foo"] {
            match client.try_call(&["GET", key]) {
                Some(reply) if !reply.is_error() => {}
                other => return Err(format!("{other:?}; log:\n{}", self.process.log())),
            }
        }
        Ok(())
    }
}

/// One listener whose every request goes to the cluster, redirections followed: Envoy's `redis_proxy` filter and its
/// `envoy.clusters.redis` discovery, with their defaults but for the time-outs.
fn envoy_configuration(port: u16, seeds: &str) -> String {
    let endpoint = |seed: &str| {
        let (host, port) = seed.rsplit_once(':').expect("a seed is host:port");
        format!("        - endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {port} }} }} }}\n")
    };
    let endpoints: String = seeds.split(',').map(endpoint).collect();
    format!(
        "\
static_resources:
  listeners:
  - name: clients
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: clients
          settings: {{ op_timeout: 10s, enable_redirection: true }}
          prefix_routes: {{ catch_all_route: {{ cluster: nodes }} }}
  clusters:
  - name: nodes
    connect_timeout: 1s
    lb_policy: CLUSTER_PROVIDED
    cluster_type:
      name: envoy.clusters.redis
      typed_config:
        \"@type\": type.googleapis.com/google.protobuf.Struct
        value: {{ cluster_refresh_rate: 10s, cluster_refresh_timeout: 3s }}
    load_assignment:
      cluster_name: nodes
      endpoints:
      - lb_endpoints:
{endpoints}"
    )
}

/// The binary that cargo built beside this bench.
pub fn own_build() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_keyway"))
}
