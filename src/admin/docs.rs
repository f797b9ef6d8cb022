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
    let commands = COMMANDS.iter().filter(|command| command.first_word() == first_word);
    let (whole, subs): (Vec<&Definition>, Vec<&Definition>) = commands.partition(|command| command.name == first_word);
    // A bare container takes a subcommand and more.
    let arity = whole.first().map_or(-2, |command| syntax::arity(command.syntax, command.name));
    let subs = subs.into_iter().map(|sub| fields(&sub.full_name(), syntax::arity(sub.syntax, sub.name), Vec::new()));
    fields(&first_word.to_lowercase(), arity, subs.collect())
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
    let one = |word: &&str| (Reply::bulk(&word.to_lowercase()), word_docs(word));
    Reply::Map(first_words.iter().map(one).collect())
}

fn word_docs(first_word: &str) -> Reply {
    let commands = COMMANDS.iter().filter(|command| command.first_word() == first_word);
    let (whole, subs): (Vec<&Definition>, Vec<&Definition>) = commands.partition(|command| command.name == first_word);
    let mut pairs = match whole.first() {
        Some(command) => command_docs(command),
        None => about("A container for commands", subs.first().map_or("", |sub| sub.since)),
    };
    if !subs.is_empty() {
        let subs = subs.into_iter().map(|sub| (Reply::bulk(&sub.full_name()), Reply::Map(command_docs(sub))));
        pairs.push((Reply::bulk("subcommands"), Reply::Map(subs.collect())));
    }
    Reply::Map(pairs)
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
