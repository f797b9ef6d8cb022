//! A user of the proxy's own, as configured.

use std::fmt;

/// What `auth.users` holds: a name, and what lets it in.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountRule {
    pub name: String,
    /// The SHA-256 of a password; `None` lets in whoever gives the name.
    pub password_sha256: Option<[u8; 32]>,
}

/// The longest name: a limit of ours, for the sake of logs.
const NAME_LEN_MAX: usize = 256;

impl AccountRule {
    /// Reads `name:nopass` or `name:` and 64 hexadecimal digits. The error ends the sentence "found ..., which ...".
    pub fn parse(text: &str) -> Result<AccountRule, &'static str> {
        let (name, password) = text.rsplit_once(':').ok_or("which is no name, colon and SHA-256 of a password")?;
        if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(char::is_whitespace) {
            return Err("whose name is empty, too long or has a blank");
        }
        let password_sha256 = match password {
            "nopass" => None,
            digits => Some(sha256_of(digits).ok_or("whose password is no SHA-256 in 64 hexadecimal digits, and not nopass")?),
        };
        Ok(AccountRule { name: name.to_owned(), password_sha256 })
    }
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
        match &self.password_sha256 {
            None => out.write_str("nopass"),
            Some(hash) => hash.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
        }
    }
}

impl fmt::Debug for AccountRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AccountRule({}:{})", self.name, if self.password_sha256.is_some() { "***" } else { "nopass" })
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
        assert_eq!(AccountRule::parse("default:nopass").map(|account| account.password_sha256), Ok(None));
        assert_eq!(AccountRule::parse(&format!("a:b:{}", hash.to_uppercase())).map(|account| account.name), Ok("a:b".to_owned()));
        for wrong in ["", "app", ":nopass", "app:", "app:secret", "a b:nopass", &format!("app:{}g", &hash[1..])] {
            assert!(AccountRule::parse(wrong).is_err(), "{wrong}");
        }
    }
}
