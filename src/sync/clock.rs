//! The time of day, passed in so that the engine runs under simulated time.

use jiff::Timestamp;
use tokio::time::Instant;

use crate::server_time::LocalTime;

/// A wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Kind);

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Goes with tokio's time from a start.
    Started(Timestamp, Instant),
    /// Shows what a function gives.
    Given(fn() -> Timestamp),
}

impl Clock {
    /// This machine's clock.
    pub fn system() -> Self {
        Self(Kind::Given(Timestamp::now))
    }

    /// A clock that shows `start` now and goes with tokio's time, which tests can pause.
    pub fn starting_at(start: Timestamp) -> Self {
        Self(Kind::Started(start, Instant::now()))
    }

    /// A clock that shows what `now` gives: for tests in which it jumps, or the machine is suspended.
    pub fn showing(now: fn() -> Timestamp) -> Self {
        Self(Kind::Given(now))
    }

    /// The present moment, by this clock and by the monotonic one.
    pub fn local(&self) -> LocalTime {
        LocalTime { wall: self.now(), monotonic: Instant::now() }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        match self.0 {
            Kind::Given(now) => now(),
            Kind::Started(start, begun) => start.checked_add(begun.elapsed()).unwrap_or(Timestamp::MAX),
        }
    }
}
