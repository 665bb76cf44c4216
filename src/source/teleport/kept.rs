//! The memory of delivered events that may come again.

use std::collections::{HashSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fingerprint::{Fingerprint, Fingerprints};

/// The most identifiers that the state keeps, in about 90 KiB.
pub(super) const MOST: usize = 8192;

/// The number of identifiers that are forgotten at once, so that their times need not be kept one by one.
const BLOCK: usize = 512;

/// The identifiers of delivered events: of all events later than `from`, and of some earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    from: Timestamp,
    blocks: VecDeque<Block>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    /// The time of the newest event, among those that have a time.
    newest: Timestamp,
    /// The time up to which the events without a time may come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undated: Option<Timestamp>,
    prints: Fingerprints,
}

impl Kept {
    /// A memory without a delivered event. Events up to `from` count as delivered.
    pub(super) fn nothing(from: Timestamp) -> Self {
        Self { from, blocks: VecDeque::new() }
    }

    /// The time up to which events count as delivered.
    pub(super) fn from(&self) -> Timestamp {
        self.from
    }

    /// Whether it has run out of room, or soon will.
    pub(super) fn is_full(&self) -> bool {
        self.blocks.len() >= MOST / BLOCK
    }

    /// All remembered identifiers, for look-ups.
    pub(super) fn prints(&self) -> HashSet<Fingerprint> {
        self.blocks.iter().flat_map(|block| block.prints.iter()).collect()
    }

    /// Remembers a delivered event. An event without a time, or with one after the window, may come again anywhere
    /// before `until`.
    pub(super) fn push(&mut self, time: Option<Timestamp>, print: Fingerprint, until: Timestamp) {
        // Some backends search by whole seconds, so an event may lie less than a second after the end.
        let latest = until.saturating_add(jiff::SignedDuration::from_secs(1)).unwrap_or(until);
        let time = time.filter(|time| *time <= latest);
        let undated = time.is_none().then_some(latest);
        let newest = time.unwrap_or(self.from);
        match self.blocks.back_mut() {
            Some(block) if block.prints.len() < BLOCK => {
                block.newest = block.newest.max(newest);
                block.undated = block.undated.max(undated);
                block.prints.push(print);
            }
            _ => self.blocks.push_back(Block { newest, undated, prints: Fingerprints::from_iter([print]) }),
        }
        if self.blocks.len() > MOST / BLOCK
            && let Some(oldest) = self.blocks.pop_front()
        {
            // An event without a time does not show how far the window has been read.
            self.from = self.from.max(oldest.newest);
        }
    }

    /// Forgets events at `from` and before.
    #[must_use]
    pub(super) fn behind(mut self, from: Timestamp) -> Self {
        self.blocks.retain(|block| block.undated.max(Some(block.newest)) > Some(from));
        self.from = self.from.max(from);
        self
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    pub(in super::super) fn print(n: i64) -> Fingerprint {
        Fingerprint::of_parts([n.to_be_bytes().as_slice()])
    }

    #[test]
    fn every_delivered_event_behind_from_is_remembered_in_any_order() {
        let mut kept = Kept::nothing(at(0));
        // Out of order within a stretch of 64 seconds.
        let times: Vec<i64> = (0..30_000).map(|n| n / 64 * 64 + (63 - n % 64)).collect();
        for (n, second) in (0..).zip(&times) {
            kept.push(Some(at(*second)), print(n), at(1_000_000));
        }
        let prints = kept.prints();
        assert!(prints.len() <= MOST && prints.len() > MOST - 2 * BLOCK, "{}", prints.len());
        for (n, second) in (0..).zip(times) {
            assert!(prints.contains(&print(n)) || at(second) <= kept.from(), "{n} at {second} is forgotten");
        }
        assert!(serde_json::to_string(&kept).unwrap().len() < 100 * 1024);
    }

    #[test]
    fn what_lies_before_the_overlap_is_forgotten() {
        let mut kept = Kept::nothing(at(0));
        (0..2048).for_each(|n| kept.push(Some(at(n)), print(n), at(2047)));
        let kept = kept.behind(at(1500));
        assert_eq!(kept.from(), at(1500));
        let prints = kept.prints();
        assert!((1501..2048).all(|n| prints.contains(&print(n))));
        assert!(prints.len() < 1100);
        assert_eq!(kept.clone().behind(at(5)).from(), at(1500), "it never goes back");
    }

    #[test]
    fn an_event_without_a_time_forgets_nothing_but_itself() {
        for time in [None, Some(Timestamp::MAX)] {
            let mut kept = Kept::nothing(at(0));
            kept.push(time, print(-1), at(1_000_000));
            (0..10_000).for_each(|n| kept.push(Some(at(n)), print(n), at(1_000_000)));
            assert!(kept.from() < at(10_000), "{}", kept.from());
            let prints = kept.prints();
            for n in 0..10_000 {
                assert!(prints.contains(&print(n)) || at(n) <= kept.from(), "{n} is forgotten");
            }
        }
    }

    #[test]
    fn an_event_from_the_future_or_without_a_time_counts_as_one_of_the_window() {
        for time in [None, Some(Timestamp::MAX)] {
            let mut kept = Kept::nothing(at(0));
            kept.push(time, print(1), at(100));
            assert!(kept.clone().behind(at(100)).prints().contains(&print(1)));
            assert!(kept.behind(at(101)).prints().is_empty());
        }
    }
}
