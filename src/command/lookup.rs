//! From a name to its row: a perfect hash, without a copy of the name and without a heap.
//!
//! The generator places every name into a slot of its own, so one comparison decides. The hash reads the
//! name's length, its first and its last bytes (eight at most of either) and folds case by clearing the bit
//! that tells `a` from `A`. It clears it in digits and signs too, which the comparison notices.

use super::row::Command;
use super::table::{COMMANDS, DISPLACEMENTS, SLOTS};
use crate::resp::Span;

/// The command with this name in any case; a subcommand is found by [`lookup_sub`]. Some 6 ns.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    let ends = ends_of(name)?;
    let hash = hash_of(ends, name.len());
    let displacement = DISPLACEMENTS[(hash >> 57) as usize % DISPLACEMENTS.len()] as usize;
    let slot = ((hash >> 32) as usize ^ displacement) % SLOTS.len();
    let place = SLOTS[slot] as usize;
    let command = &COMMANDS[place];
    is_name((name, ends), (command.name.as_bytes(), &NAMES[place])).then_some(command)
}

/// The subcommand of `container` with this name in any case: `lookup_sub(config, b"get")` is CONFIG|GET.
/// A walk over at most some thirty names; none of them is on the hot path.
pub fn lookup_sub(container: &Command, sub: &[u8]) -> Option<&'static Command> {
    let skipped = container.name.len() + 1;
    container.subs.iter().find(|command| command.name.as_bytes()[skipped..].eq_ignore_ascii_case(sub))
}

/// Why a request names no command: the cases that a server answers with different texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// `ERR unknown command …`
    Command,
    /// `ERR unknown subcommand …`; the container is known.
    Subcommand(&'static Command),
}

/// The command or subcommand that a request names. A container without a further argument is answered
/// itself, and its arity refuses it, except COMMAND, which may stand alone. A request has an argument:
/// the scanner skips empty ones.
#[inline]
pub fn resolve(frame: &[u8], spans: &[Span]) -> Result<&'static Command, Unknown> {
    let command = lookup(spans[0].of(frame)).ok_or(Unknown::Command)?;
    match spans.get(1) {
        Some(sub) if !command.subs.is_empty() => lookup_sub(command, sub.of(frame)).ok_or(Unknown::Subcommand(command)),
        _ => Ok(command),
    }
}

/// Every command and subcommand, containers included.
pub fn all() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().chain(COMMANDS.iter().flat_map(|command| command.subs))
}

/// A name as it is compared: its ends, and of either the bits in which another spelling may differ.
struct Name {
    ends: Ends,
    case: Ends,
}

impl Name {
    const fn new(upper: &[u8]) -> Name {
        let ends = ends_of(upper).expect("no name is empty");
        Name { ends, case: (case_bits(ends.0), case_bits(ends.1)) }
    }
}

/// Every name in [`COMMANDS`].
static NAMES: [Name; COMMANDS.len()] = {
    let mut names = [const { Name { ends: (0, 0), case: (0, 0) } }; COMMANDS.len()];
    let mut place = 0;
    while place < COMMANDS.len() {
        names[place] = Name::new(COMMANDS[place].name.as_bytes());
        place += 1;
    }
    names
};

/// Whether the first name is the second, an upper-case one, in any case. Names of up to 16 bytes, all but a few, are compared
/// by their ends alone: a loop over the bytes takes up to three times as long.
#[inline(always)]
fn is_name((name, ends): (&[u8], Ends), (upper, known): (&[u8], &Name)) -> bool {
    if name.len() != upper.len() || name.len() > 16 {
        return name.eq_ignore_ascii_case(upper);
    }
    ((ends.0 ^ known.ends.0) & !known.case.0) | ((ends.1 ^ known.ends.1) & !known.case.1) == 0
}

/// Bit 5 of the bytes of an upper-case word that are letters. The bytes of a name with bit 6 are letters and the underscore, which
/// alone lies above `Z`, so that adding 0x25 sets its bit 7.
const fn case_bits(upper: u64) -> u64 {
    let above_z = upper.wrapping_add(0x2525_2525_2525_2525) >> 1;
    (upper & !above_z & 0x4040_4040_4040_4040) >> 1
}

/// Clears bit 5 of every byte: `a` becomes `A`.
const FOLD: u64 = 0xDFDF_DFDF_DFDF_DFDF;

/// The hash of table.py's `hash_of`.
#[inline]
fn hash_of((head, tail): Ends, len: usize) -> u64 {
    let mixed = (head & FOLD).wrapping_add(len as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed.rotate_left(32) ^ (tail & FOLD)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// The first and last bytes of a name as two numbers; they overlap in short names.
type Ends = (u64, u64);

/// `None` for the empty name.
#[inline]
const fn ends_of(name: &[u8]) -> Option<Ends> {
    if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        return Some((u64::from_le_bytes(*head), u64::from_le_bytes(*tail)));
    }
    if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        return Some((u32::from_le_bytes(*head) as u64, u32::from_le_bytes(*tail) as u64));
    }
    match name {
        [] => None,
        [first, .., last] => Some((*first as u64 | (name[name.len() / 2] as u64) << 8 | (*last as u64) << 16, 0)),
        [only] => Some((*only as u64 * 0x01_01_01, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_every_case() {
        for command in all().filter(|command| !command.name.contains('|')) {
            assert_eq!(lookup(command.name.as_bytes()), Some(command));
            assert_eq!(lookup(command.lower_name().as_bytes()), Some(command));
            for sub in command.subs {
                let (container, name) = sub.name.split_once('|').expect("a subcommand's name has a bar");
                assert_eq!(container, command.name);
                assert_eq!(lookup_sub(command, name.to_ascii_lowercase().as_bytes()), Some(sub));
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_another_name() {
        for command in all().filter(|command| !command.name.contains('|')) {
            let name = command.name.as_bytes();
            for (index, byte) in (0..name.len()).flat_map(|index| (0..=255_u8).map(move |byte| (index, byte))) {
                let mut changed = name.to_vec();
                changed[index] = byte;
                let expected = changed.eq_ignore_ascii_case(name);
                let ends = |name| ends_of(name).expect("no name is empty");
                assert_eq!(is_name((&changed, ends(&changed)), (name, &Name::new(name))), expected, "{changed:?}");
            }
        }
    }

    #[test]
    fn numbers_are_dense() {
        let mut ids: Vec<usize> = all().map(|command| command.id.into()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..super::super::COMMAND_COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn other_names_are_unknown() {
        let long = [b'A'; 300];
        for name in [
            &b""[..],
            b"G",
            b"GE",
            b"GETT",
            b"NOSUCH",
            b"POST",
            b"host:",
            b"SENTINEL",
            b"CONFIG|GET",
            b"\xff\xff\xff",
            b"GET\0",
            b"SORT\x7fRO",
            b"EVAL\x7fRO",
            b"GRAPH\x0eQUERY",
            b"{ET",
            b"zrangebyscorE ",
            b"\x07ET",
            b"XINFO STREAM",
            &long,
        ] {
            assert_eq!(lookup(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_request_is_resolved_to_its_subcommand() {
        fn check(words: &[&str], expected: Result<&str, Unknown>) {
            let mut frame = Vec::new();
            let spans: Vec<Span> = words
                .iter()
                .map(|word| {
                    frame.extend_from_slice(word.as_bytes());
                    Span { start: (frame.len() - word.len()) as u32, len: word.len() as u32 }
                })
                .collect();
            assert_eq!(resolve(&frame, &spans).map(|command| command.name), expected, "{words:?}");
        }
        let config = lookup(b"CONFIG").expect("CONFIG is in the table");
        check(&["get", "k"], Ok("GET"));
        check(&["Config", "gEt", "x"], Ok("CONFIG|GET"));
        check(&["config"], Ok("CONFIG"));
        check(&["config", "foo"], Err(Unknown::Subcommand(config)));
        check(&["command"], Ok("COMMAND"));
        check(&["command", "docs"], Ok("COMMAND|DOCS"));
        check(&["cluster", "nodes"], Ok("CLUSTER|NODES"));
        check(&["", "x"], Err(Unknown::Command));
    }
}
