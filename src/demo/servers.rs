//! The nodes' processes and their folder, and the promise that nothing of them is left behind.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::DemoError;
use super::node::Node;

/// A server listens within a fraction of a second; a loaded machine may take some.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits for the end of its input, then kills every node it was told of and removes the folder. A process of its
/// own, because a demo that is killed hard can clean up nothing itself; its input ends however the demo ends.
/// `stopped` says that the nodes are gone already, so that no process that inherits one of their ids is hit.
const GUARDIAN: &str = r#"
pids=
while read -r word pid; do
  case $word in
    pid) pids="$pids $pid" ;;
    stopped) pids= ;;
  esac
done
for pid in $pids; do kill -9 "$pid"; done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

/// Running servers; dropped, they are gone.
#[derive(Debug)]
pub(super) struct Servers {
    folder: PathBuf,
    guardian: Child,
    children: Vec<(u16, Child)>,
}

impl Servers {
    /// Makes the folder and starts the guardian, before there is anything to guard.
    pub fn new() -> Result<Self, DemoError> {
        let name = format!("keyway-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let folder = std::env::temp_dir().join(name);
        let guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "keyway-demo-guardian"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to the terminal's process group: neither the guardian nor the nodes shall be in it.
            .process_group(0)
            .spawn()
            .map_err(|error| DemoError::Start { what: "sh".to_owned(), error })?;
        let servers = Self { folder, guardian, children: Vec::new() };
        // The default permissions of a temporary folder would let every user of the machine into it.
        let made = fs::DirBuilder::new().mode(0o700).create(&servers.folder);
        made.map_err(|error| DemoError::Start { what: servers.folder.display().to_string(), error })?;
        Ok(servers)
    }

    /// Starts one node; it is not up yet when this returns.
    pub fn start(&mut self, program: &Path, port: u16) -> Result<(), DemoError> {
        let failed = |error| DemoError::Start { what: program.display().to_string(), error };
        let folder = self.folder.join(port.to_string());
        fs::create_dir(&folder).map_err(failed)?;
        let output = File::create(output_path(&folder)).map_err(failed)?;
        let child = Command::new(program)
            .args(arguments(port))
            .arg("--dir")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let told = self.tell_guardian(&format!("pid {}", child.id()));
        self.children.push((port, child));
        told.map_err(failed)
    }

    /// A connection to every node, in the order they were started, as soon as they answer.
    pub fn connect(&mut self) -> Result<Vec<Node>, DemoError> {
        let give_up_at = Instant::now() + START_TIMEOUT;
        let folder = &self.folder;
        self.children.iter_mut().map(|(port, child)| connect(*port, child, folder, give_up_at)).collect()
    }

    /// The process ids, in the order the nodes were started.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(|(_, child)| child.id()).collect()
    }

    fn tell_guardian(&mut self, line: &str) -> std::io::Result<()> {
        // The pipe is there until the drop takes it.
        self.guardian.stdin.as_mut().map_or(Ok(()), |input| writeln!(input, "{line}"))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Nothing in the demo's cluster is worth an orderly end. Errors say only that a process is gone already.
        for (_, child) in &mut self.children {
            let _ = child.kill();
        }
        for (_, child) in &mut self.children {
            let _ = child.wait();
        }
        let _ = self.tell_guardian("stopped");
        // Its input ends here, so it removes the folder.
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

fn connect(port: u16, child: &mut Child, folder: &Path, give_up_at: Instant) -> Result<Node, DemoError> {
    loop {
        let refused = match Node::connect(port).map(|mut node| node.ask(&["PING"]).map(|_| node)) {
            Ok(Ok(node)) => return Ok(node),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if let Ok(Some(_)) = child.try_wait() {
            let said = fs::read_to_string(output_path(&folder.join(port.to_string()))).unwrap_or_default();
            return Err(DemoError::NodeStopped { port, said });
        }
        if Instant::now() > give_up_at {
            let waiting_for = format!("127.0.0.1:{port} does not answer ({refused})");
            return Err(DemoError::NotReady { seconds: START_TIMEOUT.as_secs(), waiting_for });
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn output_path(folder: &Path) -> PathBuf {
    folder.join("output")
}

/// Options that every server from Redis 6.2 to Valkey 9.1 knows.
fn arguments(port: u16) -> Vec<String> {
    let options = [
        ("port", port.to_string().as_str()),
        ("bind", "127.0.0.1"),
        ("cluster-enabled", "yes"),
        // A killed master is replaced in about 3 s: soon enough to watch, late enough for a busy laptop.
        ("cluster-node-timeout", "2000"),
        // Everything is thrown away at the end, so nothing is written.
        ("save", ""),
        ("appendonly", "no"),
        // Replicas are filled at once instead of after the 5 s that a server waits for more of them.
        ("repl-diskless-sync", "yes"),
        ("repl-diskless-sync-delay", "0"),
    ]
    .map(|(name, value)| [format!("--{name}"), value.to_owned()]);
    options.concat()
}
