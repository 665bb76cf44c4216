//! What becomes of a delivery, noted the moment it is known.
//!
//! An attempt may be cut off at any await, for instance when the lease lapses. So nothing that was answered is kept in a future: it stands
//! in the [`Work`], which outlives the attempt.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::Batch;
use super::client::Setback;
use super::doubt::Doubts;
use super::letters::{Letter, Letters};
use super::misdated::Misdated;
use crate::dead_letter::Fate;
use crate::destination::{Progress, Tally};
use crate::event::Event;
use crate::telemetry::liveness::Heartbeat;
use crate::telemetry::metrics::Metrics;

/// What is known of a delivery, from one attempt to the next.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) progress: Progress,
    pub(super) doubts: Doubts,
    pub(super) letters: Letters,
}

impl Work {
    /// Nothing has been sent.
    pub(super) fn new(events: Arc<[Event]>) -> Self {
        Self { progress: Progress::new(events), doubts: Doubts::default(), letters: Letters::default() }
    }
}

/// A delivery as the requests of one attempt share it.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    work: Mutex<&'a mut Work>,
    heart: &'a Heartbeat,
    metrics: &'a Metrics,
}

impl<'a> Ledger<'a> {
    /// The ledger of one attempt. Each answered request is a beat of `heart`.
    pub(super) fn of(work: &'a mut Work, heart: &'a Heartbeat, metrics: &'a Metrics) -> Self {
        Self { work: Mutex::new(work), heart, metrics }
    }

    /// Reads or changes what is known of the delivery.
    pub(super) fn remember<R>(&self, change: impl FnOnce(&mut Work) -> R) -> R {
        change(&mut self.work.lock())
    }

    /// What was achieved so far.
    pub(super) fn tally(&self) -> Tally {
        self.remember(|work| work.progress.tally())
    }

    /// A request with so many events, and a body of so many bytes, is sent now.
    pub(super) fn sends(&self, events: usize, bytes: usize) -> UnderWay<'_, 'a> {
        self.remember(|work| work.progress.count(Tally { requests: 1, bytes: bytes as u64, ..Tally::default() }));
        UnderWay { ledger: self, events }
    }

    /// The intake accepted `batch`. What is `misdated` of it is still to be sent.
    pub(super) fn accepted(&self, batch: &Batch, reason_to_cut: &str, misdated: &Misdated) {
        let Batch { range, restamped, cut, .. } = batch;
        let cut: Vec<_> = cut.iter().copied().filter(|index| !misdated.has(*index)).collect();
        let (accepted, truncated) = (range.len() - misdated.len(), cut.len());
        let restamped = (*restamped).min(accepted);
        let newest = self.remember(|work| {
            if misdated.len() == 0 {
                work.progress.settle(range);
            } else {
                let kept = range.clone().filter(|index| !misdated.has(*index));
                kept.for_each(|index| work.progress.settle(&(index..index + 1)));
            }
            work.progress.count(Tally { accepted, restamped, truncated, ..Tally::default() });
            work.doubts.settled(range);
            work.doubts.others_accepted();
            work.letters
                .add(cut.into_iter().map(|index| Letter::new(index, Fate::Truncated, reason_to_cut.to_owned())));
            work.progress.events().get(range.clone()).unwrap_or_default().iter().filter_map(Event::time).max()
        });
        self.metrics.accepted(accepted, restamped, truncated, newest);
    }

    /// The intake refuses this event by itself. The event is outstanding until its dead letter is written.
    pub(super) fn refused(&self, index: usize, reason: String) {
        self.remember(|work| {
            work.doubts.settled(&(index..index + 1));
            work.letters.add([Letter::new(index, Fate::Refused, reason)]);
        });
    }

    /// What is outstanding and not in doubt.
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

/// A request without an answer. Dropped before one came, what it carried may have been accepted.
#[derive(Debug)]
pub(super) struct UnderWay<'l, 'a> {
    ledger: &'l Ledger<'a>,
    events: usize,
}

impl UnderWay<'_, '_> {
    /// The request is over.
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
