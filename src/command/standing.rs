//! What an application may expect of each command, beside a standalone server of the same version. `COMMANDS.md` is made from it.

use super::class::{Class, Fan, Local, SplitKind, Transaction};
use super::row::{Command, Keys, Special};

/// How a command behaves behind the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As on a standalone server.
    Works,
    /// It works, and this is different.
    Differs(&'static str),
    /// It is refused, and this is why.
    Refused(&'static str),
}

const ONE_SLOT: &str = "its keys must lie in one slot (a hash tag puts them there), else CROSSSLOT";
const ALL_MASTERS: &str = "asked of all masters at once, not at one moment";

impl Command {
    /// `None` for a container, which is its subcommands.
    pub fn standing(&self) -> Option<Standing> {
        use Standing::{Differs, Refused, Works};
        if let Some(differs) = by_name(self.name) {
            return Some(Differs(differs));
        }
        Some(match self.class {
            Class::Container => return None,
            Class::Keyed if self.flags.is_script() => Differs(
                "runs where its declared keys are, which must lie in one slot; a body that the proxy has seen is known on every node",
            ),
            Class::Keyed | Class::Blocking if !self.has_many_keys() => Works,
            Class::Keyed => Differs(ONE_SLOT),
            Class::Blocking => {
                Differs("its keys must lie in one slot, else CROSSSLOT, or polling with cross_slot.blocking = \"poll\"")
            }
            Class::Split(SplitKind::Mset) => {
                Differs("keys of any slots; one command a slot, so it is atomic within each slot only")
            }
            Class::Split(SplitKind::Mget | SplitKind::Sum) => Differs("keys of any slots; one command a slot, not at one moment"),
            Class::Split(SplitKind::ShardNumsub) => Works,
            Class::AllMasters(fan) | Class::AllNodes(fan) => fan_out(fan),
            Class::AnyNode | Class::PubSub(_) => Works,
            Class::ScanCursor => Differs(
                "the cursor is the proxy's own, below 2^53, and survives moves of slots; on Redis 6.2 and 7.0 a page holds whole slots",
            ),
            Class::Local(local) => answered_by_proxy(local),
            Class::Transaction(Transaction::Multi | Transaction::Exec) => Differs(
                "all keys must lie in one slot, else CROSSSLOT, or one transaction a slot with cross_slot.transactions = \"per-slot\"",
            ),
            Class::Transaction(Transaction::Watch) => Differs(
                "all keys must lie in one slot, which must be the transaction's; EXEC is also null when the slot moved or its master failed",
            ),
            Class::Transaction(Transaction::Discard | Transaction::Unwatch) => Works,
            Class::Blocked(reason) => Refused(reason),
        })
    }

    fn has_many_keys(&self) -> bool {
        match self.keys {
            Keys::None | Keys::First => false,
            Keys::Range { first, last, .. } => i16::from(last) != i16::from(first),
            Keys::Numkeys { .. } => true,
            Keys::Special(special) => special != Special::Stralgo,
        }
    }
}

fn by_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "PUBLISH" | "SPUBLISH" => {
            "counts the clients of this proxy exactly; another proxy's clients count once for each of its workers"
        }
        "PUBSUB|NUMSUB" | "PUBSUB|SHARDNUMSUB" | "PUBSUB|NUMPAT" => {
            "counts the clients of this proxy exactly; another proxy's count once for each of its workers"
        }
        "COMMAND" | "COMMAND|LIST" | "COMMAND|COUNT" => "without the commands that are refused",
        "CONFIG|GET" => "one node's settings, with databases, cluster-enabled and the like as a standalone server has them",
        "BLMOVE" | "BRPOPLPUSH" => ONE_SLOT,
        "ACL|DELUSER" => "carried out on every node; an error of one is an error of the whole and says where",
        "WAIT" | "WAITAOF" => "the least of all masters' answers",
        _ => return None,
    })
}

fn fan_out(fan: Fan) -> Standing {
    use Standing::{Differs, Works};
    match fan {
        Fan::AllOk | Fan::FirstEqual => {
            Differs("carried out on every node; an error of one is an error of the whole and says where")
        }
        Fan::OneSucceeded => Differs("asked of every node; one that had something to kill is enough"),
        Fan::AndPerElement => Differs("1 only where every master has it"),
        Fan::Sum | Fan::Union | Fan::Concat => Differs(ALL_MASTERS),
        Fan::SumPerChannel => Works,
        Fan::Min | Fan::Max => Differs("the least, or most, of all nodes' answers"),
        Fan::Newest | Fan::AclLog => Differs("the logs of all nodes, newest first, numbered anew"),
        Fan::Info => {
            Differs("all masters' figures in one, as one server with one database; the connection's section is the proxy's own")
        }
        Fan::RandomKey => Differs("a master by its share of the keys, then one of its keys"),
        Fan::FunctionStats => Differs("the node that is running one, and all engines"),
        Fan::MemoryStats | Fan::LatencyLatest | Fan::LatencyHistory | Fan::LatencyHistogram => {
            Differs("all nodes' figures in one")
        }
    }
}

fn answered_by_proxy(local: Local) -> Standing {
    use Standing::{Differs, Works};
    match local {
        Local::ClusterRefused => Differs("as on a server without a cluster: refused"),
        Local::Select | Local::Swapdb | Local::Move => Differs("one database, number 0"),
        Local::ClientList
        | Local::ClientInfo
        | Local::ClientKill
        | Local::ClientPause
        | Local::ClientUnpause
        | Local::ClientUnblock => Differs("of this proxy's clients, on all its workers"),
        Local::Monitor => Differs("the lines of all masters as they come; addresses are the proxy's connections"),
        Local::Role => Differs("always a master without replicas"),
        _ => Works,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{all, unblocked};

    const COMMANDS_MD: &str = include_str!("COMMANDS.md");

    /// The whole of `COMMANDS.md`.
    fn document() -> String {
        let mut rows: Vec<(&str, &str, String)> = all()
            .filter_map(|command| {
                let (word, note) = match command.standing()? {
                    Standing::Works => ("works", String::new()),
                    Standing::Differs(how) => ("differs", how.to_owned()),
                    Standing::Refused(why) if unblocked(command).is_some() => {
                        ("refused", format!("{why}; commands.allow admits it"))
                    }
                    Standing::Refused(why) => ("refused", why.to_owned()),
                };
                Some((command.name, word, note))
            })
            .collect();
        rows.sort();
        let count = |word: &str| rows.iter().filter(|row| row.1 == word).count();
        let mut out = format!(
            "# Every command\n\n\
             All {} commands and subcommands of Redis 6.2, 7.0, 8.2 and Valkey 9.1, compared with a standalone server of the same version: {} work\n\
             as there, {} work with the difference that is named, {} are refused by default. Commands of modules and of newer servers are looked up in the cluster's own COMMAND INFO and routed by their keys.\n\n\
             This file is made from the command table: `TEST_WRITE_COMMANDS_MD=1 cargo test --lib commands_md` writes it anew, and a test\n\
             compares it.\n\n\
             | command | | what is different, or why it is refused |\n| --- | --- | --- |\n",
            rows.len(),
            count("works"),
            count("differs"),
            count("refused"),
        );
        for (name, word, note) in rows {
            out += &format!("| {} | {word} | {note} |\n", name.replace('|', " "));
        }
        out
    }

    #[test]
    fn commands_md_tells_what_the_table_says() {
        assert!(
            COMMANDS_MD == document(),
            "src/command/COMMANDS.md is what people read. Write it anew with\n  TEST_WRITE_COMMANDS_MD=1 cargo test --lib commands_md"
        );
    }

    /// Not a check but the way to write the file anew; without the variable it leaves the file alone.
    #[test]
    fn commands_md_can_be_written_anew() {
        if std::env::var_os("TEST_WRITE_COMMANDS_MD").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/command/COMMANDS.md");
            std::fs::write(path, document()).expect("the source folder can be written");
        }
    }

    #[test]
    fn one_of_each_kind() {
        let check = |name: &str, expected: Option<Standing>| {
            let command = all().find(|command| command.name == name).expect("the test names known commands");
            assert_eq!(command.standing(), expected, "{name}");
        };
        check("GET", Some(Standing::Works));
        check("CONFIG", None);
        check("SUNION", Some(Standing::Differs(ONE_SLOT)));
        check("SHUTDOWN", Some(Standing::Refused("would stop, re-parent or turn into a replication stream a cluster node")));
    }
}
