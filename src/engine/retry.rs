//! What a reply means for the request it answers: one table (architecture, section 6), pure.

use crate::cluster::{Addr, Redirect, Slot, parse_redirect};

/// What to do with a request that was answered, or that lost its lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the client's answer.
    Deliver,
    /// Not executed: the slot belongs to that address.
    Moved(Slot, Option<Addr>),
    /// Not executed: ask that address for this once.
    Ask(Slot, Option<Addr>),
    /// Not executed: the slot's keys are spread over two nodes for a moment.
    TryAgain,
    /// Not executed: the node or the cluster cannot serve now.
    Hold(Held),
    /// Not executed: the node does not know the script.
    NoScript,
    /// The lane broke before the request was wholly written, or it only reads: it may be sent again.
    Resend,
    /// The lane broke after the request was written: nobody knows whether it was executed.
    Unknown,
}

/// Why a node could not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    ClusterDown,
    MasterDown,
    Loading,
    ReadOnly,
    /// What was blocked there was let go, because the node is no master any more.
    Demoted,
}

/// What is known of the request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The slot that the proxy computed, if it has one.
    pub slot: Option<Slot>,
    /// EVAL or FCALL family: its error texts may be the script's own.
    pub script: bool,
    /// The command only reads.
    pub read_only: bool,
}

/// What the servers say, to the letter, when they do not carry a request out: a script that says anything else speaks for itself, and
/// may have written before.
const SERVERS_WORDS: [&[u8]; 8] = [
    b"TRYAGAIN Multiple keys request during rehashing of slot",
    b"CLUSTERDOWN The cluster is down",
    b"CLUSTERDOWN The cluster is down and only accepts read commands",
    b"CLUSTERDOWN Hash slot not served",
    b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    b"LOADING Redis is loading the dataset in memory",
    b"LOADING Valkey is loading the dataset in memory",
    b"READONLY You can't write against a read only replica.",
];

/// Judges a reply. `line` is an error reply without its dash and line end; `from` is where it came from.
pub fn on_error(line: &[u8], asked: Asked, from: &Addr) -> Verdict {
    match line.split(|byte| *byte == b' ').next().unwrap_or_default() {
        b"MOVED" | b"ASK" => match parse_redirect(line, from) {
            // Rule 2(c) of the semantics: an answer about another slot is no redirect of this request.
            Some(Redirect::Moved { slot, addr }) if asked.slot == Some(slot) => Verdict::Moved(slot, addr),
            Some(Redirect::Ask { slot, addr }) if asked.slot == Some(slot) => Verdict::Ask(slot, addr),
            _ => Verdict::Deliver,
        },
        b"NOSCRIPT" if asked.script => Verdict::NoScript,
        _ if asked.script && !SERVERS_WORDS.contains(&line) => Verdict::Deliver,
        b"TRYAGAIN" if asked.slot.is_some() => Verdict::TryAgain,
        b"CLUSTERDOWN" => Verdict::Hold(Held::ClusterDown),
        b"MASTERDOWN" => Verdict::Hold(Held::MasterDown),
        b"LOADING" => Verdict::Hold(Held::Loading),
        b"READONLY" => Verdict::Hold(Held::ReadOnly),
        // CLIENT UNBLOCK and a key that went have the same code.
        b"UNBLOCKED" if line.starts_with(b"UNBLOCKED force unblock") => Verdict::Hold(Held::Demoted),
        _ => Verdict::Deliver,
    }
}

/// Judges a request whose lane is lost.
pub fn on_lane_lost(wholly_written: bool, asked: Asked) -> Verdict {
    if !wholly_written || asked.read_only { Verdict::Resend } else { Verdict::Unknown }
}

/// Waits between tries of a request that a node could not serve: 1 ms doubling to 100 ms, with jitter of a half.
pub fn backoff_us(tries: u32, jitter: u64) -> u64 {
    let wait = (1000u64 << tries.min(7)).min(100_000);
    wait / 2 + jitter % (wait / 2 + 1)
}

/// Resends allowed: a share of the fresh traffic and a floor in time, in thousandths of a resend.
#[derive(Debug, Default)]
pub struct Budget {
    millis: u64,
    refilled_us: u64,
    refilled_requests: u64,
}

/// The bucket holds at most a second of the floor or so many resends: a burst of redirects after a failover fits.
const BUDGET_RESENDS_MAX: u64 = 20_000;

impl Budget {
    /// Takes one resend if there is one. `requests` is the count of fresh requests so far.
    pub fn spend(&mut self, now_us: u64, requests: u64, percent: u64, floor_per_second: u64) -> bool {
        let elapsed_us = now_us.saturating_sub(self.refilled_us).min(1_000_000);
        let earned = (requests - self.refilled_requests) * percent * 10 + elapsed_us * floor_per_second / 1000;
        if earned > 0 {
            self.millis = (self.millis + earned).min(BUDGET_RESENDS_MAX * 1000);
            (self.refilled_us, self.refilled_requests) = (now_us, requests);
        }
        let has = self.millis >= 1000;
        if has {
            self.millis -= 1000;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::parse(text).expect("a test's address")
    }

    #[test]
    fn every_answer_over_every_kind_of_request() {
        let slot = Slot::new(7).expect("in range");
        let lines: [&[u8]; 16] = [
            b"MOVED 7 10.0.0.1:1",
            b"MOVED 8 10.0.0.1:1",
            b"MOVED x",
            b"ASK 7 10.0.0.1:1",
            b"ASK 9 10.0.0.1:1",
            b"TRYAGAIN Multiple keys request during rehashing of slot",
            b"CLUSTERDOWN The cluster is down",
            b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            b"LOADING Redis is loading the dataset in memory",
            b"READONLY You can't write against a read only replica.",
            b"NOSCRIPT No matching script. Please use EVAL.",
            b"TRYAGAIN later, says a script",
            b"LOADING my own data",
            b"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            b"UNBLOCKED client unblocked via CLIENT UNBLOCK",
            b"WRONGTYPE Operation against a key holding the wrong kind of value",
        ];
        let to = Some(addr("10.0.0.1:1"));
        for has_slot in [true, false] {
            for script in [true, false] {
                for read_only in [true, false] {
                    let asked = Asked { slot: has_slot.then_some(slot), script, read_only };
                    let on_slot = |verdict: Verdict| if has_slot { verdict } else { Verdict::Deliver };
                    let expected = [
                        on_slot(Verdict::Moved(slot, to.clone())),
                        Verdict::Deliver,
                        Verdict::Deliver,
                        on_slot(Verdict::Ask(slot, to.clone())),
                        Verdict::Deliver,
                        on_slot(Verdict::TryAgain),
                        Verdict::Hold(Held::ClusterDown),
                        Verdict::Hold(Held::MasterDown),
                        Verdict::Hold(Held::Loading),
                        Verdict::Hold(Held::ReadOnly),
                        if script { Verdict::NoScript } else { Verdict::Deliver },
                        if script { Verdict::Deliver } else { on_slot(Verdict::TryAgain) },
                        if script { Verdict::Deliver } else { Verdict::Hold(Held::Loading) },
                        if script { Verdict::Deliver } else { Verdict::Hold(Held::Demoted) },
                        Verdict::Deliver,
                        Verdict::Deliver,
                    ];
                    for (line, expected) in lines.iter().zip(expected) {
                        let text = String::from_utf8_lossy(line);
                        assert_eq!(on_error(line, asked, &addr("10.0.0.9:9")), expected, "{text} for {asked:?}");
                    }
                    assert_eq!(on_lane_lost(false, asked), Verdict::Resend);
                    assert_eq!(on_lane_lost(true, asked), if read_only { Verdict::Resend } else { Verdict::Unknown });
                }
            }
        }
    }

    #[test]
    fn backoff_doubles_within_its_bounds() {
        for tries in 0..40 {
            for jitter in [0, 1, 77_777, u64::MAX] {
                let wait = backoff_us(tries, jitter);
                assert!((500..=100_000).contains(&wait), "try {tries}: {wait}");
            }
        }
        assert!(backoff_us(7, 0) > backoff_us(3, 0));
    }

    #[test]
    fn the_budget_follows_traffic_and_never_starves() {
        let mut budget = Budget::default();
        assert!(!budget.spend(0, 0, 100, 10), "nothing earned yet");
        assert!(budget.spend(100_000, 0, 100, 10), "the floor earns one resend in 100 ms");
        assert!(!budget.spend(100_000, 0, 100, 10));
        let spent = (0..200).filter(|_| budget.spend(100_000, 100, 100, 10)).count();
        assert_eq!(spent, 100, "a hundred fresh requests allow a hundred resends");
        assert!(!budget.spend(100_001, 100, 0, 0));
    }
}
