//! What a client makes of the answers.

use std::collections::HashSet;

use keyway::resp::{View, view};

use crate::{
    client::{Expect, Life, Owed, Role},
    queues::Shape,
    tags::{parse_tag, tag_text},
    truth::Tag,
    users::User,
    world::{What, World},
};

impl World {
    /// One reply reached a client.
    pub fn client_reads_reply(&mut self, index: usize, reply: &[u8]) {
        let now = self.now;
        if self.trace {
            println!(
                "{now:>9} client {index} reads {}",
                String::from_utf8_lossy(&reply[..reply.len().min(120)]).replace("\r\n", "|")
            );
        }
        if self.hears(index, reply) {
            return;
        }
        let client = &mut self.clients[index];
        client.answered += 1;
        let Some(owed) = client.owed.pop_front() else {
            return self
                .truth
                .accuse(format!("client {index} was told {:?} and was owed nothing", String::from_utf8_lossy(reply)));
        };
        if self.clients[index].confused {
            return self.abandon(&[owed]);
        }
        if reply.first() == Some(&b'-') && self.is_allowed_error(index, &owed, reply) {
            return self.told_error(index, &owed);
        }
        if let Err(why) = self.check_reply(index, &owed, reply) {
            let tag = (index as u32, owed.seq);
            let text = format!(
                "client {index} request {} ({:?}) was answered {:?}: {why}{}",
                owed.seq,
                owed.expect,
                String::from_utf8_lossy(&reply[..reply.len().min(300)]),
                self.truth.describe(tag)
            );
            self.truth.accuse(text);
        }
    }

    /// What a client makes of an error that may come.
    fn told_error(&mut self, index: usize, owed: &Owed) {
        match &owed.expect {
            Expect::Scan => self.clients[index].scan = None,
            Expect::Begun => {
                self.clients[index].confused = true;
                self.later(0, What::GiveUp(index));
            }
            // Also where another error was expected: what its consequences are is not known then.
            Expect::Queued | Expect::Refused(_) => self.clients[index].spoiled = true,
            Expect::Watched => self.clients[index].watch_failed = true,
            Expect::Compare(key) => self.compare(index, &key.clone(), Err(())),
            Expect::Confirmed { .. } => self.listening_failed(index, owed),
            Expect::Named { .. } => self.named(index, owed.seq, None),
            // It was to listen in RESP3.
            Expect::Hello if self.clients[index].role == Role::Both => self.later(0, What::GiveUp(index)),
            _ => {}
        }
    }

    pub fn is_allowed_error(&mut self, index: usize, owed: &Owed, reply: &[u8]) -> bool {
        let tag = (index as u32, owed.seq);
        let text = String::from_utf8_lossy(reply);
        if matches!(&owed.expect, Expect::Forged(forged) if forged == reply) {
            return true;
        }
        if text.contains("NOAUTH ") {
            return self.users_at(index, owed.seq).contains(&None);
        }
        match &owed.expect {
            Expect::Refused(beginning) if text.starts_with(beginning) => return true,
            Expect::Unit(unit) => return self.is_allowed_unit_error(*unit, owed, &text),
            _ => {}
        }
        if text.contains("proxy: outcome unknown") {
            self.unknown_outcomes += 1;
            let untagged = matches!(
                owed.expect,
                Expect::Counter(_) | Expect::Count(_) | Expect::Sha(_) | Expect::Unknown | Expect::Popped { .. }
            );
            return owed.write && (untagged || self.truth.is_unknown(tag));
        }
        if text == "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n" {
            return owed.expect.waits() && self.unblocked.contains(&self.clients[index].public_id);
        }
        if text.starts_with("-CROSSSLOT") {
            // The transaction is of another slot than planned, because a command of it was not queued.
            return matches!(owed.expect, Expect::Queued) && self.clients[index].spoiled;
        }
        if text.starts_with("-NOPERM") {
            return owed.forbidden && self.users_at(index, owed.seq).contains(&Some(User::Bob));
        }
        if text.starts_with("-ERR Protocol error: unauthenticated") {
            // Strangers have smaller limits, and are cut off at them.
            self.clients[index].confused = true;
            return self.users_at(index, owed.seq).contains(&None);
        }
        if is_giving_up(&text) {
            self.gave_up += 1;
            let done = owed.write && owed.one_slot && self.truth.was_applied(tag) && !matches!(owed.expect, Expect::Forged(..));
            return self.may_give_up(owed) && !done;
        }
        matches!(owed.expect, Expect::Unknown) && text.starts_with("-ERR unknown command 'NOSUCH'")
    }

    /// Whether a request's time is over, and all has not been calm for long.
    pub fn may_give_up(&self, owed: &Owed) -> bool {
        let in_time = self.now < owed.sent_at + self.plan.deadline_us;
        // A deadline may be shorter than what a slow network needs.
        let calm = self.plan.deadline_us > 800_000 && self.calm_since.is_some_and(|calm| calm + 2_500_000 < self.now);
        !in_time && !calm
    }

    fn check_reply(&mut self, index: usize, owed: &Owed, reply: &[u8]) -> Result<(), String> {
        let client = &mut self.clients[index];
        match (&owed.expect, reply[0]) {
            (Expect::Hello, kind) => {
                client.resp3 = kind == b'%';
                client.compares &= client.role != Role::Both;
            }
            (Expect::Exact(text), _) if text == b"+RESET\r\n" => client.resp3 = false,
            (Expect::Named { hello: true, .. }, kind) => client.resp3 = kind == b'%',
            (Expect::Confirmed { .. }, kind @ (b'>' | b'*')) if (kind == b'>') != client.resp3 => {
                return Err("it has the other protocol's shape".into());
            }
            (_, b'_' | b'%' | b'~' | b'=') if !client.resp3 => return Err("a RESP2 client does not read this".into()),
            _ if client.resp3 && (reply.starts_with(b"$-1") || reply.starts_with(b"*-1")) => {
                return Err("a RESP3 client does not read this".into());
            }
            _ => {}
        }
        if owed.forbidden && self.users_at(index, owed.seq) == [Some(User::Bob)] {
            return Err("its user may not do this".into());
        }
        let leaves = self.clients[index].wants_close;
        let anybodys = match &owed.expect {
            Expect::Named { .. } => true,
            // RESET and QUIT.
            Expect::Exact(text) if text == b"+RESET\r\n" || (leaves && text == b"+OK\r\n") => true,
            // As long as the engine cannot know, it answers PING and ECHO.
            Expect::Exact(_) => {
                let knows_since = self.drivers[self.clients[index].engine].knows_since;
                knows_since.is_none_or(|since| owed.sent_at < since)
            }
            _ => false,
        };
        if self.families.auth && !anybodys && self.users_at(index, owed.seq) == [None] {
            return Err("its client is locked out".into());
        }
        match &owed.expect {
            Expect::Unit(unit) => self.check_unit_reply(index, *unit, owed.sent_at, reply),
            _ => self.check_element(index, owed, reply),
        }
    }

    /// A reply, or an element of EXEC's array.
    pub fn check_element(&mut self, index: usize, owed: &Owed, reply: &[u8]) -> Result<(), String> {
        let tag = (index as u32, owed.seq);
        let seen = view(reply).ok_or("it cannot be read")?;
        match (&owed.expect, seen) {
            (Expect::Exact(expected), _) => (expected == reply).then_some(()).ok_or("another text was expected".into()),
            (Expect::Hello, View::Map(_) | View::Array(_)) => Ok(()),
            (Expect::Clients, View::Bulk(text) | View::Verbatim(text)) if text.starts_with(b"id=") => Ok(()),
            (Expect::Written(keys), View::Simple(b"OK")) => self.applied_once(tag, keys),
            (Expect::Pushed(key), View::Integer(_)) => {
                self.clients[index].acked.entry(key.clone()).or_default().push(owed.seq);
                self.applied_once(tag, std::slice::from_ref(key))
            }
            (Expect::Script(key), View::Bulk(text)) if text == tag_text(tag).as_bytes() => {
                self.clients[index].acked.entry(key.clone()).or_default().push(owed.seq);
                self.applied_once(tag, std::slice::from_ref(key))
            }
            (Expect::Text(key), found) => is_text_of(key, &found),
            (Expect::Texts(keys), View::Array(elements)) if elements.len() == keys.len() => keys
                .iter()
                .zip(elements)
                .try_for_each(|(key, element)| is_text_of(key, &view(element).ok_or("unreadable element")?)),
            (Expect::List(key), View::Array(elements)) => {
                self.check_list(index, owed.seq, key, elements.map(<[u8]>::to_vec).collect())
            }
            (Expect::Count(most), View::Integer(count)) if (0..=*most as i64).contains(&count) => Ok(()),
            (Expect::Counter(key), View::Integer(count)) => {
                let new = self.clients[index].counters.entry(key.clone()).or_default().insert(count);
                new.then_some(()).ok_or("the counter stood there before".into())
            }
            (Expect::Scan, View::Array(mut elements)) if elements.len() == 2 => {
                let cursor = elements.next().and_then(view);
                let keys = elements.next().and_then(view);
                self.check_page(index, cursor, keys)
            }
            (Expect::Begun, View::Simple(b"OK")) => {
                self.clients[index].spoiled = false;
                Ok(())
            }
            // What it was to clash with was not queued.
            (Expect::Refused(_), View::Simple(b"QUEUED")) if self.clients[index].spoiled => Ok(()),
            (Expect::Queued, View::Simple(b"QUEUED")) | (Expect::Watched, View::Simple(b"OK")) => Ok(()),
            (Expect::Compare(key), found) => {
                is_text_of(key, &found)?;
                let old = if let View::Bulk(text) = found { parse_tag(text) } else { None };
                self.compare(index, key, Ok(old));
                Ok(())
            }
            (Expect::Lasting(keys), View::Array(elements)) => keys
                .iter()
                .zip(elements)
                .take(1)
                .try_for_each(|(key, element)| is_text_of(key, &view(element).ok_or("unreadable")?)),
            (Expect::Job(key), View::Integer(_)) => self.applied_once(tag, std::slice::from_ref(key)),
            (Expect::Popped { .. }, View::Null) => self.check_popped(index, owed, None, None),
            (Expect::Popped { shape: Shape::Element, .. }, View::Bulk(element)) => {
                self.check_popped(index, owed, None, Some(element))
            }
            (Expect::Popped { shape, .. }, View::Array(mut elements)) if elements.len() == 2 => {
                let (key, element) = (elements.next().and_then(view), elements.next().and_then(view));
                let element = match element {
                    Some(View::Array(mut inner)) if *shape == Shape::Nested => inner.next().and_then(view),
                    element => element,
                };
                let (Some(View::Bulk(key)), Some(View::Bulk(element))) = (key, element) else { return Err("no element".into()) };
                self.check_popped(index, owed, Some(key), Some(element))
            }
            (Expect::Handed { timeout_us, .. }, View::Null) => self.check_not_early(index, owed, Some(*timeout_us)),
            (Expect::Handed { own, .. }, View::Bulk(_)) => self.applied_once(tag, std::slice::from_ref(own)),
            (Expect::Published(object), View::Integer(0..)) => self.applied_once(tag, std::slice::from_ref(object)),
            (Expect::Confirmed { .. }, View::Array(elements) | View::Push(elements)) => {
                let elements: Vec<Vec<u8>> = elements.map(<[u8]>::to_vec).collect();
                self.check_confirmed(index, owed, &elements)
            }
            (Expect::Named { user, hello: false }, View::Simple(b"OK"))
            | (Expect::Named { user, hello: true }, View::Map(_) | View::Array(_)) => {
                self.named(index, owed.seq, Some(*user));
                Ok(())
            }
            (Expect::Keys, View::Array(_)) | (Expect::Number, View::Integer(_)) => Ok(()),
            (Expect::Sha(sha), View::Bulk(found)) if found == sha.as_bytes() => Ok(()),
            _ => Err("it has the wrong shape".into()),
        }
    }

    fn applied_once(&self, tag: Tag, keys: &[String]) -> Result<(), String> {
        keys.iter().try_for_each(|key| match self.truth.times_applied(tag, key) {
            1 => Ok(()),
            times => Err(format!("it was applied {times} times to {key}")),
        })
    }

    /// A list holds whole elements, each once, and all that this client was told to have pushed before.
    fn check_list(&mut self, index: usize, seq: u32, key: &str, elements: Vec<Vec<u8>>) -> Result<(), String> {
        let mut found = HashSet::new();
        for element in &elements {
            let Some(View::Bulk(text)) = view(element) else { return Err("an element is no string".into()) };
            let tag = parse_tag(text).ok_or("an element that nobody pushed")?;
            if !found.insert(tag) && !self.plan.forgeries {
                return Err(format!("{tag:?} is in it twice"));
            }
        }
        let acked = self.clients[index].acked.get(key).map(Vec::as_slice).unwrap_or_default();
        let client = index as u32;
        let missing = |pushed: &&u32| {
            **pushed < seq && !found.contains(&(client, **pushed)) && !self.truth.came_after(client, key, **pushed, seq)
        };
        match acked.iter().find(missing) {
            Some(missing) => Err(format!("the acknowledged element of request {missing} is missing")),
            None => Ok(()),
        }
    }

    /// A whole scan finds every key that was there from its beginning to its end.
    fn check_page(&mut self, index: usize, cursor: Option<View<'_>>, keys: Option<View<'_>>) -> Result<(), String> {
        let (Some(View::Bulk(cursor)), Some(View::Array(keys))) = (cursor, keys) else { return Err("it is no page".into()) };
        let cursor: u64 = std::str::from_utf8(cursor).ok().and_then(|digits| digits.parse().ok()).ok_or("no cursor")?;
        let found = keys.filter_map(|key| match view(key) {
            Some(View::Bulk(key)) => Some(String::from_utf8_lossy(key).into_owned()),
            _ => None,
        });
        let Some((at, seen, pages)) = self.clients[index].scan.as_mut() else { return Err("no scan is under way".into()) };
        *at = cursor;
        *pages += 1;
        seen.extend(found);
        if *pages > 3000 {
            return Err("the scan does not end".into());
        }
        if cursor == 0 {
            let missing = self.lasting_keys.iter().find(|key| !seen.contains(*key)).cloned();
            self.clients[index].scan = None;
            self.scans_done += 1;
            return missing.map_or(Ok(()), |key| Err(format!("the scan missed {key}")));
        }
        if self.clients[index].life == Life::Open {
            self.ask_scan(index);
            self.deliver_to_engine_later(index);
        }
        Ok(())
    }
}

/// A value says which key it was written to.
fn is_text_of(key: &str, found: &View<'_>) -> Result<(), String> {
    match found {
        View::Null | View::Bulk(b"") => Ok(()),
        View::Bulk(text) if parse_tag(text).is_some() => {
            let mark = format!(".{key}:");
            let head = &text[..text.len().min(80)];
            head.windows(mark.len())
                .any(|window| window == mark.as_bytes())
                .then_some(())
                .ok_or("it belongs to another key".into())
        }
        _ => Err("it is no text".into()),
    }
}

/// The proxy's own words when a request's time is over.
pub fn is_giving_up(text: &str) -> bool {
    let beginnings = ["-ERR proxy: no answer within", "-ERR proxy: no subscription to", "-LOADING Keyway has no slot map yet"];
    beginnings.iter().any(|beginning| text.starts_with(beginning))
}
