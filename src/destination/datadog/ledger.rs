//! The state of a delivery, noted the moment it is known.
//!
//! An attempt may be cut off at any await, for instance when the lease lapses. So no future holds a result alone: each
//! stands in the [`Work`], which outlives the attempt.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::batch::Batch;
use super::client::Setback;
use super::doubt::Doubts;
use super::error::Error;
use super::misdated::Misdated;
use crate::dead_letter::{DeadLetters, Fate};
use crate::destination::letters::{Letter, Letters};
use crate::destination::{Progress, Tally};
use crate::event::Event;
use crate::telemetry::liveness::Heartbeat;
use crate::telemetry::metrics::Metrics;

/// The state of a delivery, from one attempt to the next.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) progress: Progress,
    pub(super) doubts: Doubts,
    pub(super) letters: Letters,
}

impl Work {
    /// The state before the first attempt.
    pub(super) fn new(events: Arc<[Event]>) -> Self {
        Self { progress: Progress::new(events), doubts: Doubts::default(), letters: Letters::default() }
    }
}

/// The state of a delivery, shared by the requests of one attempt.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    work: Mutex<&'a mut Work>,
    pub(super) events: Arc<[Event]>,
    heart: &'a Heartbeat,
    metrics: &'a Metrics,
}

impl<'a> Ledger<'a> {
    /// Makes the ledger of one attempt. Each answered request is a beat of `heart`.
    pub(super) fn of(work: &'a mut Work, heart: &'a Heartbeat, metrics: &'a Metrics) -> Self {
        let events = Arc::clone(work.progress.events());
        Self { work: Mutex::new(work), events, heart, metrics }
    }

    /// Reads or changes the delivery's state.
    pub(super) fn remember<R>(&self, change: impl FnOnce(&mut Work) -> R) -> R {
        change(&mut self.work.lock())
    }

    /// The counts so far.
    pub(super) fn tally(&self) -> Tally {
        self.remember(|work| work.progress.tally())
    }

    /// Notes that a request with this many events and body bytes is sent now.
    pub(super) fn sends(&self, events: usize, bytes: usize) -> UnderWay<'_, 'a> {
        self.remember(|work| work.progress.count(Tally { requests: 1, bytes: bytes as u64, ..Tally::default() }));
        UnderWay { ledger: self, events }
    }

    /// Notes that the intake accepted `batch`. Its `misdated` entries are still to be sent.
    pub(super) fn accepted(&self, batch: &Batch, misdated: &Misdated) {
        let Batch { range, restamped, cut, .. } = batch;
        let cut: Vec<_> = cut.iter().copied().filter(|index| !misdated.has(*index)).collect();
        let (accepted, truncated) = (range.len() - misdated.len(), cut.len());
        let restamped = (*restamped).min(accepted);
        self.remember(|work| {
            if misdated.len() == 0 {
                work.progress.settle(range);
            } else {
                let kept = range.clone().filter(|index| !misdated.has(*index));
                kept.for_each(|index| work.progress.settle(&(index..index + 1)));
            }
            work.progress.count(Tally { accepted, restamped, truncated, ..Tally::default() });
            work.doubts.settled(range);
            work.doubts.others_accepted();
            let reason = || "larger than the intake takes".to_owned();
            work.letters.add(cut.into_iter().map(|index| Letter::new(index, Fate::Truncated, reason())));
        });
        let newest = self.events.get(range.clone()).unwrap_or_default().iter().filter_map(Event::time).max();
        self.metrics.accepted(accepted, restamped, truncated, newest);
    }

    /// Notes that the intake refuses this event by itself. The event is outstanding until its dead letter is written.
    pub(super) fn refused(&self, index: usize, reason: String) {
        self.remember(|work| {
            work.doubts.settled(&(index..index + 1));
            work.letters.add([Letter::new(index, Fate::Refused, reason)]);
        });
    }

    /// Writes the dead letters that are due. The first may be one that an earlier call began to write. After an error,
    /// the rest is still due.
    pub(super) async fn write_letters(&self, dead_letters: &DeadLetters, now: Timestamp) -> Result<(), Error> {
        loop {
            let next = poll_fn(|context| {
                self.remember(|work| work.letters.poll_next(dead_letters, &self.events, now, context))
            });
            let Some(written) = next.await else { return Ok(()) };
            let Letter { index, fate, .. } = written?;
            if fate == Fate::Refused {
                self.remember(|work| {
                    work.progress.settle(&(index..index + 1));
                    work.progress.count(Tally { dead_lettered: 1, ..Tally::default() });
                });
                self.metrics.dead_lettered();
            }
        }
    }

    /// The outstanding ranges that are not in doubt.
    pub(super) fn undoubted(&self) -> Vec<Range<usize>> {
        self.remember(|work| {
            let open = work.progress.outstanding().to_vec();
            let doubts = work.doubts.all().iter().map(|doubt| &doubt.range);
            doubts.fold(open, |open, doubted| {
                let around = |open: &Range<usize>| {
                    [open.start..open.end.min(doubted.start), open.start.max(doubted.end)..open.end]
                };
                open.iter().flat_map(around).filter(|range| !range.is_empty()).collect()
            })
        })
    }
}

/// A request that has no answer yet. If it is dropped before one comes, the intake may have accepted its events.
#[derive(Debug)]
pub(super) struct UnderWay<'l, 'a> {
    ledger: &'l Ledger<'a>,
    events: usize,
}

impl UnderWay<'_, '_> {
    /// Notes the result of the request.
    pub(super) fn ended(mut self, answer: &Result<(), Setback>) {
        if matches!(answer, Err(Setback::Failed { error, .. }) if error.may_have_arrived()) {
            return;
        }
        self.ledger.heart.beat();
        self.events = 0;
    }
}

impl Drop for UnderWay<'_, '_> {
    fn drop(&mut self) {
        self.ledger.remember(|work| work.progress.note_unanswered(self.events));
    }
}
