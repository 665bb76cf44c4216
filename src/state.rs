//! Where a synchronisation remembers how far it got.
//!
//! A store keeps one small [`Document`] and replaces it only if it is still the one that was read: every save names the
//! [`Version`] that it replaces. What the document says is read and written here, in one place for all stores.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::Class;
use crate::source::Cursor;
use lease::Lease;

#[cfg(feature = "gcs")]
pub mod gcs;
pub mod lease;
pub mod localfs;
pub mod memory;
pub mod readonly;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "s3")]
pub mod s3;
pub(crate) mod variables;

/// What a client of a store said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The layout of the document that this version writes, and the only one that it reads.
const LAYOUT: u32 = 1;

/// A store that contradicts itself this often in a row has a fault.
const CONTRADICTIONS: u32 = 3;

/// What is remembered: under 1 kB beside the cursor, and never a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Layout of the document.
    version: u32,
    /// Which source's cursor this is.
    pub source: String,
    /// How far delivery got.
    pub cursor: Cursor,
    /// Who works on it, on stores that several machines share.
    pub lease: Option<Lease>,
    /// Which save wrote this document.
    pub nonce: Nonce,
    /// Whether its writer had found no document and has not been at work for long: who knows of one before it may overrule it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// When it was written, by the writer's clock; for people, no decision depends on it.
    pub updated_at: Timestamp,
}

/// Marks one save: the process that made it and how many it had made.
///
/// After a save without an answer, the nonce that is read back tells whether it had gone through; an older nonce of the same
/// process tells that a store went back in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Nonce {
    writer: u64,
    save: u64,
}

impl Nonce {
    /// The first nonce of a new writer, different from every other writer's.
    pub fn of_new_writer() -> Self {
        // The standard library seeds its hashers from the system's source of randomness.
        Self { writer: RandomState::new().build_hasher().finish(), save: 0 }
    }

    /// The nonce of this writer's next save.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { writer: self.writer, save: self.save.saturating_add(1) }
    }

    /// Whether the same process wrote both.
    pub fn is_of_the_writer_of(&self, other: &Self) -> bool {
        self.writer == other.writer
    }

    /// Whether the same process wrote this one, no later than `other`.
    pub fn is_no_newer_than(&self, other: &Self) -> bool {
        self.writer == other.writer && self.save <= other.save
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        format!("{:016x}-{}", nonce.writer, nonce.save)
    }
}

impl TryFrom<String> for Nonce {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let parse = || {
            let (writer, save) = text.split_once('-')?;
            Some(Self { writer: u64::from_str_radix(writer, 16).ok()?, save: save.parse().ok()? })
        };
        parse().ok_or("a nonce is sixteen hexadecimal digits, a dash and a number")
    }
}

impl State {
    /// A state to be saved for the first time or in place of another.
    pub fn new(source: &str, cursor: Cursor, nonce: Nonce, updated_at: Timestamp) -> Self {
        Self { version: LAYOUT, source: source.to_owned(), cursor, lease: None, nonce, first: false, updated_at }
    }
}

/// The bytes that a store keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Vec<u8>);

impl Document {
    /// What a store holds, as yet unread.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// `state` as a store keeps it: JSON on one line, since a store's room and time go by bytes.
    pub fn of(state: &State) -> Result<Self, Error> {
        let mut bytes = serde_json::to_vec(state).map_err(Error::Unwritable)?;
        bytes.push(b'\n');
        Ok(Self(bytes))
    }

    /// The bytes to keep.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the document says; `place` is named when it cannot be understood.
    pub fn read(&self, place: &str) -> Result<State, Error> {
        #[derive(Deserialize)]
        struct Layout {
            version: u32,
        }
        let corrupt = |cause| Error::Corrupt { place: place.to_owned(), cause };
        let Layout { version } = serde_json::from_slice(&self.0).map_err(corrupt)?;
        if version != LAYOUT {
            return Err(Error::OtherLayout { place: place.to_owned(), version });
        }
        serde_json::from_slice(&self.0).map_err(corrupt)
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.0.len())
    }
}

/// Which document a store holds, in the store's own terms (a hash, an entity tag, a generation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// Whether this process may work on the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It may, until it ends.
    Granted,
    /// Another process on this machine does.
    Busy {
        /// Who, as far as it is known.
        holder: String,
    },
    /// The store cannot tell: machines share it, and the [`Lease`] in the document says who may.
    ByLease,
}

/// What a store found out about its own setup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caution {
    /// The setup can break a promise: how, and what the operator can do.
    Risk(String),
    /// The setup could not be seen: what is missing.
    Unknown(String),
}

/// A place that keeps one document.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Where the document is, for messages: a path or an address without credentials.
    fn place(&self) -> String;

    /// Asks to be the only one who works on the document, for as long as the process lives.
    async fn claim(&self) -> Result<Claim, Error>;

    /// Makes sure that what [`Self::claim`] granted still holds, before a delivery. [`Error::Busy`] if another process holds it now.
    async fn confirm(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The document, if there is one.
    async fn load(&self) -> Result<Option<(Document, Version)>, Error>;

    /// Replaces the document that has the `expected` version (none: there must be no document) and gives the new
    /// version; [`Error::Conflict`] if the store holds another.
    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error>;

    /// Proves that the store can be written to and heeds the version that a save names, without changing the document.
    async fn probe(&self) -> Result<(), Error>;

    /// What an operator should know of how the store is set up; empty where nothing is amiss. It changes nothing.
    async fn cautions(&self) -> Vec<Caution> {
        Vec::new()
    }

    /// The least time between two saves that the store bears. The engine delivers on in between.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}

impl Error {
    /// What the error means to the engine.
    pub fn class(&self) -> Class {
        match self {
            Self::Io { .. } | Self::Unavailable { .. } | Self::Busy { .. } => Class::Retryable { after: None },
            // Once or twice may be a race that somebody else undid.
            Self::Contradiction { times, .. } if *times < CONTRADICTIONS => Class::Retryable { after: None },
            Self::Contradiction { .. } => Class::Refused,
            Self::Refused { .. } => Class::CredentialsRefused,
            Self::Conflict { .. }
            | Self::Corrupt { .. }
            | Self::OtherLayout { .. }
            | Self::OtherSource { .. }
            | Self::NoLocks { .. }
            | Self::Unconditional { .. }
            | Self::Unwritable(_) => Class::Fatal,
        }
    }
}

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not do what it was asked.
    #[error("cannot {action} the state at {place}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Where the document is.
        place: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A store on the network did not answer as it should: it is down, slow, overloaded, or not yet ready.
    #[error("cannot {action} the state at {place}")]
    Unavailable {
        /// What was attempted.
        action: &'static str,
        /// Where the document is.
        place: String,
        /// What was found.
        #[source]
        cause: Cause,
    },
    /// The store does not let us: wrong credentials, or a permission that is missing.
    #[error("not allowed to {action} the state at {place}; {remedy}")]
    Refused {
        /// What was attempted.
        action: &'static str,
        /// Where the document is.
        place: String,
        /// What the operator has to grant or correct.
        remedy: String,
        /// What the store said.
        #[source]
        cause: Cause,
    },
    /// The store writes whatever it is asked, so two instances could move the cursor against each other.
    #[error("the store at {place} does not heed conditional writes ({finding}); {remedy}")]
    Unconditional {
        /// Where the document is.
        place: String,
        /// What was asked, and what it did.
        finding: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// The store holds another document than the one to be replaced.
    #[error(
        "the state at {place} was changed by someone else and is left as it is; see it with `auditsync state show`, and start \
         again to go on from it"
    )]
    Conflict {
        /// Where the document is.
        place: String,
        /// What the store said, where it said anything.
        #[source]
        cause: Option<Cause>,
    },
    /// The store refuses a save as a conflict, and holds the very document (or none) that the save named.
    #[error(
        "the store at {place} refuses to write the state because it changed, although it did not change (seen {times} times in a row); \
         correct the store, or what stands before it, as its answer says"
    )]
    Contradiction {
        /// Where the document is.
        place: String,
        /// How often that was seen in a row, at least 1.
        times: u32,
        /// What the store said, where it said anything.
        #[source]
        cause: Option<Cause>,
    },
    /// The document is not a state.
    #[error(
        "the state at {place} cannot be read and is left as it is; put back a copy, or see it with `auditsync state show` and replace it with \
         `auditsync state set --since <time>`"
    )]
    Corrupt {
        /// Where the document is.
        place: String,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
    /// The document was written by another version of this program.
    #[error(
        "the state at {place} has layout {version}, and this version of auditsync knows layout {LAYOUT} alone; run the version that wrote it"
    )]
    OtherLayout {
        /// Where the document is.
        place: String,
        /// Its layout.
        version: u32,
    },
    /// The document belongs to another source.
    #[error(
        "the state at {place} belongs to the source {found:?}, not to {expected:?}; give each source a place of its own"
    )]
    OtherSource {
        /// Where the document is.
        place: String,
        /// The source that it names.
        found: String,
        /// The source that runs.
        expected: &'static str,
    },
    /// The file system has no locks, so two processes could not be told apart.
    #[error(
        "the file system at {place} does not lock files, so a second instance could not be kept out; put the state on a local disk"
    )]
    NoLocks {
        /// Where the lock file is.
        place: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Another process works on it.
    #[error("the state at {place} is in use by {holder}")]
    Busy {
        /// Where the document is.
        place: String,
        /// Who uses it.
        holder: String,
    },
    /// The state cannot be put into words.
    #[error("the state cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
}
