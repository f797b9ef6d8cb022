//! Which clients CLIENT LIST and CLIENT KILL mean, as each generation of servers reads it.

use crate::cluster::Persona;

use super::{
    Engine,
    local::strict_integer,
    session::{Labels, Session},
    since::is_valkey,
};

const SYNTAX: &str = "ERR syntax error";
const BAD_ID: &str = "ERR client-id should be greater than 0";

/// What TYPE knows.
const KINDS: [&str; 5] = ["normal", "master", "replica", "slave", "pubsub"];

/// The letters of Valkey's FLAGS and CAPA.
const FLAGS: &[u8] = b"bcdeirtuxABEIMNOPRSTU";
const CAPABILITIES: &[u8] = b"r";

/// One property of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trait {
    /// Any of these ids.
    Ids(Vec<u64>),
    Kind(Vec<u8>),
    User(Vec<u8>),
    Addr(Vec<u8>),
    Laddr(Vec<u8>),
    Name(Vec<u8>),
    LibName(Vec<u8>),
    LibVersion(Vec<u8>),
    Ip(Vec<u8>),
    /// All of these flags.
    Flags(Vec<u8>),
    Capabilities(Vec<u8>),
    Database(i64),
    /// Seconds since it connected, at least.
    Age(i64),
    /// Seconds since its last command, at least.
    Idle(i64),
}

/// A trait that a client must have, or must not have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    what: Trait,
    not: bool,
}

/// All of its conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    conditions: Vec<Condition>,
    /// But not this client.
    but: Option<u64>,
}

impl ClientFilter {
    /// The user that it names: of one that does not exist the servers say so.
    pub fn user(&self) -> Option<&[u8]> {
        self.conditions.iter().find_map(|condition| match &condition.what {
            Trait::User(user) => Some(user.as_slice()),
            _ => None,
        })
    }

    /// The old form of CLIENT KILL.
    pub fn of_address(addr: &[u8]) -> ClientFilter {
        let mut filter = ClientFilter::default();
        filter.require(Trait::Addr(addr.to_vec()), false, false);
        filter
    }

    /// What was said last of a property counts; or its ids add up.
    fn require(&mut self, what: Trait, not: bool, add_up: bool) {
        let same =
            |known: &&mut Condition| known.not == not && std::mem::discriminant(&known.what) == std::mem::discriminant(&what);
        match (self.conditions.iter_mut().find(same), what) {
            (Some(Condition { what: Trait::Ids(known), .. }), Trait::Ids(more)) if add_up => known.extend(more),
            (Some(known), what) => known.what = what,
            (None, what) => self.conditions.push(Condition { what, not }),
        }
    }
}

/// The grammars of the servers' generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grammar {
    /// CLIENT LIST of Redis, and of Valkey before 8.1: TYPE, or ID with many.
    List,
    /// CLIENT KILL of the same: pairs.
    Kill { strict_ids: bool, ages: bool },
    /// Both of Valkey since 8.1.
    Rich,
}

/// CLIENT KILL of 6.2.
const OLDEST: Grammar = Grammar::Kill { strict_ids: false, ages: false };

impl Grammar {
    pub fn of_list(persona: Option<&Persona>) -> Grammar {
        if persona.is_some_and(is_rich) { Grammar::Rich } else { Grammar::List }
    }

    pub fn of_kill(persona: Option<&Persona>) -> Grammar {
        let version = persona.map(Persona::version_numbers).unwrap_or_default();
        match persona {
            Some(persona) if is_rich(persona) => Grammar::Rich,
            _ => Grammar::Kill { strict_ids: version >= (7, 0, 0), ages: version >= (7, 4, 0) },
        }
    }
}

fn is_rich(persona: &Persona) -> bool {
    is_valkey(persona) && persona.version_numbers() >= (8, 1, 0)
}

/// Reads the options behind CLIENT LIST or CLIENT KILL. `asker` is skipped where SKIPME says so, or `skips` by default.
pub(super) fn parse(grammar: Grammar, options: &[&[u8]], asker: u64, skips: bool) -> Result<ClientFilter, String> {
    let mut filter = ClientFilter { conditions: Vec::new(), but: skips.then_some(asker) };
    let mut rest = options;
    while let [option, value, ..] = rest {
        let mut name = option.to_ascii_uppercase();
        let not = grammar == Grammar::Rich && name.starts_with(b"NOT-");
        if not {
            name.drain(..4);
        }
        let many = match grammar {
            Grammar::List => rest.len() - 1,
            Grammar::Rich => rest[1..].iter().take_while(|id| strict_integer(id).is_some()).count(),
            Grammar::Kill { .. } => 1,
        };
        let text = || value.to_vec();
        let mut taken = 2;
        let what = match (name.as_slice(), grammar) {
            (b"ID", _) => {
                taken = 1 + many;
                Trait::Ids(ids(grammar, &rest[1..taken])?)
            }
            (b"TYPE", _) => Trait::Kind(kind(value)?),
            (_, Grammar::List) => return Err(SYNTAX.into()),
            (b"SKIPME", _) if !not => {
                filter.but = match value.to_ascii_uppercase().as_slice() {
                    b"YES" => Some(asker),
                    b"NO" => None,
                    _ => return Err(SYNTAX.into()),
                };
                rest = &rest[2..];
                continue;
            }
            (b"USER", _) => Trait::User(text()),
            (b"ADDR", _) => Trait::Addr(text()),
            (b"LADDR", _) => Trait::Laddr(text()),
            (b"MAXAGE", Grammar::Kill { ages: true, .. } | Grammar::Rich) if !not => Trait::Age(seconds("maxage", value)?),
            (_, Grammar::Kill { .. }) => return Err(SYNTAX.into()),
            (b"IDLE", _) if !not => Trait::Idle(seconds("idle", value)?),
            (b"NAME", _) => Trait::Name(text()),
            (b"LIB-NAME", _) => Trait::LibName(text()),
            (b"LIB-VER", _) => Trait::LibVersion(text()),
            (b"IP", _) => Trait::Ip(text()),
            (b"FLAGS", _) => Trait::Flags(letters("flags", FLAGS, value)?),
            (b"CAPA", _) => Trait::Capabilities(letters("capa", CAPABILITIES, value)?),
            (b"DB", _) => Trait::Database(database(value)?),
            _ => return Err(SYNTAX.into()),
        };
        // To 6.2 the id 0 is no filter at all.
        if !(grammar == OLDEST && what == Trait::Ids(vec![0])) {
            filter.require(what, not, grammar == Grammar::Rich);
        }
        rest = &rest[taken..];
        if grammar == Grammar::List && !rest.is_empty() {
            break;
        }
    }
    if rest.is_empty() { Ok(filter) } else { Err(SYNTAX.into()) }
}

fn ids(grammar: Grammar, arguments: &[&[u8]]) -> Result<Vec<u64>, String> {
    let wrong = match grammar {
        Grammar::List => "ERR Invalid client ID",
        Grammar::Kill { strict_ids: true, .. } => BAD_ID,
        Grammar::Kill { strict_ids: false, .. } => "ERR value is not an integer or out of range",
        Grammar::Rich => SYNTAX,
    };
    let least = match grammar {
        Grammar::List | Grammar::Kill { strict_ids: false, .. } => i64::MIN,
        Grammar::Kill { .. } | Grammar::Rich => 1,
    };
    if arguments.is_empty() {
        return Err(wrong.into());
    }
    let id = |text: &&[u8]| match strict_integer(text) {
        None => Err(wrong.to_owned()),
        Some(id) if id < least => Err(BAD_ID.to_owned()),
        Some(id) => Ok(id as u64),
    };
    arguments.iter().map(id).collect()
}

/// The kind of client that TYPE names, in lower case.
fn kind(kind: &[u8]) -> Result<Vec<u8>, String> {
    let lower = kind.to_ascii_lowercase();
    match KINDS.iter().any(|known| known.as_bytes() == lower) {
        true if lower == b"slave" => Ok(b"replica".to_vec()),
        true => Ok(lower),
        false => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(kind))),
    }
}

fn seconds(name: &str, text: &[u8]) -> Result<i64, String> {
    match strict_integer(text) {
        None => Err(format!("ERR {name} is not an integer or out of range")),
        Some(..=0) => Err(format!("ERR {name} should be greater than 0")),
        Some(seconds) => Ok(seconds),
    }
}

fn database(text: &[u8]) -> Result<i64, String> {
    match strict_integer(text) {
        None => Err("ERR DB is not an integer or out of range".into()),
        Some(0) => Ok(0),
        Some(_) => Err("ERR DB number should be between 0 and 0".into()),
    }
}

fn letters(name: &str, known: &[u8], wanted: &[u8]) -> Result<Vec<u8>, String> {
    let unknown: Vec<u8> = wanted.iter().copied().filter(|letter| !known.contains(letter)).collect();
    if unknown.is_empty() {
        return Ok(wanted.to_vec());
    }
    Err(format!("ERR Unknown {name} found in the provided filter: {}", String::from_utf8_lossy(wanted)))
}

impl Engine {
    pub(super) fn matches(&self, filter: &ClientFilter, index: u32, session: &Session) -> bool {
        filter.but != Some(session.public_id)
            && filter.conditions.iter().all(|condition| self.has(index, session, &condition.what) != condition.not)
    }

    fn has(&self, index: u32, session: &Session, what: &Trait) -> bool {
        let label = |of: fn(&Labels) -> &[u8]| session.labels.as_deref().map_or(&b""[..], of);
        let seconds_since = |moment: u64| (self.now.saturating_sub(moment) / 1_000_000) as i64;
        match what {
            Trait::Ids(ids) => ids.contains(&session.public_id),
            Trait::Kind(kind) => self.kind_of(session).as_bytes() == kind,
            Trait::User(user) => self.user_name(session) == *user,
            Trait::Addr(addr) => session.peer.as_bytes() == addr,
            Trait::Laddr(addr) => session.local.as_bytes() == addr,
            Trait::Name(name) => label(|labels| &labels.name) == name,
            Trait::LibName(name) => label(|labels| &labels.lib_name) == name,
            Trait::LibVersion(version) => label(|labels| &labels.lib_version) == version,
            Trait::Ip(ip) => ip_of(&session.peer).as_bytes() == ip,
            Trait::Flags(wanted) => wanted.iter().all(|flag| self.flags_of(index, session).as_bytes().contains(flag)),
            Trait::Capabilities(_) => session.labels.as_deref().is_some_and(|labels| labels.redirect),
            Trait::Database(number) => *number == 0,
            Trait::Age(seconds) => seconds_since(session.opened) >= *seconds,
            Trait::Idle(seconds) => seconds_since(session.last_active) >= *seconds,
        }
    }
}

/// `127.0.0.1:4711` and `[::1]:4711` without their ports.
fn ip_of(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(ip, _)| ip.trim_start_matches('[').trim_end_matches(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Grammar = OLDEST;
    const NEW: Grammar = Grammar::Kill { strict_ids: true, ages: true };

    #[track_caller]
    fn check(grammar: Grammar, options: &str, expected: Result<&[Trait], &str>) {
        let options: Vec<&[u8]> = options.split_whitespace().map(str::as_bytes).collect();
        let found = parse(grammar, &options, 7, false);
        let found = found.map(|filter| filter.conditions.into_iter().map(|condition| condition.what).collect::<Vec<_>>());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{grammar:?} {options:?}");
    }

    #[test]
    fn what_every_generation_says_of_the_same() {
        let text = |text: &str| text.as_bytes().to_vec();
        for grammar in [Grammar::List, OLD, NEW, Grammar::Rich] {
            check(grammar, "", Ok(&[]));
            check(grammar, "type NORMAL", Ok(&[Trait::Kind(text("normal"))]));
            check(grammar, "TYPE slave", Ok(&[Trait::Kind(text("replica"))]));
            check(grammar, "TYPE foo", Err("ERR Unknown client type 'foo'"));
            check(grammar, "TYPE", Err(SYNTAX));
            check(grammar, "ID", Err(SYNTAX));
            check(grammar, "ID 5", Ok(&[Trait::Ids(vec![5])]));
            check(grammar, "FOO x", Err(SYNTAX));
        }
        check(Grammar::List, "ID abc", Err("ERR Invalid client ID"));
        check(Grammar::List, "ID 1 TYPE normal", Err("ERR Invalid client ID"));
        check(Grammar::List, "ID 0 1", Ok(&[Trait::Ids(vec![0, 1])]));
        check(Grammar::List, "TYPE normal TYPE foo", Err(SYNTAX));
        check(Grammar::List, "USER default", Err(SYNTAX));
        check(OLD, "ID abc", Err("ERR value is not an integer or out of range"));
        check(OLD, "ID 0", Ok(&[]));
        check(OLD, "MAXAGE 5", Err(SYNTAX));
        check(NEW, "ID abc", Err(BAD_ID));
        check(NEW, "ID -1", Err(BAD_ID));
        check(NEW, "ID 1 2", Err(SYNTAX));
        check(NEW, "ID 1 ID 2", Ok(&[Trait::Ids(vec![2])]));
        check(Grammar::Rich, "ID 1 ID 2", Ok(&[Trait::Ids(vec![1, 2])]));
        check(NEW, "MAXAGE x", Err("ERR maxage is not an integer or out of range"));
        check(NEW, "MAXAGE 0", Err("ERR maxage should be greater than 0"));
        check(NEW, "MAXAGE 1 LADDR a LADDR b", Ok(&[Trait::Age(1), Trait::Laddr(text("b"))]));
        check(NEW, "NAME x", Err(SYNTAX));
        check(Grammar::Rich, "ID abc", Err(SYNTAX));
        check(Grammar::Rich, "ID 0", Err(BAD_ID));
        check(Grammar::Rich, "ID 1 2 TYPE normal", Ok(&[Trait::Ids(vec![1, 2]), Trait::Kind(text("normal"))]));
        check(Grammar::Rich, "TYPE normal TYPE foo", Err("ERR Unknown client type 'foo'"));
        check(Grammar::Rich, "NOT-ID 1 ID 2", Ok(&[Trait::Ids(vec![1]), Trait::Ids(vec![2])]));
        check(Grammar::Rich, "NOT-MAXAGE 1", Err(SYNTAX));
        check(Grammar::Rich, "FLAGS zN", Err("ERR Unknown flags found in the provided filter: zN"));
        check(Grammar::Rich, "CAPA r DB 0", Ok(&[Trait::Capabilities(text("r")), Trait::Database(0)]));
        check(Grammar::Rich, "CAPA x", Err("ERR Unknown capa found in the provided filter: x"));
        check(Grammar::Rich, "DB x", Err("ERR DB is not an integer or out of range"));
        check(Grammar::Rich, "IDLE -1", Err("ERR idle should be greater than 0"));
    }

    #[test]
    fn whoever_asks_is_skipped_or_not() {
        let but = |options: &[&[u8]], skips: bool| parse(Grammar::Rich, options, 7, skips).map(|filter| filter.but);
        assert_eq!(but(&[], true), Ok(Some(7)));
        assert_eq!(but(&[], false), Ok(None));
        assert_eq!(but(&[b"SKIPME", b"no"], true), Ok(None));
        assert_eq!(but(&[b"skipme", b"YES", b"SKIPME", b"no", b"SKIPME", b"yes"], false), Ok(Some(7)));
        assert_eq!(but(&[b"SKIPME", b"foo"], true), Err(SYNTAX.into()));
    }

    #[test]
    fn addresses_without_ports() {
        assert_eq!(ip_of("127.0.0.1:80"), "127.0.0.1");
        assert_eq!(ip_of("[::1]:80"), "::1");
        assert_eq!(ip_of("/tmp/x.sock"), "/tmp/x.sock");
    }
}
