//! Commands that change something on every node, replicas too, and what the operator has allowed although it is refused by default.

use crate::{
    cluster::Slot,
    command::{Command, Fan, Unblocked, Verdict, unblocked},
    resp::Span,
};

use super::{
    Engine, RefreshCause,
    ids::{NONE, NodeId},
    merge::{Job, Merge},
    merge_replies,
    send::Target,
    session::{Pause, State},
    settings::Identity,
};

const FAILED_NODE: &[u8] = b"-ERR proxy: the node has failed\r\n";

/// DEBUG's subcommands about a key, which is argument 2.
const DEBUG_KEYED: [&str; 7] = ["OBJECT", "DIGEST-VALUE", "SDSLEN", "LISTPACK", "ZIPLIST", "QUICKLIST", "HTSTATS-KEY"];
/// Those that say the same on every node.
const DEBUG_ANYWHERE: [&str; 6] = ["HELP", "PROTOCOL", "ERROR", "STRINGMATCH", "STRINGMATCH-LEN", "STRUCTSIZE"];
/// Those that end a server.
const DEBUG_FATAL: [&str; 8] =
    ["SEGFAULT", "PANIC", "ASSERT", "OOM", "RESTART", "CRASH-AND-RECOVER", "CRASH-AND-ABORT", "SEGFAULT-ON-EXIT"];

impl Engine {
    /// A command that is refused by default.
    pub(super) fn refused_by_default(
        &mut self,
        index: u32,
        command: &'static Command,
        reason: &str,
        frame: &[u8],
        spans: &[Span],
    ) -> Result<(), Pause> {
        let allowed = self.settings.policy.verdict(command) == Verdict::Allowed;
        match unblocked(command).filter(|_| allowed) {
            None => {
                let hint = if allowed { ", and commands.allow cannot change that" } else { "" };
                self.refuse_for(index, command, &format!("{reason}{hint}"));
                Ok(())
            }
            // Its own words.
            Some(_) if !command.accepts(spans.len()) => self.send_any(index, frame),
            Some(Unblocked::Everywhere(fan)) => self.everywhere(index, fan, frame),
            Some(Unblocked::AllMasters(fan)) => self.fan_out(index, command, fan, frame, spans),
            Some(Unblocked::Keyed) => self.keyed(index, command, frame, spans),
            Some(Unblocked::AnyNode) => self.send_any(index, frame),
            Some(Unblocked::Debug) => self.debug(index, command, frame, spans),
        }
    }

    fn refuse_for(&mut self, index: u32, command: &Command, reason: &str) {
        self.reply_now(index, format!("-ERR proxy: '{}' is refused: {reason}\r\n", command.lower_name()).as_bytes());
    }

    fn debug(&mut self, index: u32, command: &'static Command, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        let named = |names: &[&str]| names.iter().any(|name| spans[1].of(frame).eq_ignore_ascii_case(name.as_bytes()));
        if named(&DEBUG_FATAL) {
            self.refuse_for(index, command, "this subcommand ends servers, and commands.allow cannot change that");
            return Ok(());
        }
        match spans.get(2) {
            Some(key) if named(&DEBUG_KEYED) => self.send_single(index, Slot::of(key.of(frame)), frame, false),
            _ if named(&DEBUG_ANYWHERE) => self.send_any(index, frame),
            _ => self.fan_out(index, command, Fan::FirstEqual, frame, spans),
        }
    }

    /// Users of the cluster are none of the clients' business where the proxy has users of its own. Answers whether it refused.
    pub(super) fn refuses_acl(&mut self, index: u32, command: &'static Command) -> bool {
        const OF_THE_CLUSTER: [&str; 7] =
            ["ACL|SETUSER", "ACL|DELUSER", "ACL|LOAD", "ACL|SAVE", "ACL|LIST", "ACL|USERS", "ACL|GETUSER"];
        let refused = matches!(self.settings.identity, Identity::Proxy(_)) && OF_THE_CLUSTER.contains(&command.name);
        if refused {
            self.refuse_for(index, command, "auth.mode is proxy, and its users stand in auth.users");
        }
        refused
    }

    /// To every node of the map, replicas too: all do it, or an error says which did not.
    pub(super) fn everywhere(&mut self, index: u32, fan: Fan, frame: &[u8]) -> Result<(), Pause> {
        self.barrier(index)?;
        let entry = |node: &NodeId| &self.table.nodes[usize::from(node.0)];
        let in_map = (0..self.table.nodes.len() as u16).map(NodeId).filter(|node| entry(node).in_map);
        if self.table.map.is_none() || in_map.clone().next().is_none() {
            return self.await_map(index, frame);
        }
        let (failed, alive): (Vec<NodeId>, Vec<NodeId>) = in_map.partition(|node| entry(node).failed);
        let nodes = alive.iter().chain(&failed).map(|node| entry(node).addr.clone()).collect();
        let merge = self.owe_merge(index, Job::Everywhere { fan, nodes });
        for node in &alive {
            self.add_part(merge, Target::Node(*node), 0, (0, 0), |out| out.extend_from_slice(frame));
        }
        // Nobody waits for the answer of a node that has failed, but it is not passed over in silence either.
        let mut tickets = Vec::new();
        let entry = &mut self.merges[merge as usize];
        for node in failed {
            tickets.push(entry.open_part(Target::Node(node), State::Sent { lane: NONE }, (0, 0)));
        }
        for ticket in tickets {
            self.part_done(ticket, FAILED_NODE);
        }
        Ok(())
    }

    pub(super) fn done_everywhere(&mut self, merge: &Merge, out: &mut Vec<u8>) {
        let Job::Everywhere { fan, nodes } = &merge.job else { return };
        let replies: Vec<&[u8]> = (0..merge.parts.len()).map(|part| merge.reply(part)).collect();
        // It may have been about the default user.
        self.refresh(RefreshCause::DefaultUser);
        self.checked.clear();
        self.users.forget_permissions();
        let refusals: Vec<usize> = (0..replies.len()).filter(|part| replies[*part].starts_with(b"-")).collect();
        match refusals.first() {
            Some(first) if replies.iter().any(|reply| reply != &replies[*first]) => {
                let named: Vec<String> = refusals.iter().map(|part| nodes[*part].to_string()).collect();
                out.extend_from_slice(replies[*first].trim_ascii_end());
                out.extend_from_slice(
                    format!(
                        " (proxy: not done on {} of {} nodes: {}; done on the others)\r\n",
                        named.len(),
                        replies.len(),
                        named.join(", ")
                    )
                    .as_bytes(),
                );
            }
            _ => merge_replies::merge(*fan, merge.via.proto, None, &replies, out),
        }
    }
}
