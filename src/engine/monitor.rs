//! MONITOR: lines of all masters, merged as they come.
//!
//! A monitoring client has a lane to each master for itself, authenticated as itself: who may not monitor is told so by a node. New
//! masters are followed, lost lanes dialled again. What the nodes hide (passwords) stays hidden; what only concerns their being
//! a cluster is left out. The addresses in the lines are those that the nodes see: the proxy's own.

use rustc_hash::FxHashMap;

use crate::{
    command::{self, Class, Command, Local},
    resp::Proto,
};

use super::{
    Engine, Event, LaneId, Timer,
    answer::lane_mut,
    ids::{Micros, NONE, NodeId},
    lane::{LaneState, Role, Via},
    modes::Modes,
    send::NotNow,
    session::{Pause, State},
    since::has_subcommands,
};

/// The longest line that is kept until its end is here, in bytes: four bytes for each of a value's, at worst. Longer ones are cut.
const LINE_LEN_MAX: usize = 4 * 1024 * 1024;

/// How long a node that cannot be reached is left alone.
const DIAL_AGAIN_US: Micros = 100_000;

/// One monitoring client.
struct Monitor {
    via: Via,
    lanes: Vec<(NodeId, LaneId)>,
    /// The reply that is owed until every master has agreed, and until when it is waited for.
    owed: Option<(u32, Micros)>,
}

/// All monitoring clients.
#[derive(Default)]
pub(super) struct Monitors(FxHashMap<u32, Monitor>);

impl Engine {
    /// MONITOR. A client that monitors already is answered nothing, as by the servers.
    pub(super) fn monitor(&mut self, index: u32, frame: &[u8]) -> Result<(), Pause> {
        if self.monitors.0.contains_key(&index) {
            return Ok(());
        }
        self.barrier(index)?;
        if self.table.map.is_none() {
            return self.await_map(index, frame);
        }
        let masters = self.table.masters().count();
        if !self.private.has_room_for(masters, self.settings.private_lanes_max) {
            let text = "ERR proxy: MONITOR needs a lane to every master, and there are as many private lanes as may be (limits.private_lanes)";
            return self.complain(index, text);
        }
        let seq = self.owe(index, State::Sent { lane: NONE }, None);
        self.raise_barrier(index);
        let deadline = self.now + self.settings.retry_deadline_us;
        // The lines are the same in both protocols, and in this one there is no greeting to be seen in them.
        let via = Via { proto: Proto::Resp2, user: self.clients[index as usize].user };
        self.monitors.0.insert(index, Monitor { via, lanes: Vec::new(), owed: Some((seq, deadline)) });
        self.timers.push(Timer { at: deadline, client: index });
        self.dial_monitor(index);
        Ok(())
    }

    /// Dials every master that the client has no lane to, and closes lanes to nodes that are no masters any more.
    fn dial_monitor(&mut self, index: u32) {
        let Some(monitor) = self.monitors.0.get(&index) else { return };
        let via = monitor.via;
        let masters: Vec<NodeId> = self.table.masters().collect();
        let stale: Vec<LaneId> =
            monitor.lanes.iter().filter(|(node, _)| !masters.contains(node)).map(|(_, lane)| *lane).collect();
        let missing: Vec<NodeId> =
            masters.into_iter().filter(|master| monitor.lanes.iter().all(|(node, _)| node != master)).collect();
        stale.into_iter().for_each(|lane| self.close_monitor_lane(lane));
        for node in missing {
            match self.dial(node, via, Role::Monitor { client: index }) {
                Ok(lane) => {
                    self.private.note_made();
                    let id = self.lanes[lane as usize].id;
                    self.monitors.0.entry(index).and_modify(|monitor| monitor.lanes.push((node, id)));
                }
                Err(NotNow::DialAfter(at)) => self.timers.push(Timer { at, client: index }),
                Err(_) => self.timers.push(Timer { at: self.now + DIAL_AGAIN_US, client: index }),
            }
        }
    }

    /// Every master has agreed, or it is too late.
    fn settle_monitor(&mut self, index: u32) {
        let Some(Monitor { lanes, owed: Some((seq, deadline)), .. }) = self.monitors.0.get(&index) else { return };
        let (seq, late) = (*seq, *deadline <= self.now);
        let is_open = |lane: &LaneId| self.lanes.get(lane.index as usize).is_some_and(|lane| lane.is_open());
        let all = self.table.masters().all(|master| lanes.iter().any(|(node, lane)| *node == master && is_open(lane)));
        if all && !lanes.is_empty() {
            self.monitors.0.entry(index).and_modify(|monitor| monitor.owed = None);
            self.clients[index as usize].modes.set(Modes::MONITORING, true);
            self.answer(index, seq, b"+OK\r\n");
        } else if late {
            self.end_monitor(index);
            let text = format!(
                "-ERR proxy: not all masters could be monitored within {} s\r\n",
                self.settings.retry_deadline_us as f64 / 1e6
            );
            self.counters.gave_up += 1;
            self.answer(index, seq, text.as_bytes());
        }
    }

    /// A moment that was waited for has come.
    pub(super) fn tick_monitor(&mut self, index: u32) {
        if self.monitors.0.contains_key(&index) {
            self.dial_monitor(index);
            self.settle_monitor(index);
        }
    }

    /// A map tells of new masters, and of old ones that are none any more.
    pub(super) fn monitors_meet_map(&mut self) {
        let all: Vec<u32> = self.monitors.0.keys().copied().collect();
        all.into_iter().for_each(|client| self.tick_monitor(client));
    }

    /// The client has gone, or leaves by RESET or QUIT.
    pub(super) fn end_monitor(&mut self, index: u32) {
        let Some(monitor) = self.monitors.0.remove(&index) else { return };
        self.clients[index as usize].modes.set(Modes::MONITORING, false);
        monitor.lanes.into_iter().for_each(|(_, lane)| self.close_monitor_lane(lane));
    }

    fn close_monitor_lane(&mut self, id: LaneId) {
        let Some(lane) = lane_mut(&mut self.lanes, id) else { return };
        let Role::Monitor { client } = lane.role else { return };
        let node = lane.node;
        self.table.node(node).lane_closed();
        self.lanes.remove(id.index as usize);
        self.events.push_back(Event::CloseLane { lane: id });
        self.forget_monitor_lane(id, client);
    }

    /// A lane has been lost.
    pub(super) fn monitor_lane_lost(&mut self, id: LaneId, client: u32) {
        self.forget_monitor_lane(id, client);
        self.timers.push(Timer { at: self.now + DIAL_AGAIN_US, client });
    }

    fn forget_monitor_lane(&mut self, id: LaneId, client: u32) {
        self.private.note_gone();
        self.monitors.0.entry(client).and_modify(|monitor| monitor.lanes.retain(|(_, lane)| *lane != id));
    }

    /// What a node sent on a monitor's lane: answers to the greeting, then lines.
    pub(super) fn monitor_bytes(&mut self, id: LaneId, client: u32, mut data: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', data) {
            let Some(lane) = lane_mut(&mut self.lanes, id) else { return };
            keep_line(&mut lane.carry, &data[..=end]);
            let line = std::mem::take(&mut lane.carry);
            data = &data[end + 1..];
            match lane.state {
                LaneState::Greeting(left) => self.monitor_greeted(id, client, left, &line),
                _ => self.monitored(client, &line),
            }
            if let Some(lane) = lane_mut(&mut self.lanes, id) {
                lane.carry = line;
                lane.carry.clear();
            }
        }
        if let Some(lane) = lane_mut(&mut self.lanes, id) {
            keep_line(&mut lane.carry, data);
        }
    }

    fn monitor_greeted(&mut self, id: LaneId, client: u32, left: u8, line: &[u8]) {
        if line.first() == Some(&b'-') {
            self.counters.refused_greetings += 1;
            let owed = self.monitors.0.get(&client).and_then(|monitor| monitor.owed);
            match owed {
                // The node's own words: it may not, or the node cannot now.
                Some((seq, _)) => {
                    self.end_monitor(client);
                    self.answer(client, seq, line);
                }
                None => self.close_monitor_lane(id),
            }
            return;
        }
        let Some(lane) = lane_mut(&mut self.lanes, id) else { return };
        lane.state = if left > 1 { LaneState::Greeting(left - 1) } else { LaneState::Open };
        self.mark_lane_dirty(id.index);
        self.settle_monitor(client);
    }

    fn monitored(&mut self, client: u32, line: &[u8]) {
        let begun = self.monitors.0.get(&client).is_some_and(|monitor| monitor.owed.is_none());
        if begun && !is_about_the_cluster(line) {
            self.notify(client, line);
        }
    }

    /// A client that monitors is a replica to the servers, which may not touch keys. Answers whether the command was refused.
    pub(super) fn refuse_while_monitoring(
        &mut self,
        index: u32,
        command: &Command,
        frame: &[u8],
        spans: &[crate::resp::Span],
    ) -> bool {
        let keyspace = command.flags.is_readonly() || self.may_replicate(command, frame, spans);
        if !keyspace || !command.accepts(spans.len()) {
            return false;
        }
        let spelled_right = self.persona().is_none_or(has_subcommands);
        let verb = if spelled_right { "interact" } else { "interract" };
        self.reply_now(index, format!("-ERR Replica can't {verb} with the keyspace\r\n").as_bytes());
        true
    }
}

/// Adds to a line that is not whole yet, up to its limit; its end is kept in any case.
fn keep_line(line: &mut Vec<u8>, more: &[u8]) {
    let room = LINE_LEN_MAX.saturating_sub(line.len());
    if more.len() <= room {
        return line.extend_from_slice(more);
    }
    line.extend_from_slice(&more[..room]);
    if more.ends_with(b"\n") {
        line.truncate(LINE_LEN_MAX);
        line.extend_from_slice(b"...\"\r\n");
    }
}

/// Whether a line tells of a command that no standalone server carries out: the nodes' and proxies' own business.
fn is_about_the_cluster(line: &[u8]) -> bool {
    let Some(at) = memchr::memmem::find(line, b"] \"") else { return false };
    let name = line[at + 3..].split(|byte| *byte == b'"').next().unwrap_or_default();
    matches!(command::lookup(name).map(|command| command.class), Some(Class::Local(Local::ClusterRefused)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_cluster_does_is_left_out() {
        let check = |command: &str, expected: bool| {
            let line = format!("+1795371782.353318 [0 127.0.0.1:37648] {command}\r\n");
            assert_eq!(is_about_the_cluster(line.as_bytes()), expected, "{command}");
        };
        check("\"SET\" \"a\" \"] \\\"CLUSTER\\\"\"", false);
        check("\"cluster\" \"nodes\"", true);
        check("\"ASKING\"", true);
        check("\"READONLY\"", true);
        check("\"NOSUCH\"", false);
        check("\"\"", false);
        assert!(!is_about_the_cluster(b"+1795371783.662743 [0 lua] \"set\" \"x\" \"y\"\r\n"));
        assert!(!is_about_the_cluster(b"+OK\r\n"));
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_ends() {
        let mut line = Vec::new();
        keep_line(&mut line, b"+1 [0 a] \"SET\" \"");
        (0..5).for_each(|_| keep_line(&mut line, &[b'x'; LINE_LEN_MAX / 4]));
        keep_line(&mut line, b"\"\r\n");
        assert_eq!(line.len(), LINE_LEN_MAX + 6);
        assert!(line.ends_with(b"xxx...\"\r\n"));
    }
}
