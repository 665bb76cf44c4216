//! From events to batches, on threads for blocking work and ahead of their sending: compression is what costs most of all.
//!
//! The batches of a page are made one after the other, while those before them are under way and while the page before is still being
//! sent. So a page takes as long as the intake's answer, and not the time to make its bodies besides.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::batch::Batch;
use super::entry::{EntryWriter, Form};
use super::{Compression, IN_FLIGHT};
use crate::destination::Error;
use crate::event::Event;

/// What was made for a moment serves for so long after it. Entries are dated anew when they are 17 hours old, an hour before the
/// intake would drop them, so that minutes do no harm.
const FRESH: Duration = Duration::from_secs(60);

/// Makes batches.
#[derive(Debug, Clone)]
pub(super) struct Packer {
    pub(super) entries: Arc<EntryWriter>,
    pub(super) compression: Compression,
}

impl Packer {
    /// Makes a batch from the beginning of `range`.
    pub(super) async fn pack(
        &self,
        events: &Arc<[Event]>,
        range: Range<usize>,
        form: Form,
        now: Timestamp,
    ) -> Result<Batch, Error> {
        let (Self { entries, compression }, events) = (self.clone(), Arc::clone(events));
        let packing = move || Batch::fill(&entries, &events, range, form, now, compression);
        match tokio::task::spawn_blocking(packing).await {
            Ok(packed) => packed.map_err(Error::Batch),
            // A bug is to end the process as one.
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            Err(stopped) => Err(Error::Batch(std::io::Error::other(stopped))),
        }
    }

    /// How many batches are made before the first of them is wanted: few where they are large.
    fn most_ahead(&self) -> usize {
        if self.compression == Compression::Identity { 1 } else { IN_FLIGHT }
    }
}

/// The batches of a page, in order. No more are made when it is dropped.
#[derive(Debug)]
pub(super) struct Batches {
    now: Timestamp,
    packed: mpsc::Receiver<Result<Batch, Error>>,
    packing: Option<AbortOnDropHandle<()>>,
}

impl Batches {
    /// Begins to make the batches of these ranges of `events`, all to be sent at about `now`.
    pub(super) fn begin(packer: &Packer, events: &Arc<[Event]>, ranges: &[Range<usize>], now: Timestamp) -> Self {
        let (sender, packed) = mpsc::channel(packer.most_ahead());
        let (packer, events, ranges) = (packer.clone(), Arc::clone(events), ranges.to_vec());
        let packing = AbortOnDropHandle::new(tokio::spawn(async move {
            for mut range in ranges {
                while !range.is_empty() {
                    let batch = packer.pack(&events, range.clone(), Form::Whole, now).await;
                    range.start = batch.as_ref().map_or(range.end, |batch| batch.range.end);
                    if sender.send(batch).await.is_err() {
                        return;
                    }
                }
            }
        }));
        Self { now, packed, packing: Some(packing) }
    }

    /// Whether they may still be sent at `now`.
    pub(super) fn are_fresh(&self, now: Timestamp) -> bool {
        now.duration_since(self.now).unsigned_abs() <= FRESH
    }

    /// The next batch; none behind the last. Waiting for it can be broken off without a loss.
    pub(super) async fn next(&mut self) -> Option<Result<Batch, Error>> {
        if let Some(batch) = self.packed.recv().await {
            return Some(batch);
        }
        // It has ended, and perhaps before its time.
        match self.packing.take()?.await {
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            _ => None,
        }
    }
}
