//! Users of the proxy's own, as configured: clients and operators.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::access::Role;

/// What `auth.users` holds: a name, and what lets it in.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountRule {
    pub name: String,
    pub entrance: Entrance,
}

/// What lets a user of `auth.users` in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// The name alone.
    NoPass,
    /// A password with this SHA-256.
    Password([u8; 32]),
    /// What the connection itself shows (a certificate, a user of this machine), and nothing that could be said.
    NoLogin,
}

/// What `admin.users` holds: a name, what it may do, and what lets it in.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorRule {
    pub name: String,
    pub role: Role,
    /// The SHA-256 of a password; `None` lets in whoever gives the name, and only to look.
    pub password_sha256: Option<[u8; 32]>,
}

/// What `auth.unix_users` holds: a user of this machine, by name or number, and the user of `auth.users` that its processes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixUserRule {
    pub owner: String,
    pub user: String,
}

impl UnixUserRule {
    /// Reads `owner=user`. The error ends the sentence "found ..., which ...".
    pub fn parse(text: &str) -> Result<UnixUserRule, &'static str> {
        let (owner, user) = text.split_once('=').ok_or("which has no `=`")?;
        match [owner.trim(), user.trim()] {
            ["", _] | [_, ""] => Err("which names nobody on one side"),
            [owner, user] => Ok(UnixUserRule { owner: owner.to_owned(), user: user.to_owned() }),
        }
    }
}

impl fmt::Display for UnixUserRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={}", self.owner, self.user)
    }
}

/// The longest name: a limit of ours, for the sake of logs.
const NAME_LEN_MAX: usize = 256;

impl AccountRule {
    /// Reads `name:nopass`, `name:nologin` or `name:` and 64 hexadecimal digits. The error ends the sentence "found ..., which ...".
    pub fn parse(text: &str) -> Result<AccountRule, &'static str> {
        let (name, password) = text.rsplit_once(':').ok_or("which is no name, colon and SHA-256 of a password")?;
        check_name(name)?;
        let entrance = match password {
            "nopass" => Entrance::NoPass,
            "nologin" => Entrance::NoLogin,
            digits => {
                let hash = sha256_of(digits);
                Entrance::Password(
                    hash.ok_or("whose password is no SHA-256 in 64 hexadecimal digits, and not nopass or nologin")?,
                )
            }
        };
        Ok(AccountRule { name: name.to_owned(), entrance })
    }
}

impl OperatorRule {
    /// Reads `name:role:` and 64 hexadecimal digits, `>` and a password, or `nopass`. The error ends the sentence "found ..., which ...".
    pub fn parse(text: &str) -> Result<OperatorRule, &'static str> {
        let mut parts = text.splitn(3, ':');
        let (Some(name), Some(role), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("which is no name, role and password with colons between");
        };
        check_name(name)?;
        let role = match role {
            "viewer" => Role::Viewer,
            "operator" => Role::Operator,
            _ => return Err("whose role is neither viewer nor operator"),
        };
        let password_sha256 = match secret.strip_prefix('>') {
            Some("") => return Err("whose password is empty"),
            // From here on only its hash is known: nothing can show what was written.
            Some(password) => Some(Sha256::digest(password).into()),
            None if secret == "nopass" && role == Role::Viewer => None,
            None if secret == "nopass" => return Err("who may change everything and has no password"),
            None => {
                let hash = sha256_of(secret);
                Some(hash.ok_or("whose password is no SHA-256 in 64 hexadecimal digits, no > and a text, and not nopass")?)
            }
        };
        Ok(OperatorRule { name: name.to_owned(), role, password_sha256 })
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(char::is_whitespace) {
        return Err("whose name is empty, too long or has a blank");
    }
    Ok(())
}

fn sha256_of(digits: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(hash)
}

impl fmt::Display for AccountRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.name)?;
        match &self.entrance {
            Entrance::NoPass => write_secret(out, None),
            Entrance::Password(hash) => write_secret(out, Some(hash)),
            Entrance::NoLogin => out.write_str("nologin"),
        }
    }
}

impl fmt::Display for OperatorRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:", self.name, self.role)?;
        write_secret(out, self.password_sha256.as_ref())
    }
}

fn write_secret(out: &mut fmt::Formatter<'_>, password_sha256: Option<&[u8; 32]>) -> fmt::Result {
    match password_sha256 {
        None => out.write_str("nopass"),
        Some(hash) => hash.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
    }
}

impl fmt::Debug for OperatorRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = if self.password_sha256.is_some() { "***" } else { "nopass" };
        write!(out, "OperatorRule({}:{}:{secret})", self.name, self.role)
    }
}

impl fmt::Debug for AccountRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = match self.entrance {
            Entrance::NoPass => "nopass",
            Entrance::Password(_) => "***",
            Entrance::NoLogin => "nologin",
        };
        write!(out, "AccountRule({}:{secret})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_hash_or_none() {
        let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let account = AccountRule::parse(&format!("app:{hash}")).expect("a name and a hash");
        assert_eq!((account.name.as_str(), account.to_string()), ("app", format!("app:{hash}")));
        assert!(!format!("{account:?}").contains("9f86"));
        assert!(AccountRule::parse("default:nopass").is_ok_and(|account| account.entrance == Entrance::NoPass));
        let shown = AccountRule::parse("spiffe://a/b:nologin").expect("a name and what lets in");
        assert_eq!((shown.name.as_str(), shown.to_string()), ("spiffe://a/b", "spiffe://a/b:nologin".to_owned()));
        assert_eq!(AccountRule::parse(&format!("a:b:{}", hash.to_uppercase())).map(|account| account.name), Ok("a:b".to_owned()));
        for wrong in ["", "app", ":nopass", "app:", "app:secret", "a b:nopass", &format!("app:{}g", &hash[1..])] {
            assert!(AccountRule::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_operator_has_a_role_and_a_password() {
        let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let shown = |text: &str| OperatorRule::parse(text).map(|rule| rule.to_string());
        assert_eq!(shown(&format!("ann:operator:{hash}")), Ok(format!("ann:operator:{hash}")));
        assert_eq!(shown("ann:viewer:>test"), Ok(format!("ann:viewer:{hash}")), "the hash stands for the password");
        assert_eq!(shown("default:viewer:nopass"), Ok("default:viewer:nopass".to_owned()));
        assert!(OperatorRule::parse("a:viewer:>p:q").is_ok(), "a password may hold colons");
        assert!(!format!("{:?}", OperatorRule::parse("a:viewer:>test")).contains("9f86"));
        for wrong in [
            "",
            "ann",
            "ann:operator",
            "ann:admin:>x",
            ":viewer:>x",
            "ann:operator:nopass",
            "ann:viewer:",
            "ann:viewer:>",
            "ann:viewer:x",
        ] {
            assert!(OperatorRule::parse(wrong).is_err(), "{wrong}");
        }
    }
}
