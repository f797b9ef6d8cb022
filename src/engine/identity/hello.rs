//! HELLO: the protocol, a name and a login in one command.

use std::collections::VecDeque;

use crate::{cluster::Persona, resp::Proto};

use crate::engine::{
    Engine,
    local::{BAD_NAME, is_plain, strict_integer},
    modes::Modes,
    persona,
    session::Pause,
    settings::Identity,
    users::{Login, Password},
};

/// What is left to do of a HELLO.
#[derive(Debug)]
pub struct HelloJob {
    proto: Option<Proto>,
    options: VecDeque<HelloOption>,
    /// Where its options are not read before they are carried out: what is wrong behind them.
    mistake: Option<Vec<u8>>,
}

#[derive(Debug)]
enum HelloOption {
    Auth(Login),
    Name(Vec<u8>),
}

/// How far a HELLO comes by itself.
pub enum HelloStep {
    Ask(Login),
    Reply(Vec<u8>),
}

impl Engine {
    /// HELLO in all its forms. Since 7.2 all options are read before any of them does something; before, each does as it is read.
    pub(in crate::engine) fn hello(&mut self, index: u32, arguments: &[&[u8]], frame: &[u8]) -> Result<(), Pause> {
        if self.table.map.is_none() {
            return self.await_map(index, frame);
        }
        let proto = match arguments.get(1).map(|version| protocol(version)).transpose() {
            Ok(proto) => proto,
            Err(error) => {
                self.reply_now(index, error);
                return Ok(());
            }
        };
        let (mut options, mut mistake) = hello_options(arguments.get(2..).unwrap_or_default());
        if self.persona().is_some_and(reads_options_first) {
            if let Some(error) = mistake.take() {
                self.reply_now(index, &error);
                return Ok(());
            }
            options = last_of_each(options);
        }
        // What follows rides other lanes, and must not overtake what is in flight on these.
        let logs_in = options.iter().any(|option| matches!(option, HelloOption::Auth(_)));
        if logs_in || proto.is_some_and(|proto| proto != self.clients[index as usize].proto) {
            self.barrier(index)?;
        }
        let mut hello = HelloJob { proto, options, mistake };
        match self.hello_goes_on(index, &mut hello) {
            HelloStep::Reply(reply) => self.reply_now(index, &reply),
            HelloStep::Ask(login) => self.ask_who(index, login, Some(hello)),
        }
        Ok(())
    }

    pub(super) fn hello_goes_on(&mut self, index: u32, hello: &mut HelloJob) -> HelloStep {
        let reads_first = self.persona().is_some_and(reads_options_first);
        while let Some(option) = hello.options.pop_front() {
            match option {
                // The name is given only to somebody.
                HelloOption::Name(_) if reads_first && self.clients[index as usize].modes.has(Modes::LOCKED_OUT) => break,
                HelloOption::Name(name) => self.labels(index).name = name,
                HelloOption::Auth(login) if matches!(self.settings.identity, Identity::Passthrough) => {
                    return HelloStep::Ask(login);
                }
                HelloOption::Auth(login) => {
                    if let Err(reply) = self.enter(index, &login) {
                        return HelloStep::Reply(reply);
                    }
                }
            }
        }
        if let Some(mistake) = hello.mistake.take() {
            return HelloStep::Reply(mistake);
        }
        let persona = self.persona().cloned().unwrap_or_default();
        let session = &mut self.clients[index as usize];
        if session.modes.has(Modes::LOCKED_OUT) {
            let form = if reads_options_first(&persona) { "HELLO <proto> AUTH" } else { "HELLO AUTH" };
            return HelloStep::Reply(
                format!(
                    "-NOAUTH HELLO must be called with the client already authenticated, otherwise the {form} <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
                )
                .into_bytes(),
            );
        }
        let before = session.proto;
        session.proto = hello.proto.unwrap_or(before);
        let switched = before != session.proto;
        let reply = persona::hello(&persona, session.proto, session.public_id, session.face);
        self.note_subscribed_mode(index);
        if switched {
            self.follow_proto(index);
        }
        HelloStep::Reply(reply)
    }
}

/// Whether HELLO reads all its options before any of them does something.
fn reads_options_first(persona: &Persona) -> bool {
    persona.version_numbers() >= (7, 2, 0)
}

fn protocol(version: &[u8]) -> Result<Proto, &'static [u8]> {
    match strict_integer(version) {
        Some(2) => Ok(Proto::Resp2),
        Some(3) => Ok(Proto::Resp3),
        Some(_) => Err(b"-NOPROTO unsupported protocol version\r\n"),
        None => Err(b"-ERR Protocol version is not an integer or out of range\r\n"),
    }
}

/// The protocol that a HELLO changes to, if nothing is wrong with it. `arguments` begin with its own name.
pub fn hello_proto(arguments: &[&[u8]]) -> Option<Proto> {
    let proto = protocol(arguments.get(1)?).ok()?;
    hello_options(arguments.get(2..)?).1.is_none().then_some(proto)
}

/// Whether a HELLO wants to be another user.
pub fn hello_logs_in(arguments: &[&[u8]]) -> bool {
    let options = hello_options(arguments.get(2..).unwrap_or_default()).0;
    options.iter().any(|option| matches!(option, HelloOption::Auth(_)))
}

/// The options up to the first mistake, and the mistake.
fn hello_options(mut rest: &[&[u8]]) -> (VecDeque<HelloOption>, Option<Vec<u8>>) {
    let mut options = VecDeque::new();
    while let Some(option) = rest.first() {
        match (option.to_ascii_uppercase().as_slice(), rest) {
            (b"AUTH", [_, name, password, others @ ..]) => {
                options.push_back(HelloOption::Auth(Login { name: Some((*name).into()), password: Password::new(password) }));
                rest = others;
            }
            (b"SETNAME", [_, name, others @ ..]) => {
                if !is_plain(name) {
                    return (options, Some(BAD_NAME.to_vec()));
                }
                options.push_back(HelloOption::Name(name.to_vec()));
                rest = others;
            }
            _ => {
                let option = String::from_utf8_lossy(option).replace(['\r', '\n'], " ");
                return (options, Some(format!("-ERR Syntax error in HELLO option '{option}'\r\n").into_bytes()));
            }
        }
    }
    (options, None)
}

/// The last AUTH, then the last name: what newer servers make of options that repeat.
fn last_of_each(options: VecDeque<HelloOption>) -> VecDeque<HelloOption> {
    let (mut logins, mut names): (Vec<_>, Vec<_>) =
        options.into_iter().partition(|option| matches!(option, HelloOption::Auth(_)));
    logins.pop().into_iter().chain(names.pop()).collect()
}
