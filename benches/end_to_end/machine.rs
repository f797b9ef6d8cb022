//! Who runs where: the proxy alone on core 0, held to a share of it; servers and generator on the others.
//!
//! Without that, servers and generator would be the bottleneck on a small machine, and a proxy that has nothing to do reads and
//! writes single requests. Held to a share of its core it has full queues, and shows what a request costs under load.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::available_parallelism,
    time::Duration,
};

use super::harness::process::Folder;

/// The machine's cores and this run's own folder.
pub struct Machine {
    pub folder: Folder,
    cores: usize,
}

impl Machine {
    pub fn new() -> Machine {
        Machine { folder: Folder::new(), cores: available_parallelism().map_or(1, usize::from) }
    }

    /// Core 0.
    pub fn pin_proxy(&self, pid: u32) {
        self.pin(pid, "0");
    }

    /// All cores but 0.
    pub fn pin_beside(&self, pid: u32) {
        self.pin(pid, &self.others());
    }

    /// The same command, run on all cores but 0.
    pub fn beside_the_proxy(&self, command: Command) -> Command {
        if self.cores < 2 {
            return command;
        }
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", &self.others()]).arg(command.get_program()).args(command.get_args());
        pinned
    }

    fn others(&self) -> String {
        format!("1-{}", self.cores - 1)
    }

    fn pin(&self, pid: u32, cores: &str) {
        if self.cores < 2 {
            return;
        }
        let mut taskset = Command::new("taskset");
        taskset.args(["-a", "-c", "-p", cores, &pid.to_string()]).stdout(Stdio::null());
        // Where it cannot be done the figures are still comparable, because all proxies are without it.
        let _ = taskset.status();
    }

    /// The processor's name, for the report.
    pub fn describe(&self) -> String {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        format!("{} cores of {model}, Linux {}", self.cores, kernel.trim())
    }
}

/// Microseconds of a share's period: short, so that a queue of it does not dominate latency.
const PERIOD_US: u32 = 2_500;

/// A control group of its own for one proxy, by which it is held to a share of one core.
pub enum Share {
    /// `cpu.cfs_quota_us` of cgroup v1.
    V1(PathBuf),
    /// `cpu.max` of cgroup v2.
    V2(PathBuf),
    /// Not possible here: no right to make groups, or no cpu controller.
    No,
}

impl Share {
    /// Makes a group and moves the process into it, without a limit yet.
    pub fn of(pid: u32, name: &str) -> Share {
        let name = format!("keyway-bench-{}-{name}", std::process::id());
        let v1 = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"].map(Path::new);
        if let Some(root) = v1.into_iter().find(|root| root.join("cpu.cfs_quota_us").exists() || root.join("tasks").exists()) {
            let share = Share::V1(root.join(&name));
            if share.take_in(pid) {
                return share;
            }
        }
        let root = Path::new("/sys/fs/cgroup");
        if root.join("cgroup.controllers").exists() {
            // It may be on already, or forbidden; what counts is whether the new group has a limit.
            let _ = put(&root.join("cgroup.subtree_control"), "+cpu");
            let share = Share::V2(root.join(&name));
            if share.take_in(pid) {
                return share;
            }
        }
        Share::No
    }

    fn take_in(&self, pid: u32) -> bool {
        let (Share::V1(group) | Share::V2(group)) = self else { return false };
        // On failure dropping the share removes what was made.
        if fs::create_dir_all(group).is_err() || !self.set(None) {
            return false;
        }
        // Its share is its own, whatever else runs on the core; where that cannot be said its load shows it.
        let (file, weight) = if matches!(self, Share::V1(_)) { ("cpu.shares", "10240") } else { ("cpu.weight", "1000") };
        let _ = put(&group.join(file), weight);
        put(&group.join("cgroup.procs"), &pid.to_string()).is_ok()
    }

    /// Holds the process to so many percent of one core, or lets it go. False when that failed.
    pub fn set(&self, percent: Option<u32>) -> bool {
        let quota = percent.map(|percent| PERIOD_US * percent / 100);
        match self {
            Share::V1(group) => {
                let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
                put(&group.join("cpu.cfs_period_us"), &PERIOD_US.to_string()).is_ok()
                    && put(&group.join("cpu.cfs_quota_us"), &quota).is_ok()
            }
            Share::V2(group) => {
                let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
                put(&group.join("cpu.max"), &format!("{quota} {PERIOD_US}")).is_ok()
            }
            Share::No => false,
        }
    }

    pub fn describe(&self, percent: u32) -> String {
        match self {
            Share::V1(_) => format!("on core 0, held to {percent} % of it by a cgroup v1 quota"),
            Share::V2(_) => format!("on core 0, held to {percent} % of it by a cgroup v2 quota"),
            Share::No => {
                "on core 0, without a quota (no right to make control groups): look at its load before believing a ratio".into()
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Share::V1(group) | Share::V2(group) = self {
            remove_group(group);
        }
    }
}

/// The kernel needs a moment to notice that a process is gone. A group that stays is empty and harms nobody.
fn remove_group(group: &Path) {
    for _ in 0..50 {
        if fs::remove_dir(group).is_ok() || !group.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn put(file: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// For the times when this process holds the clients' ends. A limit that cannot be raised shows as clients that cannot be opened.
pub fn allow_many_files() {
    let _ = Command::new("prlimit").args(["--nofile=20000:20000", "--pid", &std::process::id().to_string()]).status();
}

/// What a run that was interrupted would leave: its folders, its control groups and the proxies in them. All other processes are
/// ended by the kernel when this one ends.
pub fn remove_leftovers() {
    let pid = std::process::id();
    let groups = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"].map(PathBuf::from);
    for folder in groups.into_iter().chain([std::env::temp_dir()]) {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&format!("keyway-it-{pid}-")) {
                let _ = fs::remove_dir_all(entry.path());
            } else if name.starts_with(&format!("keyway-bench-{pid}-")) {
                for proxy in fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default().lines() {
                    let _ = Command::new("kill").args(["-KILL", proxy]).status();
                }
                remove_group(&entry.path());
            }
        }
    }
}
