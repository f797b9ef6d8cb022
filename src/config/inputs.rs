//! The three places a configuration is written in, gathered into one.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use super::keys::{ENVIRONMENT_PREFIX, KEYS};
use super::mistake::Mistake;
use super::written::{Source, Value, Written};
use super::{file, keys};

/// The texts a configuration is resolved from. Later sources win: defaults, the file, the environment,
/// `--set` (among several for one key the last).
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub file: Option<FileText>,
    /// All variables of the process; those that are not ours are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// `KEY=VALUE` each.
    pub set: Vec<String>,
}

/// A configuration file's name, as given, with its text or why it cannot be read.
#[derive(Clone, Debug)]
pub struct FileText {
    pub name: String,
    pub text: Result<String, String>,
}

impl Inputs {
    /// Reads the file and the environment of this process. A file that cannot be read is a mistake like
    /// any other, reported together with the rest.
    pub fn gather(file: Option<&Path>, set: Vec<String>) -> Self {
        let file = file.map(|path| FileText {
            name: path.display().to_string(),
            text: std::fs::read_to_string(path).map_err(|error| error.to_string()),
        });
        Self { file, environment: std::env::vars_os().collect(), set }
    }

    /// Everything written, in rising order of precedence, and every mistake that can be told before values
    /// are looked at.
    pub(super) fn written(&self) -> (Vec<Written>, Vec<Mistake>) {
        let mut written = Vec::new();
        let mut mistakes = Vec::new();
        for (more_written, more_mistakes) in [self.in_file(), self.in_environment(), self.in_set()] {
            written.extend(more_written);
            mistakes.extend(more_mistakes);
        }
        (written, mistakes)
    }

    fn in_file(&self) -> (Vec<Written>, Vec<Mistake>) {
        match &self.file {
            None => (Vec::new(), Vec::new()),
            Some(FileText { name, text: Ok(text) }) => file::read(name, text),
            Some(FileText { name, text: Err(error) }) => {
                let source = Source::File { name: Arc::from(name.as_str()), line: 0 };
                (Vec::new(), vec![Mistake::new(source, format!("expected a file of text, found: {error}"))])
            }
        }
    }

    fn in_environment(&self) -> (Vec<Written>, Vec<Mistake>) {
        let mut written = Vec::new();
        let mut mistakes = Vec::new();
        for (name, value) in &self.environment {
            let name = name.to_string_lossy();
            if !name.starts_with(ENVIRONMENT_PREFIX) || is_service_link(&name) {
                continue;
            }
            let source = Source::Environment { name: name.to_string() };
            match (KEYS.iter().find(|key| key.environment_name() == name), value.to_str()) {
                (Some(key), Some(text)) => written.push(Written { key, value: Value::Untyped(text.to_owned()), source }),
                (Some(_), None) => mistakes.push(Mistake::new(source, "expected UTF-8, found other bytes")),
                (None, _) => mistakes.push(Mistake::unknown_variable(&name)),
            }
        }
        // The system gives them in no useful order.
        mistakes.sort_by_key(|mistake| mistake.source.to_string());
        (written, mistakes)
    }

    fn in_set(&self) -> (Vec<Written>, Vec<Mistake>) {
        let mut written = Vec::new();
        let mut mistakes = Vec::new();
        for setting in &self.set {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let source = Source::Set { key: name.to_owned() };
            match keys::find(name) {
                _ if !setting.contains('=') => {
                    mistakes.push(Mistake::new(source, "expected KEY=VALUE, found no `=`"));
                }
                Some(key) => written.push(Written { key, value: Value::Untyped(value.to_owned()), source }),
                None => mistakes.push(Mistake::unknown_key(source, name)),
            }
        }
        (written, mistakes)
    }
}

/// Whether Kubernetes made the variable. It gives every pod a set of them for each Service of its
/// namespace, and a Service named `keyway` or `keyway-proxy` makes them look like ours
/// (Kubernetes documentation, "Service", section "Environment variables").
fn is_service_link(name: &str) -> bool {
    let is_port_of_protocol = |rest: &str| {
        let (port, protocol) = rest.split_once('_').unwrap_or((rest, ""));
        port.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].iter().any(|known| protocol.starts_with(known))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_port_of_protocol(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_kubernetes_services_are_not_ours() {
        #[track_caller]
        fn check(name: &str, expected: bool) {
            assert_eq!(is_service_link(name), expected, "{name}");
        }
        check("KEYWAY_SERVICE_HOST", true);
        check("KEYWAY_SERVICE_PORT", true);
        check("KEYWAY_SERVICE_PORT_REDIS", true);
        check("KEYWAY_PORT", true);
        check("KEYWAY_PORT_6380_TCP", true);
        check("KEYWAY_PORT_6380_TCP_ADDR", true);
        check("KEYWAY_PROXY_PORT", true);
        check("KEYWAY_PROXY_LISTEN", false);
        check("KEYWAY_PROXY_PORT_LISTEN", false);
        for key in KEYS {
            check(&key.environment_name(), false);
        }
    }
}
