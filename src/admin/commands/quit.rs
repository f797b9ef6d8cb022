use crate::admin::definition::{Definition, Handler, Role, Wrong};
use crate::admin::reply::Reply;

pub(super) static QUIT: Definition = Definition {
    name: "QUIT",
    syntax: "QUIT",
    summary: "Close the connection",
    help: "Earlier requests are answered first.",
    since: "0.1.0",
    role: Role::Viewer,
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
