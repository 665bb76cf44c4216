//! What outlives a crash: the server, the store's documents, the ledger, and time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use auditsync::engine::shutdown::Shutdown;
use auditsync::failure::{Class, Failure};
use auditsync::http::Address;
use auditsync::source::Cursor;

use crate::api::Api;
use crate::documents::Documents;
use crate::history::{History, ORIGIN};
use crate::ledger::Ledger;
use crate::plan::{
    ConfirmationFault, Cue, DestinationFault, End, Knobs, LifePlan, Plan, SourceFault, Spell, StoreFault,
};

/// A life that begins and ends more calls than this runs in a circle.
const MOST_CALLS: u32 = 300_000;

/// Everything but the engine.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) knobs: Knobs,
    pub(crate) history: Arc<History>,
    pub(crate) source_script: Script<SourceFault>,
    pub(crate) destination_script: Script<DestinationFault>,
    pub(crate) store_script: Script<StoreFault>,
    pub(crate) confirmation_script: Script<ConfirmationFault>,
    /// Whether every answer of the server carries its time.
    always_dated: bool,
    begun: Instant,
    api: Mutex<Api>,
    documents: Mutex<Documents>,
    ledger: Mutex<Ledger>,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let history = Arc::new(History::of(plan));
        Self {
            knobs: plan.knobs,
            source_script: Script::new(&plan.source),
            destination_script: Script::new(&plan.destination),
            store_script: Script::new(&plan.store),
            confirmation_script: Script::new(&plan.confirmations),
            always_dated: plan.knobs.dated
                && !plan.source.iter().any(|spell| matches!(spell.fault, SourceFault::Undated)),
            begun: Instant::now(),
            api: Mutex::new(Api::new(Arc::clone(&history), plan.paging.clone(), plan.seed, plan.knobs.rewrites)),
            documents: Mutex::new(Documents::default()),
            ledger: Mutex::new(Ledger::new(Arc::clone(&history), plan.knobs)),
            history,
        }
    }

    /// The server's clock.
    pub(crate) fn now(&self) -> Timestamp {
        ORIGIN + self.begun.elapsed()
    }

    pub(crate) fn api(&self) -> MutexGuard<'_, Api> {
        self.api.lock().unwrap()
    }

    pub(crate) fn documents(&self) -> MutexGuard<'_, Documents> {
        self.documents.lock().unwrap()
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Records that the source learnt of a stored cursor: it may forget all before it.
    pub(crate) fn confirmed(&self, cursor: &Cursor) {
        let is_stored = self.documents().was_ever_held(cursor);
        let mut ledger = self.ledger();
        if !is_stored {
            ledger.violated("the source was informed of a cursor that was never stored");
        }
        ledger.confirmed(cursor);
    }

    /// The number of seconds by which this machine's clock may be ahead: without the server's time, nothing shows that
    /// it is.
    pub(crate) fn bounded(&self, ahead: i32, life: &Life) -> i64 {
        let is_noticed = self.always_dated || life.knows_the_time.load(Ordering::Relaxed);
        i64::from(if is_noticed { ahead } else { ahead.min(0) })
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        self.source_script.clear();
        self.destination_script.clear();
        self.store_script.clear();
        self.confirmation_script.clear();
    }
}

/// The faults of the calls to come, one for each; none when all are over.
#[derive(Debug)]
pub(crate) struct Script<F>(Mutex<VecDeque<Option<F>>>);

impl<F: Copy> Script<F> {
    fn new(spells: &[Spell<F>]) -> Self {
        let calls = spells.iter().flat_map(|spell| {
            let well = std::iter::repeat_n(None, spell.after.into());
            well.chain(std::iter::repeat_n(Some(spell.fault), spell.times.into()))
        });
        Self(Mutex::new(calls.collect()))
    }

    /// Returns the fault of this call.
    pub(crate) fn next(&self) -> Option<F> {
        self.0.lock().unwrap().pop_front().flatten()
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A process, as the engine's counterparts see it; it ends with a crash.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) number: usize,
    pub(crate) shutdown: Shutdown,
    plan: Option<LifePlan>,
    calls: AtomicU32,
    deliveries: AtomicU32,
    /// Whether the engine has learnt the server's time in this life.
    knows_the_time: AtomicBool,
    over: CancellationToken,
}

impl Life {
    pub(crate) fn new(number: usize, plan: Option<&LifePlan>) -> Self {
        let (calls, deliveries) = (AtomicU32::new(0), AtomicU32::new(0));
        Self {
            number,
            shutdown: Shutdown::default(),
            plan: plan.copied(),
            calls,
            deliveries,
            knows_the_time: AtomicBool::new(false),
            over: CancellationToken::new(),
        }
    }

    /// Records that an answer of the server carries its time.
    pub(crate) fn learns_the_time(&self) {
        self.knows_the_time.store(true, Ordering::Relaxed);
    }

    /// Passes a call, before and after its effect: this may be the moment at which the life has to end.
    pub(crate) async fn pass(&self) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.plan {
            Some(LifePlan { cue: Cue::Call(at), end, .. }) if u32::from(at) == call => self.end(end).await,
            _ if call >= MOST_CALLS => self.die().await,
            _ => {}
        }
    }

    /// Passes a delivery, likewise.
    pub(crate) async fn pass_delivery(&self) {
        let delivery = self.deliveries.fetch_add(1, Ordering::Relaxed);
        match self.plan {
            Some(LifePlan { cue: Cue::Delivery(at), end, .. }) if u32::from(at) == delivery => self.end(end).await,
            _ => self.pass().await,
        }
    }

    async fn end(&self, end: End) {
        match end {
            End::Crash => self.die().await,
            // The life's time was up before: a second request would cut off what the stop still does.
            End::Stop | End::StopTwice(_) if self.shutdown.is_requested() => {}
            End::Stop | End::StopTwice(_) => self.shutdown.request(),
        }
    }

    async fn die(&self) {
        self.over.cancel();
        std::future::pending::<()>().await;
    }

    /// Waits for a crash that a call causes.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Whether it made more calls than any sensible run.
    pub(crate) fn goes_round(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > MOST_CALLS
    }
}

/// The address of all calls to the server.
pub(crate) fn address() -> Address {
    Address::of(&"http://model.invalid/".parse().unwrap())
}

/// A failure of the model.
pub(crate) fn failure(class: Class, what: &'static str) -> Failure {
    Failure::new(class, what)
}

/// Lets a call take its time.
pub(crate) async fn take(millis: u16) {
    tokio::time::sleep(Duration::from_millis(millis.into())).await;
}
