//! Pattern matching as PSUBSCRIBE, KEYS and CONFIG GET do it.

/// Whether `text` matches `pattern`, as Redis's `stringmatchlen` decides it, byte by byte and with case:
///
/// - `*` any bytes, `?` any one byte, `\x` the byte x
/// - `[abc]`, `[a-c]`, `[^a]` one byte of a class. Ends of a range may stand in either order and are compared
///   as signed bytes; `]` always ends a class, also as the first of it, unless it ends a range; a class that
///   is not closed ends with the pattern, and `[^` there is any byte.
/// - The empty text matches the empty pattern only: not even `*`.
///
/// The time is at most proportional to the product of the lengths: only the last star seen is ever tried
/// again, since whatever an earlier star could take, the later one can take too. Recent servers match
/// nothing to a pattern of more than 1000 stars, to bound their recursion; that limit is not needed here.
pub fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut at) = (pattern, 0);
    let mut star: Option<(&[u8], usize)> = None;
    while at < text.len() {
        if let Some((b'*', behind)) = rest.split_first() {
            if behind.is_empty() {
                return true;
            }
            star = Some((behind, at));
            rest = behind;
            continue;
        }
        match one_byte(rest, text[at]) {
            Some(behind) => {
                rest = behind;
                at += 1;
            }
            None => {
                let Some((behind, from)) = star else { return false };
                at = from + 1;
                star = Some((behind, at));
                rest = behind;
            }
        }
    }
    rest.iter().all(|byte| *byte == b'*') && text.is_empty() == pattern.is_empty()
}

/// Whether a pattern may match a text that begins with `prefix`. Never wrongly no; yes where only the rest decides.
pub fn may_match_prefix(pattern: &[u8], prefix: &[u8]) -> bool {
    let mut rest = pattern;
    for byte in prefix {
        if rest.first() == Some(&b'*') {
            return true;
        }
        match one_byte(rest, *byte) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    true
}

/// The pattern behind the first item of `pattern` if `byte` matches this item, which is no star.
fn one_byte(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (matches, behind) = match pattern {
        [] => return None,
        [b'?', behind @ ..] => (true, behind),
        [b'[', class @ ..] => class_of(class, byte),
        [b'\\', escaped, behind @ ..] => (*escaped == byte, behind),
        [literal, behind @ ..] => (*literal == byte, behind),
    };
    matches.then_some(behind)
}

/// Whether the class that begins behind its `[` has the byte, and the pattern behind its `]`.
fn class_of(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut rest) = match class {
        [b'^', members @ ..] => (true, members),
        members => (false, members),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [b'\\', escaped, behind @ ..] => {
                found |= *escaped == byte;
                behind
            }
            [] => return (found != negated, rest),
            [b']', behind @ ..] => return (found != negated, behind),
            [start, b'-', end, behind @ ..] => {
                let (start, end) = (*start as i8, *end as i8);
                found |= (start.min(end)..=start.max(end)).contains(&(byte as i8));
                behind
            }
            [member, behind @ ..] => {
                found |= *member == byte;
                behind
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &[u8], text: &[u8], expected: bool) {
        let (pattern_text, text_text) = (pattern.escape_ascii(), text.escape_ascii());
        assert_eq!(glob_match(pattern, text), expected, "{pattern_text} and {text_text}");
    }

    #[test]
    fn prefixes_that_a_pattern_may_match() {
        let check = |pattern: &[u8], expected: bool| {
            assert_eq!(may_match_prefix(pattern, b"__keyspace@"), expected, "{}", pattern.escape_ascii());
        };
        for pattern in
            [&b"*"[..], b"__key*", b"__keyspace@0__:*", b"_?[a-l]eyspace@0__:x", b"__keyspace\\@*", b"?*", b"__keyspace@"]
        {
            check(pattern, true);
        }
        for pattern in [&b""[..], b"__keyspace", b"__keyevent@*", b"news.*", b"[^_]*", b"__KEY*"] {
            check(pattern, false);
        }
    }

    /// What `KEYS pattern` finds on Redis 6.2.5, 7.0.15, 8.2.3 and Valkey 9.1.2 when `text` is the only key.
    /// 6000 random patterns over 400 random keys were compared in the same way.
    #[test]
    fn patterns_match_as_on_the_servers() {
        check(b"", b"", true);
        check(b"", b"a", false);
        check(b"**", b"", false);
        check(b"?", b"", false);
        check(b"a", b"a", true);
        check(b"a", b"A", false);
        check(b"a", b"ab", false);
        check(b"ab", b"a", false);
        check(b"*", b"abc", true);
        check(b"a*", b"a", true);
        check(b"a**", b"a", true);
        check(b"*a", b"ba", true);
        check(b"*a", b"ab", false);
        check(b"a*c", b"ac", true);
        check(b"a*c", b"abcbc", true);
        check(b"a*b*c", b"axbxbxc", true);
        check(b"a*b*c", b"axcxb", false);
        check(b"*a*b", b"aab", true);
        check(b"*?", b"a", true);
        check(b"?*?", b"a", false);
        check(b"h?llo", b"hello", true);
        check(b"h?llo", b"hllo", false);
        check(b"h[ae]llo", b"hallo", true);
        check(b"h[ae]llo", b"hillo", false);
        check(b"h[^e]llo", b"hallo", true);
        check(b"h[^e]llo", b"hello", false);
        check(b"[a-c]", b"b", true);
        check(b"[c-a]", b"b", true);
        check(b"[a-c]", b"d", false);
        check(b"[a-c]x", b"bx", true);
        check(b"[a-", b"a", true);
        check(b"[a-", b"-", true);
        check(b"[a-]", b"`", true);
        check(b"[a-]", b"a", true);
        check(b"[a-]", b"-", false);
        check(b"[-a]", b"-", true);
        check(b"[", b"[", false);
        check(b"[", b"a", false);
        check(b"[^", b"a", true);
        check(b"[^", b"ab", false);
        check(b"[abc", b"b", true);
        check(b"[a-c", b"b", true);
        check(b"[]", b"]", false);
        check(b"[]a]", b"a", false);
        check(b"[]a]", b"a]", false);
        check(b"[^]", b"a", true);
        check(b"[^]a]", b"ba]", true);
        check(b"[\\]]", b"]", true);
        check(b"[\\a-c]", b"-", true);
        check(b"[\\a-c]", b"b", false);
        check(b"[a\\-c]", b"b", false);
        check(b"[a\\-c]", b"-", true);
        check(b"[\\", b"\\", true);
        check(b"[^\\", b"a", true);
        check(b"[*]", b"*", true);
        check(b"[*]", b"a", false);
        check(b"[a^]", b"^", true);
        check(b"\\*", b"*", true);
        check(b"\\*", b"a", false);
        check(b"\\a", b"a", true);
        check(b"\\", b"\\", true);
        check(b"a\\", b"a\\", true);
        check(b"\\\\", b"\\", true);
        check(b"*\\", b"a\\", true);
        check(b"]", b"]", true);
        check(b"-", b"-", true);
        check(b"^a", b"^a", true);
        check(b"[a-\xff]", b"b", false);
        check(b"[a-\xff]", b"A", true);
        check(b"[a-\xff]", b"\xff", true);
        check(b"[\x80-\xff]", b"\x90", true);
        check(b"\xff*", b"\xff\x00", true);
        check(b"__key*__:*", b"__keyspace@0__:k", true);
        check(b"news.*", b"news.art.x", true);
        check(b"a*\n", b"ab\n", true);
    }

    /// KEYS does not ask for `*`, so this row has no server behind it but the code that `**` runs through.
    #[test]
    fn the_empty_text_matches_no_star() {
        check(b"*", b"", false);
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let text = vec![b'a'; 20_000];
        check(&[&b"a*".repeat(1000)[..], b"b"].concat(), &text, false);
        check(&b"a*".repeat(1000), &text, true);
        check(&b"*".repeat(20_000), &text, true);
        check(&[&b"*".repeat(20_000)[..], b"b"].concat(), &text, false);
    }
}
