//! What an executor's events come to, between two looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::Slot;
use crate::migrate::execute::Event;
use crate::migrate::inventory::short;

/// Lines that wait to be told; more are counted only.
const LINES_MAX: usize = 1000;

/// What has happened since the last look.
#[derive(Debug, Default)]
pub(super) struct News {
    pub done: Vec<Slot>,
    /// Slots that were opened, or found open.
    pub begun: Vec<Slot>,
    /// Slots that are in order between these masters.
    pub settled: Vec<(Slot, Arc<str>, Arc<str>)>,
    pub unacknowledged: BTreeMap<Slot, Vec<Bytes>>,
    pub keys: u64,
    /// For whoever listens.
    pub told: Vec<String>,
    /// For the log as well.
    pub logged: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    news: News,
    /// What is waited for, so that it is said once.
    waiting: Option<String>,
}

impl Tally {
    pub fn new() -> Tally {
        Tally::default()
    }

    pub fn news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    fn tell(&mut self, line: String) {
        if self.news.told.len() < LINES_MAX {
            self.news.told.push(line);
        }
    }

    fn log(&mut self, line: String) {
        if self.news.logged.len() < LINES_MAX {
            self.news.logged.push(line);
        }
    }

    pub fn take(&mut self, event: Event) {
        if !matches!(event, Event::Waiting { .. }) {
            self.waiting = None;
        }
        match event {
            Event::Stepped { slot, .. } => {
                if self.news.begun.last() != Some(&slot) {
                    self.news.begun.push(slot);
                }
            }
            Event::Settled { slot, source, target } => self.news.settled.push((slot, source, target)),
            Event::Unacknowledged { slot, keys } => {
                self.news.unacknowledged.insert(slot, keys);
            }
            Event::KeysMoved { keys, .. } => self.news.keys += keys as u64,
            Event::BigKey { slot, key, bytes } => {
                self.log(format!(
                    "slot {slot}: key '{}' of {bytes} bytes goes alone",
                    key.escape_ascii().to_string().chars().take(128).collect::<String>()
                ));
            }
            Event::SlotDone { slot, keys, took, .. } => {
                self.news.done.push(slot);
                self.tell(format!("slot {slot} done: {keys} keys in {took:.1?}"));
            }
            Event::JobSubmitted { slots, keys } => self.log(format!("job of slots {slots} begun: {keys} keys")),
            Event::JobDone { slots, keys, took } => {
                self.news.done.extend(slots.iter());
                self.news.keys += keys;
                self.log(format!("job of slots {slots} done: {keys} keys in {took:.1?}"));
            }
            Event::JobFailed { slots, failures, reason } => {
                self.log(format!("job of slots {slots} failed ({failures}): {reason}"))
            }
            Event::Waiting { slot, reason } => {
                let line = slot.map_or_else(|| format!("waiting: {reason}"), |slot| format!("slot {slot} waits: {reason}"));
                if self.waiting.as_ref() != Some(&line) {
                    self.waiting = Some(line.clone());
                    self.log(line);
                }
            }
            Event::FailedOver { from, to } => self.log(format!("the shard of {} is served by {} now", short(&from), short(&to))),
            Event::Doubtful { slot, keys } => self.log(format!(
                "slot {slot}: a MIGRATE broke off, and {} of its keys are at the target only: they moved, or clients had removed them and they \
                 are back: {}",
                keys.len(),
                keys.iter().take(10).map(|key| key.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
            )),
            Event::Conflict { slot, key, kept } => {
                self.log(format!("slot {slot}: both ends held key '{}'; the {kept:?}'s was kept", key.escape_ascii()));
            }
            Event::LibraryLoaded { name } => self.log(format!("the target has the function library {name} now")),
            Event::Unannounced { slot, node } => {
                self.log(format!("{} could not be told of slot {slot}'s new owner", short(&node)))
            }
        }
    }
}
