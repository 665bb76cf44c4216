//! The HTTP inputs of Fluentd (`docs.fluentd.org/input/http`) and Fluent Bit (`docs.fluentbit.io`, inputs, HTTP).
//!
//! Events go as JSON arrays under `application/json`, the one form that both take as a batch, or as one object per
//! request. The path of the address is the tag. Only one request is under way at a time, which keeps the order.
//!
//! | module | job |
//! |---|---|
//! | `record` | one event as an object that no receiver drops |
//! | `batch` | request bodies |
//! | `client` | one request, and the meaning of its answer |
//! | `sending` | the delivery of a page; halves refused batches |
//! | `evidence` | whether a refused record is at fault, or the receiver |
//! | `guide` | what `auditsync certs` prints |
//!
//! # Ways to lose events with a 200
//!
//! A receiver answers 200 when its router has taken the records. The table lists the known ways to lose them after
//! that; `docs/FLUENTD.md` tells operators.
//!
//! | loss | here |
//! |---|---|
//! | malformed JSON is dropped | impossible: auditsync sends valid JSON only, see `record` |
//! | a record in an array that is not an object is skipped | impossible: auditsync sends objects only |
//! | the parser removes `time`, and loses the fraction of the second | auditsync sends the time under `evt_time`, too |
//! | no match rule takes an empty tag | impossible: the configuration refuses an address without a path |
//! | a memory buffer is lost in a crash of the receiver | documented: `<buffer>` with `@type file` in the output |
//! | a `<buffer>` in `<source>` has no effect | documented; `auditsync certs` prints it in the output |
//! | no match rule takes the tag | documented, and `check` says so |

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use url::Url;

use super::{Delivery, Destination, Kind, Printer, Shipment, Tally};
use crate::clock::LocalTime;
use crate::component::{Check, Configured, Context};
use crate::config::{Noted, Reader};
use crate::http::{Address, Tls};
use crate::source;
use crate::variable_name::VariableName;
use client::{Client, Setback};
use error::Error;
#[cfg(feature = "tls")]
pub(crate) use guide::certificates_guide;
use sending::Sending;

mod batch;
mod client;
mod error;
mod evidence;
#[cfg(feature = "tls")]
mod guide;
mod record;
mod sending;
pub(crate) mod variables;

/// The destination's entry in the registry.
pub const KIND: Kind = Kind {
    name: "fluentd",
    title: "Fluentd and Fluent Bit",
    variables: variables::VARIABLES,
    oldest: None,
    read: |reader, _| {
        let settings = variables::settings(reader)?;
        Ok(Configured::new(move |context| -> Arc<dyn Destination> {
            Arc::new(Fluentd::new(settings.clone(), context))
        }))
    },
    preview,
    archive: None,
};

/// The settings of the receiver.
#[derive(Debug, Clone)]
struct Settings {
    /// The address of the receiver; its path is the tag.
    url: Url,
    url_variable: VariableName,
    /// The address for events of recorded sessions, to which `.<id>.log` is added; none sends them to `url`.
    session_url: Option<Url>,
    session_variable: VariableName,
    tls: Tls,
    ca_variable: VariableName,
    certificate_variable: VariableName,
    /// The most events in a request.
    records: usize,
    /// The largest body of several events before compression, in bytes.
    bytes: usize,
    compression: Compression,
    compression_variable: VariableName,
}

/// How request bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// No compression, which every version takes.
    None,
    /// gzip, which Fluentd takes, and Fluent Bit from 2.2.1 on.
    Gzip,
}

#[allow(clippy::unnecessary_wraps, reason = "the registry's signature")]
fn preview(_: &mut Reader<'_>, _: &source::Kind) -> Result<Configured<dyn Destination>, Noted> {
    Ok(Configured::new(|context: &Context| -> Arc<dyn Destination> {
        Arc::new(Printer::to_stdout(context.metrics.clone(), |out, event, _| {
            record::write(out, event);
            Tally::default()
        }))
    }))
}

/// A receiver as a destination.
#[derive(Debug)]
struct Fluentd(Arc<Client>);

impl Fluentd {
    fn new(settings: Settings, context: &Context) -> Self {
        Self(Arc::new(Client::new(settings, context)))
    }

    async fn check_tag(&self, session: Option<&str>, now: Timestamp) -> Check {
        const PART: &str = "test event";
        let event = serde_json::json!({
            "auditsync": "check",
            "message": "auditsync check: a test event, to be ignored",
            record::TIME_KEY: now.to_string(),
        });
        let address = Address::of(&self.0.target(session).0);
        match self.0.post_own(session, event.to_string().into_bytes()).await {
            Ok(()) => Check::works(PART, format!("accepted by {address}")),
            Err(Setback::Failed(error)) => Check::failed(PART, error),
            Err(Setback::Refused { reason, .. }) => Check::failed(PART, self.0.refuses_all(address, reason, None)),
        }
    }
}

#[async_trait]
impl Destination for Fluentd {
    fn location(&self) -> String {
        Address::of(&self.0.settings.url).to_string()
    }

    fn open(&self, shipment: Shipment, _now: Timestamp) -> Box<dyn Delivery> {
        Box::new(Sending::new(Arc::clone(&self.0), shipment))
    }

    async fn check(&self, now: LocalTime) -> Vec<Check> {
        let mut checks = vec![self.check_tag(None, now.wall).await];
        if self.0.settings.session_url.is_some() {
            checks.push(self.check_tag(Some("check"), now.wall).await);
        }
        checks.push(Check::unknown(
            "delivery",
            "the receiver may only have buffered the accepted event: look for the event with \"auditsync\":\"check\" at the end of its \
             outputs. If it is not there, no match rule takes the tag, or the <parse> section dropped it",
        ));
        checks
    }
}

impl Client {
    /// Makes the error for a receiver that refuses every record; `record` is one that it refused.
    fn refuses_all(&self, address: Address, reason: String, record: Option<&[u8]>) -> Error {
        let mut hint = String::new();
        if record.is_some_and(record::has_time_as_text) {
            hint.push_str(
                "; Fluentd without <parse> refuses a record with a text under `time`: add <parse> with @type json",
            );
        }
        if self.settings.compression == Compression::Gzip {
            hint.push_str("; Fluent Bit before 2.2.1 does not read gzip: set ");
            hint.push_str(self.settings.compression_variable.as_str());
            hint.push_str("=none");
        }
        Error::RefusesAll { address, reason, hint }
    }
}
