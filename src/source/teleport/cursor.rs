//! The cursor: how far the audit log has been read, and which recorded sessions are still to be read.
//!
//! This source reads the log in windows of time, one after the other, and each window page by page. A key leads from
//! page to page. It belongs to its window, and is never used in another one. A window begins one overlap before the end
//! of the one before, because events become visible late. A delivered event is recognised by its identifier. This
//! module computes only: it makes no call and reads no clock.
//!
//! The end of the history may come from a clock that is ahead of the server's. A search up to that end may find no
//! event only because the server has not reached that time. So the search is repeated until an event or the server's
//! clock shows that the server has reached it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::sessions::{self, Finished, Session, Sessions};
use crate::fingerprint::{Fingerprint, Fingerprints};

/// The longest window of a search that is repeated. The log was empty there before, so it holds hardly anything now.
const REPEATED: Duration = Duration::from_secs(3600);

/// The number of keys of pages without a new event that are remembered, to notice a circle.
const MOST_KEYS: usize = 256;

/// How far this source has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    pub(super) log: Log,
    #[serde(default, skip_serializing_if = "Sessions::is_empty")]
    pub(super) sessions: Sessions,
    #[serde(default, skip_serializing_if = "Finished::is_empty")]
    pub(super) finished: Finished,
    /// The end of a backfill: events of this time and later are not wanted. With none, reading never ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
}

/// How far the audit log has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    /// The time up to which everything is delivered, whatever the clocks show.
    pub(super) since: Timestamp,
    /// How far the log was searched after `since`, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    searched: Option<Searched>,
    pub(super) kept: Kept,
    /// The window that is being read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
}

/// A search that found no event, up to a time that the server's clock may not have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Searched {
    until: Timestamp,
    /// Whether `until` was the end of the history. If so, the search begins again at `since` once the history is
    /// longer.
    is_whole: bool,
    /// How far an earlier search from `since` on found no event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Timestamp>,
}

impl Searched {
    /// How far a search that begins again at `since` repeats an earlier one.
    fn repeats_until(self) -> Option<Timestamp> {
        if self.is_whole { Some(self.until) } else { self.before }
    }
}

/// A window of which some pages may have been delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    /// The start; the server includes this time itself.
    pub(super) from: Timestamp,
    /// The end, which the server includes, too.
    pub(super) until: Timestamp,
    /// The key of its next page; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// Whether the window reaches the end of the history.
    #[serde(default, skip_serializing_if = "crate::source::is_default")]
    is_last: bool,
    /// The newest time of an event in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest: Option<Timestamp>,
    /// The keys since the last new event.
    #[serde(default, skip_serializing_if = "Fingerprints::is_empty")]
    fruitless: Fingerprints,
    /// Whether the window is read again because a key was refused, and has had no new event since.
    #[serde(default, skip_serializing_if = "crate::source::is_default")]
    pub(super) is_again: bool,
}

/// The result of reading a page.
#[derive(Debug)]
pub(super) struct Brought {
    pub(super) kept: Kept,
    /// Whether one of its events was new.
    pub(super) is_new: bool,
    /// The newest time of its events, new or not.
    pub(super) newest: Option<Timestamp>,
}

/// The error that a page leads to an earlier one, without a new event in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Circle;

impl Progress {
    /// Starts just after `since`, without knowledge of the time before, which is never read again.
    pub(super) fn behind(since: Timestamp) -> Self {
        let log = Log { since, searched: None, kept: Kept::nothing(since), window: None };
        Self { log, sessions: Sessions::default(), finished: Finished::default(), until: None }
    }

    /// The time up to which everything is delivered, including late events and every recorded session. The overlap was
    /// read for the late events.
    pub(super) fn settled(&self) -> Timestamp {
        let log = self.log.since.min(self.log.kept.from());
        self.sessions.oldest().map_or(log, |stored| log.min(stored))
    }

    /// The time up to which the audit log is read, in a history that ends at `end`. A backfill reads one `overlap`
    /// beyond the end of its range, for late events.
    pub(super) fn end(&self, end: Timestamp, overlap: Duration) -> Timestamp {
        let last = self.until.map(|until| until.saturating_add(overlap).unwrap_or(Timestamp::MAX));
        last.map_or(end, |last| last.min(end))
    }

    /// The time that the server's clock counts as having reached. It is `proven`, unless `window` reaches the end of a
    /// backfill. A backfill does not search that end again. Otherwise it would be done only after an event or a day
    /// proved that the server had reached it.
    pub(super) fn proven(&self, window: &Window, overlap: Duration, proven: Timestamp) -> Timestamp {
        let is_ended = self.until.is_some() && self.end(Timestamp::MAX, overlap) <= window.until;
        if is_ended { Timestamp::MAX } else { proven }
    }

    /// Adds the session of a `session.upload`, unless it waits already. One that was read to its end continues from
    /// there: this recording may hold more.
    pub(super) fn add_session(&mut self, id: String, stored: Timestamp) {
        match self.finished.take(&id, stored) {
            Some(session) => self.sessions.put(session),
            None => self.sessions.add(id, stored),
        }
    }

    /// Notes that `session` was read to its end.
    pub(super) fn finish(&mut self, session: Session) {
        self.sessions.remove(&session.id);
        self.finished.push(session);
        self.forget_finished();
    }

    /// Forgets finished sessions whose `session.upload` can hardly come again, and those for which there is no room.
    pub(super) fn forget_finished(&mut self) {
        self.finished.forget(self.log.kept.from(), sessions::MOST.saturating_sub(self.sessions.len()));
    }

    /// Whether to read a recording that was stored at the time `stored`.
    pub(super) fn wants_session(&self, stored: Timestamp) -> bool {
        self.until.is_none_or(|until| stored < until)
    }
}

impl Log {
    /// The next window to read, in a history that ends at `end`; none if there is nothing to request yet.
    pub(super) fn enter(&self, end: Timestamp, longest: Duration) -> Option<Window> {
        if let Some(window) = &self.window {
            return Some(window.clone());
        }
        let begins = match self.searched {
            Some(searched) if !searched.is_whole || end <= searched.until => searched.until,
            _ => self.since,
        };
        let after = |length: Duration| begins.saturating_add(length).unwrap_or(end);
        let repeated = self.searched.and_then(Searched::repeats_until).unwrap_or(begins).min(after(REPEATED));
        let until = end.min(after(longest).max(repeated));
        // A window that continues the search needs no overlap: the next search begins at `since` again.
        let from = if begins > self.since { begins } else { self.kept.from().min(self.since) };
        (until > begins).then(|| Window {
            from,
            until,
            key: None,
            is_last: until == end,
            newest: None,
            fruitless: Fingerprints::default(),
            is_again: false,
        })
    }

    /// The time up to which the log was searched, by the clock that counted then.
    pub(super) fn reached(&self) -> Timestamp {
        self.searched.map_or(self.since, |searched| searched.until)
    }

    /// Forgets a search that reached beyond `limit`, because a clock was ahead.
    #[must_use]
    pub(super) fn not_beyond(self, limit: Timestamp) -> Self {
        Self { searched: self.searched.filter(|searched| searched.until <= limit), ..self }
    }

    /// Makes `window` again without its key, which the server does not accept. It begins at the time after which every
    /// delivered event is known.
    pub(super) fn without_key(&self, window: &Window) -> Window {
        let from = self.kept.from().min(window.until);
        Window { from, key: None, fruitless: Fingerprints::default(), is_again: true, ..window.clone() }
    }

    /// Makes `window` the next one.
    pub(super) fn with(self, window: Window) -> Self {
        Self { window: Some(window), ..self }
    }

    /// Notes that a page of `window` was read. `next` is the key of the page after it. The server's clock has reached
    /// `proven`, and the time of every event.
    pub(super) fn after(
        self,
        window: Window,
        brought: Brought,
        next: String,
        overlap: Duration,
        proven: Timestamp,
    ) -> Result<Self, Circle> {
        let Brought { kept, is_new, newest } = brought;
        let newest = window.newest.max(newest);
        if next.is_empty() {
            let until = window.until;
            let since = until.min(newest.map_or(proven, |newest| newest.max(proven))).max(self.since);
            let before = self.searched.and_then(Searched::repeats_until).filter(|before| *before > until);
            let searched = (until > since).then_some(Searched { until, is_whole: window.is_last, before });
            let from = since.saturating_sub(overlap).unwrap_or(since);
            return Ok(Self { since, searched, kept: kept.behind(from), window: None });
        }
        let mut fruitless = if is_new { Fingerprints::default() } else { window.fruitless };
        let print = Fingerprint::of_parts([next.as_bytes()]);
        if fruitless.iter().any(|known| known == print) {
            return Err(Circle);
        }
        fruitless.push(print);
        fruitless.keep_newest(MOST_KEYS);
        let is_again = window.is_again && !is_new;
        let window = Window { key: Some(next), newest, fruitless, is_again, ..window };
        Ok(Self { kept, window: Some(window), ..self })
    }

    /// The part of the overlap before `since` that the state could not hold.
    pub(super) fn missing(&self, overlap: Duration) -> Option<Duration> {
        let wanted = self.since.saturating_sub(overlap).ok()?;
        let missing = Duration::try_from(self.kept.from().duration_since(wanted)).ok()?;
        (self.window.is_none() && !missing.is_zero()).then_some(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::tests::at;
    use super::*;

    const OVERLAP: Duration = Duration::from_secs(600);
    const LONGEST: Duration = Duration::from_secs(3600);

    fn log(since: i64) -> Log {
        Progress::behind(at(since)).log
    }

    fn page(log: Log, window: Window, events: &[(i64, &str)], next: &str) -> Result<Log, Circle> {
        page_of(log, window, events, next, Timestamp::MAX)
    }

    /// Does the same as [`page`] when the server's clock is known to have reached `proven`.
    fn page_of(log: Log, window: Window, events: &[(i64, &str)], next: &str, proven: Timestamp) -> Result<Log, Circle> {
        let mut kept = log.kept.clone();
        for (second, id) in events {
            kept.push(Some(at(*second)), Fingerprint::of_parts([id.as_bytes()]), window.until);
        }
        let newest = events.iter().map(|(second, _)| at(*second)).max();
        log.after(window, Brought { kept, is_new: !events.is_empty(), newest }, next.to_owned(), OVERLAP, proven)
    }

    #[test]
    fn windows_follow_each_other_with_an_overlap_and_no_key_leaves_its_window() {
        let start = log(10_000);
        let first = start.enter(at(20_000), LONGEST).unwrap();
        assert_eq!((first.from, first.until, first.key.as_deref()), (at(10_000), at(13_600), None));
        let within = page(start, first, &[(13_500, "a")], "key-1").unwrap();
        assert_eq!(within.since, at(10_000), "it is not read whole");
        let second = within.enter(at(30_000), LONGEST).unwrap();
        assert_eq!((second.until, second.key.as_deref()), (at(13_600), Some("key-1")));
        let between = page(within, second, &[], "").unwrap();
        assert_eq!(between.since, at(13_600));
        let next = between.enter(at(20_000), LONGEST).unwrap();
        assert_eq!((next.from, next.until, next.key), (at(13_000), at(17_200), None));
        assert!(between.kept.prints().contains(&Fingerprint::of_parts([b"a".as_slice()])));
    }

    #[test]
    fn a_window_is_never_empty() {
        let start = log(10_000);
        let end = at(10_000) + Duration::from_millis(1);
        assert_eq!(start.enter(end, LONGEST).unwrap().until, end);
        assert_eq!(start.enter(at(10_000), LONGEST), None);
        assert_eq!(start.enter(at(9000), LONGEST), None);
    }

    #[test]
    fn a_finished_session_is_remembered_for_one_overlap_and_while_there_is_room() {
        let mut progress = Progress::behind(at(10_000));
        let finish = |progress: &mut Progress, id: &str, stored: i64| {
            progress.add_session(id.to_owned(), at(stored));
            let mut session = progress.sessions.due(at(0), Some(id)).unwrap().clone();
            session.read(Some(7), Fingerprint::of_parts([id.as_bytes()]));
            progress.finish(session);
        };
        let start = |progress: &Progress, id: &str| {
            let mut progress = progress.clone();
            progress.add_session(id.to_owned(), at(20_000));
            progress.sessions.due(at(0), Some(id)).unwrap().start()
        };
        finish(&mut progress, "a", 10_001);
        finish(&mut progress, "b", 10_002);
        assert_eq!((start(&progress, "a"), start(&progress, "b"), start(&progress, "c")), (7, 7, 0));
        let json = serde_json::to_string(&progress).unwrap();
        assert_eq!(serde_json::from_str::<Progress>(&json).unwrap(), progress);
        progress.log = Log { kept: progress.log.kept.behind(at(10_001)), ..progress.log };
        progress.forget_finished();
        assert_eq!((start(&progress, "a"), start(&progress, "b")), (0, 7));
        (1..sessions::MOST).for_each(|n| progress.sessions.add(format!("s{n}"), at(10_002)));
        progress.forget_finished();
        assert_eq!(start(&progress, "b"), 7);
        progress.sessions.add("full".to_owned(), at(10_002));
        progress.forget_finished();
        assert_eq!(progress.finished, Finished::default());
    }

    #[test]
    fn the_overlap_never_reaches_behind_the_start() {
        let start = log(10_000);
        let window = start.enter(at(10_100), LONGEST).unwrap();
        let after = page(start, window, &[], "").unwrap();
        assert_eq!(after.enter(at(10_200), LONGEST).unwrap().from, at(10_000));
        assert_eq!(after.missing(OVERLAP), Some(Duration::from_secs(500)));
    }

    #[test]
    fn a_rejected_key_leads_to_the_same_window_from_where_all_is_known() {
        let start = log(10_000);
        let window = start.enter(at(20_000), LONGEST).unwrap();
        let within = page(start, window.clone(), &[(12_000, "a")], "old").unwrap();
        let again = within.without_key(&within.enter(at(20_000), LONGEST).unwrap());
        let again = within.with(again).enter(at(99_000), LONGEST).unwrap();
        assert_eq!((again.from, again.until, again.key), (window.from, window.until, None));
    }

    #[test]
    fn a_window_is_read_again_until_a_new_event_comes() {
        let start = log(10_000);
        let window = start.enter(at(20_000), LONGEST).unwrap();
        let within = page(start, window.clone(), &[(12_000, "a")], "old").unwrap();
        let again = within.without_key(&window);
        assert!(again.is_again && !window.is_again);
        let read = |events: &[(i64, &str)]| page(within.clone(), again.clone(), events, "new").unwrap();
        assert!(read(&[]).enter(at(20_000), LONGEST).unwrap().is_again);
        assert!(!read(&[(12_001, "b")]).enter(at(20_000), LONGEST).unwrap().is_again);
    }

    #[test]
    fn a_window_with_an_event_without_a_time_begins_again_where_all_is_known() {
        let start = log(10_000);
        let window = start.enter(at(20_000), LONGEST).unwrap();
        let mut kept = start.kept.clone();
        kept.push(None, Fingerprint::of_parts([b"undated".as_slice()]), window.until);
        for n in 0..10_000_u32 {
            let time = at(10_000) + Duration::from_millis(u64::from(n) * 100);
            kept.push(Some(time), Fingerprint::of_parts([n.to_be_bytes().as_slice()]), window.until);
        }
        let brought = Brought { kept, is_new: true, newest: Some(at(11_000)) };
        let within = start.after(window.clone(), brought, "key".to_owned(), OVERLAP, Timestamp::MAX).unwrap();
        assert!(within.without_key(&window).from < at(11_000), "the rest of the window would be left out");
    }

    /// Reads windows up to `end`. In each window the server returns the `events` within its bounds. Returns the bounds,
    /// too.
    fn pass(mut log: Log, end: i64, events: &[(i64, &str)], proven: i64) -> (Log, Vec<(i64, i64)>) {
        let mut windows = Vec::new();
        while let Some(window) = log.enter(at(end), LONGEST) {
            let bounds = window.from.as_second()..=window.until.as_second();
            windows.push((*bounds.start(), *bounds.end()));
            let found: Vec<_> = events.iter().filter(|(second, _)| bounds.contains(second)).copied().collect();
            log = page_of(log, window, &found, "", at(proven)).unwrap();
            assert!(windows.len() < 100, "it ends");
        }
        (log, windows)
    }

    #[test]
    fn a_clock_ahead_of_the_servers_does_not_lead_beyond_the_newest_event() {
        // Our clock shows an hour more than the server's, which shows 20,000 s.
        let (log, _) = pass(log(19_000), 23_600, &[(19_950, "a")], 0);
        assert_eq!((log.since, log.reached()), (at(19_950), at(23_600)));
        assert_eq!(log.enter(at(23_600), LONGEST), None, "the sync has caught up");
        let (log, windows) = pass(log, 23_660, &[(19_950, "a"), (20_030, "b")], 0);
        assert_eq!(windows[0].0, 19_350, "one overlap before the newest event");
        assert_eq!((log.since, log.enter(at(23_660), LONGEST)), (at(20_030), None));
        // Our clock is corrected.
        let log = log.not_beyond(at(20_060 + 120));
        assert_eq!(log.enter(at(20_060), LONGEST).unwrap().until, at(20_060));
    }

    #[test]
    fn without_events_a_search_ends_and_moves_with_what_is_proven() {
        let (log, windows) = pass(log(10_000), 20_000, &[], 0);
        assert_eq!((log.since, log.reached()), (at(10_000), at(20_000)));
        assert_eq!(windows, [(10_000, 13_600), (13_600, 17_200), (17_200, 20_000)]);
        let (log, windows) = pass(log, 20_060, &[], 11_000);
        assert_eq!((log.since, log.reached(), windows.len()), (at(11_000), at(20_060), 3));
        let (log, _) = pass(log, 20_120, &[], 99_000);
        assert_eq!((log.since, log.reached()), (at(20_120), at(20_120)), "the server's clock is known");
    }

    #[test]
    fn a_quiet_log_is_searched_again_in_windows_of_an_hour_however_short_a_window_is_else() {
        let minute = Duration::from_secs(60);
        let mut log = log(10_000);
        let mut pass = |end: i64| {
            let mut windows = Vec::new();
            while let Some(window) = log.enter(at(end), minute) {
                windows.push((window.from.as_second(), window.until.as_second()));
                log = page_of(log.clone(), window, &[], "", at(0)).unwrap();
            }
            windows
        };
        assert_eq!(pass(17_200).len(), 120, "the first search keeps to the setting");
        assert_eq!(pass(17_320), [(10_000, 13_600), (13_600, 17_200), (17_200, 17_260), (17_260, 17_320)]);
        assert_eq!(pass(17_330), [(10_000, 13_600), (13_600, 17_200), (17_200, 17_320), (17_320, 17_330)]);
    }

    #[test]
    fn a_range_is_done_when_it_was_searched_to_its_end() {
        let mut progress = Progress { until: Some(at(15_000)), ..Progress::behind(at(14_000)) };
        for (present, is_done) in [(15_500, false), (20_000, true)] {
            while let Some(window) = progress.log.enter(progress.end(at(present), OVERLAP), LONGEST) {
                let proven = progress.proven(&window, OVERLAP, at(0));
                progress.log = page_of(progress.log, window, &[], "", proven).unwrap();
            }
            assert_eq!(progress.settled() >= at(15_000), is_done, "{present}");
        }
    }

    #[test]
    fn a_stretch_without_events_is_passed_and_what_lies_behind_it_is_read() {
        let (log, windows) = pass(log(10_000), 30_000, &[(10_500, "a"), (29_000, "b")], 0);
        assert_eq!((log.since, log.reached()), (at(29_000), at(30_000)));
        assert!(windows.windows(2).all(|pair| pair[0].1 == pair[1].0), "no gap: {windows:?}");
        assert_eq!(log.enter(at(30_001), LONGEST).unwrap().from, at(28_400));
    }

    #[test]
    fn a_search_that_grows_with_the_clock_goes_on_and_does_not_begin_again() {
        let mut log = log(10_000);
        for end in (0..6).map(|n| 30_000 + n * 60) {
            let before = log.reached();
            let window = log.enter(at(end), LONGEST).unwrap();
            assert_eq!((window.from, window.until > before), (before, true));
            log = page_of(log, window, &[], "", at(0)).unwrap();
        }
        assert_eq!(log.reached(), at(30_300));
    }

    #[test]
    fn pages_without_news_go_on_until_a_key_comes_again() {
        let mut log = log(10_000);
        for n in 0..1000 {
            let window = log.enter(at(20_000), LONGEST).unwrap();
            log = page(log, window, &[], &format!("key-{n}")).unwrap();
        }
        let window = log.enter(at(20_000), LONGEST).unwrap();
        assert_eq!(page(log.clone(), window.clone(), &[], "key-999"), Err(Circle));
        assert_eq!(page(log.clone(), window.clone(), &[], "key-900"), Err(Circle));
        assert!(page(log, window, &[(12_000, "a")], "key-999").is_ok(), "a new event is progress");
    }

    #[test]
    fn a_cursor_survives_the_document() {
        let start = log(10_000);
        let window = start.enter(at(20_000), LONGEST).unwrap();
        let log = page(start, window, &[(12_000, "a")], "key").unwrap();
        let mut progress = Progress { log, ..Progress::behind(at(0)) };
        progress.sessions.add("8d3f".to_owned(), at(12_000));
        let text = serde_json::to_string(&progress).unwrap();
        assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), progress);
        assert!(text.len() < 500, "{text}");
    }
}
