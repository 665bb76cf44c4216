//! The Datadog logs intake, as described at `docs.datadoghq.com/api/latest/logs` (send logs).
//!
//! [`entry`] writes one event, `text` its strings, [`batch`] one body, [`compressor`] makes it smaller, `packing` has bodies made ahead, [`response`] reads an answer, `isolate`
//! settles a batch whatever it contains, [`preview`] prints in place of sending, and this file sends: up to eight requests at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{Delivery, Destination, Error, Receipt};
use crate::http::{self, Excerpt, Method, Place, Redaction, Reply, Server};
use crate::secret::Secret;
use crate::telemetry::metrics;
use crate::variable_name::VariableName;
use compressor::Compressor;
use entry::EntryWriter;
use isolate::{Settled, Settling};
use packing::{Batches, Packer};
use rejected::Rejected;
use response::Meaning;

pub mod batch;
pub mod compressor;
pub mod entry;
mod intake_url;
mod isolate;
mod packing;
pub mod preview;
pub mod rejected;
pub mod response;
pub mod severity;
mod site;
mod tags;
mod text;
pub(crate) mod variables;

/// Requests under way at a time: a page of 5000 records takes five, and should take one round.
const IN_FLIGHT: usize = 8;

/// Clocks that differ by more than this many seconds are not just read at different moments.
const CLOCK_TOLERANCE: i64 = 120;

/// As much of an answer as is worth reading.
const ENOUGH_OF_AN_ANSWER: usize = 64 * 1024;

/// What is needed to send to the intake.
#[derive(Debug)]
pub struct Settings {
    /// The intake's base address; `/api/v2/logs` is added to it.
    pub intake_url: Url,
    /// The variable that decided on `intake_url`, named when the place proves wrong.
    pub intake_variable: VariableName,
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
    intake_variable: VariableName,
    site: String,
    validate: Url,
    key: Secret,
    packer: Packer,
    rejected: Rejected,
    clock: IntakeClock,
}

/// The intake's clock, as far as ours is ahead of it: what is dated by ours would lie too far ahead, and be dropped.
#[derive(Debug, Default)]
struct IntakeClock {
    /// The last answer's `Date`, in seconds since 1970; 0 before the first.
    date: AtomicI64,
    /// By how many seconds ours is ahead; 0 where it hardly is.
    ahead: AtomicI64,
}

impl IntakeClock {
    /// `now` as the intake would have it, or earlier.
    fn correct(&self, now: Timestamp) -> Timestamp {
        now.checked_sub(SignedDuration::from_secs(self.ahead.load(Ordering::Relaxed))).unwrap_or(now)
    }

    fn answered(&self, reply: &Reply) {
        if let Some(date) = reply.date() {
            self.date.store(date.as_second(), Ordering::Relaxed);
        }
    }

    /// Compares the clocks after answers to what was sent at `now` or later.
    fn compare(&self, now: Timestamp) {
        let date = self.date.load(Ordering::Relaxed);
        let ahead = now.as_second() - date;
        let ahead = if date > 0 && ahead > CLOCK_TOLERANCE { ahead } else { 0 };
        if self.ahead.swap(ahead, Ordering::Relaxed) == 0 && ahead > 0 {
            tracing::warn!(seconds = ahead, "this machine's clock is ahead of the intake's, which counts");
        }
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
            clock: IntakeClock::default(),
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
        let reply =
            http::send(Server::Destination, request, &place, &hidden).await?.beginning(ENOUGH_OF_AN_ANSWER).await;
        self.clock.answered(&reply);
        let status = reply.status.as_u16();
        let reason = || Excerpt::of(&reply.body, &hidden);
        let variable = self.intake_variable.clone();
        match response::meaning(reply.status, &reply.headers) {
            Meaning::Accepted => Ok(Ruling::Accepted),
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
        let variable = self.key.variable().clone();
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

    fn refuses_all(&self, meaning: Meaning, reason: String) -> Error {
        tracing::debug!(?meaning, "nothing is accepted");
        Error::RefusesAll { place: self.place(), reason, variable: self.intake_variable.clone() }
    }
}

#[async_trait]
impl Destination for Datadog {
    fn name(&self) -> &'static str {
        "datadog"
    }

    fn prepare(&self, delivery: &mut Delivery, now: Timestamp) {
        let sent_at = self.clock.correct(now);
        delivery.set_prepared(Batches::begin(&self.packer, delivery.events(), delivery.outstanding(), sent_at));
    }

    async fn deliver(&self, delivery: &mut Delivery, now: Timestamp) -> Result<Receipt, Error> {
        let events = Arc::clone(delivery.events());
        let sent_at = self.clock.correct(now);
        let prepared = delivery.take_prepared().filter(|batches: &Batches| batches.are_fresh(sent_at));
        let mut batches =
            prepared.unwrap_or_else(|| Batches::begin(&self.packer, &events, delivery.outstanding(), sent_at));
        let mut failure: Option<Error> = None;
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(settled) = under_way.next() => {
                    let Settled { range, tally, left, error } = settled;
                    // At once: this may be broken off before the others are settled.
                    delivery.count(tally);
                    delivery.settle(&range, left);
                    if let Some(error) = error {
                        if matches!(&error, Error::Http(error) if error.may_have_arrived()) {
                            delivery.note_unanswered();
                        }
                        failure.get_or_insert(error);
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
        self.clock.compare(now);
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
