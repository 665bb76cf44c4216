//! Text as JSON strings, cut to a number of bytes.

use std::borrow::Cow;
use std::io::Write as _;

use crate::event::{Event, Field, Verbatim, scalar};

/// A text that goes into an entry.
pub(super) enum Text<'a> {
    /// Text that needs no escapes.
    Plain(&'a [u8]),
    /// A JSON string, in its quotes, with escapes that may be copied.
    Escaped(&'a [u8]),
    /// Text that was decoded, or that is ours.
    Read(Cow<'a, str>),
}

impl<'a> Text<'a> {
    /// A field of an event; none if the event lacks it.
    pub(super) fn of(event: &'a Event, field: Field) -> Option<Self> {
        match event.verbatim(field) {
            Some(Verbatim::Plain(content)) => Some(Self::Plain(content)),
            Some(Verbatim::Escaped(token)) => Some(Self::Escaped(token)),
            None => event.text(field).map(Self::Read),
        }
    }

    /// The most bytes that it can take in a JSON string.
    pub(super) fn longest_written(&self) -> usize {
        match self {
            Self::Plain(bytes) | Self::Escaped(bytes) => bytes.len(),
            Self::Read(text) => text.len().saturating_mul(LONGEST_ESCAPE),
        }
    }

    /// Appends it as a part of a JSON string.
    pub(super) fn write_content(&self, out: &mut Vec<u8>) {
        match self {
            Self::Plain(bytes) => out.extend_from_slice(bytes),
            Self::Escaped(token) => out.extend_from_slice(token.get(1..token.len() - 1).unwrap_or_default()),
            Self::Read(text) => escaped(out, text.as_bytes()),
        }
    }

    /// The decoded text.
    pub(super) fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Plain(bytes) => Cow::Borrowed(bytes),
            Self::Escaped(token) => match scalar(token) {
                Some(text) => Cow::Owned(text.into_owned().into_bytes()),
                None => Cow::Borrowed(b""),
            },
            Self::Read(text) => Cow::Borrowed(text.as_bytes()),
        }
    }

    /// Whether it ends with `byte`, which must be one that needs no escape.
    pub(super) fn ends_with(&self, byte: u8) -> bool {
        match self {
            Self::Plain(bytes) => bytes.ends_with(&[byte]),
            Self::Escaped(token) => token.ends_with(&[byte, b'"']),
            Self::Read(text) => text.as_bytes().ends_with(&[byte]),
        }
    }

    /// Appends it as a JSON string, as much as fits into `room` bytes between the quotes.
    pub(super) fn write(&self, out: &mut Vec<u8>, room: usize) {
        if self.longest_written() <= room {
            out.push(b'"');
            self.write_content(out);
            out.push(b'"');
        } else {
            string_within(out, &String::from_utf8_lossy(&self.bytes()), room);
        }
    }
}

/// Appends `text` as a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    string_within(out, text, usize::MAX);
}

/// Appends `text` as a JSON string: as much as fits into `room` bytes between the quotes. A cut one ends in `…`. True
/// if nothing was cut.
pub(super) fn string_within(out: &mut Vec<u8>, text: &str, room: usize) -> bool {
    out.push(b'"');
    let kept = if text.len() <= room / LONGEST_ESCAPE { text } else { fitting(text, room) };
    escaped(out, kept.as_bytes());
    if kept.len() < text.len() {
        out.extend_from_slice(ELLIPSIS.as_bytes());
    }
    out.push(b'"');
    kept.len() == text.len()
}

/// Appends the content of a JSON string.
fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut plain = 0;
    for (at, byte) in text.iter().enumerate().filter(|(_, byte)| escape_len(**byte) > 1) {
        out.extend_from_slice(&text[plain..at]);
        escape(out, *byte);
        plain = at + 1;
    }
    out.extend_from_slice(&text[plain..]);
}

/// The mark at the end of a cut text.
const ELLIPSIS: &str = "…";

/// The longest beginning of `text` that, with escapes and the ellipsis, fits into `room` bytes; the whole text needs no
/// ellipsis.
fn fitting(text: &str, room: usize) -> &str {
    let (mut used, mut cut) = (0, 0);
    for (at, c) in text.char_indices() {
        if used + ELLIPSIS.len() <= room {
            cut = at;
        }
        used += if c.is_ascii() { escape_len(c as u8) } else { c.len_utf8() };
        if used > room {
            return &text[..cut];
        }
    }
    text
}

/// The most bytes that a byte of UTF-8 takes in a JSON string.
const LONGEST_ESCAPE: usize = 6;

/// How many bytes a byte of UTF-8 takes in a JSON string (RFC 8259, 7).
fn escape_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => LONGEST_ESCAPE,
        _ => 1,
    }
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        other => {
            let _ = write!(out, "\\u{other:04x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cut_string_is_whole_json_and_within_its_room(text in any::<String>(), room in 3_usize..80) {
            let mut out = Vec::new();
            string_within(&mut out, &text, room);
            prop_assert!(out.len() <= room + 2);
            let read: String = serde_json::from_slice(&out).unwrap();
            match read.strip_suffix('…') {
                Some(cut) if read != text => prop_assert!(text.starts_with(cut)),
                _ => prop_assert_eq!(read, text),
            }
        }
    }
}
