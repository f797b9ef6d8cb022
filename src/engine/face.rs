//! What a listener looks like. A client that insists on a cluster is shown one of a single node, at the address it came to, that owns
//! all slots: it sends everything there and never meets a redirect.

use crate::{
    cluster::{SLOT_COUNT, Slot},
    command::Command,
    resp::{Proto, encode},
};

use super::{
    Engine,
    local::{OK, bulk, integer, strict_integer},
    session::Pause,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Face {
    #[default]
    Standalone,
    Cluster,
}

impl Face {
    /// As HELLO and INFO name it.
    pub fn mode(self) -> &'static str {
        match self {
            Face::Standalone => "standalone",
            Face::Cluster => "cluster",
        }
    }

    /// A standalone server's INFO, as this face has it.
    pub(super) fn info(self, text: Vec<u8>) -> Vec<u8> {
        if self == Face::Standalone {
            return text;
        }
        // The text was made by the proxy, of whole characters.
        let text = String::from_utf8_lossy(&text);
        text.replace("_mode:standalone\r\n", "_mode:cluster\r\n")
            .replace("cluster_enabled:0\r\n", "cluster_enabled:1\r\n")
            .into_bytes()
    }
}

/// The one node that a cluster's client is shown.
struct OnlyNode<'a> {
    id: &'a str,
    host: &'a str,
    port: u16,
}

impl<'a> OnlyNode<'a> {
    /// `local` is the address that the client came to: `host:port`, `[v6]:port`, or a path and `:0`.
    fn at(local: &'a str, id: &'a str) -> Self {
        let (host, port) = local.rsplit_once(':').unwrap_or((local, "0"));
        OnlyNode { id, host: host.trim_start_matches('[').trim_end_matches(']'), port: port.parse().unwrap_or(0) }
    }

    fn nodes(&self) -> String {
        let OnlyNode { id, host, port } = self;
        let bus = u32::from(*port) + 10_000;
        format!("{id} {host}:{port}@{bus} myself,master - 0 0 1 connected 0-{}\n", SLOT_COUNT - 1)
    }

    fn slots(&self, has_metadata: bool) -> Vec<u8> {
        let mut out = Vec::new();
        encode::array(&mut out, 1);
        encode::array(&mut out, 3);
        encode::integer(&mut out, 0);
        encode::integer(&mut out, SLOT_COUNT as i64 - 1);
        encode::array(&mut out, if has_metadata { 4 } else { 3 });
        encode::bulk(&mut out, self.host);
        encode::integer(&mut out, self.port.into());
        encode::bulk(&mut out, self.id);
        if has_metadata {
            encode::array(&mut out, 0);
        }
        out
    }

    fn shards(&self, proto: Proto) -> Vec<u8> {
        let mut out = Vec::new();
        encode::array(&mut out, 1);
        encode::map(&mut out, proto, 2);
        encode::bulk(&mut out, "slots");
        encode::array(&mut out, 2);
        encode::integer(&mut out, 0);
        encode::integer(&mut out, SLOT_COUNT as i64 - 1);
        encode::bulk(&mut out, "nodes");
        encode::array(&mut out, 1);
        encode::map(&mut out, proto, 7);
        encode::bulk(&mut out, "id");
        encode::bulk(&mut out, self.id);
        encode::bulk(&mut out, "port");
        encode::integer(&mut out, self.port.into());
        for (name, value) in [("ip", self.host), ("endpoint", self.host), ("role", "master")] {
            encode::bulk(&mut out, name);
            encode::bulk(&mut out, value);
        }
        encode::bulk(&mut out, "replication-offset");
        encode::integer(&mut out, 0);
        encode::bulk(&mut out, "health");
        encode::bulk(&mut out, "online");
        out
    }
}

/// CLUSTER INFO of one node that owns everything.
const INFO: &str = "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\n\
                    cluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:1\r\n\
                    cluster_my_epoch:1\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
                    total_cluster_links_buffer_limit_exceeded:0\r\n";

impl Engine {
    /// A well-formed CLUSTER command, READONLY, READWRITE or ASKING of a client that is shown a cluster.
    pub(super) fn as_cluster(
        &mut self,
        index: u32,
        command: &'static Command,
        arguments: &[&[u8]],
        frame: &[u8],
    ) -> Result<(), Pause> {
        let has_metadata = self.persona().is_some_and(super::since::has_subcommands);
        let session = &self.clients[index as usize];
        let proto = session.proto;
        let node = OnlyNode::at(&session.local, &self.facts.run_id);
        let mut out = Vec::new();
        match command.name {
            "ASKING" | "READONLY" | "READWRITE" => out.extend_from_slice(OK),
            "CLUSTER|INFO" => encode::verbatim(&mut out, proto, INFO),
            "CLUSTER|NODES" => encode::verbatim(&mut out, proto, node.nodes()),
            "CLUSTER|SLOTS" => out = node.slots(has_metadata),
            "CLUSTER|SHARDS" => out = node.shards(proto),
            "CLUSTER|MYID" | "CLUSTER|MYSHARDID" => out = bulk(node.id.as_bytes()),
            "CLUSTER|KEYSLOT" => out = integer(Slot::of(arguments[2]).get().into()),
            "CLUSTER|LINKS" | "CLUSTER|REPLICAS" | "CLUSTER|SLAVES" => encode::array(&mut out, 0),
            "CLUSTER|COUNT-FAILURE-REPORTS" => out = integer(0),
            "CLUSTER|HELP" => return self.send_any(index, frame),
            "CLUSTER|COUNTKEYSINSLOT" | "CLUSTER|GETKEYSINSLOT" => {
                let slot = strict_integer(arguments[2]).and_then(|number| Slot::new(u16::try_from(number).ok()?));
                return match slot {
                    Some(slot) => self.send_single(index, slot, frame, false),
                    None => self.send_any(index, frame),
                };
            }
            _ => {
                let name = command.lower_name();
                out = format!("-ERR proxy: '{name}' is refused: the cluster that this listener shows is one node, the proxy\r\n")
                    .into_bytes();
            }
        }
        self.reply_now(index, &out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_where_the_client_came_to() {
        let check = |local: &str, expected: &str| assert_eq!(OnlyNode::at(local, "abc").nodes(), expected, "{local}");
        check("10.0.0.1:6380", "abc 10.0.0.1:6380@16380 myself,master - 0 0 1 connected 0-16383\n");
        check("[::1]:60000", "abc ::1:60000@70000 myself,master - 0 0 1 connected 0-16383\n");
    }

    #[test]
    fn slots_and_shards_are_one_range() {
        let node = OnlyNode::at("10.0.0.1:6380", "abc");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let slots = text(node.slots(false));
        assert_eq!(slots, "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$8\r\n10.0.0.1\r\n:6380\r\n$3\r\nabc\r\n");
        assert!(text(node.slots(true)).ends_with("*4\r\n$8\r\n10.0.0.1\r\n:6380\r\n$3\r\nabc\r\n*0\r\n"));
        assert!(
            text(node.shards(Proto::Resp3))
                .starts_with("*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n%7\r\n")
        );
        assert!(text(node.shards(Proto::Resp2)).starts_with("*1\r\n*4\r\n"));
    }

    #[test]
    fn info_says_cluster() {
        let text = b"redis_mode:standalone\r\ncluster_enabled:0\r\nx:standalone\r\n".to_vec();
        assert_eq!(Face::Cluster.info(text.clone()), b"redis_mode:cluster\r\ncluster_enabled:1\r\nx:standalone\r\n");
        assert_eq!(Face::Standalone.info(text.clone()), text);
    }
}
