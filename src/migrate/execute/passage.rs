//! A slot on its way: what is known of it while its keys move.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Event, Listener};
use crate::cluster::Slot;
use crate::migrate::Holds;
use crate::migrate::recovery::{self, Known, Trouble};
use crate::topology::TopologyHandle;

/// A slot on its way.
pub(super) struct Passage {
    pub slot: Slot,
    /// The masters between which it was open when it was last in order; none before it is begun. All its requests go to these. While
    /// the source is another, nobody has been let to that, and a key that both ends hold is not simply the source's.
    pub ends: Option<[Arc<str>; 2]>,
    /// Keys of the MIGRATE that was not answered, in this database: each may be here or there.
    pub unsettled: Option<(u32, Vec<Bytes>)>,
    /// Keys of a MIGRATE that came to no good end: where both ends hold one, the source's copy is the newer.
    pub unacknowledged: BTreeSet<Bytes>,
    /// No replica has said that it knows of the last batch.
    pub unconfirmed: bool,
    pub target_at: Option<(String, u16)>,
    /// Its first keys, which the source listed when it was marked.
    pub listed: Option<Vec<Bytes>>,
    pub source_has_replicas: bool,
    pub target_has_replicas: bool,
    /// The key that is touched at the target behind each batch: finding one of this slot takes milliseconds.
    pub touched: Option<String>,
    pub keys: u64,
    pub bytes: u64,
    /// Masters that name another owner, as far as they were asked.
    pub differing: Option<Vec<Arc<str>>>,
    pub announced: bool,
    pub announcing_since: Option<Instant>,
    pub unheard: BTreeSet<Arc<str>>,
    pub looked: bool,
    /// What the source had at the last look.
    had: Option<Had>,
    /// A former master of the target was down when the slot was ready to be handed over.
    pub lurked: Option<Arc<str>>,
    pub pin: Pinned,
}

/// A source, and how many of its keys were still to move.
struct Had {
    node: Arc<str>,
    run: String,
    keys: u64,
}

/// While a slot is open its requests go to its two ends only: a replica that takes over from one of them may not know that it is open.
/// This is for the clients of this process, and at once; the record's `Holds` are for all, and last longer.
pub struct Pinned {
    topology: TopologyHandle,
    slot: Slot,
    pub set: bool,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.set {
            self.topology.unpin(self.slot);
        }
    }
}

impl Passage {
    pub fn new(slot: Slot, resumed: &Holds, topology: &TopologyHandle) -> Passage {
        let mut passage = Passage {
            slot,
            ends: None,
            unsettled: None,
            unacknowledged: resumed.unacknowledged(slot).map(Bytes::copy_from_slice).collect(),
            unconfirmed: false,
            target_at: None,
            source_has_replicas: false,
            target_has_replicas: false,
            touched: None,
            keys: 0,
            bytes: 0,
            differing: None,
            announced: false,
            listed: None,
            announcing_since: None,
            unheard: BTreeSet::new(),
            looked: false,
            had: None,
            lurked: None,
            pin: Pinned { topology: topology.clone(), slot, set: false },
        };
        if let Some(ends) = resumed.ends(slot) {
            passage.hold(ends.map(Arc::from));
        }
        passage
    }

    /// Requests for the slot go to these two only.
    pub fn hold(&mut self, ends: [Arc<str>; 2]) {
        if self.ends.as_ref() != Some(&ends) {
            self.pin.topology.pin(self.slot, ends.clone());
            self.pin.set = true;
            self.ends = Some(ends);
        }
    }

    pub fn known(&self, source: &str) -> Known {
        match &self.ends {
            None => Known::Nothing,
            Some([at, _]) if **at == *source => Known::Open,
            Some(_) => Known::Held,
        }
    }

    /// The target may have got these although the source goes on with them.
    pub fn doubt(&mut self, keys: &[Bytes], tell: Listener<'_>) {
        self.unacknowledged.extend(keys.iter().cloned());
        self.tell_doubts(tell);
    }

    /// These are the target's.
    pub fn trust(&mut self, keys: &[Bytes], tell: Listener<'_>) {
        if !self.unacknowledged.is_empty() {
            for key in keys {
                self.unacknowledged.remove(key);
            }
            self.tell_doubts(tell);
        }
    }

    fn tell_doubts(&self, tell: Listener<'_>) {
        tell(Event::Unacknowledged { slot: self.slot, keys: self.unacknowledged.iter().cloned().collect() });
    }

    /// Notes what the source has, and complains when it was started anew and has lost keys.
    pub fn note_source(&mut self, node: &Arc<str>, run: &str, found: u64) -> Result<(), Trouble> {
        let same_node = self.had.as_ref().filter(|had| had.node == *node);
        if same_node.is_some_and(|had| had.run != run && recovery::has_lost_keys(had.keys, found)) {
            return Err(Trouble::SourceEmptied);
        }
        self.had = Some(Had { node: node.clone(), run: run.to_owned(), keys: found });
        Ok(())
    }

    /// So many keys are gone from the source, or may be.
    pub fn expect_fewer(&mut self, keys: usize) {
        if let Some(had) = &mut self.had {
            had.keys = had.keys.saturating_sub(keys as u64);
        }
    }
}
