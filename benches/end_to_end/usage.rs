//! What a process has used, from /proc (proc(5)).

use std::fs;

/// CPU time of a process since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Exact, of all threads that are alive (`schedstat`); of all ticks where the kernel keeps no such file.
    pub total_us: f64,
    /// In ticks of 10 ms: good for the proportion of the two.
    pub user_us: f64,
    pub system_us: f64,
}

/// Microseconds of the ticks in `/proc/PID/stat`: USER_HZ is 100 on every Linux.
const TICK_US: f64 = 10_000.0;

impl Cpu {
    pub fn of(pid: u32) -> Cpu {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Field 2, the name, may hold anything; fields 14 and 15 are utime and stime.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) * TICK_US;
        let (user_us, system_us) = (ticks(11), ticks(12));
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let run_ns = threads.filter_map(|thread| {
            let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            schedstat.split_whitespace().next()?.parse::<f64>().ok()
        });
        let exact_us = run_ns.sum::<f64>() / 1_000.0;
        Cpu { total_us: if exact_us > 0.0 { exact_us } else { user_us + system_us }, user_us, system_us }
    }

    /// What was used since `before`; user and system are made to add up to the exact total.
    pub fn since(self, before: Cpu) -> Cpu {
        let (total_us, user, system) =
            (self.total_us - before.total_us, self.user_us - before.user_us, self.system_us - before.system_us);
        let share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        Cpu { total_us, user_us: total_us * share, system_us: total_us * (1.0 - share) }
    }
}

/// A figure of `/proc/PID/status` in KiB (`VmRSS`, `VmHWM`), 0 when the process is gone.
pub fn status_kib(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Makes the process's peak (`VmHWM`) start anew from what it holds now.
pub fn reset_peak(pid: u32) {
    // Where it is not allowed the peak since the start is shown, which is not lower.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}
