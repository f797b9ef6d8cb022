//! Users of the proxy's own: clients, where the cluster knows the proxy's account only, and operators.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What lets somebody in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// Any password does, and the default user needs none.
    NoPass,
    /// The SHA-256 of a password.
    Sha256([u8; 32]),
    /// Nothing that could be said: whose connection shows it is let in without a word.
    NoLogin,
}

impl Secret {
    /// Of a password as it was written.
    pub fn of(password: &[u8]) -> Secret {
        Secret::Sha256(Sha256::digest(password).into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Secret::NoPass => "nopass",
            Secret::Sha256(_) => "***",
            Secret::NoLogin => "nologin",
        })
    }
}

/// Names and what lets them in; a name may stand there more than once, with a password each. Without any, everybody is let in.
#[derive(Debug, Default)]
pub struct Accounts(Vec<(Arc<[u8]>, Secret)>);

/// What comes of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrance {
    As(Arc<[u8]>),
    /// AUTH with one argument, where the default user needs none.
    NoPasswordSet,
    Wrong,
}

impl Accounts {
    pub fn new(accounts: impl IntoIterator<Item = (String, Secret)>) -> Self {
        Accounts(accounts.into_iter().map(|(name, secret)| (name.as_bytes().into(), secret)).collect())
    }

    /// Whether clients come in without a word.
    pub fn default_is_open(&self) -> bool {
        self.0.is_empty() || self.0.iter().any(|(name, secret)| **name == *b"default" && *secret == Secret::NoPass)
    }

    /// The first of these names, which a client's connection shows, that is a user's.
    pub fn shown(&self, names: &[String]) -> Option<Arc<[u8]>> {
        let known = |name: &String| self.0.iter().find(|(user, _)| **user == *name.as_bytes());
        names.iter().find_map(known).map(|(user, _)| user.clone())
    }

    /// A login; without a name it is the default user's.
    pub fn enter(&self, name: Option<&[u8]>, password: &[u8]) -> Entrance {
        let wanted = name.unwrap_or(b"default");
        if wanted == b"default" && self.default_is_open() {
            return if name.is_none() { Entrance::NoPasswordSet } else { Entrance::As(wanted.into()) };
        }
        let digest: [u8; 32] = Sha256::digest(password).into();
        // All of them are compared, so that the time tells nothing of which it was.
        let right = self.0.iter().fold(Choice::from(0), |right, (name, secret)| match secret {
            Secret::NoPass => right | Choice::from(u8::from(**name == *wanted)),
            Secret::Sha256(known) => right | (known.ct_eq(&digest) & Choice::from(u8::from(**name == *wanted))),
            Secret::NoLogin => right,
        });
        if right.into() { Entrance::As(wanted.into()) } else { Entrance::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(password: &str) -> Secret {
        Secret::Sha256(Sha256::digest(password.as_bytes()).into())
    }

    #[track_caller]
    fn check(accounts: &[(&str, Secret)], name: Option<&str>, password: &str, expected: Entrance) {
        let accounts = Accounts::new(accounts.iter().map(|(name, secret)| ((*name).to_owned(), *secret)));
        assert_eq!(accounts.enter(name.map(str::as_bytes), password.as_bytes()), expected, "{name:?}");
    }

    fn enters(name: &str) -> Entrance {
        Entrance::As(name.as_bytes().into())
    }

    #[test]
    fn without_accounts_everybody_is_the_default_user() {
        check(&[], None, "x", Entrance::NoPasswordSet);
        check(&[], Some("default"), "x", enters("default"));
        check(&[], Some("app"), "x", Entrance::Wrong);
        assert!(Accounts::default().default_is_open());
    }

    #[test]
    fn a_name_and_one_of_its_passwords() {
        let accounts = [("app", sha("one")), ("app", sha("two")), ("other", sha("three")), ("guest", Secret::NoPass)];
        for (name, password) in [("app", "one"), ("app", "two"), ("other", "three"), ("guest", ""), ("guest", "x")] {
            check(&accounts, Some(name), password, enters(name));
        }
        for (name, password) in [("app", "three"), ("app", ""), ("other", "one"), ("APP", "one"), ("default", "one"), ("", "one")]
        {
            check(&accounts, Some(name), password, Entrance::Wrong);
        }
        check(&accounts, None, "one", Entrance::Wrong);
    }

    #[test]
    fn a_connection_says_it_without_words() {
        let users = [("app", Secret::NoLogin), ("other", sha("one"))];
        check(&users, Some("app"), "", Entrance::Wrong);
        check(&users, Some("app"), "nologin", Entrance::Wrong);
        let accounts = Accounts::new(users.map(|(name, secret)| (name.to_owned(), secret)));
        let shown = |names: &[&str]| accounts.shown(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(shown(&["nobody", "other", "app"]).as_deref(), Some(&b"other"[..]));
        assert_eq!(shown(&["app"]).as_deref(), Some(&b"app"[..]));
        assert_eq!(shown(&["APP", ""]), None);
        assert!(!accounts.default_is_open());
    }

    #[test]
    fn the_default_user_may_have_a_password() {
        let locked = [("default", sha("one"))];
        check(&locked, None, "one", enters("default"));
        check(&locked, None, "two", Entrance::Wrong);
        let open = [("default", Secret::NoPass), ("app", sha("one"))];
        check(&open, None, "one", Entrance::NoPasswordSet);
        check(&open, Some("default"), "any", enters("default"));
        let is_open = |accounts: &[(&str, Secret)]| {
            Accounts::new(accounts.iter().map(|(name, secret)| ((*name).to_owned(), *secret))).default_is_open()
        };
        assert!(is_open(&open) && !is_open(&locked) && !is_open(&[("app", Secret::NoPass)]));
    }
}
