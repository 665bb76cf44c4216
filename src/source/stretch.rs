//! A stretch of a source's history, for a backfill.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Cursor, Page, Source, Then};
use crate::clock::LocalTime;
use crate::component::Check;
use crate::event::{Event, Field};
use crate::failure::Failure;

/// The events of a source from one time to another.
pub(crate) struct Stretch {
    source: Arc<dyn Source>,
    begins: Cursor,
    bounds: Bounds,
    /// [`super::Kind::settled`] of the source.
    settled: Settled,
    /// The most events in a second.
    rate: Option<NonZeroU32>,
    progress: Arc<Progress>,
}

/// Returns the time up to which nothing is left to deliver.
type Settled = fn(&Cursor) -> Result<Timestamp, Failure>;

/// A span of time: from `from`, and before `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

impl Bounds {
    /// Whether `event` belongs to the stretch. A part of a recording belongs to the time at which the recording was stored, and the
    /// source checks that time. An event whose time was misread stays, since no other stretch may request it.
    fn contain(self, event: &Event) -> bool {
        event.text(Field::SessionId).is_some()
            || event.certain_time().is_none_or(|time| (self.from..self.to).contains(&time))
    }
}

/// The progress of a backfill.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The events that this run has read.
    events: AtomicU64,
    /// The time up to which everything is delivered and committed.
    reached: Mutex<Option<Timestamp>>,
    is_done: AtomicBool,
}

impl Progress {
    /// The number of events that this run has read.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// The time up to which everything is delivered and committed; none before the first commit.
    pub(crate) fn reached(&self) -> Option<Timestamp> {
        *self.reached.lock()
    }

    /// Whether the whole stretch is delivered and committed.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Relaxed)
    }
}

impl Stretch {
    /// Reads the events of `source` within `bounds`, from the cursor `begins` on, at most `rate` in a second.
    pub(crate) fn of(
        (source, settled): (Arc<dyn Source>, Settled),
        begins: Cursor,
        bounds: Bounds,
        rate: Option<NonZeroU32>,
        progress: Arc<Progress>,
    ) -> Self {
        Self { source, begins, bounds, settled, rate, progress }
    }

    /// Whether the stretch is done once everything before `cursor` is delivered.
    fn is_done(&self, cursor: &Cursor) -> Result<bool, Failure> {
        Ok((self.settled)(cursor)? >= self.bounds.to)
    }

    /// How long the rate delays the next page.
    fn pause(&self, events: usize) -> Option<Duration> {
        let rate = self.rate?;
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        (events > 0).then(|| Duration::from_secs(1).saturating_mul(events) / rate.get())
    }
}

#[async_trait]
impl Source for Stretch {
    fn location(&self) -> String {
        self.source.location()
    }

    fn first_cursor(&self, _now: Timestamp) -> Cursor {
        self.begins.clone()
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        self.source.reached(cursor)
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        if self.is_done(cursor)? {
            let (events, next) = (Vec::new(), cursor.clone());
            return Ok(Page { events, deduplicated: 0, next, progressed: true, then: Then::CaughtUp });
        }
        let mut page = self.source.next_page(cursor, begun).await?;
        page.events.retain(|event| self.bounds.contain(event));
        self.progress.events.fetch_add(page.events.len() as u64, Ordering::Relaxed);
        page.then = match page.then {
            _ if self.is_done(&page.next)? => Then::CaughtUp,
            Then::Now => self.pause(page.events.len()).map_or(Then::Now, Then::After),
            then => then,
        };
        Ok(page)
    }

    fn server_time(&self, now: LocalTime) -> Option<Timestamp> {
        self.source.server_time(now)
    }

    fn narrowed(&self, cursor: &Cursor, begun: LocalTime) -> Option<Cursor> {
        self.source.narrowed(cursor, begun)
    }

    async fn committed(&self, cursor: &Cursor) -> Result<(), Failure> {
        *self.progress.reached.lock() = Some(self.source.reached(cursor)?);
        self.progress.is_done.store(self.is_done(cursor)?, Ordering::Relaxed);
        self.source.committed(cursor).await
    }

    fn pause(&self) {
        self.source.pause();
    }

    async fn check(&self, now: LocalTime) -> Vec<Check> {
        self.source.check(now).await
    }
}
