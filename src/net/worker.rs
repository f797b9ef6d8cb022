//! A worker: one thread, one runtime, one engine.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io::{self, IoSlice},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
};

use crate::{
    cluster::SlotMap,
    engine::{
        ClientId, Counters, Engine, Event, Face, Invalidation, LaneId, Load, Order, OrderToken, Outcome, ProxyAnswer, ProxyCall,
        Registry, Scripts, Settings,
    },
    telemetry::log::RateLimitedLine,
    tls::NodeTls,
    topology::{RefreshCause, TopologyHandle},
};

use super::{
    clients,
    clock::Clock,
    handshakes::Handshakes,
    lanes,
    listener::Accepted,
    socket::{Socket, Sockets},
};

/// One read takes at most this much: a busy socket's whole pipeline, or a fair share of a large value.
const SCRATCH: usize = 128 * 1024;

/// Slices of one vectored write.
const SLICES: usize = 16;

/// What workers, acceptors and statistics share. Nothing of it is touched on the request path.
#[derive(Default)]
pub struct Shared {
    pub connected: AtomicUsize,
    pub accepted: AtomicU64,
    pub rejected: AtomicU64,
    /// Clients that wait in a blocking command.
    pub blocked: Arc<AtomicU64>,
    /// Connections from where no client may come.
    pub refused_by_address: AtomicU64,
    /// Connections from those who hand on others', without a header that says whose.
    pub without_header: AtomicU64,
    /// Clients that spoke TLS to a plain port: one line a second.
    pub unexpected_tls: Mutex<RateLimitedLine>,
}

/// What lanes need where the nodes speak TLS.
#[derive(Clone)]
pub struct NodesTls {
    pub tls: NodeTls,
    pub handshakes: Handshakes,
}

/// What a worker is told.
pub enum ToWorker {
    /// A connection, its CLIENT ID, and what it is to see.
    Client { accepted: Accepted, public_id: u64, face: Face },
    /// An order of some worker's client.
    Order { order: Arc<Order>, outcome: oneshot::Sender<Outcome> },
    /// Keys that a client may have cached, which may be here.
    Invalidate(Invalidation),
    /// A client is gone that others redirect invalidations to.
    TargetGone { id: u64 },
    /// Finish what is in flight, for at most so long, and end.
    Stop(Duration),
}

/// A PROXY command of a client's, for the control thread.
pub struct ToOperators {
    pub call: ProxyCall,
    pub answer: oneshot::Sender<ProxyAnswer>,
}

/// What a worker tells of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerStats {
    pub counters: Counters,
    pub load: Load,
}

/// What a worker is made of.
pub struct WorkerConfig {
    pub number: usize,
    pub settings: Settings,
    pub clock: Clock,
    pub dial_timeout: Duration,
    pub keepalive: Option<Duration>,
    /// `None`: the nodes are spoken to in plain text.
    pub nodes_tls: Option<NodesTls>,
    pub clients_max: usize,
    pub run_id: String,
    pub scripts: Arc<Scripts>,
    pub subscriptions: Arc<Registry>,
    pub shared: Arc<Shared>,
    pub maps: watch::Receiver<Option<Arc<SlotMap>>>,
    pub topology: TopologyHandle,
    /// Whoever carries out PROXY commands; it may be gone.
    pub operators: mpsc::UnboundedSender<ToOperators>,
    /// All workers, this one too.
    pub peers: Vec<mpsc::UnboundedSender<ToWorker>>,
}

/// A running worker, as the control thread sees it.
pub struct WorkerHandle {
    pub inbox: mpsc::UnboundedSender<ToWorker>,
    /// Clients that it was given and that are not closed.
    pub clients: Arc<AtomicUsize>,
    /// What it counted and held a second ago at most.
    pub stats: Arc<Mutex<WorkerStats>>,
    pub thread: std::thread::JoinHandle<()>,
}

impl WorkerHandle {
    /// Starts the thread.
    pub fn start(config: WorkerConfig, inbox: mpsc::UnboundedReceiver<ToWorker>) -> io::Result<WorkerHandle> {
        let clients = Arc::new(AtomicUsize::new(0));
        let counted = clients.clone();
        let stats = Arc::new(Mutex::new(WorkerStats::default()));
        let published = stats.clone();
        let own_inbox = config.peers[config.number].clone();
        let thread = std::thread::Builder::new().name(format!("worker-{}", config.number)).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime needs an epoll descriptor, and the process has only just begun");
            LocalSet::new().block_on(&runtime, Worker::run(config, inbox, counted, published));
        })?;
        Ok(WorkerHandle { inbox: own_inbox, clients, stats, thread })
    }
}

/// The worker's own state; its tasks share it.
pub(super) struct Worker {
    pub engine: RefCell<Engine>,
    pub config: WorkerConfig,
    pub clients: RefCell<Sockets>,
    pub lanes: RefCell<FxHashMap<LaneId, Rc<Socket>>>,
    pub scratch: RefCell<Box<[u8]>>,
    /// Where records are made; empty while there are none.
    sealing: RefCell<Vec<u8>>,
    clients_counted: Arc<AtomicUsize>,
    stats: Arc<Mutex<WorkerStats>>,
    flusher: RefCell<Option<Waker>>,
    timer: RefCell<Option<Waker>>,
    armed: Cell<u64>,
    flush_pending: Cell<bool>,
    /// The clock was read in this turn.
    clock_read: Cell<bool>,
}

impl Worker {
    async fn run(
        config: WorkerConfig,
        mut inbox: mpsc::UnboundedReceiver<ToWorker>,
        clients_counted: Arc<AtomicUsize>,
        stats: Arc<Mutex<WorkerStats>>,
    ) {
        let seed = config.clock.now_us() ^ (config.number as u64) << 48;
        let mut engine = Engine::new(config.settings.clone(), config.scripts.clone(), seed, config.clock.now_us());
        engine.share_subscriptions(config.subscriptions.clone());
        let mut maps = config.maps.clone();
        let worker = Rc::new(Worker {
            engine: RefCell::new(engine),
            config,
            clients: RefCell::default(),
            lanes: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            sealing: RefCell::default(),
            clients_counted,
            stats,
            flusher: RefCell::new(None),
            timer: RefCell::new(None),
            armed: Cell::new(0),
            flush_pending: Cell::new(false),
            clock_read: Cell::new(false),
        });
        tokio::task::spawn_local(worker.clone().flush_for_ever());
        tokio::task::spawn_local(worker.clone().tick_for_ever());
        let watcher = worker.clone();
        tokio::task::spawn_local(async move {
            loop {
                let map = maps.borrow_and_update().clone();
                if let Some(map) = map {
                    watcher.with_engine(|engine| engine.map_published(map));
                }
                if maps.changed().await.is_err() {
                    return;
                }
            }
        });
        while let Some(message) = inbox.recv().await {
            match message {
                ToWorker::Client { accepted, public_id, face } => clients::start(&worker, accepted, public_id, face),
                // Who asked may have gone: then nobody needs the answer.
                ToWorker::Order { order, outcome } => {
                    let _ = outcome.send(worker.with_engine(|engine| engine.obey(&order)));
                }
                ToWorker::Invalidate(told) => worker.with_engine(|engine| engine.invalidated(&told)),
                ToWorker::TargetGone { id } => worker.with_engine(|engine| engine.redirect_broken(id)),
                ToWorker::Stop(grace) => return worker.drain(grace).await,
            }
        }
    }

    /// Runs `act` on the engine at the time of this turn, then does what the engine asks for.
    pub fn with_engine<T>(self: &Rc<Self>, act: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = self.engine.borrow_mut();
        if !self.clock_read.replace(true) {
            engine.set_now(self.config.clock.now_us());
        }
        let result = act(&mut engine);
        let mut event = engine.next_event();
        drop(engine);
        while let Some(happened) = event {
            self.on_event(happened);
            event = self.engine.borrow_mut().next_event();
        }
        if !self.flush_pending.replace(true) {
            wake(&self.flusher);
        }
        result
    }

    fn on_event(self: &Rc<Self>, event: Event) {
        match event {
            Event::Dial { lane, addr } => lanes::start(self, lane, addr),
            Event::CloseLane { lane } => {
                if let Some(socket) = self.lanes.borrow_mut().remove(&lane) {
                    socket.close();
                }
            }
            Event::CloseClient { client } => self.close_client(client),
            Event::Resume { client } => {
                if let Some(socket) = self.clients.borrow().get(client) {
                    socket.wake();
                }
            }
            Event::Refresh(cause) => self.config.topology.hint(cause_of(cause)),
            Event::Order { token, order } => {
                tokio::task::spawn_local(self.clone().give_order(token, Arc::new(order)));
            }
            Event::CallOperators { token, call } => {
                tokio::task::spawn_local(self.clone().call_operators(token, *call));
            }
            Event::Invalidate(told) => self.tell_all(|| ToWorker::Invalidate(told.clone())),
            Event::TargetGone { id } => self.tell_all(|| ToWorker::TargetGone { id }),
            Event::Wanted { slot, keys } => self.config.topology.want(slot, keys),
        }
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for peer in &self.config.peers {
            // A worker that is stopping has no clients to tell.
            let _ = peer.send(message());
        }
    }

    /// Has every worker obey, and tells the engine what came of it.
    async fn give_order(self: Rc<Self>, token: OrderToken, order: Arc<Order>) {
        let mut sum = Outcome::default();
        for peer in &self.config.peers {
            let (sender, receiver) = oneshot::channel();
            // A worker that is stopping has no clients to tell of.
            if peer.send(ToWorker::Order { order: order.clone(), outcome: sender }).is_ok() {
                sum += receiver.await.unwrap_or_default();
            }
        }
        self.with_engine(|engine| engine.obeyed(token, &order, sum));
    }

    /// Has the control thread carry out a PROXY command, and tells the engine what came of it.
    async fn call_operators(self: Rc<Self>, token: OrderToken, call: ProxyCall) {
        let (answer, answered) = oneshot::channel();
        let standing = call.standing.clone();
        // Nobody answers once the proxy is stopping.
        let _ = self.config.operators.send(ToOperators { call, answer });
        let stopping = ProxyAnswer { reply: Bytes::from_static(b"-ERR proxy: the proxy is stopping\r\n"), standing };
        let answer = answered.await.unwrap_or(stopping);
        self.with_engine(|engine| engine.operators_answered(token, answer));
    }

    /// Forgets a client whose connection is to be closed, or has ended.
    pub fn close_client(self: &Rc<Self>, client: ClientId) {
        let Some(socket) = self.clients.borrow_mut().remove(client) else { return };
        socket.close();
        self.clients_counted.fetch_sub(1, Relaxed);
        self.config.shared.connected.fetch_sub(1, Relaxed);
        self.with_engine(|engine| engine.client_gone(client));
        self.set_facts();
    }

    /// Lets go a client that speaks TLS where none is spoken.
    pub fn refuse_tls(self: &Rc<Self>, client: ClientId) {
        // Whoever panicked left whole numbers behind.
        let mut line = self.config.shared.unexpected_tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = line.allow(std::time::Instant::now()) {
            tracing::warn!(suppressed, "a client was cut off: expected RESP, found a TLS handshake on a port without TLS");
        }
        drop(line);
        self.close_client(client);
    }

    pub fn client_opened(&self) {
        self.set_facts();
    }

    /// A connection that was counted could not be taken over.
    pub fn client_refused(&self) {
        self.clients_counted.fetch_sub(1, Relaxed);
        self.config.shared.connected.fetch_sub(1, Relaxed);
    }

    fn set_facts(&self) {
        let shared = &self.config.shared;
        let facts = crate::engine::ProxyFacts {
            tcp_port: self.config.settings.tcp_port,
            run_id: self.config.run_id.clone(),
            uptime_seconds: self.config.clock.now_us() / 1_000_000,
            connected_clients: shared.connected.load(Relaxed) as u64,
            max_clients: self.config.clients_max as u64,
            total_connections: shared.accepted.load(Relaxed),
            rejected_connections: shared.rejected.load(Relaxed),
            blocked_clients: shared.blocked.clone(),
            pubsub_clients: self.config.subscriptions.clients() as u64,
            process_id: std::process::id(),
        };
        self.engine.borrow_mut().set_facts(facts);
    }

    fn publish_stats(&self) {
        let engine = self.engine.borrow();
        let stats = WorkerStats { counters: engine.counters, load: engine.load() };
        // A reader that panicked leaves numbers behind that are whole.
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// Writes everything that is dirty, once a turn, behind the sockets in the queue, and has the timer look at what is due earlier now.
    async fn flush_for_ever(self: Rc<Self>) {
        let mut dirty_lanes: Vec<LaneId> = Vec::new();
        let mut dirty_clients: Vec<ClientId> = Vec::new();
        poll_fn(move |context| {
            remember(&self.flusher, context.waker());
            self.flush_pending.set(false);
            self.clock_read.set(false);
            self.engine.borrow_mut().take_dirty_lanes(&mut dirty_lanes);
            for lane in dirty_lanes.drain(..) {
                self.flush_lane(lane);
            }
            let others_wait = self.engine.borrow_mut().take_dirty_clients(&mut dirty_clients);
            for client in dirty_clients.drain(..) {
                self.flush_client(client);
            }
            if self.engine.borrow().next_timeout() < self.armed.get() {
                wake(&self.timer);
            }
            if others_wait && !self.flush_pending.replace(true) {
                wake_after_io(context);
            }
            Poll::<()>::Pending
        })
        .await;
    }

    /// Writes what a lane has; what does not fit is written by its task when there is room.
    pub fn flush_lane(self: &Rc<Self>, lane: LaneId) {
        let Some(socket) = self.lanes.borrow().get(&lane).cloned() else { return };
        let mut engine = self.engine.borrow_mut();
        let outcome = flush(
            &socket,
            &self.sealing,
            &mut engine,
            |engine| engine.lane_chunk(lane),
            |engine, slices| engine.lane_chunks(lane, slices),
            |engine, count| engine.lane_wrote(lane, count),
        );
        drop(engine);
        if outcome.is_err() {
            self.lane_ended(lane);
        }
    }

    pub fn flush_client(self: &Rc<Self>, client: ClientId) {
        let Some(socket) = self.clients.borrow().get(client).cloned() else { return };
        let mut engine = self.engine.borrow_mut();
        let outcome = flush(
            &socket,
            &self.sealing,
            &mut engine,
            |engine| engine.client_chunk(client),
            |engine, slices| engine.client_chunks(client, slices),
            |engine, count| engine.client_wrote(client, count),
        );
        let happened = engine.has_event();
        drop(engine);
        if outcome.is_err() {
            self.close_client(client);
        } else if happened {
            self.with_engine(|_| {});
        }
    }

    /// A lane's connection broke.
    pub fn lane_ended(self: &Rc<Self>, lane: LaneId) {
        let socket = self.lanes.borrow_mut().remove(&lane);
        if let Some(socket) = socket {
            socket.close();
            self.with_engine(|engine| engine.lane_lost(lane));
        }
    }

    async fn tick_for_ever(self: Rc<Self>) {
        let mut sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        poll_fn(move |context| {
            remember(&self.timer, context.waker());
            loop {
                let at = self.engine.borrow().next_timeout();
                self.armed.set(at);
                sleep.as_mut().reset(self.config.clock.at(at).into());
                if Future::poll(sleep.as_mut(), context).is_pending() {
                    return Poll::<()>::Pending;
                }
                self.clock_read.set(false);
                self.with_engine(Engine::tick);
                self.set_facts();
                self.publish_stats();
            }
        })
        .await;
    }

    /// Waits until nothing is owed to any client, at most for `grace`.
    async fn drain(self: Rc<Self>, grace: Duration) {
        let deadline = tokio::time::Instant::now() + grace;
        // Blocked clients would wait on; what is popped for them in this moment is put back.
        let blocked = self.engine.borrow().blocked_clients();
        for client in blocked {
            self.close_client(client);
        }
        let is_sending = || self.engine.borrow().load().owed > 0 || self.clients.borrow().are_sending();
        while is_sending() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The flusher has its turn before the sockets are dropped.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
}

/// Writes until nothing is left or there is no room; then the socket's task is told to wait for some.
fn flush(
    socket: &Socket,
    sealing: &RefCell<Vec<u8>>,
    engine: &mut Engine,
    chunk: impl Fn(&Engine) -> Option<&[u8]>,
    chunks: impl for<'a> Fn(&'a Engine, &mut [IoSlice<'a>]) -> usize,
    wrote: impl Fn(&mut Engine, usize),
) -> io::Result<()> {
    if socket.write_blocked.get() {
        return Ok(());
    }
    let wait_for_room = || {
        socket.write_blocked.set(true);
        socket.wake();
        Ok(())
    };
    if !socket.push_out()? {
        return wait_for_room();
    }
    loop {
        let (one, mut many);
        let slices = match chunk(engine) {
            Some(bytes) => {
                one = [IoSlice::new(bytes)];
                &one[..]
            }
            None => {
                many = [IoSlice::new(&[]); SLICES];
                let count = chunks(engine, &mut many);
                &many[..count]
            }
        };
        let (count, wanted): (usize, usize) = (slices.len(), slices.iter().map(|slice| slice.len()).sum());
        if wanted == 0 {
            return Ok(());
        }
        let written = match socket.try_write(slices, sealing) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        wrote(engine, written.count);
        if written.blocked {
            return wait_for_room();
        }
        if written.count == wanted && count < SLICES {
            return Ok(());
        }
    }
}

/// Wakes the task when the runtime has looked for what sockets have: a plain wake would come before, because what is woken on this
/// thread runs as long as anything is ready.
fn wake_after_io(context: &mut Context<'_>) {
    let yielded = std::pin::pin!(tokio::task::yield_now());
    // Its first poll hands the waker over; there is no second.
    let _ = Future::poll(yielded, context);
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow().as_ref() {
        waker.wake_by_ref();
    }
}

fn remember(place: &RefCell<Option<Waker>>, waker: &Waker) {
    let mut place = place.borrow_mut();
    if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *place = Some(waker.clone());
    }
}

fn cause_of(cause: crate::engine::RefreshCause) -> RefreshCause {
    match cause {
        crate::engine::RefreshCause::Moved => RefreshCause::Moved,
        crate::engine::RefreshCause::UnknownAddress => RefreshCause::UnknownAddress,
        crate::engine::RefreshCause::ClusterDown => RefreshCause::ClusterDown,
        crate::engine::RefreshCause::LaneLost => RefreshCause::LaneLost,
        crate::engine::RefreshCause::DefaultUser => RefreshCause::Asked,
    }
}
