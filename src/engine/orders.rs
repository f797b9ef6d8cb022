//! Orders: what one client asks of the clients of all workers (CLIENT LIST, KILL, PAUSE, UNPAUSE).
//!
//! The worker that was asked sends an order to every worker, itself too, in one event; each carries it out and says what came of it;
//! the sum of that is the reply.

use crate::resp::encode;

use super::{
    ClientId, Engine, Event,
    client_filter::ClientFilter,
    clients::ClientLine,
    ids::{Micros, NONE},
    merge::{Job, Merge},
    session::{Ending, Pause, Session, State},
    tracking::Asked,
};

/// What every worker is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// CLIENT LIST.
    List(ClientFilter),
    /// CLIENT KILL; `by` is the id of the client that asks. The old form counts nothing.
    Kill {
        filter: ClientFilter,
        by: u64,
        counts: bool,
    },
    /// CLIENT PAUSE.
    Pause {
        for_us: Micros,
        writes_only: bool,
    },
    Unpause,
    /// CLIENT TRACKING with REDIRECT: whether the client with this CLIENT ID is there.
    Aim {
        id: u64,
        asked: Asked,
    },
    /// CLIENT UNBLOCK of the client with this CLIENT ID.
    Unblock {
        id: u64,
        error: bool,
    },
}

/// What came of an order: one worker's share, or the sum of all.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub count: u64,
    pub lines: Vec<ClientLine>,
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, mut other: Outcome) {
        self.count += other.count;
        self.lines.append(&mut other.lines);
    }
}

/// Names the reply that awaits the outcome of an order, or the answer of the operators' thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderToken {
    pub(super) client: u32,
    pub(super) seq: u32,
}

impl Engine {
    /// Gives an order; its outcome is the client's reply, and what follows waits for it.
    pub(super) fn order(&mut self, index: u32, order: Order) -> Result<(), Pause> {
        self.barrier(index)?;
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        self.raise_barrier(index);
        self.events.push_back(Event::Order { token: OrderToken { client: index, seq }, order });
        Ok(())
    }

    /// As `order`, when a node takes `question` without complaint: it knows what the proxy does not, which users there are.
    pub(super) fn order_if(&mut self, index: u32, question: &[&[u8]], order: Order) -> Result<(), Pause> {
        let mut frame = Vec::new();
        encode::command(&mut frame, question);
        self.one_part(index, &frame, Job::Order(order))
    }

    /// The node had no complaint: a complaint would have been the reply.
    pub(super) fn order_stage(&mut self, merge: u32) {
        let Merge { client, seq, job: Job::Order(order), .. } = self.merges.remove(merge as usize) else { return };
        self.clients[client as usize].reply(seq).state = State::Sent { lane: NONE };
        self.events.push_back(Event::Order { token: OrderToken { client, seq }, order });
    }

    /// Does this worker's share of an order.
    pub fn obey(&mut self, order: &Order) -> Outcome {
        let outcome = match order {
            Order::List(filter) => Outcome { count: 0, lines: self.list_clients(filter) },
            Order::Kill { filter, by, .. } => Outcome { count: self.kill_clients(filter, *by), lines: Vec::new() },
            Order::Pause { for_us, writes_only } => {
                self.pause_clients(*for_us, *writes_only);
                Outcome::default()
            }
            Order::Unpause => {
                self.unpause_clients();
                Outcome::default()
            }
            Order::Aim { id, .. } => Outcome { count: u64::from(self.aim_at(*id)), lines: Vec::new() },
            Order::Unblock { id, error } => Outcome { count: u64::from(self.unblock_client(*id, *error)), lines: Vec::new() },
        };
        self.settle();
        outcome
    }

    /// All workers have obeyed: the client is told.
    pub fn obeyed(&mut self, token: OrderToken, order: &Order, mut outcome: Outcome) {
        let proto = self.clients[token.client as usize].proto;
        let mut reply = Vec::new();
        match order {
            Order::Aim { asked, .. } => {
                self.aimed(token.client, token.seq, asked.clone(), outcome.count > 0);
                return self.settle();
            }
            Order::List(_) => {
                outcome.lines.sort_by_key(|line| line.id);
                let text: String = outcome.lines.iter().map(|line| line.text.as_str()).collect();
                encode::verbatim(&mut reply, proto, text);
            }
            Order::Kill { counts: true, .. } | Order::Unblock { .. } => encode::integer(&mut reply, outcome.count as i64),
            Order::Kill { counts: false, .. } if outcome.count == 0 => encode::error(&mut reply, b"ERR No such client"),
            Order::Kill { counts: false, .. } | Order::Pause { .. } | Order::Unpause => encode::simple(&mut reply, b"OK"),
        }
        self.answer(token.client, token.seq, &reply);
        self.settle();
    }

    fn kill_clients(&mut self, filter: &ClientFilter, by: u64) -> u64 {
        let matches = |index: u32, session: &Session| {
            session.ending != Ending::Gone && !session.close_told && self.matches(filter, index, session)
        };
        let killed: Vec<u32> = self
            .clients
            .iter()
            .map(|(index, session)| (index as u32, session))
            .filter(|(index, session)| matches(*index, session))
            .map(|(index, _)| index)
            .collect();
        for index in &killed {
            let session = &mut self.clients[*index as usize];
            if session.public_id == by {
                // It is told first how many it killed.
                self.end_after_replies(*index);
            } else {
                (session.deaf, session.close_told) = (true, true);
                self.events.push_back(Event::CloseClient { client: ClientId(*index) });
            }
        }
        killed.len() as u64
    }
}
