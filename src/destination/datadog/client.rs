//! Calls to Datadog: one request, what its answer means, and the requests of a page, up to eight at a time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use secrecy::SecretString;
use url::Url;

use super::compressor::Compressor;
use super::entry::{EntryWriter, Form, RecordPlace};
use super::error::Error;
use super::examine::Examination;
use super::intake_clock::IntakeClock;
use super::isolate::{Settling, Stopped};
use super::ledger::Ledger;
use super::packing::{Batches, Packer};
use super::response::{self, Content, Intake, Meaning};
use super::{IN_FLIGHT, Settings};
use crate::clock::Clock;
use crate::component::{Component, Context};
use crate::dead_letter::DeadLetters;
use crate::failure::Class;
use crate::http::{self, Address, Excerpt, Method, Redaction, Reply, below, sensitive};
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;
use crate::variable_name::VariableName;

/// The most bytes of an answer that are read.
const ENOUGH_OF_AN_ANSWER: usize = 64 * 1024;

/// The intake, as one pipeline calls it.
#[derive(Debug)]
pub(super) struct Client {
    http: Arc<http::Client>,
    /// The client for the API.
    api: Arc<http::Client>,
    intake: Url,
    answers_as: Intake,
    intake_variable: VariableName,
    site: String,
    validate: Url,
    key: Secret,
    pub(super) packer: Packer,
    pub(super) dead_letters: DeadLetters,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) intake_clock: IntakeClock,
}

/// A request body, and its size before compression.
pub(super) struct Body {
    pub(super) sent: Vec<u8>,
    pub(super) uncompressed: usize,
}

/// Why a body was not accepted.
#[derive(Debug)]
pub(super) enum Setback {
    /// The intake refused the body: because of its content, or because of its size.
    Refused { meaning: Meaning, reason: String },
    /// Any other failure.
    Failed {
        error: Error,
        /// The answer's text, if the failure may be about the entries sent.
        about: Option<String>,
    },
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Failed { error, about: None }
    }
}

impl Setback {
    /// The error, where the entries sent cannot be at fault.
    pub(super) fn into_error(self, datadog: &Client) -> Error {
        match self {
            Self::Refused { meaning, reason } => datadog.refuses_all(meaning, reason),
            Self::Failed { error, .. } => error,
        }
    }
}

impl Client {
    /// Makes the client of the pipeline in `context`. It puts records at `place` in their entries.
    pub(super) fn new(settings: Settings, place: RecordPlace, context: &Context) -> Self {
        let http = context.http.with_tls(settings.tls);
        // The files for another intake, such as a relay, are not for Datadog's API.
        let api = if settings.intake == Intake::Other { &context.http } else { &http };
        Self {
            api: Arc::clone(api),
            http,
            intake: below(&settings.intake_url, "api/v2/logs"),
            answers_as: settings.intake,
            intake_variable: settings.intake_variable,
            site: settings.site,
            validate: below(&settings.api_url, "api/v1/validate"),
            key: settings.api_key,
            packer: Packer::new(EntryWriter::new(&settings.labels, place), settings.compression),
            dead_letters: context.dead_letters.clone(),
            metrics: context.metrics.clone(),
            clock: context.clock.clone(),
            intake_clock: IntakeClock::of(settings.intake),
        }
    }

    /// Calls the API's key check. The API is another host than the intake, and may be unreachable by itself.
    pub(super) async fn check_key(&self) -> Result<(), Error> {
        let address = Address::of(&self.validate);
        let key = self.key.current();
        let request = self.api.request(Method::GET, self.validate.clone())?.header("DD-API-KEY", sensitive(&key));
        let hidden = Redaction::of([&key]);
        let reply = self.api.exchange(Component::Destination, request, &address, ENOUGH_OF_AN_ANSWER, &hidden).await?;
        match reply.status.as_u16() {
            _ if response::is_valid_key(reply.status, &reply.body) => Ok(()),
            401 | 403 => Err(self.key_rejected(address, &reply, &key)),
            _ => {
                let reason = Excerpt::of(&reply.body, &hidden);
                Err(Error::Unavailable { address, status: reply.status.as_u16(), after: reply.retry_after(), reason })
            }
        }
    }

    /// Sends one entry that is marked as a test.
    pub(super) async fn check_entry(&self, now: Timestamp) -> Result<(), Error> {
        let message = "auditsync check: a test entry, to be ignored";
        self.post(self.notice("check", message, "info", now)?).await.map_err(|setback| setback.into_error(self))
    }

    /// The intake's address, for messages.
    pub(super) fn address(&self) -> Address {
        Address::of(&self.intake)
    }

    /// Makes a body with one entry of our own.
    pub(super) fn notice(&self, kind: &str, message: &str, status: &str, now: Timestamp) -> Result<Body, Error> {
        let mut body = vec![b'['];
        self.packer.entries.write_notice(&mut body, kind, message, status, now);
        body.push(b']');
        let uncompressed = body.len();
        let sent = Compressor::new(self.packer.compression).and_then(|mut compressor| compressor.compress(&body));
        let sent = sent.map_err(Error::Batch)?;
        Ok(Body { sent, uncompressed })
    }

    /// Sends a body with this many events, and notes the request in the `ledger`.
    pub(super) async fn send(&self, ledger: &Ledger<'_>, events: usize, body: Body) -> Result<(), Setback> {
        let under_way = ledger.sends(events, body.sent.len());
        let answer = self.post(body).await;
        under_way.ended(&answer);
        answer
    }

    async fn post(&self, body: Body) -> Result<(), Setback> {
        self.metrics.body_sent(body.uncompressed, body.sent.len());
        let address = self.address();
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
        let asked = self.clock.local();
        let answer = self.http.send(Component::Destination, request, &address, &hidden).await.map_err(no_answer)?;
        let (reply, missing) = answer.beginning(ENOUGH_OF_AN_ANSWER).await;
        let call = (asked, self.clock.local());
        let status = reply.status.as_u16();
        let reason = || Excerpt::of(&reply.body, &hidden);
        let shown = || format!("{status}: {}", reason());
        let variable = self.intake_variable.clone();
        let content = match &missing {
            None => Content::Whole(&reply.body),
            Some(http::Error::TooLarge { .. }) => Content::TooMuch,
            Some(_) => Content::Beginning(&reply.body),
        };
        let error = match response::meaning(self.answers_as, reply.status, &reply.headers, content) {
            Meaning::Accepted => {
                // Another server that answers in the intake's place may have another clock, so only an acceptance
                // counts.
                self.intake_clock.note(&address, reply.date(), call);
                return Ok(());
            }
            meaning @ (Meaning::BadPayload | Meaning::TooLarge) => {
                return Err(Setback::Refused { meaning, reason: shown() });
            }
            Meaning::NotTheIntake => {
                let is_relay = self.answers_as == Intake::Other && !http::is_web_page(&reply.headers);
                Error::NotTheIntake { address, status, variable, is_relay }
            }
            // `Unfinished` always comes with a missing end.
            Meaning::Unfinished => {
                missing.map_or(Error::NotTheIntake { address, status, variable, is_relay: true }, Error::from)
            }
            Meaning::KeyRejected => self.key_rejected(address, &reply, &key),
            Meaning::Unavailable => {
                Error::Unavailable { address, status, after: reply.retry_after(), reason: reason() }
            }
            Meaning::Refused => Error::RefusesAll { address, reason: shown(), variable },
        };
        // A key that was changed, or that is gone, is the cause itself.
        let explains_itself = matches!(error, Error::KeyOutdated { .. });
        let about = (!explains_itself && response::may_be_about_content(status)).then(shown);
        Err(Setback::Failed { error, about })
    }

    fn key_rejected(&self, address: Address, reply: &Reply, rejected: &SecretString) -> Error {
        match self.key.after_rejection(rejected) {
            Some(cause) => Error::KeyOutdated { address, cause },
            None => Error::KeyRejected {
                address,
                status: reply.status.as_u16(),
                reason: Excerpt::of(&reply.body, &Redaction::of([rejected])),
                variable: self.key.variable().clone(),
                site: format!("{} ({})", self.site, self.intake_variable),
            },
        }
    }

    /// The present by the intake's clock where it is known, else `now`.
    pub(super) fn present(&self, now: Timestamp) -> Timestamp {
        let local = self.clock.local();
        self.intake_clock.at(local, local).unwrap_or(now)
    }

    fn refuses_all(&self, meaning: Meaning, reason: String) -> Error {
        tracing::debug!(?meaning, "nothing is accepted");
        Error::RefusesAll { address: self.address(), reason, variable: self.intake_variable.clone() }
    }

    /// The error that the intake refuses some entries, the last one for this `reason`, and wants us to wait until `after`.
    pub(super) fn refuses_some(&self, reason: String, after: Option<Duration>) -> Error {
        Error::RefusesSome { address: self.address(), reason, after }
    }

    /// Sends these batches, up to eight at a time, until one fails.
    async fn send_batches(&self, ledger: &Ledger<'_>, mut batches: Batches, now: Timestamp) -> Result<(), Stopped> {
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
                    Ok(batch) => under_way.push(Settling::of(self, ledger, batch, Form::Whole, now).run()),
                    Err(error) => failure = Some(error.into()),
                },
                else => break,
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends the outstanding events: first those that no doubt touches, then those in doubt.
    pub(super) async fn attempt(&self, ledger: &Ledger<'_>, batches: Batches, now: Timestamp) -> Result<(), Error> {
        let before = ledger.tally().accepted;
        let sent = self.send_batches(ledger, batches, now).await;
        ledger.write_letters(&self.dead_letters, now).await?;
        let examination = Examination::new(self, ledger, now);
        match sent {
            Ok(()) => {
                examination.run().await?;
                ledger.write_letters(&self.dead_letters, now).await
            }
            // Rule out the entries before blaming the key or the address.
            Err(Stopped { error, again: Some(_) }) if !matches!(error.class(), Class::Retryable { .. }) => {
                let reason = ledger.remember(|work| work.doubts.all().first().map(|doubt| doubt.reason.clone()));
                let accepts_others = ledger.tally().accepted > before || examination.accepts_a_notice().await;
                Err(match reason {
                    Some(reason) if accepts_others => self.refuses_some(reason, None),
                    _ => error,
                })
            }
            Err(Stopped { error, .. }) => Err(error),
        }
    }
}

/// Classifies a request without an answer. The error says what the client saw. Entries that were never sent cannot be
/// at fault.
fn no_answer(error: http::Error) -> Setback {
    let about = match &error {
        http::Error::Redirected { .. } => true,
        error => error.may_have_arrived(),
    };
    let about = about.then(|| crate::failure::Chain(&error).to_string());
    Setback::Failed { error: error.into(), about }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::read_pairs;
    use crate::destination::datadog::variables;
    use crate::http::{PemFile, Tls};
    use crate::source::Product;

    #[test]
    fn the_tls_files_for_a_relay_are_not_for_datadogs_api() {
        const PRODUCT: Product = Product { name: "here", service: "here-service", is_flat: false };
        const RELAY: (&str, &str) = ("DD_LOGS_CONFIG_LOGS_DD_URL", "relay.example.com:8443");
        let timeout_variable = VariableName::from("AUDITSYNC_HTTP_TIMEOUT");
        let http = http::Settings { timeout: Duration::from_secs(60), timeout_variable };
        let letters = DeadLetters::new("here:datadog".into(), None, "AUDITSYNC_DEAD_LETTER_PATH".into());
        let context = Context::new("here:datadog".into(), http, letters);
        let client = |more: &[(&str, &str)]| {
            let pairs = [&[("DD_API_KEY", "0123abc")], more].concat();
            let mut settings = read_pairs(&pairs, |reader| variables::settings(&PRODUCT, reader)).unwrap();
            let ca = PemFile { path: "ca.pem".into(), variable: "DD_TLS_CA".into() };
            settings.tls = Tls { ca: Some(ca), identity: None };
            Client::new(settings, RecordPlace::of(&PRODUCT), &context)
        };
        let (own, relay) = (client(&[]), client(&[RELAY]));
        assert!(Arc::ptr_eq(&own.api, &own.http) && !Arc::ptr_eq(&own.http, &context.http));
        assert!(Arc::ptr_eq(&relay.api, &context.http) && !Arc::ptr_eq(&relay.http, &context.http));
    }
}
