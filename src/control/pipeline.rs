//! Commands that are sent together.

use bytes::BytesMut;
use redis_protocol::codec::Resp2;
use redis_protocol::resp2::types::BorrowedFrame;
use tokio_util::codec::Encoder;

/// Commands in the form they travel in, to be sent in one write and answered in order.
#[derive(Clone, Default, Debug)]
pub struct Pipeline {
    bytes: BytesMut,
    len: usize,
}

impl Pipeline {
    pub fn new() -> Pipeline {
        Pipeline::default()
    }

    /// Adds a command: its name and arguments, one word each.
    pub fn push<A: AsRef<[u8]>>(&mut self, words: impl IntoIterator<Item = A>) -> &mut Pipeline {
        let words: Vec<A> = words.into_iter().collect();
        let words: Vec<BorrowedFrame> = words.iter().map(|word| BorrowedFrame::BulkString(word.as_ref())).collect();
        // The encoder makes the room it needs before it writes, so it has nothing to fail of.
        let encoded = Resp2::default().encode(BorrowedFrame::Array(&words), &mut self.bytes);
        debug_assert!(encoded.is_ok(), "encoding into a growing buffer: {encoded:?}");
        self.len += 1;
        self
    }

    /// How many replies will come.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_as_they_travel() {
        let mut pipeline = Pipeline::new();
        assert!(pipeline.is_empty());
        pipeline.push(["CLUSTER", "NODES"]).push([b"GET".as_slice(), b"\r\n\xff"]).push(Vec::<String>::new());
        let expected = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n*2\r\n$3\r\nGET\r\n$3\r\n\r\n\xff\r\n*0\r\n";
        assert_eq!((pipeline.bytes(), pipeline.len()), (expected.as_slice(), 3));
    }
}
