//! Reads a page that is not valid JSON as far as possible, because it would otherwise hold up everything after it.
//!
//! Within strings it replaces bytes that are not UTF-8, raw control characters, and escapes that JSON does not have.
//! Between tokens it drops such bytes and characters. Any other flaw, such as an array without an end, remains an error.

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
    // A page that only became empty by the repair held something that nobody could read.
    let events = page::records(&body).ok().filter(|events| !events.is_empty()).ok_or(cause)?;
    let start = body.as_ptr() as usize;
    let (last, mut seen) = (events.len() - 1, 0);
    let mark = |(nth, event): (usize, Event)| {
        // A record is a slice of the body, so the difference of their addresses is its offset. A change between two
        // records counts for the second, so that no change is silent.
        let until = event.raw().as_ptr() as usize - start + event.raw().len();
        let before = std::mem::replace(&mut seen, changes.partition_point(|change| *change < until || nth == last));
        if seen > before { event.repaired() } else { event }
    };
    Ok(events.into_iter().enumerate().map(mark).collect())
}

/// A body with valid strings, and without foreign bytes between tokens.
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
    /// Replaces what cannot stay within a string, and drops it elsewhere.
    fn change(&mut self, replacement: &[u8]) {
        self.changes.push(self.out.len());
        if self.is_string {
            self.out.extend_from_slice(replacement);
        }
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
                b'\t' | b'\n' | b'\r' if !self.is_string => self.out.push(*byte),
                control @ 0..0x20 => self.change(format!("\\u{control:04x}").as_bytes()),
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
    fn bytes_between_tokens_are_dropped_and_the_record_behind_them_is_marked() {
        let body = b"[\t{\"a\":\x01 1},\r\n{\"b\"\xff:2},{\"c\":3}\x00 ,{\"d\":\n4},{\"e\":t\x00rue}\xc3]";
        let expected: [(&[u8], bool); 5] = [
            (b"{\"a\": 1}", true),
            (b"{\"b\":2}", true),
            (b"{\"c\":3}", false),
            (b"{\"d\":\n4}", true),
            (b"{\"e\":true}", true),
        ];
        let expected: Vec<_> = expected.iter().map(|(raw, repaired)| (raw.to_vec(), *repaired)).collect();
        assert_eq!(read(body).unwrap(), expected);
        assert_eq!(read(b"[{}]\x00").unwrap(), [(b"{}".to_vec(), true)], "behind the last one");
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
            b"[\x00]",
            b"[{\"a\":\"x\"y\"}]",
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
