//! An event as the JSON object that auditsync sends: the record as it came, and its time under [`TIME_KEY`], too.
//!
//! A receiver drops a body that its parser or its buffer cannot take, sometimes after a 200. So auditsync sends nothing
//! that JSON allows but a receiver does not take. It copies the record unchanged except for these:
//!
//! | in the record | a receiver | auditsync sends |
//! |---|---|---|
//! | anything but an object | drops it | an object with the record under `record` |
//! | half a surrogate pair, as `\ud800` | cannot parse it | `\ufffd` |
//! | an integer beyond 64 bits, a number beyond a double | cannot store it, or stores another | the number as a string |
//! | more than 24 levels | cannot read it back from its buffer (msgpack-c has 32) | what is deeper, as a string of JSON |

use std::borrow::Cow;

use memchr::memchr2;

use crate::event::Event;
use crate::members::composite;

/// The key for the time of the event. No default of Fluentd or Fluent Bit reads or removes it, unlike `time`.
pub(super) const TIME_KEY: &str = "evt_time";

/// The most levels of arrays and objects that auditsync sends as such.
const MOST_LEVELS: usize = 24;

/// Appends `event` to `out` as one object.
pub(super) fn write(out: &mut Vec<u8>, event: &Event) {
    let raw = event.raw().trim_ascii();
    let copied = if raw.first() == Some(&b'{') {
        Copying::new(raw, 0).run(out)
    } else {
        out.extend_from_slice(b"{\"record\":");
        Copying::new(raw, 1).run(out);
        out.push(b'}');
        Copied { is_empty: false, has_time: false }
    };
    let Some(time) = event.time().filter(|_| !copied.has_time) else { return };
    // Take the closing brace off; it follows the time.
    out.pop();
    let comma = if copied.is_empty { "" } else { "," };
    out.extend_from_slice(format!("{comma}\"{TIME_KEY}\":\"{time}\"}}").as_bytes());
}

/// What a pass found out about an object.
struct Copied {
    is_empty: bool,
    /// Whether it already has a member named [`TIME_KEY`].
    has_time: bool,
}

/// One pass over valid JSON.
struct Copying<'a> {
    raw: &'a [u8],
    at: usize,
    /// The end of the part that is copied.
    copied: usize,
    levels: usize,
    seen: Copied,
}

impl<'a> Copying<'a> {
    fn new(raw: &'a [u8], levels: usize) -> Self {
        Self { raw, at: 0, copied: 0, levels, seen: Copied { is_empty: true, has_time: false } }
    }

    fn run(mut self, out: &mut Vec<u8>) -> Copied {
        while let Some(byte) = self.raw.get(self.at) {
            match byte {
                b'"' => self.string(out),
                b'{' | b'[' if self.levels >= MOST_LEVELS => {
                    let rest = &self.raw[self.at..];
                    let length = composite(rest).unwrap_or(rest.len());
                    let text = String::from_utf8_lossy(&rest[..length]);
                    // Writing a string into memory cannot fail.
                    let json = serde_json::to_string(&text).unwrap_or_default();
                    self.replace(out, self.at + length, json.as_bytes());
                }
                b'{' | b'[' => {
                    self.levels += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    self.levels = self.levels.saturating_sub(1);
                    self.at += 1;
                }
                b'-' | b'0'..=b'9' => self.number(out),
                _ => self.at += 1,
            }
        }
        out.extend_from_slice(&self.raw[self.copied..]);
        self.seen
    }

    /// Writes `instead` for the text from here up to `end`.
    fn replace(&mut self, out: &mut Vec<u8>, end: usize, instead: &[u8]) {
        out.extend_from_slice(&self.raw[self.copied..self.at]);
        out.extend_from_slice(instead);
        (self.at, self.copied) = (end, end);
    }

    fn number(&mut self, out: &mut Vec<u8>) {
        let rest = &self.raw[self.at..];
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        let number = &rest[..length];
        if fits(number) {
            self.at += length;
        } else {
            let quoted = [b"\"", number, b"\""].concat();
            self.replace(out, self.at + length, &quoted);
        }
    }

    fn string(&mut self, out: &mut Vec<u8>) {
        let start = self.at;
        self.seen.is_empty = false;
        self.at += 1;
        while let Some(offset) = memchr2(b'"', b'\\', self.raw.get(self.at..).unwrap_or_default()) {
            self.at += offset;
            if self.raw[self.at] == b'"' {
                self.at += 1;
                self.has_name(start);
                return;
            }
            match self.surrogate() {
                Some(Surrogate::Pair) => self.at += 12,
                Some(Surrogate::Half) => self.replace(out, self.at + 6, b"\\ufffd"),
                // After the backslash and what it escapes, which may be a quote.
                None => self.at += 2,
            }
        }
        self.at = self.raw.len();
    }

    /// Notes whether the string that ends here names a member [`TIME_KEY`] of the outermost object.
    fn has_name(&mut self, start: usize) {
        let name = self.raw[start..self.at].strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\""));
        if self.levels == 1 && name == Some(TIME_KEY.as_bytes()) {
            self.seen.has_time |= self.raw[self.at..].trim_ascii_start().first() == Some(&b':');
        }
    }

    /// Whether an escape of half a surrogate pair starts here, or of a whole pair.
    fn surrogate(&self) -> Option<Surrogate> {
        match (unit(self.raw, self.at)?, unit(self.raw, self.at + 6)) {
            (0xd800..=0xdbff, Some(0xdc00..=0xdfff)) => Some(Surrogate::Pair),
            (0xd800..=0xdfff, _) => Some(Surrogate::Half),
            _ => None,
        }
    }
}

enum Surrogate {
    Pair,
    Half,
}

/// The UTF-16 unit that `\uXXXX` at `at` stands for.
fn unit(raw: &[u8], at: usize) -> Option<u16> {
    let digits = raw.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether every receiver stores this number unchanged.
fn fits(number: &[u8]) -> bool {
    let is_integer = number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
    if is_integer && number.len() <= 18 {
        return true;
    }
    let text = std::str::from_utf8(number).unwrap_or_default();
    if is_integer { text.parse::<i64>().is_ok() } else { text.parse::<f64>().is_ok_and(f64::is_finite) }
}

/// Makes an event of our own that stands in for a written `record`: its members have the same names and kinds. A
/// receiver that also refuses this one refuses more than that record.
///
/// Every time keeps its value, because a parser may read the time of an event from any member (`time_key`), and refuses
/// a record without a time there.
pub(super) fn stand_in(record: &[u8], note: &str) -> Vec<u8> {
    use serde_json::{Map, Value};
    let emptied = |(name, value): (String, Value)| {
        let value = match value {
            Value::String(text) if is_time(&text) => Value::String(text),
            Value::String(_) if name == "time" => A_TIME.into(),
            _ if name == TIME_KEY => A_TIME.into(),
            Value::String(_) => Value::String(String::new()),
            Value::Number(_) => 0.into(),
            Value::Array(_) => Value::Array(Vec::new()),
            Value::Object(_) => Value::Object(Map::new()),
            other => other,
        };
        (name, value)
    };
    let members: Map<String, Value> = serde_json::from_slice(record).unwrap_or_default();
    let mut members: Map<String, Value> = members.into_iter().map(emptied).collect();
    members.insert("auditsync".to_owned(), "dead_letter".into());
    members.insert("auditsync_note".to_owned(), note.into());
    Value::Object(members).to_string().into_bytes()
}

/// A time, for a member that should be one.
const A_TIME: &str = "1970-01-01T00:00:00Z";

/// Whether a text is a date with a time, in a usual form.
fn is_time(text: &str) -> bool {
    text.len() <= 64
        && (text.parse::<jiff::Timestamp>().is_ok()
            || text.parse::<jiff::civil::DateTime>().is_ok()
            || jiff::fmt::rfc2822::parse(text).is_ok())
}

/// Whether a written record has a string under `time`, which Fluentd's default parser refuses.
pub(super) fn has_time_as_text(record: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Time<'a> {
        #[serde(borrow)]
        time: Cow<'a, str>,
    }
    serde_json::from_slice::<Time<'_>>(record).is_ok_and(|Time { time }| !time.is_empty())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::event::Fields;

    fn written(raw: &str, time: Option<&str>) -> String {
        let time = time.map(|time| time.parse().unwrap());
        let mut out = Vec::new();
        write(&mut out, &Event::new(Bytes::from(raw.to_owned()), time, Fields::default()));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_record_is_copied_as_it_came_with_its_time_under_a_second_key() {
        const TIME: Option<&str> = Some("2026-03-01T12:00:00.25Z");
        for (raw, expected) in [
            (r#"{"n": 1.0, "time":"x"}"#, r#"{"n": 1.0, "time":"x","evt_time":"2026-03-01T12:00:00.25Z"}"#),
            ("{ }\n", r#"{ "evt_time":"2026-03-01T12:00:00.25Z"}"#),
            (r#"{"a":"evt_time"}"#, r#"{"a":"evt_time","evt_time":"2026-03-01T12:00:00.25Z"}"#),
            (r#"{"a":{"evt_time":1}}"#, r#"{"a":{"evt_time":1},"evt_time":"2026-03-01T12:00:00.25Z"}"#),
            (r#"{"evt_time" : 1}"#, r#"{"evt_time" : 1}"#),
        ] {
            assert_eq!(written(raw, TIME), expected);
        }
        assert_eq!(written(r#"{"n":1}"#, None), r#"{"n":1}"#);
    }

    #[test]
    fn only_objects_are_sent() {
        for (raw, expected) in [
            ("17", r#"{"record":17}"#),
            (" [1,{}]", r#"{"record":[1,{}]}"#),
            (r#""\ud800""#, r#"{"record":"\ufffd"}"#),
            ("null", r#"{"record":null}"#),
        ] {
            assert_eq!(written(raw, None), expected);
        }
    }

    #[test]
    fn half_a_character_is_replaced_and_a_whole_one_kept() {
        for (raw, expected) in [
            (r#"{"a":"\ud83d\ude00"}"#, r#"{"a":"\ud83d\ude00"}"#),
            (r#"{"a":"\uD800x"}"#, r#"{"a":"\ufffdx"}"#),
            (r#"{"a":"\udc00\ud800"}"#, r#"{"a":"\ufffd\ufffd"}"#),
            (r#"{"a":"\ud800\ud800\udc00"}"#, r#"{"a":"\ufffd\ud800\udc00"}"#),
            (r#"{"a":"\\ud800\"","b":1}"#, r#"{"a":"\\ud800\"","b":1}"#),
        ] {
            assert_eq!(written(raw, None), expected);
        }
    }

    #[test]
    fn a_number_that_a_receiver_would_change_or_refuse_is_a_string() {
        for (raw, expected) in [
            ("{\"a\":9223372036854775807}", "{\"a\":9223372036854775807}"),
            ("{\"a\":9223372036854775808}", "{\"a\":\"9223372036854775808\"}"),
            ("{\"a\":-9223372036854775808,\"b\":1}", "{\"a\":-9223372036854775808,\"b\":1}"),
            ("{\"a\":[-1e999,2.5e-3]}", "{\"a\":[\"-1e999\",2.5e-3]}"),
        ] {
            assert_eq!(written(raw, None), expected);
        }
    }

    #[test]
    fn what_is_nested_too_deep_is_a_string_of_json() {
        let deep = |levels: usize| format!("{}\"]\\\"\"{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(written(&format!("{{\"a\":{}}}", deep(23)), None), format!("{{\"a\":{}}}", deep(23)));
        let sent: Value = serde_json::from_str(&written(&format!("{{\"a\":{},\"b\":1}}", deep(100)), None)).unwrap();
        assert_eq!(sent["b"], 1);
        let mut value = &sent["a"];
        while let Some(inner) = value.get(0) {
            value = inner;
        }
        assert_eq!(value, &json!(deep(77)));
    }

    #[test]
    fn a_stand_in_has_the_members_and_times_of_the_record_and_none_of_its_other_content() {
        let record = br#"{"a":"secret","n":7,"l":[1],"o":{"x":1},"b":true,"z":null,"time":"2026-03-01T12:00:00Z"}"#;
        let made: Value = serde_json::from_slice(&stand_in(record, "why")).unwrap();
        let expected = json!({
            "a": "", "n": 0, "l": [], "o": {}, "b": true, "z": null, "time": "2026-03-01T12:00:00Z",
            "auditsync": "dead_letter", "auditsync_note": "why"
        });
        assert_eq!(made, expected);
        let record =
            br#"{"evt_time":17,"time":"x","created":"2026-03-01 12:00:00","sent":"Sun, 01 Mar 2026 12:00:00 +0000"}"#;
        let made: Value = serde_json::from_slice(&stand_in(record, "why")).unwrap();
        let expected = json!({
            "evt_time": A_TIME, "time": A_TIME, "created": "2026-03-01 12:00:00",
            "sent": "Sun, 01 Mar 2026 12:00:00 +0000", "auditsync": "dead_letter", "auditsync_note": "why"
        });
        assert_eq!(made, expected);
        assert!(has_time_as_text(record) && !has_time_as_text(br#"{"time":1}"#));
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e300..1e300_f64).prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(".*", inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_record_that_every_receiver_takes_is_sent_unchanged(value in json_value()) {
            let raw = value.to_string();
            let expected = if value.is_object() { raw.clone() } else { format!("{{\"record\":{raw}}}") };
            prop_assert_eq!(written(&raw, None), expected);
        }
    }
}
