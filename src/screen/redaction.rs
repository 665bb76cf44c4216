//! Redaction: replaces values that must not leave the process by salted hashes.
//!
//! A JSON pointer (RFC 6901) names a value of the record. The rest of the record stays as it is, byte for byte. The same value gets the
//! same hash everywhere, so that the events of one person can still be correlated.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use crate::event::{ENCODED, Event, Field, scalar};
use crate::members::{elements, members, scalars};
use crate::secret::Secret;

/// The beginning of a replaced value.
const MARK: &str = "sha256:";

/// The length from which a redacted value is searched for inside derived texts. A shorter one must be the whole text.
const SEARCHED_FROM: usize = 4;

/// The values to replace, and the salt.
#[derive(Debug, Clone)]
pub struct Redaction {
    pointers: Vec<Pointer>,
    salt: Secret,
}

/// A JSON pointer, as its unescaped reference tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Parses a pointer. The error is the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(tokens) = text.strip_prefix('/') else {
            return Err("must be JSON pointers, which begin with /, such as /userIdentity/arn".to_owned());
        };
        Ok(Self(tokens.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect()))
    }

    /// Finds the values in `record` that the pointer names. There are several if a key occurs twice.
    fn find(&self, record: &[u8]) -> Vec<Range<usize>> {
        let mut found: Vec<_> = std::iter::once(0..record.len()).collect();
        for token in &self.0 {
            let inside = |range: Range<usize>| children(record, &range, token);
            found = found.into_iter().flat_map(inside).collect();
        }
        found
    }
}

/// Finds the values in `range` for `token`: those of an object's key, or the one at an array's index.
fn children(record: &[u8], range: &Range<usize>, token: &str) -> Vec<Range<usize>> {
    let Some(value) = record.get(range.clone()) else { return Vec::new() };
    let within = |part: &[u8]| {
        let start = range.start + part.as_ptr().addr() - value.as_ptr().addr();
        start..start + part.len()
    };
    match value.first() {
        Some(b'{') => {
            let named = members(value).filter(|member| scalar(member.key).is_some_and(|key| key == token));
            named.map(|member| within(member.value)).collect()
        }
        Some(b'[') => {
            let index = token.parse::<usize>().ok().filter(|index| index.to_string() == token);
            index.and_then(|index| elements(value).nth(index)).map(within).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Whether the field's text names someone. A part of a hidden value would tell who that is. Other fields have words of the source, which a
/// hidden text may contain by chance.
fn names_someone(field: Field) -> bool {
    matches!(field, Field::ActorId | Field::ActorName | Field::ActorEmail | Field::ClientAddress)
}

impl Redaction {
    /// Makes a redaction of the values that `pointers` name.
    pub fn new(pointers: Vec<Pointer>, salt: Secret) -> Self {
        Self { pointers, salt }
    }

    /// The salt of the hashes.
    pub(crate) fn salt(&self) -> &Secret {
        &self.salt
    }

    /// Returns the event with its values redacted. An event that is already redacted stays as it is.
    pub fn of(&self, event: Event) -> Event {
        if event.is_redacted() {
            return event;
        }
        self.replaced(event).redacted()
    }

    fn replaced(&self, event: Event) -> Event {
        let record = event.raw().clone();
        let record = record.trim_ascii();
        let offset = record.as_ptr().addr() - event.raw().as_ptr().addr();
        // No pointer leads into an event in encoded form, so it is replaced whole.
        let encoded = event.is_repaired().then(|| Pointer(vec![ENCODED.to_owned()]));
        let pointers = self.pointers.iter().chain(&encoded);
        let mut ranges: Vec<_> = pointers.flat_map(|pointer| pointer.find(record)).collect();
        ranges.retain(|range| record.get(range.clone()).is_some_and(|value| value != b"null"));
        // A value inside another is replaced with it.
        ranges.sort_unstable_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
        let mut end = 0;
        ranges.retain(|range| {
            let is_outermost = range.start >= end;
            end = end.max(range.end);
            is_outermost
        });
        if ranges.is_empty() {
            return event;
        }
        let mut hidden = Vec::new();
        for range in &ranges {
            let texts = scalars(record.get(range.clone()).unwrap_or_default()).filter_map(scalar);
            hidden.extend(texts.filter(|text| !text.is_empty()).map(Cow::into_owned));
        }
        let replacements = ranges.into_iter().map(|range| {
            let value = record.get(range.clone()).unwrap_or_default();
            let text = scalar(value).unwrap_or_else(|| String::from_utf8_lossy(value));
            (range.start + offset..range.end + offset, format!("\"{}\"", self.hash(&text)))
        });
        let replacements: Vec<_> = replacements.collect();
        let is_told = |field: Field, text: &str| {
            let is_inside = |part: &str, whole: &str| part.chars().count() >= SEARCHED_FROM && whole.contains(part);
            hidden.iter().any(|hidden| {
                text == hidden || is_inside(hidden, text) || (names_someone(field) && is_inside(text, hidden))
            })
        };
        // A derived id is a hash of the whole record. With the rest of the record, anyone could test guesses of a hidden value by it.
        let is_hidden = |field, text: &str| field == Field::Id || is_told(field, text);
        event
            .with_replaced(&replacements)
            .map_derived(|field, text| if is_hidden(field, &text) { Cow::Owned(self.hash(&text)) } else { text })
    }

    /// Redacts an unreadable record. Pointers cannot reach into it, so this replaces its whole `text`.
    pub fn of_unreadable(&self, event: Event) -> Event {
        let text = Pointer(vec!["text".to_owned()]);
        let pointers = self.pointers.iter().cloned().chain([text]).collect();
        Self { pointers, salt: self.salt.clone() }.of(event)
    }

    /// The replacement for `text`: `sha256:` and the SHA-256 of the salt and the text, in hex.
    pub fn hash(&self, text: &str) -> String {
        let salt = self.salt.current();
        let digest = Sha256::new().chain_update(salt.expose_secret()).chain_update(text).finalize();
        digest.iter().fold(MARK.to_owned(), |mut hash, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hash, "{byte:02x}");
            hash
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::event::Fields;

    fn redaction(pointers: &[&str]) -> Redaction {
        let pointers = pointers.iter().map(|pointer| Pointer::parse(pointer).unwrap()).collect();
        Redaction::new(pointers, Secret::from_value("AUDITSYNC_REDACT_SALT", "salt".to_owned().into()))
    }

    /// An event with these pieces of its record as fields.
    fn event(record: &str, fields: &[(Field, &str)]) -> Event {
        let mut found = Fields::default();
        for (field, token) in fields {
            let start = record.find(token).unwrap();
            found.set(*field, start..start + token.len());
        }
        Event::new(Bytes::from(record.to_owned()), None, found)
    }

    fn redacted(record: &str, pointers: &[&str]) -> String {
        String::from_utf8(redaction(pointers).of(event(record, &[])).raw().to_vec()).unwrap()
    }

    #[test]
    fn a_value_becomes_the_hash_of_salt_and_text_and_nothing_else_changes() {
        // printf 'saltann@example.org' | sha256sum
        let hash = "sha256:a969ef7977546a5e909c5ac0e0cb0d1e007e4abe2b6cf970f2922a8008b89135";
        let record = r#"{ "n" : 1.50, "user":{"mail": "ann@example.org" ,"x":"\u00e9\/"},"e":{} }"#;
        assert_eq!(redacted(record, &["/user/mail"]), record.replace("ann@example.org", hash));
    }

    #[test]
    fn every_kind_of_value_is_replaced_and_null_is_not() {
        for value in ["\"a\"", "17", "true", "[1,{\"a\":2}]", "{\"b\":[]}", "\"\""] {
            let written = redacted(&format!(r#"{{"k":{value},"z":1}}"#), &["/k"]);
            let read: Value = serde_json::from_str(&written).unwrap();
            assert!(read["k"].as_str().unwrap().starts_with(MARK) && read["z"] == 1, "{written}");
        }
        assert_eq!(redacted(r#"{"k":null}"#, &["/k"]), r#"{"k":null}"#);
    }

    #[test]
    fn pointers_lead_through_arrays_escapes_and_repeated_keys() {
        let hash = redaction(&[]).hash("s");
        for (record, pointer, count) in [
            (r#"{"a":[{"b":"s"},{"b":"s"}]}"#, "/a/1/b", 1),
            (r#"{"a":["s"]}"#, "/a/00", 0),
            (r#"{"a/b":{"m~n":"s"}}"#, "/a~1b/m~0n", 1),
            (r#"{"addr.remote":"s"}"#, "/addr.remote", 1),
            (r#"{"\u0061":"s","a":"s"}"#, "/a", 2),
            (r#"{"":"s"}"#, "/", 1),
            (r#" {"a":"s"} "#, "/a", 1),
            (r#"{"b":"s"}"#, "/a", 0),
            (r#"["s"]"#, "/0", 1),
            ("17", "/a", 0),
        ] {
            let written = redacted(record, &[pointer]);
            assert_eq!(written.matches(&hash).count(), count, "{record} {pointer}: {written}");
        }
    }

    #[test]
    fn fields_move_with_the_record_and_those_of_a_replaced_value_show_its_hash() {
        let record = r#"{"user":"ann","action":"login","who":{"id":"u7"},"ip":"192.0.2.1"}"#;
        let fields = [
            (Field::ActorName, "\"ann\""),
            (Field::Action, "\"login\""),
            (Field::ActorId, "\"u7\""),
            (Field::ClientAddress, "\"192.0.2.1\""),
        ];
        let redaction = redaction(&["/user", "/who"]);
        let event = redaction.of(event(record, &fields));
        assert_eq!(event.text(Field::ActorName).unwrap(), redaction.hash("ann"));
        assert_eq!(event.text(Field::ActorId), None, "it is inside of what was replaced");
        assert_eq!(event.text(Field::Action).as_deref(), Some("login"));
        assert_eq!(event.text(Field::ClientAddress).as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn a_derived_field_does_not_tell_what_was_replaced() {
        let derived = vec![
            (Field::ActorName, Cow::Borrowed("ann")),
            (Field::Details, Cow::Borrowed("login by anna@example.org")),
            (Field::Outcome, Cow::Borrowed("success")),
            (Field::ClientAddress, Cow::Borrowed("192.0.2.1")),
            (Field::Id, Cow::Borrowed("5f3a")),
        ];
        let record = r#"{"user":"ann","mail":"anna@example.org","from":"192.0.2.1:4711","text":"without success"}"#;
        let redaction = redaction(&["/user", "/mail", "/from", "/text"]);
        let event = redaction.of(event(record, &[]).with_derived(derived));
        assert_eq!(event.text(Field::ClientAddress).unwrap(), redaction.hash("192.0.2.1"));
        assert_eq!(event.text(Field::Id).unwrap(), redaction.hash("5f3a"), "it is a hash without salt");
        assert_eq!(event.text(Field::ActorName).unwrap(), redaction.hash("ann"));
        assert!(event.text(Field::Details).unwrap().starts_with(MARK));
        assert_eq!(event.text(Field::Outcome).as_deref(), Some("success"));
    }

    #[test]
    fn an_event_in_encoded_form_is_hidden_whole() {
        let redaction = redaction(&["/user"]);
        let event = redaction.of(event(r#"{"auditsync_message":"YW5u"}"#, &[]).repaired());
        assert_eq!(event.raw(), format!(r#"{{"auditsync_message":"{}"}}"#, redaction.hash("YW5u")).as_bytes());
    }

    #[test]
    fn to_redact_twice_is_to_redact_once() {
        let redaction = redaction(&["/a"]);
        let once = redaction.of(event(r#"{"a":"s"}"#, &[]));
        assert_eq!(redaction.of(once.clone()).raw(), once.raw());
    }

    #[test]
    fn a_value_of_the_source_that_looks_like_a_hash_is_replaced() {
        let digest = format!("{MARK}{}", "0123456789abcdef".repeat(4));
        let written = redacted(&format!(r#"{{"imageDigest":"{digest}"}}"#), &["/imageDigest"]);
        assert_eq!(written, format!(r#"{{"imageDigest":"{}"}}"#, redaction(&[]).hash(&digest)));
    }

    /// Here it would take hours to look through the rest at each level.
    #[test]
    fn a_value_is_looked_through_once_however_deep_it_is() {
        let (open, close) = ("[".repeat(1 << 19), "]".repeat(1 << 19));
        let derived = vec![(Field::Details, Cow::Borrowed("it was by ann.secret"))];
        let record = format!(r#"{{"k":{open}"ann.secret"{close},"z":1}}"#);
        let event = redaction(&["/k"]).of(event(&record, &[]).with_derived(derived));
        assert!(event.raw().ends_with(b"\",\"z\":1}") && event.raw().len() < 100);
        assert!(event.text(Field::Details).unwrap().starts_with(MARK));
    }

    #[test]
    fn a_text_that_is_no_pointer_is_refused() {
        assert!(Pointer::parse("user").unwrap_err().contains("begin with /"));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Into::into),
            "[a-z\"\\\\ é]{0,6}".prop_map(Into::into)
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
                prop::collection::btree_map("[ab/~]{1,2}", inner, 0..3)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_finds_behind_a_pointer_is_replaced(value in values(), pointer in "(/([ab/~]{1,2}|[0-2])){1,3}") {
            let pointer = pointer.replace('~', "~0");
            let written = redacted(&value.to_string(), &[&pointer]);
            let mut expected = value;
            if let Some(found) = expected.pointer_mut(&pointer).filter(|found| !found.is_null()) {
                let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
                *found = redaction(&[]).hash(&text).into();
            }
            prop_assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), expected);
        }
    }
}
