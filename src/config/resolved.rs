//! The configuration as resolved: every field a value that needs no further check.

use std::num::NonZeroUsize;
use std::time::Duration;

use ipnet::IpNet;

use super::account::{AccountRule, OperatorRule, UnixUserRule};
use super::address::{AddressRule, HostPort, ListenAddr};
use super::keys::KEYS;
use super::secret::Secret;
use super::written::Source;

/// The whole configuration. What each field means, its default and its range stand in the table of
/// [`keys`](super::keys); a field's name here is its key's name, with the unit added.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub proxy: Proxy,
    pub cluster: Cluster,
    pub auth: Auth,
    pub commands: Commands,
    pub admin: Admin,
    pub http: Http,
    pub migrate: Migrate,
    pub retry: Retry,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub cross_slot: CrossSlot,
    pub log: Log,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// At least one here or in `tls`.
    pub listen: Vec<ListenAddr>,
    /// Listeners that show a cluster of one node; may be empty.
    pub cluster_listen: Vec<ListenAddr>,
    /// As configured, 0 meaning one per core; see [`Proxy::worker_count`].
    pub workers: usize,
    /// Of unix sockets; `None`: as the process's umask leaves it.
    pub unix_mode: Option<u32>,
    /// `user`, `user:group` or `:group`, by name or number.
    pub unix_owner: Option<String>,
    /// Empty: from everywhere.
    pub allow_from: Vec<IpNet>,
    pub deny_from: Vec<IpNet>,
    pub proxy_protocol_from: Vec<IpNet>,
    pub tls: ServerTls,
    /// As `cluster_listen`, by the same certificate as `tls.listen`.
    pub tls_cluster_listen: Vec<ListenAddr>,
}

/// TLS of listeners. Where something is listened on, there are certificate and key; authorities, unless those who connect are not asked
/// for certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTls {
    pub listen: Vec<ListenAddr>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    pub ca_file: Option<String>,
    pub auth_clients: AuthClients,
    pub min_version: TlsVersion,
}

/// TLS towards the nodes. Where it is enabled, there are authorities; a certificate never without its key.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterTls {
    pub enabled: bool,
    pub ca_file: Option<String>,
    /// A host name or an IP address.
    pub server_name: Option<String>,
    pub verify: TlsVerify,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    pub min_version: TlsVersion,
}

/// Whether those who connect show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthClients {
    No,
    Optional,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// What of a node's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVerify {
    Full,
    /// The authority only.
    Ca,
}

/// What of a client's certificate names its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateUser {
    Off,
    CommonName,
    Dns,
    Uri,
    Email,
}

impl AuthClients {
    /// In the order of the names of `proxy.tls.auth_clients`.
    pub(super) const ALL: [Self; 3] = [Self::No, Self::Optional, Self::Yes];
}

impl TlsVersion {
    /// In the order of the names of `proxy.tls.min_version`.
    pub(super) const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];
}

impl TlsVerify {
    /// In the order of the names of `cluster.tls.verify`.
    pub(super) const ALL: [Self; 2] = [Self::Full, Self::Ca];
}

impl CertificateUser {
    /// In the order of the names of `auth.certificate_user`.
    pub(super) const ALL: [Self; 5] = [Self::Off, Self::CommonName, Self::Dns, Self::Uri, Self::Email];
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// At least one. Names are resolved whenever they are dialled.
    pub seeds: Vec<HostPort>,
    /// Never without a password.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// In the order written; `cluster::AddressMap` applies them.
    pub address_map: Vec<AddressRule>,
    pub refresh_interval: Duration,
    pub tls: ClusterTls,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    pub mode: AuthMode,
    /// Only where the mode is `Proxy`; if there are none, everybody is let in.
    pub users: Vec<AccountRule>,
    /// `Off` unless the mode is `Proxy` and clients are asked for certificates.
    pub certificate_user: CertificateUser,
    /// Only where the mode is `Proxy`, and to users of `users`.
    pub unix_users: Vec<UnixUserRule>,
    /// Wrong passwords from one address in one window; 0 is no limit.
    pub failures: usize,
    pub failures_window: Duration,
}

/// Who says who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// The cluster: clients are its users.
    Passthrough,
    /// The proxy: clients are its users, and all of them one user of the cluster's.
    Proxy,
}

impl AuthMode {
    /// In the order of the names of `auth.mode`.
    pub(super) const ALL: [Self; 2] = [Self::Passthrough, Self::Proxy];
}

/// Names of commands, subcommands and categories, in lower case; whether they exist is not checked here.
#[derive(Clone, Debug, PartialEq)]
pub struct Commands {
    pub allow: Vec<String>,
    pub deny: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Any addresses, and none to turn it off.
    pub listen: Vec<ListenAddr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Loopback addresses and unix sockets only, unless there is a password or a user; may be empty.
    pub listen: Vec<ListenAddr>,
    /// The default user's, who is an operator; never beside a rule for that name.
    pub password: Option<Secret>,
    /// One role a name, and possibly several passwords.
    pub users: Vec<OperatorRule>,
    /// Whether clients' ports know the PROXY namespace; only where there is a password or a user.
    pub on_client_ports: bool,
    pub tls: ServerTls,
}

impl Admin {
    /// Whether whoever connects must say who he is.
    pub fn is_locked(&self) -> bool {
        self.password.is_some() || !self.users.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Migrate {
    pub lease: Duration,
    pub latency_limit: Duration,
    pub rollback_uncovered: bool,
    pub uncovered_after: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    pub deadline: Duration,
    /// Resends allowed per hundred fresh requests.
    pub budget_per_hundred: usize,
    /// Resends allowed per second and worker, however little fresh traffic there is.
    pub budget_floor_per_second: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub clients: usize,
    /// Of TLS, at once.
    pub handshakes: usize,
    /// Per client; larger than `bulk_len_bytes`.
    pub query_buffer_bytes: usize,
    /// Per client.
    pub output_buffer_bytes: usize,
    pub bulk_len_bytes: usize,
    /// Requests in flight per client.
    pub pipeline_depth: usize,
    /// Node connections of one worker that serve one client at a time.
    pub private_lanes: usize,
    pub client_subscriptions: usize,
    /// Per worker.
    pub subscriptions_bytes: usize,
    pub subscriber_buffer_bytes: usize,
    /// Users of the cluster per worker.
    pub users: usize,
    /// Unsent and unanswered request bytes per node connection.
    pub lane_buffer_bytes: usize,
    pub scripts_bytes: usize,
}

/// What becomes of a blocking command whose keys lie in several slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSlotBlocking {
    Reject,
    Poll,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Shorter than `retry.deadline`.
    pub dial: Duration,
    /// Of TLS, with clients and operators.
    pub handshake: Duration,
    /// `None`: clients may be idle for ever.
    pub idle: Option<Duration>,
    /// `None`: no keepalive probes. Whole seconds.
    pub keepalive: Option<Duration>,
    pub node: Duration,
}

/// What becomes of requests whose keys are in several slots, where a single server would serve them.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossSlot {
    pub transactions: CrossSlotTransactions,
    pub blocking: CrossSlotBlocking,
    /// The longest wait between two rounds of polling.
    pub poll_interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSlotTransactions {
    Reject,
    /// One MULTI and EXEC for each slot.
    PerSlot,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl CrossSlotBlocking {
    /// In the order of the names of `cross_slot.blocking`.
    pub(super) const ALL: [Self; 2] = [Self::Reject, Self::Poll];
}

impl LogLevel {
    /// In the order of the names of `log.level`.
    pub(super) const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];
}

impl CrossSlotTransactions {
    /// In the order of the names of `cross_slot.transactions`.
    pub(super) const ALL: [Self; 2] = [Self::Reject, Self::PerSlot];
}

impl LogFormat {
    /// In the order of the names of `log.format`.
    pub(super) const ALL: [Self; 2] = [Self::Text, Self::Json];
}

impl Proxy {
    /// How many workers to start: as configured, or one per core that this process may use (1 when the
    /// system does not say).
    pub fn worker_count(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.workers).unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }
}

impl Default for Config {
    /// The defaults of the table of keys.
    fn default() -> Self {
        let mut config = blank();
        for key in KEYS {
            // The table is ours: a default that its own kind refuses is a mistake in this program.
            key.set(&mut config, &key.default_value(), &Source::Default)
                .unwrap_or_else(|mistakes| panic!("{} refuses its default: {mistakes:?}", key.name));
        }
        config
    }
}

/// Every field is overwritten by the default of its key.
fn blank() -> Config {
    Config {
        proxy: Proxy {
            listen: Vec::new(),
            cluster_listen: Vec::new(),
            workers: 0,
            unix_mode: None,
            unix_owner: None,
            allow_from: Vec::new(),
            deny_from: Vec::new(),
            proxy_protocol_from: Vec::new(),
            tls: blank_tls(),
            tls_cluster_listen: Vec::new(),
        },
        cluster: Cluster {
            seeds: Vec::new(),
            username: None,
            password: None,
            address_map: Vec::new(),
            refresh_interval: Duration::ZERO,
            tls: ClusterTls {
                enabled: false,
                ca_file: None,
                server_name: None,
                verify: TlsVerify::Full,
                cert_file: None,
                key_file: None,
                min_version: TlsVersion::Tls12,
            },
        },
        auth: Auth {
            mode: AuthMode::Passthrough,
            users: Vec::new(),
            certificate_user: CertificateUser::Off,
            unix_users: Vec::new(),
            failures: 0,
            failures_window: Duration::ZERO,
        },
        commands: Commands { allow: Vec::new(), deny: Vec::new() },
        admin: Admin { listen: Vec::new(), password: None, users: Vec::new(), on_client_ports: false, tls: blank_tls() },
        http: Http { listen: Vec::new() },
        migrate: Migrate {
            lease: Duration::ZERO,
            latency_limit: Duration::ZERO,
            rollback_uncovered: false,
            uncovered_after: Duration::ZERO,
        },
        retry: Retry { deadline: Duration::ZERO, budget_per_hundred: 0, budget_floor_per_second: 0 },
        limits: Limits {
            clients: 0,
            handshakes: 0,
            query_buffer_bytes: 0,
            output_buffer_bytes: 0,
            bulk_len_bytes: 0,
            pipeline_depth: 0,
            private_lanes: 0,
            client_subscriptions: 0,
            subscriptions_bytes: 0,
            subscriber_buffer_bytes: 0,
            users: 0,
            lane_buffer_bytes: 0,
            scripts_bytes: 0,
        },
        timeouts: Timeouts { dial: Duration::ZERO, handshake: Duration::ZERO, idle: None, keepalive: None, node: Duration::ZERO },
        cross_slot: CrossSlot {
            transactions: CrossSlotTransactions::Reject,
            blocking: CrossSlotBlocking::Reject,
            poll_interval: Duration::ZERO,
        },
        log: Log { level: LogLevel::Info, format: LogFormat::Text },
    }
}

fn blank_tls() -> ServerTls {
    ServerTls {
        listen: Vec::new(),
        cert_file: None,
        key_file: None,
        ca_file: None,
        auth_clients: AuthClients::No,
        min_version: TlsVersion::Tls12,
    }
}
