//! What was done, in one line: of a sync, and of an hour.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::destination::Tally;
use crate::telemetry::metrics::Metrics;

/// While a backlog is drained, a line is logged this often.
const EVERY: Duration = Duration::from_secs(30);

/// A summary of all syncs is logged this often.
const SUMMARY_EVERY: Duration = Duration::from_secs(3600);

/// What was read and delivered.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    pages: usize,
    read: usize,
    deduplicated: usize,
    tally: Tally,
}

impl Counts {
    fn log(&self, reached: Option<Timestamp>, took: Duration, what: &str) {
        let Tally { accepted, restamped, truncated, dead_lettered, requests, bytes } = self.tally;
        let took =
            humantime::format_duration(Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
        let up_to = reached.map(tracing::field::display);
        let Self { pages, read, deduplicated, .. } = *self;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    up_to, read, delivered = accepted, deduplicated, restamped, truncated, dead_lettered, pages, requests, bytes, %took,
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
    /// A sync begins now.
    pub(super) fn new(metrics: Metrics) -> Self {
        let now = Instant::now();
        Self { metrics, begun: now, logged: now, counts: Counts::default() }
    }

    /// A page with so many events and so many records that were dropped as duplicates.
    pub(super) fn page(&mut self, events: usize, deduplicated: usize) {
        self.counts.pages += 1;
        self.counts.read += events + deduplicated;
        self.counts.deduplicated += deduplicated;
        self.metrics.page_read(events, deduplicated);
    }

    /// What became of a page.
    pub(super) fn delivered(&mut self, tally: Tally) {
        self.counts.tally += tally;
    }

    /// A line, if the last one is some time ago.
    pub(super) fn now_and_then(&mut self, reached: impl FnOnce() -> Option<Timestamp>) {
        if self.logged.elapsed() >= EVERY {
            self.logged = Instant::now();
            self.counts.log(reached(), self.begun.elapsed(), "the sync goes on");
        }
    }

    /// The line of a sync, which ends now. It counts for the `summary` of the hour.
    pub(super) fn end(&self, is_complete: bool, reached: Option<Timestamp>, summary: &mut Summary) {
        let took = self.begun.elapsed();
        self.metrics.sync_ended(is_complete, took);
        self.counts.log(reached, took, synced(is_complete));
        summary.add(self.counts.tally, reached);
    }

    /// How the work stands behind a sync that ended `now`.
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

/// What the syncs of an hour did.
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
