//! Reads the records of a log file as a stream, without holding the whole file.
//!
//! A file is gzip or, if a store has inflated it, the document itself; its first two bytes show which. Only the first
//! gzip member is read, as AWS's own validator does. Inflated bytes gather in chunks, and [`splitter`](super::splitter)
//! finds the records in a chunk.

use std::mem;

use bytes::{Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::error::Unreadable;
use super::splitter::{Span, Splitter};
use crate::aws::digest::{Hasher, Sha256};

/// The limits of a file.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The largest file as stored, in bytes.
    stored: u64,
    /// The largest document, in bytes.
    inflated: u64,
    /// The largest record, in bytes.
    record: usize,
}

/// `CloudTrail`'s own limit for a record is 256 kB, or 1 MB with enriched events. Its files have up to 50 MB inflated.
const LIMITS: Limits = Limits { stored: 256 * 1024 * 1024, inflated: 512 * 1024 * 1024, record: 4 * 1024 * 1024 };

/// The bytes that are inflated before they are split into records.
const CHUNK: usize = 256 * 1024;

/// The beginning of a gzip file.
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reads one log file.
pub(super) struct Decoder {
    format: Format,
    /// The bytes that were fed and are not inflated yet.
    input: Bytes,
    /// Whether the last byte was fed.
    is_all: bool,
    /// The bytes that are inflated and not split yet.
    chunk: Vec<u8>,
    splitter: Splitter,
    stored: u64,
    inflated: u64,
    hasher: Option<Hasher>,
    /// The error after which nothing more can be inflated.
    failed: Option<Unreadable>,
    limits: Limits,
}

enum Format {
    /// Fewer than two bytes were fed.
    Unknown,
    Gzip(Box<Decompress>),
    /// The member has ended.
    GzipEnded {
        /// Whether something follows it.
        has_more: bool,
    },
    Plain,
}

/// One step of reading.
#[derive(Debug)]
pub(super) enum Step {
    /// Some records.
    Records(Records),
    /// The caller must feed more, or the end.
    Hungry,
    /// The file has been read, and all records were returned.
    End,
}

/// Consecutive records in one buffer.
#[derive(Debug)]
pub(super) struct Records {
    /// The piece of the document.
    pub(super) bytes: Bytes,
    /// The positions of the records in it.
    pub(super) spans: Vec<Span>,
}

impl Decoder {
    /// Makes a decoder. It also computes the SHA-256 of the document, which digest files list, if that `is_wanted`.
    pub(super) fn new(is_wanted: bool) -> Self {
        Self {
            format: Format::Unknown,
            input: Bytes::new(),
            is_all: false,
            chunk: Vec::new(),
            splitter: Splitter::default(),
            stored: 0,
            inflated: 0,
            hasher: is_wanted.then(Hasher::default),
            failed: None,
            limits: LIMITS,
        }
    }

    /// Feeds the next piece of the file.
    pub(super) fn feed(&mut self, piece: Bytes) {
        self.stored += piece.len() as u64;
        if self.input.is_empty() {
            self.input = piece;
        } else {
            let mut joined = BytesMut::from(mem::take(&mut self.input));
            joined.extend_from_slice(&piece);
            self.input = joined.freeze();
        }
    }

    /// Feeds the end of the file.
    pub(super) fn feed_end(&mut self) {
        self.is_all = true;
    }

    /// The number of bytes that were fed.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// The SHA-256 of the document, once it [ended](Step::End).
    pub(super) fn digest(&self) -> Option<Sha256> {
        self.hasher.as_ref().map(Hasher::digest)
    }

    /// Continues, up to the records of one chunk. Returns records before an error first.
    pub(super) fn step(&mut self) -> Result<Step, Unreadable> {
        loop {
            let inflated = match &self.failed {
                Some(_) => Inflated::Failed,
                None => self.inflate().unwrap_or_else(|reason| {
                    self.failed = Some(reason);
                    Inflated::Failed
                }),
            };
            let is_ended = inflated == Inflated::Ended;
            if inflated == Inflated::Hungry {
                return Ok(Step::Hungry);
            }
            if is_ended && self.chunk.is_empty() && self.splitter.is_done() {
                return match self.format {
                    Format::GzipEnded { has_more: true } => Err(Unreadable::DataBehind),
                    _ => Ok(Step::End),
                };
            }
            let (consumed, spans) = match self.splitter.split(&self.chunk, is_ended) {
                Err(Unreadable::Truncated { .. }) => return Err(Unreadable::Truncated { bytes: self.inflated }),
                split => split?,
            };
            if let (Some(reason), true) = (&self.failed, spans.is_empty()) {
                return Err(reason.clone());
            }
            if consumed == 0 && inflated == Inflated::Full {
                // One record takes more than the chunk.
                if self.chunk.len() >= self.limits.record {
                    return Err(Unreadable::RecordTooLarge("4 MiB"));
                }
                self.chunk.reserve_exact(self.chunk.len());
                continue;
            }
            let rest = self.chunk.get(consumed..).unwrap_or_default();
            let mut next = Vec::with_capacity(CHUNK.max(2 * rest.len()));
            next.extend_from_slice(rest);
            let mut chunk = mem::replace(&mut self.chunk, next);
            if !spans.is_empty() {
                // The events of a page keep it. Those of many small files would keep many chunks that are nearly empty.
                if chunk.len() < chunk.capacity() / 2 {
                    chunk.shrink_to_fit();
                }
                return Ok(Step::Records(Records { bytes: Bytes::from(chunk), spans }));
            }
        }
    }

    /// Fills the chunk.
    fn inflate(&mut self) -> Result<Inflated, Unreadable> {
        if self.stored > self.limits.stored {
            return Err(Unreadable::TooLarge("256 MiB"));
        }
        if self.chunk.capacity() == 0 {
            self.chunk.reserve_exact(CHUNK);
        }
        loop {
            if self.chunk.len() == self.chunk.capacity() {
                return Ok(Inflated::Full);
            }
            match &mut self.format {
                Format::Unknown => match self.input.get(..MAGIC.len()) {
                    Some(magic) if magic == MAGIC => self.format = Format::Gzip(Box::new(Decompress::new_gzip(15))),
                    Some(_) => self.format = Format::Plain,
                    None if self.is_all && self.input.first() == MAGIC.first() => {
                        return Err(Unreadable::Truncated { bytes: 0 });
                    }
                    None if self.is_all => self.format = Format::Plain,
                    None => return Ok(Inflated::Hungry),
                },
                Format::Plain | Format::Gzip(_) if self.input.is_empty() && !self.is_all => {
                    return Ok(Inflated::Hungry);
                }
                Format::Plain if self.input.is_empty() => return Ok(Inflated::Ended),
                Format::Plain => {
                    let room = self.chunk.capacity() - self.chunk.len();
                    let piece = self.input.split_to(room.min(self.input.len()));
                    self.chunk.extend_from_slice(&piece);
                    self.take_in(piece.len())?;
                }
                Format::Gzip(gzip) => {
                    let (read, written) = (gzip.total_in(), self.chunk.len());
                    let status = gzip.decompress_vec(&self.input, &mut self.chunk, FlushDecompress::None);
                    let status = status.map_err(|error| Unreadable::Gzip(error.to_string()))?;
                    let read = usize::try_from(gzip.total_in() - read).unwrap_or(self.input.len());
                    drop(self.input.split_to(read.min(self.input.len())));
                    let written = self.chunk.len() - written;
                    if status == Status::StreamEnd {
                        self.format = Format::GzipEnded { has_more: false };
                    } else if read == 0 && written == 0 {
                        // The input has ended.
                        return Err(Unreadable::Truncated { bytes: self.inflated });
                    }
                    self.take_in(written)?;
                }
                // Bytes after the member are noticed, but not read.
                Format::GzipEnded { has_more } => {
                    *has_more |= !self.input.is_empty();
                    self.input = Bytes::new();
                    return Ok(if *has_more || self.is_all { Inflated::Ended } else { Inflated::Hungry });
                }
            }
        }
    }

    /// Counts and hashes newly inflated bytes.
    fn take_in(&mut self, written: usize) -> Result<(), Unreadable> {
        self.inflated += written as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(self.chunk.get(self.chunk.len() - written..).unwrap_or_default());
        }
        if self.inflated > self.limits.inflated {
            return Err(Unreadable::TooLarge("512 MiB inflated"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inflated {
    /// The chunk is full.
    Full,
    /// The document has ended.
    Ended,
    Hungry,
    /// There is no more, because of an error.
    Failed,
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Reads `file`, fed in pieces of this many bytes.
    fn read(file: &[u8], piece: usize) -> (Vec<String>, Result<Sha256, Unreadable>) {
        read_within(LIMITS, file, piece)
    }

    fn read_within(limits: Limits, file: &[u8], piece: usize) -> (Vec<String>, Result<Sha256, Unreadable>) {
        let mut decoder = Decoder { limits, ..Decoder::new(true) };
        let (mut pieces, mut records) = (file.chunks(piece), Vec::new());
        loop {
            match decoder.step() {
                Ok(Step::Records(Records { bytes, spans })) => {
                    let text = |span: Span| String::from_utf8(bytes[span.range()].to_vec()).unwrap();
                    records.extend(spans.into_iter().map(text));
                }
                Ok(Step::Hungry) => match pieces.next() {
                    Some(piece) => decoder.feed(Bytes::copy_from_slice(piece)),
                    None => decoder.feed_end(),
                },
                Ok(Step::End) => return (records, Ok(decoder.digest().unwrap())),
                Err(error) => return (records, Err(error)),
            }
        }
    }

    fn document(records: &[String]) -> String {
        format!("{{\"Records\":[{}]}}", records.join(","))
    }

    fn some(count: usize, size: usize) -> Vec<String> {
        (0..count).map(|n| format!("{{\"n\":{n},\"x\":\"{}\"}}", "x}],".repeat(size / 4))).collect()
    }

    #[test]
    fn the_records_of_a_small_file_keep_little_more_memory_than_they_have_bytes() {
        let document = document(&some(10, 1000));
        let mut decoder = Decoder::new(true);
        decoder.feed(gzip(document.as_bytes()).into());
        decoder.feed_end();
        let Ok(Step::Records(Records { bytes, .. })) = decoder.step() else { panic!("it has records") };
        let kept = bytes.try_into_mut().unwrap().capacity();
        assert!(kept < 2 * document.len(), "{kept} bytes of {}", document.len());
    }

    #[test]
    fn records_come_byte_for_byte_however_the_file_is_cut() {
        for (records, pieces) in [(some(40, 30), 1), (some(2000, 1000), 777), (some(3, 1_500_000), 65_536)] {
            let document = document(&records);
            let digest = Sha256::of(document.as_bytes());
            for file in [gzip(document.as_bytes()), document.clone().into_bytes()] {
                assert_eq!(read(&file, pieces), (records.clone(), Ok(digest)));
            }
        }
        assert_eq!(read(&gzip(document(&[]).as_bytes()), 5).0, [""; 0]);
    }

    #[test]
    fn a_file_that_ends_in_the_middle_gives_what_is_before_and_is_an_error() {
        let (records, document) = (some(500, 1000), document(&some(500, 1000)));
        let whole = gzip(document.as_bytes());
        for cut in [0, 1, 10, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            let (found, ended) = read(&whole[..cut], 1000);
            assert!(matches!(ended, Err(Unreadable::Truncated { .. })), "{cut}: {ended:?}");
            assert!(records.starts_with(&found));
        }
        let (_, ended) = read(&document.as_bytes()[..document.len() - 1], 1000);
        assert_eq!(ended, Err(Unreadable::Truncated { bytes: document.len() as u64 - 1 }));
    }

    #[test]
    fn damaged_gzip_is_an_error() {
        let mut file = gzip(document(&some(50, 1000)).as_bytes());
        let at = file.len() - 6;
        file[at] ^= 1;
        let (records, ended) = read(&file, 1000);
        assert_eq!(records.len(), 50, "what is before the error");
        assert!(matches!(ended, Err(Unreadable::Gzip(_))), "the checksum: {ended:?}");
        file[3] = 0xff;
        assert!(read(&file, 1000).1.is_err());
    }

    #[test]
    fn only_the_first_member_is_read_and_what_follows_is_an_error() {
        let (first, second) = (gzip(document(&some(3, 10)).as_bytes()), gzip(document(&some(9, 10)).as_bytes()));
        for piece in [1, first.len(), 100_000] {
            let (records, ended) = read(&[first.clone(), second.clone()].concat(), piece);
            assert_eq!((records.len(), ended), (3, Err(Unreadable::DataBehind)));
        }
    }

    #[test]
    fn what_explodes_is_an_error() {
        let limits = Limits { stored: 100_000, inflated: 1 << 22, record: 1 << 19 };
        let document = document(&["{}".to_owned()]);
        let read = |text: &str| read_within(limits, &gzip(text.as_bytes()), 1000).1;
        let blank = |count| document.replace('[', &format!("[{}", " ".repeat(count)));
        assert!(read(&blank(1 << 19)).is_ok());
        assert_eq!(read(&blank(1 << 22)), Err(Unreadable::TooLarge("512 MiB inflated")));
        let record = |size| document.replace("{}", &format!("{{\"x\":\"{}\"}}", "x".repeat(size)));
        assert!(read(&record(1 << 18)).is_ok());
        assert_eq!(read(&record(1 << 21)), Err(Unreadable::RecordTooLarge("4 MiB")));
        let stored = read_within(limits, record(1 << 17).as_bytes(), 1000).1;
        assert_eq!(stored, Err(Unreadable::TooLarge("256 MiB")));
    }
}
