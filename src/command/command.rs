//! The row of the command table: what a command is and what a proxy does with it.
//!
//! The facts (arity, flags, key positions) are the servers' own, the class is the proxy's decision. Both
//! come from the generated table; this file gives them their types.

/// One command or subcommand. Rows are static: two commands are the same when their numbers are.
#[derive(Debug)]
pub struct Command {
    /// Dense number below [`COMMAND_COUNT`](super::COMMAND_COUNT), for tables of counters.
    pub id: u16,
    /// Upper case; a subcommand is written `CONFIG|GET`, as ACL and COMMAND write it.
    pub name: &'static str,
    /// Number of arguments with the name itself; negative means at least that many.
    /// Where servers differ the most permissive is kept, and the server's own check decides.
    pub arity: i8,
    pub flags: Flags,
    pub class: Class,
    pub keys: Keys,
    /// Not empty for containers, and for COMMAND, which is also complete on its own.
    pub subs: &'static [Command],
}

impl Command {
    /// Whether a request of `count` arguments, the name included, has enough and not too many of them.
    pub fn accepts(&self, count: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= least } else { count == least }
    }

    /// `config|get`: the spelling of the server's own errors about a known command.
    pub fn lower_name(&self) -> String {
        self.name.to_ascii_lowercase()
    }
}

impl PartialEq for Command {
    fn eq(&self, other: &Command) -> bool {
        self.id == other.id
    }
}

impl Eq for Command {}

/// A row as the generated table writes it.
pub(super) const fn row(
    id: u16,
    name: &'static str,
    arity: i8,
    flags: u32,
    class: Class,
    keys: Keys,
    subs: &'static [Command],
) -> Command {
    Command { id, name, arity, flags: Flags(flags), class, keys, subs }
}

/// What happens to a request of this command, before its arguments are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// One slot: to the owner of its keys, which must share the slot. No keys (`EVAL … 0`): any master.
    Keyed,
    /// Keys may lie in several slots: one part per slot's owner, merged.
    Split(SplitKind),
    AllMasters(Fan),
    /// Masters and replicas.
    AllNodes(Fan),
    /// Any node gives the same answer; a master is preferred.
    AnyNode,
    Local(Local),
    /// SCAN: one node at a time, the cursor says which.
    ScanCursor,
    /// Occupies a connection until it is served: a private lane.
    Blocking,
    Transaction(Transaction),
    PubSub(PubSub),
    /// Refused unless the operator allows it; the reason completes "refused: …".
    Blocked(&'static str),
    /// Only its subcommands can be run.
    Container,
}

/// How the parts of a split command become one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitKind {
    /// Element i belongs to key i.
    Mget,
    /// Keys and values alternate; `+OK` when every part says so.
    Mset,
    /// DEL, UNLINK, EXISTS, TOUCH.
    Sum,
    /// Pairs of channel and count in request order; argument 2 is the first channel, there may be none.
    ShardNumsub,
}

/// How the replies of several nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fan {
    Sum,
    AllOk,
    /// The first reply if all are equal.
    FirstEqual,
    /// SCRIPT KILL, FUNCTION KILL: one node had something to kill.
    OneSucceeded,
    /// SCRIPT EXISTS.
    AndPerElement,
    /// KEYS.
    Concat,
    /// PUBSUB CHANNELS and SHARDCHANNELS.
    Union,
    /// PUBSUB NUMSUB.
    SumPerChannel,
    /// LASTSAVE.
    Min,
    /// SLOWLOG GET and COMMANDLOG GET: newest first.
    Newest,
    Info,
    RandomKey,
    FunctionStats,
    MemoryStats,
    LatencyLatest,
    LatencyHistory,
    LatencyHistogram,
    /// Newest first; ACL LOG RESET answers `+OK`.
    AclLog,
}

/// The commands that the proxy answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    AclWhoami,
    Auth,
    ClientCaching,
    ClientCapa,
    ClientGetname,
    ClientGetredir,
    ClientHelp,
    ClientId,
    ClientImportSource,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientPause,
    ClientReply,
    ClientSetinfo,
    ClientSetname,
    ClientTracking,
    ClientTrackinginfo,
    ClientUnblock,
    ClientUnpause,
    /// CLUSTER and its subcommands, CLUSTERSCAN, ASKING, READONLY, READWRITE: a standalone server refuses them.
    ClusterRefused,
    Echo,
    Hello,
    Move,
    Ping,
    Quit,
    Reset,
    Role,
    Select,
    Swapdb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transaction {
    Discard,
    Exec,
    Multi,
    Unwatch,
    Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PubSub {
    Psubscribe,
    Punsubscribe,
    Ssubscribe,
    Subscribe,
    Sunsubscribe,
    Unsubscribe,
}

/// Where the keys stand; read by [`keys`](super::keys()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    None,
    /// Exactly argument 1: most commands by far.
    First,
    /// Every `step`-th argument from `first` to `last`; a negative `last` counts from the end (-1 is the last).
    Range {
        first: u8,
        last: i8,
        step: u8,
    },
    /// Argument `at` says how many keys follow it, `step` arguments apart; `dest`: argument 1 is a key too.
    Numkeys {
        at: u8,
        step: u8,
        dest: bool,
    },
    Special(Special),
}

/// Commands whose keys only their own grammar tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `SORT key … [STORE dest]`: options stand anywhere, the last STORE counts.
    Sort,
    /// `GEORADIUS key … [STORE dest] [STOREDIST dest]`: the last of both counts.
    Georadius,
    /// `XREAD [COUNT n] [BLOCK ms] STREAMS key … id …`, and XREADGROUP.
    Streams,
    /// `STRALGO LCS [options] KEYS a b | STRINGS a b` of Redis 6.2.
    Stralgo,
    /// `MIGRATE host port key|"" db timeout [options] [KEYS key …]`.
    Migrate,
}

/// The servers' command flags, united over the servers, and two of the proxy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

/// The bits of [`Flags`], as the generated table names them.
pub(super) mod flag {
    pub const WRITE: u32 = 1;
    pub const READONLY: u32 = 1 << 1;
    pub const DENYOOM: u32 = 1 << 2;
    pub const ADMIN: u32 = 1 << 3;
    pub const PUBSUB: u32 = 1 << 4;
    pub const NOSCRIPT: u32 = 1 << 5;
    pub const BLOCKING: u32 = 1 << 6;
    pub const LOADING: u32 = 1 << 7;
    pub const STALE: u32 = 1 << 8;
    pub const FAST: u32 = 1 << 9;
    pub const NO_AUTH: u32 = 1 << 10;
    pub const NO_MULTI: u32 = 1 << 11;
    pub const MOVABLE_KEYS: u32 = 1 << 12;
    pub const ALLOW_BUSY: u32 = 1 << 13;
    pub const MODULE: u32 = 1 << 14;
    pub const MAY_BLOCK: u32 = 1 << 15;
    pub const SCRIPT: u32 = 1 << 16;
}

impl Flags {
    const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// May change the data set. Scripts are neither this nor read-only: what they do is up to them.
    pub const fn is_write(self) -> bool {
        self.has(flag::WRITE)
    }

    /// Never changes the data set: may be sent again when its outcome is unknown.
    pub const fn is_readonly(self) -> bool {
        self.has(flag::READONLY)
    }

    pub const fn is_admin(self) -> bool {
        self.has(flag::ADMIN)
    }

    /// The server may suspend the client. Graph module queries have it too: they run on the server's threads.
    pub const fn is_blocking(self) -> bool {
        self.has(flag::BLOCKING)
    }

    /// Allowed before authentication.
    pub const fn is_no_auth(self) -> bool {
        self.has(flag::NO_AUTH)
    }

    /// Not allowed between MULTI and EXEC. MULTI and WATCH are not marked: their answers there have own texts.
    pub const fn is_no_multi(self) -> bool {
        self.has(flag::NO_MULTI)
    }

    pub const fn has_movable_keys(self) -> bool {
        self.has(flag::MOVABLE_KEYS)
    }

    pub const fn is_module(self) -> bool {
        self.has(flag::MODULE)
    }

    /// XREAD, XREADGROUP: blocks if its arguments say so, see [`blocks`](super::blocks).
    pub const fn may_block(self) -> bool {
        self.has(flag::MAY_BLOCK)
    }

    /// EVAL and FCALL families: the reply is the script's word, even where it looks like a redirect.
    pub const fn is_script(self) -> bool {
        self.has(flag::SCRIPT)
    }

    pub const fn is_fast(self) -> bool {
        self.has(flag::FAST)
    }

    pub const fn is_denyoom(self) -> bool {
        self.has(flag::DENYOOM)
    }
}
