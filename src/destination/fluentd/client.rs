//! Calls to the receiver: one request, and what its answer means.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use url::Url;

use super::batch::{self, Limits};
use super::error::Error;
use super::evidence::ByAddress;
use super::{Compression, Settings};
use crate::component::{Component, Context};
use crate::dead_letter::DeadLetters;
use crate::http::{self, Address, Connections, Excerpt, Method, Redaction, Reply, TlsFault};
use crate::telemetry::metrics::Metrics;
use crate::variable_name::VariableName;

/// The most bytes of an answer that are read.
const ENOUGH_OF_AN_ANSWER: usize = 64 * 1024;

/// The time after which the client gives up an unused connection. Fluentd closes one after 10 s, and would reset a
/// request that arrives at that moment.
const IDLE: Duration = Duration::from_secs(8);

/// The size from which a body may be too large, in bytes as sent. Fluent Bit up to some version closes the connection
/// on a body over its `buffer_max_size` (4M by default) instead of answering 413.
pub(super) const PERHAPS_TOO_LARGE: usize = 3_000_000;

/// The size of the largest body with one usual record, in bytes before compression. A receiver that refuses smaller ones
/// for their size has a wrong limit.
pub(super) const LARGEST_USUAL: usize = 64 * 1024;

/// The receiver, as one pipeline calls it.
#[derive(Debug)]
pub(super) struct Client {
    http: http::Client,
    pub(super) settings: Settings,
    pub(super) dead_letters: DeadLetters,
    pub(super) metrics: Metrics,
    /// The largest body of several events before compression, in bytes: less than the settings allow once the receiver
    /// refused one.
    largest: AtomicUsize,
    /// For each address, whether a stand-in alone has convicted a record of usual size since the address last accepted a
    /// record.
    pub(super) has_convicted_alone: ByAddress<AtomicBool>,
}

/// Why a body was not accepted.
#[derive(Debug)]
pub(super) enum Setback {
    /// The receiver refused the body: a record in it, or its size.
    Refused {
        /// The answer's status and the beginning of its body.
        reason: String,
        is_too_large: bool,
    },
    /// Any other failure.
    Failed(Error),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Client {
    pub(super) fn new(settings: Settings, context: &Context) -> Self {
        // Fluentd speaks HTTP/1.1 only.
        let connections = Connections { tls: settings.tls.clone(), idle: Some(IDLE), http1_only: true };
        Self {
            http: context.http.with(connections),
            dead_letters: context.dead_letters.clone(),
            metrics: context.metrics.clone(),
            largest: AtomicUsize::new(settings.bytes),
            has_convicted_alone: ByAddress::default(),
            settings,
        }
    }

    /// The limits of the next batch.
    pub(super) fn limits(&self) -> Limits {
        let Settings { records, session_url, .. } = &self.settings;
        let bytes = self.largest.load(Ordering::Relaxed);
        Limits { records: *records, bytes, by_session: session_url.is_some() }
    }

    /// Notes that a body of several events, of this size before compression, was too large. The next ones are at most
    /// half as large.
    pub(super) fn was_too_large(&self, uncompressed: usize) {
        self.largest.fetch_min((uncompressed / 2).max(1), Ordering::Relaxed);
    }

    /// The address for events of this session, or the common one, and the variable that names the address.
    pub(super) fn target(&self, session: Option<&str>) -> (Url, &VariableName) {
        let Settings { url, url_variable, session_url, session_variable, .. } = &self.settings;
        match (session_url, session) {
            (Some(base), Some(session)) => {
                let mut url = base.clone();
                url.set_path(&format!("{}.{session}.log", base.path().trim_end_matches('/')));
                (url, session_variable)
            }
            _ => (url.clone(), url_variable),
        }
    }

    /// Sends one event of our own, which is given uncompressed.
    pub(super) async fn post_own(&self, session: Option<&str>, event: Vec<u8>) -> Result<(), Setback> {
        let uncompressed = event.len() + 2;
        let body = if self.settings.records > 1 { [b"[", event.as_slice(), b"]"].concat() } else { event };
        let body = batch::compressed(body, self.settings.compression).map_err(Error::Batch)?;
        self.post(session, body, uncompressed).await
    }

    /// Sends a body, which had this size before compression.
    pub(super) async fn post(&self, session: Option<&str>, body: Vec<u8>, uncompressed: usize) -> Result<(), Setback> {
        let (url, variable) = self.target(session);
        let (address, size) = (Address::of(&url), body.len());
        self.metrics.body_sent(uncompressed, size);
        let request = self.http.request(Method::POST, url.clone()).map_err(Error::from)?;
        let mut request = request.header(CONTENT_TYPE, "application/json").body(body);
        if self.settings.compression == Compression::Gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        let answer = match self.http.send(Component::Destination, request, &address, &Redaction::none()).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.no_answer(error, &url, variable, (size, uncompressed)).await.into()),
        };
        let (reply, missing) = answer.beginning(ENOUGH_OF_AN_ANSWER).await;
        match (reply.status.as_u16(), missing) {
            // A success that broke off may not come from the receiver.
            (200..=299, Some(error @ (http::Error::BrokenOff { .. } | http::Error::TimedOut { .. }))) => {
                Err(Error::from(error).into())
            }
            (status @ 200..=299, _) if http::is_web_page(&reply.headers) => {
                Err(Error::NotTheReceiver { address, status, variable: variable.clone() }.into())
            }
            (200..=299, _) => Ok(()),
            (status @ (400 | 413), _) => {
                Err(Setback::Refused { reason: format!("{status}: {}", excerpt(&reply)), is_too_large: status == 413 })
            }
            (status, _) => {
                let variable = match status {
                    401 | 403 => &self.settings.certificate_variable,
                    _ => variable,
                };
                let (after, reason) = (reply.retry_after(), excerpt(&reply));
                Err(Error::Status { address, status, after, reason, variable: variable.clone() }.into())
            }
        }
    }

    /// Classifies a call without an answer. `sizes` are those of the body, as sent and before compression.
    async fn no_answer(&self, error: http::Error, url: &Url, variable: &VariableName, sizes: (usize, usize)) -> Error {
        if matches!(error, http::Error::Redirected { .. }) {
            return Error::Redirected { variable: variable.clone(), cause: error };
        }
        let mut error = error;
        if let http::Error::Unanswered { .. } = error
            && error.may_have_arrived()
        {
            if sizes.0 > PERHAPS_TOO_LARGE {
                self.was_too_large(sizes.1);
            }
            if url.scheme() == "https" && error.tls_fault().is_none() {
                error = self.refused_handshake(url).await.unwrap_or(error);
            }
        }
        let address = Address::of(url);
        match error.tls_fault() {
            Some(TlsFault::ServerUntrusted) => {
                Error::ServerUntrusted { address, ca: self.settings.ca_variable.clone(), cause: error }
            }
            Some(TlsFault::ClientRefused) => {
                let certificate = self.settings.certificate_variable.clone();
                let is_given = self.settings.tls.identity.is_some();
                Error::ClientRefused { address, certificate, is_given, cause: error }
            }
            Some(TlsFault::Incompatible) => Error::NoCommonTls { address, variable: variable.clone(), cause: error },
            None => error.into(),
        }
    }

    /// Finds out whether a connection was reset because the receiver refused the handshake.
    ///
    /// Under TLS 1.3, the client may already send when a server refuses its certificate. The server's reset then
    /// overtakes the alert that says why. A GET fits into one packet, so the client reads the alert. No receiver turns
    /// a GET into an event.
    async fn refused_handshake(&self, url: &Url) -> Option<http::Error> {
        let request = self.http.request(Method::GET, url.clone()).ok()?;
        let answer = self.http.send(Component::Destination, request, &Address::of(url), &Redaction::none()).await;
        answer.err().filter(|error| error.tls_fault().is_some())
    }
}

fn excerpt(reply: &Reply) -> Excerpt {
    Excerpt::of(&reply.body, &Redaction::none())
}
