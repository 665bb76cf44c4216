//! What is counted and measured, for `/metrics`: one table, and one method for each place where a fact is known.
//!
//! Everything goes through the `metrics` facade. Where no recorder is installed, which is so unless `/metrics` is served, each method ends
//! at one load of an atomic.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics::{Label, SharedString, counter, gauge, histogram};

use crate::component::Component;
use crate::failure::Class;
use crate::pipeline_name::PipelineName;

pub mod exporter;
mod render;
mod table;

pub use render::document;
pub use table::{Kind, METRICS, Metric};

/// The metrics of one pipeline. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    pipeline: PipelineName,
    /// The second of the newest event that was delivered: several requests are under way at a time, and their answers come in any order.
    newest: Arc<AtomicI64>,
}

impl Metrics {
    /// The metrics of `pipeline`.
    pub fn of(pipeline: &PipelineName) -> Self {
        Self { pipeline: pipeline.clone(), newest: Arc::new(AtomicI64::new(i64::MIN)) }
    }

    fn labels<const N: usize>(&self, more: [(&'static str, &'static str); N]) -> Vec<Label> {
        let pipeline = Label::new(table::PIPELINE, SharedString::from_shared(self.pipeline.shared()));
        let more = more.into_iter().map(|(name, value)| Label::from_static_parts(name, value));
        std::iter::once(pipeline).chain(more).collect()
    }

    fn add(&self, name: &'static str, number: usize) {
        counter!(name, self.labels([])).increment(number as u64);
    }

    fn set_time(&self, name: &'static str, time: Timestamp) {
        gauge!(name, self.labels([])).set(seconds(time.as_second()));
    }

    /// A request to `component` is made now.
    pub fn exchange(&self, component: Component) -> Exchange {
        Exchange { metrics: self.clone(), component, begun: Instant::now(), status: NO_ANSWER }
    }

    /// A page was read.
    pub fn page_read(&self, events: usize, deduplicated: usize) {
        self.add(table::READ, events + deduplicated);
        self.add(table::DEDUPLICATED, deduplicated);
    }

    /// A request body was put under way.
    pub fn body_sent(&self, uncompressed: usize, sent: usize) {
        self.add(table::BODY_BYTES, uncompressed);
        self.add(table::SENT_BYTES, sent);
    }

    /// The destination accepted these events, of which so many were changed.
    pub fn accepted(&self, events: usize, restamped: usize, truncated: usize, newest: Option<Timestamp>) {
        self.add(table::DELIVERED, events);
        self.add(table::RESTAMPED, restamped);
        self.add(table::TRUNCATED, truncated);
        if let Some(newest) = newest {
            let second = newest.as_second();
            let newest = self.newest.fetch_max(second, Ordering::Relaxed).max(second);
            gauge!(table::NEWEST_EVENT, self.labels([])).set(seconds(newest));
        }
    }

    /// An event became a dead letter.
    pub fn dead_lettered(&self) {
        self.add(table::DEAD_LETTERED, 1);
    }

    /// So many events are sent again, by this process or the next, although they may have been accepted.
    pub fn possibly_duplicated(&self, events: usize) {
        self.add(table::POSSIBLY_DUPLICATED, events);
    }

    /// A call to `component` failed and is retried.
    pub fn retried(&self, component: Component, class: Class) {
        let labels = self.labels([(table::COMPONENT, component.label()), (table::REASON, class.label())]);
        counter!(table::RETRIES, labels).increment(1);
    }

    /// A sync ended.
    pub fn sync_ended(&self, is_complete: bool, took: Duration) {
        let result = if is_complete { "complete" } else { "incomplete" };
        histogram!(table::SYNC_DURATION, self.labels([(table::RESULT, result)])).record(took);
    }

    /// The state was to be saved.
    pub fn state_saved(&self, saved: Saved, now: Timestamp) {
        let result = match saved {
            Saved::Saved => "saved",
            Saved::Conflict => "conflict",
            Saved::Failed => "failed",
        };
        counter!(table::SAVES, self.labels([(table::RESULT, result)])).increment(1);
        if saved == Saved::Saved {
            self.set_time(table::LAST_COMMIT, now);
        }
    }

    /// Everything up to `time` is delivered and committed.
    pub fn reached(&self, time: Timestamp) {
        self.set_time(table::CURSOR, time);
    }

    /// Whether this instance is the active one.
    pub fn is_active(&self, is_active: bool) {
        gauge!(table::ACTIVE, self.labels([])).set(f64::from(u8::from(is_active)));
    }

    /// Whether the pipeline is ready; set at each scrape.
    pub fn is_ready(&self, is_ready: bool) {
        gauge!(table::READY, self.labels([])).set(f64::from(u8::from(is_ready)));
    }

    /// The pipeline failed for good, and starts again later.
    pub fn pipeline_failed(&self) {
        self.add(table::FAILURES, 1);
    }
}

/// A request under way. When it is dropped it is counted and its duration noted, by whatever came back until then.
#[derive(Debug)]
pub struct Exchange {
    metrics: Metrics,
    component: Component,
    begun: Instant,
    status: &'static str,
}

impl Exchange {
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
        let component = (table::COMPONENT, self.component.label());
        counter!(table::REQUESTS, self.metrics.labels([component, (table::STATUS, self.status)])).increment(1);
        histogram!(table::REQUEST_DURATION, self.metrics.labels([component])).record(self.begun.elapsed());
    }
}

/// The status of a request without a whole answer.
const NO_ANSWER: &str = "none";

/// What became of a save of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is in the store.
    Saved,
    /// Another writer was faster.
    Conflict,
    /// It failed, or had no answer.
    Failed,
}

/// Seconds since 1970 as Prometheus has them: exact for as long as anyone counts.
#[allow(clippy::cast_precision_loss, reason = "a double is exact up to 2^53 seconds")]
fn seconds(second: i64) -> f64 {
    second as f64
}
