//! Whom lanes are authenticated as.

use super::{ids::UserId, settings::Auth};

/// The users of the cluster that clients of this worker ride lanes of. The first is the one that every client begins as.
pub(super) struct Users(Vec<Option<Auth>>);

impl Users {
    pub fn new(first: Option<Auth>) -> Self {
        Users(vec![first])
    }

    /// What a lane of this user's says first, if anything.
    pub fn auth(&self, user: UserId) -> Option<&Auth> {
        self.0[usize::from(user.0)].as_ref()
    }
}
