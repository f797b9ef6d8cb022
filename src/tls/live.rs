//! Configurations that follow their files: certificates are renewed while the proxy runs.

use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::files::{FileError, Which, load_certificates};
use super::names::expires_at;

/// How often files are looked at, by their times and lengths: a few system calls.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Files that a configuration is made of.
pub trait Files: Clone + Send + 'static {
    type Configuration: Send + Sync + 'static;

    fn paths(&self) -> Vec<&Path>;

    /// The certificate that is shown to others.
    fn certificate(&self) -> Option<&Path>;

    fn load(&self) -> Result<Self::Configuration, FileError>;
}

/// The configuration as the files were last right. What begins now uses it to its end.
#[derive(Debug)]
pub struct Live<T>(watch::Receiver<Loaded<T>>);

#[derive(Debug)]
struct Loaded<T> {
    configuration: Arc<T>,
    /// The end of its certificate, in seconds since 1970.
    expires_at: Option<i64>,
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Live(self.0.clone())
    }
}

impl<T> Live<T> {
    pub fn now(&self) -> Arc<T> {
        self.0.borrow().configuration.clone()
    }

    /// When the certificate ends that is shown to others, in seconds since 1970.
    pub fn expires_at(&self) -> Option<i64> {
        self.0.borrow().expires_at
    }
}

/// How often files were read again, and with what outcome.
#[derive(Debug, Default)]
pub struct Reloads {
    pub done: AtomicU64,
    pub failed: AtomicU64,
}

/// Loads the files, and answers what keeps the configuration up to date: it ends when nobody has it any more. `whose` names it in the
/// log.
pub fn follow<F: Files>(
    files: F,
    whose: &'static str,
    reloads: Arc<Reloads>,
) -> Result<(Live<F::Configuration>, impl Future<Output = ()> + Send), FileError> {
    let stamps = Stamps::of(&files);
    let (sender, receiver) = watch::channel(load(&files, whose)?);
    Ok((Live(receiver), keep_up(files, whose, stamps, sender, reloads)))
}

fn load<F: Files>(files: &F, whose: &'static str) -> Result<Loaded<F::Configuration>, FileError> {
    let configuration = Arc::new(files.load()?);
    let certificates = files.certificate().and_then(|path| load_certificates(Which::Certificate, path).ok());
    let expires_at = certificates.and_then(|chain| expires_at(&chain[0]));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if expires_at.is_some_and(|at| at <= now as i64) {
        tracing::warn!("the certificate of {whose} has expired: whoever looks at it will refuse it");
    }
    Ok(Loaded { configuration, expires_at })
}

async fn keep_up<F: Files>(
    files: F,
    whose: &'static str,
    loaded: Stamps,
    sender: watch::Sender<Loaded<F::Configuration>>,
    reloads: Arc<Reloads>,
) {
    let (mut tried, mut seen) = (loaded.clone(), loaded);
    while !sender.is_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = Stamps::of(&files);
        let settled = now == seen;
        seen = now;
        // Certificate and key are written one after the other: they are read when nothing has changed from one look to the next.
        if !settled || seen == tried {
            continue;
        }
        tried = seen.clone();
        match load(&files, whose) {
            Ok(loaded) => {
                reloads.done.fetch_add(1, Relaxed);
                sender.send_replace(loaded);
                tracing::info!("certificates of {whose} have changed: new connections use the new ones");
            }
            Err(error) => {
                reloads.failed.fetch_add(1, Relaxed);
                tracing::warn!(%error, "certificates of {whose} have changed and cannot be used: those before stay in use");
            }
        }
    }
}

/// What tells that a file has changed: when it was written, how long it is, and which one it is.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    written: Option<SystemTime>,
    len: u64,
    inode: u64,
}

/// Of each file; `None`: it is not there.
#[derive(Clone, PartialEq, Eq)]
struct Stamps(Vec<Option<Stamp>>);

impl Stamps {
    fn of(files: &impl Files) -> Self {
        let stamp = |path: &Path| {
            // Links are followed: Kubernetes and certbot change where they lead.
            let found = std::fs::metadata(path).ok()?;
            Some(Stamp { written: found.modified().ok(), len: found.len(), inode: found.ino() })
        };
        Stamps(files.paths().into_iter().map(stamp).collect())
    }
}
