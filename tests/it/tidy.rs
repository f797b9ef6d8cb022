//! Rules about the source that a compiler does not know. Each failure says why the rule is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file: its path below the crate's root, and its text without comments.
struct Source {
    path: String,
    code: String,
    text: String,
}

impl Source {
    /// The folder or file directly under `src/`: `engine`, `app`.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split(['/', '.']).next().unwrap_or(below)
    }

    /// The part that is compiled into the program: what stands before the unit tests.
    fn production(&self) -> &str {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return "";
        }
        self.code.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files);
    files.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("source files are readable text");
        let name = path.strip_prefix(root()).expect("it was found below the root").display().to_string();
        Source { path: name, code: without_comments(&text), text }
    };
    files.iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder exists").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Drops whole-line comments, which may name what the code may not.
fn without_comments(text: &str) -> String {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a text names.
fn imports(code: &str, modules: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        // `crate::{a::B, c::D}` names several at once.
        let (group, names) = match rest.strip_prefix('{') {
            Some(group) => (true, group.split('}').next().unwrap_or(group)),
            None => (false, rest),
        };
        let heads = if group { names.split(',').map(str::trim).collect() } else { vec![names] };
        let name = |head: &str| head.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
        found.extend(heads.into_iter().map(name).filter(|name| modules.contains(name)));
    }
    found.sort();
    found.dedup();
    found
}

/// Who may use whom (architecture.md, section 8). A module that is not listed may be used by all that is not pure.
const MAY_USE: &[(&str, &[&str])] = &[
    ("resp", &[]),
    ("access", &[]),
    ("command", &["resp"]),
    ("cluster", &["resp"]),
    ("engine", &["resp", "access", "command", "cluster"]),
    ("config", &["access"]),
    ("telemetry", &["config"]),
    ("tls", &[]),
    ("net", &["resp", "access", "command", "cluster", "engine", "config", "telemetry", "tls", "topology"]),
    ("control", &["resp", "cluster", "config", "telemetry", "tls"]),
    ("topology", &["resp", "cluster", "config", "control", "telemetry", "tls"]),
    ("migrate", &["resp", "cluster", "config", "control", "topology", "telemetry", "tls"]),
    ("report", &["cluster", "engine", "control", "topology", "migrate", "net"]),
    (
        "admin",
        &[
            "resp",
            "access",
            "command",
            "cluster",
            "config",
            "control",
            "topology",
            "migrate",
            "telemetry",
            "tls",
            "net",
            "report",
        ],
    ),
    ("web", &["report", "admin"]),
];

#[test]
fn imports_go_downwards() {
    let modules: Vec<String> = MAY_USE.iter().map(|(module, _)| (*module).to_owned()).chain(["app".to_owned()]).collect();
    let mut wrong = Vec::new();
    for source in sources("src") {
        let Some((module, allowed)) = MAY_USE.iter().find(|(module, _)| *module == source.module()) else { continue };
        for used in imports(source.production(), &modules) {
            if used != *module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {module} uses {used}", source.path));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports go one way, so that a part can be understood, tested and replaced without the parts above it \
         (engine without net, migrate without engine):\n{}",
        wrong.join("\n")
    );
}

const PURE: [&str; 5] = ["resp", "access", "command", "cluster", "engine"];

/// What makes code depend on when and where it runs, with the reason to keep it out.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "the simulator runs the same code in virtual time, without a runtime"),
    ("tracing", "what happened is returned as a value; the driver logs it"),
    ("metrics::", "counters are plain integers, published once a batch"),
    ("Instant::now", "time is a parameter: one clock reading a batch, and virtual in the simulator"),
    ("SystemTime::now", "time is a parameter"),
    ("std::env", "configuration is passed in"),
    ("std::net::Tcp", "bytes are passed in and out; only drivers own sockets"),
    ("std::thread", "a worker is one thread, and the driver owns it"),
    ("std::fs", "a pure part reads nothing"),
    ("Mutex", "nothing on the request path is shared, so nothing is locked"),
    ("RwLock", "nothing on the request path is shared, so nothing is locked"),
    ("println!", "a library does not print"),
    ("eprintln!", "a library does not print"),
];

#[test]
fn pure_parts_are_pure() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|source| PURE.contains(&source.module())) {
        for (name, reason) in IMPURE.iter().filter(|(name, _)| names(source.production(), name)) {
            wrong.push(format!("{} names {name}: {reason}", source.path));
        }
    }
    assert!(wrong.is_empty(), "resp, command, cluster and engine decide, and leave doing to others:\n{}", wrong.join("\n"));
}

/// Whether the text holds this name, not as part of a longer one.
fn names(text: &str, name: &str) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = text.as_bytes();
    text.match_indices(name).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        !is_word(before) && (!is_word(bytes.get(at + name.len())) || name.ends_with("Tcp"))
    })
}

/// Where the compiler is told to trust us, each place with its reason.
const UNSAFE: [&str; 1] = ["src/net/memory.rs"];

#[test]
fn no_unsafe_code() {
    let unsafe_ones = sources("src").into_iter().filter(|source| names(&source.code, "unsafe")).map(|source| source.path);
    let unsafe_ones: Vec<String> = unsafe_ones.collect();
    assert_eq!(unsafe_ones, UNSAFE, "a proxy reads what strangers send; memory safety is the compiler's job");
}

#[test]
fn nothing_is_left_for_later() {
    // Spelt in two parts, so that this file does not hold what it looks for.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore"),
    ];
    let mut wrong = Vec::new();
    for source in ["src", "tests", "benches"].into_iter().filter(|folder| root().join(folder).is_dir()).flat_map(sources) {
        let found = marks.iter().filter(|mark| source.text.contains(**mark) && !source.path.ends_with("command/table.rs"));
        wrong.extend(found.map(|mark| format!("{}: {mark}", source.path)));
    }
    assert!(
        wrong.is_empty(),
        "what is not done is an issue, not a mark in the code; a test that is skipped shows nothing:\n{}",
        wrong.join("\n")
    );
}

/// Tables, which are read by rows.
const TABLES: [&str; 2] = ["src/command/table.rs", "src/config/keys.rs"];

/// Lines of code, without tests, that a file may have. Beyond it a reader loses the thread; larger ones say at their head why.
const LINES_MAX: usize = 600;

#[test]
fn files_can_be_read_at_once() {
    let mut long = BTreeMap::new();
    for source in sources("src") {
        let lines = source.production().lines().count();
        if lines > LINES_MAX && !TABLES.contains(&source.path.as_str()) {
            long.insert(source.path, lines);
        }
    }
    assert!(long.is_empty(), "files above {LINES_MAX} lines without tests; split them by responsibility: {long:?}");
}

#[test]
fn tidy_sees_what_it_looks_for() {
    let modules = ["net", "engine", "resp"].map(str::to_owned);
    assert_eq!(imports("use crate::net::Socket;\nuse crate::{resp, engine::Engine};", &modules), ["engine", "net", "resp"]);
    assert_eq!(imports("use crate::network::Socket;", &modules), Vec::<String>::new());
    assert!(names("use tokio::time;", "tokio") && !names("let my_tokio_like = 1;", "tokio"));
    assert!(names("std::net::TcpStream", "std::net::Tcp"));
    assert_eq!(without_comments("/// tokio\nfn a() {} \n  // tokio"), "fn a() {} ");
    let source = Source {
        path: "src/engine/mod.rs".into(),
        code: "use a;\n#[cfg(test)]\nmod tests { use b; }".into(),
        text: String::new(),
    };
    assert_eq!((source.module(), source.production()), ("engine", "use a;\n"));
}
