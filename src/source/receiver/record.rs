//! Makes an event of an entry of the spool.

use std::borrow::Cow;

use jiff::Timestamp;

use super::rules::{Rules, Ruling};
use super::spool::{Shape, Stored};
use crate::event::{Event, Field, Fields, Severity, scalar};
use crate::members::{Member, members};
use crate::source::times::time;

/// The greatest depth at which objects in a record are read.
const DEEPEST: usize = 2;

/// The event made of an entry.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) event: Event,
    /// Whether the rules know its sender, but not this event.
    pub(super) is_unknown: bool,
}

/// Names of members, and the fields that they are; if several are there, the first in the list counts. The name of an
/// inner member follows its object's.
const FIELDS: &[(&str, Field)] = &[
    ("evt.id", Field::Id),
    ("uid", Field::Id),
    ("evt.name", Field::Action),
    ("event", Field::Action),
    ("service", Field::Service),
    ("evt.category", Field::Category),
    ("evt.outcome", Field::Outcome),
    ("message", Field::Details),
    ("usr.id", Field::ActorId),
    ("usr.name", Field::ActorName),
    ("user", Field::ActorName),
    ("usr.email", Field::ActorEmail),
    ("network.client.ip", Field::ClientAddress),
];

/// The names of members that hold a time, the likeliest first.
const TIMES: [&str; 6] = ["timestamp", "date", "@timestamp", "_timestamp", "time", "eventTime"];

/// Makes an event of a `stored` entry of the spool with the identifier `spool`.
pub(super) fn event(stored: &Stored, spool: u64, rules: &Rules) -> Made {
    let mut reading = Reading { base: stored.record.as_ptr() as usize, ..Reading::default() };
    reading.object(&stored.record, "", 0);
    let arrived = Timestamp::from_millisecond(stored.arrived).ok();
    // An entry without a time arrived about when it was made.
    let event = Event::new(stored.record.clone(), reading.time.map(|(_, time)| time).or(arrived), reading.fields);
    let mut derived = Vec::new();
    if event.text(Field::Id).is_none() {
        derived.push((Field::Id, Cow::Owned(format!("{spool:016x}-{}", stored.sequence))));
    }
    let event = match &stored.shape {
        Shape::Entry => event.as_entry(),
        Shape::Tagged(tag) => {
            if event.text(Field::Service).is_none() {
                derived.push((Field::Service, Cow::Owned(tag.clone())));
            }
            if let Some(session) = session(&stored.record, tag) {
                derived.push((Field::SessionId, session));
            }
            event
        }
    };
    let service = event.text(Field::Service).unwrap_or_default();
    let attribute = |name: &str| attribute(&stored.record, name);
    let ruling = rules.ruling(&service, attribute);
    drop(service);
    let severity = match ruling {
        Ruling::Known(meaning) => {
            for (field, value) in [
                (Field::Action, &meaning.name),
                (Field::Category, &meaning.category),
                (Field::Outcome, &meaning.outcome),
            ] {
                if let (None, Some(value)) = (event.text(field), value) {
                    derived.push((field, Cow::Owned(value.clone())));
                }
            }
            meaning.status.into()
        }
        Ruling::Unknown => Severity::Info,
        // The status that a sender gives may be an outcome.
        Ruling::Stranger => severity(reading.status.as_deref()),
    };
    let event = event.with_severity(severity).with_derived(derived);
    Made { event, is_unknown: ruling == Ruling::Unknown }
}

/// The recorded session that a record is part of. Teleport's event handler sends the events of a session under a tag
/// that ends with the session's id and `.log`. Many records of the audit log name a session, too, but are not part of
/// its recording.
fn session(record: &[u8], tag: &str) -> Option<Cow<'static, str>> {
    let session = attribute(record, "sid").filter(|session| !session.is_empty())?;
    let is_its_tag = tag.strip_suffix(".log")?.strip_suffix(&*session)?.ends_with('.');
    is_its_tag.then(|| Cow::Owned(session.into_owned()))
}

/// The severity that the text of a status stands for, whatever the sender means by the status.
fn severity(status: Option<&str>) -> Severity {
    let lower = status.unwrap_or_default().trim().to_ascii_lowercase();
    let begins = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    if begins(&["err", "fail", "den", "reject", "refus", "unauth", "forbid", "crit", "alert", "emerg", "fatal"]) {
        Severity::Error
    } else if begins(&["warn"]) {
        Severity::Warn
    } else if begins(&["notice"]) {
        Severity::Notice
    } else {
        Severity::Info
    }
}

/// The text of the member `name` of an object. Dots in the name lead into inner objects.
fn attribute<'r>(object: &'r [u8], name: &str) -> Option<Cow<'r, str>> {
    let wanted = |name: &str| members(object).find(|member| scalar(member.key).is_some_and(|key| key == name));
    if let Some(member) = wanted(name) {
        return scalar(member.value);
    }
    let (outer, inner) = name.split_once('.')?;
    let value = wanted(outer)?.value;
    if value.first() == Some(&b'{') { attribute(value, inner) } else { None }
}

#[derive(Default)]
struct Reading {
    base: usize,
    time: Option<(usize, Timestamp)>,
    ranks: [Option<usize>; Field::COUNT],
    fields: Fields,
    status: Option<String>,
}

impl Reading {
    fn object(&mut self, object: &[u8], parent: &str, depth: usize) {
        for Member { key, value } in members(object) {
            let Some(key) = scalar(key) else { continue };
            let name = if parent.is_empty() { key } else { Cow::Owned(format!("{parent}.{key}")) };
            match value.first() {
                Some(b'{') if depth < DEEPEST => self.object(value, &name, depth + 1),
                Some(b'{' | b'[' | b'n') | None => {}
                Some(_) => self.member(&name, value),
            }
        }
    }

    fn member(&mut self, name: &str, value: &[u8]) {
        if name == "status" {
            self.status = scalar(value).map(Cow::into_owned);
        }
        if let Some(rank) = TIMES.iter().position(|known| *known == name)
            && self.time.is_none_or(|(best, _)| rank < best)
            && let Some(time) = scalar(value).and_then(|text| time(&text))
        {
            self.time = Some((rank, time));
        }
        let Some(rank) = FIELDS.iter().position(|(known, _)| *known == name) else { return };
        let (_, field) = FIELDS[rank];
        let best = &mut self.ranks[field as usize];
        if value == b"\"\"" || best.is_some_and(|best| best <= rank) {
            return;
        }
        *best = Some(rank);
        // The value is a slice of the record, so the difference of their addresses is its offset.
        let start = value.as_ptr() as usize - self.base;
        self.fields.set(field, start..start + value.len());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn made(shape: Shape, record: &str) -> Made {
        let record = Bytes::copy_from_slice(record.as_bytes());
        event(&Stored { sequence: 7, arrived: 1_772_366_400_000, shape, record }, 5, &Rules::default())
    }

    #[test]
    fn an_event_of_ezca_is_understood_with_its_id_as_a_number_and_as_a_string() {
        for record in [r#"{"service":"EZCA","EventID":4888}"#, r#"{"service":"EZCA","EventID":"4888","status":"info"}"#]
        {
            let Made { event, is_unknown } = made(Shape::Entry, record);
            assert!(!is_unknown);
            assert_eq!(event.severity(), Severity::Error);
            assert_eq!(event.text(Field::Outcome).as_deref(), Some("failure"));
            assert_eq!(event.text(Field::Category).as_deref(), Some("certificate"));
            assert_eq!(event.text(Field::Action).as_deref(), Some("certificate request denied"));
        }
    }

    #[test]
    fn an_unknown_event_of_ezca_passes_as_info_and_is_noticed() {
        let Made { event, is_unknown } = made(Shape::Entry, r#"{"service":"EZCA","EventID":5000}"#);
        assert!(is_unknown);
        assert_eq!(event.severity(), Severity::Info);
    }

    #[test]
    fn an_entry_without_a_time_has_the_time_of_its_arrival() {
        let arrived = "2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap();
        assert_eq!(made(Shape::Entry, "{}").event.time(), Some(arrived));
        let own = made(Shape::Entry, r#"{"date":"2026-03-01T11:00:00Z","timestamp":1772362800001}"#).event.time();
        assert_eq!(own.unwrap().to_string(), "2026-03-01T11:00:00.001Z");
    }

    #[test]
    fn a_status_that_is_an_outcome_is_no_debug_message() {
        assert_eq!(made(Shape::Entry, r#"{"status":"DENIED"}"#).event.severity(), Severity::Error);
        assert_eq!(made(Shape::Entry, r#"{"status":"APPROVED"}"#).event.severity(), Severity::Info);
    }

    #[test]
    fn a_tagged_record_of_teleport_has_its_fields() {
        let record = r#"{"event":"user.login","uid":"u-1","user":"ann","time":"2026-03-01T11:00:00Z","code":"T1000I"}"#;
        let event = made(Shape::Tagged("test.log".to_owned()), record).event;
        assert!(!event.is_entry());
        assert_eq!(event.text(Field::Action).as_deref(), Some("user.login"));
        assert_eq!(event.text(Field::Id).as_deref(), Some("u-1"));
        assert_eq!(event.text(Field::ActorName).as_deref(), Some("ann"));
        assert_eq!(event.text(Field::Service).as_deref(), Some("test.log"));
        assert_eq!(event.time().unwrap().to_string(), "2026-03-01T11:00:00Z");
    }

    #[test]
    fn a_record_is_of_a_recorded_session_only_under_the_tag_of_the_session() {
        let record = r#"{"event":"session.command","uid":"u-2","sid":"8d38-44"}"#;
        let session = |shape| made(shape, record).event.text(Field::SessionId).map(Cow::into_owned);
        for tag in ["session.8d38-44.log", "teleport.session.8d38-44.log"] {
            assert_eq!(session(Shape::Tagged(tag.to_owned())).as_deref(), Some("8d38-44"), "{tag}");
        }
        for tag in ["test.log", "session.8d38-45.log", "session.log", "x8d38-44.log", "session.8d38-44"] {
            assert_eq!(session(Shape::Tagged(tag.to_owned())), None, "{tag}");
        }
        assert_eq!(session(Shape::Entry), None);
    }

    #[test]
    fn whoever_has_no_id_gets_one_of_the_spool() {
        assert_eq!(made(Shape::Entry, "{}").event.text(Field::Id).as_deref(), Some("0000000000000005-7"));
    }
}
