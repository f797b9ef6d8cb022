//! What an operator refuses although it could be done, and allows although it is refused by default.
//!
//! The most specific rule decides: a subcommand's own name, then a command's name, then a category. Between rules that are equally
//! specific the refusal wins. What a client needs to be let in and to leave (AUTH, HELLO, QUIT, RESET) is never refused.

use std::fmt;

use super::class::{Class, Fan};
use super::lookup::{all, lookup, lookup_sub};
use super::row::Command;
use super::table::{CATEGORIES, COMMAND_CATEGORIES, COMMAND_COUNT};

/// One entry of `commands.allow` or `commands.deny`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// `@all`
    All,
    /// `@dangerous`: an index into the servers' categories.
    Category(usize),
    /// `keys`, `config` with all its subcommands, `config|set`.
    Command(&'static Command),
    /// A command of a module that the table does not hold, in upper case.
    Module(String),
}

impl Rule {
    /// # Errors
    /// What is wrong with the text, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Rule, &'static str> {
        if let Some(category) = text.strip_prefix('@') {
            let category = category.to_ascii_lowercase();
            return match CATEGORIES.iter().position(|known| *known == category) {
                _ if category == "all" => Ok(Rule::All),
                Some(index) => Ok(Rule::Category(index)),
                None => Err("which is no category that ACL CAT lists"),
            };
        }
        let (name, sub) = text.split_once('|').map_or((text, None), |(name, sub)| (name, Some(sub)));
        match (lookup(name.as_bytes()), sub) {
            (Some(command), None) => Ok(Rule::Command(command)),
            (Some(command), Some(sub)) => {
                lookup_sub(command, sub.as_bytes()).map(Rule::Command).ok_or("which is no subcommand of that command")
            }
            (None, None) if name.contains('.') => Ok(Rule::Module(name.to_ascii_uppercase())),
            (None, _) => Err("which is no command of any server"),
        }
    }

    /// How specific it is about a command, or `None` if it says nothing of it.
    fn concerns(&self, command: &Command) -> Option<u8> {
        match self {
            Rule::All => Some(0),
            Rule::Category(index) => (COMMAND_CATEGORIES[usize::from(command.id)] & 1 << index != 0).then_some(1),
            Rule::Command(named) if named.id == command.id => Some(3),
            Rule::Command(named) => named.subs.iter().any(|sub| sub.id == command.id).then_some(2),
            Rule::Module(_) => None,
        }
    }

    fn concerns_module(&self, name: &[u8]) -> Option<u8> {
        match self {
            Rule::All => Some(0),
            Rule::Module(named) => named.as_bytes().eq_ignore_ascii_case(name).then_some(3),
            _ => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::All => out.write_str("@all"),
            Rule::Category(index) => write!(out, "@{}", CATEGORIES[*index]),
            Rule::Command(command) => out.write_str(&command.lower_name()),
            Rule::Module(name) => out.write_str(&name.to_ascii_lowercase()),
        }
    }
}

/// What the operator says of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: what is refused by default stays so.
    Default,
    Allowed,
    Denied,
}

/// All rules, decided for every command.
#[derive(Clone, Debug)]
pub struct Policy {
    verdicts: Vec<Verdict>,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::new(Vec::new(), Vec::new())
    }
}

impl Policy {
    pub fn new(allow: Vec<Rule>, deny: Vec<Rule>) -> Policy {
        let mut verdicts = vec![Verdict::Default; COMMAND_COUNT];
        for command in all() {
            let verdict = decide(&allow, &deny, |rule| rule.concerns(command));
            verdicts[usize::from(command.id)] = if command.flags.is_no_auth() { Verdict::Default } else { verdict };
        }
        Policy { verdicts, allow, deny }
    }

    /// Whether anything has to be looked up at all.
    pub fn denies_anything(&self) -> bool {
        !self.deny.is_empty()
    }

    pub fn verdict(&self, command: &Command) -> Verdict {
        self.verdicts[usize::from(command.id)]
    }

    /// Of a name that the table does not hold.
    pub fn verdict_on_module(&self, name: &[u8]) -> Verdict {
        decide(&self.allow, &self.deny, |rule| rule.concerns_module(name))
    }

    /// Whether a request of this command is refused, whoever asks.
    pub fn refuses(&self, command: &Command) -> bool {
        if command.class == Class::Container {
            return command.subs.iter().all(|sub| self.refuses(sub));
        }
        match self.verdict(command) {
            Verdict::Denied => true,
            Verdict::Allowed => matches!(command.class, Class::Blocked(_)) && unblocked(command).is_none(),
            Verdict::Default => matches!(command.class, Class::Blocked(_)),
        }
    }
}

fn decide(allow: &[Rule], deny: &[Rule], concerns: impl Fn(&Rule) -> Option<u8>) -> Verdict {
    let strongest = |rules: &[Rule]| rules.iter().filter_map(&concerns).max();
    match (strongest(allow), strongest(deny)) {
        (None, None) => Verdict::Default,
        (Some(allowed), denied) if denied.is_none_or(|denied| denied < allowed) => Verdict::Allowed,
        _ => Verdict::Denied,
    }
}

/// How a command that is refused by default is carried out once it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblocked {
    /// On every node, replicas too: all or an error that says which failed.
    Everywhere(Fan),
    AllMasters(Fan),
    /// At the owner of its keys.
    Keyed,
    /// DEBUG: about a key at its owner, else at all masters.
    Debug,
    AnyNode,
}

/// `None`: it can never be done through a proxy.
pub fn unblocked(command: &Command) -> Option<Unblocked> {
    Some(match command.name {
        "CONFIG|SET" | "CONFIG|RESETSTAT" | "CONFIG|REWRITE" | "MODULE|LOAD" | "MODULE|LOADEX" | "MODULE|UNLOAD" => {
            Unblocked::Everywhere(Fan::AllOk)
        }
        "SAVE" | "BGSAVE" | "BGREWRITEAOF" => Unblocked::AllMasters(Fan::AllOk),
        "DEBUG" => Unblocked::Debug,
        "MIGRATE" | "PFDEBUG" => Unblocked::Keyed,
        "PFSELFTEST" | "GRAPH.CONFIG" | "GRAPH.LIST" => Unblocked::AnyNode,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        text.split_whitespace().map(|rule| Rule::parse(rule).unwrap_or_else(|why| panic!("{rule}, {why}"))).collect()
    }

    fn named(name: &str) -> &'static Command {
        all().find(|command| command.name == name).unwrap_or_else(|| panic!("no command {name}"))
    }

    #[test]
    fn the_most_specific_rule_decides_and_then_the_refusal() {
        fn check(allow: &str, deny: &str, name: &str, expected: Verdict) {
            assert_eq!(Policy::new(rules(allow), rules(deny)).verdict(named(name)), expected, "+{allow} -{deny}: {name}");
        }
        check("", "", "GET", Verdict::Default);
        check("", "keys", "KEYS", Verdict::Denied);
        check("", "KEYS", "GET", Verdict::Default);
        check("", "@dangerous", "KEYS", Verdict::Denied);
        check("keys", "@dangerous", "KEYS", Verdict::Allowed);
        check("keys", "keys", "KEYS", Verdict::Denied);
        check("@read", "@keyspace", "KEYS", Verdict::Denied);
        check("@read", "@all", "GET", Verdict::Allowed);
        check("get", "@all", "SET", Verdict::Denied);
        check("", "config", "CONFIG|GET", Verdict::Denied);
        check("config|get", "config", "CONFIG|GET", Verdict::Allowed);
        check("config", "config|set", "CONFIG|SET", Verdict::Denied);
        check("config|set", "", "CONFIG|SET", Verdict::Allowed);
        check("@dangerous", "", "DEBUG", Verdict::Allowed);
        for always in ["AUTH", "HELLO", "QUIT", "RESET"] {
            check("", "@all auth hello quit reset", always, Verdict::Default);
        }
    }

    #[test]
    fn modules_are_named() {
        let policy = Policy::new(rules("json.get"), rules("@all ft.search"));
        assert_eq!(policy.verdict_on_module(b"JSON.GET"), Verdict::Allowed);
        assert_eq!(policy.verdict_on_module(b"Ft.Search"), Verdict::Denied);
        assert_eq!(policy.verdict_on_module(b"X.Y"), Verdict::Denied);
        assert_eq!(Policy::default().verdict_on_module(b"X.Y"), Verdict::Default);
    }

    #[test]
    fn what_cannot_be_done_stays_refused() {
        let policy = Policy::new(rules("@all shutdown config|set"), Vec::new());
        for (name, refused) in [("SHUTDOWN", true), ("SYNC", true), ("CONFIG|SET", false), ("DEBUG", false), ("GET", false)] {
            assert_eq!(policy.refuses(named(name)), refused, "{name}");
        }
        let policy = Policy::new(rules("config|set"), rules("config"));
        assert!(!policy.refuses(named("CONFIG")), "one of its subcommands can be run");
        assert!(Policy::new(Vec::new(), rules("config")).refuses(named("CONFIG")));
        assert!(Policy::default().refuses(named("CONFIG|SET")) && !Policy::default().refuses(named("GET")));
    }

    #[test]
    fn rules_are_shown_as_they_are_written() {
        for text in ["@all", "@dangerous", "keys", "config|set", "json.get"] {
            assert_eq!(Rule::parse(text).map(|rule| rule.to_string()), Ok(text.to_owned()));
        }
        for wrong in ["", "@", "@nosuch", "nosuch", "config|nosuch", "get|x", "nosuch|x"] {
            assert!(Rule::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_is_blocked_can_be_unblocked() {
        for command in all() {
            assert!(unblocked(command).is_none() || matches!(command.class, Class::Blocked(_)), "{}", command.name);
        }
    }
}
