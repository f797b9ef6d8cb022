//! A cluster of real servers, formed with the cluster's own commands.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::process::Folder;
use super::servers::ServerProcess;
use super::{Client, Reply, Server, wait_until};

pub const SLOT_COUNT: u16 = 16384;

/// The slot of a key: CRC16 of the key, or of its hash tag (the cluster specification, "Hash tags").
pub fn slot_of(key: &str) -> u16 {
    let hashed = key.find('{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.find('}').filter(|&close| close > 0).map(|close| &rest[..close])
    });
    crc16::State::<crc16::XMODEM>::calculate(hashed.unwrap_or(key).as_bytes()) % SLOT_COUNT
}

/// A short hash tag, braces included, for each slot of `slots`, in their order.
pub fn tags_in(slots: std::ops::Range<u16>) -> Vec<String> {
    let mut tags = vec![String::new(); slots.len()];
    let mut missing = tags.len();
    for number in 0.. {
        if missing == 0 {
            break;
        }
        let tag = format!("{{t{number}}}");
        let slot = slot_of(&tag);
        if slots.contains(&slot) && tags[usize::from(slot - slots.start)].is_empty() {
            tags[usize::from(slot - slots.start)] = tag;
            missing -= 1;
        }
    }
    tags
}

/// The shape of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub masters: usize,
    pub replicas_each: usize,
    /// How long a node may be silent until the others call it failed.
    pub node_timeout: Duration,
    /// Whether one uncovered slot stops the whole cluster (`cluster-require-full-coverage`).
    pub full_coverage: bool,
    /// More of the server's command line.
    pub arguments: Vec<String>,
}

impl Default for ClusterOptions {
    /// Three masters that stay masters although the machine is busy: nothing in most tests is to fail over.
    fn default() -> ClusterOptions {
        ClusterOptions {
            masters: 3,
            replicas_each: 0,
            node_timeout: Duration::from_secs(20),
            full_coverage: true,
            arguments: Vec::new(),
        }
    }
}

impl ClusterOptions {
    /// As [`ClusterOptions::default`], with a replica each, that takes over after two seconds of silence.
    pub fn with_failover() -> ClusterOptions {
        ClusterOptions { replicas_each: 1, node_timeout: Duration::from_secs(2), ..ClusterOptions::default() }
    }
}

/// What one line of CLUSTER NODES says of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeView {
    pub id: String,
    pub port: u16,
    pub flags: Vec<String>,
    /// The id of its master; `-` for a master.
    pub master: String,
    pub connected: bool,
    /// Ranges and single slots as printed, without the open ones (`[12->-id]`).
    pub slots: Vec<String>,
    pub open_slots: Vec<String>,
}

impl NodeView {
    fn parse(line: &str) -> NodeView {
        let words: Vec<&str> = line.split(' ').collect();
        let port = words[1].split(['@', ',']).next().and_then(|addr| addr.rsplit(':').next()).and_then(|port| port.parse().ok());
        // The node itself is marked in its own answer only, which would make two equal answers differ.
        let flags = words[2].split(',').filter(|&flag| flag != "myself").map(str::to_owned).collect();
        let (open_slots, slots): (Vec<_>, Vec<_>) =
            words[8..].iter().map(|&word| word.to_owned()).partition(|word| word.starts_with('['));
        NodeView {
            id: words[0].to_owned(),
            port: port.unwrap_or_else(|| panic!("no port in {line:?}")),
            flags,
            master: words[3].to_owned(),
            connected: words[7] == "connected",
            slots,
            open_slots,
        }
    }

    pub fn is_master(&self) -> bool {
        self.has("master")
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|one| one == flag)
    }

    fn is_settled(&self) -> bool {
        !["handshake", "fail?", "fail", "noaddr", "nofailover"].iter().any(|flag| self.has(flag)) && self.connected
    }

    pub fn owns(&self, slot: u16) -> bool {
        self.slot_ranges().any(|(first, last)| (first..=last).contains(&slot))
    }

    pub fn slot_count(&self) -> usize {
        self.slot_ranges().map(|(first, last)| usize::from(last - first) + 1).sum()
    }

    pub fn slot_ranges(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.slots.iter().map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.parse().expect("the server prints slots as numbers");
            (number(first), number(last))
        })
    }
}

/// One member. `process` is `None` while it is down.
pub struct Member {
    pub port: u16,
    pub id: String,
    process: Option<ServerProcess>,
    folder: PathBuf,
}

impl Member {
    pub fn client(&self) -> Client {
        self.process.as_ref().map_or_else(|| Client::connect(self.port), ServerProcess::client)
    }

    /// Stops its process (SIGSTOP), until it is let go on.
    pub fn stop(&self) {
        self.process.as_ref().expect("a running member").signal("STOP");
    }

    pub fn go_on(&self) {
        self.process.as_ref().expect("a running member").signal("CONT");
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running member").pid()
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }
}

/// A running cluster; dropping it ends all its servers.
pub struct Cluster {
    pub server: Server,
    options: ClusterOptions,
    members: Vec<Member>,
    // Last, so that the servers are gone before their folder is.
    folder: Folder,
}

impl Cluster {
    /// Starts the servers and returns once all of them agree about all of them. Members `0..masters` are the masters in
    /// slot order, then follow the replicas of master 0, of master 1 and so on.
    pub fn start(server: Server, options: ClusterOptions) -> Cluster {
        let mut cluster = Cluster { server, options, members: Vec::new(), folder: Folder::new() };
        let masters = cluster.options.masters;
        for _ in 0..masters * (1 + cluster.options.replicas_each) {
            cluster.add_member();
        }
        for index in 0..masters {
            cluster.give_slots(index);
        }
        for index in 1..cluster.members.len() {
            cluster.introduce(index);
        }
        cluster.wait_for(|cluster| cluster.agreement());
        for index in masters..cluster.members.len() {
            let master = (index - masters) / cluster.options.replicas_each;
            cluster.make_replica(index, master);
        }
        cluster.wait_for_agreement();
        cluster
    }

    /// Three masters, no replicas.
    pub fn of_masters(server: Server) -> Cluster {
        Cluster::start(server, ClusterOptions::default())
    }

    fn add_member(&mut self) -> usize {
        let index = self.members.len();
        let folder = self.folder.join(format!("node-{index}"));
        std::fs::create_dir(&folder).expect("the cluster's folder is writable and this one is new");
        let process = ServerProcess::start(self.server, &folder, None, &self.arguments());
        let id = process.client().call(&["CLUSTER", "MYID"]).text();
        self.members.push(Member { port: process.port, id, process: Some(process), folder });
        index
    }

    fn arguments(&self) -> Vec<String> {
        let node_timeout = self.options.node_timeout.as_millis().to_string();
        let full_coverage = if self.options.full_coverage { "yes" } else { "no" };
        let arguments = [
            ["--cluster-enabled", "yes"],
            ["--cluster-config-file", "nodes.conf"],
            ["--cluster-node-timeout", &node_timeout],
            ["--cluster-require-full-coverage", full_coverage],
            // A replica is there after milliseconds instead of after a pause in which others might come.
            ["--repl-diskless-sync", "yes"],
            ["--repl-diskless-sync-delay", "0"],
        ];
        arguments.concat().into_iter().map(str::to_owned).chain(self.options.arguments.clone()).collect()
    }

    fn give_slots(&self, index: usize) {
        let bound = |index: usize| (usize::from(SLOT_COUNT) * index / self.options.masters) as u16;
        let mut command = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
        command.extend((bound(index)..bound(index + 1)).map(|slot| slot.to_string()));
        let mut client = self.members[index].client();
        assert_eq!(client.call(&command), Reply::ok());
        assert_eq!(client.call(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]), Reply::ok());
    }

    fn introduce(&self, index: usize) {
        let port = self.members[index].port.to_string();
        assert_eq!(self.members[0].client().call(&["CLUSTER", "MEET", "127.0.0.1", &port]), Reply::ok());
    }

    fn make_replica(&self, index: usize, master: usize) {
        let id = &self.members[master].id;
        // The node hears of its master by gossip, which may be a moment away.
        wait_until("a replica to accept its master", || match self.members[index].client().call(&["CLUSTER", "REPLICATE", id]) {
            reply if reply == Reply::ok() => Ok(()),
            refusal => Err(refusal.text()),
        });
    }

    /// The running members' addresses, as `cluster.seeds` takes them.
    pub fn seeds(&self) -> String {
        let up = self.members.iter().filter(|member| member.is_up());
        up.map(|member| format!("127.0.0.1:{}", member.port)).collect::<Vec<_>>().join(",")
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// A connection to the first member that is up.
    pub fn any_client(&self) -> Client {
        self.members.iter().find(|member| member.is_up()).expect("a member is up").client()
    }

    /// What one member says of all, sorted by id.
    pub fn view_of(&self, index: usize) -> Vec<NodeView> {
        parse_nodes(&self.members[index].client().call(&["CLUSTER", "NODES"]).text())
    }

    /// What the first member that is up says of all.
    pub fn view(&self) -> Vec<NodeView> {
        let index = self.members.iter().position(Member::is_up).expect("a member is up");
        self.view_of(index)
    }

    /// A new master without slots that all others know, and that is ready to take some.
    pub fn add_empty_master(&mut self) -> usize {
        let index = self.add_member();
        self.introduce(index);
        self.wait_for_agreement();
        index
    }

    /// `kill -9`.
    pub fn kill(&mut self, index: usize) {
        let mut process = self.members[index].process.take().expect("only a running member can be killed");
        process.kill();
    }

    /// Starts a killed member again, with the address and the memory of the cluster it had.
    pub fn restart(&mut self, index: usize) {
        let member = &self.members[index];
        let process = ServerProcess::start(self.server, &member.folder, Some(member.port), &self.arguments());
        self.members[index].process = Some(process);
    }

    /// Waits until all running members agree, all slots are served and all replicas are in step.
    pub fn wait_for_agreement(&self) {
        self.wait_for(|cluster| cluster.agreement().and_then(|()| cluster.readiness()));
    }

    /// `CLUSTER FAILOVER`: the replica and its master change places in peace.
    pub fn change_places(&self, replica: usize) {
        let mut client = self.member(replica).client();
        let mut asked: Option<Instant> = None;
        self.wait_for(|cluster| {
            let view = cluster.view_of(replica);
            if view.iter().find(|node| node.id == cluster.member(replica).id).expect("all know all").is_master() {
                return Ok(());
            }
            // A server gives a failover up after 5 s, on a busy machine before it has begun: an operator would ask again.
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(7)) {
                let reply = client.call(&["CLUSTER", "FAILOVER"]);
                if reply != Reply::ok() {
                    return Err(reply.text());
                }
                asked = Some(Instant::now());
            }
            Err(format!("{view:?}"))
        });
        self.wait_for_agreement();
    }

    /// Waits until `check` finds the cluster in the state it is after.
    pub fn wait_for<T>(&self, mut check: impl FnMut(&Cluster) -> Result<T, String>) -> T {
        wait_until("the cluster", || check(self))
    }

    fn agreement(&self) -> Result<(), String> {
        let mut first: Option<Vec<NodeView>> = None;
        for index in self.running() {
            let view = self.view_of(index);
            if view.len() != self.members.len() {
                return Err(format!("member {index} knows {} of {} nodes", view.len(), self.members.len()));
            }
            if let Some(node) = view.iter().find(|node| !node.is_settled()) {
                return Err(format!("member {index} says {node:?}"));
            }
            match &first {
                Some(first) if *first != view => return Err(format!("{first:?} or {view:?}")),
                _ => first = Some(view),
            }
        }
        Ok(())
    }

    fn readiness(&self) -> Result<(), String> {
        for index in self.running() {
            let mut client = self.members[index].client();
            let info = client.call(&["CLUSTER", "INFO"]).text();
            if !info.contains("cluster_state:ok") {
                return Err(info);
            }
            let replication = client.call(&["INFO", "replication"]).text();
            if replication.contains("role:slave") && !replication.contains("master_link_status:up") {
                return Err(replication);
            }
        }
        let view = self.view();
        let replicas = view.iter().filter(|node| node.has("slave")).count();
        let expected = self.options.masters * self.options.replicas_each;
        if replicas != expected { Err(format!("{replicas} of {expected} replicas")) } else { Ok(()) }
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|&index| self.members[index].is_up())
    }
}

/// CLUSTER NODES, sorted by id.
pub fn parse_nodes(text: &str) -> Vec<NodeView> {
    let mut nodes: Vec<NodeView> = text.lines().map(NodeView::parse).collect();
    nodes.sort();
    nodes
}
