//! The audit API as a source: the real computation of ranges and positions over the model's server.
//!
//! It makes the same calls as the real source does around its requests, so that everything but HTTP is the product's own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{Timestamp, Unit};
use tokio::time::Instant;

use auditsync::event::Event;
use auditsync::source::sectigo::moment::Moment;
use auditsync::source::sectigo::position::{Contradiction, Cut, InRange, PageToken, Position, end_of_history};
use auditsync::source::sectigo::refusals::{Refusals, Step};
use auditsync::source::sectigo::stability::Stability;
use auditsync::source::sectigo::{self, page, repair};
use auditsync::source::{Cursor, Error, Page, Source};

use crate::plan::SourceFault;
use crate::world::{Life, World, excerpt, place, take};

/// As the real source trusts a reading of the server's clock.
const CLOCK_LIFE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct ModelSource {
    world: Arc<World>,
    life: Arc<Life>,
    stability: Mutex<Stability>,
    refusals: Mutex<Refusals>,
    server_clock: Mutex<Option<(Timestamp, Instant)>>,
}

enum Answer {
    Page { body: Bytes, token: Option<PageToken>, date: Option<Timestamp> },
    PageTokenRefused,
}

impl ModelSource {
    pub(crate) fn new(world: Arc<World>, life: Arc<Life>) -> Self {
        Self { world, life, stability: Mutex::default(), refusals: Mutex::default(), server_clock: Mutex::default() }
    }

    fn cut(&self) -> Cut {
        let knobs = self.world.knobs;
        Cut { window: Duration::from_secs(knobs.window.into()), overlap: Duration::from_secs(knobs.overlap.into()) }
    }

    fn delay(&self) -> Duration {
        Duration::from_secs(self.world.knobs.delay.into())
    }

    fn server_now(&self) -> Option<Timestamp> {
        let (date, read) = (*self.server_clock.lock().unwrap())?;
        let elapsed = read.elapsed();
        if elapsed > CLOCK_LIFE { None } else { Some(date + elapsed) }
    }

    fn enter(&self, position: Position, now: Timestamp) -> Option<InRange> {
        position.enter(end_of_history(now, self.server_now(), self.delay()), self.cut())
    }

    fn too_early(&self, range: &InRange, date: Option<Timestamp>) -> Option<Moment> {
        let date = date?;
        *self.server_clock.lock().unwrap() = Some((date, Instant::now()));
        let end = end_of_history(date, None, self.delay());
        (range.token().is_none() && range.until() > end).then_some(end)
    }

    /// The page is the engine's from here on.
    fn page(&self, events: Vec<Event>, already_delivered: usize, next: &Position, now: Timestamp) -> Page {
        let more = match next {
            Position::InRange(_) => true,
            Position::Idle { since, .. } => *since < end_of_history(now, self.server_now(), self.delay()),
        };
        Page { events, already_delivered, next: Cursor::encode(next).unwrap(), more }
    }

    async fn ask(&self, range: &InRange) -> Result<Answer, Error> {
        let latency = self.world.knobs.source_latency;
        take(latency / 2).await;
        match self.world.source_script.next() {
            Some(SourceFault::Slow(millis)) => take(millis).await,
            Some(SourceFault::Unavailable(after)) => {
                let after = after.map(|seconds| Duration::from_secs(seconds.into()));
                return Err(Error::Unavailable { place: place(), status: 503, after, reason: excerpt() });
            }
            Some(SourceFault::AccessTokenRefused) => {
                return Err(Error::TokenRefused { place: place(), reason: excerpt(), variable: "MODEL_ID" });
            }
            Some(SourceFault::Refused) => return Err(refused()),
            Some(SourceFault::Unreadable) => {
                return Ok(Answer::Page { body: Bytes::from_static(b"[{\"id\":"), token: None, date: None });
            }
            Some(SourceFault::PageTokenRefused) if range.token().is_some() => return Ok(Answer::PageTokenRefused),
            Some(SourceFault::PageTokensExpire) => self.world.api().expire(),
            Some(SourceFault::PageTokenRefused) | None => {}
        }
        let now = self.world.now();
        let answer = match range.token() {
            Some(token) => self.world.api().page_behind(&token.0),
            None => Some(self.world.api().first_page(range.from().into(), range.until().into(), now)),
        };
        take(latency / 2).await;
        let Some(answer) = answer else { return Ok(Answer::PageTokenRefused) };
        let date = self.world.knobs.dated.then(|| {
            now.round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Floor)).unwrap()
        });
        Ok(Answer::Page { body: answer.body, token: answer.token.map(PageToken), date })
    }

    async fn next(&self, cursor: &Cursor, now: Timestamp) -> Result<Page, Error> {
        let position: Position = cursor.decode().map_err(Error::Cursor)?;
        let is_idle = matches!(position, Position::Idle { .. });
        let Some(range) = self.enter(position, now) else {
            return Ok(Page { events: Vec::new(), already_delivered: 0, next: cursor.clone(), more: false });
        };
        let Answer::Page { body, token, date } = self.ask(&range).await? else {
            let step = self.refusals.lock().unwrap().refused(&range, 400, Instant::now());
            match step {
                Step::Note => return Ok(self.page(Vec::new(), 0, &Position::InRange(range.noting_refusal()), now)),
                Step::Again(after) => {
                    return Err(Error::PageRefused { place: place(), status: 400, reason: excerpt(), after });
                }
                Step::Final => self.refusals.lock().unwrap().answered(),
            }
            let again = range.clone().token_refused(self.cut()).ok_or_else(smallest_refused)?;
            self.permit(&range, &again);
            return Ok(self.page(Vec::new(), 0, &Position::InRange(again), now));
        };
        self.refusals.lock().unwrap().answered();
        let range_since = range.since().into();
        if let Some(end) = self.too_early(&range, date) {
            return match range.shortened_to(end, self.cut()) {
                Some(shorter) => Ok(self.page(Vec::new(), 0, &Position::InRange(shorter), now)),
                None if !is_idle => {
                    Err(Error::AheadOfTheSource { place: place(), since: range_since, theirs: end.into() })
                }
                None => Ok(Page { events: Vec::new(), already_delivered: 0, next: cursor.clone(), more: false }),
            };
        }
        let read = if range.is_tolerant() { repair::records } else { page::records };
        let records = read(&body).map_err(|cause| Error::Unreadable { place: place(), reason: cause.to_string() })?;
        let outcome = self.stability.lock().unwrap().sift(range, records, token, self.cut(), Instant::now());
        let sifted = outcome.map_err(|contradiction| match contradiction {
            Contradiction::Unstable { expected } => Error::Unstable { place: place(), expected },
            Contradiction::Looping { .. } => {
                self.world.ledger().violated("pages that all differ were taken for a circle");
                Error::Looping { place: place() }
            }
        })?;
        let sifted = sifted.sifted;
        Ok(self.page(sifted.fresh, sifted.already_delivered, &sifted.next, now))
    }

    /// The range that was read is read `again` from its start. As a whole, all that lies in the next one's overlap is remembered, and only
    /// the rest may be repeated; where the range is shorter now, or begins later, anything may.
    fn permit(&self, read: &InRange, again: &InRange) {
        let (from, until) = (read.from().into(), read.until().into());
        if (again.from(), again.until()) != (read.from(), read.until()) {
            return self.world.ledger().permit_all_of(from, until);
        }
        let Some(token) = read.token() else { return };
        let mut given = self.world.api().before(&token.0);
        let overlap = self.cut().overlap;
        if !overlap.is_zero() {
            let remembered = Timestamp::from(read.until().before(overlap));
            let history = &self.world.history;
            given.retain(|content| !history.is_undated(*content) && history.time(*content) <= remembered);
        }
        self.world.ledger().permit(&given);
    }
}

#[async_trait]
impl Source for ModelSource {
    fn name(&self) -> &'static str {
        "model"
    }

    fn first_cursor(&self, now: Timestamp) -> Cursor {
        let lookback = Duration::from_secs(self.world.knobs.lookback.into());
        sectigo::cursor_at(Moment::from(now).before(lookback).into())
    }

    fn position(&self, cursor: &Cursor) -> Result<Timestamp, Error> {
        sectigo::position(cursor)
    }

    async fn next_page(&self, cursor: &Cursor, now: Timestamp) -> Result<Page, Error> {
        if !self.world.ledger().has_begun() {
            self.world.ledger().violated("something was asked for before the first cursor was stored");
        }
        if self.life.stop.is_requested() {
            self.world.ledger().violated("something was asked for after the request to stop");
        }
        self.life.pass().await;
        let page = self.next(cursor, now).await;
        self.life.pass().await;
        if let Ok(page) = &page {
            self.world.ledger().serve(&page.events, page.next.clone());
        }
        page
    }

    fn narrowed(&self, cursor: &Cursor, now: Timestamp) -> Option<Cursor> {
        let position: Position = cursor.decode().ok()?;
        let range = self.enter(position, now)?;
        let narrowed = range.clone().halved(self.cut())?;
        self.permit(&range, &narrowed);
        Cursor::encode(&Position::InRange(narrowed)).ok()
    }
}

fn smallest_refused() -> Error {
    Error::Unreadable { place: place(), reason: "tokens of the smallest range are refused".to_owned() }
}

fn refused() -> Error {
    Error::Refused { place: place(), status: 400, reason: excerpt(), variable: "MODEL_URL" }
}
