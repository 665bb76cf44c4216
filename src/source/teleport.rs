//! Teleport's audit log, over gRPC from the Auth Service: gravitational/teleport, `api/proto/teleport/auditlog/v1`.
//!
//! This source reads the log by search, in windows of time. It does not use the bulk export that some clusters offer:
//! servers before December 2025 leave out events in it, and its bookkeeping has no bound. `docs/TELEPORT.md` says more.
//!
//! | module | job |
//! |---|---|
//! | `cursor`, `kept`, `keys`, `sessions` | decisions: windows, keys, what was delivered, which session is next |
//! | `api`, `dial`, `identity`, `codec`, `message` | calls, and the connection that they need |
//! | `wire`, `structure`, `record`, `severity` | from the encoded event to a record with fields |
//! | `log`, `recording` | a page of the audit log, and of a recorded session |

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::variables::LOOKBACK;
use super::{Cursor, Kind, Page, Product, Source, Then};
use crate::clock::{Clock, LocalTime};
use crate::component::{Check, Configured, Context};
use crate::dead_letter::DeadLetters;
use crate::failure::Failure;
use crate::server_time::TOLERANCE;
use crate::telemetry::metrics::Metrics;
use crate::variable_name::VariableName;
use api::Api;
use cursor::Progress;
use error::Error;
use filter::Filter;
use identity::Files;
use keys::Refusals;
use recording::Recordings;
use sessions::Session;
use variables::Address;

mod api;
mod check;
mod codec;
mod cursor;
mod dial;
mod error;
mod filter;
mod identity;
pub(crate) mod import;
mod kept;
mod keys;
mod log;
mod message;
mod record;
mod recording;
mod sessions;
mod severity;
mod structure;
pub(crate) mod variables;
mod wire;

/// The source's entry in the registry.
pub const KIND: Kind = Kind {
    name: "teleport",
    title: "Teleport audit log",
    product: Product { name: "teleport", service: "teleport", is_flat: false },
    variables: variables::VARIABLES,
    aliases: &[],
    history: Some("as long as the cluster keeps its audit log"),
    interval: None,
    server: None,
    first: |reader, now| {
        let (start, lookback) = (reader.find(&variables::START), reader.get(&LOOKBACK));
        Ok(first_cursor(start?, lookback?, now))
    },
    cursor_at: |since, until, before| {
        let before = before.and_then(|before| before.decode::<Progress>().ok());
        let sessions = before.map(|before| before.sessions.again_after(since)).unwrap_or_default();
        Cursor::encode(&Progress { sessions, until, ..Progress::behind(since) }).ok()
    },
    reached,
    settled: |cursor| {
        let progress: Progress = cursor.decode().map_err(Error::Cursor)?;
        Ok(progress.settled())
    },
    queue: |_| Ok(None),
    read: |reader| {
        let settings = variables::settings(reader)?;
        let build = move |context: &Context| -> Arc<dyn Source> { Arc::new(Teleport::new(settings.clone(), context)) };
        Ok(Configured::new(build))
    },
};

/// The steps in which the end of the log follows the clock while recorded sessions are read. Such a sync may last
/// longer than the audit log should wait.
const STEP: Duration = Duration::from_secs(60);

/// How far our clock may be ahead without a loss while the server's clock is unknown. This much of the audit log is
/// searched again if it has had no event since. A wrong time zone makes a smaller difference.
const DOUBT: Duration = Duration::from_secs(24 * 3600);

/// The longest time that a sync waits for the next attempt at a failed session, instead of ending.
const WORTH_WAITING: Duration = Duration::from_secs(4);

/// The settings of the audit log.
#[derive(Debug, Clone)]
struct Settings {
    address: Address,
    address_variable: VariableName,
    files: Files,
    /// The cluster that calls are routed to; none for the one that issued the identity.
    cluster: Option<String>,
    cluster_variable: VariableName,
    /// The time of the oldest event to deliver; none lets the lookback decide.
    start: Option<Timestamp>,
    lookback: Duration,
    filter: Arc<Filter>,
    window: Duration,
    delay: Duration,
    overlap: Duration,
}

/// The audit log as a source.
struct Teleport {
    api: Arc<Api>,
    filter: Arc<Filter>,
    recordings: Recordings,
    clock: Clock,
    metrics: Metrics,
    dead_letters: DeadLetters,
    /// The number of events in one request: fewer after large events.
    limit: AtomicI32,
    /// The refusals of the key that was used last.
    refusals: Mutex<Refusals>,
    /// Whether a session is next if the audit log and a session could both be.
    is_session_next: AtomicBool,
    /// Whether this source has logged that the overlap is shorter than configured.
    warned_of_overlap: AtomicBool,
    /// Whether this source has logged that it does not read the sessions in the state.
    warned_of_sessions: AtomicBool,
}

impl fmt::Debug for Teleport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teleport").field("api", &self.api).finish_non_exhaustive()
    }
}

impl Teleport {
    fn new(settings: Settings, context: &Context) -> Self {
        Self {
            filter: Arc::clone(&settings.filter),
            recordings: Recordings::default(),
            clock: context.clock.clone(),
            metrics: context.metrics.clone(),
            dead_letters: context.dead_letters.clone(),
            limit: AtomicI32::new(log::MOST_EVENTS),
            refusals: Mutex::default(),
            is_session_next: AtomicBool::new(false),
            warned_of_overlap: AtomicBool::new(false),
            warned_of_sessions: AtomicBool::new(false),
            api: Arc::new(Api::new(settings, context)),
        }
    }

    fn settings(&self) -> &Settings {
        &self.api.settings
    }

    /// The present, by the server's clock where it is known.
    fn now(&self) -> Timestamp {
        let local = self.clock.local();
        self.server_time(local).unwrap_or(local.wall)
    }

    /// The end of the history for work that began at `begun`.
    fn present(&self, begun: LocalTime) -> Timestamp {
        let then = self.api.server_clock.past(begun, self.clock.local()).unwrap_or(begun.wall);
        then.saturating_sub(self.settings().delay).unwrap_or(then)
    }

    /// The time up to which `progress` is to be read: [`Self::present`], or the end of a backfill if that comes first.
    fn end(&self, progress: &Progress, begun: LocalTime) -> Timestamp {
        progress.end(self.present(begun), self.settings().overlap)
    }

    /// The latest time that the server's clock has certainly reached, less the delay.
    fn proven(&self) -> Timestamp {
        let now = self.clock.local();
        let present = self.present(now);
        if self.server_time(now).is_some() { present } else { present.saturating_sub(DOUBT).unwrap_or(present) }
    }

    async fn next(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Error> {
        let stored: Progress = cursor.decode().map_err(Error::Cursor)?;
        let present = self.present(self.clock.local());
        let log = stored.log.not_beyond(present.saturating_add(TOLERANCE).unwrap_or(present));
        let progress = Progress { log, ..stored };
        let now = self.now();
        let session = self.session(&progress, now);
        let mut window = progress.log.enter(self.end(&progress, begun), self.settings().window);
        if window.is_none() && session.is_some() {
            let end = self.end(&progress, self.clock.local());
            let ahead = Duration::try_from(end.duration_since(progress.log.reached())).unwrap_or_default();
            if ahead >= STEP {
                window = progress.log.enter(end, self.settings().window);
            }
        }
        match (window, session) {
            (Some(_), None) if self.filter.sessions && progress.sessions.is_full() => {
                self.make_room(progress, now, begun).await
            }
            (Some(window), None) => self.read_log(progress, window, begun).await,
            (None, Some(session)) => self.read_session(progress, session, begun, false).await,
            (Some(window), Some(session)) => {
                let is_session_next = self.is_session_next.fetch_xor(true, Ordering::Relaxed);
                // A recording that sends nothing holds nothing up, however many others wait for it.
                let is_pressing = progress.sessions.len() >= sessions::MANY && !self.recordings.is_silent();
                if is_session_next || is_pressing || progress.sessions.is_full() {
                    self.read_session(progress, session, begun, true).await
                } else {
                    self.read_log(progress, window, begun).await
                }
            }
            (None, None) => {
                Self::not_ahead(progress.log.since, now)?;
                Ok(self.page(&progress, Vec::new(), 0, false, begun)?)
            }
        }
    }

    /// The recorded session to read next. With `TELEPORT_AUDIT_SESSIONS` off there is none, and those in the state stay.
    fn session(&self, progress: &Progress, now: Timestamp) -> Option<Session> {
        if self.filter.sessions {
            return progress.sessions.due(now, self.recordings.id().as_deref()).cloned();
        }
        if !progress.sessions.is_empty() && !self.warned_of_sessions.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                waiting = progress.sessions.len(),
                "recorded sessions wait in the state, but {} is false; auditsync keeps them there and reads none",
                variables::SESSIONS.spec.name
            );
        }
        None
    }

    /// Fails if a cursor lies far in the future, because a wrong clock made it. Waiting for that time would lose
    /// everything until then.
    fn not_ahead(since: Timestamp, now: Timestamp) -> Result<(), Error> {
        let limit = now.saturating_add(TOLERANCE).unwrap_or(now);
        if since > limit { Err(Error::Ahead { since, now }) } else { Ok(()) }
    }

    /// Makes the page that leads to `next`.
    fn page(
        &self,
        next: &Progress,
        events: Vec<crate::event::Event>,
        deduplicated: usize,
        progressed: bool,
        begun: LocalTime,
    ) -> Result<Page, Error> {
        let then = if next.log.enter(self.end(next, begun), self.settings().window).is_some() {
            Then::Now
        } else {
            match next.sessions.soonest(self.now()).filter(|_| self.filter.sessions) {
                Some(wait) if wait.is_zero() => Then::Now,
                Some(wait) if wait <= WORTH_WAITING => Then::After(wait),
                _ => Then::CaughtUp,
            }
        };
        Ok(Page { events, deduplicated, next: Cursor::encode(next).map_err(Error::Cursor)?, progressed, then })
    }
}

fn first_cursor(start: Option<Timestamp>, lookback: Duration, now: Timestamp) -> Cursor {
    // An event of exactly the start time counts.
    let since = match start {
        Some(start) => start.saturating_sub(SignedDuration::from_nanos(1)).unwrap_or(start),
        None => now.saturating_sub(lookback).unwrap_or(now),
    };
    Cursor::encode(&Progress::behind(since)).unwrap_or_default()
}

/// The time up to which the audit log is delivered; needs no connection. Recorded sessions that wait for their turn do
/// not count.
fn reached(cursor: &Cursor) -> Result<Timestamp, Failure> {
    let progress: Progress = cursor.decode().map_err(Error::Cursor)?;
    Ok(progress.log.reached())
}

#[async_trait]
impl Source for Teleport {
    fn location(&self) -> String {
        self.api.address().to_string()
    }

    fn first_cursor(&self, now: Timestamp) -> Cursor {
        first_cursor(self.settings().start, self.settings().lookback, now)
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        reached(cursor)
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        Ok(self.next(cursor, begun).await?)
    }

    fn server_time(&self, now: LocalTime) -> Option<Timestamp> {
        self.api.server_clock.at(now, now)
    }

    fn pause(&self) {
        self.recordings.close();
    }

    async fn check(&self, now: LocalTime) -> Vec<Check> {
        self.checks(now.wall).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs_of;

    #[test]
    fn a_reset_begins_as_a_first_sync_at_the_start_that_is_set() {
        let now: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let first = |pairs: &[(&str, &str)]| {
            let cursor = read_pairs_of(KIND.name, pairs, |reader| (KIND.first)(reader, now)).unwrap();
            reached(&cursor).unwrap()
        };
        let start = ("TELEPORT_AUDIT_START", "2026-02-01T00:00:00Z");
        assert_eq!(first(&[start]).to_string(), "2026-01-31T23:59:59.999999999Z");
        assert_eq!(first(&[("AUDITSYNC_SYNC_LOOKBACK", "2h")]).to_string(), "2026-03-02T10:00:00Z");
    }
}
