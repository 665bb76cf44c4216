//! Whole seconds: the unit in which ranges are cut.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A whole second in UTC. Its text is RFC 3339, as the audit API requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Timestamp", into = "Timestamp")]
pub struct Moment(Timestamp);

impl From<Timestamp> for Moment {
    /// Rounds `time` down to its second.
    fn from(time: Timestamp) -> Self {
        let below = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
        // The lowest timestamps have no whole second below them; they stay where they are.
        Self(Timestamp::from_second(below).unwrap_or(Timestamp::MIN))
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Self {
        moment.0
    }
}

impl Moment {
    /// The moment this much earlier, or the earliest time there is.
    pub fn before(self, span: Duration) -> Self {
        self.0.checked_sub(span).map_or(Self(Timestamp::MIN), Self::from)
    }

    /// The moment this much later, or the latest time there is.
    pub fn after(self, span: Duration) -> Self {
        self.0.checked_add(span).map_or(Self(Timestamp::MAX), Self::from)
    }

    /// The time from `earlier` to here; zero if that is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or_default()
    }

    /// The second halfway between `earlier` and here, rounded towards `earlier`.
    pub fn middle(self, earlier: Self) -> Self {
        earlier.after(Duration::from_secs(self.since(earlier).as_secs() / 2))
    }

    /// Whether `time` lies at the start of this second or after it, to the nanosecond.
    pub fn is_not_after(self, time: Timestamp) -> bool {
        self.0 <= time
    }

    /// Whether `time` lies after this second, to the nanosecond.
    pub fn is_before(self, time: Timestamp) -> bool {
        time.duration_since(self.0) > SignedDuration::ZERO
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_never_lies_after_its_time() {
        for (text, expected) in [
            ("2026-01-01T00:00:00.999Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(Moment::from(text.parse::<Timestamp>().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn arithmetic_stays_within_time() {
        let last = Moment::from(Timestamp::MAX);
        assert_eq!(last.after(Duration::MAX).0, Timestamp::MAX);
        assert_eq!(last.before(Duration::MAX).0, Timestamp::MIN);
        let (start, end) = (Moment::from(Timestamp::UNIX_EPOCH), Moment::from(Timestamp::from_second(5).unwrap()));
        assert_eq!(end.middle(start).to_string(), "1970-01-01T00:00:02Z");
        assert_eq!(start.since(end), Duration::ZERO);
    }
}
