//! Decides which records of a range were delivered with the one before, and which to remember for the next.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use crate::fingerprint::{Fingerprint, Fingerprints};

/// The most fingerprints that the state keeps of one overlap.
pub const MOST: usize = 4096;

/// The number of fingerprints that are forgotten at once, so that their times need not be kept one by one.
const BLOCK: usize = 512;

/// The records delivered at the end of the history so far.
///
/// It holds the fingerprint of every delivered record with a time in [`from`, the end]. So the next range may start at
/// `from`, and no earlier. Records of exactly `from` are among them, because the API may count the start of a range in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// The earliest start of the next range.
    pub from: Moment,
    /// The fingerprints of the records that the next range will find there.
    pub delivered: Fingerprints,
    /// The number of those records whose time is known to lie after `from`. The API must show them again. The others lie
    /// at `from`, or have no time that was understood and may lie before.
    pub dated: usize,
    /// Whether one of them needed a repair, so that the next range must be read with repairs, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repaired: bool,
}

/// The tail of a range that is being read: a [`Tail`] in the making.
///
/// It holds at most [`MOST`] fingerprints. When there are more, it forgets the oldest block, and `from` rises to the
/// newest time in that block. The overlap shrinks, but it still covers everything after `from`, whatever the order of
/// the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    from: Moment,
    until: Moment,
    blocks: VecDeque<Block>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shrunk: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    newest: Moment,
    dated: usize,
    records: Fingerprints,
}

impl Keep {
    /// Starts for a range that ends at `until`, and remembers its records from `from` on.
    pub fn new(from: Moment, until: Moment) -> Self {
        Self { from: from.min(until), until, blocks: VecDeque::new(), shrunk: false }
    }

    /// Starts with the `known` fingerprints between `from` and `since`, where the range begins.
    pub fn following(from: Moment, until: Moment, known: &Fingerprints, since: Moment) -> Self {
        let mut keep = Self::new(from, until);
        for fingerprint in known.iter() {
            keep.remember(since.min(until), 0, fingerprint);
        }
        keep
    }

    /// Whether a record with this time must be remembered. A record without a known time may lie anywhere.
    pub fn wants(&self, time: Option<Timestamp>) -> bool {
        time.map_or(self.from < self.until, |time| self.from.is_not_after(time))
    }

    /// Remembers a record. True if the overlap had to shrink for the first time.
    pub fn push(&mut self, time: Option<Timestamp>, fingerprint: Fingerprint) -> bool {
        let dated = usize::from(time.is_some_and(|time| self.from.is_before(time)));
        // Rounded up, so that `from` never falls below a forgotten record.
        let newest = time.map_or(self.until, |time| Moment::from(time).after(std::time::Duration::from_secs(1)));
        self.remember(newest, dated, fingerprint)
    }

    fn remember(&mut self, newest: Moment, dated: usize, fingerprint: Fingerprint) -> bool {
        match self.blocks.back_mut() {
            Some(block) if block.records.len() < BLOCK => {
                block.newest = block.newest.max(newest);
                block.dated += dated;
                block.records.push(fingerprint);
            }
            _ => self.blocks.push_back(Block { newest, dated, records: Fingerprints::from_iter([fingerprint]) }),
        }
        if self.blocks.len() > MOST / BLOCK
            && let Some(oldest) = self.blocks.pop_front()
        {
            self.from = self.from.max(oldest.newest).min(self.until);
            return !std::mem::replace(&mut self.shrunk, true);
        }
        false
    }

    /// All remembered fingerprints, in the order of reading.
    pub fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> {
        self.blocks.iter().flat_map(|block| block.records.iter())
    }

    /// Makes the tail for the next range, when this one has been read.
    pub fn into_tail(self) -> Tail {
        // If a block was forgotten, some of the others may lie before `from`, too.
        let dated = if self.shrunk { 0 } else { self.blocks.iter().map(|block| block.dated).sum() };
        Tail { from: self.from, delivered: self.fingerprints().collect(), dated, repaired: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn print(n: usize) -> Fingerprint {
        Fingerprint::of_parts([n.to_be_bytes().as_slice()])
    }

    #[test]
    fn too_many_records_shrink_the_overlap_and_forget_none_behind_it() {
        let mut keep = Keep::new(at(0).into(), at(100_000).into());
        let mut warnings = 0;
        let total = MOST * 2 + 100;
        for n in 0..total {
            // Out of order within a stretch of 64 seconds.
            let second = i64::try_from((n / 64) * 64 + (63 - n % 64)).unwrap();
            warnings += usize::from(keep.push(Some(at(second)), print(n)));
            assert!(keep.fingerprints().count() <= MOST);
        }
        assert_eq!(warnings, 1);
        let tail = keep.into_tail();
        let kept: std::collections::HashSet<_> = tail.delivered.iter().collect();
        for n in 0..total {
            let second = i64::try_from((n / 64) * 64 + (63 - n % 64)).unwrap();
            assert!(
                kept.contains(&print(n)) || !tail.from.is_before(at(second)),
                "record {n} at {second} is forgotten"
            );
        }
    }

    #[test]
    fn records_without_a_time_shrink_the_overlap_to_nothing_rather_than_being_forgotten() {
        let mut keep = Keep::new(at(0).into(), at(1000).into());
        for n in 0..=MOST {
            keep.push(None, print(n));
        }
        assert!(!keep.wants(None));
        assert_eq!(keep.into_tail().from, Moment::from(at(1000)));
    }
}
