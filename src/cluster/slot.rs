//! The slot: what a key's name says about where it lives.

use memchr::memchr;

use super::crc::crc16;

/// How many slots every cluster has (Redis Cluster specification, "Key distribution model").
pub const SLOT_COUNT: usize = 16384;

/// A hash slot, `0..SLOT_COUNT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number, if there is one.
    pub const fn new(number: u16) -> Option<Slot> {
        if (number as usize) < SLOT_COUNT { Some(Slot(number)) } else { None }
    }

    /// The slot of a key: CRC16 (XMODEM) of its hash tag, or of the whole key when it has none.
    #[inline]
    pub fn of(key: &[u8]) -> Slot {
        let hash = if key.len() > SHORT_KEY || may_have_tag(key) { crc16(hash_tag(key)) } else { crc16(key) };
        Slot(hash & (SLOT_COUNT as u16 - 1))
    }

    /// The slot a decimal number names, as it stands in topology replies and redirects.
    pub fn parse(digits: &[u8]) -> Option<Slot> {
        if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = digits.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        Slot::new(u16::try_from(number).ok()?)
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Slot> {
        (0..SLOT_COUNT as u16).map(Slot)
    }

    /// Every slot from `first` to `last`, both included.
    pub fn span(first: Slot, last: Slot) -> impl Iterator<Item = Slot> {
        (first.0..=last.0).map(Slot)
    }

    pub const fn get(self) -> u16 {
        self.0
    }

    /// The slot as an index into a table of `SLOT_COUNT` entries.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The part of a key that is hashed: what stands between the first `{` and the first `}` after it, unless that
/// is nothing (Redis Cluster specification, "Hash tags").
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr(b'{', key) else { return key };
    let inside = &key[open + 1..];
    match memchr(b'}', inside) {
        None | Some(0) => key,
        Some(close) => &inside[..close],
    }
}

/// Longest key in which a brace is looked for here: a search in a longer one is worth its start-up.
const SHORT_KEY: usize = 64;

/// Whether a key has a `{`. Most have none.
#[inline(always)]
fn may_have_tag(key: &[u8]) -> bool {
    let is_brace = |found: bool, byte: &u8| found | (*byte == b'{');
    // Sixteen bytes of a known number are compared at once.
    let (groups, rest) = key.as_chunks::<16>();
    let found = groups.iter().fold(false, |found, group| found | group.iter().fold(false, is_brace));
    let (groups, rest) = rest.as_chunks::<8>();
    let found = groups.iter().fold(found, |found, group| found | group.iter().fold(false, is_brace));
    rest.iter().fold(found, is_brace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_tags() {
        fn check(key: &str, expected: &str) {
            assert_eq!(hash_tag(key.as_bytes()), expected.as_bytes(), "{key}");
            for padding in 0..80 {
                for key in [format!("{}{key}", "-".repeat(padding)), format!("{key}{}", "z".repeat(padding))] {
                    let slot = Slot(crc16(hash_tag(key.as_bytes())) & (SLOT_COUNT as u16 - 1));
                    assert_eq!(Slot::of(key.as_bytes()), slot, "{key}");
                }
            }
        }
        check("user", "user");
        check("{user}:1", "user");
        check("a{user}b{other}", "user");
        check("{}user", "{}user");
        check("a{}{user}", "a{}{user}");
        check("a{user", "a{user");
        check("a}{b}", "b");
        check("{{b}}", "{b");
        check("", "");
    }

    #[test]
    fn slots_as_the_servers_compute_them() {
        fn check(key: &str, expected: u16) {
            assert_eq!(Slot::of(key.as_bytes()).get(), expected, "{key}");
        }
        // Each answered by `CLUSTER KEYSLOT` of a 7.0 server.
        check("", 0);
        check("a", 15495);
        check("foo", 12182);
        check("{foo}.bar", 12182);
        check("123456789", 12739);
        check("foo{}{bar}", 8363);
        check("foo{{bar}}zap", 4015);
    }

    #[test]
    fn slot_numbers() {
        fn check(digits: &str, expected: Option<u16>) {
            assert_eq!(Slot::parse(digits.as_bytes()).map(Slot::get), expected, "{digits}");
        }
        check("0", Some(0));
        check("16383", Some(16383));
        check("16384", None);
        check("99999", None);
        check("", None);
        check("-1", None);
        check("+1", None);
        check("000000", None);
        check("1a", None);
    }
}
