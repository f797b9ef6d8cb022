//! PURE. Who may come in: the accounts of clients (`auth.users`) and of operators (`admin.users`), and what wrong passwords cost.

mod accounts;
mod throttle;

use std::fmt;
use std::sync::Arc;

pub use accounts::{Accounts, Entrance, Secret};
pub use throttle::{Micros, Throttle};

/// What somebody may do in the PROXY namespace; who may do more may do less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Who has not said who he is.
    Anyone,
    /// Who looks and changes nothing.
    Viewer,
    /// Who changes what the proxy or the cluster does.
    Operator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anyone => "anyone",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        })
    }
}

/// Whom a connection has shown to be in the PROXY namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub name: Arc<[u8]>,
    pub role: Role,
}
