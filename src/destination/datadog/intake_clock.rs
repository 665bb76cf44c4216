//! The intake's clock, and whether it counts.
//!
//! Datadog's own clock decides which entries Datadog drops. A relay's clock stands for it, but may be wrong by itself. So
//! the source's clock and this machine's outvote it where they agree.

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::response::Intake;
use crate::clock::{LocalTime, whole_seconds};
use crate::http::Address;
use crate::server_time::{Reading, ServerClock, TOLERANCE};

/// The clock of one intake.
#[derive(Debug)]
pub(super) struct IntakeClock {
    intake: Intake,
    readings: ServerClock,
    votes: Mutex<Votes>,
}

#[derive(Debug, Default)]
struct Votes {
    /// By how much the source's clock is ahead of ours, where it is known.
    source: Option<SignedDuration>,
    /// Whether the log already says that the relay's clock is wrong.
    is_reported: bool,
}

impl IntakeClock {
    /// A clock of which nothing is known yet.
    pub(super) fn of(intake: Intake) -> Self {
        Self { intake, readings: ServerClock::default(), votes: Mutex::default() }
    }

    /// Notes the source's time beside ours, which was read at the same moment.
    pub(super) fn note_source(&self, theirs: Option<Timestamp>, ours: Timestamp) {
        self.votes.lock().source = theirs.map(|theirs| theirs.duration_since(ours));
    }

    /// Notes the `Date` of an answer from `address` to a call from `asked` to `answered`.
    pub(super) fn note(&self, address: &Address, date: Option<Timestamp>, (asked, answered): (LocalTime, LocalTime)) {
        if let Some(date) = date {
            let theirs = Reading { date, asked, answered }.at(answered);
            let is_wrong = self.is_outvoted(theirs, answered.wall);
            let was_wrong = std::mem::replace(&mut self.votes.lock().is_reported, is_wrong);
            if is_wrong && !was_wrong {
                let apart = theirs.duration_since(answered.wall);
                let direction = if apart.is_negative() { "behind" } else { "ahead of" };
                tracing::warn!(
                    theirs = %date, ours = %answered.wall,
                    "the clock of {address} is wrong: it is {} {direction} this machine's clock and the source's, which agree. Their time \
                     counts. Synchronise the clock of {address} (NTP)",
                    whole_seconds(apart.unsigned_abs())
                );
            }
            if is_wrong {
                return;
            }
        }
        self.readings.note(address, date, (asked, answered));
    }

    /// The intake's time at `moment`, if it is known `now` and counts.
    pub(super) fn at(&self, moment: LocalTime, now: LocalTime) -> Option<Timestamp> {
        self.readings.at(moment, now).filter(|theirs| !self.is_outvoted(*theirs, moment.wall))
    }

    fn is_outvoted(&self, theirs: Timestamp, ours: Timestamp) -> bool {
        self.intake == Intake::Other && outvotes(self.votes.lock().source, theirs.duration_since(ours))
    }
}

/// Whether the source and this machine outvote a relay: their clocks agree, and both differ from its clock. The
/// durations say by how much the clocks of the source and of the relay are ahead of this machine's.
fn outvotes(source: Option<SignedDuration>, relay: SignedDuration) -> bool {
    let differs = |apart: SignedDuration| apart.unsigned_abs() > TOLERANCE;
    source.is_some_and(|source| !differs(source) && differs(relay) && differs(relay - source))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn only_two_clocks_that_agree_outvote_a_third() {
        let outvotes = |source: Option<i64>, relay: i64| {
            super::outvotes(source.map(SignedDuration::from_secs), SignedDuration::from_secs(relay))
        };
        for day in [-86_400, 86_400] {
            assert!(outvotes(Some(0), day) && outvotes(Some(120), day) && outvotes(Some(-120), day));
            assert!(!outvotes(None, day), "this machine's clock may be the wrong one");
            assert!(!outvotes(Some(day), day), "this machine's clock is wrong");
            assert!(!outvotes(Some(121), day), "the source and this machine differ");
        }
        assert!(!outvotes(Some(0), 120) && outvotes(Some(0), 121));
        assert!(!outvotes(Some(60), 180), "the relay agrees with the source");
    }

    #[test]
    fn a_relay_is_outvoted_whenever_its_reading_came_but_datadog_never_is() {
        let address = Address::of(&"http://relay.example.org".parse().unwrap());
        let now = LocalTime { wall: Timestamp::UNIX_EPOCH, monotonic: Instant::now() };
        let day_before = now.wall - SignedDuration::from_hours(24);
        for (intake, counts) in [(Intake::Other, false), (Intake::Datadog, true)] {
            for is_source_first in [true, false] {
                let clock = IntakeClock::of(intake);
                if is_source_first {
                    clock.note_source(Some(now.wall), now.wall);
                }
                clock.note(&address, Some(day_before), (now, now));
                clock.note_source(Some(now.wall), now.wall);
                assert_eq!(clock.at(now, now).is_some(), counts, "{intake:?}");
                clock.note_source(None, now.wall);
                assert_eq!(clock.at(now, now).is_some(), counts || !is_source_first, "{intake:?}");
            }
        }
    }
}
