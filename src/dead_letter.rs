//! Dead letters: records that a destination does not take, or not whole. They are kept in a file, or logged whole where there is none.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::config::{Preset, Scope, Spec, Variable, parse};
use crate::event::{Event, Field};
use crate::http::{Excerpt, Redaction};
use crate::pipeline_name::PipelineName;
use crate::telemetry;
use crate::variable_name::VariableName;

/// The file for dead letters.
pub(crate) const PATH: Variable<PathBuf> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_DEAD_LETTER_PATH",
    Preset::Derived("in the state's folder"),
    |text, _| file_path(text),
    "File for dead letters: records that the destination refuses. Without a file and a folder they are logged whole.",
);

/// All of them, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&PATH.spec];

fn file_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() || text.ends_with('/') {
        return Err("must be a file, not a folder".to_owned());
    }
    match path.parent() {
        Some(folder) if folder != Path::new("") => parse::existing_folder("its folder", folder)?,
        _ => {}
    }
    Ok(path)
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The destination refused it in every form.
    Refused,
    /// The destination has the beginning of it.
    Truncated,
}

/// A line of the file: one JSON object.
#[derive(Serialize)]
struct Line<'a> {
    kept_at: Timestamp,
    pipeline: &'a PipelineName,
    fate: Fate,
    reason: &'a str,
    id: Option<&'a str>,
    record: &'a RawValue,
}

/// A dead letter could not be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "a dead letter cannot be written to {location}; the cursor stays and the delivery is retried; free disk space, correct the permissions, \
     or set {variable} to a file that can be written"
)]
pub struct Unwritten {
    location: String,
    variable: VariableName,
    #[source]
    cause: io::Error,
}

/// Where the dead letters of a pipeline are kept. Pipelines may share a file: each line names its pipeline.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    pipeline: PipelineName,
    path: Option<PathBuf>,
    variable: VariableName,
}

impl DeadLetters {
    /// Keeps those of `pipeline` in the file at `path`, which `variable` sets; without a path they are logged whole.
    pub fn new(pipeline: PipelineName, path: Option<PathBuf>, variable: VariableName) -> Self {
        Self { pipeline, path, variable }
    }

    /// Where they are kept, for messages.
    pub fn location(&self) -> String {
        self.path.as_ref().map_or_else(|| "auditsync's own log".to_owned(), |path| path.display().to_string())
    }

    /// Keeps `event`. When this returns `Ok`, it is on the disk, or written to the log where there is no file. A file that cannot be written
    /// is an error: the operator looks for dead letters there, not in the log.
    pub async fn keep(&self, event: &Event, fate: Fate, reason: &str, now: Timestamp) -> Result<(), Unwritten> {
        let id = event.text(Field::Id);
        let line = self.line(event, fate, reason, id.as_deref(), now);
        // In the log an id is foreign text like any other.
        let id = id.map(|id| tracing::field::display(Excerpt::of(id.as_bytes(), &Redaction::none())));
        let what = match fate {
            Fate::Refused => "the destination refused a record; it is a dead letter",
            Fate::Truncated => {
                "a record is too large for the destination, which has its beginning; the whole record is a dead letter"
            }
        };
        let Some(path) = self.path.clone() else {
            let failed = telemetry::failed_writes();
            tracing::error!(id, reason, record = line, "{what}");
            if telemetry::failed_writes() == failed {
                return Ok(());
            }
            return Err(self.unwritten(io::Error::other("standard error cannot be written")));
        };
        let written = tokio::task::spawn_blocking(move || append(&path, line.into_bytes())).await;
        written.map_err(io::Error::other).flatten().map_err(|cause| self.unwritten(cause))?;
        tracing::error!(id, reason, kept_in = self.location(), "{what}");
        Ok(())
    }

    fn unwritten(&self, cause: io::Error) -> Unwritten {
        Unwritten { location: self.location(), variable: self.variable.clone(), cause }
    }

    fn line(&self, event: &Event, fate: Fate, reason: &str, id: Option<&str>, now: Timestamp) -> String {
        // A line end in a record stands between its tokens, where a blank means the same.
        let raw: Vec<u8> =
            event.raw().iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
        let raw = String::from_utf8_lossy(&raw);
        let pipeline = &self.pipeline;
        let line = serde_json::from_str(&raw)
            .and_then(|record| serde_json::to_string(&Line { kept_at: now, pipeline, fate, reason, id, record }));
        // An event is a JSON value, so this cannot fail; were it no JSON, the bare bytes would still be kept.
        line.unwrap_or_else(|_| raw.into_owned())
    }
}

/// One line at a time, whichever pipeline it belongs to: a failed write is cut off at the length that the file had before.
static APPENDING: Mutex<()> = Mutex::new(());

fn append(path: &Path, mut line: Vec<u8>) -> io::Result<()> {
    let _alone = APPENDING.lock();
    let is_new = !path.exists();
    let mut file = open(path)?;
    let before = file.metadata()?.len();
    if before > 0 {
        // A torn line of an earlier crash stays, for the operator to read; the record begins a line of its own.
        let mut last = [0];
        file.read_exact_at(&mut last, before - 1)?;
        if last != *b"\n" {
            line.insert(0, b'\n');
        }
    }
    line.push(b'\n');
    if let Err(error) = file.write_all(&line).and_then(|()| file.sync_data()) {
        // The record is retried: no part of it may stay. Where this fails too, the next line begins after a line end.
        let _ = file.set_len(before);
        return Err(error);
    }
    match path.parent().filter(|_| is_new) {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Opens a regular file for its owner alone. A symbolic link is not followed: whoever may place one there must not choose the target.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed());
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::LOOP.raw_os_error() => {
            io::Error::other("it is a symbolic link, which is not followed")
        }
        _ => error,
    })?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if about.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
        tracing::warn!(path = %path.display(), "others could read the file for dead letters; its mode is now 0600");
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::Fields;

    fn event(raw: &'static str) -> Event {
        let mut fields = Fields::default();
        fields.set(Field::Id, 6..7);
        Event::new(Bytes::from_static(raw.as_bytes()), None, fields)
    }

    fn letters(path: PathBuf) -> DeadLetters {
        DeadLetters::new("here:there".into(), Some(path), "AUDITSYNC_DEAD_LETTER_PATH".into())
    }

    #[tokio::test]
    async fn each_record_is_one_line_with_reason_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        let letters = letters(path.clone());
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        letters.keep(&event("{\"id\":1,\r\n\"details\":\"\\n\"}"), Fate::Refused, "400: \"no\"", now).await.unwrap();
        letters.keep(&event("17"), Fate::Truncated, "", now).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"kept_at\":\"2026-03-01T12:00:00Z\",\"pipeline\":\"here:there\",\"fate\":\"refused\",\"reason\":\"400: \\\"no\\\"\",\"id\":\"1\",\
             \"record\":{\"id\":1,  \"details\":\"\\n\"}}\n\
             {\"kept_at\":\"2026-03-01T12:00:00Z\",\"pipeline\":\"here:there\",\"fate\":\"truncated\",\"reason\":\"\",\"id\":null,\"record\":17}\n"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_record_after_a_torn_line_begins_a_line_and_the_mode_is_tightened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        std::fs::write(&path, "torn").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        append(&path, b"{}".to_vec()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "torn\n{}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_or_a_device_instead_of_the_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(append(&link, b"{}".to_vec()).unwrap_err().to_string().contains("symbolic link"));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        assert!(append(Path::new("/dev/null"), b"{}".to_vec()).unwrap_err().to_string().contains("regular file"));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_an_error_that_names_the_variable_and_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/dead-letters.ndjson");
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let kept = letters(path.clone()).keep(&event("17"), Fate::Refused, "", now).await;
        let message = kept.unwrap_err().to_string();
        assert!(
            message.contains("AUDITSYNC_DEAD_LETTER_PATH") && message.contains(path.to_str().unwrap()),
            "{message}"
        );
    }
}
