//! Reasons why there is no page of the audit log, and how the engine treats each.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use tonic::{Code, Status};

use super::api::{Api, LARGEST_ANSWER, pushback};
use super::dial::DialError;
use super::identity::IdentityError;
use super::log::MOST_EVENTS;
use super::record::MOST_ITEMS;
use super::variables::Address;
use crate::dead_letter;
use crate::failure::{Class, Failure};
use crate::http::{self, Excerpt, PemError, Redaction, TlsFault};
use crate::variable_name::VariableName;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The number of failures in a row that count as the key's fault, if each of them may be about the key. To drop the key
/// costs a few requests and loses nothing.
const FAILURES_OF_A_KEY: u32 = 3;

/// A status of gRPC other than success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    after: Option<Duration>,
    reason: Excerpt,
}

impl Refusal {
    pub(super) fn of(status: &Status) -> Self {
        let reason = Excerpt::of(status.message().as_bytes(), &Redaction::none());
        Self { code: status.code(), after: pushback(status.metadata()), reason }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.reason)
    }
}

/// A reason why there is no page of the audit log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(IdentityError),
    /// The server cannot be reached.
    #[error("no connection to {address}")]
    Undialled {
        address: Address,
        #[source]
        cause: DialError,
    },
    /// The connection took too long.
    #[error("no connection to {address} within {}", humantime::format_duration(*within))]
    Unanswered { address: Address, within: Duration },
    /// The server's certificate does not come from the cluster.
    #[error(
        "the certificate of {address} is not one of the cluster {cluster}; check {variable}, and that the identity belongs to this cluster. A \
         Proxy must have TLS routing on, and no load balancer before it may end TLS"
    )]
    ServerUntrusted {
        address: Address,
        cluster: String,
        variable: VariableName,
        #[source]
        cause: DialError,
    },
    /// TLS works, but there is no route to an Auth Service.
    #[error(
        "{address} has no route to the Auth Service of the cluster {cluster}; check {variable} and {cluster_variable}, and that this cluster \
         is connected. A Proxy must be of Teleport 8 or later, with TLS routing on, and no load balancer before it may end TLS"
    )]
    NoRoute {
        address: Address,
        cluster: String,
        variable: VariableName,
        cluster_variable: VariableName,
        #[source]
        cause: Box<DialError>,
    },
    /// The address leads to another cluster than the wanted one.
    #[error(
        "{address} is the Auth Service of the cluster {found}, but {variable} names {wanted}; use the address of a Proxy, which routes to {wanted}, \
         or correct {variable}"
    )]
    OtherCluster { address: Address, found: Excerpt, wanted: String, variable: VariableName },
    /// The server refuses the certificate.
    #[error("{address} refuses the certificate of the identity; check {variable}: its cluster and its dates")]
    ClientRefused {
        address: Address,
        variable: VariableName,
        #[source]
        cause: Cause,
    },
    /// The connection broke.
    #[error("the connection to {address} broke")]
    Broken {
        address: Address,
        #[source]
        cause: Cause,
    },
    /// The answer took too long.
    #[error("{address} did not answer within {timeout}; if it needs longer, raise {variable}")]
    TimedOut { address: Address, timeout: humantime::FormattedDuration, variable: VariableName },
    /// A recording sends no event.
    #[error("{address} sent no event of the recording within {within}")]
    NoEvent { address: Address, within: humantime::FormattedDuration },
    /// The identity lacks a permission.
    #[error(
        "{address} denies access ({refusal}); give the role of the identity in {variable} the rule `resources: [event, session]`, `verbs: [list, \
         read]`"
    )]
    Denied { address: Address, refusal: Refusal, variable: VariableName },
    /// The request is not valid.
    #[error("{address} refuses the request ({refusal}); check TELEPORT_AUDIT_TYPES and TELEPORT_AUDIT_WINDOW")]
    Invalid { address: Address, refusal: Refusal },
    /// The server does not have the requested item.
    #[error("{address} does not have the requested item ({refusal})")]
    NotFound { address: Address, refusal: Refusal },
    /// The server does not have the service.
    #[error(
        "{address} has no audit log in this form ({refusal}); check {variable}: it must lead to an Auth Service of a current version of Teleport"
    )]
    NotAuditLog { address: Address, refusal: Refusal, variable: VariableName },
    /// The server cannot answer now.
    #[error("{address} answered {refusal}")]
    Unavailable { address: Address, refusal: Refusal },
    /// The answer exceeds the limit.
    #[error("the answer from {address} is larger than {LARGEST_ANSWER} bytes")]
    TooLarge { address: Address },
    /// The answer has far more events than auditsync requested.
    #[error(
        "the answer from {address} has more than {MOST_ITEMS} events, but auditsync requested at most {MOST_EVENTS}. Teleport never sends so \
         many: check what answers at this address"
    )]
    TooMany { address: Address },
    /// The answer is not a page.
    #[error("the answer from {address} is not a page of events")]
    Unreadable { address: Address },
    /// The server's pages form a circle.
    #[error(
        "{address} repeats its pages without a new event. auditsync delivers none of them, and the cursor stays. Report this to Teleport"
    )]
    Circling { address: Address },
    /// The server refuses keys that it gave out itself, page after page.
    #[error(
        "{address} refuses the key of a page ({refusal}), even after auditsync read the window again. The cursor stays. If servers of different \
         versions answer here, upgrade them all. Otherwise set a shorter TELEPORT_AUDIT_WINDOW, and run `auditsync state set --since {since}`. \
         Events after that time arrive twice"
    )]
    KeyRefused { address: Address, refusal: Refusal, since: Timestamp },
    /// Too many recordings wait, and none of them can be read now.
    #[error(
        "{waiting} recorded sessions wait, and auditsync can read none of them. It stops reading the audit log of {address} meanwhile, and the \
         cursor stays. Earlier warnings name the reason. To do without recordings, set TELEPORT_AUDIT_SESSIONS=false"
    )]
    SessionsFull { address: Address, waiting: usize },
    /// The stored cursor lies in the future.
    #[error(
        "auditsync has delivered everything up to {since}, but the clock shows {now}. It requests nothing until the clock passes that time. \
         Synchronise this machine's clock (NTP). If {since} is wrong, run `auditsync state set --since <time>`"
    )]
    Ahead { since: Timestamp, now: Timestamp },
    /// A dead letter could not be written.
    #[error(transparent)]
    Unwritten(#[from] dead_letter::Unwritten),
    /// The stored cursor is not one of this source's.
    #[error("the stored cursor cannot be understood")]
    Cursor(#[source] serde_json::Error),
}

impl Error {
    fn class(&self) -> Class {
        match self {
            Self::Identity(IdentityError::NotValid { .. }) | Self::ClientRefused { .. } | Self::Denied { .. } => {
                Class::CredentialsRejected
            }
            // A Proxy also closes the connection while a cluster's Auth Service is away.
            Self::NoRoute { cause, .. } if matches!(**cause, DialError::Closed) => Class::Retryable { after: None },
            Self::Identity(IdentityError::Unusable { .. } | IdentityError::Pem(PemError::Unfit { .. }))
            | Self::ServerUntrusted { .. }
            | Self::OtherCluster { .. }
            | Self::NoRoute { .. }
            | Self::Invalid { .. }
            | Self::NotAuditLog { .. } => Class::Refused,
            Self::Unavailable { refusal, .. } => Class::Retryable { after: refusal.after },
            Self::TooLarge { .. } => Class::Unreadable,
            Self::Circling { .. } | Self::KeyRefused { .. } | Self::SessionsFull { .. } | Self::Ahead { .. } => {
                Class::Stalled
            }
            Self::Cursor(_) => Class::Fatal,
            Self::Identity(IdentityError::Pem(PemError::Unreadable { .. }))
            | Self::Undialled { .. }
            | Self::Unanswered { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::NoEvent { .. }
            | Self::NotFound { .. }
            | Self::TooMany { .. }
            | Self::Unreadable { .. }
            | Self::Unwritten(_) => Class::Retryable { after: None },
        }
    }

    /// The HTTP status nearest to the answer, for the metrics; none without an answer.
    pub(super) fn http_status(&self) -> Option<u16> {
        match self {
            Self::Denied { .. } => Some(403),
            Self::Invalid { .. } => Some(400),
            Self::NotFound { .. } => Some(404),
            Self::NotAuditLog { .. } => Some(501),
            Self::Unavailable { refusal, .. } => Some(if refusal.code == Code::ResourceExhausted { 429 } else { 503 }),
            _ => None,
        }
    }

    /// Whether the server answered, so that the failure may be about this request alone.
    pub(super) fn is_answer(&self) -> bool {
        self.http_status().is_some()
            || matches!(
                self,
                Self::TimedOut { .. } | Self::NoEvent { .. } | Self::Broken { .. } | Self::TooLarge { .. }
            )
    }

    /// The number of failures in a row after which the request's key is at fault; none if the failure is not about the
    /// request.
    ///
    /// Teleport answers `InvalidArgument` for some keys. For a key that it cannot decode it answers `Unknown`, as for
    /// most failures (`lib/events/dynamoevents`, `api/trail`).
    pub(super) fn blames_key_after(&self) -> Option<u32> {
        match self {
            Self::Invalid { .. } => Some(1),
            Self::NotFound { .. } => Some(FAILURES_OF_A_KEY),
            Self::Unavailable { refusal, .. } => {
                let may_be =
                    matches!(refusal.code, Code::Unknown | Code::Internal | Code::FailedPrecondition | Code::DataLoss);
                may_be.then_some(FAILURES_OF_A_KEY)
            }
            _ => None,
        }
    }

    /// Turns the failure into the one for a key that was refused before, too. Everything up to `since` is delivered.
    pub(super) fn of_key(self, since: Timestamp) -> Self {
        match self {
            Self::Invalid { address, refusal }
            | Self::NotFound { address, refusal }
            | Self::Unavailable { address, refusal } => Self::KeyRefused { address, refusal, since },
            error => error,
        }
    }

    /// Whether the failure can pass by itself, so that retries have no limit in time.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable { refusal, .. } => matches!(
                refusal.code,
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted
            ),
            Self::Denied { .. } | Self::NotAuditLog { .. } => true,
            _ => false,
        }
    }
}

impl Api {
    /// Classifies a failed connection.
    pub(super) fn undialled(&self, cause: DialError) -> Error {
        let address = self.address().clone();
        let variable = self.settings.address_variable.clone();
        let cluster = || self.identity().map(|identity| identity.cluster).unwrap_or_default();
        let fault = match &cause {
            DialError::Handshake(error) => http::tls_fault(error),
            _ => None,
        };
        match (cause, fault) {
            (cause @ (DialError::NotHttp2 | DialError::Closed), _) | (cause, Some(TlsFault::Incompatible)) => {
                let cluster_variable = self.settings.cluster_variable.clone();
                Error::NoRoute { address, cluster: cluster(), variable, cluster_variable, cause: Box::new(cause) }
            }
            (cause, Some(TlsFault::ServerUntrusted)) => {
                Error::ServerUntrusted { address, cluster: cluster(), variable, cause }
            }
            (cause, Some(TlsFault::ClientRefused)) => {
                let variable = self.settings.files.first().variable.clone();
                Error::ClientRefused { address, variable, cause: cause.into() }
            }
            (cause, None) => Error::Undialled { address, cause },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.class(), error)
    }
}
