//! Standard output as a destination: one JSON document a line (NDJSON), for pipes and for people.

use std::sync::Arc;

use super::{Destination, Kind, Printer, Tally};
use crate::component::{Configured, Context};
use crate::config::{Noted, Preset, Reader, Scope, Variable, parse};
use crate::event::{Event, Field};
use crate::source;

/// The destination in the registry.
pub const KIND: Kind = Kind {
    name: "stdout",
    title: "Standard output",
    variables: &[&FORMAT.spec],
    oldest: None,
    read,
    preview: read,
    archive: None,
};

const FORMATS: [(&str, Format); 2] = [("record", Format::Record), ("event", Format::Event)];

/// The form of printed events.
const FORMAT: Variable<Format> = Variable::new(
    Scope::Destination,
    "STDOUT_FORMAT",
    Preset::Value("record"),
    |text, _| parse::choice(text, &FORMATS),
    "What auditsync prints: record (as the source gave it), or event (the fields read from it, and the record).",
);

/// The form of a printed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// The record: byte for byte, except that line ends become blanks.
    Record,
    /// An object with the normalised fields, and the record under `record`.
    Event,
}

fn read(reader: &mut Reader<'_>, _: &source::Kind) -> Result<Configured<dyn Destination>, Noted> {
    let format = reader.get(&FORMAT)?;
    Ok(Configured::new(move |context: &Context| -> Arc<dyn Destination> {
        Arc::new(Printer::to_stdout(context.metrics.clone(), move |out, event, _| {
            match format {
                Format::Record => out.extend_from_slice(event.raw()),
                Format::Event => write_event(out, event),
            }
            Tally::default()
        }))
    }))
}

/// The members that are printed of an event, in order, with their names.
const MEMBERS: [(&str, Field); 9] = [
    ("id", Field::Id),
    ("service", Field::Service),
    ("action", Field::Action),
    ("category", Field::Category),
    ("outcome", Field::Outcome),
    ("actor_id", Field::ActorId),
    ("actor_name", Field::ActorName),
    ("actor_email", Field::ActorEmail),
    ("client_address", Field::ClientAddress),
];

fn write_event(out: &mut Vec<u8>, event: &Event) {
    out.push(b'{');
    if let Some(time) = event.time() {
        member(out, "time", &time.to_string());
    }
    member(out, "severity", event.severity().name());
    for (name, field) in MEMBERS {
        if let Some(text) = event.text(field) {
            member(out, name, &text);
        }
    }
    out.extend_from_slice(b"\"record\":");
    out.extend_from_slice(event.raw());
    out.push(b'}');
}

fn member(out: &mut Vec<u8>, name: &str, value: &str) {
    for (text, separator) in [(name, b':'), (value, b',')] {
        // Writing into memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, text);
        out.push(separator);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;
    use crate::event::{Fields, Severity};

    #[test]
    fn an_event_is_an_object_of_its_fields_with_the_record_as_it_came() {
        let raw = Bytes::from_static(br#"{"n": 1.0, "action":"say \"hi\""}"#);
        let mut fields = Fields::default();
        fields.set(Field::Action, 20..32);
        let event = Event::new(raw, Some(Timestamp::UNIX_EPOCH), fields).with_severity(Severity::Warn);
        let mut out = Vec::new();
        write_event(&mut out, &event);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"time":"1970-01-01T00:00:00Z","severity":"warn","action":"say \"hi\"","record":{"n": 1.0, "action":"say \"hi\""}}"#
        );
    }
}
