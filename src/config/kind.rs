//! What a key accepts: reading a written value into its field, showing it, and saying what was expected.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::account::{AccountRule, OperatorRule, UnixUserRule};
use super::address::{AddressRule, HostPort, ListenAddr};
use super::resolved::Config;
use super::secret::{HIDDEN, Secret};
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::written::{Item, Source, Value};

/// The type and bounds of a key, with the field of [`Config`] that it fills.
pub enum Kind {
    /// Addresses to listen on.
    Listen {
        field: Field<Vec<ListenAddr>>,
    },
    /// Nodes to connect to.
    Hosts {
        field: Field<Vec<HostPort>>,
    },
    AddressMap {
        field: Field<Vec<AddressRule>>,
    },
    /// Addresses by their prefix.
    Networks {
        field: Field<Vec<IpNet>>,
    },
    /// Users of the proxy's own.
    Accounts {
        field: Field<Vec<AccountRule>>,
    },
    /// Users of the admin port.
    Operators {
        field: Field<Vec<OperatorRule>>,
    },
    /// Users of this machine, and who they are here.
    UnixUsers {
        field: Field<Vec<UnixUserRule>>,
    },
    /// The mode of a file; `None` is written as the empty text.
    Mode {
        field: Field<Option<u32>>,
    },
    /// Names of commands and of their categories.
    Commands {
        field: Field<Vec<String>>,
    },
    Count {
        range: RangeInclusive<usize>,
        field: Field<usize>,
    },
    /// Bytes.
    Size {
        range: RangeInclusive<usize>,
        field: Field<usize>,
    },
    Duration {
        range: RangeInclusive<Duration>,
        field: Field<Duration>,
    },
    /// `None` is written `0`.
    DurationOrOff {
        range: RangeInclusive<Duration>,
        field: Field<Option<Duration>>,
    },
    /// `None` is written as the empty text.
    Name {
        field: Field<Option<String>>,
    },
    /// Like `Name`, and never shown.
    Secret {
        field: Field<Option<Secret>>,
    },
    /// One of a few words; fields are set and read by the word's index.
    Choice {
        of: &'static [&'static str],
        set: fn(&mut Config, usize),
        get: fn(&Config) -> usize,
    },
}

/// A path to a field. Mutable, so that one function serves to set and to show.
pub type Field<T> = fn(&mut Config) -> &mut T;

/// What stood where something else was expected.
#[derive(Debug)]
pub(super) struct Found {
    pub source: Source,
    pub found: String,
}

impl Kind {
    /// Ends the sentence "expected ...".
    pub fn expected(&self) -> String {
        match self {
            Self::Listen { .. } => "host:port or unix:PATH, or a list of them".to_owned(),
            Self::Hosts { .. } => "host:port, or a list of them".to_owned(),
            Self::Networks { .. } => "an IP address or ADDRESS/BITS, or a list of them".to_owned(),
            Self::AddressMap { .. } => "host:port=host:port or host=host, or a list of them".to_owned(),
            Self::Accounts { .. } => "name:SHA-256, name:nopass or name:nologin, or a list of them".to_owned(),
            Self::Operators { .. } => {
                "name:role:SHA-256, name:role:>PASSWORD or name:viewer:nopass, or a list of them".to_owned()
            }
            Self::UnixUsers { .. } => "USER=NAME, or a list of them".to_owned(),
            Self::Mode { .. } => "a mode in octal digits, as in 0660".to_owned(),
            Self::Commands { .. } => "a command, command|subcommand or @category, or a list of them".to_owned(),
            Self::Count { range, .. } => format!("a whole number from {} to {}", range.start(), range.end()),
            Self::Size { range, .. } => {
                let [min, max] = [range.start(), range.end()].map(|bytes| show_size(*bytes));
                format!("a size from {min} to {max} (in kb, mb, gb or plain bytes)")
            }
            Self::Duration { range, .. } => expected_duration(range),
            Self::DurationOrOff { range, .. } => format!("0, or {}", expected_duration(range)),
            Self::Name { .. } | Self::Secret { .. } => "a text".to_owned(),
            Self::Choice { of, .. } => format!("one of {}", of.join(", ")),
        }
    }

    /// Puts a written value into its field, or returns all that is wrong with it and leaves the field alone.
    pub(super) fn set(&self, config: &mut Config, value: &Value, source: &Source) -> Result<(), Vec<Found>> {
        let one = |reason: &str| vec![Found { source: source.clone(), found: self.found(value, reason) }];
        let out_of_range = || one("");
        match self {
            Self::Listen { field } => *field(config) = parse_list(value, source, ListenAddr::parse)?,
            Self::Hosts { field } => *field(config) = parse_list(value, source, parse_node)?,
            Self::Networks { field } => *field(config) = parse_list(value, source, parse_network)?,
            Self::AddressMap { field } => *field(config) = parse_list(value, source, AddressRule::parse)?,
            Self::Accounts { field } => *field(config) = parse_secret_list(value, source, AccountRule::parse)?,
            Self::Operators { field } => *field(config) = parse_secret_list(value, source, OperatorRule::parse)?,
            Self::UnixUsers { field } => *field(config) = parse_list(value, source, UnixUserRule::parse)?,
            Self::Mode { field } => {
                // Not a number: 0660 would be decimal, or no TOML.
                let digits = text(value).ok_or_else(out_of_range)?;
                let mode = Some(digits).filter(|digits| !digits.is_empty()).map(|digits| u32::from_str_radix(digits, 8));
                *field(config) =
                    mode.transpose().ok().filter(|mode| mode.is_none_or(|mode| mode <= 0o777)).ok_or_else(out_of_range)?;
            }
            Self::Commands { field } => *field(config) = parse_list(value, source, parse_command)?,
            Self::Count { range, field } => {
                let count = number(value).and_then(|text| text.parse().ok());
                *field(config) = count.filter(|count| range.contains(count)).ok_or_else(out_of_range)?;
            }
            Self::Size { range, field } => {
                let size = text(value).or(number(value)).and_then(parse_size);
                *field(config) = size.filter(|size| range.contains(size)).ok_or_else(out_of_range)?;
            }
            Self::Duration { range, field } => {
                let duration = text(value).or(number(value)).and_then(parse_duration);
                *field(config) = duration.filter(|wait| range.contains(wait)).ok_or_else(out_of_range)?;
            }
            Self::DurationOrOff { range, field } => {
                let duration = text(value).or(number(value)).and_then(parse_duration);
                let valid = duration.filter(|wait| wait.is_zero() || range.contains(wait)).ok_or_else(out_of_range)?;
                *field(config) = Some(valid).filter(|wait| !wait.is_zero());
            }
            Self::Name { field } => {
                let name = text(value).ok_or_else(out_of_range)?;
                *field(config) = Some(name.to_owned()).filter(|name| !name.is_empty());
            }
            Self::Secret { field } => {
                let secret = text(value).ok_or_else(out_of_range)?;
                *field(config) = Some(secret).filter(|secret| !secret.is_empty()).map(Secret::new);
            }
            Self::Choice { of, set, .. } => {
                let index = text(value).and_then(|word| of.iter().position(|choice| *choice == word));
                set(config, index.ok_or_else(out_of_range)?);
            }
        }
        Ok(())
    }

    /// The field's value as TOML, secrets hidden.
    pub fn show(&self, config: &Config) -> String {
        // A copy, because fields are reached mutably.
        let config = &mut config.clone();
        match self {
            Self::Listen { field } => show_list(field(config)),
            Self::Hosts { field } => show_list(field(config)),
            Self::Networks { field } => show_list(field(config)),
            Self::AddressMap { field } => show_list(field(config)),
            Self::Accounts { field } => show_list(field(config)),
            Self::Operators { field } => show_list(field(config)),
            Self::UnixUsers { field } => show_list(field(config)),
            Self::Mode { field } => quoted(&field(config).map_or_else(String::new, |mode| format!("{mode:04o}"))),
            Self::Commands { field } => show_list(field(config)),
            Self::Count { field, .. } => field(config).to_string(),
            Self::Size { field, .. } => quoted(&show_size(*field(config))),
            Self::Duration { field, .. } => quoted(&show_duration(*field(config))),
            Self::DurationOrOff { field, .. } => quoted(&show_duration(field(config).unwrap_or_default())),
            Self::Name { field } => quoted(field(config).as_deref().unwrap_or_default()),
            Self::Secret { field } => quoted(field(config).as_ref().map_or("", |_| HIDDEN)),
            Self::Choice { of, get, .. } => quoted(of[get(config)]),
        }
    }

    /// Ends the sentence "found ...". A secret's value is not told, also not when it has the wrong type.
    fn found(&self, value: &Value, reason: &str) -> String {
        match (self, value) {
            (Self::Secret { .. }, Value::Number(_)) => "a number".to_owned(),
            _ => show_found(value, reason),
        }
    }
}

fn expected_duration(range: &RangeInclusive<Duration>) -> String {
    let [min, max] = [range.start(), range.end()].map(|duration| show_duration(*duration));
    format!("a duration from {min} to {max} (in ms, s, m or h)")
}

/// A node to connect to: unlike a listener it has a port of its own.
fn parse_node(text: &str) -> Result<HostPort, &'static str> {
    match HostPort::parse(text)? {
        HostPort { port: 0, .. } => Err("whose port is 0"),
        node => Ok(node),
    }
}

/// A single address is a network of one.
fn parse_network(text: &str) -> Result<IpNet, &'static str> {
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| "which is neither")?,
    };
    if network.addr() == network.network() { Ok(network) } else { Err("whose address goes on behind its bits") }
}

/// Every element, or everything that is wrong with any of them.
fn parse_list<T>(value: &Value, source: &Source, parse: fn(&str) -> Result<T, &'static str>) -> Result<Vec<T>, Vec<Found>> {
    let items = match value {
        Value::Untyped(text) | Value::Text(text) => split_commas(text, source),
        Value::List(items) => items.clone(),
        Value::Number(_) | Value::Other(_) => vec![Item { value: value.clone(), source: source.clone() }],
    };
    let mut parsed = Vec::new();
    let mut wrong = Vec::new();
    for Item { value, source } in items {
        let result = match &value {
            Value::Untyped(text) | Value::Text(text) => parse(text),
            _ => Err(""),
        };
        match result {
            Ok(item) => parsed.push(item),
            Err(reason) => wrong.push(Found { source, found: show_found(&value, reason) }),
        }
    }
    if wrong.is_empty() { Ok(parsed) } else { Err(wrong) }
}

/// As `parse_list`, where a value may be a password by mistake, which is not told.
fn parse_secret_list<T>(
    value: &Value,
    source: &Source,
    parse: fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, Vec<Found>> {
    const HIDDEN_TEXT: &str = "a text";
    parse_list(value, source, parse).map_err(|wrong| {
        let hide = |found: String| match found.rfind("\", ").or(found.ends_with('"').then_some(found.len())) {
            Some(end) => format!("{HIDDEN_TEXT}{}", found[end..].trim_start_matches('"')),
            None => found,
        };
        wrong.into_iter().map(|Found { source, found }| Found { source, found: hide(found) }).collect()
    })
}

/// Which commands there are is not the configuration's to know: only the form is looked at.
fn parse_command(text: &str) -> Result<String, &'static str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'|' | b'.' | b'-' | b'_' | b':');
    if text.is_empty() || !text.bytes().all(is_name) {
        return Err("which is no name of a command");
    }
    Ok(text.to_ascii_lowercase())
}

/// The empty text is the empty list: there is no other way to write it after `--set admin.listen=`.
fn split_commas(text: &str, source: &Source) -> Vec<Item> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    text.split(',').map(|part| Item { value: Value::Text(part.trim().to_owned()), source: source.clone() }).collect()
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Untyped(text) | Value::Text(text) => Some(text),
        _ => None,
    }
}

fn number(value: &Value) -> Option<&str> {
    match value {
        Value::Untyped(text) | Value::Number(text) => Some(text),
        _ => None,
    }
}

fn show_found(value: &Value, reason: &str) -> String {
    let found = match value {
        Value::Untyped(text) | Value::Text(text) => format!("{text:?}"),
        Value::Number(number) => format!("the number {number}"),
        Value::List(_) => "a list".to_owned(),
        Value::Other(name) => (*name).to_owned(),
    };
    if reason.is_empty() { found } else { format!("{found}, {reason}") }
}

fn show_list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
