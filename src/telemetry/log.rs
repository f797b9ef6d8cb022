//! Logging: where lines go, in which form, and how often the same one may come.

use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;

use crate::config;
use crate::config::{LogFormat, LogLevel};

/// Sends every `tracing` event of the process to standard error, as configured. A second call has no
/// effect: the first subscriber of a process stays.
pub fn init(log: &config::Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    // The error says only that a subscriber is there already.
    let _ = match log.format {
        // Colours are for terminals; files and collectors would keep the escapes.
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

/// How far apart two lines of one kind are: what happens thousands of times a second is told once.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one line a second through and counts the rest. Pure: the caller gives the time.
#[derive(Clone, Debug, Default)]
pub struct RateLimitedLine {
    last_allowed: Option<Instant>,
    suppressed: u64,
}

impl RateLimitedLine {
    /// `Some(n)`: write the line now, it also stands for `n` that were suppressed before it. `None`: be silent.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        let too_soon = self.last_allowed.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL);
        if too_soon {
            self.suppressed += 1;
            return None;
        }
        self.last_allowed = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_that_counts_what_it_stands_for() {
        let start = Instant::now();
        let mut line = RateLimitedLine::default();
        let mut check = |at_ms: u64, expected: Option<u64>| {
            assert_eq!(line.allow(start + Duration::from_millis(at_ms)), expected, "at {at_ms} ms");
        };
        check(0, Some(0));
        check(1, None);
        check(999, None);
        check(1000, Some(2));
        check(1001, None);
        check(5000, Some(1));
        check(6000, Some(0));
    }
}
