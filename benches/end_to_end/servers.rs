//! The cluster behind the proxies: three masters with all keys in place.

use keyway::cluster::{SLOT_COUNT, Slot};

use super::{
    Outcome,
    harness::{
        Client, Server,
        client::append_request,
        cluster::{Cluster, ClusterOptions},
    },
    machine::Machine,
    usage::Cpu,
    workload::{KEYS, KEYS_1M, KEYS_4K},
};

/// A preloaded cluster; dropping it ends it.
pub struct Servers {
    cluster: Cluster,
    pids: Vec<u32>,
}

/// Requests that are written at once while loading.
const BATCH: usize = 500;

impl Servers {
    pub fn start(machine: &Machine) -> Outcome<Servers> {
        let arguments = ["--maxclients", "12000"].map(str::to_owned).to_vec();
        let cluster = Cluster::start(Server::Redis70, ClusterOptions { arguments, ..ClusterOptions::default() });
        let pids = cluster.members().iter().map(|member| process_id(&mut member.client())).collect::<Outcome<Vec<u32>>>()?;
        pids.iter().for_each(|pid| machine.pin_beside(*pid));
        let mut loader =
            Loader { clients: cluster.members().iter().map(|member| member.client()).collect(), queued: Default::default() };
        for (prefix, keys, len) in [("key", KEYS, 64), ("k4", KEYS_4K, 4096), ("k1m", KEYS_1M, 1 << 20)] {
            let value = vec![b'v'; len];
            for number in 0..keys {
                loader.set(&format!("{prefix}:{number:012}"), &value)?;
            }
        }
        loader.flush()?;
        Ok(Servers { cluster, pids })
    }

    pub fn seeds(&self) -> String {
        self.cluster.seeds()
    }

    /// The port of the master that owns a key, or the channel of this name.
    pub fn port_of(&self, key: &str) -> u16 {
        let members = self.cluster.members();
        members[owner_of(key, members.len())].port
    }

    /// Of all servers together.
    pub fn cpu_us(&self) -> f64 {
        self.pids.iter().map(|pid| Cpu::of(*pid).total_us).sum()
    }

    /// The server's version, as it prints it.
    pub fn version(&self) -> String {
        let info = self.cluster.any_client().call(&["INFO", "server"]).text();
        info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").to_owned()
    }
}

/// The harness gives each master the same share of the slots, in order, with bounds rounded down.
fn owner_of(key: &str, masters: usize) -> usize {
    let slot = Slot::of(key.as_bytes()).index();
    (1..masters).filter(|node| slot >= SLOT_COUNT * node / masters).count()
}

fn process_id(client: &mut Client) -> Outcome<u32> {
    let info = client.call(&["INFO", "server"]).text();
    let line = info.lines().find_map(|line| line.strip_prefix("process_id:")).ok_or("INFO names no process_id")?;
    Ok(line.trim().parse()?)
}

/// Writes keys straight to their nodes, in batches.
struct Loader {
    clients: Vec<Client>,
    queued: [(Vec<u8>, usize); 3],
}

impl Loader {
    fn set(&mut self, key: &str, value: &[u8]) -> Outcome<()> {
        let node = owner_of(key, self.clients.len());
        let (bytes, count) = &mut self.queued[node];
        append_request(bytes, &[b"SET".as_slice(), key.as_bytes(), value]);
        *count += 1;
        if *count >= BATCH || value.len() > 100_000 { self.flush_node(node) } else { Ok(()) }
    }

    fn flush_node(&mut self, node: usize) -> Outcome<()> {
        let (bytes, count) = std::mem::take(&mut self.queued[node]);
        match self.clients[node].exchange(&bytes, count)?.iter().find(|reply| reply.is_error()) {
            Some(error) => Err(format!("a key could not be loaded: {error:?}").into()),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Outcome<()> {
        (0..self.clients.len()).try_for_each(|node| self.flush_node(node))
    }
}
