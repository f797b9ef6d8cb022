//! The server program the nodes run.

use std::env;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::DemoError;

/// In the order in which they are looked for.
const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];
const CLIENTS: [&str; 2] = ["redis-cli", "valkey-cli"];

#[derive(Debug)]
pub(super) struct Program {
    pub path: PathBuf,
    /// As `--version` tells it, shortened; empty when it tells nothing of the kind.
    version: String,
}

impl Program {
    /// The named program, or the first server in PATH.
    pub fn find(named: Option<&Path>) -> Result<Self, DemoError> {
        let path = match named {
            // A bare name is looked up as a shell would.
            Some(name) if name.components().count() == 1 && !is_program(name) => in_path(name),
            Some(path) => Some(path.to_owned()).filter(|path| is_program(path)),
            None => SERVERS.iter().find_map(|name| in_path(Path::new(name))),
        };
        match (path, named) {
            (Some(path), _) => Ok(Self { version: version(&path)?, path }),
            (None, Some(named)) => Err(DemoError::NotAProgram(named.to_owned())),
            (None, None) => Err(DemoError::NoServer),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version.is_empty() {
            true => write!(f, "{}", self.path.display()),
            false => write!(f, "{} {}", self.path.display(), self.version),
        }
    }
}

/// The command-line client that this machine has; Redis's when it has none, since most documents name it.
pub(super) fn client_name() -> &'static str {
    CLIENTS.iter().find(|name| in_path(Path::new(name)).is_some()).unwrap_or(&CLIENTS[0])
}

fn in_path(name: &Path) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn version(path: &Path) -> Result<String, DemoError> {
    let answer = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| DemoError::Start { what: path.display().to_string(), error })?;
    Ok(short_version(&String::from_utf8_lossy(&answer.stdout)).to_owned())
}

/// `7.0.15` of `Redis server v=7.0.15 sha=00000000:0 malloc=... bits=64 build=...`.
fn short_version(answer: &str) -> &str {
    answer.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        #[track_caller]
        fn check(answer: &str, expected: &str) {
            assert_eq!(short_version(answer), expected);
        }
        check("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d\n", "7.0.15");
        check("Valkey server v=9.1.2 sha=00000000:1 malloc=jemalloc-5.3.0 bits=64\n", "9.1.2");
        check("something else", "");
        check("", "");
    }

    #[test]
    fn what_is_named_must_be_a_program() {
        for named in ["/", "/etc/passwd", "no-such-server", "/no/such/server"] {
            let found = Program::find(Some(Path::new(named)));
            assert!(matches!(found, Err(DemoError::NotAProgram(path)) if path == Path::new(named)), "{named}");
        }
    }
}
