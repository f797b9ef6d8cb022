//! What client libraries send when they connect. What they tell is not kept: CLIENT LIST tells of the clients of the
//! proxy's own port.

use crate::admin::definition::{Definition, Handler, Role, Wrong, shown};
use crate::admin::reply::Reply;

pub(super) static ID: Definition = Definition {
    name: "CLIENT ID",
    syntax: "CLIENT ID",
    summary: "Show the number of this connection",
    help: "Connections of the admin port are counted from 1, apart from those of clients.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        // Ids count up from 1.
        [] => Ok(Handler::now(|session, _| Reply::Integer(session.id.cast_signed()))),
        _ => Err(Wrong::Count),
    },
};

pub(super) static SETINFO: Definition = Definition {
    name: "CLIENT SETINFO",
    syntax: "CLIENT SETINFO LIB-NAME|LIB-VER value",
    summary: "Accept the name or version of a client library",
    help: "Client libraries send it when they connect; it is not kept.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: parse_setinfo,
};

pub(super) static SETNAME: Definition = Definition {
    name: "CLIENT SETNAME",
    syntax: "CLIENT SETNAME name",
    summary: "Accept a name for this connection",
    help: "Client libraries send it when they connect; it is not kept.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [_] => Ok(Handler::now(|_, _| Reply::ok())),
        _ => Err(Wrong::Count),
    },
};

fn parse_setinfo(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let [attribute, _] = arguments else { return Err(Wrong::Count) };
    match attribute.to_ascii_uppercase().as_slice() {
        b"LIB-NAME" | b"LIB-VER" => Ok(Handler::now(|_, _| Reply::ok())),
        _ => Err(Wrong::Value { expected: "LIB-NAME or LIB-VER", found: shown(attribute) }),
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::definition::tests::check;

    #[test]
    fn client() {
        check("CLIENT ID", ":7\r\n");
        check("CLIENT SETNAME me", "+OK\r\n");
        check("client setinfo lib-name redis-py", "+OK\r\n");
        check("CLIENT SETINFO LIB-VER 5", "+OK\r\n");
        check(
            "CLIENT SETINFO COLOR red",
            "-ERR expected LIB-NAME or LIB-VER, found 'COLOR'. Syntax: CLIENT SETINFO LIB-NAME|LIB-VER value\r\n",
        );
        check("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command. Syntax: CLIENT SETNAME name\r\n");
        check("CLIENT LIST", "-ERR unknown subcommand 'LIST' of CLIENT. Syntax: PROXY HELP CLIENT lists them\r\n");
    }
}
