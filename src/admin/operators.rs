//! Who the operators are, and how one shows it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::access::{Accounts, Entrance, Micros, Role, Secret, Standing, Throttle};

pub(super) const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
pub(super) const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";

/// The users of the admin port. Without any, whoever reaches it is an operator.
#[derive(Debug)]
pub struct Operators {
    accounts: Accounts,
    roles: HashMap<Vec<u8>, Role>,
    throttle: Throttle,
}

impl Operators {
    /// A name may stand there several times, with a password each; its role is the last one.
    pub fn new(users: impl IntoIterator<Item = (String, Role, Secret)>, throttle: Throttle) -> Operators {
        let users: Vec<(String, Role, Secret)> = users.into_iter().collect();
        let roles = users.iter().map(|(name, role, _)| (name.clone().into_bytes(), *role)).collect();
        let accounts = Accounts::new(users.into_iter().map(|(name, _, secret)| (name, secret)));
        Operators { accounts, roles, throttle }
    }

    /// Who somebody is that has said nothing yet.
    pub(super) fn first(&self) -> Option<Standing> {
        self.accounts.default_is_open().then(|| self.standing(b"default".as_slice().into()))
    }

    /// AUTH. The error is the reply, in the servers' words.
    pub(super) fn enter(&self, name: Option<&[u8]>, password: &[u8], peer: &str, now: Micros) -> Result<Standing, String> {
        self.throttle.check(peer, now).map_err(|wait_us| {
            let seconds = wait_us.div_ceil(1_000_000);
            format!("ERR proxy: too many wrong passwords from this address (auth.failures): try again in {seconds} s")
        })?;
        match self.accounts.enter(name, password) {
            Entrance::As(name) => Ok(self.standing(name)),
            Entrance::NoPasswordSet => Err(NO_PASSWORD_SET.to_owned()),
            Entrance::Wrong => {
                self.throttle.failed(peer, now);
                Err(WRONG_PASSWORD.to_owned())
            }
        }
    }

    fn standing(&self, name: Arc<[u8]>) -> Standing {
        // Who is let in without being named is let in because nobody is.
        let role = self.roles.get(&*name).copied().unwrap_or(Role::Operator);
        Standing { name, role }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn sha(password: &str) -> Secret {
        Secret::Sha256(Sha256::digest(password).into())
    }

    fn operators(users: &[(&str, Role, Secret)]) -> Operators {
        let users = users.iter().map(|(name, role, secret)| ((*name).to_owned(), *role, *secret));
        Operators::new(users, Throttle::new(2, 1000))
    }

    fn role(standing: Option<Standing>) -> Option<(String, Role)> {
        standing.map(|standing| (String::from_utf8_lossy(&standing.name).into_owned(), standing.role))
    }

    #[test]
    fn who_somebody_is_before_saying_anything() {
        assert_eq!(role(operators(&[]).first()), Some(("default".to_owned(), Role::Operator)));
        assert_eq!(role(operators(&[("default", Role::Operator, sha("x"))]).first()), None);
        assert_eq!(role(operators(&[("ann", Role::Viewer, sha("x"))]).first()), None);
        let open = operators(&[("default", Role::Viewer, Secret::NoPass), ("ann", Role::Operator, sha("x"))]);
        assert_eq!(role(open.first()), Some(("default".to_owned(), Role::Viewer)));
    }

    #[test]
    fn a_name_brings_its_role_and_mistakes_are_limited() {
        let operators = operators(&[("ann", Role::Operator, sha("one")), ("bob", Role::Viewer, sha("two"))]);
        let enter = |name: Option<&str>, password: &str, now| {
            operators.enter(name.map(str::as_bytes), password.as_bytes(), "10.0.0.1:5", now).map(|standing| standing.role)
        };
        assert_eq!(enter(Some("ann"), "one", 0), Ok(Role::Operator));
        assert_eq!(enter(Some("bob"), "two", 0), Ok(Role::Viewer));
        assert_eq!(enter(Some("bob"), "one", 0), Err(WRONG_PASSWORD.to_owned()));
        assert_eq!(enter(None, "one", 0), Err(WRONG_PASSWORD.to_owned()));
        let refused = enter(Some("ann"), "one", 1).expect_err("two mistakes are the limit, also before a right password");
        assert!(refused.contains("auth.failures") && refused.contains("in 1 s"), "{refused}");
        assert!(operators.enter(Some(b"ann"), b"one", "10.0.0.2:5", 1).is_ok(), "another address");
        assert_eq!(enter(Some("ann"), "one", 1000), Ok(Role::Operator));
    }

    #[test]
    fn without_users_there_is_no_password() {
        let open = operators(&[]);
        assert_eq!(open.enter(None, b"x", "", 0).expect_err("nothing to check it with"), NO_PASSWORD_SET);
    }
}
