//! A fake Google Cloud Storage: one bucket with the JSON API (objects can be read and inserted), and a token endpoint
//! for its credentials.
//!
//! Generations, conditions, checksums, permissions and error texts follow the documentation or observed answers of
//! Google. The order in which Google judges an insert (may create, condition, may delete) is not documented.

mod multipart;
mod objects;
mod token_endpoint;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::Response;
use axum::routing::any;

use super::fault::{Fault, FaultPlan};
use super::reply::{Answer, Reply};
use super::server::Server;
use super::watched::Watched;
use token_endpoint::TOKEN_PATH;

/// The behaviour of the fake; the default is Google's.
#[derive(Clone, Debug)]
pub struct GcsOptions {
    /// The name of the bucket.
    pub bucket: String,
    /// The permissions of the caller.
    pub permissions: Permissions,
    /// Write whatever the condition says, like an emulator that does not know conditions.
    pub ignore_conditions: bool,
    /// Leave the generation out of the answers to reads.
    pub omit_generation_read: bool,
    /// Leave the generation out of the answers to writes.
    pub omit_generation_written: bool,
    /// The least time between two writes to one object. The fake answers an earlier one with 429.
    pub write_interval: Option<Duration>,
    /// Accept no request without an access token of the token endpoint, which returns one for this refresh token.
    pub refresh_token: Option<String>,
}

impl Default for GcsOptions {
    fn default() -> Self {
        Self {
            bucket: "audit-bucket".to_owned(),
            permissions: Permissions::ALL,
            ignore_conditions: false,
            omit_generation_read: false,
            omit_generation_written: false,
            write_interval: None,
            refresh_token: None,
        }
    }
}

/// The permissions `storage.objects.*` of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent of each other, as with Google")]
pub struct Permissions {
    pub get: bool,
    pub list: bool,
    pub create: bool,
    pub delete: bool,
}

impl Permissions {
    pub const ALL: Self = Self { get: true, list: true, create: true, delete: true };
}

/// A running fake of the store. Ends when it is dropped.
pub struct FakeGcs {
    server: Server,
    shared: Arc<Shared>,
}

struct Shared {
    options: GcsOptions,
    state: Watched<GcsState>,
}

struct GcsState {
    permissions: Permissions,
    objects: HashMap<String, Object>,
    /// The last generation. Google's count microseconds.
    generation: i64,
    refresh_token: Option<String>,
    access_tokens: HashSet<String>,
    object_faults: FaultPlan,
    token_faults: FaultPlan,
    object_requests: usize,
    token_requests: usize,
    violations: Vec<String>,
}

struct Object {
    bytes: Vec<u8>,
    generation: i64,
    content_type: String,
    cache_control: String,
    written: Instant,
}

impl FakeGcs {
    pub async fn start(options: GcsOptions) -> Self {
        let state = GcsState {
            permissions: options.permissions,
            objects: HashMap::new(),
            generation: 1_700_000_000_000_000,
            refresh_token: options.refresh_token.clone(),
            access_tokens: HashSet::new(),
            object_faults: FaultPlan::default(),
            token_faults: FaultPlan::default(),
            object_requests: 0,
            token_requests: 0,
            violations: Vec::new(),
        };
        let shared = Arc::new(Shared { options, state: Watched::new(state) });
        let server = Server::start(false, |_| routes(&shared)).await;
        Self { server, shared }
    }

    /// The base URL, as `STORAGE_EMULATOR_HOST` names it.
    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn token_url(&self) -> String {
        format!("{}{TOKEN_PATH}", self.server.url())
    }

    pub fn bucket(&self) -> &str {
        &self.shared.options.bucket
    }

    /// The object's bytes and generation, if it exists.
    pub fn object(&self, name: &str) -> Option<(Vec<u8>, i64)> {
        let state = self.shared.state.read();
        state.objects.get(name).map(|object| (object.bytes.clone(), object.generation))
    }

    /// The object's `Content-Type` and `Cache-Control`.
    pub fn metadata(&self, name: &str) -> Option<(String, String)> {
        let state = self.shared.state.read();
        state.objects.get(name).map(|object| (object.content_type.clone(), object.cache_control.clone()))
    }

    /// Writes an object without the API.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.update(|state| state.store(name, bytes.to_vec(), "application/json", ""));
    }

    pub fn permit(&self, permissions: Permissions) {
        self.update(|state| state.permissions = permissions);
    }

    /// Makes the token endpoint accept this refresh token only. Access tokens that it has issued stay valid.
    pub fn set_refresh_token(&self, token: impl Into<String>) {
        self.update(|state| state.refresh_token = Some(token.into()));
    }

    /// Revokes all access tokens issued so far.
    pub fn revoke_access_tokens(&self) {
        self.update(|state| state.access_tokens.clear());
    }

    /// The next request for an object that has no fault yet meets this one.
    pub fn script(&self, fault: Fault) {
        self.update(|state| state.object_faults.script(fault));
    }

    /// Every request for an object meets this fault, until `None` ends it.
    pub fn answer_always(&self, fault: Option<Fault>) {
        self.update(|state| state.object_faults.always(fault));
    }

    /// Every token request meets this fault, until `None` ends it.
    pub fn answer_tokens_always(&self, fault: Option<Fault>) {
        self.update(|state| state.token_faults.always(fault));
    }

    /// The number of requests to read or write an object, answered or not.
    pub fn requests(&self) -> usize {
        self.shared.state.read().object_requests
    }

    /// Waits until this many requests for objects have arrived since the start, answered or not.
    pub async fn wait_for_requests(&self, n: usize) {
        self.shared.state.expect_count(n, "requests for objects", |state| state.object_requests).await;
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

    /// Cuts off open requests and refuses connections until `come_back`.
    pub async fn go_down(&self) {
        self.server.go_down().await;
    }

    /// Serves again at the same address, with the same state.
    pub async fn come_back(&self) {
        self.server.come_back().await;
    }

    fn update<R>(&self, change: impl FnOnce(&mut GcsState) -> R) -> R {
        self.shared.state.update(change)
    }
}

impl GcsState {
    fn store(&mut self, name: &str, bytes: Vec<u8>, content_type: &str, cache_control: &str) {
        self.generation += 1;
        let object = Object {
            bytes,
            generation: self.generation,
            content_type: content_type.to_owned(),
            cache_control: cache_control.to_owned(),
            written: Instant::now(),
        };
        self.objects.insert(name.to_owned(), object);
    }
}

fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/storage/v1/b/{bucket}/o/{object}", any(objects::read))
        .route("/upload/storage/v1/b/{bucket}/o", any(objects::insert))
        .route(TOKEN_PATH, any(token_endpoint::token))
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(64 * 1024 * 1024))
        .with_state(Arc::clone(shared))
}

async fn unknown_path(State(gcs): State<Arc<Shared>>, request: Request) -> Response {
    let text = format!("{} {} does not exist", request.method(), request.uri());
    let reply = Reply::error(404, &text);
    gcs.state.update(|state| state.violations.push(text));
    Answer::Whole(reply).into_response()
}
