//! Copies events from a source to a destination, page by page, and commits the cursor after what is delivered.
//!
//! While it delivers a page, the engine reads the next one and commits the cursor of the one before. It commits a cursor only after
//! the destination has acknowledged every page before it. Only the engine waits, and only [`decision::decide`] decides what to do
//! about a failure.
//!
//! | module | job |
//! |---|---|
//! | `sync` | one sync: the loop over pages |
//! | `fetch`, `deliver` | reading and delivering one page, with every retry |
//! | `ledger` | which pages are in flight, and which cursor to store next: pure bookkeeping |
//! | `commit` | the state document, saved by compare-and-swap |
//! | `leadership` | becoming the active instance, remaining active, and stepping down |
//! | [`decision`], [`backoff`], `retry` | what a failure means, and the waits |
//! | [`shutdown`] | the request to shut down |
//!
//! The caller passes in clock, source, destination and store, so that tests can run the engine under simulated time.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::component::Component;
use crate::destination::Destination;
use crate::failure::Failure;
use crate::pipeline_name::PipelineName;
use crate::screen::Screen;
use crate::source::{Cursor, Source};
use crate::state::lease::Lease;
use crate::state::{self, StateStore};
use crate::telemetry::liveness::Liveness;
use crate::telemetry::metrics::Metrics;
use commit::Committer;
use decision::{Reason, RetryPolicy};
use lease_clock::LeaseClock;
use ledger::Ledger;
use report::Summary;
use retry::Retries;
use shutdown::Shutdown;

pub mod backoff;
mod commit;
pub mod decision;
mod deliver;
mod fetch;
mod leadership;
mod lease_clock;
mod ledger;
mod report;
mod retry;
pub mod shutdown;
mod sync;
pub(crate) mod variables;

/// 2025-01-01. Nobody still delivers older audit events, so a clock that shows an earlier time has not been set.
const CLOCK_IS_SET: Timestamp = Timestamp::constant(1_735_689_600, 0);

/// The settings of an engine.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether to run on after the first sync.
    pub mode: Mode,
    /// The time from the start of one sync to the start of the next.
    pub interval: Duration,
    /// How long a one-shot retries without progress.
    pub retry_budget: Duration,
    /// How long a shutdown waits for what is in flight.
    pub shutdown_timeout: Duration,
    /// How long a standby on a shared state store waits for the heartbeat of the active instance; whole seconds.
    pub lease_ttl: Duration,
}

/// When a run ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Never: a daemon runs until a shutdown is requested.
    Loop,
    /// A one-shot ends once it has delivered everything up to its start.
    Once,
}

/// How a run ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A one-shot has delivered everything up to its start.
    Done,
    /// A shutdown was requested, and everything delivered is committed.
    Stopped,
    /// A shutdown was requested. Its timeout expired before everything was answered and committed, or the source did not confirm the last
    /// committed cursor.
    Interrupted {
        /// How many events the next run may send again.
        uncertain: usize,
    },
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A component failed, and the engine gave up.
    #[error("the {component} failed{}", remark(*reason))]
    GivenUp {
        /// The component that failed.
        component: Component,
        /// Why the engine gave up.
        reason: Reason,
        /// The last failure.
        #[source]
        cause: Failure,
    },
    /// The source could not be opened.
    #[error("the source cannot start")]
    Unopened(#[source] Failure),
    /// The state cannot be read or saved.
    #[error(transparent)]
    State(#[from] state::Error),
    /// This machine's clock has not been set.
    #[error("this machine's clock shows {now}, which cannot be right; set the clock before the first sync")]
    Clock {
        /// The time that the clock shows.
        now: Timestamp,
    },
}

/// Adds the reason to the message of a failure; empty where the failure explains itself.
const fn remark(reason: Reason) -> &'static str {
    match reason {
        Reason::BudgetSpent => {
            " and there was no progress within the retry budget; the cursor stays, and the next run continues from it"
        }
        Reason::Credentials | Reason::Configuration | Reason::Closed | Reason::Fatal => "",
    }
}

/// Why work stops before its end.
enum Halt {
    /// A shutdown was requested.
    Stopped,
    /// Another instance is active now.
    Superseded,
    Failed(Error),
}

impl Halt {
    /// Whether the state must not or cannot be saved any more.
    fn forbids_saving(&self) -> bool {
        matches!(self, Self::Superseded | Self::Failed(Error::State(_)))
    }
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The parts that an engine connects.
#[derive(Clone)]
pub struct Parts {
    /// The pipeline's name, as it is written in the state.
    pub pipeline: PipelineName,
    /// Where events come from.
    pub source: Arc<dyn Source>,
    /// Where events go.
    pub destination: Arc<dyn Destination>,
    /// Where the state is stored.
    pub store: Arc<dyn StateStore>,
    /// Which events are delivered, and which of their fields are redacted.
    pub screen: Screen,
    /// This machine's clocks.
    pub clock: Clock,
    /// The pipeline's counters.
    pub metrics: Metrics,
    /// Where the engine records its progress.
    pub liveness: Liveness,
}

/// One run of a pipeline.
pub struct Engine {
    source: Arc<dyn Source>,
    destination: Arc<dyn Destination>,
    store: Arc<dyn StateStore>,
    screen: Screen,
    clock: Clock,
    metrics: Metrics,
    settings: Settings,
    shutdown: Shutdown,
    retries: Retries,
    /// The lease that this instance writes into a shared document.
    lease: Lease,
    lease_clock: Arc<LeaseClock>,
    ledger: Mutex<Ledger>,
    committer: tokio::sync::Mutex<Committer>,
    /// Notified whenever the ledger or the lease changes.
    changed: Notify,
    summary: Mutex<Summary>,
    /// When the run began. The first cursor counts from this time, however long the store makes the run wait.
    begun: Timestamp,
    /// Whether a probe has shown that the store keeps its promises.
    is_probed: AtomicBool,
}

impl Engine {
    /// Puts an engine together without calling any of its parts.
    pub fn new(parts: Parts, settings: Settings, shutdown: Shutdown) -> Self {
        let Parts { pipeline, source, destination, store, screen, clock, metrics, liveness } = parts;
        let policy = RetryPolicy { mode: settings.mode, budget: settings.retry_budget };
        let retries = Retries::new(policy, shutdown.clone(), liveness, metrics.clone());
        let lease_clock = Arc::new(LeaseClock::default());
        let committer =
            Committer::new(Arc::clone(&store), pipeline, clock.clone(), metrics.clone(), Arc::clone(&lease_clock));
        Self {
            source,
            destination,
            store,
            screen,
            begun: clock.now(),
            clock,
            metrics,
            settings,
            shutdown,
            retries,
            lease: Lease::of_this_process(settings.lease_ttl),
            lease_clock,
            ledger: Mutex::default(),
            committer: tokio::sync::Mutex::new(committer),
            changed: Notify::new(),
            summary: Mutex::default(),
            is_probed: AtomicBool::new(false),
        }
    }

    /// Runs until it is done, a shutdown is requested, or it fails for good.
    pub async fn run(self) -> Result<Outcome, Error> {
        let ended = tokio::select! {
            biased;
            ended = self.work() => ended,
            () = self.shutdown.expired(self.settings.shutdown_timeout) => {
                let uncertain = self.ledger.lock().uncertain();
                self.metrics.possibly_duplicated(uncertain);
                tracing::warn!(uncertain, "the shutdown timeout expired before everything was answered and committed; the next run may deliver the events in flight again");
                return Ok(Outcome::Interrupted { uncertain });
            }
        };
        match ended {
            Ok(()) => Ok(Outcome::Done),
            Err(Halt::Stopped | Halt::Superseded) if self.ledger.lock().is_unconfirmed() => {
                tracing::warn!(
                    "stopped, but the source has not confirmed the last committed cursor; the next run may deliver events again"
                );
                Ok(Outcome::Interrupted { uncertain: 0 })
            }
            Err(Halt::Stopped | Halt::Superseded) => Ok(Outcome::Stopped),
            Err(Halt::Failed(error)) => {
                let uncertain = self.ledger.lock().uncertain();
                if uncertain > 0 {
                    self.metrics.possibly_duplicated(uncertain);
                    tracing::warn!(
                        uncertain,
                        "the events in flight are not committed; the next run may deliver them again"
                    );
                }
                Err(error)
            }
        }
    }

    async fn work(&self) -> Result<(), Halt> {
        loop {
            self.become_active().await?;
            // Dropping the syncs cancels the requests to the destination.
            let ended = tokio::select! {
                biased;
                never = self.pause_at_shutdown() => match never {},
                ended = self.keep_committing() => ended.map(|never| match never {}),
                never = self.confirm_commits() => match never {},
                ended = self.syncs() => ended,
            };
            let Err(Halt::Superseded) = ended else { return ended };
            self.step_down().await;
        }
    }

    /// Pauses the source once a shutdown is requested: the engine reads nothing more, not even ahead.
    async fn pause_at_shutdown(&self) -> Infallible {
        self.shutdown.requested().await;
        self.source.pause();
        std::future::pending().await
    }

    async fn syncs(&self) -> Result<(), Halt> {
        let ended = self.rounds().await;
        if !matches!(&ended, Err(halt) if halt.forbids_saving()) {
            // Otherwise a standby would have to wait until the lease expires.
            self.release().await?;
        }
        ended
    }

    async fn rounds(&self) -> Result<(), Halt> {
        self.resume().await?;
        loop {
            let begun = Instant::now();
            self.sync().await?;
            self.retries.liveness.succeeds();
            if self.settings.mode == Mode::Once {
                return Ok(());
            }
            let rest = self.settings.interval.saturating_sub(begun.elapsed());
            if !self.while_flushing(self.rest(rest)).await? {
                self.finish().await?;
                return Err(Halt::Stopped);
            }
            self.retries.progress();
        }
    }

    /// Rests for `length`; false if a shutdown was requested before the end.
    async fn rest(&self, length: Duration) -> bool {
        let _pausing = self.retries.liveness.pauses(length);
        self.shutdown.sleep(length).await
    }

    /// The time up to which everything is delivered once `cursor` is reached. A cursor that the source cannot read makes the state unusable.
    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Halt> {
        self.source
            .reached(cursor)
            .map_err(|cause| state::Error::Corrupt { location: self.store.location(), cause: Box::new(cause) }.into())
    }

    /// The present by the source's clock where it is known, else by ours. A destination with an unknown clock gets this, the better guess.
    fn present(&self) -> Timestamp {
        let local = self.clock.local();
        let theirs = self.source.server_time(local);
        self.destination.note_source_time(theirs, local.wall);
        theirs.unwrap_or(local.wall)
    }
}
