//! Audit events and recordings like those of a cluster.

use std::time::Duration;

use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Value, json};

use super::messages::{EventUnstructured, Struct, Time};

/// An event of the audit log or of a recording.
#[derive(Clone, Debug)]
pub struct AuditEvent {
    pub kind: String,
    pub id: String,
    pub time: Timestamp,
    pub index: i64,
    /// The event as JSON; the program has to deliver the same JSON.
    pub json: Value,
    /// The message, if it does not follow from the JSON.
    message: Option<Vec<u8>>,
}

impl AuditEvent {
    /// An event of this type with some fields of its own.
    #[allow(clippy::needless_pass_by_value, reason = "tests make it where they pass it")]
    pub fn new(kind: &str, id: &str, time: Timestamp, more: Value) -> Self {
        let mut json = json!({
            "event": kind, "uid": id, "time": time.to_string(), "ei": 0, "code": "T0000I", "cluster_name": "example.com",
        });
        let members = json.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        Self { kind: kind.to_owned(), id: id.to_owned(), time, index: 0, json, message: None }
    }

    /// A login.
    pub fn login(id: &str, time: Timestamp) -> Self {
        let more = json!({
            "code": "T1000I", "user": "alice@example.com", "success": true, "addr.remote": "203.0.113.7:49152",
            "method": "local", "attributes": {"groups": ["dev", "ops"], "level": 2.5},
        });
        Self::new("user.login", id, time, more)
    }

    /// The logins numbered `from..to`, a second apart, the last one at `newest`.
    pub fn logins(from: usize, to: usize, newest: Timestamp) -> Vec<Self> {
        let time = |n: usize| newest - std::time::Duration::from_secs((to - 1 - n) as u64);
        (from..to).map(|n| Self::login(&format!("login-{n:06}"), time(n))).collect()
    }

    /// The event that the recording of a session is stored.
    pub fn upload(id: &str, session: &str, time: Timestamp) -> Self {
        Self::new("session.upload", id, time, json!({"sid": session, "code": "T2005I", "url": "file:///x"}))
    }

    /// An event within a recording.
    pub fn of_session(kind: &str, session: &str, index: i64, time: Timestamp) -> Self {
        let id = format!("{session}-{index}");
        Self { index, ..Self::new(kind, &id, time, json!({"sid": session, "ei": index})) }
    }

    /// The same event with this message instead.
    pub fn with_message(self, message: Vec<u8>) -> Self {
        Self { message: Some(message), ..self }
    }

    /// The same event with a Struct that holds NaN.
    pub fn with_nan(self) -> Self {
        self.with_struct(Some(Struct::with_nan().encode_to_vec()))
    }

    /// The same event with these bytes as its Struct, or without one.
    pub fn with_struct(self, unstructured: Option<Vec<u8>>) -> Self {
        let message = EventUnstructured { unstructured, ..self.message() };
        self.with_message(message.encode_to_vec())
    }

    fn message(&self) -> EventUnstructured {
        EventUnstructured {
            kind: self.kind.clone(),
            id: self.id.clone(),
            time: Some(Time::of(self.time)),
            index: self.index,
            unstructured: Some(Struct::of(&self.json).encode_to_vec()),
        }
    }

    pub(super) fn encoded(&self) -> Vec<u8> {
        self.message.clone().unwrap_or_else(|| self.message().encode_to_vec())
    }

    /// The size that the server counts for the limit of a page.
    pub(super) fn stored_size(&self) -> usize {
        self.json.to_string().len()
    }
}

/// The faults of a request for a session.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub events: Vec<AuditEvent>,
    /// Whether it is missing (for now).
    pub missing: bool,
    /// After this many events the stream breaks; the next request has no such trouble.
    pub breaks_after: Option<usize>,
    /// Whether the server never answers.
    pub held: bool,
    /// How long it loads the recording before it answers.
    pub loading: Duration,
}
