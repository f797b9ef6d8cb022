//! Child processes that cannot outlive the test run.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A running child with its output in a file. Dropping it kills it; in a failing test it shows the end of its output if
/// it was the one under test, or if it had ended by itself.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    under_test: bool,
}

impl Process {
    /// Starts `command`, with standard output and error going to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Process {
        let out = File::options().create(true).append(true).open(log).expect("the log file's folder was just made");
        let err = out.try_clone().expect("an open file can be duplicated");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Process { child: spawn(command), name: name.to_owned(), log: log.to_owned(), under_test: false }
    }

    /// Its output is of interest to whoever reads of a failed test.
    pub fn under_test(mut self) -> Process {
        self.under_test = true;
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may be gone already, which is what was asked for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name (`INT`, `TERM`, `STOP`, `CONT`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill is part of every system").success(), "could not send SIG{name} to {}", self.name);
    }

    /// The exit code, if it has ended. A death by signal is 128 plus its number, as in a shell.
    pub fn ended(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.try_wait().expect("a child of ours can be asked")?;
        Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Waits for its end and returns the exit code.
    pub fn wait(&mut self, patience: Duration) -> i32 {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(code) = self.ended() {
                return code;
            }
            assert!(Instant::now() < deadline, "{} still runs after {patience:?}; its log:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it printed, at most its last 64 KiB.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let tail = bytes.len().saturating_sub(64 * 1024);
        String::from_utf8_lossy(&bytes[tail..]).into_owned()
    }

    /// Where it panicked: the place, the message and what stands behind it.
    fn panics(&self) -> Vec<String> {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        let places = lines.iter().enumerate().filter(|(_, line)| line.contains(" panicked at "));
        places.map(|(at, _)| lines[at..lines.len().min(at + 60)].join("\n")).collect()
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process has memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("VmRSS is a number of kB");
        kib * 1024
    }

    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let died_early = self.ended();
        self.kill();
        let panics = if self.under_test { self.panics() } else { Vec::new() };
        if std::thread::panicking() && (self.under_test || died_early.is_some()) {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {} (ended by itself: {died_early:?}), last lines of its log:", self.name);
            tail.iter().rev().for_each(|line| eprintln!("    {line}"));
            panics.iter().for_each(|panic| eprintln!("--- it panicked:\n{panic}"));
        } else {
            // What a task of it lost may not have shown in any reply.
            assert!(panics.is_empty(), "{} panicked:\n{}", self.name, panics.join("\n"));
        }
    }
}

/// Spawns through one thread that lives as long as the test run. The kernel kills a child when the *thread* that
/// started it ends (`PR_SET_PDEATHSIG`), so a test's own thread must not be the parent.
fn spawn(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox): (_, Receiver<Order>) = channel();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The asker may have panicked meanwhile; then nobody wants the child, and the exit kills it.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    let orders = spawner.lock().expect("no one panics while holding this").clone();
    orders.send((command, answer)).expect("the spawner never ends");
    child.recv().expect("the spawner answers every order").expect("setpriv (util-linux) starts children")
}

/// A command whose process is killed by the kernel when the test run dies, however it dies.
pub fn bound_command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    forget_our_settings(&mut command);
    command
}

/// As [`bound_command`], and the process may hold `open_files_max` files open.
pub fn bound_command_with_files(program: &Path, open_files_max: u32) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={open_files_max}:{open_files_max}"));
    command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
    forget_our_settings(&mut command);
    command
}

/// The tests' own variables (`KEYWAY_RESHARD_SECONDS`) would be mistakes in the proxy's configuration.
fn forget_our_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KEYWAY_")) {
        command.env_remove(name);
    }
}

/// A port that nobody listens on, nor on the cluster bus port that belongs to it (ten thousand higher).
///
/// Both lie below the range the kernel takes outgoing connections' ports from, so that no connection can take one
/// between this look and the server's bind. No port is handed out twice in one run.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut taken = TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let taken = taken.get_or_insert_default();
    for _ in 0..20_000 {
        let port = 10_000 + fastrand::u16(..10_000);
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if !taken.contains(&port) && free(port) && free(port + 10_000) {
            taken.insert(port);
            return port;
        }
    }
    panic!("no free port between 10000 and 20000");
}

/// A folder of this test run's own, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        let name = format!("keyway-it-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the system's temporary folder is writable");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left-overs in the temporary folder harm nobody, and a failing test should show its own reason.
        let _ = fs::remove_dir_all(&self.0);
    }
}
