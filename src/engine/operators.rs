//! PROXY commands on clients' ports: operators' business, which the control thread answers. The engine passes a request on and keeps
//! what the answer says of who its client is.

use bytes::Bytes;

use crate::{
    access::Standing,
    resp::{Proto, Span},
};

use super::{
    Engine, Event,
    ids::NONE,
    modes::Modes,
    orders::OrderToken,
    session::{Pause, State},
};

/// The longest request that is passed on; a plan's slots fit many times over.
const REQUEST_LEN_MAX: usize = 64 * 1024;

/// One request of a client's.
#[derive(Debug)]
pub struct ProxyCall {
    /// With its name.
    pub words: Vec<Bytes>,
    pub proto: Proto,
    /// CLIENT ID.
    pub client: u64,
    pub peer: String,
    /// Whom the client has shown to be among the operators.
    pub standing: Option<Standing>,
}

/// What came of it.
#[derive(Debug)]
pub struct ProxyAnswer {
    /// One reply, in the client's protocol.
    pub reply: Bytes,
    pub standing: Option<Standing>,
}

impl Engine {
    /// Whether a name that the table does not hold is for operators. Where it is not, servers say that there is no such command, and
    /// so they do of one that is queued, or stands between messages.
    pub(super) fn is_for_operators(&self, index: u32, name: &[u8]) -> bool {
        let modes = self.clients[index as usize].modes;
        let elsewhere = modes.has(Modes::TRANSACTION) || modes.has(Modes::SUBSCRIBED) || modes.has(Modes::MONITORING);
        self.settings.proxy_commands && name.eq_ignore_ascii_case(b"PROXY") && !elsewhere
    }

    /// Passes a PROXY command on; what follows waits for its reply.
    pub(super) fn call_operators(&mut self, index: u32, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        if frame.len() > REQUEST_LEN_MAX {
            return self.complain(index, &format!("ERR proxy: expected a PROXY command of at most {REQUEST_LEN_MAX} bytes"));
        }
        self.barrier(index)?;
        let session = &self.clients[index as usize];
        let call = ProxyCall {
            words: spans.iter().map(|span| Bytes::copy_from_slice(span.of(frame))).collect(),
            proto: session.proto,
            client: session.public_id,
            peer: session.peer.to_string(),
            standing: session.labels.as_deref().and_then(|labels| labels.operator.clone()),
        };
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        self.raise_barrier(index);
        self.events.push_back(Event::CallOperators { token: OrderToken { client: index, seq }, call: Box::new(call) });
        Ok(())
    }

    /// A PROXY command was answered: the client is told.
    pub fn operators_answered(&mut self, token: OrderToken, answer: ProxyAnswer) {
        let labels = self.clients[token.client as usize].labels.as_deref();
        if labels.and_then(|labels| labels.operator.as_ref()) != answer.standing.as_ref() {
            self.labels(token.client).operator = answer.standing;
        }
        self.answer(token.client, token.seq, &answer.reply);
        self.settle();
    }
}
