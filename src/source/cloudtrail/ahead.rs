//! Fetches files before they are needed: several at a time, in bounded memory.
//!
//! A large file is not among them; it is streamed when its turn comes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio_util::task::AbortOnDropHandle;

use super::bucket::Buckets;
use super::error::Error;
use crate::task;

/// The most files at a time.
const MOST: usize = 16;

/// The most bytes of these files, as stored.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// The most bytes of a file that is not large.
const LARGEST: u64 = 2 * 1024 * 1024;

/// A file of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) bucket: Arc<str>,
    pub(super) key: String,
    /// Its size as stored, in bytes; 0 if unknown.
    pub(super) size: u64,
}

/// A file that was fetched.
pub(super) enum Fetched {
    /// All of it.
    Whole {
        bytes: Bytes,
        /// Its `LastModified`, by the bucket's clock.
        modified: Option<Timestamp>,
    },
    /// It is larger than it was known to be.
    Large,
}

struct Fetching {
    wanted: Wanted,
    task: AbortOnDropHandle<Result<Fetched, Error>>,
}

/// The files under way.
#[derive(Default)]
pub(super) struct Ahead {
    files: VecDeque<Fetching>,
    bytes: u64,
}

impl Ahead {
    /// Whether another file may be fetched.
    pub(super) fn has_room(&self) -> bool {
        self.files.len() < MOST && self.bytes < MOST_BYTES
    }

    /// Begins to fetch a file, unless it is large.
    pub(super) fn fetch(&mut self, buckets: &Arc<Buckets>, wanted: Wanted) {
        if wanted.size > LARGEST {
            return;
        }
        self.bytes += wanted.size;
        let (buckets, file) = (Arc::clone(buckets), wanted.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move { whole(&buckets, &file).await }));
        self.files.push_back(Fetching { wanted, task });
    }

    /// Drops a file that is not needed any more.
    pub(super) fn forget(&mut self, wanted: &Wanted) {
        if let Some(at) = self.position(wanted)
            && let Some(file) = self.files.remove(at)
        {
            self.bytes -= file.wanted.size;
        }
    }

    fn position(&self, wanted: &Wanted) -> Option<usize> {
        let is_it = |file: &Fetching| file.wanted.key == wanted.key && file.wanted.bucket == wanted.bucket;
        self.files.iter().position(is_it)
    }

    /// Takes a file that was or is being fetched; none if it is not among them. The call may be dropped at any time.
    pub(super) async fn take(&mut self, wanted: &Wanted) -> Option<Result<Fetched, Error>> {
        let at = self.position(wanted)?;
        // It stays in the list until it is complete, in case the call is dropped.
        let ended = (&mut self.files.get_mut(at)?.task).await;
        let file = self.files.remove(at)?;
        self.bytes -= file.wanted.size;
        Some(task::outcome(ended).unwrap_or_else(|cancelled| Err(Error::Interrupted(cancelled))))
    }
}

async fn whole(buckets: &Arc<Buckets>, wanted: &Wanted) -> Result<Fetched, Error> {
    let mut body = buckets.open(&wanted.bucket, &wanted.key, None).await?;
    let mut whole = BytesMut::with_capacity(usize::try_from(wanted.size).unwrap_or_default());
    while let Some(piece) = body.next().await? {
        whole.extend_from_slice(&piece);
        if whole.len() as u64 > LARGEST {
            return Ok(Fetched::Large);
        }
    }
    Ok(Fetched::Whole { bytes: whole.freeze(), modified: body.modified })
}
