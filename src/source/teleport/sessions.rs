//! The recorded sessions to read: decides which one is next, and when a failed one is tried again.
//!
//! This module computes only: it makes no call and reads no clock.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fingerprint::{Fingerprint, Fingerprints};

/// The number of waiting sessions from which due sessions come before the audit log.
pub(super) const MANY: usize = 256;

/// The most sessions that the state keeps, waiting or finished, in about 150 KiB.
pub(super) const MOST: usize = 1024;

/// How long a failing session is tried.
pub(super) const PATIENCE: Duration = Duration::from_secs(48 * 3600);

/// How long one of too many sessions is tried before it makes room for others.
pub(super) const PATIENCE_OF_MANY: Duration = Duration::from_secs(3600);

/// The least number of failures before a session is given up: an outage between two failures proves nothing.
const TRIES: u32 = 20;

const SHORTEST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Sessions in the order in which their recordings were stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Sessions(Vec<Session>);

/// Sessions that were read to their end, in the order of that, while another `session.upload` of them may come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Finished(Vec<Session>);

/// A recorded session, and how far it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) id: String,
    /// The time at which its recording was stored. An imported session has the time of the import.
    stored: Timestamp,
    /// The highest index of its delivered events.
    #[serde(default, skip_serializing_if = "crate::source::is_default")]
    at: i64,
    /// Its delivered events with that index.
    #[serde(default, skip_serializing_if = "Fingerprints::is_empty")]
    seen: Fingerprints,
    /// Failures since the last delivered event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failing: Option<Failing>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failing {
    since: Timestamp,
    times: u32,
    /// The earliest time of the next attempt.
    due: Timestamp,
    /// Whether the last failure can pass by itself.
    #[serde(default, skip_serializing_if = "crate::source::is_default")]
    may_pass: bool,
}

impl Sessions {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time at which the oldest recording was stored.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.0.iter().map(|session| session.stored).min()
    }

    /// Adds a session, unless it is there.
    pub(super) fn add(&mut self, id: String, stored: Timestamp) {
        self.add_at(0, id, stored);
    }

    /// Adds a session whose events before the index `at` are delivered, unless it is there.
    pub(super) fn add_at(&mut self, at: i64, id: String, stored: Timestamp) {
        self.put(Session { id, stored, at, seen: Fingerprints::default(), failing: None });
    }

    /// Adds a session with its progress, unless it is there.
    pub(super) fn put(&mut self, session: Session) {
        if !self.0.iter().any(|known| known.id == session.id) {
            self.0.push(session);
        }
    }

    /// The session to read next, if one is due: the one with the id `open`, or else the first.
    pub(super) fn due(&self, now: Timestamp, open: Option<&str>) -> Option<&Session> {
        let mut due = self.0.iter().filter(|session| session.failing.as_ref().is_none_or(|failing| failing.due <= now));
        due.clone().find(|session| Some(session.id.as_str()) == open).or_else(|| due.next())
    }

    /// The wait until the next session is due.
    pub(super) fn soonest(&self, now: Timestamp) -> Option<Duration> {
        let due = self.0.iter().map(|session| session.failing.as_ref().map_or(now, |failing| failing.due)).min()?;
        Some(Duration::try_from(due.duration_since(now)).unwrap_or_default())
    }

    /// Whether there is no room for another session.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// The session to give up when there are too many: the first that has failed for [`PATIENCE_OF_MANY`]. None if a
    /// session can be read now. A session whose last failure can pass by itself is not given up.
    pub(super) fn surplus(&self, now: Timestamp) -> Option<&Session> {
        if !self.is_full() || self.due(now, None).is_some() {
            return None;
        }
        let is_hopeless = |failing: &Failing| {
            let failing_for = Duration::try_from(now.duration_since(failing.since)).unwrap_or_default();
            !failing.may_pass && failing_for >= PATIENCE_OF_MANY
        };
        self.0.iter().find(|session| session.failing.as_ref().is_some_and(is_hopeless))
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.0.retain(|session| session.id != id);
    }

    /// The same sessions for a log that is read again after `since`, each due at once: a wrong clock may have set the
    /// times of the next attempts. A recording that was stored after `since` is read from its start, like the log.
    #[must_use]
    pub(super) fn again_after(self, since: Timestamp) -> Self {
        let again = |session: Session| {
            if session.stored > since {
                Session { at: 0, seen: Fingerprints::default(), failing: None, ..session }
            } else {
                Session { failing: None, ..session }
            }
        };
        Self(self.0.into_iter().map(again).collect())
    }

    /// Replaces a session by its newer state.
    pub(super) fn replace(&mut self, session: Session) {
        if let Some(known) = self.0.iter_mut().find(|known| known.id == session.id) {
            *known = session;
        }
    }
}

impl Finished {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, session: Session) {
        self.0.push(Session { failing: None, ..session });
    }

    /// Takes out a session whose recording was stored again at the time `stored`.
    pub(super) fn take(&mut self, id: &str, stored: Timestamp) -> Option<Session> {
        let place = self.0.iter().position(|session| session.id == id)?;
        Some(Session { stored, ..self.0.remove(place) })
    }

    /// Forgets the recordings that were stored at `from` and before, and the first of more than `most`.
    pub(super) fn forget(&mut self, from: Timestamp, most: usize) {
        self.0.retain(|session| session.stored > from);
        self.0.drain(..self.0.len().saturating_sub(most));
    }
}

impl Session {
    /// The index from which to request its events. Delivered events of that index come again.
    pub(super) fn start(&self) -> i32 {
        i32::try_from(self.at).unwrap_or(i32::MAX)
    }

    /// Whether an event was delivered before, if it comes again after a new request. An event without a readable index
    /// is recognised by its content alone.
    pub(super) fn has(&self, index: Option<i64>, print: Fingerprint) -> bool {
        let index = index.unwrap_or(self.at);
        index < self.at || (index == self.at && self.seen.iter().any(|seen| seen == print))
    }

    /// Notes that an event was read.
    pub(super) fn read(&mut self, index: Option<i64>, print: Fingerprint) {
        let index = index.unwrap_or(self.at);
        self.failing = None;
        if index > self.at {
            (self.at, self.seen) = (index, Fingerprints::default());
        }
        if index == self.at {
            self.seen.push(print);
        }
    }

    /// Notes that a request for it failed. False if it has failed for so long that it must be given up; `may_pass`
    /// prevents that.
    pub(super) fn failed(&mut self, now: Timestamp, may_pass: bool) -> bool {
        let before = self.failing.take();
        let (since, times) = before.map_or((now, 0), |failing| (failing.since, failing.times));
        let wait = SHORTEST_WAIT.saturating_mul(1 << times.min(20)).min(LONGEST_WAIT);
        let due = now.saturating_add(wait).unwrap_or(now);
        self.failing = Some(Failing { since, times: times.saturating_add(1), due, may_pass });
        let failing_for = Duration::try_from(now.duration_since(since.max(self.stored))).unwrap_or_default();
        may_pass || times < TRIES || failing_for < PATIENCE
    }

    /// The number of failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failing.as_ref().map_or(0, |failing| failing.times)
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::tests::{at, print};
    use super::*;

    #[test]
    fn a_session_that_fails_waits_longer_each_time_and_lets_others_pass() {
        let mut sessions = Sessions::default();
        sessions.add("a".to_owned(), at(0));
        sessions.add("a".to_owned(), at(5));
        sessions.add("b".to_owned(), at(0));
        assert_eq!(sessions.len(), 2);
        let mut first = sessions.due(at(10), None).unwrap().clone();
        let mut waits = Vec::new();
        let mut now = at(10);
        for _ in 0..14 {
            assert!(first.failed(now, false));
            sessions.replace(first.clone());
            assert_eq!(sessions.due(now, None).unwrap().id, "b");
            let due = first.failing.as_ref().unwrap().due;
            waits.push(due.duration_since(now).as_secs());
            now = due;
        }
        assert_eq!(waits[..5], [2, 4, 8, 16, 32]);
        assert_eq!(waits[13], 3600);
        sessions.remove("b");
        assert_eq!(sessions.soonest(now - Duration::from_secs(7)), Some(Duration::from_secs(7)));
        assert_eq!(sessions.due(now, None).unwrap().id, "a");
    }

    #[test]
    fn a_missing_recording_is_given_up_after_48_hours_and_an_outage_never() {
        let day = 86_400;
        let mut sessions = Sessions::default();
        sessions.add("a".to_owned(), at(0));
        let session = sessions.due(at(0), None).unwrap();
        for (may_pass, given_up) in [(false, true), (true, false)] {
            let mut session = session.clone();
            for _ in 0..30 {
                assert!(session.failed(at(10), may_pass));
            }
            assert!(session.failed(at(2 * day), may_pass));
            assert_eq!(!session.failed(at(10 + 2 * day), may_pass), given_up);
        }
        let mut session = session.clone();
        session.failed(at(10), false);
        assert!(session.failed(at(10 + 3 * day), false), "an outage lay between");
        (0..30).for_each(|_| assert!(session.failed(at(10), false)));
        session.read(Some(3), print(1));
        assert!(session.failed(at(10 + 3 * day), false), "an event between counts as success");
    }

    #[test]
    fn of_too_many_sessions_only_one_that_fails_for_an_hour_is_given_up_and_only_while_none_can_be_read() {
        let hour = 3600;
        let mut sessions = Sessions::default();
        (0..MOST).for_each(|n| sessions.add(format!("s{n}"), at(0)));
        let fail = |sessions: &mut Sessions, n: usize, second: i64, may_pass: bool| {
            let mut session = sessions.0[n].clone();
            session.failed(at(second), may_pass);
            sessions.replace(session);
        };
        assert_eq!(sessions.surplus(at(9 * hour)), None, "none was tried");
        (0..MOST).for_each(|n| fail(&mut sessions, n, 10, n != 7));
        assert_eq!(sessions.surplus(at(11)), None, "it has just failed");
        assert_eq!(sessions.surplus(at(10 + hour)), None, "all may be read");
        (0..MOST).for_each(|n| fail(&mut sessions, n, 9 + hour, n != 7));
        assert_eq!(sessions.surplus(at(9 + hour)), None);
        assert_eq!(sessions.surplus(at(10 + hour)).map(|session| session.id.as_str()), Some("s7"));
        fail(&mut sessions, 7, 10 + hour, true);
        assert_eq!(sessions.surplus(at(10 + hour)), None, "the storage is down");
        fail(&mut sessions, 7, 10 + hour, false);
        sessions.remove("s8");
        assert_eq!(sessions.surplus(at(10 + hour)), None, "there is room");
    }

    #[test]
    fn a_session_goes_on_from_its_last_index_without_a_repeat() {
        let mut sessions = Sessions::default();
        sessions.add("a".to_owned(), at(0));
        let mut session = sessions.due(at(0), None).unwrap().clone();
        assert_eq!((session.start(), session.has(Some(0), print(0))), (0, false));
        for (index, n) in [(0, 0), (1, 1), (2, 2), (2, 3)] {
            session.read(Some(index), print(n));
        }
        assert_eq!(session.start(), 2);
        for (index, n, expected) in [(1, 1, true), (2, 2, true), (2, 3, true), (2, 4, false), (3, 5, false)] {
            assert_eq!(session.has(Some(index), print(n)), expected, "{index} {n}");
        }
    }

    #[test]
    fn a_session_stays_when_an_operator_sets_the_cursor_and_a_newer_one_begins_again() {
        let mut sessions = Sessions::default();
        for (id, stored) in [("old", 10), ("new", 11)] {
            sessions.add_at(3, id.to_owned(), at(stored));
            let mut session = sessions.0.last().unwrap().clone();
            session.read(Some(4), print(4));
            session.failed(at(1_000_000), false);
            sessions.replace(session);
        }
        let again = sessions.again_after(at(10));
        assert_eq!(again.soonest(at(20)), Some(Duration::ZERO));
        let begun: Vec<_> = again.0.iter().map(|session| (session.start(), session.has(Some(4), print(4)))).collect();
        assert_eq!(begun, [(4, true), (0, false)]);
    }

    #[test]
    fn an_event_without_a_readable_index_is_never_taken_for_a_delivered_one() {
        let mut sessions = Sessions::default();
        sessions.add("a".to_owned(), at(0));
        let mut session = sessions.due(at(0), None).unwrap().clone();
        session.read(Some(7), print(7));
        assert!(!session.has(None, print(8)), "its content is new");
        session.read(None, print(8));
        assert_eq!((session.start(), session.has(None, print(8))), (7, true));
    }

    #[test]
    fn the_session_whose_request_is_open_comes_before_an_older_one_that_becomes_due() {
        let mut sessions = Sessions::default();
        for id in ["old", "open"] {
            sessions.add(id.to_owned(), at(0));
        }
        let id = |sessions: &Sessions, second: i64, open| sessions.due(at(second), open).unwrap().id.clone();
        assert_eq!(id(&sessions, 10, Some("open")), "open");
        assert_eq!(id(&sessions, 10, Some("gone")), "old");
        let mut open = sessions.0[1].clone();
        open.failed(at(10), false);
        sessions.replace(open);
        assert_eq!(id(&sessions, 10, Some("open")), "old", "it is not due");
    }
}
