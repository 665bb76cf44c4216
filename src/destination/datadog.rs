//! The Datadog logs intake, as described at `docs.datadoghq.com/api/latest/logs` (send logs).
//!
//! [`entry`] writes one event, `text` its strings, [`batch`] one body, [`compressor`] makes it smaller, `packing` has bodies made ahead, [`response`] reads an answer, `isolate`
//! settles a batch whatever it contains, `doubt` and `examine` find what makes requests fail, `ledger` writes down what became of each
//! event, `letters` the dead letters, `misdated` finds entries that a wrong clock spoiled, [`preview`] prints in place of sending, and this file sends: up to eight requests at a time.

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
use crate::failure::Class;
use crate::http::{self, Excerpt, Method, Place, Redaction, Reply, Server};
use crate::secret::Secret;
use crate::server_time::{LocalTime, ServerClock};
use crate::telemetry::metrics;
use compressor::Compressor;
use entry::{EntryWriter, Form};
use examine::Examination;
use isolate::{Settling, Stopped};
use ledger::Ledger;
use packing::{Batches, Packer};
use rejected::Rejected;
pub use response::Intake;
use response::{Content, Meaning};

pub mod batch;
pub mod compressor;
mod doubt;
pub mod entry;
mod examine;
mod isolate;
mod ledger;
mod letters;
mod misdated;
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
    /// Who answers there.
    pub intake: Intake,
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
    answers_as: Intake,
    intake_variable: &'static str,
    site: String,
    validate: Url,
    key: Secret,
    packer: Packer,
    rejected: Rejected,
    clock: ServerClock,
}

/// A request body, and its size before compression.
struct Body {
    sent: Vec<u8>,
    uncompressed: usize,
}

/// Why a body was not accepted.
#[derive(Debug)]
enum Setback {
    /// Something in it is not acceptable, or it is too large.
    Refused { meaning: Meaning, reason: String },
    /// Anything else.
    Failed {
        error: Error,
        /// What it says, where it may be about what was sent.
        about: Option<String>,
    },
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Failed { error, about: None }
    }
}

impl Setback {
    /// The error, where what was sent is above suspicion.
    fn into_error(self, datadog: &Datadog) -> Error {
        match self {
            Self::Refused { meaning, reason } => datadog.refuses_all(meaning, reason),
            Self::Failed { error, .. } => error,
        }
    }
}

impl Datadog {
    /// A destination that calls through `http` and puts records under `record_key`.
    pub fn new(settings: Settings, record_key: &'static str, http: Arc<http::Client>) -> Self {
        Self {
            http,
            intake: below(&settings.intake_url, "api/v2/logs"),
            answers_as: settings.intake,
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
        match reply.status.as_u16() {
            _ if response::is_valid_key(reply.status, &reply.body) => Ok(()),
            401 | 403 => Err(self.key_refused(place, &reply, &key)),
            _ => {
                let reason = Excerpt::of(&reply.body, &hidden);
                Err(Error::Unavailable { place, status: reply.status.as_u16(), after: reply.retry_after(), reason })
            }
        }
    }

    /// Sends one entry that says that it is a test.
    pub async fn check_entry(&self, now: Timestamp) -> Result<(), Error> {
        let message = "auditsync check: a test entry, to be ignored";
        self.post(self.notice("check", message, "info", now)?).await.map_err(|setback| setback.into_error(self))
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

    /// Sends a body with so many events, and writes down what it takes.
    async fn send(&self, ledger: &Ledger<'_>, events: usize, body: Body) -> Result<(), Setback> {
        let under_way = ledger.sends(events, body.sent.len());
        let answer = self.post(body).await;
        under_way.ended(&answer);
        answer
    }

    async fn post(&self, body: Body) -> Result<(), Setback> {
        metrics::body_sent(body.uncompressed, body.sent.len());
        let place = self.place();
        let key = self.key.current();
        let mut request = self
            .http
            .request(Method::POST, self.intake.clone())
            .map_err(Error::from)?
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
        let answer = http::send(Server::Destination, request, &place, &hidden).await.map_err(no_answer)?;
        let (reply, missing) = answer.beginning(ENOUGH_OF_AN_ANSWER).await;
        let call = (asked, LocalTime::now());
        let status = reply.status.as_u16();
        let reason = || Excerpt::of(&reply.body, &hidden);
        let told = || format!("{status}: {}", reason());
        let variable = self.intake_variable;
        let content = match &missing {
            None => Content::Whole(&reply.body),
            Some(http::Error::TooLarge { .. }) => Content::TooMuch,
            Some(_) => Content::Beginning(&reply.body),
        };
        let error = match response::meaning(self.answers_as, reply.status, &reply.headers, content) {
            Meaning::Accepted => {
                // What answers in the intake's place when it refuses may have another clock.
                self.clock.note(&place, reply.date(), call);
                return Ok(());
            }
            meaning @ (Meaning::BadPayload | Meaning::TooLarge) => {
                return Err(Setback::Refused { meaning, reason: told() });
            }
            Meaning::NotTheIntake => {
                let is_relay = self.answers_as == Intake::Other && !response::is_web_page(&reply.headers);
                Error::NotTheIntake { place, status, variable, is_relay }
            }
            // Only an answer with a missing end is unfinished.
            Meaning::Unfinished => {
                missing.map_or(Error::NotTheIntake { place, status, variable, is_relay: true }, Error::from)
            }
            Meaning::KeyRefused => self.key_refused(place, &reply, &key),
            Meaning::Unavailable => Error::Unavailable { place, status, after: reply.retry_after(), reason: reason() },
            Meaning::Refused => Error::RefusesAll { place, reason: told(), variable },
        };
        // An answer that names a time to wait is about load; a key that was changed or is gone explains itself.
        let explains_itself = matches!(
            error,
            Error::Unavailable { after: Some(_), .. } | Error::KeyRotated { .. } | Error::KeyGone { .. }
        );
        let about = (!explains_itself && response::may_be_about_content(status)).then(told);
        Err(Setback::Failed { error, about })
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

    fn refuses_all(&self, meaning: Meaning, reason: String) -> Error {
        tracing::debug!(?meaning, "nothing is accepted");
        Error::RefusesAll { place: self.place(), reason, variable: self.intake_variable }
    }

    fn refuses_some(&self, reason: String) -> Error {
        Error::RefusesSome { place: self.place(), reason }
    }

    /// Sends these batches, up to eight at a time, until one fails.
    async fn send_batches(
        &self,
        ledger: &Ledger<'_>,
        events: &Arc<[Event]>,
        mut batches: Batches,
        now: Timestamp,
    ) -> Result<(), Stopped> {
        let mut failure: Option<Stopped> = None;
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(settled) = under_way.next() => {
                    if let Err(stopped) = settled {
                        failure.get_or_insert(stopped);
                    }
                }
                Some(batch) = batches.next(), if under_way.len() < IN_FLIGHT && failure.is_none() => match batch {
                    Ok(batch) => under_way.push(
                        Settling::of(self, ledger, Arc::clone(events), batch, Form::Whole, now).run(),
                    ),
                    Err(error) => failure = Some(error.into()),
                },
                else => break,
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends what is outstanding: first what nothing speaks against, then what is in doubt.
    async fn attempt(
        &self,
        ledger: &Ledger<'_>,
        events: &Arc<[Event]>,
        batches: Batches,
        now: Timestamp,
    ) -> Result<(), Error> {
        let before = ledger.delivery().tally().accepted;
        let sent = self.send_batches(ledger, events, batches, now).await;
        self.write_letters(ledger, events, now).await?;
        let examination = Examination::new(self, ledger, events, now);
        match sent {
            Ok(()) => {
                examination.run().await?;
                self.write_letters(ledger, events, now).await
            }
            // Before the key or the address is blamed: perhaps it is what was sent.
            Err(Stopped { error, again: Some(_) }) if !matches!(error.class(), Class::Retryable { .. }) => {
                let reason = ledger.remember(|memory| memory.doubts.all().first().map(|doubt| doubt.reason.clone()));
                let accepts_others =
                    ledger.delivery().tally().accepted > before || examination.accepts_a_notice().await;
                Err(match reason {
                    Some(reason) if accepts_others => self.refuses_some(reason),
                    _ => error,
                })
            }
            Err(Stopped { error, .. }) => Err(error),
        }
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
        let sent_at = self.present(now);
        let prepared = delivery.take_prepared().filter(|batches: &Batches| batches.are_fresh(sent_at));
        let ledger = Ledger::of(delivery);
        // What a call before this one still had to write is outstanding, and not to be sent.
        self.write_letters(&ledger, &events, sent_at).await?;
        let batches = prepared.unwrap_or_else(|| Batches::begin(&self.packer, &events, &ledger.undoubted(), sent_at));
        let written_for = batches.written_for();
        self.attempt(&ledger, &events, batches, written_for).await?;
        if ledger.delivery().is_complete() {
            return Ok(Receipt::Accepted);
        }
        Err(Error::Batch(std::io::Error::other("the batches of a page ended before the page")))
    }
}

/// No answer says less than a status: what the client saw is in the error. Where nothing was sent, nothing sent is at fault.
fn no_answer(error: http::Error) -> Setback {
    let about = match &error {
        http::Error::Redirected { .. } => true,
        error => error.may_have_arrived(),
    };
    let about = about.then(|| crate::failure::Chain(&error).to_string());
    Setback::Failed { error: error.into(), about }
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
