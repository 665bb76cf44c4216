//! Decides what a 4xx for a page's token means: the API refuses the token, or has a passing fault.
//!
//! Giving up a token is costly: its range is read from the start, and its delivered records may be delivered again. So
//! auditsync first requests the same page again, and only a lasting refusal counts.

use std::time::Duration;

use tokio::time::Instant;

use super::moment::Moment;
use super::range::{InRange, PageToken};

/// The number of refusals of one page that count as lasting.
const REFUSALS: u32 = 3;

/// The time over which they must be spread. After it, a proxy that was reloaded, or a route that was missing for a
/// moment, works again.
const SPREAD: Duration = Duration::from_secs(5);

/// The wait from one request to the next.
const PAUSE: Duration = Duration::from_millis(2500);

/// Refusals of one page in a row, since the process started.
#[derive(Debug, Default)]
pub struct Refusals(Option<Refused>);

#[derive(Debug)]
struct Refused {
    page: (Moment, Moment, Option<PageToken>),
    times: u32,
    first: Instant,
}

/// The next step after a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Note the refusal in the state, and request the page again. If this run ends, the next one does not count from
    /// one again.
    Note,
    /// Request the page again after this wait.
    Again(Duration),
    /// The refusal lasts.
    Final,
}

/// Whether a 4xx with this status may be about the page's token. Any other is about the caller or the request, or comes
/// from a proxy.
pub fn may_mean_the_token(status: u16) -> bool {
    // 414: the token makes the address too long, so only another token helps.
    matches!(status, 400 | 404 | 409 | 410 | 412 | 414 | 416 | 422)
}

impl Refusals {
    /// Counts a refusal of the next page of `range` with `status` at `now`.
    pub fn refused(&mut self, range: &InRange, status: u16, now: Instant) -> Step {
        let page = (range.since(), range.until(), range.token().cloned());
        let known = self.0.take().filter(|known| known.page == page);
        let is_new = known.is_none();
        let known = known.unwrap_or(Refused { page, times: 0, first: now });
        let counted = Refused { times: known.times.saturating_add(1), ..known };
        let lasts = counted.times >= REFUSALS && now.duration_since(counted.first) >= SPREAD;
        self.0 = Some(counted);
        match may_mean_the_token(status) {
            // An earlier run had the same refusal, and a passing fault would have passed by now.
            true if is_new && range.was_refused() => Step::Final,
            true if is_new => Step::Note,
            _ if lasts => Step::Final,
            _ => Step::Again(PAUSE),
        }
    }

    /// Notes that the API returned a page.
    pub fn answered(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;
    use crate::source::sectigo::cursor::{Cut, SectigoCursor};
    use crate::source::sectigo::page;

    fn range(token: &str) -> InRange {
        let cut = Cut { window: Duration::from_secs(3600), overlap: Duration::ZERO };
        let at = |second| Moment::from(Timestamp::from_second(second).unwrap());
        let first = SectigoCursor::starting_at(at(0)).enter(at(1000), cut).unwrap();
        let records = page::records(&Bytes::from_static(b"[{}]")).unwrap();
        match first.take(records, Some(PageToken(token.into()))).unwrap().next {
            SectigoCursor::InRange(range) => range,
            other => panic!("{other:?}"),
        }
    }

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    #[test]
    fn a_refusal_counts_when_it_lasts_for_seconds() {
        let (mut refusals, range, now) = (Refusals::default(), range("t"), Instant::now());
        assert_eq!(refusals.refused(&range, 404, now), Step::Note);
        for later in [0.0, 1.0, 2.5, 4.9] {
            assert_eq!(refusals.refused(&range, 404, now + seconds(later)), Step::Again(PAUSE), "{later}");
        }
        assert_eq!(refusals.refused(&range, 400, now + seconds(5.0)), Step::Final);
    }

    #[test]
    fn a_few_refusals_do_not_count_however_long_they_take() {
        let (mut refusals, range, now) = (Refusals::default(), range("t"), Instant::now());
        refusals.refused(&range, 400, now);
        assert_eq!(refusals.refused(&range, 400, now + seconds(60.0)), Step::Again(PAUSE));
        refusals.answered();
        assert_eq!(refusals.refused(&range, 400, now + seconds(61.0)), Step::Note, "another time");
        assert_eq!(refusals.refused(&self::range("u"), 400, now + seconds(90.0)), Step::Note, "another page");
    }

    #[test]
    fn what_is_not_about_a_token_is_never_noted() {
        for status in [402, 405, 406, 407, 411, 413, 415, 417, 421, 426, 428, 431, 451, 499] {
            let (mut refusals, range, now) = (Refusals::default(), range("t"), Instant::now());
            assert!(!may_mean_the_token(status), "{status}");
            assert_eq!(refusals.refused(&range, status, now), Step::Again(PAUSE));
        }
    }

    #[test]
    fn a_refusal_in_the_next_run_counts_at_once() {
        let range = range("t").noting_refusal();
        assert_eq!(Refusals::default().refused(&range, 410, Instant::now()), Step::Final);
        assert_eq!(Refusals::default().refused(&range, 405, Instant::now()), Step::Again(PAUSE));
    }
}
