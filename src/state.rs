//! State stores: where a pipeline stores its cursor.
//!
//! A store keeps one small [`Document`]. Every save names the [`Version`] that it replaces, and the store refuses the save if it holds
//! another version. This module reads and writes the document's content for all stores.

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
pub(crate) mod needless;
pub mod readonly;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "s3")]
pub mod s3;

/// An error of a store's client.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The layout of the document that this version writes, and the only one that it reads.
const LAYOUT: u32 = 1;

/// A store that contradicts itself this often in a row is faulty.
const CONTRADICTIONS: u32 = 3;

/// The content of the document: under 1 kB apart from cursor and mark, and never a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The layout of the document.
    version: u32,
    /// The pipeline to which the cursor belongs.
    pub pipeline: PipelineName,
    /// How far delivery got.
    pub cursor: Cursor,
    /// What the destination wants to find beside the cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// The lease of the active instance, on stores that several machines share.
    pub lease: Option<Lease>,
    /// The nonce of the save that wrote this document.
    pub nonce: Nonce,
    /// Whether the writer found no document at its start, less than one lease ago. An instance that knows an earlier document may overrule it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// When the document was written, by the writer's clock. It is for people: no decision depends on it.
    pub updated_at: Timestamp,
}

/// Identifies a save: the process that made it, and how many saves that process has made.
///
/// After a save without an answer, the nonce in the store tells whether it went through. An older nonce of the same process tells that
/// the store went back in time.
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

    /// Whether the same process made both saves.
    pub fn is_of_the_writer_of(&self, other: &Self) -> bool {
        self.writer == other.writer
    }

    /// Whether the same process made this save, no later than `other`.
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
    /// Makes a state without a mark or a lease.
    pub fn new(pipeline: PipelineName, cursor: Cursor, nonce: Nonce, updated_at: Timestamp) -> Self {
        Self { version: LAYOUT, pipeline, cursor, mark: None, lease: None, nonce, first: false, updated_at }
    }
}

/// The bytes that a store keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Vec<u8>);

impl Document {
    /// Wraps the bytes of a store without parsing them.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Writes `state` as a store keeps it: JSON on one line, since every byte costs a store space and time.
    pub fn of(state: &State) -> Result<Self, Error> {
        let mut bytes = serde_json::to_vec(state).map_err(Error::Unwritable)?;
        bytes.push(b'\n');
        Ok(Self(bytes))
    }

    /// The bytes for a store to keep.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Parses the state of `pipeline`; an error if it belongs to another one. Errors name the `location`.
    pub fn read_for(&self, pipeline: &PipelineName, location: &str) -> Result<State, Error> {
        let state = self.read(location)?;
        if state.pipeline == *pipeline {
            return Ok(state);
        }
        Err(Error::OtherPipeline { location: location.to_owned(), found: state.pipeline, expected: pipeline.clone() })
    }

    /// Parses the state of any pipeline. Errors name the `location`.
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

/// Identifies the document that a store holds, in the store's own terms (a hash, an entity tag, a generation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// Whether this process may work on the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It may, until the process ends.
    Granted,
    /// Another process on this machine works on it.
    Busy {
        /// The other process, as far as it is known.
        holder: String,
    },
    /// The store cannot tell, since machines share it. The [`Lease`] in the document decides.
    ByLease,
}

/// A warning about the setup of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caution {
    /// The setup can break a promise. The text says how, and what the operator can do.
    Risk(String),
    /// The setup could not be checked. The text says what is missing.
    Unknown(String),
}

/// A store of one document.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// The location of the document, for messages: a path or an address without credentials.
    fn location(&self) -> String;

    /// Claims the document for this process alone, for as long as the process lives.
    async fn claim(&self) -> Result<Claim, Error>;

    /// Makes sure, before a delivery, that the claim from [`Self::claim`] still holds. [`Error::Busy`] if another process holds it now.
    async fn confirm(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Loads the document, if there is one.
    async fn load(&self) -> Result<Option<(Document, Version)>, Error>;

    /// Replaces the document that has the `expected` version (none: there must be no document), and returns the new version.
    /// [`Error::Conflict`] if the store holds another version.
    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error>;

    /// Proves, without changing the document, that the store can be written to and refuses a save with another version.
    async fn probe(&self) -> Result<(), Error>;

    /// Warns an operator about the setup of the store; empty if it is in order. It changes nothing.
    async fn cautions(&self) -> Vec<Caution> {
        Vec::new()
    }

    /// The shortest time between two saves. The engine goes on delivering in between.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}

/// A state store with valid variables.
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
    /// The local folder that holds the state, if there is one. Dead letters go beside the state.
    pub(crate) folder: fn(&mut Reader<'_>) -> Option<PathBuf>,
    /// Reads its variables.
    pub(crate) read: fn(&mut Reader<'_>, &PipelineName) -> Result<ConfiguredStore, Noted>,
}

impl Error {
    /// What the error means to the engine.
    pub fn class(&self) -> Class {
        match self {
            Self::Io { .. } | Self::Unavailable { .. } | Self::Busy { .. } => Class::Retryable { after: None },
            // Once or twice may be a race, in which another process wrote and restored the document.
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
    /// An operation on a file failed.
    #[error("cannot {action} the state at {location}")]
    Io {
        /// The attempted operation.
        action: &'static str,
        /// The location of the document.
        location: String,
        /// The error of the operating system.
        #[source]
        cause: io::Error,
    },
    /// A store on the network is down, slow, overloaded, or not yet ready.
    #[error("cannot {action} the state at {location}")]
    Unavailable {
        /// The attempted operation.
        action: &'static str,
        /// The location of the document.
        location: String,
        /// The error of the client.
        #[source]
        cause: Cause,
    },
    /// The store refuses the call: the credentials are wrong, or a permission is missing.
    #[error("not allowed to {action} the state at {location}; {remedy}")]
    Refused {
        /// The attempted operation.
        action: &'static str,
        /// The location of the document.
        location: String,
        /// What the operator has to grant or correct.
        remedy: String,
        /// The answer of the store.
        #[source]
        cause: Cause,
    },
    /// The store writes even if the condition of a write is not met. Two instances could overwrite each other's cursor.
    #[error("the store at {location} ignores the condition of conditional writes ({finding}); {remedy}")]
    Unconditional {
        /// The location of the document.
        location: String,
        /// The request, and what the store did.
        finding: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// The store holds another document than the save named.
    #[error(
        "someone else changed the state at {location}, and auditsync left it as it is; see it with `auditsync state show`, and start \
         again to continue from it"
    )]
    Conflict {
        /// The location of the document.
        location: String,
        /// The answer of the store, if it gave one.
        #[source]
        cause: Option<Cause>,
    },
    /// The store refuses a save as a conflict, although it holds the very document (or none) that the save named.
    #[error(
        "the store at {location} refused {times} saves in a row because the state had changed, but it had not changed. Correct the store, or a \
         proxy before it, as its answer says"
    )]
    Contradiction {
        /// The location of the document.
        location: String,
        /// How often this happened in a row, at least 1.
        times: u32,
        /// The answer of the store, if it gave one.
        #[source]
        cause: Option<Cause>,
    },
    /// The document cannot be parsed as a state.
    #[error(
        "the state at {location} cannot be read, and auditsync left it as it is. If a newer version wrote it, run that version. If not, restore \
         a copy, or see it with `auditsync state show` and replace it with `auditsync state set --since <time>`"
    )]
    Corrupt {
        /// The location of the document.
        location: String,
        /// The mistake in the document.
        #[source]
        cause: Cause,
    },
    /// Another version of this program wrote the document.
    #[error(
        "the state at {location} has layout {version}, and this version of auditsync knows only layout {LAYOUT}; run the version that wrote it"
    )]
    OtherLayout {
        /// The location of the document.
        location: String,
        /// The layout of the document.
        version: u32,
    },
    /// The document belongs to another pipeline.
    #[error(
        "the state at {location} belongs to the pipeline {found}, not to {expected}; auditsync left it as it is; give each pipeline a location of \
         its own, or move the state with `auditsync state`"
    )]
    OtherPipeline {
        /// The location of the document.
        location: String,
        /// The pipeline that it names.
        found: PipelineName,
        /// The pipeline that runs.
        expected: PipelineName,
    },
    /// The file system has no locks, so nothing keeps out a second process.
    #[error(
        "the file system at {location} cannot lock files, so nothing would keep out a second instance; put the state on a local disk"
    )]
    NoLocks {
        /// The location of the lock file.
        location: String,
        /// The error of the operating system.
        #[source]
        cause: io::Error,
    },
    /// Another process works on the document.
    #[error("the state at {location} is in use by {holder}")]
    Busy {
        /// The location of the document.
        location: String,
        /// The other process.
        holder: String,
    },
    /// The state has no JSON form.
    #[error("the state cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
}
