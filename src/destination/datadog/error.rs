//! Why the intake did not take everything, and what each error means to the engine.

use std::time::Duration;

use jiff::Timestamp;

use crate::dead_letter;
use crate::failure::{Class, Failure};
use crate::http::{self, Address, Excerpt};
use crate::secret::SecretError;
use crate::variable_name::VariableName;

/// Why the intake did not take everything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The intake cannot be reached or did not answer whole.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The intake answered that it cannot take it now.
    #[error("{address} answered {status}: {reason}")]
    Unavailable {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The wait that it requested.
        after: Option<Duration>,
        /// The beginning of its body.
        reason: Excerpt,
    },
    /// The intake rejected the key.
    #[error(
        "{address} rejected the API key ({status}: {reason}); check {variable}, and that the key belongs to {site}"
    )]
    KeyRejected {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable that carries the key.
        variable: VariableName,
        /// The value and the variable that chose the address.
        site: String,
    },
    /// The intake rejected the key, and the key's file holds another by now.
    #[error("{address} rejected the API key; {variable} names a newer one, which is tried next")]
    KeyRotated {
        /// Where the call went.
        address: Address,
        /// The variable that names the file.
        variable: VariableName,
    },
    /// The intake rejected the key, and the key's file cannot be read again.
    #[error("{address} rejected the API key, and {variable} cannot be read again")]
    KeyGone {
        /// Where the call went.
        address: Address,
        /// The variable that names the file.
        variable: VariableName,
        /// What is wrong with the file.
        #[source]
        cause: SecretError,
    },
    /// The intake refuses whatever is sent.
    #[error(
        "{address} refuses everything ({reason}); nothing becomes a dead letter and the cursor stays; check {variable}"
    )]
    RefusesAll {
        /// Where the call went.
        address: Address,
        /// The answer's status and the beginning of its body.
        reason: String,
        /// The variable that names the address.
        variable: VariableName,
    },
    /// The intake accepts other entries, but not a part of what is sent.
    #[error(
        "{address} does not accept some entries ({reason}) and accepts others; these are isolated and retried, and become dead letters if that \
         goes on"
    )]
    RefusesSome {
        /// Where the calls went.
        address: Address,
        /// What the last of them came to.
        reason: String,
    },
    /// A success that the intake itself would not give.
    #[error(
        "{address} answered {status}, which the intake itself does not: another server answers instead of it; check {variable} and the proxy"
    )]
    NotTheIntake {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The variable that names the address.
        variable: VariableName,
        /// Whether it may be an unknown kind of relay, which passed on what was sent.
        is_relay: bool,
    },
    /// The intake accepted entries and dropped them, because of the times that they carried.
    #[error(
        "{address} accepted {entries} entries and dropped them: they carried times by a clock that showed {ours}, and its own shows {theirs}. \
         They are sent again with its time. Synchronise this machine's clock (NTP)"
    )]
    Misdated {
        /// Where the call went.
        address: Address,
        /// How many entries were dropped.
        entries: usize,
        /// The time for which they were written.
        ours: Timestamp,
        /// The intake's time.
        theirs: Timestamp,
    },
    /// A dead letter could not be written.
    #[error(transparent)]
    Unwritten(#[from] dead_letter::Unwritten),
    /// A worker thread of ours failed.
    #[error("a batch could not be prepared")]
    Batch(#[source] std::io::Error),
}

impl Error {
    /// Whether the intake may have accepted what was sent all the same.
    pub(super) fn may_have_arrived(&self) -> bool {
        match self {
            Self::Http(error) => error.may_have_arrived(),
            Self::NotTheIntake { is_relay, .. } => *is_relay,
            _ => false,
        }
    }

    /// What the error means to the engine.
    pub(super) fn class(&self) -> Class {
        match self {
            // Whatever answers instead of the intake may go away again, as a portal does.
            Self::Http(http::Error::TooLarge { .. })
            | Self::Batch(_)
            | Self::Unwritten(_)
            | Self::KeyRotated { .. }
            | Self::NotTheIntake { .. }
            | Self::RefusesSome { .. }
            | Self::Misdated { .. } => Class::Retryable { after: None },
            Self::Http(error) => error.class(),
            Self::RefusesAll { .. } => Class::Refused,
            Self::Unavailable { after, .. } => Class::Retryable { after: *after },
            Self::KeyRejected { .. } | Self::KeyGone { .. } => Class::CredentialsRejected,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.class(), error)
    }
}
