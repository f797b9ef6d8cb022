//! The row of the command table: what a command is and what a proxy does with it.
//!
//! The facts (arity, flags, key positions) are the servers' own, the class is the proxy's decision. Both
//! come from the generated table; this file, `class` and `flags` give them their types.

use super::class::Class;
use super::flags::Flags;

/// One command or subcommand. Rows are static: two commands are the same when their numbers are.
#[derive(Debug)]
pub struct Command {
    /// Dense number below [`COMMAND_COUNT`](super::COMMAND_COUNT), for tables of counters.
    pub id: u16,
    /// Upper case; a subcommand is written `CONFIG|GET`, as ACL and COMMAND write it.
    pub name: &'static str,
    /// Number of arguments with the name itself; negative means at least that many.
    /// Where servers differ the most permissive is kept, and the server's own check decides.
    pub arity: i8,
    pub flags: Flags,
    pub class: Class,
    pub keys: Keys,
    /// Its class is [`Class::Keyed`] and its key [`Keys::First`], as of most requests.
    pub has_one_key: bool,
    /// Not empty for containers, and for COMMAND, which is also complete on its own.
    pub subs: &'static [Command],
}

impl Command {
    /// Whether a request of `count` arguments, the name included, has enough and not too many of them.
    pub fn accepts(&self, count: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= least } else { count == least }
    }

    /// `config|get`: the spelling of the server's own errors about a known command.
    pub fn lower_name(&self) -> String {
        self.name.to_ascii_lowercase()
    }
}

impl PartialEq for Command {
    fn eq(&self, other: &Command) -> bool {
        self.id == other.id
    }
}

impl Eq for Command {}

/// A row as the generated table writes it.
pub(super) const fn row(
    id: u16,
    name: &'static str,
    arity: i8,
    flags: u32,
    class: Class,
    keys: Keys,
    subs: &'static [Command],
) -> Command {
    let has_one_key = matches!((class, keys), (Class::Keyed, Keys::First));
    Command { id, name, arity, flags: Flags::new(flags), class, keys, has_one_key, subs }
}

/// Where the keys stand; read by [`keys`](super::keys()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    None,
    /// Exactly argument 1: most commands by far.
    First,
    /// Every `step`-th argument from `first` to `last`; a negative `last` counts from the end (-1 is the last).
    Range {
        first: u8,
        last: i8,
        step: u8,
    },
    /// Argument `at` says how many keys follow it, `step` arguments apart; `dest`: argument 1 is a key too.
    Numkeys {
        at: u8,
        step: u8,
        dest: bool,
    },
    Special(Special),
}

/// Commands whose keys only their own grammar tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `SORT key … [STORE dest]`: options stand anywhere, the last STORE counts.
    Sort,
    /// `GEORADIUS key … [STORE dest] [STOREDIST dest]`: the last of both counts.
    Georadius,
    /// `XREAD [COUNT n] [BLOCK ms] STREAMS key … id …`, and XREADGROUP.
    Streams,
    /// `STRALGO LCS [options] KEYS a b | STRINGS a b` of Redis 6.2.
    Stralgo,
    /// `MIGRATE host port key|"" db timeout [options] [KEYS key …]`.
    Migrate,
}

#[cfg(test)]
mod tests {
    use super::super::class::{Fan, Local, PubSub, SplitKind, Transaction};
    use super::super::lookup::{all, lookup};
    use super::*;

    fn named(name: &str) -> &'static Command {
        all().find(|command| command.name == name).expect("the test names known commands")
    }

    #[test]
    fn arity_is_the_most_permissive_of_the_servers() {
        fn check(name: &str, count: usize, expected: bool) {
            assert_eq!(named(name).accepts(count), expected, "{name} with {count} arguments");
        }
        check("GET", 1, false);
        check("GET", 2, true);
        check("GET", 3, false);
        check("SET", 2, false);
        check("SET", 9, true);
        // Redis 6.2 knows no NX, XX, GT, LT here, 7.0 no WITHSCORE there.
        check("EXPIRE", 4, true);
        check("ZRANK", 4, true);
        check("COMMAND|GETKEYS", 3, true);
        check("CONFIG", 1, false);
        check("COMMAND", 1, true);
    }

    #[test]
    fn classes_are_as_designed() {
        fn check(name: &str, expected: Class) {
            assert_eq!(named(name).class, expected, "{name}");
        }
        check("GET", Class::Keyed);
        check("SUNION", Class::Keyed);
        check("XREAD", Class::Keyed);
        check("OBJECT|ENCODING", Class::Keyed);
        check("DEL", Class::Split(SplitKind::Sum));
        check("MGET", Class::Split(SplitKind::Mget));
        check("MSET", Class::Split(SplitKind::Mset));
        check("PUBSUB|SHARDNUMSUB", Class::Split(SplitKind::ShardNumsub));
        check("DBSIZE", Class::AllMasters(Fan::Sum));
        check("SCRIPT|LOAD", Class::AllNodes(Fan::FirstEqual));
        check("COMMANDLOG|GET", Class::AllNodes(Fan::Newest));
        check("LATENCY|HISTORY", Class::AllNodes(Fan::LatencyHistory));
        check("PUBLISH", Class::AnyNode);
        check("CONFIG|GET", Class::AnyNode);
        check("CONFIG", Class::Container);
        check("CLUSTER", Class::Local(Local::ClusterRefused));
        check("CLUSTER|SLOTS", Class::Local(Local::ClusterRefused));
        check("READWRITE", Class::Local(Local::ClusterRefused));
        check("PING", Class::Local(Local::Ping));
        check("SCAN", Class::ScanCursor);
        check("BLPOP", Class::Blocking);
        check("WAIT", Class::Blocking);
        check("EXEC", Class::Transaction(Transaction::Exec));
        check("SSUBSCRIBE", Class::PubSub(PubSub::Ssubscribe));
        check("SAVE", Class::Blocked("persistence is the operator's"));
    }

    #[test]
    fn containers_are_those_that_have_subcommands() {
        for command in all().filter(|command| command.class == Class::Container) {
            assert!(!command.subs.is_empty(), "{}", command.name);
        }
        let runnable = all().filter(|command| !command.subs.is_empty() && command.class != Class::Container);
        let names: Vec<_> = runnable.map(|command| command.name).collect();
        assert_eq!(names, ["CLUSTER", "COMMAND"]);
    }

    #[test]
    fn flags_are_united_over_the_servers() {
        let flags = |name: &str| lookup(name.as_bytes()).expect("the test names known commands").flags;
        assert!(flags("SET").is_write() && !flags("SET").is_readonly());
        assert!(flags("GET").is_readonly());
        assert!(flags("EVAL").is_script() && !flags("EVAL").is_write() && !flags("EVAL").is_readonly());
        assert!(flags("FCALL_RO").is_script() && flags("FCALL_RO").is_readonly());
        assert!(flags("XREAD").may_block() && !flags("BLPOP").may_block() && flags("BLPOP").is_blocking());
        assert!(flags("SAVE").is_no_multi() && !flags("MULTI").is_no_multi());
        assert!(flags("HELLO").is_no_auth() && !flags("PING").is_no_auth());
        assert!(all().all(|command| !(command.flags.is_write() && command.flags.is_readonly())));
    }
}
