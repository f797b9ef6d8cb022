//! What happens, told live to whoever subscribed: `SUBSCRIBE keyway:migrations` in plain redis-cli.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::broadcast::{self, error::RecvError};

/// Lines that a subscriber may be behind; one that is slower is told how many it has missed. A plan in full run says a few lines a
/// second, so that is minutes.
const LINES_KEPT: usize = 1024;

/// A channel of the admin port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Each step of a plan that this proxy drives.
    Migrations,
    /// Slots that change hands, and nodes that come, fail and go, as the slot map shows them.
    Topology,
}

impl Channel {
    pub(super) const ALL: [Channel; 2] = [Channel::Migrations, Channel::Topology];

    pub fn name(self) -> &'static str {
        match self {
            Channel::Migrations => "keyway:migrations",
            Channel::Topology => "keyway:topology",
        }
    }

    pub(super) fn named(name: &[u8]) -> Option<Channel> {
        Self::ALL.into_iter().find(|channel| channel.name().as_bytes() == name)
    }
}

/// Where lines are told. Telling is cheap, never waits, and keeps a bounded number of them, whoever listens.
#[derive(Clone, Debug)]
pub struct Events {
    migrations: broadcast::Sender<Arc<str>>,
    topology: broadcast::Sender<Arc<str>>,
}

impl Default for Events {
    fn default() -> Self {
        Events { migrations: broadcast::Sender::new(LINES_KEPT), topology: broadcast::Sender::new(LINES_KEPT) }
    }
}

impl Events {
    /// Tells one line, with the time before it.
    pub fn tell(&self, channel: Channel, line: &str) {
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        // An error says that nobody listens.
        let _ = self.sender(channel).send(format!("{now} {line}").into());
    }

    fn sender(&self, channel: Channel) -> &broadcast::Sender<Arc<str>> {
        match channel {
            Channel::Migrations => &self.migrations,
            Channel::Topology => &self.topology,
        }
    }
}

/// What one connection is subscribed to.
#[derive(Debug, Default)]
pub(super) struct Subscribed {
    channels: Vec<(Channel, broadcast::Receiver<Arc<str>>)>,
}

impl Subscribed {
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    pub fn len(&self) -> usize {
        self.channels.len()
    }

    pub fn add(&mut self, channel: Channel, events: &Events) {
        if !self.all().contains(&channel) {
            self.channels.push((channel, events.sender(channel).subscribe()));
        }
    }

    pub fn remove(&mut self, channel: Channel) {
        self.channels.retain(|(known, _)| *known != channel);
    }

    pub fn all(&self) -> Vec<Channel> {
        self.channels.iter().map(|(channel, _)| *channel).collect()
    }

    /// The next line, or how many were missed. Without channels it waits for ever; it may be dropped while it waits.
    pub async fn next(&mut self) -> (Channel, Arc<str>) {
        let mut waiting: Vec<_> = self.channels.iter_mut().map(|(channel, lines)| Box::pin(next_of(*channel, lines))).collect();
        std::future::poll_fn(move |context| {
            let ready = waiting.iter_mut().find_map(|one| match one.as_mut().poll(context) {
                std::task::Poll::Ready(line) => Some(line),
                std::task::Poll::Pending => None,
            });
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
}

async fn next_of(channel: Channel, lines: &mut broadcast::Receiver<Arc<str>>) -> (Channel, Arc<str>) {
    match lines.recv().await {
        Ok(line) => (channel, line),
        Err(RecvError::Lagged(count)) => (channel, format!("{count} lines missed: this connection reads too slowly").into()),
        // The proxy is stopping.
        Err(RecvError::Closed) => std::future::pending().await,
    }
}
