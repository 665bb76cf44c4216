//! Handles one request: checks its sender, reads its entries, and stores them on disk. Paths and queries may hold keys,
//! so none is logged.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::{Request, StatusCode};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::answer::{Answer, Style, accepted, method, refused};
use super::body::{self, Memory, Unread, Whole};
use super::entries::{self, Defaults};
use super::keys::Keys;
use super::route::{Route, route};
use super::spool::{Batch, Refused, Shape, Spool};
use crate::clock::Clock;
use crate::failure::Chain;
use crate::telemetry::metrics::{Metrics, Received};

/// The time within which a client may repeat a request that it left before the answer.
const REPEATED_WITHIN: Duration = Duration::from_secs(600);

/// The most such requests that are remembered.
const MOST_REMEMBERED: usize = 10_000;

/// The shortest time between two log lines about wrong keys.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The parts that requests share.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) spool: Arc<Spool>,
    /// The keys; none if no sender needs one.
    pub(super) keys: Option<Keys>,
    /// Whether every client has presented a certificate.
    pub(super) has_certificates: bool,
    pub(super) memory: Memory,
    pub(super) unheard: Arc<Unheard>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) complaints: Mutex<Complaints>,
}

/// Stored requests whose clients left before the answer, by the digest of their content. The same content again is the
/// client's next try.
#[derive(Debug, Default)]
pub(super) struct Unheard(Mutex<HashMap<[u8; 32], Instant>>);

/// Requests without a valid key, counted for one log line a minute.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
    silent: u64,
}

impl Unheard {
    /// Remembers a request.
    pub(super) fn remember(&self, digest: [u8; 32]) {
        let mut known = self.0.lock();
        if known.len() >= MOST_REMEMBERED {
            known.retain(|_, at| at.elapsed() < REPEATED_WITHIN);
        }
        if known.len() < MOST_REMEMBERED {
            known.insert(digest, Instant::now());
        }
    }

    /// Whether the request is remembered. This forgets it, because a third one is new.
    fn is_repeat(&self, digest: &[u8; 32]) -> bool {
        self.0.lock().remove(digest).is_some_and(|at| at.elapsed() < REPEATED_WITHIN)
    }
}

impl Intake {
    /// Answers a request of the client at `peer`.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        match route(&parts.method, parts.uri.path()) {
            Route::Nothing => refused(Style::Plain, StatusCode::NOT_FOUND, "not found"),
            Route::Method(allowed) => method(allowed),
            Route::Look => self.tried(Style::Plain).await,
            Route::Validate => match self.key(&parts.headers, query, None) {
                Ok(_) => self.tried(Style::Validate).await,
                // Datadog's own API answers 403 in both cases.
                Err(status) => self.stranger(Style::Validate, status.max(StatusCode::FORBIDDEN), peer),
            },
            Route::Logs(version, in_path) => {
                let style = Style::Logs(version);
                match self.key(&parts.headers, query, in_path) {
                    Ok(key) => self.store(style, body, &parts.headers, query, Shape::Entry, &sender(key, peer)).await,
                    Err(status) => self.stranger(style, status, peer),
                }
            }
            Route::Tagged(tag) => {
                let bearer = bearer(&parts.headers).unwrap_or_default().to_owned();
                let key = if self.has_certificates {
                    Ok(Vec::new())
                } else if !bearer.is_empty() && self.keys.as_ref().is_none_or(|keys| keys.accept(&bearer)) {
                    Ok(bearer)
                } else {
                    self.key(&parts.headers, "", None)
                };
                match key {
                    Ok(key) => {
                        self.store(Style::Plain, body, &parts.headers, query, Shape::Tagged(tag), &sender(key, peer))
                            .await
                    }
                    Err(status) => self.stranger(Style::Plain, status, peer),
                }
            }
        }
    }

    /// The valid key of a request: from the header, the query or the path, in this order.
    fn key(&self, headers: &HeaderMap, query: &str, in_path: Option<&str>) -> Result<Vec<u8>, StatusCode> {
        let Some(keys) = &self.keys else {
            // Without keys, senders on loopback need none. A certificate does not replace a key.
            return if self.has_certificates { Err(StatusCode::FORBIDDEN) } else { Ok(Vec::new()) };
        };
        let in_header = headers.get("dd-api-key").map(|value| value.as_bytes().to_vec());
        let in_query = || {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            let found = pairs.find(|(name, _)| matches!(name.as_ref(), "dd-api-key" | "api_key"));
            found.map(|(_, value)| value.into_owned().into_bytes())
        };
        let key = in_header.or_else(in_query).or_else(|| in_path.map(|key| key.as_bytes().to_vec()));
        match key.filter(|key| !key.is_empty()) {
            None => Err(StatusCode::UNAUTHORIZED),
            Some(key) if keys.accept(&key) => Ok(key),
            Some(_) => Err(StatusCode::FORBIDDEN),
        }
    }

    fn stranger(&self, style: Style, status: StatusCode, peer: SocketAddr) -> Answer {
        self.metrics.received_request(Received::Stranger);
        let mut complaints = self.complaints.lock();
        if complaints.last.is_some_and(|at| at.elapsed() < COMPLAIN_EVERY) {
            complaints.silent += 1;
        } else {
            let since = std::mem::take(&mut complaints.silent);
            complaints.last = Some(Instant::now());
            tracing::warn!(
                client = %peer.ip(), status = status.as_u16(), unlogged = since,
                "a sender has no key or a wrong one; the receiver stored nothing; compare the sender's key with {}",
                super::variables::API_KEYS.spec.name
            );
        }
        refused(
            style,
            status,
            if status == StatusCode::UNAUTHORIZED { "the API key is missing" } else { "the API key is not valid" },
        )
    }

    /// Whether an entry could be stored now.
    async fn tried(&self, style: Style) -> Answer {
        self.stored(style, self.spool.append(Batch::test(self.clock.now())).await)
    }

    async fn store(
        &self,
        style: Style,
        body: Incoming,
        headers: &HeaderMap,
        query: &str,
        shape: Shape,
        sender: &[u8],
    ) -> Answer {
        let whole = match body::encoding(headers) {
            Ok(encoding) => body::read(body, encoding, &self.memory).await,
            Err(error) => Err(error),
        };
        let Whole { bytes, mut memory } = match whole {
            Ok(whole) => whole,
            Err(error) => return self.unread(style, &error),
        };
        let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let read = entries::content(named, &bytes).and_then(|content| match (&shape, content) {
            (Shape::Tagged(_), entries::Content::Json) => entries::records(&bytes),
            (Shape::Tagged(_), _) => Err(entries::Malformed::ContentType),
            (Shape::Entry, content) => entries::entries(&bytes, content, &Defaults::of(query)),
        });
        let records = match read {
            Ok(records) => records,
            Err(error) => {
                let status = match (&error, style) {
                    (entries::Malformed::TooMany, _) => StatusCode::PAYLOAD_TOO_LARGE,
                    (entries::Malformed::ContentType, Style::Logs(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    _ => StatusCode::BAD_REQUEST,
                };
                return self.refuse(style, status, &error);
            }
        };
        if records.is_empty() {
            return self.tried(style).await;
        }
        let digest = digest(&shape, query, sender, &bytes);
        if self.unheard.is_repeat(&digest) {
            tracing::debug!("a sender that did not wait for its answer sent the same again; it is stored already");
            self.metrics.received_again(records.len());
            self.metrics.received_request(Received::Accepted);
            return accepted(style);
        }
        let count = records.len();
        let arrived = self.clock.now().as_millisecond();
        let mut batch = Batch { shape: Arc::new(shape), arrived, records, digest, memory: None };
        let size = batch.bytes();
        if size > self.spool.largest_batch() {
            return self.stored(style, Err(Refused::TooLarge));
        }
        if let Err(error) = self.memory.grow(&mut memory, usize::try_from(size).unwrap_or(usize::MAX)).await {
            return self.unread(style, &error);
        }
        batch.memory = Some(memory);
        let stored = self.spool.append(batch).await;
        if stored.is_ok() {
            self.metrics.received(count);
        }
        self.stored(style, stored)
    }

    fn stored(&self, style: Style, stored: Result<(), Refused>) -> Answer {
        let Err(error) = stored else {
            self.metrics.received_request(Received::Accepted);
            return accepted(style);
        };
        let (status, received) = match &error {
            Refused::TooLarge => return self.refuse(style, StatusCode::PAYLOAD_TOO_LARGE, &error),
            Refused::Full => (StatusCode::TOO_MANY_REQUESTS, Received::Full),
            Refused::Unsafe(_) | Refused::Stopped => (StatusCode::SERVICE_UNAVAILABLE, Received::Unsafe),
        };
        self.metrics.received_request(received);
        refused(style, status, &error.to_string())
    }

    fn unread(&self, style: Style, error: &Unread) -> Answer {
        let status = match error {
            Unread::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Unread::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Unread::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Unread::BrokenOff | Unread::Corrupt(_) => StatusCode::BAD_REQUEST,
            Unread::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        self.refuse(style, status, error)
    }

    /// Refuses a request because of its content.
    fn refuse(&self, style: Style, status: StatusCode, error: &(dyn Error + 'static)) -> Answer {
        tracing::warn!(error = %Chain(error), status = status.as_u16(), "the receiver refused a request and stored nothing of it");
        self.metrics.received_request(Received::Refused);
        refused(style, status, &error.to_string())
    }
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The identity of a request's sender: its key, or its host if it has no key.
fn sender(key: Vec<u8>, peer: SocketAddr) -> Vec<u8> {
    if key.is_empty() { peer.ip().to_string().into_bytes() } else { key }
}

/// The digest that tells a request from others. It is the same for the same content from the same sender to the same
/// address.
fn digest(shape: &Shape, query: &str, sender: &[u8], body: &[u8]) -> [u8; 32] {
    let tag = if let Shape::Tagged(tag) = shape { tag.as_str() } else { "/" };
    let mut digest = Sha256::new();
    for part in [tag.as_bytes(), query.as_bytes(), sender, body] {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}
