//! Keys that a waiting request needs on one node: whoever moves their slot may move them first.

use bytes::Bytes;

use crate::{cluster::Slot, command};

use super::{
    Engine, Event,
    pump::{name_of, spans_of},
};

/// Of one request: those behind are named when it is tried again, if it still waits then.
const KEYS_MAX: usize = 100;

/// Bytes of all keys that one request names.
const BYTES_MAX: usize = 64 * 1024;

impl Engine {
    /// A node has said TRYAGAIN to this request.
    pub(super) fn want_keys(&mut self, slot: Slot, frame: &[u8]) {
        let Some(command) = name_of(frame).and_then(|name| command::lookup(&name)) else { return };
        let Some(spans) = spans_of(frame) else { return };
        let mut places = Vec::new();
        if command::keys(command, frame, &spans, &mut places).is_err() {
            return;
        }
        let keys = places.iter().filter_map(|place| Some(spans.get(*place as usize)?.of(frame)));
        let mut bytes = 0;
        let few = keys.take(KEYS_MAX).take_while(|key| {
            bytes += key.len();
            bytes <= BYTES_MAX
        });
        // The frame may be large, and is not to live for as long as they.
        let keys: Vec<Bytes> = few.map(Bytes::copy_from_slice).collect();
        if !keys.is_empty() {
            self.events.push_back(Event::Wanted { slot, keys });
        }
    }
}
