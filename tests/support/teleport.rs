//! A Teleport Auth Service over real TLS and HTTP/2, a Proxy that leads to it, and an HTTP proxy with CONNECT.
//!
//! The search behaves like the strictest backends. A key from another window never finds an event, and the search
//! refuses a key of another server version. Pages are short or empty where that is allowed.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::Acceptor;

use super::fluentd::{Authority, Pair};
use super::watched::Watched;

mod events;
mod grpc;
mod messages;
mod proxies;
mod service;

pub use events::{AuditEvent, Recording};
pub use proxies::{ConnectProxy, FakeTeleportProxy};

/// The name of every server of a cluster.
const SERVER_NAME: &str = "teleport.cluster.local";

/// The settings of an Auth Service.
#[derive(Clone, Debug)]
pub struct TeleportOptions {
    pub cluster: String,
    pub version: String,
    /// The most events of a page, whatever the request names.
    pub page_size: usize,
    /// A page ends after this many bytes of stored JSON. It holds at least one event, whatever its size.
    pub page_bytes: usize,
    /// Whether the backend searches by whole seconds, as `DynamoDB` does.
    pub whole_seconds: bool,
    /// Whether it returns all types, whatever the request names.
    pub ignores_types: bool,
    /// The status and the message with which it refuses a key.
    pub key_refusal: (i32, &'static str),
    pub keys: PageKeys,
    /// Whether answers carry `Date`.
    pub dated: bool,
    /// The protocols that it selects from.
    pub protocols: Vec<&'static str>,
    pub latency: Duration,
}

impl Default for TeleportOptions {
    fn default() -> Self {
        Self {
            cluster: "example.com".to_owned(),
            version: "18.5.0".to_owned(),
            page_size: 100,
            page_bytes: 1024 * 1024,
            whole_seconds: false,
            ignores_types: false,
            key_refusal: (3, "unsupported start key"),
            keys: PageKeys::OfItsVersion,
            dated: false,
            protocols: vec!["h2"],
            latency: Duration::ZERO,
        }
    }
}

/// The keys of pages that it accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PageKeys {
    OfItsVersion,
    /// It accepts no key, not even one that it has just given out.
    None,
}

/// A fault of a request for a page.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// This status, by its number, with a text.
    Status(i32, &'static str),
    /// The same, with a wait in milliseconds.
    StatusAndPushback(i32, u64),
    /// A page without events that leads on.
    EmptyPage,
    /// The connection breaks.
    Cut,
    /// The answer ends in the middle of a message.
    BrokenOff,
    /// No answer.
    Hang,
    /// An answer that is no message.
    Garbage,
    /// A page that leads to itself, however often it is requested.
    Circle,
}

/// A request for a page, as the fake understood it.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchRequest {
    pub from: Timestamp,
    pub until: Timestamp,
    pub types: Vec<String>,
    pub limit: i32,
    pub key: String,
    /// The status of its answer; none while it waits.
    pub status: Option<i32>,
    /// The number of events in its answer.
    pub events: usize,
    /// The number of its connection.
    pub connection: usize,
    /// The certificate of the client.
    pub client: Vec<u8>,
}

/// A running fake. Ends when it is dropped.
pub struct FakeAuth {
    address: SocketAddr,
    authority: Authority,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    options: TeleportOptions,
    tls: parking_lot::RwLock<Arc<ServerConfig>>,
    route: Vec<u8>,
    cut: watch::Sender<()>,
    state: Watched<State>,
}

#[derive(Default)]
struct State {
    /// Changes with each upgrade of the server, which then refuses earlier keys.
    generation: u32,
    log: Vec<Logged>,
    recordings: BTreeMap<String, Recording>,
    troubles: VecDeque<Trouble>,
    always: Option<Trouble>,
    denies: Denies,
    connections: usize,
    searches: Vec<SearchRequest>,
    /// The requests for sessions: the session, and the first index.
    streams: Vec<(String, i32)>,
    pings: usize,
    violations: Vec<String>,
}

/// An event in the log, with the facts that a page needs.
struct Logged {
    event: AuditEvent,
    encoded: bytes::Bytes,
    stored_size: usize,
}

impl Logged {
    fn of(event: AuditEvent) -> Self {
        Self { encoded: event.encoded().into(), stored_size: event.stored_size(), event }
    }
}

#[derive(Default, Clone, Copy)]
struct Denies {
    search: bool,
    sessions: bool,
}

impl FakeAuth {
    pub async fn start(options: TeleportOptions) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a local port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let authority = Authority::of_cluster(&options.cluster);
        let tls = server_config(&authority, &options);
        let hex: Vec<_> = options.cluster.bytes().map(|byte| format!("{byte:02x}")).collect();
        let hex = hex.concat();
        let route = format!("teleport-auth@{hex}.{SERVER_NAME}").into_bytes();
        let (cut, state) = (watch::Sender::new(()), Watched::new(State::default()));
        let shared = Arc::new(Shared { options, tls: parking_lot::RwLock::new(tls), route, cut, state });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, authority, shared, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first ALPN entry by which a Proxy knows it.
    pub fn route(&self) -> Vec<u8> {
        self.shared.route.clone()
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// An identity file of a user that is valid for this long.
    pub fn identity(&self, user: &str, valid: Duration) -> String {
        self.identity_of(&self.authority.client_for(user, valid))
    }

    /// An identity file with this pair, in the order in which `tctl auth sign` writes it.
    pub fn identity_of(&self, pair: &Pair) -> String {
        let (key, certificate, ca) = (&pair.key, &pair.certificate, self.authority.pem());
        format!(
            "{key}ecdsa-sha2-nistp256-cert-v01@openssh.com AAAAKGVjZHNh\n{certificate}@cert-authority *.example.com ssh-rsa AAAAB3\n{ca}"
        )
    }

    /// Writes an identity file of a user that is valid for this long.
    pub fn write_identity(&self, path: &Path, user: &str, valid: Duration) {
        self.write_identity_of(path, &self.authority.client_for(user, valid));
    }

    /// Writes an identity file with this pair. A reader finds the whole old file or the whole new one.
    pub fn write_identity_of(&self, path: &Path, pair: &Pair) {
        let staging = path.with_extension("new");
        std::fs::write(&staging, self.identity_of(pair)).expect("a writable folder");
        std::fs::rename(&staging, path).expect("a writable folder");
    }

    /// Puts events into the audit log. They are visible at once.
    pub fn push(&self, events: impl IntoIterator<Item = AuditEvent>) {
        let logged: Vec<_> = events.into_iter().map(Logged::of).collect();
        self.shared.state.update(|state| state.log.extend(logged));
    }

    /// All events of the audit log, as JSON.
    pub fn log(&self) -> Vec<serde_json::Value> {
        self.shared.state.read().log.iter().map(|logged| logged.event.json.clone()).collect()
    }

    pub fn set_recording(&self, session: &str, recording: Recording) {
        self.shared.state.update(|state| state.recordings.insert(session.to_owned(), recording));
    }

    /// The next requests for pages meet these faults, one each.
    pub fn meet(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.shared.state.update(|state| state.troubles.extend(troubles));
    }

    /// Every request for a page meets this fault, until `None` ends it.
    pub fn meet_always(&self, trouble: Option<Trouble>) {
        self.shared.state.update(|state| state.always = trouble);
    }

    pub fn deny_search(&self, denies: bool) {
        self.shared.state.update(|state| state.denies.search = denies);
    }

    pub fn deny_sessions(&self, denies: bool) {
        self.shared.state.update(|state| state.denies.sessions = denies);
    }

    /// Replaces its certificate and its authorities: it refuses earlier identities. Ends all connections.
    pub fn replace_certificates(&self, pair: &Pair, authorities: &[String]) {
        *self.shared.tls.write() = pair.server_config_for(authorities, &self.shared.options.protocols);
        self.cut();
    }

    /// Upgrades the server, which then refuses earlier keys.
    pub fn upgrade(&self) {
        self.shared.state.update(|state| state.generation += 1);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.shared.cut.send_replace(());
    }

    pub fn searches(&self) -> Vec<SearchRequest> {
        self.shared.state.read().searches.clone()
    }

    pub fn streams(&self) -> Vec<(String, i32)> {
        self.shared.state.read().streams.clone()
    }

    pub fn connections(&self) -> usize {
        self.shared.state.read().connections
    }

    pub fn violations(&self) -> Vec<String> {
        self.shared.state.read().violations.clone()
    }

    pub async fn wait_for_searches(&self, n: usize) {
        self.shared.state.expect_count(n, "requests for pages", |state| state.searches.len()).await;
    }

    pub async fn wait_for_streams(&self, n: usize) {
        self.shared.state.expect_count(n, "requests for sessions", |state| state.streams.len()).await;
    }

    /// Waits until the searches meet the condition `met`.
    pub async fn wait_until(&self, what: &str, met: impl Fn(&[SearchRequest]) -> bool) {
        self.shared.state.expect(what, |state| met(&state.searches)).await;
    }
}

fn server_config(authority: &Authority, options: &TeleportOptions) -> Arc<ServerConfig> {
    let name = format!("{}.{SERVER_NAME}", "6175746831");
    let pair = authority.server(&[SERVER_NAME, &name]);
    pair.server_config_for(&[authority.pem()], &options.protocols)
}

impl Drop for FakeAuth {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.cut.send_replace(());
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            let serving = async {
                let Ok(start) = LazyConfigAcceptor::new(Acceptor::default(), stream).await else { return };
                shared.inspect(&start.client_hello());
                let tls = shared.tls.read().clone();
                // A handshake that fails sends its alert and closes.
                let Ok(stream) = start.into_stream(tls).await else { return };
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let client = certificates.first().map(|der| der.to_vec()).unwrap_or_default();
                let number = shared.state.update(|state| {
                    state.connections += 1;
                    state.connections
                });
                let service = service_fn(|request: Request<Incoming>| {
                    let (shared, client) = (Arc::clone(&shared), client.clone());
                    async move { Ok::<Response<_>, Infallible>(service::answer(request, &shared, number, client).await) }
                });
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // Otherwise hyper adds a `Date` to an answer without one.
                builder.auto_date_header(false);
                // The way in which a connection ends does not matter.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            };
            tokio::select! {
                () = serving => {}
                _ = cut.changed() => {}
            }
        });
    }
}

impl Shared {
    fn violate(&self, what: impl Into<String>) {
        self.state.update(|state| state.violations.push(what.into()));
    }

    fn inspect(&self, hello: &tokio_rustls::rustls::server::ClientHello<'_>) {
        if hello.server_name() != Some(SERVER_NAME) {
            self.violate(format!("a handshake names {:?}", hello.server_name()));
        }
        let entries: Vec<_> = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        if entries != [self.route.clone(), b"h2".to_vec()] {
            self.violate(format!("a handshake offers {entries:?}"));
        }
    }
}
