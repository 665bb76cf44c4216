//! Reads files one after the other, and fills pages with their records.
//!
//! The caller that found a file calls [`Reader::take`] until the file is [read](Taken::Whole) or [given
//! up](Taken::Unreadable), and decides what to do with the latter. [`Reader::fetch_ahead`] names the files that come
//! next.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::ahead::{Ahead, Fetched, Wanted};
use super::bucket::{Body, Buckets, location};
use super::error::{Error, Unreadable};
use super::object::{Decoder, Records, Step};
use super::record::{Read, RecordReader};
use super::window::Window;
use crate::aws::digest::Sha256;
use crate::event::Event;
use crate::task;

/// The number of records with which a page is full.
const PAGE_RECORDS: usize = 10_000;

/// The bytes of records with which a page is full.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// The number of records with which a page is full, if they are not JSON objects. Each becomes a dead letter, which takes a write to the
/// disk.
const PAGE_INVALID: usize = 500;

/// The most records in a file that are not JSON objects. A file with more is given up, because it is not `CloudTrail`'s.
const MOST_INVALID: u64 = 1000;

/// The stored bytes of a large file that are fed at once.
const FED_AT_ONCE: usize = 128 * 1024;

/// The size in bytes up to which a file is read here. A thread for blocking work would cost more than reading it.
const READ_HERE: usize = 8 * 1024;

/// The number of requests for a file that cannot be read, but may be readable later.
const ATTEMPTS: u32 = 3;

/// A page in the making.
#[derive(Debug, Default)]
pub(super) struct Filling {
    pub(super) events: Vec<Event>,
    /// The bytes of its records, including those that are not JSON objects.
    bytes: usize,
    /// The number of records read into it that are not JSON objects.
    invalid_records: usize,
    /// The number of records that were delivered before.
    pub(super) deduplicated: usize,
    /// The number of records from before the start.
    pub(super) too_old: usize,
    /// The records that are not JSON objects, and not dead letters yet.
    pub(super) invalid: Vec<Invalid>,
}

/// A record that is not a JSON object.
#[derive(Debug)]
pub(super) struct Invalid {
    /// Its number in the file, from 0.
    pub(super) number: u64,
    pub(super) bytes: Bytes,
}

impl Filling {
    /// Whether it takes no more.
    pub(super) fn is_full(&self) -> bool {
        !self.room().is_left()
    }

    fn room(&self) -> Room {
        Room {
            records: PAGE_RECORDS.saturating_sub(self.events.len()),
            bytes: PAGE_BYTES.saturating_sub(self.bytes),
            invalid: PAGE_INVALID.saturating_sub(self.invalid_records),
        }
    }
}

/// The room left in a page.
#[derive(Debug, Clone, Copy)]
struct Room {
    records: usize,
    bytes: usize,
    /// The number of records that are not JSON objects.
    invalid: usize,
}

impl Room {
    fn is_left(self) -> bool {
        self.records > 0 && self.bytes > 0 && self.invalid > 0
    }

    /// The room left after `done`.
    fn behind(self, done: &Done) -> Self {
        Self {
            records: self.records.saturating_sub(done.read.len()),
            bytes: self.bytes.saturating_sub(done.bytes),
            invalid: self.invalid.saturating_sub(done.invalid.len()),
        }
    }
}

/// The result for a file.
#[derive(Debug)]
pub(super) enum Taken {
    /// The page was full before the end of the file.
    Part,
    /// All its records are in pages.
    Whole {
        /// The SHA-256 of the document, if it is wanted.
        digest: Option<Sha256>,
    },
    /// It cannot be read any further, after enough tries.
    Unreadable(Unreadable),
}

/// Reads files.
pub(super) struct Reader {
    buckets: Arc<Buckets>,
    ahead: Ahead,
    open: Option<Open>,
    /// The file that could not be read, and the number of tries.
    failed: Option<(String, u32)>,
    records: RecordReader,
    /// None if no record is dropped.
    window: Option<Window>,
    /// No record before this time is read.
    pub(super) since: Timestamp,
    wants_digests: bool,
}

/// A file that is being read.
struct Open {
    wanted: Wanted,
    decoder: Decoder,
    feed: Feed,
    /// What tells this version of the file from others.
    tag: String,
    /// Its `LastModified`, by the bucket's clock.
    modified: Option<Timestamp>,
    /// How many of its records were decoded.
    decoded: u64,
    /// How many of those are not JSON objects.
    invalid: u64,
}

/// The origin of the rest of a file.
enum Feed {
    /// The whole file was fed.
    All {
        /// Whether it is read here, and not on a thread for blocking work.
        is_small: bool,
    },
    Stream(Box<Body>),
    /// The stream broke off.
    Broken,
}

impl Reader {
    /// Makes a reader of records since this time. It drops records that it has read before if it `deduplicates`.
    pub(super) fn new(buckets: Arc<Buckets>, since: Timestamp, deduplicates: bool, wants_digests: bool) -> Self {
        Self {
            buckets,
            ahead: Ahead::default(),
            open: None,
            failed: None,
            records: RecordReader::default(),
            window: deduplicates.then(Window::default),
            since,
            wants_digests,
        }
    }

    /// Begins to fetch the next files, as far as there is room.
    pub(super) fn fetch_ahead(&mut self, mut next: impl FnMut() -> Option<Wanted>) {
        while self.ahead.has_room()
            && let Some(wanted) = next()
        {
            self.ahead.fetch(&self.buckets, wanted);
        }
    }

    /// Drops a file that was fetched ahead and is not needed any more.
    pub(super) fn forget(&mut self, wanted: &Wanted) {
        self.ahead.forget(wanted);
    }

    /// Begins to read a file, for [`Self::take`]. Returns its `LastModified`, by the bucket's clock, if the answer has one.
    pub(super) async fn open(&mut self, wanted: &Wanted) -> Result<Option<Timestamp>, Error> {
        let open = self.begin(wanted).await?;
        Ok(self.open.insert(open).modified)
    }

    /// Closes the file that was begun, without reading it.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Puts records of a file into `page`, after the first `records` of the file, and adds their number to `records`. After an error, both
    /// keep what was added.
    pub(super) async fn take(
        &mut self,
        wanted: &Wanted,
        records: &mut u64,
        page: &mut Filling,
    ) -> Result<Taken, Error> {
        let is_it = |open: &Open| open.wanted.key == wanted.key && open.wanted.bucket == wanted.bucket;
        let mut open = match self.open.take() {
            Some(open) if is_it(&open) && open.decoded == *records => open,
            _ => match self.begin(wanted).await {
                Err(Error::Object { reason, .. }) => return self.unreadable(wanted, reason),
                begun => begun?,
            },
        };
        let taken = self.read(&mut open, records, page).await;
        match taken {
            Ok(Ok(taken)) => {
                if matches!(taken, Taken::Part) {
                    self.open = Some(open);
                }
                Ok(taken)
            }
            Ok(Err(reason)) | Err(Error::Object { reason, .. }) => self.unreadable(wanted, reason),
            Err(error) => {
                self.open = Some(open);
                Err(error)
            }
        }
    }

    async fn begin(&mut self, wanted: &Wanted) -> Result<Open, Error> {
        let mut decoder = Decoder::new(self.wants_digests);
        let wanted = wanted.clone();
        if let Some(fetched) = self.ahead.take(&wanted).await
            && let Fetched::Whole { bytes, modified } = fetched?
        {
            let is_small = bytes.len() <= READ_HERE;
            decoder.feed(bytes);
            decoder.feed_end();
            return Ok(Open {
                wanted,
                decoder,
                feed: Feed::All { is_small },
                tag: String::new(),
                modified,
                decoded: 0,
                invalid: 0,
            });
        }
        let body = self.buckets.open(&wanted.bucket, &wanted.key, None).await?;
        let (tag, modified) = (body.tag.clone(), body.modified);
        Ok(Open { wanted, decoder, feed: Feed::Stream(Box::new(body)), tag, modified, decoded: 0, invalid: 0 })
    }

    /// Handles a file that could not be read. It is tried again while that may help.
    fn unreadable(&mut self, wanted: &Wanted, reason: Unreadable) -> Result<Taken, Error> {
        let before = self.failed.take().filter(|(key, _)| *key == wanted.key).map_or(0, |(_, times)| times);
        if !reason.may_pass() || before + 1 >= ATTEMPTS {
            return Ok(Taken::Unreadable(reason));
        }
        self.failed = Some((wanted.key.clone(), before + 1));
        Err(Error::Object { location: location(&wanted.bucket, &wanted.key), reason })
    }

    async fn read(
        &mut self,
        open: &mut Open,
        records: &mut u64,
        page: &mut Filling,
    ) -> Result<Result<Taken, Unreadable>, Error> {
        loop {
            let work = Work {
                decoder: mem::replace(&mut open.decoder, Decoder::new(false)),
                records: mem::take(&mut self.records),
                decoded: open.decoded,
                invalid: open.invalid,
                skipped: *records,
                since: self.since,
                room: page.room(),
                done: Done::default(),
            };
            let (work, stopped) = if matches!(open.feed, Feed::All { is_small: true }) {
                work.run()
            } else {
                task::outcome(tokio::task::spawn_blocking(|| work.run()).await).map_err(Error::Interrupted)?
            };
            (open.decoder, self.records) = (work.decoder, work.records);
            (open.decoded, open.invalid) = (work.decoded, work.invalid);
            *records = (*records).max(open.decoded);
            self.put(work.done, page);
            match stopped {
                Ok(Stopped::Full) => return Ok(Ok(Taken::Part)),
                Ok(Stopped::End) => return Ok(Ok(Taken::Whole { digest: open.decoder.digest() })),
                Ok(Stopped::Hungry) => self.feed(open).await?,
                Err(reason) => return Ok(Err(reason)),
            }
        }
    }

    /// Adds the records that were read to the page.
    fn put(&mut self, done: Done, page: &mut Filling) {
        page.too_old += done.too_old;
        page.invalid_records += done.invalid.len();
        page.bytes += done.invalid.iter().map(|invalid| invalid.bytes.len()).sum::<usize>();
        page.invalid.extend(done.invalid);
        for Read { event, identity } in done.read {
            let is_new = match (&mut self.window, identity) {
                (Some(window), Some(identity)) => window.is_new(identity),
                _ => true,
            };
            if is_new {
                page.bytes += event.raw().len();
                page.events.push(event);
            } else {
                page.deduplicated += 1;
            }
        }
    }

    /// Feeds the decoder.
    async fn feed(&mut self, open: &mut Open) -> Result<(), Error> {
        let mut fed = 0;
        loop {
            match &mut open.feed {
                Feed::All { .. } => {}
                Feed::Stream(body) => match body.next().await {
                    Ok(Some(piece)) => {
                        fed += piece.len();
                        open.decoder.feed(piece);
                        if fed < FED_AT_ONCE {
                            continue;
                        }
                    }
                    Ok(None) => open.decoder.feed_end(),
                    Err(error) => {
                        open.feed = Feed::Broken;
                        return Err(error);
                    }
                },
                Feed::Broken => {
                    self.resume(open).await?;
                    continue;
                }
            }
            return Ok(());
        }
    }

    /// Continues where the stream broke off, or begins again if the file has another version, or the server sends it
    /// whole.
    async fn resume(&mut self, open: &mut Open) -> Result<(), Error> {
        let Wanted { bucket, key, .. } = &open.wanted;
        let behind = Some(open.decoder.stored()).filter(|stored| (1..open.wanted.size).contains(stored));
        let body = self.buckets.open(bucket, key, behind).await?;
        if !body.is_part || body.tag != open.tag {
            // Records that are already in pages are skipped.
            open.decoder = Decoder::new(self.wants_digests);
            (open.decoded, open.invalid) = (0, 0);
        }
        let is_others_part = body.is_part && body.tag != open.tag;
        let body = if is_others_part { self.buckets.open(bucket, key, None).await? } else { body };
        open.tag.clone_from(&body.tag);
        open.feed = Feed::Stream(Box::new(body));
        Ok(())
    }
}

/// The work for a thread for blocking work.
struct Work {
    decoder: Decoder,
    records: RecordReader,
    decoded: u64,
    /// How many of those are not JSON objects.
    invalid: u64,
    skipped: u64,
    since: Timestamp,
    room: Room,
    done: Done,
}

/// The result of the work.
#[derive(Default)]
struct Done {
    read: Vec<Read>,
    bytes: usize,
    too_old: usize,
    invalid: Vec<Invalid>,
}

/// The reason for the end of the work.
enum Stopped {
    Full,
    Hungry,
    End,
}

impl Work {
    fn run(mut self) -> (Self, Result<Stopped, Unreadable>) {
        let stopped = loop {
            match self.decoder.step() {
                Ok(Step::Records(records)) => {
                    if let Err(reason) = self.take(&records) {
                        break Err(reason);
                    }
                }
                Ok(Step::Hungry) => break Ok(Stopped::Hungry),
                Ok(Step::End) => break Ok(Stopped::End),
                Err(reason) => break Err(reason),
            }
            if !self.room.behind(&self.done).is_left() {
                break Ok(Stopped::Full);
            }
        };
        (self, stopped)
    }

    fn take(&mut self, Records { bytes, spans }: &Records) -> Result<(), Unreadable> {
        for span in spans {
            let number = self.decoded;
            if !span.is_valid {
                // The count starts at the file's beginning. So every reader gives the file up at the same record.
                if self.invalid >= MOST_INVALID {
                    return Err(Unreadable::Invalid(MOST_INVALID));
                }
                self.invalid += 1;
            }
            self.decoded += 1;
            if number < self.skipped {
                continue;
            }
            let raw = bytes.slice(span.range());
            if !span.is_valid {
                // A copy, because the letter keeps it for longer.
                self.done.bytes += raw.len();
                self.done.invalid.push(Invalid { number, bytes: Bytes::copy_from_slice(&raw) });
                continue;
            }
            let size = raw.len();
            let read = self.records.read(&raw);
            if read.event.time().is_some_and(|time| time < self.since) {
                self.done.too_old += 1;
                continue;
            }
            self.done.bytes += size;
            self.done.read.push(read);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a file of `count` records of `size` bytes into an empty page, after the first `skipped` records. None of them is a JSON
    /// object.
    fn work(count: usize, size: usize, skipped: u64) -> (Work, Result<Stopped, Unreadable>) {
        let record = format!("{{{}}}", "x".repeat(size - 2));
        let mut decoder = Decoder::new(false);
        decoder.feed(format!("{{\"Records\":[{}]}}", vec![record; count].join(",")).into());
        decoder.feed_end();
        let (records, room, done) = (RecordReader::default(), Filling::default().room(), Done::default());
        Work { decoder, records, decoded: 0, invalid: 0, skipped, since: Timestamp::MIN, room, done }.run()
    }

    #[test]
    fn records_that_are_no_objects_fill_a_page_like_others() {
        let (work, stopped) = work(900, 1024, 0);
        assert!(matches!(stopped, Ok(Stopped::Full)));
        // The last record comes with the rest of its chunk.
        assert!((PAGE_INVALID..PAGE_INVALID + 256).contains(&work.done.invalid.len()), "{}", work.done.invalid.len());
        let (work, stopped) = self::work(9, 1024 * 1024, 0);
        assert!(matches!(stopped, Ok(Stopped::Full)));
        assert_eq!((work.done.invalid.len(), work.done.bytes), (PAGE_BYTES / (1024 * 1024), PAGE_BYTES));
    }

    #[test]
    fn a_file_with_too_many_of_them_is_given_up_at_the_same_record_wherever_its_reading_began() {
        for skipped in [0, 900] {
            let (work, stopped) = work(1200, 4, skipped);
            assert!(matches!(stopped, Err(Unreadable::Invalid(MOST_INVALID))));
            assert_eq!((work.decoded, work.done.invalid.len() as u64), (MOST_INVALID, MOST_INVALID - skipped));
        }
        assert!(matches!(work(1000, 4, 900).1, Ok(Stopped::End)));
    }
}
