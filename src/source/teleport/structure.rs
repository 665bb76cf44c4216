//! A `google.protobuf.Struct` as JSON (`protobuf.dev/reference/protobuf/google.protobuf`, Struct).
//!
//! Members are sorted by name, because the server sends them in any order. All numbers of a Struct are doubles. An
//! integral one is written without a fraction, as in the Auth Service's own JSON.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::wire::{Fields, Malformed, Value};

/// The greatest depth that is written. Readers of the record have a limit, too.
const DEEPEST: usize = 64;

/// A reason why a Struct has no JSON form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// Its bytes do not encode a Struct.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is nested too deeply.
    #[error("it is nested more than {DEEPEST} levels deep")]
    TooDeep,
}

/// A member of an object.
pub(super) struct Member<'a> {
    /// Its name.
    pub(super) name: Cow<'a, str>,
    /// Its value.
    pub(super) content: Content,
}

/// The value of a member.
pub(super) enum Content {
    /// An encoded Value.
    Value(Bytes),
    /// A text.
    Text(String),
    /// An integer.
    Integer(i64),
}

/// Reads the members of the Struct `bytes`, sorted by name. Of two with one name, the last one counts.
pub(super) fn members(bytes: &Bytes) -> Result<Vec<Member<'static>>, Unfit> {
    let mut members = Vec::with_capacity(32);
    for field in Fields(bytes.clone()) {
        let (1, Value::Bytes(entry)) = field? else { continue };
        let (mut name, mut content) = (String::new(), Bytes::new());
        for part in Fields(entry) {
            match part? {
                (1, Value::Bytes(text)) => name = String::from_utf8_lossy(&text).into_owned(),
                (2, Value::Bytes(value)) => content = value,
                _ => {}
            }
        }
        members.push(Member { name: Cow::Owned(name), content: Content::Value(content) });
    }
    members.reverse();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    members.dedup_by(|later, kept| later.name == kept.name);
    Ok(members)
}

/// Writes JSON, and notes whether a value had to be replaced.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// The output so far.
    pub(super) out: Vec<u8>,
    /// Whether a value had no JSON form: a number that is not finite, or text that is not UTF-8.
    pub(super) replaced: bool,
}

impl Writer {
    /// Appends an object. Calls `seen` with the name of each member and the position of its value.
    pub(super) fn object(
        &mut self,
        members: &[Member<'_>],
        mut seen: impl FnMut(&str, Range<usize>),
    ) -> Result<(), Unfit> {
        self.object_at(members, 0, &mut seen)
    }

    fn object_at(
        &mut self,
        members: &[Member<'_>],
        depth: usize,
        seen: &mut dyn FnMut(&str, Range<usize>),
    ) -> Result<(), Unfit> {
        self.out.push(b'{');
        for (index, Member { name, content }) in members.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.text(name);
            self.out.push(b':');
            let start = self.out.len();
            match content {
                Content::Value(value) => self.value(value.clone(), depth + 1)?,
                Content::Text(text) => self.text(text),
                Content::Integer(number) => self.out.extend_from_slice(number.to_string().as_bytes()),
            }
            seen(name, start..self.out.len());
        }
        self.out.push(b'}');
        Ok(())
    }

    fn value(&mut self, bytes: Bytes, depth: usize) -> Result<(), Unfit> {
        if depth > DEEPEST {
            return Err(Unfit::TooDeep);
        }
        // A Value holds one of these; of several, the last one counts.
        let mut last = None;
        for field in Fields(bytes) {
            if let (number @ 1..=6, value) = field? {
                last = Some((number, value));
            }
        }
        match last {
            None | Some((1, _)) => self.out.extend_from_slice(b"null"),
            Some((2, Value::Fixed64(bits))) => self.number(f64::from_bits(bits)),
            Some((3, Value::Bytes(text))) => {
                let text = String::from_utf8_lossy(&text);
                self.replaced |= matches!(text, Cow::Owned(_));
                self.text(&text);
            }
            Some((4, Value::Varint(truth))) => {
                self.out.extend_from_slice(if truth == 0 { b"false" } else { b"true" });
            }
            Some((5, Value::Bytes(inner))) => {
                self.object_at(&members(&inner)?, depth, &mut |_, _| ())?;
            }
            Some((6, Value::Bytes(inner))) => {
                self.out.push(b'[');
                let mut is_first = true;
                for field in Fields(inner) {
                    let (1, Value::Bytes(value)) = field? else { continue };
                    if !std::mem::take(&mut is_first) {
                        self.out.push(b',');
                    }
                    self.value(value, depth + 1)?;
                }
                self.out.push(b']');
            }
            Some(_) => return Err(Malformed.into()),
        }
        Ok(())
    }

    fn number(&mut self, number: f64) {
        // Up to this number, a double holds every integer exactly.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if !number.is_finite() {
            // JSON has no such number.
            self.replaced = true;
            self.text(if number.is_nan() {
                "NaN"
            } else if number > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            });
        } else if number.fract() == 0.0 && number.abs() <= EXACT {
            #[allow(clippy::cast_possible_truncation, reason = "it is integral and small enough")]
            let integer = number as i64;
            self.out.extend_from_slice(integer.to_string().as_bytes());
        } else {
            self.json(&number);
        }
    }

    fn text(&mut self, text: &str) {
        self.json(text);
    }

    fn json<T: serde::Serialize + ?Sized>(&mut self, value: &T) {
        // Writing text or a finite number into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.out, value);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;

    /// A Value made by a test.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct Made {
        #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
        kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    enum Kind {
        #[prost(int32, tag = "1")]
        Null(i32),
        #[prost(double, tag = "2")]
        Number(f64),
        #[prost(bytes, tag = "3")]
        Text(Vec<u8>),
        #[prost(bool, tag = "4")]
        Truth(bool),
        #[prost(message, tag = "5")]
        Object(Object),
        #[prost(message, tag = "6")]
        List(List),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct Object {
        #[prost(message, repeated, tag = "1")]
        entries: Vec<Entry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Entry {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, optional, tag = "2")]
        value: Option<Made>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct List {
        #[prost(message, repeated, tag = "1")]
        values: Vec<Made>,
    }

    fn made(value: &serde_json::Value) -> Made {
        use serde_json::Value as Json;
        let kind = match value {
            Json::Null => Kind::Null(0),
            Json::Bool(truth) => Kind::Truth(*truth),
            Json::Number(number) => Kind::Number(number.as_f64().unwrap()),
            Json::String(text) => Kind::Text(text.clone().into_bytes()),
            Json::Array(values) => Kind::List(List { values: values.iter().map(made).collect() }),
            Json::Object(_) => Kind::Object(object(value)),
        };
        Made { kind: Some(kind) }
    }

    /// The Struct that holds the members of a JSON object, in reverse order.
    pub(in super::super) fn object(value: &serde_json::Value) -> Object {
        let entries = value.as_object().unwrap().iter().rev();
        Object {
            entries: entries.map(|(name, value)| Entry { name: name.clone(), value: Some(made(value)) }).collect(),
        }
    }

    fn written(object: &Object) -> Result<(String, bool), Unfit> {
        let mut writer = Writer::default();
        let members = members(&object.encode_to_vec().into())?;
        writer.object(&members, |_, _| {})?;
        Ok((String::from_utf8(writer.out).unwrap(), writer.replaced))
    }

    #[test]
    fn integral_numbers_have_no_fraction_and_names_keep_their_dots() {
        let value = json!({"ei": 0.0, "n": -3.0, "f": 2.5, "big": 1e20, "addr.remote": "1.2.3.4:5", "code": "T1000I"});
        let (text, replaced) = written(&object(&value)).unwrap();
        assert_eq!(text, r#"{"addr.remote":"1.2.3.4:5","big":1e+20,"code":"T1000I","ei":0,"f":2.5,"n":-3}"#);
        assert!(!replaced);
    }

    #[test]
    fn nested_objects_and_lists_are_written_whole() {
        let value = json!({"a": {"b": [1, "x", null, {"c": true, "d": {}}], "e": []}, "\"\n": "é\u{1}"});
        let (text, _) = written(&object(&value)).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn what_json_does_not_have_is_replaced_and_noted() {
        for (number, expected) in
            [(f64::NAN, "\"NaN\""), (f64::INFINITY, "\"Infinity\""), (f64::NEG_INFINITY, "\"-Infinity\"")]
        {
            let value = Made { kind: Some(Kind::Number(number)) };
            let object = Object { entries: vec![Entry { name: "n".into(), value: Some(value) }] };
            assert_eq!(written(&object), Ok((format!("{{\"n\":{expected}}}"), true)));
        }
        let value = Made { kind: Some(Kind::Text(vec![b'a', 0xff])) };
        let object = Object { entries: vec![Entry { name: "t".into(), value: Some(value) }] };
        assert_eq!(written(&object), Ok(("{\"t\":\"a\u{fffd}\"}".to_owned(), true)));
    }

    #[test]
    fn of_two_members_with_one_name_the_last_one_counts() {
        let entry = |number| Entry { name: "n".into(), value: Some(Made { kind: Some(Kind::Number(number)) }) };
        let object = Object { entries: vec![entry(1.0), entry(2.0)] };
        assert_eq!(written(&object).unwrap().0, r#"{"n":2}"#);
        let empty = Object { entries: vec![Entry { name: "n".into(), value: None }] };
        assert_eq!(written(&empty).unwrap().0, r#"{"n":null}"#);
    }

    #[test]
    fn a_value_nested_without_end_is_unfit() {
        let mut value = json!(1);
        for _ in 0..DEEPEST {
            value = json!([value]);
        }
        assert_eq!(written(&object(&json!({"a": value}))), Err(Unfit::TooDeep));
    }
}
