use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::docs;
use crate::admin::reply::Reply;

pub(super) static COMMAND: Definition = Definition {
    name: "COMMAND",
    syntax: "COMMAND",
    summary: "List the commands with their arities",
    help: "For programs; PROXY HELP is for people.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [] => Ok(Handler::now(|_, _| Reply::Array(docs::first_words().into_iter().map(docs::entry).collect()))),
        [unknown, ..] => Err(Wrong::Value { expected: "COUNT or DOCS", found: shown(unknown) }),
    },
};

pub(super) static COUNT: Definition = Definition {
    name: "COMMAND COUNT",
    syntax: "COMMAND COUNT",
    summary: "Count the commands",
    help: "Commands with subcommands count once.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [] => Ok(Handler::now(|_, _| Reply::Integer(docs::first_words().len() as i64))),
        _ => Err(Wrong::Count),
    },
};

pub(super) static DOCS: Definition = Definition {
    name: "COMMAND DOCS",
    syntax: "COMMAND DOCS [command ...]",
    summary: "Describe the commands for programs that complete and hint",
    help: "redis-cli asks for it when it connects. Unknown names are left out.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: parse_docs,
};

fn parse_docs(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let is_asked = |word: &&str| arguments.iter().any(|argument| argument.eq_ignore_ascii_case(word.as_bytes()));
    let mut words = docs::first_words();
    words.retain(|word| arguments.is_empty() || is_asked(word));
    Ok(Handler::now(move |_, _| docs::docs(&words)))
}

#[cfg(test)]
mod tests {
    use crate::admin::commands::COMMANDS;
    use crate::admin::definition::tests::{answer_to, check, check3};
    use crate::resp::Proto;

    #[test]
    fn command_tells_names_and_arities() {
        check("COMMAND COUNT", ":11\r\n");
        let all = answer_to("COMMAND", Proto::Resp2);
        let rest = ":0\r\n:0\r\n:0\r\n*0\r\n*0\r\n*0\r\n";
        assert!(all.starts_with("*11\r\n*10\r\n$4\r\nauth\r\n:-2\r\n*0\r\n:0\r\n"), "{all}");
        assert!(all.contains("*10\r\n$6\r\nclient\r\n:-2\r\n*0\r\n:0\r\n"), "{all}");
        assert!(all.contains(&format!("*10\r\n$10\r\nproxy|help\r\n:-2\r\n*0\r\n{rest}*0\r\n")), "{all}");
        assert!(all.contains(&format!("*10\r\n$4\r\nping\r\n:-1\r\n*0\r\n{rest}*0\r\n")), "{all}");
        check("COMMAND LIST", "-ERR expected COUNT or DOCS, found 'LIST'. Syntax: COMMAND\r\n");
    }

    #[test]
    fn docs_have_the_shape_that_redis_cli_reads() {
        check("COMMAND DOCS nothing", "*0\r\n");
        check3("COMMAND DOCS nothing", "%0\r\n");
        check(
            "command docs PING",
            "*2\r\n$4\r\nping\r\n*8\r\n$7\r\nsummary\r\n$27\r\nAnswer PONG, or the message\r\n$5\r\nsince\r\n$5\r\n0.1.0\r\n\
             $5\r\ngroup\r\n$6\r\nkeyway\r\n$9\r\narguments\r\n*1\r\n*8\r\n$4\r\nname\r\n$7\r\nmessage\r\n$4\r\ntype\r\n\
             $6\r\nstring\r\n$12\r\ndisplay_text\r\n$7\r\nmessage\r\n$5\r\nflags\r\n*1\r\n+optional\r\n",
        );
    }

    #[test]
    fn docs_name_every_command() {
        for proto in [Proto::Resp2, Proto::Resp3] {
            let docs = answer_to("COMMAND DOCS", proto);
            for command in COMMANDS {
                assert!(docs.contains(&format!("\r\n{}\r\n", command.full_name())), "{} is missing", command.name);
                assert!(docs.contains(command.summary), "{} has no summary", command.name);
            }
        }
    }
}
