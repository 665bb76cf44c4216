//! Records that the intake did not take, or not whole: kept in a file, or logged whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::destination::Error;
use crate::event::{Event, Field};
use crate::http::{Excerpt, Redaction};
use crate::telemetry;

/// Why a record is kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The intake refused it in every form.
    Rejected,
    /// The intake has the beginning of it.
    Truncated,
}

/// A line of the file: one JSON object.
#[derive(Serialize)]
struct Line<'a> {
    kept_at: Timestamp,
    fate: Fate,
    reason: &'a str,
    id: Option<&'a str>,
    record: &'a RawValue,
}

/// Where they are kept.
#[derive(Debug, Clone)]
pub struct Rejected {
    path: Option<PathBuf>,
}

impl Rejected {
    /// Keeps records in the file at `path`, one JSON object a line; without a path they are logged whole.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path }
    }

    /// Where they are kept, in words.
    pub fn place(&self) -> String {
        self.path.as_ref().map_or_else(|| "auditsync's own log".to_owned(), |path| path.display().to_string())
    }

    /// Keeps `event`. When this returns `Ok` it is on the disk, or written to the log where there is no file. A file that cannot be
    /// written is an error: the log is not a substitute for the place that the operator looks in.
    pub async fn keep(&self, event: &Event, fate: Fate, reason: &str, now: Timestamp) -> Result<(), Error> {
        let id = event.text(Field::Id);
        let line = line(event, fate, reason, id.as_deref(), now);
        // In the log an id is foreign text like any other.
        let id = id.map(|id| tracing::field::display(Excerpt::of(id.as_bytes(), &Redaction::none())));
        let what = match fate {
            Fate::Rejected => "the intake refused a record",
            Fate::Truncated => "a record is too large for the intake, which has its beginning",
        };
        let unkept = |cause| Error::Unkept { place: self.place(), cause };
        let Some(path) = self.path.clone() else {
            let failed = telemetry::failed_writes();
            tracing::error!(id, reason, record = line, "{what}");
            if telemetry::failed_writes() == failed {
                return Ok(());
            }
            return Err(unkept(io::Error::other("standard error cannot be written")));
        };
        let written = tokio::task::spawn_blocking(move || append(&path, line.into_bytes())).await;
        written.map_err(io::Error::other).flatten().map_err(unkept)?;
        tracing::error!(id, reason, kept_in = self.place(), "{what}");
        Ok(())
    }
}

fn line(event: &Event, fate: Fate, reason: &str, id: Option<&str>, now: Timestamp) -> String {
    // A line end in a record stands between its tokens, where a blank means the same.
    let raw: Vec<u8> =
        event.raw().iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
    let raw = String::from_utf8_lossy(&raw);
    let line = serde_json::from_str(&raw)
        .and_then(|record| serde_json::to_string(&Line { kept_at: now, fate, reason, id, record }));
    // An event is a JSON value, so this cannot fail; were it no JSON, the bare bytes would still be kept.
    line.unwrap_or_else(|_| raw.into_owned())
}

fn append(path: &Path, mut line: Vec<u8>) -> io::Result<()> {
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
        // The record is tried again: no part of it may stay. Where this fails too, the next line begins after a line end.
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
        tracing::warn!(path = %path.display(), "others could read the file for rejected records; its mode is now 0600");
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::source::sectigo::page;

    fn event(raw: &'static str) -> Event {
        page::records(&Bytes::from_static(raw.as_bytes())).unwrap().remove(0)
    }

    #[tokio::test]
    async fn each_record_is_one_line_with_reason_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rejected.ndjson");
        let rejected = Rejected::new(Some(path.clone()));
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        rejected
            .keep(&event("[{\"id\":1,\r\n\"details\":\"\\n\"}]"), Fate::Rejected, "400: \"no\"", now)
            .await
            .unwrap();
        rejected.keep(&event("[17]"), Fate::Truncated, "", now).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"kept_at\":\"2026-03-01T12:00:00Z\",\"fate\":\"rejected\",\"reason\":\"400: \\\"no\\\"\",\"id\":\"1\",\
             \"record\":{\"id\":1,  \"details\":\"\\n\"}}\n\
             {\"kept_at\":\"2026-03-01T12:00:00Z\",\"fate\":\"truncated\",\"reason\":\"\",\"id\":null,\"record\":17}\n"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_record_after_a_torn_line_begins_a_line_and_the_mode_is_tightened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rejected.ndjson");
        std::fs::write(&path, "torn").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        append(&path, b"{}".to_vec()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "torn\n{}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_or_a_device_in_place_of_the_file_is_refused() {
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
        let path = folder.path().join("missing/rejected.ndjson");
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let kept = Rejected::new(Some(path.clone())).keep(&event("[17]"), Fate::Rejected, "", now).await;
        let message = kept.unwrap_err().to_string();
        assert!(
            message.contains("AUDITSYNC_DEAD_LETTER_PATH") && message.contains(path.to_str().unwrap()),
            "{message}"
        );
    }
}
