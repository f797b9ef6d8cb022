use crate::admin::definition::{Definition, Handler, Role, Wrong};
use crate::admin::events::Subscribed;
use crate::admin::reply::Reply;
use crate::resp::Proto;

pub(super) static RESET: Definition = Definition {
    name: "RESET",
    syntax: "RESET",
    summary: "Make the connection as new",
    help: "It ends subscriptions and forgets who you are; redis-cli sends it to leave SUBSCRIBE.",
    since: "0.1.0",
    role: Role::Anyone,
    parse: |arguments| match arguments {
        [] => Ok(Handler::now(|session, state| {
            session.standing = state.operators.first();
            session.subscribed = Subscribed::default();
            session.proto = Proto::Resp2;
            Reply::Simple("RESET".to_owned())
        })),
        _ => Err(Wrong::Count),
    },
};

pub(super) static QUIT: Definition = Definition {
    name: "QUIT",
    syntax: "QUIT",
    summary: "Close the connection",
    help: "Earlier requests are answered first.",
    since: "0.1.0",
    role: Role::Anyone,
    parse,
};

fn parse(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    if !arguments.is_empty() {
        return Err(Wrong::Count);
    }
    Ok(Handler::now(|session, _| {
        session.closing = true;
        Reply::ok()
    }))
}

#[cfg(test)]
mod tests {
    use crate::admin::definition::tests::check;

    #[test]
    fn quit() {
        check("QUIT", "+OK\r\n");
        check("QUIT now", "-ERR wrong number of arguments for 'quit' command. Syntax: QUIT\r\n");
    }
}
