//! The cluster, its keys, and the ways of moving them.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Outcome;
use super::harness::cluster::{ClusterOptions, tags_in};
use super::harness::servers::tool;
use super::harness::{Cluster, Proxy, Reply, Server};
use super::options::Options;

/// How slots are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    RedisCli,
    Classic,
    Atomic,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::RedisCli => "redis-cli --cluster reshard",
            Way::Classic => "Keyway, classic",
            Way::Atomic => "Keyway, atomic",
        }
    }
}

/// Requests that are written at once while loading.
const BATCH: usize = 500;

/// Nothing takes longer than this.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Stage {
    cluster: Cluster,
    proxy: Proxy,
    slots: u16,
    keys: Vec<String>,
    /// Which of the first two masters has the slots.
    holder: usize,
}

impl Stage {
    /// Starts three masters and a proxy, and fills the first slots of the first master.
    pub fn set(server: Server, options: &Options) -> Outcome<Stage> {
        let cluster = Cluster::start(server, ClusterOptions::default());
        // A busy machine is not to stop a plan that is being measured.
        let proxy = Proxy::start_with(&cluster, &[("migrate.latency_limit", "60s")]);
        let tags = tags_in(0..options.slots);
        let keys: Vec<String> =
            (0..options.keys).flat_map(|number| tags.iter().map(move |tag| format!("{tag}{number}"))).collect();
        let value = "v".repeat(64);
        let mut loader = cluster.member(0).client();
        for batch in keys.chunks(BATCH) {
            let set = |key: &String| vec!["SET".to_owned(), key.clone(), value.clone()];
            let replies = loader.pipeline(&batch.iter().map(set).collect::<Vec<_>>());
            if let Some(refused) = replies.iter().find(|reply| **reply != Reply::ok()) {
                return Err(format!("loading: expected OK, found {refused:?}").into());
            }
        }
        Ok(Stage { cluster, proxy, slots: options.slots, keys, holder: 0 })
    }

    pub fn ways(&self) -> Vec<Way> {
        let atomic = (self.cluster.server == Server::Valkey91).then_some(Way::Atomic);
        [Way::RedisCli, Way::Classic].into_iter().chain(atomic).collect()
    }

    pub fn version(&self) -> String {
        let info = self.cluster.member(0).client().call(&["INFO", "server"]).text();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let valkey = field("valkey_version:").map(|version| format!("Valkey {version}"));
        valkey.unwrap_or_else(|| format!("Redis {}", field("redis_version:").unwrap_or("of unknown version")))
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    pub fn moving_keys(&self) -> Vec<String> {
        self.keys.clone()
    }

    pub fn source_port(&self) -> u16 {
        self.cluster.member(self.holder).port
    }

    pub fn proxy_port(&self) -> u16 {
        self.proxy.port
    }

    /// Moves all of the slots to the other master. How long the tool took, with all its checks before and behind.
    pub fn move_slots(&mut self, way: Way) -> Outcome<Duration> {
        let [from, to] = [self.holder, 1 - self.holder].map(|index| self.cluster.member(index).id.clone());
        let begun = Instant::now();
        match way {
            Way::RedisCli => self.reshard(&from, &to)?,
            Way::Classic => self.migrate(&from, &to, "classic")?,
            Way::Atomic => self.migrate(&from, &to, "atomic")?,
        }
        let took = begun.elapsed();
        self.cluster.wait_for_agreement();
        self.holder = 1 - self.holder;
        let count = |slot: u16| vec!["CLUSTER".to_owned(), "COUNTKEYSINSLOT".to_owned(), slot.to_string()];
        let counts = self.cluster.member(self.holder).client().pipeline(&(0..self.slots).map(count).collect::<Vec<_>>());
        let held: i64 = counts.iter().filter_map(Reply::integer).sum();
        if held != self.keys.len() as i64 {
            return Err(format!("{}: expected {} keys at the target, found {held}", way.name(), self.keys.len()).into());
        }
        Ok(took)
    }

    fn reshard(&self, from: &str, to: &str) -> Outcome<()> {
        let mut command = Command::new(tool("redis-cli"));
        command.args(["--cluster", "reshard", &format!("127.0.0.1:{}", self.cluster.member(0).port), "--cluster-yes"]);
        command.args(["--cluster-from", from, "--cluster-to", to, "--cluster-slots", &self.slots.to_string()]);
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("redis-cli: {}", String::from_utf8_lossy(&output.stdout)).into())
    }

    fn migrate(&self, from: &str, to: &str, mode: &str) -> Outcome<()> {
        let mut admin = self.proxy.admin();
        let mut ask = |command: String| -> Outcome<Value> {
            let text = admin.call(&command.split(' ').collect::<Vec<_>>()).text();
            serde_json::from_str(&text).map_err(|_| format!("{command}: {text}").into())
        };
        let last = self.slots - 1;
        let plan = ask(format!("PROXY MIGRATE PLAN MOVE 0-{last} FROM {from} TO {to} MODE {mode} OBSERVE 0 JSON"))?;
        let id = plan["plan"].as_str().ok_or_else(|| format!("no plan: {plan}"))?.to_owned();
        let approval = plan["approve"].as_str().map(|code| format!(" APPROVE {code}")).unwrap_or_default();
        ask(format!("PROXY MIGRATE START {id}{approval} JSON"))?;
        let begun = Instant::now();
        loop {
            let status = ask(format!("PROXY MIGRATE STATUS {id} JSON"))?;
            match status["state"].as_str() {
                Some("done") => return Ok(()),
                Some("canary" | "running" | "verifying") if begun.elapsed() < PATIENCE => {}
                _ => return Err(format!("the plan does not end: {status}").into()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
