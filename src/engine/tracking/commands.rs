//! CLIENT TRACKING, CACHING, GETREDIR and TRACKINGINFO.

use crate::{
    cluster::Slot,
    command::{self, Class, Command},
    engine::{
        Engine, Timer,
        ids::NONE,
        modes::Modes,
        orders::Order,
        session::{Pause, State},
    },
    resp::{Proto, Span, encode},
};

use super::options::{Asked, Choice};

const NO_SUCH_TARGET: &[u8] = b"-ERR The client ID you want redirect to does not exist\r\n";

impl Engine {
    /// CLIENT TRACKING ON|OFF …: it goes alone, because what follows rides other lanes.
    pub(in crate::engine) fn client_tracking(&mut self, index: u32, arguments: &[&[u8]], frame: &[u8]) -> Result<(), Pause> {
        let asked = match Asked::parse(arguments) {
            Ok(asked) => asked,
            Err(error) => return self.complain(index, &error),
        };
        if let Some(id) = asked.redirect() {
            return self.order(index, Order::Aim { id: id as u64, asked });
        }
        self.barrier(index)?;
        if self.table.map.is_none() {
            return self.await_map(index, frame);
        }
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        self.raise_barrier(index);
        self.track_as_asked(index, seq, asked);
        Ok(())
    }

    /// Some worker has the client that is to be told, or none has.
    pub(in crate::engine) fn aimed(&mut self, client: u32, seq: u32, asked: Asked, found: bool) {
        if found { self.track_as_asked(client, seq, asked) } else { self.answer(client, seq, NO_SUCH_TARGET) }
    }

    fn track_as_asked(&mut self, client: u32, seq: u32, asked: Asked) {
        let known = self.trackers.by_client.get(&client).map(|tracker| &tracker.options);
        let done = asked.decide(known).and_then(|options| self.track(client, options));
        if let Err(error) = done {
            let mut reply = Vec::new();
            encode::error(&mut reply, error);
            return self.answer(client, seq, &reply);
        }
        let broadcasts = |tracker: &&mut super::Tracker| tracker.options.choice == Choice::Broadcast && tracker.alias.is_some();
        match self.trackers.by_client.get_mut(&client).filter(broadcasts) {
            Some(tracker) => {
                let deadline = self.now + self.settings.retry_deadline_us;
                tracker.owed = Some((seq, deadline));
                self.timers.push(Timer { at: deadline, client });
                self.settle_tracker(client);
            }
            None => self.answer(client, seq, b"+OK\r\n"),
        }
    }

    /// CLIENT CACHING YES|NO
    pub(in crate::engine) fn client_caching(&mut self, index: u32, word: &[u8]) -> Result<(), Pause> {
        let choice = self.trackers.by_client.get(&index).map(|tracker| tracker.options.choice);
        let (yes, wrong) = match (word.to_ascii_uppercase().as_slice(), choice) {
            (_, None) => {
                return self.complain(
                    index,
                    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
                );
            }
            (b"YES", choice) => (
                true,
                (choice != Some(Choice::OptIn))
                    .then_some("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."),
            ),
            (b"NO", choice) => (
                false,
                (choice != Some(Choice::OptOut))
                    .then_some("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."),
            ),
            _ => return self.complain(index, "ERR syntax error"),
        };
        if let Some(error) = wrong {
            return self.complain(index, error);
        }
        if let Some(tracker) = self.trackers.by_client.get_mut(&index) {
            tracker.caching = Some(yes);
        }
        self.clients[index as usize].modes.set(Modes::CACHING, true);
        self.reply_now(index, b"+OK\r\n");
        Ok(())
    }

    /// CLIENT CACHING was said: it belongs to this command, and is said to each node that the command goes to, right before it. The
    /// command goes alone, so that nothing comes between.
    pub(in crate::engine) fn lead_with_caching(
        &mut self,
        index: u32,
        command: &'static Command,
        frame: &[u8],
        spans: &[Span],
    ) -> Result<(), Pause> {
        let modes = self.clients[index as usize].modes;
        let ends = matches!(command.name, "EXEC" | "DISCARD");
        if command.name.starts_with("CLIENT|") || command.name == "MULTI" || (modes.has(Modes::TRANSACTION) && !ends) {
            // To a server it belongs to the whole transaction.
            return Ok(());
        }
        self.barrier(index)?;
        self.clients[index as usize].modes.set(Modes::CACHING, false);
        let Some(tracker) = self.trackers.by_client.get_mut(&index) else { return Ok(()) };
        let Some(yes) = tracker.caching.take().filter(|_| tracker.alias.is_some()) else { return Ok(()) };
        let via = self.clients[index as usize].via();
        let mut keys = Vec::new();
        let plain = matches!(command.class, Class::Keyed | Class::Split(_)) && !command::blocks(command, frame, spans);
        let known = plain && command.accepts(spans.len()) && command::keys(command, frame, spans, &mut keys).is_ok();
        let mut nodes = Vec::new();
        for key in keys.iter().filter(|_| known) {
            let owner = self.table.owner(Slot::of(spans[*key as usize].of(frame)));
            nodes.extend(owner.filter(|owner| !nodes.contains(owner)));
        }
        let lanes: Vec<_> = nodes.into_iter().map(|node| self.lane_to(node, via, false)).collect();
        let all_reached = lanes.iter().all(Result::is_ok);
        for lane in lanes.into_iter().flatten() {
            let word: &[u8] = if yes { b"YES" } else { b"NO" };
            self.ask_for_nobody(index, lane, &[b"CLIENT", b"CACHING", word]);
        }
        if yes {
            let seq = self.clients[index as usize].next_seq();
            self.trackers.led.insert(index, seq);
            if !known || !all_reached {
                self.trackers.unwatched.push((index, seq));
            }
        }
        Ok(())
    }

    /// A request is sent again: what went before it, to be remembered by a node, does not.
    pub(in crate::engine) fn sent_again(&mut self, client: u32, seq: u32) {
        if self.trackers.led.get(&client) == Some(&seq) && !self.trackers.unwatched.contains(&(client, seq)) {
            self.trackers.unwatched.push((client, seq));
        }
    }

    /// Whoever was told what nobody watches is told to drop it.
    pub(in crate::engine) fn settle_unwatched(&mut self) {
        let waiting = std::mem::take(&mut self.trackers.unwatched);
        for (client, seq) in waiting {
            let Some(session) = self.clients.get(client as usize) else { continue };
            if (seq.wrapping_sub(session.head) as i32) < 0 {
                self.drop_all(client);
            } else {
                self.trackers.unwatched.push((client, seq));
            }
        }
    }

    pub(in crate::engine) fn has_unwatched(&self) -> bool {
        !self.trackers.unwatched.is_empty()
    }

    /// CLIENT TRACKINGINFO
    pub(in crate::engine) fn tracking_info(&self, index: u32, proto: Proto) -> Vec<u8> {
        let tracker = self.trackers.by_client.get(&index);
        let flags = match tracker {
            None => vec!["off"],
            Some(tracker) => {
                let choice = tracker.options.choice;
                let all = [
                    (true, "on"),
                    (choice == Choice::Broadcast, "bcast"),
                    (choice == Choice::OptIn, "optin"),
                    (choice == Choice::OptIn && tracker.caching.is_some(), "caching-yes"),
                    (choice == Choice::OptOut, "optout"),
                    (choice == Choice::OptOut && tracker.caching.is_some(), "caching-no"),
                    (tracker.options.noloop, "noloop"),
                    (tracker.broken, "broken_redirect"),
                ];
                all.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect()
            }
        };
        let prefixes = tracker.map_or(&[][..], |tracker| &tracker.options.prefixes);
        let mut out = Vec::new();
        encode::map(&mut out, proto, 3);
        encode::bulk(&mut out, b"flags");
        encode::set(&mut out, proto, flags.len());
        flags.iter().for_each(|flag| encode::bulk(&mut out, flag.as_bytes()));
        encode::bulk(&mut out, b"redirect");
        encode::integer(&mut out, self.tracking_shown(index).3);
        encode::bulk(&mut out, b"prefixes");
        encode::array(&mut out, prefixes.len());
        prefixes.iter().for_each(|prefix| encode::bulk(&mut out, prefix));
        out
    }
}
