//! Who a client is: AUTH, HELLO (in `hello`), RESET, and what a client may ask that is nobody yet.
//!
//! Who is let in is the cluster's to say: an AUTH rides a private lane of exactly the name and password that it gives, so that it is
//! alone there (Redis 8.2.3 keeps back the answer to a failed AUTH that ends a pipeline) and nobody else feels it. A lane whose greeting
//! is refused passes that very error on. What follows an AUTH waits for it.

mod hello;

use crate::{
    access::Entrance,
    cluster::Slot,
    command::Command,
    resp::{Limits, Proto, ProtocolError, Span, encode},
};

use super::{
    Engine, Event, RefreshCause,
    ids::{ClientId, NONE, Ticket, UserId},
    lane::{Lease, Role, Via},
    local::{OK, SYNTAX},
    merge::{Job, Merge, Part},
    modes::Modes,
    pump::Retry,
    send::Target,
    session::{Ending, Pause, ReplyMode, Session, State},
    settings::Identity,
    since::{has_subcommands, is_valkey},
    tracking::NOBODY,
    users::{Login, Password},
};

use hello::{HelloJob, HelloStep};
pub(super) use hello::{hello_logs_in, hello_proto};

const WRONG_PASSWORD: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const NO_PASSWORD_SET: &[u8] = b"-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n";
const NO_AUTH: &[u8] = b"-NOAUTH Authentication required.\r\n";
const EXEC_WITHOUT_AUTH: &[u8] = b"-EXECABORT Transaction discarded because of: NOAUTH Authentication required.\r\n";

/// A login that a node is asked about.
#[derive(Debug)]
pub struct LoginJob {
    user: UserId,
    login: Login,
    /// What goes on when it succeeds; AUTH's answer if nothing does.
    hello: Option<HelloJob>,
}

impl Engine {
    /// Whether clients have to say who they are; also false while nobody knows.
    pub(super) fn default_is_locked(&self) -> bool {
        match &self.settings.identity {
            Identity::Proxy(accounts) => !accounts.default_is_open(),
            Identity::Passthrough => self.table.map.as_ref().is_some_and(|map| map.default_locked),
        }
    }

    /// Clients are users of the cluster.
    pub(super) fn is_passthrough(&self) -> bool {
        matches!(self.settings.identity, Identity::Passthrough)
    }

    /// Nobody knows yet whether they have to.
    fn awaits_default(&self) -> bool {
        matches!(self.settings.identity, Identity::Passthrough) && self.table.map.is_none()
    }

    /// The states in which a connection begins.
    pub(super) fn first_modes(&self) -> Modes {
        let mut modes = Modes::default();
        modes.set(Modes::LOCKED_OUT, self.awaits_default() || self.default_is_locked());
        modes.set(Modes::POLICED, self.settings.policy.denies_anything());
        modes
    }

    /// A map came. Who waits to say who he is need not if nobody has to; who did not have to when he came is not asked later.
    pub(super) fn default_user_told(&mut self) {
        if matches!(self.settings.identity, Identity::Passthrough) && !self.default_is_locked() {
            for (_, session) in self.clients.iter_mut() {
                session.modes.set(Modes::LOCKED_OUT, false);
            }
        }
    }

    /// Whether this client has to say who it is before anything else.
    pub(super) fn is_locked_out(&self, index: u32) -> bool {
        self.clients[index as usize].modes.has(Modes::LOCKED_OUT) && !self.awaits_default()
    }

    /// What is answered instead of a command to a client that is nobody yet. `None`: the command is carried out.
    pub(super) fn answer_stranger(
        &mut self,
        index: u32,
        command: &'static Command,
        frame: &[u8],
        spans: &[Span],
    ) -> Option<Result<(), Pause>> {
        if let Some(error) = self.stranger_limit(frame, spans) {
            self.protocol_error(index, error);
            return Some(Ok(()));
        }
        let subcommands = self.persona().is_some_and(has_subcommands);
        if command.flags.is_no_auth() && (subcommands || command.name != "RESET") {
            return None;
        }
        let accepted = command.accepts(spans.len()) || (!subcommands && command.name.contains('|'));
        if !accepted && !self.hides_from_strangers() {
            // Its own words about the arity come first. A lane of nobody's cannot carry it out either.
            return Some(self.send_any(index, frame));
        }
        self.reply_now(index, if command.name == "EXEC" { EXEC_WITHOUT_AUTH } else { NO_AUTH });
        Some(Ok(()))
    }

    /// As `answer_stranger`, for what the table does not hold.
    pub(super) fn answer_stranger_unknown(&mut self, index: u32, is_sub: bool, frame: &[u8]) -> Result<(), Pause> {
        if self.hides_from_strangers() || (is_sub && !self.persona().is_some_and(has_subcommands)) {
            self.reply_now(index, NO_AUTH);
            return Ok(());
        }
        self.send_any(index, frame)
    }

    /// Whether not even the names of commands are told to strangers, as in Valkey 9.1.
    fn hides_from_strangers(&self) -> bool {
        self.persona().is_some_and(|persona| is_valkey(persona) && persona.version_numbers() >= (9, 1, 0))
    }

    /// What a stranger may not send at all (since 7.0, and multibulk only).
    fn stranger_limit(&self, frame: &[u8], spans: &[Span]) -> Option<ProtocolError> {
        if self.inline || frame.first() != Some(&b'*') || !self.persona().is_some_and(has_subcommands) {
            return None;
        }
        if spans.len() > Limits::UNAUTHENTICATED_MULTIBULK_LEN_MAX {
            return Some(ProtocolError::UnauthenticatedMultibulkLength);
        }
        let long = spans.iter().any(|span| span.len as usize > Limits::UNAUTHENTICATED_BULK_LEN_MAX);
        long.then_some(ProtocolError::UnauthenticatedBulkLength)
    }

    /// Looks at a request that is not whole yet: strangers must not fill the memory. `Err`: it is refused, or has to wait until it is
    /// known whether this is a stranger.
    pub(super) fn look_at_unfinished(&mut self, index: u32, begun: &[u8]) -> Result<(), Unfinished> {
        let known = !self.awaits_default();
        if !self.clients[index as usize].modes.has(Modes::LOCKED_OUT) || (known && !self.persona().is_some_and(has_subcommands)) {
            return Ok(());
        }
        let limits = self.settings.limits.before_authentication();
        match crate::resp::RequestScanner::default().scan(begun, &mut Vec::new(), &limits) {
            Err(error) if known => Err(Unfinished::Refused(error)),
            Err(_) => Err(Unfinished::Wait),
            Ok(_) => Ok(()),
        }
    }

    pub(super) fn authenticate(&mut self, index: u32, arguments: &[&[u8]], frame: &[u8]) -> Result<(), Pause> {
        let login = match arguments {
            [_, password] => Login { name: None, password: Password::new(password) },
            [_, name, password] => Login { name: Some((*name).into()), password: Password::new(password) },
            _ => {
                self.reply_now(index, SYNTAX);
                return Ok(());
            }
        };
        self.barrier(index)?;
        if self.awaits_default() {
            return self.await_map(index, frame);
        }
        if matches!(self.settings.identity, Identity::Proxy(_)) {
            let reply = self.enter(index, &login).err().unwrap_or_else(|| OK.to_vec());
            self.reply_now(index, &reply);
            return Ok(());
        }
        self.ask_who(index, login, None);
        Ok(())
    }

    /// The proxy's own accounts decide.
    fn enter(&mut self, index: u32, login: &Login) -> Result<(), Vec<u8>> {
        let Identity::Proxy(accounts) = self.settings.identity.clone() else { return Ok(()) };
        self.may_try(index)?;
        match accounts.enter(login.name.as_deref(), login.password.expose()) {
            Entrance::As(name) => {
                self.counters.logins += 1;
                let session = &mut self.clients[index as usize];
                session.account = Some(name);
                session.modes.set(Modes::LOCKED_OUT, false);
                Ok(())
            }
            Entrance::NoPasswordSet => Err(NO_PASSWORD_SET.to_vec()),
            Entrance::Wrong => {
                self.note_failure(index);
                Err(WRONG_PASSWORD.to_vec())
            }
        }
    }

    /// A client's connection shows these names: the first of them that is a user's is whom it is without AUTH. Only where the proxy's own
    /// accounts decide.
    pub fn client_shows(&mut self, client: ClientId, names: &[String]) {
        let Identity::Proxy(accounts) = &self.settings.identity else { return };
        let Some(user) = accounts.shown(names) else { return };
        self.labels(client.0).shown = Some(user);
        self.counters.logins += 1;
        self.let_in_as_shown(client.0);
    }

    fn let_in_as_shown(&mut self, index: u32) {
        let session = &mut self.clients[index as usize];
        session.account = session.labels.as_ref().and_then(|labels| labels.shown.clone());
        if session.account.is_some() {
            session.modes.set(Modes::LOCKED_OUT, false);
        }
    }

    fn may_try(&mut self, index: u32) -> Result<(), Vec<u8>> {
        self.settings.throttle.check(&self.clients[index as usize].peer, self.now).map_err(|wait_us| {
            self.counters.throttled_logins += 1;
            let seconds = wait_us.div_ceil(1_000_000);
            format!("-ERR proxy: too many wrong passwords from this address (auth.failures): try again in {seconds} s\r\n")
                .into_bytes()
        })
    }

    fn note_failure(&mut self, index: u32) {
        self.counters.failed_logins += 1;
        self.settings.throttle.failed(&self.clients[index as usize].peer, self.now);
    }

    /// The lanes' user that a login would make of a client.
    fn user_of(&mut self, login: &Login) -> Result<UserId, Vec<u8>> {
        let first = self.users.acquire(login.clone());
        let acquired = first.or_else(|full| {
            self.drop_unused_users(true);
            self.users.acquire(login.clone()).map_err(|_| full)
        });
        acquired.map_err(|_| {
            let max = self.settings.users_max;
            format!("-ERR proxy: clients of {max} users are connected already, which is all that limits.users allows\r\n")
                .into_bytes()
        })
    }

    /// Asks a node about a login, and lets nothing overtake it.
    fn ask_who(&mut self, index: u32, login: Login, hello: Option<HelloJob>) {
        let user = match self.may_try(index).and_then(|()| self.user_of(&login)) {
            Ok(user) => user,
            Err(reply) => return self.reply_now(index, &reply),
        };
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        let via = Via { proto: Proto::Resp2, user };
        let merge = self.open_merge(index, seq, via, Job::Login(Box::new(LoginJob { user, login, hello })));
        self.raise_barrier(index);
        self.login_stage(merge);
    }

    /// Sends the AUTH of a login, alone on a lane of its own user.
    pub(super) fn login_stage(&mut self, index: u32) {
        let target = match &self.merges[index as usize].job {
            Job::Login(job) => self.reachable(Slot::of(job.login.name.as_deref().unwrap_or(b"default"))),
            _ => return,
        };
        let merge = &mut self.merges[index as usize];
        let Job::Login(job) = &merge.job else { return };
        let mut frame = Vec::new();
        encode::command(&mut frame, &job.login.words());
        let ticket = Ticket { client: merge.client, seq: merge.seq, part: 0 };
        let via = merge.via;
        merge.parts.push(Part { target, state: State::Sent { lane: NONE }, first: 0, count: 0 });
        merge.left += 1;
        let arrived = self.clients[ticket.client as usize].reply(ticket.seq).arrived;
        let mut retry = Retry::new(ticket, frame.into(), target, via, 0, arrived + self.settings.retry_deadline_us);
        retry.private = Some(None);
        self.hold(retry);
    }

    /// The owner of a slot that stands for any master, or another master while that one is out of reach.
    fn reachable(&self, slot: Slot) -> Target {
        let reached = |node: &super::ids::NodeId| {
            let entry = &self.table.nodes[usize::from(node.0)];
            !entry.failed && entry.dial_after_us <= self.now
        };
        match self.table.owner(slot) {
            Some(owner) if !reached(&owner) => self.table.masters().find(reached).map_or(Target::Any(slot), Target::Node),
            _ => Target::Any(slot),
        }
    }

    /// A node has answered a login. False: HELLO goes on with another one.
    pub(super) fn logged_in(&mut self, merge: &mut Merge, out: &mut Vec<u8>) -> bool {
        let Job::Login(job) = std::mem::replace(&mut merge.job, Job::Sum) else { return true };
        let client = merge.client;
        if merge.reply(0) != OK {
            let reply = merge.reply(0);
            if reply.starts_with(b"-WRONGPASS") {
                self.note_failure(client);
            }
            out.extend_from_slice(reply);
            self.users.release(job.user, self.now);
            self.drop_unused_users(false);
            return true;
        }
        self.counters.logins += 1;
        self.users.verify(job.user);
        self.become_user(client, job.user);
        let Some(mut hello) = job.hello else {
            out.extend_from_slice(OK);
            return true;
        };
        let login = match self.hello_goes_on(client, &mut hello) {
            HelloStep::Reply(reply) => {
                out.extend_from_slice(&reply);
                return true;
            }
            HelloStep::Ask(login) => login,
        };
        match self.may_try(client).and_then(|()| self.user_of(&login)) {
            Ok(user) => {
                merge.via.user = user;
                merge.next_stage(Job::Login(Box::new(LoginJob { user, login, hello: Some(hello) })));
                false
            }
            Err(reply) => {
                out.extend_from_slice(&reply);
                true
            }
        }
    }

    /// From now on a client rides lanes of this user, who was acquired for it.
    fn become_user(&mut self, index: u32, user: UserId) {
        let session = &mut self.clients[index as usize];
        session.modes.set(Modes::LOCKED_OUT, false);
        let before = std::mem::replace(&mut session.user, user);
        if before != user
            && let Some(transaction) = session.transaction.as_mut()
        {
            // The lanes that watch for it are the other user's: what they would carry out must not be done in his name.
            transaction.break_watches();
        }
        self.users.release(before, self.now);
        self.follow_user(index);
    }

    /// As a new connection.
    pub(super) fn reset(&mut self, index: u32) -> Result<(), Pause> {
        let session = &self.clients[index as usize];
        if session.proto != Proto::Resp2 || session.rides != UserId::default() {
            self.barrier(index)?;
        }
        self.leave_all(index);
        self.drop_transaction(index);
        self.end_monitor(index);
        self.end_tracking(index);
        self.users.retain(UserId::default());
        self.become_user(index, UserId::default());
        let mut modes = self.first_modes();
        modes.set(self.pause_mode(), true);
        let session = &mut self.clients[index as usize];
        session.modes = modes;
        session.proto = Proto::Resp2;
        session.reply_mode = ReplyMode::On;
        if let Some(labels) = session.labels.as_mut() {
            labels.name.clear();
            (labels.no_evict, labels.no_touch) = (false, false);
            labels.operator = None;
        }
        self.let_in_as_shown(index);
        self.reply_now(index, b"+RESET\r\n");
        Ok(())
    }

    /// Whether a refused greeting is about clients, and no fault of the proxy's own account, or of the node.
    pub(super) fn says_who_clients_are(&self, user: UserId, error: &[u8]) -> bool {
        let own = user == self.users.service() && (user != UserId::default() || self.settings.auth.is_some());
        !own && [&b"-WRONGPASS"[..], b"-NOAUTH", b"-NOPERM", b"-ERR AUTH "].iter().any(|code| error.starts_with(code))
    }

    /// A node does not take a lane's user. What waits on the lane is told so, and whoever is that user is nobody any more: he is let
    /// go, as a server lets go the clients of a user that is deleted. It says nothing about the node.
    pub(super) fn refuse_user(&mut self, index: u32, error: &[u8]) {
        let via = self.lanes[index as usize].via;
        let queue = std::mem::take(&mut self.lanes[index as usize].queue);
        self.close_lane(index);
        let user = self.users.base(via.user);
        let nobody = user == UserId::default();
        if nobody {
            self.refresh(RefreshCause::DefaultUser);
        }
        let error = if nobody { NO_AUTH } else { error };
        for entry in queue {
            if entry.ticket == NOBODY {
                self.nobody_answered(via.user);
                continue;
            }
            let Ticket { client, seq, .. } = entry.ticket;
            let asks = match self.clients[client as usize].reply(seq).state {
                State::Merging { merge } => matches!(self.merges[merge as usize].job, Job::Login(_)),
                _ => false,
            };
            self.drop_retry(entry.retry);
            self.deliver(entry.ticket, error);
            if !asks && !nobody && self.clients[client as usize].user == user {
                self.end_after_replies(client);
            }
        }
    }

    /// Lets go everybody who is this user, unless that is nobody in particular.
    pub(super) fn close_clients_of(&mut self, user: UserId) {
        let own = |session: &Session| session.user == user && session.ending != Ending::Gone && !session.close_told;
        for (index, session) in self.clients.iter_mut().filter(|(_, session)| user != UserId::default() && own(session)) {
            session.close_told = true;
            self.events.push_back(Event::CloseClient { client: ClientId(index as u32) });
        }
    }

    /// Closes a lane that nothing is in flight on, or whose requests the caller has taken.
    pub(super) fn close_lane(&mut self, index: u32) {
        let mut lane = self.lanes.remove(index as usize);
        debug_assert!(lane.queue.is_empty());
        match lane.role {
            Role::Shared { bulk } => self.table.node(lane.node).set_lane(lane.via, bulk, NONE),
            Role::Private(lease) => self.private.forget(index, lease),
            Role::Push => self.push_lane_lost(index, &lane),
            Role::Monitor { client } => self.monitor_lane_lost(lane.id, client),
        }
        self.table.node(lane.node).lane_closed();
        self.events.push_back(Event::CloseLane { lane: lane.id });
        for client in std::mem::take(&mut lane.blocked) {
            self.resume_later(client);
        }
    }

    /// Closes the lanes of users that no client is any more, and forgets them. `pressed`: one at least must go.
    pub(super) fn drop_unused_users(&mut self, pressed: bool) {
        for user in self.users.unused(self.now, pressed) {
            let lanes: Vec<u32> =
                self.lanes.iter().filter(|(_, lane)| lane.via.user == user).map(|(index, _)| index as u32).collect();
            let is_free = |lane: &u32| {
                let lane = &self.lanes[*lane as usize];
                lane.queue.is_empty() && matches!(lane.role, Role::Shared { .. } | Role::Private(Lease::Idle { .. }))
            };
            if lanes.iter().all(is_free) && !self.pubsub.is_used_by(user) {
                lanes.into_iter().for_each(|lane| self.close_lane(lane));
                self.users.forget(user);
                // What servers said of the commands of whoever had this place before.
                self.checked.clear();
            }
        }
    }

    /// A node has refused a request of a lane's user.
    pub(super) fn note_refusal(&mut self, lane: u32, line: &[u8]) {
        let user = self.lanes[lane as usize].via.user;
        if line.starts_with(b"NOAUTH") {
            self.refresh(RefreshCause::DefaultUser);
        } else {
            self.users.restrict(self.users.base(user));
        }
    }

    /// The name that ACL WHOAMI and CLIENT LIST show.
    pub(super) fn user_name(&self, session: &Session) -> Vec<u8> {
        match (&self.settings.identity, &session.account) {
            (Identity::Passthrough, _) => self.users.name(session.user).to_vec(),
            (Identity::Proxy(_), Some(account)) => account.to_vec(),
            (Identity::Proxy(_), None) => b"default".to_vec(),
        }
    }

    /// ACL WHOAMI: the cluster knows who its users are; of the proxy's own it knows nothing.
    pub(super) fn who_am_i(&mut self, index: u32, frame: &[u8]) -> Result<(), Pause> {
        if matches!(self.settings.identity, Identity::Passthrough) {
            return self.send_any(index, frame);
        }
        let mut reply = Vec::new();
        encode::bulk(&mut reply, self.user_name(&self.clients[index as usize]));
        self.reply_now(index, &reply);
        Ok(())
    }
}

/// What to do with a request that is not whole.
pub(super) enum Unfinished {
    Refused(ProtocolError),
    Wait,
}

#[cfg(test)]
mod tests;
