//! Makes dead letters of files and records that cannot be read. Each tells an operator how to find the original.

use serde::Serialize;

use super::ahead::Wanted;
use super::bucket::location;
use super::error::{Error, Unreadable};
use super::reader::Invalid;
use crate::clock::Clock;
use crate::dead_letter::{DeadLetters, Fate};
use crate::event::{Event, Field, Fields};
use crate::telemetry::metrics::Metrics;

/// Keeps dead letters.
pub(super) struct Letters {
    kept: DeadLetters,
    metrics: Metrics,
    clock: Clock,
}

/// A file, or a record in it.
#[derive(Serialize)]
struct Letter<'a> {
    bucket: &'a str,
    key: &'a str,
    /// The number of its delivered records.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<u64>,
    /// The record's number in the file, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl Letters {
    pub(super) fn new(dead_letters: DeadLetters, metrics: Metrics, clock: Clock) -> Self {
        Self { kept: dead_letters, metrics, clock }
    }

    /// Keeps a file that cannot be read after its first `delivered` records.
    pub(super) async fn file(&self, wanted: &Wanted, delivered: u64, reason: &Unreadable) -> Result<(), Error> {
        let Wanted { bucket, key, .. } = wanted;
        let letter = Letter { bucket, key, delivered: Some(delivered), record: None, text: None };
        self.keep(wanted, &letter, &reason.to_string()).await
    }

    /// Keeps a record that is not a JSON object.
    pub(super) async fn record(&self, wanted: &Wanted, invalid: &Invalid) -> Result<(), Error> {
        let Wanted { bucket, key, .. } = wanted;
        let text = String::from_utf8_lossy(&invalid.bytes);
        let letter = Letter { bucket, key, delivered: None, record: Some(invalid.number), text: Some(&text) };
        self.keep(wanted, &letter, "a record of the file is not a JSON object").await
    }

    async fn keep(&self, wanted: &Wanted, letter: &Letter<'_>, reason: &str) -> Result<(), Error> {
        let raw = serde_json::to_string(letter).map_err(Error::Letter)?;
        let id = location(&wanted.bucket, &wanted.key);
        let event = Event::new(raw.into(), None, Fields::default()).with_derived(vec![(Field::Id, id.into())]);
        self.kept.keep(&event, Fate::Unreadable, reason, self.clock.now()).await?;
        self.metrics.dead_lettered();
        Ok(())
    }
}
