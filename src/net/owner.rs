//! Users and groups of this machine, by name or number.

use nix::unistd::{Group, User};

/// Whom a unix socket is given to; `None`: as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub user: Option<u32>,
    pub group: Option<u32>,
}

impl Owner {
    /// Reads `user`, `user:group` or `:group`. The error ends the sentence "found ...".
    pub fn resolve(text: &str) -> Result<Owner, String> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        Ok(Owner {
            user: Some(user).filter(|user| !user.is_empty()).map(user_id).transpose()?,
            group: Some(group).filter(|group| !group.is_empty()).map(group_id).transpose()?,
        })
    }
}

/// A user's number. The error ends the sentence "found ...".
pub fn user_id(name: &str) -> Result<u32, String> {
    match name.parse() {
        Ok(id) => Ok(id),
        Err(_) => match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) => Err(format!("{name:?}, which is no user of this machine")),
            Err(error) => Err(format!("{name:?}, of whom nobody can be asked: {error}")),
        },
    }
}

fn group_id(name: &str) -> Result<u32, String> {
    match name.parse() {
        Ok(id) => Ok(id),
        Err(_) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) => Err(format!("{name:?}, which is no group of this machine")),
            Err(error) => Err(format!("{name:?}, of which nobody can be asked: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let check = |text: &str, user: Option<u32>, group: Option<u32>| {
            assert_eq!(Owner::resolve(text), Ok(Owner { user, group }), "{text}");
        };
        check("root", Some(0), None);
        check("root:root", Some(0), Some(0));
        check(":7", None, Some(7));
        check("1000:", Some(1000), None);
        for wrong in ["nobody-of-that-name", "root:no-such-group"] {
            assert!(Owner::resolve(wrong).is_err_and(|error| error.contains("of this machine")), "{wrong}");
        }
    }
}
