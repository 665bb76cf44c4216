//! Pages of a spool, read from its segments.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;

use super::folder::Segment;
use super::frame::{self, Found, Frame, Shape};
use super::reading;

/// An entry of the spool.
#[derive(Debug, Clone)]
pub(in super::super) struct Stored {
    pub(in super::super) sequence: u64,
    /// The time of its arrival, in milliseconds since 1970.
    pub(in super::super) arrived: i64,
    pub(in super::super) shape: Shape,
    pub(in super::super) record: Bytes,
}

/// A part of a segment that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Damage {
    pub(in super::super) file: PathBuf,
    pub(in super::super) range: Range<u64>,
    /// The most entries that it can have held.
    pub(in super::super) entries: u64,
}

/// The entries after a sequence number.
#[derive(Debug, Default)]
pub(in super::super) struct Extract {
    pub(in super::super) entries: Vec<Stored>,
    /// The bytes that they take in their segments.
    pub(in super::super) bytes: u64,
    pub(in super::super) damage: Vec<Damage>,
    /// Whether nothing follows them.
    pub(in super::super) is_end: bool,
}

/// The limits of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: u64,
}

/// Reads page after page, and keeps the part of a segment that it has read for the next page.
#[derive(Debug, Default)]
pub(super) struct Pages {
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// The segment, by its first sequence number.
    first: u64,
    /// The offset of `bytes` in the segment.
    offset: u64,
    bytes: Bytes,
    /// The index in `bytes` at which the next frame is read.
    at: usize,
    /// The sequence number before that index.
    sequence: u64,
}

impl Pages {
    /// Reads the entries after `after`, up to `up_to`, within `bounds`. `segments` are all segments, in order.
    pub(super) fn read(&mut self, segments: &[Segment], after: u64, up_to: u64, bounds: Bounds) -> io::Result<Extract> {
        let mut page = Extract::default();
        let mut last = after;
        // The segment that can hold the next entry, and those after it.
        let begin = segments.iter().rposition(|segment| segment.first <= after.saturating_add(1)).unwrap_or(0);
        for (index, segment) in segments.iter().enumerate().skip(begin) {
            if segment.first > up_to {
                break;
            }
            // The number after the segment's last entry; unknown if another process may still write to it.
            let own_end = segment.last.checked_add(1);
            let following = segments.get(index + 1).map(|next| next.first).or(own_end);
            self.enter(segment, last)?;
            let Some(kept) = &mut self.kept else { continue };
            loop {
                if page.entries.len() >= bounds.entries || page.bytes >= bounds.bytes {
                    return Ok(page);
                }
                match frame::next(&kept.bytes, kept.at) {
                    Found::Frame(frame) if frame.sequence > up_to => {
                        page.is_end = true;
                        return Ok(page);
                    }
                    Found::Frame(Frame { sequence, arrived, shape, record, end }) => {
                        if sequence > last {
                            page.bytes += (end - kept.at) as u64;
                            page.entries.push(Stored { sequence, arrived, shape, record: kept.bytes.slice(record) });
                            last = sequence;
                        }
                        (kept.at, kept.sequence) = (end, sequence);
                    }
                    Found::Damage(range) => {
                        let next = match frame::next(&kept.bytes, range.end) {
                            Found::Frame(frame) => frame.sequence,
                            _ => u64::MAX,
                        };
                        if next > last {
                            page.damage.push(damage(segment, kept.offset, &range, next.saturating_sub(last + 1)));
                        }
                        kept.at = range.end;
                    }
                    Found::Rest(range) => {
                        kept.at = range.end;
                        if let Some(next) = following.filter(|next| *next > last + 1) {
                            page.damage.push(damage(segment, kept.offset, &range, next.saturating_sub(last + 1)));
                        }
                        break;
                    }
                    Found::End => break,
                }
            }
        }
        page.is_end = true;
        Ok(page)
    }

    /// Goes to the part of `segment` that can hold the entry after `after`.
    fn enter(&mut self, segment: &Segment, after: u64) -> io::Result<()> {
        let (offset, sequence) = match self.kept.take() {
            Some(kept) if kept.first == segment.first && kept.sequence <= after => {
                if kept.at < kept.bytes.len() {
                    self.kept = Some(kept);
                    return Ok(());
                }
                (kept.offset + kept.at as u64, kept.sequence)
            }
            _ => (0, segment.first.saturating_sub(1)),
        };
        let length = segment.length.saturating_sub(offset);
        let bytes = if length > 0 {
            reading::read(&File::open(&segment.path)?, &segment.path, offset, length)?.bytes
        } else {
            Vec::new()
        };
        self.kept = Some(Kept { first: segment.first, offset, bytes: bytes.into(), at: 0, sequence });
        Ok(())
    }

    /// Whether the page after `after` lies before the last one read.
    pub(super) fn goes_back_to(&self, after: u64) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.sequence > after)
    }
}

fn damage(segment: &Segment, offset: u64, range: &Range<usize>, entries: u64) -> Damage {
    let range = offset + range.start as u64..offset + range.end as u64;
    Damage { file: segment.path.clone(), range, entries }
}
