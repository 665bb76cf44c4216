//! The Datadog logs intake, as described at `docs.datadoghq.com/api/latest/logs` (send logs).
//!
//! | module | job |
//! |---|---|
//! | [`entry`], `text` | one event as an entry |
//! | [`batch`], [`compressor`], `packing` | bodies, made ahead on threads for blocking work |
//! | `client` | the requests, up to eight at a time |
//! | [`response`] | what an answer means |
//! | `isolate`, `doubt`, `examine` | finding the entries that the intake refuses by themselves |
//! | `ledger` | what became of each event, and the dead letters that are due |
//! | `intake_clock` | whether the intake's clock counts |
//! | `misdated` | entries that a wrong clock spoiled |

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::header::HeaderValue;
use url::Url;

use super::{Acknowledged, Delivery, Destination, Kind, PageNumber, Printer, Shipment, Tally};
use crate::clock::LocalTime;
use crate::component::{Check, Configured, Context};
use crate::failure::{Chain, Class, Failure};
use crate::http::Tls;
use crate::secret::Secret;
use crate::telemetry::liveness::Heartbeat;
use crate::variable_name::VariableName;
use client::Client;
use entry::{EntryWriter, Form, RecordPlace};
use error::Error;
use ledger::{Ledger, Work};
use packing::Batches;
pub use response::Intake;

pub mod batch;
mod client;
pub mod compressor;
mod doubt;
pub mod entry;
mod error;
mod examine;
mod intake_clock;
mod intake_url;
mod isolate;
mod ledger;
mod misdated;
mod packing;
pub mod response;
mod site;
mod tags;
mod text;
pub(crate) mod variables;

/// The destination's entry in the registry.
pub const KIND: Kind = Kind {
    name: "datadog",
    title: "Datadog",
    variables: variables::VARIABLES,
    oldest: Some(entry::OLDEST),
    read: |reader, source| {
        let settings = variables::settings(&source.product, reader)?;
        let (key, place) = (settings.api_key.clone(), RecordPlace::of(&source.product));
        let build = move |context: &Context| -> Arc<dyn Destination> {
            Arc::new(Datadog::new(settings.clone(), place, context))
        };
        Ok(Configured::new(build).with_secrets([key]))
    },
    preview: |reader, source| {
        let (labels, place) = (variables::labels(&source.product, reader)?, RecordPlace::of(&source.product));
        Ok(Configured::new(move |context: &Context| -> Arc<dyn Destination> {
            let entries = EntryWriter::new(&labels, place);
            Arc::new(Printer::to_stdout(context.metrics.clone(), move |out, event, now| {
                let marks = entries.write(out, event, Form::Whole, now);
                Tally { restamped: usize::from(marks.restamped), truncated: usize::from(marks.cut), ..Tally::default() }
            }))
        }))
    },
    archive: None,
};

/// The most requests under way at a time. A page of 5000 records takes five requests, which can then all go at once.
const IN_FLIGHT: usize = 8;

/// The settings of the intake.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The intake's base address; `/api/v2/logs` is added to it.
    pub intake_url: Url,
    /// Whose intake it is, which decides what its answers mean.
    pub intake: Intake,
    /// The variable that chose `intake_url`; messages name it when the address proves wrong.
    pub intake_variable: VariableName,
    /// The Datadog site, such as `datadoghq.com`.
    pub site: String,
    /// The API's base address for the key check (`/api/v1/validate`).
    pub api_url: Url,
    /// The API key.
    pub api_key: Secret,
    /// The files of TLS, for the server at `intake_url`.
    pub tls: Tls,
    /// How request bodies are compressed.
    pub compression: Compression,
    /// What every entry carries.
    pub labels: Labels,
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
    /// gzip, which Datadog documents.
    Gzip,
    /// zstd: smaller and cheaper. The intake accepts it, though Datadog does not document it.
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
pub struct Datadog(Arc<Client>);

impl Datadog {
    /// Makes the destination of the pipeline in `context`. It puts records at `place` in their entries.
    pub fn new(settings: Settings, place: impl Into<RecordPlace>, context: &Context) -> Self {
        Self(Arc::new(Client::new(settings, place.into(), context)))
    }
}

#[async_trait]
impl Destination for Datadog {
    fn location(&self) -> String {
        self.0.address().to_string()
    }

    fn note_source_time(&self, theirs: Option<Timestamp>, ours: Timestamp) {
        self.0.intake_clock.note_source(theirs, ours);
    }

    fn open(&self, shipment: Shipment, now: Timestamp) -> Box<dyn Delivery> {
        let client = Arc::clone(&self.0);
        let work = Work::new(shipment.events);
        let prepared =
            Batches::begin(&client.packer, work.progress.events(), work.progress.outstanding(), client.present(now));
        Box::new(Sending { client, page: shipment.page, work, prepared: Some(prepared) })
    }

    async fn check(&self, now: LocalTime) -> Vec<Check> {
        let key = match self.0.check_key().await {
            Ok(()) => Check::works("API key", "valid"),
            // The API is another host than the intake. A firewall may block it alone, and delivery does not need it.
            Err(error) if matches!(error.class(), Class::Retryable { .. }) => {
                Check::unknown("API key", Chain(&error).to_string())
            }
            Err(error) => Check::failed("API key", error),
        };
        let entry = match self.0.check_entry(self.0.present(now.wall)).await {
            Ok(()) => Check::works("test entry", format!("accepted by {}", self.0.address())),
            Err(error) => Check::failed("test entry", error),
        };
        vec![key, entry]
    }
}

/// The delivery of a page.
struct Sending {
    client: Arc<Client>,
    page: PageNumber,
    work: Work,
    /// Batches packed ahead of the first attempt.
    prepared: Option<Batches>,
}

#[async_trait]
impl Delivery for Sending {
    async fn attempt(&mut self, now: Timestamp, heart: &Heartbeat) -> Result<Acknowledged, Failure> {
        let client = &self.client;
        let sent_at = client.present(now);
        let prepared = self.prepared.take().filter(|batches| batches.are_fresh(sent_at));
        let ledger = Ledger::of(&mut self.work, heart, &client.metrics);
        // Dead letters that an earlier attempt could not write: their events are outstanding, but must not be sent.
        ledger.write_letters(&client.dead_letters, sent_at).await?;
        let batches =
            prepared.unwrap_or_else(|| Batches::begin(&client.packer, &ledger.events, &ledger.undoubted(), sent_at));
        let written_for = batches.written_for();
        client.attempt(&ledger, batches, written_for).await?;
        if self.work.progress.is_complete() {
            return Ok(Acknowledged::up_to(self.page));
        }
        Err(Error::Batch(std::io::Error::other("the batches of a page ended before the page")).into())
    }

    fn tally(&self) -> Tally {
        self.work.progress.tally()
    }

    fn unanswered(&self) -> usize {
        self.work.progress.unanswered()
    }
}
