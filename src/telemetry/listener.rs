//! The health endpoints and the metrics over HTTP/1.1, for probes and Prometheus: `/healthz`, `/readyz`, `/metrics`.
//!
//! It only tells. Whatever a client does costs a bounded amount of memory for a bounded time, and one of few places.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::metrics;
use super::metrics::exporter::Scrape;
use super::pulse::Pulse;

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 32;

/// The longest life of a connection: one request and its answer.
const LONGEST_LIFE: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes; the least that hyper takes.
const LARGEST_HEAD: usize = 8192;

/// What was measured is put into its buckets this often, so that it takes no memory while nobody scrapes.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// After a connection could not be accepted, as when the process has too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// A bound port.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Takes the port. From now on clients connect, though nobody answers before [`Self::serve`].
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Answers until the runtime ends.
    pub fn serve(self, pulse: Pulse, scrape: Scrape) {
        let told = Arc::new(Told { pulse, scrape });
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        tokio::spawn(async move {
            let mut tidy = interval(TIDY_EVERY);
            tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = tidy.tick() => told.scrape.tidy(),
                    (stream, place) = self.next(&places) => {
                        tokio::spawn(answer(stream, place, Arc::clone(&told)));
                    }
                }
            }
        });
    }

    /// The next connection, once there is a place for it.
    async fn next(&self, places: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
        // It is never closed, so there always comes a place.
        let place = Arc::clone(places).acquire_owned().await.ok();
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => return (stream, place),
                Err(error) => {
                    tracing::debug!(%error, "a connection to the health endpoints could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Answers the one request of a connection.
async fn answer(stream: TcpStream, place: Option<OwnedSemaphorePermit>, told: Arc<Told>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = told.respond(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST_LIFE)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that is slow, gone or talks something else is nothing to tell anybody.
    let _ = timeout(LONGEST_LIFE, connection).await;
    drop(place);
}

/// What is told.
struct Told {
    pulse: Pulse,
    scrape: Scrape,
}

impl Told {
    fn respond(&self, method: &Method, path: &str) -> Response<String> {
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
            return text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned());
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/healthz" => {
                let health = self.pulse.health();
                json(health.is_good, &health)
            }
            "/readyz" => {
                let readiness = self.pulse.readiness();
                json(readiness.is_good, &readiness)
            }
            _ => {
                metrics::ready(self.pulse.readiness().is_good);
                response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.scrape.text())
            }
        }
    }
}

fn json(is_good: bool, body: &impl serde::Serialize) -> Response<String> {
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Text, times and nothing else: it always has a JSON form.
    response(status, "application/json", serde_json::to_string(body).unwrap_or_default() + "\n")
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
