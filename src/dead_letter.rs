//! Dead letters: records that a destination refuses or takes only in part, and records that a source cannot deliver or that auditsync
//! cannot read. A file keeps them. Without a file they are logged whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::config::{Preset, Scope, Spec, Variable, parse};
use crate::event::{Event, Field};
use crate::http::{Excerpt, Redaction};
use crate::pipeline_name::PipelineName;
use crate::screen::redaction::Redaction as Redacted;
use crate::telemetry;
use crate::variable_name::VariableName;

/// The file for dead letters.
pub(crate) const PATH: Variable<PathBuf> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_DEAD_LETTER_PATH",
    Preset::Derived("in the state's folder"),
    |text, _| file_path(text),
    "File for dead letters: records that the destination refuses. Without a file or a folder they are logged whole.",
);

/// Every variable of dead letters, for the tables.
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
    /// The destination has only the beginning of it.
    Truncated,
    /// The source has it in a form that auditsync cannot read.
    Unreadable,
    /// The source announced it, but cannot deliver it.
    Missing,
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
    "a dead letter cannot be written to {location}; the cursor stays, and auditsync retries the delivery; free disk space, correct the permissions, \
     or set {variable} to a file that can be written"
)]
pub struct Unwritten {
    location: String,
    variable: VariableName,
    #[source]
    cause: io::Error,
}

/// Keeps the dead letters of a pipeline. Pipelines may share a file, since each line names its pipeline.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    pipeline: PipelineName,
    path: Option<PathBuf>,
    variable: VariableName,
    redacted: Option<Redacted>,
    kept: Arc<AtomicU64>,
}

impl DeadLetters {
    /// Keeps the dead letters of `pipeline` in the file at `path`, which `variable` sets. Without a path they are logged whole.
    pub fn new(pipeline: PipelineName, path: Option<PathBuf>, variable: VariableName) -> Self {
        Self { pipeline, path, variable, redacted: None, kept: Arc::default() }
    }

    /// Redacts the records that are kept from now on.
    #[must_use]
    pub fn redacting(self, redacted: Option<Redacted>) -> Self {
        Self { redacted, ..self }
    }

    /// Drops the file, so that dead letters are logged whole.
    #[must_use]
    pub(crate) fn only_logged(self) -> Self {
        Self { path: None, ..self }
    }

    /// Whether values of records are redacted.
    pub(crate) fn is_redacting(&self) -> bool {
        self.redacted.is_some()
    }

    /// How many dead letters were kept since the start.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// The location of the dead letters, for messages.
    pub fn location(&self) -> String {
        self.path.as_ref().map_or_else(|| "auditsync's own log".to_owned(), |path| path.display().to_string())
    }

    /// Keeps `event`. After `Ok` it is on the disk, or in the log if there is no file. A file that cannot be written is an error, since the
    /// operator looks for dead letters there and not in the log.
    pub async fn keep(&self, event: &Event, fate: Fate, reason: &str, now: Timestamp) -> Result<(), Unwritten> {
        let redacted = self.redacted.as_ref().map(|redacted| match fate {
            Fate::Unreadable => redacted.of_unreadable(event.clone()),
            _ => redacted.of(event.clone()),
        });
        let event = redacted.as_ref().unwrap_or(event);
        let id = event.text(Field::Id);
        let line = self.line(event, fate, reason, id.as_deref(), now);
        // The log shows an id as it shows any foreign text.
        let id = id.map(|id| tracing::field::display(Excerpt::of(id.as_bytes(), &Redaction::none())));
        let what = match fate {
            Fate::Refused => "the destination refused a record; it is a dead letter",
            Fate::Missing => "the source cannot deliver what it announced; the announcement is a dead letter",
            Fate::Truncated => {
                "a record is too large for the destination, which has its beginning; the whole record is a dead letter"
            }
            Fate::Unreadable => "auditsync cannot read a part of the source; a dead letter says which part, and why",
        };
        let Some(path) = self.path.clone() else {
            let failed = telemetry::failed_writes();
            tracing::error!(id, reason, record = line, "{what}");
            if telemetry::failed_writes() == failed {
                self.kept.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            return Err(self.unwritten(io::Error::other("cannot write to standard error")));
        };
        let written = tokio::task::spawn_blocking(move || append(&path, line.into_bytes())).await;
        written.map_err(io::Error::other).flatten().map_err(|cause| self.unwritten(cause))?;
        self.kept.fetch_add(1, Ordering::Relaxed);
        tracing::error!(id, reason, kept_in = self.location(), "{what}");
        Ok(())
    }

    /// The error that a dead letter could not be written.
    pub(crate) fn unwritten(&self, cause: io::Error) -> Unwritten {
        Unwritten { location: self.location(), variable: self.variable.clone(), cause }
    }

    fn line(&self, event: &Event, fate: Fate, reason: &str, id: Option<&str>, now: Timestamp) -> String {
        // A line end in a record is always between two tokens, where a blank means the same.
        let raw: Vec<u8> =
            event.raw().iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
        let raw = String::from_utf8_lossy(&raw);
        let pipeline = &self.pipeline;
        let line = serde_json::from_str(&raw)
            .and_then(|record| serde_json::to_string(&Line { kept_at: now, pipeline, fate, reason, id, record }));
        // An event is a JSON value, so this cannot fail. If it did, the bare bytes would still be kept.
        line.unwrap_or_else(|_| raw.into_owned())
    }
}

fn append(path: &Path, line: Vec<u8>) -> io::Result<()> {
    append_by(path, line, |file, line| file.write_all(line).and_then(|()| file.sync_data()), sync_folder)
}

/// Appends `line` with `write`. If it is the first line, makes the file's entry in its folder durable with `sync_folder`.
fn append_by(
    path: &Path,
    mut line: Vec<u8>,
    write: impl FnOnce(&mut File, &[u8]) -> io::Result<()>,
    sync_folder: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = open(path)?;
    // A failed write is undone by truncating the file to its earlier length. Meanwhile no other pipeline may append a line, in this
    // process or another one.
    file.lock()?;
    let before = file.metadata()?.len();
    if before > 0 {
        // A line torn by an earlier crash stays for the operator to read, and the record begins a line of its own.
        let mut last = [0];
        file.read_exact_at(&mut last, before - 1)?;
        if last != *b"\n" {
            line.insert(0, b'\n');
        }
    }
    line.push(b'\n');
    // Only a line proves that the entry is durable. An empty file may come from a write that failed.
    let written = write(&mut file, &line).and_then(|()| if before == 0 { sync_folder(path) } else { Ok(()) });
    if let Err(error) = written {
        // The engine retries the record, so remove the written part. If that fails too, the next record begins a new line.
        let _ = file.set_len(before);
        return Err(error);
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Opens a regular file that only its owner can read. It follows no symbolic link, since someone who can place a link there must not
/// choose its target.
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
    use std::fs::TryLockError;

    use bytes::Bytes;

    use super::*;
    use crate::event::Fields;
    use crate::screen::redaction::Pointer;
    use crate::secret::Secret;

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

    #[tokio::test]
    async fn what_may_not_leave_is_not_in_a_dead_letter_either() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        let pointer = Pointer::parse("/mail").unwrap();
        let salt = Secret::from_value("SALT", "0123456789abcdef".to_owned().into());
        let letters = letters(path.clone()).redacting(Some(Redacted::new(vec![pointer], salt)));
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        letters.keep(&event(r#"{"id":1,"mail":"ann@example.org"}"#), Fate::Refused, "no", now).await.unwrap();
        letters
            .keep(&event(r#"{"id":1,"text":"{\"mail\":\"ann@example.org"}"#), Fate::Unreadable, "no", now)
            .await
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 2 && text.matches("sha256:").count() == 2 && !text.contains("ann@"), "{text}");
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
    fn a_failed_write_is_undone_while_no_other_process_can_append() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        append(&path, b"{}".to_vec()).unwrap();
        let full = |file: &mut File, line: &[u8]| {
            file.write_all(&line[..3])?;
            // Another opening of the file is as far from this one as another process is.
            let other = open(&path)?.try_lock();
            assert!(matches!(other, Err(TryLockError::WouldBlock)), "{other:?}");
            Err(io::Error::other("the disk is full"))
        };
        let failed = append_by(&path, b"[1, 2]".to_vec(), full, sync_folder);
        assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n");
        open(&path).unwrap().try_lock().expect("the lock ends with the write");
    }

    #[test]
    fn the_first_line_is_only_kept_together_with_the_entry_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        let fails = || Err(io::Error::other("the disk is full"));
        let write = |file: &mut File, line: &[u8]| file.write_all(line);
        append_by(&path, b"{}".to_vec(), |_, _| fails(), |_| panic!("there is no line")).unwrap_err();
        append_by(&path, b"{}".to_vec(), write, |_| fails()).unwrap_err();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "", "the engine writes it again");
        let mut synced = 0;
        for _ in 0..2 {
            append_by(&path, b"{}".to_vec(), write, |path| {
                synced += 1;
                sync_folder(path)
            })
            .unwrap();
        }
        assert_eq!((synced, std::fs::read_to_string(&path).unwrap()), (1, "{}\n{}\n".to_owned()));
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
