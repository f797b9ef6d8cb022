//! Time for engines and the control thread: microseconds since the process began.

use std::time::{Duration, Instant};

use crate::engine::Micros;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    pub fn start() -> Self {
        // Zero is "never" in some places, so time begins a little later.
        Clock { origin: Instant::now() - Duration::from_millis(1) }
    }

    pub fn now_us(&self) -> Micros {
        self.origin.elapsed().as_micros() as Micros
    }

    pub fn at(&self, us: Micros) -> Instant {
        self.origin + Duration::from_micros(us.min(u64::from(u32::MAX) * 1_000_000))
    }
}
