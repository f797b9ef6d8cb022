//! Bodies of scripts that the proxy has seen, by SHA1: scripts live on single nodes and are not replicated, so a node that does not
//! know one is given it again without the client noticing.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use dashmap::DashMap;

use crate::resp::{Span, encode};

use super::{
    Engine,
    ids::NONE,
    lane::{InFlight, Via},
    merge::Job,
    pump::spans_of,
};

/// Bodies by SHA1, shared by all workers, bounded in bytes. A new body is looked up off the hot path only: a worker first asks
/// its own memory of what it has handed in.
pub struct Scripts {
    bodies: DashMap<[u8; 20], Bytes>,
    bytes: AtomicUsize,
    bytes_max: usize,
    /// Rises when everything is forgotten, so that workers forget what they handed in.
    flushes: AtomicUsize,
}

/// What a body costs besides its own bytes.
const ENTRY_BYTES: usize = 96;

impl Scripts {
    pub fn new(bytes_max: usize) -> Self {
        Scripts { bodies: DashMap::new(), bytes: AtomicUsize::new(0), bytes_max, flushes: AtomicUsize::new(0) }
    }

    /// Remembers a body; when there is no room, everything is forgotten first: scripts are few, and a flood of generated ones
    /// must not grow for ever.
    fn insert(&self, body: &[u8]) {
        let cost = body.len() + ENTRY_BYTES;
        if cost > self.bytes_max {
            return;
        }
        if self.bytes.load(Relaxed) + cost > self.bytes_max {
            self.clear();
        }
        let mut sha = sha1_smol::Sha1::new();
        sha.update(body);
        if self.bodies.insert(sha.digest().bytes(), Bytes::copy_from_slice(body)).is_none() {
            self.bytes.fetch_add(cost, Relaxed);
        }
    }

    pub fn clear(&self) {
        self.flushes.fetch_add(1, Relaxed);
        self.bodies.clear();
        self.bytes.store(0, Relaxed);
    }

    /// The body with this SHA1, in hexadecimal digits of any case.
    pub fn body(&self, hex: &[u8]) -> Option<Bytes> {
        let mut sha = [0; 20];
        if hex.len() != 40 {
            return None;
        }
        for (byte, digits) in sha.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        self.bodies.get(&sha).map(|body| body.clone())
    }

    fn flushes(&self) -> usize {
        self.flushes.load(Relaxed)
    }
}

/// A worker's memory of the bodies it handed in, by a fast hash: a false match costs a NOSCRIPT that cannot be healed, one in 2^64.
#[derive(Default)]
pub(super) struct HandedIn {
    hashes: rustc_hash::FxHashSet<u64>,
    flushes: usize,
}

/// Hashes kept: more bodies than that do not fit into the shared memory either.
const HANDED_IN_MAX: usize = 64 * 1024;

impl Engine {
    /// Remembers what EVAL and EVAL_RO carry.
    pub(super) fn remember_script(&mut self, frame: &[u8], spans: &[Span]) {
        let name = spans[0].of(frame);
        if (name.eq_ignore_ascii_case(b"EVAL") || name.eq_ignore_ascii_case(b"EVAL_RO"))
            && let Some(body) = spans.get(1)
        {
            self.remember_body(body.of(frame));
        }
    }

    pub(super) fn remember_body(&mut self, body: &[u8]) {
        let flushes = self.scripts.flushes();
        if self.handed_in.flushes != flushes || self.handed_in.hashes.len() >= HANDED_IN_MAX {
            self.handed_in.hashes.clear();
            self.handed_in.flushes = flushes;
        }
        let hash = std::hash::BuildHasher::hash_one(&rustc_hash::FxBuildHasher, body);
        if self.handed_in.hashes.insert(hash) {
            self.scripts.insert(body);
        }
    }

    /// EVALSHA of a body that was seen, as the EVAL that also loads it.
    pub(super) fn heal_script(&mut self, frame: &[u8]) -> Option<Bytes> {
        let healed = self.with_body(frame)?;
        self.counters.scripts_healed += 1;
        Some(healed)
    }

    /// EVALSHA of a body that was seen, as EVAL.
    pub(super) fn with_body(&self, frame: &[u8]) -> Option<Bytes> {
        let spans = spans_of(frame)?;
        let name: &[u8] = match spans.first()?.of(frame).to_ascii_uppercase().as_slice() {
            b"EVALSHA" => b"EVAL",
            b"EVALSHA_RO" => b"EVAL_RO",
            _ => return None,
        };
        let body = self.scripts.body(spans.get(1)?.of(frame))?;
        let mut out = Vec::with_capacity(frame.len() + body.len());
        let mut arguments: Vec<&[u8]> = spans.iter().map(|span| span.of(frame)).collect();
        arguments[0] = name;
        arguments[1] = &body;
        encode::command(&mut out, &arguments);
        Some(out.into())
    }
}

impl Engine {
    /// A user may run EVALSHA and not the EVAL that would heal it: the proxy's own account loads the body where it is missing, and
    /// the user's EVALSHA is sent again. Answers whether it does so.
    pub(super) fn load_for_user(&mut self, entry: &InFlight) -> bool {
        let Some(retry) = self.retries.get(entry.retry as usize).filter(|retry| retry.healed && entry.ticket.part == NONE) else {
            return false;
        };
        let Some(spans) = spans_of(&retry.frame).filter(|spans| spans.len() > 1) else { return false };
        let (frame, target) = (retry.frame.clone(), retry.target);
        let body = spans[1].of(&frame);
        let sha = sha1_smol::Sha1::from(body).digest().to_string();
        let mut arguments: Vec<&[u8]> = spans.iter().map(|span| span.of(&frame)).collect();
        arguments[0] = if arguments[0].eq_ignore_ascii_case(b"EVAL") { b"EVALSHA" } else { b"EVALSHA_RO" };
        arguments[1] = sha.as_bytes();
        let mut again = Vec::new();
        encode::command(&mut again, &arguments);
        self.drop_retry(entry.retry);
        let (client, seq) = (entry.ticket.client, entry.ticket.seq);
        let via = Via { user: self.users.service(), ..self.clients[client as usize].via() };
        let merge = self.open_merge(client, seq, via, Job::SendTo { frame: again, slot: target.slot() });
        self.clients[client as usize].unsettle();
        self.add_part(merge, target, 0, (0, 0), |out| encode::command(out, &[b"SCRIPT", b"LOAD", body]));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_found_by_their_sha_in_any_case_and_bounded() {
        let scripts = Scripts::new(1000);
        scripts.insert(b"return 1");
        let sha = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        assert_eq!(scripts.body(sha), Some(Bytes::from_static(b"return 1")));
        assert_eq!(scripts.body(&sha.to_ascii_uppercase()), Some(Bytes::from_static(b"return 1")));
        assert_eq!(scripts.body(b"e0e1"), None);
        assert_eq!(scripts.body(&[b'z'; 40]), None);
        for number in 0..100 {
            scripts.insert(format!("return {number} -- {}", "x".repeat(50)).as_bytes());
            assert!(scripts.bytes.load(Relaxed) <= 1000);
        }
        scripts.insert(&[b'x'; 2000]);
        assert!(!scripts.bodies.is_empty(), "a body that can never fit does not push others out");
        scripts.clear();
        assert_eq!(scripts.bodies.len(), 0);
    }
}
