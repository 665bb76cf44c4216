//! This machine's clocks. They are passed to the code that reads them, so that tests can run it under simulated time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A moment by both clocks of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// The time of day, which an operator or NTP may set.
    pub wall: Timestamp,
    /// The clock that nobody sets. It stops while the host is suspended.
    pub monotonic: Instant,
}

/// Shows a time in whole seconds.
pub(crate) fn whole_seconds(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs()))
}

/// A wall clock and a monotonic clock. Clones share them.
#[derive(Debug, Clone)]
pub struct Clock(Kind);

#[derive(Debug, Clone)]
enum Kind {
    System,
    Simulated { start: Timestamp, begun: Instant, set_by: Arc<AtomicI64> },
}

impl Clock {
    /// This machine's clocks.
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// Simulated clocks that show `start` now and advance with tokio's time, which tests can pause.
    pub fn starting_at(start: Timestamp) -> Self {
        Self(Kind::Simulated { start, begun: Instant::now(), set_by: Arc::default() })
    }

    /// Sets a simulated wall clock ahead by `seconds`, compared with what it would show; a negative number sets it back. It does not change
    /// the system's clock.
    pub fn set_ahead(&self, seconds: i64) {
        if let Kind::Simulated { set_by, .. } = &self.0 {
            set_by.store(seconds, Ordering::Relaxed);
        }
    }

    /// The present moment, by both clocks.
    pub fn local(&self) -> LocalTime {
        LocalTime { wall: self.now(), monotonic: Instant::now() }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System => Timestamp::now(),
            Kind::Simulated { start, begun, set_by } => {
                let ahead = SignedDuration::from_secs(set_by.load(Ordering::Relaxed));
                start.saturating_add(begun.elapsed()).and_then(|now| now.saturating_add(ahead)).unwrap_or(*start)
            }
        }
    }
}
