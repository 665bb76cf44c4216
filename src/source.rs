//! Where events come from.
//!
//! A source turns a [`Cursor`] into the next [`Page`] and says what its failures mean. It never waits, tries again or
//! saves anything: the engine does.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::failure::Class;
use crate::http::{self, Excerpt, Place};
use crate::server_time::LocalTime;

pub mod oauth;
pub mod sectigo;

/// A place in a source's history. Only the source that made it can read it; it holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(serde_json::Value);

impl Cursor {
    /// Wraps a source's own description of a place.
    pub fn encode<T: Serialize>(place: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(place).map(Self)
    }

    /// The source's own description of the place.
    pub fn decode<T: for<'de> Deserialize<'de>>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.0)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One step through a source's history.
#[derive(Debug)]
pub struct Page {
    /// What to deliver, in the source's order.
    pub events: Vec<Event>,
    /// How many records were left out because they had been delivered before.
    pub already_delivered: usize,
    /// The place behind this page: to be committed once `events` are delivered.
    pub next: Cursor,
    /// Whether there is more to be had now, up to the time that was asked about.
    pub more: bool,
}

/// A system that keeps audit events.
#[async_trait]
pub trait Source: Send + Sync {
    /// The source's name, as it stands in the state document.
    fn name(&self) -> &'static str;

    /// Where the very first synchronisation starts when it starts at `now`.
    fn first_cursor(&self, now: Timestamp) -> Cursor;

    /// Up to when everything before `cursor` is known; an error where the cursor cannot be understood.
    fn position(&self, cursor: &Cursor) -> Result<Timestamp, Error>;

    /// The page that follows `cursor`, within the history up to `begun`: the start of the synchronisation, which the source reads by its
    /// server's clock where it knows that.
    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Error>;

    /// The present by the server's clock, as far as it is known `now`.
    fn server_time(&self, _now: LocalTime) -> Option<Timestamp> {
        None
    }

    /// Breaks off whatever it does ahead of being asked: nobody will ask soon.
    fn pause(&self) {}

    /// The same place with a smaller question before it; none where it cannot be smaller.
    fn narrowed(&self, cursor: &Cursor, begun: LocalTime) -> Option<Cursor>;
}

/// Why a source gave no page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be reached or did not answer whole.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The source answered that it cannot answer now.
    #[error("{place} answered {status}: {reason}")]
    Unavailable {
        /// Where the call went.
        place: Place,
        /// The answer's status.
        status: u16,
        /// The wait it asked for.
        after: Option<Duration>,
        /// The beginning of its body.
        reason: Excerpt,
    },
    /// The source refused the access token.
    #[error(
        "{place} refused the access token ({reason}); if it refuses a new one too, check the rights of the client in {variable}"
    )]
    TokenRefused {
        /// Where the call went.
        place: Place,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable that names the client.
        variable: &'static str,
    },
    /// The client credentials were refused.
    #[error("{place} refused the credentials ({status}: {reason}); check {variables}")]
    CredentialsRefused {
        /// Where the call went.
        place: Place,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variables to correct.
        variables: String,
    },
    /// The client credentials were refused, and their file holds others by now.
    #[error("{place} refused the credentials; {variable} names newer ones, which are tried next")]
    SecretRotated {
        /// Where the call went.
        place: Place,
        /// The variable that names the file.
        variable: &'static str,
    },
    /// A secret's file, read again after a refusal, gave nothing.
    #[error("the credentials were refused, and {variable} cannot be read again")]
    SecretGone {
        /// The variable that names the file.
        variable: &'static str,
        /// What was wrong with the file.
        #[source]
        cause: crate::secret::SecretError,
    },
    /// The source does not take such requests.
    #[error("{place} answered {status}: {reason}; check {variable}")]
    Refused {
        /// Where the call went.
        place: Place,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable that names the place.
        variable: &'static str,
    },
    /// The source did not give the next page of a range.
    #[error(
        "{place} answered {status} for the next page of a range: {reason}; the same page is requested again before anything else is tried"
    )]
    PageRefused {
        /// Where the call went.
        place: Place,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// How long to wait before the next request.
        after: Duration,
    },
    /// An address that another server named cannot be trusted with the client secret.
    #[error(
        "{place} names {named} as its token endpoint, which is not known to belong to it and gets no secret; if it is right, \
         set {variable}"
    )]
    Untrusted {
        /// Who named it.
        place: Place,
        /// What was named.
        named: Excerpt,
        /// The variable that settles it.
        variable: &'static str,
    },
    /// The answer is not a page.
    #[error("the answer from {place} is not a page of records: {reason}")]
    Unreadable {
        /// Where the call went.
        place: Place,
        /// What is wrong with it.
        reason: String,
    },
    /// The token endpoint's answer is not a token.
    #[error("the answer from {place} holds no access token: {reason}; if it stays so, check {variable}")]
    NoToken {
        /// Where the call went.
        place: Place,
        /// What is wrong with it.
        reason: String,
        /// The variable that names the place.
        variable: &'static str,
    },
    /// Pages that were delivered came again although the next ones were requested.
    #[error(
        "{place} gives the same page again and again for one range; it is not delivered and the cursor stays; report this to the \
         source's operator"
    )]
    Looping {
        /// Where the call went.
        place: Place,
    },
    /// Records that were there a moment ago are not there any more.
    #[error(
        "{place} gave none of the {expected} records that it gave before for the same time. Nothing of this answer is delivered, and it is \
         requested again; if it stays so for over two minutes, its records are not stable and it is read on without them"
    )]
    Unstable {
        /// Where the call went.
        place: Place,
        /// How many known records should have come.
        expected: usize,
    },
    /// The stored place lies in the future of the source's clock.
    #[error(
        "the place to go on from, {since}, lies ahead of the clock of {place}, which is at about {theirs}; if this machine's \
         clock was wrong when the place was made, set it, and then the place with `auditsync state set --since <time>`"
    )]
    AheadOfTheSource {
        /// Where the call went.
        place: Place,
        /// The stored place.
        since: Timestamp,
        /// How far the source's history goes.
        theirs: Timestamp,
    },
    /// The stored cursor lies in the future of this machine's clock, and the source tells no time.
    #[error(
        "everything up to {since} is delivered, but this machine's clock shows {ours}, and the answers of {place} carry no `Date`. \
         Nothing can be requested before one of the clocks is right. Synchronise this machine's clock (NTP). If {since} lies in the future, \
         run `auditsync state set --since <time>`"
    )]
    AheadOfThisMachine {
        /// Where the call went.
        place: Place,
        /// The stored cursor's time.
        since: Timestamp,
        /// The time of day on this machine.
        ours: Timestamp,
    },
    /// The answer is no page at all: something else may have answered.
    #[error("the answer from {place} is no page of records: {reason}; if it stays so, check {variable}")]
    NotAPage {
        /// Where the call went.
        place: Place,
        /// What it is.
        reason: String,
        /// The variable that names the place.
        variable: &'static str,
    },
    /// The stored cursor is not one of this source's.
    #[error("the stored cursor cannot be understood")]
    Cursor(#[source] serde_json::Error),
}

impl Error {
    /// What the error means to the engine.
    pub fn class(&self) -> Class {
        match self {
            Self::Http(http::Error::Setup(_) | http::Error::NoTls { .. }) | Self::Cursor(_) => Class::Fatal,
            Self::Http(
                http::Error::Unanswered { .. } | http::Error::TimedOut { .. } | http::Error::BrokenOff { .. },
            )
            | Self::NoToken { .. }
            | Self::NotAPage { .. }
            | Self::Unstable { .. }
            | Self::SecretRotated { .. } => Class::Retryable { after: None },
            Self::Http(http::Error::TooLarge { .. }) | Self::Unreadable { .. } => Class::Unreadable,
            Self::Http(http::Error::Redirected { .. }) | Self::Refused { .. } | Self::Untrusted { .. } => {
                Class::Refused
            }
            Self::Unavailable { after, .. } => Class::Retryable { after: *after },
            Self::PageRefused { after, .. } => Class::Retryable { after: Some(*after) },
            Self::TokenRefused { .. } => Class::Unauthorized,
            Self::CredentialsRefused { .. } | Self::SecretGone { .. } => Class::CredentialsRefused,
            Self::Looping { .. } | Self::AheadOfTheSource { .. } | Self::AheadOfThisMachine { .. } => Class::Stalled,
        }
    }
}
