//! Reasons why the receiver did not take every record, and how the engine treats each.

use std::time::Duration;

use crate::dead_letter;
use crate::failure::{Class, Failure};
use crate::http::{self, Address, Excerpt};
use crate::variable_name::VariableName;

/// A reason why the receiver did not take every record.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The receiver cannot be reached, or its answer is incomplete.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The receiver's certificate does not verify.
    #[error(
        "the certificate of {address} does not verify; check that {ca} holds the authority that issued it, and that it names this host and \
         has not expired"
    )]
    ServerUntrusted {
        address: Address,
        /// The variable for the certificate authorities.
        ca: VariableName,
        #[source]
        cause: http::Error,
    },
    /// The receiver refused the TLS handshake because of the client certificate.
    #[error("{address} refuses the client certificate; {}", remedy(certificate, *is_given))]
    ClientRefused {
        address: Address,
        /// The variable for the client certificate.
        certificate: VariableName,
        /// Whether there is one.
        is_given: bool,
        #[source]
        cause: http::Error,
    },
    /// The receiver does not speak TLS, or no version of it that we do.
    #[error("{address} does not speak TLS, or only a version before 1.2; check the port and the scheme in {variable}")]
    NoCommonTls {
        address: Address,
        /// The variable for the address.
        variable: VariableName,
        #[source]
        cause: http::Error,
    },
    /// The receiver answered with a redirect.
    #[error("check {variable}")]
    Redirected {
        /// The variable for the address.
        variable: VariableName,
        /// The redirect, with its target.
        #[source]
        cause: http::Error,
    },
    /// The receiver does not take the request.
    #[error("{address} answered {status}: {reason}; check {variable}")]
    Status {
        address: Address,
        status: u16,
        /// The wait of its `Retry-After`.
        after: Option<Duration>,
        reason: Excerpt,
        /// The variable to look at.
        variable: VariableName,
    },
    /// A success with a web page: a portal or a proxy answers in the receiver's place.
    #[error(
        "{address} answered {status} with a web page: another server answers instead of the receiver; check {variable} and the proxy"
    )]
    NotTheReceiver {
        address: Address,
        status: u16,
        /// The variable for the address.
        variable: VariableName,
    },
    /// The receiver refuses single records, and nothing shows that it accepts others.
    #[error(
        "{address} refuses every record ({reason}); nothing becomes a dead letter and the cursor stays; check the <parse> section and the \
         limits of the receiver{hint}"
    )]
    RefusesAll {
        address: Address,
        /// The refusal: status and beginning of the body.
        reason: String,
        /// A likely cause.
        hint: String,
    },
    /// A dead letter could not be written.
    #[error(transparent)]
    Unwritten(#[from] dead_letter::Unwritten),
    /// One of our worker threads failed.
    #[error("a batch could not be prepared")]
    Batch(#[source] std::io::Error),
}

fn remedy(certificate: &VariableName, is_given: bool) -> String {
    if is_given {
        format!("check {certificate}: its authority and its dates")
    } else {
        format!("it requires one: set {certificate} and its key")
    }
}

impl Error {
    /// Whether the receiver may have accepted the events in spite of the error.
    pub(super) fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Http(error) if error.may_have_arrived())
    }

    /// Whether the connection closed before an answer began.
    pub(super) fn is_closed_connection(&self) -> bool {
        matches!(self, Self::Http(http::Error::Unanswered { .. }))
    }

    fn class(&self) -> Class {
        match self {
            Self::Http(http::Error::TooLarge { .. })
            | Self::NotTheReceiver { .. }
            | Self::Unwritten(_)
            | Self::Batch(_) => Class::Retryable { after: None },
            Self::Http(error) => error.class(),
            Self::Status { status, after, .. } => Class::of_status(*status, *after),
            Self::ServerUntrusted { .. }
            | Self::ClientRefused { .. }
            | Self::NoCommonTls { .. }
            | Self::Redirected { .. } => Class::Refused,
            // An operator has to act, but nothing shows that our configuration is wrong.
            Self::RefusesAll { .. } => Class::Stalled,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.class(), error)
    }
}
