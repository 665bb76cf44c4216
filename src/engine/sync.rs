//! One sync: reads every page up to the present, and delivers each while it reads the next.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;

use tokio::time::sleep_until;

use super::report::Report;
use super::{Engine, Halt, Mode};
use crate::clock::LocalTime;
use crate::destination::{Delivery, PageNumber, Shipment};
use crate::event::Event;
use crate::source::{Cursor, Page, Then};

/// A page to deliver.
pub(super) struct Upcoming {
    pub(super) page: PageNumber,
    /// Its delivery; none for a page without events.
    pub(super) delivery: Option<Box<dyn Delivery>>,
    events: usize,
    deduplicated: usize,
    filtered: usize,
    to: Cursor,
    then: Then,
}

impl Engine {
    /// Delivers everything up to the present. The time at which the sync begins is the present for all its pages.
    pub(super) async fn sync(&self) -> Result<(), Halt> {
        let mut report = Report::new(self.metrics.clone());
        let ended = self.pages(&mut report).await;
        // However the sync ended, delivered pages are committed, unless the store failed.
        match &ended {
            Err(halt) if halt.forbids_saving() => {}
            Ok(()) if self.settings.mode == Mode::Loop => self.while_flushing(self.committed()).await?,
            _ => self.finish().await?,
        }
        let reached = self.source.reached(&self.ledger.lock().front()).ok();
        report.end(ended.is_ok(), reached, &mut self.summary.lock());
        self.retries.liveness.set_status(report.status(ended.is_ok(), reached, self.present()));
        ended
    }

    async fn pages(&self, report: &mut Report) -> Result<(), Halt> {
        let begun = self.clock.local();
        let front = self.ledger.lock().front();
        let mut following = Some(self.while_flushing(self.upcoming(front, begun)).await?);
        while let Some(page) = following.transpose()? {
            // This page was read ahead, and its delivery has not begun.
            if self.shutdown.is_requested() {
                return Err(Halt::Stopped);
            }
            report.page(page.events, page.deduplicated, page.filtered);
            report.now_and_then(|| self.source.reached(&page.to).ok());
            following = self.deliver_and_read_on(page, begun, report).await?;
        }
        Ok(())
    }

    /// Delivers a page and reads the next one meanwhile. If the delivery fails, the sync ends at once. If the reading fails, the delivery
    /// is finished first.
    async fn deliver_and_read_on(
        &self,
        page: Upcoming,
        begun: LocalTime,
        report: &mut Report,
    ) -> Result<Option<Result<Upcoming, Halt>>, Halt> {
        let mut reading = pin!(self.following(page.to.clone(), page.then, begun));
        let mut delivering = pin!(self.deliver(page));
        tokio::select! {
            biased;
            delivered = &mut delivering => report.delivered(delivered?),
            following = &mut reading => {
                report.delivered(delivering.await?);
                return Ok(following);
            }
        }
        self.while_flushing(reading).await
    }

    /// Reads the page that follows `cursor` once the source allows it; none if the source has caught up.
    async fn following(&self, cursor: Cursor, then: Then, begun: LocalTime) -> Option<Result<Upcoming, Halt>> {
        match then {
            Then::CaughtUp => return None,
            Then::Now => {}
            Then::After(pause) => {
                if !self.rest(pause).await {
                    return Some(Err(Halt::Stopped));
                }
                // A wait that the source expects does not use up the retry budget.
                self.retries.progress();
            }
        }
        Some(self.upcoming(cursor, begun).await)
    }

    /// Reads the page after `cursor` and opens its delivery, so that the destination can prepare it ahead.
    async fn upcoming(&self, cursor: Cursor, begun: LocalTime) -> Result<Upcoming, Halt> {
        let Page { events, deduplicated, next: to, then, .. } = self.fetch(&cursor, begun).await?;
        let read = events.len();
        let events: Arc<[Event]> = self.screen.of(events).into();
        let page = self.ledger.lock().open(to.clone(), events.len());
        let count = events.len();
        let shipment = Shipment { page, from: cursor, to: to.clone(), events };
        let delivery = (count > 0).then(|| self.destination.open(shipment, self.present()));
        Ok(Upcoming { page, delivery, events: count, deduplicated, filtered: read - count, to, then })
    }

    /// Does `work`, which delivers nothing, and flushes the destination meanwhile when that is due. A flush that has begun is finished.
    pub(super) async fn while_flushing<T>(&self, work: impl Future<Output = T>) -> Result<T, Halt> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = self.flush_is_due() => {}
            }
            let mut flushing = pin!(self.flush());
            tokio::select! {
                biased;
                flushed = &mut flushing => flushed?,
                done = &mut work => {
                    flushing.await?;
                    return Ok(done);
                }
            }
        }
    }

    async fn flush_is_due(&self) {
        match self.destination.flush_due() {
            Some(due) if self.ledger.lock().is_gathering() => sleep_until(due).await,
            _ => pending().await,
        }
    }

    /// Has the destination make everything durable, and waits for the commit.
    pub(super) async fn finish(&self) -> Result<(), Halt> {
        self.flush().await?;
        self.committed().await;
        Ok(())
    }

    /// Waits until every acknowledged page is committed, and the source has confirmed that or failed to.
    pub(super) async fn committed(&self) {
        loop {
            let changed = self.changed.notified();
            if self.ledger.lock().is_settled() {
                return;
            }
            changed.await;
        }
    }
}
