//! Batches: each holds as many entries as the intake takes in one body.

use std::io;
use std::ops::Range;

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::Compression;
use super::compressor::Compressor;
use super::entry::{EntryWriter, Form};
use crate::event::Event;

/// The most entries in one request.
pub const MOST_ENTRIES: usize = 1000;

/// The largest body before compression, in bytes, with its brackets and commas.
pub const LARGEST_BODY: usize = 5_000_000;

/// The usual size of an entry, for the first guess at a body's size.
const USUAL_ENTRY: usize = 1_000;

/// Buffers and tables for making batches, reused from one batch to the next.
#[derive(Debug)]
pub struct Workbench {
    /// The body before compression.
    body: Vec<u8>,
    compressor: Compressor,
}

impl Workbench {
    /// A workbench for bodies of this kind.
    pub fn new(compression: Compression) -> io::Result<Self> {
        Ok(Self { body: Vec::new(), compressor: Compressor::new(compression)? })
    }
}

/// A request body, and which events it carries.
#[derive(Debug)]
pub struct Batch {
    /// The events that it carries.
    pub range: Range<usize>,
    /// The body as it is sent.
    pub body: Vec<u8>,
    /// The body's size before compression, in bytes.
    pub uncompressed: usize,
    /// The number of entries that carry the present time instead of their own.
    pub restamped: usize,
    /// The events whose entries are cut.
    pub cut: Vec<usize>,
    /// Its share of the bytes that may be under way. Dropping the batch gives it back.
    room: Option<OwnedSemaphorePermit>,
}

impl Batch {
    /// Writes events from the beginning of `range`: as many as fit into one request, and at least one.
    pub fn fill(
        workbench: &mut Workbench,
        entries: &EntryWriter,
        events: &[Event],
        range: Range<usize>,
        form: Form,
        now: Timestamp,
    ) -> io::Result<Self> {
        let Workbench { body, compressor } = workbench;
        let end = range.end.min(range.start.saturating_add(MOST_ENTRIES)).min(events.len());
        let mut batch = Self {
            range: range.start..range.start,
            body: Vec::new(),
            uncompressed: 0,
            restamped: 0,
            cut: Vec::new(),
            room: None,
        };
        let raw: usize = events.get(range.start..end).unwrap_or_default().iter().map(|event| event.raw().len()).sum();
        body.clear();
        body.reserve(LARGEST_BODY.min(raw + (end - range.start) * USUAL_ENTRY));
        body.push(b'[');
        for (index, event) in events.iter().enumerate().take(end).skip(range.start) {
            let before = body.len();
            if index > range.start {
                body.push(b',');
            }
            let marks = entries.write(body, event, form, now);
            // An entry is never larger than a body, so the first always fits.
            if body.len() + 1 > LARGEST_BODY && index > range.start {
                body.truncate(before);
                break;
            }
            batch.range.end = index + 1;
            batch.restamped += usize::from(marks.restamped);
            if marks.cut {
                batch.cut.push(index);
            }
        }
        body.push(b']');
        batch.uncompressed = body.len();
        batch.body = compressor.compress(body)?;
        Ok(batch)
    }

    /// Keeps the part of `largest` that the batch's body needs, and gives back the rest.
    #[must_use]
    pub(super) fn holding(mut self, largest: Option<OwnedSemaphorePermit>) -> Self {
        self.room = largest.and_then(|mut largest| largest.split(self.body.len().min(largest.num_permits())));
        self
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::destination::datadog::Labels;
    use crate::source::sectigo::page;

    fn fill(events: &[Event], range: Range<usize>) -> Batch {
        let empty = String::new;
        let labels = Labels { source: empty(), service: empty(), hostname: empty(), tags: empty() };
        let writer = EntryWriter::new(&labels, "sectigo");
        let mut workbench = Workbench::new(Compression::Identity).unwrap();
        Batch::fill(&mut workbench, &writer, events, range, Form::Whole, Timestamp::UNIX_EPOCH).unwrap()
    }

    fn events(count: usize, size: usize) -> Vec<Event> {
        let record = format!(r#"{{"details":"{}"}}"#, "x".repeat(size));
        page::records(&Bytes::from(format!("[{}]", vec![record; count].join(",")))).unwrap()
    }

    #[test]
    fn a_batch_holds_at_most_a_thousand_entries() {
        let events = events(1500, 1);
        assert_eq!(fill(&events, 0..1500).range, 0..1000);
        assert_eq!(fill(&events, 1000..1500).range, 1000..1500);
        assert_eq!(fill(&events, 3..7).range, 3..7);
    }

    #[test]
    fn a_batch_is_filled_to_the_byte_and_no_further() {
        // One entry's size is known from a batch of one; the fixed part is two brackets, and commas between.
        for size in [9_000, 49_900, 900_000] {
            let events = events(1000, size);
            let one = fill(&events, 0..1).body.len() - 2;
            let batch = fill(&events, 0..1000);
            let expected = (LARGEST_BODY - 1) / (one + 1);
            assert_eq!(batch.range.len(), expected.min(1000));
            assert!(batch.body.len() <= LARGEST_BODY);
            let entries: Vec<serde::de::IgnoredAny> = serde_json::from_slice(&batch.body).unwrap();
            assert_eq!(entries.len(), batch.range.len());
        }
    }
}
