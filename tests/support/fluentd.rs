//! Fakes of the HTTP inputs of Fluentd and Fluent Bit, over real TLS if they have a certificate.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::Fault;
use super::fault::{self, FaultPlan, Requested};
use super::intake::Predicate;
use super::reply::{Answer, Reply};
use super::watched::Watched;
use inspect::{Inspection, inspect};

mod certificates;
mod inspect;

pub use certificates::{Authority, Pair};

/// Fluentd closes a connection that is unused for this long.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A client must not use a connection after a longer pause than this: the server could be about to close it.
const USED_IN_TIME: Duration = Duration::from_millis(8500);

/// The program that the fake imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fluentd,
    FluentBit,
}

/// The settings of a receiver.
#[derive(Clone, Debug)]
pub struct FluentdOptions {
    pub kind: Kind,
    /// Its certificate and key; none for plain HTTP.
    pub tls: Option<Pair>,
    /// The authorities of its clients, in PEM; none: no client certificate is required.
    pub client_authorities: Vec<String>,
    /// The server answers 413 to bodies of more bytes than this, as sent.
    pub max_body_bytes: usize,
    /// The server closes the connection instead of answering 413.
    pub closes_when_too_large: bool,
    /// The status of a success; none for the receiver's own.
    pub success: Option<u16>,
    /// Whether there is no `<parse>` section: the receiver then refuses a text under `time`.
    pub has_default_parser: bool,
    /// The `time_key` of a `<parse>` section with `time_type string` and `time_format %iso8601`.
    pub time_key: Option<&'static str>,
    /// The receiver refuses a request with such a record whole, with 400.
    pub refuses: Option<Predicate>,
    /// Fluent Bit reads gzip from 2.2.1 on.
    pub reads_gzip: bool,
    pub latency: Duration,
}

impl Default for FluentdOptions {
    fn default() -> Self {
        Self {
            kind: Kind::Fluentd,
            tls: None,
            client_authorities: Vec::new(),
            max_body_bytes: 32 * 1024 * 1024,
            closes_when_too_large: false,
            success: None,
            has_default_parser: true,
            time_key: None,
            refuses: None,
            reads_gzip: true,
            latency: Duration::ZERO,
        }
    }
}

/// A request, as the fake understood it.
#[derive(Clone, Debug)]
pub struct FluentdRequest {
    pub tag: String,
    /// The number of its records, accepted or not.
    pub records: usize,
    /// Whether its body was a bare object.
    pub is_bare: bool,
    /// The size of its body, uncompressed.
    pub bytes: usize,
    /// Its `Content-Encoding`, empty if it had none.
    pub encoding: String,
    pub status: Option<u16>,
    /// The number of its connection.
    pub connection: usize,
    /// The certificate of the client, if it had one.
    pub client: Option<Vec<u8>>,
}

/// A running fake. Ends when it is dropped.
pub struct FakeFluentd {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    options: FluentdOptions,
    tls: parking_lot::RwLock<Option<Arc<ServerConfig>>>,
    cut: watch::Sender<()>,
    state: Watched<State>,
}

#[derive(Default)]
struct State {
    faults: FaultPlan,
    connections: usize,
    requests: Vec<FluentdRequest>,
    /// The number of requests under way, by tag.
    under_way: HashMap<String, usize>,
    events: Vec<(String, Value)>,
    /// The sender's own events: test events and stand-ins.
    notices: Vec<Value>,
    violations: Vec<String>,
}

impl FakeFluentd {
    pub async fn start(options: FluentdOptions) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a local port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let tls = options.tls.as_ref().map(|pair| pair.server_config(&options.client_authorities));
        let (cut, state) = (watch::Sender::new(()), Watched::new(State::default()));
        let shared = Arc::new(Shared { options, tls: parking_lot::RwLock::new(tls), cut, state });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// The URL of this path.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.shared.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/{path}", self.address)
    }

    /// Switches to this pair and requires client certificates of these authorities. Closes all connections.
    pub fn set_tls(&self, pair: &Pair, authorities: &[String]) {
        *self.shared.tls.write() = Some(pair.server_config(authorities));
        self.shared.cut.send_replace(());
    }

    pub fn requests(&self) -> Vec<FluentdRequest> {
        self.shared.state.read().requests.clone()
    }

    /// All events accepted so far, each with its tag, in order.
    pub fn events(&self) -> Vec<(String, Value)> {
        self.shared.state.read().events.clone()
    }

    /// The accepted events of the sender's own.
    pub fn notices(&self) -> Vec<Value> {
        self.shared.state.read().notices.clone()
    }

    /// The ids of the accepted events, in order.
    pub fn ids(&self) -> Vec<String> {
        let id = |(_, event): &(String, Value)| event["id"].as_str().unwrap_or_default().to_owned();
        self.shared.state.read().events.iter().map(id).collect()
    }

    pub fn connections(&self) -> usize {
        self.shared.state.read().connections
    }

    pub fn violations(&self) -> Vec<String> {
        self.shared.state.read().violations.clone()
    }

    /// Waits until the fake has accepted this many events, repeats included.
    pub async fn wait_for_events(&self, n: usize) {
        self.shared.state.expect_count(n, "events", |state| state.events.len()).await;
    }

    /// The next request that has no fault yet meets this one.
    pub fn script(&self, fault: Fault) {
        self.shared.state.update(|state| state.faults.script(fault));
    }

    /// Every request meets this fault, until `None` ends it.
    pub fn answer_always(&self, fault: Option<Fault>) {
        self.shared.state.update(|state| state.faults.always(fault));
    }
}

impl Drop for FakeFluentd {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.cut.send_replace(());
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let number = shared.state.update(|state| {
            state.connections += 1;
            state.connections
        });
        let (tls, shared) = (shared.tls.read().clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            let serving = async {
                let Some(tls) = tls else { return serve(stream, number, None, &shared).await };
                // A handshake that fails sends its alert and closes.
                let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
                let certificates = stream.get_ref().1.peer_certificates();
                let client = certificates.and_then(<[_]>::first).map(|der| der.to_vec());
                serve(stream, number, client, &shared).await;
            };
            tokio::select! {
                () = serving => {}
                _ = cut.changed() => {}
            }
        });
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    number: usize,
    client: Option<Vec<u8>>,
    shared: &Arc<Shared>,
) {
    let last = parking_lot::Mutex::new(None::<Instant>);
    let service = service_fn(|request: Request<Incoming>| {
        let unused = last.lock().take().map_or(Duration::ZERO, |last| last.elapsed());
        if unused > USED_IN_TIME {
            shared.state.update(|state| state.violations.push(format!("a connection was used after {unused:?}")));
        }
        let (client, last) = (client.clone(), &last);
        async move {
            let answer = answer(request, number, client, shared).await;
            *last.lock() = Some(Instant::now());
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(KEEPALIVE);
    // The way in which a connection ends does not matter.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    client: Option<Vec<u8>>,
    shared: &Arc<Shared>,
) -> Response {
    let (head, body) = request.into_parts();
    if head.method == Method::GET {
        // Fluentd answers every GET with this, and makes no event of it.
        return Answer::Whole(Reply::of(200, Some("text/plain"), "")).into_response();
    }
    let Ok(body) = to_bytes(Body::new(body), usize::MAX).await else { return super::reply::hang_up() };
    let inspection = inspect(&shared.options, (&head.method, &head.uri, &head.headers), &body);
    let tag = inspection.tag.clone();
    let (number, fault) = shared.state.update(|state| {
        state.violations.extend(inspection.violations.iter().cloned());
        let under_way = state.under_way.entry(tag.clone()).or_default();
        *under_way += 1;
        if *under_way > 1 {
            state.violations.push(format!("two requests at a time for {tag}"));
        }
        state.requests.push(FluentdRequest {
            tag: tag.clone(),
            records: inspection.records.len(),
            is_bare: inspection.is_bare,
            bytes: inspection.bytes,
            encoding: inspection.encoding.clone(),
            status: None,
            connection,
            client,
        });
        let closes = shared.options.closes_when_too_large && body.len() > shared.options.max_body_bytes;
        (state.requests.len() - 1, if closes { Some(Fault::Reset) } else { state.faults.next() })
    });
    let _under_way = UnderWay { shared, tag };
    fault::pause_for(shared.options.latency).await;
    let requested = Requested { accepts_gzip: false, secrets: Vec::new() };
    let answer = fault::answer(fault, requested, || take(shared, inspection)).await;
    shared.state.update(|state| state.requests[number].status = answer.status());
    answer.into_response()
}

/// A request under way; dropped with its answer, or when the connection is gone.
struct UnderWay<'a> {
    shared: &'a Shared,
    tag: String,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.shared.state.update(|state| {
            if let Some(count) = state.under_way.get_mut(&self.tag) {
                *count -= 1;
            }
        });
    }
}

fn take(shared: &Shared, inspection: Inspection) -> Reply {
    if let Some((status, text)) = inspection.refusal {
        return Reply::of(status, Some("text/plain"), text);
    }
    shared.state.update(|state| {
        for record in inspection.records {
            if record.get("auditsync").is_some() {
                state.notices.push(record);
            } else {
                state.events.push((inspection.tag.clone(), record));
            }
        }
    });
    let own = if shared.options.kind == Kind::Fluentd { 200 } else { 201 };
    match shared.options.success.unwrap_or(own) {
        204 => Reply::of(204, None, ""),
        // The body of `respond_with_empty_img`, so that a fault can truncate it.
        status => Reply::of(status, Some("image/gif"), vec![0; 42]),
    }
}
