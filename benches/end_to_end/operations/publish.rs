//! Messages to one channel with a thousand subscribers, one after the other.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::JoinSet};

use super::{
    driver::{Connection, Player},
    value,
};
use crate::{
    Outcome,
    harness::client::{append_request, request},
};

const SUBSCRIBERS: usize = 1_000;
const CHANNEL: &str = "channel";

/// The publisher of the channel, and those who read it.
pub struct Publisher {
    connection: Connection,
    publish: Vec<u8>,
    /// As many receivers as there are.
    published: Vec<u8>,
    delivery: Rc<Delivery>,
    /// They end with the publisher.
    _subscribers: JoinSet<()>,
}

/// How far the message that is under way has come.
#[derive(Default)]
struct Delivery {
    missing: Cell<usize>,
    failure: RefCell<Option<String>>,
    /// Nothing is missing any more, or a subscriber has failed.
    ended: Notify,
}

impl Publisher {
    pub async fn connect(port_of: &impl Fn(&str) -> u16) -> Outcome<Publisher> {
        let (port, value) = (port_of(CHANNEL), value());
        let subscribe = request(&["SUBSCRIBE", CHANNEL]);
        let subscribed = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{CHANNEL}\r\n:1\r\n", CHANNEL.len()).into_bytes();
        let mut message = Vec::new();
        append_request(&mut message, &["message", CHANNEL, &value]);
        let (message, delivery) = (Rc::<[u8]>::from(message), Rc::new(Delivery::default()));
        let mut subscribers = JoinSet::new();
        for _ in 0..SUBSCRIBERS {
            let mut subscriber = Connection::open(port).await?;
            subscriber.send(&subscribe).await?;
            subscriber.expect(&subscribed).await?;
            subscribers.spawn_local(receive(subscriber, Rc::clone(&message), Rc::clone(&delivery)));
        }
        Ok(Publisher {
            connection: Connection::open(port).await?,
            publish: request(&["PUBLISH", CHANNEL, &value]),
            published: format!(":{SUBSCRIBERS}\r\n").into_bytes(),
            delivery,
            _subscribers: subscribers,
        })
    }
}

/// Counts what one subscriber receives, for as long as it is connected.
async fn receive(mut subscriber: Connection, message: Rc<[u8]>, delivery: Rc<Delivery>) {
    loop {
        if let Err(error) = subscriber.expect(&message).await {
            *delivery.failure.borrow_mut() = Some(error.to_string());
            delivery.ended.notify_one();
            return;
        }
        delivery.missing.set(delivery.missing.get() - 1);
        if delivery.missing.get() == 0 {
            delivery.ended.notify_one();
        }
    }
}

impl Player for Publisher {
    /// From the request until all subscribers have the message and the publisher has its reply.
    async fn play(&mut self, until: Instant) -> Outcome<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            self.delivery.missing.set(SUBSCRIBERS);
            let begun = Instant::now();
            self.connection.send(&self.publish).await?;
            self.connection.expect(&self.published).await?;
            self.delivery.ended.notified().await;
            if let Some(failure) = self.delivery.failure.take() {
                return Err(format!("a subscriber: {failure}").into());
            }
            latencies.push(begun.elapsed());
        }
        Ok(latencies)
    }
}
