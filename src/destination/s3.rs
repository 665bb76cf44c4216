//! An archive in an S3 bucket that can prove itself: compressed NDJSON objects, and a chain of manifests over them.
//!
//! The archiver gathers events into an object until the object is large or old enough, or the process stops. It writes
//! the object, then its manifest, and only then acknowledges the pages in it. It writes each manifest with
//! `If-None-Match` under its number, so each number has one writer. A manifest holds the SHA-256 of the object, the
//! SHA-256 of the manifest before it, and the cursor after the object. The state holds the SHA-256 of the newest
//! manifest.
//!
//! | killed between | the next start |
//! |---|---|
//! | object and manifest | gathers the rows again, into an object of another name; deletes the first object when the new one has its manifest |
//! | manifest and state | adopts the manifest: it continues from the cursor in it |
//!
//! | module | job |
//! |---|---|
//! | `bucket`, `upload` | one request to S3, and what its answer means |
//! | `layout` | the keys |
//! | `encoder`, `object` | gathering rows, and writing the object |
//! | `manifest` | the record of an object, and its place in the chain |
//! | `chain` | the manifests so far: finds their end, and adds one |
//! | `gathering` | the delivery of a page |
//! | `check`, `verify` | `auditsync check` and `auditsync verify` |

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytesize::ByteSize;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Acknowledged, Archive, Delivery, Destination, Kind, Mark, Printer, Resumed, Shipment, Tally};
use crate::aws::encryption::Encryption;
use crate::clock::LocalTime;
use crate::component::{Check, Configured, Context};
use crate::config::{Noted, Reader};
use crate::failure::Failure;
use crate::pipeline_name::PipelineName;
use crate::source::{self, Cursor};
use crate::telemetry::metrics::Metrics;
use aws_sdk_s3::types::StorageClass;
use bucket::Bucket;
use chain::Chain;
use encoder::Compression;
use error::Error;
use gathering::Gathering;
use layout::{Layout, Template};
use object::Object;

mod bucket;
mod chain;
mod check;
mod encoder;
mod error;
mod gathering;
mod layout;
mod manifest;
mod object;
mod upload;
pub(crate) mod variables;
mod verify;

/// The destination's entry in the registry.
pub const KIND: Kind = Kind {
    name: "s3",
    title: "Archive in S3",
    variables: variables::VARIABLES,
    oldest: None,
    read: |reader, source| {
        let settings = variables::settings(reader)?;
        Ok(Configured::new(move |context| -> Arc<dyn Destination> {
            Arc::new(S3(Arc::new(Archiver::new(&settings, source, context))))
        }))
    },
    preview,
    archive: Some(|reader, source| {
        let settings = variables::settings(reader)?;
        Ok(Configured::new(move |context| -> Arc<dyn Archive> {
            Arc::new(S3(Arc::new(Archiver::new(&settings, source, context))))
        }))
    }),
};

/// The settings of an archive.
#[derive(Debug, Clone)]
struct Settings {
    bucket: String,
    /// The beginning of all keys, without a slash at either end; may be empty.
    prefix: String,
    /// The template for the rest of an object's key.
    template: Template,
    force_path_style: bool,
    /// The encryption; none for the bucket's default.
    encryption: Option<Encryption>,
    /// The storage class of objects. Each start reads manifests, so they have the store's usual class.
    storage_class: Option<StorageClass>,
    compression: Compression,
    /// The size before compression from which an object is closed.
    max_size: ByteSize,
    /// The age of an object at which it is closed.
    max_age: Duration,
}

#[allow(clippy::unnecessary_wraps, reason = "the registry's signature")]
fn preview(_: &mut Reader<'_>, _: &source::Kind) -> Result<Configured<dyn Destination>, Noted> {
    Ok(Configured::new(|context: &Context| -> Arc<dyn Destination> {
        Arc::new(Printer::to_stdout(context.metrics.clone(), |out, event, _| {
            out.extend_from_slice(event.raw());
            Tally::default()
        }))
    }))
}

/// The archive as a destination.
struct S3(Arc<Archiver>);

/// Writes the archive of one pipeline.
struct Archiver {
    bucket: Bucket,
    layout: Layout,
    pipeline: PipelineName,
    reached: fn(&Cursor) -> Result<Timestamp, Failure>,
    metrics: Metrics,
    compression: Compression,
    max_size: ByteSize,
    max_age: Duration,
    state: tokio::sync::Mutex<State>,
    /// The time by which the open object must be closed.
    due: Mutex<Option<Instant>>,
}

/// The archive as far as it is known, and the rows gathered for it.
#[derive(Default)]
struct State {
    /// None until the pipeline has started once.
    chain: Option<Chain>,
    object: Option<Object>,
    /// Objects of earlier attempts at the next manifest. The archiver deletes them when it has written that manifest.
    leftovers: Vec<String>,
}

impl Archiver {
    fn new(settings: &Settings, source: &source::Kind, context: &Context) -> Self {
        let template = settings.template.clone();
        let ending = settings.compression.ending();
        let layout = Layout::new(&settings.prefix, template, ending, source.product.name, &context.pipeline);
        Self {
            bucket: Bucket::new(settings, context.http.settings()),
            layout,
            pipeline: context.pipeline.clone(),
            reached: source.reached,
            metrics: context.metrics.clone(),
            compression: settings.compression,
            max_size: settings.max_size,
            max_age: settings.max_age,
            state: tokio::sync::Mutex::default(),
            due: Mutex::default(),
        }
    }

    fn location(&self) -> String {
        self.bucket.location(self.layout.prefix())
    }

    /// Writes the open object and its manifest. The caller may drop the call at any await, and repeat it.
    async fn close(&self, state: &mut State) -> Result<Acknowledged, Error> {
        let (Some(object), Some(chain)) = (&mut state.object, &mut state.chain) else {
            return Ok(Acknowledged::default());
        };
        let Some((page, to)) = object.complete_to() else { return Ok(Acknowledged::default()) };
        let written = object.write(&self.bucket).await?;
        let manifest = chain.next(&self.layout, &self.pipeline, &to, written);
        chain.add(&self.bucket, &self.layout, &manifest).await?;
        while let Some(key) = state.leftovers.last() {
            self.bucket.delete_leftover(key).await?;
            state.leftovers.pop();
        }
        // No await may follow: a dropped call must not leave these changes half done.
        let mark = chain.added(&manifest)?;
        tracing::debug!(
            object = manifest.object,
            rows = manifest.rows,
            bytes = manifest.bytes,
            "an object is archived"
        );
        let rows = usize::try_from(manifest.rows).unwrap_or(usize::MAX);
        self.metrics.body_sent(object.raw_bytes(), usize::try_from(manifest.bytes).unwrap_or(usize::MAX));
        self.metrics.accepted(rows, 0, 0, manifest.last_event);
        state.object = None;
        *self.due.lock() = None;
        Ok(Acknowledged { up_to: Some(page), mark: Some(mark) })
    }

    /// Forgets the gathered rows.
    fn forget(self: &Arc<Self>, state: &mut State) {
        *self.due.lock() = None;
        state.leftovers.clear();
        let Some(object) = state.object.take() else { return };
        if let Some((key, upload)) = object.into_upload() {
            let archiver = Arc::clone(self);
            tokio::spawn(async move { archiver.bucket.abort(&key, &upload).await });
        }
    }
}

#[async_trait]
impl Destination for S3 {
    fn location(&self) -> String {
        self.0.location()
    }

    async fn resume(&self, cursor: &Cursor, mark: Option<&Mark>) -> Result<Option<Resumed>, Failure> {
        let Self(archiver) = self;
        let mut state = archiver.state.lock().await;
        archiver.forget(&mut state);
        state.chain = None;
        let (chain, resumed) = Chain::resume(archiver, cursor, mark).await?;
        let cursor = resumed.as_ref().map_or(cursor, |resumed| &resumed.cursor);
        let attempts = archiver.layout.attempts(chain.manifests(), (archiver.reached)(cursor)?);
        state.leftovers = archiver.bucket.list(&attempts).await?;
        archiver.bucket.abort_all(&attempts).await;
        state.chain = Some(chain);
        Ok(resumed)
    }

    fn open(&self, shipment: Shipment, _now: Timestamp) -> Box<dyn Delivery> {
        Box::new(Gathering::new(Arc::clone(&self.0), shipment))
    }

    fn flush_due(&self) -> Option<Instant> {
        *self.0.due.lock()
    }

    async fn flush(&self) -> Result<Acknowledged, Failure> {
        let mut state = self.0.state.lock().await;
        Ok(self.0.close(&mut state).await?)
    }

    fn discard(&self) {
        // The lock is free, because the deliveries have been dropped. If not, the next start forgets the rows.
        if let Ok(mut state) = self.0.state.try_lock() {
            self.0.forget(&mut state);
        }
    }

    async fn check(&self, _now: LocalTime) -> Vec<Check> {
        self.0.check().await
    }
}
