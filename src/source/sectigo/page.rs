//! A page of the audit API: where each record begins and ends in its body.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::record;
use crate::event::Event;

/// The records of a page, as views into its body. The error says what is wrong with the body.
///
/// Anything may be a record: an element that is no object, or of which nothing is understood, is passed on as it is.
pub fn records(body: &Bytes) -> Result<Vec<Event>, serde_json::Error> {
    let elements: Vec<&RawValue> = serde_json::from_slice(body)?;
    let event = |element: &&RawValue| {
        let raw = body.slice_ref(element.get().as_bytes());
        let (time, fields) = record::read(&raw);
        Event::new(raw, time, fields)
    };
    Ok(elements.iter().map(event).collect())
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
    fn a_body_that_is_no_array_is_no_page() {
        for body in ["", "{}", "null", "[{}", "[{}]x", "<html>", "[\u{1}]", "[{\"a\":\"\n\"}]"] {
            assert!(records(&Bytes::copy_from_slice(body.as_bytes())).is_err(), "{body:?}");
        }
        assert!(records(&Bytes::from_static(b"[\"\xff\"]")).is_err());
    }
}
