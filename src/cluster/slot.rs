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
    pub fn of(key: &[u8]) -> Slot {
        let hash = if may_have_tag(key) { crc16(hash_tag(key)) } else { crc16(key) };
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

/// Longest key that is looked at here for a brace; a search in a longer one is worth its start-up.
const SHORT_KEY: usize = 64;

/// False for a key without `{`: most have none, and eight bytes at a time show it in less time than the call of a search takes.
#[inline]
fn may_have_tag(key: &[u8]) -> bool {
    match key.last_chunk() {
        Some(last) if key.len() <= SHORT_KEY => {
            let (groups, _) = key.as_chunks();
            groups.iter().fold(holds_brace(*last), |found, group| found | holds_brace(*group))
        }
        _ => key.len() > SHORT_KEY || key.contains(&b'{'),
    }
}

/// A byte is `{` where the difference to it is zero, the only byte from which a borrow sets a high bit that was clear.
#[inline]
fn holds_brace(group: [u8; 8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let difference = u64::from_ne_bytes(group) ^ (ONES * b'{' as u64);
    difference.wrapping_sub(ONES) & !difference & (ONES << 7) != 0
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
