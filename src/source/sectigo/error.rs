//! Reasons why the audit API returned no page, and how the engine treats each.

use std::time::Duration;

use jiff::Timestamp;

use crate::failure::{Class, Failure};
use crate::http::{self, Address, Excerpt};
use crate::oauth;
use crate::variable_name::VariableName;

/// A reason why the audit API returned no page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API cannot be reached, or its answer is incomplete.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// There is no access token.
    #[error(transparent)]
    Token(#[from] oauth::Error),
    /// The API cannot answer now.
    #[error("{address} answered {status}: {reason}")]
    Unavailable {
        address: Address,
        status: u16,
        /// The wait that its `Retry-After` names.
        after: Option<Duration>,
        reason: Excerpt,
    },
    /// The API rejected the access token.
    #[error(
        "{address} rejected the access token ({reason}); if it rejects a new one too, check the rights of the client in {variable}"
    )]
    TokenRejected {
        address: Address,
        reason: Excerpt,
        /// The variable that names the client.
        variable: VariableName,
    },
    /// The API rejected the client.
    #[error("{address} rejected the credentials ({status}: {reason}); check {variable}")]
    CredentialsRejected {
        address: Address,
        status: u16,
        reason: Excerpt,
        /// The variable that names the client.
        variable: VariableName,
    },
    /// The API does not take such requests.
    #[error("{address} answered {status}: {reason}; check {variable}")]
    Refused {
        address: Address,
        status: u16,
        reason: Excerpt,
        /// The variable that names the address.
        variable: VariableName,
    },
    /// The API refused the first page of a range as a bad request.
    #[error(
        "{address} answered {status}: {reason}; check {variable}. If the range begins before the records that the API \
         keeps, run `auditsync state set --since <time>`. Before the first sync, set a shorter {lookback}"
    )]
    RangeRefused {
        address: Address,
        status: u16,
        reason: Excerpt,
        /// The variable that names the address.
        variable: VariableName,
        /// The variable that sets the start of the first range.
        lookback: VariableName,
    },
    /// The API refused the next page of a range.
    #[error(
        "{address} answered {status} for the next page of a range: {reason}; the same page is requested again before anything else is tried"
    )]
    PageRefused {
        address: Address,
        status: u16,
        reason: Excerpt,
        /// How long to wait before the next request.
        after: Duration,
    },
    /// The API named a token endpoint that cannot be trusted with the client secret.
    #[error(
        "{address} names the token endpoint {named}, which auditsync does not trust. It sends no secret there. If that endpoint is right, set \
         {variable}"
    )]
    Untrusted {
        address: Address,
        /// The endpoint that it named.
        named: Excerpt,
        /// The variable that sets the endpoint.
        variable: VariableName,
    },
    /// The answer is not a page.
    #[error("the answer from {address} is not a page of records: {reason}")]
    Unreadable {
        address: Address,
        /// What is wrong with it.
        reason: String,
    },
    /// The API repeats delivered pages instead of returning the next ones.
    #[error(
        "{address} gives the same page again and again for one range; auditsync does not deliver it, and the cursor stays; \
         report this to the source's operator"
    )]
    Looping { address: Address },
    /// The API no longer returns records that it returned a moment ago.
    #[error(
        "{address} omitted all {expected} records that it returned before for the same time. auditsync drops this answer and requests it again. \
         After two minutes it continues without these records"
    )]
    Unstable {
        address: Address,
        /// The number of known records that should have come.
        expected: usize,
    },
    /// The stored cursor lies in the future of the API's clock.
    #[error(
        "the stored cursor, {since}, is later than the clock of {address}, which shows about {theirs}. If this machine's clock was wrong, set it. \
         Then run `auditsync state set --since <time>`"
    )]
    AheadOfTheSource {
        address: Address,
        /// The stored cursor's time.
        since: Timestamp,
        /// The API's time.
        theirs: Timestamp,
    },
    /// The stored cursor lies in the future of this machine's clock, and the API sends no time.
    #[error(
        "auditsync has delivered everything up to {since}, but this machine's clock shows {ours}, and the answers of {address} carry no `Date`. \
         auditsync requests nothing until one of the two clocks is right. Synchronise this machine's clock (NTP). If {since} lies in the future, \
         run `auditsync state set --since <time>`"
    )]
    AheadOfThisMachine {
        address: Address,
        /// The stored cursor's time.
        since: Timestamp,
        /// The time of day on this machine.
        ours: Timestamp,
    },
    /// The API sends no time any more, and this machine was suspended since it sent one.
    #[error(
        "the answers of {address} no longer carry a `Date`. Since the last one, this machine was suspended or its clock was set. The API's clock \
         shows {earliest} or later, and this machine's shows {ours}. auditsync requests nothing after the earlier time, and the cursor stays. If \
         this machine's clock is right, restart auditsync"
    )]
    LostClock {
        address: Address,
        /// The earliest time that the API's clock can show.
        earliest: Timestamp,
        /// The time of day on this machine.
        ours: Timestamp,
    },
    /// The answer holds no page at all: another server may have sent it.
    #[error("the answer from {address} is not a page of records: {reason}; if this persists, check {variable}")]
    NotAPage {
        address: Address,
        /// The form of the answer.
        reason: String,
        /// The variable that names the address.
        variable: VariableName,
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
            Self::Refused { .. } | Self::RangeRefused { .. } | Self::Untrusted { .. } => Class::Refused,
            Self::Unavailable { after, .. } => Class::Retryable { after: *after },
            Self::PageRefused { after, .. } => Class::Retryable { after: Some(*after) },
            Self::TokenRejected { .. } => Class::TokenRejected,
            Self::CredentialsRejected { .. } => Class::CredentialsRejected,
            Self::Looping { .. }
            | Self::AheadOfTheSource { .. }
            | Self::AheadOfThisMachine { .. }
            | Self::LostClock { .. } => Class::Stalled,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.class(), error)
    }
}
