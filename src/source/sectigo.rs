//! Sectigo Certificate Manager's audit API, as described at `audit.scm.devx.sectigo.com`.
//!
//! `position` holds what is decided (which range, which page, what was delivered before), `api` the calls, `ahead` makes the next one
//! early, and this file joins them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;
use url::Url;

use super::oauth::AccessToken;
use super::{Cursor, Error, Page, Source};
use crate::event::Event;
use crate::http::{self, Reply};
use crate::secret::Secret;
use ahead::Ahead;
use api::{Api, PageAnswer, Question};
use moment::Moment;
use position::{Contradiction, Cut, InRange, PageToken, Position, Sifted, end_of_history};

mod ahead;
mod api;
pub mod fingerprint;
mod members;
pub mod moment;
pub mod overlap;
pub mod page;
pub mod position;
pub mod record;

/// The variable of the API's address.
const URL_VARIABLE: &str = "SECTIGO_AUDIT_API_URL";

/// A reading of the server's clock is trusted for this long; then ours counts alone, so that one wrong `Date` cannot keep us from
/// asking again.
const CLOCK_LIFE: Duration = Duration::from_secs(600);

/// The shortest range.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

/// Behind a page of more bytes the next one is not asked for ahead. Pages are mostly alike, and a third such would take more memory than
/// its time is worth, since to read and to send one takes longer than to ask for it.
const LARGEST_TO_HURRY_FOR: usize = 4 * 1024 * 1024;

/// Clocks that differ by more than this are worth a warning.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// What is needed to read the audit API.
#[derive(Debug)]
pub struct Settings {
    /// The audit API's base address (`SECTIGO_AUDIT_API_URL`).
    pub api_url: Url,
    /// The client of the OAuth 2.0 client credentials grant.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// The token endpoint; none to discover it.
    pub token_url: Option<Url>,
    /// How far back the very first synchronisation goes.
    pub lookback: Duration,
    /// How long a record may take to become visible: the newest stretch of time that is not asked for yet.
    pub delay: Duration,
    /// The longest range of time asked for at once.
    pub window: Duration,
    /// How far each range reaches back into the one before.
    pub overlap: Duration,
}

/// The audit API as a source.
#[derive(Debug)]
pub struct Sectigo {
    api: Arc<Api>,
    ahead: Ahead,
    lookback: Duration,
    delay: Duration,
    cut: Cut,
    /// The longest range for now: shorter than configured where pages could not be read.
    window: Mutex<Duration>,
    /// Set when the API's records turned out not to be stable; until the next start.
    overlap_off: AtomicBool,
    /// Set when a difference of the clocks has been told.
    clock_told: AtomicBool,
    /// The server's clock when it was last read.
    server_clock: Mutex<Option<(Timestamp, Instant)>>,
}

impl Sectigo {
    /// Name in the state document.
    pub const NAME: &'static str = "sectigo";

    /// A source that calls through `http`.
    pub fn new(settings: Settings, http: Arc<http::Client>) -> Self {
        let Settings { api_url, client_id, client_secret, token_url, lookback, delay, window, overlap } = settings;
        Self {
            api: Arc::new(Api::new(http, &api_url, token_url, client_id, client_secret)),
            ahead: Ahead::default(),
            lookback,
            delay,
            cut: Cut { window, overlap },
            window: Mutex::new(window),
            overlap_off: AtomicBool::new(false),
            clock_told: AtomicBool::new(false),
            server_clock: Mutex::new(None),
        }
    }

    /// Obtains an access token and gives the endpoint that issued it: the first half of a check.
    pub async fn check_token(&self) -> Result<String, Error> {
        self.api.check_token().await
    }

    /// Reads one page of the last hour, delivering nothing, and gives the number of its records: the second half of a check.
    pub async fn check_page(&self, now: Timestamp) -> Result<usize, Error> {
        let end = end_of_history(now, None, self.delay);
        let since = end.before(Duration::from_secs(3600));
        let range = Position::starting_at(since).enter(end, Cut { window: Duration::from_secs(3600), ..self.cut });
        let Some(range) = range else { return Ok(0) };
        match self.api.ask(&question(&range)).await? {
            PageAnswer::Page { reply, access, .. } => Ok(self.records(&reply, &access).await?.len()),
            PageAnswer::PageTokenRefused { .. } => Ok(0),
        }
    }

    /// The records of an answer, read on a thread for blocking work: a large page takes its time.
    async fn records(&self, reply: &Reply, access: &AccessToken) -> Result<Vec<Event>, Error> {
        let body = reply.body.clone();
        let read = match tokio::task::spawn_blocking(move || page::records(&body)).await {
            Ok(read) => read,
            // A bug is to end the process as one.
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            // Only the end of the process ends such work.
            Err(_) => page::records(&reply.body),
        };
        read.map_err(|cause| {
            let (place, reason) = (self.api.place(), self.api.describe(reply, access, &cause));
            match cause {
                page::Error::NotAnArray => Error::NotAPage { place, reason, variable: URL_VARIABLE },
                page::Error::NotText(_) | page::Error::Broken(_) => Error::Unreadable { place, reason },
            }
        })
    }

    /// The server's present time, as its last answer tells.
    fn server_now(&self) -> Option<Timestamp> {
        let clock = *self.server_clock.lock().unwrap_or_else(PoisonError::into_inner);
        let (date, read) = clock?;
        let elapsed = read.elapsed();
        if elapsed > CLOCK_LIFE { None } else { date.checked_add(elapsed).ok() }
    }

    fn note_server_clock(&self, date: Timestamp, read: Instant, now: Timestamp) {
        // `now` is when the cycle began: a server that is ahead of it by the length of a cycle may well be right.
        let ahead = Moment::from(now).since(Moment::from(date));
        if ahead > CLOCK_TOLERANCE && !self.clock_told.swap(true, Ordering::Relaxed) {
            let ahead = humantime::format_duration(ahead);
            tracing::warn!(server = %date, ours = %now, "this machine's clock is {ahead} ahead of the API's, which counts");
        }
        *self.server_clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, read));
    }

    /// The range that follows `position`, in a history that ends `now`; none where there is nothing to ask for.
    fn enter(&self, position: Position, now: Timestamp) -> Option<InRange> {
        let since = position.since();
        if Moment::from(now).after(CLOCK_TOLERANCE) < since {
            tracing::warn!(%since, %now, "this machine's clock is behind what was already delivered; nothing is asked for until it is right");
        }
        let cut = Cut { window: *self.window.lock().unwrap_or_else(PoisonError::into_inner), ..self.cut };
        let range = position.enter(end_of_history(now, self.server_now(), self.delay), cut)?;
        Some(if self.overlap_off.load(Ordering::Relaxed) { range.without_overlap(self.cut) } else { range })
    }

    /// A place that lies far ahead of the API's clock was made by a wrong one: to wait for it would lose what happens meanwhile.
    fn not_ahead(&self, since: Moment, theirs: Timestamp) -> Result<(), Error> {
        let is_ahead = since > Moment::from(theirs).after(CLOCK_TOLERANCE);
        if is_ahead { Err(self.ahead(since, theirs)) } else { Ok(()) }
    }

    fn ahead(&self, since: Moment, theirs: Timestamp) -> Error {
        Error::AheadOfTheSource { place: self.api.place(), since: since.into(), theirs }
    }

    /// What a first page's own time says of its range: none if the range may end where it does, else where it has to.
    fn too_early(&self, range: &InRange, reply: &Reply, read: Instant, now: Timestamp) -> Option<Moment> {
        let date = reply.date()?;
        self.note_server_clock(date, read, now);
        let end = end_of_history(date, None, self.delay);
        if range.token().is_some() || range.until() <= end {
            return None;
        }
        Some(end)
    }

    /// What is new of a page.
    fn sift(&self, range: InRange, records: Vec<Event>, token: Option<PageToken>) -> Result<Sifted, Error> {
        range.take(records, token).map_err(|contradiction| match contradiction {
            Contradiction::Unstable { expected } => {
                self.overlap_off.store(true, Ordering::Relaxed);
                Error::Unstable { place: self.api.place(), expected }
            }
            Contradiction::Looping => Error::Looping { place: self.api.place() },
        })
    }

    fn page(
        &self,
        events: Vec<Event>,
        already_delivered: usize,
        next: &Position,
        now: Timestamp,
    ) -> Result<Page, Error> {
        let more = match next {
            Position::InRange(_) => true,
            Position::Idle { since, .. } => *since < end_of_history(now, self.server_now(), self.delay),
        };
        Ok(Page { events, already_delivered, next: Cursor::encode(next).map_err(Error::Cursor)?, more })
    }
}

#[async_trait]
impl Source for Sectigo {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn first_cursor(&self, now: Timestamp) -> Cursor {
        cursor_at(Moment::from(now).before(self.lookback).into())
    }

    fn position(&self, cursor: &Cursor) -> Result<Timestamp, Error> {
        position(cursor)
    }

    async fn next_page(&self, cursor: &Cursor, now: Timestamp) -> Result<Page, Error> {
        let position: Position = cursor.decode().map_err(Error::Cursor)?;
        let is_idle = matches!(position, Position::Idle { .. });
        let since = position.since();
        let Some(range) = self.enter(position, now) else {
            if let Some(theirs) = self.server_now() {
                self.not_ahead(since, theirs)?;
            }
            return Ok(Page { events: Vec::new(), already_delivered: 0, next: cursor.clone(), more: false });
        };
        tracing::debug!(from = %range.from(), until = %range.until(), first = range.token().is_none(), "asking for a page");
        let question = question(&range);
        let (reply, access, read) = match self.ahead.answer(&self.api, &question).await? {
            PageAnswer::Page { reply, access, read } => (reply, access, read),
            PageAnswer::PageTokenRefused { refusal } => {
                tracing::warn!(error = %refusal, "the API refused a page's token; its range is read from the start again, and may repeat");
                let place = self.api.place();
                let smallest = || Error::Unreadable { place, reason: format!("in a range of one second, {refusal}") };
                let again = range.token_refused(self.cut).ok_or_else(smallest)?;
                return self.page(Vec::new(), 0, &Position::InRange(again), now);
            }
        };
        if let Some(end) = self.too_early(&range, &reply, read, now) {
            tracing::debug!(%end, "the API's clock has not come so far; asking for less");
            let theirs = end.after(self.delay).into();
            return match range.shortened_to(end, self.cut) {
                Some(shorter) => self.page(Vec::new(), 0, &Position::InRange(shorter), now),
                // Within a range, time has already been where it is not any more: to ask again at once would spin.
                None if !is_idle => Err(self.ahead(since, theirs)),
                None => {
                    self.not_ahead(since, theirs)?;
                    Ok(Page { events: Vec::new(), already_delivered: 0, next: cursor.clone(), more: false })
                }
            };
        }
        let token = self.api.page_token(&reply)?;
        // Behind an empty page there is none, whatever its token says; and the same token again would lead in a circle.
        let leads_on = token.is_some() && token != question.token && !page::is_empty(&reply.body);
        if leads_on && reply.body.len() <= LARGEST_TO_HURRY_FOR {
            self.ahead.ask(&self.api, Question { token: token.clone(), ..question });
        }
        let records = self.records(&reply, &access).await;
        let sifted = records.and_then(|records| self.sift(range, records, token));
        if sifted.is_err() {
            // The next question will be another.
            self.ahead.break_off();
        }
        let sifted = sifted?;
        if matches!(sifted.next, Position::Idle { .. }) {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            *window = window.saturating_mul(2).min(self.cut.window);
        }
        if sifted.shrunk {
            tracing::warn!(
                most = overlap::MOST,
                "more records lie in SECTIGO_AUDIT_SYNC_OVERLAP than the state remembers; the overlap is shorter for now"
            );
        }
        self.page(sifted.fresh, sifted.already_delivered, &sifted.next, now)
    }

    fn pause(&self) {
        self.ahead.break_off();
    }

    fn narrowed(&self, cursor: &Cursor, now: Timestamp) -> Option<Cursor> {
        let position: Position = cursor.decode().ok()?;
        let narrowed = self.enter(position, now)?.halved(self.cut)?;
        // Behind what cannot be read there may be more of it: ranges grow again by and by.
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = narrowed.length().max(SHORTEST_WINDOW);
        Cursor::encode(&Position::InRange(narrowed)).ok()
    }
}

fn question(range: &InRange) -> Question {
    Question { from: range.from(), until: range.until(), token: range.token().cloned() }
}

/// The cursor just behind everything up to `since`; needs no connection.
pub fn cursor_at(since: Timestamp) -> Cursor {
    // A position is plain data and always has a JSON form; null would be refused when read, never taken for a place.
    Cursor::encode(&Position::starting_at(since.into())).unwrap_or_default()
}

/// Up to when everything before `cursor` is delivered; needs no connection.
pub fn position(cursor: &Cursor) -> Result<Timestamp, Error> {
    let position: Position = cursor.decode().map_err(Error::Cursor)?;
    Ok(position.since().into())
}
