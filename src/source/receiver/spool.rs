//! Keeps entries on disk from their arrival until they are delivered.
//!
//! The spool appends entries to segments, files of some megabytes, in frames with a checksum. A writer thread takes the
//! entries of many requests, writes them, syncs the file once, and then answers all requests. The spool removes a
//! segment when all its entries are delivered. It numbers entries in the order of arrival. A file beside the segments
//! holds the number of the last delivered one.
//!
//! # Why not a database
//!
//! Three crates were tried with 500-byte entries and one commit (`fdatasync`) per batch, on a disk that makes 126 to
//! 250 appends a second durable. Then the process was killed, and 64 bytes in the middle of the data of 50 commits were
//! overwritten:
//!
//! | | entries/s, batches of 100 | batches of 2000 | after the damage |
//! |---|---|---|---|
//! | `fjall` 3.1 | 22,438 | 90,746 | does not open |
//! | `redb` 4.6 | 14,284 | 109,644 | does not open |
//! | `SQLite` 3 by `rusqlite` 0.43, WAL, `synchronous=FULL` | 19,616 | 124,864 | opens; half of the entries are lost silently |
//! | this | 18,875 | 152,747 | names the damaged entry, and reads all others |
//!
//! The disk limits the number of commits, so all four are equally fast until batches are large. But each database
//! chains its latest writes, and gives up at the damage, whereas a spool must deliver everything that can still be
//! read. The rest of a database's work here is appending, checksums and removing files. This module does that with
//! `crc32fast` alone, and needs no compaction.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::body::Held;
use folder::Segment;
use pages::{Bounds, Pages};
use position::PositionFile;
use writer::{Job, Writer};

mod folder;
mod frame;
mod pages;
mod position;
mod reading;
mod writer;

pub(super) use frame::Shape;
pub(super) use pages::{Damage, Extract, Stored};
pub(super) use position::Position;

/// The limits of a page: entries, or bytes of them.
const PAGE: Bounds = Bounds { entries: 2000, bytes: 4 * 1024 * 1024 };

/// Requests that may wait for the writer.
const WAITING: usize = 4096;

/// Room for an event of usual size, in bytes. A sender's connection test succeeds only if this much is free.
const TYPICAL: u64 = 4096;

/// Bounds for the size of a segment.
const SMALLEST_SEGMENT: u64 = 256 * 1024;
const LARGEST_SEGMENT: u64 = 8 * 1024 * 1024;

/// The most bytes that one request takes in the spool. A body of usual entries takes less. A request of this size is
/// one write, into a segment of its own.
pub(super) const LARGEST_BATCH: u64 = 16 * 1024 * 1024;

/// The entries of one request.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) shape: Arc<Shape>,
    /// When it arrived, in milliseconds since 1970.
    pub(super) arrived: i64,
    pub(super) records: Vec<Bytes>,
    /// The digest that tells the request from others.
    pub(super) digest: [u8; 32],
    /// The request's share of the memory for bodies. The batch keeps it until it is written, even if the client has
    /// gone.
    pub(super) memory: Option<Held>,
}

impl Batch {
    /// A batch without records, which tests whether one with records could be stored.
    pub(super) fn test(arrived: jiff::Timestamp) -> Self {
        let arrived = arrived.as_millisecond();
        Self { shape: Arc::new(Shape::Entry), arrived, records: Vec::new(), digest: [0; 32], memory: None }
    }

    /// The bytes that the batch takes in the spool.
    pub(super) fn bytes(&self) -> u64 {
        self.records.iter().map(|record| frame::length(&self.shape, record)).sum()
    }
}

/// The error that entries are not safe on disk.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the spool cannot be written; free disk space or correct the permissions")]
pub(super) struct Unsafe(#[source] Arc<io::Error>);

/// A reason why entries were not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Refused {
    /// The spool has no room for them now.
    #[error("the spool is full")]
    Full,
    /// The spool never takes this much from one request.
    #[error("the entries of the request take more than the whole spool, or more than {LARGEST_BATCH} bytes of it")]
    TooLarge,
    /// The disk does not take them.
    #[error(transparent)]
    Unsafe(#[from] Unsafe),
    /// The process ends.
    #[error("the receiver stops")]
    Stopped,
}

/// A reason why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process; give each its own folder", .0.display())]
    Busy(PathBuf),
    /// Another version of this program wrote it.
    #[error(
        "the spool in {} has layout {layout}, and this version of auditsync knows layout {known} alone; it is left as it is; run the version \
         that wrote it, or choose another folder",
        folder.display(),
        known = frame::LAYOUT
    )]
    OtherLayout { folder: PathBuf, layout: u8 },
    /// The system refuses it.
    #[error("the spool in {} cannot be opened; the folder's parent must exist, and this user must be able to write there", folder.display())]
    Io {
        folder: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// The entries that wait for delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Backlog {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// The time at which the first of them arrived, in milliseconds since 1970.
    pub(super) oldest: Option<i64>,
    /// The time at which the last entry of all arrived.
    pub(super) newest: Option<i64>,
}

/// The state of the spool that the writer, the requests and the pages share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The most bytes of entries.
    size: u64,
    /// Called with each change of the backlog.
    notify: Box<dyn Notify>,
}

/// Receives changes of the spool.
pub(super) trait Notify: Send + Sync + std::fmt::Debug {
    /// Called with the new backlog.
    fn backlog(&self, backlog: Backlog);

    /// Called with the digest of a stored batch whose client did not wait for the answer.
    fn unheard(&self, digest: [u8; 32]);

    /// Called when the spool begins to refuse entries, when the reason changes, and with none when it takes them again.
    fn refuses(&self, refusal: Option<Refusal>);

    /// Called with damage that was found when the spool was opened.
    fn damaged(&self, damage: Damage);
}

/// Why a spool refuses entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no room.
    Full,
    /// It cannot be written.
    Unsafe,
}

#[derive(Debug, Default)]
struct State {
    segments: Vec<Segment>,
    /// Segments with damage, by their first sequence number.
    damaged: Vec<u64>,
    backlog: Backlog,
    /// The bytes that are on their way to the disk.
    reserved: u64,
    /// The last sequence number that is safe.
    last: u64,
    /// Pages that were read and are not delivered yet: their last sequence number, entries, bytes, and a time. The
    /// entry after them arrived no earlier than that.
    unconfirmed: VecDeque<(u64, u64, u64, i64)>,
    /// The last sequence number that the spool had when it was opened.
    opened: u64,
    /// The last sequence number that was read or is delivered.
    known: u64,
    /// The bytes of a write that failed, until as much can be written.
    failed: Option<u64>,
    /// The bytes that found no room, until there is room for them again.
    crowded: Option<u64>,
    /// What [`Notify::refuses`] was last called with.
    refusal: Option<Refusal>,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        self.tell(&mut state);
        let backlog = state.backlog;
        drop(state);
        self.notify.backlog(backlog);
    }

    /// Reports whether the spool refuses entries, if that has changed.
    fn tell(&self, state: &mut State) {
        let used = state.backlog.bytes + state.reserved;
        // Some room more than what was refused: otherwise a slow destination would change it back and forth.
        let has_room = |needed: u64| used.saturating_add(needed.max(self.size / 10)) <= self.size;
        state.crowded = state.crowded.filter(|needed| !has_room(*needed));
        let full = state.crowded.map(|_| Refusal::Full);
        let refusal = state.failed.map(|_| Refusal::Unsafe).or(full);
        let before = std::mem::replace(&mut state.refusal, refusal);
        if before == refusal {
            return;
        }
        match (before, refusal) {
            (_, Some(Refusal::Full)) => tracing::warn!(
                entries = state.backlog.entries,
                bytes = used,
                size = self.size,
                "the spool is full; the receiver answers 429 until the destination has accepted more"
            ),
            (Some(Refusal::Full), None) => tracing::info!("the spool has room again"),
            (Some(Refusal::Unsafe), None) => tracing::info!("what arrives can be stored again"),
            // The writer logs the cause.
            _ => {}
        }
        self.notify.refuses(refusal);
    }

    fn began(&self, segment: Segment) {
        self.state.lock().segments.push(segment);
    }

    /// Notes that a segment without entries was removed.
    fn removed(&self, segment: &Segment) {
        self.state.lock().segments.retain(|known| known.first != segment.first);
    }

    fn grew(&self, segment: &Segment, entries: u64, newest: Option<i64>) {
        self.change(|state| {
            let Some(last) = state.segments.last_mut() else { return };
            let added = segment.length - last.length;
            last.clone_from(segment);
            state.last = segment.last;
            state.reserved = state.reserved.saturating_sub(added);
            state.backlog.entries += entries;
            state.backlog.bytes += added;
            state.backlog.oldest = state.backlog.oldest.or(newest);
            state.backlog.newest = newest.or(state.backlog.newest);
            state.failed = state.failed.filter(|failed| added < *failed);
        });
    }

    fn failed(&self, error: &Unsafe, bytes: u64) {
        self.change(|state| {
            if state.failed.is_none() {
                tracing::error!(error = %crate::failure::Chain(error), "the receiver cannot store entries, and answers 503");
            }
            state.failed = state.failed.max(Some(bytes));
        });
    }

    fn works(&self) {
        self.change(|state| state.failed = None);
    }

    fn release(&self, batch: &Batch) {
        self.change(|state| state.reserved = state.reserved.saturating_sub(batch.bytes()));
    }

    fn unheard(&self, batch: &Batch) {
        if !batch.records.is_empty() {
            self.notify.unheard(batch.digest);
        }
    }
}

/// A spool that this process owns.
#[derive(Debug)]
pub(super) struct Spool {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    position: Mutex<PositionFile>,
    /// The position that the file holds. Reading it here never waits for the disk.
    reached: Mutex<Position>,
    pages: Mutex<Pages>,
    _lock: File,
}

impl Spool {
    /// Opens the spool in `folder`, which holds up to `size` bytes of entries. Blocks, because it reads every segment.
    pub(super) fn open(folder: &Path, size: u64, notify: Box<dyn Notify>) -> Result<Self, OpenError> {
        let failed = |cause| OpenError::Io { folder: folder.to_owned(), cause };
        folder::make(folder).map_err(failed)?;
        let lock = folder::lock(folder).map_err(failed)?.ok_or_else(|| OpenError::Busy(folder.to_owned()))?;
        let (mut position_file, position) = PositionFile::open(&folder.join("position")).map_err(failed)?;
        let mut segments = folder::segments(folder).map_err(failed)?;
        for segment in &segments {
            if let Some(layout) = folder::other_layout(segment).map_err(failed)? {
                return Err(OpenError::OtherLayout { folder: folder.to_owned(), layout });
            }
        }
        let position = if let Some(position) = position {
            // On a full disk the next commit reports the error, and until then the spool works without.
            let _ = position_file.fill(position);
            position
        } else {
            if !segments.is_empty() {
                tracing::error!(
                    folder = %folder.display(),
                    "the spool has lost its cursor; auditsync delivers all its entries, some perhaps twice"
                );
            }
            let position = Position { spool: fastrand::u64(1..), sequence: 0, arrived: now() };
            position_file.fill(position).map_err(failed)?;
            folder::sync(folder).map_err(failed)?;
            position
        };
        let mut state = State { last: position.sequence, ..State::default() };
        state.backlog.newest = Some(position.arrived);
        let following: Vec<_> = segments.iter().skip(1).map(|next| Some(next.first)).chain([None]).collect();
        for (segment, following) in segments.iter_mut().zip(following) {
            let content = folder::content(segment, position.sequence).map_err(failed)?;
            let has_rest = content.sound < segment.length;
            let is_gap = following.is_some_and(|next| next > segment.last + 1);
            let is_kept = if following.is_none() && has_rest {
                // Entries that were delivered before are not lost.
                let lost = (segment.last + content.broken).saturating_sub(position.sequence.max(segment.last));
                !cut(segment, content.sound, lost, &*notify)
            } else {
                has_rest && is_gap
            };
            if content.is_damaged || is_kept {
                state.damaged.push(segment.first);
            }
            state.last = state.last.max(segment.last);
            state.backlog.entries += content.entries;
            state.backlog.bytes += content.bytes;
            state.backlog.oldest = state.backlog.oldest.or(content.oldest);
            state.backlog.newest = content.newest.or(state.backlog.newest);
        }
        let next = state.last.max(segments.last().map_or(0, |last| last.first)) + 1;
        state.segments = segments;
        (state.opened, state.known) = (state.last, position.sequence);
        let backlog = state.backlog;
        let shared = Arc::new(Shared { state: Mutex::new(state), size, notify });
        shared.notify.backlog(backlog);
        let (jobs, waiting) = mpsc::channel(WAITING);
        let segment_size = (size / 8).clamp(SMALLEST_SEGMENT, LARGEST_SEGMENT);
        let writer = Writer { shared: Arc::clone(&shared), folder: folder.to_owned(), segment_size, open: None, next };
        let started = std::thread::Builder::new().name("spool".to_owned()).spawn(move || writer.run(waiting));
        started.map_err(failed)?;
        let (position, reached) = (Mutex::new(position_file), Mutex::new(position));
        Ok(Self { shared, jobs, position, reached, pages: Mutex::default(), _lock: lock })
    }

    /// Stores the entries of a request. `Ok` means that they are safe on disk. A batch without records tests whether
    /// one with records could be stored.
    pub(super) async fn append(&self, batch: Batch) -> Result<(), Refused> {
        let bytes = batch.bytes();
        // Wait for a slot in the queue first: a request dropped during the wait has reserved nothing.
        let Ok(place) = self.jobs.reserve().await else { return Err(Refused::Stopped) };
        {
            let mut state = self.shared.state.lock();
            let used = state.backlog.bytes + state.reserved;
            if bytes > self.largest_batch() {
                return Err(Refused::TooLarge);
            }
            let needed = if batch.records.is_empty() { TYPICAL } else { bytes };
            if used.saturating_add(needed) > self.shared.size {
                state.crowded = state.crowded.max(Some(needed));
                self.shared.tell(&mut state);
                return Err(Refused::Full);
            }
            state.reserved += bytes;
        }
        let (done, written) = oneshot::channel();
        place.send(Job { batch, done });
        match written.await {
            Ok(written) => written.map_err(Refused::from),
            Err(_) => Err(Refused::Stopped),
        }
    }

    /// The most bytes that one request may take in this spool.
    pub(super) fn largest_batch(&self) -> u64 {
        self.shared.size.min(LARGEST_BATCH)
    }

    /// The position up to which the spool is delivered.
    pub(super) fn position(&self) -> Position {
        *self.reached.lock()
    }

    /// The last sequence number that is safe.
    pub(super) fn last(&self) -> u64 {
        self.shared.state.lock().last
    }

    /// Whether this spool had the entry `sequence`, which arrived no later than `arrived`. If not, another, later copy
    /// of this spool had it. Blocks.
    pub(super) fn knows(&self, sequence: u64, arrived: i64) -> io::Result<bool> {
        let segments = {
            let state = self.shared.state.lock();
            if sequence <= state.known || sequence > state.opened {
                return Ok(sequence <= state.known);
            }
            state.segments.clone()
        };
        // An earlier process may have taken entries with the same numbers, and ended before it saw the cursor.
        let bounds = Bounds { entries: 1, bytes: 1 };
        let page = Pages::default().read(&segments, sequence.saturating_sub(1), sequence, bounds)?;
        let is_known = page.entries.iter().any(|entry| entry.arrived <= arrived);
        if is_known {
            let mut state = self.shared.state.lock();
            state.known = state.known.max(sequence);
        }
        Ok(is_known)
    }

    /// Gives the spool another identifier than `old`, so that no cursor with `old` applies to it again. False if it has
    /// another one already. Blocks.
    pub(super) fn rename(&self, old: u64) -> io::Result<bool> {
        let mut file = self.position.lock();
        let known = self.position();
        if known.spool != old {
            return Ok(false);
        }
        let new = Position { spool: fastrand::u64(1..), ..known };
        file.write(new)?;
        *self.reached.lock() = new;
        Ok(true)
    }

    /// Whether the last write failed, and none has shown since that the disk takes as much again.
    pub(super) fn is_failing(&self) -> bool {
        self.shared.state.lock().failed.is_some()
    }

    /// Reads the page after the sequence number `after`, up to `up_to`. Blocks.
    pub(super) fn page(&self, after: u64, up_to: u64) -> io::Result<Extract> {
        let segments = self.shared.state.lock().segments.clone();
        let mut pages = self.pages.lock();
        let goes_back = pages.goes_back_to(after);
        let page = pages.read(&segments, after, up_to, PAGE)?;
        let mut state = self.shared.state.lock();
        if goes_back {
            state.unconfirmed.retain(|(sequence, ..)| *sequence <= after);
        }
        if let Some(last) = page.entries.last() {
            state.known = state.known.max(last.sequence);
            state.unconfirmed.push_back((last.sequence, page.entries.len() as u64, page.bytes, last.arrived));
        }
        for damage in &page.damage {
            let first = segments.iter().find(|segment| segment.path == damage.file).map(|segment| segment.first);
            state.damaged.extend(first);
        }
        Ok(page)
    }

    /// Notes that everything up to `sequence`, an entry that arrived at `arrived`, is delivered. Blocks.
    pub(super) fn committed(&self, sequence: u64, arrived: i64) -> io::Result<()> {
        let mut file = self.position.lock();
        let known = self.position();
        if sequence <= known.sequence {
            return Ok(());
        }
        let new = Position { sequence, arrived, ..known };
        if let Err(cause) = file.write(new) {
            if !matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return Err(cause);
            }
            // A file system that copies what it changes needs room even here. Delivered segments can make it: without
            // them, a restart begins with the entries that are left.
            self.remove_delivered(sequence);
            file.write(new)?;
        }
        *self.reached.lock() = new;
        drop(file);
        self.shared.change(|state| {
            while let Some((last, entries, bytes, at)) = state.unconfirmed.front().copied()
                && last <= sequence
            {
                state.unconfirmed.pop_front();
                state.backlog.entries = state.backlog.entries.saturating_sub(entries);
                state.backlog.bytes = state.backlog.bytes.saturating_sub(bytes);
                // No remaining entry arrived earlier.
                state.backlog.oldest = Some(at);
            }
            if sequence >= state.last {
                (state.backlog.entries, state.backlog.bytes) = (0, 0);
            }
            if state.backlog.entries == 0 {
                state.backlog.oldest = None;
            }
        });
        self.remove_delivered(sequence);
        Ok(())
    }

    /// Removes the segments that hold nothing after `sequence`. The last one stays: the writer still writes to it, and the
    /// next process numbers new entries after its entries.
    fn remove_delivered(&self, sequence: u64) {
        let (done, damaged) = {
            let mut state = self.shared.state.lock();
            let gone = state.segments.iter().take(state.segments.len().saturating_sub(1));
            let gone = gone.take_while(|segment| segment.last <= sequence).count();
            (state.segments.drain(..gone).collect::<Vec<_>>(), state.damaged.clone())
        };
        for segment in done {
            if let Err(error) = folder::remove(&segment, damaged.contains(&segment.first)) {
                tracing::warn!(%error, file = %segment.path.display(), "a delivered segment of the spool cannot be removed; it takes space");
            }
        }
    }
}

/// Reads the spool of `folder` without owning it, for a dry run beside the owner. Blocks.
pub(super) fn look(folder: &Path, after: Option<u64>) -> io::Result<(Position, Extract)> {
    let nowhere = Position { spool: 0, sequence: 0, arrived: now() };
    if !folder.exists() {
        return Ok((nowhere, Extract { is_end: true, ..Extract::default() }));
    }
    let position = position::look(&folder.join("position"))?.unwrap_or(nowhere);
    let segments = folder::segments(folder)?;
    let entries = Pages::default().read(&segments, after.unwrap_or(position.sequence), u64::MAX, PAGE)?;
    Ok((position, entries))
}

/// Whether a process owns the spool of `folder`, which must exist.
pub(super) fn is_owned(folder: &Path) -> io::Result<bool> {
    Ok(folder::lock(folder)?.is_none())
}

/// Cuts off the bytes after the last whole entry, and keeps a copy of them. A crash leaves such bytes, which nobody was
/// answered for. But if they hold whole entries by their length, the disk damaged at most `lost` entries. Returns false
/// if there could be no copy: then the bytes stay in the segment.
fn cut(segment: &mut Segment, sound: u64, lost: u64, notify: &dyn Notify) -> bool {
    let bytes = segment.length - sound;
    let copied = folder::copy_end(segment, sound).and_then(|copy| {
        let file = File::options().write(true).open(&segment.path)?;
        file.set_len(sound)?;
        file.sync_all()?;
        Ok(copy)
    });
    segment.length = sound;
    let (file, range) = match &copied {
        Ok(copy) => (copy.clone(), 0..bytes),
        Err(error) => {
            tracing::warn!(%error, file = %segment.path.display(), "the end of the spool cannot be copied; it stays in its file");
            (segment.path.clone(), sound..sound + bytes)
        }
    };
    if lost > 0 {
        notify.damaged(Damage { file, range, entries: lost });
    } else {
        tracing::warn!(
            file = %segment.path.display(), bytes, kept_in = %file.display(),
            "the spool ends in an incomplete entry, as after a crash; auditsync keeps its bytes in a file beside it"
        );
    }
    copied.is_ok()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
pub(super) mod tests;
