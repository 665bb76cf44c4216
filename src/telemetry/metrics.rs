//! What is counted and measured, for `/metrics`: one table, and one function for each place where a fact is known.
//!
//! Everything goes through the `metrics` facade. Where no recorder is installed, which is so unless
//! `SECTIGO_AUDIT_HTTP_LISTEN` is set, each function ends at one load of an atomic.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics::{counter, gauge, histogram};

use crate::failure::Class;

pub mod exporter;
mod render;
mod table;

pub use render::document;
pub use table::{Kind, Label, METRICS, Metric};

/// Whom a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The API that events are read from.
    Source,
    /// The endpoint that issues access tokens for it.
    Token,
    /// The intake that events are delivered to.
    Destination,
}

impl Server {
    const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Token => "token",
            Self::Destination => "destination",
        }
    }
}

/// A request under way. When it is dropped it is counted and its duration noted, by whatever came back until then.
#[derive(Debug)]
pub struct Exchange {
    server: Server,
    begun: Instant,
    status: &'static str,
}

impl Exchange {
    /// A request is made now.
    pub fn with(server: Server) -> Self {
        Self { server, begun: Instant::now(), status: NO_ANSWER }
    }

    /// An answer with this status began.
    pub fn answered(&mut self, status: u16) {
        self.status = match status {
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500..600 => "5xx",
            _ => "other",
        };
    }

    /// The answer did not arrive whole.
    pub fn broke_off(&mut self) {
        self.status = NO_ANSWER;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let side = self.server.name();
        counter!(table::REQUESTS, "side" => side, "status" => self.status).increment(1);
        histogram!(table::REQUEST_DURATION, "side" => side).record(self.begun.elapsed());
    }
}

/// The status of a request without a whole answer.
const NO_ANSWER: &str = "none";

/// A page was read.
pub fn page_read(fresh: usize, already_delivered: usize) {
    counter!(table::READ).increment((fresh + already_delivered) as u64);
    counter!(table::ALREADY_DELIVERED).increment(already_delivered as u64);
}

/// A request body was put under way.
pub fn body_sent(uncompressed: usize, sent: usize) {
    counter!(table::BODY_BYTES).increment(uncompressed as u64);
    counter!(table::SENT_BYTES).increment(sent as u64);
}

/// The destination accepted a request with these events, of which so many were changed.
pub fn accepted(events: usize, restamped: usize, truncated: usize, newest: Option<Timestamp>) {
    /// The newest event so far: several requests are under way at a time, and their answers come in any order.
    static NEWEST: AtomicI64 = AtomicI64::new(i64::MIN);
    counter!(table::DELIVERED).increment(events as u64);
    counter!(table::RESTAMPED).increment(restamped as u64);
    counter!(table::TRUNCATED).increment(truncated as u64);
    if let Some(newest) = newest {
        let second = newest.as_second();
        gauge!(table::NEWEST_EVENT).set(seconds(NEWEST.fetch_max(second, Ordering::Relaxed).max(second)));
    }
}

/// The destination refused one event by itself, and it was put aside.
pub fn rejected() {
    counter!(table::REJECTED).increment(1);
}

/// So many events are sent again, by this process or the next, although they may have been accepted.
pub fn possibly_duplicated(events: usize) {
    counter!(table::POSSIBLY_DUPLICATED).increment(events as u64);
}

/// A call failed and is to be made again; `side` is whom it went to.
pub fn retried(side: &'static str, class: Class) {
    counter!(table::RETRIES, "side" => side, "reason" => class.name()).increment(1);
}

/// A cycle ended.
pub fn cycle_ended(complete: bool, took: Duration) {
    let result = if complete { "complete" } else { "incomplete" };
    histogram!(table::CYCLE_DURATION, "result" => result).record(took);
}

/// What became of a save of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is in.
    Saved,
    /// Another writer was there before.
    Conflict,
    /// It failed, or had no answer.
    Failed,
}

/// The state was to be saved.
pub fn state_saved(saved: Saved, now: Timestamp) {
    let result = match saved {
        Saved::Saved => "saved",
        Saved::Conflict => "conflict",
        Saved::Failed => "failed",
    };
    counter!(table::SAVES, "result" => result).increment(1);
    if saved == Saved::Saved {
        gauge!(table::LAST_COMMIT).set(seconds(now.as_second()));
    }
}

/// Everything up to `position` is delivered and committed.
pub fn position(position: Timestamp) {
    gauge!(table::POSITION).set(seconds(position.as_second()));
}

/// Whether this instance is the one that works on the state.
pub fn lease_held(held: bool) {
    gauge!(table::LEASE_HELD).set(f64::from(u8::from(held)));
}

/// Whether `/readyz` says yes; told at each scrape.
pub fn ready(ready: bool) {
    gauge!(table::READY).set(f64::from(u8::from(ready)));
}

/// Seconds since 1970 as Prometheus has them: exact for as long as anyone counts.
#[allow(clippy::cast_precision_loss, reason = "a double is exact up to 2^53 seconds")]
fn seconds(second: i64) -> f64 {
    second as f64
}
