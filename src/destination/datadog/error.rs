//! Reasons why the intake did not take every entry, and how the engine treats each.

use std::time::Duration;

use jiff::Timestamp;

use crate::dead_letter;
use crate::failure::{Class, Failure};
use crate::http::{self, Address, Excerpt};
use crate::secret::Outdated;
use crate::variable_name::VariableName;

/// A reason why the intake did not take every entry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The intake cannot be reached, or its answer is incomplete.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The intake cannot take entries now.
    #[error("{address} answered {status}: {reason}")]
    Unavailable {
        address: Address,
        status: u16,
        /// The wait that its `Retry-After` names.
        after: Option<Duration>,
        reason: Excerpt,
    },
    /// The intake rejected the key.
    #[error(
        "{address} rejected the API key ({status}: {reason}); check {variable}, and that the key belongs to {site}"
    )]
    KeyRejected {
        address: Address,
        status: u16,
        reason: Excerpt,
        /// The variable that carries the key.
        variable: VariableName,
        /// The Datadog site, and the variable that chose the address.
        site: String,
    },
    /// The intake rejected the key. The key's file holds another one by now, or cannot be read.
    #[error("{address} rejected the API key; {cause}")]
    KeyOutdated {
        address: Address,
        #[source]
        cause: Outdated,
    },
    /// The intake refuses every entry.
    #[error(
        "{address} refuses everything ({reason}); nothing becomes a dead letter and the cursor stays; check {variable}"
    )]
    RefusesAll {
        address: Address,
        /// The answer's status and the beginning of its body.
        reason: String,
        /// The variable that names the address.
        variable: VariableName,
    },
    /// The intake refuses some entries and accepts others.
    #[error(
        "{address} refuses some entries ({reason}) and accepts others; auditsync isolates and retries those, and keeps them as dead letters if that \
         goes on"
    )]
    RefusesSome {
        address: Address,
        /// The last refusal.
        reason: String,
        /// The longest wait that a `Retry-After` among the refusals names.
        after: Option<Duration>,
    },
    /// A success that the intake itself would not answer with.
    #[error(
        "{address} answered {status}, which the intake itself does not: another server answers instead of it; check {variable} and the proxy"
    )]
    NotTheIntake {
        address: Address,
        status: u16,
        /// The variable that names the address.
        variable: VariableName,
        /// Whether it may be an unknown kind of relay, which forwarded the entries.
        is_relay: bool,
    },
    /// The intake accepted entries and dropped them, because their times came from a wrong clock.
    #[error(
        "{address} accepted {entries} entries and dropped them: auditsync wrote them when its clock showed {ours}, and the \
         intake's clock shows {theirs}. auditsync sends them again with the intake's time. \
         Synchronise this machine's clock (NTP)"
    )]
    Misdated {
        address: Address,
        /// How many entries were dropped.
        entries: usize,
        /// Our time when they were written.
        ours: Timestamp,
        /// The intake's time.
        theirs: Timestamp,
    },
    /// A dead letter could not be written.
    #[error(transparent)]
    Unwritten(#[from] dead_letter::Unwritten),
    /// One of our worker threads failed.
    #[error("a batch could not be prepared")]
    Batch(#[source] std::io::Error),
}

impl Error {
    /// Whether the intake may have accepted the entries in spite of the error.
    pub(super) fn may_have_arrived(&self) -> bool {
        match self {
            Self::Http(error) => error.may_have_arrived(),
            Self::NotTheIntake { is_relay, .. } => *is_relay,
            _ => false,
        }
    }

    /// How the engine treats the error.
    pub(super) fn class(&self) -> Class {
        match self {
            // A server that answers in the intake's place may go away again, as a portal does.
            Self::Http(http::Error::TooLarge { .. })
            | Self::Batch(_)
            | Self::Unwritten(_)
            | Self::KeyOutdated { cause: Outdated::Rotated(_), .. }
            | Self::NotTheIntake { .. }
            | Self::Misdated { .. } => Class::Retryable { after: None },
            Self::Http(error) => error.class(),
            Self::RefusesAll { .. } => Class::Refused,
            Self::Unavailable { after, .. } | Self::RefusesSome { after, .. } => Class::Retryable { after: *after },
            Self::KeyRejected { .. } | Self::KeyOutdated { .. } => Class::CredentialsRejected,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.class(), error)
    }
}
