//! What a cycle did, in one line.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::destination::Tally;
use crate::telemetry::metrics;

/// The counts of a cycle.
#[derive(Debug)]
pub(super) struct Report {
    begun: Instant,
    told: Instant,
    every: Duration,
    pages: usize,
    read: usize,
    already_delivered: usize,
    tally: Tally,
}

impl Report {
    /// A cycle begins now; while it lasts, it is told of `every` so often.
    pub(super) fn new(every: Duration) -> Self {
        let now = Instant::now();
        Self { begun: now, told: now, every, pages: 0, read: 0, already_delivered: 0, tally: Tally::default() }
    }

    /// A page with so many new records and so many that had been delivered before.
    pub(super) fn page(&mut self, fresh: usize, already_delivered: usize) {
        self.pages += 1;
        self.read += fresh + already_delivered;
        self.already_delivered += already_delivered;
        metrics::page_read(fresh, already_delivered);
    }

    /// What became of a page.
    pub(super) fn delivered(&mut self, tally: Tally) {
        self.tally += tally;
    }

    /// A line, if the last one is some time ago.
    pub(super) fn now_and_then(&mut self, until: Option<Timestamp>) {
        if self.told.elapsed() >= self.every {
            self.told = Instant::now();
            self.tell("still synchronising", until);
        }
    }

    /// The cycle's line; of one that was cut short, only if it had done something.
    pub(super) fn end(&self, complete: bool, until: Option<Timestamp>) {
        metrics::cycle_ended(complete, self.begun.elapsed());
        if complete {
            self.tell("synchronised", until);
        } else if self.pages > 0 {
            self.tell("synchronised in part", until);
        }
    }

    /// How the work stands behind a complete cycle that ended `now`, with everything up to `until` delivered.
    pub(super) fn standing(&self, until: Option<Timestamp>, now: Timestamp) -> String {
        let Tally { accepted, rejected, .. } = self.tally;
        let up_to = until.map(|until| {
            let lag = Duration::try_from(now.duration_since(until)).unwrap_or_default();
            format!(" up to {until}, {} behind", humantime::format_duration(Duration::from_secs(lag.as_secs())))
        });
        let rejected = if rejected > 0 { format!(", {rejected} rejected") } else { String::new() };
        format!("synchronised{} at {now:.0}; {accepted} delivered{rejected}", up_to.unwrap_or_default())
    }

    fn tell(&self, what: &str, until: Option<Timestamp>) {
        let Tally { accepted, restamped, truncated, rejected, requests, bytes } = self.tally;
        let took = Duration::from_millis(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        let took = humantime::format_duration(took);
        let until = until.map(tracing::field::display);
        let (pages, read, already_delivered) = (self.pages, self.read, self.already_delivered);
        tracing::info!(
            until, read, delivered = accepted, already_delivered, restamped, truncated, rejected, pages, requests, bytes, %took,
            "{what}"
        );
    }
}
