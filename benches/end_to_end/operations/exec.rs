//! Transactions: MULTI, ten commands on keys of one hash tag and EXEC, written at once.

use std::time::{Duration, Instant};

use super::{
    driver::{Connection, Player},
    value,
};
use crate::{Outcome, harness::client::append_request};

const CLIENTS: usize = 50;

/// Keys of a transaction, each written and then read.
const KEYS: usize = 5;

/// A client with a hash tag of its own.
pub struct Transactor {
    connection: Connection,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Transactor {
    pub async fn connect(port_of: &impl Fn(&str) -> u16) -> Outcome<Vec<Transactor>> {
        let mut all = Vec::with_capacity(CLIENTS);
        for number in 0..CLIENTS {
            let tag = format!("{{exec{number}}}");
            let connection = Connection::open(port_of(&tag)).await?;
            let (request, reply) = transaction(&tag);
            all.push(Transactor { connection, request, reply });
        }
        Ok(all)
    }
}

/// The bytes of a whole transaction and of all its replies.
fn transaction(tag: &str) -> (Vec<u8>, Vec<u8>) {
    let keys: Vec<String> = (0..KEYS).map(|key| format!("{tag}:{key}")).collect();
    let value = value();
    let mut request = Vec::new();
    append_request(&mut request, &["MULTI"]);
    keys.iter().for_each(|key| append_request(&mut request, &["SET", key, &value]));
    keys.iter().for_each(|key| append_request(&mut request, &["GET", key]));
    append_request(&mut request, &["EXEC"]);
    let read = format!("${}\r\n{value}\r\n", value.len());
    let count = 2 * KEYS;
    let reply = format!("+OK\r\n{}*{count}\r\n{}{}", "+QUEUED\r\n".repeat(count), "+OK\r\n".repeat(KEYS), read.repeat(KEYS));
    (request, reply.into_bytes())
}

impl Player for Transactor {
    async fn play(&mut self, until: Instant) -> Outcome<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let begun = Instant::now();
            self.connection.send(&self.request).await?;
            self.connection.expect(&self.reply).await?;
            latencies.push(begun.elapsed());
        }
        Ok(latencies)
    }
}
