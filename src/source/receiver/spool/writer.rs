//! The only writer of a spool: a thread that takes the batches of many requests, writes them, syncs once, and then
//! answers them all.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::folder::{self, Segment};
use super::frame;
use super::{Batch, Shared, Unsafe};

/// The bytes from which a write takes no further request. A request that begins below is written whole.
const LARGEST_WRITE: usize = 8 * 1024 * 1024;

/// The most bytes that a test of the disk writes.
const LARGEST_PROBE: usize = 1024 * 1024;

/// The entries of a request, and the channel for its answer.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) done: oneshot::Sender<Result<(), Unsafe>>,
}

/// The writer.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) folder: PathBuf,
    pub(super) segment_size: u64,
    /// The open segment; none if the next write begins one.
    pub(super) open: Option<(File, Segment)>,
    /// The next sequence number.
    pub(super) next: u64,
}

impl Writer {
    /// Writes until the last sender of jobs is gone.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut size = first.batch.bytes();
            let mut taken = vec![first];
            while size < LARGEST_WRITE as u64
                && let Ok(job) = jobs.try_recv()
            {
                size += job.batch.bytes();
                taken.push(job);
            }
            let written = self.write(&taken).map_err(|cause| Unsafe(Arc::new(cause)));
            if let Err(error) = &written {
                self.shared.failed(error, size);
                // Bytes after the last safe one are void, and the next write begins a new segment.
                if let Some((file, segment)) = self.open.take() {
                    let _ = file.set_len(segment.length);
                    // Otherwise a disk that is full for an hour would leave an empty file after each failed write.
                    if segment.length == 0 && std::fs::remove_file(&segment.path).is_ok() {
                        self.shared.removed(&segment);
                    }
                }
            }
            for job in taken {
                if written.is_err() {
                    self.shared.release(&job.batch);
                }
                // A client that has left does not receive the answer.
                if let Err(Ok(())) = job.done.send(written.clone()) {
                    self.shared.unheard(&job.batch);
                }
            }
        }
    }

    fn write(&mut self, jobs: &[Job]) -> io::Result<()> {
        let (mut bytes, mut entries) = (Vec::new(), 0_u64);
        let first = self.next;
        for Job { batch, .. } in jobs {
            for record in &batch.records {
                frame::write(&mut bytes, self.next, batch.arrived, &batch.shape, record);
                // Each number is used once, even if the write fails.
                self.next += 1;
                entries += 1;
            }
        }
        if entries == 0 {
            return self.probe();
        }
        let is_full = |segment: &Segment| segment.length > 0 && segment.length + bytes.len() as u64 > self.segment_size;
        if self.open.as_ref().is_none_or(|(_, segment)| is_full(segment)) {
            let (segment, file) = folder::create(&self.folder, first)?;
            self.shared.began(segment.clone());
            self.open = Some((file, segment));
        }
        let Some((file, segment)) = &mut self.open else { return Ok(()) };
        file.write_all_at(&bytes, segment.length)?;
        file.sync_data()?;
        segment.length += bytes.len() as u64;
        segment.last = self.next - 1;
        let newest = jobs.iter().map(|job| job.batch.arrived).max();
        self.shared.grew(segment, entries, newest);
        Ok(())
    }

    /// Tests whether entries could be stored on disk: as much as a write that failed, if one did.
    fn probe(&self) -> io::Result<()> {
        let path = self.folder.join("probe");
        let size = usize::try_from(self.shared.state.lock().failed.unwrap_or_default()).unwrap_or(LARGEST_PROBE);
        let tested = File::create(&path).and_then(|file| {
            file.write_all_at(&vec![b' '; size.clamp(4096, LARGEST_PROBE)], 0)?;
            file.sync_data()
        });
        // A failed test must not take the last space of a disk.
        let removed = std::fs::remove_file(path);
        tested.and(removed)?;
        self.shared.works();
        Ok(())
    }
}
