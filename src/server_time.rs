//! Estimates the time of a server from its answers and this machine's two clocks.
//!
//! The server's time counts: the `Date` of a fresh answer, plus the monotonic time since. This machine's wall clock may be wrong or jump,
//! and its monotonic clock stops while the host is suspended. So a reading is void when it is old by either clock. It is also void when
//! the two clocks have advanced differently since. Then the wall clock jumped or the host was suspended, and the clocks do not show
//! which. After a jump of the wall clock alone, the reading would still be right. It is void all the same, since the next answer brings
//! a new one.

use std::fmt;
use std::mem::discriminant;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::{LocalTime, whole_seconds};

/// How long a reading counts after its request.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// The greatest difference between clocks that agree.
pub const TOLERANCE: Duration = Duration::from_secs(120);

/// A server's `Date`, and the start and end of the call that returned it. The server wrote the date between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The server's time; whole seconds, rounded down.
    pub date: Timestamp,
    /// Just before the request.
    pub asked: LocalTime,
    /// Just after the answer arrived.
    pub answered: LocalTime,
}

impl Reading {
    /// Whether the reading still counts.
    pub fn holds(&self, now: LocalTime) -> bool {
        let monotonic = elapsed(self.asked.monotonic, now);
        let wall = now.wall.duration_since(self.asked.wall);
        let apart = (wall - monotonic).unsigned_abs();
        monotonic.max(wall) <= signed(LIFETIME) && apart <= TOLERANCE
    }

    /// The server's time at `moment`, before or after the reading.
    ///
    /// The date is rounded, and the answer took some time, so the reading gives only limits. Within them our wall clock counts, so that
    /// clocks that agree stay exact.
    pub fn at(&self, moment: LocalTime) -> Timestamp {
        let latest = self.after(elapsed(self.asked.monotonic, moment) + SignedDuration::from_secs(1));
        moment.wall.min(latest).max(self.earliest(moment))
    }

    /// The earliest time that the server's clock can show at `moment`.
    fn earliest(&self, moment: LocalTime) -> Timestamp {
        self.after(elapsed(self.answered.monotonic, moment))
    }

    fn after(&self, elapsed: SignedDuration) -> Timestamp {
        self.date.saturating_add(elapsed).unwrap_or(self.date)
    }

    /// How this machine's wall clock differs from the server's; none if they agree. A long call alone does not count as a difference.
    pub fn difference(&self) -> Option<Difference> {
        let ahead = Duration::try_from(self.asked.wall.duration_since(self.date)).unwrap_or_default();
        let behind = Duration::try_from(self.date.duration_since(self.answered.wall)).unwrap_or_default();
        if ahead > TOLERANCE {
            return Some(Difference::Ahead(ahead));
        }
        (behind > TOLERANCE).then_some(Difference::Behind(behind))
    }
}

/// How this machine's wall clock differs from a server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Ours is ahead by this much.
    Ahead(Duration),
    /// Ours is behind by this much.
    Behind(Duration),
}

/// News of a server's clock that is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The clocks now differ, or differ in the other direction.
    Differs(Difference),
    /// The clocks agree again.
    Agrees,
    /// No answer so far carried a `Date`.
    Undated,
}

/// The known readings of a server's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerTime {
    reading: Option<Reading>,
    differs: Option<Difference>,
    noted_undated: bool,
}

impl ServerTime {
    /// Notes an answer that carried a date.
    pub fn dated(&mut self, reading: Reading) -> Option<News> {
        // An answer that was fetched ahead may arrive here after a newer one.
        if self.reading.is_some_and(|known| known.answered.monotonic > reading.answered.monotonic) {
            return None;
        }
        self.reading = Some(reading);
        let now = reading.difference();
        let before = std::mem::replace(&mut self.differs, now);
        if now.as_ref().map(discriminant) == before.as_ref().map(discriminant) {
            return None;
        }
        Some(now.map_or(News::Agrees, News::Differs))
    }

    /// Notes an answer without a date.
    pub fn undated(&mut self) -> Option<News> {
        let is_news = self.reading.is_none() && !self.noted_undated;
        self.noted_undated |= is_news;
        is_news.then_some(News::Undated)
    }

    /// The server's time at `moment`, as far as it is known `now`.
    pub fn at(&self, moment: LocalTime, now: LocalTime) -> Option<Timestamp> {
        let reading = self.reading.filter(|reading| reading.holds(now))?;
        Some(reading.at(moment))
    }

    /// The server's time at `moment`, but never later than the earliest time that its clock can show `now`.
    pub fn past(&self, moment: LocalTime, now: LocalTime) -> Option<Timestamp> {
        let reading = self.reading.filter(|reading| reading.holds(now))?;
        Some(reading.at(moment).min(reading.earliest(now)))
    }

    /// The earliest time that the server's clock can show `now`. The last reading counts at any age, since this uses only the monotonic
    /// clock, which never runs ahead.
    pub fn at_least(&self, now: LocalTime) -> Option<Timestamp> {
        self.reading.map(|reading| reading.earliest(now))
    }

    /// Whether [`Self::at_least`] may be far behind for good: no `Date` has come for [`LIFETIME`], and since the last one
    /// the wall clock advanced more than the monotonic one. The host was suspended, or its clock was set ahead.
    pub fn is_lost(&self, now: LocalTime) -> bool {
        self.reading.is_some_and(|Reading { answered, .. }| {
            let monotonic = elapsed(answered.monotonic, now);
            monotonic > signed(LIFETIME) && now.wall.duration_since(answered.wall) - monotonic > signed(TOLERANCE)
        })
    }
}

/// A server's clock. It logs each change in how that clock compares with ours.
#[derive(Debug, Default)]
pub struct ServerClock(Mutex<ServerTime>);

impl ServerClock {
    /// Notes an answer of `server` to a call from `asked` to `answered`.
    pub fn note(&self, server: &impl fmt::Display, date: Option<Timestamp>, (asked, answered): (LocalTime, LocalTime)) {
        let news = match date {
            Some(date) => self.0.lock().dated(Reading { date, asked, answered }),
            None => self.0.lock().undated(),
        };
        let (theirs, ours) = (date.unwrap_or(answered.wall), answered.wall);
        match news {
            None => {}
            Some(News::Differs(Difference::Ahead(by))) => tracing::warn!(
                %theirs, %ours,
                "this machine's clock is {} ahead of the clock of {server}. The server's time counts. Synchronise this machine's clock (NTP)",
                whole_seconds(by)
            ),
            Some(News::Differs(Difference::Behind(by))) => tracing::warn!(
                %theirs, %ours,
                "this machine's clock is {} behind the clock of {server}. The server's time counts. Synchronise this machine's clock (NTP)",
                whole_seconds(by)
            ),
            Some(News::Agrees) => {
                tracing::info!(%theirs, %ours, "this machine's clock agrees with the clock of {server} again");
            }
            Some(News::Undated) => tracing::warn!(
                %ours,
                "the answers of {server} carry no `Date`, so its clock is unknown. Another server's time counts, else this machine's. Keep \
                 this machine's clock synchronised (NTP)"
            ),
        }
    }

    /// The server's time at `moment`, as far as it is known `now`.
    pub fn at(&self, moment: LocalTime, now: LocalTime) -> Option<Timestamp> {
        self.0.lock().at(moment, now)
    }

    /// The server's time at `moment`, but never later than the earliest time that its clock can show `now`.
    pub fn past(&self, moment: LocalTime, now: LocalTime) -> Option<Timestamp> {
        self.0.lock().past(moment, now)
    }

    /// The earliest time that the server's clock can show `now`. Its last `Date` counts at any age.
    pub fn at_least(&self, now: LocalTime) -> Option<Timestamp> {
        self.0.lock().at_least(now)
    }

    /// Whether [`Self::at_least`] may be far behind for good, because this machine was suspended and no `Date` has come
    /// since.
    pub fn is_lost(&self, now: LocalTime) -> bool {
        self.0.lock().is_lost(now)
    }
}

/// The monotonic time from `earlier` to `moment`; negative if `earlier` is later.
fn elapsed(earlier: Instant, moment: LocalTime) -> SignedDuration {
    match moment.monotonic.checked_duration_since(earlier) {
        Some(elapsed) => signed(elapsed),
        None => -signed(earlier.duration_since(moment.monotonic)),
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::constant(1_772_366_400, 0);

    /// A machine with clocks that advance as a test wants.
    #[derive(Clone, Copy)]
    struct Machine(LocalTime);

    impl Machine {
        fn ahead(seconds: i64) -> Self {
            Self(LocalTime { wall: NOON + SignedDuration::from_secs(seconds), monotonic: Instant::now() })
        }

        fn after(self, wall: i64, monotonic: u64) -> LocalTime {
            let LocalTime { wall: begun, monotonic: start } = self.0;
            LocalTime {
                wall: begun + SignedDuration::from_secs(wall),
                monotonic: start + Duration::from_secs(monotonic),
            }
        }

        /// A reading from an answer after one second. The server's clock showed noon at the machine's start.
        fn reading(self) -> Reading {
            Reading { date: at(1), asked: self.after(0, 0), answered: self.after(1, 1) }
        }
    }

    fn at(seconds: i64) -> Timestamp {
        NOON + SignedDuration::from_secs(seconds)
    }

    fn known(machine: Machine) -> ServerTime {
        let mut server = ServerTime::default();
        server.dated(machine.reading());
        server
    }

    #[test]
    fn a_servers_time_goes_on_from_its_date_whatever_our_wall_clock_shows() {
        for ahead in [0, 17 * 3600, -18 * 3600, 400 * 86_400] {
            let machine = Machine::ahead(ahead);
            let now = machine.after(300, 300);
            let present = known(machine).at(now, now).unwrap();
            assert!((at(300)..=at(302)).contains(&present), "{ahead} s ahead: {present}");
            assert_eq!(known(machine).past(now, now), Some(at(300)), "{ahead} s ahead");
            let begun = known(machine).at(machine.after(0, 0), now).unwrap();
            assert!((at(0)..=at(2)).contains(&begun), "a moment before the answer: {begun}");
        }
    }

    #[test]
    fn a_reading_older_than_ten_minutes_by_either_clock_is_void() {
        let machine = Machine::ahead(0);
        let reads = |wall, monotonic| {
            let now = machine.after(wall, monotonic);
            known(machine).at(now, now).is_some()
        };
        assert!(reads(600, 600));
        assert!(!reads(601, 600));
        assert!(!reads(600, 601));
        assert!(!reads(216_000, 216_000), "after sixty quiet hours");
    }

    #[test]
    fn a_suspended_host_and_a_clock_that_jumps_void_a_reading() {
        let machine = Machine::ahead(0);
        let reads = |wall, monotonic| {
            let now = machine.after(wall, monotonic);
            known(machine).at(now, now).is_some()
        };
        assert!(reads(180, 60) && !reads(181, 60), "the host was suspended, or its clock set");
        assert!(!reads(20 * 3600, 5), "suspended for the night");
        assert!(!reads(17 * 3600, 5), "jumped ahead");
        assert!(reads(-115, 5) && !reads(-116, 5) && !reads(-3600, 5), "jumped back");
    }

    #[test]
    fn a_void_reading_still_shows_how_early_the_servers_time_cannot_be() {
        let machine = Machine::ahead(0);
        for wall in [-3600, 5, 17 * 3600] {
            let now = machine.after(wall, 5);
            assert_eq!(known(machine).at_least(now), Some(at(5)), "the wall clock advanced by {wall} s");
        }
        assert_eq!(known(machine).at_least(machine.after(216_000, 216_000)), Some(at(216_000)));
        assert_eq!(ServerTime::default().at_least(machine.after(0, 0)), None);
    }

    #[test]
    fn a_reading_is_lost_after_a_suspension_and_ten_minutes_without_a_date() {
        let machine = Machine::ahead(0);
        // The last answer came after one second.
        let is_lost = |wall, monotonic| known(machine).is_lost(machine.after(wall, monotonic));
        assert!(is_lost(20 * 3600, 602), "suspended for the night");
        assert!(!is_lost(20 * 3600, 601), "the next answer may carry a date");
        assert!(is_lost(602 + 121, 602) && !is_lost(602 + 120, 602));
        assert!(!is_lost(216_000, 216_000), "after sixty quiet hours");
        assert!(!is_lost(-3600, 602), "a clock that jumped back requests nothing too late");
        assert!(!ServerTime::default().is_lost(machine.after(216_000, 602)), "this machine's clock counts");
        let mut server = known(machine);
        let (asked, answered) = (machine.after(72_000, 602), machine.after(72_001, 603));
        server.dated(Reading { date: at(72_001), asked, answered });
        assert!(!server.is_lost(machine.after(74_000, 2603)));
    }

    #[test]
    fn a_host_suspended_within_a_call_takes_no_time_from_its_answer() {
        let machine = Machine::ahead(0);
        let answered = machine.after(3601, 1);
        let mut server = ServerTime::default();
        assert_eq!(
            server.dated(Reading { date: at(0), asked: machine.after(0, 0), answered }),
            None,
            "no false warning"
        );
        assert_eq!(server.at(answered, answered), None);
    }

    #[test]
    fn a_difference_is_news_once_for_each_change() {
        let mut server = ServerTime::default();
        let mut start = Duration::ZERO;
        let mut answer = |ahead: i64| {
            start += Duration::from_secs(1);
            let mut machine = Machine::ahead(ahead);
            machine.0.monotonic += start;
            server.dated(machine.reading())
        };
        assert_eq!(answer(121), None, "within the call");
        assert_eq!(answer(122), Some(News::Differs(Difference::Ahead(Duration::from_secs(121)))));
        assert_eq!(answer(17 * 3600), None);
        assert_eq!(answer(-122), Some(News::Differs(Difference::Behind(Duration::from_secs(122)))));
        assert_eq!(answer(-7200), None);
        assert_eq!(answer(0), Some(News::Agrees));
        assert_eq!(answer(0), None);
        assert_eq!(answer(-7200), Some(News::Differs(Difference::Behind(Duration::from_secs(7200)))));
    }

    #[test]
    fn a_call_that_took_long_is_no_difference_of_clocks() {
        let machine = Machine::ahead(0);
        for date in [0, 131, 300] {
            let reading = Reading { date: at(date), asked: machine.after(0, 0), answered: machine.after(300, 300) };
            assert_eq!(reading.difference(), None, "{date}");
        }
    }

    #[test]
    fn an_answer_fetched_ahead_does_not_replace_a_newer_reading() {
        let machine = Machine::ahead(0);
        let mut server = known(machine);
        let newer = Reading { date: at(61), asked: machine.after(60, 60), answered: machine.after(61, 61) };
        server.dated(newer);
        let stale = Reading { date: at(-7000), ..machine.reading() };
        assert_eq!(server.dated(stale), None);
        let now = machine.after(70, 70);
        assert_eq!(server.past(now, now), Some(at(70)));
    }

    #[test]
    fn a_server_without_a_date_is_news_once_and_only_if_it_never_sent_one() {
        let mut server = ServerTime::default();
        assert_eq!((server.undated(), server.undated()), (Some(News::Undated), None));
        assert_eq!(known(Machine::ahead(0)).undated(), None);
    }
}
