//! Pages of the audit API: finds where each record begins and ends in a body.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{record, severity};
use crate::event::Event;

/// The most records in a page, to bound memory. A body of tiny records would take many times its size, because an event
/// takes about 130 bytes beside its record.
pub const MOST_RECORDS: usize = 50_000;

/// A reason why a body is not a page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not an array: another server sent it, or it is an error.
    #[error("it is not an array of records")]
    NotAnArray,
    /// The body begins like an array, but is not text, and so not JSON (RFC 8259, 8.1).
    #[error("it is not UTF-8")]
    NotText(#[source] std::str::Utf8Error),
    /// The body is an array that cannot be read.
    #[error(transparent)]
    Broken(#[from] serde_json::Error),
}

/// Reads the records of a page, as views into its body. The error says what is wrong with the body.
///
/// Any element is a record, even one that is not an object, or in which no field is known.
pub fn records(body: &Bytes) -> Result<Vec<Event>, Error> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return Err(Error::NotAnArray);
    }
    // Checking the whole body at once is many times cheaper than checking each value.
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

/// Makes an event of each element as soon as its end is found, while it is still in the processor's cache.
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
