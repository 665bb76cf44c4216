//! Where a pipeline stores how far it got.
//!
//! A store keeps one small [`Document`] and replaces it only if it is still the one that was read: every save names the
//! [`Version`] that it replaces. What the document says is read and written here, in one place for all stores.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::component::Configured;
use crate::config::{Noted, Reader, Spec};
use crate::destination::Mark;
use crate::failure::Class;
use crate::pipeline_name::PipelineName;
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

/// What a client of a store said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The layout of the document that this version writes, and the only one that it reads.
const LAYOUT: u32 = 1;

/// A store that contradicts itself this often in a row has a fault.
const CONTRADICTIONS: u32 = 3;

/// What is stored: under 1 kB beside cursor and mark, and never a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Layout of the document.
    version: u32,
    /// Which pipeline's cursor this is.
    pub pipeline: PipelineName,
    /// How far delivery got.
    pub cursor: Cursor,
    /// What the destination wants to find beside the cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// Who is active, on stores that several machines share.
    pub lease: Option<Lease>,
    /// Which save wrote this document.
    pub nonce: Nonce,
    /// Whether its writer found no document, not long ago. An instance that knows an earlier document may overrule it.
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
    /// A state to be saved for the first time or instead of another.
    pub fn new(pipeline: PipelineName, cursor: Cursor, nonce: Nonce, updated_at: Timestamp) -> Self {
        Self { version: LAYOUT, pipeline, cursor, mark: None, lease: None, nonce, first: false, updated_at }
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

    /// The state of `pipeline`; an error where it belongs to another one. `location` is named in errors.
    pub fn read_for(&self, pipeline: &PipelineName, location: &str) -> Result<State, Error> {
        let state = self.read(location)?;
        if state.pipeline == *pipeline {
            return Ok(state);
        }
        Err(Error::OtherPipeline { location: location.to_owned(), found: state.pipeline, expected: pipeline.clone() })
    }

    /// What the document says, whichever pipeline it belongs to. `location` is named in errors.
    pub fn read(&self, location: &str) -> Result<State, Error> {
        #[derive(Deserialize)]
        struct Layout {
            version: u32,
        }
        let corrupt = |cause: serde_json::Error| Error::Corrupt { location: location.to_owned(), cause: cause.into() };
        let Layout { version } = serde_json::from_slice(&self.0).map_err(corrupt)?;
        if version != LAYOUT {
            return Err(Error::OtherLayout { location: location.to_owned(), version });
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

/// A store of one document.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Where the document is, for messages: a path or an address without credentials.
    fn location(&self) -> String;

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

    /// Proves that the store can be written to and obeys the version that a save names, without changing the document.
    async fn probe(&self) -> Result<(), Error>;

    /// What an operator should know of how the store is set up; empty where nothing is amiss. It changes nothing.
    async fn cautions(&self) -> Vec<Caution> {
        Vec::new()
    }

    /// The least time between two saves. The engine goes on delivering in between.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}

/// A state store of which every variable was read and is valid.
pub type ConfiguredStore = Configured<dyn StateStore, ()>;

/// A kind of state store, for the registry.
#[derive(Debug)]
pub struct Kind {
    /// Its name in `AUDITSYNC_STORAGE_BACKEND`.
    pub name: &'static str,
    /// Its own variables, in the order of the tables.
    pub variables: &'static [&'static Spec],
    /// Whether the state outlives the process.
    pub is_lasting: bool,
    /// The folder of this machine that holds the state, where one does: dead letters go beside it.
    pub(crate) folder: fn(&mut Reader<'_>) -> Option<PathBuf>,
    /// Reads its variables.
    pub(crate) read: fn(&mut Reader<'_>, &PipelineName) -> Result<ConfiguredStore, Noted>,
}

impl Error {
    /// What the error means to the engine.
    pub fn class(&self) -> Class {
        match self {
            Self::Io { .. } | Self::Unavailable { .. } | Self::Busy { .. } => Class::Retryable { after: None },
            // Once or twice may be a race that somebody else undid.
            Self::Contradiction { times, .. } if *times < CONTRADICTIONS => Class::Retryable { after: None },
            Self::Contradiction { .. } => Class::Refused,
            Self::Refused { .. } => Class::CredentialsRejected,
            Self::Conflict { .. }
            | Self::Corrupt { .. }
            | Self::OtherLayout { .. }
            | Self::OtherPipeline { .. }
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
    #[error("cannot {action} the state at {location}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Where the document is.
        location: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A store on the network did not answer as it should: it is down, slow, overloaded, or not yet ready.
    #[error("cannot {action} the state at {location}")]
    Unavailable {
        /// What was attempted.
        action: &'static str,
        /// Where the document is.
        location: String,
        /// What was found.
        #[source]
        cause: Cause,
    },
    /// The store does not let us: wrong credentials, or a permission that is missing.
    #[error("not allowed to {action} the state at {location}; {remedy}")]
    Refused {
        /// What was attempted.
        action: &'static str,
        /// Where the document is.
        location: String,
        /// What the operator has to grant or correct.
        remedy: String,
        /// What the store said.
        #[source]
        cause: Cause,
    },
    /// The store writes whatever it is asked, so two instances could move the cursor against each other.
    #[error("the store at {location} ignores the condition of conditional writes ({finding}); {remedy}")]
    Unconditional {
        /// Where the document is.
        location: String,
        /// What was asked, and what it did.
        finding: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// The store holds another document than the one to be replaced.
    #[error(
        "the state at {location} was changed by someone else and is left as it is; see it with `auditsync state show`, and start \
         again to go on from it"
    )]
    Conflict {
        /// Where the document is.
        location: String,
        /// What the store said, where it said anything.
        #[source]
        cause: Option<Cause>,
    },
    /// The store refuses a save as a conflict, and holds the very document (or none) that the save named.
    #[error(
        "the store at {location} refuses to write the state because it changed, although it did not change (seen {times} times in a row); \
         correct the store, or what stands before it, as its answer says"
    )]
    Contradiction {
        /// Where the document is.
        location: String,
        /// How often that was seen in a row, at least 1.
        times: u32,
        /// What the store said, where it said anything.
        #[source]
        cause: Option<Cause>,
    },
    /// The document is not a state.
    #[error(
        "the state at {location} cannot be read and is left as it is; put back a copy, or see it with `auditsync state show` and replace it with \
         `auditsync state set --since <time>`"
    )]
    Corrupt {
        /// Where the document is.
        location: String,
        /// What is wrong with it.
        #[source]
        cause: Cause,
    },
    /// The document was written by another version of this program.
    #[error(
        "the state at {location} has layout {version}, and this version of auditsync knows layout {LAYOUT} alone; run the version that wrote it"
    )]
    OtherLayout {
        /// Where the document is.
        location: String,
        /// Its layout.
        version: u32,
    },
    /// The document belongs to another pipeline.
    #[error(
        "the state at {location} belongs to the pipeline {found}, not to {expected}; it is left as it is; give each pipeline a location of \
         its own, or move the state with `auditsync state`"
    )]
    OtherPipeline {
        /// Where the document is.
        location: String,
        /// The pipeline that it names.
        found: PipelineName,
        /// The pipeline that runs.
        expected: PipelineName,
    },
    /// The file system has no locks, so two processes could not be told apart.
    #[error(
        "the file system at {location} does not lock files, so a second instance could not be kept out; put the state on a local disk"
    )]
    NoLocks {
        /// Where the lock file is.
        location: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Another process works on it.
    #[error("the state at {location} is in use by {holder}")]
    Busy {
        /// Where the document is.
        location: String,
        /// Who uses it.
        holder: String,
    },
    /// The state has no JSON form.
    #[error("the state cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
}
