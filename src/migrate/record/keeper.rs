//! Keeps a plan's lease and record while it is driven: a task of its own, so that neither waits for slots that move.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::store::{Entry, Place};
use super::{Heard, Lease, Progress, Store, Written};
use crate::migrate::execute::Fence;

/// Progress that nobody waits for is written at most so often.
const WRITE_PAUSE: Duration = Duration::from_millis(200);
/// Between tries when the record cannot be reached.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Lines of log that wait to be written; more are dropped, the oldest first.
const LINES_MAX: usize = 1000;
/// Notes that wait to be taken up.
const NOTES_MAX: usize = 1024;

/// What a driver has to write.
struct Note {
    progress: Progress,
    lines: Vec<String>,
    /// Orders that were obeyed since the last note.
    obeyed: usize,
    written: Option<oneshot::Sender<()>>,
}

/// The driver's end. When it is dropped the last of it is written and the lease let go.
pub struct Keeper {
    notes: mpsc::Sender<Note>,
    /// What operators tell, in their order. It waits in the record until it was obeyed, so that it is not lost with the driver.
    pub orders: mpsc::Receiver<Heard>,
    /// Until when the plan may be driven, a margin taken off.
    pub until: watch::Receiver<std::time::Instant>,
    pub token: u64,
    asks: mpsc::Sender<oneshot::Sender<()>>,
    /// Why it may not be driven any more.
    lost: watch::Receiver<Option<String>>,
}

impl Keeper {
    /// Starts the task on the runtime of the caller.
    pub fn start(store: Store, place: Place, lease: Lease, version: u64, progress: Progress) -> Keeper {
        let (notes, taken) = mpsc::channel(NOTES_MAX);
        let (told, orders) = mpsc::channel(NOTES_MAX);
        let (renewed, until) = watch::channel(lease.good_until());
        let (loses, lost) = watch::channel(None);
        let (asks, asked) = mpsc::channel(NOTES_MAX);
        let token = lease.token;
        let lines = VecDeque::new();
        let (handed, obeyed) = (0, 0);
        let keeping =
            Keeping { store, place, lease, version, progress, lines, handed, obeyed, told, renewed, loses, notes: taken, asked };
        tokio::spawn(keeping.run());
        Keeper { notes, orders, until, token, asks, lost }
    }

    /// The right to act on slots, for as long as the lease is held.
    pub fn fence(&self) -> Fence {
        Fence { token: self.token, until: self.until.clone(), record: self.asks.clone() }
    }

    /// Writes soon. `obeyed`: so many of `orders` more.
    pub async fn note(&self, progress: &Progress, lines: Vec<String>, obeyed: usize) {
        // A task that is gone has said so by `kept`.
        let _ = self.notes.send(Note { progress: progress.clone(), lines, obeyed, written: None }).await;
    }

    /// Writes now, and waits until that is done or the lease is lost. What operators have told by then stands in `orders`.
    pub async fn write(&self, progress: &Progress, lines: Vec<String>, obeyed: usize) {
        let (written, done) = oneshot::channel();
        let _ = self.notes.send(Note { progress: progress.clone(), lines, obeyed, written: Some(written) }).await;
        let _ = done.await;
    }

    /// Why the plan must not be driven any more.
    pub fn lost(&self) -> Option<String> {
        let ran_out = || "the lease ran out: its record could not be reached".to_owned();
        let is_over = std::time::Instant::now() >= *self.until.borrow();
        self.lost.borrow().clone().or_else(|| is_over.then(ran_out))
    }
}

struct Keeping {
    store: Store,
    place: Place,
    lease: Lease,
    version: u64,
    progress: Progress,
    lines: VecDeque<String>,
    /// Orders that were handed on since the lease was taken, and those of them that were obeyed.
    handed: usize,
    obeyed: usize,
    told: mpsc::Sender<Heard>,
    renewed: watch::Sender<std::time::Instant>,
    loses: watch::Sender<Option<String>>,
    notes: mpsc::Receiver<Note>,
    /// Who wants to know whether the lease is still held is told behind the next write.
    asked: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Keeping {
    async fn run(mut self) {
        let timing = self.store.timing;
        let mut written_at = Instant::now();
        // Orders are looked for as often as plans that nobody drives.
        let mut due = written_at;
        let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
        let mut is_open = true;
        while is_open || !self.lines.is_empty() || !waiting.is_empty() {
            tokio::select! {
                note = self.notes.recv(), if is_open => match note {
                    Some(note) => {
                        self.take(note, &mut waiting);
                        while let Ok(note) = self.notes.try_recv() {
                            self.take(note, &mut waiting);
                        }
                        due = due.min(if waiting.is_empty() { written_at + WRITE_PAUSE } else { Instant::now() });
                    }
                    None => (is_open, due) = (false, Instant::now()),
                },
                Some(asked) = self.asked.recv(), if is_open => {
                    waiting.push(asked);
                    due = Instant::now();
                }
                () = sleep_until(due) => {}
            }
            if Instant::now() < due {
                continue;
            }
            match self.write().await {
                Ok(true) => {
                    for waiter in waiting.drain(..) {
                        let _ = waiter.send(());
                    }
                    written_at = Instant::now();
                    due = written_at + timing.look().min(timing.renewal());
                }
                Ok(false) => return self.lose("another instance has taken the plan over"),
                Err(error) if !self.lease.is_good(std::time::Instant::now()) => {
                    return self.lose(&format!("its record could not be reached: {error}"));
                }
                Err(error) => {
                    tracing::warn!(plan = self.place.id, "{error}");
                    due = Instant::now() + RETRY_PAUSE;
                }
            }
        }
        // Whoever wants it sooner than it ends by itself would wait.
        let _ = self.store.release(&self.place, &self.lease).await;
    }

    fn take(&mut self, note: Note, waiting: &mut Vec<oneshot::Sender<()>>) {
        self.progress = note.progress;
        self.obeyed += note.obeyed;
        self.lines.extend(note.lines);
        let over = self.lines.len().saturating_sub(LINES_MAX);
        self.lines.drain(..over);
        self.lease.lines += over;
        waiting.extend(note.written);
    }

    /// Whether the plan is still ours.
    async fn write(&mut self) -> Result<bool, super::NoRecord> {
        let lines = self.lines.make_contiguous();
        // Another one for each attempt: what was written by one whose reply was lost is no reason to stop.
        self.version += 1;
        let entry = Entry { progress: &self.progress, version: self.version, obeyed: self.obeyed, lines };
        match self.store.write(&self.place, &mut self.lease, entry).await? {
            Written::Fenced => Ok(false),
            Written::Done(orders) => {
                self.lines.clear();
                // Those at the head are with the driver already.
                for order in orders.into_iter().skip(self.handed - self.obeyed) {
                    if self.told.try_send(order).is_err() {
                        break;
                    }
                    self.handed += 1;
                }
                self.renewed.send_replace(self.lease.good_until());
                Ok(true)
            }
        }
    }

    fn lose(&mut self, why: &str) {
        tracing::warn!(plan = self.place.id, "the lease is lost: {why}");
        self.renewed.send_replace(std::time::Instant::now());
        self.loses.send_replace(Some(why.to_owned()));
    }
}
