//! Log lines that sum up a sync or an hour.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::destination::Tally;
use crate::telemetry::metrics::Metrics;

/// How often a long sync logs a line.
const EVERY: Duration = Duration::from_secs(30);

/// How often a summary of all syncs is logged.
const SUMMARY_EVERY: Duration = Duration::from_secs(3600);

/// How much was read and delivered.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    pages: usize,
    read: usize,
    deduplicated: usize,
    filtered: usize,
    tally: Tally,
}

impl Counts {
    fn log(&self, reached: Option<Timestamp>, took: Duration, what: &str) {
        let Tally { accepted, restamped, truncated, dead_lettered, requests, bytes } = self.tally;
        let took =
            humantime::format_duration(Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
        let up_to = reached.map(tracing::field::display);
        let Self { pages, read, deduplicated, filtered, .. } = *self;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    up_to, read, delivered = accepted, deduplicated, filtered, restamped, truncated, dead_lettered, pages, requests, bytes, %took,
                    "{what}"
                )
            };
        }
        if accepted + dead_lettered > 0 { line!(info) } else { line!(debug) }
    }
}

/// The counts of a sync.
#[derive(Debug)]
pub(super) struct Report {
    metrics: Metrics,
    begun: Instant,
    logged: Instant,
    counts: Counts,
}

impl Report {
    /// Makes the report of a sync that begins now.
    pub(super) fn new(metrics: Metrics) -> Self {
        let now = Instant::now();
        Self { metrics, begun: now, logged: now, counts: Counts::default() }
    }

    /// Counts a page: its events to deliver, its records dropped as duplicates, and its events that a filter dropped.
    pub(super) fn page(&mut self, events: usize, deduplicated: usize, filtered: usize) {
        self.counts.pages += 1;
        self.counts.read += events + deduplicated + filtered;
        self.counts.deduplicated += deduplicated;
        self.counts.filtered += filtered;
        self.metrics.page_read(events, deduplicated, filtered);
    }

    /// Counts the result of a page.
    pub(super) fn delivered(&mut self, tally: Tally) {
        self.counts.tally += tally;
    }

    /// Logs a line if [`EVERY`] has passed since the last one.
    pub(super) fn now_and_then(&mut self, reached: impl FnOnce() -> Option<Timestamp>) {
        if self.logged.elapsed() >= EVERY {
            self.logged = Instant::now();
            self.counts.log(reached(), self.begun.elapsed(), "the sync continues");
        }
    }

    /// Logs the line of a sync that ends now, and adds its counts to the `summary` of the hour.
    pub(super) fn end(&self, is_complete: bool, reached: Option<Timestamp>, summary: &mut Summary) {
        let took = self.begun.elapsed();
        self.metrics.sync_ended(is_complete, took);
        self.counts.log(reached, took, synced(is_complete));
        summary.add(self.counts.tally, reached);
    }

    /// The status line after a sync that ended `now`.
    pub(super) fn status(&self, is_complete: bool, reached: Option<Timestamp>, now: Timestamp) -> String {
        let Tally { accepted, dead_lettered, .. } = self.counts.tally;
        let up_to = reached.map(|reached| {
            let behind = Duration::try_from(now.duration_since(reached)).unwrap_or_default();
            format!(" up to {reached}, {} behind", humantime::format_duration(Duration::from_secs(behind.as_secs())))
        });
        let dead_letters = if dead_lettered > 0 { format!(", {dead_lettered} dead letters") } else { String::new() };
        let up_to = up_to.unwrap_or_default();
        format!("{}{up_to} at {now:.0}; {accepted} delivered{dead_letters}", synced(is_complete))
    }
}

const fn synced(is_complete: bool) -> &'static str {
    if is_complete { "synced" } else { "synced in part" }
}

/// The sum of the syncs of an hour.
#[derive(Debug)]
pub(super) struct Summary {
    begun: Instant,
    syncs: u64,
    delivered: usize,
    dead_lettered: usize,
}

impl Default for Summary {
    fn default() -> Self {
        Self { begun: Instant::now(), syncs: 0, delivered: 0, dead_lettered: 0 }
    }
}

impl Summary {
    fn add(&mut self, tally: Tally, reached: Option<Timestamp>) {
        self.syncs += 1;
        self.delivered += tally.accepted;
        self.dead_lettered += tally.dead_lettered;
        if self.begun.elapsed() >= SUMMARY_EVERY {
            let Self { syncs, delivered, dead_lettered, .. } = *self;
            let up_to = reached.map(tracing::field::display);
            tracing::info!(up_to, syncs, delivered, dead_lettered, "summary of the last hour");
            *self = Self::default();
        }
    }
}
