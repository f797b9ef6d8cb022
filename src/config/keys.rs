//! The one table of every configuration key. Reading files, `--set` and environment names, the output of
//! `check-config` and `config.toml` itself are all driven from it: a new key is one row and one field. It is long because it is data, in the
//! order in which people read it; what there is to know of a row stands before the table.

use std::time::Duration;

use super::kind::Kind;
use super::mistake::Mistake;
use super::resolved::{
    AuthClients, AuthMode, CertificateUser, Config, CrossSlotBlocking, CrossSlotTransactions, LogFormat, LogLevel, TlsVerify,
    TlsVersion,
};
use super::units::{GB, KB};
use super::written::{Source, Value};

/// One configuration key.
pub struct Key {
    /// `section.name`, as in `--set` and in a file's `[section]`.
    pub name: &'static str,
    /// What it accepts, with the field of [`Config`] that holds it.
    pub kind: Kind,
    /// As one would write it after `--set NAME=`; empty for no value.
    pub default: &'static str,
    /// What the value counts or measures, for the reader; empty where the kind says it all.
    pub unit: &'static str,
    pub reload: Reload,
    /// What the key does and why the default is what it is, in whole sentences.
    pub meaning: &'static str,
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It is read once, at the start.
    Restart,
    /// It can be changed while the proxy runs.
    Live,
}

impl Key {
    /// The key's environment variable: `KEYWAY_PROXY_LISTEN` for `proxy.listen`.
    pub fn environment_name(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// `proxy` of `proxy.listen`, `proxy.tls` of `proxy.tls.listen`.
    pub fn section(&self) -> &'static str {
        self.split_name().0
    }

    /// `listen` of `proxy.listen`.
    pub fn short_name(&self) -> &'static str {
        self.split_name().1
    }

    pub(super) fn default_value(&self) -> Value {
        Value::Untyped(self.default.to_owned())
    }

    /// Puts a written value into its field, or says everything that is wrong with it.
    pub(super) fn set(&self, config: &mut Config, value: &Value, source: &Source) -> Result<(), Vec<Mistake>> {
        let wrong = |found| Mistake::wrong_value(self, found);
        self.kind.set(config, value, source).map_err(|found| found.into_iter().map(wrong).collect())
    }

    /// The value as it would stand in a file (TOML), secrets hidden.
    pub fn show(&self, config: &Config) -> String {
        self.kind.show(config)
    }

    fn split_name(&self) -> (&'static str, &'static str) {
        // A test holds every row to this form.
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }
}

/// What every environment variable of ours begins with.
pub const ENVIRONMENT_PREFIX: &str = "KEYWAY_";

/// In the order in which `config.toml` and `check-config` show them.
pub static KEYS: &[Key] = &[
    Key {
        name: "proxy.listen",
        kind: Kind::Listen { field: |config| &mut config.proxy.listen },
        default: "127.0.0.1:6380",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where clients connect. The default is open to this machine only, because a proxy that \
                  holds a password of the cluster hands out what the password protects; 0.0.0.0:6380 \
                  opens it to every network.",
    },
    Key {
        name: "proxy.cluster_listen",
        kind: Kind::Listen { field: |config| &mut config.proxy.cluster_listen },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where clients connect that insist on a cluster (redis-cli -c, RedisCluster of redis-py, Cluster of ioredis). They \
                  are shown a cluster of one node, the proxy at the address they came to, that owns all slots. Other clients use \
                  proxy.listen, where nothing of a cluster is to be seen.",
    },
    Key {
        name: "proxy.workers",
        kind: Kind::Count { range: 0..=1024, field: |config| &mut config.proxy.workers },
        default: "0",
        unit: "threads",
        reload: Reload::Restart,
        meaning: "Worker threads, each with its own clients and its own connections to the nodes. 0 is one \
                  per core.",
    },
    Key {
        name: "proxy.unix_mode",
        kind: Kind::Mode { field: |config| &mut config.proxy.unix_mode },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The mode of the clients' unix sockets; to connect one needs to be allowed to write. Empty leaves what the umask of the \
                  process makes of it, mostly a socket for the proxy's own user. 0660 with proxy.unix_owner opens it to a group. \
                  Redis calls it unixsocketperm.",
    },
    Key {
        name: "proxy.unix_owner",
        kind: Kind::Name { field: |config| &mut config.proxy.unix_owner },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Whose the clients' unix sockets are: user, user:group or :group, by name or number. Empty is the proxy's own. To give \
                  them to another user needs root, to a group that one is in does not.",
    },
    Key {
        name: "proxy.allow_from",
        kind: Kind::Networks { field: |config| &mut config.proxy.allow_from },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where clients may come from: 10.0.0.0/8, ::1. Empty is everywhere. Others are closed without a word, before anything \
                  is read of them. Unix sockets and operators are not meant.",
    },
    Key {
        name: "proxy.deny_from",
        kind: Kind::Networks { field: |config| &mut config.proxy.deny_from },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where no client may come from, also if proxy.allow_from has it.",
    },
    Key {
        name: "proxy.proxy_protocol_from",
        kind: Kind::Networks { field: |config| &mut config.proxy.proxy_protocol_from },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Load balancers before the proxy. Connections from here must begin with a header of the PROXY protocol, version 1 or 2, \
                  within timeouts.handshake; the address in it is the client's, for the two lists, auth.failures and CLIENT LIST. From \
                  anywhere else such a header is no request.",
    },
    Key {
        name: "proxy.tls.listen",
        kind: Kind::Listen { field: |config| &mut config.proxy.tls.listen },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where clients connect with TLS, beside or instead of proxy.listen (which may be an empty list then). Needs \
                  proxy.tls.cert_file and proxy.tls.key_file.",
    },
    Key {
        name: "proxy.tls.cluster_listen",
        kind: Kind::Listen { field: |config| &mut config.proxy.tls_cluster_listen },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "As proxy.cluster_listen, with TLS.",
    },
    Key {
        name: "proxy.tls.cert_file",
        kind: Kind::Name { field: |config| &mut config.proxy.tls.cert_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The certificate that clients are shown (PEM), followed by those that lead to its authority. When the files of a \
                  certificate, key or authority change, new connections use the new ones a second or two later; files that cannot be \
                  used change nothing and are told in the log.",
    },
    Key {
        name: "proxy.tls.key_file",
        kind: Kind::Name { field: |config| &mut config.proxy.tls.key_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The private key of that certificate (PEM), not encrypted: the file's mode protects it.",
    },
    Key {
        name: "proxy.tls.ca_file",
        kind: Kind::Name { field: |config| &mut config.proxy.tls.ca_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The authorities (PEM) whose certificates clients may show. Only with proxy.tls.auth_clients.",
    },
    Key {
        name: "proxy.tls.auth_clients",
        kind: Kind::Choice {
            of: &["no", "optional", "yes"],
            set: |config, index| config.proxy.tls.auth_clients = AuthClients::ALL[index],
            get: |config| config.proxy.tls.auth_clients as usize,
        },
        default: "no",
        unit: "",
        reload: Reload::Restart,
        meaning: "Whether clients must show a certificate of proxy.tls.ca_file (yes), may (optional), or are not asked for one (no). \
                  Redis calls it tls-auth-clients. What the certificate lets a client do is auth.certificate_user's.",
    },
    Key {
        name: "proxy.tls.min_version",
        kind: Kind::Choice {
            of: &["1.2", "1.3"],
            set: |config, index| config.proxy.tls.min_version = TlsVersion::ALL[index],
            get: |config| config.proxy.tls.min_version as usize,
        },
        default: "1.2",
        unit: "",
        reload: Reload::Restart,
        meaning: "The oldest version of TLS that clients may speak; 1.3 is the newest.",
    },
    Key {
        name: "cluster.seeds",
        kind: Kind::Hosts { field: |config| &mut config.cluster.seeds },
        default: "127.0.0.1:6379",
        unit: "",
        reload: Reload::Restart,
        meaning: "Nodes that are asked for the cluster's layout; one that answers is enough. Names are \
                  resolved anew for every attempt. The default is the port of every Redis, so that a proxy \
                  beside a node needs no configuration.",
    },
    Key {
        name: "cluster.username",
        kind: Kind::Name { field: |config| &mut config.cluster.username },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The ACL user that the proxy itself logs in to the nodes as, to learn the cluster's layout and to look after it. \
                  Clients have no part in its rights, unless auth.mode is proxy. Empty is the default user. It needs +@connection \
                  +cluster|nodes +command +scan +multi +exec at least (on 6.2 +cluster). To move slots it needs all keys and much \
                  more: PROXY CHECK names what a node denies it.",
    },
    Key {
        name: "cluster.password",
        kind: Kind::Secret { field: |config| &mut config.cluster.password },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The password for the nodes; empty when they ask for none. It is never shown. Prefer the \
                  environment variable: a command line can be read by every user of the machine.",
    },
    Key {
        name: "cluster.address_map",
        kind: Kind::AddressMap { field: |config| &mut config.cluster.address_map },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where to dial nodes that announce addresses the proxy cannot reach (NAT, Docker, \
                  Kubernetes): 10.0.0.1:6379=127.0.0.1:7001 for one node, 10.0.0.1=db.example for all \
                  nodes of a host, on their own ports.",
    },
    Key {
        name: "cluster.refresh_interval",
        kind: Kind::Duration { range: Duration::from_millis(100)..=HOUR, field: |config| &mut config.cluster.refresh_interval },
        default: "10s",
        unit: "",
        reload: Reload::Restart,
        meaning: "How often the layout is asked for when nothing calls for it. A redirect or a lost \
                  connection asks at once; the interval is for what neither tells, such as a new replica.",
    },
    Key {
        name: "cluster.tls.enabled",
        kind: Kind::Choice {
            of: &["off", "on"],
            set: |config, index| config.cluster.tls.enabled = index == 1,
            get: |config| usize::from(config.cluster.tls.enabled),
        },
        default: "off",
        unit: "",
        reload: Reload::Restart,
        meaning: "Whether the nodes are spoken to with TLS, all of them. cluster.seeds then names their TLS ports, and the cluster must \
                  announce them to each other (tls-cluster yes). Needs cluster.tls.ca_file.",
    },
    Key {
        name: "cluster.tls.ca_file",
        kind: Kind::Name { field: |config| &mut config.cluster.tls.ca_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The authorities (PEM) whose certificates nodes must show. The system's own are not used unless their bundle is named \
                  here (/etc/ssl/certs/ca-certificates.crt on Debian), for services with public certificates. Changed files are read \
                  anew, as for proxy.tls.cert_file.",
    },
    Key {
        name: "cluster.tls.server_name",
        kind: Kind::Name { field: |config| &mut config.cluster.tls.server_name },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The name that every node's certificate must hold, and that is sent as SNI. Empty: each must hold the name or the IP \
                  address that it was dialled at, among its subject alternative names. Most clusters announce IP addresses; set it \
                  where their certificates share a name instead.",
    },
    Key {
        name: "cluster.tls.verify",
        kind: Kind::Choice {
            of: &["full", "ca"],
            set: |config, index| config.cluster.tls.verify = TlsVerify::ALL[index],
            get: |config| config.cluster.tls.verify as usize,
        },
        default: "full",
        unit: "",
        reload: Reload::Restart,
        meaning: "full: a node's certificate must be by an authority of cluster.tls.ca_file and for its name. ca: the name is not \
                  looked at, as among the servers themselves; right where the authority serves nothing but the cluster, because \
                  whoever has a certificate of it can pose as a node.",
    },
    Key {
        name: "cluster.tls.cert_file",
        kind: Kind::Name { field: |config| &mut config.cluster.tls.cert_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The certificate that the proxy shows to nodes that ask for one (tls-auth-clients), with cluster.tls.key_file; PEM.",
    },
    Key {
        name: "cluster.tls.key_file",
        kind: Kind::Name { field: |config| &mut config.cluster.tls.key_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The private key of that certificate (PEM), not encrypted.",
    },
    Key {
        name: "cluster.tls.min_version",
        kind: Kind::Choice {
            of: &["1.2", "1.3"],
            set: |config, index| config.cluster.tls.min_version = TlsVersion::ALL[index],
            get: |config| config.cluster.tls.min_version as usize,
        },
        default: "1.2",
        unit: "",
        reload: Reload::Restart,
        meaning: "The oldest version of TLS that is spoken with nodes; 1.3 is the newest.",
    },
    Key {
        name: "auth.mode",
        kind: Kind::Choice {
            of: &["passthrough", "proxy"],
            set: |config, index| config.auth.mode = AuthMode::ALL[index],
            get: |config| config.auth.mode as usize,
        },
        default: "passthrough",
        unit: "",
        reload: Reload::Restart,
        meaning: "Who says who a client is. passthrough: the cluster does. Clients begin as its default user, AUTH is checked by a \
                  node, and each user has connections of its own to the nodes, so that the servers' ACL rules hold exactly; whether \
                  the default user needs a password is looked at every cluster.refresh_interval. proxy: the proxy does, by \
                  auth.users, and all clients are one user of the cluster's, cluster.username. With proxy and no auth.users \
                  everybody is let in: so a cluster with a password stands behind a proxy without one.",
    },
    Key {
        name: "auth.users",
        kind: Kind::Accounts { field: |config| &mut config.auth.users },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The users of auth.mode proxy: name:HASH, where HASH is the SHA-256 of the password in hexadecimal digits, as \
                  printf %s PASSWORD | sha256sum prints it, name:nopass, or name:nologin for who comes in only by what its \
                  connection shows (auth.certificate_user, auth.unix_users). A name may stand there several times, with a password each. \
                  Clients begin as default, if there is a default:nopass, and must authenticate themselves otherwise.",
    },
    Key {
        name: "auth.certificate_user",
        kind: Kind::Choice {
            of: &["off", "cn", "dns", "uri", "email"],
            set: |config, index| config.auth.certificate_user = CertificateUser::ALL[index],
            get: |config| config.auth.certificate_user as usize,
        },
        default: "off",
        unit: "",
        reload: Reload::Restart,
        meaning: "What of a client's certificate names the user of auth.users that the client is from the start, without AUTH: the \
                  common name of its subject (cn), or the first of its subject alternative names of a kind (dns, uri as in SPIFFE, \
                  email) that is a user. Who has no such name begins as everybody else. Needs auth.mode proxy and \
                  proxy.tls.auth_clients.",
    },
    Key {
        name: "auth.unix_users",
        kind: Kind::UnixUsers { field: |config| &mut config.auth.unix_users },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Users of auth.users that clients on unix sockets are from the start, without AUTH, by the user of the machine that their \
                  process runs as, as the system tells it (SO_PEERCRED): 1000=billing, www-data=shop. Who is not named begins as \
                  everybody else. Needs auth.mode proxy.",
    },
    Key {
        name: "auth.failures",
        kind: Kind::Count { range: 0..=1_000_000, field: |config| &mut config.auth.failures },
        default: "100",
        unit: "wrong passwords from one address in one window",
        reload: Reload::Restart,
        meaning: "Further logins from an address that sent so many wrong passwords are refused until auth.failures_window has passed \
                  since the first of them. 0 is no limit. The default slows guessing down to ten passwords a second, and leaves a \
                  whole machine's clients room for a mistake.",
    },
    Key {
        name: "auth.failures_window",
        kind: Kind::Duration { range: SECOND..=HOUR, field: |config| &mut config.auth.failures_window },
        default: "10s",
        unit: "",
        reload: Reload::Restart,
        meaning: "How long wrong passwords are remembered, by address (of IPv6, by network).",
    },
    Key {
        name: "commands.allow",
        kind: Kind::Commands { field: |config| &mut config.commands.allow },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Commands that are carried out although they are refused by default, or by commands.deny: a name (config), one \
                  subcommand (config|set), or a category of the servers' ACL (@dangerous, @all). The most specific entry of the two \
                  lists decides: a subcommand before its command before a category; between equals, deny. What cannot be done \
                  through a proxy (SHUTDOWN, REPLICAOF, SYNC) stays refused.",
    },
    Key {
        name: "commands.deny",
        kind: Kind::Commands { field: |config| &mut config.commands.deny },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Commands that are refused, whoever asks; written as for commands.allow. AUTH, HELLO, QUIT and RESET are never \
                  refused. deny = [\"@all\"] with allow = [\"@read\", \"@connection\"] makes a proxy for readers.",
    },
    Key {
        name: "admin.listen",
        kind: Kind::Listen { field: |config| &mut config.admin.listen },
        default: "127.0.0.1:6390",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where operators connect (redis-cli -p 6390, then PROXY HELP). Any address but a loopback one or a unix socket \
                  needs admin.password or admin.users. A unix socket is open to the proxy's own user of the machine only. An \
                  empty list turns it off.",
    },
    Key {
        name: "admin.password",
        kind: Kind::Secret { field: |config| &mut config.admin.password },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The password of the admin port's default user, who is an operator; with it nobody is let in without one. Prefer \
                  the environment variable, or admin.users with a hash. Wrong passwords are limited by auth.failures.",
    },
    Key {
        name: "admin.users",
        kind: Kind::Operators { field: |config| &mut config.admin.users },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The users of the admin port: name:role:HASH, where HASH is the SHA-256 of the password in hexadecimal digits, as \
                  for auth.users, or name:role:>PASSWORD. A viewer may look, an operator may do everything; PROXY HELP tells of \
                  each command who may give it. default:viewer:nopass lets everybody look who reaches the port. Without users and \
                  without admin.password everybody who reaches it is an operator.",
    },
    Key {
        name: "admin.on_client_ports",
        kind: Kind::Choice {
            of: &["off", "on"],
            set: |config, index| config.admin.on_client_ports = index == 1,
            get: |config| usize::from(config.admin.on_client_ports),
        },
        default: "off",
        unit: "",
        reload: Reload::Restart,
        meaning: "Whether the clients' ports know the PROXY commands, for operators who reach nothing else. A client is nobody there, \
                  whatever user of the cluster it is, until PROXY AUTH [username] password names a user of the admin port; RESET \
                  ends it. Needs admin.password or admin.users. off answers PROXY as the servers do: an unknown command.",
    },
    Key {
        name: "admin.tls.listen",
        kind: Kind::Listen { field: |config| &mut config.admin.tls.listen },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where operators connect with TLS (redis-cli --tls), beside or instead of admin.listen; what holds for that holds here: \
                  a certificate does not stand for a password. Needs admin.tls.cert_file and admin.tls.key_file.",
    },
    Key {
        name: "admin.tls.cert_file",
        kind: Kind::Name { field: |config| &mut config.admin.tls.cert_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The certificate that operators are shown (PEM), followed by those that lead to its authority. Changed files are read \
                  anew, as for proxy.tls.cert_file.",
    },
    Key {
        name: "admin.tls.key_file",
        kind: Kind::Name { field: |config| &mut config.admin.tls.key_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The private key of that certificate (PEM), not encrypted.",
    },
    Key {
        name: "admin.tls.ca_file",
        kind: Kind::Name { field: |config| &mut config.admin.tls.ca_file },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "The authorities (PEM) whose certificates operators may show. Only with admin.tls.auth_clients.",
    },
    Key {
        name: "admin.tls.auth_clients",
        kind: Kind::Choice {
            of: &["no", "optional", "yes"],
            set: |config, index| config.admin.tls.auth_clients = AuthClients::ALL[index],
            get: |config| config.admin.tls.auth_clients as usize,
        },
        default: "no",
        unit: "",
        reload: Reload::Restart,
        meaning: "Whether operators must show a certificate of admin.tls.ca_file (yes), may (optional), or are not asked for one (no).",
    },
    Key {
        name: "admin.tls.min_version",
        kind: Kind::Choice {
            of: &["1.2", "1.3"],
            set: |config, index| config.admin.tls.min_version = TlsVersion::ALL[index],
            get: |config| config.admin.tls.min_version as usize,
        },
        default: "1.2",
        unit: "",
        reload: Reload::Restart,
        meaning: "The oldest version of TLS that operators may speak; 1.3 is the newest.",
    },
    Key {
        name: "http.listen",
        kind: Kind::Listen { field: |config| &mut config.http.listen },
        default: "",
        unit: "",
        reload: Reload::Restart,
        meaning: "Where /metrics (Prometheus), /healthz (the process answers) and /readyz (it has a slot map, and is not stopping) are \
                  served, to whoever reaches it: nothing can be changed there. 127.0.0.1:9390 is a usual choice. An empty list turns \
                  it off.",
    },
    Key {
        name: "migrate.lease",
        kind: Kind::Duration { range: SECOND..=Duration::from_secs(60), field: |config| &mut config.migrate.lease },
        default: "10s",
        unit: "",
        reload: Reload::Restart,
        meaning: "How long the instance that drives a migration may be silent before another one goes on with it. The same \
                  for all instances before a cluster; longer than a failover of the slot in which the plan is recorded.",
    },
    Key {
        name: "migrate.latency_limit",
        kind: Kind::Duration { range: MILLISECOND..=Duration::from_secs(60), field: |config| &mut config.migrate.latency_limit },
        default: "100ms",
        unit: "",
        reload: Reload::Restart,
        meaning: "A migration pauses when a source or target answers PING slower than this, and ten times slower than \
                  before it began (99th percentile of the last hundred).",
    },
    Key {
        name: "migrate.uncovered",
        kind: Kind::Choice {
            of: &["pause", "rollback"],
            set: |config, index| config.migrate.rollback_uncovered = index == 1,
            get: |config| usize::from(config.migrate.rollback_uncovered),
        },
        default: "pause",
        unit: "",
        reload: Reload::Restart,
        meaning: "What a migration does when slots stay without an owner. Moving slots back does not give the missing ones \
                  an owner, so that it only pauses unless told otherwise.",
    },
    Key {
        name: "migrate.uncovered_after",
        kind: Kind::Duration { range: SECOND..=HOUR, field: |config| &mut config.migrate.uncovered_after },
        default: "1m",
        unit: "",
        reload: Reload::Restart,
        meaning: "How long slots must have been without an owner before what has moved goes back, where migrate.uncovered says so. \
                  Longer than a failover takes.",
    },
    Key {
        name: "retry.deadline",
        kind: Kind::Duration {
            range: Duration::from_millis(10)..=Duration::from_secs(600),
            field: |config| &mut config.retry.deadline,
        },
        default: "10s",
        unit: "",
        reload: Reload::Restart,
        meaning: "How long a request may wait for redirects, slot moves and failovers to pass before its \
                  client sees an error. The default is longer than a failover with a node timeout of 5s.",
    },
    Key {
        name: "retry.budget",
        kind: Kind::Count { range: 0..=1000, field: |config| &mut config.retry.budget_per_hundred },
        default: "100",
        unit: "resends per hundred fresh requests",
        reload: Reload::Restart,
        meaning: "How many resends a worker may make for every hundred fresh requests, so that a broken \
                  cluster is not stormed: by default its load at most doubles.",
    },
    Key {
        name: "retry.budget_floor",
        kind: Kind::Count { range: 0..=1_000_000, field: |config| &mut config.retry.budget_floor_per_second },
        default: "1000",
        unit: "resends per second and worker",
        reload: Reload::Restart,
        meaning: "Resends a worker may make in any second, however little fresh traffic there is. The \
                  default is about a hundredth of what one node answers in a second.",
    },
    Key {
        name: "limits.clients",
        kind: Kind::Count { range: 1..=1_000_000, field: |config| &mut config.limits.clients },
        default: "20000",
        unit: "connections",
        reload: Reload::Restart,
        meaning: "Clients connected at once, over all listeners; one more is refused with Redis's own error. \
                  The default is twice a server's own maxclients, because one proxy stands before several. \
                  Each needs a file descriptor (ulimit -n).",
    },
    Key {
        name: "limits.handshakes",
        kind: Kind::Count { range: 1..=100_000, field: |config| &mut config.limits.handshakes },
        default: "500",
        unit: "TLS handshakes with clients at once",
        reload: Reload::Restart,
        meaning: "Clients whose TLS handshake has begun and not ended; further ones wait to be accepted. They do not count as clients \
                  yet. Handshakes have a thread of their own, so that other clients do not wait for them.",
    },
    Key {
        name: "limits.query_buffer",
        kind: Kind::Size { range: 64 * KB..=2 * GB, field: |config| &mut config.limits.query_buffer_bytes },
        default: "1gb",
        unit: "per client",
        reload: Reload::Restart,
        meaning: "The largest request, all its arguments together; a client that sends more is \
                  disconnected. Redis's client-query-buffer-limit has the same default.",
    },
    Key {
        name: "limits.output_buffer",
        kind: Kind::Size { range: 64 * KB..=64 * GB, field: |config| &mut config.limits.output_buffer_bytes },
        default: "1gb",
        unit: "per client",
        reload: Reload::Restart,
        meaning: "Replies that wait for a client to read them; a client that lets more pile up is \
                  disconnected. The default lets the largest value through, twice over.",
    },
    Key {
        name: "limits.bulk_len",
        kind: Kind::Size { range: KB..=GB, field: |config| &mut config.limits.bulk_len_bytes },
        default: "512mb",
        unit: "",
        reload: Reload::Restart,
        meaning: "The longest single argument. The default is Redis's proto-max-bulk-len; keep the two equal.",
    },
    Key {
        name: "limits.pipeline_depth",
        kind: Kind::Count { range: 1..=1_000_000, field: |config| &mut config.limits.pipeline_depth },
        default: "1024",
        unit: "requests in flight per client",
        reload: Reload::Restart,
        meaning: "Requests of one client in flight at once. A deeper pipeline is no error: the proxy reads on \
                  as replies come. The default keeps a node busy and one client's share of memory small.",
    },
    Key {
        name: "limits.private_lanes",
        kind: Kind::Count { range: 1..=1_000_000, field: |config| &mut config.limits.private_lanes },
        default: "10000",
        unit: "node connections per worker",
        reload: Reload::Restart,
        meaning: "Connections of one worker that serve one client at a time: a client that is blocked, or watches keys, needs \
                  one each. Beyond them such a command is refused. Each is an open file here and a client of its node.",
    },
    Key {
        name: "limits.client_subscriptions",
        kind: Kind::Count { range: 1..=10_000_000, field: |config| &mut config.limits.client_subscriptions },
        default: "100000",
        unit: "per client",
        reload: Reload::Restart,
        meaning: "Channels, patterns and shard channels that one client may be subscribed to at once; a SUBSCRIBE \
                  beyond it is an error.",
    },
    Key {
        name: "limits.subscriptions",
        kind: Kind::Size { range: 64 * KB..=64 * GB, field: |config| &mut config.limits.subscriptions_bytes },
        default: "256mb",
        unit: "per worker",
        reload: Reload::Restart,
        meaning: "Memory for the names of channels and patterns and for who is subscribed to them, reckoned at half a \
                  kilobyte a channel and 64 bytes a subscriber; a SUBSCRIBE beyond it is an error.",
    },
    Key {
        name: "limits.subscriber_buffer",
        kind: Kind::Size { range: 64 * KB..=64 * GB, field: |config| &mut config.limits.subscriber_buffer_bytes },
        default: "32mb",
        unit: "per client",
        reload: Reload::Restart,
        meaning: "Messages that wait for a subscriber to read them; one that lets more pile up is disconnected. The \
                  default is that of Redis's client-output-buffer-limit pubsub. limits.output_buffer holds for it too.",
    },
    Key {
        name: "limits.users",
        kind: Kind::Count { range: 1..=10_000, field: |config| &mut config.limits.users },
        default: "1000",
        unit: "users per worker",
        reload: Reload::Restart,
        meaning: "Users of the cluster that one worker's clients may be at once (auth.mode passthrough), a name with each of its \
                  passwords counted for itself. Each has a connection of its own to the nodes that its clients use. Beyond them \
                  logins of further users are refused.",
    },
    Key {
        name: "limits.lane_buffer",
        kind: Kind::Size { range: 64 * KB..=64 * GB, field: |config| &mut config.limits.lane_buffer_bytes },
        default: "64mb",
        unit: "per node connection",
        reload: Reload::Restart,
        meaning: "Request bytes that one connection to a node may hold, unsent and unanswered together. Beyond \
                  it the clients that use it are read more slowly. A larger single request still passes, alone.",
    },
    Key {
        name: "limits.scripts",
        kind: Kind::Size { range: 0..=64 * GB, field: |config| &mut config.limits.scripts_bytes },
        default: "64mb",
        unit: "",
        reload: Reload::Restart,
        meaning: "Script bodies remembered, so that an EVALSHA that meets a node without the script still \
                  succeeds. The least recently used go first; 0 remembers none.",
    },
    Key {
        name: "cross_slot.transactions",
        kind: Kind::Choice {
            of: &["reject", "per-slot"],
            set: |config, index| config.cross_slot.transactions = CrossSlotTransactions::ALL[index],
            get: |config| config.cross_slot.transactions as usize,
        },
        default: "reject",
        unit: "",
        reload: Reload::Restart,
        meaning: "What becomes of MULTI and WATCH whose keys are in several slots. reject answers CROSSSLOT when such a command is \
                  queued, since no cluster can carry it out at once. per-slot makes one MULTI and EXEC for each slot and puts \
                  the results together: atomic within each slot only, so others may see one slot's part before another's, \
                  and a part that fails is told in its own place while the others are done. RQ, Celery and Sidekiq need it \
                  unless their keys share a hash tag.",
    },
    Key {
        name: "cross_slot.blocking",
        kind: Kind::Choice {
            of: &["reject", "poll"],
            set: |config, index| config.cross_slot.blocking = CrossSlotBlocking::ALL[index],
            get: |config| config.cross_slot.blocking as usize,
        },
        default: "reject",
        unit: "",
        reload: Reload::Restart,
        meaning: "Blocking commands whose keys lie in several slots (BLPOP of two queues). A cluster cannot wait for \
                  them together: reject answers CROSSSLOT, as it would. poll asks one key after the other without \
                  blocking, again and again, which takes at most one element and loses none, but costs a request a \
                  key and round, wakes later, and does not serve waiting clients in the order in which they came. \
                  Better, where you can: a hash tag that puts the keys in one slot.",
    },
    Key {
        name: "cross_slot.poll_interval",
        kind: Kind::Duration {
            range: MILLISECOND..=Duration::from_secs(10),
            field: |config| &mut config.cross_slot.poll_interval,
        },
        default: "50ms",
        unit: "",
        reload: Reload::Restart,
        meaning: "The longest wait between two rounds of such polling. The first waits are shorter; the default lets \
                  a hundred blocked clients of four queues cost a node less than it notices.",
    },
    Key {
        name: "timeouts.dial",
        kind: Kind::Duration { range: MILLISECOND..=Duration::from_secs(60), field: |config| &mut config.timeouts.dial },
        default: "1s",
        unit: "",
        reload: Reload::Restart,
        meaning: "How long connecting to a node may take, login included. Shorter than retry.deadline, so \
                  that there is time left to try another.",
    },
    Key {
        name: "timeouts.handshake",
        kind: Kind::Duration {
            range: Duration::from_millis(10)..=Duration::from_secs(60),
            field: |config| &mut config.timeouts.handshake,
        },
        default: "5s",
        unit: "",
        reload: Reload::Restart,
        meaning: "How long a TLS handshake with a client or an operator may take; who has not ended it by then is cut off. Handshakes \
                  with nodes are part of timeouts.dial.",
    },
    Key {
        name: "timeouts.idle",
        kind: Kind::DurationOrOff { range: SECOND..=YEAR, field: |config| &mut config.timeouts.idle },
        default: "0",
        unit: "",
        reload: Reload::Restart,
        meaning: "A client that sends nothing for so long and waits for nothing is disconnected. 0 is never, as in \
                  Redis: legacy clients with pools take a closed connection for a failure.",
    },
    Key {
        name: "timeouts.keepalive",
        kind: Kind::DurationOrOff { range: SECOND..=HOUR, field: |config| &mut config.timeouts.keepalive },
        default: "5m",
        unit: "",
        reload: Reload::Restart,
        meaning: "After so much silence TCP asks whether the client's machine is still there. 0 does not ask. \
                  Redis's tcp-keepalive has the same default.",
    },
    Key {
        name: "timeouts.node",
        kind: Kind::Duration { range: Duration::from_millis(100)..=HOUR, field: |config| &mut config.timeouts.node },
        default: "1m",
        unit: "",
        reload: Reload::Restart,
        meaning: "A connection to a node that has requests in flight and is silent for so long is cut. Longer than \
                  the longest script or command you run: a node that is busy with one is silent too.",
    },
    Key {
        name: "log.level",
        kind: Kind::Choice {
            of: &["error", "warn", "info", "debug", "trace"],
            set: |config, index| config.log.level = LogLevel::ALL[index],
            get: |config| config.log.level as usize,
        },
        default: "info",
        unit: "",
        reload: Reload::Restart,
        meaning: "How much is logged, on standard error. No level logs keys, values or passwords.",
    },
    Key {
        name: "log.format",
        kind: Kind::Choice {
            of: &["text", "json"],
            set: |config, index| config.log.format = LogFormat::ALL[index],
            get: |config| config.log.format as usize,
        },
        default: "text",
        unit: "",
        reload: Reload::Restart,
        meaning: "text is for people; json is one object a line, for log collectors.",
    },
];

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
