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

/// A pipe's large frames in the order of `at`, at least one.
#[derive(Default)]
struct LargeFrames {
    frames: VecDeque<Large>,
    /// How many of them are wholly written.
    written: usize,
    /// Bytes written of `frames[written]`.
    offset: usize,
    bytes: usize,
}

impl LargeFrames {
    fn pop_front(&mut self) {
        let first = self.frames.pop_front().expect("a large frame that is let go of is in the pipe");
        self.bytes -= first.data.len();
        self.written -= 1;
    }
}

/// See the module's head. Invariant: `released <= written <= bytes.len()`.
#[derive(Default)]
pub struct Pipe {
    bytes: Vec<u8>,
    released: usize,
    written: usize,
    /// Apart, because most pipes have none.
    large: Option<Box<LargeFrames>>,
}

impl Pipe {
    /// The buffer that small frames are appended to.
    #[inline]
    pub fn small(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn push_large(&mut self, data: Bytes) {
        let large = self.large.get_or_insert_default();
        large.bytes += data.len();
        large.frames.push_back(Large { at: self.bytes.len(), data });
    }

    /// Everything that the pipe holds, in bytes: unwritten and unreleased.
    #[inline]
    pub fn held(&self) -> usize {
        self.bytes.len() - self.released + self.large.as_ref().map_or(0, |large| large.bytes)
    }

    #[cfg(test)]
    fn has_unwritten(&self) -> bool {
        self.written < self.bytes.len() || self.large.as_ref().is_some_and(|large| large.written < large.frames.len())
    }

    /// The last `len` bytes, if nothing of them was written and no large frame stands behind them.
    pub fn unwritten_tail(&self, len: usize) -> Option<&[u8]> {
        let at = self.bytes.len().checked_sub(len).filter(|at| *at >= self.written)?;
        let last_large = self.large.as_ref().and_then(|large| large.frames.back());
        last_large.is_none_or(|large| large.at < self.bytes.len()).then_some(&self.bytes[at..])
    }

    /// What is to be written next, if no large frame is among it. It may be empty.
    #[inline]
    pub fn only_chunk(&self) -> Option<&[u8]> {
        if self.large.is_none() { Some(&self.bytes[self.written..]) } else { None }
    }

    /// Fills `slices` with what is to be written next; returns how many it filled.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(large) = &self.large else {
            let rest = &self.bytes[self.written..];
            if rest.is_empty() {
                return 0;
            }
            slices[0] = IoSlice::new(rest);
            return 1;
        };
        let (mut at, mut next_large, mut filled) = (self.written, large.written, 0);
        let mut offset = large.offset;
        while filled < slices.len() {
            match large.frames.get(next_large) {
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
        let Some(large) = &mut self.large else {
            self.written += count;
            assert!(self.written <= self.bytes.len(), "more bytes reported as written than were queued");
            return;
        };
        while count > 0 {
            match large.frames.get(large.written) {
                Some(next) if next.at == self.written => {
                    let taken = count.min(next.data.len() - large.offset);
                    large.offset += taken;
                    count -= taken;
                    if large.offset == next.data.len() {
                        (large.offset, large.written) = (0, large.written + 1);
                    }
                }
                next => {
                    let end = next.map_or(self.bytes.len(), |next| next.at);
                    let taken = count.min(end - self.written);
                    assert!(taken > 0, "more bytes reported as written than were queued");
                    self.written += taken;
                    count -= taken;
                }
            }
        }
    }

    /// As `advance`, and forgets what is written, which a client's pipe needs no more. Answers whether nothing is left.
    #[inline]
    pub fn wrote(&mut self, count: usize) -> bool {
        let all = self.large.is_none() && self.written + count == self.bytes.len();
        if all && self.bytes.capacity() <= KEPT_CAPACITY {
            self.bytes.clear();
            (self.released, self.written) = (0, 0);
            return true;
        }
        self.advance(count);
        self.release_written();
        self.held() == 0
    }

    fn release_written(&mut self) {
        while self.large.as_ref().is_some_and(|large| large.written > 0) {
            self.release_large();
        }
        self.released = self.written;
        self.compact();
    }

    /// Whether all of the oldest frame was written: `len` small bytes that are not released, and a large frame if it has one.
    #[inline]
    pub fn front_written(&self, len: usize, large: bool) -> bool {
        let large_written = || self.large.as_ref().is_some_and(|large| large.written > 0);
        self.released + len <= self.written && (!large || large_written())
    }

    /// Forgets the oldest `len` small bytes (a lane's oldest request was answered).
    #[inline]
    pub fn release_small(&mut self, len: usize) {
        self.released += len;
        debug_assert!(self.released <= self.written, "an answered request was written");
        if self.released == self.bytes.len() || self.released > COMPACT_FROM {
            self.compact();
        }
    }

    /// Forgets the oldest large frame.
    pub fn release_large(&mut self) {
        let large = self.large.as_mut().expect("a large request in flight is in the pipe");
        large.pop_front();
        if large.frames.is_empty() {
            self.large = None;
        }
    }

    /// The oldest `len` small bytes that are not released.
    pub fn front_small(&self, len: usize) -> &[u8] {
        &self.bytes[self.released..self.released + len]
    }

    /// The oldest large frame.
    pub fn front_large(&self) -> &Bytes {
        let large = self.large.as_ref().expect("a large request in flight is in the pipe");
        &large.frames[0].data
    }

    /// Walks the frames in flight from the oldest: for `len` small bytes (or a large frame), its bytes and whether all of them were written.
    pub fn frames(&self) -> Frames<'_> {
        Frames { pipe: self, at: self.released, large: 0 }
    }

    fn compact(&mut self) {
        let released = self.released;
        let none_before = |large: &LargeFrames| large.frames.iter().all(|large| large.at == released);
        if released == self.bytes.len() && self.large.as_deref().is_none_or(none_before) {
            for large in self.large.iter_mut().flat_map(|large| &mut large.frames) {
                large.at = 0;
            }
            self.bytes.clear();
            (self.released, self.written) = (0, 0);
            if self.bytes.capacity() > KEPT_CAPACITY {
                self.bytes = Vec::new();
            }
        } else if released * 2 > self.bytes.len() {
            // Moves less than it frees, so each byte is moved at most once on average.
            self.bytes.drain(..released);
            self.written -= released;
            for large in self.large.iter_mut().flat_map(|large| &mut large.frames) {
                large.at -= released.min(large.at);
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
        let large = self.pipe.large.as_ref().expect("a large request in flight is in the pipe");
        (&large.frames[index].data, index < large.written)
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
                let left = bytes.len() - count;
                assert_eq!(pipe.wrote(count), left == 0);
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
