//! What goes wrong, and what is moved: faults begin at random until the world calms down; then everything heals.

use crate::{
    client::Life,
    listeners::CRY_AFTER_US,
    world::{What, World},
};

/// The next step of something under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chaos {
    Migration(usize),
    Gossip(usize),
    MarkFailed(usize),
    TakeOver(usize),
    Revive(usize),
    Loaded(usize),
    Reachable(usize),
    ClusterUp(usize),
}

/// A slot on its way from one shard to another.
#[derive(Debug)]
pub struct Migration {
    tag: usize,
    from: usize,
    to: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Importing,
    Migrating,
    Keys,
    TargetOwns,
    SourceKnows,
    Done,
}

impl World {
    /// Something new goes wrong.
    pub fn fault(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let every = self.plan.fault_every_us;
        let wait = self.random.u64(0..every * 2);
        self.later(wait, What::Fault);
        let kind = self.random.u32(0..16);
        if self.plan.kinds & (1 << (kind % 8)) == 0 {
            return;
        }
        match kind {
            0 | 8 => self.begin_migration(),
            1 => self.move_at_once(),
            2 => self.kill(),
            3 | 9 => self.hand_over(),
            4 | 10 => self.cut_some(),
            5 => self.lose_sight(),
            6 => self.flap(),
            7 | 15 => self.trouble_a_client(),
            11 => self.silence(),
            12 => self.begin_migration(),
            13 => self.join(),
            _ => self.cut_some(),
        }
    }

    /// From now on nothing new goes wrong, and what is under way ends.
    pub fn calm(&mut self) {
        self.say(|| "calm".into());
        self.calm_since = Some(self.now);
        for shard in 0..self.cluster.shards.len() {
            let master = self.cluster.master_of(shard);
            if !self.cluster.nodes[master].alive {
                self.later(1000, What::Chaos(Chaos::TakeOver(shard)));
            }
        }
        for node in 0..self.cluster.nodes.len() {
            for (wait, chaos) in [
                (2000, Chaos::Revive(node)),
                (3000, Chaos::Loaded(node)),
                (3000, Chaos::Reachable(node)),
                (3000, Chaos::ClusterUp(node)),
            ] {
                self.later(wait, What::Chaos(chaos));
            }
        }
        for migration in 0..self.migrations.len() {
            self.later(10_000, What::Chaos(Chaos::Migration(migration)));
        }
        self.end_silences();
        self.later(5_000, What::AskMap);
        if self.families.block {
            self.later(10_000, What::Feed);
        }
        if self.families.pubsub {
            self.later(CRY_AFTER_US, What::Cry);
        }
        for client in 0..self.clients.len() {
            self.clients[client].stalled_until = self.now;
            self.later(0, What::ClientWritable(client));
            self.later(0, What::ToClient(client));
            // Whoever has nothing left to say goes.
            if self.clients[client].is_done() && self.clients[client].life == Life::Open {
                self.close_client(client, true);
            }
        }
    }

    pub fn go_on(&mut self, chaos: Chaos) {
        match chaos {
            Chaos::Migration(index) => self.migrate(index),
            Chaos::Gossip(node) => {
                if self.cluster.nodes[node].alive {
                    self.cluster.gossip(node);
                }
            }
            Chaos::MarkFailed(node) => {
                if !self.cluster.nodes[node].alive {
                    self.cluster.truth.failed[node] = true;
                    self.tell_all();
                }
            }
            Chaos::TakeOver(shard) => self.take_over(shard),
            Chaos::Revive(node) => self.revive(node),
            Chaos::Loaded(node) => self.cluster.nodes[node].loading = false,
            Chaos::Reachable(node) => self.cluster.nodes[node].unreachable = false,
            Chaos::ClusterUp(node) => {
                self.cluster.gossip(node);
                self.cluster.nodes[node].cluster_down = false;
            }
        }
    }

    /// The news reach every node at its own time.
    fn tell_all(&mut self) {
        let slowest = if self.calm_since.is_some() {
            20_000
        } else {
            *self.random.choice([1_000, 50_000, 400_000].iter()).expect("three choices")
        };
        for node in 0..self.cluster.nodes.len() {
            let wait = self.random.u64(0..slowest);
            self.later(wait, What::Chaos(Chaos::Gossip(node)));
        }
    }

    fn other_shard(&mut self, from: usize) -> Option<usize> {
        let to = self.random.usize(0..self.cluster.shards.len());
        // A master that nobody has met yet receives nothing.
        (to != from && self.cluster.truth.known[self.cluster.master_of(to)]).then_some(to)
    }

    fn begin_migration(&mut self) {
        let tag = self.random.usize(0..self.cluster.tags.len());
        let from = self.cluster.shard_of(self.cluster.tags[tag].unit);
        let busy = self.migrations.iter().any(|migration| migration.tag == tag && migration.stage != Stage::Done);
        if let Some(to) = self.other_shard(from).filter(|_| !busy) {
            self.say(|| format!("slot {} begins to move from shard {from} to {to}", self.cluster.tags[tag].slot));
            self.migrations.push(Migration { tag, from, to, stage: Stage::Importing });
            self.migrate(self.migrations.len() - 1);
        }
    }

    fn migrate(&mut self, index: usize) {
        let Migration { tag, from, to, stage } = self.migrations[index];
        let unit = self.cluster.tags[tag].unit;
        let (source, target) = (self.cluster.master_of(from), self.cluster.master_of(to));
        let both = [source, target].iter().all(|node| self.cluster.nodes[*node].alive && self.cluster.is_master(*node));
        let next = match stage {
            Stage::Done => return,
            stage if !both => stage,
            Stage::Importing => {
                self.cluster.shards[to].importing.insert(unit, from);
                Stage::Migrating
            }
            Stage::Migrating => {
                self.cluster.shards[from].migrating.insert(unit, to);
                Stage::Keys
            }
            Stage::Keys => match self.cluster.keys_in(from, tag).into_iter().next() {
                Some(key) => {
                    self.cluster.hand_key(&key, from, to);
                    Stage::Keys
                }
                None => Stage::TargetOwns,
            },
            Stage::TargetOwns => {
                self.cluster.shards[to].importing.remove(&unit);
                self.cluster.claim(unit, target);
                Stage::SourceKnows
            }
            Stage::SourceKnows => {
                self.cluster.gossip(source);
                self.cluster.shards[from].migrating.remove(&unit);
                self.tell_all();
                Stage::Done
            }
        };
        self.say(|| format!("slot {} from node {source} to {target}: {stage:?} -> {next:?}", self.cluster.tags[tag].slot));
        self.migrations[index].stage = next;
        let wait = match self.random.u32(0..20) {
            0 if self.calm_since.is_none() => self.random.u64(0..500_000),
            _ => self.random.u64(0..2_000),
        };
        self.later(wait, What::Chaos(Chaos::Migration(index)));
    }

    /// As Valkey's atomic migration: the slot and its keys change hands between two commands.
    fn move_at_once(&mut self) {
        let tag = self.random.usize(0..self.cluster.tags.len());
        let unit = self.cluster.tags[tag].unit;
        let from = self.cluster.shard_of(unit);
        let busy = self.migrations.iter().any(|migration| migration.tag == tag && migration.stage != Stage::Done);
        let Some(to) = self.other_shard(from).filter(|_| !busy) else { return };
        let (source, target) = (self.cluster.master_of(from), self.cluster.master_of(to));
        if !(self.cluster.nodes[source].alive && self.cluster.nodes[target].alive && self.cluster.is_master(target)) {
            return;
        }
        self.say(|| format!("slot {} moves at once from node {source} to {target}", self.cluster.tags[tag].slot));
        for key in self.cluster.keys_in(from, tag) {
            self.cluster.hand_key(&key, from, to);
        }
        self.cluster.claim(unit, target);
        self.cluster.gossip(source);
        self.tell_all();
    }

    fn replica_of(&self, shard: usize) -> Option<usize> {
        let master = self.cluster.master_of(shard);
        let nodes = self.cluster.nodes.iter().enumerate();
        nodes.filter(|(index, node)| node.shard == shard && *index != master && node.alive).map(|(index, _)| index).next()
    }

    /// A master dies; its replica takes over, or it comes back itself.
    fn kill(&mut self) {
        let shard = self.random.usize(0..self.cluster.shards.len());
        let node = self.cluster.master_of(shard);
        if !self.cluster.nodes[node].alive {
            return;
        }
        self.say(|| format!("node {node} dies"));
        self.cut_all(node);
        self.cluster.die(node);
        let wait = self.random.u64(1_000..300_000);
        self.later(wait, What::Chaos(Chaos::MarkFailed(node)));
        if self.replica_of(shard).is_some() {
            let more = self.random.u64(1_000..300_000);
            self.later(wait + more, What::Chaos(Chaos::TakeOver(shard)));
        }
        let back = self.random.u64(10_000..1_500_000);
        self.later(back, What::Chaos(Chaos::Revive(node)));
    }

    fn take_over(&mut self, shard: usize) {
        let master = self.cluster.master_of(shard);
        if let Some(replica) = self.replica_of(shard).filter(|_| !self.cluster.nodes[master].alive) {
            self.say(|| format!("node {replica} takes shard {shard} over"));
            self.cluster.take_over(shard, replica);
            self.tell_all();
        }
    }

    fn revive(&mut self, index: usize) {
        let node = &mut self.cluster.nodes[index];
        if node.alive {
            return;
        }
        self.say(|| format!("node {index} is back"));
        let node = &mut self.cluster.nodes[index];
        (node.alive, node.loading, node.cluster_down) = (true, true, true);
        node.scripts.clear();
        self.cluster.truth.failed[index] = false;
        self.tell_all();
        for chaos in [Chaos::Loaded(index), Chaos::ClusterUp(index)] {
            let wait = if self.calm_since.is_some() { 1_000 } else { self.random.u64(0..200_000) };
            self.later(wait, What::Chaos(chaos));
        }
    }

    /// A replica takes over in peace; the old master is its replica from now on, and keeps its connections.
    fn hand_over(&mut self) {
        let shard = self.random.usize(0..self.cluster.shards.len());
        let old = self.cluster.master_of(shard);
        if let Some(replica) = self.replica_of(shard).filter(|_| self.cluster.nodes[old].alive) {
            self.say(|| format!("node {old} hands shard {shard} over to {replica}"));
            self.cluster.take_over(shard, replica);
            self.cluster.gossip(old);
            self.tell_all();
        }
    }

    fn cut_some(&mut self) {
        let all = self.random.u32(0..5) == 0;
        let open: Vec<usize> =
            (0..self.conns.len()).filter(|conn| self.conns[*conn].open && self.conns[*conn].connected).collect();
        let chosen = self.random.choice(open.iter()).copied();
        for conn in open {
            if all || Some(conn) == chosen {
                self.say(|| format!("conn {conn} is cut"));
                self.cut(conn);
            }
        }
    }

    /// Now and then a connection breaks with a transaction on it, before or behind EXEC.
    pub fn cut_at_exec(&mut self, conn: usize) {
        let of = if self.conns[conn].caller.watched.is_empty() { 60 } else { 8 };
        if self.calm_since.is_none() && self.plan.kinds & 1 << 4 != 0 && self.random.u32(0..of) == 0 {
            let wait = if self.random.bool() { 0 } else { self.delay() };
            self.later(wait, What::Cut(conn));
        }
    }

    fn cut_all(&mut self, node: usize) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].node == node {
                self.cut(conn);
            }
        }
    }

    /// The proxy's way to a node is gone for a while.
    fn lose_sight(&mut self) {
        let node = self.random.usize(0..self.cluster.nodes.len());
        self.say(|| format!("node {node} is out of sight"));
        self.cluster.nodes[node].unreachable = true;
        self.cut_all(node);
        let wait = self.random.u64(1_000..600_000);
        self.later(wait, What::Chaos(Chaos::Reachable(node)));
    }

    /// A node thinks that the cluster is down, or reads its data anew.
    fn flap(&mut self) {
        let node = self.random.usize(0..self.cluster.nodes.len());
        if self.random.bool() {
            self.cluster.nodes[node].cluster_down = true;
        } else {
            self.cluster.nodes[node].loading = true;
        }
        self.say(|| format!("node {node} serves nothing for a while"));
        let wait = self.random.u64(1_000..400_000);
        self.later(wait, What::Chaos(Chaos::ClusterUp(node)));
        self.later(wait, What::Chaos(Chaos::Loaded(node)));
    }

    /// A node's replies on one connection stay away for long, perhaps until the engine gives the lane up.
    fn silence(&mut self) {
        let now = self.now;
        let wait = self.random.u64(1_000..4_000_000);
        if !self.conns.is_empty() {
            let conn = self.random.usize(0..self.conns.len());
            self.conns[conn].silent_until = now + wait;
        }
    }

    fn trouble_a_client(&mut self) {
        let client = self.random.usize(0..self.clients.len());
        match self.random.u32(0..4) {
            0 => self.close_client(client, true),
            1 if !self.clients[client].is_scanning() => {
                self.clients[client].left = 0;
                self.half_close(client);
            }
            _ => {
                let wait = self.random.u64(1_000..2_000_000);
                self.clients[client].stalled_until = self.now + wait;
            }
        }
    }

    /// The empty master and its replica meet the cluster.
    fn join(&mut self) {
        if self.plan.new_master {
            let shard = self.cluster.shards.len() - 1;
            for node in 0..self.cluster.nodes.len() {
                if self.cluster.nodes[node].shard == shard {
                    self.cluster.truth.known[node] = true;
                }
            }
            self.tell_all();
        }
    }
}
