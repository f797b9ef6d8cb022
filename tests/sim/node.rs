//! Whether a node carries one command out, as the real servers decide it (semantics, sections 5 and 16).

use keyway::resp::{Proto, encode};

use crate::{
    channels,
    cluster::Cluster,
    serve::serve,
    users::{self, User},
    waiting,
};

/// What a connection to a node remembers between two commands.
pub struct Caller {
    pub conn: usize,
    pub proto: Proto,
    pub asking: bool,
    /// Whose it is; `None` until it has said a password where one is needed.
    pub user: Option<User>,
    pub multi: Option<Multi>,
    /// Watched keys, and their versions when they were first watched.
    pub watched: Vec<(String, u64)>,
    /// It waits for an element: nothing behind is carried out.
    pub blocked: bool,
    /// What became of the queued commands, told by EXEC.
    pub unit: Vec<Outcome>,
    /// The commands of the transaction that was just carried out.
    pub carried_out: Vec<Vec<Vec<u8>>>,
    /// The last EXEC came where keys were watched.
    pub guarded: bool,
}

/// A transaction that is being queued.
#[derive(Default)]
pub struct Multi {
    queued: Vec<Vec<Vec<u8>>>,
    /// ASKING came before MULTI: it lasts until EXEC.
    asking: bool,
    failed: bool,
    outcomes: Vec<Outcome>,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Served,
    /// EXEC will tell.
    Queued,
    /// An element, a timeout or a move of the slot will tell.
    Blocked,
    /// Not executed: MOVED, ASK, TRYAGAIN, CLUSTERDOWN, LOADING, READONLY, NOSCRIPT.
    Refused,
    /// Executed, and answered with a refusal that the script made up.
    Forged,
}

impl Caller {
    pub fn new(conn: usize, cluster: &Cluster) -> Caller {
        Caller {
            conn,
            proto: Proto::Resp2,
            asking: false,
            user: users::unnamed(cluster),
            multi: None,
            watched: Vec::new(),
            blocked: false,
            unit: Vec::new(),
            carried_out: Vec::new(),
            guarded: false,
        }
    }

    /// Whether a watched key was written, or has left the shard.
    fn is_dirty(&self, cluster: &Cluster, node: usize) -> bool {
        let shard = &cluster.shards[cluster.nodes[node].shard];
        self.watched.iter().any(|(key, version)| shard.version(key) != *version)
    }
}

/// The keys of a command, in order; of sharded channels the names.
pub fn keys_of(args: &[Vec<u8>]) -> Vec<String> {
    let text = |at: usize| String::from_utf8_lossy(&args[at]).into_owned();
    let counted = |at: usize| {
        let count = text(at).parse::<usize>().unwrap_or(0);
        (at + 1..args.len().min(at + 1 + count)).map(text).collect()
    };
    let name = args.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match name.as_slice() {
        b"GET" | b"SET" | b"GETRANGE" | b"RPUSH" | b"LPUSH" | b"LRANGE" | b"INCR" | b"TYPE" | b"LPOP" | b"RPOP" | b"LLEN"
        | b"SPUBLISH"
            if args.len() > 1 =>
        {
            vec![text(1)]
        }
        b"MGET" | b"DEL" | b"UNLINK" | b"EXISTS" | b"TOUCH" | b"WATCH" | b"SSUBSCRIBE" | b"SUNSUBSCRIBE" => {
            (1..args.len()).map(text).collect()
        }
        b"MSET" => (1..args.len()).step_by(2).map(text).collect(),
        b"BLPOP" | b"BRPOP" => (1..args.len() - 1).map(text).collect(),
        b"LMOVE" | b"BLMOVE" if args.len() > 2 => vec![text(1), text(2)],
        b"LMPOP" if args.len() > 2 => counted(1),
        b"BLMPOP" if args.len() > 3 => counted(2),
        b"EVAL" | b"EVALSHA" if args.len() > 3 && args[2] == b"1" => vec![text(3)],
        _ => vec![],
    }
}

/// Carries out one command and appends its reply.
pub fn execute(
    cluster: &mut Cluster,
    node: usize,
    caller: &mut Caller,
    args: &[Vec<u8>],
    now: u64,
    out: &mut Vec<u8>,
) -> Outcome {
    let name = args[0].to_ascii_uppercase();
    let asking = std::mem::take(&mut caller.asking);
    if let Some(refusal) = users::refusal(cluster, caller.user, &name, args) {
        encode::error(out, refusal);
        if let Some(multi) = caller.multi.as_mut().filter(|_| name != b"EXEC") {
            multi.failed = true;
            multi.outcomes.push(Outcome::Refused);
            return Outcome::Queued;
        }
        return Outcome::Refused;
    }
    if caller.multi.is_some() && !matches!(name.as_slice(), b"EXEC" | b"DISCARD" | b"MULTI" | b"WATCH" | b"RESET") {
        return queue(cluster, node, caller, &name, args, out);
    }
    match name.as_slice() {
        b"HELLO" => return users::hello(cluster, caller, args, out),
        b"AUTH" => return users::auth(cluster, caller, args, out),
        b"MULTI" | b"WATCH" if caller.multi.is_some() => return nested(cluster, caller, &name, out),
        b"MULTI" => caller.multi = Some(Multi { asking, ..Multi::default() }),
        b"EXEC" if args.len() > 1 => return drop_unit(caller, out),
        b"EXEC" => return exec(cluster, node, caller, out),
        b"CLIENT" => return waiting::client(cluster, node, caller, args, out),
        b"DISCARD" if caller.multi.is_none() => {
            encode::error(out, "ERR DISCARD without MULTI");
            return Outcome::Served;
        }
        b"DISCARD" => {
            let dropped = caller.multi.take().map_or(0, |multi| multi.outcomes.len());
            caller.unit = vec![Outcome::Refused; dropped];
            caller.watched.clear();
        }
        b"UNWATCH" => caller.watched.clear(),
        b"ASKING" => caller.asking = true,
        b"RESET" => {
            let dropped = caller.multi.take().map_or(0, |multi| multi.outcomes.len());
            caller.unit = vec![Outcome::Refused; dropped];
            (caller.proto, caller.user) = (Proto::Resp2, users::unnamed(cluster));
            caller.watched.clear();
            channels::forget(cluster, node, caller.conn);
            encode::simple(out, "RESET");
            return Outcome::Served;
        }
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE" => {
            channels::change(cluster, node, caller, &name, args, out);
            return Outcome::Served;
        }
        _ => return keyed(cluster, node, caller, asking, args, now, out),
    }
    encode::simple(out, "OK");
    Outcome::Served
}

fn keyed(
    cluster: &mut Cluster,
    node: usize,
    caller: &mut Caller,
    asking: bool,
    args: &[Vec<u8>],
    now: u64,
    out: &mut Vec<u8>,
) -> Outcome {
    let (name, keys) = (args[0].to_ascii_uppercase(), keys_of(args));
    if let Some(text) = wrong_arity(&name, args).map(str::to_owned).or_else(|| refusal(cluster, node, asking, &name, &keys)) {
        encode::error(out, text);
        return Outcome::Refused;
    }
    match name.as_slice() {
        b"WATCH" => {
            let shard = &cluster.shards[cluster.nodes[node].shard];
            for key in keys {
                let version = shard.version(&key);
                if caller.watched.iter().all(|(watched, _)| *watched != key) {
                    caller.watched.push((key, version));
                }
            }
            encode::simple(out, "OK");
            return Outcome::Served;
        }
        b"SSUBSCRIBE" | b"SUNSUBSCRIBE" => {
            channels::change(cluster, node, caller, &name, args, out);
            return Outcome::Served;
        }
        b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BLMPOP" if waiting::wait(cluster, node, caller, args, now) => {
            return Outcome::Blocked;
        }
        _ => {}
    }
    let outcome = serve(cluster, node, caller.proto, &name, args, &keys, out);
    waiting::serve_ready(cluster, node);
    outcome
}

/// The one command that clients get wrong.
fn wrong_arity(name: &[u8], args: &[Vec<u8>]) -> Option<&'static str> {
    (name == b"GET" && args.len() != 2).then_some("ERR wrong number of arguments for 'get' command")
}

/// Neither may be nested. Valkey 9 takes it for a failed command of the transaction.
fn nested(cluster: &Cluster, caller: &mut Caller, name: &[u8], out: &mut Vec<u8>) -> Outcome {
    if cluster.valkey {
        encode::error(
            out,
            format!("ERR Command '{}' not allowed inside a transaction", String::from_utf8_lossy(name).to_ascii_lowercase()),
        );
        caller.multi.get_or_insert_default().failed = true;
    } else if name == b"MULTI" {
        encode::error(out, "ERR MULTI calls can not be nested");
    } else {
        encode::error(out, "ERR WATCH inside MULTI is not allowed");
    }
    Outcome::Served
}

fn queue(cluster: &Cluster, node: usize, caller: &mut Caller, name: &[u8], args: &[Vec<u8>], out: &mut Vec<u8>) -> Outcome {
    let multi = caller.multi.get_or_insert_default();
    let refused =
        wrong_arity(name, args).map(str::to_owned).or_else(|| refusal(cluster, node, multi.asking, name, &keys_of(args)));
    // Valkey 9 looks at what is where only when all is queued.
    let refused = refused.filter(|text| !(cluster.valkey && (text.starts_with("ASK ") || text.starts_with("TRYAGAIN "))));
    match refused {
        Some(text) => {
            encode::error(out, text);
            multi.failed = true;
            multi.outcomes.push(Outcome::Refused);
        }
        None => {
            encode::simple(out, "QUEUED");
            multi.outcomes.push(Outcome::Queued);
            if !multi.failed {
                multi.queued.push(args.to_vec());
            }
        }
    }
    Outcome::Queued
}

/// EXEC takes no arguments; with one the transaction is gone.
fn drop_unit(caller: &mut Caller, out: &mut Vec<u8>) -> Outcome {
    let dropped = caller.multi.take().map_or(0, |multi| multi.outcomes.len());
    caller.unit = vec![Outcome::Refused; dropped];
    caller.watched.clear();
    encode::error(out, "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command");
    Outcome::Refused
}

/// The queued commands are carried out, or all are refused: where one was refused before, where their slot has moved since, and
/// where a watched key has changed.
fn exec(cluster: &mut Cluster, node: usize, caller: &mut Caller, out: &mut Vec<u8>) -> Outcome {
    let Some(multi) = caller.multi.take() else {
        encode::error(out, "ERR EXEC without MULTI");
        return Outcome::Served;
    };
    caller.unit = multi.outcomes;
    let dirty = caller.is_dirty(cluster, node);
    caller.guarded = !std::mem::take(&mut caller.watched).is_empty();
    let keys: Vec<String> = multi.queued.iter().flat_map(|args| keys_of(args)).collect();
    let redirect = refusal(cluster, node, multi.asking, b"EXEC", &keys).filter(|_| !(cluster.valkey && dirty));
    let writes = multi.queued.iter().any(|args| args[0].eq_ignore_ascii_case(b"FLUSHALL"));
    let reason = match redirect {
        // Only what the cluster says stands for itself.
        Some(text) if text.starts_with("LOADING") => Some(format!("EXECABORT Transaction discarded because of: {text}")),
        None if keys.is_empty() && writes && !cluster.is_master(node) => {
            Some(format!("EXECABORT Transaction discarded because of: {READ_ONLY}"))
        }
        None if multi.failed => Some("EXECABORT Transaction discarded because of previous errors.".into()),
        redirect => redirect,
    };
    if let Some(reason) = reason {
        encode::error(out, reason);
    } else if dirty {
        encode::null_array(out, caller.proto);
    } else {
        encode::array(out, multi.queued.len());
        for (args, outcome) in multi.queued.iter().zip(&mut caller.unit) {
            let name = args[0].to_ascii_uppercase();
            *outcome = serve(cluster, node, caller.proto, &name, args, &keys_of(args), out);
        }
        caller.carried_out = multi.queued;
        waiting::serve_ready(cluster, node);
        return Outcome::Served;
    }
    caller.unit.fill(Outcome::Refused);
    Outcome::Refused
}

/// Why a node does not carry the command out.
pub fn refusal(cluster: &Cluster, index: usize, asking: bool, name: &[u8], keys: &[String]) -> Option<String> {
    let node = &cluster.nodes[index];
    if node.loading && !matches!(name, b"WATCH" | b"PUBLISH" | b"SPUBLISH" | b"SSUBSCRIBE" | b"SUNSUBSCRIBE") {
        return Some(LOADING.into());
    }
    let Some(first) = keys.first() else {
        let writes = matches!(name, b"FLUSHALL");
        return (writes && !cluster.is_master(index)).then(|| READ_ONLY.into());
    };
    let (slot, unit) = cluster.slot_and_unit(first);
    if keys.iter().any(|key| cluster.slot_and_unit(key).0 != slot) {
        return Some("CROSSSLOT Keys in request don't hash to the same slot".into());
    }
    let owner = node.view.units[unit].1;
    if node.cluster_down || (cluster.full_coverage && node.view.failed[owner]) {
        return Some("CLUSTERDOWN The cluster is down".into());
    }
    let shard = &cluster.shards[node.shard];
    // Channels are nowhere, and so never missing.
    let channel = matches!(name, b"SSUBSCRIBE" | b"SUNSUBSCRIBE" | b"SPUBLISH");
    let here = keys.iter().filter(|key| channel || shard.data.contains_key(*key)).count();
    let many = keys.iter().any(|key| key != first);
    if owner != index {
        let importing = cluster.is_master(index) && shard.importing.contains_key(&unit);
        if !(importing && asking) {
            return Some(format!("MOVED {slot} {}", spelled(cluster, index, owner)));
        }
        return (many && here < keys.len()).then(|| TRY_AGAIN.into());
    }
    let to = shard.migrating.get(&unit).filter(|_| here < keys.len())?;
    match here {
        0 => Some(format!("ASK {slot} {}", spelled(cluster, index, node.view.masters[*to].1))),
        _ => Some(TRY_AGAIN.into()),
    }
}

pub const TRY_AGAIN: &str = "TRYAGAIN Multiple keys request during rehashing of slot";
const LOADING: &str = "LOADING Redis is loading the dataset in memory";
const READ_ONLY: &str = "READONLY You can't write against a read only replica.";

/// Redis may leave the host out where it is its own.
pub fn spelled(cluster: &Cluster, by: usize, node: usize) -> String {
    let (mine, other) = (&cluster.nodes[by].addr, &cluster.nodes[node].addr);
    if mine.host() == other.host() && other.port() % 2 == 0 { format!(":{}", other.port()) } else { other.to_string() }
}
