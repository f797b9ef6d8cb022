//! Bytes under way in one direction, and the pieces in which they arrive.

use fastrand::Rng;

/// What was sent and has not arrived, in order.
#[derive(Default)]
pub struct Stream {
    bytes: Vec<u8>,
    at: usize,
    /// An arrival is in the world's queue.
    pub scheduled: bool,
}

impl Stream {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.bytes[self.at..self.at + count].to_vec();
        self.at += count;
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        taken
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
    }
}

/// How much of `len` bytes goes in one piece: often all, else any part; a twentieth at least, so that a large value takes
/// few events.
pub fn piece(random: &mut Rng, len: usize, whole_percent: u32) -> usize {
    if len <= 1 || random.u32(0..100) < whole_percent {
        return len;
    }
    random.usize(1..=len).max(len / 20)
}
