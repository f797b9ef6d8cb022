//! How the rest of the proxy says that the map may be out of date.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// Why someone wants the cluster to be asked again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefreshCause {
    /// A node answered MOVED.
    Moved,
    /// A redirect named an address that the map does not hold.
    UnknownAddress,
    /// A node answered CLUSTERDOWN, MASTERDOWN, LOADING or READONLY.
    ClusterDown,
    /// A connection to a node broke or could not be made.
    LaneLost,
    /// Its time has come.
    Scheduled,
    /// Someone asked for it (an administrator, the migration coordinator).
    Asked,
}

impl RefreshCause {
    const ALL: [RefreshCause; 6] = [
        RefreshCause::Moved,
        RefreshCause::UnknownAddress,
        RefreshCause::ClusterDown,
        RefreshCause::LaneLost,
        RefreshCause::Scheduled,
        RefreshCause::Asked,
    ];

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The hints that no refresh has taken up yet. However many there are, they cause one.
#[derive(Debug, Default)]
pub(super) struct Hints {
    causes: AtomicU32,
    arrived: Notify,
}

impl Hints {
    /// From any thread, as often as one likes: only the first hint since the last refresh wakes anybody.
    pub fn give(&self, cause: RefreshCause) {
        if self.causes.fetch_or(cause.bit(), Ordering::AcqRel) == 0 {
            self.arrived.notify_one();
        }
    }

    /// Waits until there is a hint, and leaves it there.
    pub async fn any(&self) {
        // A permit may be left over from hints that were taken since; what counts are the causes.
        while self.causes.load(Ordering::Acquire) == 0 {
            self.arrived.notified().await;
        }
    }

    /// The causes of the refresh that begins now. A hint that comes later belongs to the next.
    pub fn take(&self) -> Vec<RefreshCause> {
        let causes = self.causes.swap(0, Ordering::AcqRel);
        RefreshCause::ALL.into_iter().filter(|cause| causes & cause.bit() != 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    /// Polls a future once, with nobody to wake.
    fn poll_once(future: impl Future) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn many_hints_cause_one_refresh() {
        let hints = Hints::default();
        assert!(!poll_once(hints.any()));
        for _ in 0..3 {
            hints.give(RefreshCause::Moved);
            hints.give(RefreshCause::LaneLost);
        }
        assert!(poll_once(hints.any()) && poll_once(hints.any()));
        assert_eq!(hints.take(), [RefreshCause::Moved, RefreshCause::LaneLost]);
        assert!(!poll_once(hints.any()));
        assert_eq!(hints.take(), []);
        hints.give(RefreshCause::Asked);
        assert!(poll_once(hints.any()));
    }
}
