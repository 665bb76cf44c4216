//! The sync engine: from a source to a destination, page by page, remembering how far it got.
//!
//! One task does it all. While a page is delivered the next one is fetched; the cursor behind a page is written once the
//! destination has accepted the whole page, in order. Every wait is here, and every decision about a failure is
//! [`verdict::decide`]'s.
//!
//! Clock, source, destination and store are passed in, so that tests run the engine under simulated time.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::destination::{self, Delivery, Destination, Receipt};
use crate::event::Event;
use crate::failure::Chain;
use crate::source::{self, Cursor, Page, Source};
use crate::state::{self, Claim, StateStore};
use attempt::{Attempts, Counterpart};
use clock::Clock;
use commit::Committer;
use report::Report;
use stop::Stop;
use verdict::{Patience, Reason, Verdict};

mod attempt;
pub mod backoff;
pub mod clock;
mod commit;
mod report;
pub mod stop;
pub mod verdict;

/// How often a stand-by asks whether it may work.
const STANDBY_POLL: Duration = Duration::from_secs(1);

/// While a backlog is drained, a line is logged this often.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// No audit event that anyone still delivers is older: a clock before this has not been set.
const CLOCK_IS_SET: Timestamp = Timestamp::constant(1_735_689_600, 0);

/// How the engine is to work.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether to go on after the first cycle.
    pub mode: Mode,
    /// The time from the start of one cycle to the start of the next.
    pub interval: Duration,
    /// How long a one-shot run goes on without progress.
    pub retry_budget: Duration,
    /// How long a stop waits for what is in flight.
    pub shutdown_grace: Duration,
}

/// How long to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Until told to stop.
    Loop,
    /// Until everything up to the start is delivered.
    Once,
}

/// How a run ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything up to the start of a one-shot run is delivered.
    Done,
    /// It was told to stop, and everything delivered is committed.
    Stopped,
    /// It was told to stop, and the grace was over before everything was answered and committed.
    Interrupted {
        /// How many events may be sent again by the next run.
        uncertain: usize,
    },
}

/// Why a run ended otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source failed.
    #[error("cannot read from {name}{reason}")]
    Source {
        /// The source.
        name: &'static str,
        /// Why it was given up.
        reason: Reason,
        /// What failed last.
        #[source]
        cause: source::Error,
    },
    /// The destination failed.
    #[error("cannot deliver to {name}{reason}")]
    Destination {
        /// The destination.
        name: &'static str,
        /// Why it was given up.
        reason: Reason,
        /// What failed last.
        #[source]
        cause: destination::Error,
    },
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] state::Error),
    /// This machine's clock has not been set.
    #[error("this machine's clock says {now}, which cannot be; set it before the first synchronisation")]
    Clock {
        /// The time it shows.
        now: Timestamp,
    },
}

/// Why work stops before its end.
enum Halt {
    Stopped,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// A synchronisation: what is copied, where to, and where the place is kept.
pub struct Sync {
    source: Arc<dyn Source>,
    destination: Arc<dyn Destination>,
    store: Arc<dyn StateStore>,
    settings: Settings,
    clock: Clock,
    stop: Stop,
    attempts: Attempts,
    /// Events handed to the destination and not committed.
    in_flight: Cell<usize>,
}

impl Sync {
    /// Puts a synchronisation together; nothing is called yet.
    pub fn new(
        source: Arc<dyn Source>,
        destination: Arc<dyn Destination>,
        store: Arc<dyn StateStore>,
        settings: Settings,
        clock: Clock,
        stop: Stop,
    ) -> Self {
        let patience = Patience { mode: settings.mode, budget: settings.retry_budget };
        let attempts = Attempts::new(patience, stop.clone());
        Self { source, destination, store, settings, clock, stop, attempts, in_flight: Cell::new(0) }
    }

    /// Runs until it is done, is told to stop, or cannot go on.
    pub async fn run(self) -> Result<Outcome, Error> {
        let ended = tokio::select! {
            biased;
            ended = self.work() => ended,
            () = self.stop.grace_over() => {
                let uncertain = self.in_flight.get();
                tracing::warn!(uncertain, "stopped before everything was answered and committed; what was in flight may be sent again");
                return Ok(Outcome::Interrupted { uncertain });
            }
        };
        match ended {
            Ok(()) => Ok(Outcome::Done),
            Err(Halt::Stopped) => Ok(Outcome::Stopped),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    async fn work(&self) -> Result<(), Halt> {
        self.claim().await?;
        let mut committer = self.start().await?;
        loop {
            let begun = Instant::now();
            self.cycle(&mut committer).await?;
            if self.settings.mode == Mode::Once {
                return Ok(());
            }
            let rest = self.settings.interval.saturating_sub(begun.elapsed());
            if !self.stop.sleep(rest).await {
                return Err(Halt::Stopped);
            }
            self.attempts.progress();
        }
    }

    /// Becomes the only one who works on the state. A daemon stands by for as long as another does; a one-shot run waits within its budget.
    async fn claim(&self) -> Result<(), Halt> {
        let asked = Instant::now();
        let mut standing_by = false;
        loop {
            let Claim::Busy { holder } = self.store.claim().await? else { break };
            let place = self.store.place();
            if self.settings.mode == Mode::Once && asked.elapsed() >= self.settings.retry_budget {
                return Err(state::Error::Busy { place, holder }.into());
            }
            if !standing_by {
                tracing::info!(place, holder, "another instance works on this state; standing by");
                standing_by = true;
            }
            if !self.stop.sleep(STANDBY_POLL).await {
                return Err(Halt::Stopped);
            }
        }
        if standing_by {
            tracing::info!(place = self.store.place(), "the other instance has ended; taking over");
        }
        self.attempts.progress();
        Ok(())
    }

    /// Finds the place to go on from. At the very first start it is written down before anything is asked for, so that an
    /// outage then costs nothing.
    async fn start(&self) -> Result<Committer, Halt> {
        let mut committer = Committer::load(Arc::clone(&self.store), self.source.as_ref(), self.clock).await?;
        let place = committer.place();
        if let Some(cursor) = committer.cursor() {
            let since = self.position(cursor)?;
            tracing::info!(source = self.source.name(), place, %since, "going on where the last run ended");
        } else {
            let now = self.clock.now();
            if now < CLOCK_IS_SET {
                return Err(Error::Clock { now }.into());
            }
            let first = self.source.first_cursor(now);
            let since = self.position(&first)?;
            tracing::info!(source = self.source.name(), place, %since, "no state yet: this is the first synchronisation");
            committer.advance(first);
            // A store that cannot be written to now would hold up everything later.
            committer.write().await?;
        }
        Ok(committer)
    }

    fn position(&self, cursor: &Cursor) -> Result<Timestamp, Halt> {
        self.source.position(cursor).map_err(|cause| match cause {
            source::Error::Cursor(cause) => state::Error::Corrupt { place: self.store.place(), cause }.into(),
            cause => Error::Source { name: self.source.name(), reason: Reason::Hopeless, cause }.into(),
        })
    }

    /// Delivers everything up to the present. What "present" means is fixed here, for all pages.
    async fn cycle(&self, committer: &mut Committer) -> Result<(), Halt> {
        let mut report = Report::new(REPORT_EVERY);
        let ended = self.pages(committer, &mut report).await;
        // Whatever ended it, what is delivered is written down, unless it is the store that failed.
        if !matches!(ended, Err(Halt::Failed(Error::State(_)))) {
            self.finish(committer).await?;
        }
        report.end(ended.is_ok(), committer.cursor().and_then(|cursor| self.source.position(cursor).ok()));
        ended
    }

    async fn pages(&self, committer: &mut Committer, report: &mut Report) -> Result<(), Halt> {
        let now = self.clock.now();
        let Some(cursor) = committer.cursor().cloned() else { return Ok(()) };
        let mut following = Some(self.fetch(cursor, now).await);
        while let Some(page) = following.transpose()? {
            // Fetched ahead, but not begun.
            if self.stop.is_requested() {
                return Err(Halt::Stopped);
            }
            report.page(page.events.len(), page.already_delivered);
            report.now_and_then(self.source.position(&page.next).ok());
            following = self.settle_and_fetch(page, now, committer, report).await?;
        }
        Ok(())
    }

    /// Settles a page and fetches the next one meanwhile. The page's failure ends it at once; the next one's has time.
    async fn settle_and_fetch(
        &self,
        page: Page,
        now: Timestamp,
        committer: &mut Committer,
        report: &mut Report,
    ) -> Result<Option<Result<Page, Halt>>, Halt> {
        let Page { events, next, more, .. } = page;
        let behind = next.clone();
        let fetching = async { if more { Some(self.fetch(behind, now).await) } else { None } };
        let mut fetching = std::pin::pin!(fetching);
        {
            let mut settling = std::pin::pin!(self.settle(events, next, committer, report));
            tokio::select! {
                biased;
                settled = &mut settling => settled?,
                following = &mut fetching => {
                    settling.await?;
                    return Ok(following);
                }
            }
        }
        // The next page takes its time. A store that wants to be written to slowly may be due before.
        tokio::select! {
            biased;
            following = &mut fetching => return Ok(following),
            () = tokio::time::sleep(committer.due_in()) => {}
        }
        if !self.destination.is_holding() {
            self.write(committer).await?;
        }
        Ok(fetching.await)
    }

    /// The page behind `cursor`, however long it takes; a stop ends it at once, since nothing is lost with an answer
    /// that nobody reads.
    async fn fetch(&self, place: Cursor, now: Timestamp) -> Result<Page, Halt> {
        let mut attempt = self.attempts.with(Counterpart::Source);
        let mut cursor = place.clone();
        loop {
            let answer = tokio::select! {
                biased;
                () = self.stop.requested() => return Err(Halt::Stopped),
                answer = self.source.next_page(&cursor, now) => answer,
            };
            let cause = match answer {
                Ok(page) => {
                    attempt.succeeded();
                    let until = |cursor| self.source.position(cursor).ok();
                    if !page.events.is_empty() || until(&page.next) > until(&place) {
                        self.attempts.progress();
                    }
                    return Ok(page);
                }
                Err(cause) => cause,
            };
            let mut verdict = attempt.failed(cause.class());
            if verdict == Verdict::Narrow {
                if let Some(smaller) = self.source.narrowed(&cursor, now) {
                    tracing::warn!(error = %Chain(&cause), "a page cannot be read; asking for a shorter range");
                    cursor = smaller;
                    attempt.narrowed();
                    continue;
                }
                verdict = attempt.cannot_narrow();
                cursor = place.clone();
            }
            if let Some(reason) = attempt.wait(verdict, &cause).await? {
                return Err(Error::Source { name: self.source.name(), reason, cause }.into());
            }
        }
    }

    /// Delivers a page and writes the cursor behind it.
    async fn settle(
        &self,
        events: Vec<Event>,
        cursor: Cursor,
        committer: &mut Committer,
        report: &mut Report,
    ) -> Result<(), Halt> {
        let receipt =
            if events.is_empty() { None } else { Some(self.deliver_in_pace(events, committer, report).await?) };
        committer.advance(cursor);
        // What the destination holds in a buffer is not accepted yet; neither is what follows it.
        if receipt != Some(Receipt::Held) && !self.destination.is_holding() && committer.due_in().is_zero() {
            self.write(committer).await?;
        }
        Ok(())
    }

    /// Delivers a page. What was delivered before it and waits for a slow store is written when its time comes, however long
    /// this delivery takes.
    async fn deliver_in_pace(
        &self,
        events: Vec<Event>,
        committer: &mut Committer,
        report: &mut Report,
    ) -> Result<Receipt, Halt> {
        let count = events.len();
        let is_due = committer.is_pending() && !self.destination.is_holding();
        let mut delivering = std::pin::pin!(self.deliver(events, report));
        if !is_due {
            return delivering.await;
        }
        tokio::select! {
            biased;
            receipt = &mut delivering => return receipt,
            () = tokio::time::sleep(committer.due_in()) => {}
        }
        let writing = async {
            self.write(committer).await?;
            self.in_flight.set(count);
            Ok(())
        };
        let ((), receipt) = tokio::try_join!(writing, &mut delivering)?;
        Ok(receipt)
    }

    /// Commits what is left to commit: at the end of a cycle and before a stop.
    async fn finish(&self, committer: &mut Committer) -> Result<(), Halt> {
        if self.destination.is_holding() {
            let mut attempt = self.attempts.with(Counterpart::Destination);
            while let Err(cause) = self.destination.flush().await {
                let verdict = attempt.failed(cause.class());
                if let Some(reason) = attempt.persist(verdict, &cause, true).await? {
                    return Err(Error::Destination { name: self.destination.name(), reason, cause }.into());
                }
            }
        }
        tokio::time::sleep(committer.due_in()).await;
        self.write(committer).await
    }

    /// Delivers a page, however long it takes. A stop lets it end, unless nothing of it has left yet.
    async fn deliver(&self, events: Vec<Event>, report: &mut Report) -> Result<Receipt, Halt> {
        let mut attempt = self.attempts.with(Counterpart::Destination);
        let mut delivery = Delivery::new(events);
        self.in_flight.set(self.in_flight.get() + delivery.events().len());
        loop {
            let before = delivery.tally();
            let answer = self.destination.deliver(&mut delivery, self.clock.now()).await;
            let tally = delivery.tally();
            if (tally.accepted, tally.rejected) != (before.accepted, before.rejected) {
                attempt.succeeded();
                self.attempts.progress();
            }
            let cause = match answer {
                Ok(receipt) => {
                    attempt.succeeded();
                    self.attempts.progress();
                    report.delivered(tally);
                    return Ok(receipt);
                }
                Err(cause) => cause,
            };
            if self.stop.is_requested() && !delivery.is_begun() {
                tracing::info!(error = %Chain(&cause), "stopping before anything of the page was accepted");
                return Err(Halt::Stopped);
            }
            let verdict = attempt.failed(cause.class());
            if let Some(reason) = attempt.persist(verdict, &cause, delivery.is_begun()).await? {
                if delivery.is_begun() {
                    let accepted = delivery.tally().accepted;
                    tracing::warn!(accepted, "a part of a page is delivered and may be sent again by the next run");
                }
                return Err(Error::Destination { name: self.destination.name(), reason, cause }.into());
            }
        }
    }

    /// Writes the state, however long it takes: nothing further is delivered before.
    async fn write(&self, committer: &mut Committer) -> Result<(), Halt> {
        let mut attempt = self.attempts.with(Counterpart::Store);
        while let Err(cause) = committer.write().await {
            let verdict = attempt.failed(cause.class());
            // What is delivered has to be written down, stop or not: the grace bounds it.
            if attempt.persist(verdict, &cause, true).await?.is_some() {
                return Err(cause.into());
            }
        }
        if attempt.has_failed() {
            // While the store was away nothing else could make progress.
            self.attempts.progress();
        }
        attempt.succeeded();
        if !committer.is_pending() {
            self.in_flight.set(0);
        }
        Ok(())
    }
}
