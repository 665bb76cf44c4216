//! The cursor of the audit API: where we are in its history, and what an answer makes of it.
//!
//! All of it is plain computation. A range is (`since`, `until`] in whole seconds; it is read from its overlap on, page by page, and when it
//! is done its end is the next one's `since`.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fingerprint::{Fingerprint, Fingerprints};
use super::moment::Moment;
use super::overlap::{Expected, Keep, Tail};
use crate::event::Event;

/// A first page that repeats none of at least this many known records shows that the records are not stable.
const TELLING: usize = 20;

/// How ranges are cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The longest range.
    pub window: Duration,
    /// How far a range reaches back into the one before.
    pub overlap: Duration,
}

/// The server's handle of the next page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageToken(pub String);

/// Where we are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum Position {
    /// Between two ranges: everything up to `since` is delivered.
    Idle {
        /// The end of the history so far.
        since: Moment,
        /// What lies just before it.
        tail: Tail,
    },
    /// Within a range.
    InRange(InRange),
}

/// A range of which some pages may have been delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InRange {
    since: Moment,
    until: Moment,
    /// Where the first page starts: `since` less the overlap.
    from: Moment,
    /// The next page; none for the first.
    token: Option<PageToken>,
    /// How often the server refused a token of this range.
    refusals: u32,
    /// Delivered before, and not met again yet.
    expected: Fingerprints,
    /// How many of those the first page has to hold, if it holds the whole overlap.
    sure: usize,
    /// To be remembered for the next range.
    keep: Keep,
    /// Pages since the first, and the fingerprint of the page whose number was the last power of two.
    pages: u32,
    mark: Option<String>,
}

/// What a page of records turned out to be.
#[derive(Debug)]
pub struct Sifted {
    /// What has not been delivered before.
    pub fresh: Vec<Event>,
    /// How many had been.
    pub already_delivered: usize,
    /// The overlap had to shrink, because it holds more records than the state keeps.
    pub shrunk: bool,
    /// Where we are behind the page.
    pub next: Position,
}

/// Why a page cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contradiction {
    /// Of so many records that should have come again none did.
    Unstable {
        /// How many should have come.
        expected: usize,
    },
    /// Its pages go round in a circle.
    Looping,
}

impl Position {
    /// Just behind `since`, with nothing known of what lies before: it is never read again.
    pub fn starting_at(since: Moment) -> Self {
        Self::Idle { since, tail: Tail { from: since, delivered: Fingerprints::default(), dated: 0 } }
    }

    /// Up to when everything is delivered.
    pub fn since(&self) -> Moment {
        match self {
            Self::Idle { since, .. } | Self::InRange(InRange { since, .. }) => *since,
        }
    }

    /// The range to go on with, in a history that ends at `end`; none where there is nothing to ask for yet.
    pub fn enter(self, end: Moment, cut: Cut) -> Option<InRange> {
        match self {
            Self::InRange(range) => Some(range),
            Self::Idle { since, tail } => {
                let until = end.min(since.after(cut.window));
                if until <= since {
                    return None;
                }
                let from = tail.from.max(since.before(cut.overlap)).min(since);
                let sure = if from == tail.from { tail.dated } else { 0 };
                Some(InRange { sure, ..InRange::new(since, until, from, tail.delivered, cut) })
            }
        }
    }
}

impl InRange {
    fn new(since: Moment, until: Moment, from: Moment, expected: Fingerprints, cut: Cut) -> Self {
        let keep = Keep::new(until.before(cut.overlap).max(from), until);
        Self { since, until, from, token: None, refusals: 0, expected, sure: 0, keep, pages: 0, mark: None }
    }

    /// The end of the range; the same for all its pages.
    pub fn until(&self) -> Moment {
        self.until
    }

    /// Where the range starts, overlap included.
    pub fn from(&self) -> Moment {
        self.from
    }

    /// The page to ask for; none for the first.
    pub fn token(&self) -> Option<&PageToken> {
        self.token.as_ref()
    }

    /// The same range without its overlap, for a server whose records are not stable.
    #[must_use]
    pub fn without_overlap(self) -> Self {
        if self.token.is_some() {
            return self;
        }
        Self {
            from: self.since,
            expected: Fingerprints::default(),
            sure: 0,
            keep: Keep::new(self.until, self.until),
            ..self
        }
    }

    /// The range read anew, up to `until`.
    ///
    /// What is remembered of the pages delivered so far is expected again.
    fn again_until(self, until: Moment, cut: Cut) -> Self {
        let expected = self.expected.iter().chain(self.keep.fingerprints()).collect();
        Self { refusals: self.refusals, ..Self::new(self.since, until, self.from, expected, cut) }
    }

    /// The range ends earlier: the server's clock has not come so far. None if nothing is left of it.
    pub fn shortened_to(self, end: Moment, cut: Cut) -> Option<Self> {
        (end > self.since).then(|| self.again_until(end, cut))
    }

    /// The server refused the page's token: the range is read from its start, and the second time a shorter one.
    pub fn token_refused(self, cut: Cut) -> Option<Self> {
        let mut again = if self.refusals == 0 {
            let until = self.until;
            self.again_until(until, cut)
        } else {
            self.halved(cut)?
        };
        again.refusals += 1;
        Some(again)
    }

    /// The first half of the range, and half of its overlap; none below one second.
    pub fn halved(self, cut: Cut) -> Option<Self> {
        let second = Duration::from_secs(1);
        if self.until.since(self.since) <= second {
            // Nothing delivered is asked for again: the smallest question there is.
            return (self.from < self.since).then(|| Self {
                refusals: self.refusals,
                ..Self::new(self.since, self.until, self.since, Fingerprints::default(), cut)
            });
        }
        let until = self.until.middle(self.since);
        let from = self.since.middle(self.from);
        Some(Self { from, ..self }.again_until(until, cut))
    }

    /// Takes a page: `records` in the server's order, and the `token` of the page behind it.
    pub fn take(mut self, records: Vec<Event>, token: Option<PageToken>) -> Result<Sifted, Contradiction> {
        let token = token.filter(|_| !records.is_empty());
        let telling = self.telling(&records, token.is_some());
        if let Some(token) = &token {
            self.step(&records, token)?;
        }
        let delivered = std::mem::take(&mut self.expected);
        let mut expected = Expected::new(&delivered);
        let (mut already_delivered, mut shrunk) = (0, false);
        let mut fresh = records;
        fresh.retain(|event| {
            // A time outside the range that was asked for has been misread: it says nothing.
            let time = event.time().filter(|time| self.from.is_before(*time) && !self.until.is_before(*time));
            let wanted = self.keep.wants(time);
            if expected.is_empty() && !wanted {
                return true;
            }
            let fingerprint = Fingerprint::of_record(event.raw());
            if wanted {
                shrunk |= self.keep.push(time, fingerprint);
            }
            let met = expected.meet(fingerprint);
            already_delivered += usize::from(met);
            !met
        });
        if already_delivered == 0 && telling >= TELLING {
            return Err(Contradiction::Unstable { expected: telling });
        }
        self.expected = expected.remaining(&delivered);
        let next = match token {
            Some(token) => Position::InRange(Self { token: Some(token), ..self }),
            None => Position::Idle { since: self.until, tail: self.keep.into_tail() },
        };
        Ok(Sifted { fresh, already_delivered, shrunk, next })
    }

    /// How many of the expected records this page should hold, going by its own times.
    ///
    /// A whole range holds them all; the first of several pages as many as it has records of the time before `since`.
    fn telling(&self, records: &[Event], more: bool) -> usize {
        if self.token.is_some() {
            return 0;
        }
        let old = |event: &&Event| event.time().is_none_or(|time| !self.since.is_before(time));
        let room = if more { records.iter().filter(old).count() } else { usize::MAX };
        self.sure.min(room)
    }

    /// Counts a page, and notices when the pages go round in a circle (Brent's way: every page is compared with the last
    /// one whose number was a power of two, so that one fingerprint is enough for circles of any length).
    fn step(&mut self, records: &[Event], token: &PageToken) -> Result<(), Contradiction> {
        let end = |event: Option<&Event>| event.map(|event| event.raw().clone()).unwrap_or_default();
        let (first, last) = (end(records.first()), end(records.last()));
        let count = records.len().to_be_bytes();
        let page: Fingerprints =
            [Fingerprint::of_parts([token.0.as_bytes(), &count, &first, &last])].into_iter().collect();
        let page = String::from(page);
        if self.mark.as_ref() == Some(&page) {
            return Err(Contradiction::Looping);
        }
        self.pages = self.pages.saturating_add(1);
        if self.pages.is_power_of_two() {
            self.mark = Some(page);
        }
        Ok(())
    }
}

/// The end of the history that may be asked for: the earlier of both clocks, less the delay.
pub fn end_of_history(ours: Timestamp, theirs: Option<Timestamp>, delay: Duration) -> Moment {
    Moment::from(theirs.map_or(ours, |theirs| theirs.min(ours))).before(delay)
}
