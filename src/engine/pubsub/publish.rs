//! PUBLISH, SPUBLISH and PUBSUB. A node counts one subscriber for each worker: the answers are corrected to count clients.

use std::sync::Arc;

use crate::{
    cluster::Slot,
    command::Fan,
    engine::{
        Engine,
        ids::NONE,
        merge::{Job, Merge},
        merge_replies,
        pump::spans_of,
        send::Target,
        session::{Pause, State},
    },
    resp::{View, encode, view},
};

use super::{Kind, registry::Receivers, text_of};

/// What a PUBSUB subcommand wants to know.
#[derive(Debug)]
pub enum Question {
    Channels { kind: Kind, pattern: Option<Box<[u8]>> },
    Numsub,
    Numpat,
}

impl Question {
    /// The question of a command that is known to be a PUBSUB fan-out.
    pub fn of(name: &str, argument: Option<&[u8]>) -> Option<Question> {
        let channels = |kind| Question::Channels { kind, pattern: argument.map(Into::into) };
        match name {
            "PUBSUB|CHANNELS" => Some(channels(Kind::Channel)),
            "PUBSUB|SHARDCHANNELS" => Some(channels(Kind::Shard)),
            "PUBSUB|NUMSUB" => Some(Question::Numsub),
            "PUBSUB|NUMPAT" => Some(Question::Numpat),
            _ => None,
        }
    }

    fn fan(&self) -> Fan {
        match self {
            Question::Channels { .. } => Fan::Union,
            Question::Numsub => Fan::SumPerChannel,
            Question::Numpat => Fan::Sum,
        }
    }
}

impl Engine {
    /// Publishes where the channel is subscribed, so that its messages keep their order, or else at its slot's owner.
    pub(in crate::engine) fn publish(&mut self, index: u32, frame: &[u8], channel: &[u8]) -> Result<(), Pause> {
        let registry = self.pubsub.registry.clone();
        if registry.is_empty() {
            return self.send_ordered(index, Target::Slot(Slot::of(channel)), frame);
        }
        let target = self.channel_target(channel);
        let node = self.resolve(target);
        match node.and_then(|node| registry.receivers(Kind::Channel, channel, &self.table.nodes[usize::from(node.0)].id)) {
            None => self.send_ordered(index, target, frame),
            Some(receivers) => {
                self.behind_others(index, target)?;
                self.publish_counted(index, target, receivers, frame);
                Ok(())
            }
        }
    }

    /// Where the channel is subscribed, or else its slot's owner.
    fn channel_target(&self, channel: &[u8]) -> Target {
        let slot = Slot::of(channel);
        let home = self.pubsub.registry.home(Kind::Channel, channel).and_then(|id| self.table.find_id(&id));
        home.map_or(Target::Slot(slot), |node| Target::Prefer(node, slot))
    }

    /// Where a PUBLISH goes that could not be sent before.
    pub(in crate::engine) fn publish_target(&self, frame: &[u8]) -> Option<Target> {
        let spans = spans_of(frame)?;
        Some(self.channel_target(spans.get(1)?.of(frame)))
    }

    /// Where a message of a transaction goes, and what is to be corrected about its count.
    pub(in crate::engine) fn message_target(&self, frame: &[u8]) -> (Target, Option<Receivers>) {
        let spans = spans_of(frame).unwrap_or_default();
        let [name, channel, ..] = &spans[..] else { return (Target::Any(Slot::of(frame)), None) };
        let channel = channel.of(frame);
        let (kind, target) = match name.of(frame) {
            [b'S' | b's', ..] => (Kind::Shard, Target::Slot(Slot::of(channel))),
            _ => (Kind::Channel, self.channel_target(channel)),
        };
        let node = self.resolve(target);
        let receivers =
            node.and_then(|node| self.pubsub.registry.receivers(kind, channel, &self.table.nodes[usize::from(node.0)].id));
        (target, receivers)
    }

    /// As any command with a key, but for the count. `None`: nothing is to be corrected.
    pub(in crate::engine) fn publish_sharded(&mut self, index: u32, frame: &[u8], channel: &[u8]) -> Option<Result<(), Pause>> {
        if self.pubsub.registry.is_empty() {
            return None;
        }
        let slot = Slot::of(channel);
        let node = self.table.owner(slot)?;
        let receivers = self.pubsub.registry.receivers(Kind::Shard, channel, &self.table.nodes[usize::from(node.0)].id)?;
        let may_go = if self.settled(index) { Ok(()) } else { self.nothing_unfinished(index, slot) };
        Some(may_go.and_then(|()| self.lane_has_room(index, slot)).map(|()| {
            self.publish_counted(index, Target::Slot(slot), receivers, frame);
        }))
    }

    fn publish_counted(&mut self, index: u32, target: Target, receivers: Receivers, frame: &[u8]) {
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        let via = self.clients[index as usize].via();
        let merge = self.open_merge(index, seq, via, Job::Publish(receivers));
        self.add_part(merge, target, 0, (0, 0), |out| out.extend_from_slice(frame));
    }

    /// What the nodes answered to a PUBSUB subcommand, and what clients of ours make of it.
    pub(in crate::engine) fn merged_pubsub(&self, merge: &Merge, question: &Question, out: &mut Vec<u8>) {
        let replies: Vec<&[u8]> = (0..merge.parts.len()).map(|part| merge.reply(part)).collect();
        let mut merged = Vec::new();
        merge_replies::merge(question.fan(), merge.via.proto, None, &replies, &mut merged);
        match (question, view(&merged)) {
            (Question::Numpat, Some(View::Integer(counted))) => {
                let patterns = self.pubsub.registry.patterns(|id| self.is_master(id));
                encode::integer(out, patterns.correct(counted));
            }
            (Question::Numsub, Some(View::Array(_))) => self.corrected_numsub(Kind::Channel, &merged, out),
            (Question::Channels { kind, pattern }, Some(View::Array(elements))) => {
                let counted: Vec<&[u8]> = elements.filter_map(text_of).collect();
                self.corrected_channels(*kind, pattern.as_deref(), &counted, out);
            }
            _ => out.extend_from_slice(&merged),
        }
    }

    /// Pairs of channel and count.
    pub(in crate::engine) fn corrected_numsub(&self, kind: Kind, reply: &[u8], out: &mut Vec<u8>) {
        let Some(View::Array(elements)) = view(reply) else { return out.extend_from_slice(reply) };
        let elements: Vec<&[u8]> = elements.collect();
        encode::array(out, elements.len());
        for pair in elements.chunks_exact(2) {
            out.extend_from_slice(pair[0]);
            let name = text_of(pair[0]).unwrap_or_default();
            let subscribers = self.pubsub.registry.subscribers(kind, name, |id| self.is_master(id));
            encode::integer(out, subscribers.correct(crate::engine::merge::integer(pair[1])));
        }
    }

    fn corrected_channels(&self, kind: Kind, pattern: Option<&[u8]>, counted: &[&[u8]], out: &mut Vec<u8>) {
        let registry = &self.pubsub.registry;
        let mut own: Vec<Arc<[u8]>> = registry.channels(kind, pattern);
        own.sort_unstable();
        let others = counted.iter().filter(|name| own.binary_search_by(|own| (**own).cmp(name)).is_err());
        let others: Vec<&&[u8]> = others.filter(|name| !registry.is_leaving(kind, name)).collect();
        encode::array(out, own.len() + others.len());
        own.iter().for_each(|name| encode::bulk(out, name));
        others.iter().for_each(|name| encode::bulk(out, name));
    }

    fn is_master(&self, id: &str) -> bool {
        self.table.find_id(id).is_some_and(|node| self.table.nodes[usize::from(node.0)].master)
    }
}
