//! An audit event: the raw record, and the normalised fields that any destination may use.
//!
//! A record is never rebuilt. Its bytes are a view into its page, and a field is a span of those bytes, which is read when a
//! destination wants it. An event keeps the fields that its source derives beside the record.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use jiff::Timestamp;
use memchr::memchr;
use serde::de::{Deserializer, Visitor};

/// One event as its source returned it.
#[derive(Clone)]
pub struct Event {
    raw: Bytes,
    time: Time,
    fields: Fields,
    severity: Severity,
    repaired: bool,
    is_entry: bool,
    is_redacted: bool,
    /// Fields that are not in the record. Most events have none.
    derived: Option<Box<[Derived]>>,
}

/// The member of a record in which a source delivers the encoded form of an event that it cannot decode.
pub(crate) const ENCODED: &str = "auditsync_message";

/// The time of an event.
#[derive(Debug, Clone, Copy)]
enum Time {
    Unknown,
    Known(Timestamp),
    /// The record has it, but the source requested other times. So it was probably misread, such as a local time without an offset.
    Doubtful(Timestamp),
}

/// A field that is not in the record, and its text.
type Derived = (Field, Cow<'static, str>);

/// How serious an event is. Its source decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Severity {
    /// Any other event.
    #[default]
    Info,
    /// A change worth a look.
    Notice,
    /// A change that grants or removes trust or rights.
    Warn,
    /// An action that failed.
    Error,
}

impl Severity {
    /// The name of the severity at Datadog and in syslog.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A normalised field of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The source's own identifier of the event.
    Id,
    /// What was done.
    Action,
    /// The part of the source that did it.
    Service,
    /// The kind of object that it concerns.
    Category,
    /// How it ended.
    Outcome,
    /// Free text about it.
    Details,
    /// The identifier of the actor.
    ActorId,
    /// The name of the actor.
    ActorName,
    /// The e-mail address of the actor.
    ActorEmail,
    /// The network address of the actor.
    ClientAddress,
    /// The session with the recording that it is a part of.
    SessionId,
}

impl Field {
    /// The number of fields.
    pub const COUNT: usize = Self::SessionId as usize + 1;
}

/// The position of a field's JSON value in the raw record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// The spans of the fields that were found in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fields([Span; Field::COUNT]);

impl Fields {
    /// Notes that the value of `field`, a JSON scalar, is `raw[range]`. It ignores a span past 4 GiB.
    pub fn set(&mut self, field: Field, range: Range<usize>) {
        if let (Ok(start), Ok(end)) = (u32::try_from(range.start), u32::try_from(range.end)) {
            self.0[field as usize] = Span { start, end };
        }
    }
}

impl Event {
    /// Makes an event of its raw JSON, and the time and fields found in it.
    pub fn new(raw: Bytes, time: Option<Timestamp>, fields: Fields) -> Self {
        let severity = Severity::Info;
        let time = time.map_or(Time::Unknown, Time::Known);
        Self { raw, time, fields, severity, repaired: false, is_entry: false, is_redacted: false, derived: None }
    }

    /// Sets the severity.
    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// Sets the fields that the source derived. They take precedence over those in the record.
    #[must_use]
    pub fn with_derived(self, fields: Vec<(Field, Cow<'static, str>)>) -> Self {
        Self { derived: (!fields.is_empty()).then(|| fields.into_boxed_slice()), ..self }
    }

    /// Replaces JSON values in the record by others. `replacements` are in order and do not overlap. A field inside a replaced value is
    /// lost.
    pub(crate) fn with_replaced(self, replacements: &[(Range<usize>, String)]) -> Self {
        let mut raw = Vec::with_capacity(self.raw.len());
        let mut copied = 0;
        for (range, text) in replacements {
            raw.extend_from_slice(self.raw.get(copied..range.start).unwrap_or_default());
            raw.extend_from_slice(text.as_bytes());
            copied = range.end;
        }
        raw.extend_from_slice(self.raw.get(copied..).unwrap_or_default());
        let mut fields = Fields::default();
        for (field, span) in self.fields.0.iter().enumerate() {
            if let Some(moved) = moved(*span, replacements)
                && let Some(field) = fields.0.get_mut(field)
            {
                *field = moved;
            }
        }
        Self { raw: raw.into(), fields, ..self }
    }

    /// Replaces each derived text by the result of `map`.
    pub(crate) fn map_derived(mut self, map: impl Fn(Field, Cow<'static, str>) -> Cow<'static, str>) -> Self {
        for (field, text) in self.derived.iter_mut().flatten() {
            *text = map(*field, std::mem::take(text));
        }
        self
    }

    /// Adds a field that the source derived.
    #[must_use]
    pub fn with_one_more_derived(self, field: Field, text: Cow<'static, str>) -> Self {
        let mut fields = self.derived.map(Vec::from).unwrap_or_default();
        fields.push((field, text));
        Self { derived: Some(fields.into_boxed_slice()), ..self }
    }

    /// Marks the event as repaired: its record, or what stood just before it, is not byte for byte what the source sent.
    #[must_use]
    pub fn repaired(self) -> Self {
        Self { repaired: true, ..self }
    }

    /// Marks the record as an entry that was written for a log intake. A destination that is a log intake sends it on unchanged.
    #[must_use]
    pub fn as_entry(self) -> Self {
        Self { is_entry: true, ..self }
    }

    /// Marks the event as redacted: the values that must not leave the process were replaced.
    #[must_use]
    pub(crate) fn redacted(self) -> Self {
        Self { is_redacted: true, ..self }
    }

    /// Whether the values that must not leave the process were replaced.
    pub(crate) fn is_redacted(&self) -> bool {
        self.is_redacted
    }

    /// Whether the record was written as an entry for a log intake.
    pub fn is_entry(&self) -> bool {
        self.is_entry
    }

    /// Whether bytes of the record or just before it were replaced or dropped, because the source sent invalid JSON.
    pub fn is_repaired(&self) -> bool {
        self.repaired
    }

    /// The record: one valid JSON value, byte for byte as the source sent it unless [`Self::is_repaired`].
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The time of the event, if the record has it in a known form.
    pub fn time(&self) -> Option<Timestamp> {
        match self.time {
            Time::Unknown => None,
            Time::Known(time) | Time::Doubtful(time) => Some(time),
        }
    }

    /// The same, without a doubtful time.
    pub fn certain_time(&self) -> Option<Timestamp> {
        match self.time {
            Time::Unknown | Time::Doubtful(_) => None,
            Time::Known(time) => Some(time),
        }
    }

    /// Notes that the event's time is not among the times that the source requested.
    pub(crate) fn doubt_time(&mut self) {
        if let Time::Known(time) = self.time {
            self.time = Time::Doubtful(time);
        }
    }

    /// The severity.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    fn derived(&self, field: Field) -> Option<&str> {
        let derived = self.derived.as_deref()?.iter().find(|(derived, _)| *derived == field);
        derived.map(|(_, text)| text.as_ref())
    }

    /// A field as text; none if it is missing or empty. Numbers and booleans are returned as written.
    pub fn text(&self, field: Field) -> Option<Cow<'_, str>> {
        if let Some(derived) = self.derived(field) {
            return (!derived.is_empty()).then_some(Cow::Borrowed(derived));
        }
        let Span { start, end } = self.fields.0[field as usize];
        let token = self.raw.get(start as usize..end as usize)?;
        let text = scalar(token)?;
        (!text.is_empty()).then_some(text)
    }

    /// A field with bytes that can be copied into another JSON string: a number, a boolean, or a string without a `\u` escape. Such an
    /// escape may be half a character.
    pub fn verbatim(&self, field: Field) -> Option<Verbatim<'_>> {
        if self.derived(field).is_some() {
            return None;
        }
        let Span { start, end } = self.fields.0[field as usize];
        match self.raw.get(start as usize..end as usize)? {
            [] | [b'n' | b'{' | b'[', ..] | b"\"\"" => None,
            token @ [b'"', content @ .., b'"'] => match memchr(b'\\', content) {
                None => Some(Verbatim::Plain(content)),
                Some(first) => (!has_unicode_escape(&content[first..])).then_some(Verbatim::Escaped(token)),
            },
            [b'"', ..] => None,
            token => Some(Verbatim::Plain(token)),
        }
    }
}

/// The position of `span` after the `replacements`; none if it was inside a replaced value.
fn moved(span: Span, replacements: &[(Range<usize>, String)]) -> Option<Span> {
    let (start, end) = (usize::try_from(span.start).ok()?, usize::try_from(span.end).ok()?);
    let (mut removed, mut added) = (0, 0);
    for (range, text) in replacements.iter().take_while(|(range, _)| range.start < end) {
        if *range == (start..end) {
            let start = start - removed + added;
            return Some(Span { start: u32::try_from(start).ok()?, end: u32::try_from(start + text.len()).ok()? });
        }
        if range.end > start {
            return None;
        }
        (removed, added) = (removed + range.len(), added + text.len());
    }
    let moved = |at: usize| u32::try_from(at - removed + added).ok();
    Some(Span { start: moved(start)?, end: moved(end)? })
}

/// A field's text as written in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbatim<'a> {
    /// Nothing in it is escaped.
    Plain(&'a [u8]),
    /// A JSON string, in its quotes, with escapes in it.
    Escaped(&'a [u8]),
}

/// Whether `content`, the content of a valid JSON string, has a `\u` escape.
fn has_unicode_escape(mut content: &[u8]) -> bool {
    while let Some(at) = memchr(b'\\', content) {
        match content.get(at + 1..) {
            Some([b'u', ..]) => return true,
            // Skip the backslash and the character that it escapes, which may be another backslash.
            Some([_, behind @ ..]) => content = behind,
            _ => return false,
        }
    }
    false
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} bytes)", self.raw.len())
    }
}

/// A JSON scalar as text: a string's content, a number or boolean as written; none for null, arrays and objects.
///
/// A string with lone surrogates, which JSON allows and UTF-8 does not, is read with replacement characters.
pub fn scalar(token: &[u8]) -> Option<Cow<'_, str>> {
    match token {
        // Without an escape, the content is the text.
        [b'"', content @ .., b'"'] if memchr(b'\\', content).is_none() => {
            std::str::from_utf8(content).ok().map(Cow::Borrowed)
        }
        [b'"', ..] => match serde_json::from_slice::<String>(token) {
            Ok(text) => Some(Cow::Owned(text)),
            Err(_) => serde_json::from_slice::<Lossy>(token).ok().map(|Lossy(text)| Cow::Owned(text)),
        },
        [] | [b'n' | b'{' | b'[', ..] => None,
        _ => std::str::from_utf8(token).ok().map(Cow::Borrowed),
    }
}

/// A string that is read as bytes, so that `serde_json` passes lone surrogates through (as WTF-8).
struct Lossy(String);

impl<'de> serde::Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Octets;
        impl Visitor<'_> for Octets {
            type Value = Lossy;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Lossy(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        deserializer.deserialize_bytes(Octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_as_text() {
        for (token, expected) in [
            (r#""plain""#, Some("plain")),
            (r#""a\"b\u00e9""#, Some("a\"bé")),
            ("42", Some("42")),
            ("true", Some("true")),
            ("null", None),
            ("{}", None),
            (r#""\ud800x""#, Some("\u{fffd}\u{fffd}\u{fffd}x")),
        ] {
            assert_eq!(scalar(token.as_bytes()).as_deref(), expected, "{token}");
        }
        assert!(matches!(scalar(b"\"plain\""), Some(Cow::Borrowed("plain"))));
    }

    #[test]
    fn a_field_stands_verbatim_unless_a_character_is_written_as_a_number() {
        for (token, expected) in [
            (r#""plain é""#, Some(Verbatim::Plain("plain é".as_bytes()))),
            ("4.50", Some(Verbatim::Plain(b"4.50"))),
            (r#""a\"b""#, Some(Verbatim::Escaped(br#""a\"b""#))),
            (r#""\\u0041""#, Some(Verbatim::Escaped(br#""\\u0041""#))),
            (r#""\n\u0041""#, None),
            (r#""\\\u0041""#, None),
            (r#""""#, None),
            ("null", None),
        ] {
            let mut fields = Fields::default();
            fields.set(Field::Action, 0..token.len());
            let event = Event::new(Bytes::from(token), None, fields);
            assert_eq!(event.verbatim(Field::Action), expected, "{token}");
        }
    }

    #[test]
    fn a_derived_field_comes_before_the_records_own() {
        let mut fields = Fields::default();
        fields.set(Field::Outcome, 8..14);
        let event = Event::new(Bytes::from_static(br#"{"code":"T100"}"#), None, fields);
        assert_eq!(event.text(Field::Outcome).as_deref(), Some("T100"));
        let event = event.with_derived(vec![(Field::Outcome, Cow::Borrowed("failure"))]);
        assert_eq!(event.text(Field::Outcome).as_deref(), Some("failure"));
        assert_eq!(event.verbatim(Field::Outcome), None);
    }

    #[test]
    fn an_empty_or_missing_field_is_none() {
        let raw = Bytes::from_static(br#"{"action":""}"#);
        let mut fields = Fields::default();
        fields.set(Field::Action, 10..12);
        let event = Event::new(raw, None, fields);
        assert_eq!(event.text(Field::Action), None);
        assert_eq!(event.text(Field::Id), None);
    }
}
