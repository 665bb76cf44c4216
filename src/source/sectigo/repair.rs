//! Reads a page that is not valid JSON as far as possible, because it would otherwise hold up everything after it.
//!
//! It repairs only the content of strings: bytes that are not UTF-8, raw control characters, and escapes that JSON does
//! not have. Any other flaw, such as an array without an end, remains an error.

use bytes::Bytes;

use super::page::{self, Error};
use crate::event::Event;

/// Reads the records of a page. Marks the repaired ones; all others are byte for byte as they came. The error says what
/// is wrong with the original body.
pub fn records(body: &Bytes) -> Result<Vec<Event>, Error> {
    let cause = match page::records(body) {
        Err(cause @ (Error::NotText(_) | Error::Broken(_))) => cause,
        read => return read,
    };
    let Repaired { body, changes } = repaired(body);
    let Ok(events) = page::records(&body) else { return Err(cause) };
    let start = body.as_ptr() as usize;
    let mark = |event: Event| {
        // A record is a slice of the body, so the difference of their addresses is its offset.
        let from = event.raw().as_ptr() as usize - start;
        let until = from + event.raw().len();
        let next = changes.get(changes.partition_point(|change| *change < from));
        if next.is_some_and(|change| *change < until) { event.repaired() } else { event }
    };
    Ok(events.into_iter().map(mark).collect())
}

/// A body with valid strings.
struct Repaired {
    body: Bytes,
    /// The offsets of the changes, in order.
    changes: Vec<usize>,
}

fn repaired(body: &[u8]) -> Repaired {
    let mut repair = Repair { out: Vec::with_capacity(body.len() + 64), changes: Vec::new(), is_string: false };
    for chunk in body.utf8_chunks() {
        repair.text(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            repair.change("\u{fffd}".as_bytes());
        }
    }
    Repaired { body: repair.out.into(), changes: repair.changes }
}

struct Repair {
    out: Vec<u8>,
    changes: Vec<usize>,
    is_string: bool,
}

impl Repair {
    fn change(&mut self, replacement: &[u8]) {
        self.changes.push(self.out.len());
        self.out.extend_from_slice(replacement);
    }

    fn text(&mut self, text: &[u8]) {
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            at += 1;
            match byte {
                b'"' => {
                    self.is_string = !self.is_string;
                    self.out.push(b'"');
                }
                b'\\' if self.is_string => match text.get(at..) {
                    Some([escaped @ (b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't'), ..]) => {
                        self.out.extend_from_slice(&[b'\\', *escaped]);
                        at += 1;
                    }
                    Some([b'u', a, b, c, d, ..]) if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => {
                        self.out.push(b'\\');
                    }
                    // JSON has no such escape, so the backslash stands for itself.
                    _ => self.change(b"\\\\"),
                },
                control @ 0..0x20 if self.is_string => self.change(format!("\\u{control:04x}").as_bytes()),
                other => self.out.push(*other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &[u8]) -> Option<Vec<(Vec<u8>, bool)>> {
        let events = records(&Bytes::copy_from_slice(body)).ok()?;
        Some(events.iter().map(|event| (event.raw().to_vec(), event.is_repaired())).collect())
    }

    #[test]
    fn only_the_broken_record_is_changed() {
        let body =
            b" [ {\"a\" : \"\\u00e9\\n\xc3\xa9\"} ,{\"a\":\"x\xff\x01\ty\xc3\"},\n{\"b\":1.50}, {\"c\":\"\\x\"}]";
        let expected: [(&[u8], bool); 4] = [
            (b"{\"a\" : \"\\u00e9\\n\xc3\xa9\"}", false),
            (b"{\"a\":\"x\xef\xbf\xbd\\u0001\\u0009y\xef\xbf\xbd\"}", true),
            (b"{\"b\":1.50}", false),
            (b"{\"c\":\"\\\\x\"}", true),
        ];
        let expected: Vec<_> = expected.iter().map(|(raw, repaired)| (raw.to_vec(), *repaired)).collect();
        assert_eq!(read(body).unwrap(), expected);
    }

    #[test]
    fn what_has_no_end_or_is_no_array_stays_an_error() {
        for body in [
            &b""[..],
            b"{}",
            b"<html>\xff",
            b"[{\"a\":\"x\xff\"}",
            b"[{\"a\":\"x\xff",
            b"[{\"a\":\"\\",
            b"[{\"a\":\x01}]",
            b"[{\"id\": broken]",
            b"[\xff]",
        ] {
            assert_eq!(read(body), None, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn keys_are_repaired_as_well_and_a_backslash_before_a_control_character() {
        assert_eq!(read(b"[{\"\x00k\":\"a\\\nb\"}]").unwrap(), [(b"{\"\\u0000k\":\"a\\\\\\u000ab\"}".to_vec(), true)]);
    }

    proptest! {
        #[test]
        fn whatever_stands_in_a_string_is_read(content in prop::collection::vec(any::<u8>(), 0..40)) {
            // A quotation mark would end the string, and a backslash at its end would hide the mark.
            let content: Vec<_> = content.into_iter().filter(|byte| !matches!(byte, b'"' | b'\\')).collect();
            let body = [b"[{\"ok\":1},{\"a\":\"", &content[..], b"\"},7]"].concat();
            let read = read(&body).unwrap();
            prop_assert_eq!(read.len(), 3);
            let is_valid = std::str::from_utf8(&content).is_ok() && !content.iter().any(|byte| *byte < 0x20);
            prop_assert_eq!((read[0].1, read[1].1, read[2].1), (false, !is_valid, false));
            if is_valid {
                prop_assert_eq!(&read[1].0, &body[10..body.len() - 3]);
            }
        }

        #[test]
        fn a_page_that_is_valid_is_untouched(text in any::<String>()) {
            let body = serde_json::json!([{ "a": text }, text]).to_string();
            let read = read(body.as_bytes()).unwrap();
            prop_assert!(read.iter().all(|(_, repaired)| !repaired));
        }
    }
}
