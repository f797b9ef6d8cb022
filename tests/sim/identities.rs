//! Who a client is: what it says of itself, and that nothing it asks for is carried out in another's name.

use crate::{
    client::{Expect, Planned},
    truth::Tag,
    units::words,
    users::{self, User, WRONG_PASSWORD},
    world::World,
};

/// Who a client may be from one of its requests on; `None` is nobody yet.
pub type Since = (u32, Vec<Option<User>>);

impl World {
    pub fn may_be_bob(&self, index: usize) -> bool {
        let now = self.clients[index].names.last();
        now.is_some_and(|(_, users)| users.contains(&Some(User::Bob)))
    }

    /// Who a client may be when it asks for this.
    pub fn users_at(&self, index: usize, seq: u32) -> Vec<Option<User>> {
        let names = &self.clients[index].names;
        let at = names.iter().rev().find(|(since, _)| *since <= seq);
        at.map_or_else(|| vec![users::unnamed(&self.cluster)], |(_, users)| users.clone())
    }

    /// A client says who it is, or who it is not.
    pub fn ask_auth(&mut self, index: usize) {
        let user = *self.random.choice([User::Named, User::Alice, User::Bob].iter()).expect("three users");
        let right = self.random.u32(0..4) > 0;
        let free = user == User::Named && !self.cluster.locked;
        let user = if right || !free { user } else { User::Guessed };
        let password = if right { user.password() } else { User::Guessed.password() };
        let hello = self.random.u32(0..3) == 0;
        let version = if self.clients[index].asks_resp3 { "3" } else { "2" };
        let args = match hello {
            true => words(&["HELLO", version, "AUTH", user.name(), password]),
            false => words(&["AUTH", user.name(), password]),
        };
        let expect = if right || free { Expect::Named { user, hello } } else { Expect::Refused(format!("-{WRONG_PASSWORD}")) };
        if right || free {
            let seq = self.clients[index].seq;
            let mut users = self.users_at(index, seq);
            users.push(Some(user));
            self.clients[index].names.push((seq, users));
            // Often it waits until it is somebody.
            self.clients[index].awaits_name = self.random.bool();
        }
        let planned = Planned { args, expect, write: false };
        self.ask_planned(index, planned);
    }

    /// RESET makes it nobody in particular.
    pub fn unname(&mut self, index: usize) {
        let seq = self.clients[index].seq;
        let user = users::unnamed(&self.cluster);
        self.clients[index].names.push((seq, vec![user]));
    }

    /// It was told who it is now, or that it could not be found out.
    pub fn named(&mut self, index: usize, seq: u32, user: Option<User>) {
        self.named += u64::from(user.is_some());
        let client = &mut self.clients[index];
        client.awaits_name = false;
        let Some(place) = client.names.iter().position(|(since, _)| *since == seq) else { return };
        let before = if place == 0 { vec![users::unnamed(&self.cluster)] } else { client.names[place - 1].1.clone() };
        client.names[place].1 = user.map_or(before, |user| vec![Some(user)]);
    }

    /// A node carries out a request in the name of its connection's user.
    pub fn check_user(&mut self, index: usize, (client, seq): Tag) {
        if !self.families.auth || client as usize >= self.clients.len() {
            return;
        }
        let (user, expected) = (self.conns[index].caller.user, self.users_at(client as usize, seq));
        if !expected.contains(&user) {
            let text = format!("request {:?} rides a lane of {user:?}, its client is one of {expected:?}", (client, seq));
            self.truth.accuse(text);
        }
    }
}
