//! Wake-ups: a consumer that is blocked in BLPOP, and a producer that pushes what it waits for.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{
    driver::{Connection, Player},
    value,
};
use crate::{
    Outcome,
    harness::client::{append_request, request},
};

const PAIRS: usize = 50;

/// Pairs that are woken at the same time. The others are blocked meanwhile, and each waits for its turn in the order in which they
/// asked: so a push finds a consumer that is blocked, although nothing says when it is.
const AT_ONCE: usize = PAIRS / 2;

/// A consumer and a producer with a list of their own.
pub struct Pair {
    consumer: Connection,
    producer: Connection,
    turns: Rc<Semaphore>,
    block: Vec<u8>,
    push: Vec<u8>,
    popped: Vec<u8>,
}

impl Pair {
    pub async fn connect(port_of: &impl Fn(&str) -> u16) -> Outcome<Vec<Pair>> {
        let (turns, value) = (Rc::new(Semaphore::new(AT_ONCE)), value());
        let mut all = Vec::with_capacity(PAIRS);
        for number in 0..PAIRS {
            let list = format!("list{number}");
            let port = port_of(&list);
            let mut popped = Vec::new();
            // A reply of two strings looks like a request of two.
            append_request(&mut popped, &[&list, &value]);
            all.push(Pair {
                consumer: Connection::open(port).await?,
                producer: Connection::open(port).await?,
                turns: Rc::clone(&turns),
                block: request(&["BLPOP", &list, "0"]),
                push: request(&["LPUSH", &list, &value]),
                popped,
            });
        }
        Ok(all)
    }
}

impl Player for Pair {
    /// From the push until the consumer has its value.
    async fn play(&mut self, until: Instant) -> Outcome<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            self.consumer.send(&self.block).await?;
            let _turn = self.turns.acquire().await?;
            let begun = Instant::now();
            self.producer.send(&self.push).await?;
            self.consumer.expect(&self.popped).await?;
            latencies.push(begun.elapsed());
            self.producer.expect(b":1\r\n").await?;
        }
        Ok(latencies)
    }
}
