//! Sectigo Certificate Manager's audit API, as described at `audit.scm.devx.sectigo.com`.
//!
//! `cursor` and `range` decide which range and page come next, and what was delivered before. `api` makes the calls,
//! `ahead` makes the next call early, and this file joins them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use super::variables::LOOKBACK;
use super::{Cursor, Kind, Page, Product, Source, Then};
use crate::clock::{Clock, LocalTime};
use crate::component::{Check, Configured, Context};
use crate::event::Event;
use crate::failure::Failure;
use crate::http::{Excerpt, Reply, Tls};
use crate::oauth::AccessToken;
use crate::secret::Secret;
use crate::server_time::{ServerClock, TOLERANCE};
use crate::task;
use ahead::Ahead;
use api::{Api, PageAnswer, PageRequest};
use cursor::{Cut, SectigoCursor, end_of_history, first_since};
use error::Error;
use moment::Moment;
use range::{Contradiction, InRange, PageToken, Sifted};
use refusals::{Refusals, Step};
use stability::{Outcome, Stability, Turn};
pub use variables::Names;

mod ahead;
mod api;
pub mod cursor;
mod error;
pub mod moment;
pub mod overlap;
pub mod page;
pub mod range;
pub mod record;
pub mod refusals;
pub mod repair;
pub mod severity;
pub mod stability;
pub mod trail;
pub(crate) mod variables;

/// The source's entry in the registry.
pub const KIND: Kind = Kind {
    name: "sectigo",
    title: "Sectigo audit API",
    product: Product { name: "sectigo", service: "sectigo-scm", is_flat: false },
    variables: variables::VARIABLES,
    aliases: &[],
    history: None,
    interval: None,
    server: None,
    queue: |_| Ok(None),
    first: |reader, now| Ok(first_cursor(reader.get(&LOOKBACK)?, now)),
    cursor_at: |since, _, _| Cursor::encode(&SectigoCursor::starting_at(since.into())).ok(),
    reached,
    settled: |cursor| {
        let cursor: SectigoCursor = cursor.decode().map_err(Error::Cursor)?;
        Ok(cursor.settled().into())
    },
    read: |reader| {
        let settings = variables::settings(reader)?;
        let secret = settings.client_secret.clone();
        let build = move |context: &Context| -> Arc<dyn Source> { Arc::new(Sectigo::new(settings.clone(), context)) };
        Ok(Configured::new(build).with_secrets([secret]))
    },
};

/// The shortest range.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

/// The largest page after which the next one is requested ahead, in bytes. Pages of one range are mostly alike. A third
/// page of this size would cost more memory than it saves time, because reading and sending a page takes longer than
/// requesting it.
const LARGEST_TO_HURRY_FOR: usize = 4 * 1024 * 1024;

/// The settings of the audit API.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The audit API's base address (`SECTIGO_AUDIT_API_URL`).
    pub api_url: Url,
    /// The client of the OAuth 2.0 client credentials grant.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// The token endpoint; none to discover it.
    pub token_url: Option<Url>,
    /// The files of TLS, for the API and the token endpoint.
    pub tls: Tls,
    /// How far back the very first sync goes.
    pub lookback: Duration,
    /// How long a record may take to become visible. The newest stretch of this length is not requested yet.
    pub delay: Duration,
    /// The longest range of time in one request.
    pub window: Duration,
    /// How far each range reaches back into the range before it.
    pub overlap: Duration,
    /// The names of variables, for messages.
    pub names: Names,
}

/// The audit API as a source.
#[derive(Debug)]
pub struct Sectigo {
    api: Arc<Api>,
    ahead: Ahead,
    lookback: Duration,
    delay: Duration,
    cut: Cut,
    /// The longest range at present: shorter than configured after pages that could not be read.
    window: Mutex<Duration>,
    clock: Clock,
    server_clock: ServerClock,
    /// Whether the API returns the same records again for the same time.
    stability: Mutex<Stability>,
    /// The refusals of the present page.
    refusals: Mutex<Refusals>,
    /// How far this source has followed a circle of the server's pages without delivering them.
    detour: Mutex<Option<Detour>>,
    /// Whether a warning named records with times outside the requested range.
    warned_of_times: AtomicBool,
}

/// The page to request instead of the one that a cursor leads to, because that one was delivered before.
#[derive(Debug)]
struct Detour {
    instead_of: Cursor,
    past: Box<InRange>,
}

impl Sectigo {
    /// Makes the source of the pipeline in `context`.
    pub fn new(settings: Settings, context: &Context) -> Self {
        let Settings { lookback, delay, window, overlap, .. } = settings;
        Self {
            api: Arc::new(Api::new(context, settings)),
            ahead: Ahead::default(),
            lookback,
            delay,
            cut: Cut { window, overlap },
            window: Mutex::new(window),
            clock: context.clock.clone(),
            server_clock: ServerClock::default(),
            warned_of_times: AtomicBool::new(false),
            stability: Mutex::default(),
            refusals: Mutex::default(),
            detour: Mutex::default(),
        }
    }

    /// Reads one page of the last hour, delivers nothing, and returns the number of its records.
    async fn check_page(&self, now: Timestamp) -> Result<usize, Error> {
        let end = end_of_history(now, None, self.delay);
        let since = end.before(Duration::from_secs(3600));
        let range = SectigoCursor::starting_at(since).enter(end, Cut { window: Duration::from_secs(3600), ..self.cut });
        let Some(range) = range else { return Ok(0) };
        match self.api.get(&request(&range)).await? {
            PageAnswer::Page { reply, access, call } => {
                self.server_clock.note(&self.api.address(), reply.date(), call);
                Ok(self.records(&reply, &access, page::records).await?.len())
            }
            PageAnswer::PageTokenRefused { .. } => Ok(0),
        }
    }

    /// Reads the records of an answer, on a thread for blocking work, because a large page takes long.
    async fn records(&self, reply: &Reply, access: &AccessToken, read: Reading) -> Result<Vec<Event>, Error> {
        let (body, read_here) = (reply.body.clone(), read);
        let read = task::outcome(tokio::task::spawn_blocking(move || read(&body)).await);
        read.unwrap_or_else(|_| read_here(&reply.body)).map_err(|cause| {
            let reason = self.api.describe(reply, access, &cause);
            match cause {
                page::Error::NotAnArray => self.api.not_a_page(reason),
                page::Error::NotText(_) | page::Error::Broken(_) => {
                    Error::Unreadable { address: self.api.address(), reason }
                }
            }
        })
    }

    /// The end of the history for a sync that began at `begun`.
    fn end(&self, begun: LocalTime) -> Moment {
        end_of_history(begun.wall, self.server_clock.past(begun, self.clock.local()), self.delay)
    }

    /// The range that follows `cursor`, for a sync that began at `begun`; none if there is nothing to request.
    fn enter(&self, cursor: SectigoCursor, begun: LocalTime) -> Option<InRange> {
        let cut = Cut { window: *self.window.lock(), ..self.cut };
        cursor.enter(self.end(begun), cut)
    }

    /// Reads the server's clock: requests the second before `since`, and ignores its records. If our clock is behind,
    /// only the server's clock shows that there is something to request.
    async fn read_clock(&self, since: Moment) -> Result<(), Error> {
        let request = PageRequest { from: since.before(SHORTEST_WINDOW), until: since, token: None };
        if let PageAnswer::Page { reply, call, .. } = self.api.get(&request).await? {
            self.server_clock.note(&self.api.address(), reply.date(), call);
        }
        Ok(())
    }

    /// The start of the very first sync, corrected by the server's clock; none if it may stay at `since`. It stays
    /// within the tolerance, unless the answer `is_void` anyway.
    fn first_corrected(&self, since: Moment, is_void: bool) -> Option<SectigoCursor> {
        let now = self.clock.local();
        let theirs = self.server_time(now)?;
        let corrected = first_since(since, now.wall, theirs, self.lookback);
        let by = since.since(corrected);
        if by.is_zero() || (by <= TOLERANCE && !is_void) {
            return None;
        }
        tracing::warn!(
            %since, begins = %corrected, server = %theirs, ours = %now.wall,
            "the first sync begins earlier than stored, by the server's clock: this machine's clock was ahead"
        );
        Some(SectigoCursor::starting_at(corrected))
    }

    /// Fails if a cursor lies far in the future, because a wrong clock made it. Waiting for that time would lose
    /// everything until then.
    fn not_ahead(&self, since: Moment) -> Result<(), Error> {
        let now = self.clock.local();
        let theirs = self.server_time(now);
        if since <= Moment::from(theirs.unwrap_or(now.wall)).after(TOLERANCE) {
            return Ok(());
        }
        Err(match theirs {
            Some(theirs) => self.ahead(since, theirs),
            None => Error::AheadOfThisMachine { address: self.api.address(), since: since.into(), ours: now.wall },
        })
    }

    fn ahead(&self, since: Moment, theirs: Timestamp) -> Error {
        Error::AheadOfTheSource { address: self.api.address(), since: since.into(), theirs }
    }

    /// The end that a range must have by the time in its first page; none if its own end may stay. A page without a
    /// time counts as old as it can be. This machine's clock may have jumped ahead since the server last showed its
    /// own.
    fn too_early(&self, range: &InRange, reply: &Reply) -> Option<Moment> {
        let date = reply.date().or_else(|| self.server_clock.at_least(self.clock.local()))?;
        let end = end_of_history(date, None, self.delay);
        if range.token().is_some() || range.until() <= end {
            return None;
        }
        Some(end)
    }

    /// Keeps the new records of a page.
    fn sift(
        &self,
        cursor: &Cursor,
        range: InRange,
        records: Vec<Event>,
        token: Option<PageToken>,
    ) -> Result<Sifted, Error> {
        let (from, until) = (range.from(), range.until());
        let outcome = self.stability.lock().sift(range, records, token, self.cut, Instant::now());
        let Outcome { sifted, turn } = outcome.map_err(|contradiction| match contradiction {
            Contradiction::Unstable { expected } => Error::Unstable { address: self.api.address(), expected },
            Contradiction::Looping { past } => {
                *self.detour.lock() = Some(Detour { instead_of: cursor.clone(), past });
                Error::Looping { address: self.api.address() }
            }
        })?;
        match turn {
            Some(Turn::Off) => tracing::error!(
                address = %self.api.address(),
                "the API's records are not stable: for minutes it returned none of the records that it returned before for the \
                 same time. auditsync continues without {}, so it may miss a record that becomes visible later than {} until the \
                 API gives known records again. Report this to Sectigo",
                self.api.names.overlap,
                self.api.names.delay
            ),
            Some(Turn::On) => tracing::info!(
                "the API gives known records again; {} protects late records as before",
                self.api.names.overlap
            ),
            None => {}
        }
        let repaired = sifted.fresh.iter().filter(|event| event.is_repaired()).count();
        if repaired > 0 {
            tracing::warn!(
                repaired,
                %from,
                %until,
                "the API sent records that are not valid JSON; auditsync replaces the invalid bytes, and marks the entries with \
                 `auditsync.repaired`; report them to Sectigo"
            );
        }
        Ok(sifted)
    }

    /// The page to request for the cursor: after the pages that the server repeated, while it leads in a circle.
    fn detoured(&self, cursor: &Cursor, range: InRange) -> InRange {
        match self.detour.lock().take() {
            Some(Detour { instead_of, past }) if instead_of == *cursor => *past,
            _ => range,
        }
    }

    /// The cursor to continue with after the API refused a page's token. Fails if auditsync has to request the same
    /// page again.
    fn refused(&self, range: InRange, status: u16, reason: Excerpt) -> Result<SectigoCursor, Error> {
        let address = self.api.address();
        let step = self.refusals.lock().refused(&range, status, Instant::now());
        match step {
            Step::Note => {
                tracing::warn!(%address, status, %reason, "the API refused the next page of a range; the same page is requested again");
                return Ok(SectigoCursor::InRange(range.noting_refusal()));
            }
            Step::Again(after) => return Err(Error::PageRefused { address, status, reason, after }),
            Step::Final if !refusals::may_mean_the_token(status) => {
                return Err(Error::Refused { address, status, reason, variable: self.api.names.api_url.clone() });
            }
            Step::Final => {}
        }
        self.refusals.lock().answered();
        tracing::warn!(
            %address, status, %reason,
            "the API refused a page's token again and again; auditsync reads its range again from the start, and may deliver duplicates"
        );
        let reason = format!("in a range of one second, {status}: {reason}");
        let again = range.token_refused(self.cut).ok_or(Error::Unreadable { address, reason })?;
        Ok(SectigoCursor::InRange(again))
    }

    /// Makes the page after `cursor` that leads to `next`.
    fn page(
        &self,
        cursor: &Cursor,
        sifted: (Vec<Event>, usize),
        next: &SectigoCursor,
        begun: LocalTime,
    ) -> Result<Page, Error> {
        let (events, deduplicated) = sifted;
        let more = match next {
            SectigoCursor::InRange(_) => true,
            SectigoCursor::First { since } | SectigoCursor::Idle { since, .. } => *since < self.end(begun),
        };
        let progressed =
            !events.is_empty() || Some(next.since()) > cursor.decode().ok().map(|before: SectigoCursor| before.since());
        let then = if more { Then::Now } else { Then::CaughtUp };
        Ok(Page { events, deduplicated, next: Cursor::encode(next).map_err(Error::Cursor)?, progressed, then })
    }

    /// Makes an empty page after `cursor` that leads to `next`.
    fn nothing_but(&self, cursor: &Cursor, next: &SectigoCursor, begun: LocalTime) -> Result<Page, Error> {
        self.page(cursor, (Vec::new(), 0), next, begun)
    }
}

/// Makes an empty page that leaves the cursor where it is.
fn nothing(cursor: &Cursor, then: Then) -> Page {
    Page { events: Vec::new(), deduplicated: 0, next: cursor.clone(), progressed: false, then }
}

#[async_trait]
impl Source for Sectigo {
    fn location(&self) -> String {
        self.api.address().to_string()
    }

    fn first_cursor(&self, now: Timestamp) -> Cursor {
        first_cursor(self.lookback, now)
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        reached(cursor)
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        Ok(self.next(cursor, begun).await?)
    }

    fn server_time(&self, now: LocalTime) -> Option<Timestamp> {
        self.server_clock.at(now, now)
    }

    fn pause(&self) {
        self.ahead.cut_off();
    }

    fn narrowed(&self, cursor: &Cursor, begun: LocalTime) -> Option<Cursor> {
        let narrowed = self.enter(cursor.decode().ok()?, begun)?.halved(self.cut)?;
        // More unreadable records may follow, so ranges grow again in steps.
        *self.window.lock() = narrowed.length().max(SHORTEST_WINDOW);
        Cursor::encode(&SectigoCursor::InRange(narrowed)).ok()
    }

    async fn check(&self, now: LocalTime) -> Vec<Check> {
        let token = match self.api.check_token().await {
            Ok(endpoint) => Check::works("access token", format!("issued by {endpoint}")),
            Err(error) => return vec![Check::failed("access token", error)],
        };
        let records = match self.check_page(now.wall).await {
            Ok(records) => Check::works("audit records", format!("a page of the last hour has {records}")),
            Err(error) => Check::failed("audit records", error),
        };
        vec![token, records]
    }
}

fn first_cursor(lookback: Duration, now: Timestamp) -> Cursor {
    let since = Moment::from(now).before(lookback);
    Cursor::encode(&SectigoCursor::First { since }).unwrap_or_default()
}

/// The time up to which every record is delivered; needs no connection.
fn reached(cursor: &Cursor) -> Result<Timestamp, Failure> {
    let cursor: SectigoCursor = cursor.decode().map_err(Error::Cursor)?;
    Ok(cursor.since().into())
}

impl Sectigo {
    async fn next(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Error> {
        let start: SectigoCursor = cursor.decode().map_err(Error::Cursor)?;
        let is_idle = !matches!(start, SectigoCursor::InRange(_));
        let is_first = matches!(start, SectigoCursor::First { .. });
        let since = start.since();
        if is_idle && self.end(begun) <= since && self.server_time(self.clock.local()).is_none() {
            self.read_clock(since).await?;
            if self.end(begun) > since {
                // A call may make only one request for records, so that its time is bounded.
                return Ok(nothing(cursor, Then::Now));
            }
        }
        if is_first && let Some(corrected) = self.first_corrected(since, false) {
            return self.nothing_but(cursor, &corrected, begun);
        }
        let Some(range) = self.enter(start, begun) else {
            self.not_ahead(since)?;
            return Ok(nothing(cursor, Then::CaughtUp));
        };
        let range = self.detoured(cursor, range);
        tracing::debug!(from = %range.from(), until = %range.until(), first = range.token().is_none(), "requesting a page");
        let request = request(&range);
        let (reply, access, call) = match self.ahead.answer(&self.api, &request).await? {
            PageAnswer::Page { reply, access, call } => (reply, access, call),
            PageAnswer::PageTokenRefused { status, reason } => {
                return self.nothing_but(cursor, &self.refused(range, status, reason)?, begun);
            }
        };
        self.refusals.lock().answered();
        self.server_clock.note(&self.api.address(), reply.date(), call);
        let too_early = self.too_early(&range, &reply);
        if is_first && let Some(corrected) = self.first_corrected(since, too_early.is_some()) {
            return self.nothing_but(cursor, &corrected, begun);
        }
        if let Some(end) = too_early {
            tracing::debug!(%end, "the API's clock has not reached the end of the range; requesting a shorter one");
            let theirs = end.after(self.delay).into();
            return match range.shortened_to(end, self.cut) {
                Some(shorter) => self.nothing_but(cursor, &SectigoCursor::InRange(shorter), begun),
                // Within a range, the clock already showed a later time. Requesting again at once would spin.
                None if !is_idle => Err(self.ahead(since, theirs)),
                None => {
                    self.not_ahead(since)?;
                    let now = self.clock.local();
                    if self.server_clock.is_lost(now) {
                        // To this machine's clock there is more, but only the API's clock could show that it is right.
                        return Err(Error::LostClock { address: self.api.address(), earliest: theirs, ours: now.wall });
                    }
                    Ok(nothing(cursor, Then::CaughtUp))
                }
            };
        }
        let token = self.api.page_token(&reply)?;
        // No page follows an empty one, whatever its token. The same token again would lead in a circle.
        let leads_on = token.is_some() && token != request.token && !page::is_empty(&reply.body);
        if leads_on && reply.body.len() <= LARGEST_TO_HURRY_FOR {
            self.ahead.get(&self.api, PageRequest { token: token.clone(), ..request });
        }
        let read: Reading = if range.is_tolerant() { repair::records } else { page::records };
        let records = self.records(&reply, &access, read).await;
        let sifted = records.and_then(|records| self.sift(cursor, range, records, token));
        if sifted.is_err() {
            // A different request comes next.
            self.ahead.cut_off();
        }
        let sifted = sifted?;
        if matches!(sifted.next, SectigoCursor::Idle { .. }) {
            let mut window = self.window.lock();
            *window = window.saturating_mul(2).min(self.cut.window);
        }
        if sifted.shrunk {
            tracing::warn!(
                most = overlap::MOST,
                "{} covers more records than the state can hold; the overlap is shorter for now",
                self.api.names.overlap
            );
        }
        if sifted.doubtful > 0 && !self.warned_of_times.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                records = sifted.doubtful,
                "the API returned records whose times are outside the requested range, so auditsync probably misreads times; it \
                 delivers these records, but their times may be wrong"
            );
        }
        self.page(cursor, (sifted.fresh, sifted.deduplicated), &sifted.next, begun)
    }
}

/// A function that reads the records of a body.
type Reading = fn(&Bytes) -> Result<Vec<Event>, page::Error>;

fn request(range: &InRange) -> PageRequest {
    PageRequest { from: range.from(), until: range.until(), token: range.token().cloned() }
}
