//! The audit API as a source: the real computation of ranges and positions over the model's server.
//!
//! It makes the same calls as the real source makes around its requests, so everything but HTTP is the product's own
//! code.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{Timestamp, Unit};
use tokio::time::Instant;

use auditsync::clock::{Clock, LocalTime};
use auditsync::component::Check;
use auditsync::event::Event;
use auditsync::failure::{Class, Failure};
use auditsync::server_time::{ServerClock, TOLERANCE};
use auditsync::source::sectigo::cursor::{Cut, SectigoCursor, end_of_history, first_since};
use auditsync::source::sectigo::moment::Moment;
use auditsync::source::sectigo::range::{Contradiction, InRange, PageToken};
use auditsync::source::sectigo::refusals::{Refusals, Step, may_mean_the_token};
use auditsync::source::sectigo::stability::Stability;
use auditsync::source::sectigo::{self, page, repair};
use auditsync::source::{Cursor, Page, Source, Then};

use crate::plan::{ConfirmationFault, SourceFault};
use crate::world::{Life, World, address, failure, take};

#[derive(Debug)]
pub(crate) struct ModelSource {
    world: Arc<World>,
    life: Arc<Life>,
    stability: Mutex<Stability>,
    refusals: Mutex<Refusals>,
    /// This machine's clock.
    clock: Clock,
    server_clock: ServerClock,
}

enum Answer {
    Page { body: Bytes, token: Option<PageToken>, date: Option<Timestamp>, asked: LocalTime },
    PageRefused { status: u16 },
}

impl ModelSource {
    pub(crate) fn new(world: Arc<World>, life: Arc<Life>, clock: Clock) -> Self {
        let (stability, refusals, server_clock) = (Mutex::default(), Mutex::default(), ServerClock::default());
        Self { world, life, stability, refusals, clock, server_clock }
    }

    fn cut(&self) -> Cut {
        let knobs = self.world.knobs;
        Cut { window: Duration::from_secs(knobs.window.into()), overlap: Duration::from_secs(knobs.overlap.into()) }
    }

    fn delay(&self) -> Duration {
        Duration::from_secs(self.world.knobs.delay.into())
    }

    fn end(&self, begun: LocalTime) -> Moment {
        end_of_history(begun.wall, self.server_clock.past(begun, self.clock.local()), self.delay())
    }

    fn enter(&self, position: SectigoCursor, begun: LocalTime) -> Option<InRange> {
        position.enter(self.end(begun), self.cut())
    }

    fn too_early(&self, range: &InRange, date: Option<Timestamp>) -> Option<Moment> {
        let date = date.or_else(|| self.server_clock.at_least(self.clock.local()))?;
        let end = end_of_history(date, None, self.delay());
        (range.token().is_none() && range.until() > end).then_some(end)
    }

    /// Assembles the page for the engine.
    fn page(&self, cursor: &Cursor, sifted: (Vec<Event>, usize), next: &SectigoCursor, begun: LocalTime) -> Page {
        let (events, deduplicated) = sifted;
        let more = match next {
            SectigoCursor::InRange(_) => true,
            SectigoCursor::First { since } | SectigoCursor::Idle { since, .. } => *since < self.end(begun),
        };
        let before: SectigoCursor = cursor.decode().unwrap();
        let progressed = !events.is_empty() || next.since() > before.since();
        let pause = self.world.knobs.pause.map(|seconds| Then::After(Duration::from_secs(seconds.into())));
        let then = if more { pause.unwrap_or(Then::Now) } else { Then::CaughtUp };
        Page { events, deduplicated, next: Cursor::encode(next).unwrap(), progressed, then }
    }

    fn nothing_but(&self, cursor: &Cursor, next: &SectigoCursor, begun: LocalTime) -> Page {
        self.page(cursor, (Vec::new(), 0), next, begun)
    }

    async fn ask(&self, range: &InRange) -> Result<Answer, Failure> {
        let (latency, asked) = (self.world.knobs.source_latency, self.clock.local());
        take(latency / 2).await;
        let fault = self.world.source_script.next();
        match fault {
            Some(SourceFault::Slow(millis)) => take(millis).await,
            Some(SourceFault::Unavailable(after)) => {
                let after = after.map(|seconds| Duration::from_secs(seconds.into()));
                return Err(failure(Class::Retryable { after }, "the model's server is unavailable"));
            }
            Some(SourceFault::AccessTokenRefused) => {
                return Err(failure(Class::TokenRejected, "the model's server rejected the access token"));
            }
            Some(SourceFault::Refused(status)) if range.token().is_some() => return Ok(Answer::PageRefused { status }),
            Some(SourceFault::Refused(_)) => return Err(refused()),
            Some(SourceFault::Unreadable) => {
                return Ok(Answer::Page { body: Bytes::from_static(b"[{\"id\":"), token: None, date: None, asked });
            }
            Some(SourceFault::PageTokensExpire) => self.world.api().expire(),
            Some(SourceFault::Undated | SourceFault::Forgetful) | None => {}
        }
        let now = self.world.now();
        let (mut from, until) = (range.from().into(), range.until().into());
        if matches!(fault, Some(SourceFault::Forgetful)) && range.token().is_none() {
            let since = range.since().into();
            // A source that did not find these records where they were takes them for new when the server shows them
            // again.
            let forgotten = self.world.api().forgotten(from, since, now);
            self.world.ledger().permit(&forgotten);
            from = since;
        }
        let answer = match range.token() {
            Some(token) => self.world.api().page_behind(&token.0),
            None => Some(self.world.api().first_page(from, until, now)),
        };
        take(latency / 2).await;
        let Some(answer) = answer else { return Ok(Answer::PageRefused { status: 400 }) };
        let is_dated = self.world.knobs.dated && !matches!(fault, Some(SourceFault::Undated));
        let date = is_dated.then(|| {
            self.life.learns_the_time();
            now.round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Floor)).unwrap()
        });
        Ok(Answer::Page { body: answer.body, token: answer.token.map(PageToken), date, asked })
    }

    /// Reads the server's clock as the real source does when it has nothing else to request.
    async fn read_clock(&self, since: Moment) -> Result<(), Failure> {
        let second = SectigoCursor::starting_at(since.before(Duration::from_secs(1))).enter(since, self.cut()).unwrap();
        if let Answer::Page { date, asked, .. } = self.ask(&second).await? {
            self.server_clock.note(&address(), date, (asked, self.clock.local()));
        }
        Ok(())
    }

    fn first_corrected(&self, since: Moment, is_void: bool) -> Option<SectigoCursor> {
        let now = self.clock.local();
        let theirs = self.server_time(now)?;
        let corrected = first_since(since, now.wall, theirs, Duration::from_secs(self.world.knobs.lookback.into()));
        let by = since.since(corrected);
        (!by.is_zero() && (by > TOLERANCE || is_void)).then(|| SectigoCursor::starting_at(corrected))
    }

    fn not_ahead(&self, since: Moment) -> Result<(), Failure> {
        let now = self.clock.local();
        let theirs = self.server_time(now);
        if since <= Moment::from(theirs.unwrap_or(now.wall)).after(TOLERANCE) {
            return Ok(());
        }
        Err(failure(Class::Stalled, "the cursor lies ahead of the clock"))
    }

    /// Decides about a refused page as the real source does.
    fn page_refused(&self, range: InRange, status: u16) -> Result<InRange, Failure> {
        let step = self.refusals.lock().unwrap().refused(&range, status, Instant::now());
        match step {
            Step::Note => return Ok(range.noting_refusal()),
            Step::Again(after) => {
                return Err(failure(Class::Retryable { after: Some(after) }, "the model's server refused the page"));
            }
            Step::Final if !may_mean_the_token(status) => return Err(refused()),
            Step::Final => self.refusals.lock().unwrap().answered(),
        }
        let again = range
            .clone()
            .token_refused(self.cut())
            .ok_or_else(|| failure(Class::Unreadable, "tokens of the smallest range are refused"))?;
        self.permit(&range, &again);
        Ok(again)
    }

    async fn next(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        let position: SectigoCursor = cursor.decode().map_err(|cause| Failure::new(Class::Fatal, cause))?;
        let is_idle = !matches!(position, SectigoCursor::InRange(_));
        let is_first = matches!(position, SectigoCursor::First { .. });
        let since = position.since();
        if is_idle && self.end(begun) <= since && self.server_time(self.clock.local()).is_none() {
            self.read_clock(since).await?;
            if self.end(begun) > since {
                return Ok(nothing(cursor, Then::Now));
            }
        }
        if is_first && let Some(corrected) = self.first_corrected(since, false) {
            return Ok(self.nothing_but(cursor, &corrected, begun));
        }
        let Some(range) = self.enter(position, begun) else {
            self.not_ahead(since)?;
            return Ok(nothing(cursor, Then::CaughtUp));
        };
        let (body, token, date, asked) = match self.ask(&range).await? {
            Answer::Page { body, token, date, asked } => (body, token, date, asked),
            Answer::PageRefused { status } => {
                let next = self.page_refused(range, status)?;
                return Ok(self.nothing_but(cursor, &SectigoCursor::InRange(next), begun));
            }
        };
        self.refusals.lock().unwrap().answered();
        self.server_clock.note(&address(), date, (asked, self.clock.local()));
        let too_early = self.too_early(&range, date);
        if is_first && let Some(corrected) = self.first_corrected(since, too_early.is_some()) {
            return Ok(self.nothing_but(cursor, &corrected, begun));
        }
        if let Some(end) = too_early {
            return match range.shortened_to(end, self.cut()) {
                Some(shorter) => Ok(self.nothing_but(cursor, &SectigoCursor::InRange(shorter), begun)),
                None if !is_idle => Err(failure(Class::Stalled, "the cursor lies ahead of the server's clock")),
                None => {
                    self.not_ahead(since)?;
                    if self.server_clock.is_lost(self.clock.local()) {
                        return Err(failure(Class::Stalled, "the model's server sends no time any more"));
                    }
                    Ok(nothing(cursor, Then::CaughtUp))
                }
            };
        }
        let read = if range.is_tolerant() { repair::records } else { page::records };
        let records = read(&body).map_err(|cause| Failure::new(Class::Unreadable, cause))?;
        let outcome = self.stability.lock().unwrap().sift(range, records, token, self.cut(), Instant::now());
        let sifted = outcome.map_err(|contradiction| match contradiction {
            Contradiction::Unstable { .. } => failure(Class::Retryable { after: None }, "known records are missing"),
            Contradiction::Looping { .. } => {
                self.world.ledger().violated("pages that all differ were taken for a circle");
                failure(Class::Stalled, "the same pages come again")
            }
        })?;
        let sifted = sifted.sifted;
        Ok(self.page(cursor, (sifted.fresh, sifted.deduplicated), &sifted.next, begun))
    }

    /// Permits the repeats of a range that is read `again` from its start. If the range is whole, the source knows all
    /// records of the next one's overlap, and only the rest may be repeated. If it is shorter now, or begins later, any
    /// record may be.
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
    fn location(&self) -> String {
        "the model's server".to_owned()
    }

    fn first_cursor(&self, now: Timestamp) -> Cursor {
        let lookback = Duration::from_secs(self.world.knobs.lookback.into());
        Cursor::encode(&SectigoCursor::First { since: Moment::from(now).before(lookback) }).unwrap()
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        (sectigo::KIND.reached)(cursor)
    }

    fn server_time(&self, now: LocalTime) -> Option<Timestamp> {
        self.server_clock.at(now, now)
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        if !self.world.ledger().has_begun() {
            self.world.ledger().violated("a request was made before the first cursor was stored");
        }
        if self.life.shutdown.is_requested() {
            self.world.ledger().violated("a request was made after the shutdown was requested");
        }
        self.life.pass().await;
        let page = self.next(cursor, begun).await;
        self.life.pass().await;
        if let Ok(page) = &page {
            self.world.ledger().serve(&page.events, page.next.clone());
        }
        page
    }

    async fn committed(&self, cursor: &Cursor) -> Result<(), Failure> {
        let fault = self.world.confirmation_script.next();
        self.life.pass().await;
        match fault {
            Some(ConfirmationFault::Slow(millis)) => take(millis).await,
            Some(ConfirmationFault::Fails) => {
                return Err(failure(Class::Retryable { after: None }, "a confirmation failed"));
            }
            None => {}
        }
        self.world.confirmed(cursor);
        Ok(())
    }

    async fn check(&self, _now: LocalTime) -> Vec<Check> {
        Vec::new()
    }

    fn narrowed(&self, cursor: &Cursor, begun: LocalTime) -> Option<Cursor> {
        let position: SectigoCursor = cursor.decode().ok()?;
        let range = self.enter(position, begun)?;
        let narrowed = range.clone().halved(self.cut())?;
        self.permit(&range, &narrowed);
        Cursor::encode(&SectigoCursor::InRange(narrowed)).ok()
    }
}

fn refused() -> Failure {
    failure(Class::Refused, "the model's server refused the request")
}

/// An empty page that leads nowhere.
fn nothing(cursor: &Cursor, then: Then) -> Page {
    Page { events: Vec::new(), deduplicated: 0, next: cursor.clone(), progressed: false, then }
}
