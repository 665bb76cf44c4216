//! Records like those of a certificate manager's audit log, the same for the same seed.
//!
//! They are as awkward as real ones: names in several scripts, quotes, line ends, unneeded escapes, empty fields, and
//! fields that only some actions have.

mod vocabulary;

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use vocabulary::{HOSTS, KINDS, Kind, PEOPLE, Person, WORDS};

/// Records of fewer bytes on average lack the person and the address.
const ROOM_FOR_PERSON: usize = 400;

/// One record of the source.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its id, for comparison with what arrives.
    pub id: String,
    /// The time by which the API puts it into a range.
    pub at: Timestamp,
    /// The record as the API returns it.
    pub json: String,
}

impl Record {
    /// A record that the test wrote. The text need not be a record, nor even JSON. The id comes from the key `id`, if
    /// there is one.
    pub fn raw(at: Timestamp, json: impl Into<String>) -> Self {
        let json = json.into();
        let id = match serde_json::from_str::<Value>(&json) {
            Ok(Value::Object(record)) => record.get("id").map_or_else(String::new, plain),
            _ => String::new(),
        };
        Self { id, at, json }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Generates records. Two generators with the same seed generate the same ones; with different seeds, all ids differ.
pub struct Records {
    rng: fastrand::Rng,
    size: usize,
}

impl Records {
    pub fn seeded(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), size: 500 }
    }

    /// Sets the average size of a record in bytes, 300 or more (500 without).
    #[must_use]
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = bytes;
        self
    }

    /// This many records, spread evenly over (`start`, `end`], in order; the last one is at `end`. Their times are whole
    /// milliseconds.
    pub fn between(&mut self, start: Timestamp, end: Timestamp, n: usize) -> Vec<Record> {
        let (start, end) = (i128::from(start.as_millisecond()), i128::from(end.as_millisecond()));
        let n = i128::try_from(n).expect("a number of records");
        let time = |i: i128| {
            // Rounded up, so that none falls on `start`.
            let since_start = ((end - start) * (i + 1) + n - 1) / n;
            let at = i64::try_from(start + since_start).expect("a time between two others");
            Timestamp::from_millisecond(at).expect("a time between two others")
        };
        (0..n).map(|i| self.at(time(i))).collect()
    }

    /// One record of this time.
    pub fn at(&mut self, at: Timestamp) -> Record {
        let rng = &mut self.rng;
        let kind = &KINDS[rng.usize(..KINDS.len())];
        let person = &PEOPLE[rng.usize(..PEOPLE.len())];
        let has_object = !kind.object_type.is_empty();
        let has_person = kind.by_person && self.size >= ROOM_FOR_PERSON;
        let mut fields = Fields {
            id: uuid(rng),
            action: kind.action,
            service: kind.service,
            category: kind.category,
            object_type: kind.object_type,
            object_id: if has_object { rng.u32(10_000..9_999_999).to_string() } else { String::new() },
            customer_id: rng.u32(4711..4719).to_string(),
            event_type: "LOG",
            status: if kind.failure { "FAILURE" } else { "SUCCESS" },
            details: details(kind, person, rng),
            created: format!("{at:.3}"),
            user_email: has_person.then_some(person.email),
            client_ip: has_person.then(|| Ipv4Addr::new(203, 0, 113, rng.u8(1..255))),
        };
        let mut json = fields.to_json();
        let target = self.size * self.rng.usize(70..=130) / 100;
        if let Some(missing) = target.checked_sub(json.len()) {
            fields.details.push_str(&filler(missing, &mut self.rng));
            json = fields.to_json();
        }
        Record { id: fields.id, at, json }
    }
}

/// A record's fields, in the order of the API.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    id: String,
    action: &'static str,
    service: &'static str,
    category: &'static str,
    object_type: &'static str,
    object_id: String,
    customer_id: String,
    event_type: &'static str,
    status: &'static str,
    #[serde(serialize_with = "as_json_string")]
    details: String,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_email: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ip: Option<Ipv4Addr>,
}

impl Fields {
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain fields")
    }
}

/// Writes text that is already escaped.
fn as_json_string<S: serde::Serializer>(escaped: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let quoted = RawValue::from_string(format!("\"{escaped}\"")).map_err(serde::ser::Error::custom)?;
    quoted.serialize(serializer)
}

/// The free text, as escaped between the quotes of a JSON string.
fn details(kind: &Kind, person: &Person, rng: &mut fastrand::Rng) -> String {
    let host = HOSTS[rng.usize(..HOSTS.len())];
    let text = kind.sentence.replace("{host}", host).replace("{person}", person.name);
    if rng.u8(..) < 32 {
        // Some writers of JSON escape every character outside ASCII.
        return escape_all(&text);
    }
    let quoted = serde_json::to_string(&text).expect("plain text");
    quoted[1..quoted.len() - 1].to_owned()
}

fn escape_all(text: &str) -> String {
    text.encode_utf16().fold(String::new(), |mut escaped, unit| {
        match u8::try_from(unit) {
            Ok(byte @ (b' '..=b'~')) if !matches!(byte, b'"' | b'\\') => escaped.push(char::from(byte)),
            _ => write!(escaped, "\\u{unit:04x}").expect("a String takes everything"),
        }
        escaped
    })
}

/// Words that fill this many bytes.
fn filler(bytes: usize, rng: &mut fastrand::Rng) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push(' ');
        text.push_str(WORDS[rng.usize(..WORDS.len())]);
    }
    text.truncate(bytes);
    text
}

fn uuid(rng: &mut fastrand::Rng) -> String {
    let hex = format!("{:032x}", rng.u128(..));
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}
