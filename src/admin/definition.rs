//! What an admin command is, and how a request finds its command.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::AdminState;
use super::commands::COMMANDS;
use super::events::Subscribed;
use super::reply::Reply;
pub use crate::access::Role;
use crate::access::Standing;
use crate::resp::Proto;

/// One admin command, complete.
pub(super) struct Definition {
    /// Its words in upper case: `PROXY HELP`.
    pub name: &'static str,
    /// The whole line: values in lower case, fixed words in upper case, `[optional]`, `this|that`, `repeated ...`. One that ends in
    /// `[JSON]` answers one JSON document when that is its last word.
    pub syntax: &'static str,
    /// One line, without a full stop.
    pub summary: &'static str,
    /// What one needs to know to use it, in whole sentences.
    pub help: &'static str,
    /// The version that brought it.
    pub since: &'static str,
    /// Who may give it: whoever has this role or a higher one.
    pub role: Role,
    /// Reads the arguments behind the name into what is to be done.
    pub parse: fn(&[&[u8]]) -> Result<Handler, Wrong>,
}

/// What a parsed request does.
pub(super) enum Handler {
    /// Answers from what is known.
    Now(Box<Now>),
    /// Asks the cluster first. It limits its own time.
    Later(Box<Later>),
}

type Now = dyn FnOnce(&mut Session, &AdminState) -> Reply;
type Later = dyn FnOnce(&AdminState) -> LaterReply;

/// A reply that takes its time.
pub(super) type LaterReply = Pin<Box<dyn Future<Output = Reply> + Send>>;

impl Handler {
    pub fn now(act: impl FnOnce(&mut Session, &AdminState) -> Reply + 'static) -> Handler {
        Handler::Now(Box::new(act))
    }

    pub fn later<F: Future<Output = Reply> + Send + 'static>(act: impl FnOnce(&AdminState) -> F + 'static) -> Handler {
        Handler::Later(Box::new(move |state| Box::pin(act(state))))
    }
}

/// What a request comes to.
pub(super) enum Outcome {
    Now(Reply),
    Later(LaterReply),
}

/// Why arguments are refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Count,
    Value {
        expected: &'static str,
        found: String,
    },
    /// In Redis's own words, code included, where clients look for them.
    Verbatim(String),
}

/// One connection as its commands see it.
#[derive(Debug)]
pub(super) struct Session {
    pub id: u64,
    pub proto: Proto,
    /// Where it comes from, as `address:port`.
    pub peer: String,
    /// `None`: it has to say first who it is.
    pub standing: Option<Standing>,
    pub subscribed: Subscribed,
    /// The connection is closed behind the reply.
    pub closing: bool,
}

impl Session {
    pub fn new(id: u64, peer: String, standing: Option<Standing>) -> Session {
        Session { id, proto: Proto::Resp2, peer, standing, subscribed: Subscribed::default(), closing: false }
    }

    fn role(&self) -> Role {
        self.standing.as_ref().map_or(Role::Anyone, |standing| standing.role)
    }
}

impl Definition {
    /// `proxy|help`: how Redis writes a subcommand in its replies. It knows no third word: `proxy|migrate plan`.
    pub fn full_name(&self) -> String {
        self.name.to_ascii_lowercase().replacen(' ', "|", 1)
    }

    /// `MIGRATE` of `PROXY MIGRATE PLAN`, which is a container too; `None` when there are fewer words.
    pub fn inner_container(&self) -> Option<&'static str> {
        let mut words = self.name.split(' ');
        words.nth(1).filter(|_| words.next().is_some())
    }

    /// `PROXY` of `PROXY HELP`; the name itself when it is one word.
    pub fn first_word(&self) -> &'static str {
        self.name.split(' ').next().unwrap_or(self.name)
    }

    pub fn word_count(&self) -> usize {
        self.name.split(' ').count()
    }

    fn is_named_by(&self, words: &[Bytes]) -> bool {
        let mut given = words.iter();
        self.name.split(' ').all(|word| given.next().is_some_and(|given| given.eq_ignore_ascii_case(word.as_bytes())))
    }

    /// Whether this session may give it now; else the reply, in the servers' words.
    fn admit(&self, session: &Session) -> Result<(), String> {
        let name = self.full_name();
        if session.role() < self.role {
            let user = session.standing.as_ref().map(|standing| shown(&standing.name)).unwrap_or_default();
            return Err(format!("NOPERM User {user} has no permissions to run the '{name}' command"));
        }
        // In RESP3 a message cannot be taken for a reply.
        let between_messages = ["subscribe", "unsubscribe", "ping", "quit", "reset"].contains(&name.as_str());
        if !session.subscribed.is_empty() && session.proto == Proto::Resp2 && !between_messages {
            return Err(format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
            ));
        }
        Ok(())
    }

    fn error(&self, wrong: Wrong) -> Reply {
        let syntax = self.syntax;
        Reply::Error(match wrong {
            Wrong::Count => format!("ERR wrong number of arguments for '{}' command. Syntax: {syntax}", self.full_name()),
            Wrong::Value { expected, found } => format!("ERR expected {expected}, found '{found}'. Syntax: {syntax}"),
            Wrong::Verbatim(text) => text,
        })
    }
}

/// Answers one request, given as its words (at least one).
pub(super) fn answer(words: &[Bytes], session: &mut Session, state: &AdminState) -> Outcome {
    // The longest name first: `COMMAND DOCS` before `COMMAND`.
    let named = COMMANDS.iter().filter(|definition| definition.is_named_by(words));
    let definition = named.max_by_key(|definition| definition.word_count());
    // Strangers are not told what there is.
    if session.role() < definition.map_or(Role::Viewer, |definition| definition.role.min(Role::Viewer)) {
        return Outcome::Now(Reply::Error("NOAUTH Authentication required.".to_owned()));
    }
    let Some(definition) = definition else { return Outcome::Now(unknown(words)) };
    if let Err(refusal) = definition.admit(session) {
        return Outcome::Now(Reply::Error(refusal));
    }
    let mut arguments: Vec<&[u8]> = words[definition.word_count()..].iter().map(Bytes::as_ref).collect();
    let json = definition.syntax.ends_with(" [JSON]") && arguments.last().is_some_and(|last| last.eq_ignore_ascii_case(b"JSON"));
    if json {
        arguments.pop();
    }
    let shape = move |reply: Reply| if json { reply.into_json() } else { reply };
    match (definition.parse)(&arguments) {
        Ok(Handler::Now(act)) => Outcome::Now(shape(act(session, state))),
        Ok(Handler::Later(act)) => {
            let reply = act(state);
            Outcome::Later(Box::pin(async move { shape(reply.await) }))
        }
        Err(wrong) => Outcome::Now(definition.error(wrong)),
    }
}

fn unknown(words: &[Bytes]) -> Reply {
    let word = |index: usize| words.get(index).map(|word| shown(word)).unwrap_or_default();
    let first = word(0);
    let container = COMMANDS.iter().find(|definition| definition.first_word().eq_ignore_ascii_case(&first));
    Reply::Error(match container {
        Some(known) if words.len() > 1 => {
            let first = known.first_word();
            format!("ERR unknown subcommand '{}' of {first}. Syntax: PROXY HELP {first} lists them", word(1))
        }
        Some(known) => {
            let first = known.first_word();
            format!(
                "ERR wrong number of arguments for '{}' command. Syntax: {first} subcommand [argument ...]",
                first.to_lowercase()
            )
        }
        None => format!(
            "ERR unknown command '{first}'. This is Keyway's admin port (admin.listen): PROXY HELP lists its commands, \
             clients connect to proxy.listen"
        ),
    })
}

/// A word of a request as it may stand in an error line: printable, and cut at 128 characters as Redis cuts them.
pub(super) fn shown(word: &[u8]) -> String {
    String::from_utf8_lossy(word).escape_debug().take(128).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use bytes::BytesMut;

    use super::*;
    use crate::access::Throttle;
    use crate::admin::{Cluster, Events, Operators};
    use crate::control::{Credentials, Dialer};
    use crate::migrate::Coordinator;
    use crate::migrate::coordinator::Parts;
    use crate::migrate::record::Timing;
    use crate::topology::{self, TopologyConfig};

    /// A topology that has heard of no cluster.
    fn unknown_cluster() -> Cluster {
        let start = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _inside = runtime.enter();
            topology::start(TopologyConfig::default(), || 0)
        };
        // On a thread of its own: some tests run inside of a runtime.
        let topology = std::thread::spawn(start).join().expect("nothing panics there");
        let second = std::time::Duration::from_secs(1);
        let dialer = Dialer { credentials: Credentials::default(), dial_timeout: second, reply_timeout: second, tls: None };
        Cluster { topology, dialer, now_us: Arc::new(|| 0) }
    }

    pub fn state() -> AdminState {
        let cluster = unknown_cluster();
        let (migrations, _) = Coordinator::new(Parts {
            topology: cluster.topology.clone(),
            dialer: cluster.dialer.clone(),
            now_us: cluster.now_us.clone(),
            timing: Timing { lease: std::time::Duration::from_secs(10) },
            instance: "test".into(),
            latency_limit: std::time::Duration::from_millis(100),
            back_when_uncovered: None,
        });
        let lines = |lines: &[(&str, &str)]| lines.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        AdminState {
            info: Arc::new(move || {
                vec![
                    ("Server".to_owned(), lines(&[("keyway_version", "0.1.0"), ("workers", "2")])),
                    ("Clients".to_owned(), lines(&[("connected_clients", "7")])),
                ]
            }),
            cluster,
            migrations,
            operators: Arc::new(Operators::new([], Throttle::new(0, 0))),
            events: Events::default(),
        }
    }

    /// A session in which a test says one line after the other.
    pub struct Talk {
        pub session: Session,
        pub state: AdminState,
    }

    impl Talk {
        pub fn new(state: AdminState) -> Talk {
            let session = Session::new(7, "127.0.0.1:5".to_owned(), state.operators.first());
            Talk { session, state }
        }

        /// The bytes that answer a line of words.
        pub fn say(&mut self, line: &str) -> String {
            let words: Vec<Bytes> = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
            let Outcome::Now(reply) = answer(&words, &mut self.session, &self.state) else { panic!("{line} asks the cluster") };
            let mut out = BytesMut::new();
            reply.write(self.session.proto, &mut out).expect("replies can be written");
            String::from_utf8_lossy(&out).into_owned()
        }
    }

    /// The bytes that answer a line of words, as sent to a client that has said HELLO `proto`.
    pub fn answer_to(line: &str, proto: Proto) -> String {
        let mut talk = Talk::new(state());
        talk.session.proto = proto;
        talk.say(line)
    }

    #[track_caller]
    pub fn check(line: &str, expected: &str) {
        assert_eq!(answer_to(line, Proto::Resp2), expected, "{line}");
    }

    #[track_caller]
    pub fn check3(line: &str, expected: &str) {
        assert_eq!(answer_to(line, Proto::Resp3), expected, "{line} (RESP3)");
    }

    #[test]
    fn what_is_unknown_is_answered_with_what_is_known() {
        check(
            "GET key",
            "-ERR unknown command 'GET'. This is Keyway's admin port (admin.listen): PROXY HELP lists its commands, clients \
             connect to proxy.listen\r\n",
        );
        check("proxy hlep", "-ERR unknown subcommand 'hlep' of PROXY. Syntax: PROXY HELP PROXY lists them\r\n");
        check("proxy", "-ERR wrong number of arguments for 'proxy' command. Syntax: PROXY subcommand [argument ...]\r\n");
        let hostile = answer_to("\r\n\0\u{7f}", Proto::Resp2);
        assert!(hostile.starts_with("-ERR unknown command '\\r\\n\\0\\u{7f}'.") && hostile.ends_with("\r\n"), "{hostile:?}");
        assert!(answer_to(&"x".repeat(5000), Proto::Resp2).len() < 400);
    }

    /// One definition per command: what is generated from the list can only be right if the list is.
    #[test]
    fn every_definition_is_complete_and_reachable() {
        for definition in COMMANDS {
            let name = definition.name;
            assert!(definition.syntax.starts_with(name), "{name}: the syntax does not begin with the name");
            assert!(!definition.summary.is_empty() && !definition.summary.ends_with('.'), "{name}: summary");
            assert!(definition.help.ends_with('.'), "{name}: help is whole sentences");
            assert!(COMMANDS.iter().filter(|other| other.name == name).count() == 1, "{name} is there twice");
            // Too many arguments for all but those that repeat one: the error must quote this very syntax.
            let reply = answer_to(&format!("{name}{}", " no-such-argument".repeat(20)), Proto::Resp2);
            let takes_any = definition.syntax.contains("...");
            assert!(takes_any || reply.contains(definition.syntax) || name == "HELLO", "{name}: {reply}");
        }
        assert!(COMMANDS.is_sorted_by_key(|definition| definition.name), "help shows them in this order");
    }
}
