//! What a node says of itself in reply to `HELLO 2`.

use bytes::BytesMut;
use redis_protocol::codec::Resp2;
use tokio_util::codec::Encoder;

use crate::cluster::Persona;
use crate::control::Reply;

/// Reads the flat array of names and values: `server`, `version`, `proto`, `id`, `mode`, `role`, `modules`. `None` when
/// it is an error or lacks the first two.
pub(super) fn parse_hello(reply: Reply) -> Option<Persona> {
    let Reply::Array(fields) = reply else { return None };
    let mut persona = Persona { server: String::new(), version: String::new(), ..Persona::default() };
    for pair in fields.chunks_exact(2) {
        match (text(&pair[0])?, &pair[1]) {
            ("server", value) => persona.server = text(value)?.to_owned(),
            ("version", value) => persona.version = text(value)?.to_owned(),
            ("modules", value) => persona.modules = raw(value.clone())?,
            _ => {}
        }
    }
    (!persona.server.is_empty() && !persona.version.is_empty()).then_some(persona)
}

fn text(value: &Reply) -> Option<&str> {
    match value {
        Reply::BulkString(text) | Reply::SimpleString(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

/// The value's own bytes, as they were on the wire.
fn raw(value: Reply) -> Option<Vec<u8>> {
    let mut bytes = BytesMut::new();
    Resp2::default().encode(value, &mut bytes).ok()?;
    Some(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use tokio_util::codec::Decoder;

    use super::*;

    #[test]
    fn hellos() {
        fn check(wire: &str, expected: Option<(&str, &str, &str)>) {
            let reply = Resp2::default().decode(&mut BytesMut::from(wire)).expect(wire).expect(wire);
            let expected = expected.map(|(server, version, modules)| Persona {
                server: server.into(),
                version: version.into(),
                modules: modules.into(),
            });
            assert_eq!(parse_hello(reply), expected, "{wire}");
        }
        // As 6.2.5 and 9.1.2 answer.
        check(
            "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n6.2.5\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:15\r\n\
             $4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
            Some(("redis", "6.2.5", "*0\r\n")),
        );
        let modules = "*1\r\n*8\r\n$4\r\nname\r\n$3\r\nlua\r\n$3\r\nver\r\n:1\r\n$4\r\npath\r\n$3\r\nlua\r\n$4\r\nargs\r\n*0\r\n";
        check(
            &format!("*6\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n9.1.2\r\n$7\r\nmodules\r\n{modules}"),
            Some(("valkey", "9.1.2", modules)),
        );
        check("-NOAUTH HELLO must be called with the client already authenticated\r\n", None);
        check("*0\r\n", None);
        check("*2\r\n$6\r\nserver\r\n$5\r\nredis\r\n", None);
        check("*2\r\n$6\r\nserver\r\n:1\r\n", None);
        check("$-1\r\n", None);
    }
}
