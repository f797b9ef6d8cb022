//! The PROXY protocol, versions 1 and 2: a load balancer says whose connection it hands on, before anything else
//! (haproxy.org, "The PROXY protocol", sections 2.1 and 2.2).

use std::io;
use std::net::SocketAddr;

use ppp::v1::{Addresses as TextAddresses, Header as TextHeader};
use ppp::v2::{Addresses as BinaryAddresses, Command, Header as BinaryHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version, family and length of version 2.
const BINARY_BEGIN: usize = 16;

/// Addresses take up to 216 bytes; the rest are facts about the client that are read over, certificates the longest of them.
const BINARY_REST_MAX: usize = 4096;

/// The longest header of version 1, its end of line included.
const TEXT_MAX: usize = 107;

/// Why a connection has no header that could be believed.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("expected a PROXY header, found {0}")]
    Io(#[from] io::Error),
    #[error("expected a PROXY header, found {0}")]
    Wrong(String),
}

/// Reads the header and not a byte more. `None`: the sender speaks for itself (LOCAL, UNKNOWN), or for who has no address.
pub async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        return binary(stream, header).await;
    }
    if !header.starts_with(b"PROXY ") {
        return Err(HeaderError::Wrong("other bytes".to_owned()));
    }
    // What follows belongs to the client, so that nothing may be read ahead: these are few bytes, once a connection.
    while !header.ends_with(b"\r\n") {
        if header.len() == TEXT_MAX {
            return Err(HeaderError::Wrong(format!("a line of more than {TEXT_MAX} bytes")));
        }
        header.push(stream.read_u8().await?);
    }
    let wrong = |error: &dyn std::fmt::Display| HeaderError::Wrong(error.to_string());
    let text = str::from_utf8(&header).map_err(|error| wrong(&error))?;
    let parsed = TextHeader::try_from(text).map_err(|error| wrong(&error))?;
    Ok(match parsed.addresses {
        TextAddresses::Unknown => None,
        TextAddresses::Tcp4(ends) => Some((ends.source_address, ends.source_port).into()),
        TextAddresses::Tcp6(ends) => Some((ends.source_address, ends.source_port).into()),
    })
}

async fn binary(stream: &mut (impl AsyncRead + Unpin), mut header: Vec<u8>) -> Result<Option<SocketAddr>, HeaderError> {
    header.resize(BINARY_BEGIN, 0);
    stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
    let rest = usize::from(u16::from_be_bytes([header[BINARY_BEGIN - 2], header[BINARY_BEGIN - 1]]));
    if rest > BINARY_REST_MAX {
        return Err(HeaderError::Wrong(format!("{rest} bytes of it, more than {BINARY_REST_MAX}")));
    }
    header.resize(BINARY_BEGIN + rest, 0);
    stream.read_exact(&mut header[BINARY_BEGIN..]).await?;
    let parsed = BinaryHeader::try_from(&header[..]).map_err(|error| HeaderError::Wrong(error.to_string()))?;
    Ok(match parsed.addresses {
        _ if parsed.command == Command::Local => None,
        BinaryAddresses::IPv4(ends) => Some((ends.source_address, ends.source_port).into()),
        BinaryAddresses::IPv6(ends) => Some((ends.source_address, ends.source_port).into()),
        BinaryAddresses::Unspecified | BinaryAddresses::Unix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of `bytes`, and what is left of them.
    fn read(bytes: &[u8]) -> (Result<Option<String>, String>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut rest = bytes;
        let outcome = runtime.block_on(read_header(&mut rest));
        (outcome.map(|from| from.map(|from| from.to_string())).map_err(|error| error.to_string()), rest.to_vec())
    }

    fn binary_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[0x20 | command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    #[test]
    fn headers_end_where_the_client_begins() {
        #[track_caller]
        fn check(header: &[u8], expected: Option<&str>) {
            let (found, rest) = read(&[header, b"PING\r\n"].concat());
            assert_eq!((found, &rest[..]), (Ok(expected.map(str::to_owned)), &b"PING\r\n"[..]));
        }
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 6380\r\n", Some("192.0.2.1:5000"));
        check(b"PROXY TCP6 2001:db8::1 ::1 5000 6380\r\n", Some("[2001:db8::1]:5000"));
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN whatever it says\r\n", None);
        let ends = [192, 0, 2, 1, 10, 0, 0, 1, 0x13, 0x88, 0x18, 0xec];
        check(&binary_header(1, 0x11, &ends), Some("192.0.2.1:5000"));
        check(&binary_header(0, 0x11, &ends), None);
        check(&binary_header(0, 0, &[]), None);
        // With a fact about the client behind the addresses.
        check(&binary_header(1, 0x11, &[&ends[..], &[4, 0, 2, 0, 0]].concat()), Some("192.0.2.1:5000"));
    }

    #[test]
    fn what_is_no_header() {
        let check = |bytes: &[u8], expected: &str| {
            let error = read(bytes).0.expect_err("no header");
            assert!(error.starts_with("expected a PROXY header, found ") && error.contains(expected), "{error}");
        };
        check(b"*1\r\n$4\r\nPING\r\n", "other bytes");
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 5000\r\n", "");
        check(b"PROXY TCP4 300.0.2.1 10.0.0.1 5000 6380\r\n", "");
        check(&[&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(), "a line of more than 107 bytes");
        check(b"PROXY TCP4", "early eof");
        check(&binary_header(1, 0x11, &[1, 2, 3]), "");
        check(&[&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(), "65535 bytes of it, more than 4096");
        check(&binary_header(7, 0x11, &[0; 12]), "");
    }
}
