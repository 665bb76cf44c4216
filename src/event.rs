//! An audit event: the raw record, and the normalised fields that any destination may use.
//!
//! A record is never rebuilt. Its bytes are a view into the page that it came in, and a field is a span of those bytes, read
//! when a destination wants it. What a source derives from a record is kept beside it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use memchr::memchr;
use serde::de::{Deserializer, Visitor};

/// One event as its source gave it.
#[derive(Clone)]
pub struct Event {
    raw: Bytes,
    time: Option<Timestamp>,
    fields: Fields,
    severity: Severity,
    repaired: bool,
    /// Fields that do not stand in the record; for nearly every event there are none.
    derived: Option<Box<[Derived]>>,
}

/// A field that does not stand in the record, and its text.
type Derived = (Field, Cow<'static, str>);

/// How serious an event is. The rules belong to its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Severity {
    /// Everything that is none of the others.
    #[default]
    Info,
    /// A change worth a look.
    Notice,
    /// A change that takes trust or rights away, or gives them.
    Warn,
    /// An action that did not succeed.
    Error,
}

impl Severity {
    /// Its name, as Datadog and syslog know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What a destination may want to know of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The source's own identifier of the event.
    Id,
    /// What was done.
    Action,
    /// The part of the source that did it.
    Service,
    /// The kind of thing that it concerns.
    Category,
    /// How it ended.
    Outcome,
    /// Free text about it.
    Details,
    /// Who did it: an identifier.
    ActorId,
    /// Who did it: a name.
    ActorName,
    /// Who did it: an e-mail address.
    ActorEmail,
    /// The address that it was done from.
    ClientAddress,
    /// The session of whose recording it is a part.
    SessionId,
}

impl Field {
    /// How many there are.
    pub const COUNT: usize = Self::SessionId as usize + 1;
}

/// Where a field's JSON value stands in the raw record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// The spans of the fields that were found in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fields([Span; Field::COUNT]);

impl Fields {
    /// Notes that `field`'s value, a JSON scalar, is `raw[range]`. A span past 4 GiB is not noted.
    pub fn set(&mut self, field: Field, range: std::ops::Range<usize>) {
        if let (Ok(start), Ok(end)) = (u32::try_from(range.start), u32::try_from(range.end)) {
            self.0[field as usize] = Span { start, end };
        }
    }
}

impl Event {
    /// An event from its raw JSON, the time read from it and the fields found in it.
    pub fn new(raw: Bytes, time: Option<Timestamp>, fields: Fields) -> Self {
        Self { raw, time, fields, severity: Severity::Info, repaired: false, derived: None }
    }

    /// The same event, of this severity.
    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// The same event, with fields that its source derived. They come before those that stand in the record.
    #[must_use]
    pub fn with_derived(self, fields: Vec<(Field, Cow<'static, str>)>) -> Self {
        Self { derived: (!fields.is_empty()).then(|| fields.into_boxed_slice()), ..self }
    }

    /// The same event, marked as repaired: its record is not byte for byte what the source sent.
    #[must_use]
    pub fn repaired(self) -> Self {
        Self { repaired: true, ..self }
    }

    /// Whether bytes of the record were replaced, because the source sent what is not valid JSON.
    pub fn is_repaired(&self) -> bool {
        self.repaired
    }

    /// The record: one valid JSON value, byte for byte as the source sent it unless [`Self::is_repaired`].
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// When it happened, where the record says so in a form that was understood.
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// How serious it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    fn derived(&self, field: Field) -> Option<&str> {
        let derived = self.derived.as_deref()?.iter().find(|(derived, _)| *derived == field);
        derived.map(|(_, text)| text.as_ref())
    }

    /// A field as text; none where there is none or an empty one. Numbers and booleans are given as written.
    pub fn text(&self, field: Field) -> Option<Cow<'_, str>> {
        if let Some(derived) = self.derived(field) {
            return (!derived.is_empty()).then_some(Cow::Borrowed(derived));
        }
        let Span { start, end } = self.fields.0[field as usize];
        let token = self.raw.get(start as usize..end as usize)?;
        let text = scalar(token)?;
        (!text.is_empty()).then_some(text)
    }

    /// A field as it may stand in another JSON string, where it stands so in the record: a number, a boolean, or a string in which
    /// nothing is escaped as `\u`, for that may be half a character.
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

/// A field's text, as it stands in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbatim<'a> {
    /// Nothing in it is escaped.
    Plain(&'a [u8]),
    /// A JSON string, in its quotes, with escapes in it.
    Escaped(&'a [u8]),
}

/// Whether a `\u` is among the escapes of `content`, which belongs to a valid JSON string.
fn has_unicode_escape(mut content: &[u8]) -> bool {
    while let Some(at) = memchr(b'\\', content) {
        match content.get(at + 1..) {
            Some([b'u', ..]) => return true,
            // Behind the backslash and what it escapes, which may be another.
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
        // Without an escape the content stands there as it is.
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

/// A string read as bytes: `serde_json` then passes lone surrogates through (as WTF-8).
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
