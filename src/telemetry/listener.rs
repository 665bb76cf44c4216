//! Serves health and metrics over HTTP/1.1 to probes and Prometheus: `/healthz`, `/readyz`, `/metrics`.
//!
//! The endpoints change nothing. No client can take more than one of few connections, and a bounded amount of memory for a bounded time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::liveness::Liveness;
use super::metrics::Metrics;
use super::metrics::exporter::Scrape;
use crate::pipeline_name::PipelineName;

/// The most connections at a time. A further one replaces the oldest that has not sent its request.
const CONNECTIONS: usize = 128;

/// The longest time for the head of a request, from the start of its connection.
const LONGEST_HEAD: Duration = Duration::from_secs(2);

/// The longest life of a connection: one request and its answer.
const LONGEST_LIFE: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes. hyper allows no smaller limit.
const LARGEST_HEAD: usize = 8192;

/// How often observations are put into their buckets, so that they do not pile up while nobody scrapes.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// The pause after a connection could not be accepted, for example because the process has too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// A bound port.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Binds the port. Clients can connect from now on, but get no answer before [`Self::serve`].
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Answers until the runtime ends.
    pub fn serve(self, pipelines: Vec<Observed>, scrape: Scrape) {
        let answers = Arc::new(Answers { pipelines, scrape });
        tokio::spawn(async move {
            let mut connections = Connections::new();
            let mut tidy = interval(TIDY_EVERY);
            tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = tidy.tick() => answers.scrape.tidy(),
                    stream = self.next() => {
                        connections.add(stream, &answers).await;
                        // Let connections note their requests before the next connection can replace one of them.
                        yield_now().await;
                    }
                }
            }
        });
    }

    /// Accepts the next connection.
    async fn next(&self) -> TcpStream {
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::debug!(%error, "a connection to the health endpoints could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// The open connections.
struct Connections {
    free: Arc<Semaphore>,
    /// Connections that may not have sent their request, the oldest first.
    silent: VecDeque<Silent>,
}

/// A connection that had not sent its request at the last check.
struct Silent {
    is_heard: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Connections {
    fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(CONNECTIONS)), silent: VecDeque::new() }
    }

    /// Answers a connection. At the limit, it first closes the oldest connection without a request.
    async fn add(&mut self, stream: TcpStream, answers: &Arc<Answers>) {
        self.silent.retain(|silent| !silent.task.is_finished() && !silent.is_heard.load(Ordering::Relaxed));
        if self.free.available_permits() == 0
            && let Some(oldest) = self.silent.pop_front()
        {
            oldest.task.abort();
        }
        // The semaphore is never closed, and every connection ends, so this wait ends.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        let is_heard = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(answer(stream, permit, Arc::clone(answers), Arc::clone(&is_heard))).abort_handle();
        self.silent.push_back(Silent { is_heard, task });
    }
}

/// Answers the one request of a connection, and notes when the request has arrived.
async fn answer(
    stream: TcpStream,
    permit: Option<OwnedSemaphorePermit>,
    answers: Arc<Answers>,
    is_heard: Arc<AtomicBool>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        is_heard.store(true, Ordering::Relaxed);
        let response = answers.respond(request.method(), request.uri());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST_HEAD)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that is slow, has gone or uses another protocol is not worth a line in the log.
    let _ = timeout(LONGEST_LIFE, connection).await;
    drop(permit);
}

/// A pipeline that the endpoints show.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Its name.
    pub name: PipelineName,
    /// The liveness of its engine.
    pub liveness: Liveness,
    /// Its metrics.
    pub metrics: Metrics,
    /// Whether it is the only one of the process.
    pub is_alone: bool,
}

/// The health or readiness of the process, and of each pipeline.
#[derive(Debug, Serialize)]
struct Known<T> {
    #[serde(flatten)]
    all: T,
    pipelines: Vec<Of<T>>,
}

/// The health or readiness of one pipeline.
#[derive(Debug, Serialize)]
struct Of<T> {
    pipeline: PipelineName,
    #[serde(flatten)]
    known: T,
}

/// The content of the answers.
struct Answers {
    pipelines: Vec<Observed>,
    scrape: Scrape,
}

impl Answers {
    fn respond(&self, method: &Method, uri: &Uri) -> Response<String> {
        let path = uri.path();
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
            return text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned());
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        if path == "/metrics" {
            for Observed { liveness, metrics, .. } in &self.pipelines {
                metrics.is_ready(liveness.readiness().is_good);
            }
            return response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.scrape.text());
        }
        let only = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
            .find_map(|(name, value)| (name == "pipeline").then_some(value));
        let meant = |observed: &&Observed| only.as_deref().is_none_or(|only| observed.name.as_str() == only);
        let pipelines: Vec<_> = self.pipelines.iter().filter(meant).collect();
        if pipelines.is_empty() {
            return text(StatusCode::NOT_FOUND, "this process has no such pipeline\n".to_owned());
        }
        if path == "/healthz" {
            known(&pipelines, Liveness::health, |health| health.is_good)
        } else {
            known(&pipelines, Liveness::readiness, |readiness| readiness.is_good)
        }
    }
}

/// Answers with what `know` tells of each of the pipelines, of which there is at least one. The first that is not good counts for all.
fn known<T: Clone + Serialize>(
    pipelines: &[&Observed],
    know: impl Fn(&Liveness) -> T,
    is_good: impl Fn(&T) -> bool,
) -> Response<String> {
    let of = |observed: &&Observed| Of { pipeline: observed.name.clone(), known: know(&observed.liveness) };
    let pipelines: Vec<_> = pipelines.iter().map(of).collect();
    let all = pipelines.iter().find(|of| !is_good(&of.known)).unwrap_or(&pipelines[0]).known.clone();
    let status = if is_good(&all) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // A body has only text, numbers and times, so it always has a JSON form.
    let body = serde_json::to_string(&Known { all, pipelines }).unwrap_or_default();
    response(status, "application/json", body + "\n")
}

fn text(status: StatusCode, body: String) -> Response<String> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
