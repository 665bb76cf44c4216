//! The engine: from a source to a destination, page by page, with a cursor that follows delivery.
//!
//! While a page is delivered, the next one is read and the cursor behind the one before is committed. A cursor is committed only after
//! the destination has acknowledged every page before it. Every wait is here, and every decision about a failure is
//! [`decision::decide`]'s.
//!
//! | module | job |
//! |---|---|
//! | `sync` | one sync: the loop over pages |
//! | `fetch`, `deliver` | one page, read and delivered however long it takes |
//! | `ledger` | which pages are on their way, and which cursor is to be stored: pure bookkeeping |
//! | `commit` | the state document, saved by compare-and-swap |
//! | `leadership` | becoming the active instance, staying it, and giving it up |
//! | [`decision`], [`backoff`], `retry` | what a failure means, and the waits |
//! | [`shutdown`] | the request to shut down |
//!
//! Clock, source, destination and store are passed in, so that tests run the engine under simulated time.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::OnceLock;
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

/// No audit event that anyone still delivers is older: a clock before this has not been set.
const CLOCK_IS_SET: Timestamp = Timestamp::constant(1_735_689_600, 0);

/// How an engine works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether to go on after the first sync.
    pub mode: Mode,
    /// The time from the start of one sync to the start of the next.
    pub interval: Duration,
    /// How long a one-shot goes on without progress.
    pub retry_budget: Duration,
    /// How long a shutdown waits for what is in flight.
    pub shutdown_timeout: Duration,
    /// How long an instance without a heartbeat stays the active one on a shared state; whole seconds.
    pub lease_ttl: Duration,
}

/// How long to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A daemon: until a shutdown is requested.
    Loop,
    /// A one-shot: until everything up to the start is delivered.
    Once,
}

/// How a run ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything up to the start of a one-shot is delivered.
    Done,
    /// A shutdown was requested, and everything delivered is committed.
    Stopped,
    /// A shutdown was requested, and its timeout expired before everything was answered and committed.
    Interrupted {
        /// How many events the next run may send again.
        uncertain: usize,
    },
}

/// Why a run ended otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A component failed, and the engine gave it up.
    #[error("the {component} failed{}", remark(*reason))]
    GivenUp {
        /// The component.
        component: Component,
        /// Why it was given up.
        reason: Reason,
        /// The last failure.
        #[source]
        cause: Failure,
    },
    /// The state cannot be read or saved.
    #[error(transparent)]
    State(#[from] state::Error),
    /// This machine's clock has not been set.
    #[error("this machine's clock shows {now}, which cannot be right; set the clock before the first sync")]
    Clock {
        /// The time that it shows.
        now: Timestamp,
    },
}

/// What the reason adds to the failure; nothing where the failure says it all.
fn remark(reason: Reason) -> String {
    match reason {
        Reason::BudgetSpent => format!(
            " and there was no progress within {}; the cursor stays, and the next run goes on from there",
            variables::RETRY_BUDGET.spec.name
        ),
        Reason::Credentials | Reason::Configuration | Reason::Closed | Reason::Fatal => String::new(),
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
    /// Whether the state must not, or cannot, be saved any more.
    fn forbids_saving(&self) -> bool {
        matches!(self, Self::Superseded | Self::Failed(Error::State(_)))
    }
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What an engine connects.
#[derive(Clone)]
pub struct Parts {
    /// The pipeline's name, as it stands in the state.
    pub pipeline: PipelineName,
    /// Where events come from.
    pub source: Arc<dyn Source>,
    /// Where events go.
    pub destination: Arc<dyn Destination>,
    /// Where the state is stored.
    pub store: Arc<dyn StateStore>,
    /// This machine's clocks.
    pub clock: Clock,
    /// The pipeline's counters.
    pub metrics: Metrics,
    /// Where the engine's progress is noted.
    pub liveness: Liveness,
}

/// One run of a pipeline.
pub struct Engine {
    source: Arc<dyn Source>,
    destination: Arc<dyn Destination>,
    store: Arc<dyn StateStore>,
    clock: Clock,
    metrics: Metrics,
    settings: Settings,
    shutdown: Shutdown,
    retries: Retries,
    /// What we put into a shared document.
    lease: Lease,
    lease_clock: Arc<LeaseClock>,
    ledger: Mutex<Ledger>,
    committer: tokio::sync::Mutex<Committer>,
    /// Notified when the ledger or the lease changed.
    changed: Notify,
    summary: Mutex<Summary>,
    /// When it began: the very first sync counts from then, however long the store makes it wait.
    begun: OnceLock<Timestamp>,
    /// Whether the store was found to keep its promises.
    is_probed: AtomicBool,
}

impl Engine {
    /// Puts an engine together. Nothing is called yet.
    pub fn new(parts: Parts, settings: Settings, shutdown: Shutdown) -> Self {
        let Parts { pipeline, source, destination, store, clock, metrics, liveness } = parts;
        let policy = RetryPolicy { mode: settings.mode, budget: settings.retry_budget };
        let retries = Retries::new(policy, shutdown.clone(), liveness, metrics.clone());
        let lease_clock = Arc::new(LeaseClock::default());
        let committer =
            Committer::new(Arc::clone(&store), pipeline, clock.clone(), metrics.clone(), Arc::clone(&lease_clock));
        Self {
            source,
            destination,
            store,
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
            begun: OnceLock::new(),
            is_probed: AtomicBool::new(false),
        }
    }

    /// Runs until it is done, a shutdown is requested, or it cannot go on.
    pub async fn run(self) -> Result<Outcome, Error> {
        self.begun.get_or_init(|| self.clock.now());
        let ended = tokio::select! {
            biased;
            ended = self.work() => ended,
            () = self.shutdown.expired(self.settings.shutdown_timeout) => {
                let uncertain = self.ledger.lock().uncertain();
                self.metrics.possibly_duplicated(uncertain);
                tracing::warn!(uncertain, "the shutdown timeout expired before everything was answered and committed; the next run may send what was in flight again");
                return Ok(Outcome::Interrupted { uncertain });
            }
        };
        match ended {
            Ok(()) => Ok(Outcome::Done),
            Err(Halt::Stopped | Halt::Superseded) => Ok(Outcome::Stopped),
            Err(Halt::Failed(error)) => {
                let uncertain = self.ledger.lock().uncertain();
                if uncertain > 0 {
                    self.metrics.possibly_duplicated(uncertain);
                    tracing::warn!(uncertain, "what was in flight is not committed; the next run may send it again");
                }
                Err(error)
            }
        }
    }

    async fn work(&self) -> Result<(), Halt> {
        loop {
            self.become_active().await?;
            // Dropping the syncs cuts off the requests to the destination.
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

    /// Once a shutdown is requested, nothing more is read, not even ahead.
    async fn pause_at_shutdown(&self) -> Infallible {
        self.shutdown.requested().await;
        self.source.pause();
        std::future::pending().await
    }

    async fn syncs(&self) -> Result<(), Halt> {
        let ended = self.rounds().await;
        if !matches!(&ended, Err(halt) if halt.forbids_saving()) {
            // The lease is released, so that no standby has to wait for its end.
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

    /// Rests for so long; false if a shutdown was requested before the end.
    async fn rest(&self, length: Duration) -> bool {
        let _pausing = self.retries.liveness.pauses(length);
        self.shutdown.sleep(length).await
    }

    /// Up to when everything before `cursor` is delivered. A cursor that the source does not understand makes the state unusable.
    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Halt> {
        self.source
            .reached(cursor)
            .map_err(|cause| state::Error::Corrupt { location: self.store.location(), cause: Box::new(cause) }.into())
    }

    /// The present by the source's clock where it is known, else by ours: the better guess for a destination whose clock is unknown.
    fn now(&self) -> Timestamp {
        let local = self.clock.local();
        self.source.server_time(local).unwrap_or(local.wall)
    }
}
