//! Records that are entries already. They pass as they were sent; auditsync adds missing members and our tags.

use std::io::Write as _;

use jiff::Timestamp;

use super::{EntryWriter, LONGEST_MESSAGE, Marks, message, object, stamp, string};
use crate::destination::datadog::Labels;
use crate::destination::datadog::text::Text;
use crate::event::{Event, Field, scalar};
use crate::members::{Member, members};

/// The names under which Datadog looks for the time of an entry (`docs.datadoghq.com`, log date remapper).
const TIMES: [&str; 8] =
    ["@timestamp", "timestamp", "_timestamp", "Timestamp", "eventTime", "date", "published_date", "syslog.timestamp"];

/// Words that Datadog understands as a status. It reads any other word by its first letters: it takes `DENIED` for a
/// debug message.
const STATUSES: [&str; 19] = [
    "emerg",
    "emergency",
    "fatal",
    "alert",
    "crit",
    "critical",
    "err",
    "error",
    "warn",
    "warning",
    "notice",
    "info",
    "information",
    "informational",
    "debug",
    "trace",
    "verbose",
    "ok",
    "success",
];

/// The members that an entry was sent with.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each says of another member whether it is there")]
struct Sent<'e> {
    source: bool,
    service: bool,
    host: bool,
    message: bool,
    timestamp: bool,
    has_evt: bool,
    has_status: bool,
    tags: Option<&'e [u8]>,
    /// The value of its status, if Datadog does not understand it as one.
    no_status: Option<&'e [u8]>,
}

impl EntryWriter {
    /// Appends the entry that the record of `event` already is.
    pub(super) fn pass(&self, out: &mut Vec<u8>, event: &Event, now: Timestamp) -> Marks {
        let stamp = stamp(event, now);
        let marks = Marks { restamped: event.time().is_some_and(|time| time != stamp), cut: false };
        let mut sent = Sent::default();
        out.push(b'{');
        for Member { key, value } in members(event.raw()) {
            let name = scalar(key).unwrap_or_default();
            let is_text = value.starts_with(b"\"") && value != b"\"\"";
            let keep = match name.as_ref() {
                "ddsource" => note(&mut sent.source, is_text),
                "service" => note(&mut sent.service, is_text),
                "host" | "hostname" => note(&mut sent.host, is_text),
                "message" => note(&mut sent.message, value != b"null"),
                "ddtags" => {
                    sent.tags = Some(value);
                    false
                }
                "status" => {
                    sent.has_status = is_status(value);
                    if !sent.has_status {
                        sent.no_status = Some(value);
                    }
                    sent.has_status
                }
                "timestamp" => note(&mut sent.timestamp, value == stamp.as_millisecond().to_string().as_bytes()),
                "evt" => note(&mut sent.has_evt, true),
                name => !((marks.restamped && TIMES.contains(&name)) || name == "auditsync"),
            };
            if keep {
                member(out, key, value);
            } else if name == "auditsync" || TIMES.contains(&name.as_ref()) {
                // A new name keeps Datadog from reading it as the entry's time, or as ours.
                member(out, format!("\"sent_{}\"", name.trim_start_matches(['@', '_'])).as_bytes(), value);
            }
        }
        self.complete(out, event, &sent, stamp);
        own(out, event, &sent, marks);
        out.push(b'}');
        marks
    }

    /// Appends the members that the entry lacks, and its tags joined with ours.
    fn complete(&self, out: &mut Vec<u8>, event: &Event, sent: &Sent<'_>, stamp: Timestamp) {
        let Labels { source, service, hostname, tags } = &self.labels;
        for (key, is_sent, value) in
            [("ddsource", sent.source, source), ("service", sent.service, service), ("hostname", sent.host, hostname)]
        {
            if !is_sent {
                name(out, key);
                string(out, value);
            }
        }
        name(out, "ddtags");
        string(out, &joined(sent.tags, tags));
        if !sent.has_status {
            name(out, "status");
            string(out, event.severity().name());
        }
        if !sent.timestamp {
            name(out, "timestamp");
            // Writing into memory cannot fail.
            let _ = write!(out, "{}", stamp.as_millisecond());
        }
        if !sent.message {
            name(out, "message");
            message(out, event, Text::of(event, Field::Action).as_ref(), LONGEST_MESSAGE);
        }
    }
}

/// Appends our own attributes.
fn own(out: &mut Vec<u8>, event: &Event, sent: &Sent<'_>, marks: Marks) {
    let text = |field| Text::of(event, field);
    let severity = || Some(Text::Plain(event.severity().name().as_bytes()));
    let no_status = || sent.no_status.and_then(scalar).map(Text::Read);
    if !sent.has_evt {
        let members = [
            ("id", text(Field::Id)),
            ("name", text(Field::Action)),
            ("outcome", text(Field::Outcome).or_else(no_status)),
            ("category", text(Field::Category)),
            ("severity", severity()),
        ];
        object(out, ",\"evt\":{", "}", members);
    }
    let time = event.time().filter(|_| marks.restamped).map(|time| Text::Read(time.to_string().into()));
    let members = [
        ("id", text(Field::Id).filter(|_| sent.has_evt)),
        ("severity", severity().filter(|_| sent.has_evt)),
        ("status", no_status()),
        ("restamped", marks.restamped.then_some(Text::Plain(b"true"))),
        ("event_time", time),
    ];
    object(out, ",\"auditsync\":{", "}", members);
}

/// Appends a member.
fn member(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if !out.ends_with(b"{") {
        out.push(b',');
    }
    for part in [key, b":", value] {
        out.extend_from_slice(part);
    }
}

/// Appends the name of a member; its value follows.
fn name(out: &mut Vec<u8>, name: &str) {
    if !out.ends_with(b"{") {
        out.push(b',');
    }
    string(out, name);
    out.push(b':');
}

/// Joins the tags that were sent with `ours`. The intake does not understand a list, so a list becomes one string.
fn joined(sent: Option<&[u8]>, ours: &str) -> String {
    let sent = match sent {
        Some(list) if list.starts_with(b"[") => {
            let tags: Vec<serde_json::Value> = serde_json::from_slice(list).unwrap_or_default();
            tags.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(",")
        }
        Some(text) => scalar(text).unwrap_or_default().into_owned(),
        None => String::new(),
    };
    [sent.as_str(), ours].into_iter().filter(|tags| !tags.is_empty()).collect::<Vec<_>>().join(",")
}

/// Whether Datadog understands `value` as a status. Numbers are syslog severities.
fn is_status(value: &[u8]) -> bool {
    let Some(text) = scalar(value) else { return false };
    let is_number = matches!(text.as_bytes(), [b'0'..=b'7']);
    is_number || STATUSES.iter().any(|known| known.eq_ignore_ascii_case(&text))
}

/// Notes in `noted` that a member is there, and returns whether it is.
fn note(noted: &mut bool, is_there: bool) -> bool {
    *noted |= is_there;
    is_there
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::super::Form;
    use super::*;
    use crate::event::{Fields, Severity};

    const NOW: &str = "2026-03-01T12:00:00Z";

    fn written(raw: &str, time: &str, severity: Severity) -> (Value, Marks) {
        let labels = Labels {
            source: "receiver".to_owned(),
            service: "receiver".to_owned(),
            hostname: "our-host".to_owned(),
            tags: "env:prod".to_owned(),
        };
        let raw = Bytes::copy_from_slice(raw.as_bytes());
        let event = Event::new(raw, time.parse().ok(), Fields::default()).with_severity(severity).as_entry();
        let mut out = Vec::new();
        let marks = EntryWriter::new(&labels, "receiver").write(&mut out, &event, Form::Whole, NOW.parse().unwrap());
        (
            serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out))),
            marks,
        )
    }

    #[test]
    fn an_entry_passes_as_it_was_sent_with_our_tags() {
        let sent = r#"{"ddsource":"ezca","service":"EZCA","hostname":"h","ddtags":"a:1","status":"warn","message":"m",
            "timestamp":1772366340500,"EventID":4870,"nested":{"x":[1.50]}}"#;
        let (entry, marks) = written(sent, "2026-03-01T11:59:00.5Z", Severity::Info);
        let mut expected: Value = serde_json::from_str(sent).unwrap();
        expected["ddtags"] = json!("a:1,env:prod");
        expected["evt"] = json!({"severity": "info"});
        assert_eq!(entry, expected);
        assert_eq!(marks, Marks::default());
    }

    #[test]
    fn what_an_entry_lacks_it_gets_from_us() {
        for raw in ["{}", r#"{"ddsource":null,"status":null}"#] {
            let (entry, _) = written(raw, NOW, Severity::Error);
            for (key, value) in [
                ("ddsource", json!("receiver")),
                ("service", json!("receiver")),
                ("hostname", json!("our-host")),
                ("ddtags", json!("env:prod")),
                ("status", json!("error")),
                ("timestamp", json!(1_772_366_400_000_i64)),
            ] {
                assert_eq!(entry[key], value, "{raw}: {key}");
            }
        }
    }

    #[test]
    fn an_outcome_in_the_place_of_the_status_is_not_read_as_a_status() {
        let (entry, _) = written(r#"{"status":"DENIED","message":"m"}"#, NOW, Severity::Error);
        assert_eq!((&entry["status"], &entry["evt"]["outcome"]), (&json!("error"), &json!("DENIED")));
        assert_eq!(entry["auditsync"]["status"], "DENIED");
        for status in ["INFO", "Warning", "6", "ok"] {
            let (entry, _) = written(&format!(r#"{{"status":"{status}"}}"#), NOW, Severity::Error);
            assert_eq!(entry["status"], status);
        }
    }

    #[test]
    fn an_entry_that_waited_too_long_is_restamped_and_keeps_its_time() {
        let (entry, marks) = written(
            r#"{"timestamp":"2026-02-27T12:00:00Z","date":"x","@timestamp":1}"#,
            "2026-02-27T12:00:00Z",
            Severity::Info,
        );
        assert!(marks.restamped);
        assert_eq!(entry["timestamp"], 1_772_366_400_000_i64);
        assert_eq!(entry["auditsync"]["event_time"], "2026-02-27T12:00:00Z");
        assert_eq!(entry["sent_date"], "x");
        assert_eq!((entry.get("date"), entry.get("@timestamp")), (None, None));
    }

    #[test]
    fn attributes_of_the_sender_are_never_replaced_by_ours() {
        let (entry, _) =
            written(r#"{"evt":{"name":"theirs"},"auditsync":{"x":1},"ddtags":["a","b"]}"#, NOW, Severity::Warn);
        assert_eq!(entry["evt"], json!({"name": "theirs"}));
        assert_eq!(entry["auditsync"], json!({"severity": "warn"}));
        assert_eq!(entry["sent_auditsync"], json!({"x": 1}));
        assert_eq!(entry["ddtags"], "a,b,env:prod");
    }
}
