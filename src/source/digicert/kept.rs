//! The memory of delivered rows: hashes of the newest ones, by which the source recognises them in the next run.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fingerprint::{Expected, Fingerprint, Fingerprints};

/// The most hashes that the state keeps, in about 180 KiB.
pub(super) const MOST: usize = 16 * 1024;

/// The seconds in a minute. Hashes are forgotten a minute at a time, so that their times need not be kept one by one.
const MINUTE: i64 = 60;

/// All delivered rows after `since`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Rows of this time and before count as delivered.
    pub(super) since: Timestamp,
    /// The hashes of the delivered rows after it, by the minute.
    minutes: BTreeMap<i64, Fingerprints>,
}

impl Kept {
    /// A memory without a delivered row. Rows up to `since` count as delivered.
    pub(super) fn nothing(since: Timestamp) -> Self {
        Self { since, minutes: BTreeMap::new() }
    }

    /// The hashes that should come again.
    pub(super) fn expected(&self) -> Expected {
        self.minutes.values().flat_map(Fingerprints::iter).collect()
    }

    /// Whether anything is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.minutes.is_empty()
    }
}

fn minute_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(MINUTE)
}

fn end_of(minute: i64) -> Timestamp {
    Timestamp::from_second(minute.saturating_add(1).saturating_mul(MINUTE).saturating_sub(1)).unwrap_or(Timestamp::MAX)
}

/// The memory of a run in the making: takes its rows one by one in any order. Its size is bounded.
#[derive(Debug)]
pub(super) struct Keeping {
    overlap: Duration,
    /// The start of the run.
    began: Timestamp,
    newest: Option<Timestamp>,
    minutes: BTreeMap<i64, Fingerprints>,
    count: usize,
    /// The end of the newest minute that did not fit.
    dropped: Option<Timestamp>,
}

impl Keeping {
    /// Starts for a run that began at `began`, with `high` as the newest delivered time so far.
    pub(super) fn new(overlap: Duration, began: Timestamp, high: Option<Timestamp>) -> Self {
        Self { overlap, began, newest: high, minutes: BTreeMap::new(), count: 0, dropped: None }
    }

    /// The newest time so far.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Adds a delivered row with this time.
    pub(super) fn push(&mut self, time: Timestamp, fingerprint: Fingerprint) {
        // A row from the future must not make present rows look old.
        self.newest = self.newest.max(Some(time.min(self.began)));
        self.insert(minute_of(time), fingerprint);
    }

    fn insert(&mut self, minute: i64, fingerprint: Fingerprint) {
        if self.window().is_some_and(|since| end_of(minute) <= since)
            || self.dropped.is_some_and(|end| end_of(minute) <= end)
        {
            return;
        }
        self.minutes.entry(minute).or_default().push(fingerprint);
        self.count += 1;
        if self.count > MOST {
            self.prune();
        }
        while self.count > MOST
            && let Some((minute, prints)) = self.minutes.pop_first()
        {
            self.count -= prints.len();
            self.dropped = Some(end_of(minute));
        }
    }

    fn window(&self) -> Option<Timestamp> {
        Some(self.newest?.checked_sub(self.overlap).unwrap_or(Timestamp::MIN))
    }

    fn prune(&mut self) {
        let Some(since) = self.window() else { return };
        while let Some(entry) = self.minutes.first_entry()
            && end_of(*entry.key()) <= since
        {
            self.count -= entry.remove().len();
        }
    }

    /// Makes the memory for the next run, when this one has been read. `before` is the memory that this run began with.
    /// `unmet` are its hashes that did not come again, and `undated` are the run's rows without a time. True if the
    /// overlap had to shrink.
    pub(super) fn finish(mut self, before: &Kept, mut unmet: Expected, undated: &[Fingerprint]) -> (Kept, bool) {
        // If no row with a time was ever delivered, `since` stays where it is.
        let newest = *self.newest.get_or_insert(before.since);
        // Undated rows come with each run, so they count as newer than the newest row: no overlap is too short for them.
        for fingerprint in undated {
            self.insert(minute_of(newest).saturating_add(1), *fingerprint);
        }
        for (minute, prints) in &before.minutes {
            for fingerprint in prints.iter() {
                if unmet.meet(fingerprint) {
                    self.insert(*minute, fingerprint);
                }
            }
        }
        self.prune();
        let window = self.window().unwrap_or(before.since).max(before.since);
        let shrunk = self.dropped.is_some_and(|end| end > window);
        // Never later than the newest row, because newer rows are not delivered yet.
        let since = self.dropped.map_or(window, |end| end.max(window)).min(newest.max(before.since));
        (Kept { since, minutes: self.minutes }, shrunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn print(n: i64) -> Fingerprint {
        Fingerprint::of_parts([n.to_be_bytes().as_slice()])
    }

    fn kept_of(times: impl Iterator<Item = i64>) -> (Kept, bool) {
        let mut keeping = Keeping::new(DAY, Timestamp::MAX, None);
        for (n, second) in (0..).zip(times) {
            keeping.push(at(second), print(n));
        }
        keeping.finish(&Kept::nothing(Timestamp::UNIX_EPOCH), Expected::default(), &[])
    }

    #[test]
    fn every_row_behind_since_is_remembered_in_any_order() {
        for reversed in [false, true] {
            let seconds: Vec<i64> = (0..1000).map(|n| 1_000_000 + n * 600).collect();
            let order: Vec<i64> = if reversed { seconds.iter().rev().copied().collect() } else { seconds.clone() };
            let (kept, shrunk) = kept_of(order.iter().copied());
            assert_eq!(kept.since, at(1_000_000 + 999 * 600 - 86_400));
            let mut expected = kept.expected();
            assert!(!shrunk && expected.len() < 160, "{}", expected.len());
            for (n, second) in (0..).zip(&order) {
                assert!(at(*second) <= kept.since || expected.meet(print(n)), "{second}");
            }
        }
    }

    #[test]
    fn more_rows_than_the_state_holds_shrink_the_overlap_and_forget_none_behind_it() {
        let order = (0..100_000).map(|n| 1_000_000 + (n * 7919) % 80_000);
        let (kept, shrunk) = kept_of(order.clone());
        let mut expected = kept.expected();
        assert!(shrunk && expected.len() <= MOST);
        for (n, second) in (0..).zip(order) {
            assert!(at(second) <= kept.since || expected.meet(print(n)), "{second}");
        }
        assert!(serde_json::to_string(&kept).unwrap().len() < 300 * 1024);
    }

    #[test]
    fn since_never_passes_the_newest_row() {
        let (kept, shrunk) = kept_of((0..20_000).map(|_| 1_000_000));
        assert_eq!((kept.since, shrunk), (at(1_000_000), true));
    }

    #[test]
    fn equal_rows_are_remembered_as_often_as_they_were_delivered() {
        let mut keeping = Keeping::new(DAY, Timestamp::MAX, None);
        (0..3).for_each(|_| keeping.push(at(1000), print(1)));
        let (kept, _) = keeping.finish(&Kept::nothing(at(0)), Expected::default(), &[]);
        assert_eq!(kept.expected().len(), 3);
    }

    #[test]
    fn a_row_from_the_future_does_not_make_the_present_look_old() {
        let mut keeping = Keeping::new(DAY, at(1_000_000), None);
        keeping.push(at(9_000_000), print(1));
        let (kept, _) = keeping.finish(&Kept::nothing(at(0)), Expected::default(), &[]);
        assert_eq!((kept.since, kept.expected().len()), (at(1_000_000 - 86_400), 1));
    }

    #[test]
    fn an_undated_row_is_remembered_whatever_the_newest_row_and_the_overlap() {
        for overlap in [Duration::ZERO, DAY] {
            for (newest, since) in [(None, 1000), (None, 1019), (Some(1019), 0), (Some(1020), 0)] {
                let before = Kept::nothing(at(since));
                let run = || Keeping::new(overlap, Timestamp::MAX, newest.map(at));
                let (first, _) = run().finish(&before, Expected::default(), &[print(1)]);
                assert_eq!(first.expected().len(), 1, "{newest:?} {overlap:?}");
                let mut expected = first.expected();
                assert!(expected.meet(print(1)));
                let (second, _) = run().finish(&first, expected, &[print(1)]);
                assert_eq!(second, first, "{newest:?} {overlap:?}");
                assert!(first.since <= at(newest.unwrap_or(since)) && first.since >= at(since), "{}", first.since);
            }
        }
        let whole = Keeping::new(DAY, Timestamp::MAX, None);
        let (kept, _) = whole.finish(&Kept::nothing(Timestamp::MIN), Expected::default(), &[print(1)]);
        assert_eq!((kept.since, kept.expected().len()), (Timestamp::MIN, 1));
    }

    #[test]
    fn what_a_run_does_not_show_is_remembered_for_the_next() {
        let (before, _) = kept_of(1_000_000..1_000_010);
        let keeping = Keeping::new(DAY, Timestamp::MAX, Some(at(1_000_009)));
        let (kept, _) = keeping.finish(&before, before.expected(), &[]);
        assert_eq!(kept, before);
    }
}
