//! The time of day, passed in so that the engine runs under simulated time.

use jiff::Timestamp;
use tokio::time::Instant;

use crate::server_time::LocalTime;

/// A wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Option<(Timestamp, Instant)>);

impl Clock {
    /// This machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that shows `start` now and goes with tokio's time, which tests can pause.
    pub fn starting_at(start: Timestamp) -> Self {
        Self(Some((start, Instant::now())))
    }

    /// The present moment, by this clock and by the monotonic one.
    pub fn local(&self) -> LocalTime {
        LocalTime { wall: self.now(), monotonic: Instant::now() }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        match self.0 {
            None => Timestamp::now(),
            Some((start, begun)) => start.checked_add(begun.elapsed()).unwrap_or(Timestamp::MAX),
        }
    }
}
