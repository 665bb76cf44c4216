//! The contents of a bucket's cursor: which log files are delivered, and which digest files are verified.

use serde::Deserialize;

use super::cursor::Progress;
use super::digest::state::Verified;
use super::error::Error;
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
    /// The whole cursor of the listing, in the cursor of a queue.
    #[serde(default)]
    sweep: Option<Cursor>,
}

impl Known {
    /// Reads a cursor of a listing or of a queue.
    pub(super) fn of(cursor: &Cursor) -> Result<Self, Error> {
        let Beside { verified, sweep } = cursor.decode().map_err(Error::Cursor)?;
        if let Some(sweep) = sweep {
            return Self::of(&sweep);
        }
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
