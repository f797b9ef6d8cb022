//! Programs of others, run to their end: the clients and frameworks that the scripts under tests/clients use.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::process::bound_command;
use super::servers::{tool, venv};

/// No program may take longer.
const TIME_MAX: Duration = Duration::from_secs(240);

/// What a program left behind.
pub struct Outcome {
    pub success: bool,
    pub printed: String,
    pub complaint: String,
}

impl Outcome {
    /// What it printed; anything but success is a panic with all of it.
    pub fn printed_by_success(self, what: &str) -> String {
        assert!(self.success, "{what}:\n{}\n{}", self.printed, self.complaint);
        self.printed
    }
}

/// Runs a program to its end, with `input` as its standard input.
pub fn run(command: &mut Command, input: &str) -> Outcome {
    use std::io::Write;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program is installed");
    // It may end without reading all of it, which its exit code then tells.
    let _ = child.stdin.take().expect("it was asked for").write_all(input.as_bytes());
    let (sender, ended) = channel();
    let pid = child.id().to_string();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = ended.recv_timeout(TIME_MAX).unwrap_or_else(|_| {
        let killed = Command::new("kill").args(["-9", &pid]).status();
        panic!("{command:?} did not end within {TIME_MAX:?} and was killed: {killed:?}");
    });
    let output = output.expect("a child of ours can be waited for");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome { success: output.status.success(), printed: text(&output.stdout), complaint: text(&output.stderr) }
}

fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn script(name: &str) -> PathBuf {
    tests_folder().join("clients").join(name)
}

fn installed(folder: &str) -> PathBuf {
    let folder = tests_folder().join(".tools").join(folder);
    assert!(folder.is_dir(), "{} is missing: run `tests/run.sh install`", folder.display());
    folder
}

/// A Python script of tests/clients, with the packages of a folder under tests/.tools/py before those of the virtual environment.
pub fn python(packages: Option<&str>, name: &str, arguments: &[&str]) -> Command {
    let mut command = bound_command(&venv().join("bin/python"));
    if let Some(packages) = packages {
        command.env("PYTHONPATH", installed("py").join(packages));
    }
    command.arg("-B").arg(script(name)).args(arguments);
    command
}

/// A script of tests/clients for Node.js.
pub fn node(name: &str, arguments: &[&str]) -> Command {
    let mut command = bound_command(&tool("node"));
    command.env("NODE_PATH", installed("node/node_modules")).arg(script(name)).args(arguments);
    command
}
