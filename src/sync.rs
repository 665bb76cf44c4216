//! The sync engine: from a source to a destination, page by page, remembering how far it got.
//!
//! One task decides it all; a source and a destination may work ahead in tasks of their own. While a page is delivered the next one is
//! fetched and made ready to be sent. The cursor behind a page is written once the destination has accepted the whole page, in order,
//! at once or at the pace that the store asks for, and while a write has no answer nothing further is sent. Every wait is here, and
//! every decision about a failure is [`verdict::decide`]'s.
//!
//! Clock, source, destination and store are passed in, so that tests run the engine under simulated time.

use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use crate::destination::{self, Delivery, Destination};
use crate::failure::Chain;
use crate::server_time::LocalTime;
use crate::source::{self, Cursor, Page, Source};
use crate::state::lease::Lease;
use crate::state::{self, StateStore};
use crate::telemetry::metrics;
use crate::telemetry::pulse::Pulse;
use attempt::{Attempts, Counterpart};
use clock::Clock;
use commit::Committer;
use deliver::InFlight;
use report::Report;
use stop::Stop;
use tenure::Tenure;
use verdict::{Patience, Reason, Verdict};

mod attempt;
pub mod backoff;
mod charge;
pub mod clock;
mod commit;
mod deliver;
mod report;
pub mod stop;
mod tenure;
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
    /// How long an instance that gives no sign of life keeps others from working on a shared state; whole seconds.
    pub lease_ttl: Duration,
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
    /// We were told to stop.
    Stopped,
    /// Another instance works on the state now.
    Superseded,
    Failed(Error),
}

impl Halt {
    /// Whether the state must not, or cannot, be written any more.
    fn forbids_writing(&self) -> bool {
        matches!(self, Self::Superseded | Self::Failed(Error::State(_)))
    }
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
    /// What we put into a shared document.
    lease: Lease,
    tenure: Rc<Tenure>,
    /// Told when the document changed or is to change.
    changed: Rc<Notify>,
    /// When it began; the very first synchronisation counts from then, however long the store is waited for.
    begun: OnceCell<Timestamp>,
    /// Whether the store was found to keep its promises.
    is_probed: Cell<bool>,
    in_flight: InFlight,
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
        Self {
            source,
            destination,
            store,
            settings,
            clock,
            stop,
            attempts,
            lease: Lease::of_this_process(settings.lease_ttl),
            tenure: Rc::default(),
            changed: Rc::default(),
            begun: OnceCell::new(),
            is_probed: Cell::new(false),
            in_flight: InFlight::default(),
        }
    }

    /// The same, telling its signs of life to `pulse`.
    #[must_use]
    pub fn watched_by(mut self, pulse: Pulse) -> Self {
        self.attempts.pulse = pulse;
        self
    }

    /// Runs until it is done, is told to stop, or cannot go on.
    pub async fn run(self) -> Result<Outcome, Error> {
        self.begun.get_or_init(|| self.clock.now());
        let ended = tokio::select! {
            biased;
            ended = self.work() => ended,
            () = self.stop.grace_over() => {
                let uncertain = self.in_flight.count();
                metrics::possibly_duplicated(uncertain);
                tracing::warn!(uncertain, "stopped before everything was answered and committed; what was in flight may be sent again");
                return Ok(Outcome::Interrupted { uncertain });
            }
        };
        match ended {
            Ok(()) => Ok(Outcome::Done),
            Err(Halt::Stopped | Halt::Superseded) => Ok(Outcome::Stopped),
            Err(Halt::Failed(error)) => {
                let uncertain = self.in_flight.count();
                if uncertain > 0 {
                    metrics::possibly_duplicated(uncertain);
                    tracing::warn!(uncertain, "what was in flight is not committed and may be sent again");
                }
                Err(error)
            }
        }
    }

    async fn work(&self) -> Result<(), Halt> {
        let (store, source) = (Arc::clone(&self.store), self.source.name());
        let committer = Committer::new(store, source, self.clock, Rc::clone(&self.tenure), Rc::clone(&self.changed));
        let ledger = Mutex::new(committer);
        loop {
            self.take_charge(&mut *ledger.lock().await).await?;
            // Dropping the cycles cuts off what is under way to the destination.
            let ended = tokio::select! {
                biased;
                never = self.pause_at_a_stop() => match never {},
                ended = self.keep(&ledger) => ended.map(|never| match never {}),
                ended = self.cycles(&ledger) => ended,
            };
            let Err(Halt::Superseded) = ended else { return ended };
            self.step_down(&mut *ledger.lock().await);
        }
    }

    /// Nothing new is asked for once a stop was, not even ahead.
    async fn pause_at_a_stop(&self) -> Infallible {
        self.stop.requested().await;
        self.source.pause();
        std::future::pending().await
    }

    async fn cycles(&self, ledger: &Mutex<Committer>) -> Result<(), Halt> {
        loop {
            let begun = Instant::now();
            let mut ended = self.cycle(ledger).await;
            if ended.is_ok() {
                self.attempts.pulse.succeeds();
            }
            if ended.is_ok() && self.settings.mode == Mode::Loop {
                let rest = self.settings.interval.saturating_sub(begun.elapsed());
                if self.rest(rest).await {
                    self.attempts.progress();
                    continue;
                }
                ended = Err(Halt::Stopped);
            }
            if !matches!(&ended, Err(halt) if halt.forbids_writing()) {
                // The lease, too, is given back, so that nobody has to wait for its end.
                self.settled(ledger).await;
                self.write(&mut *ledger.lock().await, Save::Release).await?;
            }
            return ended;
        }
    }

    /// Rests for so long; false if a stop was asked for before the end.
    async fn rest(&self, length: Duration) -> bool {
        let _pausing = self.attempts.pulse.pauses(length);
        self.stop.sleep(length).await
    }

    fn position(&self, cursor: &Cursor) -> Result<Timestamp, Halt> {
        self.source.position(cursor).map_err(|cause| match cause {
            source::Error::Cursor(cause) => state::Error::Corrupt { place: self.store.place(), cause }.into(),
            cause => Error::Source { name: self.source.name(), reason: Reason::Hopeless, cause }.into(),
        })
    }

    /// The present by the source's clock where it is known, else by ours: the better guess for a destination that has told no time yet.
    fn now(&self) -> Timestamp {
        let local = self.clock.local();
        self.source.server_time(local).unwrap_or(local.wall)
    }

    /// Up to when everything is delivered, as far as it is known.
    fn reached(&self, committer: &Committer) -> Option<Timestamp> {
        committer.cursor().and_then(|cursor| self.source.position(cursor).ok())
    }

    /// Delivers everything up to the present. What "present" means is fixed here, for all pages.
    async fn cycle(&self, ledger: &Mutex<Committer>) -> Result<(), Halt> {
        let mut report = Report::new(REPORT_EVERY);
        let ended = self.pages(ledger, &mut report).await;
        // Whatever ended it, what is delivered is written down, unless it is the store that failed.
        if !matches!(&ended, Err(halt) if halt.forbids_writing()) {
            self.finish(ledger).await?;
        }
        let position = self.reached(&*ledger.lock().await);
        report.end(ended.is_ok(), position);
        if ended.is_ok() {
            self.attempts.pulse.stands(report.standing(position, self.now()));
        }
        ended
    }

    async fn pages(&self, ledger: &Mutex<Committer>, report: &mut Report) -> Result<(), Halt> {
        let begun = self.clock.local();
        let Some(cursor) = ledger.lock().await.cursor().cloned() else { return Ok(()) };
        let mut following = Some(self.upcoming(cursor, begun).await);
        while let Some(page) = following.transpose()? {
            // Fetched ahead, but not begun.
            if self.stop.is_requested() {
                return Err(Halt::Stopped);
            }
            report.page(page.delivery.events().len(), page.already_delivered);
            report.now_and_then(self.source.position(&page.next).ok());
            following = self.settle_and_fetch(page, begun, ledger, report).await?;
        }
        Ok(())
    }

    /// Settles a page and fetches the next one meanwhile. The page's failure ends it at once; the next one's has time.
    async fn settle_and_fetch(
        &self,
        page: Upcoming,
        begun: LocalTime,
        ledger: &Mutex<Committer>,
        report: &mut Report,
    ) -> Result<Option<Result<Upcoming, Halt>>, Halt> {
        let Upcoming { delivery, next, more, .. } = page;
        let behind = next.clone();
        let fetching = async { if more { Some(self.upcoming(behind, begun).await) } else { None } };
        let mut fetching = std::pin::pin!(fetching);
        let mut settling = std::pin::pin!(self.settle(delivery, next, ledger, report));
        tokio::select! {
            biased;
            settled = &mut settling => settled?,
            following = &mut fetching => {
                settling.await?;
                return Ok(following);
            }
        }
        Ok(fetching.await)
    }

    /// The page behind `cursor`, for which the destination does ahead what it can.
    async fn upcoming(&self, cursor: Cursor, begun: LocalTime) -> Result<Upcoming, Halt> {
        let Page { events, already_delivered, next, more } = self.fetch(cursor, begun).await?;
        let mut delivery = Delivery::new(events);
        self.destination.prepare(&mut delivery, self.now());
        Ok(Upcoming { delivery, already_delivered, next, more })
    }

    /// The page behind `cursor`, however long it takes; a stop ends it at once, since nothing is lost with an answer
    /// that nobody reads.
    async fn fetch(&self, place: Cursor, begun: LocalTime) -> Result<Page, Halt> {
        let mut attempt = self.attempts.with(Counterpart::Source);
        let mut cursor = place.clone();
        loop {
            let calling = attempt.calls();
            let answer = tokio::select! {
                biased;
                () = self.stop.requested() => return Err(Halt::Stopped),
                answer = self.source.next_page(&cursor, begun) => answer,
            };
            drop(calling);
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
                if let Some(smaller) = self.source.narrowed(&cursor, begun) {
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

    /// Writes the state, however long it takes: nothing further is delivered before.
    async fn write(&self, committer: &mut Committer, save: Save) -> Result<(), Halt> {
        let mut attempt = self.attempts.with(Counterpart::Store);
        let is_progress = save == Save::Pending && committer.is_pending();
        loop {
            let calling = attempt.calls();
            let saved = match save {
                Save::Pending => committer.write().await,
                Save::Renewal => committer.renew().await,
                Save::Release => committer.release().await,
            };
            drop(calling);
            let Err(cause) = saved else { break };
            let is_superseded = matches!(cause, state::Error::Conflict { .. }) && committer.is_leased();
            if !committer.is_pending() && (save == Save::Release || (save == Save::Renewal && self.stop.is_requested()))
            {
                // Nothing is left that would be worth waiting for.
                if save == Save::Release && !is_superseded {
                    let (place, error) = (committer.place(), Chain(&cause));
                    tracing::warn!(place, %error, "the lease could not be given back; another instance has to wait for its end");
                }
                return Ok(());
            }
            if is_superseded {
                return Err(Halt::Superseded);
            }
            let verdict = attempt.failed(cause.class()).within(self.tenure.patience());
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
        if is_progress {
            self.attempts.pulse.succeeds();
        }
        if let Some(position) = self.reached(committer) {
            metrics::position(position);
        }
        if committer.is_settled() {
            self.in_flight.committed();
        }
        Ok(())
    }
}

/// A page that is to be delivered.
struct Upcoming {
    delivery: Delivery,
    already_delivered: usize,
    next: Cursor,
    more: bool,
}

/// What a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Save {
    /// The cursor behind what was delivered.
    Pending,
    /// The lease, which is to go on.
    Renewal,
    /// The lease, which is to be free.
    Release,
}
