//! Connections from clients to engines: how they begin, the pieces in which bytes arrive, and how they end.

use std::io::IoSlice;

use keyway::resp::first_reply_len;

use crate::{
    client::{Client, Expect, Life, Owed, Role},
    link::piece,
    listeners::CRY_AFTER_US,
    world::{What, World},
};

impl World {
    pub fn open_client(&mut self) {
        let engine = self.random.usize(0..self.drivers.len());
        self.public_ids += 1;
        let id = self.drivers[engine].engine.client_open(self.public_ids, "10.9.9.9:1", "10.0.0.0:6379");
        let index = self.clients.len();
        self.drivers[engine].clients.insert(id, index);
        let left = self.random.u32(1..=self.plan.requests);
        self.clients.push(Client::new(engine, id, self.public_ids, left));
        if self.families.pubsub {
            self.give_role(index);
        }
        if self.random.u32(0..15) == 0 {
            self.clients[index].stalled_until = self.now + self.random.u64(0..2 * self.plan.faults_us);
        }
        let wait = self.random.u64(0..self.plan.faults_us / 4);
        self.later(wait, What::ClientActs(index));
    }

    pub fn deliver_to_engine_later(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.to_engine.len() > 0 && !std::mem::replace(&mut client.to_engine.scheduled, true) {
            let wait = self.delay();
            self.later(wait, What::ToEngine(index));
        }
    }

    pub fn deliver_to_engine(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.to_engine.scheduled = false;
        let (engine, id, len) = (client.engine, client.id, client.to_engine.len());
        // A paused client is read again when the engine says so.
        if client.life == Life::Closed || len == 0 || !self.drivers[engine].engine.client_reads(id) {
            return;
        }
        let count = piece(&mut self.random, len, self.plan.whole_percent).min(64 * 1024);
        let bytes = self.clients[index].to_engine.take(count);
        self.with(engine, |engine| engine.client_bytes(id, &bytes));
        self.deliver_to_engine_later(index);
    }

    pub fn write_client(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.life == Life::Closed {
            return;
        }
        let (engine, id) = (client.engine, client.id);
        let mut slices = [IoSlice::new(&[]); 16];
        let count = self.drivers[engine].engine.client_chunks(id, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        let room = (64usize * 1024).saturating_sub(client.to_client.len());
        let room =
            if client.stalled_until > self.now { room.min(1000usize.saturating_sub(client.to_client.len())) } else { room };
        let count = piece(&mut self.random, bytes.len(), self.plan.whole_percent.max(50)).min(room);
        if bytes.is_empty() {
            return;
        }
        if count > 0 {
            self.drivers[engine].engine.set_now(self.now);
            self.drivers[engine].engine.client_wrote(id, count);
            self.turn_later(engine, 0);
        }
        let client = &mut self.clients[index];
        client.to_client.push(&bytes[..count]);
        if count < bytes.len() && !std::mem::replace(&mut client.write_waits, true) {
            let full = if room == 0 { self.clients[index].stalled_until.saturating_sub(self.now) } else { 0 };
            let wait = self.delay().max(20).max(full);
            self.later(wait, What::ClientWritable(index));
        }
        let client = &mut self.clients[index];
        if client.to_client.len() > 0 && !std::mem::replace(&mut client.to_client.scheduled, true) {
            let wait = self.delay();
            self.later(wait, What::ToClient(index));
        }
    }

    pub fn deliver_to_client(&mut self, index: usize) {
        let stalled = self.clients[index].stalled_until.saturating_sub(self.now);
        self.clients[index].to_client.scheduled = false;
        let len = self.clients[index].to_client.len();
        if self.clients[index].life == Life::Closed || len == 0 {
            return;
        }
        if stalled > 0 {
            self.clients[index].to_client.scheduled = true;
            return self.later(stalled, What::ToClient(index));
        }
        let count = piece(&mut self.random, len, self.plan.whole_percent);
        self.client_hears(index, count);
        let client = &mut self.clients[index];
        if client.life != Life::Closed && client.to_client.len() > 0 && !std::mem::replace(&mut client.to_client.scheduled, true)
        {
            let wait = self.delay() / 4;
            self.later(wait, What::ToClient(index));
        }
    }

    pub fn client_hears(&mut self, index: usize, count: usize) {
        let client = &mut self.clients[index];
        let bytes = client.to_client.take(count);
        client.received.extend_from_slice(&bytes);
        let received = std::mem::take(&mut client.received);
        let mut at = 0;
        while let Some(len) = first_reply_len(&received[at..]) {
            self.client_reads_reply(index, &received[at..at + len]);
            at += len;
        }
        self.clients[index].received = received[at..].to_vec();
        self.close_when_done(index);
    }

    /// A client that has asked and heard everything ends: by QUIT's way, by its own end of stream, or at once.
    pub fn close_when_done(&mut self, index: usize) {
        let client = &self.clients[index];
        let listens = client.role != Role::Worker && self.calm_since.is_none_or(|calm| self.now < calm + CRY_AFTER_US * 2);
        let done = client.is_done() && client.to_engine.len() == 0 && !client.is_scanning() && !listens;
        if !done || client.life != Life::Open || self.calm_since.is_none() {
            return;
        }
        match self.random.u32(0..3) {
            0 if !self.clients[index].wants_close => {
                self.clients[index].wants_close = true;
                self.request(index, &[b"QUIT"], Some(Expect::Exact(b"+OK\r\n".to_vec())), false, true);
                self.deliver_to_engine_later(index);
            }
            1 => self.half_close(index),
            _ if self.clients[index].wants_close => {}
            _ => self.close_client(index, true),
        }
    }

    /// A client ends its own stream behind what it sent.
    pub fn half_close(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.life != Life::Open || client.to_engine.len() > 0 {
            return;
        }
        client.life = Life::HalfClosed;
        client.planned.clear();
        let (engine, id) = (client.engine, client.id);
        self.say(|| format!("client {index} half-closes"));
        self.with(engine, |engine| engine.client_eof(id));
    }

    /// A client's connection ends, by its own wish or the engine's.
    pub fn close_client(&mut self, index: usize, own: bool) {
        let client = &mut self.clients[index];
        if client.life == Life::Closed {
            return;
        }
        self.say(|| format!("client {index} is closed, by itself: {own}"));
        if !own {
            // All that was written to it arrives before the end.
            let len = self.clients[index].to_client.len();
            self.client_hears(index, len);
            let client = &self.clients[index];
            // Cut off at its limit, or in the middle of a large reply whose lane broke.
            let overflow = self.drivers[client.engine].engine.counters.output_overflows > 0 || self.plan.large;
            // A server closes at once whoever ends its stream while it waits.
            let waited = client.life == Life::HalfClosed && client.owed.iter().any(|owed| owed.expect.waits());
            let lost = client.confused || client.ears.lost_count;
            if !client.owed.is_empty() && !overflow && !waited && !lost && client.life != Life::Closed {
                let text = format!("client {index} is closed while it is owed: {}", self.state_of(index, client));
                self.truth.accuse(text);
            }
        }
        let client = &mut self.clients[index];
        client.life = Life::Closed;
        let owed: Vec<Owed> = client.owed.drain(..).collect();
        client.planned.clear();
        self.abandon(&owed);
        let client = &mut self.clients[index];
        client.left = 0;
        client.to_engine.clear();
        let (engine, id) = (client.engine, client.id);
        self.drivers[engine].clients.remove(&id);
        self.with(engine, |engine| engine.client_gone(id));
        if self.calm_since.is_none() && self.clients.len() < self.plan.clients + 3 {
            self.open_client();
        }
    }
}
