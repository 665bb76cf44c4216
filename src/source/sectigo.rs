//! Sectigo Certificate Manager's audit API, as described at `audit.scm.devx.sectigo.com`.
//!
//! `position` holds what is decided (which range, which page, what was delivered before), `api` the calls, `ahead` makes the next one
//! early, and this file joins them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;
use url::Url;

use super::oauth::AccessToken;
use super::{Cursor, Error, Page, Source};
use crate::event::Event;
use crate::http::{self, Reply};
use crate::secret::Secret;
use crate::server_time::{LocalTime, ServerClock, TOLERANCE};
use ahead::Ahead;
use api::{Api, PageAnswer, Question, Refusal};
use moment::Moment;
use position::{Contradiction, Cut, InRange, PageToken, Position, Sifted, end_of_history, first_since};
use refusals::{Refusals, Step};
use stability::{Outcome, Stability, Turn};

mod ahead;
mod api;
pub mod fingerprint;
mod members;
pub mod moment;
pub mod overlap;
pub mod page;
pub mod position;
pub mod record;
pub mod refusals;
pub mod repair;
pub mod stability;
pub mod trail;

/// The variable of the API's address.
const URL_VARIABLE: &str = "SECTIGO_AUDIT_API_URL";

/// The shortest range.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

/// Behind a page of more bytes the next one is not asked for ahead. Pages are mostly alike, and a third such would take more memory than
/// its time is worth, since to read and to send one takes longer than to ask for it.
const LARGEST_TO_HURRY_FOR: usize = 4 * 1024 * 1024;

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
    clock: ServerClock,
    /// Whether the API gives again what it gave before.
    stability: Mutex<Stability>,
    /// Refusals of the present page.
    refusals: Mutex<Refusals>,
    /// How far the server's circle was followed without delivering anything.
    detour: Mutex<Option<Detour>>,
}

/// A page to request instead of the one that a cursor leads to, which was delivered before.
#[derive(Debug)]
struct Detour {
    instead_of: Cursor,
    past: Box<InRange>,
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
            clock: ServerClock::default(),
            stability: Mutex::default(),
            refusals: Mutex::default(),
            detour: Mutex::default(),
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
            PageAnswer::Page { reply, access, call } => {
                self.clock.note(&self.api.place(), reply.date(), call);
                Ok(self.records(&reply, &access, page::records).await?.len())
            }
            PageAnswer::PageTokenRefused(_) => Ok(0),
        }
    }

    /// The records of an answer, read on a thread for blocking work: a large page takes its time.
    async fn records(&self, reply: &Reply, access: &AccessToken, read: Reading) -> Result<Vec<Event>, Error> {
        let body = reply.body.clone();
        let read = match tokio::task::spawn_blocking(move || read(&body)).await {
            Ok(read) => read,
            // A bug is to end the process as one.
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            // Only the end of the process ends such work.
            Err(_) => read(&reply.body),
        };
        read.map_err(|cause| {
            let (place, reason) = (self.api.place(), self.api.describe(reply, access, &cause));
            match cause {
                page::Error::NotAnArray => Error::NotAPage { place, reason, variable: URL_VARIABLE },
                page::Error::NotText(_) | page::Error::Broken(_) => Error::Unreadable { place, reason },
            }
        })
    }

    /// The end of the history, for a synchronisation that began then.
    fn end(&self, begun: LocalTime) -> Moment {
        end_of_history(begun.wall, self.clock.past(begun, LocalTime::now()), self.delay)
    }

    /// The range that follows `position`, in the history of a synchronisation that began then; none where nothing is to be requested.
    fn enter(&self, position: Position, begun: LocalTime) -> Option<InRange> {
        let cut = Cut { window: *self.window.lock().unwrap_or_else(PoisonError::into_inner), ..self.cut };
        position.enter(self.end(begun), cut)
    }

    /// Reads the server's clock: requests the second before `since` and ignores its records. Without it, nobody would notice that there
    /// is something to request, if our clock is behind.
    async fn read_clock(&self, since: Moment) -> Result<(), Error> {
        let question = Question { from: since.before(SHORTEST_WINDOW), until: since, token: None };
        if let PageAnswer::Page { reply, call, .. } = self.api.ask(&question).await? {
            self.clock.note(&self.api.place(), reply.date(), call);
        }
        Ok(())
    }

    /// Where the very first synchronisation has to begin instead of at `since`, now that the server's clock is known. Within the tolerance
    /// it stays, unless the answer `is_void` anyway.
    fn first_corrected(&self, since: Moment, is_void: bool) -> Option<Position> {
        let now = LocalTime::now();
        let theirs = self.server_time(now)?;
        let corrected = first_since(since, now.wall, theirs, self.lookback);
        let by = since.since(corrected);
        if by.is_zero() || (by <= TOLERANCE && !is_void) {
            return None;
        }
        tracing::warn!(
            %since, begins = %corrected, server = %theirs, ours = %now.wall,
            "the first synchronisation begins earlier than stored, by the server's clock: this machine's clock was ahead"
        );
        Some(Position::starting_at(corrected))
    }

    /// A cursor far in the future was made by a wrong clock. To wait for it would lose what happens until then.
    fn not_ahead(&self, since: Moment) -> Result<(), Error> {
        let now = LocalTime::now();
        let theirs = self.server_time(now);
        if since <= Moment::from(theirs.unwrap_or(now.wall)).after(TOLERANCE) {
            return Ok(());
        }
        Err(match theirs {
            Some(theirs) => self.ahead(since, theirs),
            None => Error::AheadOfThisMachine { place: self.api.place(), since: since.into(), ours: now.wall },
        })
    }

    fn ahead(&self, since: Moment, theirs: Timestamp) -> Error {
        Error::AheadOfTheSource { place: self.api.place(), since: since.into(), theirs }
    }

    /// What a first page's own time says of its range: none if the range may end where it does, else where it has to.
    fn too_early(&self, range: &InRange, reply: &Reply) -> Option<Moment> {
        let date = reply.date()?;
        let end = end_of_history(date, None, self.delay);
        if range.token().is_some() || range.until() <= end {
            return None;
        }
        Some(end)
    }

    /// What is new of a page.
    fn sift(
        &self,
        cursor: &Cursor,
        range: InRange,
        records: Vec<Event>,
        token: Option<PageToken>,
    ) -> Result<Sifted, Error> {
        let (from, until) = (range.from(), range.until());
        let outcome = lock(&self.stability).sift(range, records, token, self.cut, Instant::now());
        let Outcome { sifted, turn } = outcome.map_err(|contradiction| match contradiction {
            Contradiction::Unstable { expected } => Error::Unstable { place: self.api.place(), expected },
            Contradiction::Looping { past } => {
                *lock(&self.detour) = Some(Detour { instead_of: cursor.clone(), past });
                Error::Looping { place: self.api.place() }
            }
        })?;
        match turn {
            Some(Turn::Off) => tracing::error!(
                place = %self.api.place(),
                "the API's records are not stable: for minutes it gave none of the records that it gave before for the same time; it is read on \
                 without SECTIGO_AUDIT_SYNC_OVERLAP, so a record that becomes visible later than SECTIGO_AUDIT_SYNC_DELAY may be missed until \
                 the API gives known records again; report this to Sectigo"
            ),
            Some(Turn::On) => tracing::info!(
                "the API gives known records again; SECTIGO_AUDIT_SYNC_OVERLAP protects late records as before"
            ),
            None => {}
        }
        let repaired = sifted.fresh.iter().filter(|event| event.is_repaired()).count();
        if repaired > 0 {
            tracing::warn!(
                repaired,
                %from,
                %until,
                "the API sent records that are not valid JSON; their invalid bytes are replaced, and their entries carry \
                 `auditsync.repaired`; report them to Sectigo"
            );
        }
        Ok(sifted)
    }

    /// Where the page is that the cursor leads to: behind those that the server gave again, as long as it goes round in a circle.
    fn detoured(&self, cursor: &Cursor, range: InRange) -> InRange {
        match lock(&self.detour).take() {
            Some(Detour { instead_of, past }) if instead_of == *cursor => *past,
            _ => range,
        }
    }

    /// A page's token was refused: where to go on, if the same page is not to be requested again.
    fn refused(&self, range: InRange, refusal: Refusal) -> Result<Position, Error> {
        let Refusal { status, reason } = refusal;
        let place = self.api.place();
        let step = lock(&self.refusals).refused(&range, status, Instant::now());
        match step {
            Step::Note => {
                tracing::warn!(%place, status, %reason, "the API refused the next page of a range; the same page is requested again");
                return Ok(Position::InRange(range.noting_refusal()));
            }
            Step::Again(after) => return Err(Error::PageRefused { place, status, reason, after }),
            Step::Final if !refusals::may_mean_the_token(status) => {
                return Err(Error::Refused { place, status, reason, variable: URL_VARIABLE });
            }
            Step::Final => {}
        }
        lock(&self.refusals).answered();
        tracing::warn!(
            %place, status, %reason,
            "the API refused a page's token again and again; its range is read from the start again, and its events may be delivered twice"
        );
        let reason = format!("in a range of one second, {status}: {reason}");
        let again = range.token_refused(self.cut).ok_or(Error::Unreadable { place, reason })?;
        Ok(Position::InRange(again))
    }

    fn page(
        &self,
        events: Vec<Event>,
        already_delivered: usize,
        next: &Position,
        begun: LocalTime,
    ) -> Result<Page, Error> {
        let more = match next {
            Position::InRange(_) => true,
            Position::First { since } | Position::Idle { since, .. } => *since < self.end(begun),
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
        let since = Moment::from(now).before(self.lookback);
        Cursor::encode(&Position::First { since }).unwrap_or_default()
    }

    fn position(&self, cursor: &Cursor) -> Result<Timestamp, Error> {
        position(cursor)
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Error> {
        let position: Position = cursor.decode().map_err(Error::Cursor)?;
        let is_idle = !matches!(position, Position::InRange(_));
        let is_first = matches!(position, Position::First { .. });
        let since = position.since();
        if is_idle && self.end(begun) <= since && self.server_time(LocalTime::now()).is_none() {
            self.read_clock(since).await?;
            if self.end(begun) > since {
                // Each call to a source is one request for records, so that its time is bounded.
                return Ok(Page { events: Vec::new(), already_delivered: 0, next: cursor.clone(), more: true });
            }
        }
        if is_first && let Some(corrected) = self.first_corrected(since, false) {
            return self.page(Vec::new(), 0, &corrected, begun);
        }
        let Some(range) = self.enter(position, begun) else {
            self.not_ahead(since)?;
            return Ok(Page { events: Vec::new(), already_delivered: 0, next: cursor.clone(), more: false });
        };
        let range = self.detoured(cursor, range);
        tracing::debug!(from = %range.from(), until = %range.until(), first = range.token().is_none(), "asking for a page");
        let question = question(&range);
        let (reply, access, call) = match self.ahead.answer(&self.api, &question).await? {
            PageAnswer::Page { reply, access, call } => (reply, access, call),
            PageAnswer::PageTokenRefused(refusal) => {
                return self.page(Vec::new(), 0, &self.refused(range, refusal)?, begun);
            }
        };
        lock(&self.refusals).answered();
        self.clock.note(&self.api.place(), reply.date(), call);
        let too_early = self.too_early(&range, &reply);
        if is_first && let Some(corrected) = self.first_corrected(since, too_early.is_some()) {
            return self.page(Vec::new(), 0, &corrected, begun);
        }
        if let Some(end) = too_early {
            tracing::debug!(%end, "the API's clock has not come so far; asking for less");
            let theirs = end.after(self.delay).into();
            return match range.shortened_to(end, self.cut) {
                Some(shorter) => self.page(Vec::new(), 0, &Position::InRange(shorter), begun),
                // Within a range, time has already been where it is not any more: to ask again at once would spin.
                None if !is_idle => Err(self.ahead(since, theirs)),
                None => {
                    self.not_ahead(since)?;
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
        let read: Reading = if range.is_tolerant() { repair::records } else { page::records };
        let records = self.records(&reply, &access, read).await;
        let sifted = records.and_then(|records| self.sift(cursor, range, records, token));
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
        self.page(sifted.fresh, sifted.already_delivered, &sifted.next, begun)
    }

    fn server_time(&self, now: LocalTime) -> Option<Timestamp> {
        self.clock.at(now, now)
    }

    fn pause(&self) {
        self.ahead.break_off();
    }

    fn narrowed(&self, cursor: &Cursor, begun: LocalTime) -> Option<Cursor> {
        let position: Position = cursor.decode().ok()?;
        let narrowed = self.enter(position, begun)?.halved(self.cut)?;
        // Behind what cannot be read there may be more of it: ranges grow again by and by.
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = narrowed.length().max(SHORTEST_WINDOW);
        Cursor::encode(&Position::InRange(narrowed)).ok()
    }
}

/// How a body becomes records.
type Reading = fn(&Bytes) -> Result<Vec<Event>, page::Error>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
