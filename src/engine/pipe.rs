//! A byte pipe towards a socket: what is queued, what was written, and (for lanes) what was written and is not answered yet.
//!
//! Small frames are copied into one contiguous buffer, because a memcpy is cheaper than a reference count and an iovec;
//! large ones are kept as [`Bytes`] and written in place. A lane releases bytes when their reply has come, so the bytes of
//! every request in flight are still here when it must be sent again; a client's pipe releases them as they are written.

use std::{collections::VecDeque, io::IoSlice};

use bytes::Bytes;

/// Frames of this many bytes and more are passed on as `Bytes`, not copied: two memcpys of 16 KiB cost more than an iovec.
pub const LARGE_FRAME: usize = 16 * 1024;

/// An empty pipe keeps at most this much room, so that a burst does not hold memory for ever.
const KEPT_CAPACITY: usize = 1024 * 1024;

/// Released bytes in front of unreleased ones are moved away from this size on.
const COMPACT_FROM: usize = 64 * 1024;

/// One large frame, which stands in the stream before `bytes[at]`.
struct Large {
    at: usize,
    data: Bytes,
}

/// See the module's head. Invariant: `released <= written <= bytes.len()`, and `large` is in the order of `at`.
#[derive(Default)]
pub struct Pipe {
    bytes: Vec<u8>,
    released: usize,
    written: usize,
    large: VecDeque<Large>,
    /// How many of `large` are wholly written.
    large_written: usize,
    /// Bytes written of `large[large_written]`.
    large_offset: usize,
    large_bytes: usize,
}

impl Pipe {
    /// The buffer that small frames are appended to.
    pub fn small(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn push_large(&mut self, data: Bytes) {
        self.large_bytes += data.len();
        self.large.push_back(Large { at: self.bytes.len(), data });
    }

    /// Everything that the pipe holds, in bytes: unwritten and unreleased.
    pub fn held(&self) -> usize {
        self.bytes.len() - self.released + self.large_bytes
    }

    #[cfg(test)]
    fn has_unwritten(&self) -> bool {
        self.written < self.bytes.len() || self.large_written < self.large.len()
    }

    /// The last `len` bytes, if nothing of them was written and no large frame stands behind them.
    pub fn unwritten_tail(&self, len: usize) -> Option<&[u8]> {
        let at = self.bytes.len().checked_sub(len).filter(|at| *at >= self.written)?;
        self.large.back().is_none_or(|large| large.at < self.bytes.len()).then_some(&self.bytes[at..])
    }

    /// Fills `slices` with what is to be written next; returns how many it filled.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        if self.large.is_empty() {
            let rest = &self.bytes[self.written..];
            if rest.is_empty() {
                return 0;
            }
            slices[0] = IoSlice::new(rest);
            return 1;
        }
        let (mut at, mut next_large, mut filled) = (self.written, self.large_written, 0);
        let mut offset = self.large_offset;
        while filled < slices.len() {
            match self.large.get(next_large) {
                Some(large) if large.at == at => {
                    slices[filled] = IoSlice::new(&large.data[offset..]);
                    (offset, next_large) = (0, next_large + 1);
                }
                large => {
                    let end = large.map_or(self.bytes.len(), |large| large.at);
                    if at == end {
                        break;
                    }
                    slices[filled] = IoSlice::new(&self.bytes[at..end]);
                    at = end;
                }
            }
            filled += 1;
        }
        filled
    }

    /// Notes that `count` bytes of what `chunks` gave were written.
    pub fn advance(&mut self, mut count: usize) {
        if self.large.is_empty() {
            self.written += count;
            assert!(self.written <= self.bytes.len(), "more bytes reported as written than were queued");
            return;
        }
        while count > 0 {
            let next_large = self.large.get(self.large_written);
            match next_large {
                Some(large) if large.at == self.written => {
                    let taken = count.min(large.data.len() - self.large_offset);
                    self.large_offset += taken;
                    count -= taken;
                    if self.large_offset == large.data.len() {
                        (self.large_offset, self.large_written) = (0, self.large_written + 1);
                    }
                }
                large => {
                    let end = large.map_or(self.bytes.len(), |large| large.at);
                    let taken = count.min(end - self.written);
                    assert!(taken > 0, "more bytes reported as written than were queued");
                    self.written += taken;
                    count -= taken;
                }
            }
        }
    }

    /// Forgets all that is written: a client's pipe needs it no more.
    pub fn release_written(&mut self) {
        for _ in 0..self.large_written {
            let large = self.large.pop_front().expect("large_written counts its front");
            self.large_bytes -= large.data.len();
        }
        self.large_written = 0;
        self.released = self.written;
        self.compact();
    }

    /// Whether all of the oldest frame was written: `len` small bytes that are not released, and a large frame if it has one.
    #[inline]
    pub fn front_written(&self, len: usize, large: bool) -> bool {
        self.released + len <= self.written && (!large || self.large_written > 0)
    }

    /// Forgets the oldest `len` small bytes (a lane's oldest request was answered).
    pub fn release_small(&mut self, len: usize) {
        self.released += len;
        debug_assert!(self.released <= self.written, "an answered request was written");
        if self.released == self.bytes.len() || self.released > COMPACT_FROM {
            self.compact();
        }
    }

    /// Forgets the oldest large frame.
    pub fn release_large(&mut self) {
        let large = self.large.pop_front().expect("a large request in flight is in the pipe");
        self.large_bytes -= large.data.len();
        self.large_written -= 1;
    }

    /// The oldest `len` small bytes that are not released.
    pub fn front_small(&self, len: usize) -> &[u8] {
        &self.bytes[self.released..self.released + len]
    }

    /// The oldest large frame.
    pub fn front_large(&self) -> &Bytes {
        &self.large[0].data
    }

    /// Walks the frames in flight from the oldest: for `len` small bytes (or a large frame), its bytes and whether all of them were written.
    pub fn frames(&self) -> Frames<'_> {
        Frames { pipe: self, at: self.released, large: 0 }
    }

    fn compact(&mut self) {
        if self.large.is_empty() && self.released == self.bytes.len() && self.bytes.capacity() <= KEPT_CAPACITY {
            self.bytes.clear();
            (self.released, self.written) = (0, 0);
            return;
        }
        if self.released == self.bytes.len() && self.large.iter().all(|large| large.at == self.released) {
            for large in &mut self.large {
                large.at = 0;
            }
            self.bytes.clear();
            (self.released, self.written) = (0, 0);
            if self.bytes.capacity() > KEPT_CAPACITY {
                self.bytes = Vec::new();
            }
        } else if self.released * 2 > self.bytes.len() {
            // Moves less than it frees, so each byte is moved at most once on average.
            self.bytes.drain(..self.released);
            self.written -= self.released;
            for large in &mut self.large {
                large.at -= self.released.min(large.at);
            }
            self.released = 0;
        }
    }
}

/// See [`Pipe::frames`].
pub struct Frames<'a> {
    pipe: &'a Pipe,
    at: usize,
    large: usize,
}

impl<'a> Frames<'a> {
    pub fn next_small(&mut self, len: usize) -> (&'a [u8], bool) {
        let frame = &self.pipe.bytes[self.at..self.at + len];
        self.at += len;
        (frame, self.at <= self.pipe.written)
    }

    pub fn next_large(&mut self) -> (&'a Bytes, bool) {
        let index = self.large;
        self.large += 1;
        (&self.pipe.large[index].data, index < self.pipe.large_written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwritten(pipe: &Pipe) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = pipe.chunks(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn small_and_large_frames_keep_their_order_however_they_are_written() {
        for step in 1..=12 {
            let mut pipe = Pipe::default();
            pipe.small().extend_from_slice(b"ab");
            pipe.push_large(Bytes::from_static(b"LARGE"));
            pipe.push_large(Bytes::from_static(b"NEXT"));
            pipe.small().extend_from_slice(b"cd");
            let mut seen = Vec::new();
            while pipe.has_unwritten() {
                let bytes = unwritten(&pipe);
                let count = step.min(bytes.len());
                seen.extend_from_slice(&bytes[..count]);
                pipe.advance(count);
                pipe.release_written();
            }
            assert_eq!(seen, b"abLARGENEXTcd", "step {step}");
            assert_eq!(pipe.held(), 0);
        }
    }

    #[test]
    fn frames_in_flight_stay_until_released_and_know_whether_they_were_written() {
        let mut pipe = Pipe::default();
        pipe.small().extend_from_slice(b"one");
        pipe.push_large(Bytes::from_static(b"LARGE"));
        pipe.small().extend_from_slice(b"two");
        pipe.advance(3 + 5 + 1);
        let mut frames = pipe.frames();
        assert_eq!(frames.next_small(3), (&b"one"[..], true));
        assert_eq!(frames.next_large(), (&Bytes::from_static(b"LARGE"), true));
        assert_eq!(frames.next_small(3), (&b"two"[..], false));
        assert_eq!([pipe.front_written(3, false), pipe.front_written(3, true)], [true, true]);
        pipe.release_small(3);
        pipe.release_large();
        assert_eq!(unwritten(&pipe), b"wo");
        assert_eq!(
            [pipe.front_written(1, false), pipe.front_written(1, true), pipe.front_written(3, false)],
            [true, false, false]
        );
        pipe.advance(2);
        assert!(pipe.front_written(3, false));
        pipe.release_small(3);
        assert_eq!((pipe.held(), pipe.has_unwritten()), (0, false));
    }

    #[test]
    fn a_long_queue_is_compacted_and_keeps_its_content() {
        let mut pipe = Pipe::default();
        let mut expected = VecDeque::new();
        for round in 0..50_000u32 {
            let frame = round.to_be_bytes();
            pipe.small().extend_from_slice(&frame);
            expected.push_back(frame);
            pipe.advance(4);
            if expected.len() > 100 {
                let frame = expected.pop_front().expect("just checked");
                assert_eq!(pipe.front_small(4), frame);
                pipe.release_small(4);
            }
        }
        assert!(pipe.bytes.len() < 4 * COMPACT_FROM, "released bytes are given back: {}", pipe.bytes.len());
    }
}
