//! A page of the audit API: where each record begins and ends in its body.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{record, severity};
use crate::event::Event;

/// Most records that a page may hold. It bounds memory: a body of tiny elements would take many times its size,
/// since an event takes about 130 bytes beside its record.
pub const MOST_RECORDS: usize = 50_000;

/// Why a body is no page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is something else than an array: another server's word, or an error's.
    #[error("it is not an array of records")]
    NotAnArray,
    /// It begins like an array and is no text, and so no JSON (RFC 8259, 8.1).
    #[error("it is not UTF-8")]
    NotText(#[source] std::str::Utf8Error),
    /// It is an array that cannot be read.
    #[error(transparent)]
    Broken(#[from] serde_json::Error),
}

/// The records of a page, as views into its body. The error says what is wrong with the body.
///
/// Anything may be a record: an element that is no object, or of which nothing is understood, is passed on as it is.
pub fn records(body: &Bytes) -> Result<Vec<Event>, Error> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return Err(Error::NotAnArray);
    }
    // Looked at once as a whole, which is many times cheaper than value by value.
    let text = std::str::from_utf8(body).map_err(Error::NotText)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let events = json.deserialize_seq(Elements { body })?;
    json.end()?;
    Ok(events)
}

/// Whether a body is a page without a record.
pub fn is_empty(body: &[u8]) -> bool {
    let inside = body.trim_ascii().strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    inside.is_some_and(|inside| inside.trim_ascii().is_empty())
}

/// Makes an event of each element as soon as its end is found, while it is still close at hand.
struct Elements<'b> {
    body: &'b Bytes,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<Event>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut reader = record::Reader::default();
        let mut events = Vec::new();
        while let Some(element) = array.next_element::<&RawValue>()? {
            if events.len() == MOST_RECORDS {
                return Err(A::Error::custom(format_args!("more than {MOST_RECORDS} records")));
            }
            let raw = self.body.slice_ref(element.get().as_bytes());
            let (time, fields) = reader.read(&raw);
            let event = Event::new(raw, time, fields);
            let severity = severity::of(&event);
            events.push(event.with_severity(severity));
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raws(body: &'static str) -> Vec<String> {
        let events = records(&Bytes::from_static(body.as_bytes())).unwrap();
        events.iter().map(|event| String::from_utf8(event.raw().to_vec()).unwrap()).collect()
    }

    #[test]
    fn records_are_passed_on_byte_for_byte() {
        assert_eq!(raws("[]"), Vec::<String>::new());
        assert_eq!(
            raws(" [ {\"a\" : 1.50,\n \"b\":\"\\u00e9\\ud800\"} , 17, null,\"x\"]\n"),
            ["{\"a\" : 1.50,\n \"b\":\"\\u00e9\\ud800\"}", "17", "null", "\"x\""]
        );
    }

    #[test]
    fn a_page_without_a_record_is_known_by_its_looks() {
        for (body, expected) in [("[]", true), (" [ \n] ", true), ("[{}]", false), ("", false), ("{}", false)] {
            assert_eq!(is_empty(body.as_bytes()), expected, "{body:?}");
        }
    }

    #[test]
    fn a_page_of_countless_elements_is_no_page() {
        let body = |count| Bytes::from(format!("[{}0]", "0,".repeat(count - 1)));
        assert_eq!(records(&body(MOST_RECORDS)).unwrap().len(), MOST_RECORDS);
        assert!(records(&body(MOST_RECORDS + 1)).is_err());
    }

    #[test]
    fn a_body_that_is_no_array_is_no_page() {
        for body in ["", "{}", "null", "[{}", "[{}]x", "<html>", "[\u{1}]", "[{\"a\":\"\n\"}]"] {
            assert!(records(&Bytes::copy_from_slice(body.as_bytes())).is_err(), "{body:?}");
        }
        assert!(records(&Bytes::from_static(b"[\"\xff\"]")).is_err());
    }
}
