//! Records that the intake did not take, or not whole: kept in a file, or logged whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{Event, Field};
use crate::http::{Excerpt, Redaction};

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

    /// Keeps `event`. When this returns it is on the disk, or in the log where there is no file or it cannot be written.
    pub async fn keep(&self, event: &Event, fate: Fate, reason: &str, now: Timestamp) {
        let id = event.text(Field::Id);
        let line = line(event, fate, reason, id.as_deref(), now);
        // In the log an id is foreign text like any other.
        let id = id.map(|id| tracing::field::display(Excerpt::of(id.as_bytes(), &Redaction::none())));
        let what = match fate {
            Fate::Rejected => "the intake refused a record",
            Fate::Truncated => "a record is too large for the intake, which has its beginning",
        };
        let Some(path) = self.path.clone() else {
            tracing::error!(id, reason, record = line, "{what}");
            return;
        };
        let shown = path.display().to_string();
        let bytes = line.clone().into_bytes();
        let written = tokio::task::spawn_blocking(move || append(&path, bytes)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => tracing::error!(id, reason, kept_in = shown, "{what}"),
            Err(error) => {
                tracing::error!(%error, path = shown, "the file for rejected records (…_DEAD_LETTER_PATH) cannot be written");
                tracing::error!(id, reason, record = line, "{what}");
            }
        }
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
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()?;
    match path.parent().filter(|_| is_new) {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
        rejected.keep(&event("[{\"id\":1,\r\n\"details\":\"\\n\"}]"), Fate::Rejected, "400: \"no\"", now).await;
        rejected.keep(&event("[17]"), Fate::Truncated, "", now).await;
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"kept_at\":\"2026-03-01T12:00:00Z\",\"fate\":\"rejected\",\"reason\":\"400: \\\"no\\\"\",\"id\":\"1\",\
             \"record\":{\"id\":1,  \"details\":\"\\n\"}}\n\
             {\"kept_at\":\"2026-03-01T12:00:00Z\",\"fate\":\"truncated\",\"reason\":\"\",\"id\":null,\"record\":17}\n"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
