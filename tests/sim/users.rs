//! Users of the fake cluster, what they must say and what they may do (semantics, section 4).

use keyway::resp::{Proto, encode};

use crate::{
    cluster::Cluster,
    node::{Caller, Outcome},
};

/// Every node knows these. The default user is three: whoever says another password rides other lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum User {
    /// Who has said nothing.
    Default,
    /// Who has said the default user's password.
    Named,
    /// Who has said another one, where any will do.
    Guessed,
    Alice,
    /// May neither INCR nor DEL.
    Bob,
}

impl User {
    pub const ALL: [User; 5] = [User::Default, User::Named, User::Guessed, User::Alice, User::Bob];

    pub fn name(self) -> &'static str {
        match self {
            User::Default | User::Named | User::Guessed => "default",
            User::Alice => "alice",
            User::Bob => "bob",
        }
    }

    /// The default user needs it only where the cluster is locked.
    pub fn password(self) -> &'static str {
        match self {
            User::Default | User::Named => "secret",
            User::Guessed => "wrong",
            User::Alice => "of alice",
            User::Bob => "of bob",
        }
    }

    pub fn may(self, name: &[u8]) -> bool {
        self != User::Bob || !matches!(name.to_ascii_uppercase().as_slice(), b"INCR" | b"DEL")
    }
}

pub const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";

/// Whose a connection is before it has said anything.
pub fn unnamed(cluster: &Cluster) -> Option<User> {
    (!cluster.locked).then_some(User::Default)
}

/// Why a user may not have a command carried out.
pub fn refusal(cluster: &Cluster, user: Option<User>, name: &[u8], args: &[Vec<u8>]) -> Option<String> {
    match user {
        None if matches!(name, b"AUTH" | b"HELLO" | b"RESET" | b"QUIT") => None,
        None => Some("NOAUTH Authentication required.".into()),
        Some(user) if user.may(name) => None,
        Some(user) => {
            let command = String::from_utf8_lossy(&args[0]).to_ascii_lowercase();
            Some(match cluster.persona.version.starts_with('7') {
                true => format!("NOPERM this user has no permissions to run the '{command}' command"),
                false => format!("NOPERM User {} has no permissions to run the '{command}' command", user.name()),
            })
        }
    }
}

/// Checks a name and a password. Without a password the default user takes any.
fn check(cluster: &Cluster, name: &[u8], password: &[u8]) -> Option<User> {
    let said = |user: &User| user.name().as_bytes() == name && user.password().as_bytes() == password;
    [User::Named, User::Guessed, User::Alice, User::Bob]
        .into_iter()
        .find(said)
        .filter(|user| *user != User::Guessed || !cluster.locked)
}

pub fn auth(cluster: &Cluster, caller: &mut Caller, args: &[Vec<u8>], out: &mut Vec<u8>) -> Outcome {
    let found = match args {
        [_, password] if cluster.locked => check(cluster, b"default", password),
        [_, _] => {
            encode::error(out, NO_PASSWORD);
            return Outcome::Served;
        }
        [_, name, password] => check(cluster, name, password),
        _ => None,
    };
    match found {
        Some(user) => {
            caller.user = Some(user);
            encode::simple(out, "OK");
        }
        None => encode::error(out, WRONG_PASSWORD),
    }
    Outcome::Served
}

/// HELLO [version [AUTH name password]].
pub fn hello(cluster: &Cluster, caller: &mut Caller, args: &[Vec<u8>], out: &mut Vec<u8>) -> Outcome {
    if let [_, _, option, name, password, ..] = args
        && option.eq_ignore_ascii_case(b"AUTH")
    {
        match check(cluster, name, password) {
            Some(user) => caller.user = Some(user),
            None => {
                encode::error(out, WRONG_PASSWORD);
                return Outcome::Served;
            }
        }
    }
    if caller.user.is_none() {
        encode::error(
            out,
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        );
        return Outcome::Served;
    }
    match args.get(1).map(Vec::as_slice) {
        Some(b"3") => caller.proto = Proto::Resp3,
        Some(b"2") => caller.proto = Proto::Resp2,
        _ => {}
    }
    encode::map(out, caller.proto, 1);
    encode::bulk(out, "proto");
    encode::integer(out, if caller.proto == Proto::Resp3 { 3 } else { 2 });
    Outcome::Served
}
