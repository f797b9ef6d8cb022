//! What really happened, seen from outside of the engine, and whether it was allowed to.
//!
//! Every attempt to have a tagged request executed is followed from the moment it is queued on a lane: whether it was served, refused,
//! or lost, and when the engine learned that. `step` counts the calls into engines, which is the only order of events that matters to
//! them: virtual time may stand still.

use std::collections::HashMap;

/// A request: its client's number and its place among the client's requests.
pub type Tag = (u32, u32);

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    InFlight,
    /// Executed; its reply is on its way or has arrived.
    Served,
    /// Answered by a refusal, which reached the engine at this step (`None`: is on its way).
    Refused {
        seen: Option<u64>,
    },
    /// Its connection ended before the engine had its reply.
    Lost {
        step: u64,
        written: bool,
    },
}

#[derive(Debug)]
pub struct Attempt {
    pub tag: Tag,
    pub conn: usize,
    pub queued: u64,
    pub keys: Vec<String>,
    pub fate: Fate,
    /// The engine has its whole reply.
    pub answered: bool,
    /// A script that answers what looks like a refusal was executed.
    pub forged: bool,
    pub write: bool,
}

/// See the module's head.
#[derive(Default)]
pub struct Truth {
    pub step: u64,
    pub attempts: Vec<Attempt>,
    by_tag: HashMap<Tag, Vec<usize>>,
    /// How often a write was applied to a key.
    applied: HashMap<Tag, HashMap<String, u32>>,
    /// Attempts that had an effect on (or saw) a key, for each client in the order of execution.
    effects: HashMap<(u32, String), Vec<usize>>,
    /// The first rule that was broken.
    pub wrong: Option<String>,
    pub overtaken: u64,
}

impl Truth {
    pub fn accuse(&mut self, text: String) {
        self.wrong.get_or_insert(text);
    }

    /// The engine queued a request on a lane.
    pub fn queued(&mut self, tag: Tag, conn: usize, keys: Vec<String>, write: bool) -> usize {
        let others = self.by_tag.entry(tag).or_default();
        for other in others.iter().map(|index| &self.attempts[*index]) {
            if !other.keys.iter().any(|key| keys.contains(key)) {
                continue;
            }
            let again = match other.fate {
                _ if !write => None,
                Fate::InFlight => Some("is in flight"),
                Fate::Served if !other.forged => Some("was executed"),
                Fate::Lost { written: true, .. } => Some("may have been executed: it was written when its lane broke"),
                _ => None,
            };
            if let Some(again) = again {
                self.wrong.get_or_insert(format!("request {tag:?} on {keys:?} is sent again while it {again}"));
            }
        }
        let index = self.attempts.len();
        others.push(index);
        self.attempts.push(Attempt {
            tag,
            conn,
            queued: self.step,
            keys,
            fate: Fate::InFlight,
            answered: false,
            forged: false,
            write,
        });
        index
    }

    /// A node executed an attempt; `late` if it had waited, and its connection was gone.
    pub fn served(&mut self, index: usize, forged: bool, late: bool) {
        let attempt = &mut self.attempts[index];
        // What reaches a node after the engine gave the lane up is executed and stays lost.
        if !matches!(attempt.fate, Fate::Lost { .. }) {
            attempt.fate = if forged { Fate::Refused { seen: None } } else { Fate::Served };
        }
        attempt.forged = forged;
        let (tag, keys, write) = (attempt.tag, attempt.keys.clone(), attempt.write);
        for key in keys {
            if write {
                let times = self.applied.entry(tag).or_default().entry(key.clone()).or_default();
                *times += 1;
                if *times > if forged { 2 } else { 1 } {
                    let times = *times;
                    self.accuse(format!("write {tag:?} was applied {times} times to {key}"));
                }
            }
            // A node that does not know yet that a connection is gone may still serve whoever waited there; its client was told.
            if !late {
                self.check_order(index, &key);
                self.effects.entry((tag.0, key)).or_default().push(index);
            }
        }
    }

    /// Effects of one client on one key come in the order of its requests. The one excuse: the overtaken request was in flight on the
    /// same connection when the overtaking one was queued behind it, and was refused (or lost) only then.
    fn check_order(&mut self, index: usize, key: &str) {
        let (client, seq) = self.attempts[index].tag;
        let Some(earlier) = self.effects.get(&(client, key.to_owned())) else { return };
        let overtaking: Vec<usize> = earlier.iter().copied().filter(|other| self.attempts[*other].tag.1 > seq).collect();
        for other in overtaking {
            self.overtaken += 1;
            let by = &self.attempts[other];
            let excused = self.by_tag[&(client, seq)].iter().map(|index| &self.attempts[*index]).any(|attempt| {
                let failed_later = match attempt.fate {
                    Fate::Refused { seen } => seen.is_none_or(|seen| seen >= by.queued),
                    Fate::Lost { step, .. } => step >= by.queued,
                    Fate::InFlight | Fate::Served => false,
                };
                failed_later
                    && attempt.conn == by.conn
                    && attempt.queued <= by.queued
                    && attempt.keys.iter().any(|other| other == key)
            });
            if !excused {
                let text = format!("client {client}: request {} took effect on {key} before request {seq}", by.tag.1);
                self.accuse(text);
            }
        }
    }

    pub fn refused(&mut self, index: usize) {
        if !matches!(self.attempts[index].fate, Fate::Lost { .. }) {
            self.attempts[index].fate = Fate::Refused { seen: None };
        }
    }

    /// It can never be carried out.
    pub fn void(&mut self, index: usize) {
        self.attempts[index].fate = Fate::Refused { seen: Some(self.step) };
    }

    /// The engine has the attempt's whole reply.
    pub fn reply_seen(&mut self, index: usize) {
        self.attempts[index].answered = true;
        if let Fate::Refused { seen } = &mut self.attempts[index].fate {
            *seen = Some(self.step);
        }
    }

    /// The attempt's connection ended before the engine had its reply.
    pub fn lost(&mut self, index: usize, written: bool) {
        self.attempts[index].fate = Fate::Lost { step: self.step, written };
    }

    pub fn times_applied(&self, tag: Tag, key: &str) -> u32 {
        self.applied.get(&tag).and_then(|keys| keys.get(key)).copied().unwrap_or(0)
    }

    /// Whether a request's effect on a key came after another request of the same client had seen (or changed) the key.
    pub fn came_after(&self, client: u32, key: &str, seq: u32, other: u32) -> bool {
        let effects = self.effects.get(&(client, key.to_owned())).map(Vec::as_slice).unwrap_or_default();
        let place = |seq: u32| effects.iter().rposition(|index| self.attempts[*index].tag.1 == seq);
        place(seq) > place(other)
    }

    pub fn was_applied(&self, tag: Tag) -> bool {
        self.applied.contains_key(&tag)
    }

    /// Whether an attempt's outcome is really unknown: it was wholly written, and its connection ended.
    pub fn is_unknown(&self, tag: Tag) -> bool {
        let attempts = self.by_tag.get(&tag).into_iter().flatten();
        attempts
            .map(|index| &self.attempts[*index])
            .any(|attempt| matches!(attempt.fate, Fate::Lost { written: true, .. }) && attempt.write)
    }

    /// Whether a blocking request was sent whose answer the engine does not have.
    pub fn is_waiting(&self, tag: Tag) -> bool {
        let last = self.by_tag.get(&tag).and_then(|attempts| attempts.last());
        last.map(|index| &self.attempts[*index]).is_some_and(|attempt| match attempt.fate {
            Fate::InFlight | Fate::Refused { .. } => true,
            Fate::Served => !attempt.answered,
            Fate::Lost { .. } => false,
        })
    }

    /// How often a request was executed or may have been.
    pub fn describe(&self, tag: Tag) -> String {
        let attempts = self.by_tag.get(&tag).into_iter().flatten().map(|index| &self.attempts[*index]);
        attempts.map(|attempt| format!("\n    {attempt:?}")).collect()
    }
}
