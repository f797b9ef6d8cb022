//! COMMAND and COMMAND DOCS, made from the list of commands: redis-cli completes and hints from them.
//!
//! Shapes: the Redis documentation of COMMAND and COMMAND DOCS.

use super::commands::COMMANDS;
use super::definition::Definition;
use super::reply::Reply;
use super::syntax::{self, Argument, Kind};

/// What redis-cli shows as the group, and completes behind `HELP @`.
const GROUP: &str = "keyway";

/// A command and its subcommands: each first word once.
pub(super) fn first_words() -> Vec<&'static str> {
    let mut words: Vec<_> = COMMANDS.iter().map(|command| command.first_word()).collect();
    words.dedup();
    words
}

/// One entry of COMMAND: name, arity, flags, key positions (none), categories, tips, key specs, subcommands.
pub(super) fn entry(first_word: &str) -> Reply {
    let (whole, subs) = beginning_with(first_word, COMMANDS);
    // A bare container takes a subcommand and more.
    let arity = whole.map_or(-2, |command| syntax::arity(command.syntax, command.name));
    let inner = inner_containers(&subs).into_iter().map(|(word, _)| fields(&sub_name(first_word, word), -3, Vec::new()));
    let subs = subs.iter().map(|sub| fields(&sub.full_name(), syntax::arity(sub.syntax, sub.name), Vec::new()));
    fields(&first_word.to_lowercase(), arity, subs.chain(inner).collect())
}

/// The command of this one word, and those of which it is the first.
fn beginning_with(first_word: &str, commands: &[&'static Definition]) -> (Option<&'static Definition>, Vec<&'static Definition>) {
    let found = commands.iter().copied().filter(|command| command.first_word() == first_word);
    let (whole, subs): (Vec<&Definition>, Vec<&Definition>) = found.partition(|command| command.name == first_word);
    (whole.first().copied(), subs)
}

/// The second words that have third ones, and their commands. redis-cli knows two words only: what it shows behind them are arguments.
fn inner_containers(subs: &[&'static Definition]) -> Vec<(&'static str, Vec<&'static Definition>)> {
    let mut words: Vec<_> = subs.iter().filter_map(|sub| sub.inner_container()).collect();
    words.dedup();
    let of = |word| subs.iter().copied().filter(|sub| sub.inner_container() == Some(word)).collect();
    words.into_iter().map(|word| (word, of(word))).collect()
}

fn sub_name(first_word: &str, word: &str) -> String {
    format!("{first_word}|{word}").to_lowercase()
}

fn fields(name: &str, arity: i64, subcommands: Vec<Reply>) -> Reply {
    let none = || Reply::Array(Vec::new());
    let [first_key, last_key, step] = [0, 0, 0].map(Reply::Integer);
    let subcommands = Reply::Array(subcommands);
    Reply::Array(vec![
        Reply::bulk(name),
        Reply::Integer(arity),
        none(),
        first_key,
        last_key,
        step,
        none(),
        none(),
        none(),
        subcommands,
    ])
}

/// COMMAND DOCS of these first words.
pub(super) fn docs(first_words: &[&str]) -> Reply {
    let one = |word: &&str| (Reply::bulk(&word.to_lowercase()), word_docs(word, COMMANDS));
    Reply::Map(first_words.iter().map(one).collect())
}

fn word_docs(first_word: &str, commands: &[&'static Definition]) -> Reply {
    let (whole, subs) = beginning_with(first_word, commands);
    let mut pairs = match whole {
        Some(command) => command_docs(command),
        None => container_docs(&subs),
    };
    if !subs.is_empty() {
        let inner = inner_containers(&subs).into_iter().map(|(word, commands)| {
            let mut pairs = container_docs(&commands);
            pairs.push((Reply::bulk("arguments"), Reply::Array(vec![argument_docs(&choice(word, &commands))])));
            (Reply::bulk(&sub_name(first_word, word)), Reply::Map(pairs))
        });
        // Those of three words stand there too, so that redis-cli completes them.
        let all = subs.iter().map(|sub| (Reply::bulk(&sub.full_name()), Reply::Map(command_docs(sub))));
        pairs.push((Reply::bulk("subcommands"), Reply::Map(all.chain(inner).collect())));
    }
    Reply::Map(pairs)
}

fn container_docs(commands: &[&Definition]) -> Vec<(Reply, Reply)> {
    about("A container for commands", commands.first().map_or("", |command| command.since))
}

/// Third words and what follows each, as one argument.
fn choice(second_word: &str, commands: &[&'static Definition]) -> Argument {
    let block = |command: &&'static Definition| {
        let behind = command.first_word().len() + 1 + second_word.len();
        Argument::new(Kind::Block(syntax::arguments(command.syntax, command.name.get(..behind).unwrap_or_default())))
    };
    Argument::new(Kind::OneOf(commands.iter().map(block).collect()))
}

fn command_docs(command: &Definition) -> Vec<(Reply, Reply)> {
    let mut pairs = about(command.summary, command.since);
    let arguments = syntax::arguments(command.syntax, command.name);
    if !arguments.is_empty() {
        pairs.push((Reply::bulk("arguments"), Reply::Array(arguments.iter().map(argument_docs).collect())));
    }
    pairs
}

fn about(summary: &str, since: &str) -> Vec<(Reply, Reply)> {
    let pairs = [("summary", summary), ("since", since), ("group", GROUP)];
    pairs.into_iter().map(|(key, text)| (Reply::bulk(key), Reply::bulk(text))).collect()
}

fn argument_docs(argument: &Argument) -> Reply {
    let name = argument.name();
    let text = |key: &str, value: &str| (Reply::bulk(key), Reply::bulk(value));
    let mut pairs = vec![text("name", &name)];
    let parts = match &argument.kind {
        Kind::Token(word) => {
            pairs.extend([text("type", "pure-token"), text("token", word)]);
            None
        }
        Kind::Value(word) => {
            pairs.extend([text("type", "string"), text("display_text", word)]);
            None
        }
        Kind::Block(parts) => {
            pairs.push(text("type", "block"));
            Some(parts)
        }
        Kind::OneOf(parts) => {
            pairs.push(text("type", "oneof"));
            Some(parts)
        }
    };
    let flags = [("optional", argument.optional), ("multiple", argument.multiple)];
    let flags: Vec<Reply> =
        flags.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| Reply::Simple(flag.to_owned())).collect();
    if !flags.is_empty() {
        pairs.push((Reply::bulk("flags"), Reply::Array(flags)));
    }
    if let Some(parts) = parts {
        pairs.push((Reply::bulk("arguments"), Reply::Array(parts.iter().map(argument_docs).collect())));
    }
    Reply::Map(pairs)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::admin::definition::{Handler, Role};
    use crate::resp::Proto;

    const fn command(name: &'static str, syntax: &'static str) -> Definition {
        Definition {
            name,
            syntax,
            summary: "A summary",
            help: "Help.",
            since: "0.1.0",
            role: Role::Viewer,
            parse: |_| Ok(Handler::now(|_, _| Reply::ok())),
        }
    }

    static LIST: Definition = command("P M LIST", "P M LIST");
    static LOG: Definition = command("P M LOG", "P M LOG plan [count]");
    static VERSION: Definition = command("P VERSION", "P VERSION");

    #[test]
    fn a_third_word_is_an_argument_and_completes_too() {
        let mut out = BytesMut::new();
        word_docs("P", &[&LIST, &LOG, &VERSION]).write(Proto::Resp2, &mut out).expect("replies can be written");
        let text = String::from_utf8_lossy(&out).replace("\r\n", " ");
        for part in ["$8 p|m list ", "$7 p|m log ", "$9 p|version ", "$3 p|m *8 "] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        let words: Vec<&str> =
            text[text.find("$3 p|m *8 ").expect("checked")..].split(' ').filter(|word| !word.starts_with(['$', '*'])).collect();
        let expected = "p|m summary A container for commands since 0.1.0 group keyway arguments name list type oneof arguments \
                        name list type block arguments name list type pure-token token LIST \
                        name log type block arguments name log type pure-token token LOG \
                        name plan type string display_text plan name count type string display_text count flags +optional ";
        assert_eq!(words.join(" "), expected);
    }
}
