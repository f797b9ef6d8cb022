use crate::admin::definition::{Definition, Handler, Role, Session, Wrong, shown};
use crate::admin::reply::Reply;
use crate::resp::Proto;

pub(super) static HELLO: Definition = Definition {
    name: "HELLO",
    syntax: "HELLO [protover [AUTH username password] [SETNAME clientname]]",
    summary: "Choose the protocol version, 2 or 3",
    help: "In version 3 tables are maps. AUTH is as the command of that name; the name of SETNAME is not kept.",
    since: "0.1.0",
    role: Role::Anyone,
    parse,
};

const NO_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
                       option can be used to authenticate the client and select the RESP protocol version at the same time";

/// A name and a password.
type Login = (Vec<u8>, Vec<u8>);

fn parse(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let (proto, login) = match arguments.split_first() {
        Some((version, options)) => (Some(parse_version(version)?), parse_options(options)?),
        None => (None, None),
    };
    Ok(Handler::now(move |session, state| {
        if let Some((name, password)) = login {
            match state.operators.enter(Some(&name), &password, &session.peer, (state.cluster.now_us)()) {
                Ok(standing) => session.standing = Some(standing),
                Err(refusal) => return Reply::Error(refusal),
            }
        }
        if session.standing.is_none() {
            return Reply::Error(NO_AUTH.to_owned());
        }
        session.proto = proto.unwrap_or(session.proto);
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

/// The last AUTH counts, as in servers. The name is not kept: the list of clients tells of those of the proxy's own port.
fn parse_options(mut options: &[&[u8]]) -> Result<Option<Login>, Wrong> {
    let mut login = None;
    while let Some((option, rest)) = options.split_first() {
        options = match (option.to_ascii_uppercase().as_slice(), rest) {
            (b"AUTH", [name, password, rest @ ..]) => {
                login = Some((name.to_vec(), password.to_vec()));
                rest
            }
            (b"SETNAME", [_, rest @ ..]) => rest,
            _ => return Err(Wrong::Verbatim(format!("ERR Syntax error in HELLO option '{}'", shown(option)))),
        }
    }
    Ok(login)
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
        check("HELLO 2 AUTH default secret", &greeting("*14", 2));
    }
}
