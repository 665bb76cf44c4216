//! One request as the receivers read it, and the mistakes that a sender should not leave to them.

use std::collections::HashSet;

use axum::http::{HeaderMap, Method, Uri, header};
use bytes::Bytes;
use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::encoding;
use super::{FluentdOptions, Kind};

/// msgpack-c, which Fluent Bit uses, reads no deeper levels from its buffer; its own two levels come on top.
const MOST_LEVELS: usize = 30;

pub(super) struct Inspection {
    pub(super) tag: String,
    pub(super) encoding: String,
    /// The uncompressed body's size.
    pub(super) bytes: usize,
    pub(super) records: Vec<Value>,
    /// Whether the body was a bare object.
    pub(super) is_bare: bool,
    /// The status and the text of a refusal.
    pub(super) refusal: Option<(u16, String)>,
    pub(super) violations: Vec<String>,
}

pub(super) fn inspect(
    options: &FluentdOptions,
    (method, uri, headers): (&Method, &Uri, &HeaderMap),
    sent: &Bytes,
) -> Inspection {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut inspection = Inspection {
        tag: options.kind.tag(uri.path()),
        encoding: text(header::CONTENT_ENCODING),
        bytes: 0,
        records: Vec::new(),
        is_bare: false,
        refusal: None,
        violations: Vec::new(),
    };
    if text(header::HOST).is_empty() {
        inspection.refuse(400, "no Host");
    }
    if text(header::CONTENT_TYPE) != "application/json" {
        inspection.refuse(400, "'json' or 'msgpack' parameter is required");
    }
    if uri.path().trim_matches('/').is_empty() || uri.query().is_some() {
        inspection.violations.push(format!("{uri} is not an address with a tag alone"));
    }
    if method != Method::POST {
        inspection.violations.push(format!("{method} with a body"));
    }
    if sent.len() > options.max_body_bytes {
        inspection.refusal = Some((413, "Too large".to_owned()));
    } else if inspection.encoding == "gzip" && !options.reads_gzip {
        inspection.refusal = Some((400, "error: unsupported Content-Encoding".to_owned()));
    } else {
        match encoding::decode(&inspection.encoding, sent.clone()) {
            Ok(body) => inspection.read(&body, options),
            Err(error) => inspection.refuse(400, &format!("cannot be decoded: {error}")),
        }
    }
    inspection
}

impl Inspection {
    /// Refuses the request, and reports a violation because the sender should have known.
    fn refuse(&mut self, status: u16, text: &str) {
        self.violations.push(text.to_owned());
        self.refusal.get_or_insert((status, text.to_owned()));
    }

    fn read(&mut self, body: &Bytes, options: &FluentdOptions) {
        self.bytes = body.len();
        let elements: Result<Vec<&RawValue>, _> = serde_json::from_slice(body);
        self.is_bare = elements.is_err();
        let raw = match elements.or_else(|_| serde_json::from_slice::<&RawValue>(body).map(|one| vec![one])) {
            Ok(raw) => raw,
            // The default parser of Fluentd answers 200 and drops the record: a sender loses it.
            Err(error) => return self.violations.push(format!("malformed JSON: {error}")),
        };
        if raw.is_empty() {
            self.violations.push("an empty array".to_owned());
        }
        for one in raw {
            match serde_json::from_str::<Unique>(one.get()) {
                Ok(Unique { record, twice: None }) if levels(&record) <= MOST_LEVELS && stores_numbers(&record) => {
                    self.records.push(record);
                }
                Ok(Unique { twice: Some(name), .. }) => {
                    self.violations.push(format!("{name:?} stands twice in an object"));
                }
                Ok(_) => self.violations.push("nested too deep, or a number that is not stored".to_owned()),
                Err(error) => self.refuse(400, &format!("not an object that can be stored: {error}")),
            }
        }
        let refuses = |record: &Value| options.refuses.as_ref().is_some_and(|refuses| refuses.holds(record));
        let has_text_time = |record: &Value| options.has_default_parser && record["time"].is_string();
        let time =
            |record: &Value| options.time_key.and_then(|key| record.get(key)).filter(|time| !time.is_null()).cloned();
        let is_time = |time: &Value| time.as_str().is_some_and(|time| time.parse::<Timestamp>().is_ok());
        let has_unfit_time = |record: &Value| time(record).is_some_and(|time| !is_time(&time));
        if self.records.iter().any(has_unfit_time) {
            self.refusal.get_or_insert((400, "400 Bad Request\ninvalid time format\n".to_owned()));
        } else if self.records.iter().any(has_text_time) {
            self.refusal
                .get_or_insert((400, "400 Bad Request\ncan't convert String into an exact number\n".to_owned()));
        } else if self.records.iter().any(refuses) {
            self.refusal.get_or_insert((400, "400 Bad Request\na fault of the test\n".to_owned()));
        }
    }
}

impl Kind {
    /// The tag that the receiver derives from a path.
    fn tag(self, path: &str) -> String {
        let path = path.trim_matches('/');
        match self {
            Self::Fluentd => path.split('/').collect::<Vec<_>>().join("."),
            Self::FluentBit => path
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') { c } else { '_' })
                .collect(),
        }
    }
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

/// Whether every number is a signed integer of 64 bits or has a fraction or an exponent.
fn stores_numbers(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_u64() || number.is_i64(),
        Value::Array(items) => items.iter().all(stores_numbers),
        Value::Object(members) => members.values().all(stores_numbers),
        _ => true,
    }
}

/// An object, and the first name that occurs twice in it.
struct Unique {
    record: Value,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Unique;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let (mut names, mut twice) = (HashSet::new(), None);
                let mut members = serde_json::Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if !names.insert(name.clone()) {
                        twice.get_or_insert(name.clone());
                    }
                    members.insert(name, value);
                }
                Ok(Unique { record: Value::Object(members), twice })
            }
        }
        deserializer.deserialize_map(Members)
    }
}
