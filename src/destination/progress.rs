//! The progress of a page's delivery: which events are outstanding, and what became of the others.

use std::ops::Range;
use std::sync::Arc;

use super::Tally;
use crate::event::Event;

/// The events of a page, and which of them are settled.
#[derive(Debug)]
pub struct Progress {
    events: Arc<[Event]>,
    outstanding: Vec<Range<usize>>,
    unanswered: usize,
    tally: Tally,
}

impl Progress {
    /// A page of which nothing has been sent.
    pub fn new(events: Arc<[Event]>) -> Self {
        let whole = 0..events.len();
        let outstanding = if whole.is_empty() { Vec::new() } else { vec![whole] };
        Self { events, outstanding, unanswered: 0, tally: Tally::default() }
    }

    /// All events of the page, settled or not.
    pub fn events(&self) -> &Arc<[Event]> {
        &self.events
    }

    /// The events still to be sent, as ranges of [`Self::events`] in order.
    pub fn outstanding(&self) -> &[Range<usize>] {
        &self.outstanding
    }

    /// Removes `range` from the outstanding events.
    pub fn settle(&mut self, range: &Range<usize>) {
        let around = |open: &Range<usize>| [open.start..open.end.min(range.start), open.start.max(range.end)..open.end];
        self.outstanding = self.outstanding.iter().flat_map(around).filter(|open| !open.is_empty()).collect();
    }

    /// Adds the counts of one request.
    pub fn count(&mut self, tally: Tally) {
        self.tally += tally;
    }

    /// Notes that a request with this many events was never answered: the destination may have accepted them.
    pub fn note_unanswered(&mut self, events: usize) {
        self.unanswered = self.unanswered.saturating_add(events);
    }

    /// The number of events in requests without an answer. An event that was in two of them counts twice.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// The counts so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether every event is settled.
    pub fn is_complete(&self) -> bool {
        self.outstanding.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::Fields;

    #[test]
    fn what_is_settled_is_outstanding_no_more() {
        let events = vec![Event::new(Bytes::from_static(b"{}"), None, Fields::default()); 10];
        let mut progress = Progress::new(events.into());
        progress.settle(&(3..5));
        progress.settle(&(0..1));
        assert_eq!(progress.outstanding(), [1..3, 5..10]);
        progress.settle(&(2..6));
        assert_eq!(progress.outstanding(), [1..2, 6..10]);
        progress.settle(&(0..10));
        assert!(progress.is_complete());
    }
}
