//! Batches: each holds as many events with the same tag as the settings allow in one body.

use std::io::{self, Write as _};
use std::ops::Range;

use flate2::write::GzEncoder;

use super::{Compression, record};
use crate::event::{Event, Field};

/// The limits of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most events. With 1, the body is a bare object.
    pub(super) records: usize,
    /// The largest body before compression, in bytes. A single event may exceed it.
    pub(super) bytes: usize,
    /// Whether each recorded session has an address of its own.
    pub(super) by_session: bool,
}

impl Limits {
    /// The session to whose address an event goes; none for the common address.
    pub(super) fn session_of(&self, event: &Event) -> Option<String> {
        if self.by_session { session(event) } else { None }
    }
}

/// A request body, and which events it carries.
#[derive(Debug)]
pub(super) struct Batch {
    /// The events that it carries.
    pub(super) range: Range<usize>,
    /// The recorded session to whose address they go; none for the common address.
    pub(super) session: Option<String>,
    /// The body as it is sent.
    pub(super) body: Vec<u8>,
    /// The body's size before compression, in bytes.
    pub(super) uncompressed: usize,
}

impl Batch {
    /// Writes events from the beginning of `range`: as many as may go in one request, and at least one.
    pub(super) fn fill(
        events: &[Event],
        range: &Range<usize>,
        limits: Limits,
        compression: Compression,
    ) -> io::Result<Self> {
        let first = range.start.min(events.len());
        let events = events.get(first..range.end.min(events.len())).unwrap_or_default();
        let session = events.first().and_then(|event| limits.session_of(event));
        let is_array = limits.records > 1;
        let mut body = Vec::with_capacity(limits.bytes.min(events.iter().map(|event| event.raw().len() + 64).sum()));
        let mut count = 0;
        body.extend(is_array.then_some(b'['));
        for event in events.iter().take(limits.records) {
            let before = body.len();
            body.extend((count > 0).then_some(b','));
            record::write(&mut body, event);
            if count > 0 && (body.len() + usize::from(is_array) > limits.bytes || limits.session_of(event) != session) {
                body.truncate(before);
                break;
            }
            count += 1;
        }
        body.extend(is_array.then_some(b']'));
        let uncompressed = body.len();
        Ok(Self { range: first..first + count, session, body: compressed(body, compression)?, uncompressed })
    }
}

/// The body as it is sent.
pub(super) fn compressed(body: Vec<u8>, compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(body),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
            encoder.write_all(&body)?;
            encoder.finish()
        }
    }
}

/// The session of an event as a part of an address: letters, digits, `-` and `_`, so that a foreign id cannot choose
/// another path.
fn session(event: &Event) -> Option<String> {
    let id = event.text(Field::SessionId)?;
    let clean = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    Some(id.chars().take(128).map(clean).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use super::*;
    use crate::event::Fields;

    const LIMITS: Limits = Limits { records: 500, bytes: 1024, by_session: true };

    fn events(count: usize, size: usize) -> Vec<Event> {
        let raw = Bytes::from(format!(r#"{{"d":"{}"}}"#, "x".repeat(size)));
        vec![Event::new(raw, None, Fields::default()); count]
    }

    fn of_session(id: &'static str) -> Event {
        events(1, 1)[0].clone().with_derived(vec![(Field::SessionId, id.into())])
    }

    fn fill(events: &[Event], range: Range<usize>, limits: Limits) -> Batch {
        Batch::fill(events, &range, limits, Compression::None).unwrap()
    }

    #[test]
    fn a_batch_is_an_array_filled_to_the_bounds_and_no_further() {
        for (count, size, limits, expected) in [
            (1500, 1, Limits { bytes: 1 << 20, ..LIMITS }, 500),
            (1500, 92, LIMITS, 10),
            (1500, 93, LIMITS, 10),
            (1500, 94, LIMITS, 9),
            (3, 5000, LIMITS, 1),
        ] {
            let batch = fill(&events(count, size), 1..count, limits);
            assert_eq!(batch.range, 1..expected + 1, "{size}");
            assert!(batch.body.len() <= limits.bytes || expected == 1);
            let sent: Vec<Value> = serde_json::from_slice(&batch.body).unwrap();
            assert_eq!(sent.len(), expected);
        }
    }

    #[test]
    fn one_event_a_request_is_a_bare_object() {
        let batch = fill(&events(3, 1), 1..3, Limits { records: 1, ..LIMITS });
        assert_eq!((batch.range, batch.body.as_slice()), (1..2, br#"{"d":"x"}"#.as_slice()));
    }

    #[test]
    fn a_batch_has_one_tag() {
        let events = [of_session("a"), of_session("a"), of_session("b"), events(1, 1)[0].clone(), of_session("b")];
        let mut ranges = Vec::new();
        let mut next = 0;
        while next < events.len() {
            let batch = fill(&events, next..events.len(), LIMITS);
            next = batch.range.end;
            ranges.push((batch.range, batch.session));
        }
        let session = |id: &str| Some(id.to_owned());
        assert_eq!(ranges, [(0..2, session("a")), (2..3, session("b")), (3..4, None), (4..5, session("b"))]);
    }

    #[test]
    fn without_an_address_for_sessions_a_batch_is_split_by_none() {
        let events = [of_session("a"), of_session("b"), events(1, 1)[0].clone(), of_session("b")];
        let batch = fill(&events, 0..4, Limits { by_session: false, ..LIMITS });
        assert_eq!((batch.range, batch.session), (0..4, None));
    }

    #[test]
    fn the_id_of_a_session_chooses_no_other_path() {
        assert_eq!(session(&of_session("8d38-a_B")).as_deref(), Some("8d38-a_B"));
        assert_eq!(session(&of_session("../x?y#%2f é")).as_deref(), Some("___x_y__2f__"));
        assert_eq!(session(&of_session("")), None);
    }

    #[test]
    fn gzip_carries_the_same_body() {
        use std::io::Read as _;
        let batch =
            Batch::fill(&events(50, 100), &(0..50), Limits { bytes: 1 << 20, ..LIMITS }, Compression::Gzip).unwrap();
        let mut body = Vec::new();
        flate2::read::GzDecoder::new(batch.body.as_slice()).read_to_end(&mut body).unwrap();
        assert_eq!(body.len(), batch.uncompressed);
        assert_eq!(serde_json::from_slice::<Vec<Value>>(&body).unwrap().len(), 50);
    }
}
