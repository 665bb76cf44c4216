//! Packing of events into batches, ahead of their sending and on threads for blocking work, because compression costs
//! most of all.
//!
//! It makes the batches of a page one after the other, while earlier batches and the page before are still being sent.
//! So a page takes as long as the intake's answers, without the time to make its bodies.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::batch::{Batch, LARGEST_BODY, Workbench};
use super::entry::{EntryWriter, Form};
use super::error::Error;
use super::{Compression, IN_FLIGHT};
use crate::event::Event;
use crate::task;

/// How long before or after its moment a batch may be sent. Entries get a new date when they are 17 hours old, an hour
/// before the intake would drop them, so a few minutes do no harm.
const FRESH: Duration = Duration::from_secs(300);

/// The most bytes of a page's bodies that are packed but not answered. Two pages are under way at a time, so all bodies
/// take less than twice as much memory, however well the entries compress.
const MOST_BYTES_AHEAD: usize = 12_000_000;

/// The number of workbenches that are kept: one for the page being sent, one for the next.
const MOST_IDLE: usize = 2;

/// Makes batches.
#[derive(Debug, Clone)]
pub(super) struct Packer {
    pub(super) entries: Arc<EntryWriter>,
    pub(super) compression: Compression,
    idle: Arc<Mutex<Vec<Workbench>>>,
}

impl Packer {
    pub(super) fn new(entries: EntryWriter, compression: Compression) -> Self {
        Self { entries: Arc::new(entries), compression, idle: Arc::default() }
    }

    fn fill(&self, events: &[Event], range: Range<usize>, form: Form, now: Timestamp) -> io::Result<Batch> {
        let kept = self.idle.lock().pop();
        let mut workbench = kept.map_or_else(|| Workbench::new(self.compression), Ok)?;
        let batch = Batch::fill(&mut workbench, &self.entries, events, range, form, now);
        let mut idle = self.idle.lock();
        if idle.len() < MOST_IDLE {
            idle.push(workbench);
        }
        batch
    }

    /// Packs a batch from the beginning of `range`.
    pub(super) async fn pack(
        &self,
        events: &Arc<[Event]>,
        range: Range<usize>,
        form: Form,
        now: Timestamp,
    ) -> Result<Batch, Error> {
        let (this, events) = (self.clone(), Arc::clone(events));
        let packed = tokio::task::spawn_blocking(move || this.fill(&events, range, form, now)).await;
        task::outcome(packed).flatten().map_err(Error::Batch)
    }

    /// How many batches are packed before the first is sent: one if they are not compressed, because they are large.
    fn most_ahead(&self) -> usize {
        if self.compression == Compression::Identity { 1 } else { IN_FLIGHT }
    }
}

/// The batches of a page, in order. Dropping this stops the packing.
#[derive(Debug)]
pub(super) struct Batches {
    now: Timestamp,
    made: mpsc::Receiver<Result<Batch, Error>>,
    packing: Option<AbortOnDropHandle<()>>,
}

impl Batches {
    /// Begins to pack these ranges of `events`, all to be sent at about `now`.
    pub(super) fn begin(packer: &Packer, events: &Arc<[Event]>, ranges: &[Range<usize>], now: Timestamp) -> Self {
        let (out, made) = mpsc::channel(packer.most_ahead());
        let (packer, events, ranges) = (packer.clone(), Arc::clone(events), ranges.to_vec());
        let packing = AbortOnDropHandle::new(tokio::spawn(async move {
            let bytes = Arc::new(Semaphore::new(MOST_BYTES_AHEAD));
            let largest_body = u32::try_from(LARGEST_BODY).unwrap_or(u32::MAX);
            for mut range in ranges {
                while !range.is_empty() {
                    let Ok(room) = out.reserve().await else { return };
                    // The semaphore is never closed.
                    let largest = Arc::clone(&bytes).acquire_many_owned(largest_body).await.ok();
                    let batch = packer.pack(&events, range.clone(), Form::Whole, now).await;
                    let Ok(batch) = batch else { return room.send(batch) };
                    range.start = batch.range.end;
                    room.send(Ok(batch.holding(largest)));
                }
            }
        }));
        Self { now, made, packing: Some(packing) }
    }

    /// The moment of sending that the entries were written for.
    pub(super) fn written_for(&self) -> Timestamp {
        self.now
    }

    /// Whether they may still be sent at `now`.
    pub(super) fn are_fresh(&self, now: Timestamp) -> bool {
        now.duration_since(self.now).unsigned_abs() <= FRESH
    }

    /// The next batch; none after the last. Dropping the call loses no batch.
    pub(super) async fn next(&mut self) -> Option<Result<Batch, Error>> {
        if let Some(batch) = self.made.recv().await {
            return Some(batch);
        }
        // The packing has ended, perhaps because it failed.
        let ended = self.packing.as_mut()?.await;
        self.packing = None;
        task::outcome(ended).err().map(|cause| Err(Error::Batch(cause)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::destination::datadog::Labels;
    use crate::source::sectigo::page;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn packer(compression: Compression) -> Packer {
        let empty = String::new;
        let labels = Labels { source: empty(), service: empty(), hostname: empty(), tags: empty() };
        Packer::new(EntryWriter::new(&labels, "sectigo"), compression)
    }

    fn events(count: usize) -> Arc<[Event]> {
        page::records(&Bytes::from(format!("[{}]", vec!["{}"; count].join(",")))).unwrap().into()
    }

    async fn ranges(mut batches: Batches) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        while let Some(batch) = batches.next().await {
            ranges.push(batch.unwrap().range);
        }
        ranges
    }

    #[tokio::test]
    async fn the_batches_of_a_page_cover_it_in_order() {
        for compression in [Compression::Gzip, Compression::Zstd, Compression::Identity] {
            let batches = Batches::begin(&packer(compression), &events(12_500), &[0..2, 7..11_008], NOW);
            let mut expected: Vec<_> = (0..11).map(|n| 7 + n * 1000..1007 + n * 1000).collect();
            expected.insert(0, 0..2);
            expected.push(11_007..11_008);
            assert_eq!(ranges(batches).await, expected);
        }
        assert!(ranges(Batches::begin(&packer(Compression::Gzip), &events(3), &[], NOW)).await.is_empty());
    }

    #[tokio::test]
    async fn batches_serve_for_five_minutes() {
        let batches = Batches::begin(&packer(Compression::Gzip), &events(1), std::slice::from_ref(&(0..1)), NOW);
        for (seconds, expected) in [(0, true), (300, true), (301, false), (-300, true), (-301, false), (86_400, false)]
        {
            let now = NOW + jiff::SignedDuration::from_secs(seconds);
            assert_eq!(batches.are_fresh(now), expected, "{seconds} s");
        }
    }

    #[tokio::test]
    #[should_panic(expected = "a bug")]
    async fn a_bug_in_making_a_batch_is_a_bug_of_the_process() {
        let (sender, made) = mpsc::channel(2);
        let packing = AbortOnDropHandle::new(tokio::spawn(async move {
            let _sender = sender;
            panic!("a bug");
        }));
        Batches { now: NOW, made, packing: Some(packing) }.next().await;
    }
}
