use crate::admin::definition::{Definition, Handler, Role, Session, Wrong, shown};
use crate::admin::reply::Reply;
use crate::resp::Proto;

pub(super) static HELLO: Definition = Definition {
    name: "HELLO",
    syntax: "HELLO [protover [AUTH username password] [SETNAME clientname]]",
    summary: "Choose the protocol version, 2 or 3",
    help: "In version 3 tables are maps. The admin port asks for no password, so AUTH is refused.",
    since: "0.1.0",
    role: Role::Viewer,
    parse,
};

/// In Redis's words, which clients look for: somebody who believes to be protected should learn otherwise.
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure \
                           your configuration is correct?";

fn parse(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let Some((version, options)) = arguments.split_first() else {
        return Ok(Handler::now(|session, _| greeting(session)));
    };
    let proto = parse_version(version)?;
    check_options(options)?;
    Ok(Handler::now(move |session, _| {
        session.proto = proto;
        greeting(session)
    }))
}

fn parse_version(version: &[u8]) -> Result<Proto, Wrong> {
    let number = std::str::from_utf8(version).ok().and_then(|text| text.parse::<i64>().ok());
    match number {
        Some(2) => Ok(Proto::Resp2),
        Some(3) => Ok(Proto::Resp3),
        Some(_) => Err(Wrong::Verbatim("NOPROTO unsupported protocol version".to_owned())),
        None => Err(Wrong::Verbatim("ERR Protocol version is not an integer or out of range".to_owned())),
    }
}

/// The name is not kept: the list of clients tells of those of the proxy's own port.
fn check_options(mut options: &[&[u8]]) -> Result<(), Wrong> {
    while let Some((option, rest)) = options.split_first() {
        match (option.to_ascii_uppercase().as_slice(), rest) {
            (b"AUTH", [_, _, ..]) => return Err(Wrong::Verbatim(NO_PASSWORD.to_owned())),
            (b"SETNAME", [_, rest @ ..]) => options = rest,
            _ => return Err(Wrong::Verbatim(format!("ERR Syntax error in HELLO option '{}'", shown(option)))),
        }
    }
    Ok(())
}

fn greeting(session: &Session) -> Reply {
    let version = if session.proto == Proto::Resp3 { 3 } else { 2 };
    Reply::map([
        ("server", Reply::bulk("keyway")),
        ("version", Reply::bulk(env!("CARGO_PKG_VERSION"))),
        ("proto", Reply::Integer(version)),
        // Ids count up from 1.
        ("id", Reply::Integer(session.id.cast_signed())),
        ("mode", Reply::bulk("standalone")),
        ("role", Reply::bulk("master")),
        ("modules", Reply::Array(Vec::new())),
    ])
}

#[cfg(test)]
mod tests {
    use crate::admin::definition::tests::{check, check3};

    #[test]
    fn hello() {
        let version = env!("CARGO_PKG_VERSION");
        let greeting = |start: &str, proto: u8| {
            format!(
                "{start}\r\n$6\r\nserver\r\n$6\r\nkeyway\r\n$7\r\nversion\r\n${}\r\n{version}\r\n$5\r\nproto\r\n:{proto}\r\n\
                 $2\r\nid\r\n:7\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
                version.len()
            )
        };
        check("HELLO", &greeting("*14", 2));
        check3("HELLO", &greeting("%7", 3));
        check("HELLO 3", &greeting("%7", 3));
        check3("hello 2 setname me", &greeting("*14", 2));
        check("HELLO 4", "-NOPROTO unsupported protocol version\r\n");
        check("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n");
        check("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n");
        check("HELLO 3 SETNAME", "-ERR Syntax error in HELLO option 'SETNAME'\r\n");
        check(
            "HELLO 3 AUTH default secret",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?\r\n",
        );
    }
}
