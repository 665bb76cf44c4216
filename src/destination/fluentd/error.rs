//! Why the receiver did not take everything, and what each error means to the engine.

use std::time::Duration;

use crate::dead_letter;
use crate::failure::{Class, Failure};
use crate::http::{self, Address, Excerpt};
use crate::variable_name::VariableName;

/// Why the receiver did not take everything.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be reached or did not answer whole.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// Its certificate does not verify.
    #[error(
        "the certificate of {address} does not verify; check that {ca} holds the authority that issued it, and that it names this host and \
         has not expired"
    )]
    ServerUntrusted {
        /// Where the call went.
        address: Address,
        /// The variable for the certificate authorities.
        ca: VariableName,
        /// What the client saw.
        #[source]
        cause: http::Error,
    },
    /// It refused the TLS handshake over the client certificate.
    #[error("{address} refuses the client certificate; {}", remedy(certificate, *is_given))]
    ClientRefused {
        /// Where the call went.
        address: Address,
        /// The variable for the client certificate.
        certificate: VariableName,
        /// Whether there is one.
        is_given: bool,
        /// What the client saw.
        #[source]
        cause: http::Error,
    },
    /// It speaks no TLS, or no version of it that we do.
    #[error("{address} does not speak TLS, or only a version before 1.2; check the port and the scheme in {variable}")]
    NoCommonTls {
        /// Where the call went.
        address: Address,
        /// The variable for the address.
        variable: VariableName,
        /// What the client saw.
        #[source]
        cause: http::Error,
    },
    /// A redirect.
    #[error("check {variable}")]
    Redirected {
        /// The variable for the address.
        variable: VariableName,
        /// Where it leads.
        #[source]
        cause: http::Error,
    },
    /// It answered that it does not take the request.
    #[error("{address} answered {status}: {reason}; check {variable}")]
    Status {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The wait of its `Retry-After`.
        after: Option<Duration>,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable to look at.
        variable: VariableName,
    },
    /// A web page with a success: a portal or a proxy answers instead of the receiver.
    #[error(
        "{address} answered {status} with a web page: another server answers instead of the receiver; check {variable} and the proxy"
    )]
    NotTheReceiver {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The variable for the address.
        variable: VariableName,
    },
    /// It refuses records one by one, and nothing shows that it accepts others.
    #[error(
        "{address} refuses every record ({reason}); nothing becomes a dead letter and the cursor stays; check the <parse> section and the \
         limits of the receiver{hint}"
    )]
    RefusesAll {
        /// Where the calls went.
        address: Address,
        /// The answer's status and the beginning of its body.
        reason: String,
        /// A likely cause.
        hint: String,
    },
    /// A dead letter could not be written.
    #[error(transparent)]
    Unwritten(#[from] dead_letter::Unwritten),
    /// A worker thread of ours failed.
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
    /// Whether the receiver may have accepted what was sent all the same.
    pub(super) fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Http(error) if error.may_have_arrived())
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
            // An operator has to act, and no configuration of ours is surely wrong.
            Self::RefusesAll { .. } => Class::Stalled,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.class(), error)
    }
}
