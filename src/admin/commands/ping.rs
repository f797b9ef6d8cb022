use bytes::Bytes;

use crate::admin::definition::{Definition, Handler, Role, Wrong};
use crate::admin::reply::Reply;
use crate::resp::Proto;

pub(super) static PING: Definition = Definition {
    name: "PING",
    syntax: "PING [message]",
    summary: "Answer PONG, or the message",
    help: "It says that the proxy's control thread is alive, not that the cluster is.",
    since: "0.1.0",
    role: Role::Viewer,
    parse,
};

fn parse(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let message = match arguments {
        [] => None,
        [message] => Some(Bytes::copy_from_slice(message)),
        _ => return Err(Wrong::Count),
    };
    Ok(Handler::now(move |session, _| match message {
        // Between messages RESP2 has no other way to tell it from one.
        message if !session.subscribed.is_empty() && session.proto == Proto::Resp2 => {
            Reply::Array(vec![Reply::bulk("pong"), Reply::Bulk(message.unwrap_or_default())])
        }
        Some(message) => Reply::Bulk(message),
        None => Reply::Simple("PONG".to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use crate::admin::definition::tests::check;

    #[test]
    fn ping() {
        check("PING", "+PONG\r\n");
        check("ping hello", "$5\r\nhello\r\n");
        check("PING a b", "-ERR wrong number of arguments for 'ping' command. Syntax: PING [message]\r\n");
    }
}
