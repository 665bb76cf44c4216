//! Reasons why log files cannot be read, and how the engine treats each.

use std::io;

use crate::aws::call::CallError;
use crate::dead_letter::Unwritten;
use crate::failure::{Class, Failure};

/// A reason why log files cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Call(#[from] CallError),
    /// The same object failed several times in a row, and all others wait for it.
    #[error(
        "the store has failed {times} times in a row at this object, and all other log files wait for it{leave_out}"
    )]
    Failing {
        times: u32,
        /// How to go on without its account.
        leave_out: String,
        #[source]
        call: CallError,
    },
    /// The object cannot be read; the caller decides what to do with it.
    #[error("{location} cannot be read: {reason}")]
    Object {
        location: String,
        #[source]
        reason: Unreadable,
    },
    #[error(transparent)]
    DeadLetter(#[from] Unwritten),
    #[error("a dead letter has no JSON form")]
    Letter(#[source] serde_json::Error),
    #[error("the stored cursor cannot be understood")]
    Cursor(#[source] serde_json::Error),
    #[error("reading was interrupted")]
    Interrupted(#[source] io::Error),
}

/// A reason why an object cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is gone: it was listed, and there is no object under this key any more")]
    Gone,
    #[error("its storage class is an archive; restore it, or read it another way")]
    Archived,
    #[error("the KMS key that encrypts it does not exist any more, so nobody can decrypt it")]
    KeyGone,
    #[error("it is encrypted with a key that its writer alone has (SSE-C)")]
    OwnKey,
    #[error("the gzip data is broken: {0}")]
    Gzip(String),
    #[error("it ends in the middle, after {bytes} bytes")]
    Truncated { bytes: u64 },
    #[error("data follows the gzip member, and only one member is read")]
    DataBehind,
    #[error("it is larger than {0}")]
    TooLarge(&'static str),
    #[error("it is not a JSON document with an array `Records`: {0}")]
    NotRecords(&'static str),
    #[error("more than {0} of its records are not JSON objects")]
    Invalid(u64),
    #[error("a record is larger than {0}")]
    RecordTooLarge(&'static str),
}

impl Unreadable {
    /// Whether another request may be able to read the same object.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Gone | Self::Gzip(_) | Self::Truncated { .. })
    }

    /// Whether the error shows that `CloudTrail` did not write this content. If a bound or the store's answer ended the reading, the
    /// content is unknown.
    pub(super) fn is_of_other_content(&self) -> bool {
        match self {
            Self::Gzip(_) | Self::Truncated { .. } | Self::DataBehind | Self::NotRecords(_) => true,
            Self::Gone
            | Self::Archived
            | Self::KeyGone
            | Self::OwnKey
            | Self::TooLarge(_)
            | Self::Invalid(_)
            | Self::RecordTooLarge(_) => false,
        }
    }
}

impl Error {
    /// Whether a dead letter could not be kept; then nothing after it may be delivered.
    pub(super) fn is_about_dead_letters(&self) -> bool {
        matches!(self, Self::DeadLetter(_) | Self::Letter(_))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let class = match &error {
            Error::Call(call) | Error::Failing { call, .. } => call.class(),
            Error::Object { .. } | Error::DeadLetter(_) | Error::Interrupted(_) => Class::Retryable { after: None },
            Error::Cursor(_) | Error::Letter(_) => Class::Fatal,
        };
        Self::new(class, error)
    }
}
