//! One range of the audit API's history, and how each page changes it.
//!
//! A range is (`since`, `until`] in whole seconds. It is read from the start of its overlap, page by page. Its end is
//! the next range's `since`. This module computes only: it makes no call.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cursor::{Cut, SectigoCursor};
use super::moment::Moment;
use super::overlap::{Keep, MOST, Tail};
use super::trail::Trail;
use crate::event::Event;
use crate::fingerprint::{Expected, Fingerprint, Fingerprints};

/// The least number of known records of which a page must repeat one. A page that repeats none of them shows that the
/// records are not stable.
const TELLING: usize = 20;

/// The number of refused tokens until which the smallest range is read again at once. After that a wait comes first.
const MOST_REFUSALS: u32 = 32;

/// The server's handle for the next page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageToken(pub String);

/// A range of which some pages may have been delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InRange {
    since: Moment,
    until: Moment,
    /// The start of the first page: `since` less the overlap.
    from: Moment,
    /// The next page; none for the first.
    token: Option<PageToken>,
    /// How often the server refused a token of this range.
    refusals: u32,
    /// Fingerprints of records that were delivered before and have not come again yet.
    expected: Fingerprints,
    /// The number of those that the first page must hold, if it covers the whole overlap.
    sure: usize,
    /// Fingerprints that came again and are not for the next range. They are expected once more if this range is read
    /// again.
    met: Fingerprints,
    /// The records to remember for the next range.
    keep: Keep,
    /// The number of pages since the first.
    pages: u32,
    /// Those pages, to notice a circle.
    #[serde(default, skip_serializing_if = "crate::source::is_default")]
    trail: Box<Trail>,
    /// Whether an earlier answer refused the page's token, so that the next run does not count from one again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    refused: bool,
    /// Whether invalid JSON is repaired instead of failing the page.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tolerant: bool,
    /// Whether a record of the range needed a repair.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    repaired: bool,
}

/// The result of a page.
#[derive(Debug)]
pub struct Sifted {
    /// The records that were not delivered before.
    pub fresh: Vec<Event>,
    /// The number of records that were delivered before.
    pub deduplicated: usize,
    /// Whether the overlap had to shrink, because it holds more records than the state keeps.
    pub shrunk: bool,
    /// The number of records with a time outside the requested range.
    pub doubtful: usize,
    /// The cursor after the page.
    pub next: SectigoCursor,
}

/// A reason why a page cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// None of the records that should have come again did.
    Unstable {
        /// The number that should have come.
        expected: usize,
    },
    /// The server's pages form a circle.
    Looping {
        /// The range after the page. Requesting it delivers nothing, but shows whether the server has left its circle.
        past: Box<InRange>,
    },
}

impl InRange {
    /// Makes the range from `since` up to `until`. It reaches back into the time that `tail` covers.
    pub(super) fn following(since: Moment, tail: Tail, until: Moment, cut: Cut) -> Self {
        let from = tail.from.max(since.before(cut.overlap)).min(since);
        let sure = if from == tail.from { tail.dated } else { 0 };
        // The overlap holds records that needed repairs; they must not fail this range.
        let tolerant = tail.repaired && from < since;
        Self { sure, tolerant, ..Self::new(since, until, from, tail.delivered, cut) }
    }

    fn new(since: Moment, until: Moment, from: Moment, expected: Fingerprints, cut: Cut) -> Self {
        let keep = Keep::new(until.before(cut.overlap).max(from), until);
        Self {
            since,
            until,
            from,
            token: None,
            refusals: 0,
            expected,
            sure: 0,
            met: Fingerprints::default(),
            keep,
            pages: 0,
            trail: Box::default(),
            refused: false,
            tolerant: false,
            repaired: false,
        }
    }

    /// The time up to which everything is delivered.
    pub fn since(&self) -> Moment {
        self.since
    }

    /// The end of the range; the same for all its pages.
    pub fn until(&self) -> Moment {
        self.until
    }

    /// The start of the range, overlap included.
    pub fn from(&self) -> Moment {
        self.from
    }

    /// The page to request; none for the first.
    pub fn token(&self) -> Option<&PageToken> {
        self.token.as_ref()
    }

    /// Whether its pages are read with repairs.
    pub fn is_tolerant(&self) -> bool {
        self.tolerant
    }

    /// Whether an earlier answer refused the page's token.
    pub fn was_refused(&self) -> bool {
        self.refused
    }

    /// The same range, with a note that the page's token was refused.
    pub fn noting_refusal(self) -> Self {
        Self { refused: true, ..self }
    }

    /// Whether its first page can show if the records are stable: it reaches back to known ones.
    pub fn is_probe(&self) -> bool {
        self.token.is_none() && !self.expected.is_empty()
    }

    /// The same range without its overlap, if that cannot be read.
    fn without_overlap(self, cut: Cut) -> Self {
        let range = Self::new(self.since, self.until, self.since, Fingerprints::default(), cut);
        Self { refusals: self.refusals, tolerant: self.tolerant, ..range }
    }

    /// The same range for a server whose records are not stable. It no longer expects known records, and does not
    /// request the overlap. It passes the known records on to the next range, which can then see whether the records
    /// are stable again.
    pub fn despite_contradiction(self, cut: Cut) -> Self {
        if self.token.is_some() {
            return Self { sure: 0, ..self };
        }
        let range = Self::new(self.since, self.until, self.since, Fingerprints::default(), cut);
        let from = self.until.before(cut.overlap).max(self.from);
        let keep = if from < self.since {
            Keep::following(from, self.until, &self.expected, self.since)
        } else {
            range.keep.clone()
        };
        Self { refusals: self.refusals, tolerant: self.tolerant, keep, ..range }
    }

    /// The same range, to be read again up to `until`.
    ///
    /// It expects the records that are known to be delivered. It may have to be read once more, so from now on it
    /// remembers all records, as far as there is room.
    fn again_until(self, until: Moment, cut: Cut) -> Self {
        let known: Vec<_> = self.expected.iter().chain(self.met.iter()).chain(self.keep.fingerprints()).collect();
        let expected = known.iter().skip(known.len().saturating_sub(MOST)).copied().collect();
        let keep = Keep::new(self.from, until);
        let (refusals, tolerant) = (self.refusals, self.tolerant);
        Self { refusals, keep, tolerant, ..Self::new(self.since, until, self.from, expected, cut) }
    }

    /// The same range with an earlier end, because the server's clock has not reached its end yet. Call it before the
    /// first page is taken. None if nothing is left of the range.
    pub fn shortened_to(self, end: Moment, cut: Cut) -> Option<Self> {
        let keep = Keep::new(end.before(cut.overlap).max(self.from), end);
        (end > self.since).then_some(Self { until: end, keep, ..self })
    }

    /// The range to read after the server refused the page's token: the first time from its start, later a shorter one,
    /// while there is one. None if tokens of the smallest range keep being refused.
    pub fn token_refused(self, cut: Cut) -> Option<Self> {
        let mut again = if self.refusals == 0 {
            let until = self.until;
            self.again_until(until, cut)
        } else if self.is_smallest() && self.refusals > MOST_REFUSALS {
            return None;
        } else {
            self.halved(cut)?
        };
        again.refusals = again.refusals.saturating_add(1);
        Some(again)
    }

    fn is_smallest(&self) -> bool {
        self.until.since(self.since) <= Duration::from_secs(1)
    }

    /// A smaller request: the first half of the range. If that is one second, it is the same page with repairs. After
    /// that it is the second from its start, and at last the second without its overlap. None below that.
    pub fn halved(self, cut: Cut) -> Option<Self> {
        if !self.is_smallest() {
            let until = self.until.middle(self.since);
            return Some(self.again_until(until, cut));
        }
        if !self.tolerant {
            return Some(Self { tolerant: true, ..self });
        }
        if self.token.is_some() {
            // The pages before it can be read, so only this count ends the attempts.
            if self.refusals > MOST_REFUSALS {
                return None;
            }
            let (until, refusals) = (self.until, self.refusals.saturating_add(1));
            return Some(Self { refusals, ..self.again_until(until, cut) });
        }
        (self.from < self.since).then(|| self.without_overlap(cut))
    }

    /// The length of the range, without its overlap.
    pub fn length(&self) -> Duration {
        self.until.since(self.since)
    }

    /// Takes a page: its `records` in the server's order, and the `token` of the page after it.
    pub fn take(mut self, records: Vec<Event>, token: Option<PageToken>) -> Result<Sifted, Contradiction> {
        let token = token.filter(|_| !records.is_empty());
        let telling = self.telling(&records, token.is_some());
        if let Some(token) = &token {
            self.pages = self.pages.saturating_add(1);
            let same_token = self.token.as_ref() == Some(token);
            if !self.trail.step(self.pages, &records, same_token) {
                let past = Box::new(Self { token: Some(token.clone()), ..self });
                return Err(Contradiction::Looping { past });
            }
        }
        self.refused = false;
        self.repaired |= records.iter().any(Event::is_repaired);
        let delivered = std::mem::take(&mut self.expected);
        let mut expected: Expected = delivered.iter().collect();
        let (mut deduplicated, mut shrunk) = (0, false);
        let mut doubtful = 0;
        let mut fresh = records;
        fresh.retain_mut(|event| {
            // The API may count the start of a range in.
            let is_requested = |time: Timestamp| self.from.is_not_after(time) && !self.until.is_before(time);
            if event.time().is_some_and(|time| !is_requested(time)) {
                event.doubt_time();
                doubtful += 1;
            }
            let time = event.certain_time();
            let wanted = self.keep.wants(time);
            if expected.is_empty() && !wanted {
                return true;
            }
            let fingerprint = Fingerprint::of_record(event.raw());
            if wanted {
                shrunk |= self.keep.push(time, fingerprint);
            }
            let is_met = expected.meet(fingerprint);
            deduplicated += usize::from(is_met);
            if is_met && !wanted {
                self.met.push(fingerprint);
            }
            !is_met
        });
        if deduplicated == 0 && telling >= TELLING {
            return Err(Contradiction::Unstable { expected: telling });
        }
        if deduplicated > 0 {
            self.sure = 0;
        }
        // `meet` is true for exactly the fingerprints that have not come again.
        self.expected = delivered.iter().filter(|fingerprint| expected.meet(*fingerprint)).collect();
        let next = if let Some(token) = token {
            SectigoCursor::InRange(Self { token: Some(token), ..self })
        } else {
            let tail = Tail { repaired: self.repaired, ..self.keep.into_tail() };
            SectigoCursor::Idle { since: self.until, tail }
        };
        Ok(Sifted { fresh, deduplicated, shrunk, doubtful, next })
    }

    /// The number of known records that this page must hold, if the pages before it held none.
    ///
    /// All of them must be on the last page. They must also be on a first page that covers the whole overlap. It does
    /// if it is sorted by time, leads from before `since` to after it, and has as many records from before. Any other
    /// page may hold none, because any number of late records may come first, and a server may send records in any
    /// order.
    fn telling(&self, records: &[Event], more: bool) -> usize {
        let times = || records.iter().map(Event::time);
        let is_old = |time: Option<Timestamp>| time.is_some_and(|time| !self.since.is_before(time));
        let leads_over = || {
            let ends = (times().next().flatten(), times().next_back().flatten());
            is_old(ends.0)
                && ends.1.is_some()
                && !is_old(ends.1)
                && times().all(|time| time.is_some())
                && times().is_sorted()
        };
        let has_room = || times().filter(|time| is_old(*time)).count() >= self.sure;
        if !more || (self.token.is_none() && leads_over() && has_room()) { self.sure } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::source::sectigo::page;

    const CUT: Cut = Cut { window: Duration::from_secs(3600), overlap: Duration::from_secs(300) };

    fn at(time: &str) -> Moment {
        Moment::from(format!("2026-03-01T{time}Z").parse::<Timestamp>().unwrap())
    }

    /// Records with these ids, a second apart from `start` on.
    fn records(start: &str, ids: std::ops::Range<u64>) -> Vec<Event> {
        let record =
            |(n, id): (u64, u64)| format!(r#"{{"id":{id},"created":"{}"}}"#, at(start).after(Duration::from_secs(n)));
        let body: Vec<_> = (0..).zip(ids).map(record).collect();
        page::records(&Bytes::from(format!("[{}]", body.join(",")))).unwrap()
    }

    fn token(name: &str) -> PageToken {
        PageToken(name.to_owned())
    }

    fn enter(cursor: SectigoCursor, end: &str) -> InRange {
        cursor.enter(at(end), CUT).unwrap()
    }

    fn in_range(sifted: Sifted) -> InRange {
        match sifted.next {
            SectigoCursor::InRange(range) => range,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_backlog_is_read_in_windows_and_each_range_starts_in_the_one_before() {
        let first = enter(SectigoCursor::starting_at(at("08:00:00")), "12:00:00");
        assert_eq!(
            (first.from(), first.until()),
            (at("08:00:00"), at("09:00:00")),
            "never before the very first since"
        );
        let next = first.take(records("08:57:00", 0..100), None).unwrap().next;
        let second = enter(next, "12:00:00");
        assert_eq!((second.since(), second.from(), second.until()), (at("09:00:00"), at("08:55:00"), at("10:00:00")));
        let again = second.take(records("08:57:00", 0..110), None).unwrap();
        assert_eq!((again.deduplicated, again.fresh.len()), (100, 10), "ten became visible late");
    }

    #[test]
    fn every_record_is_delivered_once_whether_or_not_the_api_counts_the_start_of_a_range_in() {
        let all = records("08:00:01", 0..14_400);
        for (is_inclusive, overlap) in [(true, 0), (true, 60), (false, 0), (false, 60)] {
            let cut = Cut { window: Duration::from_secs(1800), overlap: Duration::from_secs(overlap) };
            let (mut cursor, mut delivered, mut doubtful) = (SectigoCursor::starting_at(at("08:00:00")), 0, 0);
            while let Some(range) = cursor.clone().enter(at("12:00:00"), cut) {
                let (from, until) = (Timestamp::from(range.from()), Timestamp::from(range.until()));
                let is_shown = |time: Timestamp| (time > from || (is_inclusive && time == from)) && time <= until;
                let page = all.iter().filter(|event| event.time().is_some_and(is_shown)).cloned().collect();
                let sifted = range.take(page, None).unwrap();
                delivered += sifted.fresh.len();
                doubtful += sifted.doubtful;
                cursor = sifted.next;
            }
            assert_eq!((delivered, doubtful), (14_400, 0), "inclusive: {is_inclusive}, overlap: {overlap}");
        }
    }

    #[test]
    fn records_at_the_start_of_a_range_may_be_absent() {
        let burst: Vec<_> = (0..30).map(|id| format!(r#"{{"id":{id},"created":"2026-03-01T11:55:00Z"}}"#)).collect();
        let burst = page::records(&Bytes::from(format!("[{}]", burst.join(",")))).unwrap();
        let range = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00");
        let next = enter(range.take(burst, None).unwrap().next, "12:01:00");
        assert_eq!(next.from(), at("11:55:00"));
        assert!(next.take(Vec::new(), None).is_ok());
    }

    #[test]
    fn a_burst_larger_than_the_memory_is_not_taken_for_unstable_records() {
        let range = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00");
        let burst: Vec<_> =
            (0..5000).map(|id| format!(r#"{{"id":{id},"created":"2026-03-01T11:59:10.5Z"}}"#)).collect();
        let burst = page::records(&Bytes::from(format!("[{}]", burst.join(",")))).unwrap();
        let sifted = range.take(burst, None).unwrap();
        assert!(sifted.shrunk);
        let next = enter(sifted.next, "12:01:00");
        assert_eq!(next.from(), at("11:59:11"));
        assert!(next.take(Vec::new(), None).is_ok());
    }

    #[test]
    fn records_that_are_gone_contradict_those_that_were_there() {
        let delivered =
            || enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00").take(records("11:58:00", 0..30), None);
        let next = || enter(delivered().unwrap().next, "12:01:00");
        assert_eq!(next().take(Vec::new(), None).unwrap_err(), Contradiction::Unstable { expected: 30 });
        assert_eq!(
            next().take(records("11:58:00", 100..130), None).unwrap_err(),
            Contradiction::Unstable { expected: 30 }
        );
        assert!(next().take(records("11:58:29", 29..40), None).is_ok(), "one of them is enough");
        let few = next().take(records("11:59:50", 100..130), Some(token("t")));
        assert!(few.is_ok(), "of a page with room for fewer, the others may follow");
        let others = || records("11:59:20", 100..150);
        let unstable = Contradiction::Unstable { expected: 30 };
        assert_eq!(next().take(others(), Some(token("t"))).unwrap_err(), unstable, "in order, they would stand here");
        let newest_first: Vec<_> = others().into_iter().rev().collect();
        let later = next().take(newest_first, Some(token("t"))).unwrap();
        assert_eq!(in_range(later).take(Vec::new(), None).unwrap_err(), unstable, "on no page at all");
    }

    #[test]
    fn a_range_read_again_repeats_nothing_that_is_remembered() {
        let before = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00")
            .take(records("11:56:00", 0..60), None)
            .unwrap();
        let range = enter(before.next, "13:00:00");
        let first =
            range.take([records("11:56:00", 0..60), records("12:00:01", 60..80)].concat(), Some(token("a"))).unwrap();
        assert_eq!((first.deduplicated, first.fresh.len()), (60, 20));
        let again = in_range(first).token_refused(CUT).unwrap();
        assert_eq!((again.token(), again.until()), (None, at("13:00:00")));
        let first =
            again.take([records("11:56:00", 0..60), records("12:00:01", 60..80)].concat(), Some(token("b"))).unwrap();
        assert_eq!(first.deduplicated, 60, "what the range before delivered is known still");
        let halved = in_range(first).token_refused(CUT).unwrap();
        assert_eq!((halved.until(), halved.from()), (at("12:30:00"), at("11:55:00")));
        let third = halved.take([records("11:56:00", 0..60), records("12:00:01", 60..80)].concat(), None).unwrap();
        assert_eq!((third.deduplicated, third.fresh.len()), (80, 0), "read again, a range is remembered whole");
    }

    #[test]
    fn halving_ends_at_one_second_without_overlap() {
        let before = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00")
            .take(records("11:56:00", 0..60), None)
            .unwrap();
        let mut range = enter(before.next, "13:00:00");
        let mut steps = 0;
        while let Some(smaller) = range.clone().halved(CUT) {
            let repairs = smaller.is_tolerant() && !range.is_tolerant();
            assert!(smaller.length() < range.length() || smaller.from() > range.from() || repairs);
            range = smaller;
            steps += 1;
        }
        assert_eq!(
            (range.since(), range.from(), range.length()),
            (at("12:00:00"), at("12:00:00"), Duration::from_secs(1))
        );
        assert!(steps <= 15, "{steps}");
    }

    #[test]
    fn pages_that_go_in_a_circle_are_noticed() {
        for circle in 1..6 {
            let mut range = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00");
            let mut looping = false;
            for page in 0..30 {
                let name = (page % circle).to_string();
                match range.take(records("11:10:00", page % circle..page % circle + 1), Some(token(&name))) {
                    Ok(sifted) => range = in_range(sifted),
                    Err(contradiction) => {
                        assert!(matches!(contradiction, Contradiction::Looping { .. }));
                        looping = true;
                        break;
                    }
                }
            }
            assert!(looping, "a circle of {circle}");
        }
    }

    #[test]
    fn the_same_records_in_another_order_with_each_fresh_token_are_noticed() {
        let mut random = fastrand::Rng::with_seed(7);
        for count in [13, 150] {
            let mut range = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00");
            let refused_at = (1..100).find(|page| {
                let mut shuffled = records("11:10:00", 0..count);
                random.shuffle(&mut shuffled);
                match range.clone().take(shuffled, Some(token(&page.to_string()))) {
                    Ok(sifted) => range = in_range(sifted),
                    Err(contradiction) => return matches!(contradiction, Contradiction::Looping { .. }),
                }
                false
            });
            assert!(refused_at.is_some_and(|page| page <= 3), "{count}: {refused_at:?}");
        }
    }

    #[test]
    fn a_server_that_leaves_its_circle_is_read_on_behind_it() {
        let page = |n: u64| records("11:10:00", n * 20..n * 20 + 20);
        let range = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00");
        let range = in_range(range.take(page(0), Some(token("a"))).unwrap());
        let range = in_range(range.take(page(1), Some(token("b"))).unwrap());
        let past = |range: InRange, n, name| match range.take(page(n), Some(token(name))).unwrap_err() {
            Contradiction::Looping { past } => *past,
            other @ Contradiction::Unstable { .. } => panic!("{other:?}"),
        };
        let range = past(past(range, 0, "c"), 1, "d");
        assert_eq!(range.token(), Some(&token("d")));
        assert_eq!(range.take(page(2), Some(token("e"))).unwrap().fresh.len(), 20);
    }

    #[test]
    fn one_handle_for_many_pages_is_no_circle() {
        let mut range = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00");
        for page in 0..50 {
            range = in_range(range.take(records("11:10:00", page..page + 1), Some(token("scroll"))).unwrap());
        }
    }

    #[test]
    fn a_slow_server_clock_shortens_a_range_and_keeps_what_is_known() {
        let before = enter(SectigoCursor::starting_at(at("11:00:00")), "12:00:00")
            .take(records("11:58:00", 0..30), None)
            .unwrap();
        let range = enter(before.next, "12:01:00").shortened_to(at("12:00:20"), CUT).unwrap();
        assert_eq!((range.from(), range.until()), (at("11:55:00"), at("12:00:20")));
        assert_eq!(range.clone().take(records("11:58:00", 0..30), None).unwrap().deduplicated, 30);
        assert!(range.shortened_to(at("12:00:00"), CUT).is_none());
    }
}
