//! Commands written as people type them.

/// Splits a line into arguments as redis-cli does: blanks separate, `"..."` knows `\n`, `\r`, `\t`, `\xHH`, `\"` and
/// `\\`, `'...'` is taken as it is.
pub fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.as_bytes();
    loop {
        rest = rest.trim_ascii_start();
        let Some(&first) = rest.first() else {
            return words;
        };
        let (word, used) = match first {
            b'"' => double_quoted(rest),
            b'\'' => single_quoted(rest),
            _ => bare(rest),
        };
        words.push(word);
        rest = &rest[used..];
    }
}

fn bare(text: &[u8]) -> (Vec<u8>, usize) {
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    (text[..end].to_vec(), end)
}

fn single_quoted(text: &[u8]) -> (Vec<u8>, usize) {
    let end = text[1..].iter().position(|&byte| byte == b'\'').unwrap_or_else(|| panic!("unbalanced: {}", text.escape_ascii()));
    (text[1..=end].to_vec(), end + 2)
}

fn double_quoted(text: &[u8]) -> (Vec<u8>, usize) {
    let (mut word, mut at) = (Vec::new(), 1);
    loop {
        match text.get(at..) {
            Some([b'"', ..]) => return (word, at + 1),
            Some([b'\\', b'x', high, low, ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                word.push(digits.unwrap_or_else(|| panic!("not hexadecimal: {}", text.escape_ascii())));
                at += 4;
            }
            Some([b'\\', escaped, ..]) => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                at += 2;
            }
            Some([byte, ..]) => {
                word.push(*byte);
                at += 1;
            }
            _ => panic!("unbalanced: {}", text.escape_ascii()),
        }
    }
}

#[test]
fn words_are_split_and_unquoted() {
    let check = |line: &str, expected: &[&[u8]]| assert_eq!(words(line), expected, "{line}");
    check("GET  k", &[b"GET", b"k"]);
    check(r#"SET k "a b\r\n\x00\"" 'it is "so"' "#, &[b"SET", b"k", b"a b\r\n\0\"", b"it is \"so\""]);
    check(r#"ECHO """#, &[b"ECHO", b""]);
}
