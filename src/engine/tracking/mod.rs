//! CLIENT TRACKING: whoever caches what it read is told when it changes.
//!
//! A tracking client rides lanes of its own, whose greeting ends in CLIENT TRACKING ON: the nodes themselves remember what it read, and
//! what they say of it goes to the client, behind the replies that came before. Nothing changes on the request path: the lanes
//! go by a user of their own, an alias of the client's, and NOLOOP is exact because nobody else rides them.
//!
//! A node remembers for a connection only. When one is lost, or a slot has another owner, what was cached before is watched by nobody:
//! the client is told to drop all of it, as a server does whose table overflows.

mod commands;
mod lanes;
mod options;
mod redirect;

use rustc_hash::FxHashMap;

use crate::resp::Proto;

use self::options::Options;
pub use self::redirect::Invalidation;
pub(super) use self::{lanes::NOBODY, options::Asked};
use super::{
    Engine,
    ids::{Micros, UserId},
    modes::Modes,
};

/// Each has a name of its own among the users, of which there are twice as many and more.
const TRACKERS_MAX: usize = 30_000;

/// One tracking client.
struct Tracker {
    options: Options,
    /// The user that its lanes go by; `None` in RESP2 without REDIRECT, where nobody can be told.
    alias: Option<UserId>,
    /// CLIENT CACHING was said, for the next command.
    caching: Option<bool>,
    /// The reply that is owed until every master broadcasts, and until when it is waited for.
    owed: Option<(u32, Micros)>,
    /// What its lanes have asked their nodes for it, and was not answered yet.
    unanswered: usize,
    /// Whom REDIRECT names is gone.
    broken: bool,
}

/// All tracking clients of the worker.
#[derive(Default)]
pub(super) struct Trackers {
    by_client: FxHashMap<u32, Tracker>,
    by_alias: FxHashMap<u16, u32>,
    /// What the nodes call the connections that catch what is told of RESP2's, by the lane's place.
    catchers: FxHashMap<u32, Vec<u8>>,
    /// Requests that were sent behind CLIENT CACHING YES: the last of each client.
    led: FxHashMap<u32, u32>,
    /// Those of them that were sent again, so that nobody watches what they read: client and number.
    unwatched: Vec<(u32, u32)>,
    /// Clients of this worker that others redirect to, by their CLIENT ID.
    targets: FxHashMap<u64, u32>,
}

impl Trackers {
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// Whose lanes these are.
    pub fn client_of(&self, user: UserId) -> Option<u32> {
        self.by_alias.get(&user.0).copied()
    }
}

impl Engine {
    /// Begins, goes on in another way, or ends: nothing of the client is in flight.
    fn track(&mut self, client: u32, options: Option<Options>) -> Result<(), String> {
        let Some(options) = options else {
            self.end_tracking(client);
            return Ok(());
        };
        let masters = self.table.masters().count();
        let lanes_each = masters * if options.redirect.is_some() { 2 } else { 1 };
        let most = (self.settings.private_lanes_max / lanes_each.max(1)).min(TRACKERS_MAX);
        if self.trackers.by_client.len() >= most && !self.trackers.by_client.contains_key(&client) {
            return Err(format!(
                "ERR proxy: too many clients track: a worker serves {most}, which may need {lanes_each} lanes each (limits.private_lanes)"
            ));
        }
        self.clients[client as usize].modes.set(Modes::CACHING, false);
        match self.trackers.by_client.get_mut(&client) {
            Some(tracker) => {
                let redirects = tracker.options.redirect.is_some() || options.redirect.is_some();
                (tracker.options, tracker.caching, tracker.broken) = (options, None, false);
                if redirects {
                    // Whom a node tells is said once, when the lane is greeted.
                    self.leave_alias(client);
                } else {
                    self.tell_lanes_again(client);
                }
            }
            None => {
                let tracker = Tracker { options, alias: None, caching: None, owed: None, unanswered: 0, broken: false };
                self.trackers.by_client.insert(client, tracker);
            }
        }
        if self.trackers.by_client.get(&client).is_some_and(|tracker| tracker.alias.is_none()) {
            self.follow_proto(client);
        }
        Ok(())
    }

    /// The client's lanes are its own where it can be told something, else everybody's. Nothing of it is in flight.
    pub(super) fn follow_proto(&mut self, client: u32) {
        let Some(tracker) = self.trackers.by_client.get_mut(&client) else { return };
        let session = &mut self.clients[client as usize];
        let told = session.proto == Proto::Resp3 || tracker.options.redirect.is_some();
        match (told, tracker.alias) {
            (true, None) => {
                // There are fewer tracking clients than places.
                let Some(alias) = self.users.alias(session.user) else { return };
                tracker.alias = Some(alias);
                session.rides = alias;
                self.trackers.by_alias.insert(alias.0, client);
                self.dial_tracker(client);
            }
            (true, Some(_)) => {
                // It changed between protocols, and its lanes with it.
                self.leave_alias(client);
                self.follow_proto(client);
                self.drop_all(client);
            }
            (false, Some(_)) => self.leave_alias(client),
            (false, None) => {}
        }
    }

    /// The client's user is another one now: so are its lanes.
    pub(super) fn follow_user(&mut self, client: u32) {
        if self.trackers.by_client.get(&client).is_some_and(|tracker| tracker.alias.is_some()) {
            self.leave_alias(client);
            self.follow_proto(client);
            self.drop_all(client);
        } else {
            let session = &mut self.clients[client as usize];
            session.rides = session.user;
        }
    }

    fn leave_alias(&mut self, client: u32) {
        let Some(alias) = self.trackers.by_client.get_mut(&client).and_then(|tracker| tracker.alias.take()) else { return };
        let session = &mut self.clients[client as usize];
        session.rides = session.user;
        self.close_alias(alias);
        self.trackers.by_client.entry(client).and_modify(|tracker| tracker.unanswered = 0);
    }

    /// The client tracks no more: it said so, or is gone and nothing of it is in flight.
    pub(super) fn end_tracking(&mut self, client: u32) {
        if self.trackers.is_empty() && self.trackers.targets.is_empty() {
            return;
        }
        if self.trackers.by_client.contains_key(&client) {
            self.leave_alias(client);
            self.trackers.by_client.remove(&client);
            self.trackers.led.remove(&client);
            self.clients[client as usize].modes.set(Modes::CACHING, false);
        }
    }

    /// Whether the client tracks, in which way, and whom it redirects to: `t`, `R` and `B` of CLIENT LIST, and its `redir`.
    pub(super) fn tracking_shown(&self, client: u32) -> (bool, bool, bool, i64) {
        let Some(tracker) = self.trackers.by_client.get(&client) else { return (false, false, false, -1) };
        let broadcasts = tracker.options.choice == options::Choice::Broadcast;
        (true, tracker.broken, broadcasts, tracker.options.redirect.unwrap_or(0))
    }
}
