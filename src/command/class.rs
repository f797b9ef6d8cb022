//! What a proxy does with a command: how it is routed, how the replies of several nodes become one.

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
    /// ACL DELUSER.
    Max,
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
    Monitor,
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
