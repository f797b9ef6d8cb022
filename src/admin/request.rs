//! Requests of one admin connection, taken out of its bytes.

use bytes::{Bytes, BytesMut};

use crate::resp::{Limits, ProtocolError, RequestScanner, Scanned, Span, is_http, split_inline};

/// The longest request. An operator's commands are a few words; what is longer is no operator.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Reads requests with the proxy's own scanner: unlike a decoder of replies it takes inline commands (telnet, `nc`),
/// keeps limits, and does not recurse into what a client nests.
#[derive(Debug)]
pub(super) struct RequestReader {
    limits: Limits,
    scanner: RequestScanner,
    spans: Vec<Span>,
}

impl RequestReader {
    pub fn new() -> Self {
        let limits = Limits {
            bulk_len_max: REQUEST_BYTES_MAX,
            multibulk_len_max: REQUEST_BYTES_MAX,
            inline_len_max: REQUEST_BYTES_MAX,
            query_buffer_max: REQUEST_BYTES_MAX,
            ..Limits::default()
        };
        Self { limits, scanner: RequestScanner::default(), spans: Vec::new() }
    }

    /// Takes the next request off the front, as its words (at least one); `None` when it is not whole yet.
    pub fn read(&mut self, received: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        while !received.is_empty() {
            let words = match self.scanner.scan(received, &mut self.spans, &self.limits)? {
                Scanned::More { .. } => return Ok(None),
                Scanned::Skip { len } => {
                    drop(received.split_to(len));
                    continue;
                }
                Scanned::Inline { len } => split_inline(&received.split_to(len))?.into_iter().map(Bytes::from).collect(),
                Scanned::Request { len } => {
                    let frame = received.split_to(len).freeze();
                    let word = |span: &Span| frame.slice(span.start as usize..span.end());
                    self.spans.iter().map(word).collect::<Vec<_>>()
                }
            };
            match words.first() {
                // A web page can make a browser post to a loopback port, which may ask for no password.
                Some(name) if is_http(name) => return Err(ProtocolError::Http),
                Some(_) => return Ok(Some(words)),
                None => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a stream cut at every byte; the requests, and why reading ended if it did.
    fn read_all(stream: &[u8]) -> (Vec<String>, Option<ProtocolError>) {
        let (mut reader, mut received, mut requests) = (RequestReader::new(), BytesMut::new(), Vec::new());
        for byte in stream {
            received.extend_from_slice(&[*byte]);
            loop {
                match reader.read(&mut received) {
                    Ok(Some(words)) => {
                        requests.push(words.iter().map(|w| String::from_utf8_lossy(w)).collect::<Vec<_>>().join("|"))
                    }
                    Ok(None) => break,
                    Err(error) => return (requests, Some(error)),
                }
            }
        }
        (requests, None)
    }

    #[test]
    fn requests_come_whole_however_they_are_cut() {
        #[track_caller]
        fn check(stream: &[u8], expected: &[&str], end: Option<ProtocolError>) {
            let (requests, ended) = read_all(stream);
            assert_eq!((requests.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), ended), (expected, end));
        }
        check(b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nINFO\r\n$1\r\na\r\n", &["PING", "INFO|a"], None);
        check(b"PING\r\n\r\n*0\r\nPROXY  'HELP me'\n", &["PING", "PROXY|HELP me"], None);
        check(b"PING\r\n*x\r\n", &["PING"], Some(ProtocolError::InvalidMultibulkLength));
        check(b"POST / HTTP/1.1\r\nHost: x\r\n", &[], Some(ProtocolError::Http));
        check(b"*2\r\n$5\r\nHost:\r\n$1\r\nx\r\n", &[], Some(ProtocolError::Http));
        check(b"*1\r\n$70000\r\n", &[], Some(ProtocolError::InvalidBulkLength));
        check(&[b'x'; 70000], &[], Some(ProtocolError::QueryBuffer));
        check(
            &[b"*3\r\n$40000\r\n".as_slice(), &[b'x'; 40000], b"\r\n$40000\r\n", &[b'x'; 40000]].concat(),
            &[],
            Some(ProtocolError::QueryBuffer),
        );
    }
}
