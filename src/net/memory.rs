//! Memory that many clients needed and nobody needs any more goes back to the system.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Shared;

/// How often the number of clients is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Fewer clients that left are not worth the milliseconds that it takes, during which a worker may have to wait for memory.
const LEFT_MIN: usize = 1000;

/// Gives memory back whenever most of the clients that there were have left, for as long as the process lives.
pub async fn give_back_for_ever(shared: Arc<Shared>) {
    let mut most = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = shared.connected.load(Relaxed);
        if has_emptied(most, now) {
            trim();
            most = now;
        }
        most = most.max(now);
    }
}

fn has_emptied(most: usize, now: usize) -> bool {
    most.saturating_sub(now) >= LEFT_MIN && now <= most / 2
}

/// glibc keeps what a thread freed in that thread's arena, unless all behind it is free as well. Other allocators have their own ways.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    // SAFETY: it takes no pointer, may be called at any time from any thread, and touches only memory that is free.
    #[allow(unsafe_code, reason = "no crate wraps it")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_most_have_left() {
        let check = |most: usize, now: usize, expected: bool| assert_eq!(has_emptied(most, now), expected, "{most} to {now}");
        check(0, 0, false);
        check(10_000, 10_000, false);
        check(10_000, 5_001, false);
        check(10_000, 5_000, true);
        check(10_000, 0, true);
        check(1_500, 700, false);
        check(999, 0, false);
    }
}
