//! Counts and measures, for `/metrics`: one table, and one method for each place where a fact is known.
//!
//! Everything goes through the `metrics` facade. A recorder is installed only if `/metrics` is served. Without one, each method costs one
//! load of an atomic.

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
    /// The second of the newest delivered event. It is kept here because several requests run at a time, and their answers arrive in any
    /// order.
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

    /// Notes that a request to `component` begins.
    pub fn exchange(&self, component: Component) -> Exchange {
        Exchange { metrics: self.clone(), component, begun: Instant::now(), status: NO_ANSWER }
    }

    /// Counts a page.
    pub fn page_read(&self, events: usize, deduplicated: usize, filtered: usize) {
        self.add(table::READ, events + deduplicated + filtered);
        self.add(table::FILTERED, filtered);
        self.add(table::DEDUPLICATED, deduplicated);
    }

    /// Counts events that the source left out because of their types.
    pub fn filtered(&self, events: usize) {
        self.add(table::FILTERED, events);
    }

    /// Counts a request body that is sent.
    pub fn body_sent(&self, uncompressed: usize, sent: usize) {
        self.add(table::BODY_BYTES, uncompressed);
        self.add(table::SENT_BYTES, sent);
    }

    /// Counts events that the destination accepted, and how many of them were changed.
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

    /// Counts a dead letter.
    pub fn dead_lettered(&self) {
        self.add(table::DEAD_LETTERED, 1);
    }

    /// Counts events that this process or the next sends again, although they may have been accepted.
    pub fn possibly_duplicated(&self, events: usize) {
        self.add(table::POSSIBLY_DUPLICATED, events);
    }

    /// Counts a failed call to `component` that is retried.
    pub fn retried(&self, component: Component, class: Class) {
        let labels = self.labels([(table::COMPONENT, component.label()), (table::REASON, class.label())]);
        counter!(table::RETRIES, labels).increment(1);
    }

    /// Notes the end of a sync, and how long it took.
    pub fn sync_ended(&self, is_complete: bool, took: Duration) {
        let result = if is_complete { "complete" } else { "incomplete" };
        histogram!(table::SYNC_DURATION, self.labels([(table::RESULT, result)])).record(took);
    }

    /// Counts an attempt to save the state.
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

    /// Notes that everything up to `time` is delivered and committed.
    pub fn reached(&self, time: Timestamp) {
        self.set_time(table::CURSOR, time);
    }

    /// Sets whether this instance is the active one.
    pub fn is_active(&self, is_active: bool) {
        gauge!(table::ACTIVE, self.labels([])).set(f64::from(u8::from(is_active)));
    }

    /// Sets whether the pipeline is ready, at each scrape.
    pub fn is_ready(&self, is_ready: bool) {
        gauge!(table::READY, self.labels([])).set(f64::from(u8::from(is_ready)));
    }

    /// Counts messages of a queue that were handled.
    pub fn queue_messages(&self, what: QueueMessage, messages: usize) {
        let result = match what {
            QueueMessage::Deleted => "deleted",
            QueueMessage::Ignored => "ignored",
            QueueMessage::Left => "left",
        };
        counter!(table::QUEUE_MESSAGES, self.labels([(table::RESULT, result)])).increment(messages as u64);
    }

    /// Counts a file that a sweep delivered because no message of the queue had brought it.
    pub fn swept(&self) {
        counter!(table::SWEPT, self.labels([])).increment(1);
    }

    /// Counts a file that a digest lists, by the result of its check.
    pub fn verified(&self, what: Verified) {
        let result = match what {
            Verified::Proven => "proven",
            Verified::Fetched => "fetched",
            Verified::Missing => "missing",
            Verified::Mismatched => "mismatched",
            Verified::ContentOnly => "content_only",
            Verified::Unreadable => "unreadable",
            Verified::Unlisted => "unlisted",
        };
        counter!(table::VERIFIED, self.labels([(table::RESULT, result)])).increment(1);
    }

    /// Counts a digest file that was read.
    pub fn digest(&self, what: Digest) {
        let result = match what {
            Digest::Proven => "proven",
            Digest::Untrusted => "untrusted",
            Digest::Broken => "broken",
            Digest::Unlinked => "unlinked",
            Digest::Restarted => "restarted",
        };
        counter!(table::DIGESTS, self.labels([(table::RESULT, result)])).increment(1);
    }

    /// Sets how much waits in the spool.
    pub fn spool(&self, entries: u64, bytes: u64, oldest: Option<Timestamp>) {
        gauge!(table::SPOOL_ENTRIES, self.labels([])).set(number(entries));
        gauge!(table::SPOOL_BYTES, self.labels([])).set(number(bytes));
        let oldest = oldest.map_or(0.0, |oldest| seconds(oldest.as_second()));
        gauge!(table::SPOOL_OLDEST, self.labels([])).set(oldest);
    }

    /// Counts a part of the spool that cannot be read.
    pub fn spool_damaged(&self) {
        self.add(table::SPOOL_DAMAGED, 1);
    }

    /// Counts entries that senders pushed and that are safe in the spool.
    pub fn received(&self, entries: usize) {
        self.add(table::RECEIVED, entries);
    }

    /// Counts entries that a sender pushed again although they are in the spool.
    pub fn received_again(&self, entries: usize) {
        self.add(table::RECEIVED_AGAIN, entries);
    }

    /// Counts events of a known sender that no rule covers.
    pub fn received_unknown(&self, events: usize) {
        self.add(table::RECEIVED_UNKNOWN, events);
    }

    /// Counts an answered request of a sender.
    pub fn received_request(&self, what: Received) {
        let result = match what {
            Received::Accepted => "accepted",
            Received::Stranger => "stranger",
            Received::Refused => "refused",
            Received::Full => "full",
            Received::Unsafe => "unsafe",
        };
        counter!(table::RECEIVED_REQUESTS, self.labels([(table::RESULT, result)])).increment(1);
    }

    /// Counts a failure for good, after which the pipeline starts again later.
    pub fn pipeline_failed(&self) {
        self.add(table::FAILURES, 1);
    }
}

/// A request under way. When it is dropped, it counts the request and notes its duration, by the status that it has until then.
#[derive(Debug)]
pub struct Exchange {
    metrics: Metrics,
    component: Component,
    begun: Instant,
    status: &'static str,
}

impl Exchange {
    /// Notes that an answer with this status began.
    pub fn answered(&mut self, status: u16) {
        self.status = match status {
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500..600 => "5xx",
            _ => "other",
        };
    }

    /// Notes that the answer did not arrive whole.
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

/// How a message of a queue was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueMessage {
    /// The message was deleted.
    Deleted,
    /// Nothing in the message concerns the pipeline, so it is deleted.
    Ignored,
    /// The message could not be read, so it stays in the queue.
    Left,
}

/// The result of the check of a file that a digest lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The file was delivered, and matches the digest.
    Proven,
    /// The file was not delivered before, and is read now.
    Fetched,
    /// The file is gone.
    Missing,
    /// The file does not match the digest.
    Mismatched,
    /// The file matches the digest. auditsync no longer knows whether it was delivered.
    ContentOnly,
    /// The file cannot be compared with the digest.
    Unreadable,
    /// No digest lists the file.
    Unlisted,
}

/// The result of the check of a digest file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// Its signature is valid, and it continues the chain.
    Proven,
    /// Its signature proves nothing.
    Untrusted,
    /// Its signature is valid, but the file before it in the chain is missing or changed.
    Broken,
    /// Its signature is valid, but the file before it in the chain cannot be read.
    Unlinked,
    /// Its signature is valid, and it begins a chain after another one.
    Restarted,
}

/// How a sender's request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Its entries are safe in the spool.
    Accepted,
    /// The request has no key, or a wrong one.
    Stranger,
    /// The request cannot be read, or is too large.
    Refused,
    /// The spool has no room.
    Full,
    /// The spool cannot be written.
    Unsafe,
}

/// The result of a save of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// The state is in the store.
    Saved,
    /// Another writer saved first.
    Conflict,
    /// The save failed, or had no answer.
    Failed,
}

/// Converts a number for Prometheus.
#[allow(clippy::cast_precision_loss, reason = "a double is exact up to 2^53")]
fn number(number: u64) -> f64 {
    number as f64
}

/// Converts seconds since 1970 for Prometheus. The result is exact for any real date.
#[allow(clippy::cast_precision_loss, reason = "a double is exact up to 2^53 seconds")]
fn seconds(second: i64) -> f64 {
    second as f64
}
