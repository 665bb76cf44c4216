//! An object in the making: compresses rows as they come, and uploads a large object in parts.

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use super::bucket::Bucket;
use super::encoder::{Compression, Encoder};
use super::error::Error;
use super::upload::Part;
use crate::aws::digest::{Hasher, Sha256};
use crate::destination::PageNumber;
use crate::destination::printer::end_line;
use crate::event::Event;
use crate::source::Cursor;

/// The size of a part: the smallest that S3 takes. S3 takes at most 10,000 parts.
const PART: usize = 5 * 1024 * 1024;

pub(super) struct Object {
    key: String,
    opened: Instant,
    encoder: Encoder,
    hasher: Hasher,
    /// Compressed bytes that were taken out of the encoder.
    bytes: u64,
    raw_bytes: usize,
    rows: u64,
    first_event: Option<Timestamp>,
    last_event: Option<Timestamp>,
    /// The newest page whose rows are all in the object, and the cursor after it.
    up_to: Option<(PageNumber, Cursor)>,
    /// Whether the object holds a part of another page.
    is_in_page: bool,
    upload: Option<Upload>,
    /// Bytes that are being sent to the store.
    leaving: Bytes,
    is_finished: bool,
    is_written: bool,
}

struct Upload {
    id: String,
    parts: Vec<Part>,
}

/// An object that is in the bucket.
pub(super) struct Written {
    pub(super) key: String,
    pub(super) bytes: u64,
    pub(super) sha256: Sha256,
    pub(super) rows: u64,
    pub(super) first_event: Option<Timestamp>,
    pub(super) last_event: Option<Timestamp>,
}

impl Object {
    pub(super) fn open(key: String, compression: Compression) -> Result<Self, Error> {
        Ok(Self {
            key,
            opened: Instant::now(),
            encoder: Encoder::new(compression)?,
            hasher: Hasher::default(),
            bytes: 0,
            raw_bytes: 0,
            rows: 0,
            first_event: None,
            last_event: None,
            up_to: None,
            is_in_page: false,
            upload: None,
            leaving: Bytes::new(),
            is_finished: false,
            is_written: false,
        })
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// The bytes of rows before compression.
    pub(super) fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// Adds a row for each event.
    pub(super) fn append(&mut self, events: &[Event]) -> Result<(), Error> {
        if self.is_finished {
            return Err(Error::NotOpen);
        }
        let mut rows = Vec::with_capacity(events.iter().map(|event| event.raw().len() + 1).sum());
        for event in events {
            let start = rows.len();
            rows.extend_from_slice(event.raw());
            end_line(&mut rows, start);
            if let Some(time) = event.time() {
                self.first_event = Some(self.first_event.map_or(time, |first| first.min(time)));
                self.last_event = Some(self.last_event.map_or(time, |last| last.max(time)));
            }
        }
        self.is_in_page = true;
        self.encoder.write(&rows)?;
        self.rows += events.len() as u64;
        self.raw_bytes += rows.len();
        Ok(())
    }

    /// Notes that all rows of `page` are in the object.
    pub(super) fn page_ends(&mut self, page: PageNumber, to: &Cursor) {
        self.is_in_page = false;
        self.up_to = Some((page, to.clone()));
    }

    /// The newest page in it, and the cursor after it; none while it holds a part of a page, which cannot be removed.
    pub(super) fn complete_to(&self) -> Option<(PageNumber, Cursor)> {
        self.up_to.clone().filter(|_| !self.is_in_page)
    }

    /// Uploads every part that is full.
    pub(super) async fn upload_full_parts(&mut self, bucket: &Bucket) -> Result<(), Error> {
        while self.leaving.len() == PART || self.encoder.compressed().len() >= PART {
            self.upload_part(bucket).await?;
        }
        Ok(())
    }

    /// Writes all rows as an object in the bucket. The caller may drop the call, and repeats it until it succeeds.
    pub(super) async fn write(&mut self, bucket: &Bucket) -> Result<Written, Error> {
        self.is_finished = true;
        self.encoder.finish()?;
        while !self.is_written {
            if self.upload.is_some() || self.leaving.len() + self.encoder.compressed().len() > PART {
                self.upload_rest(bucket).await?;
            } else {
                self.take(PART);
                bucket.put_rows(&self.key, self.leaving.clone()).await?;
            }
            self.is_written = true;
            self.leaving = Bytes::new();
        }
        Ok(Written {
            key: self.key.clone(),
            bytes: self.bytes,
            sha256: self.hasher.digest(),
            rows: self.rows,
            first_event: self.first_event,
            last_event: self.last_event,
        })
    }

    async fn upload_rest(&mut self, bucket: &Bucket) -> Result<(), Error> {
        while !(self.leaving.is_empty() && self.encoder.compressed().is_empty()) {
            self.upload_part(bucket).await?;
        }
        let Some(Upload { id, parts }) = &self.upload else { return Ok(()) };
        // An earlier request may have completed the upload without an answer.
        if bucket.complete_upload(&self.key, id, parts).await? || bucket.size(&self.key).await? == Some(self.bytes) {
            return Ok(());
        }
        Err(Error::UploadGone { location: bucket.location(&self.key) })
    }

    async fn upload_part(&mut self, bucket: &Bucket) -> Result<(), Error> {
        self.take(PART);
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(Upload { id: bucket.begin_upload(&self.key).await?, parts: Vec::new() }),
        };
        let number = i32::try_from(upload.parts.len()).unwrap_or(i32::MAX).saturating_add(1);
        upload.parts.push(bucket.upload_part(&self.key, &upload.id, number, self.leaving.clone()).await?);
        self.leaving = Bytes::new();
        Ok(())
    }

    /// Takes at most this many compressed bytes out of the encoder to send them, unless others are being sent.
    fn take(&mut self, most: usize) {
        if !self.leaving.is_empty() {
            return;
        }
        let compressed = self.encoder.compressed();
        let rest = compressed.split_off(most.min(compressed.len()));
        let taken = std::mem::replace(compressed, rest);
        self.hasher.update(&taken);
        self.bytes += taken.len() as u64;
        self.leaving = taken.into();
    }

    /// Its key, and its incomplete upload, if it has one.
    pub(super) fn into_upload(self) -> Option<(String, String)> {
        let upload = self.upload.filter(|_| !self.is_written)?;
        Some((self.key, upload.id))
    }
}
