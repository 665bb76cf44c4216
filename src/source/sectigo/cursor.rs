//! The cursor of the audit API: how far its history has been read.
//!
//! This module computes only: it makes no call and reads no clock.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::overlap::Tail;
use super::range::InRange;
use crate::fingerprint::Fingerprints;

/// The limits of ranges.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The longest range.
    pub window: Duration,
    /// How far a range reaches back into the range before it.
    pub overlap: Duration,
}

/// How far the history has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case", deny_unknown_fields)]
pub enum SectigoCursor {
    /// The very first sync: its start is by this machine's clock, which no answer has confirmed yet.
    First {
        /// The time of the start, less the lookback.
        since: Moment,
    },
    /// Between two ranges: everything up to `since` is delivered.
    Idle {
        /// The end of the history so far.
        since: Moment,
        /// The records delivered just before it.
        tail: Tail,
    },
    /// Within a range.
    InRange(InRange),
}

impl SectigoCursor {
    /// Starts just after `since`, without knowledge of the time before, which is never read again.
    pub fn starting_at(since: Moment) -> Self {
        let tail = Tail { from: since, delivered: Fingerprints::default(), dated: 0, repaired: false };
        Self::Idle { since, tail }
    }

    /// The time up to which everything is delivered.
    pub fn since(&self) -> Moment {
        match self {
            Self::First { since } | Self::Idle { since, .. } => *since,
            Self::InRange(range) => range.since(),
        }
    }

    /// The time up to which everything is delivered, including records that became visible late. No later range begins
    /// before this time.
    pub fn settled(&self) -> Moment {
        match self {
            Self::First { since } => *since,
            Self::Idle { tail, .. } => tail.from,
            Self::InRange(range) => range.from(),
        }
    }

    /// The next range to read, in a history that ends at `end`; none if there is nothing to request yet.
    pub fn enter(self, end: Moment, cut: Cut) -> Option<InRange> {
        match self {
            Self::InRange(range) => Some(range),
            Self::First { since } => Self::starting_at(since).enter(end, cut),
            Self::Idle { since, tail } => {
                let until = end.min(since.after(cut.window));
                if until <= since {
                    return None;
                }
                Some(InRange::following(since, tail, until, cut))
            }
        }
    }
}

/// The end of the history that may be requested: the present less the delay. The present is the server's time where it
/// is known, or else ours.
pub fn end_of_history(ours: Timestamp, theirs: Option<Timestamp>, delay: Duration) -> Moment {
    Moment::from(theirs.unwrap_or(ours)).before(delay)
}

/// The start of the very first sync by the server's clock: never later than `since`, which our clock gave.
///
/// This assumes that our clock was as far ahead at the start as it is now. If it has been set since, the lookback
/// counts from now. A clock that is behind only makes the lookback longer.
pub fn first_since(since: Moment, ours: Timestamp, theirs: Timestamp, lookback: Duration) -> Moment {
    let theirs = Moment::from(theirs);
    let ahead = Moment::from(ours).since(theirs);
    since.before(ahead).min(theirs.before(lookback))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Moment {
        Moment::from(format!("2026-03-01T{time}Z").parse::<Timestamp>().unwrap())
    }

    #[test]
    fn the_history_ends_by_the_servers_clock_where_it_is_known() {
        let (ours, theirs) = (Timestamp::from(at("12:00:00")), Timestamp::from(at("13:00:00")));
        let delay = Duration::from_secs(30);
        assert_eq!(end_of_history(ours, Some(theirs), delay), at("12:59:30"), "ours is behind");
        assert_eq!(end_of_history(theirs, Some(ours), delay), at("11:59:30"), "ours is ahead");
        assert_eq!(end_of_history(ours, None, delay), at("11:59:30"));
    }

    #[test]
    fn the_first_lookback_counts_from_the_servers_time() {
        let lookback = Duration::from_secs(3600);
        let first = |since, ours, theirs| first_since(at(since), at(ours).into(), at(theirs).into(), lookback);
        assert_eq!(first("11:00:00", "12:00:00", "12:00:00"), at("11:00:00"));
        assert_eq!(first("11:00:00", "15:00:00", "15:00:00"), at("11:00:00"), "an outage costs nothing");
        assert_eq!(first("20:00:00", "21:00:00", "12:00:00"), at("11:00:00"), "nine hours ahead");
        assert_eq!(first("20:00:00", "23:00:00", "14:00:00"), at("11:00:00"), "the same, after an outage of two hours");
        assert_eq!(first("20:00:00", "12:05:00", "12:05:00"), at("11:05:00"), "our clock was set since");
        assert_eq!(first("02:00:00", "03:00:00", "12:00:00"), at("02:00:00"), "nine hours behind");
    }
}
