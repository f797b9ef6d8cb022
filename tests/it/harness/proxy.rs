//! The proxy under test, as a process of its own.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::process::{Folder, Process, bound_command_with_files, free_port};
use super::{Client, Cluster, wait_until};

/// The binary that cargo built for this test run.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_keyway"))
}

/// Enough for ten thousand clients and all lanes.
const OPEN_FILES_MAX: u32 = 20_000;

/// A running proxy; dropping it ends it.
pub struct Proxy {
    pub port: u16,
    pub admin_port: u16,
    process: Process,
    _folder: Folder,
}

impl Proxy {
    /// In front of this cluster, with two workers, waiting until it serves.
    pub fn start(cluster: &Cluster) -> Proxy {
        Proxy::start_with(cluster, &[])
    }

    /// As [`Proxy::start`], with more settings (`("retry.deadline", "2s")`).
    pub fn start_with(cluster: &Cluster, settings: &[(&str, &str)]) -> Proxy {
        let mut proxy = Proxy::launch(&cluster.seeds(), settings);
        proxy.wait_until_serving();
        proxy
    }

    /// Starts the process and returns at once, whether or not anything answers.
    pub fn launch(seeds: &str, settings: &[(&str, &str)]) -> Proxy {
        let (port, admin_port, folder) = (free_port(), free_port(), Folder::new());
        let mut command = bound_command_with_files(binary(), OPEN_FILES_MAX);
        let mut set = |key: &str, value: &str| {
            command.args(["--set", &format!("{key}={value}")]);
        };
        set("proxy.listen", &format!("127.0.0.1:{port}"));
        set("proxy.workers", "2");
        set("cluster.seeds", seeds);
        set("admin.listen", &format!("127.0.0.1:{admin_port}"));
        settings.iter().for_each(|(key, value)| set(key, value));
        let process = Process::start("keyway", command, &folder.join("keyway.log")).under_test();
        Proxy { port, admin_port, process, _folder: folder }
    }

    fn wait_until_serving(&mut self) {
        wait_until("the proxy to serve", || {
            assert_eq!(self.process.ended(), None, "the proxy ended; its log:\n{}", self.process.log());
            let mut client = Client::try_connect(self.port).ok_or("no listener yet")?;
            // A keyed read is answered by the cluster, where PING may be answered by the proxy alone.
            match client.try_call(&["EXISTS", "is-anyone-there"]) {
                Some(reply) if !reply.is_error() => Ok(()),
                other => Err(format!("{other:?}; log:\n{}", self.process.log())),
            }
        });
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    pub fn admin(&self) -> Client {
        Client::connect(self.admin_port)
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn rss_bytes(&self) -> u64 {
        self.process.rss_bytes()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Still running and serving, or the panic says what it printed.
    pub fn assert_alive(&mut self) {
        assert_eq!(self.process.ended(), None, "the proxy ended; its log:\n{}", self.process.log());
        let mut client = self.client();
        client.set_timeout(Duration::from_secs(30));
        assert_eq!(client.call(&["PING"]).text(), "PONG");
        assert!(!client.call(&["EXISTS", "is-anyone-there"]).is_error());
    }

    /// The ports on this machine that it has connections to.
    pub fn peers(&self) -> HashSet<u16> {
        let sockets = self.sockets();
        let table = fs::read_to_string("/proc/net/tcp").expect("Linux lists its sockets");
        let peer = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Columns of proc(5): local address, remote address, state; the inode is the tenth.
            let (remote, inode) = (words.get(2)?, words.get(9)?);
            let port = u16::from_str_radix(remote.split_once(':')?.1, 16).ok()?;
            sockets.contains(*inode).then_some(port)
        };
        table.lines().filter_map(peer).collect()
    }

    /// The inodes of its open sockets.
    fn sockets(&self) -> HashSet<String> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.process.pid())).expect("the proxy runs");
        let inode = |target: std::path::PathBuf| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
        files.flatten().filter_map(|file| inode(fs::read_link(file.path()).ok()?)).collect()
    }
}
