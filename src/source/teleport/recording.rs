//! Reads pages of recorded sessions.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::cursor::Progress;
use super::error::Error;
use super::message::SessionRequest;
use super::record::{Message, Record, record, unreadable};
use super::sessions::{PATIENCE, PATIENCE_OF_MANY, Session};
use super::{Teleport, WORTH_WAITING};
use crate::clock::LocalTime;
use crate::dead_letter::Fate;
use crate::event::{Event, Field, Fields};
use crate::failure::Chain;
use crate::http::{Excerpt, Redaction};
use crate::source::{Page, Then};

/// The most events of a page.
const MOST_EVENTS: usize = 1000;

/// The encoded bytes with which a page ends.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The longest time for a page, because the audit log waits for it.
const LONGEST: Duration = Duration::from_secs(2);

/// The longest wait for an event while pages of the audit log can be read.
const MOMENT: Duration = Duration::from_millis(100);

/// The longest wait for the first event of a recording. The server loads the whole recording before it sends one, and a
/// long recording from a slow storage takes many minutes.
const FIRST_EVENT: Duration = Duration::from_secs(15 * 60);

/// The recording that is being read.
///
/// Each request for a recording makes the server read it from its beginning, and write an event into the audit log. So
/// the request stays open from page to page, and also while the server has sent nothing yet.
#[derive(Default)]
pub(super) struct Recordings(Mutex<Option<Open>>);

struct Open {
    /// The session's progress after the last page.
    session: Session,
    events: BoxStream<'static, Result<Bytes, Error>>,
    /// The time of its last event, or of the request.
    heard: Instant,
    /// Whether an event has come since the request.
    has_begun: bool,
    /// Whether its last page had no event.
    is_silent: bool,
    /// Whether delivered events may come again, which ends with the first new one.
    resumed: bool,
}

impl Recordings {
    /// Ends the request, because the next page may never be requested.
    pub(super) fn close(&self) {
        self.0.lock().take();
    }

    /// The id of the open recording.
    pub(super) fn id(&self) -> Option<String> {
        self.0.lock().as_ref().map(|open| open.session.id.clone())
    }

    /// Whether the open recording had no event in its last page.
    pub(super) fn is_silent(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|open| open.is_silent)
    }

    /// Takes the open recording if it is that of `session`. One whose progress is another one ends.
    fn take(&self, session: &Session) -> Option<Open> {
        let mut open = self.0.lock();
        let is_of_session = open.as_ref().is_some_and(|open| open.session.id == session.id);
        if is_of_session { open.take().filter(|open| open.session == *session) } else { None }
    }
}

/// The end of a page.
enum Ended {
    /// There may be more.
    Paused(Box<Open>),
    /// The recording has been read to its end.
    Whole,
    Failed(Error),
}

impl Teleport {
    /// Reads the next page of `session`. With `hurry`, the audit log waits for it.
    pub(super) async fn read_session(
        &self,
        mut progress: Progress,
        mut session: Session,
        begun: LocalTime,
        hurry: bool,
    ) -> Result<Page, Error> {
        let mut found = Found::default();
        let ended = match self.open(&session).await {
            Ok(open) => {
                // While there is no room for a session, the audit log waits for this one.
                let patience = if progress.sessions.is_full() { self.api.timeout() } else { FIRST_EVENT };
                self.read_on(open, &mut session, &mut found, hurry, patience).await
            }
            Err(error) => Ended::Failed(error),
        };
        self.metrics.filtered(found.filtered);
        match ended {
            Ended::Whole => {
                tracing::debug!(session = %shown(&session.id), "read a recorded session to its end");
                progress.finish(session);
            }
            Ended::Paused(open) => {
                progress.sessions.replace(session);
                *self.recordings.0.lock() = Some(*open);
            }
            // Without a connection, the audit log cannot be read either.
            Ended::Failed(error) if !error.is_answer() => return Err(error),
            Ended::Failed(error) => self.failed(&mut progress, session, &error).await?,
        }
        let progressed = found.read > 0;
        self.page(&progress, found.events, found.deduplicated, progressed, begun)
    }

    async fn open(&self, session: &Session) -> Result<Open, Error> {
        if let Some(open) = self.recordings.take(session) {
            return Ok(open);
        }
        let start_index = session.start();
        tracing::debug!(session = %shown(&session.id), start_index, "requesting a recorded session");
        let events = self.api.session(SessionRequest { session_id: session.id.clone(), start_index }).await?;
        Ok(Open {
            session: session.clone(),
            events,
            heard: Instant::now(),
            has_begun: false,
            is_silent: false,
            resumed: true,
        })
    }

    /// Reads the events of a page. The first event after the request may take as long as `patience`.
    async fn read_on(
        &self,
        mut open: Open,
        session: &mut Session,
        found: &mut Found,
        hurry: bool,
        patience: Duration,
    ) -> Ended {
        let begun = Instant::now();
        let mut bytes = 0;
        loop {
            if found.read >= MOST_EVENTS || bytes >= MOST_BYTES || begun.elapsed() >= LONGEST {
                break;
            }
            // A slow recording must not hold anything up.
            let end = if hurry { (begun + LONGEST / 2).min(Instant::now() + MOMENT) } else { begun + LONGEST };
            let patience = if open.has_begun { self.api.timeout() } else { patience };
            let item = match timeout_at(end, open.events.try_next()).await {
                Err(_) if open.heard.elapsed() >= patience => return Ended::Failed(self.api.no_event(patience)),
                Err(_) => break,
                Ok(Ok(None)) => return Ended::Whole,
                Ok(Err(error)) => return Ended::Failed(error),
                Ok(Ok(Some(item))) => item,
            };
            (open.heard, open.has_begun) = (Instant::now(), true);
            bytes += item.len();
            found.read += 1;
            self.take_event(&item, session, &mut open, found);
        }
        open.session = session.clone();
        open.is_silent = found.read == 0;
        Ended::Paused(Box::new(open))
    }

    fn take_event(&self, item: &Bytes, session: &mut Session, open: &mut Open, found: &mut Found) {
        let message = Message::read(item).ok();
        let index = message.as_ref().map(|message| message.index);
        let Record { event, print, reduced, .. } = match &message {
            Some(message) => record(message, item),
            None => unreadable(item),
        };
        if open.resumed && open.session.has(index, print) {
            found.deduplicated += 1;
            return;
        }
        open.resumed = false;
        session.read(index, print);
        if let Some(unfit) = reduced {
            tracing::error!(
                session = %shown(&session.id), index, reason = %unfit,
                "a recorded session has an event that is malformed; auditsync delivers it in a reduced form, with its message in `auditsync_message`"
            );
        }
        if message.as_ref().is_none_or(|message| self.filter.wants_of_session(&message.kind)) {
            found.events.push(event.with_one_more_derived(Field::SessionId, Cow::Owned(session.id.clone())));
        } else {
            found.filtered += 1;
        }
    }

    /// Schedules another attempt for a session, or makes it a dead letter.
    async fn failed(&self, progress: &mut Progress, mut session: Session, error: &Error) -> Result<(), Error> {
        let now = self.now();
        let error_shown = Chain(error).to_string();
        let goes_on = session.failed(now, error.may_pass());
        let id = shown(&session.id);
        if goes_on {
            tracing::warn!(session = %id, failures = session.failures(), error = %error_shown, "a recorded session cannot be read; auditsync tries again later");
            progress.sessions.replace(session);
        } else {
            let reason =
                format!("the recording could not be read for {}: {error_shown}", humantime::format_duration(PATIENCE));
            self.give_up(progress, &session.id, &reason, now).await?;
        }
        Ok(())
    }

    /// Makes room when too many sessions wait and none can be read now. A session that has failed for long becomes a
    /// dead letter. If there is none, the audit log waits: its events stay on the server.
    pub(super) async fn make_room(
        &self,
        mut progress: Progress,
        now: jiff::Timestamp,
        begun: LocalTime,
    ) -> Result<Page, Error> {
        let Some(id) = progress.sessions.surplus(now).map(|session| session.id.clone()) else {
            if let Some(wait) = progress.sessions.soonest(now).filter(|wait| *wait <= WORTH_WAITING) {
                return Ok(Page { then: Then::After(wait), ..self.page(&progress, Vec::new(), 0, false, begun)? });
            }
            let (address, waiting) = (self.api.address().clone(), progress.sessions.len());
            return Err(Error::SessionsFull { address, waiting });
        };
        let patience = humantime::format_duration(PATIENCE_OF_MANY);
        let reason = format!("the recording could not be read for {patience}, and too many others wait");
        self.give_up(&mut progress, &id, &reason, now).await?;
        self.page(&progress, Vec::new(), 0, true, begun)
    }

    /// Makes a session a dead letter, under its id.
    async fn give_up(
        &self,
        progress: &mut Progress,
        id: &str,
        reason: &str,
        now: jiff::Timestamp,
    ) -> Result<(), Error> {
        // The dead letter names the session, because there is no record of it.
        let raw = serde_json::json!({ "sid": id }).to_string();
        let event = Event::new(Bytes::from(raw), None, Fields::default())
            .with_derived(vec![(Field::Id, Cow::Owned(id.to_owned()))]);
        self.dead_letters.keep(&event, Fate::Missing, reason, now).await?;
        self.metrics.dead_lettered();
        progress.sessions.remove(id);
        Ok(())
    }
}

/// The content of a page.
#[derive(Default)]
struct Found {
    events: Vec<Event>,
    read: usize,
    deduplicated: usize,
    filtered: usize,
}

fn shown(id: &str) -> Excerpt {
    Excerpt::of(id.as_bytes(), &Redaction::none())
}
