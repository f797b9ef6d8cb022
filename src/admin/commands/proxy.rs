//! The PROXY namespace.

use super::COMMANDS;
use super::info::Sections;
use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::Reply;

pub(super) static HELP: Definition = Definition {
    name: "PROXY HELP",
    syntax: "PROXY HELP [command ...]",
    summary: "List the commands, or explain one",
    help: "PROXY HELP PROXY INFO explains one command, PROXY HELP CLIENT lists those that begin with a word.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: parse_help,
};

pub(super) static INFO: Definition = Definition {
    name: "PROXY INFO",
    syntax: "PROXY INFO [section ...]",
    summary: "Show what the proxy knows about itself",
    help: "The facts of INFO; after HELLO 3 they come as a map of maps instead of text.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| {
        let sections = Sections::parse(arguments);
        Ok(Handler::now(move |_, state| Reply::Facts(sections.choose(state))))
    },
};

pub(super) static VERSION: Definition = Definition {
    name: "PROXY VERSION",
    syntax: "PROXY VERSION",
    summary: "Show the version of Keyway",
    help: "Each of several proxies before one cluster may have its own.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [] => Ok(Handler::now(|_, _| Reply::Table(rows([("keyway", env!("CARGO_PKG_VERSION"))])))),
        _ => Err(Wrong::Count),
    },
};

fn parse_help(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let name = arguments.iter().map(|word| shown(word).to_uppercase()).collect::<Vec<_>>().join(" ");
    let begins = |command: &&Definition| name.is_empty() || format!("{} ", command.name).starts_with(&format!("{name} "));
    let (exact, others): (Vec<&Definition>, Vec<&Definition>) =
        COMMANDS.iter().copied().filter(begins).partition(|command| command.name == name);
    if exact.is_empty() && others.is_empty() {
        return Err(Wrong::Value { expected: "a command that PROXY HELP lists", found: name });
    }
    let in_brief = others.into_iter().map(|command| {
        let role = if command.role > Role::Viewer { format!(" ({} only)", command.role) } else { String::new() };
        (command.syntax.to_owned(), format!("{}{role}", command.summary))
    });
    let rows = exact.into_iter().flat_map(explain).chain(in_brief).collect();
    Ok(Handler::now(move |_, _| Reply::Table(rows)))
}

fn explain(command: &Definition) -> Vec<(String, String)> {
    rows([
        ("syntax", command.syntax),
        ("summary", command.summary),
        ("help", command.help),
        ("role", &command.role.to_string()),
        ("since", command.since),
    ])
}

fn rows<const N: usize>(rows: [(&str, &str); N]) -> Vec<(String, String)> {
    rows.map(|(key, text)| (key.to_owned(), text.to_owned())).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::definition::tests::{answer_to, check, check3};
    use crate::resp::Proto;

    #[test]
    fn help_lists_every_command() {
        let lines = answer_to("PROXY HELP", Proto::Resp2);
        let map = answer_to("PROXY HELP", Proto::Resp3);
        assert!(map.starts_with(&format!("%{}\r\n", COMMANDS.len())), "{map}");
        for command in COMMANDS {
            // Long ones go on in further lines.
            let begins = command.syntax.get(..60).unwrap_or(command.syntax);
            assert!(lines.contains(&format!("\r\n+{begins}")), "{} is missing in {lines}", command.name);
            assert!(map.contains(command.syntax) && map.contains(command.summary), "{} is missing in {map}", command.name);
        }
        assert!(lines.lines().all(|line| line.len() <= 77), "too long for a terminal: {lines}");
    }

    #[test]
    fn help_explains_one() {
        check(
            "proxy help ping",
            "*6\r\n+syntax   PING [message]\r\n+summary  Answer PONG, or the message\r\n\
             +help     It says that the proxy's control thread is alive, not that the\r\n+         cluster is.\r\n\
             +role     viewer\r\n+since    0.1.0\r\n",
        );
        check(
            "PROXY HELP CLIENT",
            "*4\r\n+CLIENT ID            Show the number of this connection\r\n+CLIENT SETINFO LIB-NAME|LIB-VER value\r\n\
             +                     Accept the name or version of a client library\r\n\
             +CLIENT SETNAME name  Accept a name for this connection\r\n",
        );
        check(
            "PROXY HELP GET",
            "-ERR expected a command that PROXY HELP lists, found 'GET'. Syntax: PROXY HELP [command ...]\r\n",
        );
        for command in COMMANDS {
            let help = answer_to(&format!("PROXY HELP {}", command.name), Proto::Resp3);
            assert!(help.contains(command.help) && help.contains(command.syntax), "{help}");
        }
    }

    #[test]
    fn version_and_info() {
        let version = env!("CARGO_PKG_VERSION");
        check("PROXY VERSION", &format!("*1\r\n+keyway  {version}\r\n"));
        check3("PROXY VERSION", &format!("%1\r\n$6\r\nkeyway\r\n${}\r\n{version}\r\n", version.len()));
        check("PROXY VERSION x", "-ERR wrong number of arguments for 'proxy|version' command. Syntax: PROXY VERSION\r\n");
        check("PROXY INFO clients", "$32\r\n# Clients\r\nconnected_clients:7\r\n\r\n");
        check3("PROXY INFO clients", "%1\r\n$7\r\nClients\r\n%1\r\n$17\r\nconnected_clients\r\n$1\r\n7\r\n");
    }
}
