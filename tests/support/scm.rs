//! A fake Sectigo SCM: the OAuth token endpoint and the audit API (`GET /api/v1/records`) in one server.
//!
//! A range is (`from`, `to`]. Its first page takes a snapshot of the records visible at that moment, and the page
//! tokens walk through that snapshot. So the range misses a record that becomes visible later: the worst case that the
//! public documentation leaves open.

mod endpoint;
mod paging;
mod query;
mod records_endpoint;
mod token_endpoint;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use super::fault::{Fault, FaultPlan};
use super::records::Record;
use super::server::Server;
use super::watched::{Gate, Watched};
use paging::Paging;
use token_endpoint::TOKEN_PATH;

/// The behaviour of the fake where the documentation leaves a choice or a test needs another one.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches, each named where it is set")]
pub struct ScmOptions {
    /// The client id that the token endpoint knows.
    pub client_id: String,
    /// Its secret. The default has the shape of the vendor's sample: every sort of character, `=` first.
    pub client_secret: String,
    /// The most records on a page.
    pub page_size: usize,
    /// Pages hold between one record and `page_size`, although more follow.
    pub short_pages: bool,
    /// The lifetime of an access token: `expires_in` names it, and the fake enforces it.
    pub token_lifetime: Duration,
    /// What a 401 states as the address of the token endpoint.
    pub advertise_auth: AdvertiseAuth,
    /// How long every answer takes.
    pub latency: Duration,
    /// Compress the pages, if the client accepts gzip.
    pub gzip: bool,
    /// How a range ends.
    pub final_page: FinalPage,
    /// The order of the records in a range.
    pub order: Order,
    /// Seconds that the `Date` header is ahead of the real time (behind, if negative).
    pub date_offset: i64,
    /// Send no `Date` header at all.
    pub omit_date: bool,
    /// Every answer shows its records with another content: an API whose records are not stable.
    pub unstable_records: bool,
}

impl Default for ScmOptions {
    fn default() -> Self {
        Self {
            client_id: "audit-client".into(),
            client_secret: "=m0s&j!RQ%Zp]d2C +8DI'f1#M8V\"6$jn\\AEy".into(),
            page_size: 100,
            short_pages: false,
            token_lifetime: Duration::from_mins(5),
            advertise_auth: AdvertiseAuth::Own,
            latency: Duration::ZERO,
            gzip: false,
            final_page: FinalPage::EmptyArray,
            order: Order::Ascending,
            date_offset: 0,
            omit_date: false,
            unstable_records: false,
        }
    }
}

/// The `authorization_uri` in the `WWW-Authenticate` header of a 401.
#[derive(Clone, Debug)]
pub enum AdvertiseAuth {
    /// There is none.
    None,
    /// This server's own token endpoint.
    Own,
    /// The test's choice.
    Other(String),
}

/// How a range ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalPage {
    /// Every page with records carries a `token`; an empty array without one follows the last of them.
    EmptyArray,
    /// The same, but even the empty array carries a `token`.
    EmptyArrayWithToken,
    /// The last page with records carries no `token`.
    NoTokenOnLast,
}

/// The order of the records in a range, by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
    Shuffled,
}

/// A request to `/api/v1/records`, as the fake understood it.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub token: Option<String>,
    /// Whether it carried an access token that was valid when it arrived.
    pub authorized: bool,
    /// When it arrived.
    pub time: SystemTime,
    /// The status of its answer; none while it is open, or if there was no answer.
    pub status: Option<u16>,
    /// The number of records on the page that answers it.
    pub records: usize,
}

/// A running fake of the source. Ends when it is dropped.
pub struct FakeScm {
    server: Server,
    shared: Arc<Shared>,
}

/// The state that the test's handle and the server's endpoints share.
struct Shared {
    options: ScmOptions,
    base_url: String,
    gate: Gate,
    state: Watched<ScmState>,
}

struct ScmState {
    client_secret: String,
    /// None if the `Date` of the answers is no date.
    date_offset: Option<i64>,
    access_tokens: HashMap<String, Instant>,
    records: Vec<Stored>,
    paging: Paging,
    corruptions: Vec<(&'static str, &'static [u8])>,
    record_faults: FaultPlan,
    token_faults: FaultPlan,
    requests: Vec<ApiRequest>,
    token_requests: usize,
    violations: Vec<String>,
}

struct Stored {
    record: Record,
    visible_at: Option<SystemTime>,
}

impl FakeScm {
    pub async fn start(options: ScmOptions) -> Self {
        let state = ScmState {
            client_secret: options.client_secret.clone(),
            date_offset: Some(options.date_offset),
            access_tokens: HashMap::new(),
            records: Vec::new(),
            paging: Paging::new(&options),
            corruptions: Vec::new(),
            record_faults: FaultPlan::default(),
            token_faults: FaultPlan::default(),
            requests: Vec::new(),
            token_requests: 0,
            violations: Vec::new(),
        };
        let mut shared = None;
        let server = Server::start(options.omit_date, |base_url| {
            let made = shared.insert(Arc::new(Shared {
                options,
                base_url: base_url.to_owned(),
                gate: Gate::open(),
                state: Watched::new(state),
            }));
            endpoint::routes(made)
        })
        .await;
        let shared = shared.expect("made with the routes");
        Self { server, shared }
    }

    /// The base URL of the audit API.
    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn token_url(&self) -> String {
        self.shared.token_url()
    }

    /// Adds records that are visible at once, in any order of time.
    pub fn push(&self, records: impl IntoIterator<Item = Record>) {
        let visible = |record| Stored { record, visible_at: None };
        self.update(|state| state.records.extend(records.into_iter().map(visible)));
    }

    /// Adds a record that no request before `when` sees, whatever its own time.
    pub fn push_visible_at(&self, record: Record, when: SystemTime) {
        let visible_at = Some(when);
        self.update(|state| state.records.push(Stored { record, visible_at }));
    }

    /// All requests for records so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.shared.state.read().requests.clone()
    }

    pub fn token_requests(&self) -> usize {
        self.shared.state.read().token_requests
    }

    /// All requests so far to any path, even one that does not exist.
    pub fn hits(&self) -> usize {
        self.server.hits()
    }

    /// Every breach of the documented protocol so far.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state.read().violations.clone()
    }

    /// Waits until this many requests for records have arrived since the start, answered or not.
    pub async fn wait_for_requests(&self, n: usize) {
        let count = |state: &ScmState| state.requests.len();
        self.shared.state.expect_count(n, "requests for records", count).await;
    }

    pub async fn wait_for_token_requests(&self, n: usize) {
        let count = |state: &ScmState| state.token_requests;
        self.shared.state.expect_count(n, "token requests", count).await;
    }

    /// Waits until the requests so far meet a condition, described by `what`.
    pub async fn wait_until(&self, what: &str, mut met: impl FnMut(&[ApiRequest]) -> bool) {
        self.shared.state.expect(what, |state| met(&state.requests)).await;
    }

    /// Makes pages carry these bytes instead of these texts, so that they hold bytes that JSON cannot hold.
    pub fn corrupt(&self, replacements: &[(&'static str, &'static [u8])]) {
        self.update(|state| state.corruptions = replacements.to_vec());
    }

    /// The next request for records that has no fault yet meets this one.
    pub fn script(&self, fault: Fault) {
        self.update(|state| state.record_faults.script(fault));
    }

    /// The next token request that has no fault yet meets this one.
    pub fn script_token(&self, fault: Fault) {
        self.update(|state| state.token_faults.script(fault));
    }

    /// Every request for records meets this fault, until `None` ends it.
    pub fn answer_always(&self, fault: Option<Fault>) {
        self.update(|state| state.record_faults.always(fault));
    }

    /// Every token request meets this fault, until `None` ends it.
    pub fn answer_tokens_always(&self, fault: Option<Fault>) {
        self.update(|state| state.token_faults.always(fault));
    }

    /// Requests for records meet one of these faults, with this probability (0 to 1).
    pub fn fail_randomly(&self, seed: u64, probability: f64, faults: Vec<Fault>) {
        self.update(|state| state.record_faults.randomly(seed, probability, faults));
    }

    /// Makes all access tokens issued so far older by this much.
    pub fn age_tokens(&self, by: Duration) {
        self.update(|state| state.access_tokens.values_mut().for_each(|expiry| *expiry -= by));
    }

    /// Revokes all access tokens issued so far.
    pub fn revoke_tokens(&self) {
        self.update(|state| state.access_tokens.clear());
    }

    /// Makes the token endpoint accept this secret only.
    pub fn set_client_secret(&self, secret: impl Into<String>) {
        self.update(|state| state.client_secret = secret.into());
    }

    /// Makes the server refuse the next `n` page tokens with 400, however often they are used.
    pub fn refuse_page_tokens(&self, n: usize) {
        self.update(|state| state.paging.refuse(n));
    }

    /// Makes the server refuse all page tokens issued so far.
    pub fn expire_page_tokens(&self) {
        self.update(|state| state.paging.expire());
    }

    /// While set, an answer to a page token returns that same token again: no progress.
    pub fn repeat_page_tokens(&self, repeat: bool) {
        self.update(|state| state.paging.repeat(repeat));
    }

    /// While set, every answer to a page token returns a new token that leads to the same page again.
    pub fn go_round_with_fresh_tokens(&self, going_round: bool) {
        self.update(|state| state.paging.go_round(going_round));
    }

    pub fn set_page_size(&self, page_size: usize) {
        self.update(|state| state.paging.set_page_size(page_size));
    }

    /// Sets the server's clock, as its `Date` header shows it, this many seconds ahead of the real time.
    pub fn set_date_offset(&self, seconds: i64) {
        self.update(|state| state.date_offset = Some(seconds));
    }

    /// The `Date` of the answers is no date any more.
    pub fn lose_clock(&self) {
        self.update(|state| state.date_offset = None);
    }

    /// Holds back the answers to all requests for records until `release`.
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

    fn update<R>(&self, change: impl FnOnce(&mut ScmState) -> R) -> R {
        self.shared.state.update(change)
    }
}

impl Shared {
    fn token_url(&self) -> String {
        format!("{}{TOKEN_PATH}", self.base_url)
    }
}
