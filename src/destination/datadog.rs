//! The Datadog logs intake, as described at `docs.datadoghq.com/api/latest/logs` (send logs).
//!
//! [`entry`] writes one event, `text` its strings, [`batch`] one body, [`compressor`] makes it smaller, `packing` has bodies made ahead, [`response`] reads an answer, `isolate`
//! settles a batch whatever it contains, [`preview`] prints in place of sending, and this file sends: up to eight requests at a time.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{Delivery, Destination, Error, Receipt};
use crate::event::Event;
use crate::http::{self, Excerpt, Method, Place, Redaction, Reply, Server};
use crate::secret::Secret;
use crate::server_time::{LocalTime, ServerClock, TOLERANCE};
use crate::telemetry::metrics;
use compressor::Compressor;
use entry::EntryWriter;
use isolate::{Settled, Settling};
use packing::{Batches, Packer};
use rejected::Rejected;
use response::Meaning;

pub mod batch;
pub mod compressor;
pub mod entry;
mod isolate;
mod packing;
pub mod preview;
pub mod rejected;
pub mod response;
pub mod severity;
mod text;

/// Requests under way at a time: a page of 5000 records takes five, and should take one round.
const IN_FLIGHT: usize = 8;

/// As much of an answer as is worth reading.
const ENOUGH_OF_AN_ANSWER: usize = 64 * 1024;

/// What is needed to send to the intake.
#[derive(Debug)]
pub struct Settings {
    /// The intake's base address; `/api/v2/logs` is added to it.
    pub intake_url: Url,
    /// The variable that decided on `intake_url`, named when the place proves wrong.
    pub intake_variable: &'static str,
    /// The Datadog site, such as `datadoghq.com`.
    pub site: String,
    /// The API's base address for the key check (`/api/v1/validate`).
    pub api_url: Url,
    /// The API key.
    pub api_key: Secret,
    /// How request bodies are compressed.
    pub compression: Compression,
    /// What every entry carries.
    pub labels: Labels,
    /// Where rejected records are kept; none to log them whole.
    pub rejected_path: Option<PathBuf>,
}

/// What every entry carries, whatever its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// `ddsource`, lower case: chooses the pipeline.
    pub source: String,
    /// `service`.
    pub service: String,
    /// `hostname`.
    pub hostname: String,
    /// `ddtags`: one string, joined by commas; may be empty.
    pub tags: String,
}

/// How request bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The documented one.
    Gzip,
    /// Smaller and cheaper; taken by the intake, though not documented.
    Zstd,
    /// None, for a relay on the same machine.
    Identity,
}

impl Compression {
    fn content_encoding(self) -> Option<HeaderValue> {
        match self {
            Self::Gzip => Some(HeaderValue::from_static("gzip")),
            Self::Zstd => Some(HeaderValue::from_static("zstd")),
            Self::Identity => None,
        }
    }
}

/// The intake as a destination.
#[derive(Debug)]
pub struct Datadog {
    http: Arc<http::Client>,
    intake: Url,
    intake_variable: &'static str,
    site: String,
    validate: Url,
    key: Secret,
    packer: Packer,
    rejected: Rejected,
    clock: ServerClock,
}

/// Entries that the intake accepted and dropped.
struct Dropped {
    indices: Vec<usize>,
    /// The intake's time.
    theirs: Timestamp,
}

impl Dropped {
    /// The same without what is `left` to be sent anyway.
    fn without(mut self, left: &[Range<usize>]) -> Self {
        self.indices.retain(|index| !left.iter().any(|range| range.contains(index)));
        self
    }
}

/// A request body, and its size before compression.
struct Body {
    sent: Vec<u8>,
    uncompressed: usize,
}

/// The intake's word on a body.
#[derive(Debug)]
enum Ruling {
    Accepted,
    /// Something in it is not acceptable, or it is too large.
    Refused {
        meaning: Meaning,
        reason: String,
    },
}

impl Datadog {
    /// A destination that calls through `http` and puts records under `record_key`.
    pub fn new(settings: Settings, record_key: &'static str, http: Arc<http::Client>) -> Self {
        Self {
            http,
            intake: below(&settings.intake_url, "api/v2/logs"),
            intake_variable: settings.intake_variable,
            site: settings.site,
            validate: below(&settings.api_url, "api/v1/validate"),
            key: settings.api_key,
            packer: Packer::new(EntryWriter::new(&settings.labels, record_key), settings.compression),
            rejected: Rejected::new(settings.rejected_path),
            clock: ServerClock::default(),
        }
    }

    /// Asks the API whether the key is valid. It is another host than the intake, and may be out of reach by itself.
    pub async fn check_key(&self) -> Result<(), Error> {
        let place = Place::of(&self.validate);
        let key = self.key.current();
        let request = self.http.request(Method::GET, self.validate.clone())?.header("DD-API-KEY", sensitive(&key));
        let hidden = Redaction::of([&key]);
        let reply = http::exchange(Server::Destination, request, &place, ENOUGH_OF_AN_ANSWER, &hidden).await?;
        match response::meaning(reply.status, &reply.headers) {
            Meaning::Accepted => Ok(()),
            Meaning::KeyRefused => Err(self.key_refused(place, &reply, &key)),
            _ => {
                let reason = Excerpt::of(&reply.body, &hidden);
                Err(Error::Unavailable { place, status: reply.status.as_u16(), after: reply.retry_after(), reason })
            }
        }
    }

    /// Sends one entry that says that it is a test.
    pub async fn check_entry(&self, now: Timestamp) -> Result<(), Error> {
        let message = "auditsync check: a test entry, to be ignored";
        match self.post(self.notice("check", message, "info", now)?).await? {
            Ruling::Accepted => Ok(()),
            Ruling::Refused { meaning, reason } => Err(self.refuses_all(meaning, reason)),
        }
    }

    /// Where entries go, for messages.
    pub fn place(&self) -> Place {
        Place::of(&self.intake)
    }

    /// A body with one entry of our own.
    fn notice(&self, kind: &str, message: &str, status: &str, now: Timestamp) -> Result<Body, Error> {
        let mut body = vec![b'['];
        self.packer.entries.write_notice(&mut body, kind, message, status, now);
        body.push(b']');
        let uncompressed = body.len();
        let sent = Compressor::new(self.packer.compression).and_then(|mut compressor| compressor.compress(&body));
        let sent = sent.map_err(Error::Batch)?;
        Ok(Body { sent, uncompressed })
    }

    async fn post(&self, body: Body) -> Result<Ruling, Error> {
        metrics::body_sent(body.uncompressed, body.sent.len());
        let place = self.place();
        let key = self.key.current();
        let mut request = self
            .http
            .request(Method::POST, self.intake.clone())?
            .header("DD-API-KEY", sensitive(&key))
            .header("DD-EVP-ORIGIN", env!("CARGO_PKG_NAME"))
            .header("DD-EVP-ORIGIN-VERSION", env!("CARGO_PKG_VERSION"))
            .header(CONTENT_TYPE, "application/json")
            .body(body.sent);
        if let Some(encoding) = self.packer.compression.content_encoding() {
            request = request.header(CONTENT_ENCODING, encoding);
        }
        let hidden = Redaction::of([&key]);
        let asked = LocalTime::now();
        let reply =
            http::send(Server::Destination, request, &place, &hidden).await?.beginning(ENOUGH_OF_AN_ANSWER).await;
        let call = (asked, LocalTime::now());
        let status = reply.status.as_u16();
        let reason = || Excerpt::of(&reply.body, &hidden);
        let variable = self.intake_variable;
        match response::meaning(reply.status, &reply.headers) {
            Meaning::Accepted => {
                // What answers in the intake's place when it refuses may have another clock.
                self.clock.note(&place, reply.date(), call);
                Ok(Ruling::Accepted)
            }
            meaning @ (Meaning::BadPayload | Meaning::TooLarge) => {
                Ok(Ruling::Refused { meaning, reason: format!("{status}: {}", reason()) })
            }
            Meaning::NotTheIntake => Err(Error::NotTheIntake { place, status, variable }),
            Meaning::KeyRefused => Err(self.key_refused(place, &reply, &key)),
            Meaning::Unavailable => {
                Err(Error::Unavailable { place, status, after: reply.retry_after(), reason: reason() })
            }
            Meaning::Refused => Err(Error::RefusesAll { place, reason: format!("{status}: {}", reason()), variable }),
        }
    }

    fn key_refused(&self, place: Place, reply: &Reply, refused: &SecretString) -> Error {
        let variable = self.key.variable();
        match self.key.renewed_since(refused) {
            Ok(true) => Error::KeyRotated { place, variable },
            Ok(false) => Error::KeyRefused {
                place,
                status: reply.status.as_u16(),
                reason: Excerpt::of(&reply.body, &Redaction::of([refused])),
                variable,
                site: format!("{} ({})", self.site, self.intake_variable),
            },
            Err(cause) => Error::KeyGone { place, variable, cause },
        }
    }

    /// The present by the intake's clock where it is known, else `now`.
    fn present(&self, now: Timestamp) -> Timestamp {
        let local = LocalTime::now();
        self.clock.at(local, local).unwrap_or(now)
    }

    /// Those of the entries in `range` that the intake accepted and dropped, because they carried times by a wrong clock: they were written
    /// for `written_for`, and the request began `begun`.
    fn dropped(&self, events: &[Event], range: &Range<usize>, written_for: Timestamp, begun: LocalTime) -> Dropped {
        let theirs = self.clock.at(begun, LocalTime::now()).unwrap_or(written_for);
        let is_right = theirs.duration_since(written_for).unsigned_abs() <= TOLERANCE;
        let is_dropped = |index: &usize| {
            let stamp = events.get(*index).map(|event| entry::stamp(event, written_for));
            stamp.is_some_and(|stamp| !entry::is_kept(stamp, theirs))
        };
        let indices = if is_right { Vec::new() } else { range.clone().filter(is_dropped).collect() };
        Dropped { indices, theirs }
    }

    fn refuses_all(&self, meaning: Meaning, reason: String) -> Error {
        tracing::debug!(?meaning, "nothing is accepted");
        Error::RefusesAll { place: self.place(), reason, variable: self.intake_variable }
    }
}

#[async_trait]
impl Destination for Datadog {
    fn name(&self) -> &'static str {
        "datadog"
    }

    fn prepare(&self, delivery: &mut Delivery, now: Timestamp) {
        let sent_at = self.present(now);
        delivery.set_prepared(Batches::begin(&self.packer, delivery.events(), delivery.outstanding(), sent_at));
    }

    async fn deliver(&self, delivery: &mut Delivery, now: Timestamp) -> Result<Receipt, Error> {
        let events = Arc::clone(delivery.events());
        let (begun, sent_at) = (LocalTime::now(), self.present(now));
        let prepared = delivery.take_prepared().filter(|batches: &Batches| batches.are_fresh(sent_at));
        let mut batches =
            prepared.unwrap_or_else(|| Batches::begin(&self.packer, &events, delivery.outstanding(), sent_at));
        let sent_at = batches.written_for();
        let mut failure: Option<Error> = None;
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(settled) = under_way.next() => {
                    let Settled { range, mut tally, mut left, error } = settled;
                    let dropped = self.dropped(&events, &range, sent_at, begun).without(&left);
                    left.extend(dropped.indices.iter().map(|index| *index..index + 1));
                    tally.accepted = tally.accepted.saturating_sub(dropped.indices.len());
                    // At once: this may be broken off before the others are settled.
                    delivery.count(tally);
                    delivery.settle(&range, left);
                    if let Some(error) = error {
                        if matches!(&error, Error::Http(error) if error.may_have_arrived()) {
                            delivery.note_unanswered();
                        }
                        failure.get_or_insert(error);
                    } else if !dropped.indices.is_empty() {
                        let (place, entries, theirs) = (self.place(), dropped.indices.len(), dropped.theirs);
                        failure.get_or_insert(Error::Misdated { place, entries, ours: sent_at, theirs });
                    }
                }
                Some(batch) = batches.next(), if under_way.len() < IN_FLIGHT && failure.is_none() => match batch {
                    Ok(batch) => {
                        let settling = Settling::new(self, Arc::clone(&events), batch, sent_at, delivery.beat());
                        under_way.push(settling.run());
                    }
                    Err(error) => failure = Some(error),
                },
                else => break,
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None if delivery.is_complete() => Ok(Receipt::Accepted),
            None => Err(Error::Batch(std::io::Error::other("the batches of a page ended before the page"))),
        }
    }
}

fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// The configuration takes only keys that a header can carry; another would be sent as an empty one and refused.
fn sensitive(key: &SecretString) -> HeaderValue {
    let mut value = HeaderValue::from_str(key.expose_secret()).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
