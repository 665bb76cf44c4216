//! An event as an entry of the logs intake.
//!
//! The whole record stands under a key of its own, because Datadog reads names such as `status`, `service` and `host`
//! at the top level. Beside it stand the attributes that Datadog's facets and security rules know.

use std::io::Write as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Labels;
use super::text::{Text, string, string_within};
use crate::destination::Oldest;
use crate::event::{Event, Field};

mod passing;
mod place;

pub use place::RecordPlace;
use place::flat;

/// The largest entry that the intake takes whole, in bytes. It would cut a larger one without reporting it.
pub const LARGEST_ENTRY: usize = 1_000_000;

/// The size to which a larger entry is cut, in bytes: the largest that Datadog recommends.
pub const CUT_ENTRY: usize = 25_000;

/// The ages of events. The intake drops older ones, although it answers 202.
pub const OLDEST: Oldest = Oldest { accepted: Duration::from_hours(18), sent: Duration::from_hours(17) };

/// Events further in the future than this carry the present time: the intake's own limit.
const FURTHEST_AHEAD: Duration = Duration::from_secs(2 * 3600);

/// The longest message, in bytes. The record holds the whole text.
const LONGEST_MESSAGE: usize = 8_000;

/// The longest message that is the record itself. The rest of [`CUT_ENTRY`] is for the other members.
const LONGEST_TEXT: usize = CUT_ENTRY - 5_000;

/// The longest message of an entry that is cut, in bytes.
const LONGEST_CUT_MESSAGE: usize = 1_000;

/// The longest attribute, in bytes, because facets hold fewer than 1024 characters.
const LONGEST_ATTRIBUTE: usize = 1_000;

/// How much of an event its entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The whole record.
    Whole,
    /// The beginning of the record, as a string: for a record that is too large.
    Cut,
    /// A plain text message alone: for a record that the intake refuses otherwise.
    Text,
}

/// Changes that an event needed before the intake would take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// It carries the present time instead of its own.
    pub restamped: bool,
    /// The record is cut.
    pub cut: bool,
}

/// Writes entries.
#[derive(Debug)]
pub struct EntryWriter {
    /// The beginning of every entry: `{"ddsource":…,"service":…,"hostname":…,"ddtags":…`.
    opening: Vec<u8>,
    place: RecordPlace,
    /// Labels for records that are entries already.
    labels: Labels,
}

impl EntryWriter {
    /// Makes a writer of entries that carry `labels`, with the record at `place`.
    pub fn new(labels: &Labels, place: impl Into<RecordPlace>) -> Self {
        let mut opening = Vec::new();
        let mut separator = '{';
        for (key, value) in [
            ("ddsource", &labels.source),
            ("service", &labels.service),
            ("hostname", &labels.hostname),
            ("ddtags", &labels.tags),
        ] {
            opening.extend_from_slice(format!("{separator}\"{key}\":").as_bytes());
            string(&mut opening, value);
            separator = ',';
        }
        Self { opening, place: place.into(), labels: labels.clone() }
    }

    /// Appends `event` to `out`; `now` is the moment of sending. An event that is too large whole is cut.
    pub fn write(&self, out: &mut Vec<u8>, event: &Event, form: Form, now: Timestamp) -> Marks {
        let start = out.len();
        let marks = if event.is_entry() && form == Form::Whole {
            self.pass(out, event, now)
        } else {
            self.attempt(out, event, form, now)
        };
        if form == Form::Whole && out.len() - start > LARGEST_ENTRY {
            out.truncate(start);
            return self.attempt(out, event, Form::Cut, now);
        }
        marks
    }

    fn attempt(&self, out: &mut Vec<u8>, event: &Event, form: Form, now: Timestamp) -> Marks {
        let start = out.len();
        let (action, outcome) = (Text::of(event, Field::Action), Text::of(event, Field::Outcome));
        let stamp = stamp(event, now);
        let restamped = event.time().is_some_and(|time| time != stamp);

        out.extend_from_slice(&self.opening);
        out.extend_from_slice(b",\"status\":\"");
        out.extend_from_slice(event.severity().name().as_bytes());
        // Writing into memory cannot fail.
        let _ = write!(out, "\",\"timestamp\":{},\"message\":", stamp.as_millisecond());
        let whole = match form {
            Form::Whole => message(out, event, action.as_ref(), LONGEST_MESSAGE),
            Form::Cut => message(out, event, action.as_ref(), LONGEST_CUT_MESSAGE),
            Form::Text => string_within(out, &String::from_utf8_lossy(event.raw()), LONGEST_TEXT),
        };
        if form != Form::Text {
            attributes(out, event, action, outcome);
        }
        let cut = form == Form::Cut || (form == Form::Text && !whole);
        let marks = Marks { restamped, cut };
        own_marks(out, event, form, marks);
        match form {
            Form::Whole => match Some(event.raw()).filter(|_| self.place.is_flat).and_then(|raw| flat(raw)) {
                Some(inside) => {
                    out.push(b',');
                    out.extend_from_slice(inside);
                }
                None => {
                    for part in [b",\"", self.place.name.as_bytes(), b"\":", event.raw()] {
                        out.extend_from_slice(part);
                    }
                }
            },
            Form::Cut => {
                let _ = write!(out, ",\"{}_raw\":", self.place.name);
                let room = CUT_ENTRY.saturating_sub(out.len() - start + 3);
                string_within(out, &String::from_utf8_lossy(event.raw()), room);
            }
            Form::Text => {}
        }
        out.push(b'}');
        marks
    }

    /// Appends an entry of our own that no event led to.
    pub fn write_notice(&self, out: &mut Vec<u8>, kind: &str, message: &str, status: &str, now: Timestamp) {
        out.extend_from_slice(&self.opening);
        let _ = write!(out, ",\"status\":\"{status}\",\"timestamp\":{},\"message\":", now.as_millisecond());
        string(out, message);
        let _ = write!(out, ",\"auditsync\":{{\"notice\":\"{kind}\"}}}}");
    }
}

/// The time that an entry carries: the event's own if it is current `now`, else `now`.
pub fn stamp(event: &Event, now: Timestamp) -> Timestamp {
    event.time().filter(|time| is_within(OLDEST.sent, *time, now)).unwrap_or(now)
}

/// Whether the intake keeps an entry with the time `stamp` when its own clock shows `now`.
pub fn is_kept(stamp: Timestamp, now: Timestamp) -> bool {
    is_within(OLDEST.accepted, stamp, now)
}

/// Whether `time` is at most this old `now`, and not too far ahead.
fn is_within(oldest: Duration, time: Timestamp, now: Timestamp) -> bool {
    let age = now.duration_since(time);
    let signed = |time| SignedDuration::try_from(time).unwrap_or_default();
    age <= signed(oldest) && -age <= signed(FURTHEST_AHEAD)
}

/// Appends the message for people, in at most `room` bytes. It is `[service] action: details` as far as the record has
/// them, or else the beginning of the record. True if nothing was cut.
fn message(out: &mut Vec<u8>, event: &Event, action: Option<&Text<'_>>, room: usize) -> bool {
    let (service, details) = (Text::of(event, Field::Service), Text::of(event, Field::Details));
    let texts = [service.as_ref(), action, details.as_ref()];
    let most = texts.iter().flatten().map(|text| text.longest_written() + SEPARATORS).sum::<usize>();
    if (1..=room).contains(&most) {
        out.push(b'"');
        compose(texts, |part| part.write_content(out));
        out.push(b'"');
        return true;
    }
    let mut line = Vec::new();
    compose(texts, |part| line.extend_from_slice(&part.bytes()));
    if line.is_empty() {
        line.extend_from_slice(event.raw().get(..LONGEST_CUT_MESSAGE).unwrap_or(event.raw()));
    }
    string_within(out, &String::from_utf8_lossy(&line), room)
}

/// The most bytes that separate two texts of a message.
const SEPARATORS: usize = 3;

/// Joins service, action and details.
fn compose([service, action, details]: [Option<&Text<'_>>; 3], mut add: impl FnMut(&Text<'_>)) {
    const CLOSING: Text<'_> = Text::Plain(b"]");
    let mut before = None;
    if let Some(service) = service {
        add(&Text::Plain(b"["));
        add(service);
        add(&CLOSING);
        before = Some(&CLOSING);
    }
    for (text, separator) in [(action, &b" "[..]), (details, b": ")] {
        let Some(text) = text else { continue };
        if let Some(before) = before {
            add(&Text::Plain(if before.ends_with(b']') { b" " } else { separator }));
        }
        add(text);
        before = Some(text);
    }
}

/// The attributes that Datadog knows: `evt.*`, `usr.*`, `network.client.ip`.
fn attributes(out: &mut Vec<u8>, event: &Event, action: Option<Text<'_>>, outcome: Option<Text<'_>>) {
    let text = |field| Text::of(event, field);
    object(
        out,
        ",\"evt\":{",
        "}",
        [("id", text(Field::Id)), ("name", action), ("outcome", outcome), ("category", text(Field::Category))],
    );
    object(
        out,
        ",\"usr\":{",
        "}",
        [("id", text(Field::ActorId)), ("name", text(Field::ActorName)), ("email", text(Field::ActorEmail))],
    );
    object(out, ",\"network\":{\"client\":{", "}}", [("ip", text(Field::ClientAddress))]);
}

/// Appends the changes under `auditsync`; nothing if there were none.
fn own_marks(out: &mut Vec<u8>, event: &Event, form: Form, marks: Marks) {
    // Most events are unchanged. `object` would find that out with 355 more instructions, a twentieth of an entry's
    // cost.
    if marks == Marks::default() && event.time().is_some() && form == Form::Whole && !event.is_repaired() {
        return;
    }
    let yes = |condition: bool| condition.then_some(Text::Plain(b"true"));
    let read = |text: String| Text::Read(text.into());
    let time = event.time().filter(|_| marks.restamped).map(|time| read(time.to_string()));
    let size = marks.cut.then(|| read(event.raw().len().to_string()));
    object(
        out,
        ",\"auditsync\":{",
        "}",
        [
            ("restamped", yes(marks.restamped)),
            ("event_time", time),
            ("undated", yes(event.time().is_none())),
            ("truncated", yes(marks.cut)),
            ("record_bytes", size),
            ("plain_text", yes(form == Form::Text)),
            ("repaired", yes(event.is_repaired())),
        ],
    );
}

/// Appends an object of the members that have a value; nothing if none has.
fn object<const N: usize>(out: &mut Vec<u8>, opening: &str, closing: &str, members: [(&str, Option<Text<'_>>); N]) {
    let mut separator = opening;
    for (key, value) in members {
        let Some(value) = value else { continue };
        for part in [separator, "\"", key, "\":"] {
            out.extend_from_slice(part.as_bytes());
        }
        value.write(out, LONGEST_ATTRIBUTE);
        separator = ",";
    }
    if separator == "," {
        out.extend_from_slice(closing.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::source::Product;
    use crate::source::sectigo::page;

    const NOW: &str = "2026-03-01T12:00:00Z";

    fn writer() -> EntryWriter {
        let labels = Labels {
            source: "sectigo".into(),
            service: "sectigo-scm".into(),
            hostname: "host \"a\"".into(),
            tags: "env:prod,team:pki".into(),
        };
        EntryWriter::new(&labels, "sectigo")
    }

    fn event(raw: &str) -> Event {
        page::records(&Bytes::from(format!("[{raw}]"))).unwrap().remove(0)
    }

    fn written(raw: &str, form: Form) -> (Value, Marks, usize) {
        let mut out = Vec::new();
        let marks = writer().write(&mut out, &event(raw), form, NOW.parse().unwrap());
        (
            serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out))),
            marks,
            out.len(),
        )
    }

    const RECORD: &str = r#"{"id":7,"created":"2026-03-01T11:59:00.5Z","service":"scm","action":"certificate_revoked","status":"SUCCESS",
        "category":"ssl","details":"Tab\there","user":{"id":"u1","email":"a@b.c","name":"Ann"},"clientIp":"192.0.2.1","n":1.50}"#;

    #[test]
    fn an_entry_carries_the_record_whole_and_the_attributes_that_datadog_knows() {
        let (entry, marks, _) = written(RECORD, Form::Whole);
        assert_eq!(entry["ddsource"], "sectigo");
        assert_eq!(entry["service"], "sectigo-scm");
        assert_eq!(entry["hostname"], "host \"a\"");
        assert_eq!(entry["ddtags"], "env:prod,team:pki");
        assert_eq!(entry["status"], "warn");
        assert_eq!(entry["timestamp"], 1_772_366_340_500_i64);
        assert_eq!(entry["message"], "[scm] certificate_revoked: Tab\there");
        assert_eq!(
            entry["evt"],
            serde_json::json!({"id":"7","name":"certificate_revoked","outcome":"SUCCESS","category":"ssl"})
        );
        assert_eq!(entry["usr"], serde_json::json!({"id":"u1","email":"a@b.c","name":"Ann"}));
        assert_eq!(entry["network"]["client"]["ip"], "192.0.2.1");
        assert_eq!(entry["sectigo"], serde_json::from_str::<Value>(RECORD).unwrap());
        assert_eq!(entry.get("auditsync"), None);
        assert_eq!(marks, Marks::default());
        let mut out = Vec::new();
        writer().write(&mut out, &event(RECORD), Form::Whole, NOW.parse().unwrap());
        assert!(String::from_utf8(out).unwrap().contains(RECORD), "byte for byte");
    }

    #[test]
    fn a_flat_records_members_stand_beside_ours_unless_one_has_our_name() {
        let labels = Labels { source: "a".into(), service: "b".into(), hostname: "c".into(), tags: "d".into() };
        let product = Product { name: "flat", service: "b", is_flat: true };
        let writer = EntryWriter::new(&labels, RecordPlace::of(&product));
        let entry = |raw: &str| -> Value {
            let mut out = Vec::new();
            writer.write(&mut out, &event(raw), Form::Whole, NOW.parse().unwrap());
            assert!(String::from_utf8_lossy(&out).contains(raw.trim().trim_matches(['{', '}'])), "byte for byte");
            serde_json::from_slice(&out).unwrap()
        };
        let flat = entry(r#"{"eventName":"StopLogging" , "userIdentity":{"status":1}}"#);
        assert_eq!((&flat["eventName"], &flat["userIdentity"]["status"]), (&"StopLogging".into(), &1.into()));
        assert_eq!((&flat["ddsource"], flat.get("flat")), (&"a".into(), None));
        for raw in [r#"{"x":1,"status":"y"}"#, r#"{"\u0073tatus":"y"}"#, "{}"] {
            assert_eq!(entry(raw)["flat"], serde_json::from_str::<Value>(raw).unwrap(), "{raw}");
        }
    }

    #[test]
    fn a_record_of_which_nothing_is_understood_goes_out() {
        for raw in ["17", "null", r#""x""#, "{}", r#"{"\ud800":[{}]}"#] {
            let (entry, _, _) = written(raw, Form::Text);
            assert_eq!(entry["message"].as_str().unwrap(), raw);
            let mut out = Vec::new();
            writer().write(&mut out, &event(raw), Form::Whole, NOW.parse().unwrap());
            assert!(String::from_utf8(out).unwrap().ends_with(&format!("\"sectigo\":{raw}}}")), "{raw}");
        }
        assert_eq!(written("{}", Form::Whole).0["auditsync"]["undated"], "true");
    }

    #[test]
    fn what_the_intake_would_drop_for_its_time_is_restamped_and_marked() {
        for (time, restamped) in [
            ("2026-02-28T19:00:00Z", false),
            ("2026-02-28T18:59:59Z", true),
            ("2026-03-01T14:00:00Z", false),
            ("2026-03-01T14:00:01Z", true),
            ("-009999-01-02T01:59:59Z", true),
        ] {
            let (entry, marks, _) = written(&format!(r#"{{"created":"{time}"}}"#), Form::Whole);
            assert_eq!(marks.restamped, restamped, "{time}");
            if restamped {
                assert_eq!(entry["timestamp"], NOW.parse::<Timestamp>().unwrap().as_millisecond());
                assert_eq!(entry["auditsync"]["restamped"], "true");
                assert_eq!(entry["auditsync"]["event_time"], time);
            }
        }
    }

    #[test]
    fn a_record_that_is_too_large_is_cut_and_marked() {
        for filler in ["x", "é", "\\u0000", "\\\"", "😀"] {
            let raw = format!(r#"{{"id":"a","details":"{}"}}"#, filler.repeat(1_000_000 / filler.len()));
            let (entry, marks, size) = written(&raw, Form::Whole);
            assert!(marks.cut);
            assert!(size <= CUT_ENTRY && size > CUT_ENTRY - 100, "{size} with {filler}");
            assert!(raw.starts_with(entry["sectigo_raw"].as_str().unwrap().trim_end_matches('…')));
            assert_eq!(entry["auditsync"]["record_bytes"], raw.len().to_string());
            assert_eq!(entry["evt"]["id"], "a");
            assert_eq!(entry.get("sectigo"), None);
            let (entry, marks, size) = written(&raw, Form::Text);
            assert!(size <= CUT_ENTRY && marks.cut);
            assert_eq!(entry["auditsync"]["truncated"], "true", "what is missing from the text is not silent");
        }
    }

    #[test]
    fn a_repaired_record_is_marked_in_every_form() {
        for form in [Form::Whole, Form::Cut, Form::Text] {
            let mut out = Vec::new();
            writer().write(&mut out, &event(RECORD).repaired(), form, NOW.parse().unwrap());
            let entry: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(entry["auditsync"]["repaired"], "true", "{form:?}");
        }
    }

    #[test]
    fn escapes_are_read_before_a_text_is_cut_and_half_characters_replaced() {
        let quotes = r#"\""#.repeat(LONGEST_MESSAGE);
        let (entry, _, _) = written(&format!(r#"{{"details":"{quotes}"}}"#), Form::Whole);
        let message = entry["message"].as_str().unwrap();
        assert!(message.starts_with("\"\"\"") && message.ends_with("\"…"), "{message}");
        let (entry, _, _) = written(r#"{"service":"\"","action":"a\\b\/]","details":"\n\\u0041"}"#, Form::Whole);
        assert_eq!(entry["message"], "[\"] a\\b/] \n\\u0041");
        assert_eq!(entry["evt"]["name"], "a\\b/]");
        let (entry, _, _) = written(r#"{"action":"\ud800x","details":"y"}"#, Form::Text);
        assert!(entry["message"].as_str().unwrap().contains("ud800"), "the record itself");
        let mut out = Vec::new();
        writer().write(&mut out, &event(r#"{"action":"\ud800x","details":"y"}"#), Form::Whole, NOW.parse().unwrap());
        let beside = String::from_utf8(out).unwrap();
        assert!(beside.contains("\"message\":\"\u{fffd}\u{fffd}\u{fffd}x: y\""), "{beside}");
        assert!(beside.contains("\"name\":\"\u{fffd}\u{fffd}\u{fffd}x\""), "{beside}");
    }

    proptest! {
        #[test]
        fn an_entry_says_what_the_fields_say_whatever_they_contain(
            service in ".{0,20}", action in ".{0,40}", details in any::<String>()
        ) {
            let record = serde_json::json!({"service": service, "action": action, "details": details, "created": NOW});
            let (entry, _, _) = written(&record.to_string(), Form::Whole);
            let mut message = if service.is_empty() { String::new() } else { format!("[{service}]") };
            for (text, separator) in [(&action, " "), (&details, ": ")] {
                if !text.is_empty() && !message.is_empty() {
                    message.push_str(if message.ends_with(']') { " " } else { separator });
                }
                message.push_str(text);
            }
            if !message.is_empty() {
                prop_assert_eq!(entry["message"].as_str().unwrap(), message);
            }
            prop_assert_eq!(entry["evt"]["name"].as_str().unwrap_or_default(), action);
            prop_assert_eq!(&entry["sectigo"], &record);
        }
    }
}
