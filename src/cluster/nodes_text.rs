//! The reply to `CLUSTER NODES`: one node's view of the whole cluster.
//!
//! This one text has all that the proxy needs on every version from 6.2 on: ids, addresses, flags, config epochs,
//! slots, and the open slots of the node that was asked. A line (`cluster.c`, `clusterGenNodeDescription`) is
//!
//! ```text
//! <id> <ip:port@cport[,hostname[,aux=value]...]> <flags> <master|-> <ping> <pong> <epoch> <link> [<slot>|<first>-<last>|[<slot>->-<id>]|[<slot>-<-<id>]]...
//! ```

use std::sync::Arc;

use crate::cluster::Slot;

/// What one node says of the cluster. `NodesView::parse` makes it from the reply's text.
#[derive(Clone, Debug)]
pub struct NodesView {
    /// Every node it knows, in its own order, without those it still shakes hands with: their ids are made up.
    pub nodes: Vec<NodeFacts>,
    /// Index into `nodes` of the node that was asked.
    pub myself: usize,
}

/// What one node says of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    pub id: Arc<str>,
    /// The IP (or what `cluster-announce-ip` says), empty while the node does not know its own.
    pub host: String,
    /// The port for clients, 0 when the address is unknown (flag `noaddr`).
    pub port: u16,
    /// `cluster-announce-hostname`, since 7.0.
    pub hostname: Option<String>,
    pub flags: NodeFlags,
    /// The id of the master it replicates.
    pub master: Option<Arc<str>>,
    /// The config epoch; of a replica its master's.
    pub epoch: u64,
    /// The cluster bus link from the node that was asked to this one is up.
    pub connected: bool,
    /// Both ends included.
    pub slots: Vec<(Slot, Slot)>,
    /// Open slots, which only the line of `myself` shows.
    pub open: Vec<OpenMark>,
}

/// The flags that Keyway acts on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NodeFlags {
    pub myself: bool,
    pub master: bool,
    pub replica: bool,
    /// The cluster agreed that it is down. (`fail?` is one node's suspicion.)
    pub fail: bool,
    pub suspected: bool,
    pub handshake: bool,
    pub noaddr: bool,
}

/// A slot that the node which was asked is giving to, or taking from, another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenMark {
    Migrating { slot: Slot, to: Arc<str> },
    Importing { slot: Slot, from: Arc<str> },
}

/// Why a text is no `CLUSTER NODES` reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NodesError {
    #[error("the reply is not UTF-8 text")]
    NotText,
    #[error("line {line}: expected {expected}, found {found:?}")]
    Line { line: usize, expected: &'static str, found: String },
    #[error("expected one line with the flag myself, found {found}")]
    Myself { found: usize },
}

impl NodesView {
    /// Reads the reply's text.
    pub fn parse(text: &[u8]) -> Result<NodesView, NodesError> {
        let text = std::str::from_utf8(text).map_err(|_| NodesError::NotText)?;
        let mut nodes = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let node = parse_line(line).map_err(|wrong| NodesError::Line {
                line: number + 1,
                expected: wrong.expected,
                found: wrong.found.into(),
            })?;
            if !node.flags.handshake {
                nodes.push(node);
            }
        }
        let myself: Vec<usize> = (0..nodes.len()).filter(|&index| nodes[index].flags.myself).collect();
        match myself[..] {
            [myself] => Ok(NodesView { nodes, myself }),
            _ => Err(NodesError::Myself { found: myself.len() }),
        }
    }

    /// What the node that was asked says of itself.
    pub fn myself(&self) -> &NodeFacts {
        &self.nodes[self.myself]
    }

    /// How many slots have an owner in this view. (A slot has one in a view: `clusterState.slots` is an array.)
    pub fn covered(&self) -> usize {
        let width = |&(first, last): &(Slot, Slot)| (last.get() - first.get()) as usize + 1;
        self.nodes.iter().flat_map(|node| &node.slots).map(width).sum()
    }
}

struct Wrong<'a> {
    expected: &'static str,
    found: &'a str,
}

fn parse_line(line: &str) -> Result<NodeFacts, Wrong<'_>> {
    let mut fields = line.split_ascii_whitespace();
    let mut field = |expected| fields.next().ok_or(Wrong { expected, found: line });
    let id = field("a node id")?;
    let endpoint = field("ip:port@cport")?;
    let flags = parse_flags(field("flags")?);
    let master = field("a master's id or -")?;
    let _ping_sent_ms = field("the time of the last ping")?;
    let _pong_received_ms = field("the time of the last pong")?;
    let epoch = field("a config epoch")?;
    let link = field("a link state")?;
    let (host, port, hostname) = parse_endpoint(endpoint).ok_or(Wrong { expected: "ip:port@cport", found: endpoint })?;
    let mut node = NodeFacts {
        id: id.into(),
        host: host.into(),
        port,
        hostname: hostname.map(str::to_owned),
        flags,
        master: (master != "-").then(|| master.into()),
        epoch: epoch.parse().map_err(|_| Wrong { expected: "a config epoch", found: epoch })?,
        connected: link == "connected",
        slots: Vec::new(),
        open: Vec::new(),
    };
    for field in fields {
        parse_slots(field, &mut node).ok_or(Wrong { expected: "slots", found: field })?;
    }
    Ok(node)
}

/// `ip:port@cport[,hostname[,aux=value]...]` as host, port and hostname. The host may be empty, and hold colons.
fn parse_endpoint(endpoint: &str) -> Option<(&str, u16, Option<&str>)> {
    let mut parts = endpoint.split(',');
    let address = parts.next()?;
    let client_side = address.split_once('@').map_or(address, |(client_side, _bus_port)| client_side);
    let (host, port) = client_side.rsplit_once(':')?;
    let hostname = parts.next().filter(|part| !part.is_empty() && !part.contains('='));
    Some((host, port.parse().ok()?, hostname))
}

/// Flags that newer servers may add are passed over.
fn parse_flags(list: &str) -> NodeFlags {
    let mut flags = NodeFlags::default();
    for flag in list.split(',') {
        match flag {
            "myself" => flags.myself = true,
            "master" => flags.master = true,
            "slave" | "replica" => flags.replica = true,
            "fail" => flags.fail = true,
            "fail?" => flags.suspected = true,
            "handshake" => flags.handshake = true,
            "noaddr" => flags.noaddr = true,
            _ => {}
        }
    }
    flags
}

/// One field of slots: `7`, `0-5460`, `[17->-id]` or `[17-<-id]`.
fn parse_slots(field: &str, node: &mut NodeFacts) -> Option<()> {
    if let Some(mark) = field.strip_prefix('[') {
        let mark = mark.strip_suffix(']')?;
        node.open.push(match (mark.split_once("->-"), mark.split_once("-<-")) {
            (Some((slot, to)), _) => OpenMark::Migrating { slot: Slot::parse(slot.as_bytes())?, to: to.into() },
            (_, Some((slot, from))) => OpenMark::Importing { slot: Slot::parse(slot.as_bytes())?, from: from.into() },
            _ => return None,
        });
        return Some(());
    }
    let (first, last) = field.split_once('-').unwrap_or((field, field));
    let (first, last) = (Slot::parse(first.as_bytes())?, Slot::parse(last.as_bytes())?);
    (first <= last).then(|| node.slots.push((first, last)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A reply captured from a real cluster of this version in this state.
    macro_rules! capture {
        ($name:literal) => {
            (NodesView::parse(include_bytes!(concat!("captures/", $name, ".txt"))), $name)
        };
    }

    type Capture = (Result<NodesView, NodesError>, &'static str);

    #[test]
    fn healthy_clusters() {
        fn check((view, name): Capture, hostname: Option<&str>) {
            let view = view.expect(name);
            assert_eq!((view.nodes.len(), view.covered()), (6, 16384), "{name}");
            assert_eq!(view.nodes.iter().filter(|node| node.flags.master).count(), 3, "{name}");
            let me = view.myself();
            assert_eq!((me.host.as_str(), me.port % 10, me.epoch), ("127.0.0.1", 0, 1), "{name}");
            assert_eq!(me.slots.iter().map(|(first, last)| (first.get(), last.get())).collect::<Vec<_>>(), [(0, 5460)]);
            for node in &view.nodes {
                assert_eq!(node.hostname.as_deref(), hostname, "{name}");
                assert_eq!(node.flags.replica, node.master.is_some(), "{name}");
                assert!(node.connected && !node.flags.fail && node.id.len() == 40, "{name}");
            }
        }
        check(capture!("6.2-healthy"), None);
        check(capture!("7.0-healthy"), Some("n.example"));
        check(capture!("8.2-healthy"), Some("n.example"));
        check(capture!("9.1-healthy"), Some("n.example"));
    }

    #[test]
    fn nodes_in_handshake_are_left_out() {
        for (view, name) in
            [capture!("6.2-handshake"), capture!("7.0-handshake"), capture!("8.2-handshake"), capture!("9.1-handshake")]
        {
            assert_eq!(view.expect(name).nodes.len(), 6, "{name}");
        }
    }

    #[test]
    fn open_slots_stand_on_the_line_of_myself() {
        fn check((view, name): Capture, migrating: bool) {
            let view = view.expect(name);
            let slots = view.myself().open.iter().map(|mark| match mark {
                OpenMark::Migrating { slot, to } => (true, slot.get(), to.clone()),
                OpenMark::Importing { slot, from } => (false, slot.get(), from.clone()),
            });
            let slots = slots.collect::<Vec<_>>();
            let numbers: Vec<_> = slots.iter().map(|(migrating, slot, _)| (*migrating, *slot)).collect();
            assert_eq!(numbers, [(migrating, 17), (migrating, 5460)], "{name}");
            let known = |id: &str| view.nodes.iter().any(|node| &*node.id == id);
            assert!(slots.iter().all(|(_, _, id)| known(id)), "{name}");
        }
        check(capture!("6.2-migrating"), true);
        check(capture!("7.0-migrating"), true);
        check(capture!("8.2-migrating"), true);
        check(capture!("9.1-migrating"), true);
        check(capture!("6.2-importing"), false);
        check(capture!("7.0-importing"), false);
        check(capture!("8.2-importing"), false);
        check(capture!("9.1-importing"), false);
    }

    #[test]
    fn failed_masters() {
        fn check((view, name): Capture, noaddr: bool) {
            let view = view.expect(name);
            let [failed] = &view.nodes.iter().filter(|node| node.flags.fail).collect::<Vec<_>>()[..] else {
                panic!("{name}: one node failed")
            };
            assert_eq!((failed.flags.noaddr, failed.port == 0), (noaddr, noaddr), "{name}");
            assert_eq!((failed.flags.master, failed.connected, failed.epoch), (true, false, 3), "{name}");
            assert_eq!(view.covered(), 16384, "{name}");
        }
        check(capture!("6.2-failed"), false);
        check(capture!("7.0-failed"), false);
        check(capture!("8.2-failed"), false);
        check(capture!("9.1-failed"), false);
        check(capture!("6.2-noaddr"), true);
        check(capture!("7.0-noaddr"), true);
        check(capture!("8.2-noaddr"), true);
        check(capture!("9.1-noaddr"), true);
    }

    #[test]
    fn a_fresh_node_does_not_know_its_ip() {
        for (view, name) in [capture!("6.2-fresh"), capture!("7.0-fresh"), capture!("8.2-fresh"), capture!("9.1-fresh")] {
            let view = view.expect(name);
            let me = view.myself();
            assert_eq!((me.host.as_str(), me.port % 10, me.epoch, view.covered()), ("", 6, 0, 0), "{name}");
        }
    }

    #[test]
    fn ipv6() {
        let view = capture!("7.0-ipv6").0.expect("a capture");
        let endpoint = |node: &NodeFacts| (node.host.clone(), node.port, node.hostname.clone());
        assert_eq!(endpoint(&view.nodes[0]), ("::1".into(), 21040, None));
        assert_eq!(endpoint(&view.nodes[1]), ("::1".into(), 21041, Some("a.b.c".into())));
    }

    #[test]
    fn endpoints() {
        fn check(endpoint: &str, expected: Option<(&str, u16, Option<&str>)>) {
            assert_eq!(parse_endpoint(endpoint), expected, "{endpoint}");
        }
        check("1.2.3.4:1@2", Some(("1.2.3.4", 1, None)));
        check("1.2.3.4:1", Some(("1.2.3.4", 1, None)));
        check("1.2.3.4:1@2,", Some(("1.2.3.4", 1, None)));
        check("1.2.3.4:1@2,host", Some(("1.2.3.4", 1, Some("host"))));
        check("1.2.3.4:1@2,host,shard-id=x,tls-port=3", Some(("1.2.3.4", 1, Some("host"))));
        check("1.2.3.4:1@2,,shard-id=x", Some(("1.2.3.4", 1, None)));
        check("1.2.3.4:1@2,shard-id=x", Some(("1.2.3.4", 1, None)));
        check(":0@0", Some(("", 0, None)));
        check("1.2.3.4", None);
        check("1.2.3.4:x@1", None);
        check("1.2.3.4:70000@1", None);
    }

    #[test]
    fn errors_say_where_and_what() {
        fn check(text: &str, expected: &str) {
            let error = NodesView::parse(text.as_bytes()).expect_err(text);
            assert_eq!(error.to_string(), expected, "{text}");
        }
        const ME: &str = "a h:1@2 myself,master - 0 0 1 connected 0-5";
        check("", "expected one line with the flag myself, found 0");
        check("a h:1@2 master - 0 0 1 connected", "expected one line with the flag myself, found 0");
        check(&format!("{ME}\n{ME}"), "expected one line with the flag myself, found 2");
        check(&format!("{ME}\nb h"), r#"line 2: expected flags, found "b h""#);
        check("a h myself - 0 0 1 connected", r#"line 1: expected ip:port@cport, found "h""#);
        check("a h:1@2 myself - 0 0 x connected", r#"line 1: expected a config epoch, found "x""#);
        check("a h:1@2 myself - 0 0 1 connected 5-2", r#"line 1: expected slots, found "5-2""#);
        check("a h:1@2 myself - 0 0 1 connected 16384", r#"line 1: expected slots, found "16384""#);
        check("a h:1@2 myself - 0 0 1 connected [1]", r#"line 1: expected slots, found "[1]""#);
        assert_eq!(NodesView::parse(b"\xff").expect_err("no text"), NodesError::NotText);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = NodesView::parse(&text);
        }

        #[test]
        fn never_panics_on_nearly_right_text(words in prop::collection::vec(
            prop::sample::select(vec![
                "a", "h:1@2", ":@", "::1:7@8,x,y=z", ",", "@", "myself,master", "slave", "-", "0", "18446744073709551616",
                "connected", "0-16383", "3-1", "[5->-b]", "[5-<-", "[]", "]", "->-", "\n",
            ]), 0..40)) {
            let _ = NodesView::parse(words.join(" ").as_bytes());
        }

        #[test]
        fn never_panics_on_a_damaged_capture(at in 0usize..1200, byte in any::<u8>(), cut in 0usize..1200) {
            let mut text = include_bytes!("captures/9.1-migrating.txt").to_vec();
            let last = text.len() - 1;
            text[at.min(last)] = byte;
            text.truncate(cut.max(at));
            if let Ok(view) = NodesView::parse(&text) {
                let _ = (view.myself(), view.covered());
            }
        }
    }
}
