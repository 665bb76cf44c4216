//! What becomes of a delivery, written down the moment it is known.
//!
//! A call may be cut off at any await, for instance when the lease lapses. So nothing that was answered is kept in a future: it stands in
//! the [`Delivery`], which outlives the call.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Setback;
use super::batch::Batch;
use super::doubt::Doubts;
use super::letters::{Letter, Letters};
use super::misdated::Misdated;
use super::rejected::Fate;
use crate::destination::{Delivery, Tally};
use crate::event::Event;
use crate::telemetry::metrics;

/// What is remembered of a delivery from one call to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) doubts: Doubts,
    pub(super) letters: Letters,
}

/// A delivery as the requests under way share it.
#[derive(Debug)]
pub(super) struct Ledger<'a>(Mutex<&'a mut Delivery>);

impl<'a> Ledger<'a> {
    pub(super) fn of(delivery: &'a mut Delivery) -> Self {
        Self(Mutex::new(delivery))
    }

    pub(super) fn delivery(&self) -> MutexGuard<'_, &'a mut Delivery> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember<R>(&self, change: impl FnOnce(&mut Memory) -> R) -> R {
        self.delivery().remember(change)
    }

    /// A request with so many events, and a body of so many bytes, is sent now.
    pub(super) fn sends(&self, events: usize, bytes: usize) -> UnderWay<'_, 'a> {
        self.delivery().count(Tally { requests: 1, bytes: bytes as u64, ..Tally::default() });
        UnderWay { ledger: self, events }
    }

    /// The intake accepted `batch`. What is `misdated` of it is still to be sent.
    pub(super) fn accepted(&self, batch: &Batch, reason_to_cut: &str, misdated: &Misdated) {
        let Batch { range, restamped, cut, .. } = batch;
        let cut: Vec<_> = cut.iter().copied().filter(|index| !misdated.has(*index)).collect();
        let (accepted, truncated) = (range.len() - misdated.len(), cut.len());
        let restamped = (*restamped).min(accepted);
        let mut delivery = self.delivery();
        let newest = delivery.events().get(range.clone()).unwrap_or_default().iter().filter_map(Event::time).max();
        if misdated.len() == 0 {
            delivery.settle(range);
        } else {
            range.clone().filter(|index| !misdated.has(*index)).for_each(|index| delivery.settle(&(index..index + 1)));
        }
        delivery.count(Tally { accepted, restamped, truncated, ..Tally::default() });
        delivery.remember(|memory: &mut Memory| {
            memory.doubts.settled(range);
            memory.doubts.others_accepted();
            let letters = cut.into_iter().map(|index| Letter::new(index, Fate::Truncated, reason_to_cut.to_owned()));
            memory.letters.owe(letters);
        });
        metrics::accepted(accepted, restamped, truncated, newest);
    }

    /// The intake rejects this event by itself. It is outstanding until its dead letter is written.
    pub(super) fn rejected(&self, index: usize, reason: String) {
        self.remember(|memory| {
            memory.doubts.settled(&(index..index + 1));
            memory.letters.owe([Letter::new(index, Fate::Rejected, reason)]);
        });
    }

    /// What is outstanding and not in doubt.
    pub(super) fn undoubted(&self) -> Vec<Range<usize>> {
        let open = self.delivery().outstanding().to_vec();
        self.remember(|memory| {
            let doubts = memory.doubts.all().iter().map(|doubt| &doubt.range);
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
        let beat = self.ledger.delivery().beat();
        if matches!(answer, Err(Setback::Failed { error, .. }) if error.may_have_arrived()) {
            return;
        }
        beat.beats();
        self.events = 0;
    }
}

impl Drop for UnderWay<'_, '_> {
    fn drop(&mut self) {
        self.ledger.delivery().note_unanswered(self.events);
    }
}
