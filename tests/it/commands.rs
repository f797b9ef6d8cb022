//! The heart of the matter: no command's answer tells Keyway from a standalone server.
//!
//! The transcripts are commands as people type them. Each is sent to a standalone server and through the proxy to a
//! cluster of the same version, in RESP2 and RESP3, one by one, as one pipeline, and as a pipeline cut at random bytes;
//! the replies must be equal to the byte. A command that a server does not know is part of the test: so must its error be.
//!
//! A line may begin with a directive that says what cannot be equal:
//!
//! | directive | compared |
//! | --- | --- |
//! | `@any` | only the type of the reply: times, sizes, random text |
//! | `@near` | integers up to a tenth: times to live |
//! | `@ints` | everything but the values of integers: idle times |
//! | `@unordered` | elements in any order: sets, keys of several nodes |
//! | `@fields(a,b)` | everything but the values behind these names |
//! | `@id` | as `@fields(id)`: a connection's number |
//! | `@shape` | types and names, no values: memory statistics |
//! | `@client-fields` | the names in CLIENT LIST's text, and the values that are not this connection's own |
//! | `@alone` | bytes, but only one by one: Redis 8.2.3 answers a failed AUTH with nothing when it is pipelined |
//! | `@keep` | the reply, and later lines may use it as `$_` |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::harness::client::append_request;
use crate::harness::text::words;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, Standalone};

/// Each begins with an empty keyspace and a new connection.
const TRANSCRIPTS: &[(&str, &str)] = &[
    ("strings", include_str!("transcripts/strings.txt")),
    ("generic", include_str!("transcripts/generic.txt")),
    ("lists and sets", include_str!("transcripts/lists_sets.txt")),
    ("hashes", include_str!("transcripts/hashes.txt")),
    ("sorted sets", include_str!("transcripts/sorted_sets.txt")),
    ("streams", include_str!("transcripts/streams.txt")),
    ("scripts", include_str!("transcripts/scripts.txt")),
    ("transactions", include_str!("transcripts/transactions.txt")),
    ("identity", include_str!("transcripts/identity.txt")),
    ("connection", include_str!("transcripts/connection.txt")),
    ("clients", include_str!("transcripts/clients.txt")),
    ("server", include_str!("transcripts/server.txt")),
    ("blocking", include_str!("transcripts/blocking.txt")),
    ("subscriptions", include_str!("transcripts/pubsub.txt")),
];

/// Commands that Keyway answers with an error of its own.
const REFUSED: &str = include_str!("transcripts/refused.txt");
const REFUSED_SINCE_7_0: &str = include_str!("transcripts/refused_since_7_0.txt");

/// Commands that are compared elsewhere, or cannot be, with the reason.
const NOT_IN_TRANSCRIPTS: &[(&str, &str)] = &[
    ("quit", "closes: persona.rs"),
    ("monitor", "lines without end: monitor.rs"),
    ("info", "merged: persona.rs"),
    ("command", "the whole table: persona.rs"),
    ("command|count", "the whole table: persona.rs"),
    ("host:", "closes: persona.rs"),
    ("post", "closes: persona.rs"),
    ("hello", "in its container's place"),
];

/// Answers that differ on purpose, with the reason.
const DIFFERENT: &[(&str, &str, &str)] = &[(
    "COPY {mv}1 {mv}2 DB 1",
    "ERR Copying to another database is not allowed in cluster mode",
    "the node's own words: the key is where it belongs, only the database is not",
)];

/// What is compared of a reply.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Bytes,
    Type,
    Near,
    IntegersApart,
    Unordered,
    FieldsApart(&'static str),
    Shape,
    ClientFields,
}

/// One line of a transcript.
#[derive(Clone, Copy)]
struct Step {
    line: &'static str,
    compare: Compare,
    keep: bool,
    alone: bool,
}

impl Step {
    fn parse(line: &'static str) -> Step {
        let mut step = Step { line, compare: Compare::Bytes, keep: false, alone: false };
        let Some(rest) = line.strip_prefix('@') else {
            return step;
        };
        let (directive, command) = rest.split_once(' ').expect("a directive stands before a command");
        step.line = command;
        step.compare = match directive {
            "any" => Compare::Type,
            "near" => Compare::Near,
            "ints" => Compare::IntegersApart,
            "unordered" => Compare::Unordered,
            "id" => Compare::FieldsApart("id"),
            "shape" => Compare::Shape,
            "client-fields" => Compare::ClientFields,
            "keep" | "alone" => Compare::Bytes,
            fields => {
                let names = fields.strip_prefix("fields(").and_then(|names| names.strip_suffix(')'));
                Compare::FieldsApart(names.unwrap_or_else(|| panic!("no directive: @{fields}")))
            }
        };
        step.keep = directive == "keep";
        step.alone = directive == "alone";
        step
    }

    /// The arguments, with `$_` replaced by what was kept.
    fn arguments(&self, kept: &[u8]) -> Vec<Vec<u8>> {
        let replace = |word: Vec<u8>| if word == b"$_" { kept.to_vec() } else { word };
        words(self.line).into_iter().map(replace).collect()
    }
}

fn steps(text: &'static str) -> impl Iterator<Item = Step> {
    text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("# ")).map(Step::parse)
}

/// Both sides of a comparison, and what was found to differ.
struct Pair {
    standalone: Client,
    proxy: Client,
    context: String,
}

impl Pair {
    fn connect(standalone: &Standalone, proxy: &Proxy, context: String) -> Pair {
        let mut pair = Pair { standalone: standalone.client(), proxy: proxy.client(), context };
        for command in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
            // FUNCTION is unknown to 6.2, on both sides.
            pair.standalone.call(command);
            pair.proxy.call(command);
        }
        pair
    }

    fn speak(&mut self, resp3: bool) {
        if resp3 {
            assert!(!self.standalone.call(&["HELLO", "3"]).is_error());
            let reply = self.proxy.call(&["HELLO", "3"]);
            assert!(!reply.is_error(), "HELLO 3: {reply:?}");
        }
    }

    fn note(&self, step: &Step, expected: &Reply, found: &Reply, differences: &mut Differences) {
        let [expected, found] = [expected, found].map(|reply| normalised(step.compare, reply));
        let on_purpose = |(line, text, _): &(&str, &str, &str)| *line == step.line && found == Reply::error(text);
        if expected != found && !DIFFERENT.iter().any(on_purpose) && !(step.compare == Compare::Near && near(&expected, &found)) {
            differences.note(&self.context, format!("{}\n    standalone {expected:?}\n    proxy      {found:?}", step.line));
        }
    }

    /// Sends each command when the one before is answered. Returns what may be sent as one pipeline, too.
    fn one_by_one(&mut self, text: &'static str, differences: &mut Differences) -> Vec<(Step, Vec<Vec<u8>>)> {
        let mut sent = Vec::new();
        let mut kept = Vec::new();
        for step in steps(text) {
            let arguments = step.arguments(&kept);
            let expected = self.standalone.call(&arguments);
            let found = self.proxy.call(&arguments);
            self.note(&step, &expected, &found, differences);
            if step.keep
                && let Reply::Bulk(bulk) = &expected
            {
                kept.clone_from(bulk);
            }
            if !step.alone {
                sent.push((step, arguments));
            }
        }
        sent
    }

    /// Sends all commands at once, in pieces of `cut` bytes at most (0: as the socket takes them).
    fn at_once(&mut self, sent: &[(Step, Vec<Vec<u8>>)], cut: usize, differences: &mut Differences) {
        let mut bytes = Vec::new();
        sent.iter().for_each(|(_, arguments)| append_request(&mut bytes, arguments));
        let expected = self.standalone.exchange(&bytes, sent.len()).expect("a standalone server answers");
        let found = if cut == 0 {
            self.proxy.exchange(&bytes, sent.len())
        } else {
            send_in_pieces(&mut self.proxy, &bytes, cut, sent.len())
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => return differences.note(&self.context, error.to_string()),
        };
        for (((step, _), expected), found) in sent.iter().zip(&expected).zip(&found) {
            self.note(step, expected, found, differences);
        }
    }
}

fn send_in_pieces(client: &mut Client, bytes: &[u8], cut: usize, replies: usize) -> std::io::Result<Vec<Reply>> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(fastrand::usize(1..=cut).min(rest.len()));
        client.send(piece)?;
        rest = later;
    }
    (0..replies).map(|_| client.receive()).collect()
}

/// What must be equal of a reply: of errors always everything.
fn normalised(compare: Compare, reply: &Reply) -> Reply {
    if reply.is_error() {
        return reply.clone();
    }
    match compare {
        Compare::Bytes | Compare::Near => reply.clone(),
        Compare::Type => type_of(reply),
        Compare::IntegersApart => without_integers(reply),
        Compare::Unordered => sorted(reply),
        Compare::FieldsApart(names) => without_fields(reply, names),
        Compare::Shape => shape(reply),
        Compare::ClientFields => client_fields(reply),
    }
}

/// The reply with nothing in it.
fn type_of(reply: &Reply) -> Reply {
    match reply {
        Reply::Simple(_) => Reply::Simple(Vec::new()),
        Reply::Integer(_) => Reply::Integer(0),
        Reply::Bulk(_) => Reply::Bulk(Vec::new()),
        Reply::Double(_) => Reply::Double(Vec::new()),
        Reply::Verbatim(_) => Reply::Verbatim(Vec::new()),
        Reply::Array(_) => Reply::Array(Vec::new()),
        Reply::Map(_) => Reply::Map(Vec::new()),
        Reply::Set(_) => Reply::Set(Vec::new()),
        other => other.clone(),
    }
}

fn near(expected: &Reply, found: &Reply) -> bool {
    match (expected, found) {
        (Reply::Integer(expected), Reply::Integer(found)) => {
            (*expected < 0) == (*found < 0) && expected.abs_diff(*found) <= (expected.unsigned_abs() / 10).max(10)
        }
        (Reply::Array(expected), Reply::Array(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(expected, found)| near(expected, found))
        }
        _ => expected == found,
    }
}

fn without_integers(reply: &Reply) -> Reply {
    let mut reply = reply.clone();
    if let Reply::Integer(number) = &mut reply {
        *number = 0;
    }
    reply.elements_mut().iter_mut().for_each(|element| *element = without_integers(element));
    reply
}

/// The elements of every aggregate in an order of their own.
pub fn sorted(reply: &Reply) -> Reply {
    let mut reply = reply.clone();
    reply.elements_mut().iter_mut().for_each(|element| *element = sorted(element));
    if let Reply::Map(pairs) = &mut reply {
        let mut sorted: Vec<[Reply; 2]> = pairs.chunks(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect();
        sorted.sort();
        *pairs = sorted.concat();
    } else {
        reply.elements_mut().sort();
    }
    reply
}

/// Blanks every element that follows one of the comma-separated names.
fn without_fields(reply: &Reply, names: &str) -> Reply {
    let mut reply = reply.clone();
    let elements = reply.elements_mut();
    for at in 0..elements.len() {
        elements[at] = without_fields(&elements[at], names);
        if at > 0 && names.split(',').any(|name| name == elements[at - 1].text()) {
            elements[at] = Reply::Null;
        }
    }
    reply
}

/// Types, and the text of what stands where names do.
fn shape(reply: &Reply) -> Reply {
    let mut reply = reply.clone();
    for pair in reply.elements_mut().chunks_mut(2) {
        if let [_, value] = pair {
            *value = shape(value);
        }
    }
    if reply.elements().is_empty() { type_of(&reply) } else { reply }
}

/// The newest connection's names, with the values that two like connections share. Numbers, addresses and sizes are each
/// side's own, and so are older connections that are just about to go.
fn client_fields(reply: &Reply) -> Reply {
    const SHARED: &[&str] =
        &["name", "db", "sub", "psub", "ssub", "multi", "watch", "cmd", "user", "redir", "resp", "lib-name", "lib-ver"];
    let text = reply.text();
    let id = |line: &&str| line.split(['=', ' ']).nth(1).and_then(|id| id.parse().ok()).unwrap_or(0_u64);
    let newest = text.lines().max_by_key(id).unwrap_or_default();
    let own = |field: &str| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        if SHARED.contains(&name) { format!("{name}={value}") } else { name.to_owned() }
    };
    Reply::Array(newest.split(' ').map(|field| Reply::bulk(own(field))).collect())
}

/// What was found, each once, with the places where it was.
#[derive(Default)]
struct Differences(BTreeMap<String, Vec<String>>);

impl Differences {
    fn note(&mut self, context: &str, what: String) {
        self.0.entry(what).or_default().push(context.to_owned());
    }

    fn report(&self) {
        let mut text = String::new();
        for (what, contexts) in &self.0 {
            let _ = writeln!(text, "{what}\n    in {}", contexts.join("; "));
        }
        assert!(self.0.is_empty(), "{} answers differ from a standalone server's:\n{text}", self.0.len());
    }
}

fn transcripts(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let standalone = Standalone::start(server);
    let mut differences = Differences::default();
    for (name, text) in TRANSCRIPTS {
        for resp3 in [false, true] {
            let proto = if resp3 { "RESP3" } else { "RESP2" };
            let connect = |how: &str| Pair::connect(&standalone, &proxy, format!("{server:?} {proto} {name}, {how}"));
            let mut pair = connect("one by one");
            pair.speak(resp3);
            let sent = pair.one_by_one(text, &mut differences);
            for (how, cut) in [("as one pipeline", 0), ("in pieces", 100)] {
                let mut pair = connect(how);
                pair.speak(resp3);
                pair.at_once(&sent, cut, &mut differences);
            }
        }
    }
    differences.report();
}

fn refused(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let newer = if server == Server::Redis62 { "" } else { REFUSED_SINCE_7_0 };
    let mut client = proxy.client();
    let mut differences = Vec::new();
    for step in steps(REFUSED).chain(steps(newer)) {
        let reply = client.call(&step.arguments(b""));
        if !matches!(&reply, Reply::Error(text) if text.starts_with(b"ERR proxy: ")) {
            differences.push(format!("{}: {reply:?}", step.line));
        }
    }
    assert!(differences.is_empty(), "{server:?}: no refusal of the proxy's own:\n{}", differences.join("\n"));
    assert_eq!(client.call(&["PING"]), Reply::Simple(b"PONG".to_vec()), "the connection goes on");
}

/// Every command and subcommand that the server knows stands in a transcript, or is listed with the reason why not.
fn coverage(server: Server) {
    let all = TRANSCRIPTS.iter().map(|(_, text)| *text).chain([REFUSED, REFUSED_SINCE_7_0]);
    let lower = |words: &[Vec<u8>]| words.iter().map(|word| String::from_utf8_lossy(word).to_lowercase()).collect::<Vec<_>>();
    let mut known = BTreeSet::new();
    for step in all.flat_map(steps) {
        let words = lower(&words(step.line));
        known.insert(words[0].clone());
        if let Some(sub) = words.get(1) {
            known.insert(format!("{}|{sub}", words[0]));
        }
    }
    let excused = |name: &str| NOT_IN_TRANSCRIPTS.iter().any(|(excused, _)| *excused == name);
    let standalone = Standalone::start(server);
    let missing: Vec<String> =
        command_names(&mut standalone.client()).into_iter().filter(|name| !known.contains(name) && !excused(name)).collect();
    assert!(missing.is_empty(), "{server:?} knows commands that no transcript holds: {missing:?}");
}

/// All names of COMMAND, with subcommands as `container|name` where the server lists them.
pub fn command_names(client: &mut Client) -> BTreeSet<String> {
    let table = client.call(&["COMMAND"]);
    let mut names = BTreeSet::new();
    for command in table.elements() {
        names.insert(command.elements()[0].text().to_lowercase());
        let subcommands = command.elements().get(9).map(Reply::elements).unwrap_or_default();
        names.extend(subcommands.iter().map(|sub| sub.elements()[0].text().to_lowercase()));
    }
    names
}

crate::on_every_server!(transcripts, refused, coverage);
