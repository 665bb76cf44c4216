//! The form of an entry in a segment: a header that can be found again after damage, and the entry as it was sent.
//!
//! ```text
//! magic 4 | length of what follows the header 4 | CRC-32 4 | sequence number 8 | time of arrival in ms 8 | shape 1 | tag length 2 | tag | record
//! ```
//!
//! Numbers are little-endian. The CRC covers everything but the magic and itself.

use std::ops::Range;

use memchr::memmem;

/// The layout of frames that this version writes, and the only one that it reads.
pub(in super::super) const LAYOUT: u8 = 1;

/// The first bytes of a frame. The very first is in no UTF-8 text, so no record holds it.
const MAGIC: [u8; 4] = [0xFF, b'S', b'P', LAYOUT];

/// Bytes of a header.
const HEADER: usize = 28;

/// The bytes of the shape and of the tag's length.
const PREFIX: usize = 3;

/// The longest frame. Requests are limited to far less.
const LONGEST: usize = 64 * 1024 * 1024;

/// The form in which a record was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Shape {
    /// An entry for a log intake, or one made of plain text.
    Entry,
    /// A record under a tag.
    Tagged(String),
}

/// A frame that was found in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Frame {
    /// The sequence number: each is greater than the one before.
    pub(in super::super) sequence: u64,
    /// The time of its arrival, in milliseconds since 1970.
    pub(in super::super) arrived: i64,
    /// The form in which it was sent.
    pub(in super::super) shape: Shape,
    /// The position of its record in the bytes that were read.
    pub(in super::super) record: Range<usize>,
    /// The end of the frame in those bytes.
    pub(in super::super) end: usize,
}

/// The next part of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Found {
    /// A whole frame.
    Frame(Frame),
    /// Bytes without a frame, up to the next frame.
    Damage(Range<usize>),
    /// Bytes without a frame, and without a frame after them.
    Rest(Range<usize>),
    /// Nothing.
    End,
}

/// The layout of the frame at the beginning of `bytes`; none if there is no frame.
pub(super) fn layout(bytes: [u8; 4]) -> Option<u8> {
    (bytes[..3] == MAGIC[..3]).then_some(bytes[3])
}

/// The number of bytes that a record takes in a segment.
pub(in super::super) fn length(shape: &Shape, record: &[u8]) -> u64 {
    let tag = if let Shape::Tagged(tag) = shape { tag.len() } else { 0 };
    (HEADER + PREFIX + tag + record.len()) as u64
}

/// Appends a frame.
pub(super) fn write(out: &mut Vec<u8>, sequence: u64, arrived: i64, shape: &Shape, record: &[u8]) {
    let (kind, tag) = match shape {
        Shape::Entry => (0, ""),
        Shape::Tagged(tag) => (1, tag.as_str()),
    };
    let tag = tag.as_bytes().get(..usize::from(u16::MAX)).unwrap_or(tag.as_bytes());
    let body = PREFIX + tag.len() + record.len();
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    // Requests are limited to far less than 4 GiB.
    out.extend_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&arrived.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&u16::try_from(tag.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(tag);
    out.extend_from_slice(record);
    let crc = checksum(&out[start..]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

/// The checksum of a frame, header included.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[4..8]);
    hasher.update(&frame[12..]);
    hasher.finalize()
}

/// Finds the part at `from` in `bytes`.
pub(super) fn next(bytes: &[u8], from: usize) -> Found {
    if from >= bytes.len() {
        return Found::End;
    }
    if let Some(frame) = at(bytes, from) {
        return Found::Frame(frame);
    }
    let mut candidate = from + 1;
    while let Some(found) = bytes.get(candidate..).and_then(|rest| memmem::find(rest, &MAGIC)) {
        candidate += found;
        if at(bytes, candidate).is_some() {
            return Found::Damage(from..candidate);
        }
        candidate += 1;
    }
    Found::Rest(from..bytes.len())
}

/// The number of frames after `from` that are whole by their length, whatever their checksum.
pub(super) fn whole(bytes: &[u8], from: usize) -> u64 {
    let (mut at, mut count) = (from, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memmem::find(rest, &MAGIC)) {
        at += found;
        match extent(bytes, at) {
            Some(frame) => {
                count += 1;
                at += frame.len();
            }
            None => at += 1,
        }
    }
    count
}

/// The bytes of a frame at `from`, if there is one by its magic and its length.
fn extent(bytes: &[u8], from: usize) -> Option<&[u8]> {
    let header = bytes.get(from..from.checked_add(HEADER)?)?;
    if header[..4] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(header[4..8].try_into().ok()?) as usize;
    if !(PREFIX..=LONGEST).contains(&length) {
        return None;
    }
    bytes.get(from..from + HEADER + length)
}

/// The whole frame at `from`, if there is one.
fn at(bytes: &[u8], from: usize) -> Option<Frame> {
    let frame = extent(bytes, from)?;
    let (header, end) = (frame.get(..HEADER)?, from + frame.len());
    if checksum(frame).to_le_bytes() != header[8..12] {
        return None;
    }
    let sequence = u64::from_le_bytes(header[12..20].try_into().ok()?);
    let arrived = i64::from_le_bytes(header[20..28].try_into().ok()?);
    let tag = HEADER + PREFIX..HEADER + PREFIX + usize::from(u16::from_le_bytes(frame[29..31].try_into().ok()?));
    let text = String::from_utf8_lossy(frame.get(tag.clone())?).into_owned();
    let shape = if frame[HEADER] == 0 { Shape::Entry } else { Shape::Tagged(text) };
    Some(Frame { sequence, arrived, shape, record: from + tag.end..end, end })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> (Vec<u64>, usize) {
        let (mut at, mut sequences, mut damaged) = (0, Vec::new(), 0);
        loop {
            at = match next(bytes, at) {
                Found::Frame(frame) => {
                    sequences.push(frame.sequence);
                    frame.end
                }
                Found::Damage(range) => {
                    damaged += 1;
                    range.end
                }
                Found::Rest(_) => return (sequences, damaged + 1),
                Found::End => return (sequences, damaged),
            };
        }
    }

    fn written(records: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for (n, record) in records.iter().enumerate() {
            let shape = if n % 2 == 0 { Shape::Entry } else { Shape::Tagged("test.log".to_owned()) };
            write(&mut out, n as u64 + 1, 7, &shape, record.as_bytes());
        }
        out
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let bytes = written(&["{}", r#"{"a":"é"}"#]);
        let Found::Frame(first) = next(&bytes, 0) else { panic!("a frame") };
        assert_eq!((first.sequence, first.arrived, &first.shape), (1, 7, &Shape::Entry));
        assert_eq!(first.end as u64, length(&Shape::Entry, b"{}"));
        let Found::Frame(second) = next(&bytes, first.end) else { panic!("a frame") };
        assert_eq!(second.shape, Shape::Tagged("test.log".to_owned()));
        assert_eq!(&bytes[second.record], r#"{"a":"é"}"#.as_bytes());
        assert_eq!(next(&bytes, second.end), Found::End);
    }

    #[test]
    fn what_is_cut_off_is_the_rest() {
        let bytes = written(&["{}", r#"{"a":1}"#]);
        for cut in 1..bytes.len() - 1 {
            let (sequences, _) = all(&bytes[..cut]);
            assert!(sequences.len() <= 1, "{cut}: {sequences:?}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_byte_costs_one_frame_at_most(at: prop::sample::Index, with in 1_u8..) {
            let mut bytes = written(&[r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#, r#"{"n":4}"#]);
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            let (sequences, damaged) = all(&bytes);
            prop_assert_eq!(sequences.len(), 3, "{:?}", sequences);
            prop_assert_eq!(damaged, 1);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(prop_oneof![Just(0xFF_u8), Just(b'S'), Just(b'P'), Just(1), any::<u8>()], 0..200)) {
            all(&bytes);
        }
    }
}
