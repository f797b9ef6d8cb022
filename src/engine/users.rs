//! Whom lanes are authenticated as, and how many clients are each of them.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    ids::{Micros, UserId},
    settings::Auth,
};

/// A password as a client sent it: not shown by `Debug`, and wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    pub fn new(text: &[u8]) -> Self {
        Password(Zeroizing::new(text.to_vec()))
    }

    /// The text itself, for a lane's greeting.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Takes the same time wherever two passwords of one length differ.
    fn is(&self, other: &Password) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("***")
    }
}

/// What a lane says first to become somebody.
#[derive(Clone, Debug)]
pub struct Login {
    /// `None`: the default user, by AUTH with one argument.
    pub name: Option<Box<[u8]>>,
    pub password: Password,
}

impl Login {
    /// The words of its AUTH.
    pub fn words(&self) -> Vec<&[u8]> {
        [&b"AUTH"[..]].into_iter().chain(self.name.as_deref()).chain([self.password.expose()]).collect()
    }

    fn is(&self, other: &Login) -> bool {
        self.name == other.name && self.password.is(&other.password)
    }
}

impl From<&Auth> for Login {
    fn from(auth: &Auth) -> Login {
        Login {
            name: auth.username.as_deref().map(|name| name.as_bytes().into()),
            password: Password::new(auth.password.as_bytes()),
        }
    }
}

/// One user whom lanes may be authenticated as.
#[derive(Debug, Default)]
struct Entry {
    /// It is another name for this one, whose lanes are lanes of their own.
    alias_of: Option<UserId>,
    /// `None`: nothing is said, a node takes the connection for its default user.
    login: Option<Login>,
    /// Clients that are this user, and those that a node is asked about at the moment.
    clients: u32,
    /// Since when there are none.
    idle_since: Micros,
    /// A node has let it in.
    verified: bool,
    /// A node has refused it something.
    restricted: bool,
    /// What this user may have the proxy itself do, as far as nodes have said since the last sweep.
    permitted: Permitted,
    /// It may not look at the cluster: SCAN does that as the proxy's own account.
    scans_as_service: bool,
}

/// A set of commands, by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Permitted(Vec<u64>);

impl Permitted {
    pub fn has(&self, id: u16) -> bool {
        self.0.get(usize::from(id / 64)).is_some_and(|word| word & 1 << (id % 64) != 0)
    }

    pub fn insert(&mut self, id: u16) {
        let word = usize::from(id / 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (id % 64);
    }
}

/// Lanes of a user without clients are kept so long: clients that come and go with every page find them again.
const IDLE_US: Micros = 30_000_000;

/// The users of the cluster that clients of this worker ride lanes of. The first is the one that every client begins as. An entry's
/// place is used again only after all lanes of its user were closed.
#[derive(Debug)]
pub(super) struct Users {
    entries: Vec<Option<Entry>>,
    service: UserId,
    users_max: usize,
}

/// There are as many users as there may be, and all of them have clients.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UsersUsedUp;

impl Users {
    /// `passthrough`: clients begin as nobody in particular, and the proxy's account is for itself. Else all clients are that account.
    pub fn new(service: Option<&Auth>, passthrough: bool, users_max: usize) -> Self {
        let entry = |login: Option<Login>| Some(Entry { login, clients: 1, verified: true, ..Entry::default() });
        let service = service.map(Login::from);
        match service {
            Some(service) if passthrough => {
                Users { entries: vec![entry(None), entry(Some(service))], service: UserId(1), users_max }
            }
            service => Users { entries: vec![entry(service)], service: UserId::default(), users_max },
        }
    }

    fn entry(&mut self, user: UserId) -> &mut Entry {
        self.entries[usize::from(user.0)].as_mut().expect("a user with clients or lanes is kept")
    }

    /// The proxy's own account.
    pub fn service(&self) -> UserId {
        self.service
    }

    /// What a lane of this user's says first, if anything.
    pub fn login(&self, user: UserId) -> Option<&Login> {
        self.entries.get(usize::from(user.0))?.as_ref()?.login.as_ref()
    }

    /// Its name, as the cluster knows it.
    pub fn name(&self, user: UserId) -> &[u8] {
        self.login(user).and_then(|login| login.name.as_deref()).unwrap_or(b"default")
    }

    /// The user with this name and password, for one more client. When there are too many, one without clients must go first: it is
    /// answered too, and its lanes are to be closed.
    pub fn acquire(&mut self, login: Login) -> Result<UserId, UsersUsedUp> {
        let own = usize::from(self.service.0) + 1;
        let known = (own..self.entries.len()).find(|place| {
            self.entries[*place]
                .as_ref()
                .is_some_and(|entry| entry.alias_of.is_none() && entry.login.as_ref().is_some_and(|known| known.is(&login)))
        });
        let place = match known {
            Some(place) => place,
            None => {
                let is_user = |entry: &&Option<Entry>| entry.as_ref().is_some_and(|entry| entry.alias_of.is_none());
                if self.entries[own..].iter().filter(is_user).count() >= self.users_max {
                    return Err(UsersUsedUp);
                }
                self.place(Entry { login: Some(login), ..Entry::default() }).ok_or(UsersUsedUp)?
            }
        };
        let user = UserId(place as u16);
        self.entry(user).clients += 1;
        Ok(user)
    }

    /// A free place for an entry, while there is one.
    fn place(&mut self, entry: Entry) -> Option<usize> {
        let own = usize::from(self.service.0) + 1;
        let free = (own..self.entries.len()).find(|place| self.entries[*place].is_none());
        let place = free.unwrap_or(self.entries.len());
        if place >= usize::from(u16::MAX) {
            return None;
        }
        if place == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[place] = Some(entry);
        Some(place)
    }

    /// Another name for a user, for lanes that are one client's own.
    pub fn alias(&mut self, of: UserId) -> Option<UserId> {
        let login = self.login(of).cloned();
        let place = self.place(Entry { alias_of: Some(of), login, clients: 1, verified: true, ..Entry::default() })?;
        Some(UserId(place as u16))
    }

    /// All lanes of an alias are closed.
    pub fn drop_alias(&mut self, alias: UserId) {
        debug_assert!(self.entry(alias).alias_of.is_some());
        self.entries[usize::from(alias.0)] = None;
    }

    /// Who it is, by whichever name.
    pub fn base(&self, user: UserId) -> UserId {
        let entry = self.entries.get(usize::from(user.0)).and_then(Option::as_ref);
        entry.and_then(|entry| entry.alias_of).unwrap_or(user)
    }

    /// One client more is this user.
    pub fn retain(&mut self, user: UserId) {
        self.entry(user).clients += 1;
    }

    /// One client less is this user.
    pub fn release(&mut self, user: UserId, now: Micros) {
        let entry = self.entry(user);
        entry.clients -= 1;
        entry.idle_since = now;
    }

    /// A node let this user in.
    pub fn verify(&mut self, user: UserId) {
        self.entry(user).verified = true;
    }

    /// Users without clients that need not be kept: of whom nobody knew that they are anybody, who were idle for long, and, if
    /// `pressed`, the one that was idle longest.
    pub fn unused(&self, now: Micros, pressed: bool) -> Vec<UserId> {
        let idle = || {
            self.entries
                .iter()
                .enumerate()
                .filter_map(|(place, entry)| Some((place, entry.as_ref()?)))
                .filter(|(_, entry)| entry.clients == 0)
        };
        let id = |(place, _): (usize, &Entry)| UserId(place as u16);
        let mut unused: Vec<UserId> =
            idle().filter(|(_, entry)| !entry.verified || entry.idle_since + IDLE_US < now).map(id).collect();
        if unused.is_empty() && pressed {
            unused.extend(idle().min_by_key(|(_, entry)| entry.idle_since).map(id));
        }
        unused
    }

    /// Forgets a user without clients, whose lanes are closed.
    pub fn forget(&mut self, user: UserId) {
        debug_assert_eq!(self.entry(user).clients, 0);
        self.entries[usize::from(user.0)] = None;
    }

    pub fn is_permitted(&self, user: UserId, command: u16) -> bool {
        self.entries[usize::from(user.0)].as_ref().is_some_and(|entry| entry.permitted.has(command))
    }

    pub fn permit(&mut self, user: UserId, command: u16) {
        self.entry(user).permitted.insert(command);
    }

    /// Rights change: what nodes said is asked again.
    pub fn forget_permissions(&mut self) {
        for entry in self.entries.iter_mut().flatten() {
            entry.permitted.0.clear();
            entry.scans_as_service = false;
        }
    }

    /// Whether what this user may do has to be asked: of the default user only once something was refused.
    pub fn is_restricted(&self, user: UserId) -> bool {
        user != UserId::default() || self.entries[0].as_ref().is_some_and(|entry| entry.restricted)
    }

    /// A node has refused this user something.
    pub fn restrict(&mut self, user: UserId) {
        self.entry(user).restricted = true;
    }

    pub fn scans_as_service(&self, user: UserId) -> bool {
        self.entries[usize::from(user.0)].as_ref().is_some_and(|entry| entry.scans_as_service)
    }

    pub fn scan_as_service(&mut self, user: UserId) {
        self.entry(user).scans_as_service = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(name: &str, password: &str) -> Login {
        Login { name: Some(name.as_bytes().into()), password: Password::new(password.as_bytes()) }
    }

    fn service() -> Auth {
        Auth { username: Some("proxy".into()), password: "secret".into() }
    }

    #[test]
    fn clients_begin_as_nobody_or_as_the_account() {
        let users = Users::new(Some(&service()), true, 10);
        assert!(users.login(UserId(0)).is_none());
        assert_eq!((users.name(UserId(0)), users.service()), (&b"default"[..], UserId(1)));
        assert_eq!(users.login(UserId(1)).map(Login::words), Some(vec![&b"AUTH"[..], b"proxy", b"secret"]));
        let users = Users::new(Some(&service()), false, 10);
        assert_eq!((users.name(UserId(0)), users.service()), (&b"proxy"[..], UserId(0)));
        let users = Users::new(None, true, 10);
        assert_eq!((users.login(UserId(0)).is_none(), users.service()), (true, UserId(0)));
    }

    #[test]
    fn a_user_is_a_name_and_a_password() {
        let mut users = Users::new(None, true, 10);
        let first = users.acquire(login("app", "one")).expect("room");
        assert_eq!(users.acquire(login("app", "one")), Ok(first));
        let others =
            [login("app", "two"), login("app", "on"), login("ap", "pone"), Login { name: None, password: Password::new(b"one") }];
        let mut seen = vec![first];
        for other in others {
            let user = users.acquire(other).expect("room");
            assert!(!seen.contains(&user));
            seen.push(user);
        }
        assert_eq!(users.name(seen[4]), b"default");
    }

    #[test]
    fn nobody_takes_the_account_of_the_proxy_by_knowing_its_password() {
        let mut users = Users::new(Some(&service()), true, 10);
        let user = users.acquire(login("proxy", "secret")).expect("room");
        assert_ne!(user, users.service(), "its lanes are counted and closed apart");
    }

    #[test]
    fn places_are_bounded_and_used_again() {
        let mut users = Users::new(None, true, 2);
        let one = users.acquire(login("a", "x")).expect("room");
        let two = users.acquire(login("b", "x")).expect("room");
        users.verify(one);
        assert_eq!(users.acquire(login("c", "x")), Err(UsersUsedUp));
        assert_eq!(users.unused(0, true), []);
        users.release(two, 5);
        assert_eq!(users.unused(5, false), [two], "no node let it in");
        users.forget(two);
        assert_eq!(users.acquire(login("c", "x")), Ok(two));
        users.release(one, 10);
        assert_eq!(users.unused(10, false), []);
        assert_eq!(users.unused(10, true), [one]);
        assert_eq!(users.unused(10 + IDLE_US + 1, false), [one]);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert!(!format!("{:?}", login("app", "hunter2")).contains("hunter2"));
    }
}
