//! Why the audit API gave no page, and what each error means to the engine.

use std::time::Duration;

use jiff::Timestamp;

use super::variables::API_URL;
use crate::failure::{Class, Failure};
use crate::http::{self, Address, Excerpt};
use crate::oauth;

/// Why the audit API gave no page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API cannot be reached or did not answer whole.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// There is no access token.
    #[error(transparent)]
    Token(#[from] oauth::Error),
    /// The API answered that it cannot answer now.
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
    /// The API rejected the access token.
    #[error(
        "{address} rejected the access token ({reason}); if it rejects a new one too, check the rights of the client in {variable}"
    )]
    TokenRejected {
        /// Where the call went.
        address: Address,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable that names the client.
        variable: &'static str,
    },
    /// The API rejected the client.
    #[error("{address} rejected the credentials ({status}: {reason}); check {variable}")]
    CredentialsRejected {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable that names the client.
        variable: &'static str,
    },
    /// The API does not take such requests.
    #[error("{address} answered {status}: {reason}; check {}", API_URL.spec.name)]
    Refused {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
    },
    /// The API did not give the next page of a range.
    #[error(
        "{address} answered {status} for the next page of a range: {reason}; the same page is requested again before anything else is tried"
    )]
    PageRefused {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// How long to wait before the next request.
        after: Duration,
    },
    /// The API named a token endpoint that cannot be trusted with the client secret.
    #[error(
        "{address} names {named} as its token endpoint, which is not known to belong to it and gets no secret; if it is right, set {variable}"
    )]
    Untrusted {
        /// Where the call went.
        address: Address,
        /// What was named.
        named: Excerpt,
        /// The variable that settles it.
        variable: &'static str,
    },
    /// The answer is not a page.
    #[error("the answer from {address} is not a page of records: {reason}")]
    Unreadable {
        /// Where the call went.
        address: Address,
        /// What is wrong with it.
        reason: String,
    },
    /// Pages that were delivered came again although the next ones were requested.
    #[error(
        "{address} gives the same page again and again for one range; it is not delivered and the cursor stays; report this to the source's \
         operator"
    )]
    Looping {
        /// Where the call went.
        address: Address,
    },
    /// Records that were there a moment ago are not there any more.
    #[error(
        "{address} gave none of the {expected} records that it gave before for the same time. Nothing of this answer is delivered, and it is \
         requested again; if this lasts for over two minutes, its records are not stable and it is read on without them"
    )]
    Unstable {
        /// Where the call went.
        address: Address,
        /// How many known records should have come.
        expected: usize,
    },
    /// The stored cursor lies in the future of the API's clock.
    #[error(
        "the stored cursor, {since}, lies ahead of the clock of {address}, which is at about {theirs}; if this machine's clock was wrong when \
         the cursor was made, set the clock, and then the cursor with `auditsync state set --since <time>`"
    )]
    AheadOfTheSource {
        /// Where the call went.
        address: Address,
        /// The stored cursor's time.
        since: Timestamp,
        /// How far the API's history goes.
        theirs: Timestamp,
    },
    /// The stored cursor lies in the future of this machine's clock, and the API tells no time.
    #[error(
        "everything up to {since} is delivered, but this machine's clock shows {ours}, and the answers of {address} carry no `Date`. \
         Nothing can be requested before one of the clocks is right. Synchronise this machine's clock (NTP). If {since} lies in the future, \
         run `auditsync state set --since <time>`"
    )]
    AheadOfThisMachine {
        /// Where the call went.
        address: Address,
        /// The stored cursor's time.
        since: Timestamp,
        /// The time of day on this machine.
        ours: Timestamp,
    },
    /// The answer is no page at all: another server may have answered.
    #[error("the answer from {address} is no page of records: {reason}; if this persists, check {}", API_URL.spec.name)]
    NotAPage {
        /// Where the call went.
        address: Address,
        /// What it is.
        reason: String,
    },
    /// The stored cursor is not one of this source's.
    #[error("the stored cursor cannot be understood")]
    Cursor(#[source] serde_json::Error),
}

impl Error {
    fn class(&self) -> Class {
        match self {
            Self::Http(error) => error.class(),
            Self::Token(error) => error.class(),
            Self::Cursor(_) => Class::Fatal,
            Self::NotAPage { .. } | Self::Unstable { .. } => Class::Retryable { after: None },
            Self::Unreadable { .. } => Class::Unreadable,
            Self::Refused { .. } | Self::Untrusted { .. } => Class::Refused,
            Self::Unavailable { after, .. } => Class::Retryable { after: *after },
            Self::PageRefused { after, .. } => Class::Retryable { after: Some(*after) },
            Self::TokenRejected { .. } => Class::TokenRejected,
            Self::CredentialsRejected { .. } => Class::CredentialsRejected,
            Self::Looping { .. } | Self::AheadOfTheSource { .. } | Self::AheadOfThisMachine { .. } => Class::Stalled,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.class(), error)
    }
}
