//! The proxy as a whole: constructs its parts from a configuration, owns their start and stop.

use std::{
    future::Future,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{broadcast::error::RecvError, mpsc, oneshot, watch},
    task::LocalSet,
};

use crate::{
    access::{Accounts, Role, Secret, Throttle},
    admin::{self, AdminState, Channel, Events, Operators},
    command::{Policy, Rule, unblocked},
    config::{AddressRule, AuthMode, Config, CrossSlotBlocking, CrossSlotTransactions, Entrance, ListenAddr, Mistake, Resolved},
    control::{Credentials, Dialer},
    engine::{Auth, CrossSlot, Face, Identity, Registry, Scripts, Settings},
    migrate::{self, Coordinator, record::Timing},
    net::{
        Accepted, Arrival, BindError, Clock, Entry, Gate, Handshakes, Listener, NodesTls, Owner, Shared, ToOperators, ToWorker,
        UnixSocket, WorkerConfig, WorkerHandle, give_back_for_ever, user_id,
    },
    report::{self, Sources},
    resp,
    telemetry::log::RateLimitedLine,
    tls::FileError,
    topology::{self, TopologyConfig, TopologyHandle},
    web,
};

/// How long replies that are owed at the end may take.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Between two questions to all masters about the cluster's health.
const HEALTH_INTERVAL: Duration = Duration::from_secs(15);

/// For one answer of a node to an operator's question.
const CONTROL_REPLY_LIMIT: Duration = Duration::from_secs(5);

/// After an error of `accept` (no descriptors left, usually) the next try waits a little.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Descriptors for lanes, listeners, control connections and operators.
const SPARE_DESCRIPTORS: u64 = 1024;

mod secured;

use secured::Secured;

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    #[error("cannot use TLS ({key}): {error}")]
    Tls { key: &'static str, error: FileError },
    #[error("cannot start the thread for TLS handshakes: {0}")]
    Handshakes(io::Error),
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// Runs until the process is told to stop (SIGINT, SIGTERM).
pub fn run(config: Config) -> Result<(), AppError> {
    block_on(async move {
        let app = App::build(config).await?;
        app.serve_until(stop_signal()?).await;
        Ok(())
    })
}

/// Runs `main` on the control thread's runtime.
pub fn block_on<T>(main: impl Future<Output = Result<T, AppError>>) -> Result<T, AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Runtime)?;
    LocalSet::new().block_on(&runtime, main)
}

/// Ends when the process is told to stop.
pub fn stop_signal() -> Result<impl Future<Output = ()>, AppError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The running proxy: listeners, workers, topology.
pub struct App {
    config: Config,
    listeners: Vec<(Listener, Face, Option<Entry>)>,
    secured: Secured,
    operators: Vec<admin::Listener>,
    http: Vec<admin::Listener>,
    workers: Vec<WorkerHandle>,
    /// PROXY commands of the workers' clients.
    calls: mpsc::UnboundedReceiver<ToOperators>,
    shared: Arc<Shared>,
    topology: TopologyHandle,
    clock: Clock,
}

impl App {
    /// Opens the listeners first: a port that is taken is an error before anything has started.
    pub async fn build(config: Config) -> Result<App, AppError> {
        let secured = Secured::load(&config)?;
        let socket = unix_socket(&config);
        let mut listeners = Vec::new();
        let (proxy, entry) = (&config.proxy, &secured.clients);
        for (addresses, face, entry) in [
            (&proxy.listen, Face::Standalone, &None),
            (&proxy.cluster_listen, Face::Cluster, &None),
            (&proxy.tls.listen, Face::Standalone, entry),
            (&proxy.tls_cluster_listen, Face::Cluster, entry),
        ] {
            for address in addresses {
                let listener = match address {
                    ListenAddr::Tcp(address) => Listener::tcp(&address.to_string()).await?,
                    ListenAddr::Unix(path) => Listener::unix(path.clone(), socket.clone())?,
                };
                listeners.push((listener, face, entry.clone()));
            }
        }
        let mut operators = admin::bind("admin.listen", &config.admin.listen, None).await?;
        if let Some(secure) = &secured.operators {
            operators.extend(admin::bind("admin.tls.listen", &config.admin.tls.listen, Some(secure)).await?);
        }
        let http = admin::bind("http.listen", &config.http.listen, None).await?;
        raise_descriptor_limit(&config);
        let clock = Clock::start();
        let topology = topology::start(topology_config(&config, &secured), move || clock.now_us());
        let shared = Arc::new(Shared::default());
        let port = listeners.iter().find_map(|(listener, ..)| listener.port()).unwrap_or(0);
        let (to_operators, calls) = mpsc::unbounded_channel();
        let workers = start_workers(&config, port, clock, &shared, &topology, &to_operators, secured.nodes.as_ref())?;
        for (listener, face, entry) in &listeners {
            let tls = entry.is_some();
            tracing::info!(address = %listener.name(), mode = face.mode(), tls, workers = workers.len(), "listening");
        }
        Ok(App { config, listeners, secured, operators, http, workers, calls, shared, topology, clock })
    }

    /// The proxy's way to the cluster, as operators' commands use it.
    pub fn cluster(&self) -> admin::Cluster {
        cluster_of(&self.config, &self.secured, &self.topology, self.clock)
    }

    /// Serves clients until `stop` ends, then lets what is in flight finish.
    pub async fn serve_until(self, stop: impl Future<Output = ()>) {
        let App { config, listeners, secured, operators, http, workers, calls, shared, topology, clock } = self;
        let (told, health) = watch::channel(Arc::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let sources = Sources {
            shared: shared.clone(),
            stats: workers.iter().map(|worker| worker.stats.clone()).collect(),
            topology: topology.clone(),
            clock,
            limits: report_limits(&config),
            health,
            stopping: stopping.clone(),
        };
        let cluster = cluster_of(&config, &secured, &topology, clock);
        let events = Events::default();
        let migrations = coordinate(&config, &cluster, &events);
        let http = (!http.is_empty()).then(|| {
            let watch = report::Watch::new(topology.clone(), cluster.dialer.clone(), migrations.clone(), told);
            let served = web::serve(http, sources.clone());
            tokio::spawn(async move { tokio::join!(watch.run(HEALTH_INTERVAL), served) })
        });
        let tls = secured.report();
        let admin = AdminState {
            info: Arc::new(move || [admin::facts_of(&sources.facts()), tls.facts()].concat()),
            cluster,
            operators: Arc::new(admin_users(&config)),
            events,
            migrations,
        };
        let (stop_admin, admin_stopped) = oneshot::channel::<()>();
        // A sender that is gone stops it as well.
        tokio::spawn(give_back_for_ever(shared.clone()));
        let admin = tokio::spawn(admin::serve(operators, calls, admin, async move { drop(admin_stopped.await) }));
        let acceptor = Arc::new(Acceptor {
            inboxes: workers.iter().map(|worker| (worker.inbox.clone(), worker.clients.clone())).collect(),
            shared,
            clients_max: config.limits.clients,
            keepalive: config.timeouts.keepalive,
            full_told: AtomicBool::new(false),
            gate: Arc::new(gate(&config)),
            handshakes: secured.handshakes.clone(),
            refused_told: Mutex::default(),
        });
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|(listener, face, entry)| tokio::task::spawn_local(acceptor.clone().accept_for_ever(listener, face, entry)))
            .collect();
        stop.await;
        tracing::info!("stopping");
        stopping.store(true, Relaxed);
        for task in &accepting {
            task.abort();
        }
        for task in accepting {
            // An aborted task's error says only that it was aborted.
            let _ = task.await;
        }
        for worker in &workers {
            // A worker that has ended already has nothing to finish.
            let _ = worker.inbox.send(ToWorker::Stop(STOP_GRACE));
        }
        let joined = tokio::task::spawn_blocking(move || {
            workers.into_iter().map(|worker| worker.thread.join()).filter(Result::is_err).count()
        });
        if joined.await.is_ok_and(|panicked| panicked > 0) {
            tracing::error!("a worker had panicked");
        }
        drop((stop_admin, topology));
        // It ends with its sender.
        let _ = admin.await;
        if let Some(http) = http {
            http.abort();
            // An aborted task's error says only that it was aborted.
            let _ = http.await;
        }
    }
}

fn cluster_of(config: &Config, secured: &Secured, topology: &TopologyHandle, clock: Clock) -> admin::Cluster {
    admin::Cluster {
        topology: topology.clone(),
        dialer: control_dialer(config, secured),
        now_us: Arc::new(move || clock.now_us()),
    }
}

/// Starts the task that drives migrations, and the one that tells of them on the admin port. Both end with the runtime.
fn coordinate(config: &Config, cluster: &admin::Cluster, events: &Events) -> Coordinator {
    let (migrations, coordinating) = Coordinator::new(migrate::coordinator::Parts {
        topology: cluster.topology.clone(),
        dialer: cluster.dialer.clone(),
        now_us: cluster.now_us.clone(),
        timing: Timing { lease: config.migrate.lease },
        instance: instance(),
        latency_limit: config.migrate.latency_limit,
        back_when_uncovered: config.migrate.rollback_uncovered.then_some(config.migrate.uncovered_after),
    });
    tokio::spawn(coordinating);
    let (mut lines, events) = (migrations.events(), events.clone());
    tokio::spawn(async move {
        loop {
            match lines.recv().await {
                Ok(line) => events.tell(Channel::Migrations, &line),
                Err(RecvError::Lagged(count)) => events.tell(Channel::Migrations, &format!("{count} lines missed")),
                Err(RecvError::Closed) => return,
            }
        }
    });
    migrations
}

/// Takes connections from listeners and hands each to the worker with the fewest clients.
struct Acceptor {
    inboxes: Vec<(mpsc::UnboundedSender<ToWorker>, Arc<std::sync::atomic::AtomicUsize>)>,
    shared: Arc<Shared>,
    clients_max: usize,
    keepalive: Option<Duration>,
    full_told: AtomicBool,
    gate: Arc<Gate>,
    /// Where anything comes before requests.
    handshakes: Option<Handshakes>,
    /// Connections from where no client may come: one line a second.
    refused_told: Mutex<RateLimitedLine>,
}

impl Acceptor {
    async fn accept_for_ever(self: Arc<Self>, listener: Listener, face: Face, entry: Option<Entry>) {
        // Only where something may come before requests.
        let handshakes = self.handshakes.as_ref().filter(|_| entry.is_some() || !self.gate.forwarders.is_empty());
        loop {
            let place = match handshakes {
                Some(handshakes) => Some((handshakes, handshakes.place().await)),
                None => None,
            };
            match listener.accept(self.keepalive).await {
                Ok(accepted) => {
                    let from = accepted.peer().map(|peer| peer.ip());
                    let forwarded = from.is_some_and(|from| self.gate.is_forwarder(from));
                    match place {
                        _ if !forwarded && from.is_some_and(|from| !self.gate.lets_in(from)) => self.refuse(from),
                        Some((handshakes, place)) if forwarded || entry.is_some() => {
                            let acceptor = self.clone();
                            let hand_over = move |accepted| acceptor.hand_over(accepted, face);
                            let (gate, shared) = (self.gate.clone(), self.shared.clone());
                            let arrival = Arrival { accepted, forwarded, entry: entry.clone(), place };
                            handshakes.accept(arrival, gate, shared, hand_over);
                        }
                        _ => self.hand_over(accepted, face),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, address = %listener.name(), "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The connection is dropped, and so closed, by the caller.
    fn refuse(&self, from: Option<IpAddr>) {
        self.shared.refused_by_address.fetch_add(1, Relaxed);
        // Whoever panicked left whole numbers behind.
        let told = self.refused_told.lock().unwrap_or_else(PoisonError::into_inner).allow(Instant::now());
        if let Some(suppressed) = told {
            tracing::warn!(client = ?from, suppressed, "a client was cut off: proxy.allow_from and proxy.deny_from do not let it in");
        }
    }

    /// Gives a worker a connection that is ready for requests, unless there are too many.
    fn hand_over(&self, accepted: Accepted, face: Face) {
        if self.shared.connected.load(Relaxed) >= self.clients_max {
            self.shared.rejected.fetch_add(1, Relaxed);
            if !self.full_told.swap(true, Relaxed) {
                tracing::warn!(limit = self.clients_max, "the limit of clients is reached: further ones are refused");
            }
            return accepted.refuse(b"-ERR max number of clients reached\r\n");
        }
        self.full_told.store(false, Relaxed);
        // Counted here, in the order of accepting, so that ids rise over all workers.
        let public_id = self.shared.accepted.fetch_add(1, Relaxed) + 1;
        let least = self.inboxes.iter().min_by_key(|(_, clients)| clients.load(Relaxed));
        let (inbox, clients) = least.expect("there is a worker at least");
        clients.fetch_add(1, Relaxed);
        self.shared.connected.fetch_add(1, Relaxed);
        // A worker that has ended needs no clients, nor do its numbers matter.
        let _ = inbox.send(ToWorker::Client { accepted, public_id, face });
    }
}

/// Each client is a descriptor, and one more while it has a private connection to a node; the soft limit of most systems is 1024.
fn raise_descriptor_limit(config: &Config) {
    let limits = &config.limits;
    let private = limits.private_lanes.saturating_mul(config.proxy.worker_count().get()).min(limits.clients);
    let wanted = (limits.clients + private) as u64 + SPARE_DESCRIPTORS;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit < wanted => {
            tracing::warn!(
                limit,
                wanted,
                "the system allows fewer open files than limits.clients and limits.private_lanes need: raise it (ulimit -n), or lower them"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

fn start_workers(
    config: &Config,
    port: u16,
    clock: Clock,
    shared: &Arc<Shared>,
    topology: &TopologyHandle,
    operators: &mpsc::UnboundedSender<ToOperators>,
    nodes_tls: Option<&NodesTls>,
) -> Result<Vec<WorkerHandle>, AppError> {
    let scripts = Arc::new(Scripts::new(config.limits.scripts_bytes));
    let subscriptions = Arc::new(Registry::default());
    let run_id: String = std::iter::repeat_with(|| format!("{:08x}", fastrand::u32(..))).take(5).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..config.proxy.worker_count().get()).map(|_| mpsc::unbounded_channel()).unzip();
    let settings = settings(config, port);
    let workers = receivers.into_iter().enumerate().map(|(number, inbox)| {
        let worker = WorkerConfig {
            number,
            settings: settings.clone(),
            clock,
            dial_timeout: config.timeouts.dial,
            keepalive: config.timeouts.keepalive,
            nodes_tls: nodes_tls.cloned(),
            clients_max: config.limits.clients,
            run_id: run_id.clone(),
            scripts: scripts.clone(),
            subscriptions: subscriptions.clone(),
            shared: shared.clone(),
            maps: topology.maps(),
            topology: topology.clone(),
            operators: operators.clone(),
            peers: senders.clone(),
        };
        WorkerHandle::start(worker, inbox).map_err(AppError::Worker)
    });
    workers.collect()
}

fn topology_config(config: &Config, secured: &Secured) -> TopologyConfig {
    TopologyConfig {
        seeds: config.cluster.seeds.iter().map(ToString::to_string).collect(),
        username: config.cluster.username.clone(),
        password: config.cluster.password.as_ref().map(|password| password.expose().to_string()),
        address_map: config.cluster.address_map.iter().map(address_rule).collect(),
        dial_timeout: config.timeouts.dial,
        refresh_interval: config.cluster.refresh_interval,
        tls: secured.for_control(),
        ..TopologyConfig::default()
    }
}

/// A name that no other process before the cluster has: where it runs, and since when by a number of its own.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String =
        host.trim().chars().filter(|letter| letter.is_ascii_alphanumeric() || "-.".contains(*letter)).take(64).collect();
    format!("{}:{}:{:08x}", if host.is_empty() { "keyway" } else { &host }, std::process::id(), fastrand::u32(..))
}

/// For what operators ask of the nodes.
fn control_dialer(config: &Config, secured: &Secured) -> Dialer {
    Dialer {
        credentials: Credentials {
            username: config.cluster.username.clone(),
            password: config.cluster.password.as_ref().map(|password| password.expose().to_string()),
        },
        dial_timeout: config.timeouts.dial,
        reply_timeout: CONTROL_REPLY_LIMIT,
        tls: secured.for_control(),
    }
}

fn address_rule(rule: &AddressRule) -> (String, String) {
    match rule {
        AddressRule::Node { from, to } => (from.to_string(), to.to_string()),
        AddressRule::Host { from, to } => (from.clone(), to.clone()),
    }
}

fn settings(config: &Config, tcp_port: u16) -> Settings {
    let limits = &config.limits;
    Settings {
        retry_deadline_us: config.retry.deadline.as_micros() as u64,
        retry_budget_percent: config.retry.budget_per_hundred as u64,
        retry_floor_per_second: config.retry.budget_floor_per_second as u64,
        limits: resp::Limits {
            bulk_len_max: limits.bulk_len_bytes,
            query_buffer_max: limits.query_buffer_bytes,
            ..resp::Limits::default()
        },
        pipeline_depth: limits.pipeline_depth,
        output_buffer_max: limits.output_buffer_bytes,
        lane_buffer_max: limits.lane_buffer_bytes,
        idle_timeout_us: config.timeouts.idle.map_or(0, |idle| idle.as_micros() as u64),
        node_timeout_us: config.timeouts.node.as_micros() as u64,
        private_lanes_max: limits.private_lanes,
        client_subscriptions_max: limits.client_subscriptions,
        subscriptions_bytes_max: limits.subscriptions_bytes,
        subscriber_buffer_max: limits.subscriber_buffer_bytes,
        blocking_poll_us: match config.cross_slot.blocking {
            CrossSlotBlocking::Reject => 0,
            CrossSlotBlocking::Poll => config.cross_slot.poll_interval.as_micros() as u64,
        },
        cross_slot_transactions: match config.cross_slot.transactions {
            CrossSlotTransactions::Reject => CrossSlot::Reject,
            CrossSlotTransactions::PerSlot => CrossSlot::PerSlot,
        },
        auth: config
            .cluster
            .password
            .as_ref()
            .map(|password| Auth { username: config.cluster.username.clone(), password: password.expose().to_string() }),
        identity: match config.auth.mode {
            AuthMode::Passthrough => Identity::Passthrough,
            AuthMode::Proxy => Identity::Proxy(Arc::new(accounts(config))),
        },
        users_max: limits.users,
        throttle: Arc::new(throttle(config)),
        policy: Arc::new(policy(config)),
        proxy_commands: config.admin.on_client_ports,
        tcp_port,
    }
}

fn report_limits(config: &Config) -> report::Limits {
    report::Limits {
        clients: config.limits.clients,
        query_buffer_bytes: config.limits.query_buffer_bytes,
        output_buffer_bytes: config.limits.output_buffer_bytes,
        lane_buffer_bytes: config.limits.lane_buffer_bytes,
    }
}

/// `mistakes` has said before what is wrong with the names, if anything is.
fn unix_socket(config: &Config) -> UnixSocket {
    let users = config.auth.unix_users.iter();
    UnixSocket {
        mode: config.proxy.unix_mode,
        owner: config.proxy.unix_owner.as_deref().and_then(|owner| Owner::resolve(owner).ok()).unwrap_or_default(),
        users: users.filter_map(|rule| Some((user_id(&rule.owner).ok()?, rule.user.clone()))).collect(),
    }
}

fn gate(config: &Config) -> Gate {
    let proxy = &config.proxy;
    Gate { allow: proxy.allow_from.clone(), deny: proxy.deny_from.clone(), forwarders: proxy.proxy_protocol_from.clone() }
}

fn throttle(config: &Config) -> Throttle {
    Throttle::new(config.auth.failures as u32, config.auth.failures_window.as_micros() as u64)
}

/// Their wrong passwords are counted apart from those of clients: one must not lock out the other.
fn admin_users(config: &Config) -> Operators {
    let admin = &config.admin;
    let password = admin.password.as_ref().map(|password| Secret::of(password.expose().as_bytes()));
    let default = password.map(|secret| ("default".to_owned(), Role::Operator, secret));
    let named = admin.users.iter().map(|user| {
        let secret = user.password_sha256.map_or(Secret::NoPass, Secret::Sha256);
        (user.name.clone(), user.role, secret)
    });
    Operators::new(default.into_iter().chain(named), throttle(config))
}

fn accounts(config: &Config) -> Accounts {
    Accounts::new(config.auth.users.iter().map(|user| {
        let secret = match user.entrance {
            Entrance::NoPass => Secret::NoPass,
            Entrance::Password(hash) => Secret::Sha256(hash),
            Entrance::NoLogin => Secret::NoLogin,
        };
        (user.name.clone(), secret)
    }))
}

/// `mistakes` has said before what is wrong with the names, if anything is.
fn policy(config: &Config) -> Policy {
    let rules = |names: &[String]| names.iter().filter_map(|name| Rule::parse(name).ok()).collect();
    Policy::new(rules(&config.commands.allow), rules(&config.commands.deny))
}

/// What is wrong with a configuration that only the parts that it is for can tell.
pub fn mistakes(resolved: &Resolved) -> Vec<Mistake> {
    let commands = &resolved.config.commands;
    let mut mistakes = secured::mistakes(resolved);
    if let Some(Err(found)) = resolved.config.proxy.unix_owner.as_deref().map(Owner::resolve) {
        mistakes.push(resolved.mistake("proxy.unix_owner", format!("expected user, user:group or :group, found {found}")));
    }
    for rule in &resolved.config.auth.unix_users {
        if let Err(found) = user_id(&rule.owner) {
            mistakes.push(resolved.mistake("auth.unix_users", format!("expected users of this machine, found {found}")));
        }
    }
    for (key, names) in [("commands.allow", &commands.allow), ("commands.deny", &commands.deny)] {
        for name in names {
            let problem = match Rule::parse(name) {
                Err(why) => format!("expected a command or a category, found {name:?}, {why}"),
                Ok(Rule::Command(command))
                    if key == "commands.allow" && Policy::default().refuses(command) && unblocked(command).is_none() =>
                {
                    format!("expected a command that can be carried out through a proxy, found {name:?}")
                }
                Ok(_) => continue,
            };
            mistakes.push(resolved.mistake(key, problem));
        }
    }
    mistakes
}
