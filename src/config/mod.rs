//! Configuration: as written (a TOML file, environment variables, `--set`) → as resolved ([`Config`]).
//!
//! Every mistake in any of the three is reported at once ([`Mistakes`]), each with its line or its source,
//! what was expected and what was found. One table ([`KEYS`]) defines every key; a test keeps `config.toml`
//! equal to it. Nothing here reads the clock, opens a socket or logs; [`Inputs::gather`] alone touches the
//! file system and the environment.

mod account;
mod address;
mod check;
mod file;
mod inputs;
mod keys;
mod kind;
mod mistake;
mod reference;
mod resolved;
mod secret;
mod units;
mod written;

use std::collections::{BTreeMap, BTreeSet};

pub use account::{AccountRule, Entrance, OperatorRule, UnixUserRule};
pub use address::{AddressRule, HostPort, ListenAddr};
pub use inputs::{FileText, Inputs};
pub use keys::{KEYS, Key, Reload};
pub use kind::{Field, Kind};
pub use mistake::{Mistake, Mistakes};
pub use reference::reference;
pub use resolved::{
    Admin, Auth, AuthClients, AuthMode, CertificateUser, Cluster, ClusterTls, Commands, Config, CrossSlot, CrossSlotBlocking,
    CrossSlotTransactions, Limits, Log, LogFormat, LogLevel, Migrate, Proxy, Retry, ServerTls, Timeouts, TlsVerify, TlsVersion,
};
pub use secret::Secret;
pub use units::{parse_duration, parse_size, show_duration, show_size};
pub use written::Source;

/// A configuration without mistakes, and where each value comes from.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub config: Config,
    /// By the key's name; a key that is not here has its default.
    pub origins: BTreeMap<&'static str, Source>,
}

impl Resolved {
    /// The whole configuration as TOML, each line with where it comes from, secrets hidden.
    pub fn show(&self) -> String {
        reference::show(&self.config, &self.origins)
    }

    /// A mistake that shows only where a key's value is used.
    pub fn mistake(&self, key: &'static str, problem: String) -> Mistake {
        let source = self.origins.get(key).cloned().unwrap_or(Source::Default);
        Mistake { source, key: Some(key.to_owned()), problem }
    }
}

/// Resolves what is written, or reports everything that is wrong with it.
pub fn resolve(inputs: &Inputs) -> Result<Resolved, Mistakes> {
    let (written, mut mistakes) = inputs.written();
    let mut config = Config::default();
    let mut origins = BTreeMap::new();
    let mut wrong_keys = BTreeSet::new();
    for written in written {
        match written.key.set(&mut config, &written.value, &written.source) {
            Ok(()) => {
                origins.insert(written.key.name, written.source);
            }
            Err(more) => {
                wrong_keys.insert(written.key.name);
                mistakes.extend(more);
            }
        }
    }
    let contradictions = check::contradictions(&config).into_iter();
    // A wrong value was not taken over, so nothing can be said about combinations with it.
    let sure = contradictions.filter(|found| !found.keys.iter().any(|key| wrong_keys.contains(key)));
    mistakes.extend(sure.map(|found| blame(found, &origins)));
    mistakes.sort_by_key(|mistake| mistake.source.rank());
    if mistakes.is_empty() { Ok(Resolved { config, origins }) } else { Err(Mistakes(mistakes)) }
}

/// Points at the first of the keys that somebody wrote.
fn blame(found: check::Contradiction, origins: &BTreeMap<&'static str, Source>) -> Mistake {
    let written = found.keys.iter().find_map(|key| Some((*key, origins.get(key)?.clone())));
    let (key, source) = written.unwrap_or((found.keys[0], Source::Default));
    Mistake { source, key: Some(key.to_owned()), problem: found.problem }
}

#[cfg(test)]
mod tests;
