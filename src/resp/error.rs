//! What is wrong with a client's bytes.

/// Why a client's stream cannot be read on: it gets [`append_reply`](ProtocolError::append_reply) behind the
/// replies it still awaits, then its connection is closed.
///
/// `Display` is the text behind `-ERR Protocol error: `, in the words of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*` is not followed by a strict integer, or by one above the limit.
    #[error("invalid multibulk length")]
    InvalidMultibulkLength,
    /// An argument does not begin with `$`; the byte is what it begins with.
    #[error("expected '$', got '{}'", char::from(printable(*.0)))]
    ExpectedDollar(u8),
    /// `$` is not followed by a strict integer from 0 to the limit.
    #[error("invalid bulk length")]
    InvalidBulkLength,
    /// A header or an argument does not end in CR LF. Redis skips two bytes unseen there, Valkey 9 refuses in
    /// these words; see the [module](crate::resp) for why its way is taken.
    #[error("invalid CRLF in request")]
    InvalidCrlf,
    /// A line of more than `inline_len_max` bytes.
    #[error("too big inline request")]
    TooBigInline,
    /// A `*` header of more than `inline_len_max` bytes.
    #[error("too big mbulk count string")]
    TooBigMultibulkCount,
    /// A `$` header of more than `inline_len_max` bytes.
    #[error("too big bulk count string")]
    TooBigBulkCount,
    /// More arguments than a client may send that has not authenticated.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// A longer argument than a client may send that has not authenticated.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// The quotes of an inline line are not closed, or closed in the middle of a word.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The client speaks HTTP: perhaps a browser that was tricked into a cross-protocol attack. Silent.
    #[error("an HTTP request was sent to this port")]
    Http,
    /// The unfinished request exceeds `query_buffer_max`. Silent.
    #[error("the query buffer limit was reached")]
    QueryBuffer,
}

impl ProtocolError {
    /// True if the connection is closed without a reply, as the servers do.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Http | Self::QueryBuffer)
    }

    /// Appends the error line to send before closing; nothing if [`is_silent`](Self::is_silent).
    pub fn append_reply(&self, out: &mut Vec<u8>) {
        if self.is_silent() {
            return;
        }
        out.extend_from_slice(b"-ERR Protocol error: ");
        match self {
            // The byte goes out as it came in, although it may be no character of its own.
            Self::ExpectedDollar(byte) => {
                out.extend_from_slice(b"expected '$', got '");
                out.extend_from_slice(&[printable(*byte), b'\'']);
            }
            other => out.extend_from_slice(other.to_string().as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// True if a command of this name is the first or second line of an HTTP request. The servers close the
/// connection ([`ProtocolError::Http`]) whether it came inline or not.
pub fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// The byte as it may stand in an error line.
fn printable(byte: u8) -> u8 {
    match byte {
        b'\r' | b'\n' => b' ',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        fn check(error: ProtocolError, reply: &[u8]) {
            let mut out = Vec::new();
            error.append_reply(&mut out);
            assert_eq!(out, reply, "{error:?}");
        }
        check(ProtocolError::InvalidMultibulkLength, b"-ERR Protocol error: invalid multibulk length\r\n");
        check(ProtocolError::ExpectedDollar(b':'), b"-ERR Protocol error: expected '$', got ':'\r\n");
        check(ProtocolError::ExpectedDollar(b'\r'), b"-ERR Protocol error: expected '$', got ' '\r\n");
        check(ProtocolError::ExpectedDollar(0xff), b"-ERR Protocol error: expected '$', got '\xff'\r\n");
        check(ProtocolError::InvalidBulkLength, b"-ERR Protocol error: invalid bulk length\r\n");
        check(ProtocolError::InvalidCrlf, b"-ERR Protocol error: invalid CRLF in request\r\n");
        check(ProtocolError::TooBigInline, b"-ERR Protocol error: too big inline request\r\n");
        check(ProtocolError::TooBigMultibulkCount, b"-ERR Protocol error: too big mbulk count string\r\n");
        check(ProtocolError::TooBigBulkCount, b"-ERR Protocol error: too big bulk count string\r\n");
        check(ProtocolError::UnauthenticatedMultibulkLength, b"-ERR Protocol error: unauthenticated multibulk length\r\n");
        check(ProtocolError::UnauthenticatedBulkLength, b"-ERR Protocol error: unauthenticated bulk length\r\n");
        check(ProtocolError::UnbalancedQuotes, b"-ERR Protocol error: unbalanced quotes in request\r\n");
        check(ProtocolError::Http, b"");
        check(ProtocolError::QueryBuffer, b"");
    }

    #[test]
    fn http() {
        for (name, expected) in
            [(&b"POST"[..], true), (b"post", true), (b"Host:", true), (b"Host", false), (b"GET", false), (b"", false)]
        {
            assert_eq!(is_http(name), expected, "{name:?}");
        }
    }
}
