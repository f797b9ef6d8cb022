//! The configuration as written: values with the place where each stands, not yet looked at.

use std::fmt;
use std::sync::Arc;

use super::keys::Key;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    /// `line` counts from 1; 0 is the file as a whole.
    File {
        name: Arc<str>,
        line: usize,
    },
    /// The whole name of the variable.
    Environment {
        name: String,
    },
    /// What stood before the `=` of a `--set`.
    Set {
        key: String,
    },
}

impl Source {
    /// The order in which mistakes are reported: the file from top to bottom, then what overrules it.
    pub(super) fn rank(&self) -> (u8, usize) {
        match self {
            Self::File { line, .. } => (0, *line),
            Self::Environment { .. } => (1, 0),
            Self::Set { .. } => (2, 0),
            Self::Default => (3, 0),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line: 0 } => f.write_str(name),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment { name } => f.write_str(name),
            Self::Set { key } => write!(f, "--set {key}"),
        }
    }
}

/// A value as its source could tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// From `--set`, the environment or a default: text that may mean a number or, comma-separated, a list.
    Untyped(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer, in decimal.
    Number(String),
    /// A TOML array.
    List(Vec<Item>),
    /// Any other TOML type, which no key accepts: its name with an article.
    Other(&'static str),
}

/// One element of a TOML array, with its own line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub value: Value,
    pub source: Source,
}

/// One key as written once.
pub(super) struct Written {
    pub key: &'static Key,
    pub value: Value,
    pub source: Source,
}
