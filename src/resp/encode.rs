//! Writes replies and commands. Every function appends to `out`.

/// The protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    Resp2,
    Resp3,
}

/// `+text`. Line ends in it become blanks, as in the servers.
pub fn simple(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    line(out, b'+', text.as_ref());
}

/// `-text`: an error with its code, such as `ERR no such key`. Line ends in it become blanks, as in the servers.
pub fn error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    line(out, b'-', text.as_ref());
}

/// `:number`.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    out.push(b':');
    if number < 0 {
        out.push(b'-');
    }
    decimal(out, number.unsigned_abs());
    out.extend_from_slice(b"\r\n");
}

/// `$len` and the bytes.
pub fn bulk(out: &mut Vec<u8>, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A missing value: `$-1` or `_`.
pub fn null(out: &mut Vec<u8>, proto: Proto) {
    out.extend_from_slice(match proto {
        Proto::Resp2 => b"$-1\r\n",
        Proto::Resp3 => b"_\r\n",
    });
}

/// A missing array: `*-1` or `_`.
pub fn null_array(out: &mut Vec<u8>, proto: Proto) {
    out.extend_from_slice(match proto {
        Proto::Resp2 => b"*-1\r\n",
        Proto::Resp3 => b"_\r\n",
    });
}

/// The header of an array; `n` elements follow.
pub fn array(out: &mut Vec<u8>, n: usize) {
    header(out, b'*', n);
}

/// The header of a map; `n_pairs` keys and values follow by turns. In RESP2 a flat array.
pub fn map(out: &mut Vec<u8>, proto: Proto, n_pairs: usize) {
    match proto {
        Proto::Resp2 => header(out, b'*', 2 * n_pairs),
        Proto::Resp3 => header(out, b'%', n_pairs),
    }
}

/// The header of a set; `n` elements follow. In RESP2 an array.
pub fn set(out: &mut Vec<u8>, proto: Proto, n: usize) {
    match proto {
        Proto::Resp2 => header(out, b'*', n),
        Proto::Resp3 => header(out, b'~', n),
    }
}

/// The header of an out-of-band message; `n` elements follow. In RESP2 an array.
pub fn push(out: &mut Vec<u8>, proto: Proto, n: usize) {
    match proto {
        Proto::Resp2 => header(out, b'*', n),
        Proto::Resp3 => header(out, b'>', n),
    }
}

/// Text for people, marked as such in RESP3 (`=len`, `txt:`). In RESP2 a bulk.
pub fn verbatim(out: &mut Vec<u8>, proto: Proto, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    match proto {
        Proto::Resp2 => bulk(out, text),
        Proto::Resp3 => {
            header(out, b'=', text.len() + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A floating point number as some server spelt it. In RESP2 a bulk.
pub fn double(out: &mut Vec<u8>, proto: Proto, number: impl AsRef<[u8]>) {
    match proto {
        Proto::Resp2 => bulk(out, number),
        Proto::Resp3 => line(out, b',', number.as_ref()),
    }
}

/// A request: an array of bulks.
pub fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    array(out, arguments.len());
    for argument in arguments {
        bulk(out, argument);
    }
}

fn line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    let start = out.len();
    out.extend_from_slice(text);
    for byte in &mut out[start..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn header(out: &mut Vec<u8>, kind: u8, n: usize) {
    out.push(kind);
    decimal(out, n as u64);
    out.extend_from_slice(b"\r\n");
}

/// The digits of `number`; most lengths have one.
fn decimal(out: &mut Vec<u8>, mut number: u64) {
    if number < 10 {
        out.push(b'0' + number as u8);
        return;
    }
    // 20 digits hold any u64.
    let mut digits = [0; 20];
    let mut first = digits.len();
    while number > 0 {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::Proto::{Resp2, Resp3};
    use super::*;

    fn check(write: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = b"before".to_vec();
        write(&mut out);
        assert_eq!(out.escape_ascii().to_string(), format!("before{}", expected.escape_default()));
    }

    #[test]
    fn replies() {
        check(|out| simple(out, "OK"), "+OK\r\n");
        check(|out| error(out, b"ERR no such key"), "-ERR no such key\r\n");
        check(|out| error(out, "ERR a\r\nb\n"), "-ERR a  b \r\n");
        for (number, expected) in [
            (0, ":0\r\n"),
            (9, ":9\r\n"),
            (10, ":10\r\n"),
            (-1, ":-1\r\n"),
            (i64::MAX, ":9223372036854775807\r\n"),
            (i64::MIN, ":-9223372036854775808\r\n"),
        ] {
            check(|out| integer(out, number), expected);
        }
        check(|out| bulk(out, ""), "$0\r\n\r\n");
        check(|out| bulk(out, b"a\r\nb"), "$4\r\na\r\nb\r\n");
        check(|out| bulk(out, [b'x'; 12]), "$12\r\nxxxxxxxxxxxx\r\n");
        check(|out| null(out, Resp2), "$-1\r\n");
        check(|out| null(out, Resp3), "_\r\n");
        check(|out| null_array(out, Resp2), "*-1\r\n");
        check(|out| null_array(out, Resp3), "_\r\n");
        check(|out| array(out, 100), "*100\r\n");
        check(|out| map(out, Resp2, 7), "*14\r\n");
        check(|out| map(out, Resp3, 7), "%7\r\n");
        check(|out| set(out, Resp2, 2), "*2\r\n");
        check(|out| set(out, Resp3, 2), "~2\r\n");
        check(|out| push(out, Resp2, 3), "*3\r\n");
        check(|out| push(out, Resp3, 3), ">3\r\n");
        check(|out| verbatim(out, Resp2, "hi"), "$2\r\nhi\r\n");
        check(|out| verbatim(out, Resp3, "hi"), "=6\r\ntxt:hi\r\n");
        check(|out| double(out, Resp2, "1.5"), "$3\r\n1.5\r\n");
        check(|out| double(out, Resp3, "1.5"), ",1.5\r\n");
        check(|out| command(out, &[b"GET", b"k"]), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
