//! AUTH, on the admin port and, as PROXY AUTH, on clients' ports.

use crate::admin::definition::{Definition, Handler, Role, Wrong};
use crate::admin::reply::Reply;

pub(super) static AUTH: Definition = Definition {
    name: "AUTH",
    syntax: "AUTH [username] password",
    summary: "Say who you are",
    help: "The users are those of admin.users; without a username it is the default user, whose password is admin.password. Wrong \
           passwords are limited by auth.failures. A refused AUTH changes nothing.",
    since: "0.1.0",
    role: Role::Anyone,
    parse,
};

pub(super) static PROXY_AUTH: Definition = Definition {
    name: "PROXY AUTH",
    syntax: "PROXY AUTH [username] password",
    summary: "Say who you are, on a port of clients",
    help: "On a clients' port (admin.on_client_ports) it is the only PROXY command that anyone may give, whatever user of the cluster a \
           client is; it holds until RESET or the end of the connection. On the admin port it is AUTH.",
    since: "0.1.0",
    role: Role::Anyone,
    parse,
};

pub(super) static WHOAMI: Definition = Definition {
    name: "PROXY WHOAMI",
    syntax: "PROXY WHOAMI [JSON]",
    summary: "Show who you are and what you may do",
    help: "The user of admin.users and its role.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| match arguments {
        [] => Ok(Handler::now(|session, _| {
            let standing = session.standing.as_ref();
            let name = standing.map(|standing| String::from_utf8_lossy(&standing.name).into_owned()).unwrap_or_default();
            let role = standing.map_or(Role::Anyone, |standing| standing.role);
            Reply::Table(vec![("user".to_owned(), name), ("role".to_owned(), role.to_string())])
        })),
        _ => Err(Wrong::Count),
    },
};

fn parse(arguments: &[&[u8]]) -> Result<Handler, Wrong> {
    let (name, password) = match arguments {
        [password] => (None, password.to_vec()),
        [name, password] => (Some(name.to_vec()), password.to_vec()),
        _ => return Err(Wrong::Count),
    };
    Ok(Handler::now(move |session, state| {
        match state.operators.enter(name.as_deref(), &password, &session.peer, (state.cluster.now_us)()) {
            Ok(standing) => {
                session.standing = Some(standing);
                Reply::ok()
            }
            Err(refusal) => Reply::Error(refusal),
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sha2::{Digest, Sha256};

    use crate::access::{Role, Secret, Throttle};
    use crate::admin::definition::tests::{Talk, check, state};
    use crate::admin::{AdminState, Operators};

    /// `ann` is an operator, `bob` a viewer, the default user has a password.
    fn guarded() -> AdminState {
        let sha = |password: &str| Secret::Sha256(Sha256::digest(password).into());
        let users = [("default", Role::Operator, "root"), ("ann", Role::Operator, "one"), ("bob", Role::Viewer, "two")];
        let users = users.map(|(name, role, password)| (name.to_owned(), role, sha(password)));
        AdminState { operators: Arc::new(Operators::new(users, Throttle::new(3, 1_000_000))), ..state() }
    }

    const NO_AUTH: &str = "-NOAUTH Authentication required.\r\n";
    const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

    #[test]
    fn a_stranger_may_say_who_he_is_and_nothing_else() {
        let mut talk = Talk::new(guarded());
        for line in
            ["PING", "PROXY HELP", "NOSUCH", "PROXY NOSUCH", "COMMAND DOCS", "SUBSCRIBE keyway:topology", "AUTHOR", "PROXY"]
        {
            assert_eq!(talk.say(line), NO_AUTH, "{line}");
        }
        let hello = "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
                     option can be used to authenticate the client and select the RESP protocol version at the same time\r\n";
        assert_eq!(talk.say("HELLO 3"), hello);
        assert_eq!(talk.say("AUTH bob one"), WRONG);
        assert_eq!(talk.say("HELLO 3 AUTH bob one"), WRONG);
        assert_eq!(talk.say("AUTH"), "-ERR wrong number of arguments for 'auth' command. Syntax: AUTH [username] password\r\n");
        assert_eq!(talk.say("AUTH root"), "+OK\r\n");
        assert_eq!(talk.say("PROXY WHOAMI"), "*2\r\n+user  default\r\n+role  operator\r\n");
        assert_eq!(talk.say("RESET"), "+RESET\r\n");
        assert_eq!(talk.say("PING"), NO_AUTH);
        assert_eq!(talk.say("QUIT"), "+OK\r\n");
    }

    #[test]
    fn a_viewer_looks_and_an_operator_acts() {
        let mut talk = Talk::new(guarded());
        assert_eq!(talk.say("PROXY AUTH bob two"), "+OK\r\n");
        assert_eq!(talk.say("PING"), "+PONG\r\n");
        assert_eq!(talk.say("PROXY REFRESH"), "-NOPERM User bob has no permissions to run the 'proxy|refresh' command\r\n");
        assert_eq!(talk.say("AUTH ann two"), WRONG);
        assert_eq!(
            talk.say("PROXY WHOAMI JSON"),
            "$30\r\n{\"user\":\"bob\",\"role\":\"viewer\"}\r\n",
            "a refused AUTH changes nothing"
        );
        assert!(talk.say("HELLO 3 AUTH ann one").starts_with("%7\r\n"));
        assert_eq!(talk.say("PROXY WHOAMI"), "%2\r\n$4\r\nuser\r\n$3\r\nann\r\n$4\r\nrole\r\n$8\r\noperator\r\n");
    }

    #[test]
    fn guessing_is_slowed_down() {
        let mut talk = Talk::new(guarded());
        for _ in 0..3 {
            assert_eq!(talk.say("AUTH guess"), WRONG);
        }
        let refused = talk.say("AUTH root");
        assert!(refused.starts_with("-ERR proxy: too many wrong passwords from this address (auth.failures)"), "{refused}");
        assert!(talk.say("HELLO 2 AUTH ann one").starts_with("-ERR proxy: too many"));
    }

    #[test]
    fn without_users_everybody_is_an_operator() {
        let open = "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n";
        check("AUTH secret", open);
        check("AUTH default secret", "+OK\r\n");
        check("AUTH ann secret", WRONG);
        check("PROXY WHOAMI", "*2\r\n+user  default\r\n+role  operator\r\n");
    }
}
