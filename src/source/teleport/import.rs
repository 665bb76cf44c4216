//! Imports settings and progress of the event handler (gravitational/teleport, `integrations/event-handler`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use toml::{Table, Value};

use super::cursor::Progress;
use super::variables::{
    ADDRESS, CA, CERT, IDENTITY, KEY, SESSIONS, SKIP_SESSION_TYPES, SKIP_TYPES, START, TYPES, WINDOW,
};
use crate::config::{Bounds, Spec, parse};
use crate::engine::variables::{INTERVAL, LOOP};
use crate::http::{Excerpt, Redaction};
use crate::source::Cursor;
use crate::telemetry::variables::LOG_LEVEL;

/// The imported settings and progress.
#[derive(Debug)]
pub(crate) struct Imported {
    /// Our variables and their values.
    pub(crate) lines: Vec<(&'static str, String)>,
    /// Notes for the operator: settings without a counterpart.
    pub(crate) notes: Vec<String>,
    /// How far the event handler got.
    pub(crate) cursor: Option<Cursor>,
}

/// A reason why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The settings are not TOML.
    #[error("it is not TOML")]
    NotToml(#[source] toml::de::Error),
    /// A setting has an unexpected form.
    #[error("{key} {rule}")]
    Unfit {
        /// The setting.
        key: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The storage folder cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The folder or the file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// The storage folder holds no progress of the event handler.
    #[error("{} holds no progress of the event handler: none of window_time, start_time and cursor_v2", .0.display())]
    NoPlace(PathBuf),
    /// The storage folder holds the progress of several clusters.
    #[error("{} holds the progress of several clusters: name one of its folders", .0.display())]
    SeveralPlaces(PathBuf),
    /// The cursor has no JSON form.
    #[error("the cursor cannot be written")]
    Unwritable(#[source] serde_json::Error),
    /// A file of the storage folder holds no time.
    #[error("{} holds no time in RFC 3339", .0.display())]
    NoTime(PathBuf),
}

/// The translation of a setting.
#[derive(Clone, Copy)]
enum Fate {
    /// Copies the value to this variable of ours, which has this check.
    Same(&'static str, fn(&str) -> Result<(), String>),
    /// Translates a Go duration for this variable of ours, within its bounds.
    Time(&'static Spec),
    /// Sets this variable of ours to this value if the setting is `true`.
    Flag(&'static str, &'static str),
    /// Has no counterpart, for this reason.
    None(&'static str),
}

/// The settings, by the names of the flags.
const SETTINGS: &[(&str, Fate)] = &[
    ("teleport-addr", Fate::Same(ADDRESS.spec.name, |text| ADDRESS.check(text))),
    ("teleport-identity", Fate::Same(IDENTITY.spec.name, |text| IDENTITY.check(text))),
    ("teleport-ca", Fate::Same(CA.spec.name, |text| CA.check(text))),
    ("teleport-cert", Fate::Same(CERT.spec.name, |text| CERT.check(text))),
    ("teleport-key", Fate::Same(KEY.spec.name, |text| KEY.check(text))),
    ("teleport-refresh-enabled", Fate::None("the identity is always read again when it changes")),
    ("teleport-refresh-interval", Fate::None("the identity is always read again when it changes")),
    ("teleport-debug", Fate::None("auditsync has one log level")),
    ("storage", Fate::None("to continue from it, give the folder to `auditsync import` with --storage")),
    ("batch", Fate::None("the server decides on the size of a page")),
    ("timeout", Fate::Time(&INTERVAL.spec)),
    ("window-size", Fate::Time(&WINDOW.spec)),
    ("types", Fate::Same(TYPES.spec.name, |text| TYPES.check(text))),
    ("skip-event-types", Fate::Same(SKIP_TYPES.spec.name, |text| SKIP_TYPES.check(text))),
    ("skip-session-types", Fate::Same(SKIP_SESSION_TYPES.spec.name, |text| SKIP_SESSION_TYPES.check(text))),
    ("start-time", Fate::Same(START.spec.name, |text| START.check(text))),
    ("concurrency", Fate::None("sessions are read one after the other, beside the audit log")),
    ("dry-run", Fate::None("use `auditsync run --dry-run`")),
    ("exit-on-last-event", Fate::Flag(LOOP.spec.name, "false")),
    ("lock-enabled", Fate::None("auditsync locks no users: that needs write access")),
    ("lock-failed-attempts-count", Fate::None("auditsync locks no users: that needs write access")),
    ("lock-period", Fate::None("auditsync locks no users: that needs write access")),
    ("lock-for", Fate::None("auditsync locks no users: that needs write access")),
    ("debug", Fate::Flag(LOG_LEVEL.spec.name, "debug")),
    ("config", Fate::None("auditsync reads its environment and .env")),
];

/// Reads the settings in `text`, and the event handler's progress in the folder `storage`. `destination` lists the
/// destination's settings, each with our variable if there is one.
pub(crate) fn read(
    text: &str,
    destination: &[(&'static str, Option<&'static str>)],
    storage: Option<&Path>,
) -> Result<Imported, ImportError> {
    let table: Table = text.parse().map_err(ImportError::NotToml)?;
    let mut settings = Vec::new();
    flatten("", &table, &mut settings);
    let (mut lines, mut notes) = (Vec::new(), Vec::new());
    for (key, value) in settings {
        let name = key.strip_prefix("forward-").unwrap_or(&key);
        let fate = SETTINGS.iter().find(|(known, _)| *known == name).map(|(_, fate)| *fate);
        let fate = fate.or_else(|| {
            let (_, variable) = destination.iter().find(|(known, _)| *known == name)?;
            let without = Fate::None("the destination needs no such setting");
            Some(variable.map_or(without, |variable| Fate::Same(variable, |_| Ok(()))))
        });
        let text = text_of(&key, &value)?;
        match fate {
            _ if text.is_empty() => {}
            Some(Fate::Same(variable, check)) => {
                if let Err(rule) = check(&text) {
                    let shown = Excerpt::of(text.as_bytes(), &Redaction::none());
                    notes.push(format!("{variable}={shown} {rule}; correct it"));
                }
                lines.push((variable, text));
            }
            Some(Fate::Time(spec)) => {
                let time = parse::duration(&text, Bounds::seconds(0, u64::MAX))
                    .map_err(|_| ImportError::Unfit { key: key.clone(), rule: "is not a time such as 24h or 90s" })?;
                let nearest = spec.bounds.map_or(time, |bounds| bounds.nearest(time));
                if let (Some(bounds), true) = (spec.bounds, nearest != time) {
                    let (ours, nearest) = (spec.name, humantime::format_duration(nearest));
                    notes.push(format!("{name} is {text}, but {ours} must be a time {bounds}; it is set to {nearest}"));
                }
                lines.push((spec.name, humantime::format_duration(nearest).to_string()));
            }
            Some(Fate::Flag(variable, ours)) => {
                if text == "true" {
                    lines.push((variable, ours.to_owned()));
                }
            }
            Some(Fate::None(why)) => notes.push(format!("{name} has no counterpart: {why}")),
            None => {
                let key = Excerpt::of(key.as_bytes(), &Redaction::none());
                notes.push(format!("{key} is not a known setting of the event handler; it is left out"));
            }
        }
    }
    if !lines.iter().any(|(name, _)| *name == ADDRESS.spec.name) {
        lines.insert(0, (ADDRESS.spec.name, "localhost:3025".to_owned()));
    }
    // The event handler always reads recorded sessions.
    lines.push((SESSIONS.spec.name, "true".to_owned()));
    let cursor = storage.map(|storage| cursor(storage, &mut notes)).transpose()?;
    Ok(Imported { lines, notes, cursor })
}

/// Lists all settings, each by the name of its flag. Tables, dots and underscores stand for the dashes of that name.
fn flatten(prefix: &str, table: &Table, into: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let key = key.replace(['.', '_'], "-");
        let name = if prefix.is_empty() { key } else { format!("{prefix}-{key}") };
        match value {
            Value::Table(inner) => flatten(&name, inner, into),
            value => into.push((name, value.clone())),
        }
    }
}

fn text_of(key: &str, value: &Value) -> Result<String, ImportError> {
    let unfit = |rule| ImportError::Unfit { key: key.to_owned(), rule };
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(time) => time.to_string(),
        Value::Array(values) => {
            let texts: Option<Vec<_>> = values.iter().map(Value::as_str).collect();
            texts.ok_or_else(|| unfit("is not a list of texts"))?.join(",")
        }
        Value::Float(_) | Value::Table(_) => return Err(unfit("is not a text, a number, true or false")),
    })
}

/// Reads how far the event handler got, in the audit log and in each recorded session.
fn cursor(storage: &Path, notes: &mut Vec<String>) -> Result<Cursor, ImportError> {
    let since = place(storage)?;
    // The log before this time may hold the `session.upload` of an imported session. It must not be read from its start.
    let now = Timestamp::now();
    let mut progress = Progress::behind(since);
    for (id, index) in sessions(&folder(storage)?)? {
        let shown = Excerpt::of(id.as_bytes(), &Redaction::none());
        if progress.sessions.is_full() {
            notes.push(format!("the recorded session {shown} is left out, because the state holds no more of them"));
            continue;
        }
        notes.push(match index {
            Some(index) => format!("the recorded session {shown} continues from its event {index}"),
            None => format!(
                "the event handler's file on the recorded session {shown} is unreadable, so it is read from its start"
            ),
        });
        progress.sessions.add_at(index.unwrap_or_default(), id, now);
    }
    Cursor::encode(&progress).map_err(ImportError::Unwritable)
}

/// Lists the recorded sessions that the event handler had not read to their end, each with the index of the last event
/// that it delivered. None stands for an index that cannot be read (`integrations/event-handler/state.go`).
fn sessions(folder: &Path) -> Result<BTreeMap<String, Option<i64>>, ImportError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Missing {
        index: i64,
    }
    let unreadable = |path: &Path, cause| ImportError::Unreadable { path: path.to_owned(), cause };
    let mut sessions = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|cause| unreadable(folder, cause))? {
        let entry = entry.map_err(|cause| unreadable(folder, cause))?;
        let (name, path) = (entry.file_name(), entry.path());
        let Some(name) = name.to_str() else { continue };
        let (id, is_missing) = match (name.strip_prefix("missing_recording"), name.strip_prefix("session")) {
            (Some(id), _) => (id, true),
            (None, Some(id)) => (id, false),
            (None, None) => continue,
        };
        if id.is_empty() {
            continue;
        }
        let content = fs::read(&path).map_err(|cause| unreadable(&path, cause))?;
        let index = if is_missing {
            serde_json::from_slice(&content).ok().map(|Missing { index }| index)
        } else if content.is_empty() {
            Some(0)
        } else {
            content.try_into().ok().map(i64::from_be_bytes)
        };
        let index = index.filter(|index| *index >= 0);
        sessions.entry(id.to_owned()).and_modify(|known: &mut Option<i64>| *known = index.min(*known)).or_insert(index);
    }
    Ok(sessions)
}

/// Reads how far the event handler got in the audit log. Everything before that time is delivered; an event of exactly that time may not
/// be.
fn place(storage: &Path) -> Result<Timestamp, ImportError> {
    let folder = folder(storage)?;
    let time = match oldest_date(&folder.join("cursor_v2"))? {
        // The event handler exports day by day, and keeps the days that are not finished.
        Some(date) => date.to_zoned(TimeZone::UTC).map_or(Timestamp::UNIX_EPOCH, |day| day.timestamp()),
        None => match time_in(&folder.join("window_time"))? {
            Some(time) => time,
            None => time_in(&folder.join("start_time"))?.ok_or_else(|| ImportError::NoPlace(folder.clone()))?,
        },
    };
    Ok(time.saturating_sub(SignedDuration::from_nanos(1)).unwrap_or(time))
}

/// Finds the folder of the cluster: the storage folder itself, or the only folder in it that holds progress.
fn folder(storage: &Path) -> Result<PathBuf, ImportError> {
    let holds =
        |folder: &Path| ["window_time", "start_time", "cursor_v2"].iter().any(|name| folder.join(name).exists());
    if holds(storage) {
        return Ok(storage.to_owned());
    }
    let unreadable = |cause| ImportError::Unreadable { path: storage.to_owned(), cause };
    let mut found = Vec::new();
    for entry in fs::read_dir(storage).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if holds(&path) {
            found.push(path);
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(folder), true) => Ok(folder),
        (Some(_), false) => Err(ImportError::SeveralPlaces(storage.to_owned())),
        (None, _) => Err(ImportError::NoPlace(storage.to_owned())),
    }
}

fn oldest_date(cursor: &Path) -> Result<Option<Date>, ImportError> {
    let unreadable = |cause| ImportError::Unreadable { path: cursor.to_owned(), cause };
    let entries = match fs::read_dir(cursor) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(unreadable(cause)),
    };
    let mut oldest = None;
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        let date: Option<Date> = name.to_str().and_then(|name| name.get(..10)).and_then(|name| name.parse().ok());
        oldest = match (oldest, date) {
            (Some(oldest), Some(date)) => Some(std::cmp::min::<Date>(oldest, date)),
            (oldest, date) => oldest.or(date),
        };
    }
    Ok(oldest)
}

fn time_in(file: &Path) -> Result<Option<Timestamp>, ImportError> {
    match fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => {
            let time = text.trim().trim_matches('"').parse();
            time.map(Some).map_err(|_| ImportError::NoTime(file.to_owned()))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(ImportError::Unreadable { path: file.to_owned(), cause }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESTINATION: &[(&str, Option<&str>)] = &[("there-url", Some("THERE_URL")), ("there-connections", None)];

    fn lines(text: &str) -> Vec<(&'static str, String)> {
        read(text, DESTINATION, None).unwrap().lines
    }

    #[test]
    fn a_setting_is_known_by_table_dot_or_dash() {
        for text in [
            "[teleport]\naddr = 'h:443'\nidentity = '/id'",
            "teleport-addr = 'h:443'\nteleport-identity = '/id'",
            "teleport.addr = 'h:443'\nteleport.identity = '/id'",
            "\"teleport.addr\" = 'h:443'\n[teleport]\nidentity = '/id'",
        ] {
            let lines = lines(text);
            assert!(lines.contains(&(ADDRESS.spec.name, "h:443".to_owned())), "{text}: {lines:?}");
            assert!(lines.contains(&(IDENTITY.spec.name, "/id".to_owned())), "{text}: {lines:?}");
        }
        assert!(lines("[forward.there]\nurl = 'x'").contains(&("THERE_URL", "x".to_owned())));
    }

    #[test]
    fn values_of_each_kind_become_text_and_empty_ones_nothing() {
        let lines = lines(
            "types = ['a', 'b']\nskip-event-types = ''\nwindow-size = '24h0m0s'\nstart-time = 2026-03-01T12:00:00Z\ndebug = false\n\
             exit-on-last-event = true\ntimeout = '10s'",
        );
        let expected = [
            ("TELEPORT_AUDIT_ADDRESS", "localhost:3025"),
            ("AUDITSYNC_SYNC_LOOP", "false"),
            ("TELEPORT_AUDIT_START", "2026-03-01T12:00:00Z"),
            ("AUDITSYNC_SYNC_INTERVAL", "10s"),
            ("TELEPORT_AUDIT_TYPES", "a,b"),
            ("TELEPORT_AUDIT_WINDOW", "1day"),
            ("TELEPORT_AUDIT_SESSIONS", "true"),
        ];
        let mut sorted: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut expected = expected.to_vec();
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn a_value_that_auditsync_refuses_is_corrected_or_named() {
        for (text, line, noted) in [
            (
                "window-size = '720h'",
                ("TELEPORT_AUDIT_WINDOW", "7days"),
                "window-size is 720h, but TELEPORT_AUDIT_WINDOW",
            ),
            ("window-size = '90500ms'", ("TELEPORT_AUDIT_WINDOW", "1m 30s"), "in whole seconds; it is set to 1m 30s"),
            ("timeout = '500ms'", ("AUDITSYNC_SYNC_INTERVAL", "5s"), "from 5s to 7d; it is set to 5s"),
            (
                "[teleport]\naddr = 'h'",
                ("TELEPORT_AUDIT_ADDRESS", "h"),
                "TELEPORT_AUDIT_ADDRESS=\"h\" must be a host and a port",
            ),
            ("types = 'session.*'", ("TELEPORT_AUDIT_TYPES", "session.*"), "without wildcards; correct it"),
            ("start-time = 2026-03-01", ("TELEPORT_AUDIT_START", "2026-03-01"), "must be a time in RFC 3339"),
        ] {
            let Imported { lines, notes, .. } = read(text, DESTINATION, None).unwrap();
            assert!(lines.contains(&(line.0, line.1.to_owned())), "{text}: {lines:?}");
            assert!(notes.len() == 1 && notes[0].contains(noted), "{text}: {notes:?}");
        }
        assert!(matches!(read("timeout = '99999999999h'", DESTINATION, None), Err(ImportError::Unfit { .. })));
    }

    #[test]
    fn every_setting_has_a_fate_and_an_unknown_one_is_named() {
        let all: Vec<_> = SETTINGS.iter().map(|(name, _)| format!("{name} = '1s'\n")).collect();
        let imported = read(&all.concat(), DESTINATION, None).unwrap();
        let without = SETTINGS.iter().filter(|(_, fate)| matches!(fate, Fate::None(_))).count();
        let counted = imported.notes.iter().filter(|note| note.contains("has no counterpart")).count();
        assert_eq!(counted, without);
        let notes = read("typo-key = 1\n[lock]\nenabled = true", DESTINATION, None).unwrap().notes;
        assert!(notes[0].contains("lock-enabled has no counterpart") || notes[1].contains("lock-enabled"), "{notes:?}");
        let of_there = read("[forward.there]\nconnections = 3", DESTINATION, None).unwrap().notes;
        assert!(of_there[0].contains("there-connections has no counterpart"), "{of_there:?}");
        assert!(notes.iter().any(|note| note.contains("typo-key\" is not a known setting")), "{notes:?}");
        assert!(matches!(read("x = ", DESTINATION, None), Err(ImportError::NotToml(_))));
        assert!(matches!(read("window-size = 'x'", DESTINATION, None), Err(ImportError::Unfit { .. })));
    }

    #[test]
    fn the_place_is_the_oldest_unfinished_day_else_the_window_else_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("h_443");
        assert!(matches!(place(folder.path()), Err(ImportError::NoPlace(_))));
        fs::create_dir(&inner).unwrap();
        let shown = |storage: &Path| (place(storage).unwrap() + SignedDuration::from_nanos(1)).to_string();
        fs::write(inner.join("start_time"), "2026-03-01T00:00:00Z").unwrap();
        assert_eq!(shown(folder.path()), "2026-03-01T00:00:00Z");
        fs::write(inner.join("window_time"), "2026-03-05T10:00:00Z\n").unwrap();
        assert_eq!(shown(&inner), "2026-03-05T10:00:00Z");
        for date in ["2026-03-08", "2026-03-07", "2026-03-09"] {
            fs::create_dir_all(inner.join("cursor_v2").join(date)).unwrap();
        }
        assert_eq!(shown(folder.path()), "2026-03-07T00:00:00Z");
        fs::create_dir_all(folder.path().join("other_443/cursor_v2")).unwrap();
        assert!(matches!(place(folder.path()), Err(ImportError::SeveralPlaces(_))));
        fs::remove_dir_all(inner.join("cursor_v2")).unwrap();
        fs::write(inner.join("window_time"), "yesterday").unwrap();
        assert!(matches!(place(&inner), Err(ImportError::NoTime(_))));
    }

    #[test]
    fn a_session_that_the_event_handler_had_not_finished_goes_on_from_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
        write("window_time", b"2026-03-05T10:00:00Z");
        write("sessiona", &7_u64.to_be_bytes());
        write("sessionb", b"");
        write("sessionc", b"??");
        write("session", b"");
        write("missing_recordingd", br#"{"Index":3,"Attempt":2,"Timestamp":"2026-03-05T09:00:00Z"}"#);
        let before = Timestamp::now();
        let imported = read("", DESTINATION, Some(folder.path())).unwrap();
        let progress: Progress = imported.cursor.unwrap().decode().unwrap();
        let mut expected = Progress::behind(progress.log.since);
        for (index, id) in [(7, "a"), (0, "b"), (0, "c"), (3, "d")] {
            expected.sessions.add_at(index, id.to_owned(), progress.sessions.oldest().unwrap());
        }
        assert!(progress.sessions.oldest().unwrap() >= before);
        assert_eq!(progress.sessions.len(), 4);
        assert_eq!(serde_json::to_string(&progress).unwrap().matches("\"at\":3").count(), 1);
        for (id, rest) in [("a", "its event 7"), ("b", "its event 0"), ("c", "is unreadable"), ("d", "its event 3")] {
            let named = format!("the recorded session \"{id}\"");
            assert!(
                imported.notes.iter().any(|note| note.contains(&named) && note.contains(rest)),
                "{:?}",
                imported.notes
            );
        }
        assert_eq!(progress, Progress { log: progress.log.clone(), ..expected });
    }
}
