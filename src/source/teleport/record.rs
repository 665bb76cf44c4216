//! Turns the message of an event into a record with fields.
//!
//! The record is our own serialisation of the event's Struct, because the server sends no JSON. If the Struct has no
//! `event`, `uid` or `time`, they are added from the message around it.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;

use super::severity;
use super::structure::{Content, Member, Unfit, Writer, members};
use super::wire::{Fields as WireFields, Malformed, Value};
use crate::event::{ENCODED, Event, Field, Fields};
use crate::fingerprint::Fingerprint;

/// The member of a reduced record that holds the reason.
const MALFORMED: &str = "auditsync_malformed";

/// A message `EventUnstructured`; the event in it is still encoded.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Message {
    /// The type of the event, such as `user.login`.
    pub(super) kind: String,
    /// Its identifier, unique on the server.
    pub(super) id: String,
    /// When it happened.
    pub(super) time: Option<Timestamp>,
    /// Its number within its session.
    pub(super) index: i64,
    event: Option<Bytes>,
}

/// A page of the search: `EventsUnstructured`.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Its messages, each still encoded.
    pub(super) items: Vec<Bytes>,
    /// The key of the next page; empty at the end of the range.
    pub(super) last_key: String,
}

/// The most items of an answer. Teleport refuses a request for more (`EventsMaxIterationLimit`), and auditsync requests
/// fewer. Without a limit, tiny items would take many times the memory of the answer.
pub(super) const MOST_ITEMS: usize = 10_000;

/// A reason why an answer is not a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPage {
    Malformed,
    /// It has more than [`MOST_ITEMS`] items.
    TooMany,
}

impl From<Malformed> for NoPage {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Answer {
    pub(super) fn read(bytes: &Bytes) -> Result<Self, NoPage> {
        let mut answer = Self::default();
        for field in WireFields(bytes.clone()) {
            match field? {
                (1, Value::Bytes(_)) if answer.items.len() >= MOST_ITEMS => return Err(NoPage::TooMany),
                (1, Value::Bytes(item)) => answer.items.push(item),
                // A key that is not text could not be sent back.
                (2, Value::Bytes(key)) => answer.last_key = String::from_utf8(key.to_vec()).map_err(|_| Malformed)?,
                _ => {}
            }
        }
        Ok(answer)
    }
}

impl Message {
    pub(super) fn read(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut message = Self::default();
        for field in WireFields(bytes.clone()) {
            match field? {
                (1, Value::Bytes(kind)) => message.kind = String::from_utf8_lossy(&kind).into_owned(),
                (2, Value::Bytes(id)) => message.id = String::from_utf8_lossy(&id).into_owned(),
                (3, Value::Bytes(time)) => message.time = timestamp(time)?,
                (4, Value::Varint(index)) => message.index = index.cast_signed(),
                (5, Value::Bytes(event)) => message.event = Some(event),
                _ => {}
            }
        }
        Ok(message)
    }
}

/// Reads a `google.protobuf.Timestamp`; none if no clock can show it.
fn timestamp(bytes: Bytes) -> Result<Option<Timestamp>, Malformed> {
    let (mut seconds, mut nanoseconds) = (0_i64, 0_i32);
    for field in WireFields(bytes) {
        match field? {
            (1, Value::Varint(value)) => seconds = value.cast_signed(),
            (2, Value::Varint(value)) => nanoseconds = i32::try_from(value.cast_signed()).map_err(|_| Malformed)?,
            _ => {}
        }
    }
    Ok(Timestamp::new(seconds, nanoseconds).ok())
}

/// An event, ready to be delivered.
#[derive(Debug)]
pub(super) struct Record {
    /// The event to deliver.
    pub(super) event: Event,
    /// Its fingerprint.
    pub(super) print: Fingerprint,
    /// The session that it names.
    pub(super) session: Option<String>,
    /// The reason for a reduced form, if it has one.
    pub(super) reduced: Option<Unfit>,
}

/// The fingerprint of the event with this `id`; none for an empty id.
pub(super) fn print_of(id: &str) -> Option<Fingerprint> {
    (!id.is_empty()).then(|| Fingerprint::of_parts([id.as_bytes()]))
}

/// Makes the record of a message. A message that cannot be written as JSON becomes a reduced record, which holds the
/// encoded message.
pub(super) fn record(message: &Message, encoded: &Bytes) -> Record {
    let event = message.event.clone().unwrap_or_default();
    let written = members(&event).and_then(|members| write(message, members));
    match written {
        Ok(record) => record,
        Err(unfit) => reduced(message, encoded, unfit),
    }
}

/// Makes the record of bytes that are not even a message.
pub(super) fn unreadable(encoded: &Bytes) -> Record {
    reduced(&Message::default(), encoded, Malformed.into())
}

fn reduced(message: &Message, encoded: &Bytes, unfit: Unfit) -> Record {
    let text = |name: &'static str, text: String| Member { name: name.into(), content: Content::Text(text) };
    let index = Member { name: "ei".into(), content: Content::Integer(message.index) };
    let members = vec![text(MALFORMED, unfit.to_string()), text(ENCODED, STANDARD.encode(encoded)), index];
    match write(message, members) {
        Ok(record) => Record { event: record.event.repaired(), reduced: Some(unfit), ..record },
        // Texts and integers always have a JSON form.
        Err(_) => Record {
            event: Event::new(Bytes::from_static(b"{}"), message.time, Fields::default()).repaired(),
            print: Fingerprint::of_parts([encoded.as_ref()]),
            session: None,
            reduced: Some(unfit),
        },
    }
}

/// The fields that are copied from the record unchanged.
const VERBATIM: [(&str, Field); 4] =
    [("error", Field::Details), ("event", Field::Action), ("uid", Field::Id), ("user", Field::ActorName)];

fn write(message: &Message, mut members: Vec<Member<'_>>) -> Result<Record, Unfit> {
    add(&mut members, "event", &message.kind);
    add(&mut members, "uid", &message.id);
    if let Some(time) = message.time {
        add_with(&mut members, "time", || time.to_string());
    }
    let mut writer = Writer { out: Vec::with_capacity(1024), replaced: false };
    let mut fields = Fields::default();
    let mut found = Found::default();
    writer.object(&members, |name, range| {
        if let Some((_, field)) = VERBATIM.iter().find(|(known, _)| *known == name) {
            fields.set(*field, range.clone());
        }
        found.note(name, range);
    })?;
    let raw = Bytes::from(writer.out);
    let text = |range: &Option<std::ops::Range<usize>>| {
        range.clone().and_then(|range| crate::event::scalar(raw.get(range)?).map(Cow::into_owned))
    };
    let (user, uid) = (text(&found.user), text(&found.uid));
    if let Some(range) = found.user.clone().filter(|_| user.as_deref().is_some_and(|user| user.contains('@'))) {
        fields.set(Field::ActorEmail, range);
    }
    let mut derived = Vec::new();
    // The id of the message counts. Some types have no uid, and their id is a hash of the event.
    if !message.id.is_empty() && uid.as_deref() != Some(&message.id) {
        derived.push((Field::Id, Cow::Owned(message.id.clone())));
    }
    if let Some(address) = text(&found.address).and_then(|address| client_address(&address)) {
        derived.push((Field::ClientAddress, Cow::Owned(address)));
    }
    let success = found.success.clone().and_then(|range| raw.get(range));
    let code = text(&found.code);
    let outcome = severity::outcome(success, code.as_deref());
    if let Some(outcome) = outcome {
        derived.push((Field::Outcome, Cow::Borrowed(outcome.name())));
    }
    let kind = text(&found.kind);
    let severity = severity::of(kind.as_deref().unwrap_or(&message.kind), outcome);
    let time = message.time.or_else(|| text(&found.time)?.parse().ok());
    let session = text(&found.session);
    let print = print_of(&message.id).unwrap_or_else(|| Fingerprint::of_record(&raw));
    let event = Event::new(raw.clone(), time, fields).with_severity(severity).with_derived(derived);
    let event = if writer.replaced { event.repaired() } else { event };
    Ok(Record { event, print, session, reduced: None })
}

/// The positions of members from which fields are derived.
#[derive(Default)]
struct Found {
    address: Option<std::ops::Range<usize>>,
    code: Option<std::ops::Range<usize>>,
    kind: Option<std::ops::Range<usize>>,
    session: Option<std::ops::Range<usize>>,
    success: Option<std::ops::Range<usize>>,
    time: Option<std::ops::Range<usize>>,
    uid: Option<std::ops::Range<usize>>,
    user: Option<std::ops::Range<usize>>,
}

impl Found {
    fn note(&mut self, name: &str, range: std::ops::Range<usize>) {
        let place = match name {
            "addr.remote" => &mut self.address,
            "code" => &mut self.code,
            "event" => &mut self.kind,
            "sid" => &mut self.session,
            "success" => &mut self.success,
            "time" => &mut self.time,
            "uid" => &mut self.uid,
            "user" => &mut self.user,
            _ => return,
        };
        *place = Some(range);
    }
}

fn add(members: &mut Vec<Member<'_>>, name: &'static str, text: &str) {
    if !text.is_empty() {
        add_with(members, name, || text.to_owned());
    }
}

/// Adds a member, unless one of its name exists.
fn add_with(members: &mut Vec<Member<'_>>, name: &'static str, text: impl FnOnce() -> String) {
    if let Err(place) = members.binary_search_by(|member| member.name.as_ref().cmp(name)) {
        members.insert(place, Member { name: name.into(), content: Content::Text(text()) });
    }
}

/// The IP address of `addr.remote`, which has a port; none for a name such as `@local`.
fn client_address(text: &str) -> Option<String> {
    let address = text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| text.parse::<IpAddr>());
    address.ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::super::structure::tests::object;
    use super::*;
    use crate::event::Severity;

    fn message(kind: &str, id: &str, event: &serde_json::Value) -> Message {
        let event = Some(object(event).encode_to_vec().into());
        let time = Some("2026-03-01T12:00:00.25Z".parse().unwrap());
        Message { kind: kind.to_owned(), id: id.to_owned(), time, index: 3, event }
    }

    fn of(message: &Message) -> Record {
        record(message, &Bytes::from_static(b"encoded"))
    }

    #[test]
    fn the_fields_of_a_login_are_found() {
        let event = json!({
            "event": "user.login", "uid": "1", "user": "a@example.com", "addr.remote": "[2001:db8::1]:443", "success": false,
            "error": "bad password", "code": "T1000W", "time": "2026-03-01T12:00:00.25Z", "sid": "s",
        });
        let Record { event, session, reduced, .. } = of(&message("user.login", "1", &event));
        for (field, expected) in [
            (Field::Id, Some("1")),
            (Field::Action, Some("user.login")),
            (Field::ActorName, Some("a@example.com")),
            (Field::ActorEmail, Some("a@example.com")),
            (Field::ClientAddress, Some("2001:db8::1")),
            (Field::Outcome, Some("failure")),
            (Field::Details, Some("bad password")),
            (Field::SessionId, None),
        ] {
            assert_eq!(event.text(field).as_deref(), expected, "{field:?}");
        }
        assert_eq!((event.severity(), event.is_repaired()), (Severity::Error, false));
        assert_eq!(event.time(), Some("2026-03-01T12:00:00.25Z".parse().unwrap()));
        assert_eq!((session.as_deref(), reduced), (Some("s"), None));
    }

    #[test]
    fn what_the_event_lacks_is_added_from_the_message_around_it() {
        let Record { event, .. } = of(&message("x.y", "hash", &json!({"zone": 1, "code": "T1I"})));
        let raw = std::str::from_utf8(event.raw()).unwrap();
        assert_eq!(raw, r#"{"code":"T1I","event":"x.y","time":"2026-03-01T12:00:00.25Z","uid":"hash","zone":1}"#);
        assert_eq!(event.text(Field::Id).as_deref(), Some("hash"));
        let Record { event, .. } =
            of(&message("x.y", "hash", &json!({"uid": "", "user": "bob", "addr.remote": "@local"})));
        assert_eq!(event.text(Field::Id).as_deref(), Some("hash"), "an empty one counts as none");
        assert_eq!((event.text(Field::ActorEmail), event.text(Field::ClientAddress)), (None, None));
    }

    #[test]
    fn an_event_is_told_by_its_id_and_one_without_by_its_content() {
        let print = |id: &str, event: serde_json::Value| of(&message("k", id, &event)).print;
        assert_eq!(print("1", json!({"a": 1})), print("1", json!({"b": 2})));
        assert_ne!(print("1", json!({})), print("2", json!({})));
        assert_eq!(print("", json!({"a": 1, "b": 2})), print("", json!({"b": 2, "a": 1})));
        assert_ne!(print("", json!({"a": 1})), print("", json!({"a": 2})));
    }

    #[test]
    fn what_cannot_be_read_keeps_its_message_and_its_id() {
        let mut broken = message("k", "1", &json!({}));
        broken.event = Some(Bytes::from_static(&[0x0a, 0x7f]));
        let Record { event, reduced, .. } = of(&broken);
        let raw: serde_json::Value = serde_json::from_slice(event.raw()).unwrap();
        assert_eq!((&raw["event"], &raw["uid"], &raw["ei"]), (&json!("k"), &json!("1"), &json!(3)));
        assert_eq!(raw["auditsync_message"], STANDARD.encode("encoded"));
        assert!(reduced.is_some() && event.is_repaired());
        let Record { event, print, .. } = unreadable(&Bytes::from_static(&[0xff, 1]));
        assert_eq!(print, unreadable(&Bytes::from_static(&[0xff, 1])).print);
        assert_ne!(print, unreadable(&Bytes::from_static(&[0xff, 2])).print);
        assert!(serde_json::from_slice::<serde_json::Value>(event.raw()).is_ok());
    }

    #[test]
    fn an_answer_with_far_too_many_items_is_refused() {
        let answer = |items: usize| Answer::read(&Bytes::from([0x0a, 0].repeat(items)));
        assert_eq!(answer(MOST_ITEMS).unwrap().items.len(), MOST_ITEMS);
        assert_eq!(answer(MOST_ITEMS + 1).unwrap_err(), NoPage::TooMany);
        assert_eq!(Answer::read(&Bytes::from_static(&[0x0a])).unwrap_err(), NoPage::Malformed);
    }

    #[test]
    fn nothing_that_a_server_sends_makes_it_panic() {
        let mut rng = fastrand::Rng::with_seed(7);
        let whole = object(&json!({"a": [1, {"b": "x"}], "user": "u", "success": true})).encode_to_vec();
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..rng.usize(1..5) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            let bytes = Bytes::from(bytes);
            let wrapped = Message { event: Some(bytes.clone()), ..message("k", "1", &json!({})) };
            assert!(serde_json::from_slice::<serde_json::Value>(of(&wrapped).event.raw()).is_ok());
            let _ = Answer::read(&bytes);
            if let Ok(message) = Message::read(&bytes) {
                let _ = of(&message);
            }
        }
    }
}
