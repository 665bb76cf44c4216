//! The contents of a bucket's cursor: which log files are delivered, and which digest files are verified.

use serde::Deserialize;

use super::cursor::Progress;
use super::digest::state::Verified;
use super::error::Error;
use super::key::Class;
use super::queue::QueueCursor;
use crate::source::Cursor;

/// The contents of a cursor.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) progress: Progress,
    /// How far digest files are verified; none if they are not verified.
    pub(super) verified: Option<Verified>,
}

/// The other members of a cursor, beside the [`Progress`].
#[derive(Deserialize)]
struct Beside {
    #[serde(default)]
    verified: Option<Verified>,
}

impl Known {
    /// Reads a cursor of a listing or of a queue.
    pub(super) fn of(cursor: &Cursor) -> Result<Self, Error> {
        match cursor.decode() {
            Ok(QueueCursor { sweep: Some(sweep), .. }) => return Self::of(&sweep),
            // A file that comes after this time may hold records from before it.
            Ok(QueueCursor { reached, .. }) => {
                let since = reached.checked_sub(Class::Regular.reach()).unwrap_or(reached);
                return Ok(Self { progress: Progress::since(since), verified: None });
            }
            Err(_) => {}
        }
        let Beside { verified } = cursor.decode().map_err(Error::Cursor)?;
        Ok(Self { progress: cursor.decode().map_err(Error::Cursor)?, verified })
    }

    /// Writes a cursor of a listing.
    pub(super) fn encode(&self) -> Result<Cursor, Error> {
        let mut cursor = serde_json::to_value(&self.progress).map_err(Error::Cursor)?;
        if let (Some(verified), Some(members)) = (&self.verified, cursor.as_object_mut()) {
            members.insert("verified".to_owned(), serde_json::to_value(verified).map_err(Error::Cursor)?);
        }
        Cursor::encode(&cursor).map_err(Error::Cursor)
    }
}
