//! Reads the few fields of a row that auditsync uses. Headings are the report's own, in its language. The row is
//! delivered whole in any case.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::event::{Event, Field, Fields, Severity, scalar};
use crate::fingerprint::Fingerprint;
use crate::members::{Member, members};

/// The API's format of times in rows: `06-Feb-2025 10:28:04`.
const TIME_FORMAT: &str = "%d-%b-%Y %H:%M:%S";

/// The English headings that auditsync reads. If two stand for one field, the first one with a value counts.
const HEADINGS: &[(&str, Field)] = &[
    ("Action", Field::Action),
    ("Message", Field::Details),
    ("Activity", Field::Details),
    ("Result", Field::Outcome),
    ("IP address", Field::ClientAddress),
    ("User ID", Field::ActorId),
    ("User name", Field::ActorName),
    ("User email", Field::ActorEmail),
];

/// The time of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Time {
    /// The row has no such column.
    NoColumn,
    /// The column holds this text, which is not a time that auditsync understands.
    NotRead(String),
    /// The time was read.
    At(Timestamp),
}

impl Time {
    /// The time, where it was read.
    pub(super) fn read(&self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(*time),
            Self::NoColumn | Self::NotRead(_) => None,
        }
    }
}

/// The time of the row `raw`, in the column `heading`.
pub(super) fn time(raw: &[u8], heading: &str) -> Time {
    let value = columns(raw).find(|member| is_heading(member.key, heading)).map(|member| member.value);
    match value.map(|value| scalar(value).unwrap_or_default()) {
        None => Time::NoColumn,
        Some(text) => parse_time(&text).map_or_else(|| Time::NotRead(text.into_owned()), Time::At),
    }
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let local = DateTime::strptime(TIME_FORMAT, text).or_else(|error| match text.parse::<Timestamp>() {
        Ok(time) => Ok(TimeZone::UTC.to_datetime(time)),
        Err(_) => text.parse().map_err(|_| error),
    });
    TimeZone::UTC.to_timestamp(local.ok()?).ok()
}

/// The members of a row; none if it is not an object.
fn columns(raw: &[u8]) -> impl Iterator<Item = Member<'_>> {
    members(if raw.first() == Some(&b'{') { raw } else { b"{}" })
}

fn is_heading(key: &[u8], heading: &str) -> bool {
    match key {
        [b'"', content @ .., b'"'] if !content.contains(&b'\\') => content == heading.as_bytes(),
        _ => scalar(key).is_some_and(|key| key == heading),
    }
}

/// The headings of a row.
pub(super) fn headings(raw: &[u8]) -> Vec<String> {
    columns(raw).filter_map(|member| scalar(member.key).map(std::borrow::Cow::into_owned)).collect()
}

/// The fingerprint of a row's columns, whatever their order.
pub(super) fn columns_of(raw: &[u8]) -> Fingerprint {
    let mut headings = headings(raw);
    headings.sort_unstable();
    Fingerprint::of_parts(headings.iter().map(String::as_bytes))
}

/// The row as an event, and its fingerprint.
pub(super) fn event(raw: bytes::Bytes, heading: &str) -> (Event, Fingerprint) {
    let base = raw.as_ptr() as usize;
    let mut values = [None; HEADINGS.len()];
    for Member { key, value } in columns(&raw).filter(|member| member.value != b"\"\"") {
        if let Some(at) = HEADINGS.iter().position(|(heading, _)| is_heading(key, heading)) {
            // The value is a slice of the row, so the difference of their addresses is its offset.
            values[at] = Some((value.as_ptr() as usize - base, value.len()));
        }
    }
    let mut fields = Fields::default();
    for (value, (_, field)) in values.iter().zip(HEADINGS).rev() {
        if let Some((start, length)) = value {
            fields.set(*field, *start..start + length);
        }
    }
    let print = Fingerprint::of_record(&raw);
    let id = print.to_string();
    let time = time(&raw, heading).read();
    let event = Event::new(raw, time, fields).with_derived(vec![(Field::Id, id.into())]);
    let severity = severity(&event);
    (event.with_severity(severity), print)
}

/// The severity of a row: an error for a failed result, a warning for an action that takes trust or rights away.
fn severity(event: &Event) -> Severity {
    let begins = |text: &str, words: &[&str]| {
        let text = text.trim_start().to_ascii_lowercase();
        words.iter().any(|word| text.starts_with(word))
    };
    if event.text(Field::Outcome).is_some_and(|outcome| begins(&outcome, &["fail", "err", "den", "rej"])) {
        return Severity::Error;
    }
    let action = event.text(Field::Action);
    match action {
        Some(action) if begins(&action, &["revoke", "delete", "remove", "disable", "deactivate"]) => Severity::Warn,
        _ => Severity::Info,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const COLUMN: &str = "Date and time (UTC)";

    #[test]
    fn the_time_is_read_in_the_apis_form_and_in_iso() {
        for text in ["06-Feb-2025 10:28:04", "2025-02-06 10:28:04", "2025-02-06T11:28:04+01:00"] {
            let row = format!("{{\"Action\":\"x\",\"{COLUMN}\":\"{text}\"}}");
            let expected = "2025-02-06T10:28:04Z".parse().unwrap();
            assert_eq!(time(row.as_bytes(), COLUMN), Time::At(expected), "{text}");
        }
        assert_eq!(time(br#"{"Date":"06-Feb-2025 10:28:04"}"#, COLUMN), Time::NoColumn);
        assert_eq!(time(b"17", COLUMN), Time::NoColumn);
        let row = format!("{{\"{COLUMN}\":\"06-f\u{e9}vr.-2025\"}}");
        assert_eq!(time(row.as_bytes(), COLUMN), Time::NotRead("06-f\u{e9}vr.-2025".to_owned()));
        assert_eq!(
            time("{\"Fecha\\u0020y hora\":\"06-Feb-2025 10:28:04\"}".as_bytes(), "Fecha y hora")
                .read()
                .map(Timestamp::as_second),
            Some(1_738_837_684)
        );
    }

    #[test]
    fn a_row_becomes_an_event_with_the_fields_that_are_understood() {
        let row = format!(
            "{{\"{COLUMN}\":\"06-Feb-2025 10:28:04\",\"Action\":\"Revoke certificate\",\"Activity\":\"one\\ntwo\",\"Result\":\"Success\",\
             \"IP address\":\"192.0.2.1\",\"Unbekannt\":\"\u{fc}\",\"User ID\":\"17\"}}"
        );
        let (event, print) = event(Bytes::from(row.clone()), COLUMN);
        assert_eq!(event.raw(), row.as_bytes());
        assert_eq!(event.time().unwrap().as_second(), 1_738_837_684);
        assert_eq!(event.text(Field::Details).as_deref(), Some("one\ntwo"), "there is no message");
        assert_eq!(event.text(Field::ActorId).as_deref(), Some("17"));
        assert_eq!(event.text(Field::Id).unwrap(), print.to_string());
        assert_eq!(event.severity(), Severity::Warn);
        let (failed, _) = super::event(Bytes::from_static(br#"{"Result":"Failed"}"#), COLUMN);
        assert_eq!((failed.severity(), failed.time()), (Severity::Error, None));
    }

    #[test]
    fn columns_are_told_apart_by_their_headings_alone() {
        assert_eq!(columns_of(br#"{"a":1,"b":2}"#), columns_of(br#"{"b":3,"a":4}"#));
        assert_ne!(columns_of(br#"{"a":1,"b":2}"#), columns_of(br#"{"a":1}"#));
    }
}
