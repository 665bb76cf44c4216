//! A fake Datadog: the logs intake (`POST /api/v2/logs`) and the key check (`GET /api/v1/validate`) in one server.
//!
//! The real intake tolerates many mistakes without reporting them: it cuts long entries, drops old ones, misreads
//! times, and still answers 202. The fake accepts the same requests with the same answers, but records each such
//! mistake as a violation.

mod endpoint;
mod inspect;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;

use super::fault::{Fault, FaultPlan};
use super::server::Server;
use super::watched::{Gate, Watched};

/// How the fake behaves.
#[derive(Clone, Debug)]
pub struct IntakeOptions {
    /// The valid key.
    pub api_key: String,
    /// How long every answer takes.
    pub latency: Duration,
    /// Keep the accepted bodies, for [`FakeIntake::entries`]. Without them, memory use stays small, and the fake still
    /// counts ids.
    pub keep_bodies: bool,
    /// The intake refuses a request with such an entry whole, with 400, and does not say which entry it was.
    pub poison: Option<Predicate>,
    /// Like `poison`, for entries that are refused even when the record comes only as text, in `message`.
    pub poison_text: Option<Predicate>,
    /// A firewall in front of the intake meets a request with such an entry with this fault.
    pub firewall: Option<(Predicate, Fault)>,
    /// The intake answers 413 to bodies of more bytes than this, uncompressed.
    pub max_body_bytes: usize,
    /// The seconds by which the server's clock is ahead of the real time (negative: behind). Its `Date` shows this
    /// clock, and it drops entries by it.
    pub date_offset: i64,
    /// It is a relay: its clock shows in its `Date` alone, and entries are dropped by the real time.
    pub is_relay: bool,
    /// Send no `Date` header at all.
    pub omit_date: bool,
}

impl Default for IntakeOptions {
    fn default() -> Self {
        Self {
            api_key: "0123456789abcdef0123456789abcdef".into(),
            latency: Duration::ZERO,
            keep_bodies: true,
            poison: None,
            poison_text: None,
            firewall: None,
            max_body_bytes: inspect::MAX_BODY_BYTES,
            date_offset: 0,
            is_relay: false,
            omit_date: false,
        }
    }
}

/// A condition on one entry.
#[derive(Clone)]
pub struct Predicate(Arc<dyn Fn(&Value) -> bool + Send + Sync>);

impl Predicate {
    pub fn new(asks: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(asks))
    }

    pub fn holds(&self, entry: &Value) -> bool {
        (self.0)(entry)
    }
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Predicate")
    }
}

/// A request to `/api/v2/logs`, as the fake understood it.
#[derive(Clone, Debug)]
pub struct IntakeRequest {
    /// When it had arrived.
    pub time: SystemTime,
    /// The status of its answer; none while it is open, or if there was no answer.
    pub status: Option<u16>,
    /// Whether it is over: its answer is on its way, or the fake knows that the client has gone.
    pub over: bool,
    /// The number of its entries, accepted or not.
    pub entries: usize,
    /// Whether its entries were accepted.
    pub taken: bool,
    /// The size of its body, uncompressed.
    pub bytes: usize,
    /// The size of its body, as sent.
    pub sent_bytes: usize,
    /// Its `Content-Encoding`; `identity` if it had none.
    pub encoding: String,
}

/// A running fake of the destination. Ends when it is dropped.
pub struct FakeIntake {
    server: Server,
    shared: Arc<Shared>,
}

/// The state that the test's handle and the server's endpoints share.
struct Shared {
    options: IntakeOptions,
    gate: Gate,
    state: Watched<IntakeState>,
}

struct IntakeState {
    api_key: String,
    date_offset: i64,
    log_faults: FaultPlan,
    validate_faults: FaultPlan,
    requests: Vec<IntakeRequest>,
    validate_requests: usize,
    bodies: Vec<Bytes>,
    taken: usize,
    ids: HashMap<String, usize>,
    dropped: usize,
    violations: Vec<String>,
}

impl FakeIntake {
    pub async fn start(options: IntakeOptions) -> Self {
        let state = IntakeState {
            api_key: options.api_key.clone(),
            date_offset: options.date_offset,
            log_faults: FaultPlan::default(),
            validate_faults: FaultPlan::default(),
            requests: Vec::new(),
            validate_requests: 0,
            bodies: Vec::new(),
            taken: 0,
            ids: HashMap::new(),
            dropped: 0,
            violations: Vec::new(),
        };
        let shared = Arc::new(Shared { options, gate: Gate::open(), state: Watched::new(state) });
        let server = Server::start(shared.options.omit_date, |_| endpoint::routes(&shared)).await;
        Self { server, shared }
    }

    /// The base URL, of the intake and of the key check.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// All entries accepted so far, in that order.
    ///
    /// # Panics
    /// Without `keep_bodies`.
    pub fn entries(&self) -> Vec<Value> {
        let parse = |body: Bytes| -> Vec<Value> { serde_json::from_slice(&body).expect("was parsed before") };
        self.bodies().into_iter().flat_map(parse).collect()
    }

    /// The uncompressed bodies accepted so far.
    ///
    /// # Panics
    /// Without `keep_bodies`.
    pub fn bodies(&self) -> Vec<Bytes> {
        assert!(self.shared.options.keep_bodies, "this intake was told to keep no bodies");
        self.shared.state.read().bodies.clone()
    }

    /// The number of entries accepted so far, repeats included.
    pub fn count(&self) -> usize {
        self.shared.state.read().taken
    }

    /// The number of entries that were answered 202 and dropped, because of their time.
    pub fn dropped(&self) -> usize {
        self.shared.state.read().dropped
    }

    /// How often each `evt.id` was accepted so far.
    pub fn ids(&self) -> HashMap<String, usize> {
        self.shared.state.read().ids.clone()
    }

    /// All requests to the intake so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<IntakeRequest> {
        self.shared.state.read().requests.clone()
    }

    /// The number of key checks so far.
    pub fn validate_requests(&self) -> usize {
        self.shared.state.read().validate_requests
    }

    /// All requests so far to any path, even one that does not exist.
    pub fn hits(&self) -> usize {
        self.server.hits()
    }

    /// Every breach of the documented protocol or its limits so far.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state.read().violations.clone()
    }

    /// Waits until the intake has accepted this many entries since the start, repeats included.
    pub async fn wait_for_entries(&self, n: usize) {
        let count = |state: &IntakeState| state.taken;
        self.shared.state.expect_count(n, "entries", count).await;
    }

    /// Waits until the intake has accepted entries with this many different ids since the start.
    pub async fn wait_for_ids(&self, n: usize) {
        let count = |state: &IntakeState| state.ids.len();
        self.shared.state.expect_count(n, "different ids", count).await;
    }

    /// Waits until this many requests to the intake have arrived since the start, answered or not.
    pub async fn wait_for_requests(&self, n: usize) {
        let count = |state: &IntakeState| state.requests.len();
        self.shared.state.expect_count(n, "requests to the intake", count).await;
    }

    /// Waits until the requests so far meet a condition, described by `what`.
    pub async fn wait_until(&self, what: &str, mut met: impl FnMut(&[IntakeRequest]) -> bool) {
        self.shared.state.expect(what, |state| met(&state.requests)).await;
    }

    /// The next request to the intake that has no fault yet meets this one.
    pub fn script(&self, fault: Fault) {
        self.update(|state| state.log_faults.script(fault));
    }

    /// Every request to the intake meets this fault, until `None` ends it.
    pub fn answer_always(&self, fault: Option<Fault>) {
        self.update(|state| state.log_faults.always(fault));
    }

    /// Requests to the intake meet one of these faults, with this probability (0 to 1).
    pub fn fail_randomly(&self, seed: u64, probability: f64, faults: Vec<Fault>) {
        self.update(|state| state.log_faults.randomly(seed, probability, faults));
    }

    /// Every key check meets this fault, until `None` ends it.
    pub fn answer_validate_always(&self, fault: Option<Fault>) {
        self.update(|state| state.validate_faults.always(fault));
    }

    /// Makes this key the only valid one.
    pub fn set_api_key(&self, key: impl Into<String>) {
        self.update(|state| state.api_key = key.into());
    }

    /// Sets the server's clock this many seconds ahead of the real time.
    pub fn set_date_offset(&self, seconds: i64) {
        self.update(|state| state.date_offset = seconds);
    }

    /// Holds back the answers to all requests to the intake until `release`. The intake accepts entries when the answer
    /// leaves.
    pub fn hold(&self) {
        self.shared.gate.set_open(false);
    }

    pub fn release(&self) {
        self.shared.gate.set_open(true);
    }

    /// Cuts off open requests and refuses connections until `come_back`.
    pub async fn go_down(&self) {
        self.server.go_down().await;
    }

    /// Serves again at the same address, with the same state.
    pub async fn come_back(&self) {
        self.server.come_back().await;
    }

    fn update<R>(&self, change: impl FnOnce(&mut IntakeState) -> R) -> R {
        self.shared.state.update(change)
    }
}
